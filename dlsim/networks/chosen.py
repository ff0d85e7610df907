"""Messages to receivers chosen inside the step: n nodes speak, each to at most k nodes that it names itself.

`send_to` is the verb; `gather_sent` and `combine_sent` are what the receivers make of it, for nodes or for the few that are
of interest.  Who is sent to need not be a neighbour: samples, committees, experts and partners drawn from views are sets
that no topology lists.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.core import Array, PyTree, Route
from dlsim.networks.fields import PERFECT, Inbox, NetworkFields, Sent, check_single
from dlsim.networks.messages import Fields, check_leading, count, message_bits, pass_channel, with_header
from dlsim.networks.mixing import DENSE_ROWS_PER_NODE
from dlsim.networks.pace.seconds import between, timed_links
from dlsim.running import counters


def send_to(
    network: Fields,
    key: Array,
    tree: PyTree,
    receivers: Array,
    senders: Array | None,
    header_bits: Array | int,
    may_repeat: bool,
    stream: str,
) -> tuple[Sent, Fields]:
    """Node `senders[i]` sends row i of `tree` to the nodes `receivers[i]`; see `Network.send_to`."""
    senders, receivers = _ends(network, receivers, senders, may_repeat)
    check_leading("send_to", tree, senders.shape[0])
    check_single("send_to", network)
    if network.delays is not None:
        fix = "A message is for the one it was sent to, who may be another one's business when it arrives."
        checks.fail("send_to", "network", "one without delays in rounds", "one with delays", fix)
    num, (size, width) = network.num_nodes, receivers.shape
    named = (receivers >= 0) & (receivers < num)
    to = jnp.where(named, receivers, 0)
    by = jnp.broadcast_to(senders[:, None], to.shape)
    is_self = named & (to == by)
    leaves = named & ~is_self
    if network.is_present is not None:
        here = network.is_present[senders]
        leaves = leaves & here[:, None] & network.is_present[to]
        is_self = is_self & here[:, None]
    if network.is_linked is not None:
        leaves = leaves & ~_is_down(network, by.reshape(-1), to.reshape(-1)).reshape(leaves.shape)
    ids = network.node_ids
    route = None
    if network.channel is not PERFECT:
        route = Route(node_ids=ids[senders], senders=ids[by.reshape(-1)], receivers=ids[to.reshape(-1)])
    copies = jnp.sum(leaves, axis=1, dtype=jnp.uint32)
    packet, network = pass_channel(network, key, tree, route, stream, senders, num, copies > 0)
    packet = with_header(packet, header_bits)
    arrived = leaves if packet.delivered is None else leaves & packet.delivered.reshape(size, width)
    bits = message_bits(packet)
    if timed_links(network) is not None:
        sizes = counters.as_float(bits)
        sent = jnp.zeros(num, sizes.dtype).at[senders].add(sizes * copies)
        heard = jnp.zeros(num, sizes.dtype).at[to].add(jnp.where(leaves, sizes[:, None], 0))
        network = between(network, key, stream, sent, heard)
    nothing = jnp.zeros(num, jnp.uint32)

    def at_senders(words: Array) -> Array:
        return nothing.at[senders].set(words, unique_indices=True)

    network = count(network, at_senders(copies), counters.Counter(*(at_senders(word) for word in bits)))
    made = Sent(
        values=packet.values,
        own=None if network.channel is PERFECT else tree,
        senders=senders,
        receivers=to,
        mask=arrived | is_self,
    )
    return made, network


def _ends(network: NetworkFields, receivers: Array, senders: Array | None, may_repeat: bool) -> tuple[Array, Array]:
    """The ends as positions, checked as far as they are known."""
    num = network.num_nodes
    if senders is None:
        senders = jnp.arange(num, dtype=jnp.int32)
    elif checks.is_concrete(senders):
        known = np.asarray(senders)
        in_range = known.ndim == 1 and known.min(initial=0) >= 0 and known.max(initial=0) < num
        if not in_range or len(set(known.tolist())) < known.size:
            checks.fail("send_to", "senders", f"distinct positions in 0..{num - 1}, [n]", checks.describe(senders))
    checks.shape("send_to", "receivers", receivers, (jnp.shape(senders)[0], None))
    if checks.is_concrete(receivers):
        known = np.asarray(receivers)
        if not np.issubdtype(known.dtype, np.integer) or known.max(initial=-1) >= num:
            rule = f"positions up to {num - 1}, negative for nobody, [n, k]"
            checks.fail("send_to", "receivers", rule, checks.describe(receivers))
        ordered = np.sort(known, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if twice.any() and not may_repeat:
            row = int(np.argmax(twice.any(axis=1)))
            checks.fail("send_to", "receivers", "distinct in each row", f"row {row} with one of them twice")
    return jnp.asarray(senders, jnp.int32), jnp.asarray(receivers, jnp.int32)


def _is_down(network: NetworkFields, senders: Array, receivers: Array) -> Array:
    """Whether there is an edge from `senders[l]` to `receivers[l]` that failed, bool `[L]`; by bisection of sorted edges."""
    size = network.num_edges
    if not size:
        return jnp.zeros(senders.shape, bool)
    order = jnp.lexsort((network.senders, network.receivers))
    to, by = network.receivers[order], network.senders[order]

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        before = (to[middle] < receivers) | ((to[middle] == receivers) & (by[middle] < senders))
        return jnp.where(before & (low < high), middle + 1, low), jnp.where(before | (low >= high), high, middle)

    first = jnp.zeros(senders.shape, jnp.int32)
    steps = math.ceil(math.log2(size + 1)) + 1
    place, _ = jax.lax.fori_loop(0, steps, halve, (first, jnp.full_like(first, size)))
    edge = order[jnp.minimum(place, size - 1)]
    found = (network.senders[edge] == senders) & (network.receivers[edge] == receivers)
    is_linked: jax.Array = network.is_linked  # type: ignore[assignment]
    return found & ~is_linked[edge]


def _rows(network: NetworkFields, sent: Sent, at: Array | None) -> tuple[Array, int]:
    """The row of each message among those of interest, `[n, k]`, their number where it is for nobody of them; and it."""
    if at is None:
        return jnp.where(sent.mask, sent.receivers, network.num_nodes), network.num_nodes
    size = at.shape[0]
    place = jnp.full(network.num_nodes, size, jnp.int32).at[at].set(jnp.arange(size, dtype=jnp.int32), mode="drop")
    return jnp.where(sent.mask, place[sent.receivers], size), size


def combine_sent(
    network: NetworkFields, sent: Sent, own: PyTree | None, weights: Array | None, at: Array | None
) -> PyTree:
    """What the receivers make of what arrived, `[m, ...]`; see `Network.combine_sent`."""
    rows, size = _rows(network, sent, at)
    if own is not None:
        check_leading("combine_sent", own, size)
    if weights is None:
        heard = jnp.zeros(size + 1).at[rows].add(jnp.where(sent.mask, 1.0, 0.0))
        share = 1 / jnp.maximum(heard + (own is not None), 1)
        by_message, left = share[rows], share[:size]
    else:
        checks.shape("combine_sent", "weights", weights, sent.mask.shape)
        by_message = weights
        left = 1 - jnp.zeros(size + 1, weights.dtype).at[rows].add(jnp.where(sent.mask, weights, 0))[:size]
    by_message = jnp.where(sent.mask, by_message, 0)
    if sent.own is not None:
        is_self = sent.receivers == sent.senders[:, None]
        of_self = jnp.sum(jnp.where(is_self, by_message, 0), axis=1)
        row_of_self = jnp.min(jnp.where(is_self, rows, size), axis=1)
        by_message = jnp.where(is_self, 0, by_message)
    is_dense = _is_dense(size, *rows.shape)
    if is_dense:
        sender = jnp.broadcast_to(jnp.arange(rows.shape[0])[:, None], rows.shape)
        matrix = jnp.zeros((size, rows.shape[0]), by_message.dtype).at[rows, sender].add(by_message, mode="drop")
    else:
        order = jnp.argsort(rows.reshape(-1), stable=True)
        to, row = rows.reshape(-1)[order], order // rows.shape[1]
        ordered = by_message.reshape(-1)[order]

    def leaf(values: Array, exact: Array | None, mine: Array | None) -> Array:
        flat = trees.widen(values.reshape(values.shape[0], -1))
        if is_dense:
            made = jnp.matmul(matrix.astype(flat.dtype), flat, precision=jax.lax.Precision.HIGHEST)
        else:
            parts = ordered.astype(flat.dtype)[:, None] * flat.at[row].get(mode="promise_in_bounds")
            made = jax.ops.segment_sum(parts, to, size + 1, indices_are_sorted=True)[:size]
        if exact is not None:
            part = of_self.astype(flat.dtype)[:, None] * trees.widen(exact.reshape(exact.shape[0], -1))
            made = made.at[row_of_self].add(part, mode="drop")
        if mine is not None:
            made = made + left.astype(flat.dtype)[:, None] * trees.widen(mine.reshape(size, -1))
        return made.reshape(size, *values.shape[1:]).astype(values.dtype)

    leaves, structure = jax.tree.flatten(sent.values)
    others = ([None] * len(leaves) if one is None else jax.tree.leaves(one) for one in (sent.own, own))
    return jax.tree.unflatten(structure, map(leaf, leaves, *others))


def _is_dense(num_receivers: int, num_senders: int, width: int) -> bool:
    """Whether a matrix product is the cheaper way, by the cost rule of `mixing`."""
    mean = num_senders * width / max(num_receivers, 1)
    share = DENSE_ROWS_PER_NODE.get(jax.default_backend(), 1 / 40)
    fits = num_receivers * num_senders <= 2**28
    return fits and (num_receivers * num_senders <= 2**10 or mean + 1 > num_senders * share)


def gather_sent(network: NetworkFields, sent: Sent, capacity: int, at: Array | None) -> tuple[Inbox, Array]:
    """The messages themselves, by receiver `[m, capacity, ...]`; see `Network.gather_sent`."""
    checks.integer("gather_sent", "capacity", capacity, 1)
    rows, size = _rows(network, sent, at)
    flat = rows.reshape(-1)
    num = flat.shape[0]
    order = jnp.argsort(flat, stable=True).astype(jnp.int32)
    to = flat[order]
    place = jnp.arange(num, dtype=jnp.int32) - jnp.searchsorted(to, to).astype(jnp.int32)
    table = jnp.full((size, capacity), num, jnp.int32).at[to, place].set(order, mode="drop")
    mask = table < num
    message = jnp.where(mask, table, 0)
    row = message // rows.shape[1]
    senders = sent.senders[row]
    values = jax.tree.map(lambda leaf: leaf.at[row].get(mode="promise_in_bounds"), sent.values)
    if sent.own is not None:
        is_self = mask & (senders == sent.receivers.reshape(-1)[message])
        exact = jax.tree.map(lambda leaf: leaf.at[row].get(mode="promise_in_bounds"), sent.own)
        values = trees.select(is_self, exact, values)
    heard = jnp.sum(mask, axis=1)
    weights = jnp.where(mask, 1 / (1 + heard[:, None]), 0)
    all_sent = jnp.zeros(size + 1, jnp.int32).at[flat].add(1)[:size]
    ids = network.node_ids if at is None else network.node_ids[at]
    senders = jnp.where(mask, senders, 0)
    everyone = jnp.concatenate([ids[:, None], network.node_ids[senders]], axis=1)
    inbox = Inbox(values, weights, mask, senders, node_ids=ids, candidate_ids=everyone)
    return inbox, all_sent - heard.astype(jnp.int32)
