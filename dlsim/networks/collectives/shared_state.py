"""The state that peers share: its hash, whose copy counts, and how the others come by it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.core import Array, PyTree
from dlsim.networks import messages
from dlsim.networks.collectives.pipes import Pipes
from dlsim.networks.fields import NetworkFields
from dlsim.networks.pace.links import check_alone
from dlsim.running import counters

Fields = TypeVar("Fields", bound=NetworkFields)

LANES = 256


def state_hash(tree: PyTree) -> Array:
    """A hash of the bits of each row of `tree` (every leaf `[n, ...]`), uint32 `[n]`.

        combine(a, b) = rotl7(a xor (b + 0x9e3779b1)) 0x85ebca6b

    The words of all leaves, one after the other, are dealt to 256 lanes, each lane folds its own, and the lanes are folded
    last.  Rows that differ in a bit (0 and
    -0 do, as do two NaNs) have the same hash by chance only, once in 2^32.

    Source: the function of the Prime Collective Communications Library, 2025.
    """
    leaves = jax.tree.leaves(tree)
    if not leaves or any(not jnp.ndim(leaf) for leaf in leaves):
        checks.fail("state_hash", "tree", "of rows [n, ...] in every leaf", "one without leaves or with a number")
    messages.check_leading("state_hash", tree, leaves[0].shape[0])
    words = jnp.concatenate([_words(jnp.asarray(leaf)) for leaf in leaves], axis=1)
    columns = math.ceil(words.shape[1] / LANES)
    words = jnp.pad(words, ((0, 0), (0, columns * LANES - words.shape[1])))
    words = jnp.moveaxis(words.reshape(-1, columns, LANES), 1, 0)
    lanes, _ = jax.lax.scan(lambda a, b: (_combine(a, b), None), jnp.zeros(words.shape[1:], jnp.uint32), words)
    return jax.lax.scan(lambda a, b: (_combine(a, b), None), jnp.zeros(lanes.shape[0], jnp.uint32), lanes.T)[0]


def _words(leaf: Array) -> Array:
    """The bits of every row as words, uint32 `[n, L]`."""
    flat = leaf.reshape(leaf.shape[0], -1)
    if flat.dtype == bool:
        return flat.astype(jnp.uint32)
    width = flat.dtype.itemsize
    if width == 8:
        return jax.lax.bitcast_convert_type(flat, jnp.uint32).reshape(flat.shape[0], -1)
    same = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[width]
    return jax.lax.bitcast_convert_type(flat, same).astype(jnp.uint32)


def _combine(a: Array, b: Array) -> Array:
    mixed = a ^ (b + jnp.uint32(0x9E3779B1))
    return ((mixed << 7) | (mixed >> 25)) * jnp.uint32(0x85EBCA6B)


def _whole(
    where: str, name: str, value: Any, shape: tuple[int | None, ...], most: int = 2**31 - 1, dtype: Any = jnp.int32
) -> Array:
    """Whole numbers of this shape, which may be traced."""
    got = checks.array(where, name, value, shape, 0, most)
    if not jnp.issubdtype(got.dtype, jnp.integer):
        checks.fail(where, name, "integers", checks.describe(value))
    return jnp.asarray(got, dtype)


def _mask(where: str, name: str, value: Any, size: int) -> Array:
    """True or False for each of `size` nodes, which may be traced."""
    got = value if isinstance(value, jax.core.Tracer) else checks.host(where, name, value, f"of shape [{size}], bool")
    if got.dtype != bool:
        checks.fail(where, name, f"of shape [{size}], bool", checks.describe(value))
    checks.shape(where, name, got, (size,))
    return jnp.asarray(got)


def elect(hashes: Any, revisions: Any, expected: Any, candidates: Any = None) -> Array:
    """Whose state counts: the position of the elected node, int32 `[]`, -1 where nobody stands.

    A candidate whose revision is the expected one (any is where 0 is expected) goes before one that is ahead, and that
    before one that is behind.  Among the foremost the hash held by most of them wins, then the node stored first.  A
    majority that lies wins as well.

    Args:
      hashes: uint32 `[N]`, as `state_hash` gives them.
      revisions: integers `[N]`.
      expected: an integer `[]`.
      candidates: bool `[N]`; None: everyone stands.
    """
    hashes = _whole("elect", "hashes", hashes, (None,), 2**32 - 1, jnp.uint32)
    size = hashes.shape[0]
    revisions = _whole("elect", "revisions", revisions, (size,))
    stands = jnp.ones(size, bool) if candidates is None else _mask("elect", "candidates", candidates, size)
    expected = _whole("elect", "expected", expected, ())
    priority = jnp.where((revisions == expected) | (expected == 0), 1, jnp.where(revisions < expected, -2, -1))
    foremost = stands & (priority == jnp.max(jnp.where(stands, priority, -3)))
    ordered = jnp.sort(hashes)
    label = jnp.searchsorted(ordered, hashes)  # the same number for the same hash
    votes = jax.ops.segment_sum(foremost.astype(jnp.int32), label, size)[label]
    winner = jnp.argmax(jnp.where(foremost, votes, -1)).astype(jnp.int32)
    return jnp.where(jnp.any(stands), winner, -1)


class Synchronized(NamedTuple):
    """What came of a `synchronize`."""

    values: PyTree  # [N, ...]: the elected state at everyone who is there, the own one at those who are not
    fetched: Array  # bool [N], who fetched it
    elected: Array  # int32 [], -1: nobody stood, and nothing was fetched
    seconds: Array  # float32 []


def synchronize(
    network: Fields,
    tree: PyTree,
    revisions: Any,
    expected: Any,
    *,
    candidates: Any = None,
    receivers: Any = None,
    pipes: Pipes | None = None,
) -> tuple[Synchronized, Fields]:
    """Those who are there agree on one state: they elect one by its hash, and who holds another fetches it.

    `elect` says whose counts.  The fetchers are dealt in turn to those that hold it, who send it whole, one copy after the
    other: bits and messages are counted at them, and the clock moves on to the last copy's arrival.  Whoever joined with
    nothing (revision 0, any values) has the state then.  Votes and hashes are a few bytes and are not counted.

    Args:
      network: who is there, and what it costs.
      tree: what each node holds, every leaf `[N, ...]`.
      revisions: integers `[N]`, how often each node's state has been advanced.
      expected: the revision that the group has, an integer `[]`; 0: any is right (a group that begins, or resumes).
      candidates: who may be elected, bool `[N]`, among those that are there; None: all.
      receivers: who may fetch, likewise (in a second synchronisation after a late update joiners alone are).
      pipes: between each two nodes; None: the network's links.

    Gives `(Synchronized, network)`.  Raises ValueError where it is known that nobody stands, or that a candidate is ahead of
    what is expected.
    """
    where = "synchronize"
    checks.instance(where, "network", network, NetworkFields)
    size = network.num_nodes
    messages.check_leading(where, tree, size)
    revisions, expected = _whole(where, "revisions", revisions, (size,)), _whole(where, "expected", expected, ())
    present = jnp.ones(size, bool) if network.is_present is None else network.is_present
    stands = present if candidates is None else present & _mask(where, "candidates", candidates, size)
    listens = present if receivers is None else present & _mask(where, "receivers", receivers, size)
    if pipes is not None:
        checks.instance(where, "pipes", pipes, Pipes, "Make them: pipes(bandwidth, latency).")
    if checks.is_concrete((stands, revisions, expected)):
        if not np.asarray(stands).any():
            checks.fail(where, "candidates", "such that a peer that is there sends", "nobody (all receive only)")
        highest = int(np.asarray(revisions)[np.asarray(stands)].max())
        if 0 < int(expected) < highest:
            fix = "A state is advanced once a step, by all."
            checks.fail(where, "revisions", f"at most the expected {int(expected)}", highest, fix)
    hashes = state_hash(tree)
    elected = elect(hashes, revisions, expected, stands)
    best = jnp.maximum(elected, 0)
    holds = stands & (hashes == hashes[best])
    fetched = listens & (hashes != hashes[best]) & (elected >= 0)
    everyone_has = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[best], leaf.shape), tree)
    values = trees.select(fetched, everyone_has, tree)

    # The k-th fetcher is served by the k-th holder, and again from the first.
    positions = jnp.arange(size, dtype=jnp.int32)
    holders = jnp.argsort(~holds, stable=True).astype(jnp.int32)
    turn = jnp.cumsum(fetched.astype(jnp.int32)) - 1
    sender = holders[turn % jnp.maximum(jnp.sum(holds, dtype=jnp.int32), 1)]
    copies = jax.ops.segment_sum(fetched.astype(jnp.uint32), sender, size)
    bits = trees.num_bits(tree)
    seconds = jnp.float32(0)
    links, pushed = network.links, copies[sender] * jnp.float32(bits)
    busy = None
    if pipes is not None:
        busy = pushed / pipes.rate[sender, positions] + pipes.latency[sender, positions]
    elif links is not None:
        check_alone("synchronize", links)
        busy = jnp.maximum(pushed / links.upload[sender], bits / links.download) + links.latency
    if busy is not None:
        seconds = jnp.max(jnp.where(fetched, busy, 0))
    sent = counters.product(copies, jnp.uint32(bits % 2**32))
    sent = sent._replace(high=sent.high + copies * jnp.uint32(bits // 2**32))
    traffic = network.state.traffic
    traffic = traffic._replace(
        messages=counters.add(traffic.messages, counters.from_words(copies)),
        bits=counters.add(traffic.bits, sent),
        clock=counters.advance(traffic.clock, seconds),
    )
    network = network.with_state(network.state._replace(traffic=traffic))
    return Synchronized(values, fetched, elected, seconds), network
