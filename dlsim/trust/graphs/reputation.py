"""Reputation over time: a score of the trust graph of each epoch, and what is left of those before."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Process
from dlsim.trust.graphs.graph import TrustGraph, check_trust, not_negative


class ScoreFn(Protocol):
    """A reputation as a value of a graph, `[N]` or `[r, N]`, say `lambda key, graph: merit_rank(graph, 0)`."""

    def __call__(self, key: Array, graph: TrustGraph, /) -> Array: ...


class Reputation(NamedTuple):
    """After some epochs."""

    epoch: Array  # int32 []
    scores: Array  # [N] or [r, N]


def reputation(graph: TrustGraph, score: ScoreFn, *, epoch_decay: float | Array = 0.5, weights: Any = None) -> Process:
    """A process whose step is an epoch: reputation <- theta reputation + score(trust graph of the epoch).

    It measures `reputation`, with the axes `node` or `root`, `node`.  Any rule is a score: `merit_rank`, `eigen_trust`,
    `bartercast` and others, or a function of your own.

    Args:
      graph: who may trust whom; its weights are those of every epoch where `weights` is not given.
      score: `score(key, graph)`, pure.
      epoch_decay: theta in [0, 1], data.  0: the last epoch alone counts; 1: nothing is forgotten.
      weights: of the edges (as `graph` orders them) in each epoch, `[T, E]`, 0 or more, data; after T epochs the last holds.

    Source: Nasrulin, Ishmaev, Pouwelse, MeritRank, 2022 (epoch decay).
    """
    where = "reputation"
    check_trust(where, graph)
    checks.function(where, "score", score, "a function of a key and a graph")
    theta = checks.probability(where, "epoch_decay", epoch_decay)
    table = graph.weights[None]
    if weights is not None:
        given = checks.array(where, "weights", weights, (None, graph.num_edges))
        not_negative(where, "weights", given)
        table = jnp.asarray(given, graph.weights.dtype)
        if not len(table):
            checks.fail(where, "weights", "of one epoch or more", "none")
    shape = jax.eval_shape(score, jax.random.key(0), graph)
    if getattr(shape, "shape", ())[-1:] != (graph.num_nodes,) or len(shape.shape) > 2:
        got = f"shape {list(shape.shape)}" if hasattr(shape, "shape") else checks.describe(shape)
        checks.fail(where, "score", f"one that gives [{graph.num_nodes}] or [r, {graph.num_nodes}]", got)

    def init(key: Array) -> Reputation:
        del key
        return Reputation(jnp.zeros((), jnp.int32), jnp.zeros(shape.shape, shape.dtype))

    def step(key: Array, state: Reputation) -> tuple[Reputation, Info]:
        now = dataclasses.replace(graph, weights=table[jnp.minimum(state.epoch, len(table) - 1)])
        found = score(keys.stream(key, "score"), now)
        return Reputation(state.epoch + 1, jnp.asarray(theta, found.dtype) * state.scores + found), {"score": found}

    def measure(state: Reputation, info: Info) -> Info:
        del info
        return {"reputation": state.scores}

    source = "Nasrulin, Ishmaev, Pouwelse, MeritRank, 2022"
    dims = {"reputation": ("node",) if len(shape.shape) == 1 else ("root", "node")}
    return Process(init=init, step=step, measure=measure, sources=(source,), dims=dims)
