"""When nodes talk: schedules by hand, random neighbours in expectation, and what must reduce to known methods."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import algorithms, networks, problems
from dlsim.networks import given_rounds, periodic_rounds, ramp_rounds, random_neighbors, scheduled_links, window_rounds

KEY = jax.random.key(4)


def listed(schedule):
    return np.asarray(schedule).round(6).tolist()


def test_schedules_by_hand() -> None:
    assert listed(given_rounds(5, [0, 3], 2.0, otherwise=0.5)) == [2, 0.5, 0.5, 2, 0.5]
    assert listed(periodic_rounds(7, 3)) == [0, 0, 1, 0, 0, 1, 0]
    assert listed(periodic_rounds(5, 2, first=0, otherwise=0.25)) == [1, 0.25, 1, 0.25, 1]
    assert listed(window_rounds(6, 2, 3, 4.0)) == [0, 0, 4, 4, 4, 0]
    assert listed(window_rounds(4, 3, value=9.0, otherwise=0.25)) == [0.25, 0.25, 0.25, 9]
    assert listed(ramp_rounds(4, 0.0, 2.0)) == [0.5, 1, 1.5, 2]
    assert listed(ramp_rounds(2, 1.0, 3.0, shape="cosine")) == [2, 3]
    single = given_rounds(4, [3], 15.0, otherwise=window_rounds(4, 1, 1, 2.0, otherwise=0.25))
    assert listed(single) == [0.25, 2, 0.25, 15]


def test_schedules_are_data() -> None:
    many = jax.vmap(lambda start: window_rounds(6, start, 2, 5.0))(jnp.arange(5))
    assert [int(np.argmax(row)) for row in np.asarray(many)] == [0, 1, 2, 3, 4]
    assert listed(jax.jit(lambda p: periodic_rounds(4, p))(2)) == [0, 1, 0, 1]
    assert listed(jax.jit(lambda t: given_rounds(3, t))(jnp.array([2, 7]))) == [0, 0, 1]  # 7 is beyond


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: given_rounds(10, [3, 10]), "given_rounds: rounds must be within the run's 10 rounds, 0..9, got 10"),
        (lambda: given_rounds(10, [0.5]), "given_rounds: rounds must be whole numbers"),
        (
            lambda: window_rounds(10, 8, 3),
            "window_rounds: the window must be within the run's 10 rounds, 0..9, got rounds 8",
        ),
        (lambda: window_rounds(10, 10), "window_rounds: start must be within the run, at most 9, got 10"),
        (lambda: window_rounds(10, 3, 0), "window_rounds: length must be an integer >= 1, got 0"),
        (lambda: periodic_rounds(10, 11), "periodic_rounds: period must be within the run, at most 10, got 11"),
        (lambda: periodic_rounds(10, 2.5), "periodic_rounds: period must be an integer"),
        (lambda: periodic_rounds(10, 2, first=10), "periodic_rounds: first must be within the run, at most 9, got 10"),
        (lambda: ramp_rounds(3, 0.0, 1.0, shape="round"), "ramp_rounds: shape must be one of"),
        (lambda: given_rounds(3, [0], otherwise=[1.0, 2.0]), "given_rounds: otherwise must be of shape"),
        (lambda: random_neighbors(-1), "random_neighbors: degree must be a number >= 0"),
        (lambda: random_neighbors([1.0, np.nan]), "random_neighbors: degree must be .* got nan in round 1"),
        (
            lambda: started(random_neighbors(8), networks.complete(8)),
            "random_neighbors: degree must be at most 7, .* got 8",
        ),
        (
            lambda: started(random_neighbors([1, 3]), networks.ring(8)),
            "degree must be at most 2, the neighbours there are",
        ),
        (
            lambda: started(random_neighbors(1), networks.complete(3000)),
            "random_neighbors: network must be one with a table",
        ),
        (lambda: scheduled_links(1.5), r"scheduled_links: share must be in \[0, 1\], got 1.5"),
        (
            lambda: started(scheduled_links(1), networks.complete(3000)),
            "scheduled_links: network must be one that lists",
        ),
        (
            lambda: random_neighbors(1).step(
                KEY, jnp.zeros((), jnp.int32), networks.ring(4).replace(is_linked=jnp.ones(8, bool))
            ),
            "random_neighbors: place must be before",
        ),
    ],
)
def test_bad_input(make, line) -> None:
    with pytest.raises(ValueError, match=line):
        make()


def started(scenario, network):
    return scenario.init(KEY, network)


def drawn(network, degree, num=1):
    """Mixing matrices `[num, N, N]` of as many rounds."""
    scenario = random_neighbors(degree)

    def one(key):
        made = scenario.step(key, jnp.zeros((), jnp.int32), network)[1]
        size = made.num_nodes
        return made.combine(made.send(key, jnp.eye(size))[0]), made.out_degrees, made.in_degrees

    return jax.jit(jax.vmap(one))(jax.random.split(KEY, num))


@pytest.mark.parametrize(("degree", "off", "factor", "distance"), [
    (0.2, 0.2 / (2 * 15), 0.893333, 0.887378),
    (1.0, 0.5 / 15, 1 - 16 / 30, 0.451111),
    (3.0, 3 / (4 * 15), (1 - 3 / 15) / 4, 0.19),
    (15.0, 1 / 16, 0.0, 0.0),
])  # fmt: skip
def test_random_neighbors_in_expectation(degree, off, factor, distance) -> None:
    """E[W], and what a round leaves of a disagreement of zero mean: A, and A - (A - A^2)/N of the consensus distance."""
    weights, sent, heard = (np.asarray(one) for one in drawn(networks.complete(16), degree, 3000))
    np.testing.assert_allclose(weights.sum(axis=2), 1, atol=1e-6)
    mean = weights.mean(axis=0)
    is_off = ~np.eye(16, dtype=bool)
    np.testing.assert_allclose(mean[is_off].mean(), off, rtol=0.02)
    assert np.abs(mean[is_off] - off).max() < 0.02
    x = np.random.default_rng(0).standard_normal((16, 4))
    x -= x.mean(axis=0)
    mixed = weights @ x
    left = (mixed**2).sum(axis=(1, 2)).mean() / (x**2).sum()
    np.testing.assert_allclose(left, factor, atol=0.01)
    spread = ((mixed - mixed.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2)).mean() / (x**2).sum()
    np.testing.assert_allclose(spread, distance, atol=0.01)
    np.testing.assert_allclose(factor - (factor - factor**2) / 16, distance, atol=1e-5)
    np.testing.assert_array_equal(sent.sum(axis=1), heard.sum(axis=1))
    np.testing.assert_allclose(heard.sum(axis=1).mean(), 16 * degree, rtol=0.03)


@pytest.mark.parametrize("lowering", ["dense", "neighbors", "average"])
def test_lowerings_agree(lowering) -> None:
    plain = drawn(networks.complete(9), 2.4)
    other = drawn(networks.complete(9).with_lowering(lowering), 2.4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, other)


def test_draws_are_among_the_links_there_are() -> None:
    weights, _, heard = (np.asarray(one) for one in drawn(networks.ring(8), 1.0, 50))
    linked = networks.mixing_matrix(networks.ring(8)).toarray() > 0
    assert (weights[:, ~linked] == 0).all() and (heard == 1).all()
    gathered, _ = random_neighbors(1.0).step(KEY, jnp.zeros((), jnp.int32), networks.ring(8))[1].gather(KEY, jnp.eye(8))
    np.testing.assert_array_equal(np.asarray(gathered.mask).sum(axis=1), 1)


def test_who_is_away_is_not_drawn_if_it_left_before() -> None:
    network = networks.complete(8).replace(is_present=jnp.arange(8) < 3)
    weights, sent, _ = (np.asarray(one) for one in drawn(network, 7.0))
    np.testing.assert_allclose(weights[0, :3, :3], 1 / 3, atol=1e-6)  # the merge of those who are there
    np.testing.assert_allclose(weights[0, 3:], np.eye(8)[3:], atol=1e-7)
    np.testing.assert_array_equal(sent[0, :3], 2)


def run(algorithm, scenario, num_steps=6, network=None, problem=None):
    network = networks.complete(8) if network is None else network
    process = dlsim.learn(PROBLEM if problem is None else problem, algorithm, network, scenario)
    return dlsim.simulate(process, seed=0, num_steps=num_steps, progress=False)


PROBLEM = problems.quadratic(8, 3, gradient_noise=0.3)
DSGD = algorithms.dsgd(PROBLEM, optax.sgd(0.05), num_local_steps=2)


def test_limits_are_known_methods() -> None:
    """r = N - 1 in every round is local SGD on the complete graph, r = 0 isolated training with no message."""
    full, sparse = run(DSGD, random_neighbors(7)), run(DSGD, random_neighbors(0))
    np.testing.assert_allclose(full.params, run(DSGD, None).params, atol=1e-5)
    alone = algorithms.isolated_training(PROBLEM, optax.sgd(0.05), num_local_steps=2)
    np.testing.assert_array_equal(sparse.params, run(alone, None).params)
    assert int(sparse.results.messages_sent.values.ravel()[-1]) == 0
    assert int(full.results.messages_sent.values.ravel()[-1]) == 6 * 8 * 7


def test_a_single_merge_ends_disagreement_and_nothing_before_it_changes() -> None:
    merged = run(DSGD, random_neighbors(given_rounds(6, [5], 7.0, otherwise=0.2)))
    without = run(DSGD, random_neighbors(0.2))
    distance = merged.results.consensus_distance.values.ravel()
    np.testing.assert_allclose(distance[-1], 0, atol=1e-10)
    np.testing.assert_allclose(distance[:-1], without.results.consensus_distance.values.ravel()[:-1], rtol=1e-5)
    sent = int(merged.results.messages_sent.values.ravel()[-1]) - int(merged.results.messages_sent.values.ravel()[-2])
    assert sent == 8 * 7


def test_schedules_sweep_as_one_program() -> None:
    def make(start):
        return dlsim.learn(PROBLEM, DSGD, networks.complete(8), random_neighbors(window_rounds(8, start, 2, 7.0)))

    results = dlsim.sweep(make, start=[0.0, 3.0, 6.0], num_steps=8, seed=0, progress=False)
    distance = results.consensus_distance.isel(seed=0).values.reshape(3, -1)
    assert (distance[:, -1] < 1e-9).tolist() == [False, False, True]
    assert distance[0, 2] < 1e-9 and distance[1, 5] < 1e-9 and distance[1, 2] > 1e-4
    assert len(results.attrs.get("groups", [0])) <= 1


def test_scheduled_links_are_local_sgd_with_its_period_as_data() -> None:
    """Links up in every third round: three rounds of two local steps are one of six, key by key apart; here without noise."""
    problem = problems.quadratic(8, 3)
    often = run(
        algorithms.dsgd(problem, optax.sgd(0.05)),
        scheduled_links(periodic_rounds(9, 3)),
        9,
        networks.ring(8),
        problem,
    )
    seldom = run(algorithms.dsgd(problem, optax.sgd(0.05), num_local_steps=3), None, 3, networks.ring(8), problem)
    np.testing.assert_allclose(often.params, seldom.params, atol=1e-5)
    counts = [int(r.results.messages_sent.values.ravel()[-1]) for r in (often, seldom)]
    assert counts[0] == counts[1] == 3 * 16


def test_merged_models_on_equal_quadratics_are_gradient_descent() -> None:
    """Linear gradients, equal Hessians, doubly stochastic W: the mean model does what centralised descent does."""
    problem = problems.quadratic(8, 3, condition_number=1.0)
    one = algorithms.dsgd(problem, optax.sgd(0.1))
    sparse = run(one, scheduled_links(0.3), 12, networks.ring(8), problem)
    central = run(algorithms.centralized_sgd(problem, optax.sgd(0.1)), None, 12, networks.complete(8), problem)
    np.testing.assert_allclose(
        np.asarray(sparse.params)[0].mean(axis=0), np.asarray(central.params)[0].mean(axis=0), atol=1e-5
    )


def test_the_merge_by_hand() -> None:
    x = np.array([[0.0, 0], [2, 0], [1, 3]])
    process = dlsim.average(x, networks.complete(3), scenario=random_neighbors(given_rounds(2, [1], 2.0)))
    results = dlsim.simulate(process, seed=0, num_steps=2, progress=False).results
    np.testing.assert_allclose(results.consensus_distance.values.ravel()[0], 8 / 3, rtol=1e-6)
    np.testing.assert_allclose(results.consensus_distance.values.ravel()[-1], 0, atol=1e-12)


def test_a_ring_that_is_merged_in_the_end() -> None:
    """Draws are among the links of a graph; a last merge of all is another network in the last round."""
    last = networks.time_varying([networks.ring(8), networks.complete(8)], dwell_rounds=(3, 1), cycle=False)
    results = run(DSGD, last, 4, networks.ring(8)).results
    distance = results.consensus_distance.values.ravel()
    assert distance[-2] > 1e-4 and distance[-1] < 1e-10
    assert int(results.messages_sent.values.ravel()[-1]) == 3 * 16 + 56


def test_a_run_longer_than_its_schedule_keeps_the_last() -> None:
    counts = run(DSGD, random_neighbors([0.0, 0.0, 1.0]), 5).results.messages_sent.values.ravel()
    assert counts.tolist() == [0, 0, 0, 8, 16, 24]
