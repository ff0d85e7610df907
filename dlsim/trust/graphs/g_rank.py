"""G-Rank: peers rank what they search by each other's clicks, and learn of them by gossip of click logs.

Every search adds a row (author, term, item) to the log of its author.  A node knows a prefix of each author's log, V_ij
rows of author j.  With C_jk the clicks of j on item k for the term, among the rows that i knows,

    R_i(k) = sum_j C_jk (S_i(j) + F)                                                   rank
    S_i(j) = (t + m^2) / u,  then divided by the largest                                similarity
    V_i <- max(V_i, V_p)                                                                pull from a peer p

where t counts terms that are among the ten most used of both, m items that both clicked for terms that both have used, and u
items that either clicked.

Source: Gold, Pouwelse, G-Rank: unsupervised continuous learn-to-rank for edge devices in a P2P network, 2023, and the
notebook beside it.
Differs: a peer that is asked gets to know who asks (else knowledge flows only down the tree of who introduced whom); what
a newcomer gets of another's log is the first tenth of each author's rows, not a random tenth; attackers have no rows of
their own before they act, and their similarities are renewed after all of their queries.  How a node
ranks what fits and it never saw clicked is not said; here it comes last, by id, as in the ranking by all clicks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info, Process
from dlsim.running.status import BUFFER_OVERFLOW, flag
from dlsim.trust.graphs.click_gossip import GRank, introduced, met, pushed, told
from dlsim.trust.graphs.click_logs import (
    Logs,
    counts_of,
    drawn_once,
    known_rows,
    one_of,
    places,
    rank_distance,
    similarities,
    written,
)

BYTES_A_ROW = 600
FRESH = 10  # random items where nothing is known of a term
HELD = 0.1  # of all items, by a node
CLICKS, GOSSIPS, ATTACKS, FORMS = (
    ("tag-tie", "top"),
    ("pull", "push"),
    ("none", "targeted", "inflation"),
    ("paper", "notebook"),
)


class Settings(NamedTuple):
    """What does not change in a run."""

    num_nodes: int
    num_attackers: int
    attack: str
    num_queries: int
    joins_at: int
    acts_at: int
    click: str
    gossip: str
    form: str
    isolation: Any
    swap: Any


def g_rank(
    num_nodes: int = 100,
    *,
    tags: Any = None,
    num_items: int = 256,
    num_terms: int = 39,
    num_ticks: int = 10_000,
    isolation: float | Array = 1.0,
    swap: float | Array = 0.5,
    click: str = "tag-tie",
    gossip: str = "pull",
    attack: str = "none",
    num_attackers: int | None = None,
    num_queries: int | None = None,
    similarity: str = "paper",
) -> Process:
    """G-Rank with or without an attack, as a process whose step is a tick: one node searches and gossips.

    Attackers join after a quarter of the ticks, when each gets a tenth of what one node knows, and act after half of them:
    `"targeted"` click the bottom result for random terms, `"inflation"` random results.  They search like anybody after that.

    It measures, over the N nodes that are no attackers: `distance` `[N]`, between each node's ranking by its own counts and
    that by all honest clicks, mean over terms (what fits and was never clicked comes last in both); `weighted_distance`
    `[N]`, the same with R_i; `top`, the part of (node, term) whose first item by R_i is the right one; `known_rows`, mean
    rows a node knows; `reply_bytes` sent this far.

    Args:
      num_nodes: N.
      tags: bool `[I, Q]`, which terms fit which items, each term at least one; None: three random ones an item.
      num_items, num_terms: I and Q where tags are not given.
      num_ticks: how many there is room for; a quarter and a half of them are the attackers' times.
      isolation: F, 0 or more, data: what clicks of those count who are not similar at all.
      swap: probability that two random results change places, data.
      click: `"tag-tie"`, the lowest id among results with the term's tag (what the notebook does), or `"top"`.
      gossip: `"pull"`, from one known peer a tick, or `"push"`, to one (attackers: to two), asked or not.
      attack: `"none"`, `"targeted"` or `"inflation"`.
      num_attackers: A; None: a tenth of N.  75 % of all nodes (A = 3 N) is the paper's epic attack.
      num_queries: of each attacker when it acts; None: 100 targeted, 1000 of inflation.
      similarity: `"paper"`, or `"notebook"`, whose square is on t.

    A tick reads all rows once or twice, O(N Q + ticks); the state holds four integers a row and n^2 versions.  More
    ticks than there is room for are not written and set the status BUFFER_OVERFLOW.
    """
    where = "g_rank"
    num_nodes = checks.integer(where, "num_nodes", num_nodes, 2)
    num_ticks = checks.integer(where, "num_ticks", num_ticks, 1)
    given = None if tags is None else _tags(where, tags)
    if given is None:
        num_terms = checks.integer(where, "num_terms", num_terms, 1)
        num_items = checks.integer(where, "num_items", num_items, max(num_terms, FRESH))
    else:
        num_items, num_terms = given.shape
    checks.one_of(where, "attack", attack, ATTACKS)
    few = 0 if attack == "none" else max(1, num_nodes // 10)
    count = (
        few if num_attackers is None else checks.integer(where, "num_attackers", num_attackers, 0 if few == 0 else 1)
    )
    if attack == "none" and count:
        checks.fail(where, "num_attackers", "0 or None without an attack", count)
    queries = {"none": 0, "targeted": 100, "inflation": 1000}[attack]
    if num_queries is not None:
        queries = checks.integer(where, "num_queries", num_queries, 0)
    isolation = checks.number(where, "isolation", isolation, 0.0)
    swap = checks.probability(where, "swap", swap)
    checks.one_of(where, "click", click, CLICKS)
    checks.one_of(where, "gossip", gossip, GOSSIPS)
    checks.one_of(where, "similarity", similarity, FORMS)
    join, act = num_ticks // 4, num_ticks // 2
    settings = Settings(num_nodes, count, attack, queries, join, act, click, gossip, similarity, isolation, swap)
    room = num_nodes * num_terms + num_ticks + count * queries

    def init(key: Array) -> GRank:
        return _first(key, settings, given, num_items, num_terms, room)

    def step(key: Array, state: GRank) -> tuple[GRank, Info]:
        if count:
            state = _when(state.tick == join, lambda state: _join(key, settings, state), state)
            state = _when(state.tick == act, lambda state: _act(key, settings, state), state)
        return _tick(key, settings, state)

    def measure(state: GRank, info: Info) -> Info:
        del info
        return _measure(settings, state)

    dims = {"distance": ("node",), "weighted_distance": ("node",)}
    source = "Gold, Pouwelse, G-Rank, 2023"
    return Process(init=init, step=step, measure=measure, sources=(source,), dims=dims)


def _tags(where: str, tags: Any) -> np.ndarray:
    given = checks.host(where, "tags", tags)
    if given.dtype != bool or given.ndim != 2 or given.shape[0] < FRESH or given.shape[1] < 1:
        got = f"shape {list(given.shape)}, {given.dtype}"
        checks.fail(where, "tags", f"True or False of [I, Q], {FRESH} items or more", got)
    empty = np.flatnonzero(~given.any(axis=0))
    if len(empty):
        checks.fail(
            where, "tags", "with an item for every term", f"none for term {int(empty[0])}", "Leave the term out."
        )
    return given


def _when(condition: Array, change: Any, state: GRank) -> GRank:
    """`change(state)` where the condition holds; nothing is computed where it holds in none of the runs side by side."""

    def once(carry: tuple[Array, GRank]) -> tuple[Array, GRank]:
        return jnp.zeros((), bool), change(carry[1])

    return jax.lax.while_loop(lambda carry: carry[0], once, (condition, state))[1]


def _random_tags(key: Array, num_items: int, num_terms: int) -> Array:
    """Three terms an item; the first of the items take all terms in turn, so that none is without."""
    draws = keys.node_uniform(key, jnp.arange(num_items), num_terms)
    order = jnp.argsort(keys.node_uniform(keys.stream(key, "first"), jnp.arange(num_items), 1)[:, 0])
    first = jnp.argsort(order) % num_terms
    draws = jnp.where(jnp.arange(num_terms) == first[:, None], 2.0, draws)
    least = jax.lax.top_k(draws, min(3, num_terms))[0][:, -1:]
    return draws >= least


def _first(key: Array, settings: Settings, tags: Any, num_items: int, num_terms: int, room: int) -> GRank:
    num, whole = settings.num_nodes, settings.num_nodes + settings.num_attackers
    ids = jnp.arange(num)
    key = keys.stream(key, "g_rank")
    made = _random_tags(keys.stream(key, "tags"), num_items, num_terms) if tags is None else jnp.asarray(tags)
    held = keys.node_uniform(keys.stream(key, "library"), jnp.arange(whole), num_items)
    library = held >= jax.lax.top_k(held, max(1, int(HELD * num_items)))[0][:, -1:]
    # One row a term, in an order of each node's own, with a random item that fits.
    terms = jnp.argsort(keys.node_uniform(keys.stream(key, "order"), ids, num_terms), axis=1).astype(jnp.int32)

    def fitting(node: Array) -> Array:
        draws = keys.node_uniform(keys.fold_in(keys.stream(key, "items"), node), jnp.arange(num_terms), 1)[:, 0]
        return one_of(made.T, draws)[terms[node]]

    items = jax.lax.map(fitting, ids)
    extra = room - num * num_terms
    logs = Logs(
        author=jnp.pad(jnp.repeat(ids.astype(jnp.int32), num_terms), (0, extra)),
        place=jnp.pad(jnp.tile(jnp.arange(num_terms, dtype=jnp.int32), num), (0, extra)),
        term=jnp.pad(terms.ravel(), (0, extra)),
        item=jnp.pad(items.ravel(), (0, extra)),
        size=jnp.asarray(num * num_terms, jnp.int32),
        lengths=jnp.pad(jnp.full(num, num_terms, jnp.int32), (0, whole - num)),
    )
    own = jnp.diag(logs.lengths)
    earlier = jnp.floor(keys.node_uniform(keys.stream(key, "earlier"), ids, 1)[:, 0] * ids).astype(jnp.int32)

    def introduce(node: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return introduced(*carry, node, earlier[node])

    versions, known = jax.lax.fori_loop(1, num, introduce, (own, jnp.zeros((whole, whole), bool)))
    state = GRank(
        logs, versions, known, jnp.zeros((whole, whole)), library, made, jnp.zeros((), jnp.int32), jnp.zeros(())
    )
    return state._replace(similarity=_renewed(settings, state))


def _renewed(settings: Settings, state: GRank) -> Array:
    num_items, num_terms = state.tags.shape

    def one(node: Array) -> Array:
        return similarities(state.logs, state.versions[node], node, num_terms, num_items, settings.form)

    return jax.lax.map(one, jnp.arange(state.versions.shape[0]))


def _join(key: Array, settings: Settings, state: GRank) -> GRank:
    num, count = settings.num_nodes, settings.num_attackers
    draws = keys.node_uniform(keys.stream(key, "join"), num + jnp.arange(count), 1)[:, 0]
    peers = jnp.floor(draws * num).astype(jnp.int32)

    def introduce(place: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return introduced(*carry, num + place, peers[place])

    versions, known = jax.lax.fori_loop(0, count, introduce, (state.versions, state.known))
    return state._replace(versions=versions, known=known)


def _results(settings: Settings, state: GRank, key: Array, node: Array, term: Array) -> tuple[Array, Array]:
    """R_i `[I]` for a term, and which items are listed."""
    num_items = state.tags.shape[0]
    logs = state.logs
    rows = known_rows(logs, state.versions[node]) & (logs.term == term)
    worth = jnp.where(rows, state.similarity[node][logs.author] + settings.isolation, 0)
    scores = jnp.zeros(num_items).at[logs.item].add(worth)
    is_listed = jnp.zeros(num_items, jnp.int32).at[logs.item].add(rows.astype(jnp.int32)) > 0
    return scores, _or_fresh(state, key, node, term, is_listed)


def _or_fresh(state: GRank, key: Array, node: Array, term: Array, is_listed: Array) -> Array:
    """Of a term never seen: what fits it in the library, else ten random items."""
    fits = state.library[node] & state.tags[:, term]
    draws = keys.node_uniform(keys.stream(key, "fresh"), jnp.arange(fits.shape[0]), 1)[:, 0]
    fresh = jnp.zeros(fits.shape, bool).at[jax.lax.top_k(draws, FRESH)[1]].set(True)
    return jnp.where(jnp.any(is_listed), is_listed, jnp.where(jnp.any(fits), fits, fresh))


def _tick(key: Array, settings: Settings, state: GRank) -> tuple[GRank, Info]:
    num, count = settings.num_nodes, settings.num_attackers
    num_items, num_terms = state.tags.shape
    draw = drawn_once(keys.node_uniform(keys.stream(key, "search"), jnp.arange(1), 5)[0])
    acting = num + jnp.where(state.tick >= settings.acts_at, count, 0)
    node = jnp.minimum(jnp.floor(draw[0] * acting), acting - 1).astype(jnp.int32)
    term = jnp.minimum(jnp.floor(draw[1] * num_terms), num_terms - 1).astype(jnp.int32)
    scores, is_listed = _results(settings, state, key, node, term)
    order = jnp.argsort(jnp.where(is_listed, -scores, jnp.inf), stable=True).astype(jnp.int32)
    size = jnp.sum(is_listed)
    swapped = jnp.minimum(jnp.floor(draw[2:4] * size), size - 1).astype(jnp.int32)
    order = jnp.where(draw[4] < settings.swap, order.at[swapped].set(order[swapped[::-1]]), order)
    item = order[0]
    if settings.click == "tag-tie":
        fits = is_listed & state.tags[:, term]
        item = jnp.where(jnp.any(fits), jnp.argmax(fits), item).astype(jnp.int32)
    logs, is_full = written(state.logs, node[None], term[None], item[None])
    state = state._replace(logs=logs, versions=state.versions.at[node, node].set(logs.lengths[node]))
    present = jnp.arange(num + count) < num + jnp.where(state.tick >= settings.joins_at, count, 0)
    chance = keys.node_uniform(keys.stream(key, "peer"), jnp.arange(num + count), 1)[:, 0]
    may = state.known[node] & present & (jnp.arange(num + count) != node)
    _, found = jax.lax.top_k(jnp.where(may, chance, -1.0), 2)
    peers = jnp.where(may[found], found, -1)
    if settings.gossip == "pull":
        state = told(state, node, peers[0])
        state = state._replace(known=met(state.known, peers[0], node))
        renewed = node[None]
    else:
        state = told(state, peers[0], node)
        renewed = jnp.stack([node, peers[0]])
        if count:
            second = jnp.where(node >= num, peers[1], -1)
            state = told(state, second, node)
            renewed = jnp.append(renewed, second)

    def one(who: Array) -> Array:
        return similarities(state.logs, state.versions[who], who, num_terms, num_items, settings.form)

    at = jnp.where(renewed >= 0, renewed, node)
    fresh = jax.lax.map(one, at)  # one program for all of them
    state = state._replace(similarity=state.similarity.at[at].set(fresh), tick=state.tick + 1)
    return state, {"node": node, "term": term, "item": item, "status": flag(is_full, BUFFER_OVERFLOW)}


def _act(key: Array, settings: Settings, state: GRank) -> GRank:
    """Every attacker does all of its queries; pushed, each of them goes to two peers at once."""
    num, count = settings.num_nodes, settings.num_attackers
    num_items, num_terms = state.tags.shape
    ids = num + jnp.arange(count, dtype=jnp.int32)
    key = keys.stream(key, "act")

    def table(node: Array) -> tuple[Array, Array]:
        rows = known_rows(state.logs, state.versions[node])
        worth = jnp.where(rows, state.similarity[node][state.logs.author] + settings.isolation, 0)
        return (
            counts_of(state.logs, worth, num_terms, num_items),
            counts_of(state.logs, rows.astype(jnp.float32), num_terms, num_items) > 0,
        )

    scores, is_seen = jax.lax.map(table, ids)  # [A, Q, I] each
    places_of = jnp.arange(count)

    def query(place: Array, carry: tuple[GRank, Array]) -> tuple[GRank, Array]:
        state, scores = carry
        now = keys.fold_in(key, place)
        draws = drawn_once(keys.node_uniform(now, ids, 2))
        terms = jnp.minimum(jnp.floor(draws[:, 0] * num_terms), num_terms - 1).astype(jnp.int32)
        listed = jax.vmap(lambda node, term, seen: _or_fresh(state, keys.fold_in(now, node), node, term, seen))(
            ids, terms, is_seen[places_of, terms]
        )
        if settings.attack == "targeted":
            # The bottom result: lowest score, of equals the highest id.
            worth = jnp.where(listed, scores[places_of, terms], jnp.inf)[:, ::-1]
            items = (num_items - 1 - jnp.argmin(worth, axis=1)).astype(jnp.int32)
        else:
            items = one_of(listed, draws[:, 1])
        scores = scores.at[places_of, terms, items].add(1.0 + settings.isolation)
        logs, _ = written(state.logs, ids, terms, items)
        state = state._replace(logs=logs, versions=state.versions.at[ids, ids].set(logs.lengths[ids]))
        if settings.gossip == "push":
            state = pushed(keys.stream(now, "push"), state, ids)
        return state, scores

    state, _ = jax.lax.fori_loop(0, settings.num_queries, query, (state, scores))
    return state._replace(similarity=_renewed(settings, state))


def _measure(settings: Settings, state: GRank) -> Info:
    num, logs = settings.num_nodes, state.logs
    num_items, num_terms = state.tags.shape
    live = (jnp.arange(logs.author.shape[0]) < logs.size) & (logs.author < num)
    best = counts_of(logs, live.astype(jnp.float32), num_terms, num_items)
    is_best = (best > 0) | state.tags.T
    first = jnp.argmax(jnp.where(is_best, best, -1), axis=1)
    standing = places(best, is_best)

    def one(node: Array) -> tuple[Array, Array, Array, Array]:
        rows = known_rows(logs, state.versions[node])
        counts = counts_of(logs, rows.astype(jnp.float32), num_terms, num_items)
        worth = jnp.where(rows, state.similarity[node][logs.author] + settings.isolation, 0)
        scores = counts_of(logs, worth, num_terms, num_items)
        is_seen = counts > 0
        is_listed = is_seen | state.tags.T  # what fits and was never clicked comes last
        top = jnp.argmax(jnp.where(is_seen, scores, -1), axis=1)
        return (
            jnp.mean(rank_distance(counts, is_listed, standing, is_best)),
            jnp.mean(rank_distance(scores, is_listed, standing, is_best)),
            jnp.mean((top == first) & jnp.any(is_seen, axis=1)),
            jnp.sum(rows),
        )

    counted, weighted, top, rows = jax.lax.map(one, jnp.arange(num))
    return {
        "distance": counted,
        "weighted_distance": weighted,
        "top": jnp.mean(top),
        "known_rows": jnp.mean(rows),
        "reply_bytes": BYTES_A_ROW * state.rows_sent,
    }
