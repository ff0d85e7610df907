"""Traffic, simulated seconds and what arrives, against sums done by hand on a small irregular graph."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlsim
from dlsim import networks
from dlsim.running import counters
from dlsim.running.counters import to_float

KEY = jax.random.key(5)
EDGES = [(0, 1), (1, 2), (1, 3), (3, 4), (2, 3)]  # degrees 1, 3, 2, 3, 1
BITS = 32 * 5  # two leaves: [2] and [3] float32


def network() -> dlsim.networks.Network:
    senders, receivers = np.array(EDGES).T
    return networks.connect(networks.graph(5, senders, receivers))


def message(num: int = 5) -> dict[str, jax.Array]:
    return {"a": jnp.arange(num * 2.0).reshape(num, 2), "b": -jnp.arange(num * 3.0).reshape(num, 3)}


def traffic(n: dlsim.networks.Network) -> tuple[list[float], list[float]]:
    state = n.state.traffic
    return to_float(state.messages).tolist(), to_float(state.bits).tolist()


def test_mix_and_gather_count_each_copy_at_its_sender() -> None:
    for verb in ("mix", "gather"):
        _, after = getattr(network(), verb)(KEY, message())
        assert traffic(after) == ([1, 3, 2, 3, 1], [BITS * d for d in (1, 3, 2, 3, 1)])
        _, twice = getattr(after, verb)(KEY, message())
        assert traffic(twice)[0] == [2, 6, 4, 6, 2]


def test_absent_nodes_and_failed_links_carry_nothing() -> None:
    present = jnp.array([True, True, False, True, True])
    base = network()
    pairs = [{int(i), int(j)} for i, j in zip(base.senders, base.receivers, strict=True)]
    linked = jnp.array([pair != {3, 4} for pair in pairs])
    _, after = base.replace(is_present=present, is_linked=linked).mix(KEY, message())
    # Left: 0-1 and 1-3.
    assert traffic(after)[0] == [1, 2, 0, 1, 0]


def test_lost_messages_are_paid_for() -> None:
    _, after = network().with_channel(networks.loss(1.0)).mix(KEY, message())
    assert traffic(after) == ([1, 3, 2, 3, 1], [BITS * d for d in (1, 3, 2, 3, 1)])


def test_gather() -> None:
    present = jnp.array([True, True, False, True, True])
    inbox, _ = network().replace(is_present=present).gather(KEY, message())
    heard = {i: sorted(np.asarray(inbox.senders[i])[np.asarray(inbox.mask[i])].tolist()) for i in range(5)}
    assert heard == {0: [1], 1: [0, 3], 2: [], 3: [1, 4], 4: [3]}
    for i in range(5):
        for k in range(inbox.mask.shape[1]):
            if inbox.mask[i, k]:
                np.testing.assert_array_equal(inbox.values["b"][i, k], message()["b"][inbox.senders[i, k]])
                assert float(inbox.weights[i, k]) == pytest.approx(
                    0.25 if {1, 3} & {i, int(inbox.senders[i, k])} else 1
                )
            else:
                assert inbox.weights[i, k] == 0


def test_exchange() -> None:
    partner = jnp.array([1, 0, 3, 2, 4])
    arrival, after = network().exchange(KEY, message(), partner)
    assert arrival.mask.tolist() == [True, True, True, True, False]
    np.testing.assert_array_equal(arrival.values["a"], message()["a"][partner])
    assert traffic(after) == ([1, 1, 1, 1, 0], [BITS, BITS, BITS, BITS, 0])
    present = jnp.array([True, True, True, False, True])
    arrival, after = network().replace(is_present=present).exchange(KEY, message(), partner)
    assert arrival.mask.tolist() == [True, True, False, False, False]
    np.testing.assert_array_equal(arrival.values["a"][2:], message()["a"][2:])
    assert traffic(after)[0] == [1, 1, 0, 0, 0]


def test_uplink_and_downlink() -> None:
    arrival, after = network().uplink(KEY, message())
    assert arrival.mask.all() and traffic(after) == ([1] * 5, [BITS] * 5)
    cohort = network().replace(
        cohort=jnp.array([3, 0], jnp.int32), is_present=jnp.array([True, False, False, False, False])
    )
    model = jax.tree.map(lambda leaf: leaf[0] + 7, message())
    down, after = cohort.downlink(KEY, model)
    assert down.mask.tolist() == [False, True]
    np.testing.assert_array_equal(down.values["b"], jnp.broadcast_to(model["b"], (2, 3)))
    server = after.state.traffic
    assert (to_float(server.server_messages), to_float(server.server_bits)) == (1, BITS)
    up, after = after.uplink(KEY, message(2))
    assert up.mask.tolist() == [False, True]
    assert traffic(after) == ([1, 0, 0, 0, 0], [BITS, 0, 0, 0, 0])


def test_a_message_an_edge() -> None:
    base = network()
    rows = {"x": jnp.arange(base.num_edges * 2.0).reshape(-1, 2)}
    down = jnp.arange(base.num_edges) % 4 != 0
    arrival, after = networks.send_edges(base.replace(is_linked=down), KEY, rows)
    np.testing.assert_array_equal(arrival.mask, down)
    sent = np.bincount(np.asarray(base.senders), np.asarray(down), 5)
    assert traffic(after) == (sent.tolist(), (64 * sent).tolist())
    back = networks.reverse_edges(base)
    np.testing.assert_array_equal(base.senders[back], base.receivers)
    np.testing.assert_array_equal(base.receivers[back], base.senders)


SPARSE_BITS = 2 * 32 + 2 * 3  # two numbers of five and their places


def in_disrepair(channel: dlsim.Channel | None = None) -> dlsim.networks.Network:
    """Node 2 is away and 3-4 is down, which leaves 0-1 and 1-3."""
    base = network() if channel is None else network().with_channel(channel)
    pairs = [{int(i), int(j)} for i, j in zip(base.senders, base.receivers, strict=True)]
    return base.replace(
        is_present=jnp.array([True, True, False, True, True]), is_linked=jnp.array([pair != {3, 4} for pair in pairs])
    )


@pytest.mark.parametrize(
    "verb", ["mix", "gather", "send", "send_edges", "exchange", "exchange_down", "uplink", "downlink"]
)
def test_every_verb_counts_compressed_lossy_messages_among_who_is_left(verb: str) -> None:
    n = in_disrepair(networks.chain(networks.top_k(2), networks.loss(0.5)))
    by_hand = {
        "exchange": [1, 1, 0, 0, 0],
        "exchange_down": [1, 1, 0, 0, 0],
        "uplink": [1, 1, 0, 1, 1],
        "downlink": [0] * 5,
    }
    if verb == "send_edges":
        _, after = networks.send_edges(n, KEY, message(n.num_edges))
    elif verb.startswith("exchange"):  # 2 is away; 3-4 is down
        _, after = n.exchange(KEY, message(), jnp.array([1, 0, 3, 2, 4] if verb == "exchange" else [1, 0, 2, 4, 3]))
    elif verb == "downlink":
        _, after = n.downlink(KEY, jax.tree.map(lambda leaf: leaf[0], message()))
    else:
        _, after = getattr(n, verb)(KEY, message())
    copies = by_hand.get(verb, [1, 2, 0, 1, 0])
    assert traffic(after) == (copies, [SPARSE_BITS * c for c in copies])
    server = after.state.traffic
    expected = 4 if verb == "downlink" else 0
    assert (to_float(server.server_messages), to_float(server.server_bits)) == (expected, SPARSE_BITS * expected)


def test_bits_of_leaves_of_several_dtypes() -> None:
    x = {"a": jnp.ones((5, 7)), "b": jnp.ones((5, 5), jnp.bfloat16), "c": jnp.ones((5, 2), jnp.int8)}
    _, after = network().mix(KEY, {name: x[name] for name in "ab"})
    assert traffic(after)[1] == [(7 * 32 + 5 * 16) * d for d in (1, 3, 2, 3, 1)]
    _, after = network().uplink(KEY, x)
    assert traffic(after)[1] == [7 * 32 + 5 * 16 + 2 * 8] * 5


def test_exchange_over_failed_links() -> None:
    """A link that fails one way takes that way's message along, and nothing else."""
    base, partner = network(), jnp.array([1, 0, 3, 2, 4])
    way = list(zip(base.senders.tolist(), base.receivers.tolist(), strict=True))
    linked = jnp.array([edge not in ((0, 1), (2, 3), (3, 2), (1, 2)) for edge in way])
    n = base.with_channel(networks.error_feedback(networks.top_k(1))).replace(is_linked=linked)
    arrival, after = jax.jit(lambda n, p: n.exchange(KEY, message(), p))(n, partner)
    assert arrival.mask.tolist() == [True, False, False, False, False]  # 0 hears 1
    assert traffic(after)[0] == [0, 1, 0, 0, 0]
    np.testing.assert_array_equal(arrival.values["a"][1:], message()["a"][1:])
    residual = after.state.channels["exchange"][0]["b"]
    assert np.abs(residual).sum(axis=1).astype(bool).tolist() == [False, True, False, False, False]


