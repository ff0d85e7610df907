"""Nodes that move: their walks, the links that follow them, traces, and batteries that run empty."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import keys, networks
from dlsim.networks.scenes.mobility import geometric
from dlsim.running import status

KEY = jax.random.key(7)
WATTS = networks.Watts(compute=2.0, upload=0.0, waiting=0.5)


def positions(scenario: dlsim.Scenario, base: networks.Network, num_rounds: int):
    """Where nodes are, their degrees and what the status says, round by round."""

    def one(state, t):
        state, now = scenario.step(jax.random.fold_in(KEY, t), state, base)
        return state, (now.positions, now.in_degrees, now.status)

    run = jax.jit(lambda: jax.lax.scan(one, scenario.init(KEY, base), jnp.arange(num_rounds))[1])
    return [np.asarray(part) for part in run()]


def stepped(scenario: dlsim.Scenario, base: networks.Network, key: jax.Array = KEY):
    """The first state, and what a round makes of it."""
    state = scenario.init(KEY, base)
    return state, jax.jit(lambda: scenario.step(key, state, base))()


def linked(places: jax.Array, radius: float, max_degree: int) -> networks.Network:
    base = networks.ring(len(places))
    return jax.jit(lambda: geometric("test", base, places, radius, max_degree))()


# The walk.


def test_nodes_walk_at_their_speed_and_stay_in_the_square() -> None:
    steady = networks.random_waypoint(0.2, 10, speed=(0.03, 0.03))
    places, _, _ = positions(steady, networks.ring(50), 200)
    apart = np.linalg.norm(np.diff(places, axis=0), axis=2)
    assert apart.max() <= 0.03 * (1 + 1e-4)
    assert np.isclose(apart, 0.03, rtol=1e-3).mean() > 0.9  # the others turned on their way
    assert places.min() >= 0 and places.max() < 1
    # The walk's law is denser in the middle (E|x - 1/2| of an even spread is 1/4).
    assert np.abs(places[100:] - 0.5).mean() < 0.22


def test_a_walk_is_the_same_whatever_a_round_is() -> None:
    """Against a walk in plain Python, leg by leg, from the draws of one round that is long enough for many."""
    scenario = networks.random_waypoint(0.2, 3, speed=(0.5, 2.0), pause=(0.1, 0.4))
    base = networks.ring(4)
    key = jax.random.fold_in(KEY, 1)
    state, (after, _) = stepped(scenario, base, key)
    draws = [
        np.asarray(keys.node_uniform(keys.fold_in(keys.stream(key, "leg"), turn), base.node_ids, 4))
        for turn in range(1, 40)
    ]
    for node in range(4):
        place, target = np.asarray(state.positions)[node], np.asarray(state.target)[node]
        speed, pause, left, turn = float(state.speed[node]), 0.0, 1.0, 0
        while left > 0:
            stands = min(left, pause)
            left, pause = left - stands, pause - stands
            needed = np.linalg.norm(target - place) / speed
            if left > 0 and needed <= left:
                x, y, s, p = draws[turn][node]
                left, place, target = left - needed, target, np.array([x, y])
                speed, pause = 0.5 + 1.5 * s, 0.1 + 0.3 * p
            else:
                place, left = place + (target - place) * left / needed if left > 0 else place, 0.0
            turn += 1
        np.testing.assert_allclose(after.positions[node], place, atol=1e-5)
        np.testing.assert_allclose(after.pause[node], pause, atol=1e-5)


# The links.


def test_links_are_those_of_a_random_geometric_network() -> None:
    fixed = networks.random_geometric(60, 0.25, seed=3)
    moving = networks.random_waypoint(0.25, 40)
    _, (_, now) = stepped(moving, fixed)
    x = jax.random.normal(KEY, (60, 3))
    for verb in ("mix", "gather"):
        (mine, after), (theirs, counted) = (getattr(network, verb)(KEY, x) for network in (now, fixed))
        np.testing.assert_array_equal(after.state.traffic.bits.low, counted.state.traffic.bits.low)
        if verb == "mix":
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
        else:
            heard = [np.sort(np.where(i.mask, i.senders, 99))[:, :5] for i in (mine, theirs)]
            np.testing.assert_array_equal(*heard)
    assert not np.asarray(now.status).any()
    np.testing.assert_allclose(now.edge_weights.sum() + now.self_weights.sum(), 60, rtol=1e-6)
    # One who is away: the weight over the missing link stays.
    away = now.replace(is_present=jnp.arange(60) != 5)
    gone, _ = away.mix(KEY, x)
    np.testing.assert_allclose(gone, fixed.replace(is_present=jnp.arange(60) != 5).mix(KEY, x)[0], atol=1e-6)


def test_blocks_find_the_same_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    places = jax.random.uniform(KEY, (30, 2))
    whole = linked(places, 0.3, 6)
    monkeypatch.setattr("dlsim.networks.scenes.mobility.ALL_PAIRS", 100)
    parts = linked(places, 0.3, 6)
    np.testing.assert_array_equal(whole.neighbors, parts.neighbors)
    np.testing.assert_array_equal(whole.status, parts.status)


def test_too_many_neighbours_are_said_and_links_stay_mutual() -> None:
    places = jax.random.uniform(KEY, (40, 2))
    now = linked(places, 0.4, 5)
    apart = np.linalg.norm(np.asarray(places)[:, None] - np.asarray(places), axis=2) + 9 * np.eye(40)
    in_reach = (apart <= 0.4).sum(axis=1)
    flagged = (np.asarray(now.status) & status.BUFFER_OVERFLOW) > 0
    np.testing.assert_array_equal(flagged, in_reach > 5)
    nearest = np.argsort(apart, axis=1)[:, :5]
    wanted = np.zeros((40, 40), bool)
    wanted[np.arange(40)[:, None], nearest] = True
    wanted &= wanted.T & (apart <= 0.4)
    found = np.zeros((40, 40), bool)
    found[now.receivers[now.is_edge], now.senders[now.is_edge]] = True
    np.testing.assert_array_equal(found, wanted)
    process = dlsim.average(np.zeros((40, 1)), networks.ring(40), None, networks.random_waypoint(0.4, 5))
    run = dlsim.simulate(process, seed=0, num_steps=2)
    assert not run.status.ok and run.status.first(status.BUFFER_OVERFLOW)[0] == 0


def test_parts_come_apart_and_meet_again() -> None:
    """Sparse moving nodes average to the mean of all, which no round's network could do."""
    values = np.arange(30.0, dtype=np.float32)[:, None]
    moving = networks.random_waypoint(0.15, 29, speed=(0.1, 0.2))
    run = dlsim.simulate(
        dlsim.average(values, networks.ring(30), None, moving), seed=0, num_steps=400, record=dlsim.Record(every=100)
    )
    distance = run.results.distance.values.ravel()
    assert distance[-1] < 1e-3 * distance[0]
    assert run.status.first(status.ISOLATED_NODE) is not None and run.status.ok
    frozen = networks.random_waypoint(0.15, 29, speed=(1e-6, 1e-6))
    still = dlsim.simulate(
        dlsim.average(values, networks.ring(30), None, frozen), seed=0, num_steps=400, record=dlsim.Record(every=100)
    )
    assert still.results.distance.values.ravel()[-1] > 0.05 * distance[0]


