"""Messages to receivers chosen inside the step: who hears what, what it costs, against loops over messages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import networks
from dlsim.networks import chosen
from dlsim.running.counters import to_float

KEY = jax.random.key(7)
BITS = 32 * 5
# Of six nodes 4, 0 and 3 speak: 4 to 1 and 5, 0 to itself and 1, 3 to 2.
SENDERS = jnp.array([4, 0, 3], jnp.int32)
RECEIVERS = jnp.array([[1, 5], [0, 1], [-1, 2]], jnp.int32)


def network() -> networks.Network:
    return networks.ring(6)


def message(num: int = 3) -> dict[str, jax.Array]:
    return {"a": jnp.arange(num * 2.0).reshape(num, 2) + 1, "b": -jnp.arange(num * 3.0).reshape(num, 3)}


def traffic(after: networks.Network) -> tuple[list[float], list[float]]:
    counted = after.state.traffic
    return to_float(counted.messages).tolist(), to_float(counted.bits).tolist()


def heard(sent: Any) -> set[tuple[int, int]]:
    """(sender, receiver) of what arrived."""
    rows, columns = np.nonzero(np.asarray(sent.mask))
    return {(int(sent.senders[i]), int(sent.receivers[i, c])) for i, c in zip(rows, columns, strict=True)}


def test_each_message_counts_at_its_sender_and_one_to_oneself_does_not() -> None:
    sent, after = network().send_to(KEY, message(), RECEIVERS, senders=SENDERS)
    assert heard(sent) == {(4, 1), (4, 5), (0, 0), (0, 1), (3, 2)}
    assert traffic(after) == ([1, 0, 0, 1, 2, 0], [BITS, 0, 0, BITS, 2 * BITS, 0])
    _, after = after.send_to(KEY, message(), RECEIVERS, senders=SENDERS, header_bits=40)
    assert traffic(after) == ([2, 0, 0, 2, 4, 0], [2 * BITS + 40, 0, 0, 2 * BITS + 40, 4 * BITS + 80, 0])


def test_the_mean_of_what_was_heard_and_of_ones_own() -> None:
    sent, after = network().send_to(KEY, message(), RECEIVERS, senders=SENDERS)
    a = np.array([[1.0, 2], [3, 4], [5, 6]])
    made = after.combine_sent(sent)["a"]
    np.testing.assert_allclose(made, [a[1], (a[0] + a[1]) / 2, a[2], 0 * a[0], 0 * a[0], a[0]])
    own = message(6)
    made = after.combine_sent(sent, own)["a"]
    x = np.asarray(own["a"])
    expected = [(x[0] + a[1]) / 2, (x[1] + a[0] + a[1]) / 3, (x[2] + a[2]) / 2, x[3], x[4], (x[5] + a[0]) / 2]
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_weights_of_messages_and_the_few_that_are_of_interest() -> None:
    sent, after = network().send_to(KEY, message(), RECEIVERS, senders=SENDERS)
    weights = jnp.array([[0.5, 9.0], [9.0, 0.25], [0.0, 9.0]])
    own = {"a": jnp.full((2, 2), 8.0), "b": jnp.zeros((2, 3))}
    made = after.combine_sent(sent, own, weights=weights, at=jnp.array([1, 3]))["a"]
    # Node 1: 0.25 of its own 8, half of (1, 2), a quarter of (3, 4).
    np.testing.assert_allclose(made, [[2 + 0.5 + 0.75, 2 + 1 + 1], [8, 8]])


def test_the_messages_themselves_and_how_many_found_no_place() -> None:
    sent, after = network().send_to(KEY, message(), RECEIVERS, senders=SENDERS)
    inbox, dropped = after.gather_sent(sent, 1, at=jnp.array([5, 1, 0, 3]))
    assert dropped.tolist() == [0, 1, 0, 0]
    assert inbox.mask[:, 0].tolist() == [True, True, True, False]
    assert inbox.senders[:3, 0].tolist() == [4, 4, 0]
    np.testing.assert_allclose(inbox.values["a"][:3, 0], [[1, 2], [1, 2], [3, 4]])
    inbox, dropped = after.gather_sent(sent, 3)
    assert dropped.tolist() == [0] * 6
    np.testing.assert_allclose(inbox.weights[1], [1 / 3, 1 / 3, 0])


def test_nothing_is_sent_by_or_to_who_is_away_or_over_a_link_that_failed() -> None:
    base = network()
    is_present = jnp.array([True, True, True, True, True, False])
    pairs = list(zip(base.senders.tolist(), base.receivers.tolist(), strict=True))
    is_linked = jnp.array([pair != (3, 2) for pair in pairs])
    base = base.replace(is_present=is_present, is_linked=is_linked)
    sent, after = base.send_to(KEY, message(), RECEIVERS, senders=SENDERS)
    assert heard(sent) == {(4, 1), (0, 0), (0, 1)}  # 4 and 1 share no link, so none of theirs can fail
    assert traffic(after)[0] == [1, 0, 0, 0, 1, 0]
    away = base.replace(is_present=is_present.at[0].set(False))
    assert heard(away.send_to(KEY, message(), RECEIVERS, senders=SENDERS)[0]) == {(4, 1)}


def test_failed_links_are_found_whatever_the_order_of_the_edges() -> None:
    base = networks.erdos_renyi(20, 0.3, seed=1)
    order = np.argsort(np.asarray(base.receivers) + np.random.default_rng(0).random(base.num_edges))
    up = np.random.default_rng(1).random(base.num_edges) < 0.5
    mixed = base.replace(senders=base.senders[order], receivers=base.receivers[order], is_linked=jnp.asarray(up))
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2)
    down = chosen._is_down(mixed, jnp.asarray(grid[:, 0]), jnp.asarray(grid[:, 1]))
    pairs = np.stack([mixed.senders, mixed.receivers], 1)
    failed = {tuple(pair) for pair in pairs[~up].tolist()}
    assert [tuple(pair) in failed for pair in grid.tolist()] == down.tolist()


def test_a_channel_touches_what_is_sent_and_not_what_a_node_hears_of_itself() -> None:
    coarse = network().with_channel(networks.top_k(1))
    sent, after = coarse.send_to(KEY, message(), RECEIVERS, senders=SENDERS, header_bits=7)
    index = int(np.ceil(np.log2(5)))
    assert traffic(after)[1] == [32 + index + 7, 0, 0, 32 + index + 7, 2 * (32 + index + 7), 0]
    made = after.combine_sent(sent, at=jnp.array([0, 5]))
    np.testing.assert_allclose(made["a"], [[3, 4], [0, 2]])
    inbox, _ = after.gather_sent(sent, 2, at=jnp.array([0, 5]))
    np.testing.assert_allclose(inbox.values["a"][:, 0], [[3, 4], [0, 2]])
    lossy = network().with_channel(networks.loss(1.0))
    sent, after = lossy.send_to(KEY, message(), RECEIVERS, senders=SENDERS)
    assert heard(sent) == {(0, 0)}
    assert traffic(after)[0] == [1, 0, 0, 1, 2, 0]


def test_error_feedback_belongs_to_the_node_that_speaks() -> None:
    """Node 4's residual is that of its own messages, whichever row it speaks from."""
    coarse = network().with_channel(networks.top_k(1, error_feedback=True))
    tree = {"a": jnp.array([[3.0, 1.0], [5.0, 4.0]])}
    to = jnp.array([[1], [2]])
    state = {"send_to": coarse.channel.init({"a": jnp.zeros((6, 2))}, 6)}
    coarse = coarse.with_state(coarse.state._replace(channels=state))
    _, after = coarse.send_to(KEY, tree, to, senders=jnp.array([4, 2]))
    sent, _ = after.send_to(KEY, {"a": jnp.zeros((2, 2))}, to, senders=jnp.array([0, 4]))
    np.testing.assert_allclose(sent.values["a"], [[0, 0], [0, 1]])


