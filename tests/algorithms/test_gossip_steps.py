"""Several gossip steps a round, and optimisers that start anew each round: DFedAvg(M) and DFedSAM-MGS in D-SGD."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import aggregators, algorithms, networks, problems
from dlsim.aggregators.linear import aggregate

KEY = jax.random.key(1)


def weights_of(network):
    return networks.mixing_matrix(network).toarray().astype(np.float64)


def test_by_hand_on_a_ring_of_four() -> None:
    start = jnp.array([0.0, 0, 4, 0])[:, None]
    for steps, wanted in (
        (1, [0, 1.3333, 1.3333, 1.3333]),
        (2, [0.8889, 0.8889, 1.3333, 0.8889]),
        (4, [0.9877, 0.9877, 1.0370, 0.9877]),
    ):
        _, got, _ = aggregate(networks.ring(4), KEY, None, (), start, num_steps=steps)
        np.testing.assert_allclose(got[:, 0], wanted, atol=5e-5)
        np.testing.assert_allclose(got.mean(), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "rho"),
    [
        (lambda: networks.ring(8), 0.8047),
        (lambda: networks.ring(16), 0.9493),
        (lambda: networks.torus(16), 0.6),
        (lambda: networks.barabasi_albert(12, 2, seed=0), None),
        (lambda: networks.complete(6), 0.0),
    ],
)
def test_q_steps_are_one_step_with_the_power_of_the_weights(make, rho) -> None:
    network = make()
    matrix = weights_of(network)
    values = np.random.default_rng(0).standard_normal((network.num_nodes, 5)).astype(np.float32)
    _, got, after = jax.jit(lambda v: aggregate(network, KEY, None, (), v, num_steps=3))(jnp.asarray(values))
    np.testing.assert_allclose(got, np.linalg.matrix_power(matrix, 3) @ values, atol=2e-6)
    second = networks.second_eigenvalue(network)
    assert rho is None or abs(second - rho) < 1e-4
    centred = lambda x: np.linalg.norm(x - x.mean(axis=0))  # noqa: E731
    assert centred(np.asarray(got)) <= second**3 * centred(values) + 1e-6
    sent = np.asarray(after.state.traffic.messages.low)
    np.testing.assert_array_equal(sent, 3 * np.asarray(network.out_degrees))


def run(algorithm, network, num_steps=4, seed=0, scenario=None):
    process = dlsim.learn(PROBLEM, algorithm, network, scenario)
    return dlsim.simulate(process, seed=seed, num_steps=num_steps, progress=False)


PROBLEM = problems.quadratic(8, 4, gradient_noise=0.3)
SGD = optax.sgd(0.05)


@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
def test_a_round_with_q_steps_is_a_round_over_the_power_of_the_weights(order) -> None:
    network = networks.ring(8)
    squared = networks.from_matrix(np.linalg.matrix_power(weights_of(network), 2))
    twice = run(algorithms.dsgd(PROBLEM, SGD, num_local_steps=3, num_gossip_steps=2, order=order), network)
    once = run(algorithms.dsgd(PROBLEM, SGD, num_local_steps=3, order=order), squared)
    np.testing.assert_allclose(twice.params, once.params, atol=1e-5)
    single = run(algorithms.dsgd(PROBLEM, SGD, num_local_steps=3, order=order), network)
    bits = [int(r.results.bits_sent.values.ravel()[-1]) for r in (twice, single)]
    assert bits[0] == 2 * bits[1]
    counts = [int(r.results.gradient_evaluations.values.ravel()[-1]) for r in (twice, single)]
    assert counts[0] == counts[1]


def test_every_exchange_has_its_own_losses_and_residuals() -> None:
    """With error feedback the steps share one residual; absent nodes stay; four exchanges, four times the bits."""
    network = networks.ring(8).with_channel(networks.chain(networks.top_k(2, error_feedback=True), networks.loss(0.2)))
    away = networks.outages([3], 0, 4)
    four = run(algorithms.dsgd(PROBLEM, SGD, num_gossip_steps=4), network, scenario=away)
    one = run(algorithms.dsgd(PROBLEM, SGD), network, scenario=away)
    bits = [int(r.results.bits_sent.values.ravel()[-1]) for r in (four, one)]
    assert bits[0] == 4 * bits[1]
    models, others = np.asarray(four.params)[0], np.asarray(one.params)[0]
    assert np.isfinite(models).all() and not np.allclose(models, others)
    np.testing.assert_array_equal(models[3], others[3])


def test_a_rule_may_be_repeated_too() -> None:
    rule = aggregators.median()
    values = jax.random.normal(KEY, (8, 3))
    network = networks.ring(8)
    _, twice, _ = aggregate(network, KEY, rule, (), values, num_steps=2)
    _, once, _ = aggregate(network, KEY, rule, (), values)
    _, again, _ = aggregate(network, KEY, rule, (), once)
    np.testing.assert_allclose(twice, again, atol=1e-6)


def test_momentum_that_starts_anew() -> None:
    """DFedAvgM by a plain loop: momentum from zero each round, the rate by the round."""
    problem = problems.quadratic(8, 4)
    network = networks.ring(8)
    schedule = optax.exponential_decay(0.1, 1, 0.5)
    made = algorithms.dsgd(problem, optax.sgd(schedule, momentum=0.9), num_local_steps=3, fresh_optimizer=True)
    process = dlsim.learn(problem, made, network)
    state = process.init(KEY)
    x = np.asarray(process.params(state), np.float64)
    matrix = weights_of(network)
    step = jax.jit(process.step)
    for t in range(3):
        state, _ = step(jax.random.fold_in(KEY, t), state)
        m = np.zeros_like(x)
        for _ in range(3):
            g, _ = problem.gradient(KEY, jnp.asarray(x, jnp.float32), jnp.arange(8))
            m = 0.9 * m + np.asarray(g)
            x = x - 0.1 * 0.5**t * m
        x = matrix @ x
    np.testing.assert_allclose(process.params(state), x, rtol=1e-4, atol=1e-5)


def test_sharpness_aware_local_steps_on_the_complete_graph_are_fedsam() -> None:
    problem = problems.sharpness_aware(PROBLEM, 0.05)
    options = {"num_local_steps": 3}
    decentral = dlsim.learn(problem, algorithms.dsgd(problem, SGD, **options), networks.complete(8))
    central = dlsim.learn(
        problem, algorithms.fedavg(problem, SGD, weighting="uniform", **options), networks.complete(8)
    )
    runs = [dlsim.simulate(p, seed=0, num_steps=3, progress=False) for p in (decentral, central)]
    np.testing.assert_allclose(np.asarray(runs[0].params)[0].mean(axis=0), np.asarray(runs[1].params)[0][0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"num_gossip_steps": 0}, "dsgd: num_gossip_steps must be an integer >= 1, got 0. Nodes that never talk are"),
        ({"num_gossip_steps": 1.5}, "dsgd: num_gossip_steps must be an integer"),
        ({"num_gossip_steps": True}, "dsgd: num_gossip_steps must be an integer"),
        ({"fresh_optimizer": "yes"}, "dsgd: fresh_optimizer must be"),
    ],
)
def test_bad_input(options, line) -> None:
    with pytest.raises(ValueError, match=line):
        algorithms.dsgd(PROBLEM, SGD, **options)
