"""MeritRank: walks against linear systems, closed forms of attacks, bounds, and what is refused."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dlsim import trust
from dlsim.trust.graphs.graph import cumulated, pick
from dlsim.trust.graphs.walks import tally

NUM = 12


@functools.cache
def edges() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    pairs = np.unique(np.stack([draw.integers(0, NUM, 60), draw.integers(0, NUM - 1, 60)], 1), axis=0)
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs[:, 0] != 7)]  # 7 trusts nobody, 11 is trusted by nobody
    return pairs[:, 0], pairs[:, 1], draw.uniform(0.1, 3.0, len(pairs))


@functools.cache
def random_graph() -> trust.TrustGraph:
    return trust.trust_graph(NUM, *edges())


def steps(sources: np.ndarray, targets: np.ndarray, weights: np.ndarray, num: int) -> np.ndarray:
    matrix = np.zeros((num, num))
    np.add.at(matrix, (sources, targets), weights)
    total = matrix.sum(axis=1, keepdims=True)
    return np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)


def visits(matrix: np.ndarray, root: int, alpha: float, without: int | None = None) -> np.ndarray:
    """Expected visits of walks from the root, in a plain linear system; those that meet `without` end there."""
    kept = matrix.copy()
    if without is not None:
        kept[without] = 0
    return np.linalg.solve(np.eye(len(kept)) - (1 - alpha) * kept.T, np.eye(len(kept))[root])


def hit_chance(matrix: np.ndarray, root: int, x: int, alpha: float, without: int | None = None) -> float:
    """Pr(a walk meets x), or meets it before `without`: x and `without` are where walks end."""
    kept = matrix.copy()
    kept[x] = 0
    return float(visits(kept, root, alpha, without)[x])


@functools.cache
def walked(count: str, beta: float, num_walks: int = 40_000) -> np.ndarray:
    run = jax.jit(
        lambda key, graph: trust.merit_rank(
            graph,
            0,
            key=key,
            num_walks=num_walks,
            transitivity_decay=0.2,
            connectivity_decay=beta,
            count=count,
            threshold=0.6,
        )
    )
    return np.asarray(run(jax.random.key(5), random_graph()))


def test_exact_scores_are_personalised_pagerank():
    matrix = steps(*edges(), NUM)
    expected = visits(matrix, 0, 0.2)
    expected[0] = 0
    expected /= expected.sum()
    found = trust.merit_rank(random_graph(), 0, transitivity_decay=0.2, connectivity_decay=0.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(
        trust.personalized_pagerank(random_graph(), 0, transitivity_decay=0.2), expected, atol=1e-6
    )


def test_networkx_agrees_where_nobody_is_a_dead_end():
    graph = trust.trust_graph(4, [0, 0, 1, 2, 3], [1, 2, 3, 3, 0], [1.0, 2.0, 1.0, 1.0, 1.0])
    peer = networkx.DiGraph()
    peer.add_weighted_edges_from([(0, 1, 1.0), (0, 2, 2.0), (1, 3, 1.0), (2, 3, 1.0), (3, 0, 1.0)])
    ranks = networkx.pagerank(peer, alpha=0.85, personalization={0: 1}, tol=1e-10, max_iter=1000)
    expected = np.array([0, *(ranks[node] for node in (1, 2, 3))]) / (1 - ranks[0])
    np.testing.assert_allclose(trust.personalized_pagerank(graph, 0), expected, atol=1e-5)


def test_walks_converge_to_exact_visits_and_hits():
    for count in ("visits", "hits"):
        exact = trust.merit_rank(random_graph(), 0, transitivity_decay=0.2, connectivity_decay=0.0, count=count)
        np.testing.assert_allclose(walked(count, 0.0), exact, atol=0.01)  # 4 standard errors or so


def test_bottlenecks_are_hitting_chances():
    matrix = steps(*edges(), NUM)
    plain = np.asarray(trust.merit_rank(random_graph(), 0, transitivity_decay=0.2, connectivity_decay=0.0))
    found = np.asarray(
        trust.merit_rank(random_graph(), 0, transitivity_decay=0.2, connectivity_decay=1.0, threshold=0.0)
    )
    for x in range(1, NUM):
        chance = hit_chance(matrix, 0, x, 0.2)
        if chance < 1e-9:
            assert found[x] == 0
            continue
        through = [1 - hit_chance(matrix, 0, x, 0.2, without=y) / chance for y in range(1, NUM) if y != x]
        np.testing.assert_allclose(found[x], plain[x] * (1 - max(through)), atol=1e-5)
    # And by walks, where bottlenecks are clearly above or below the threshold.
    exact = np.asarray(
        trust.merit_rank(random_graph(), 0, transitivity_decay=0.2, connectivity_decay=0.8, threshold=0.6)
    )
    assert (exact < plain - 1e-6).any()
    np.testing.assert_allclose(walked("visits", 0.8), exact, atol=0.015)


def loop_tally(walks: np.ndarray, root: int, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    seen, hits, pairs = np.zeros(num), np.zeros(num), np.zeros((num, num))
    for walk in walks.T:
        met: list[int] = []
        for node in walk[walk >= 0]:
            seen[node] += node != root
            if node == root:
                continue
            if node not in met:
                hits[node] += 1
                for other in met:
                    pairs[node, other] += 1
                met.append(node)
    return seen, hits, pairs.max(axis=1) / np.maximum(hits, 1)


def test_tally_is_the_plain_loop():
    walks = np.asarray(trust.random_walks(jax.random.key(2), random_graph(), 0, 70, transitivity_decay=0.1))
    found = jax.jit(lambda w: tally(w, jnp.int32(0), NUM))(walks)
    for ours, theirs in zip(found, loop_tally(walks, 0, NUM), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_walks_follow_edges_and_lengths_are_geometric():
    walks = np.asarray(trust.random_walks(jax.random.key(1), random_graph(), 0, 4000, transitivity_decay=0.3))
    allowed = steps(*edges(), NUM) > 0
    here, there = walks[:-1].ravel(), walks[1:].ravel()
    assert (walks[0] == 0).all()
    assert (there[here < 0] == -1).all()
    assert allowed[here[there >= 0], there[there >= 0]].all()
    cycle = trust.trust_graph(3, [0, 1, 2], [1, 2, 0])
    hops = (np.asarray(trust.random_walks(jax.random.key(1), cycle, 0, 4000, transitivity_decay=0.3)) >= 0).sum(
        axis=0
    ) - 1
    assert abs(hops.mean() - 0.7 / 0.3) < 0.2


def test_walks_of_several_roots_are_those_of_each():
    key = jax.random.key(4)
    both = trust.merit_rank(random_graph(), [0, 3], key=key, num_walks=200, transitivity_decay=0.3)
    alone = trust.merit_rank(random_graph(), 3, key=key, num_walks=200, transitivity_decay=0.3)
    np.testing.assert_array_equal(both[1], alone)
    stacked = jax.vmap(lambda root: trust.personalized_pagerank(random_graph(), root))(jnp.array([0, 3]))
    np.testing.assert_allclose(stacked, trust.personalized_pagerank(random_graph(), [0, 3]), atol=1e-7)


def test_an_edge_is_drawn_by_its_weight_and_never_one_of_no_weight():
    graph = trust.trust_graph(3, [0, 0, 0, 2, 2], [1, 2, 1, 0, 1], [1.0, 3.0, 0.0, 2.0, 0.0])
    uniform = (jnp.arange(1000) + 0.5) / 1000
    sums = cumulated(graph)
    edge = np.asarray(pick(graph, sums, jnp.zeros(1000, jnp.int32), uniform))
    assert np.bincount(np.asarray(graph.targets)[edge]).tolist() == [0, 250, 750]
    heavy = int(np.flatnonzero(np.asarray(graph.weights) == 3)[0])
    others = np.asarray(pick(graph, sums, jnp.zeros(1000, jnp.int32), uniform, jnp.full(1000, heavy)))
    assert (np.asarray(graph.weights)[others] == 1).all()
    own = int(np.flatnonzero(np.asarray(graph.weights) == 2)[0])
    assert int(pick(graph, sums, jnp.array([2]), jnp.array([0.5]), jnp.array([own]))[0]) == -1
    assert int(pick(graph, sums, jnp.array([1]), jnp.array([0.5]))[0]) == -1


def test_the_pages_example():
    graph = trust.trust_graph(4, [0, 1, 2], [1, 2, 1], [1.0, 50.0, 50.0])  # user 1, post 2, user 2, post 3
    found = trust.merit_rank(graph, 0, transitivity_decay=0.15, connectivity_decay=0.0, count="hits")
    np.testing.assert_allclose(found, [0, 1 / 1.85, 0.85 / 1.85, 0], atol=1e-6)


@pytest.mark.parametrize(("alpha", "num"), [(0.1, 1), (0.1, 20), (0.5, 5)])
def test_gains_of_sybils_are_the_closed_forms(alpha, num):
    base = trust.trust_graph(3, [0, 0, 1], [1, 2, 2])
    is_sybil = np.arange(3 + num) > 2
    goes = 1 - alpha
    line = goes * (1 - goes**num) / alpha
    cycle = goes / (alpha * (2 - alpha))
    for shape, gain in (("line", line), ("parallel", goes), ("cycle", cycle)):
        graph = trust.with_sybils(base, [1], num, shape)
        scores = np.asarray(trust.merit_rank(graph, 0, transitivity_decay=alpha, connectivity_decay=0.0))
        entries = scores[1] - (goes * scores[is_sybil].sum() if shape == "cycle" else 0)
        np.testing.assert_allclose(scores[is_sybil].sum() / entries, gain, rtol=1e-4)
        # Once a walk, the attacker's own hits do not grow with its Sybils.
        hits = trust.merit_rank(graph, 0, transitivity_decay=alpha, connectivity_decay=0.0, count="hits")
        np.testing.assert_allclose(hits[1] / hits[2], 1.0, rtol=1e-5)
        lost = trust.merit_rank(graph, 0, transitivity_decay=alpha, connectivity_decay=0.8)
        np.testing.assert_allclose(np.asarray(lost)[is_sybil], 0.2 * scores[is_sybil], rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.3, 0.7]))
def test_no_region_of_sybils_beats_the_bound(seed, alpha):
    draw = np.random.default_rng(seed)
    honest, sybils, room = 6, 8, 40
    inside = draw.integers(honest, honest + sybils, (2, room))
    first = np.full(4, honest - 1), draw.integers(honest, honest + sybils, 4)  # the attack edges' other side
    back = draw.integers(honest, honest + sybils, 4), np.full(4, honest - 1)
    outside = np.stack([np.arange(honest - 1), (np.arange(honest - 1) + 1) % honest])
    pairs = np.concatenate([inside, np.stack(first), np.stack(back), outside], axis=1)
    weights = np.where(pairs[0] == pairs[1], 0.0, draw.uniform(0.0, 1.0, pairs.shape[1])) + (pairs[0] < honest - 1)
    graph = trust.trust_graph(honest + sybils, pairs[0], pairs[1], weights)
    for beta in (0.0, 0.8):
        scores = trust.merit_rank(graph, 0, transitivity_decay=alpha, connectivity_decay=0.0)
        lost = trust.merit_rank(graph, 0, transitivity_decay=alpha, connectivity_decay=beta)
        is_sybil = np.arange(honest + sybils) >= honest
        gained = float(jnp.sum(lost[is_sybil]) / scores[honest - 1])
        assert gained <= float(trust.sybil_bound(alpha, beta)) * (1 + 1e-4)


def test_labels_do_not_matter_and_scores_are_parts():
    order = np.random.default_rng(0).permutation(NUM)
    sources, targets, weights = edges()
    moved = trust.trust_graph(NUM, order[sources], order[targets], weights)
    found = np.asarray(trust.merit_rank(random_graph(), 0))
    np.testing.assert_allclose(np.asarray(trust.merit_rank(moved, int(order[0])))[order], found, atol=1e-6)
    assert (found >= 0).all() and found.sum() <= 1 + 1e-6 and found[0] == 0
    everything = trust.merit_rank(random_graph(), 0, transitivity_decay=1.0)
    assert not np.asarray(everything).any()
    by_walks = trust.merit_rank(random_graph(), 0, transitivity_decay=1.0, num_walks=100, key=jax.random.key(0))
    assert not np.asarray(by_walks).any()


def test_a_traced_root_without_edges_is_zeros():
    assert not np.asarray(jax.jit(lambda root: trust.merit_rank(random_graph(), root))(jnp.int32(7))).any()


def test_sybils_are_data():
    base = trust.trust_graph(3, [0, 0, 1], [1, 2, 2])
    run = jax.jit(lambda num: trust.merit_rank(trust.with_sybils(base, [1], num, "line", room=6), 0))
    for num in (0, 3):
        expected = np.asarray(trust.merit_rank(trust.with_sybils(base, [1], num, "line", room=6), 0))
        np.testing.assert_allclose(run(jnp.int32(num)), expected, atol=1e-6)
        assert (expected[3 + num :] == 0).all()
    np.testing.assert_allclose(run(jnp.int32(0))[:3], trust.merit_rank(base, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: trust.trust_graph(2, [0], [1], [-1.0]), "trust_graph: weights must be 0 or more, got -1 at index"),
        (lambda: trust.trust_graph(2, [0], [0]), "trust_graph: trusted must be another than the truster, got node 0"),
        (lambda: trust.trust_graph(2, [0], [5]), "trust_graph: trusted must be in 0 to 1, got 5"),
        (lambda: trust.trust_matrix([[0.0, -2.0], [0.0, 0.0]]), "trust_matrix: matrix must be 0 or more, got -2"),
        (
            lambda: trust.merit_rank(random_graph(), 7),
            "merit_rank: roots must be nodes that trust somebody, got node 7",
        ),
        (lambda: trust.merit_rank(random_graph(), 99), "merit_rank: roots must be in 0 to 11, got 99"),
        (
            lambda: trust.merit_rank(random_graph(), 0, transitivity_decay=0.0),
            r"merit_rank: transitivity_decay must be a number in \(0, 1\], got 0",
        ),
        (
            lambda: trust.merit_rank(random_graph(), 0, connectivity_decay=1.5),
            r"merit_rank: connectivity_decay must be a number in \[0, 1\], got 1.5",
        ),
        (lambda: trust.merit_rank(random_graph(), 0, key=jax.random.key(0)), "merit_rank: key must be left out"),
        (lambda: trust.merit_rank(random_graph(), 0, num_walks=5), "merit_rank: key must be one key"),
        (
            lambda: trust.with_sybils(random_graph(), [1, 1], 2),
            "with_sybils: attackers must be ids of one or more nodes",
        ),
        (lambda: trust.with_sybils(random_graph(), [1], 9, room=4), "with_sybils: num_sybils must be at most room"),
        (lambda: trust.sybil_bound(0.0), "sybil_bound: transitivity_decay must be"),
        (lambda: trust.max_flow(random_graph(), 0, depth=3), r"max_flow: depth must be an integer in \[1, 2\], got 3"),
        (lambda: trust.eigen_trust(random_graph(), [], pretrust_weight=0.5), "eigen_trust: pretrusted must be ids"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(ValueError, match=says):
        call()