def test_edges_that_are_down_keep_their_residual() -> None:
    cycle = networks.graph(5, np.arange(5), (np.arange(5) + 1) % 5, is_directed=True)  # as many edges as nodes
    for base in (in_disrepair(), networks.connect(cycle, "row_stochastic")):
        n = base.with_channel(networks.error_feedback(networks.top_k(1)))
        n = n.replace(is_present=jnp.array([True, True, False, True, True]))
        _, after = networks.send_edges(n, KEY, {"x": jnp.ones((n.num_edges, 3))})
        kept = np.abs(after.state.channels["edges"][0]["x"]).sum(axis=1) == 0
        up = (np.asarray(n.senders) != 2) & (np.asarray(n.receivers) != 2)
        np.testing.assert_array_equal(kept, ~(up if n.is_linked is None else up & np.asarray(n.is_linked)))


def test_listed_and_implicit_complete_graphs_take_the_same_time() -> None:
    """With messages of unequal sizes, and with absent nodes."""
    rates = networks.links(6, download=100.0, upload=1e9)
    channel = networks.random_sparsification(0.5)
    for present in (None, jnp.array([True, True, False, True, False, True]), jnp.arange(6) == 2):
        seconds = []
        for base in (networks.complete(6), dlsim.networks.network.complete_network(6)):
            n = base.with_links(rates).with_channel(channel).replace(is_present=present)
            packet, after = n.send(KEY, {"x": jnp.ones((6, 40))})
            seconds.append(float(to_float(after.state.traffic.clock)))
        sizes = np.asarray(packet.num_entries) * 32.0 + 64
        there = np.ones(6, bool) if present is None else np.asarray(present)
        hears = max(sizes[there & (np.arange(6) != i)].sum() for i in np.flatnonzero(there))
        np.testing.assert_allclose(seconds, hears / 100, rtol=1e-6)