def test_radius_and_speed_are_data() -> None:
    values, traces = np.arange(12.0, dtype=np.float32)[:, None], []

    @jax.jit
    def spread(radius, speed):
        traces.append(1)
        moving = networks.random_waypoint(radius, 11, speed=(speed, 2 * speed))
        process = dlsim.average(values, networks.ring(12), None, moving)
        state = process.init(KEY)
        state = jax.lax.fori_loop(0, 20, lambda t, s: process.step(jax.random.fold_in(KEY, t), s)[0], state)
        return jnp.var(state.algorithm.params)

    found = [float(spread(radius, speed)) for radius, speed in ((0.1, 0.01), (0.3, 0.01), (0.3, 0.2))]
    assert len(traces) == 1 and found[0] > found[1] > found[2]


# Traces.


def written(path: pathlib.Path, rows: list[tuple[object, ...]], head: str = "client_id,Timestamp,x,y") -> pathlib.Path:
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_a_trace_is_followed_between_its_samples(tmp_path: pathlib.Path) -> None:
    rows = [(name, t, -1 + t, 2 * t if name == "b" else 0) for name in "ab" for t in (0, 1, 2, 3)]
    file = written(tmp_path / "walk.csv", rows)
    arrays = (
        np.arange(4.0),
        np.stack([np.c_[np.arange(4) - 1, 0 * np.arange(4)], np.c_[np.arange(4) - 1, 2 * np.arange(4)]], 1),
    )
    for trace in (file, arrays):
        scenario = networks.position_trace(trace, 1.5, 1, seconds_per_round=0.5)
        places, degrees, found = positions(scenario, networks.path(2), 9)
        time = np.minimum(0.5 * np.arange(9), 3)
        np.testing.assert_allclose(places[:, 0], np.c_[time - 1, 0 * time], atol=1e-6)
        np.testing.assert_allclose(places[:, 1], np.c_[time - 1, 2 * time], atol=1e-6)
        near = 2 * time <= 1.5
        np.testing.assert_array_equal(degrees, np.c_[near, near])
        np.testing.assert_array_equal(found[:, 0] == status.ISOLATED_NODE, ~near)
        assert "connected" in scenario.properties
    drawn = networks.position_trace(arrays, 1.5, 1, seed=1)
    assert np.isfinite(positions(drawn, networks.path(2), 2)[0]).all()


