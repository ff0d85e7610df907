"""SybilWall against a loop with dictionaries, its draws, and what attack edges make of it."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import sybil_wall as oracle

from dlsim import aggregators, algorithms, networks, problems
from dlsim.aggregators.linear import aggregate
from dlsim.learning.learn import learn

KEY = jax.random.key(0)
PAIRS = np.array([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3), (1, 4)])
DIMENSION = 5


def network_of(channel=None):
    made = networks.connect(networks.graph(6, PAIRS[:, 0], PAIRS[:, 1]), "uniform_neighbor", "neighbors")
    return made if channel is None else made.with_channel(channel)


FIVE = aggregators.sybil_wall(num_records=5)


@functools.cache
def step_of(rule):
    return jax.jit(lambda key, state, x, network: aggregate(network, key, rule, state, x))


def rounds(rule, network, num, seed=0):
    """(state before, models sent, state after, result) of each round, of fresh models every time."""
    rng = np.random.default_rng(seed)
    state, step = rule.init(jnp.zeros((6, DIMENSION))), step_of(rule)
    common = rng.standard_normal(DIMENSION)
    for t in range(num):
        x = (common + rng.standard_normal((6, DIMENSION))).astype(np.float32)
        new, out, network = step(jax.random.fold_in(KEY, t), state, jnp.asarray(x), network)
        yield t, state, x, new, np.asarray(out), network
        state = new


def known(state, node):
    records = jax.tree.map(lambda leaf: np.asarray(leaf[node]), state.records)
    there = records.peers >= 0
    assert len(set(records.peers[there])) == there.sum()
    return {
        int(p): (int(r), int(d), int(s), v) for p, r, d, s, v in zip(*(leaf[there] for leaf in records), strict=True)
    }


def same(got, wanted):
    assert {p: one[:3] for p, one in got.items()} == {p: one[:3] for p, one in wanted.items()}
    for p in wanted:
        np.testing.assert_array_equal(got[p][3], wanted[p][3])


def test_against_a_loop():
    """Twelve rounds of six nodes: what is told is drawn and must be a record that its sender could tell; the rest follows."""
    rule, network = FIVE, network_of()
    neighbors = {i: sorted({int(b) for a, b in [*PAIRS, *PAIRS[:, ::-1]] if a == i}) for i in range(6)}
    nodes = {i: oracle.Node(i, neighbors[i]) for i in range(6)}
    for t, _, x, new, out, _ in rounds(rule, network, 12):
        before = {i: dict(node.known) for i, node in nodes.items()}
        for i, node in nodes.items():
            got = known(new, i)
            # What is new and not of this round was told by a neighbour, who had it and was free to tell it to i.
            told = {}
            for peer, (round, distance, source, model) in got.items():
                was = node.known.get(peer)
                if peer in neighbors[i] or (was is not None and was[:3] == (round, distance, source)):
                    continue
                had = before[source][peer]
                assert (had[0], had[1] + 1) == (round, distance) and had[2] != i and peer != i
                np.testing.assert_array_equal(had[3], model)
                told[source] = told.get(source, 0) + 1
                node.told(source, peer, round, distance - 1, model)
            assert all(number == 1 for number in told.values())  # one record an edge
        for i, node in nodes.items():
            models = {j: x[j] for j in neighbors[i]}
            node.heard(t, models)
            same(known(new, i), node.known)
            np.testing.assert_allclose(out[i], node.aggregate(x[i], models), atol=3e-5)
    assert all(len(node.known) == 5 for node in nodes.values())  # everybody has heard of everybody
    assert max(one[1] for node in nodes.values() for one in node.known.values()) >= 2


def test_which_record_is_told():
    """In proportion to decay exp(-decay (distance - 1)) among those that may be told."""
    from dlsim.aggregators.sybil_wall import Records, _drawn

    network, decay = network_of(), 0.8
    size = 6
    peers = jnp.tile(jnp.arange(size), (6, 1))
    distances = jnp.tile(jnp.array([1, 2, 3, 1, 2, 4]), (6, 1))
    sources = jnp.tile(jnp.array([3, 3, 2, 3, 2, 3]), (6, 1))
    records = Records(peers, jnp.zeros_like(peers), distances, sources, jnp.arange(36.0).reshape(6, 6, 1))
    many = jax.jit(jax.vmap(lambda key: _drawn(key, records, network, decay)))(jax.random.split(KEY, 4000))
    (told, _, _), values, is_one = jax.tree.map(np.asarray, many)
    for e, (sender, receiver) in enumerate(
        zip(np.asarray(network.senders), np.asarray(network.receivers), strict=True)
    ):
        node = oracle.Node(int(sender), [])
        node.known = {p: (0, int(distances[0, p]), int(sources[0, p]), None) for p in range(size)}
        odds = node.odds(int(receiver), decay)
        assert is_one[:, e].all()
        count = collections.Counter(told[:, e].tolist())
        assert set(count) <= set(odds)
        for p, odd in odds.items():
            assert abs(count[p] / 4000 - odd) < 5 * np.sqrt(odd * (1 - odd) / 4000) + 1e-9
        np.testing.assert_array_equal(values[:, e, 0], 6 * sender + told[:, e])


def test_a_full_table_gives_up_the_oldest():
    from dlsim.aggregators.sybil_wall import Records, _stored

    old = Records(*(jnp.array([leaf]) for leaf in ([7, 8, 9], [4, 2, 3], [1, 2, 1], [7, 1, 9])), jnp.arange(3.0)[None])
    new = Records(
        *(jnp.array([leaf]) for leaf in ([5, 5, 7, 6], [3, 3, 4, 1], [2, 2, 2, 2], [0, 1, 0, 1])),
        jnp.array([[10.0, 11.0, 12.0, 13.0]]),
    )
    got, places = _stored(old, new, jnp.ones((1, 4), bool))
    # 5 of round 3 takes 8's place; its copy of the same round, the 7 that is no newer and the 6 that is oldest do not.
    assert got.peers.tolist() == [[7, 5, 9]] and got.rounds.tolist() == [[4, 3, 3]]
    assert got.values.tolist() == [[0.0, 10.0, 2.0]] and places.tolist() == [[1, 3, 3, 3]]
    # Who comes and has to go again in the same turn leaves nothing.
    new = new._replace(peers=jnp.array([[1, 2, 3, 4]]), rounds=jnp.array([[5, 6, 7, 8]]))
    got, places = _stored(old, new, jnp.ones((1, 4), bool))
    assert got.peers.tolist() == [[3, 4, 2]] and got.rounds.tolist() == [[7, 8, 6]]
    assert got.values.tolist() == [[12.0, 13.0, 11.0]] and places.tolist() == [[3, 2, 0, 1]]


def test_without_room_for_more_it_is_foolsgold_that_trusts_itself():
    """A ring of three: everybody is a neighbour, so nothing is known from farther away."""
    network = networks.complete(3).with_lowering("neighbors")
    rule = aggregators.sybil_wall(num_records=2)
    x = np.random.default_rng(0).standard_normal((3, DIMENSION)).astype(np.float32) + 1
    _, out, _ = step_of(rule)(KEY, rule.init(jnp.asarray(x)), jnp.asarray(x), network)
    for i in range(3):
        others = np.delete(x, i, axis=0)
        w = oracle.scaled(oracle.compared(others))
        np.testing.assert_allclose(out[i], (x[i] + w @ others) / (1 + w.sum()), atol=1e-5)


def test_traffic_is_the_models_and_one_record_an_edge():
    spent = [(t, network.state.traffic) for t, _, _, _, _, network in rounds(FIVE, network_of(), 3)]
    messages = [int(traffic.messages.low.sum()) for _, traffic in spent]
    bits = [int(traffic.bits.low.sum()) for _, traffic in spent]
    assert messages == [16, 48, 80]  # in the first round nobody has anything to tell
    assert bits[0] == 16 * 32 * DIMENSION and bits[1] - bits[0] == 16 * 32 * (2 * DIMENSION + 3)


def lone_sybils():
    """A ring of eight, each node with one Sybil; all Sybils say the same."""
    ring = networks.graph(8, np.arange(8), (np.arange(8) + 1) % 8)
    return networks.join_sybils(ring, 1.0, max_degree=2, seed=0)


def test_a_lone_sybil_is_believed_by_foolsgold_and_found_out_by_sybil_wall():
    joined = lone_sybils()
    sybils = joined.node_ids
    assert (joined.victims == 1).all()
    network = networks.connect(joined.graph, "uniform_neighbor", "neighbors").with_channel(
        networks.byzantine(sybils, "echo")
    )
    rng = np.random.default_rng(0)
    num = joined.graph.num_nodes
    x = rng.standard_normal((num, 40)).astype(np.float32)
    x[sybils] = 5 * np.sign(x[sybils[0]])
    follows = np.isin(np.arange(num), sybils).astype(int)
    far = {}
    for name, rule in (("foolsgold", aggregators.foolsgold()), ("sybil_wall", aggregators.sybil_wall())):
        rule = aggregators.by_node((rule, aggregators.mean()), follows)
        state, around = rule.init(jnp.asarray(x)), network
        for t in range(10):
            state, out, around = step_of(rule)(jax.random.fold_in(KEY, t), state, jnp.asarray(x), around)
            far.setdefault(name, []).append(np.abs(np.asarray(out)[:8]).max(axis=1))
    assert (far["foolsgold"][-1] > 1.2).all()  # a quarter of 5
    assert far["sybil_wall"][0].min() > 1.2  # nobody knows anything in the first round
    largest = np.abs(x[:8]).max()
    assert (far["sybil_wall"][-1] <= largest + 1e-5).all()
    # At two Sybils a victim both cut them off from the first round on.
    twice = networks.join_sybils(networks.graph(8, np.arange(8), (np.arange(8) + 1) % 8), 2.0, max_degree=2)
    assert (twice.victims == 2).all()


def test_sybils_neither_tell_nor_are_told():
    joined = lone_sybils()
    network = networks.connect(joined.graph, "uniform_neighbor", "neighbors")
    num = joined.graph.num_nodes
    follows = np.isin(np.arange(num), joined.node_ids).astype(int)
    rule = aggregators.by_node((aggregators.sybil_wall(), aggregators.mean()), follows)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((num, 4)), jnp.float32)
    state = rule.init(x)
    for t in range(6):
        state, out, network = step_of(rule)(jax.random.fold_in(KEY, t), state, x, network)
    records = state[0].records
    assert (np.asarray(records.distances)[8:] <= 1).all()
    sources = np.asarray(records.sources)[:8]
    far = np.asarray(records.distances)[:8] > 1
    assert far.any() and (sources[far] < 8).all()
    mixed, _ = network.mix(KEY, x)
    np.testing.assert_allclose(out[8:], mixed[8:], atol=1e-6)


def test_who_was_away_hears_what_is_newer():
    """Its count of rounds is behind; what it hears at first hand is the newest all the same."""
    rule, network = FIVE, network_of()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, DIMENSION)), jnp.float32)
    state = rule.init(x)
    for t in range(8):
        away = network.replace(is_present=(jnp.arange(6) != 2) | ~((t >= 1) & (t < 5)))
        state, _, after = step_of(rule)(jax.random.fold_in(KEY, t), state, x + t, away)
        network = network.with_state(after.state)
    for node in range(6):
        for peer, (_, distance, _, model) in known(state, node).items():
            if distance == 1:
                np.testing.assert_array_equal(model, np.asarray(x[peer] + 7))


def test_it_goes_with_lossy_and_compressing_channels_and_delays():
    problem = problems.quadratic(6, 4, seed=0)
    algorithm = algorithms.dsgd(problem, optax.sgd(0.1), aggregator=aggregators.sybil_wall(num_records=8))
    lossy = network_of(networks.chain(networks.top_k(2, error_feedback=True), networks.loss(0.3)))
    for network in (lossy, network_of().with_delays(networks.fixed_delay(1))):
        process = learn(problem, algorithm, network)
        state = process.init(KEY)
        step = jax.jit(process.step)
        for t in range(4):
            state, _info = step(jax.random.fold_in(KEY, t), state)
        assert np.isfinite(np.asarray(state.algorithm.params)).all()
        assert (np.asarray(state.algorithm.aggregator_state.records.distances) > 1).any()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: aggregators.sybil_wall(num_records=0), "sybil_wall: num_records must be an integer >= 1, got 0"),
        (lambda: aggregators.sybil_wall(decay=0.0), "sybil_wall: decay must be"),
        (lambda: aggregators.by_node((), [0]), "by_node: rules must be one or more rules, got none"),
        (lambda: aggregators.by_node((aggregators.mean(),), [0, 1]), "by_node: choice must be integers in 0..0"),
        (
            lambda: next(rounds(aggregators.sybil_wall(num_records=2), network_of(), 1)),
            "sybil_wall: num_records must be at least 3, the largest number of neighbours, got 2",
        ),
        (
            lambda: next(rounds(aggregators.by_node((aggregators.mean(),), [0, 0]), network_of(), 1)),
            "by_node: choice must be of 6 numbers, one a node, got 2 numbers",
        ),
        (
            lambda: algorithms.fedavg(problems.quadratic(4, 2), optax.sgd(0.1), aggregator=aggregators.sybil_wall()),
            "fedavg: aggregator must be one that asks nothing of neighbours",
        ),
    ],
)
def test_bad_input(make, line):
    with pytest.raises(ValueError, match=line):
        make()
