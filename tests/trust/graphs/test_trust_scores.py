"""EigenTrust, image scores, flows, similarity, and reputation over epochs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest

import dlsim
from dlsim import trust

MATRIX = np.array([[0, 2, 1, 0], [1, 0, 3, 0], [0, 0, 0, 0], [4, 0, 1, 0]], float)


def test_eigen_trust_is_the_principal_eigenvector():
    for pretrusted, weight in ((None, 0.15), ([1, 3], 0.3)):
        first = np.full(4, 0.25) if pretrusted is None else np.array([0, 0.5, 0, 0.5])
        rows = MATRIX / np.maximum(MATRIX.sum(axis=1, keepdims=True), 1e-30)
        rows[MATRIX.sum(axis=1) == 0] = first
        whole = (1 - weight) * rows.T + weight * first[:, None]
        values, vectors = np.linalg.eig(whole)
        vector = np.real(vectors[:, np.argmax(np.real(values))])
        found = trust.eigen_trust(trust.trust_matrix(MATRIX), pretrusted, pretrust_weight=weight)
        np.testing.assert_allclose(found, vector / vector.sum(), atol=1e-6)
        np.testing.assert_allclose(found.sum(), 1, atol=1e-6)
    alone = trust.eigen_trust(trust.trust_matrix(MATRIX), [2], pretrust_weight=1.0)
    np.testing.assert_allclose(alone, [0, 0, 1, 0])


def test_a_clique_that_nobody_trusts_gets_nothing_from_pretrusted_peers():
    pairs = [(i, (i + 1) % 4) for i in range(4)] + [(i, j) for i in (4, 5, 6) for j in (4, 5, 6) if i != j]
    graph = trust.trust_graph(7, *np.array(pairs).T)
    assert np.asarray(trust.eigen_trust(graph, [0]))[4:].sum() == 0
    np.testing.assert_allclose(np.asarray(trust.eigen_trust(graph))[4:].sum(), 3 / 7, atol=1e-6)


def test_image_scores_are_clipped():
    scores = jnp.zeros(3)
    for _ in range(7):
        scores = trust.image_score(scores, jnp.array([1.0, -1.0, 0.0]))
    assert scores.tolist() == [5.0, -5.0, 0.0]
    with pytest.raises(ValueError, match="image_score: acts must be of the shape of scores"):
        trust.image_score(jnp.zeros(3), jnp.zeros(2))


def two_hops(matrix: np.ndarray, source: int, target: int) -> float:
    return matrix[source, target] + sum(min(matrix[source, k], matrix[k, target]) for k in range(len(matrix)))


def test_flows_of_two_hops_against_a_loop_and_networkx():
    draw = np.random.default_rng(1)
    matrix = draw.integers(0, 5, (8, 8)) * (draw.random((8, 8)) < 0.4)
    np.fill_diagonal(matrix, 0)
    matrix[0, 1] = 3
    out, back = trust.max_flow(trust.trust_matrix(matrix.astype(float)), 0)
    peer = networkx.from_numpy_array(matrix, create_using=networkx.DiGraph)
    for x in range(1, 8):
        assert float(out[x]) == two_hops(matrix, 0, x) and float(back[x]) == two_hops(matrix, x, 0)
        assert float(out[x]) <= networkx.maximum_flow_value(peer, 0, x, capacity="weight")
    direct, _ = trust.max_flow(trust.trust_matrix(matrix.astype(float)), 0, depth=1)
    assert direct.tolist() == matrix[0].tolist()
    # On a graph without longer paths it is the maximum.
    star = trust.trust_graph(4, [0, 0, 1, 2], [1, 2, 3, 3], [2.0, 5.0, 4.0, 1.0])
    assert float(trust.max_flow(star, 0)[0][3]) == 3.0
    # Two edges of one pair are one edge.
    twice = trust.trust_graph(3, [0, 1, 1], [1, 2, 2], [5.0, 2.0, 2.0])
    assert float(trust.max_flow(twice, 0)[0][2]) == 4.0


def test_bartercast_is_the_difference_of_flows():
    found = trust.bartercast(trust.trust_graph(3, [0, 1, 1], [1, 2, 0], [4.0, 1.0, 1.0]), [0])
    assert found.shape == (1, 3)
    np.testing.assert_allclose(found[0], [0, np.arctan(3.0) / (np.pi / 2), np.arctan(1.0) / (np.pi / 2)], rtol=1e-6)


def similarity(ratings: np.ndarray, u: int, v: int) -> float:
    """By the page, for one pair."""
    common = [set(np.flatnonzero(ratings[u])) & set(np.flatnonzero(row)) for row in ratings]
    most = max(len(c) for w, c in enumerate(common) if w != u)
    both = sorted(common[v])
    if len(both) < 2:
        return 0.0
    means = [row[row > 0].mean() for row in ratings]
    a, b = ratings[u, both], ratings[v, both]
    x, y = a - means[u], b - means[v]
    scale = np.abs(x).sum() * np.abs(y).sum()
    correlation = (x * y).sum() / scale if scale else 0.0
    span = max(a.max(), b.max()) - min(a.min(), b.min())
    near = 1 - np.abs(a - b).mean() / span if span else 0.0
    return 1 + 0.5 * len(both) / most * correlation + 0.5 * near


def test_similar_users_trust_each_other():
    draw = np.random.default_rng(2)
    ratings = draw.integers(1, 6, (7, 9)) * (draw.random((7, 9)) < 0.5).astype(float)
    graph = trust.similarity_trust(ratings, num_best=2)
    for user in range(7):
        scores = np.array([similarity(ratings, user, v) if v != user else 0.0 for v in range(7)])
        kept = np.asarray(graph.sources) == user
        np.testing.assert_allclose(np.sort(graph.weights[kept]), np.sort(scores)[-2:], atol=1e-5)
    with pytest.raises(ValueError, match="similarity_trust: ratings must be 0 or more"):
        trust.similarity_trust([[1.0, -1.0], [1.0, 2.0]])


def test_reputation_decays_by_epochs():
    graph = trust.trust_graph(3, [0, 0, 1], [1, 2, 2])
    weights = np.array([[1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 1.0]])
    process = trust.reputation(
        graph, lambda key, graph: trust.personalized_pagerank(graph, jnp.int32(0)), epoch_decay=0.25, weights=weights
    )
    run = dlsim.simulate(process, seed=0, num_steps=4, record=dlsim.Record(every=1), progress=False)
    expected, out = np.zeros(3), []
    for epoch in (0, 1, 2, 2):
        now = graph.replace(weights=jnp.asarray(weights[epoch], jnp.float32))
        expected = 0.25 * expected + np.asarray(trust.personalized_pagerank(now, 0))
        out.append(expected)
    np.testing.assert_allclose(run.results.reputation.values[1:], out, atol=1e-6)
    assert run.results.reputation.dims == ("step", "node")
    with pytest.raises(ValueError, match=r"reputation: epoch_decay must be a number in \[0, 1\], got 2"):
        trust.reputation(graph, lambda key, graph: jnp.zeros(3), epoch_decay=2.0)
    with pytest.raises(ValueError, match="reputation: weights must be"):
        trust.reputation(graph, lambda key, graph: jnp.zeros(3), weights=[[1.0, -1.0, 0.0]])
    with pytest.raises(ValueError, match="reputation: score must be one that gives"):
        trust.reputation(graph, lambda key, graph: jnp.zeros(2))


def test_all_edges_of_a_matrix_are_there():
    graph = trust.trust_matrix(MATRIX)
    back = np.zeros((4, 4))
    back[np.asarray(graph.sources), np.asarray(graph.targets)] = np.asarray(graph.weights)
    np.testing.assert_array_equal(back, MATRIX)
    traced = jax.jit(lambda m: trust.eigen_trust(trust.trust_matrix(m)))(jnp.asarray(MATRIX))
    np.testing.assert_allclose(traced, trust.eigen_trust(graph), atol=1e-6)
