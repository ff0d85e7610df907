"""Personalised SALSA: walks between users and the items they like, among all users or among those whom each trusts.

From the root u: with probability a stop; take an item of u's in proportion to its affinity, but not the one just come from;
with probability a stop; go to another user who likes it, in proportion to his affinity.  In a network of trust that user
must be one whom u trusts.  Where nothing is left to take the walk ends.

    score_i = sum over visits of item i from user u of mod(u),  as parts of the total
    mod(u) = (1 - b) + b N t_u            with t the root's trust in users (`dlsim.trust.merit_rank`)

and then the connectivity decay of `merit_rank`, with bottlenecks among users and items on the walk.

Source: Lempel, Moran, SALSA, TOIS 2001, with the personalised walks of Sharma, Jiang, Bommannavar, Larson, Lin, GraphJet,
VLDB 2016; trusted: Madhwal, Pouwelse, Web3Recommend, 2023, and the program beside it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array
from dlsim.running.batching import in_turn
from dlsim.trust.graphs.graph import TrustGraph, check_roots, check_trust, cumulated, pick, rows
from dlsim.trust.graphs.merit_rank import decayed, normalized
from dlsim.trust.graphs.walks import hops, stops, tally, walk_along

TABLE = 2**27  # entries of who may follow whom


class Affinity(NamedTuple):
    """Who likes what and how much, both ways: N users, S items, E pairs."""

    items: TrustGraph  # rows of users
    users: TrustGraph  # rows of items
    at_item: Array  # int32 [E], where a pair of `items` is in `users`
    at_user: Array  # int32 [E], where a pair of `users` is in `items`


def affinity(
    num_users: int, num_items: int, users: Any, items: Any, plays: Any = 1.0, *, most: tuple[int, int] | None = None
) -> Affinity:
    """Affinities from a list of pairs: A_ui = plays(u, i) / plays(u).

    Args:
      num_users, num_items: N and S.
      users, items: of each pair, integers `[E]`, every pair once, in any order; they may be tracers.
      plays: one number or one a pair, `[E]`, 0 or more, data; 0 is no pair.
      most: items of a user and users of an item, at most, where the pairs are tracers; without it E.
    """
    where = "affinity"
    num_users = checks.integer(where, "num_users", num_users, 1)
    num_items = checks.integer(where, "num_items", num_items, 1)
    limits = (None, None) if most is None else checks.integers(where, "most", most, length=2, minimum=1)
    by_user = rows(where, num_users, num_items, ("users", users), ("items", items), plays, limits[0], "plays")
    total = jax.ops.segment_sum(by_user.weights, by_user.sources, num_users)[by_user.sources]
    by_user = dataclasses.replace(
        by_user, weights=jnp.where(total > 0, by_user.weights / jnp.where(total > 0, total, 1), 0)
    )
    if checks.is_concrete(by_user.sources) and by_user.num_edges > 1:
        same = (by_user.sources[1:] == by_user.sources[:-1]) & (by_user.targets[1:] == by_user.targets[:-1])
        if bool(same.any()):
            place = int(jnp.argmax(same))
            got = f"user {int(by_user.sources[place])} with item {int(by_user.targets[place])} twice"
            checks.fail(where, "items", "of every pair once", got, "Add up their plays.")
    order = jnp.argsort(by_user.targets, stable=True)  # by item, then by user
    sources = by_user.targets[order]
    found = by_user.num_edges if limits[1] is None else limits[1]
    if checks.is_concrete(sources) and by_user.num_edges:
        found = int(jnp.bincount(sources, length=num_items).max())
    by_item = TrustGraph(
        starts=jnp.searchsorted(sources, jnp.arange(num_items + 1, dtype=jnp.int32)).astype(jnp.int32),
        sources=sources,
        targets=by_user.sources[order],
        weights=by_user.weights[order],
        num_targets=num_users,
        most=max(found, 1),
    )
    at_item = jnp.zeros_like(by_user.sources).at[order].set(jnp.arange(by_user.num_edges, dtype=jnp.int32))
    return Affinity(by_user, by_item, at_item, order.astype(jnp.int32))


class Steps(NamedTuple):
    """What walks between users and items draw from; made once for all roots."""

    liked: Affinity
    of_users: Array  # [E] cumulated affinities by user
    of_items: Array  # [E] by item
    trusted: TrustGraph | None  # from each pair (u, i) to the pairs (v, i) of users v whom u trusts; None: all users
    of_trusted: Array | None


def salsa_steps(liked: Affinity, trust: TrustGraph | None) -> Steps:
    """Tables for `walk_items`.  A pair (user, item) says whom a trusted step may go to: E x (trusted users) searches."""
    found = None if trust is None else _followers(liked, trust)
    return Steps(
        liked, cumulated(liked.items), cumulated(liked.users), found, None if found is None else cumulated(found)
    )


def _followers(liked: Affinity, trust: TrustGraph) -> TrustGraph:
    """From each pair (u, i), in a row of `trust.most` places, to the pairs (v, i), v trusted by u, weighted by A_vi."""
    own, most = liked.items, trust.most
    places = trust.starts[own.sources][:, None] + jnp.arange(most)
    is_edge = places < trust.starts[own.sources + 1][:, None]
    edge = jnp.where(is_edge, jnp.minimum(places, trust.num_edges - 1), 0)
    is_edge = is_edge & (trust.weights[edge] > 0)
    user, item = trust.targets[edge], own.targets[:, None]
    low, high = own.starts[user], own.starts[user + 1]
    for _ in range(own.most.bit_length()):
        middle = (low + high) // 2
        is_below = own.targets[jnp.minimum(middle, own.num_edges - 1)] < item
        low, high = jnp.where(is_below & (low < high), middle + 1, low), jnp.where(is_below, high, middle)
    pair = jnp.minimum(low, own.num_edges - 1)
    is_there = is_edge & (low < own.starts[user + 1]) & (own.targets[pair] == item)
    # Two edges to one user are one user.
    is_twice = (
        is_edge & jnp.pad(user[:, 1:] == user[:, :-1], ((0, 0), (1, 0))) & jnp.pad(is_edge[:, :-1], ((0, 0), (1, 0)))
    )
    count = own.num_edges
    return TrustGraph(
        starts=jnp.arange(count + 1, dtype=jnp.int32) * most,
        sources=jnp.repeat(jnp.arange(count, dtype=jnp.int32), most),
        targets=pair.ravel().astype(jnp.int32),
        weights=jnp.where(is_there & ~is_twice, own.weights[pair], 0).ravel(),
        num_targets=count,
        most=most,
    )


def walk_items(key: Array, steps: Steps, root: Array, num_walks: int, stop: Any, max_hops: int) -> Array:
    """Users (0 to N - 1) and items (N on) in turn on each walk, int32 `[max_hops + 1, R]`; -1 after the end."""

    def walk(key: Array, steps: Steps, root: Array, stop: Array) -> Array:
        own = steps.liked.items

        def to_item(uniform: Array, state: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            users, came = state
            pair = pick(own, steps.of_users, users, uniform, came)
            return (users, pair), jnp.where(pair >= 0, own.num_nodes + own.targets[jnp.maximum(pair, 0)], -1)

        def to_user(uniform: Array, state: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            came = _next_pair(steps, state[1], uniform)
            users = jnp.where(came >= 0, own.sources[jnp.maximum(came, 0)], -1)
            return (users, came), users

        def hop(place: Array, uniform: Array, state: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            return jax.lax.cond(place % 2 == 0, to_item, to_user, uniform, state)

        start = jnp.full(num_walks, root, jnp.int32)
        nowhere = jnp.full(num_walks, -1, jnp.int32)
        return walk_along(keys.fold_in(key, root), start, (start, nowhere), hop, stop, max_hops)

    return in_turn(walk)(key, steps, root, jnp.asarray(stop, jnp.float32))


def _next_pair(steps: Steps, pair: Array, uniform: Array) -> Array:
    """From the item of a pair to another user's pair with it; -1: there is none."""
    if steps.trusted is not None and steps.of_trusted is not None:
        edge = pick(steps.trusted, steps.of_trusted, pair, uniform)
        return jnp.where(edge >= 0, steps.trusted.targets[jnp.maximum(edge, 0)], -1)
    at = jnp.maximum(pair, 0)
    item = jnp.where(pair >= 0, steps.liked.items.targets[at], -1)
    edge = pick(steps.liked.users, steps.of_items, item, uniform, jnp.where(pair >= 0, steps.liked.at_item[at], -1))
    return jnp.where(edge >= 0, steps.liked.at_user[jnp.maximum(edge, 0)], -1)