def test_devices_may_have_samples_of_their_own(tmp_path: pathlib.Path) -> None:
    rows = [
        ("a", 0, 0, 0),
        ("a", 4, 4, 0),
        ("b", 0, 0, 1),
        ("b", 1, 1, 1),
        ("b", 2, 0, 1),
        ("b", 3, 0, 1),
        ("b", 4, 8, 1),
    ]
    scenario = networks.position_trace(written(tmp_path / "walk.csv", rows), 1.0, 1, largest_gap=4.0)
    places, _, _ = positions(scenario, networks.path(2), 6)
    np.testing.assert_allclose(places[:, 0, 0], [0, 1, 2, 3, 4, 4], atol=1e-6)
    np.testing.assert_allclose(places[:, 1, 0], [0, 1, 0, 0, 8, 8], atol=1e-6)


def test_traces_that_never_meet_are_refused_where_connection_is_needed() -> None:
    apart = (np.arange(3.0), np.array([[[0, 0], [5, 5], [0, 1]]] * 3, float))
    scenario = networks.position_trace(apart, 1.0, 2)
    assert "connected" not in scenario.properties
    problem = dlsim.problems.quadratic(3, 2)
    with pytest.raises(ValueError, match="learn: network must be connected for this algorithm"):
        dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.1)), networks.ring(3), scenario)
    dlsim.learn(problem, dlsim.algorithms.isolated_training(problem, optax.sgd(0.1)), networks.ring(3), scenario)
    # Nobody meets all at once, but over time everyone is met.
    carrier = (
        np.arange(3.0),
        np.array([[[0, 0], [9, 9], [0, 1]], [[0, 0], [9, 9], [5, 5]], [[0, 0], [9, 9], [9, 8]]], float),
    )
    assert "connected" in networks.position_trace(carrier, 1.0, 2).properties


GOOD = [(name, t, t, 0) for name in "ab" for t in range(4)]


