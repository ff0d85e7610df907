"""Messages under way: against loops over single messages, against closed forms, and against what has no delays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import keys, networks
from dlsim.networks.edge_messages import send_edges
from dlsim.networks.flight.delays import Transmissions, draw, message_seconds
from dlsim.networks.flight.in_flight import staleness
from dlsim.networks.messages import open_channels
from dlsim.running.counters import to_float
from dlsim.running.programs import compile_process

KEY = jax.random.key(3)
NUM, ROUNDS, LONGEST = 7, 12, 3
EDGES = [(0, 1), (1, 2), (1, 3), (3, 4), (2, 3), (4, 5), (5, 6), (6, 0)]


def network() -> networks.Network:
    return networks.connect(networks.graph(NUM, *np.array(EDGES).T))


def start(width: int = 3) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(NUM, width)), jnp.float32)


def table(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, LONGEST + 1, (ROUNDS, 2 * len(EDGES)))


def arrivals(probability: float) -> np.ndarray:
    """Which messages `networks.loss` lets through in `played`, `[T, E]`."""
    net = network()

    def one(t: Any) -> Any:
        key = keys.stream(jax.random.fold_in(KEY, t), "mix")
        return keys.edge_uniform(key, net.senders, net.receivers) >= probability

    return np.asarray(jax.vmap(one)(jnp.arange(ROUNDS)))


def loop(
    hear: str, rounds: np.ndarray, present: np.ndarray, delivered: np.ndarray, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """The models after all rounds, message by message, and how many were heard at each age."""
    net = network()
    senders, receivers = np.asarray(net.senders), np.asarray(net.receivers)
    weights, own = np.asarray(net.edge_weights, float), np.asarray(net.self_weights, float)
    x, under_way, ages = np.asarray(start(), float), [], np.zeros(longest + 1)
    for t in range(len(rounds)):
        new = x.copy()
        share = np.ones(NUM) if hear == "newest" else own.copy()
        for e, (j, i) in enumerate(zip(senders, receivers, strict=True)):
            if present[t, j] and present[t, i] and delivered[t, e]:
                under_way.append({"s": t, "e": e, "due": t + rounds[t, e], "x": x[j], "missed": False})
            elif hear == "all":
                share[i] += weights[e]
        for one in under_way:
            if one["due"] == t and not present[t, receivers[one["e"]]]:
                one["missed"] = True
        heard = np.zeros((NUM, x.shape[1]))
        for e, i in enumerate(receivers):
            there = [
                m for m in under_way if m["e"] == e and not m["missed"] and m["due"] <= t and t - m["s"] <= longest
            ]
            if hear == "all":
                there = [m for m in there if m["due"] == t]
            elif there:
                there = [max(there, key=lambda m: m["s"])]
            if not present[t, i]:
                continue
            for one in there:
                heard[i] += weights[e] * one["x"]
                share[i] -= weights[e] * (hear == "newest")
                ages[t - one["s"]] += 1
        new = np.where(present[t][:, None], share[:, None] * x + heard, x)
        x = new
    return x, ages


def played(
    net: networks.Network, hear: str = "newest", present: np.ndarray | None = None, x: Any = None, rounds: int = ROUNDS
) -> tuple[jax.Array, Any]:
    """Models after each of some rounds of `mix` `[T, N, D]`, and the network's state after them, as one program."""
    x = start() if x is None else x
    opened = open_channels(net, lambda probed: probed.mix(KEY, x, hear=hear)[1])

    def one(carry: Any, row: Any) -> Any:
        x, state = carry
        t, there = row
        new, after = net.with_state(state).replace(is_present=there).mix(jax.random.fold_in(KEY, t), x, hear=hear)
        x = new if there is None else jnp.where(there[:, None], new, x)
        return (x, after.state), x

    if present is not None:
        opened = open_channels(
            net, lambda probed: probed.replace(is_present=jnp.asarray(present[0])).mix(KEY, x, hear=hear)[1]
        )
    rows = (jnp.arange(rounds), None if present is None else jnp.asarray(present))
    (_, state), xs = jax.jit(lambda carry, rows: jax.lax.scan(one, carry, rows))((x, opened.state), rows)
    return np.asarray(xs), state