def test_links_take_the_seconds_of_the_slowest() -> None:
    timed = network().with_links(networks.links(6, upload=BITS, download=BITS / 4, latency=0.5))
    _, after = timed.send_to(KEY, message(), RECEIVERS, senders=SENDERS)
    # Node 4 pushes two messages in 2 s; node 1 takes two in 8 s.
    assert float(after.state.traffic.clock.seconds) + float(after.state.traffic.clock.nanoseconds) * 1e-9 == 8.5


@pytest.mark.parametrize("num", [12, 300])  # a matrix product, and sums by receiver
def test_sums_agree_with_a_loop_over_messages(num: int) -> None:
    rng = np.random.default_rng(num)
    senders = rng.permutation(num)[: num // 2].astype(np.int32)
    receivers = np.stack([rng.permutation(num)[:3] for _ in senders]).astype(np.int32)
    receivers[rng.random(receivers.shape) < 0.2] = -1
    weights = rng.random(receivers.shape).astype(np.float32)
    values, own = rng.normal(size=(len(senders), 4, 2)), rng.normal(size=(num, 4, 2))
    network = networks.ring(num).with_channel(networks.loss(0.3))
    assert chosen._is_dense(num, *receivers.shape) == (num == 12)

    @jax.jit
    def both(values: jax.Array, own: jax.Array) -> Any:
        sent, after = network.send_to(KEY, values, receivers, senders=senders)
        return sent.mask, after.combine_sent(sent, own, weights=weights), after.combine_sent(sent)

    mask, weighed, mean = both(jnp.asarray(values, jnp.float32), jnp.asarray(own, jnp.float32))
    assert 0.5 < mask.sum() / (receivers >= 0).sum() < 0.9
    left, total, plain, heard = np.ones(num), np.zeros_like(own), np.zeros_like(own), np.zeros(num)
    for i, c in zip(*np.nonzero(np.asarray(mask)), strict=True):
        r = receivers[i, c]
        left[r] -= weights[i, c]
        total[r] += weights[i, c] * values[i]
        plain[r] += values[i]
        heard[r] += 1
    np.testing.assert_allclose(weighed, left[:, None, None] * own + total, atol=2e-5)
    np.testing.assert_allclose(mean, plain / np.maximum(heard, 1)[:, None, None], atol=2e-5)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"receivers": jnp.array([[1, 1], [0, 1], [2, 3]])}, "receivers must be distinct in each row, got row 0"),
        ({"receivers": jnp.array([[6], [0], [1]])}, "receivers must be positions up to 5"),
        ({"receivers": jnp.array([1, 2, 3])}, "receivers must"),
        ({"senders": jnp.array([1, 1, 2])}, r"senders must be distinct positions in 0..5"),
        ({"senders": jnp.array([1, 6, 2])}, r"senders must be distinct positions in 0..5"),
        ({"tree": jnp.zeros((4, 2))}, "tree must be stacked over 3 nodes"),
    ],
)
def test_bad_ends(change: dict[str, Any], line: str) -> None:
    given = {"tree": message(), "receivers": RECEIVERS, "senders": SENDERS} | change
    with pytest.raises(ValueError, match=f"send_to: {line}"):
        network().send_to(KEY, **given)


def test_bad_ways_to_receive() -> None:
    sent, after = network().send_to(KEY, message(), RECEIVERS, senders=SENDERS)
    with pytest.raises(ValueError, match="combine_sent: tree must be stacked over 2 nodes"):
        after.combine_sent(sent, message(), at=jnp.array([0, 1]))
    with pytest.raises(ValueError, match="combine_sent: weights must"):
        after.combine_sent(sent, weights=jnp.ones(3))
    with pytest.raises(ValueError, match="gather_sent: capacity must be"):
        after.gather_sent(sent, 0)
    late = network().with_delays(networks.fixed_delay(1))
    with pytest.raises(ValueError, match="send_to: network must be one without delays in rounds"):
        late.send_to(KEY, message(), RECEIVERS, senders=SENDERS)
