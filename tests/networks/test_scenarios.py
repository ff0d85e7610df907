"""Who is there, which links are up, and topologies that change."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import networks

KEY = jax.random.key(2)


def play(scenario: dlsim.Scenario, network: dlsim.networks.Network, num_rounds: int, key: jax.Array = KEY):
    """The networks of so many rounds, one after the other."""
    state, step = scenario.init(key, network), jax.jit(lambda k, s: scenario.step(k, s, network))
    rounds = []
    for t in range(num_rounds):
        state, now = step(jax.random.fold_in(key, t), state)
        rounds.append(now)
    return rounds


def presence(scenario: dlsim.Scenario, network: dlsim.networks.Network, num_rounds: int) -> np.ndarray:
    def one(state, t):
        state, now = scenario.step(jax.random.fold_in(KEY, t), state, network)
        return state, now.is_present

    return np.asarray(jax.lax.scan(one, scenario.init(KEY, network), jnp.arange(num_rounds))[1])


def test_churn_leaves_and_returns_at_its_rates() -> None:
    there = presence(networks.churn(0.1, 0.3), networks.ring(400), 400)
    before, after = there[:-1], there[1:]
    assert (before & ~after).sum() / before.sum() == pytest.approx(0.1, rel=0.05)
    assert (~before & after).sum() / (~before).sum() == pytest.approx(0.3, rel=0.05)
    assert 1 - there[100:].mean() == pytest.approx(0.1 / 0.4, rel=0.05)


def test_random_presence_and_crash() -> None:
    there = presence(networks.random_presence(0.7), networks.ring(500), 50)
    assert there.mean() == pytest.approx(0.7, abs=0.02)
    assert abs(np.corrcoef(there[:-1].ravel(), there[1:].ravel())[0, 1]) < 0.03
    there = presence(networks.crash(5, 0.4), networks.ring(500), 12)
    assert there[:5].all() and (there[5:] == there[5]).all()
    assert there[5].mean() == pytest.approx(0.6, abs=0.08)


def test_participation() -> None:
    base = networks.ring(30)
    there = presence(networks.participation(7), base, 600)
    assert (there.sum(axis=1) == 7).all()
    counts = there.sum(axis=0)
    expected = 600 * 7 / 30
    assert ((counts - expected) ** 2 / (expected * (1 - 7 / 30))).sum() < 60  # chi squared, 29 degrees of freedom
    now = play(networks.participation(7), base, 1)[0]
    np.testing.assert_array_equal(np.sort(now.cohort), np.flatnonzero(now.is_present))
    both = play(networks.chain(networks.random_presence(0.5), networks.participation(7)), base, 1)[0]
    assert both.cohort.shape == (7,) and 0 < both.is_present.sum() < 7


def test_link_failure_hits_both_directions() -> None:
    base = networks.random_regular(500, 4)
    back = networks.reverse_edges(base)
    up = play(networks.link_failure(0.3), base, 1)[0].is_linked
    np.testing.assert_array_equal(up, up[back])
    assert 1 - up.mean() == pytest.approx(0.3, abs=0.04)
    one_way = play(networks.link_failure(0.3, is_symmetric=False), base, 1)[0].is_linked
    assert (one_way != one_way[back]).mean() == pytest.approx(2 * 0.3 * 0.7, abs=0.05)
    twice = play(networks.chain(networks.link_failure(0.5), networks.link_failure(0.5)), base, 1)[0].is_linked
    assert twice.mean() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(
    "scenario",
    [networks.churn(0.3, 0.3), networks.participation(4), networks.link_failure(0.4), networks.epidemic(3)]
    + [networks.epidemic(2, "local"), networks.crash(0, 0.5), networks.random_presence(0.5)],
)
def test_draws_belong_to_node_ids(scenario: dlsim.Scenario) -> None:
    """The same round on nodes stored in another order: the same nodes and links, under their ids."""
    base, order = networks.random_regular(12, 4), np.random.default_rng(0).permutation(12)
    x = {"x": jax.random.normal(KEY, (12, 3))}
    now, other = play(scenario, base, 3)[-1], play(scenario, base.relabel(order), 3)[-1]
    mixed, _ = now.mix(KEY, x)
    moved, _ = other.mix(KEY, {"x": x["x"][order]})
    np.testing.assert_allclose(moved["x"], mixed["x"][order], atol=1e-6)
    if now.is_present is not None:
        np.testing.assert_array_equal(other.is_present, now.is_present[order])


@pytest.mark.parametrize("num_nodes", [8, 16])
def test_one_peer_exponential_agrees_exactly_in_log2_rounds(num_nodes: int) -> None:
    period = networks.one_peer_exponential(num_nodes)
    x = {"x": jax.random.normal(KEY, (num_nodes, 5))}
    mean = x["x"].mean(axis=0)
    for now in play(networks.time_varying(period), period[0], len(period)):
        x, _ = now.mix(KEY, x)
    np.testing.assert_allclose(x["x"], jnp.broadcast_to(mean, x["x"].shape), atol=1e-6)


@pytest.mark.parametrize(("num_nodes", "degree"), [(6, 1), (7, 2), (12, 2), (15, 4)])
def test_base_graphs_agree_exactly_in_a_period(num_nodes: int, degree: int) -> None:
    """Their rounds have different numbers of edges, so this is padding's test too."""
    period = networks.base_graph(num_nodes, degree)
    x = {"x": jax.random.normal(KEY, (num_nodes, 5))}
    mean, total = x["x"].mean(axis=0), 0
    rounds = play(networks.time_varying(period), period[0], len(period))
    for now, plain in zip(rounds, period, strict=True):
        wanted, counted = plain.mix(KEY, x)
        x, after = now.mix(KEY, x)
        np.testing.assert_allclose(x["x"], wanted["x"], atol=1e-6)
        np.testing.assert_array_equal(after.state.traffic.messages.low, counted.state.traffic.messages.low)
        inbox, _ = now.gather(KEY, x)
        assert int(inbox.mask.sum()) == plain.num_edges
        total += plain.num_edges
    assert total > 0
    np.testing.assert_allclose(x["x"], jnp.broadcast_to(mean, x["x"].shape), atol=1e-6)