CASES = [
    ("one", "lost"),
    ("one", "absent"),
    ("links", "none"),
    ("links", "absent"),
    ("table", "none"),
    ("table", "lost and absent"),
]


@pytest.mark.parametrize("hear", ["newest", "all"])
@pytest.mark.parametrize(("kind", "trouble"), CASES)
def test_what_is_heard_is_what_a_loop_over_messages_says(hear: str, kind: str, trouble: str) -> None:
    rounds = {"one": np.full_like(table(), 2), "links": np.broadcast_to(table()[0], table().shape), "table": table()}[
        kind
    ]
    rng = np.random.default_rng(5)
    delivered = arrivals(0.4) if "lost" in trouble else np.ones(rounds.shape, bool)
    present = rng.random((ROUNDS, NUM)) < (0.7 if "absent" in trouble else 2.0)
    want, ages = loop(hear, rounds, present, delivered, LONGEST)
    delays = {
        "one": lambda: networks.fixed_delay(2, max_rounds=LONGEST),
        "links": lambda: networks.fixed_delay(rounds[0], per="link", max_rounds=LONGEST),
        "table": lambda: networks.trace_delay(rounds, per="link"),
    }[kind]()
    net = network().with_delays(delays)
    if "lost" in trouble:
        net = net.with_channel(networks.loss(0.4))
    got, state = played(net, hear, present if "absent" in trouble else None)
    np.testing.assert_allclose(got[-1], want, atol=2e-6)
    met = to_float(staleness(state.in_flight))
    np.testing.assert_array_equal(met[: LONGEST + 1], ages)
    assert met.sum() == ages.sum() > 0


@pytest.mark.parametrize("hear", ["newest", "all"])
def test_every_lowering_hears_the_same(hear: str) -> None:
    for delays in (networks.fixed_delay(2), networks.trace_delay(table(), per="link")):
        nets = [network().with_lowering(lowering) for lowering in ("neighbors", "edges", "dense")]
        first, *others = (played(net.with_delays(delays), hear)[0] for net in nets)
        for other in others:
            np.testing.assert_allclose(first, other, atol=1e-6)


@pytest.mark.parametrize("hear", ["newest", "all"])
def test_a_grid_and_a_complete_graph_hear_what_their_list_of_edges_hears(hear: str) -> None:
    late, x = networks.fixed_delay(1), jnp.arange(12.0).reshape(6, 2)
    for first, other in (
        (networks.ring(6), networks.ring(6)),
        (networks.network.complete_network(6), networks.complete(6)),
    ):
        a, _ = played(first.with_delays(late), hear, x=x, rounds=4)
        b, _ = played(other.with_lowering("edges").with_delays(late), hear, x=x, rounds=4)
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_averaging_with_a_fixed_delay_is_the_companion_system() -> None:
    delay = 2
    weights = networks.mixing_matrix(networks.ring(5)).toarray()
    own, heard = np.diag(np.diag(weights)), weights - np.diag(np.diag(weights))
    size = delay + 1
    block = np.zeros((5 * size, 5 * size))
    block[:5, :5], block[:5, 5 * delay :] = own, heard
    block[5:, : 5 * delay] = np.eye(5 * delay)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(5, 2)), jnp.float32)
    got, _ = played(networks.ring(5).with_delays(networks.fixed_delay(delay)), x=x, rounds=25)
    for t in range(delay):  # nobody has heard anything: everyone stays where it is
        np.testing.assert_array_equal(got[t], x)
    state = np.concatenate([np.asarray(x, float)] * size)
    for t in range(delay, 25):
        state = block @ state
        np.testing.assert_allclose(got[t], state[:5], atol=2e-6)


