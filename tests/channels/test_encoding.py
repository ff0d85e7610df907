"""What channels count is what an encoder sends: every compressor's bits, and the same values from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract.parts import CHANNELS

from dlsim import networks
from dlsim.core import SERVER, Channel, Packet, Route
from dlsim.networks.messages import message_bits, open_channels, whole_packet

NUM = 3
IDS = jnp.array([5, 0, 2**20])
IDS_AND_SERVER = jnp.array([5, SERVER, 2**20])
COMPRESSORS = {
    # Every channel there is: a new one comes in by its row in the contract's table, and fails without a codec.
    **{case.id: case.make() for case in CHANNELS},
    "all": networks.top_k(1.0),
    "random_k-biased": networks.random_k(0.3, is_unbiased=False),
    "quantize-2": networks.quantize(2),
    "quantize-16": networks.quantize(16, norm="max"),
    "integers-4": networks.integers(4, rounding="stochastic", scale="message"),
    "min_max-8": networks.min_max(),
    "min_max-1": networks.min_max(1, rounding="stochastic"),
    "kmeans-5": networks.kmeans(5),
    "kmeans-2": networks.kmeans(2, code="addresses"),
    "kmeans-6": networks.kmeans(6, code="best"),
    **{
        f"fedzip-{code}": networks.fedzip(code=code)
        for code in ("fixed", "huffman", "addresses", "differences", "best")
    },
    "fedzip-off-zero": networks.fedzip(0.5, snap_zero=False),
    "log_quantize-9": networks.log_quantize(9, steps_per_e=16.0),
    "log_quantize-1": networks.log_quantize(1),
    "log_quantize-16": networks.log_quantize(16, steps_per_e=900.0),
    "rqm-5": networks.rqm(clip=0.7, extension=0.46, num_levels=5, keep_probability=0.57),
    "rqm-300": networks.rqm(clip=0.7, extension=0.46, num_levels=300),
    "poisson_binomial-100": networks.poisson_binomial(clip=3.0, theta=0.3, num_trials=100),
    "clipped_rounding-7": networks.clipped_rounding(clip=0.3, num_levels=7),
    "low_rank-2": networks.low_rank(2),
    "low_rank-feedback": networks.low_rank(2, error_feedback=True),
}
ROUNDED = {name for name in COMPRESSORS if name.startswith("low_rank")}  # the product of what is sent, to rounding
chain = networks.chain
CHAINS = {
    "top_k, quantize": chain(networks.top_k(9), networks.quantize(4)),
    "quantize, top_k": chain(networks.quantize(4), networks.top_k(9)),
    "top_k, sign": chain(networks.top_k(9), networks.sign()),
    "top_k, e3m0, loss": chain(networks.top_k(9), networks.e3m0(), networks.loss(0.3)),
    "top_k, elias": chain(networks.top_k(20), networks.quantize(3, code="elias")),
    "quantize, random_k": chain(networks.quantize(5), networks.random_k(0.5)),
    "sign, random_sparsification": chain(networks.sign(), networks.random_sparsification(0.5)),
    "random_k, random_k, quantize": chain(networks.random_k(0.7), networks.random_k(0.5), networks.quantize(8)),
    "top_k, random_sparsification": chain(networks.top_k(20), networks.random_sparsification(0.5)),
    "random_k, top_k, sign": chain(networks.random_k(20), networks.top_k(5), networks.sign()),
    "top_k, top_k": chain(networks.top_k(20), networks.top_k(5)),
    "two quantisers": chain(networks.quantize(8), networks.quantize(3)),
    "noise, quantize": chain(networks.gaussian_noise(0.1), networks.quantize(8)),
    "top_k, min_max": chain(networks.top_k(9), networks.min_max(4)),
    "top_k, kmeans": chain(networks.top_k(20), networks.kmeans(4)),
    "random_k, kmeans": chain(networks.random_k(0.9), networks.kmeans(3, code="differences")),
    "integers, random_k": chain(networks.integers(8), networks.random_k(0.5)),
    "feedback": networks.error_feedback(chain(networks.top_k(9), networks.quantize(4))),
    "ef21, loss": chain(networks.ef21(chain(networks.top_k(9), networks.quantize(4))), networks.loss(0.3)),
    "top_k, log_quantize": chain(networks.top_k(9), networks.log_quantize()),
    "top_k, rqm": chain(networks.top_k(9), networks.rqm(clip=1.0, extension=1.0)),
    "rqm, top_k": chain(networks.rqm(clip=1.0, extension=1.0), networks.top_k(9)),
    "rqm, random_k": chain(networks.rqm(clip=1.0, extension=1.0), networks.random_k(9)),
    "dp_gaussian, quantize": chain(networks.dp_gaussian(clip=1.0, noise_multiplier=1.0), networks.quantize(8)),
    "top_k, dp_gaussian": chain(networks.top_k(9), networks.dp_gaussian(clip=1.0, noise_multiplier=1.0)),
    "to the server, quantize": chain(networks.to_server(networks.top_k(9)), networks.quantize(6)),
    "private, to the server": networks.to_server(chain(networks.clipped_rounding(clip=2.0), networks.sign())),
}


def message(dtype=jnp.float32, seed: int = 0):
    """Leaves of three shapes; zeros among the numbers, one row of nothing but zeros."""
    x = jax.random.normal(jax.random.key(seed), (NUM, 43)) * jnp.array([1.0, 1e4, 0.0])[:, None]
    x = jnp.where(jnp.arange(43) % 5 == 2, 0, x).astype(dtype)
    return {"a": x[:, :30].reshape(NUM, 5, 6), "b": x[:, 30:42], "c": x[:, 42]}


def send(channel: Channel, tree, key=jax.random.key(3), ids=IDS) -> Packet:
    state = channel.init(tree, len(ids))
    return jax.jit(lambda key, packet: channel.send(key, state, packet, Route(ids, ids, ids))[1])(
        key, whole_packet(tree)
    )


def like(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)


def same_bits(a: np.ndarray, b: np.ndarray) -> None:
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))


def check_round_trip(channel: Channel, tree, ids=IDS, is_rounded: bool = False) -> None:
    """Bits of each row as many as counted, and its values from them; of a first message, before which zero was heard."""
    packet = send(channel, tree, ids=ids)
    counted = np.asarray(message_bits(packet).low)
    for row, node_id in enumerate(np.asarray(ids)):
        bits = networks.encode(channel, packet, row)
        assert len(bits) == counted[row]
        got = networks.decode(channel, bits, like(tree), int(node_id))
        for leaf, one in zip(jax.tree.leaves(packet.values), jax.tree.leaves(got), strict=True):
            if is_rounded:
                np.testing.assert_allclose(one, leaf[row], rtol=1e-6, atol=1e-6 * np.abs(leaf[row]).max())
            else:
                same_bits(np.asarray(leaf[row]), one)


@pytest.mark.parametrize("name", [*COMPRESSORS, *CHAINS])
def test_bits_are_those_counted_and_give_the_values_back(name: str) -> None:
    channel = {**COMPRESSORS, **CHAINS}[name]
    check_round_trip(channel, message(), IDS_AND_SERVER, name in ROUNDED)


@pytest.mark.parametrize(
    "name",
    ["random_k", "e3m0", "quantize-16", "top_k, quantize", "quantize, random_k", "rqm", "log_quantize", "dp_gaussian"],
)
def test_half_precision_comes_back_too(name: str) -> None:
    check_round_trip({**COMPRESSORS, **CHAINS}[name], message(jnp.bfloat16))


def test_changes_add_up_to_what_is_heard() -> None:
    """ef21: what is written of the second message is what is added to the first."""
    channel, tree = networks.ef21(networks.sign()), message()
    state = channel.init(tree, NUM)
    route = Route(IDS, IDS, IDS)
    state, first = channel.send(jax.random.key(0), state, whole_packet(tree), route)
    _, second = channel.send(jax.random.key(1), state, whole_packet(tree), route)
    change = networks.decode(channel, networks.encode(channel, second, 1), like(tree), 0)
    for before, added, after in zip(
        *(jax.tree.leaves(one) for one in (first.values, change, second.values)), strict=True
    ):
        np.testing.assert_array_equal(before[1] + added, after[1])


def test_private_numbers_are_all_sent_whatever_was_chosen_before() -> None:
    """Nodes send all 43 numbers and no index; the server's message keeps what the sparsifier chose."""
    packet = send(CHAINS["top_k, rqm"], message(), ids=IDS_AND_SERVER)
    assert np.asarray(message_bits(packet).low).tolist() == [43 * 4, 9 * (32 + 6), 43 * 4]
    assert np.asarray(packet.is_sent).sum(axis=1).tolist() == [43, 9, 43]


