"""How the parties to a contract behave: who does the work, who hands in something else, who lies about others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Array, PyTree
from dlsim.networks.network import Network

TINY_NOISE = 1e-3  # standard deviation of what a disguised free rider adds


class Conduct(NamedTuple):
    """What each node hands in: keep w + effort (x_i - w) + noise z, w what it received, x_i what it trained, z normal."""

    keep: Array  # float32 [N]
    effort: Array  # float32 [N]
    noise: Array  # float32 [N]
    is_flipped: np.ndarray  # bool [N] trains on the poisoned problem; known
    ring: Array  # int32 [N] liars of one number praise each other; -1: tells what it measured
    since: Array  # int32 [] rounds (from 0) before which everybody is honest


@checks.typed
def conduct(
    num_nodes: int,
    *,
    free_riders: Sequence[int] = (),
    disguised: Sequence[int] = (),
    random_models: Sequence[int] = (),
    reversed_updates: Sequence[int] = (),
    flipped: Sequence[int] = (),
    liars: Sequence[int] = (),
    is_ring: bool = False,
    since: int = 0,
) -> Conduct:
    """Who does what, of `num_nodes` nodes; those that are not named are honest.

    Args:
      num_nodes: N.
      free_riders: hand in the model that they received.
      disguised: the same, with normal noise of standard deviation 0.001 on every parameter.
      random_models: hand in standard normal numbers.
      reversed_updates: hand in w - (x_i - w).
      flipped: train on the poisoned problem, honestly else.
      liars: report a score of 0 for everybody, whatever they measured.
      is_ring: whether liars report a score of 1 for each other.
      since: number of the first round, from 0, in which any of this happens; structural.
    """
    where = "conduct"
    num_nodes = checks.integer(where, "num_nodes", num_nodes, 1)
    named = {"free_riders": free_riders, "disguised": disguised, "random_models": random_models}
    named |= {"reversed_updates": reversed_updates, "flipped": flipped}
    rows = {name: _rows(where, name, given, num_nodes) for name, given in {**named, "liars": liars}.items()}
    of = np.full(num_nodes, -1)
    for place, name in enumerate(named):
        twice = rows[name][of[rows[name]] >= 0]
        if twice.size:
            checks.fail(
                where, name, "nodes that no other kind names", int(twice[0]), f"It is in {list(named)[of[twice[0]]]}."
            )
        of[rows[name]] = place
    since = checks.integer(where, "since", since, 0)
    keep, effort, noise = np.ones(num_nodes), np.ones(num_nodes), np.zeros(num_nodes)
    for name, values in {
        "free_riders": (1, 0, 0),
        "disguised": (1, 0, TINY_NOISE),
        "random_models": (0, 0, 1),
        "reversed_updates": (1, -1, 0),
    }.items():
        keep[rows[name]], effort[rows[name]], noise[rows[name]] = values
    ring = np.full(num_nodes, -1, np.int32)
    ring[rows["liars"]] = 0 if is_ring else rows["liars"]
    is_flipped = np.zeros(num_nodes, bool)
    is_flipped[rows["flipped"]] = True
    return Conduct(
        keep=jnp.asarray(keep, jnp.float32),
        effort=jnp.asarray(effort, jnp.float32),
        noise=jnp.asarray(noise, jnp.float32),
        is_flipped=is_flipped,
        ring=jnp.asarray(ring),
        since=jnp.asarray(since, jnp.int32),
    )


def handed_in(key: Array, doing: Conduct, received: PyTree, trained: PyTree, node_ids: Array, round: Array) -> PyTree:
    """What the nodes hand in, `[N, ...]`, of what they received and trained; honest ones exactly what they trained."""
    flat, unravel = trees.ravel(trained)
    start, _ = trees.ravel(received)
    drawn = keys.node_normal(keys.stream(key, "conduct"), node_ids, flat.shape[1])
    keep, effort, noise = (one[:, None] for one in doing[:3])
    said = keep * start + effort * (flat - start) + noise * drawn
    is_honest = (doing.keep == 1) & (doing.effort == 1) & (doing.noise == 0)
    return trees.select(is_honest | (round < doing.since), trained, unravel(said))


def check_conduct(where: str, conduct: Any, num_nodes: int) -> None:
    """A conduct of the problem's nodes, or None."""
    if conduct is None:
        return
    checks.instance(where, "conduct", conduct, Conduct, "Make it with dlsim.trust.conduct.")
    if conduct.keep.shape != (num_nodes,):
        checks.fail(where, "conduct", f"of the problem's {num_nodes} nodes", f"{conduct.keep.shape[0]} nodes")


def check_no_cohort(where: str, network: Network) -> None:
    """A contract deals with everybody in every round."""
    if network.cohort is not None:
        got = f"cohorts of {network.cohort.shape[0]}"
        checks.fail(where, "scenario", "one without cohorts", got, "Use churn or random_presence for who is away.")


def _rows(where: str, argument: str, given: Any, num_nodes: int) -> np.ndarray:
    rows = checks.integers(where, argument, given, minimum=0, maximum=num_nodes - 1)
    if len(set(rows)) < len(rows):
        checks.fail(where, argument, "distinct nodes", checks.describe(given))
    return np.asarray(rows, np.int64)
