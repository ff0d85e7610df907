"""What a server makes of its clients' movements: rules in place of the mean, a bound on each, adaptive steps, weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes
from oracles import federated
from six_nodes import DIMENSION, EVERYONE, NUM_NODES, RATE, ROLL_CALL
from test_oracles import COHORTS, SIZES, answering, empty_round, parties, served

from dlsim import aggregators, algorithms
from dlsim.algorithms.server_round import clipped
from dlsim.core import Aggregator, Array, Problem, PyTree

BAD = 4


def poisoned(size: float) -> Problem:
    """Six quadratics, one of which answers `size` everywhere."""
    problem = six_nodes.problem()

    def gradient(key: Array, params: PyTree, node_ids: Array) -> tuple[Array, Array]:
        gradients, losses = problem.gradient(key, params, node_ids)
        return jnp.where((node_ids == BAD)[:, None], size, gradients), losses

    return problem._replace(gradient=gradient)


def trimmed(moves: np.ndarray) -> np.ndarray:
    return np.sort(moves, axis=0)[1:-1].mean(axis=0) if len(moves) > 2 else np.median(moves, axis=0)


def krum(moves: np.ndarray) -> np.ndarray:
    # Two of three that are nearest to each other tie: the one of median norm comes first at a server.
    middle = np.argsort(np.linalg.norm(moves, axis=1), kind="stable")[(len(moves) - 1) // 2]
    moves = np.concatenate([moves[middle][None], np.delete(moves, middle, axis=0)])
    distances = np.square(moves[:, None] - moves[None]).sum(-1)
    nearest = np.sort(distances + np.diag(np.full(len(moves), np.inf)), axis=1)
    scores = nearest[:, : max(1, len(moves) - 1 - 2)].sum(axis=1) if len(moves) > 1 else np.zeros(1)
    return moves[np.argmin(scores)]


RULES = {
    "median": (aggregators.median(), lambda moves: np.median(moves, axis=0)),
    "trimmed_mean": (aggregators.trimmed_mean(1), trimmed),
    "krum": (aggregators.krum(1), krum),
}


@parties
@pytest.mark.parametrize("name", RULES)
def test_a_rule_at_the_server(name: str, present: np.ndarray, cohorts: np.ndarray | None) -> None:
    problem = six_nodes.problem()
    rule, by_hand = RULES[name]
    algorithm = algorithms.fedavg(problem, optax.sgd(RATE), num_local_steps=3, aggregator=rule)
    there = answering(present, cohorts)
    start = six_nodes.start()[0]
    expected = federated.fedavg(six_nodes.gradients(problem), start, RATE, 3, SIZES, there, rule=by_hand)
    six_nodes.agree(served(algorithm, present, cohorts), expected)


@pytest.mark.parametrize("size", [1e3, -1e25, np.inf, np.nan])
@pytest.mark.parametrize(
    "rule",
    [aggregators.median(), aggregators.trimmed_mean(1), aggregators.krum(1), aggregators.geometric_median()],
    ids=["median", "trimmed_mean", "krum", "geometric_median"],
)
def test_one_liar_of_six_does_not_matter(rule: Aggregator, size: float) -> None:
    def end(problem: Problem, **options: Any) -> np.ndarray:
        algorithm = algorithms.fedavg(problem, optax.sgd(RATE), weighting="uniform", **options)
        return six_nodes.models(six_nodes.play(algorithm, six_nodes.network(), EVERYONE[:8]))[-1]

    honest = end(six_nodes.problem())
    # Krum follows one client, whose optimum is its own: up to one away from that of all.
    bound = 1.0 if rule.source.startswith("Blanchard") else 0.5
    assert np.abs(end(poisoned(size), aggregator=rule) - honest).max() < bound
    spoiled = end(poisoned(size))
    assert not np.isfinite(spoiled).all() or np.abs(spoiled - honest).max() > 10


def test_the_weighted_mean_as_a_rule_weighs_by_examples() -> None:
    problem = six_nodes.problem()._replace(num_examples=SIZES)
    found = [
        served(algorithms.fedavg(problem, optax.sgd(RATE), aggregator=rule), ROLL_CALL, None)
        for rule in (aggregators.mean(), None)
    ]
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


@parties
@pytest.mark.parametrize("clip_norm", [0.05, 0.3])
def test_movements_are_clipped(clip_norm: float, present: np.ndarray, cohorts: np.ndarray | None) -> None:
    problem = six_nodes.problem()._replace(num_examples=SIZES)
    algorithm = algorithms.fedavg(problem, optax.sgd(RATE), num_local_steps=3, clip_norm=clip_norm)
    there, start = answering(present, cohorts), six_nodes.start()[0]
    expected = federated.fedavg(six_nodes.gradients(problem), start, RATE, 3, SIZES, there, clip_norm=clip_norm)
    six_nodes.agree(served(algorithm, present, cohorts), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_clipping_is_exact_at_every_size(scale: float) -> None:
    """Squares of 1e30 overflow float32 and those of 1e-30 vanish; the norm of (3, 4) is 5 all the same."""
    moves = {"a": jnp.asarray([[3.0], [0.3], [0.0]]) * scale, "b": jnp.asarray([[4.0], [0.4], [0.0]]) * scale}
    found = clipped(moves, scale)
    np.testing.assert_allclose(found["a"] / scale, [[0.6], [0.3], [0.0]], rtol=1e-5)
    np.testing.assert_allclose(found["b"] / scale, [[0.8], [0.4], [0.0]], rtol=1e-5)


def test_a_rule_centred_on_its_own_value_is_refused() -> None:
    problem = six_nodes.problem()
    with pytest.raises(
        ValueError, match=r"^fedavg: aggregator must be one that treats a node's own value as any other, "
    ):
        algorithms.fedavg(problem, optax.sgd(RATE), aggregator=aggregators.self_centered_clipping(0.1))
    with pytest.raises(ValueError, match=r"^fedprox: aggregator must be an Aggregator, got 'median'"):
        algorithms.fedprox(problem, optax.sgd(RATE), aggregator="median")
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match=r"^fedavg: clip_norm must be a number in \(0, inf\)"):
            algorithms.fedavg(problem, optax.sgd(RATE), clip_norm=bad)
    with pytest.raises(ValueError, match=r"^fedadam: options must be one of .*, got 'server_optimizer'"):
        algorithms.fedadam(problem, optax.sgd(RATE), 0.1, server_optimizer=optax.sgd(1.0))


@parties
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_the_papers_adaptive_servers(
    name: str, weighting: str, present: np.ndarray, cohorts: np.ndarray | None
) -> None:
    problem = six_nodes.problem()._replace(num_examples=SIZES)
    sizes = SIZES if weighting == "examples" else np.ones(NUM_NODES)
    algorithm = getattr(algorithms, name)(problem, optax.sgd(RATE), 0.1, num_local_steps=2, weighting=weighting)
    betas = (0.0, 0.0) if name == "fedadagrad" else (0.9, 0.99)
    gradient, start = six_nodes.gradients(problem), six_nodes.start()[0]
    expected = federated.fedopt(name, gradient, start, RATE, 2, 0.1, betas, 1e-3, sizes, answering(present, cohorts))
    six_nodes.agree(served(algorithm, present, cohorts), expected)


def test_adams_bias_correction_is_another_method() -> None:
    """By hand, from Delta = 2 tau in the first round: m = .2 tau, v = .99 tau^2 + .01 * 4 tau^2 = 1.03 tau^2."""
    tau, eta = 1e-3, 0.1
    problem = six_nodes.problem()._replace(
        gradient=lambda key, params, ids: (jnp.full_like(params, -2 * tau), jnp.zeros(ids.shape))
    )
    x = jnp.zeros((NUM_NODES, DIMENSION))
    network = six_nodes.network()

    def first_step(algorithm: Any) -> float:
        state = algorithm.init(jax.random.key(0), x, network)
        return float(algorithm.step(jax.random.key(0), state, network)[0].params[0])

    paper = first_step(algorithms.fedadam(problem, optax.sgd(1.0), eta))
    np.testing.assert_allclose(paper, eta * 0.2 / (np.sqrt(1.03) + 1), rtol=1e-5)
    server = optax.adam(eta, 0.9, 0.99, eps=tau)
    corrected = first_step(algorithms.fedavg(problem, optax.sgd(1.0), server_optimizer=server))
    np.testing.assert_allclose(corrected, eta * 2 / (2 + 1), rtol=1e-4)


@parties
@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_by_examples(option: str, present: np.ndarray, cohorts: np.ndarray | None) -> None:
    problem = six_nodes.problem()._replace(num_examples=SIZES)
    algorithm = algorithms.scaffold(problem, RATE, num_local_steps=3, option=option, weighting="examples")
    gradient, start = six_nodes.gradients(problem), six_nodes.start()[0]
    there = answering(present, cohorts)
    expected = federated.scaffold(gradient, start, NUM_NODES, RATE, 1.0, 3, there, option, SIZES)
    six_nodes.agree(served(algorithm, present, cohorts), expected)


def test_scaffold_by_examples_reaches_the_optimum_of_the_mean_over_examples() -> None:
    problem = six_nodes.problem(heterogeneity=1.0)._replace(num_examples=SIZES)
    algorithm = algorithms.scaffold(problem, RATE, num_local_steps=3, weighting="examples")
    states = six_nodes.play(algorithm, six_nodes.network(), np.ones((80, NUM_NODES), bool))
    curvature, linear = six_nodes.affine(problem)
    share = SIZES / SIZES.sum()
    optimum = np.linalg.solve(np.einsum("n,nij->ij", share, curvature), -share @ linear)
    np.testing.assert_allclose(states[-1][0].params, optimum, atol=1e-3)
    state = states[-1][0]
    weighted = np.average(state.client_control_variates, axis=0, weights=SIZES)
    np.testing.assert_allclose(state.control_variate, weighted, atol=1e-5)


def test_the_round_with_nobody_changes_no_rule() -> None:
    algorithm = algorithms.fedadam(six_nodes.problem(), optax.sgd(RATE), 0.1, aggregator=aggregators.median())
    states = six_nodes.play(algorithm, six_nodes.network(), empty_round(ROLL_CALL), cohorts=COHORTS)
    before, after = states[3][0], states[4][0]
    jax.tree.map(np.testing.assert_array_equal, before._replace(round=0), after._replace(round=0))
    assert int(after.round) == int(before.round) + 1