def test_bits_of_what_a_network_sends() -> None:
    """The packet of a verb, of a channel with a memory and losses: what is written is what the nodes are charged."""
    channel = chain(networks.top_k(3, error_feedback=True), networks.quantize(4), networks.loss(0.5))
    network = networks.ring(4).with_channel(channel)
    packet, network = network.send(jax.random.key(1), message()["b"][jnp.array([0, 1, 2, 0])])
    sizes = [len(networks.encode(network.channel, packet, row)) for row in range(4)]
    np.testing.assert_array_equal(network.state.traffic.bits.low, 2 * np.array(sizes))  # two neighbours each
    got = networks.decode(network.channel, networks.encode(channel, packet, 1), jnp.zeros(12), 1)
    same_bits(np.asarray(packet.values[1]), got)


def test_zeros_among_what_is_sent_are_sent() -> None:
    """A zero that a sparsifier chose costs as much as any number, and a sign makes it one."""
    x = jnp.zeros((1, 8)).at[0, 3].set(2.0)
    packet = send(chain(networks.top_k(3), networks.sign()), x, ids=IDS[:1])
    np.testing.assert_allclose(packet.values, [[2 / 3, 2 / 3, 0, 2 / 3, 0, 0, 0, 0]], rtol=1e-6)
    packet = send(chain(networks.random_k(4), networks.random_k(8)), x, ids=IDS[:1])
    assert packet.num_entries.tolist() == [4]