def test_sizes_past_32_bits() -> None:
    """A message of 2^31 numbers, without holding one: shapes are all that counts."""
    big = jax.eval_shape(lambda: {"x": jnp.zeros((5, 2**27), jnp.float32)})
    n = network()
    _, after = jax.eval_shape(lambda x: n.mix(KEY, x), big)
    assert after.state.traffic.bits.low.dtype == jnp.uint32
    for _ in range(3):
        n = dlsim.networks.messages.count(
            n, n.out_degrees, counters.product(jnp.full(5, 2**31, jnp.uint32), jnp.uint32(32))
        )
    assert traffic(n)[1] == [3 * 2.0**36 * d for d in (1, 3, 2, 3, 1)]


def test_simulated_seconds() -> None:
    rates = networks.links(
        5,
        latency=0.5,
        upload=np.array([1e3, 1e3, 1e3, 500.0, 1e3]),
        download=1e4,
        server_download=250.0,
        server_upload=1e6,
    )
    base = network().with_links(rates)

    def seconds(n: dlsim.networks.Network) -> float:
        return float(to_float(n.state.traffic.clock))

    _, after = base.mix(KEY, message())
    assert seconds(after) == pytest.approx(0.5 + 3 * BITS / 500)  # node 3 pushes three copies
    _, after = after.exchange(KEY, message(), jnp.array([1, 0, 2, 3, 4]))
    assert seconds(after) == pytest.approx(1.0 + 3 * BITS / 500 + BITS / 1000)
    _, after = base.uplink(KEY, message())
    assert seconds(after) == pytest.approx(0.5 + 5 * BITS / 250)  # the server's own link is the narrow one
    _, after = base.downlink(KEY, jax.tree.map(lambda leaf: leaf[0], message()))
    assert seconds(after) == pytest.approx(0.5 + BITS / 1e4)
    _, after = base.exchange(KEY, message(), jnp.arange(5))
    assert seconds(after) == 0  # nobody talks


