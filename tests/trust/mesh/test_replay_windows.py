"""Sliding windows against a set that remembers all, and routes against networkx."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dlsim import trust
from dlsim.trust.mesh import receiving, watchdogs


class Plain:
    """What a receiver remembers, as a set."""

    def __init__(self, width):
        self.seen, self.newest, self.width = set(), None, width

    def take(self, sequence):
        if self.newest is not None and sequence <= self.newest - self.width:
            return 2
        if sequence in self.seen:
            return 1
        self.seen.add(sequence)
        self.newest = sequence if self.newest is None else max(sequence, self.newest)
        return 0


@functools.cache
def run(width):
    def one(window, sequence):
        return trust.check_sequences(window, sequence[None], width=width)

    return jax.jit(lambda sequences: jax.lax.scan(one, trust.replay_windows(1), sequences)[1][:, 0])


def verdicts(sequences, width=64):
    return run(width)(jnp.asarray(sequences, jnp.uint32)).tolist()


def test_the_worked_example():
    assert verdicts([5, 3, 5, 70, 5]) == [0, 0, 1, 0, 2]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=30, max_size=30), st.sampled_from([1, 7, 33, 64]))
def test_windows_remember_as_a_set_does(sequences, width):
    plain = Plain(width)
    assert verdicts(sequences, width) == [plain.take(s) for s in sequences]


@pytest.mark.parametrize("jump", [31, 32, 33, 63, 64, 65, 2**31, 2**32 - 1])
def test_jumps_at_the_edges_of_words(jump):
    """Shifts by 32 or more, which the device does not define."""
    plain = Plain(64)
    sequences = [0, 0, jump, jump, 0] + [jump - k for k in (1, 31, 32, 62, 63, 64) if jump >= k]
    assert verdicts(sequences) == [plain.take(s) for s in sequences]


def test_links_without_a_packet_keep_their_window():
    window = trust.replay_windows(3)
    first, verdict = trust.check_sequences(window, jnp.array([4, 4, 4], jnp.uint32), jnp.array([True, False, True]))
    assert verdict.tolist() == [0, 0, 0] and first.is_used.tolist() == [True, False, True]
    _, verdict = trust.check_sequences(first, jnp.array([4, 4, 9], jnp.uint32))
    assert verdict.tolist() == [1, 0, 0]


@pytest.mark.parametrize(("width", "rule"), [(0, r"in \[1, 64\], got 0"), (65, r"in \[1, 64\], got 65")])
def test_windows_below_one_or_above_two_words_are_refused(width, rule):
    with pytest.raises(ValueError, match=f"check_sequences: width must be an integer {rule}"):
        trust.check_sequences(trust.replay_windows(1), jnp.zeros(1, jnp.uint32), width=width)


def test_several_packets_of_one_link_are_taken_in_their_order():
    rng = np.random.default_rng(2)
    link = rng.integers(0, 3, 40).astype(np.int32)
    order, there = rng.random(40).astype(np.float32), rng.random(40) < 0.8
    rank = receiving.ranks(jnp.asarray(link), jnp.asarray(order), jnp.asarray(there))
    sequence = rng.integers(0, 12, 40).astype(np.uint32)
    packets = receiving.Packets(jnp.asarray(link), jnp.asarray(sequence), *(jnp.zeros(40, jnp.uint32),) * 2, None)
    security = receiving.Security(False, 4, False, 1.0, 0.0)
    keys = trust.mesh.epochs.first_keys(jnp.uint32(1), 4, None)
    args = (jnp.zeros(40, jnp.int32), jnp.zeros(40), rank, jnp.asarray(there))
    _, got = jax.jit(lambda w: receiving.received(security, keys, w, packets, *args))(trust.replay_windows(3))
    plain = [Plain(4) for _ in range(3)]
    expected = np.zeros(40, int)
    for p in sorted(np.flatnonzero(there), key=lambda p: order[p]):
        expected[p] = {0: 0, 1: receiving.REPLAYED, 2: receiving.TOO_OLD}[plain[link[p]].take(int(sequence[p]))]
    assert got.tolist() == expected.tolist()


def test_trust_after_many_hand_overs_is_that_of_one_after_the_other():
    rng = np.random.default_rng(0)
    link, there, seen = rng.integers(0, 4, 50), rng.random(50) < 0.7, rng.random(50) < 0.5
    rank = receiving.ranks(jnp.asarray(link, jnp.int32), jnp.arange(50.0), jnp.asarray(there))
    trusts = np.array([1.0, 0.5, 0.2, 0.9, 0.3])
    got = watchdogs.watched(jnp.asarray(trusts), jnp.asarray(link), rank, jnp.asarray(there), jnp.asarray(seen))
    for p in np.flatnonzero(there):
        trusts[link[p]] = 0.9 * trusts[link[p]] + 0.1 * seen[p]
    np.testing.assert_allclose(got, trusts, rtol=1e-5)


def test_routes_are_the_cheapest():
    rng = np.random.default_rng(4)
    graph = nx.gnp_random_graph(25, 0.12, seed=3, directed=True)
    edges = np.array(sorted(graph.edges, key=lambda e: e[::-1]), np.int32)
    costs = rng.uniform(0.5, 3, len(edges)).astype(np.float32)
    for (i, j), cost in zip(edges, costs, strict=True):
        graph[i][j]["weight"] = float(cost)
    gateways = np.arange(25) < 2
    found = jax.jit(trust.cheapest_routes)(edges[:, 0], edges[:, 1], jnp.asarray(costs), jnp.asarray(gateways))
    expected = nx.multi_source_dijkstra_path_length(graph.reverse(), {0, 1})
    expected = np.array([expected.get(node, np.inf) for node in range(25)])
    np.testing.assert_allclose(found.costs, expected, rtol=1e-5)
    assert np.isinf(expected).any() and ((found.links < 0) == (np.isinf(expected) | gateways)).all()
    for node, link in enumerate(found.links.tolist()):
        if link >= 0:
            assert edges[link, 0] == node
            assert found.costs[node] == pytest.approx(float(costs[link] + found.costs[edges[link, 1]]), rel=1e-5)