def test_time_varying_repeats_and_joins_with_churn() -> None:
    period = networks.one_peer_exponential(8)
    scenario = networks.chain(networks.time_varying(period), networks.churn(0.3, 0.3))
    assert scenario.properties is not None and "connected" in scenario.properties
    rounds = play(scenario, period[0], 7)
    for t, now in enumerate(rounds):
        np.testing.assert_array_equal(now.senders, period[t % 3].senders)
    assert not rounds[-1].is_present.all()


def test_time_varying_networks_stand_in_the_order_of_the_run() -> None:
    period, order = networks.one_peer_exponential(8), np.array([3, 1, 0, 2, 7, 6, 5, 4])
    moved = [network.relabel(order) for network in period]
    x = {"x": jax.random.normal(KEY, (8, 2))}
    plain = play(networks.time_varying(period), period[0], 3)
    for now, other in zip(plain, play(networks.time_varying(moved), moved[0], 3), strict=True):
        mixed, _ = now.mix(KEY, x)
        again, _ = other.mix(KEY, {"x": x["x"][order]})
        np.testing.assert_allclose(again["x"], mixed["x"][order], atol=1e-6)
    with pytest.raises(ValueError, match="time_varying: networks must be in the order of the run's network"):
        play(networks.time_varying(period), moved[0], 1)
    with pytest.raises(ValueError, match="time_varying: networks must be of the same nodes in the same order"):
        networks.time_varying([period[0], moved[1]])


@pytest.mark.parametrize("mode", ["oracle", "local"])
def test_learn_checks_what_the_scenario_declares(mode: str) -> None:
    """Not the base network, which here is a ring: EL-Local's weights are not doubly stochastic, EL-Oracle's are."""
    problem = dlsim.problems.quadratic(8, 3)
    for requires, fits in (("row_stochastic", True), ("doubly_stochastic", mode == "oracle"), ("undirected", False)):
        algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.1))._replace(requires=frozenset({requires}))
        if fits:
            dlsim.learn(problem, algorithm, networks.ring(8), networks.epidemic(2, mode))
        else:
            with pytest.raises(ValueError, match=f"learn: network must be {requires} for this algorithm"):
                dlsim.learn(problem, algorithm, networks.ring(8), networks.epidemic(2, mode))


