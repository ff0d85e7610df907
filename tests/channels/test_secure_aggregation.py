"""Masks that cancel to the bit, whoever drops out; what the server learns, and what the protocol sends."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import keys, networks
from dlsim.channels.secure_aggregation import masks, opened, word_bits
from dlsim.core import SERVER, Packet, Route
from dlsim.running import counters

KEY = jax.random.key(4)
SIZE = 7


def up(channel, values, began=None, arrived=None, ids=None, key=KEY):
    num = len(values)
    ids = np.arange(num) if ids is None else np.asarray(ids)
    sizes = [np.full(num, size, np.uint32) for size in (values.shape[1], 32, 0)]
    packet = Packet(values, *sizes, delivered=arrived)
    route = Route(ids, ids, np.full_like(ids, SERVER), acting=began)
    return jax.jit(channel.send)(key, (), packet, route)[1]


@pytest.mark.parametrize("num", [2, 5, 6])
def test_masks_cancel_to_the_bit_whoever_drops_out(num: int) -> None:
    ids = jnp.array([11, 3, 40, 7, 29, 8])[:num]
    rng = np.random.default_rng(num)
    words = rng.integers(0, 2**32, (num, SIZE), dtype=np.uint32)
    began = np.ones(num, bool) if num < 6 else np.array([1, 1, 0, 1, 1, 1], bool)
    added = np.asarray(masks(KEY, ids, jnp.asarray(began), SIZE))
    check = jax.jit(lambda arrived: opened(KEY, ids, jnp.asarray(began), arrived, SIZE))
    for arrived in itertools.product([False, True], repeat=num):
        there = np.array(arrived) & began
        masked = (words + added)[there].sum(axis=0, dtype=np.uint32)
        found = masked - np.asarray(check(jnp.asarray(there)))
        np.testing.assert_array_equal(found, words[there].sum(axis=0, dtype=np.uint32))
    # What is sent looks like no message, and a pair's masks are each other's negative.
    assert len(np.unique(added[began])) == added[began].size
    own = np.asarray(keys.node_bits(keys.stream(KEY, "own"), ids, SIZE))
    np.testing.assert_array_equal((added - own)[began].sum(axis=0, dtype=np.uint32), 0)


def test_masks_are_those_of_the_protocol() -> None:
    """Against a loop over pairs: + s_ij for the smaller id, - for the larger, one seed a pair."""
    ids = np.array([5, 2, 9, 4])
    own = np.asarray(keys.node_bits(keys.stream(KEY, "own"), jnp.asarray(ids), SIZE))
    expected = own.copy()
    for i, j in itertools.permutations(range(4), 2):
        low, high = sorted((int(ids[i]), int(ids[j])))
        seed = keys.fold_in(keys.stream(KEY, "pair"), low, high)
        words = np.asarray(keys.node_bits(seed, jnp.zeros(1, jnp.int32), SIZE)[0])
        expected[i] += words if ids[i] < ids[j] else -words
    np.testing.assert_array_equal(masks(KEY, jnp.asarray(ids), jnp.ones(4, bool), SIZE), expected)


@pytest.mark.parametrize("weights", [None, np.array([3, 1, 0, 7, 2, 5, 9, 1])])
def test_the_server_gets_the_mean_of_those_that_arrived_and_nothing_else(weights) -> None:
    values = np.random.default_rng(1).uniform(-1.2, 1.2, (6, SIZE)).astype(np.float32)
    ids = np.array([1, 7, 4, 3, 0, 6])
    began, arrived = np.array([1, 1, 1, 1, 0, 1], bool), np.array([1, 0, 1, 1, 1, 1], bool)
    common = {"clip": 1.0, "weights": weights, "rounding": "nearest", "num_levels": 9, "threshold": 0.5}
    packet = up(networks.secure_aggregation(**common), values, began, arrived, ids)
    there = began & arrived
    levels = np.rint((np.clip(values, -1, 1) + 1) * 4)[there]
    weigh = np.ones(there.sum()) if weights is None else weights[ids[there]]
    mean = (levels * weigh[:, None]).sum(axis=0) / weigh.sum() / 4 - 1
    np.testing.assert_allclose(packet.values, np.broadcast_to(mean, (6, SIZE)), atol=2e-7)
    np.testing.assert_array_equal(packet.delivered, there)
    plain = up(networks.secure_aggregation(**common, with_masks=False), values, began, arrived, ids)
    np.testing.assert_array_equal(plain.values, packet.values)
    # A client's own word is 4 bits; the sum of the heaviest six of eight 3+2+5+7+9+1 = 27 times 8, or 6 times 8.
    bits = 6 if weights is None else 8
    extra = 2 * 256 + (3 * 5 - 2) * 256
    assert (np.asarray(packet.bits_per_entry) == bits).all() and (np.asarray(packet.extra_bits) == extra).all()
    assert (np.asarray(packet.num_entries) == SIZE + (weights is not None)).all()


def test_too_few_survivors_open_nothing() -> None:
    values = np.ones((6, 2), np.float32)
    channel = networks.secure_aggregation(clip=1.0, weights=None, threshold=0.5)
    for num, opens in ((3, True), (2, False)):
        packet = up(channel, values, arrived=np.arange(6) < num)
        np.testing.assert_array_equal(packet.delivered, (np.arange(6) < num) & opens)
    low = networks.secure_aggregation(clip=1.0, weights=None, threshold=1e-3)
    assert not bool(up(low, values, arrived=np.arange(6) < 1).delivered.any()), "a sum of one is no secret"


def test_what_is_not_finite_is_not_hidden() -> None:
    values = np.ones((4, 2), np.float32)
    values[1, 0] = np.nan
    channel = networks.secure_aggregation(clip=1.0, weights=None, threshold=0.5)
    assert np.isnan(up(channel, values).values).all()
    assert np.isfinite(up(channel, values, arrived=np.array([1, 0, 1, 1], bool)).values).all()


def test_rounding_is_unbiased() -> None:
    values = np.tile(np.array([0.1, -0.77, 0.5], np.float32), (200, 1))
    channel = networks.secure_aggregation(clip=1.0, weights=None, num_levels=3, with_masks=False)
    mean = up(channel, np.tile(values, (50, 1))).values[0]
    np.testing.assert_allclose(mean, values[0], atol=5 * 0.5 / np.sqrt(200 * 50))


@pytest.fixture(scope="module")
def problem() -> dlsim.Problem:
    return dlsim.problems.quadratic(12, 4, seed=1)


def run(problem, channel, weighting, num_steps=8, **options):
    network = networks.complete(12).with_channel(channel)
    algorithm = dlsim.algorithms.fedavg(problem, optax.sgd(0.1), weighting=weighting, num_local_steps=2, **options)
    process = dlsim.learn(problem, algorithm, network, networks.participation(6))
    return dlsim.simulate(process, seed=0, num_steps=num_steps, record=dlsim.Record(every=4))


def test_fedavg_learns_as_without_it(problem: dlsim.Problem) -> None:
    lossy = networks.loss(0.2)
    counts = np.asarray(problem.num_examples)
    secure = networks.secure_aggregation(clip=10.0, weights=counts, threshold=0.3)
    plain = run(problem, networks.chain(lossy, networks.perfect_channel()), "examples")
    summed = run(problem, networks.chain(lossy, secure), "examples")
    bare = networks.secure_aggregation(clip=10.0, weights=counts, threshold=0.3, with_masks=False)
    # Levels of 10 / 2^15 in the messages of eight rounds.
    np.testing.assert_allclose(summed.params, plain.params, atol=8 * 10 / 2**15)
    np.testing.assert_array_equal(summed.params, run(problem, networks.chain(lossy, bare), "examples").params)


def test_rqm_beneath_a_secure_sum_is_exact(problem: dlsim.Problem) -> None:
    rqm = networks.rqm(clip=1.0, extension=1.0)
    secure = networks.secure_aggregation(clip=2.0, weights=None, num_levels=16, rounding="nearest", threshold=0.1)
    alone, summed = (
        run(problem, networks.chain(rqm, last), "uniform") for last in (networks.perfect_channel(), secure)
    )
    np.testing.assert_allclose(summed.params, alone.params, atol=1e-5)
    traffic = summed.state.network.traffic
    bits = word_bits(6, 16, None)
    assert bits == 7
    # Each round six clients send four numbers of 7 bits, two keys and 3 * 6 - 2 shares; the server its model, 2 * 5 of each.
    np.testing.assert_array_equal(counters.to_float(traffic.bits).sum(), 8 * 6 * (4 * bits + 2 * 256 + 16 * 256))
    np.testing.assert_array_equal(counters.to_float(traffic.server_bits), 8 * 6 * (4 * 32 + 2 * 5 * 512))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda p: networks.secure_aggregation(clip=0.0, weights=None), "secure_aggregation: clip must be "),
        (
            lambda p: networks.secure_aggregation(clip=1.0, weights=np.array([0.5, 1.0])),
            "secure_aggregation: weights must be integers >= 0, not all 0",
        ),
        (lambda p: networks.secure_aggregation(clip=1.0, weights=None, threshold=0.0), "threshold must be "),
        (lambda p: run(p, networks.secure_aggregation(clip=1.0, weights=np.ones(3, int)), "uniform"), "one a node"),
        (
            lambda p: run(p, networks.secure_aggregation(clip=1.0, weights=np.full(12, 30_000)), "uniform"),
            "num_levels must be at most 11930 for weights of 180000, got 65536",
        ),
        (
            lambda p: networks.chain(networks.secure_aggregation(clip=1.0, weights=None), networks.loss(0.1)),
            "chain: parts must be such that what sums over senders stands last",
        ),
        (
            lambda p: networks.error_feedback(networks.secure_aggregation(clip=1.0, weights=None)),
            "error_feedback: compressor must be one that says what each sender sent",
        ),
    ],
)
def test_bad_input_gets_a_line(problem: dlsim.Problem, make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make(problem)


@pytest.mark.parametrize("name", ["dsgd", "scaffold", "ad_psgd"])
def test_methods_that_hear_single_messages_refuse_it(problem: dlsim.Problem, name: str) -> None:
    network = networks.ring(12).with_channel(networks.secure_aggregation(clip=1.0, weights=None))
    algorithm = getattr(dlsim.algorithms, name)
    made = algorithm(problem, 0.1) if name == "scaffold" else algorithm(problem, optax.sgd(0.1))
    line = "network.channel must be one that says what each sender sent, got secure_aggregation"
    with pytest.raises(ValueError, match=line):
        dlsim.simulate(dlsim.learn(problem, made, network), seed=0, num_steps=1)