class Heard(NamedTuple):
    """What walks of one root say of the S items, before any connectivity decay."""

    scores: Array  # [S] parts of all visits, weighted by whom they came from
    bottlenecks: Array  # [S]
    hits: Array  # [S] walks that met the item

    def decayed(self, beta: Any, threshold: Any = 0.99, min_visits: int = 10) -> Array:
        """Scores after connectivity decay, `[S]`."""
        return decayed(self.scores, self.bottlenecks, beta, threshold, self.hits >= min_visits)


def item_tally(walks: Array, root: Array, modifiers: Array, num_items: int, is_connected: bool = True) -> Heard:
    """What walks `[L + 1, R]` of `walk_items` say of items; modifiers `[N]` weigh the user a visit comes from."""
    num_users = modifiers.shape[0]
    found = tally(walks, root, num_users + num_items, is_connected)
    users, items = walks[0:-1:2], walks[1::2]
    weights = jnp.where(items >= 0, modifiers[jnp.maximum(users, 0)], 0)
    places = jnp.where(items >= 0, items - num_users, num_items)
    scores = jnp.zeros(num_items, modifiers.dtype).at[places.ravel()].add(weights.ravel(), mode="drop")
    return Heard(normalized(scores), found.bottlenecks[num_users:], found.hits[num_users:])


