"""DIMAT: train alone, bring the neighbours' models into one's own order, average, go on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.aggregators.aligned import AlignedState, aligned, identity_orders, merger_of
from dlsim.aggregators.matching import Matching
from dlsim.algorithms.local import local_updates
from dlsim.core import Aggregator, Algorithm, Array, Info, Phase, Problem, PyTree
from dlsim.networks.network import Inbox, Network

if TYPE_CHECKING:
    import optax

ASSIGNMENTS = ("device", "host")


class DIMATState(NamedTuple):
    params: PyTree  # [N, ...]
    aggregator_state: AlignedState
    pending: Pending | None = None  # what the host has to assign before it can be merged


class Pending(NamedTuple):
    """A round between its two halves, where the host does the assignment."""

    inbox: Inbox
    scores: tuple[Array, ...]  # float [N, K, H, H] a hidden space
    orders: tuple[Array, ...]  # int32 [N, K, H]
    refused: Array  # uint32 [N]
    is_present: Array  # bool [N]


def dimat(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    matching: Matching,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
    inner: Aggregator | None = None,
    num_matchings: Any = math.inf,
    reference: str = "own",
    assignment: str = "device",
) -> Algorithm:
    """Decentralised iterative merging and training: K local steps with a fresh optimiser, one exchange, one merge.

        y_i <- x_i after K steps of `optimizer`, made anew, on node i's data
        q_l <- argmax over permutations of sum_u C_l[u, q(u)]     for every neighbour j heard and hidden layer l
        x_i <- sum_j W_ij P_ij(y_j)                               P_ij re-orders the units of y_j by q

    with C_l from `matching`, and BatchNorm's statistics of what is merged computed anew.  Networks that start or train
    apart agree at best up to the order of their hidden units: their average is worth little, that of aligned ones much.
    With `num_matchings=0` it is weight averaging (WA), which for `optax.sgd` is `dsgd` with K local steps; with
    `weight_matching` it is WM.  Models of the nodes' own are had by `learn(..., initial_params="own")`.

    Args:
      problem: what the nodes learn; its model has layers one after the other.
      optimizer: the local optimiser; it starts anew each round.  Floats may be traced.
      matching: `dlsim.aggregators.activation_matching(problem, inputs)`, or `weight_matching(problem)`.
      num_local_steps, num_local_epochs: K, or E passes through a node's own data; see `local_updates`; structural.
      inner, num_matchings, reference: see `dlsim.aggregators.aligned`.
      assignment: `"device"`: inside the compiled step; `"host"`: SciPy's `linear_sum_assignment` in a `Phase` after every
        step, for layers of thousands of units, or many neighbours on a CPU (benchmark: 32 nodes, two layers of 64; on a ring
        a seventh of the training, on the complete graph 3 times it, on the host 0.9).  The state then holds what was heard,
        K models a node.

    Returns:
      Algorithm whose state holds the merged models.  Its info has `moved` `[N]`, the share of heard units that changed
      their place, and `refused` `[N]`, heard models left out so far as not finite; with the host's assignment they are in
      `state.algorithm.aggregator_state` alone.
    Cost per round: K gradients and one message of D numbers a neighbour, per node; see `activation_matching` for the rest.
    Assumes: connected network with row-stochastic weights, of bounded degree (see `gather`).
    Source: Saadati, Pham, Saleem, Waite, Balu, Jiang, Hegde and Sarkar, DIMAT: Decentralized iterative
      merging-and-training for deep learning models, CVPR 2024.  Differs: the authors' code multiplies aligned layers by
      n / (n + 1e-5), averages statistics in WA, and matches on all training data at every node.
    """
    where = "dimat"
    checks.one_of(where, "assignment", assignment, ASSIGNMENTS)
    merger = merger_of(where, matching, inner, num_matchings)
    aggregator = aligned(matching, inner, num_matchings=num_matchings, reference=reference)
    on_host = assignment == "host"
    if on_host and (matching.compare is None or reference != "own"):
        fix = 'Use assignment="device".'
        got = "'host' with weight_matching" if matching.compare is None else f"'host' with reference={reference!r}"
        checks.fail(where, "assignment", "'device' where assignments need one another or one order", got, fix)
    local = local_updates(
        problem, optimizer, num_local_steps, num_local_epochs=num_local_epochs, restarts=True, where=where
    )

    def compared(key: Array, params: PyTree, inbox: Inbox, present: Array) -> Pending:
        kept, scores = matching.compare(keys.stream(keys.stream(key, "aggregate"), "matching"), params, inbox)
        refused = jnp.sum(inbox.mask & ~kept.mask, axis=1).astype(jnp.uint32)
        return Pending(kept, scores, identity_orders(matching, kept), refused, present)

    def init(key: Array, params: PyTree, network: Network) -> DIMATState:
        state = DIMATState(params, aggregator.init(params))
        if not on_host:
            return state
        inbox, _ = network.gather(key, params)  # for its shapes; nothing is said before the first round
        silent = inbox._replace(weights=jnp.zeros_like(inbox.weights), mask=jnp.zeros_like(inbox.mask))
        return state._replace(pending=compared(key, params, silent, jnp.ones(network.num_nodes, bool)))

    def step(key: Array, state: DIMATState, network: Network) -> tuple[DIMATState, Network, Info]:
        trained, _, info = local.run(key, state.params, local.init(state.params), network.node_ids, network.is_present)
        inbox, network = network.gather(key, trained)
        if on_host:
            present = jnp.ones(network.num_nodes, bool) if network.is_present is None else network.is_present
            return state._replace(params=trained, pending=compared(key, trained, inbox, present)), network, info
        held, merged = aggregator.apply(keys.stream(key, "aggregate"), state.aggregator_state, trained, inbox)
        new = DIMATState(merged, held)
        new = trees.select(network.is_present, new, state)
        told = {"moved": new.aggregator_state.moved, "refused": new.aggregator_state.num_refused}
        return new, network, {**info, **told}

    def write(key: Array, state: DIMATState, view: PyTree) -> DIMATState:
        assert state.pending is not None
        pending = state.pending._replace(orders=view[1])
        held, merged = merger.merge(
            keys.stream(key, "aggregate"), state.aggregator_state, state.params, pending.inbox, view[1], pending.refused
        )
        new = DIMATState(merged, held, pending)
        return trees.select(pending.is_present, new, state._replace(pending=pending))

    phase = Phase(
        every=1,
        read=lambda state: (state.pending.scores, state.pending.orders),
        work=_assigned_by_host,
        write=write,
    )
    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "row_stochastic"}),
        source=aggregator.source,
        phase=phase if on_host else None,
        aggregator=aggregator,
    )


def _assigned_by_host(key: Array, step: int, view: Any) -> Any:
    """The orders of every message's units, `[N, K, H]` a hidden space, by SciPy."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    del key, step
    scores, orders = view
    found = tuple(np.empty_like(order) for order in orders)
    for matrices, out in zip(scores, found, strict=True):
        for heard, into in zip(matrices, out, strict=True):
            # SciPy's own numbers, made for all messages of a node at once.
            costs = -np.nan_to_num(heard).astype(np.float64)
            for cost, order in zip(costs, into, strict=True):
                order[:] = linear_sum_assignment(cost)[1]
    return scores, found
