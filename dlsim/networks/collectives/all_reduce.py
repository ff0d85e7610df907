"""`all_reduce`: one value of what all peers hold, over a ring or a butterfly, retried until nobody dies on the way."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.core import Array, Packet, PyTree, Route
from dlsim.networks import messages
from dlsim.networks.collectives import arithmetic
from dlsim.networks.collectives.arithmetic import Cost, MinMax
from dlsim.networks.collectives.pipes import Between, Pipes, butterfly_seconds, over, ring_seconds
from dlsim.networks.fields import PERFECT, NetworkFields
from dlsim.running import counters

Fields = TypeVar("Fields", bound=NetworkFields)

KINDS = ("ring", "butterfly")
OPERATIONS = ("mean", "sum")
QUANTIZATIONS = ("min_max",)
ROUNDINGS = ("floor", "nearest")
HEADER_BITS = 64  # smallest and largest entry of a chunk, float32
CODE_BITS = 8


@dataclasses.dataclass(frozen=True)
class Collective:
    """How peers reduce; make one with `collective`."""

    kind: str = "ring"
    operation: str = "mean"
    order: Any = None  # int32 [N]
    quantizer: MinMax | None = None
    owner_replaces: bool = True
    in_order: bool = True
    pipes: Pipes | None = None
    slices: Any = 1.0


class Reduced(NamedTuple):
    """What came of an `all_reduce`."""

    # What every participant has now, every leaf `[...]`; `[N, ...]`, a row a node, where the owners of quantised chunks keep
    # their own, since peers then differ.  Zero where nobody is left, the last one's own where one is.
    value: PyTree
    num_attempts: Array  # int32 [], the last one included
    participants: Array  # bool [N], whose vectors are in it: those that were there and did not die on the way
    succeeded: Array  # bool [], whether two or more were left
    seconds: Array  # float32 [], all attempts together; 0 without links or pipes


def collective(
    kind: str = "ring",
    *,
    operation: str = "mean",
    order: Any = None,
    quantization: str | None = None,
    rounding: str = "floor",
    faithful: bool = False,
    owner_replaces: bool = True,
    in_order: bool = True,
    pipes: Pipes | None = None,
    slices: Any = 1.0,
) -> Collective:
    """How `Network.all_reduce` goes about it.

    A **ring** of P peers cuts the vector in P chunks.  Each goes once around and collects what everyone has of it, and once
    more to hand out the sum: 2 (P - 1) hops, 2 (P - 1)/P D entries sent by each.  A **butterfly** halves log2 P times, with
    a partner twice as near each time, and doubles as often: the same entries where P is a power of two, in 2 log2 P
    messages.  Other P add up in pairs first, so that a power of two is left.

    With `quantization="min_max"` (rings) a chunk crosses each hop in 8 bits an entry, beside its smallest and largest entry
    (64 bits a chunk and hop):

        q = round(255 (x - min)/(max - min)),   x' = min + q (max - min)/255

    and is added in full precision: P - 1 times on its way around, once more by the owner of the sum, who **replaces its own
    by x'**, after which the same codes go to everyone.  That replacement is what makes all peers equal, bit for bit.

    Args:
      kind: "ring" or "butterfly".
      operation: "mean" over the participants, or "sum".
      order: positions in the order of the ring, a permutation `[N]` (see `ring_order`); those that are not there are left
        out of it.  None: as they are stored.  May be traced.
      quantization: None or "min_max".
      rounding: of it, "floor" (the library's, a cast that truncates, whose bias grows with P) or "nearest".
      faithful: keeps a quirk of the library: the search for max begins at the smallest positive float, so a chunk of
        negative numbers has max 1.2e-38.
      owner_replaces: False leaves the owner of a chunk its unquantised sum: peers differ then, and `value` is `[N, ...]`.
      in_order: whether additions keep their order, on which the last bits depend (for 8 peers in another order every
        second float32 is another one); False leaves it to the compiler, which is faster and right to rounding.
      pipes: rates and latencies between each two peers; None: the network's links.
      slices: pieces in which a chunk is handed on (rings), at least 1; may be traced.

    Source: Keiblinger, Sieg, Ong, Jaghouar, Hagemann, Prime Collective Communications Library, 2025, and its source (ring,
      quantiser, retry); Thakur, Rabenseifner, Gropp, Optimization of collective communication operations in MPICH, IJHPCA
      2005 (butterfly).  Differs: the reference computes x' as min + (q/255)(max - min), another rounding; the leaves of a
      tree are one operation, where the reference keeps the tensors that were through when a peer died.
    """
    where = "collective"
    checks.one_of(where, "kind", kind, KINDS)
    checks.one_of(where, "operation", operation, OPERATIONS)
    checks.one_of(where, "rounding", rounding, ROUNDINGS)
    for name, flag in (("faithful", faithful), ("owner_replaces", owner_replaces), ("in_order", in_order)):
        checks.flag(where, name, flag)
    quantizer = None
    if quantization is not None:
        checks.one_of(where, "quantization", quantization, QUANTIZATIONS)
        if kind != "ring":
            checks.fail(where, "quantization", "None for a butterfly", repr(quantization), 'Use kind="ring".')
        quantizer = MinMax(rounding, faithful)
    if not in_order and (quantizer is not None or kind != "ring"):
        checks.fail(where, "in_order", "True for a butterfly or a quantised ring", "False")
    if not owner_replaces and quantizer is None:
        checks.fail(where, "owner_replaces", "True where nothing is quantised", "False", 'Use quantization="min_max".')
    if order is not None:
        order = checks.array(where, "order", order, (None,))
        is_whole = jnp.issubdtype(order.dtype, jnp.integer)
        if not is_whole or (checks.is_concrete(order) and not np.array_equal(np.sort(order), np.arange(order.size))):
            checks.fail(where, "order", "a permutation of the positions 0..N-1", checks.describe(order))
    if pipes is not None:
        checks.instance(where, "pipes", pipes, Pipes, "Make them: pipes(bandwidth, latency).")
    checks.number(where, "slices", slices, 1.0)
    return Collective(kind, operation, order, quantizer, owner_replaces, in_order, pipes, slices)


RING = Collective()


class Deaths(NamedTuple):
    """How an operation was interrupted: attempt j = 0..num_failed-1 failed after the share `cuts[j]` of its time."""

    attempt: Array  # int32 [N], the attempt in which a peer died; N for those that lived
    cuts: Array  # float32 [N]
    num_failed: Array  # int32 []


def interrupted(is_present: Array, dies_at: Array | None) -> Deaths:
    """Who dies in which attempt.

    Times count in durations of an attempt.  The first begins at 0 and each other one when somebody dies; an attempt in
    which nobody dies for as long as it lasts is the last, and who dies later was part of it.  Who die at once interrupt it
    once.
    """
    size = is_present.shape[0]
    if dies_at is None:
        return Deaths(jnp.full(size, size, jnp.int32), jnp.zeros(size), jnp.zeros((), jnp.int32))
    times = jnp.where(is_present, dies_at, jnp.inf).astype(jnp.float32)
    ordered = jnp.sort(times)
    before = jnp.concatenate([jnp.zeros(1), ordered[:-1]])
    gap = jnp.where(jnp.isfinite(ordered), ordered - jnp.where(jnp.isfinite(before), before, 0), jnp.inf)
    interrupts = jnp.cumsum(gap >= 1) == 0
    is_first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] > ordered[:-1]])
    begins = interrupts & is_first
    attempt = jnp.cumsum(begins.astype(jnp.int32)) - 1
    cuts = jnp.zeros(size).at[jnp.where(begins, attempt, size)].set(gap, mode="drop")
    mine = jnp.searchsorted(ordered, times)  # the first of those who die at this time
    died = is_present & interrupts[mine]
    return Deaths(jnp.where(died, attempt[mine], size), cuts, jnp.sum(begins, dtype=jnp.int32))


class _Spent(NamedTuple):
    messages: counters.Counter  # [N]
    bits: counters.Counter  # [N]
    seconds: Array  # []


def all_reduce(
    network: Fields, key: Array, tree: PyTree, collective: Collective | None, stream: str
) -> tuple[Reduced, Fields]:
    """One value of the rows of all nodes that are there; see `Network.all_reduce`."""
    where, how = stream, RING if collective is None else collective
    checks.instance(where, "collective", how, Collective, "Make one: dlsim.networks.collective().")
    size = network.num_nodes
    messages.check_leading(where, tree, size)
    for leaf in jax.tree.leaves(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            checks.fail(where, "tree", "of floating numbers in every leaf", f"a leaf of dtype {leaf.dtype}")
    if network.delays is not None:
        fix = "Its hops take seconds, by links or pipes, and no rounds."
        checks.fail(where, "network", "one without delays", "one whose messages take rounds", fix)
    order = jnp.arange(size, dtype=jnp.int32) if how.order is None else jnp.asarray(how.order, jnp.int32)
    if order.shape != (size,):
        checks.fail(where, "collective.order", f"a permutation of all {size} positions", f"{order.shape[0]} of them")
    if how.pipes is not None and how.pipes.rate.shape[0] != size:
        got = f"pipes between {how.pipes.rate.shape[0]}"
        checks.fail(where, "collective.pipes", f"those between the network's {size} nodes", got)
    present = jnp.ones(size, bool) if network.is_present is None else network.is_present
    deaths = interrupted(present, None if network.membership is None else network.membership.dies_at)
    remain = present & (deaths.attempt >= deaths.num_failed)
    _check_enough(where, present, remain)

    packet, network = _through_channel(network, key, tree, stream, present, order)
    num = jnp.sum(remain, dtype=jnp.int32)
    ring = arithmetic.compact(remain, order)
    rank = arithmetic.ranks(remain, order)
    value = jax.tree.map(lambda leaf: _reduce(leaf, how, ring, rank, num, remain), packet.values)
    if not how.owner_replaces:
        value = jax.tree.map(
            lambda new, old: jnp.where(remain.reshape(-1, *(1,) * (new.ndim - 1)), new, old), value, tree
        )

    between = over(how.pipes, network.links)
    own_bits = None if network.channel is PERFECT else messages.message_bits(packet)

    def attempt(is_in: Array, share: Array | None) -> _Spent:
        return _spent(how, tree, own_bits, between, is_in, order, share)

    def failed(j: Array, spent: _Spent) -> _Spent:
        more = attempt(present & (deaths.attempt >= j), deaths.cuts[j])
        return _Spent(
            counters.add(spent.messages, more.messages),
            counters.add(spent.bits, more.bits),
            spent.seconds + more.seconds,
        )

    last = attempt(remain, None)
    spent = last if network.membership is None else jax.lax.fori_loop(0, deaths.num_failed, failed, last)
    traffic = network.state.traffic
    traffic = traffic._replace(
        messages=counters.add(traffic.messages, spent.messages),
        bits=counters.add(traffic.bits, spent.bits),
        clock=traffic.clock if between is None else counters.advance(traffic.clock, spent.seconds),
    )
    reduced = Reduced(
        value=value,
        num_attempts=deaths.num_failed + (num > 1).astype(jnp.int32),
        participants=remain,
        succeeded=num > 1,
        seconds=spent.seconds,
    )
    return reduced, network.with_state(network.state._replace(traffic=traffic))


def _check_enough(where: str, present: Array, remain: Array) -> None:
    """What is known before anything runs; inside a compiled step `succeeded` says it."""
    if checks.is_concrete((present, remain)):
        begin, end = int(np.sum(np.asarray(present))), int(np.sum(np.asarray(remain)))
        if begin < 2:
            fix = "Wait until others have joined."
            checks.fail(where, "network", "of two or more peers that are there", f"one of {begin}", fix)
        if end < 1:
            checks.fail(where, "network.membership", "such that a peer is left", f"all {begin} dying on the way")


def _through_channel(
    network: Fields, key: Array, tree: PyTree, stream: str, present: Array, order: Array
) -> tuple[Packet, Fields]:
    """What each peer puts in, as the channel makes it; sums on their way are as large as their share of it."""
    ids = network.node_ids
    following = jnp.zeros_like(order).at[order].set(jnp.roll(order, -1), unique_indices=True)
    route = Route(node_ids=ids, senders=ids, receivers=ids[following])
    packet, network = messages.pass_channel(network, key, tree, route, stream, None, network.num_nodes, present)
    if packet.delivered is not None:
        fix = "A collective waits for what is lost until it is there; peers die by a scenario, peer_churn."
        checks.fail(stream, "network.channel", "one that loses no message", "one that does", fix)
    return packet, network


def _reduce(leaf: Array, how: Collective, ring: Array, rank: Array, num: Array, remain: Array) -> Array:
    flat = leaf.reshape(leaf.shape[0], -1)
    if how.kind == "butterfly":
        shared = owned = arithmetic.butterfly_sum(flat, ring, num)
    elif how.in_order:
        wide = flat if how.quantizer is None else flat.astype(jnp.float32)
        shared, owned = arithmetic.ring_sum(wide, ring, num, how.quantizer)
    else:
        shared = owned = arithmetic.in_any_order(flat, remain)
    divisor = jnp.where(how.operation == "mean", jnp.maximum(num, 1), 1)

    def finish(total: Array) -> Array:
        return jnp.where(num > 0, total / divisor.astype(total.dtype), 0).astype(leaf.dtype)

    if how.owner_replaces:
        return finish(shared).reshape(leaf.shape[1:])
    owner = arithmetic.owners(flat.shape[1], num)
    return jnp.where(owner[None, :] == rank[:, None], finish(owned), finish(shared)).reshape(leaf.shape)


def _spent(
    how: Collective,
    tree: PyTree,
    own_bits: counters.Counter | None,
    between: Between | None,
    is_in: Array,
    order: Array,
    share: Array | None,
) -> _Spent:
    """Messages, bits `[N]` and seconds of one attempt of those that are in, or of a share of its time."""
    size = is_in.shape[0]
    rank = arithmetic.ranks(is_in, order)
    sent, bits, vector = counters.counter((size,)), counters.counter((size,)), jnp.float32(0)
    for leaf in jax.tree.leaves(tree):
        entries, width = leaf.size // size, 8 * leaf.dtype.itemsize
        cost = _cost(how, entries, is_in, rank)
        if share is not None:
            cost = Cost(*(jnp.floor(share * one.astype(jnp.float32)).astype(jnp.uint32) for one in cost))
        header = counters.product(cost.messages, jnp.uint32(0 if how.quantizer is None else HEADER_BITS))
        width = width if how.quantizer is None else CODE_BITS
        body = counters.product(cost.entries, jnp.uint32(width))
        if own_bits is not None and how.quantizer is None:  # as large as the channel says, in this leaf's share
            part = cost.entries.astype(jnp.float32) / trees.num_entries(tree)
            body = _to_counter(part * counters.as_float(own_bits))
        sent = counters.add(sent, counters.from_words(cost.messages))
        bits = counters.add(bits, counters.add(body, header))
        vector = vector + entries * width
    seconds = jnp.float32(0)
    if between is not None:
        if own_bits is not None and how.quantizer is None:
            vector = jnp.max(jnp.where(is_in, counters.as_float(own_bits), 0))
        ring, num = arithmetic.compact(is_in, order), jnp.sum(is_in, dtype=jnp.int32)
        if how.kind == "ring":
            seconds = ring_seconds(between, vector, ring, num, how.slices)
        else:
            seconds = butterfly_seconds(between, vector, ring, num)
        seconds = seconds if share is None else share * seconds
    return _Spent(sent, bits, seconds)


def _cost(how: Collective, num_entries: int, is_in: Array, rank: Array) -> Cost:
    if how.kind == "ring":
        return arithmetic.ring_cost(num_entries, is_in, rank)
    return arithmetic.butterfly_cost(num_entries, is_in, rank, is_in.shape[0])


def _to_counter(value: Array) -> counters.Counter:
    """A whole number kept as a float, as a counter."""
    whole = jnp.floor(value)
    high = jnp.floor(whole * 2.0**-32)
    return counters.Counter(low=(whole - high * 2.0**32).astype(jnp.uint32), high=high.astype(jnp.uint32))
