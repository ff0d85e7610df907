"""Any rule, of models that were brought into one's own order first."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.aggregators.assignment import linear_assignment
from dlsim.aggregators.matching import Matching
from dlsim.aggregators.mean import mean
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox
from dlsim.problems.own_data import check_models

REFERENCES = ("own", "first")


class AlignedState(NamedTuple):
    """What is remembered, and told: every leaf leads with N."""

    inner: PyTree
    left: Array  # float32 [N] in how many more merges heard models are re-ordered
    num_refused: Array  # uint32 [N] heard models that were left out so far, as not finite
    moved: Array  # float32 [N] share of heard units that changed their place in the last merge


class Merger(NamedTuple):
    """The parts of `aligned`, for a method that leaves the assignment to the host.

    `init(params [N, ...]) -> state`; `merge(key, state, own, inbox, orders, refused [N]) -> (state, params)`.
    """

    init: Any
    merge: Any


def aligned(
    matching: Matching,
    inner: Aggregator | None = None,
    *,
    num_matchings: Any = math.inf,
    reference: str = "own",
) -> Aggregator:
    """Heard models are re-ordered by `matching`, then `inner` merges them:  x_i <- inner(x_i, P_ij(x_j) for each j heard).

    For any method that takes an aggregator, over any network and channel: what was received is what is matched.

    Args:
      matching: `activation_matching(problem, inputs)` or `weight_matching(problem)`.
      inner: the rule that merges; by default `mean()`, the network's weights.
      num_matchings: in how many of a node's merges what it hears is re-ordered, a number or one a node `[N]`: 0 averages
        alone, 1 matches in the first merge only.  Merges in which nothing was heard do not count.  May be traced.
      reference: `"own"`: every node's own order; `"first"`: on a complete graph, the merge of the first node that hears
        somebody is computed, and taken by all who do, so that all have one order and N - 1 assignments a layer serve all.
    Source: Saadati, Pham, Saleem, Waite, Balu, Jiang, Hegde and Sarkar, DIMAT: Decentralized iterative
      merging-and-training for deep learning models, CVPR 2024.
    """
    merger = merger_of("aligned", matching, inner, num_matchings)
    checks.one_of("aligned", "reference", reference, REFERENCES)
    inner = mean() if inner is None else inner

    def merged(key: Array, state: AlignedState, own: PyTree, inbox: Inbox) -> tuple[AlignedState, PyTree]:
        heard = inbox.mask
        matches = jnp.any(_wants_order(state, inbox))
        same = identity_orders(matching, inbox)
        inbox, orders = jax.lax.cond(
            matches, lambda: orders_of(matching, keys.stream(key, "matching"), own, inbox), lambda: (inbox, same)
        )
        refused = jnp.sum(heard & ~inbox.mask, axis=1).astype(jnp.uint32)
        return merger.merge(key, state, own, inbox, orders, refused)

    def of_first(key: Array, state: AlignedState, own: PyTree, inbox: Inbox) -> tuple[AlignedState, PyTree]:
        num, most = inbox.mask.shape
        if most != num - 1:
            fix = 'Use a complete network, or reference="own".'
            checks.fail("aligned", "reference", "'own' where a node hears a part of the nodes", "'first'", fix)
        hears = jnp.any(inbox.mask, axis=1)
        row = jnp.argmax(hears)[None]
        first = trees.take((state, own, inbox), row)
        new, params = merged(key, *first)
        new_state, params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *leaf.shape[1:])), (new, params))
        return trees.select(hears, (new_state, params), (state, own))

    apply = merged if reference == "own" else of_first
    sources = "; ".join(
        dict.fromkeys(part for part in ("Saadati et al., CVPR 2024", matching.source, inner.source) if part)
    )
    return Aggregator(init=merger.init, apply=apply, source=sources, bound=inner.bound, is_whole=True)


def merger_of(where: str, matching: Matching, inner: Aggregator | None, num_matchings: Any) -> Merger:
    """What starts the state of `aligned`, and merges once orders are known."""
    fix = "Make it with dlsim.aggregators.activation_matching or weight_matching."
    checks.instance(where, "matching", matching, Matching, fix)
    inner = mean() if inner is None else checks.instance(where, "inner", inner, Aggregator, "Pass e.g. median().")
    if inner.ask is not None:
        checks.fail(where, "inner", "a rule without messages of its own", "one with", "Pass e.g. median().")
    if np.ndim(num_matchings) == 1 and np.size(num_matchings):
        checks.array(where, "num_matchings", num_matchings, (None,))
    elif checks.is_concrete(num_matchings) and not (isinstance(num_matchings, float) and num_matchings == math.inf):
        checks.number(where, "num_matchings", num_matchings, 0.0)

    def init(params: PyTree) -> AlignedState:
        num = jax.tree.leaves(params)[0].shape[0]
        if np.ndim(num_matchings) == 1 and np.size(num_matchings) != num:
            checks.fail(where, "num_matchings", f"a number or {num}, one a node", f"{np.size(num_matchings)} numbers")
        most = jnp.finfo(jnp.float32).max  # in place of infinity: states are finite
        left = jnp.broadcast_to(jnp.minimum(jnp.asarray(num_matchings, jnp.float32), most), (num,))
        return AlignedState(inner.init(params), left, jnp.zeros(num, jnp.uint32), jnp.zeros(num, jnp.float32))

    def merge(
        key: Array, state: AlignedState, own: PyTree, inbox: Inbox, orders: tuple[Array, ...], refused: Array
    ) -> tuple[AlignedState, PyTree]:
        wanted = _wants_order(state, inbox)
        same = identity_orders(matching, inbox)
        orders = tuple(jnp.where(wanted[:, None, None], new, old) for new, old in zip(orders, same, strict=True))
        inbox = matching.reorder(own, inbox, orders)
        inner_state, params = inner.apply(keys.stream(key, "inner"), state.inner, own, inbox)
        moved = sum(jnp.sum(new != old, axis=2) for new, old in zip(orders, same, strict=True))
        counts = jnp.maximum(jnp.sum(inbox.mask, axis=1) * sum(matching.sizes), 1)
        new = AlignedState(
            inner=inner_state,
            left=state.left - wanted,
            num_refused=state.num_refused + refused,
            moved=jnp.sum(jnp.where(inbox.mask, moved, 0), axis=1).astype(jnp.float32) / counts.astype(jnp.float32),
        )
        return new, matching.finish(keys.stream(key, "matching"), params, inbox.node_ids)

    return Merger(init, merge)


def orders_of(matching: Matching, key: Array, own: PyTree, inbox: Inbox) -> tuple[Inbox, tuple[Array, ...]]:
    """What is left of the inbox, and the order of every message's units, `[n, K, H]` a hidden space."""
    if matching.search is not None:
        return matching.search(key, own, inbox)
    inbox, scores = matching.compare(key, own, inbox)
    return inbox, tuple(linear_assignment(score) for score in scores)