def test_elias_codes_pay_where_levels_are_few() -> None:
    """Two bits in Elias code: most levels are zero, and a message is shorter than its fixed form."""
    x = jax.random.normal(jax.random.key(0), (4, 1000))
    ids = jnp.arange(4)
    short = message_bits(send(networks.quantize(2, code="elias"), x, ids=ids)).low
    fixed = message_bits(send(networks.quantize(2), x, ids=ids)).low
    assert (np.asarray(short) < np.asarray(fixed) / 4).all()


def test_only_what_goes_to_the_server_is_compressed() -> None:
    network = networks.complete(4).with_channel(networks.to_server(networks.top_k(2, error_feedback=True)))
    model, key = jnp.arange(1.0, 9.0), jax.random.key(0)

    def both(current):
        down, current = current.downlink(key, model)
        up, current = current.uplink(key, down.values)
        return (down.values, up.values), current

    (down, up), network = both(open_channels(network, lambda probed: both(probed)[0]))
    np.testing.assert_array_equal(down, jnp.broadcast_to(model, (4, 8)))
    np.testing.assert_array_equal(up, [[0, 0, 0, 0, 0, 0, 7, 8]] * 4)
    assert network.state.traffic.server_bits.low == 4 * 8 * 32
    np.testing.assert_array_equal(network.state.traffic.bits.low, 2 * 32 + 2 * 3)


BARE = networks.sign()._replace(codec=None)
SUM = networks.secure_aggregation(clip=1.0, weights=None)
LATE = chain(networks.ef21(networks.top_k(2)), networks.sign())
CHANGED = chain(networks.quantize(8), networks.top_k(2, error_feedback=True))
NOISY = chain(networks.quantize(8), networks.gaussian_noise(0.1))
LIKE = jnp.zeros(4)


@pytest.mark.parametrize(
    ("attempt", "line"),
    [
        (
            lambda: networks.encode(BARE, whole_packet(LIKE[None])),
            "encode: channel must be one whose parts all have a codec",
        ),
        (
            lambda: networks.encode(SUM, whole_packet(LIKE[None])),
            "encode: channel must be one that says what each sender",
        ),
        (lambda: networks.decode(SUM, np.zeros(9, bool), LIKE), "decode: channel must be .*, got one that sums over"),
        (
            lambda: networks.encode(LATE, send(LATE, LIKE[None], ids=IDS[:1])),
            "encode: channel must be one that sends the changes it made, got ef21 before a compressor",
        ),
        (
            lambda: networks.encode(CHANGED, send(CHANGED, LIKE[None], ids=IDS[:1])),
            "encode: packet must be one that the 52 bits counted for it can hold, got one of 100",
        ),
        (lambda: networks.encode(networks.sign(), 3), "encode: packet must be a Packet, got 3"),
        (
            lambda: networks.encode(networks.sign(), send(networks.sign(), LIKE[None], ids=IDS[:1]), 1),
            r"encode: sender must be an integer in \[0, 0\], got 1",
        ),
        (
            lambda: networks.encode(networks.sign(), send(networks.perfect_channel(), LIKE[None], ids=IDS[:1])),
            "encode: packet must be one that passed the channel's 1 compressors, got one that passed 0",
        ),
        (
            lambda: networks.encode(NOISY, send(NOISY, LIKE[None], ids=IDS[:1])),
            "encode: packet must be one that the 64 bits counted for it can hold, got one of 160. Put noise before",
        ),
        (
            lambda: networks.encode(networks.sign(), send(networks.sign(), LIKE[None] / 0, ids=IDS[:1])),
            "encode: packet must be of finite values",
        ),
        (
            lambda: networks.encode(
                networks.loss(0.1), whole_packet({"a": jnp.zeros((1, 2)), "n": jnp.zeros((1, 2), int)})
            ),
            "encode: packet must be of arrays of one real type of at most 32 bits, got a leaf of int",
        ),
        (
            lambda: networks.decode(networks.sign(), np.zeros(35, bool), LIKE),
            "decode: bits must be a whole message, got",
        ),
        (
            lambda: networks.decode(networks.sign(), np.zeros(40, bool), LIKE),
            "decode: bits must be one whole message, got",
        ),
        (
            lambda: networks.decode(networks.sign(), np.zeros(36), LIKE),
            r"decode: bits must be bool \[num_bits\], got float",
        ),
        (
            lambda: networks.decode(networks.sign(), np.zeros(36, bool), LIKE, -2),
            "decode: node_id must be an integer >= -1",
        ),
        (lambda: networks.to_server("sign"), "to_server: channel must be a Channel, got 'sign'"),
    ],
)
def test_bad_input(attempt, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        attempt()