def test_epidemic_oracle() -> None:
    base = networks.ring(40)
    heard = np.zeros((40, 40))
    for now in play(networks.epidemic(5), base, 200):
        table = np.asarray(now.neighbors)
        assert all(len(set(row) | {i}) == 6 for i, row in enumerate(table.tolist()))
        matrix = np.zeros((40, 40))
        np.add.at(matrix, (np.asarray(now.receivers), np.asarray(now.senders)), np.asarray(now.edge_weights))
        matrix += np.diag(np.asarray(now.self_weights))
        np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-6)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
        heard[np.asarray(now.receivers), np.asarray(now.senders)] += 1
    off = heard[~np.eye(40, dtype=bool)]
    expected = 200 * 5 / 39
    assert ((off - expected) ** 2 / expected).sum() < 1.15 * 40 * 39  # every pair is met as often
    everyone = play(networks.epidemic(39), base, 1)[0]
    x = {"x": jax.random.normal(KEY, (40, 2))}
    mixed, _ = everyone.mix(KEY, x)
    np.testing.assert_allclose(mixed["x"], jnp.broadcast_to(x["x"].mean(axis=0), (40, 2)), atol=1e-6)


def test_epidemic_local() -> None:
    base = networks.ring(40)
    received = np.zeros(40)
    for now in play(networks.epidemic(3, "local"), base, 100):
        senders, receivers = np.asarray(now.senders), np.asarray(now.receivers)
        assert (senders != receivers).all() and (np.bincount(senders, minlength=40) == 3).all()
        assert len({*zip(senders.tolist(), receivers.tolist(), strict=True)}) == 120
        rows = np.asarray(now.self_weights) + np.bincount(receivers, np.asarray(now.edge_weights), 40)
        np.testing.assert_allclose(rows, 1, atol=1e-6)
        received += np.bincount(receivers, minlength=40)
        _, after = now.mix(KEY, {"x": jnp.ones((40, 2))})
        np.testing.assert_array_equal(after.state.traffic.messages.low, 3)
    assert ((received - 300) ** 2 / 300).sum() < 70  # chi squared, 39 degrees of freedom


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: networks.churn(rate=2), r"churn: rate must be a number in \[0, 1\], got 2"),
        (lambda: networks.participation(0), "participation: cohort_size must be an integer >= 1, got 0"),
        (lambda: play(networks.participation(9), networks.ring(8), 1), "at most the 8 nodes, got 9"),
        (lambda: networks.epidemic(3, "locl"), "epidemic: mode must be one of local, oracle, got 'locl'"),
        (lambda: play(networks.epidemic(8), networks.ring(8), 1), "below the number of nodes, 8, got 8"),
        (lambda: networks.time_varying([]), "time_varying: networks must be one or more Networks"),
        (lambda: networks.time_varying([networks.ring(4), networks.ring(5)]), "must be of one size"),
        (
            lambda: play(networks.chain(networks.link_failure(0.1), networks.epidemic(2)), networks.ring(8), 1),
            "before scenarios that take links away",
        ),
    ],
)
def test_bad_input(call, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        call()


# Outages of given nodes at given times.

TABLE = ((3, 7, 3, 0), (1, 2, 5, 0), (4, 3, 7, 1))  # ids, start, end


def expected_presence(ids, start, end, num_nodes: int, num_rounds: int) -> np.ndarray:
    there = np.ones((num_rounds, num_nodes), bool)
    for node, first, last in zip(ids, start, end, strict=True):
        for t in range(num_rounds):
            there[t, node] &= not first <= t < last
    return there


def test_outages_silence_these_nodes_in_these_rounds() -> None:
    there = presence(networks.outages(*TABLE), networks.ring(9), 9)
    np.testing.assert_array_equal(there, expected_presence(*TABLE, 9, 9))
    assert [np.flatnonzero(~row).tolist() for row in there[:4]] == [[0], [3], [3, 7], [3]]
    for_good = presence(networks.outages([2, 4], 3), networks.ring(6), 6)
    np.testing.assert_array_equal(for_good, expected_presence((2, 4), (3, 3), (99, 99), 6, 6))
    assert presence(networks.outages(np.zeros(0, int), 0, 1), networks.ring(6), 3).all()
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4, 8])
    moved = presence(networks.outages(*TABLE), networks.ring(9).relabel(order), 9)
    np.testing.assert_array_equal(moved, there[:, order])


