"""Peers that come and go, whose state counts, and the order of their ring."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import networks
from dlsim.networks import elect, ring_order, state_hash, synchronize
from dlsim.running import counters

KEY = jax.random.key(0)


def folded(words):
    """The hash of a row, word by word."""

    def combine(a, b):
        mixed = a ^ ((b + 0x9E3779B1) % 2**32)
        return (((mixed << 7) | (mixed >> 25)) % 2**32 * 0x85EBCA6B) % 2**32

    lanes = [0] * 256
    words = [int(word) for word in words] + [0] * (-len(words) % 256)
    for place, word in enumerate(words):
        lanes[place % 256] = combine(lanes[place % 256], word)
    total = 0
    for lane in lanes:
        total = combine(total, lane)
    return total


def test_hashes_are_of_the_bits() -> None:
    x = np.random.default_rng(0).standard_normal((3, 300)).astype(np.float32)
    x[1] = x[0]
    hashes = np.asarray(state_hash(jnp.asarray(x)))
    assert hashes.tolist() == [folded(row.view(np.uint32)) for row in x]
    x[1, 299] = np.nextafter(x[1, 299], 9)
    assert len(set(np.asarray(state_hash(jnp.asarray(x))).tolist())) == 3
    signed = state_hash(
        {"a": jnp.array([[0.0], [-0.0]]), "b": jnp.zeros((2, 2), jnp.bfloat16), "c": jnp.ones((2, 1), int)}
    )
    assert int(signed[0]) != int(signed[1])


def test_elections_of_the_page() -> None:
    a, b, c = 11, 22, 33
    hashes, revisions = jnp.array([a, a, b, c], jnp.uint32), jnp.array([7, 7, 6, 7])
    assert int(elect(hashes, revisions, 7)) == 0
    assert int(elect(hashes, revisions, 8)) == 0  # all are behind: votes decide
    assert int(elect(hashes, revisions, 6)) == 2  # as expected before those ahead
    assert int(elect(hashes, jnp.array([1, 2, 2, 9]), 0)) == 0  # any revision is right
    assert int(elect(hashes, revisions, 7, jnp.array([False, False, True, True]))) == 3
    assert int(elect(hashes, revisions, 7, jnp.zeros(4, bool))) == -1
    liars = jnp.array([a, b, b, b], jnp.uint32)
    assert int(elect(liars, jnp.full(4, 7), 7)) == 1  # a majority that lies wins


def test_joiners_fetch_the_elected_state_and_holders_pay() -> None:
    network = networks.complete(5).with_links(networks.links(5, upload=100.0, download=400.0, latency=1.0))
    x = {"w": jnp.array([[1.0, 2], [1, 2], [9, 9], [8, 8], [7, 7]])}
    network = network.replace(is_present=jnp.array([True, True, True, True, False]))
    done, after = synchronize(network, x, jnp.array([3, 3, 0, 0, 0]), 3)
    assert done.fetched.tolist() == [False, False, True, True, False] and int(done.elected) == 0
    np.testing.assert_array_equal(done.values["w"], [[1, 2]] * 4 + [[7, 7]])
    traffic = after.state.traffic
    assert counters.to_float(traffic.bits).tolist() == [64, 64, 0, 0, 0]
    assert counters.to_float(traffic.messages).tolist() == [1, 1, 0, 0, 0]
    assert float(done.seconds) == pytest.approx(64 / 100 + 1) == counters.to_float(traffic.clock)
    # One holder serves both, one after the other; those who may not fetch keep what they have.
    one = jnp.array([True, False, False, False, False])
    done, after = synchronize(network, x, jnp.array([3, 3, 0, 0, 0]), 3, candidates=one, receivers=jnp.arange(5) >= 2)
    assert float(done.seconds) == pytest.approx(2 * 64 / 100 + 1)
    assert counters.to_float(after.state.traffic.bits).tolist() == [128, 0, 0, 0, 0]
    done, after = synchronize(
        network, x, jnp.array([3, 3, 0, 0, 0]), 3, pipes=networks.pipes(np.full((5, 5), 32.0), 0.5)
    )
    assert float(done.seconds) == pytest.approx(2.5)
    # Nobody stands: seen inside a compiled step.
    away = jax.jit(lambda there: synchronize(network.replace(is_present=there), x, jnp.zeros(5, int), 3)[0])
    done = away(jnp.zeros(5, bool))
    assert int(done.elected) == -1 and not done.fetched.any()


def test_bad_input_is_one_line() -> None:
    network, x = networks.complete(3), jnp.ones((3, 2))
    bad = {
        "candidates must be such that a peer that is there sends": lambda: synchronize(
            network, x, jnp.zeros(3, int), 1, candidates=jnp.zeros(3, bool)
        ),
        "revisions must be at most the expected 7, got 9": lambda: synchronize(network, x, jnp.array([7, 9, 7]), 7),
        "revisions must be of shape": lambda: synchronize(network, x, jnp.zeros(2, int), 1),
        "hashes must be of shape": lambda: elect(jnp.uint32(1), jnp.int32(1), 1),
        "tree must be": lambda: state_hash({}),
        "objective must be one of": lambda: ring_order(np.ones((3, 3)), "fastest"),
        "bandwidth must be of two or more peers": lambda: ring_order(np.ones((1, 1))),
        r"bandwidth\[0, 2\] must be above 0": lambda: ring_order(np.array([[0, 1, 0], [1, 0, 1], [1, 1, 0.0]])),
        "exact must be an integer in": lambda: ring_order(np.ones((3, 3)), exact=30),
        "death_rate must be": lambda: networks.peer_churn(1.5),
        "minimum must be at most the 3 slots": lambda: networks.peer_churn(minimum=4).init(KEY, network),
    }
    for line, call in bad.items():
        with pytest.raises(ValueError, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objective", ["tour", "bottleneck"])
def test_orders_are_the_best_of_all(objective: str) -> None:
    random = np.random.default_rng(1)
    for size in (2, 3, 6, 7):
        rate = random.uniform(1, 10, (size, size))

        def of(order, rate=rate):
            edges = rate[order, np.roll(order, -1)]
            return -(1 / edges).sum() if objective == "tour" else edges.min()

        found = ring_order(rate, objective)
        assert sorted(found.tolist()) == list(range(size)) and found[0] == 0
        every = [np.array([0, *rest]) for rest in itertools.permutations(range(1, size))]
        assert of(found) == pytest.approx(max(map(of, every)))
        searched = ring_order(rate, objective, exact=2)
        assert of(found) >= of(searched) >= of(np.arange(size))


def test_churn_never_goes_below_its_minimum_and_marks_who_is_new() -> None:
    network, scenario = networks.complete(6), networks.peer_churn(0.6, 0.3, leave_rate=0.3, minimum=2, initial=4)
    state = scenario.init(KEY, network)
    assert int(state.sum()) == 4
    step = jax.jit(lambda t, state: scenario.step(jax.random.fold_in(KEY, t), state, network))
    counts = {"died": 0, "joined": 0, "left": 0}
    for t in range(60):
        new, met = step(t, state)
        there, dies = np.asarray(met.is_present), np.isfinite(met.membership.dies_at)
        is_new = np.asarray(met.membership.is_new)
        assert not (is_new & np.asarray(state)).any() and (is_new <= there).all()
        assert (dies <= there).all() and (
            (0 <= met.membership.dies_at[dies]) & (met.membership.dies_at[dies] < 1)
        ).all()
        assert (np.asarray(new) == (there & ~dies)).all() and new.sum() >= 2
        for name, number in (("died", dies), ("joined", is_new), ("left", np.asarray(state) & ~there)):
            counts[name] += int(number.sum())
        state = new
    assert all(counts.values()), counts