def salsa(
    key: Array,
    liked: Affinity,
    roots: int | Array,
    *,
    trust: TrustGraph | None = None,
    user_scores: Array | None = None,
    balance: float | Array = 0.05,
    num_walks: int = 10_000,
    transitivity_decay: float | Array = 0.1,
    connectivity_decay: float | Array = 0.8,
    threshold: float | Array = 0.99,
    min_visits: int = 10,
    max_hops: int | None = None,
) -> Array:
    """Scores of all items for roots, `[S]` for one and `[r, S]` for several, by personalised SALSA with decays.

    Args:
      key: of the walks.
      liked: who likes what.
      roots: users, each with at least one item.
      trust: users' trust in each other; walks then go to trusted users only (Web3Recommend).  None: to anybody (GraphJet,
        with `connectivity_decay=0` and `balance=0`).
      user_scores: trust of each root in users, of the shape of roots and `[N]`; None: all alike.
      balance: b in [0, 1], how much of a visit's weight depends on `user_scores`; data.
      num_walks: R, a root.
      transitivity_decay: a in (0, 1], at every hop, to an item or to a user; data.
      connectivity_decay: beta in [0, 1], data.
      threshold: in [0, 1), data.
      min_visits: walks that have to meet an item before it can have a bottleneck.
      max_hops: of a walk, to items and users; see `dlsim.trust.random_walks`.

    Items the root likes already are scored too.
    """
    where = "salsa"
    checks.key(where, "key", key)
    checks.instance(where, "liked", liked, Affinity, "Make one with dlsim.trust.affinity.")
    users = liked.items
    at = check_roots(where, roots, users)
    if trust is not None:
        check_trust(where, trust, "trust")
        if trust.num_nodes != users.num_nodes:
            checks.fail(where, "trust", f"of {users.num_nodes} users, as liked", trust.num_nodes)
        if users.num_edges * trust.most > TABLE:
            got = f"{users.num_edges} pairs of users who trust up to {trust.most}"
            checks.fail(
                where, "trust", f"of at most {TABLE} pairs by trusted users", got, "Keep each user's best edges."
            )
    alpha = stops(where, "transitivity_decay", transitivity_decay)
    beta = checks.probability(where, "connectivity_decay", connectivity_decay)
    limit = checks.number(where, "threshold", threshold, 0.0, 1.0, open_maximum=True)
    part = checks.probability(where, "balance", balance)
    num_walks = checks.integer(where, "num_walks", num_walks, 1)
    min_visits = checks.integer(where, "min_visits", min_visits, 0)
    length = hops(where, max_hops, alpha, num_walks)
    num = users.num_nodes
    shape = (*at.shape, num)
    if user_scores is None:
        trusts = jnp.full(shape, 1 / num, users.weights.dtype)
    else:
        given = checks.array(where, "user_scores", user_scores, shape, 0.0)
        trusts = jnp.asarray(given, users.weights.dtype)
    modifiers = 1 + jnp.asarray(part, trusts.dtype) * (num * trusts - 1)
    steps = salsa_steps(liked, trust)
    is_connected = not checks.is_concrete(beta) or float(beta) > 0

    def one(given: tuple[Array, Array]) -> Array:
        root, weights = given
        walks = walk_items(key, steps, root, num_walks, alpha, length)
        found = item_tally(walks, root, weights, users.num_targets, is_connected)
        return found.decayed(beta, limit, min_visits)

    return one((at, modifiers)) if at.ndim == 0 else jax.lax.map(one, (at, modifiers))