@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
def test_dsgd_with_a_fixed_delay_is_the_companion_system_on_a_quadratic(order: str) -> None:
    delay, rate, num = 2, 0.2, 6
    problem = dlsim.problems.quadratic(num, 3, heterogeneity=1.0, gradient_noise=0.0, condition_number=3.0)
    plain = networks.ring(num)
    process = dlsim.learn(
        problem,
        dlsim.algorithms.dsgd(problem, optax.sgd(rate), order=order),
        plain.with_delays(networks.fixed_delay(delay)),
    )
    weights = networks.mixing_matrix(plain).toarray()
    own, heard = np.diag(np.diag(weights)), weights - np.diag(np.diag(weights))
    # Gradients of a quadratic are affine: node by node, from differences.
    ids = plain.node_ids
    zero = jnp.zeros((num, 3))
    offset = np.asarray(problem.full_gradient(KEY, zero, ids)[0], float)
    slopes = np.stack(
        [np.asarray(problem.full_gradient(KEY, zero + jnp.eye(3)[k], ids)[0], float) - offset for k in range(3)], axis=2
    )
    big = np.zeros((num * 3, num * 3))
    for i in range(num):
        big[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] = slopes[i]
    descend = np.eye(num * 3) - rate * big
    c = -rate * offset.ravel()
    keep, hear = np.kron(own, np.eye(3)), np.kron(heard, np.eye(3))
    state = process.init(jax.random.key(0))
    step = jax.jit(process.step)
    said = []
    x = np.asarray(state.algorithm.params, float).ravel()
    for t in range(15):
        state, _ = step(jax.random.fold_in(KEY, t), state)
        adapted = descend @ x + c if order == "adapt_then_combine" else x
        said.append(adapted)
        mixed = keep @ adapted + hear @ said[t - delay] if t >= delay else adapted
        x = mixed if order == "adapt_then_combine" else mixed + c - rate * big @ x
        np.testing.assert_allclose(np.asarray(state.algorithm.params).ravel(), x, atol=5e-5)


def test_delays_of_zero_are_the_very_program_without_them() -> None:
    assert networks.ring(5).with_delays(networks.fixed_delay(0)).delays is None
    assert networks.ring(5).with_delays(networks.trace_delay([0, 0])).delays is None
    problem = dlsim.problems.quadratic(5, 3)
    texts = []
    for net in (networks.ring(5), networks.ring(5).with_delays(networks.fixed_delay(0))):
        process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.1)), net, networks.churn())
        state = jax.eval_shape(process.init, KEY)
        texts.append(str(jax.make_jaxpr(process.step)(KEY, state)))
    assert texts[0] == texts[1]
    # A buffer that all messages pass at once: the same to rounding.
    zero, _ = played(network().with_delays(networks.fixed_delay(0, max_rounds=LONGEST)))
    np.testing.assert_allclose(zero, played(network())[0], atol=1e-6)


def test_every_mass_arrives_once() -> None:
    net = network().with_delays(networks.random_delay([0.3, 0.3, 0.2, 0.2]))
    for rounds in (1, 2, ROUNDS):
        xs, state = played(net, "all", rounds=rounds)
        flight = state.in_flight["mix"]
        pending = np.asarray(flight.arrives) > int(flight.round)
        weights = np.asarray(net.edge_weights)[:, None] * pending
        under_way = np.einsum("es,esd->d", weights, np.asarray(flight.values)[np.asarray(net.senders)])
        np.testing.assert_allclose(xs[-1].sum(0) + under_way, np.asarray(start()).sum(0), atol=1e-5)