@pytest.mark.parametrize(
    ("rows", "head", "text"),
    [
        (
            [row for row in GOOD if row[:2] != ("b", 1)] + [("b", 9, 0, 0)],
            None,
            r"without gaps \(more than 4 s.*got 6 s before line 9",
        ),
        ([*GOOD[:4], ("b", 3, 0, 0)], None, r"without gaps.*a device that begins 3 s apart"),
        ([*GOOD[:4], ("b", 0, 0, 0)], None, r"without gaps.*a device that ends 3 s apart"),
        ([*GOOD[:3], ("a", 1, 0, 0)], None, "in the order of time, got an earlier one in line 5"),
        ([*GOOD[:3], ("a", 3, "", 0)], None, "without gaps, got an empty cell in line 5, column 'x'"),
        ([*GOOD[:3], ("a", 3, "far", 0)], None, "finite numbers in x, got 'far' in line 5"),
        (GOOD, "client_id,Timestamp,x,z", "unknown column 'z'"),
    ],
)
def test_traces_with_gaps(tmp_path: pathlib.Path, rows: list, head: str | None, text: str) -> None:
    file = written(tmp_path / "bad.csv", rows, head or "client_id,Timestamp,x,y")
    with pytest.raises(ValueError, match=f"position_trace: .*{text}"):
        networks.position_trace(file, 1.0, 2)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: networks.random_waypoint(0.0, 3), r"radius must be a number in \(0, inf\)"),
        (lambda: networks.random_waypoint(0.1, 0), "max_degree must be an integer"),
        (lambda: networks.random_waypoint(0.1, 3, speed=(0.0, 1.0)), r"speed must be a number in \(0, inf\)"),
        (lambda: networks.random_waypoint(0.1, 3, speed=(0.2, 0.1)), r"speed must be \(least, most\) in this order"),
        (lambda: networks.random_waypoint(0.1, 3, pause=(1.0,)), r"pause must be \(least, most\)"),
        (lambda: networks.position_trace((np.arange(3.0),), 1.0, 2), "trace must be a path"),
        (lambda: networks.position_trace((np.zeros(3), np.zeros((3, 2, 2))), 1.0, 2), "one or more times that grow"),
        (
            lambda: networks.position_trace((np.array([0.0, 1, 2, 9]), np.zeros((4, 2, 2))), 1.0, 2),
            r"trace\[0\] must be without gaps \(more than 2 s between samples\), got 7 s",
        ),
        (
            lambda: networks.position_trace((np.arange(3.0), np.full((3, 2, 2), np.nan)), 1.0, 2),
            r"trace\[1\]\[0, 0, 0\]",
        ),
        (
            lambda: positions(
                networks.position_trace((np.arange(3.0), np.zeros((3, 2, 2))), 1.0, 2), networks.ring(4), 1
            ),
            "num_nodes must be at most the file's 2 devices, got 4",
        ),
        (
            lambda: positions(
                networks.chain(networks.link_failure(0.1), networks.random_waypoint(0.1, 2)), networks.ring(4), 1
            ),
            "random_waypoint: place must be before scenarios that take links away",
        ),
    ],
)
def test_bad_walks(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


# Batteries.


def drained(scenario: dlsim.Scenario, num_steps: int, compute=1.0, watts: networks.Watts = WATTS, others=None):
    """Four nodes that compute for `compute` seconds a round; charges, who is there, joules and seconds."""
    problem = dlsim.problems.quadratic(4, 2)
    base = networks.ring(4).with_links(networks.links(4, upload=1e9, download=1e9, compute=compute, watts=watts))
    scenario = scenario if others is None else networks.chain(others, scenario)
    process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.1)), base, scenario)

    def record(state, info):
        mine = state.scenario if others is None else state.scenario[1]
        measured = process.measure(state, info)
        names = ("joules", "simulated_seconds", "num_present")
        return {"charge": mine.charge, "awake": mine.is_awake, **{name: measured[name] for name in names}}

    return dlsim.simulate(process, seed=0, num_steps=num_steps, record=dlsim.Record(every=1, fn=record))


