"""Tapes: order, draws that belong to nodes and edges, streams, time since the last event, bad input."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dlsim import clocks, networks

KEY = jax.random.key(7)
NETWORK = networks.random_regular(30, degree=4, seed=3)


def columns(tape):
    return (tape.kind, tape.a, tape.b, tape.ticks, tape.number, tape.since_a, tape.since_b)


def named(tape, ids=None):
    """Events by what they are, whatever the order of the nodes."""
    ids = np.arange(tape.num_nodes) if ids is None else ids
    b = np.where(tape.b < 0, -1, ids[tape.b])
    return list(zip(tape.ticks.tolist(), tape.kind.tolist(), ids[tape.a].tolist(), b.tolist(), strict=True))


def both(horizon=10.0, network=NETWORK, **options):
    return clocks.make_tape(network, clocks.poisson(1.0), clocks.poisson(0.7), KEY, horizon, **options)


def test_a_tape_is_in_order_and_on_the_graph():
    tape = both(40.0)
    assert (np.diff(tape.ticks) >= 0).all() and tape.ticks[-1] < tape.stop == clocks.to_ticks(40.0)
    assert (tape.b[tape.kind == clocks.GRADIENT] == -1).all()
    a, b = clocks.clock_edges(NETWORK)
    edges = set(zip(a.tolist(), b.tolist(), strict=True))
    assert len(edges) == 60 and all(low < high for low, high in edges)
    on = tape.kind == clocks.COMMUNICATION
    assert set(zip(tape.a[on].tolist(), tape.b[on].tolist(), strict=True)) == edges
    assert abs((tape.kind == 0).sum() - 1200) < 5 * 35 and abs(on.sum() - 60 * 28) < 5 * 41
    clocks.check_tape("test", tape, NETWORK)


def test_a_longer_tape_begins_with_a_shorter():
    short, long = both(10.0), both(20.0)
    for some, all_of_them in zip(columns(short), columns(long), strict=True):
        np.testing.assert_array_equal(some, all_of_them[: len(short)])


@pytest.mark.parametrize("communication", ["edges", "links", "nodes"])
@pytest.mark.parametrize("block", [0.013, 3.0, 100.0])
def test_a_stream_is_the_whole(block, communication):
    arguments = (NETWORK, clocks.log_normal(1.0, 0.5), clocks.deterministic(0.5), KEY)
    whole = clocks.make_tape(*arguments, 7.0, communication=communication)
    pieces = list(clocks.stream_tape(*arguments, 7.0, block=block, communication=communication))
    for got, want in zip(zip(*map(columns, pieces), strict=True), columns(whole), strict=True):
        np.testing.assert_array_equal(np.concatenate(got), want)
    np.testing.assert_array_equal(pieces[-1].last, whole.last)
    assert [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
    assert pieces[-1].stop == whole.stop and len({piece.kinds for piece in pieces}) == 1


@pytest.mark.parametrize("communication", ["edges", "nodes"])
def test_relabelled_nodes_have_the_same_events(communication):
    order = np.random.default_rng(0).permutation(30)
    relabelled = NETWORK.relabel(order)
    ids = np.asarray(relabelled.node_ids)
    assert (ids != np.arange(30)).any()
    # Clocks that tick together, so that ties are many.
    for gradient, edge in ((clocks.poisson(1.0), clocks.poisson(1.0)), (clocks.deterministic(1.0),) * 2):
        options = {"communication": communication}
        here = clocks.make_tape(NETWORK, gradient, edge, KEY, 5.0, **options)
        there = clocks.make_tape(relabelled, gradient, edge, KEY, 5.0, **options)
        assert named(here) == named(there, ids)


def test_another_edge_leaves_the_other_clocks_alone():
    a, b = clocks.clock_edges(NETWORK)
    fewer = networks.graph(30, a[1:], b[1:])
    here, there = (set(named(both(network=network))) for network in (NETWORK, fewer))
    assert there < here
    assert {(one[2], one[3]) for one in here - there} == {(a[0], b[0])}


def test_ties_are_broken_by_kind_then_ids():
    clock = clocks.deterministic(1.0)
    tape = clocks.make_tape(NETWORK, clock, clock, KEY, 3.5)
    keys = np.stack([tape.ticks, tape.kind, tape.a, tape.b])
    np.testing.assert_array_equal(np.lexsort(keys[::-1]), np.arange(len(tape)))
    assert len(np.unique(tape.ticks)) == 3 and len(tape) == 3 * (30 + 60)


def test_time_since_the_last_event_against_a_loop():
    tape = both()
    last = np.zeros(30, np.int64)
    for k in range(len(tape)):
        a, b = tape.a[k], tape.b[k]
        assert tape.since_a[k] == tape.ticks[k] - last[a]
        assert tape.since_b[k] == (tape.ticks[k] - last[b] if b >= 0 else 0)
        last[a] = tape.ticks[k]
        if b >= 0:
            last[b] = tape.ticks[k]
    np.testing.assert_array_equal(tape.last, last)
    np.testing.assert_array_equal(tape.remaining, tape.stop - last)


def test_heterogeneous_rates_follow_the_order_of_the_clocks():
    node_rates, (a, b) = np.linspace(0.5, 3.0, 30), clocks.clock_edges(NETWORK)
    edge_rates = np.where(np.arange(len(a)) == 11, 20.0, 0.1)
    tape = clocks.make_tape(NETWORK, clocks.poisson(node_rates), clocks.poisson(edge_rates), KEY, 300.0)
    counts = np.bincount(tape.a[tape.kind == 0], minlength=30)
    assert (np.abs(counts - 300 * node_rates) < 5 * np.sqrt(300 * node_rates)).all()
    on = (tape.a == a[11]) & (tape.b == b[11])
    assert abs(on.sum() - 6000) < 5 * 78


def test_nodes_choose_neighbours_uniformly():
    network = networks.star(6)
    tape = clocks.make_tape(network, None, clocks.poisson(10.0), KEY, 300.0, communication="nodes")
    hub = tape.b[tape.a == 0]
    counts = np.bincount(hub, minlength=6)
    assert counts[0] == 0 and ((counts[1:] - len(hub) / 5) ** 2).sum() / (len(hub) / 5) < 18.5  # chi2(4), 0.001
    assert (tape.b[tape.a > 0] == 0).all() and abs((tape.a == 0).sum() - 3000) < 5 * 55


def test_neighbor_rates_are_those_of_nodes_that_choose():
    network = networks.star(6)
    np.testing.assert_allclose(clocks.neighbor_rates(network, 2.0), 2.0 / 5 + 2.0)
    np.testing.assert_allclose(clocks.neighbor_rates(network).sum(), 6.0)
    np.testing.assert_allclose(clocks.neighbor_rates(NETWORK, np.linspace(1, 2, 30)).sum(), 45.0)


def test_links_of_a_directed_graph():
    network = networks.graph(3, [0, 1, 2], [1, 2, 0], is_directed=True)
    tape = clocks.make_tape(network, None, clocks.poisson(1.0), KEY, 50.0, communication="links")
    pairs = set(zip(tape.a.tolist(), tape.b.tolist(), strict=True))
    senders, receivers = np.asarray(network.senders).tolist(), np.asarray(network.receivers).tolist()
    assert pairs == set(zip(senders, receivers, strict=True)) and len(pairs) == 3
    clocks.check_tape("test", tape, network)


def test_gradient_events_need_no_neighbours():
    lonely = networks.graph(3, [0], [1])
    tape = clocks.make_tape(lonely, clocks.poisson(1.0), None, KEY, 50.0)
    assert set(tape.a.tolist()) == {0, 1, 2}


def test_a_tape_of_ones_own():
    tape = clocks.tape(
        4, [3, 0, 3, 3], [2, 1, 2, 0], [0, -1, 0, 3], [9, 5, 2, 9], columns={"version": np.array([0.5, 1, 2, 3])}
    )
    assert tape.ticks.tolist() == [2, 5, 9, 9] and tape.kind.tolist() == [3, 0, 3, 3]
    assert tape.a.tolist() == [2, 1, 2, 0] and tape.number.tolist() == [0, 0, 1, 0]
    assert tape.columns["version"].tolist() == [2, 1, 0.5, 3]
    assert tape.since_a.tolist() == [2, 5, 7, 0] and tape.since_b.tolist() == [2, 0, 7, 9]
    assert tape.kinds == ((0, False), (3, True)) and tape.stop == 10


RATE = clocks.poisson(1.0)
TAPE = both()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: clocks.make_tape(NETWORK, None, None, KEY, 1.0), r"clocks must be at least one, got None for both\."),
        (lambda: clocks.make_tape(NETWORK, 1.0, None, KEY, 1.0), r"gradient_clock must be a Clock, got 1.0\."),
        (lambda: clocks.make_tape(NETWORK, RATE, None, KEY, 0.0), r"horizon must be a number in \(0, .*, got 0\."),
        (lambda: clocks.make_tape(NETWORK, RATE, None, KEY, np.inf), r"horizon must be .*, got inf\."),
        (lambda: clocks.make_tape(NETWORK, RATE, None, KEY, 1e-9), r"horizon must be long enough for an event"),
        (lambda: clocks.make_tape("ring", RATE, None, KEY, 1.0), r"network must be a Network or a Graph, got 'ring'\."),
        (
            lambda: clocks.make_tape(networks.graph(3, [0], [1]), None, RATE, KEY, 1.0),
            r"network must be without isolated nodes, got node 2 alone\. Link it",
        ),
        (
            lambda: clocks.make_tape(networks.graph(3, [0], [1]), None, RATE, KEY, 1.0, communication="nodes"),
            r"network must be without isolated nodes, got node 2 alone\.",
        ),
        (
            lambda: clocks.make_tape(networks.graph(1, [], []), None, RATE, KEY, 1.0),
            r"network must be of at least 2 nodes for a communication clock, got 1\.",
        ),
        (
            lambda: clocks.make_tape(NETWORK, clocks.poisson(np.ones(29)), None, KEY, 1.0),
            r"gradient_clock must be for 30 clocks, got one for 29\.",
        ),
        (
            lambda: clocks.make_tape(NETWORK, None, clocks.poisson(np.ones(30)), KEY, 1.0),
            r"communication_clock must be for 60 clocks, got one for 30\.",
        ),
        (
            lambda: clocks.make_tape(NETWORK, None, RATE, KEY, 1.0, communication="edge"),
            r"communication must be one of edges, .*, got 'edge'\. Did you mean 'edges'\?",
        ),
        (lambda: list(clocks.stream_tape(NETWORK, RATE, None, KEY, 1.0, block=0.0)), r"block must be .*, got 0\."),
        (
            lambda: clocks.check_tape("swarm", TAPE, networks.ring(29)),
            r"swarm: tape must be for 29 nodes, got one for 30",
        ),
        (
            lambda: clocks.check_tape("swarm", TAPE, networks.ring(30)),
            r"swarm: tape must be one for this graph, got an",
        ),
        (lambda: clocks.check_tape("swarm", None, NETWORK), r"swarm: tape must be a Tape, got None\."),
        (
            lambda: clocks.neighbor_rates(NETWORK, -1.0),
            r"node_rates must be one or 30 finite numbers above 0, got -1\.",
        ),
        (lambda: clocks.neighbor_rates(NETWORK, np.ones(3)), r"node_rates must be .*, got shape \[3\]\."),
        (lambda: clocks.tape(3, 0, [0, 3], [-1, -1], [1, 2]), r"tape: a\[1\] must be in \[0, 2\], got 3\."),
        (lambda: clocks.tape(3, 0, [0], [0], [1]), r"tape: b\[0\] must be another node than a, or -1, got 0\."),
        (lambda: clocks.tape(3, 0, [0], [-1], [-1]), r"tape: ticks\[0\] must be in \[0, "),
        (lambda: clocks.tape(3, 0, [0], [-1], [1.5]), r"tape: ticks must be integers \[M\], got float64 \[1\]\."),
        (lambda: clocks.tape(3, 0, [0, 1], [-1, 2], [1, 2]), r"b of kind 0 must be -1 in all .*, got both\."),
        (lambda: clocks.tape(3, 0, [], [], np.zeros(0, int)), r"ticks must be of at least one event, got none\."),
        (lambda: clocks.tape(3, 0, [0], [-1], [5], stop=5), r"tape: stop must be an integer >= 6, got 5\."),
        (lambda: clocks.tape(3, 0, [0], [-1], [5], columns={"x": [1, 2]}), r"columns\['x'\] must be as long as ticks"),
    ],
)
def test_bad_input_is_one_clear_line(make, line):
    with pytest.raises(ValueError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_tapes_are_made_outside_of_compiled_code():
    with pytest.raises(ValueError, match=r"make_tape: key and network must be known values, got a tracer\."):
        jax.jit(lambda key: clocks.make_tape(NETWORK, RATE, None, key, 1.0).ticks)(KEY)
    # With a key that is known, a tape may be made while something else is traced.
    made = jax.jit(lambda x: x + len(clocks.make_waves(both()).order))(0)
    assert int(made) == len(TAPE)
