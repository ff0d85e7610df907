"""G-Rank: the page's numbers by hand, a plain loop of its ticks, and what never happens."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import trust
from dlsim.running.status import BUFFER_OVERFLOW
from dlsim.trust.graphs.click_logs import Logs, known_rows, places, rank_distance, similarities
from dlsim.trust.graphs.g_rank import GRank

NODES, ITEMS, TERMS, TICKS = 8, 24, 6, 60


def logs_of(rows: list[tuple[int, int, int]], num: int) -> Logs:
    """Rows (author, term, item)."""
    author, term, item = (np.array([row[k] for row in rows], np.int32) for k in range(3))
    index = np.array([np.sum(author[:k] == author[k]) for k in range(len(rows))], np.int32)
    lengths = np.bincount(author, minlength=num).astype(np.int32)
    return Logs(*map(jnp.asarray, (author, index, term, item)), jnp.int32(len(rows)), jnp.asarray(lengths))


def plain_similarity(rows, node, num, num_terms, form):
    """By the page, with sets."""
    out = np.zeros(num)
    used = [{q for a, q, _ in rows if a == j} for j in range(num)]

    def top(j):
        count = np.zeros(num_terms)
        for a, q, _ in rows:
            count[q] += a == j
        return {q for q in sorted(range(num_terms), key=lambda q: (-count[q], q))[:10] if count[q]}

    for j in range(num):
        both = used[node] & used[j]
        mine, theirs = ({k for a, q, k in rows if a == who and q in both} for who in (node, j))
        either = {k for a, _, k in rows if a in (node, j)}
        t, m = len(top(node) & top(j)), len(mine & theirs)
        out[j] = ((t + m**2) if form == "paper" else (m + t**2)) / len(either) if either else 0
    return out / out.max() if out.max() else out


def test_the_pages_similarity_by_hand():
    logs = logs_of([(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 2)], 2)
    full = logs.lengths
    np.testing.assert_allclose(similarities(logs, full, jnp.int32(0), 2, 3, "paper"), [1, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(similarities(logs, full, jnp.int32(0), 2, 3, "notebook"), [1, (5 / 3) / 3], rtol=1e-6)


def test_similarities_are_those_of_sets():
    draw = np.random.default_rng(0)
    rows = [(int(a), int(q), int(k)) for a, q, k in zip(*(draw.integers(0, n, 80) for n in (5, 14, 12)), strict=True)]
    logs = logs_of(rows, 5)
    for node, versions in ((0, np.asarray(logs.lengths)), (3, np.asarray(logs.lengths) // 2)):
        known = np.asarray(known_rows(logs, jnp.asarray(versions)))
        kept = [row for row, is_known in zip(rows, known, strict=True) if is_known]
        for form in ("paper", "notebook"):
            found = similarities(logs, jnp.asarray(versions), jnp.int32(node), 14, 12, form)
            np.testing.assert_allclose(found, plain_similarity(kept, node, 5, 14, form), rtol=1e-5)


def test_distance_of_two_rankings():
    first, second = jnp.array([3.0, 2.0, 1.0]), jnp.array([2.0, 1.0, 3.0])  # a b c and c a b
    everything = jnp.ones(3, bool)
    assert float(rank_distance(first, everything, places(second, everything), everything)) == 4.0
    assert places(jnp.array([1.0, 1.0, 5.0]), jnp.array([True, True, False])).tolist() == [0, 1, 2]


@functools.cache
def process(**settings):
    return trust.g_rank(NODES, num_items=ITEMS, num_terms=TERMS, num_ticks=TICKS, **settings)


@functools.cache
def played(**settings):
    """States after every tick and two more than there is room for, and what was measured at the end."""
    made = process(**settings)

    def go(state, t):
        state, info = made.step(jax.random.fold_in(jax.random.key(1), t), state)
        return state, (state, info)

    first = jax.jit(made.init)(jax.random.key(1))
    last, states = jax.jit(lambda state: jax.lax.scan(go, state, jnp.arange(1, TICKS + 3)))(first)
    return first, last, jax.tree.map(np.asarray, states), jax.jit(made.measure)(last, {})


@pytest.mark.parametrize("gossip", ["pull", "push"])
def test_a_plain_loop_of_ticks(gossip):
    """Who searches what is taken from the run; results, clicks and the log follow by dictionaries."""
    first, _, (states, info), _ = played(gossip=gossip)
    size = int(first.logs.size)
    rows = list(
        zip(*(np.asarray(getattr(first.logs, n))[:size].tolist() for n in ("author", "term", "item")), strict=True)
    )
    tags = np.asarray(first.tags)
    before = first
    for t in range(TICKS):
        state = jax.tree.map(lambda leaf, t=t: leaf[t], states)
        node, term, item = (int(info[name][t]) for name in ("node", "term", "item"))
        seen, listed = np.zeros(NODES, int), set()
        for author, q, k in rows:
            seen[author] += 1
            if seen[author] <= np.asarray(before.versions)[node, author] and q == term:
                listed.add(k)
        assert listed and item == min(k for k in listed if tags[k, term])
        rows.append((node, term, item))
        versions, after = np.asarray(before.versions).copy(), np.asarray(state.versions)
        versions[node, node] += 1
        changed = np.flatnonzero((after != versions).any(axis=1))
        if gossip == "pull":
            assert set(changed.tolist()) <= {node}
            assert any((after[node] == np.maximum(versions[node], row)).all() for row in versions)
        else:
            assert len(changed) <= 1
            for peer in changed:
                np.testing.assert_array_equal(after[peer], np.maximum(versions[peer], versions[node]))
        assert (after <= np.asarray(state.logs.lengths)).all()
        sent = (after - versions).sum()
        assert float(state.rows_sent) == pytest.approx(float(before.rows_sent) + sent)
        before = state
    found = np.asarray(before.similarity)
    known = [np.asarray(known_rows(before.logs, jnp.asarray(before.versions[i]))) for i in range(NODES)]
    every = list(zip(*(np.asarray(getattr(before.logs, n)).tolist() for n in ("author", "term", "item")), strict=True))
    node = int(info["node"][TICKS - 1])
    mine = [row for row, is_known in zip(every, known[node], strict=True) if is_known]
    np.testing.assert_allclose(found[node], plain_similarity(mine, node, NODES, TERMS, "paper"), rtol=1e-5)


def plain_distance(mine, everyone, tags):
    """Mean over terms of how far places are apart, by counting rows (author, term, item)."""
    out = []
    for q in range(TERMS):
        placed = []
        for rows in (mine, everyone):
            count = np.bincount([k for _, term, k in rows if term == q], minlength=ITEMS)
            order = sorted((k for k in range(ITEMS) if count[k] or tags[k, q]), key=lambda k: (-count[k], k))
            placed.append({k: place for place, k in enumerate(order)})
        out.append(sum(abs(placed[0][k] - placed[1][k]) for k in placed[0].keys() & placed[1].keys()))
    return np.mean(out)


def test_distances_by_counting_and_none_of_full_knowledge():
    first, last, _, measured = played(gossip="pull")
    measure = jax.jit(process(gossip="pull").measure)
    found = measure(first, {})["distance"]
    size = int(first.logs.size)
    rows = list(zip(*(np.asarray(getattr(first.logs, n))[:size] for n in ("author", "term", "item")), strict=True))
    for node in range(NODES):
        known = np.asarray(known_rows(first.logs, first.versions[node]))[:size]
        mine = [row for row, is_known in zip(rows, known, strict=True) if is_known]
        assert float(found[node]) == pytest.approx(plain_distance(mine, rows, np.asarray(first.tags)))
    assert 0 < float(jnp.mean(measured["distance"])) < float(jnp.mean(found))
    whole = last._replace(versions=jnp.broadcast_to(last.logs.lengths, last.versions.shape))
    assert float(jnp.max(measure(whole, {})["distance"])) == 0.0


def test_attackers_join_act_and_are_counted():
    first, last, (states, _), measured = played(attack="targeted", num_attackers=2, num_queries=7)
    assert isinstance(last, GRank)
    lengths = states.logs.lengths[:, NODES:]
    assert (lengths[: TICKS // 2] == 0).all() and (lengths[TICKS // 2] >= 7).all()
    assert int(last.logs.size) == NODES * TERMS + TICKS + 2 * 7
    assert (np.asarray(first.versions)[NODES:] == 0).all()
    assert (states.versions[TICKS // 4][NODES:].sum(axis=1) > 0).all()
    for name, value in measured.items():
        assert np.isfinite(np.asarray(value)).all(), name


def test_attackers_whom_nobody_asks_stay_unheard():
    """Cut off from everyone who could ask, attackers' rows are in nobody's log."""
    made = process(attack="inflation", num_attackers=1, num_queries=5)
    state = jax.jit(made.init)(jax.random.key(0))
    step = jax.jit(made.step)
    for t in range(TICKS // 2 + 1):
        state = state._replace(known=state.known.at[:, NODES].set(False))
        state, info = step(jax.random.fold_in(jax.random.key(0), t), state)
    assert int(state.logs.lengths[NODES]) >= 5
    searched = int(info["node"]) == NODES
    assert searched or (np.asarray(state.versions)[:NODES, NODES] == 0).all()


def test_seeds_side_by_side_are_seeds_alone():
    """The moments of the attackers are loops of which both seeds take part."""
    settings = {"attack": "targeted", "num_attackers": 2, "num_queries": 7}
    made = process(**settings)
    seeds = jax.vmap(jax.random.key)(jnp.arange(2))

    def go(state, t):
        return jax.vmap(made.step)(jax.vmap(lambda key: jax.random.fold_in(key, t))(seeds), state)[0], None

    first = jax.jit(jax.vmap(made.init))(seeds)
    both = jax.jit(lambda state: jax.lax.scan(go, state, jnp.arange(1, TICKS + 3))[0])(first)
    _, alone, _, _ = played(**settings)
    jax.tree.map(lambda many, one: np.testing.assert_allclose(many[1], one, rtol=1e-6), both, alone)


def test_a_full_log_is_said():
    _, last, (states, info), _ = played(gossip="pull")
    assert (info["status"][:TICKS] == 0).all() and (info["status"][TICKS:] == BUFFER_OVERFLOW).all()
    assert int(last.logs.size) == NODES * TERMS + TICKS == int(last.logs.lengths.sum())
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[-1], leaf[TICKS - 1]), states.logs)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tags": np.zeros((12, 3), bool)}, "g_rank: tags must be with an item for every term, got none for term 0"),
        ({"attack": "epic"}, "g_rank: attack must be one of none, targeted, inflation"),
        ({"num_attackers": 2}, "g_rank: num_attackers must be 0 or None without an attack, got 2"),
        ({"isolation": -1.0}, r"g_rank: isolation must be a number in \[0, inf\), got -1"),
        ({"swap": 2.0}, r"g_rank: swap must be a number in \[0, 1\], got 2"),
        ({"num_items": 5, "num_terms": 3}, "g_rank: num_items must be an integer >= 10, got 5"),
    ],
)
def test_refusals(settings, says):
    with pytest.raises(ValueError, match=says):
        trust.g_rank(4, num_ticks=8, **settings)