def test_a_stream_has_one_shape() -> None:
    base = network().with_channel(networks.error_feedback(networks.top_k(0.5)))

    def two_shapes(n: dlsim.networks.Network) -> jax.Array:
        _, n = n.mix(KEY, message())
        _, n = n.mix(KEY, {"x": jnp.ones((5, 3))})
        return n.node_ids

    with pytest.raises(ValueError, match="stream must be used for messages of one shape, got 'mix'"):
        dlsim.networks.messages.open_channels(base, two_shapes)


def test_streams_keep_states_of_their_own_and_absent_senders_theirs() -> None:
    base = network().with_channel(networks.error_feedback(networks.top_k(1)))

    def rounds(n: dlsim.networks.Network) -> dlsim.networks.Network:
        _, n = n.mix(KEY, message(), stream="one")
        _, n = n.mix(KEY, jax.tree.map(jnp.negative, message()), stream="two")
        return n

    opened = dlsim.networks.messages.open_channels(base, lambda n: rounds(n).node_ids)
    assert sorted(opened.state.channels) == ["one", "two"]
    present = jnp.array([True, False, True, True, True])
    after = rounds(opened.replace(is_present=present))
    residual = {name: after.state.channels[name][0] for name in ("one", "two")}
    np.testing.assert_array_equal(residual["one"]["b"][1], 0)
    assert (np.abs(residual["one"]["b"][2:]).sum(axis=1) > 0).all()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, -b), residual["one"], residual["two"])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda n: n.mix(KEY, {"x": jnp.ones((4, 2))}), "mix: tree must be stacked over 5 nodes in every leaf"),
        (lambda n: n.exchange(KEY, message(), jnp.arange(4)), r"exchange: partner must be of shape \[5\], got \[4\]"),
        (
            lambda n: n.exchange(KEY, message(), np.array([1, 2, 0, 3, 4])),
            r"exchange: partner must be its own inverse, got partner\[0\] = 1, not mutual",
        ),
        (
            lambda n: networks.links(5, upload=np.array([1.0, 0, 1, 1, 1])),
            r"links: upload\[1\] must be a number in \(0, inf\), got 0",
        ),
        (lambda n: n.mix(KEY, message(), weights=jnp.ones((3, 3))), r"mix: weights must be of shape \[5, 5\]"),
        (lambda n: n.with_channel(networks.churn()), "with_channel: channel must be a Channel, got Scenario"),
        (lambda n: n.with_links(networks.links(4)), r"with_links: links.upload must be of shape \[5\]"),
        (lambda n: networks.links(5, upload=0.0), r"links: upload must be a number in \(0, inf\)"),
        (lambda n: networks.links(5, latency=-1), r"links: latency must be a number in \[0, inf\)"),
        (lambda n: networks.chain(networks.loss(0.1), networks.churn()), "chain: parts must be all channels or all"),
        (lambda n: networks.chain(8), "chain: parts must be all channels or all scenarios, got int"),
    ],
)
def test_bad_input(call, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        call(network())