def test_whom_and_when_are_data() -> None:
    """One program for another table, ids and times; ids that no node has hit nobody."""
    base, traces = networks.ring(9), []

    @jax.jit
    def there(ids, start, end):
        traces.append(1)
        return presence_of(networks.outages(ids, start, end), base, 9)

    for shift in (0, 1, 5):
        ids, start, end = (np.asarray(part) for part in TABLE)
        table = ((ids + shift) % 9, start + shift, end + shift)
        np.testing.assert_array_equal(there(*(jnp.asarray(t) for t in table)), expected_presence(*table, 9, 9))
    assert len(traces) == 1
    assert np.asarray(there(jnp.array([-1, 9, 20, -9]), jnp.zeros(4, int), jnp.full(4, 9))).all()


def presence_of(scenario: dlsim.Scenario, network: dlsim.networks.Network, num_rounds: int):
    def one(state, t):
        state, now = scenario.step(KEY, state, network)
        return state, now.is_present

    return jax.lax.scan(one, scenario.init(KEY, network), jnp.arange(num_rounds))[1]


def test_a_disaster_is_swept_as_data() -> None:
    """Who stands within the reach of it is hit, and keeps its state until it is over."""
    base, traced = networks.random_geometric(16, seed=0, radius=0.5), []
    apart = np.linalg.norm(np.asarray(base.positions) - np.array([0.5, 0.5]), axis=1)
    values = np.arange(16.0, dtype=np.float32)[:, None]

    def make(reach, begin):
        traced.append(not isinstance(reach, float) and not isinstance(begin, float))
        start = jnp.where(apart < reach, begin, jnp.inf)
        return dlsim.average(values, base, None, networks.outages(np.arange(16), start, begin + 3))

    results = dlsim.sweep(make, reach=[0.2, 0.3], begin=[0.0, 2.0], num_steps=6, record=dlsim.Record(every=1), seed=0)
    assert any(traced)
    for reach in (0.2, 0.3):
        assert 0 < (apart < reach).sum() < 16
        for begin in (0.0, 2.0):
            away = [(apart < reach).sum() if begin <= t < begin + 3 else 0 for t in range(6)]
            found = results.num_present.sel(reach=reach, begin=begin, seed=0).values[1:]
            np.testing.assert_array_equal(found, 16 - np.array(away))


# Networks that take turns.


def test_dwell_times_and_a_last_one_that_stays() -> None:
    period = networks.one_peer_exponential(8)
    for cycle, turns in ((True, [0, 0, 1, 2, 2, 2, 0, 0, 1]), (False, [0, 0, 1, 2, 2, 2, 2, 2, 2])):
        scenario = networks.time_varying(period, dwell_rounds=(2, 1, 3), cycle=cycle)
        for now, turn in zip(play(scenario, period[0], 9), turns, strict=True):
            np.testing.assert_array_equal(now.senders, period[turn].senders)
    held = play(networks.time_varying(period, cycle=False), period[0], 5)
    np.testing.assert_array_equal(held[4].senders, period[2].senders)


def dense_period(period, dwell) -> np.ndarray:
    product = np.eye(period[0].num_nodes)
    for network, rounds in zip(period, dwell, strict=True):
        for _ in range(rounds):
            product = networks.mixing_matrix(network).toarray() @ product
    return product