def test_messages_that_arrive_together_all_count_once_and_with_the_weights_they_left_with() -> None:
    """Against a queue a link: random delays, weights that change from round to round."""
    late, x, rng = networks.random_delay([0.3, 0.2, 0.2, 0.3]), start(), np.random.default_rng(6)
    net, num_edges = network().with_delays(late), 2 * len(EDGES)
    weights, own = rng.random((ROUNDS, num_edges)) / 4, rng.random((ROUNDS, NUM))
    made = tuple(jnp.asarray(table, jnp.float32) for table in (weights, own))
    sent = Transmissions(jnp.zeros((), jnp.int32), net.node_ids, net.senders, net.receivers, None, num_edges, True)
    opened = open_channels(net, lambda probed: probed.mix(KEY, x, weights=(made[0][0], made[1][0]), hear="all")[1])

    def one(carry: Any, row: Any) -> Any:
        (x, state), (t, *now) = carry, row
        key = jax.random.fold_in(KEY, t)
        x, after = net.with_state(state).mix(key, x, weights=tuple(now), hear="all")
        return (x, after.state), draw("mix", late, keys.stream(key, "mix"), sent, None)[0]

    rows = (jnp.arange(ROUNDS), *made)
    (got, state), rounds = jax.jit(lambda carry, rows: jax.lax.scan(one, carry, rows))((x, opened.state), rows)
    senders, receivers = np.asarray(net.senders), np.asarray(net.receivers)
    queues: list[list[Any]] = [[] for _ in range(num_edges)]
    want, ages, together = np.asarray(x, float), np.zeros(4), 0
    for t in range(ROUNDS):
        new = own[t][:, None] * want
        for e in range(num_edges):
            queues[e].append((t + int(rounds[t, e]), t, weights[t, e] * want[senders[e]]))
            there, queues[e] = ([m for m in queues[e] if (m[0] == t) is now] for now in (True, False))
            together += len(there) > 1
            for _, since, share in there:
                new[receivers[e]] += share
                ages[t - since] += 1
        want = new
    assert together > 10
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_array_equal(to_float(staleness(state.in_flight))[:4], ages)
    flight = state.in_flight["mix"]
    assert int((flight.arrives > flight.round).sum()) == sum(map(len, queues)) > 0
    kept = [leaf.shape for leaf in (flight.values, flight.arrives, flight.weights)]  # state: in the estimate of memory
    assert kept == [(NUM, 4, 3), (num_edges, 4), (num_edges, 4)]
    sent_each = ROUNDS * np.bincount(senders, minlength=NUM)
    np.testing.assert_array_equal(to_float(state.traffic.messages), sent_each)
    np.testing.assert_array_equal(to_float(state.traffic.bits), sent_each * 3 * 32)


def test_gather_hears_what_mix_hears() -> None:
    for delays in (networks.trace_delay(table(), per="link"), networks.fixed_delay(1)):
        net = network().with_delays(delays)
        x = start()
        want, _ = played(net, rounds=4)

        @jax.jit
        def one(x: Any, state: Any, net: Any = net) -> Any:
            inbox, after = net.with_state(state).gather(KEY, x)
            return x + (inbox.weights[..., None] * (inbox.values - x[:, None])).sum(1), after.state

        state = open_channels(net, lambda probed: probed.gather(KEY, start())[1]).state
        for t in range(4):
            x, state = one(x, state)
            np.testing.assert_allclose(x, want[t], atol=1e-6)


def test_the_server_gets_reports_late_and_once() -> None:
    net = network().with_delays(networks.trace_delay([1, 0, 2], max_rounds=2))  # due in 1, 1, 4, 4, 4, 7
    found = []
    for t in range(6):
        arrival, net = net.uplink(KEY, jnp.full((NUM, 1), float(t)))
        found.append(float(arrival.values[0, 0]) if bool(arrival.mask.all()) else None)
        assert bool(arrival.mask.all()) or not bool(arrival.mask.any())
    assert found == [None, 1, None, None, 4, None]
    assert to_float(net.state.traffic.messages).tolist() == [6] * NUM


def test_nodes_have_the_newest_model_that_came_down() -> None:
    per_node = np.arange(NUM) % 3
    net = network().with_delays(networks.fixed_delay(per_node, per="node"))
    for t in range(4):
        arrival, net = net.downlink(KEY, jnp.full((2,), float(t)))
        np.testing.assert_array_equal(arrival.mask, t >= per_node)
        there = np.asarray(arrival.mask)
        np.testing.assert_array_equal(np.asarray(arrival.values)[there, 0], (t - per_node)[there])
    asked = net.replace(cohort=jnp.array([6, 2]))
    arrival, _ = asked.downlink(KEY, jnp.full((2,), 4.0))
    np.testing.assert_array_equal(arrival.values[:, 0], 4 - per_node[[6, 2]])