def identity_orders(matching: Matching, inbox: Inbox) -> tuple[Array, ...]:
    """Every unit where it is, `[n, K, H]` a hidden space."""
    return tuple(jnp.broadcast_to(jnp.arange(h, dtype=jnp.int32), (*inbox.mask.shape, h)) for h in matching.sizes)


def _wants_order(state: AlignedState, inbox: Inbox) -> Array:
    """Which nodes re-order what they heard in this merge, bool `[n]`."""
    return jnp.any(inbox.mask, axis=1) & (state.left > 0)


@checks.typed
def align(matching: Matching, own: Any, other: Any, key: Array | None = None) -> PyTree:
    """`other` with its hidden units in the order of `own`, both one model `[...]`: the same function, ready to be averaged.

    Args:
      matching: `activation_matching(problem, ...)` or `weight_matching(problem)`.
      own, other: models of that problem.
      key: for matchings that draw, or compare by a node's own data; by default that of seed 0.
    """
    checks.instance("align", "matching", matching, Matching, "Make it with dlsim.aggregators.activation_matching.")
    for name, model in (("own", own), ("other", other)):
        check_models("align", name, matching.like, model)
    if key is not None:
        checks.key("align", "key", key)
    lead = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], own)
    heard = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None, None], other)
    inbox = Inbox(heard, jnp.full((1, 1), 0.5), jnp.ones((1, 1), bool), jnp.zeros((1, 1), jnp.int32))
    kept, orders = orders_of(matching, jax.random.key(0) if key is None else key, lead, inbox)
    del kept  # with other statistics: `other` keeps those it has
    return jax.tree.map(lambda leaf: leaf[0, 0], matching.reorder(lead, inbox, orders).values)