def test_an_empty_node_is_away_for_good() -> None:
    """One second of computing at 2 W a round: 5 J last for three rounds, the third of them on the last joule."""
    run = drained(networks.batteries(np.array([5.0, 100.0, 100.0, 100.0])), 6)
    np.testing.assert_allclose(run.results.charge.values[1:, 0], [5, 3, 1, 0, 0, 0], atol=1e-4)
    np.testing.assert_array_equal(run.results.awake.values[1:, 0], [1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(run.results.joules.values[:, 0], [0, 2, 4, 6, 6, 6, 6], atol=1e-4)
    np.testing.assert_allclose(run.results.charge.values[1:, 1], 100 - 2 * np.arange(6), atol=1e-3)
    np.testing.assert_array_equal(run.results.num_present.values[1:], [4, 4, 4, 3, 3, 3])


def test_charging_brings_nodes_back_at_their_share() -> None:
    """A round is 1 s: awake a node loses 2 - 0.5 J, asleep it gains 0.5 J, and it wakes at a quarter of 4 J."""
    run = drained(networks.batteries(4.0, recharge=np.array([0.5, 9.0, 9.0, 9.0]), wake=0.25), 12)
    charge, awake, wanted = 4.0, True, []
    for t in range(12):
        if t:
            charge = min(4.0, max(0.0, charge + 0.5 - (2.0 if awake else 0.0)))
        awake = charge > 0 if awake else charge >= 1.0
        wanted.append((charge, awake))
    np.testing.assert_allclose(run.results.charge.values[1:, 0], [c for c, _ in wanted], atol=1e-4)
    np.testing.assert_array_equal(run.results.awake.values[1:, 0], [a for _, a in wanted])
    assert 0 < sum(a for _, a in wanted) < 12
    assert (run.results.charge.values[1:, 1:] == 4).all()


def test_where_nobody_is_awake_time_goes_on_to_the_first() -> None:
    run = drained(networks.batteries(2.0, recharge=np.array([0.1, 0.2, 0.0, 0.0]), wake=0.5), 4)
    # Round 1 empties all but for what they gain in its second; in the next two the first two run empty.
    assert run.status.ok
    awake = run.results.awake.values[1:]
    assert awake.any(axis=1).all() and not awake[-1, 2:].any()
    seconds = run.results.simulated_seconds.values
    assert seconds[-1] > 4
    dead = drained(networks.batteries(2.0), 4)
    np.testing.assert_array_equal(dead.results.num_present.values[1:], [4, 0, 0, 0])
    np.testing.assert_allclose(dead.results.simulated_seconds.values, [0, 1, 1, 1, 1], atol=1e-4)
    assert dead.status.first(status.NOBODY_PRESENT)[0] == 1


def test_who_waits_pays_for_it_and_who_is_away_does_not() -> None:
    compute = np.array([1.0, 4.0, 1.0, 1.0])
    run = drained(networks.batteries(1000.0), 3, compute, others=networks.outages([2], 1))
    spent = 1000 - run.results.charge.values[1:]
    np.testing.assert_allclose(spent[:, 0], [0, 2 + 1.5, 7], atol=1e-2)
    np.testing.assert_allclose(spent[:, 1], [0, 8, 16], atol=1e-2)
    np.testing.assert_allclose(spent[:, 2], [0, 3.5, 3.5], atol=1e-2)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: networks.batteries(0.0), r"capacity must be a number in \(0, inf\)"),
        (lambda: networks.batteries(1.0, wake=0.0), "wake must be a number in"),
        (lambda: networks.batteries(1.0, charge=2.0), "charge must be at most the capacity"),
        (lambda: networks.batteries(1.0, recharge=[-1.0]), r"recharge\[0\] must be"),
        (lambda: drained(networks.batteries([1.0, 2.0]), 1), r"numbers, or \[4\], one a node, got 2 of them"),
        (lambda: networks.batteries(1.0).init(KEY, networks.ring(4)), "batteries: network must be one with links"),
        (
            lambda: networks.batteries(1.0).init(KEY, networks.ring(4).with_links(networks.links(4))),
            "batteries: network must be one whose links have watts",
        ),
    ],
)
def test_bad_batteries(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