def test_swaps_and_messages_of_edges_are_late() -> None:
    net = network().with_delays(networks.fixed_delay(1))
    partners = [jnp.array([1, 0, 3, 2, 4, 6, 5]), jnp.array([0, 2, 1, 4, 3, 5, 6])]
    said = [jnp.arange(NUM) + 10.0 * t for t in range(3)]
    arrival, net = net.exchange(KEY, said[0], partners[0])
    assert not bool(arrival.mask.any())
    np.testing.assert_array_equal(arrival.values, said[0])
    arrival, net = net.exchange(KEY, said[1], partners[1])
    np.testing.assert_array_equal(arrival.mask, [1, 1, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(arrival.values[:4], said[0][partners[0]][:4])

    rounds = table()[0]
    net = network().with_delays(networks.fixed_delay(rounds, per="link"))
    for t in range(5):
        arrival, net = send_edges(net, KEY, jnp.arange(16.0) + 100 * t)
        np.testing.assert_array_equal(arrival.mask, t >= rounds)
        there = np.asarray(arrival.mask)
        np.testing.assert_array_equal(np.asarray(arrival.values)[there], (np.arange(16) + 100 * (t - rounds))[there])


def test_random_delays_have_their_law() -> None:
    num = 4000
    sent = Transmissions(jnp.zeros((), jnp.int32), jnp.arange(num), jnp.arange(num), jnp.arange(num), None, num, True)
    rounds, is_out = draw("x", networks.random_delay([0.5, 0.0, 0.3, 0.2]), KEY, sent, None)
    assert is_out is None
    np.testing.assert_allclose(np.bincount(np.asarray(rounds), minlength=4) / num, [0.5, 0, 0.3, 0.2], atol=0.03)
    rounds, _ = draw("x", networks.geometric_delay(2.0, 40), KEY, sent, None)
    assert abs(np.asarray(rounds).mean() - 2) < 0.15
    half, _ = draw("x", networks.geometric_delay(2.0, 40), KEY, sent._replace(senders=jnp.arange(num)[::-1]), None)
    assert not np.array_equal(rounds, half)


def test_delays_of_links_are_whole_rounds_and_nobody_waits() -> None:
    rates = np.array([1e3, 1e3, 1e3, 100.0, 1e3, 1e3, 1e3])
    links = networks.links(NUM, latency=0.05, upload=rates, download=1e4)
    net = network().with_links(links)
    bits = 96.0
    np.testing.assert_allclose(message_seconds(links, jnp.array([0, 3]), None, bits), [0.05 + 0.096, 0.05 + 0.96])
    # Node 3 takes 1.01 s: ceil(1.01 / 0.25) - 1 = 4 rounds; the others 0.146 s: none.
    late = net.with_delays(networks.link_delay(0.25, 4))
    x = start()
    for t in range(5):
        packet, late = late.send(KEY, x)
        heard = np.asarray(packet.heard.mask)
        np.testing.assert_array_equal(heard, (np.asarray(net.senders) != 3) | (t >= 4))
    assert float(to_float(late.state.traffic.clock)) == 0  # a round of `learn` lasts as long as it is said to
    problem = dlsim.problems.quadratic(NUM, 3)
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.1))
    for longest, status in ((4, ""), (3, "BUFFER_OVERFLOW")):
        process = dlsim.learn(problem, algorithm, net.with_delays(networks.link_delay(0.25, longest)))
        run = dlsim.simulate(process, seed=0, num_steps=8)
        assert float(run.results.simulated_seconds.values[-1]) == pytest.approx(2.0)
        assert 0 <= float(run.results.mean_staleness.values[-1]) < 4
        assert status in str(run.status)


def test_what_is_kept_is_in_the_estimate_of_memory() -> None:
    size = 50
    problem = dlsim.problems.quadratic(NUM, size)

    def needed(net: networks.Network) -> int:
        process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.1)), net)
        return compile_process(process, KEY, lambda state, info: {}).bytes_needed

    more = needed(network().with_delays(networks.fixed_delay(200))) - needed(network())
    assert more >= 0.99 * 201 * NUM * size * 4
