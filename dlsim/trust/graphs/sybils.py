"""Sybils on trust graphs: nodes without anybody behind them, joined to the rest by attack edges of their maker.

The attacker gives up what trust it gave and gives it to its Sybils, in one of the shapes that stand for all strategies:

    line:      attacker -> s1 -> s2 -> ...
    cycle:     attacker <-> each s
    parallel:  attacker -> each s

Source: Nasrulin, Ishmaev, Pouwelse, MeritRank, 2022; Madhwal, Pouwelse, Web3Recommend, 2023.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array
from dlsim.trust.graphs.graph import TrustGraph, check_trust

SHAPES = ("line", "cycle", "parallel")


def with_sybils(
    graph: TrustGraph,
    attackers: Any,
    num_sybils: int | Array,
    shape: str = "line",
    *,
    weight: float | Array = 1.0,
    room: int | None = None,
) -> TrustGraph:
    """A trust graph with Sybils of each attacker: those of attacker k are the nodes N + k `room` and on.

    Args:
      graph: of N nodes, whose numbers stay.
      attackers: ids, integers `[m]`, distinct; they may be tracers.
      num_sybils: of each attacker, 0 to `room`; data.  With 0 there is no attack, and attackers keep their edges.
      shape: `"line"`, `"cycle"` or `"parallel"`.
      weight: of their edges, positive, data.
      room: nodes that an attacker's Sybils take, so that graphs with few and with many have one form; `num_sybils` where
        that is known.
    """
    where = "with_sybils"
    check_trust(where, graph)
    ids = _attackers(where, attackers, graph.num_nodes)
    checks.one_of(where, "shape", shape, SHAPES)
    value = checks.number(where, "weight", weight, 0.0, open_minimum=True)
    if isinstance(num_sybils, jax.core.Tracer):
        if num_sybils.shape != () or not jnp.issubdtype(num_sybils.dtype, jnp.integer):
            got = f"a tracer of shape {list(num_sybils.shape)}, {num_sybils.dtype}"
            checks.fail(where, "num_sybils", "an integer of 0 or more", got)
        if room is None:
            checks.fail(where, "room", "given where num_sybils is a tracer", "None")
    elif isinstance(num_sybils, jax.Array) and jnp.issubdtype(num_sybils.dtype, jnp.integer):
        num_sybils = checks.integer(where, "num_sybils", np.asarray(num_sybils)[()], 0)
    else:
        num_sybils = checks.integer(where, "num_sybils", num_sybils, 0)
    room = checks.integer(where, "room", num_sybils if room is None else room, 0)
    if checks.is_concrete(num_sybils) and int(num_sybils) > room:
        checks.fail(where, "num_sybils", f"at most room ({room})", int(num_sybils))
    num, count = graph.num_nodes, ids.shape[0]
    place = jnp.arange(room, dtype=jnp.int32)[None, :]
    names = num + room * jnp.arange(count, dtype=jnp.int32)[:, None] + place
    makers = jnp.broadcast_to(ids[:, None], names.shape)
    before = jnp.where(place == 0, makers, names - 1)
    ends = [(before if shape == "line" else makers, names)]
    if shape == "cycle":
        ends.append((names, makers))
    is_used = jnp.broadcast_to(place < num_sybils, names.shape)
    added = jnp.where(is_used, jnp.asarray(value, graph.weights.dtype), 0).ravel()
    sources, targets = (
        jnp.concatenate([old, *(pair[side].ravel() for pair in ends)]).astype(jnp.int32)
        for side, old in ((0, graph.sources), (1, graph.targets))
    )
    gives_up = jnp.zeros(num, bool).at[ids].set(num_sybils > 0)
    weights = jnp.concatenate([jnp.where(gives_up[graph.sources], 0, graph.weights), *[added] * len(ends)])
    whole = num + count * room
    order = jnp.lexsort((targets, sources))
    sources = sources[order]
    return TrustGraph(
        starts=jnp.searchsorted(sources, jnp.arange(whole + 1, dtype=jnp.int32)).astype(jnp.int32),
        sources=sources,
        targets=targets[order],
        weights=weights[order],
        num_targets=whole,
        most=graph.most + (1 if shape == "line" else room),
    )


def _attackers(where: str, attackers: Any, num: int) -> Array:
    if isinstance(attackers, jax.core.Tracer):
        checks.shape(where, "attackers", attackers, (None,))
        if not jnp.issubdtype(attackers.dtype, jnp.integer):
            checks.fail(where, "attackers", "ids of nodes", f"a tracer of {attackers.dtype}")
        return attackers.astype(jnp.int32)
    ids = checks.array(where, "attackers", attackers, (None,), 0, num - 1)
    if not np.issubdtype(ids.dtype, np.integer) or len(np.unique(ids)) < max(len(ids), 1):
        checks.fail(where, "attackers", "ids of one or more nodes, each once", checks.describe(attackers))
    return jnp.asarray(ids, jnp.int32)


def sybil_gain(scores: Array, attackers: Array, is_sybil: Array) -> Array:
    """What Sybils score in all, in the attackers' scores: sum over Sybils / sum over attackers; `[...]`, 0 where both are 0.

    Args:
      scores: `[..., N]`.
      attackers: ids `[m]`.
      is_sybil: bool `[N]`.
    """
    where = "sybil_gain"
    given = jnp.asarray(checks.array(where, "scores", scores), jnp.result_type(float))
    if given.ndim < 1:
        checks.fail(where, "scores", "of shape [..., N]", "one number")
    ids = _attackers(where, attackers, given.shape[-1])
    marks = is_sybil if isinstance(is_sybil, jax.core.Tracer) else checks.host(where, "is_sybil", is_sybil)
    if marks.dtype != bool or marks.shape != given.shape[-1:]:
        got = f"shape {list(marks.shape)}, {marks.dtype}"
        checks.fail(where, "is_sybil", f"True or False of {given.shape[-1]} nodes", got)
    got_all, own = jnp.sum(jnp.where(marks, given, 0), axis=-1), jnp.sum(given[..., ids], axis=-1)
    return jnp.where(own > 0, got_all / jnp.where(own > 0, own, 1), 0)