def test_the_gap_of_a_period_is_that_of_the_product() -> None:
    num = 12
    parts = [networks.ring(num), networks.random_regular(num, 3, seed=1), networks.exponential(num)]
    for dwell in (None, (2, 1, 3)):
        rounds = (1, 1, 1) if dwell is None else dwell
        norm = np.linalg.svd(dense_period(parts, rounds) - 1 / num, compute_uv=False)[0]
        expected = 1 - norm ** (1 / sum(rounds))
        assert networks.period_gap(parts, dwell) == pytest.approx(expected, rel=1e-4)
    alone = networks.period_gap([networks.torus(16)] * 3)
    assert alone == pytest.approx(networks.spectral_gap(networks.torus(16)), rel=1e-5)
    # A run from the direction that is slowest to go falls by rho^T in a period.
    direction = np.linalg.svd(dense_period(parts, (1, 1, 1)) - 1 / num)[2][0].astype(np.float32)[:, None]
    run = dlsim.simulate(
        dlsim.average(direction, parts[0], None, networks.time_varying(parts)),
        seed=0,
        num_steps=3,
        record=dlsim.Record(every=3),
    )
    left = np.sqrt(run.results.distance.values[1] / run.results.distance.values[0]) ** (1 / 3)
    assert 1 - left == pytest.approx(networks.period_gap(parts), rel=1e-3)


def test_periods_that_reach_the_mean_and_halves_that_never_meet() -> None:
    assert networks.period_gap(networks.one_peer_exponential(16)) == 1
    assert 0.2 < networks.period_gap(networks.one_peer_exponential(12)) < 1
    assert networks.period_gap(networks.base_graph(13, 2)) == 1
    apart = networks.connect(networks.graph(6, [0, 1, 3, 4], [1, 2, 4, 5]))
    assert networks.period_gap([apart, apart]) == pytest.approx(0, abs=1e-12)
    assert networks.period_gap([apart, networks.ring(6)]) > 0


def test_large_periods_are_sparse(monkeypatch) -> None:
    parts = [networks.random_regular(40, 3, seed=s) for s in range(2)]
    dense = networks.period_gap(parts, (1, 2))
    monkeypatch.setattr(networks.graphs.periods, "DENSE_NODES", 10)
    assert networks.period_gap(parts, (1, 2)) == pytest.approx(dense, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: networks.outages([0.5], 1), r"outages: node_ids must be integers >= 0"),
        (lambda: networks.outages([-1], 1), r"outages: node_ids must be integers >= 0"),
        (lambda: networks.outages([1, 2], [1, 2, 3]), r"outages: start must be a number of rounds, or one for each of"),
        (lambda: networks.outages([1], "now"), r"outages: start must be a number of rounds"),
        (lambda: networks.outages([1], None), r"outages: start must be a number of rounds"),
        (lambda: networks.outages([1], np.nan), r"outages: start must be a number of rounds"),
        (
            lambda: networks.outages([1, 2], [1, 5], [2, 3]),
            r"end must be no earlier than start, got 3 after 5 in row 1",
        ),
        (lambda: play(networks.outages([8], 1), networks.ring(8), 1), r"below the number of nodes, 8, got 8"),
        (
            lambda: networks.time_varying([networks.ring(4)], dwell_rounds=[1, 2]),
            r"time_varying: dwell_rounds must be 1 integers >= 1",
        ),
        (lambda: networks.time_varying([networks.ring(4)], dwell_rounds=[0]), r"dwell_rounds\[0\] must be an integer"),
        (lambda: networks.time_varying([networks.ring(4)], cycle="no"), r"cycle must be True or False"),
        (lambda: networks.period_gap([]), "period_gap: networks must be one or more Networks, got none"),
        (lambda: networks.period_gap([networks.ring(4), networks.ring(5)]), "of one size, got 4 and 5 nodes"),
        (
            lambda: networks.period_gap(
                [networks.star(5), networks.connect(networks.graph(5, [0, 1], [1, 2]), "row_stochastic")]
            ),
            "must be doubly stochastic, or the mean does not stay",
        ),
    ],
)
def test_bad_turns_and_outages(call, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        call()
