"""All-reduce: what it gives, bit for bit, what it costs, and what deaths on the way do to both."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import ring as oracle

from dlsim import networks
from dlsim.networks import Membership, collective
from dlsim.networks.collectives import arithmetic, pipes as piping
from dlsim.running import counters

KEY = jax.random.key(0)
SIZE, ENTRIES = 6, 13
NOBODY_NEW = jnp.zeros(SIZE, bool)
MANNERS = {
    "ring": {},
    "floor": {"quantization": "min_max"},
    "nearest": {"quantization": "min_max", "rounding": "nearest"},
    "faithful": {"quantization": "min_max", "faithful": True},
    "butterfly": {"kind": "butterfly"},
}


@functools.lru_cache
def reducer(manner: str, num: int = SIZE, **more):
    """One program for all memberships, orders and deaths."""
    network = networks.complete(num).with_links(networks.links(num, upload=1e6, download=1e6, latency=0.5))

    @jax.jit
    def run(x, present, dies_at, order):
        met = network.replace(is_present=present, membership=Membership(dies_at, jnp.zeros(num, bool)))
        return met.all_reduce(KEY, x, collective(order=order, operation="sum", **MANNERS[manner], **more))

    def call(x, present=None, dies_at=None, order=None):
        present = np.ones(num, bool) if present is None else present
        dies_at = np.full(num, np.inf, np.float32) if dies_at is None else dies_at
        order = np.arange(num) if order is None else order
        reduced, after = run(x, present, dies_at, order)
        traffic = after.state.traffic
        return jax.device_get(reduced), counters.to_float(traffic.bits), counters.to_float(traffic.clock)

    return call


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


def expected(manner, x, peers):
    options = MANNERS[manner]
    if manner == "butterfly":
        return oracle.butterfly(x[peers])
    wire = None
    if "quantization" in options:
        wire = functools.partial(
            oracle.over_the_wire,
            rounding=options.get("rounding", "floor"),
            faithful=options.get("faithful", False),
        )
    buffers, _ = oracle.ring(x[peers], wire)
    assert all((bits(one) == bits(buffers[0])).all() for one in buffers)  # every peer has the same
    return buffers[0]


@pytest.mark.parametrize("manner", MANNERS)
def test_what_is_left_is_summed_whoever_joins_leaves_and_dies(manner: str) -> None:
    """Against buffers hop by hop: value to the bit, who took part, attempts, bits and seconds, for random histories."""
    run, random = reducer(manner), np.random.default_rng(7)
    for case in range(60):
        x = random.standard_normal((SIZE, ENTRIES)).astype(np.float32) - (3 if case % 3 == 0 else 0)
        present = random.random(SIZE) < 0.8
        order = random.permutation(SIZE)
        # Times on a grid, so that some die at once, some as it begins, some when it is over.
        times = random.integers(0, 10, SIZE) / np.float32(4)
        dies_at = np.where(random.random(SIZE) < 0.5, times, np.inf).astype(np.float32)
        reduced, sent, clock = run(x, present, dies_at, order)
        history = oracle.attempts(dies_at, [i for i in order if present[i]])
        last = history[-1][0]
        assert sorted(np.flatnonzero(reduced.participants)) == sorted(last), case
        assert reduced.num_attempts == len(history) - (len(last) < 2)
        assert reduced.succeeded == (len(last) > 1)
        want = expected(manner, x, last) if last else np.zeros(ENTRIES, np.float32)
        np.testing.assert_array_equal(bits(reduced.value), bits(want), err_msg=str(case))
        if manner == "ring":
            want_bits, seconds = np.zeros(SIZE), 0.0
            for peers, share in history:
                _, entries = oracle.ring(x[peers]) if peers else ([], [])
                share = 1 if share is None else share
                want_bits[peers] += [32 * np.floor(np.float32(share) * np.float32(one)) for one in entries]
                num = max(len(peers), 1)
                seconds += share * 2 * (num - 1) * (32 * ENTRIES / (num * 1e6) + 0.5)
            np.testing.assert_array_equal(sent, want_bits)
            assert clock == pytest.approx(seconds, rel=1e-5)
            assert reduced.seconds == pytest.approx(seconds, rel=1e-5)


def test_the_example_of_the_page() -> None:
    """D = 5, P = 3: chunks [0, 2) [2, 4) [4, 5), and 80 bytes in all."""
    np.testing.assert_array_equal(arithmetic.chunks(5, jnp.int32(3)), [0, 0, 1, 1, 2])
    x = jnp.arange(1.0, 6) * jnp.array([[1], [10], [100]])
    reduced, after = networks.complete(3).all_reduce(KEY, {"w": x})
    np.testing.assert_array_equal(reduced.value["w"], [37, 74, 111, 148, 185])
    assert counters.to_float(after.state.traffic.bits).sum() == 80 * 8
    _, after = networks.complete(3).all_reduce(KEY, x, collective(quantization="min_max"))
    headers = 3 * 4 * 64  # of three peers, four hops
    assert counters.to_float(after.state.traffic.bits).sum() == 20 * 8 + headers


def test_bytes_are_those_of_the_formula() -> None:
    """2 (P - 1)/P D entries a peer, exactly, where P divides D; more peers than entries are legal."""
    for manner in ("ring", "butterfly"):
        run = reducer(manner, 8)
        for num in (2, 4, 8):
            present = np.arange(8) < num
            _, sent, _ = run(np.ones((8, 16), np.float32), present)
            np.testing.assert_array_equal(sent, np.where(present, 2 * (num - 1) / num * 16 * 32, 0))
        x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
        reduced, sent, _ = run(x)
        np.testing.assert_array_equal(bits(reduced.value), bits(expected(manner, x, list(range(8)))))
        assert sent.sum() == 2 * 7 * 3 * 32


def test_quantised_numbers_of_the_page() -> None:
    def hop(values, how):
        values = jnp.array(values)
        return arithmetic.quantized(values, jnp.zeros(len(values), jnp.int32), 1, how)

    np.testing.assert_allclose(hop([-1.0, 0, 1], arithmetic.MinMax()), [-1, -0.0039216, 1], atol=1e-7)
    np.testing.assert_allclose(hop([-2.0, -1], arithmetic.MinMax(faithful=True)), [-2, -1.0039215], atol=1e-6)
    np.testing.assert_array_equal(hop([-2.0, -1], arithmetic.MinMax()), [-2, -1])
    np.testing.assert_array_equal(hop([3.0, 3], arithmetic.MinMax()), [3, 3])


def test_owners_who_keep_their_own_break_parity() -> None:
    run = reducer("floor", owner_replaces=False)
    x = np.random.default_rng(1).standard_normal((SIZE, ENTRIES)).astype(np.float32)
    present = np.array([1, 1, 0, 1, 1, 1], bool)
    rows, _, _ = run(x, present)
    peers = np.flatnonzero(present)
    buffers, _ = oracle.ring(x[peers], oracle.over_the_wire, replaces=False)
    np.testing.assert_array_equal(bits(rows.value[peers]), bits(np.stack(buffers)))
    np.testing.assert_array_equal(rows.value[2], x[2])
    # An owner whose chunk is no more than a smallest and a largest entry has what everyone has.
    assert len(set(np.asarray(networks.state_hash(jnp.asarray(rows.value)))[peers].tolist())) > 2


def test_order_changes_bits_and_not_the_sum() -> None:
    run = reducer("ring", 8)
    x = np.random.default_rng(2).standard_normal((8, 4000)).astype(np.float32)
    one, other = (run(x, order=order)[0].value for order in (np.arange(8), np.random.default_rng(3).permutation(8)))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert 0.4 < np.mean(bits(one) != bits(other)) < 0.7  # 0.54 in an independent program
    any_order, _ = networks.complete(8).all_reduce(KEY, jnp.asarray(x), collective(operation="sum", in_order=False))
    np.testing.assert_allclose(any_order.value, one, atol=1e-5)


def test_channels_change_what_is_put_in_and_its_size() -> None:
    x = jnp.asarray(np.random.default_rng(4).standard_normal((4, 8)), jnp.float32)
    sparse = networks.complete(4).with_channel(networks.top_k(2))
    reduced, after = sparse.all_reduce(KEY, x)
    packet, _ = sparse.send(KEY, x)
    np.testing.assert_allclose(reduced.value, packet.values.mean(0), atol=1e-6)
    full = packet.num_entries * packet.bits_per_entry + packet.extra_bits
    np.testing.assert_allclose(counters.to_float(after.state.traffic.bits), 1.5 * full, atol=1)
    with pytest.raises(ValueError, match="network.channel must be one that loses no message"):
        networks.complete(4).with_channel(networks.loss(0.5)).all_reduce(KEY, x)


def slot_by_slot(between, bits, num, slices):
    """When the last slice of the last hop is there: every link sends one slice after the other, as soon as it has it."""
    ready = np.zeros((num, slices))  # when rank r has slice q of the chunk that it sends next
    free = np.zeros(num)
    for _ in range(2 * (num - 1)):
        arrived = np.zeros_like(ready)
        for r in range(num):
            rate, latency = between[r]
            for q in range(slices):
                free[r] = max(free[r], ready[r, q]) + bits / (num * slices * rate)
                arrived[(r + 1) % num, q] = free[r] + latency
        ready = arrived
    return ready.max()


@pytest.mark.parametrize("slices", [1, 8])
def test_seconds_are_those_of_a_pipeline(slices: int) -> None:
    random = np.random.default_rng(5)
    for num in (8, 24):
        pipes = networks.pipes(random.uniform(1e6, 4e6, (num, num)), random.uniform(0, 0.02, (num, num)))
        links = [(float(pipes.rate[r, (r + 1) % num]), float(pipes.latency[r, (r + 1) % num])) for r in range(num)]
        seconds = piping.ring_seconds(piping.over(pipes, None), jnp.float32(1e6), jnp.arange(num), num, float(slices))
        assert float(seconds) == pytest.approx(slot_by_slot(links, 1e6, num, slices), rel=0.15)
    # Equal links: 2 (P - 1) (S/(P B) + latency) exactly, 8.3 s for the six European peers.
    even = networks.pipes(np.full((6, 6), 1.7234e9))
    seconds = piping.ring_seconds(piping.over(even, None), jnp.float32(8 * 1.073e9), jnp.arange(6), jnp.int32(6), 1.0)
    assert float(seconds) == pytest.approx(8.3, abs=0.01)


def test_butterflies_wait_for_the_slowest_pair_of_each_level() -> None:
    rate = np.random.default_rng(6).uniform(1.0, 2.0, (5, 5))
    pipes = networks.pipes(rate, 0.1)
    seconds = piping.butterfly_seconds(piping.over(pipes, None), jnp.float32(8), jnp.arange(5), jnp.int32(5))
    tree = [1, 2, 3, 4]  # 0 adds up with 1 first
    slowest = [min(rate[tree[i], tree[i ^ d]] for i in range(4)) for d in (2, 1)]
    want = 8 / rate[0, 1] + 8 / rate[1, 0] + 2 * (4 / slowest[0] + 2 / slowest[1]) + 0.1 * 6
    assert float(seconds) == pytest.approx(want, rel=1e-6)


def test_long_pipes_are_filled_by_connections() -> None:
    pipes = [networks.pipes(np.full((2, 2), 4e9), 0.05, connections=c, window=1e7) for c in (1, 8, 64)]
    np.testing.assert_allclose([float(p.rate[0, 1]) for p in pipes], [1e8, 8e8, 4e9])
    np.testing.assert_allclose(networks.transfer_seconds(pipes[0], 1e9)[0, 1], 10.05, rtol=1e-6)


def test_bad_input_is_one_line() -> None:
    x, network = jnp.ones((4, 3)), networks.complete(4)
    dead = Membership(jnp.full(4, 0.5), jnp.zeros(4, bool))
    bad = {
        "all_reduce: network must be of two or more peers that are there, got one of 1": lambda: network.replace(
            is_present=jnp.array([True, False, False, False])
        ).all_reduce(KEY, x),
        "two or more peers that are there, got one of 0": lambda: network.replace(
            is_present=jnp.zeros(4, bool)
        ).all_reduce(KEY, x),
        "network.membership must be such that a peer is left, got all 4 dying": lambda: network.replace(
            membership=dead
        ).all_reduce(KEY, x),
        "tree must be stacked over 4 nodes": lambda: network.all_reduce(KEY, jnp.ones((3, 3))),
        "tree must be of floating numbers": lambda: network.all_reduce(KEY, jnp.ones((4, 3), int)),
        "collective must be a Collective": lambda: network.all_reduce(KEY, x, "ring"),
        "a permutation of all 4 positions": lambda: network.all_reduce(KEY, x, collective(order=np.arange(3))),
        "between the network's 4 nodes": lambda: network.all_reduce(KEY, x, collective(pipes=PIPES)),
        "order must be a permutation": lambda: collective(order=[0, 0, 1]),
        "kind must be one of ring, butterfly": lambda: collective("rings"),
        "quantization must be None for a butterfly": lambda: collective("butterfly", quantization="min_max"),
        "owner_replaces must be True": lambda: collective(owner_replaces=False),
        "in_order must be True": lambda: collective("butterfly", in_order=False),
        "slices must be a number": lambda: collective(slices=0.5),
        r"bandwidth\[0, 1\] must be above 0": lambda: networks.pipes([[0.0, 0], [1, 0]]),
        "bandwidth must be of shape": lambda: networks.pipes([1.0, 2]),
        "window must be": lambda: networks.pipes(np.ones((2, 2)), window=0.0),
    }
    for line, call in bad.items():
        with pytest.raises(ValueError, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)


PIPES = networks.pipes(np.ones((2, 2)))
