"""A sender's message as the bits that its channel counted, and back: on the host, any chain of compressors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.channels.bits import PLAIN, Layout, Numbers, Part, Reader, Writer
from dlsim.core import SERVER, Channel, Packet, PyTree


def encode(channel: Channel, packet: Packet, sender: int = 0) -> np.ndarray:
    """One sender's message as its channel writes it, bool `[num_bits]` (`numpy.packbits` makes bytes of them).

    What each compressor sends beside the numbers comes first, in their order, then the numbers that are sent, as the last
    quantiser writes them.  The length is exactly the bits that were counted for this message, and `decode` gives back
    the values that arrived, bit for bit (`low_rank`: to the rounding of a product; `ef21`: what they change by).

        packet, network = network.send(key, params)
        bits = dlsim.networks.encode(network.channel, packet, sender=3)

    Args:
      channel: whose packet it is.
      packet: what went on the air, `[n, ...]` a leaf, as `network.send` gives it.
      sender: which of the n rows.

    Raises ValueError where there is nothing to write: a part of the channel has no codec, the channel sums over senders,
    the leaves are not of one type of real numbers, a value is not finite where numbers are quantised, or a part that
    changes numbers follows their quantiser (noise after `quantize`), so that the counted bits cannot hold them.
    """
    parts = _parts("encode", channel)
    checks.instance("encode", "packet", packet, Packet, "network.send gives one.")
    if not all(checks.is_concrete(leaf) for leaf in jax.tree.leaves(packet)):
        checks.fail(
            "encode", "packet", "known, on the host", "one that is traced", "Give it out of the compiled program."
        )
    num_rows = len(np.asarray(packet.num_entries))
    row = checks.integer("encode", "sender", sender, 0, num_rows - 1)
    sides = [jax.tree.map(lambda leaf: np.asarray(leaf[row]), side) for side in packet.beside]
    if len(sides) != len(parts):
        got = f"one that passed {len(sides)} parts"
        checks.fail("encode", "packet", f"one that passed the channel's {len(parts)} compressors", got)
    passed = [one for one in zip(parts, sides, strict=True) if not one[0].nodes_only or one[1][0]]
    passed = passed[_first([part for part, _ in passed]) :]
    parts = tuple(part for part, _ in passed)
    sides = [side[1] if part.nodes_only else side for part, side in passed]
    said = jax.tree.map(lambda leaf: np.asarray(leaf[row]), packet.values)
    changes = max((place for place, part in enumerate(parts) if part.instead), default=-1)
    if changes >= 0:
        said = sides[changes]
        if any(part.put or part.chosen for part in parts[changes:]):
            got, fix = "ef21 before a compressor", "Compress within: ef21(chain(...))."
            checks.fail("encode", "channel", "one that sends the changes it made", got, fix)
    values, layout = _flat("encode", said)
    writer = Writer()
    for part, side in zip(parts, sides, strict=True):
        part.write(writer, side, layout)
    last = _last_quantizer(parts)
    wide = values.astype(np.float64)
    if last < len(parts) and not parts[last].is_plain and not np.isfinite(wide).all():
        checks.fail("encode", "packet", "of finite values", "some that are not")
    sent = np.ones(layout.dimension, bool) if packet.is_sent is None else np.asarray(packet.is_sent[row])
    places = np.flatnonzero(sent)
    quantizer, side, scale = PLAIN, (), 1.0
    if last < len(parts):
        quantizer, side = parts[last], sides[last]
    if not quantizer.is_plain:
        scale = float(np.prod([np.float32(part.scale(layout.dimension)) for part in parts[last:]]))
    numbers = Numbers(values[places] if quantizer.is_plain else wide[places] / scale, places, layout)
    assert quantizer.put is not None
    quantizer.put(writer, numbers, side)
    bits = writer.bits()
    counted = int(packet.num_entries[row]) * int(packet.bits_per_entry[row]) + int(packet.extra_bits[row])
    if len(bits) != counted:
        checks.fail(
            "encode",
            "packet",
            f"one that the {counted} bits counted for it can hold",
            f"one of {len(bits)}",
            "Put noise before a quantiser, and what codes its numbers in varying lengths last.",
        )
    return bits


def decode(channel: Channel, bits: Any, like: PyTree, node_id: int = 0) -> PyTree:
    """What the receiver makes of `encode`'s bits: the values of one message `[...]`, NumPy arrays.

    Of `ef21` these are what is added to what was heard before.

    Args:
      channel: the sender's, with the same settings.
      bits: what was received, bool `[num_bits]`.
      like: a message of one node, `[...]` a leaf: arrays, or `jax.ShapeDtypeStruct`.
      node_id: the sender's; draws belong to it (-1 is the server).

    Raises ValueError where bits are missing or left over, or a part of the channel has no codec.
    """
    parts = _parts("decode", channel)
    checks.integer("decode", "node_id", node_id, SERVER)
    parts = tuple(part for part in parts if not part.nodes_only or node_id != SERVER)
    parts = parts[_first(parts) :]
    layout = _layout("decode", like)
    text = checks.host("decode", "bits", bits)
    if text.ndim != 1 or text.dtype != bool:
        checks.fail("decode", "bits", "bool [num_bits]", f"{text.dtype} {list(text.shape)}", "See numpy.unpackbits.")
    reader = Reader(text)
    sides = [part.read(reader, layout) for part in parts]
    sent = np.ones(layout.dimension, bool)
    for part, side in zip(parts, sides, strict=True):
        if part.chosen is not None:
            sent &= part.chosen(side, node_id, layout)
    places, last = np.flatnonzero(sent), _last_quantizer(parts)
    quantizer, side = (parts[last], sides[last]) if last < len(parts) else (PLAIN, ())
    assert quantizer.get is not None
    numbers = quantizer.get(reader, Numbers(None, places, layout), side).astype(layout.dtype)
    if reader.left:
        checks.fail("decode", "bits", "one whole message", f"one with {reader.left} bits left over")
    if not quantizer.is_plain:
        for part in parts[last + 1 :]:
            numbers = (numbers.astype(np.float32) * np.float32(part.scale(layout.dimension))).astype(layout.dtype)
    flat = np.zeros(layout.dimension, layout.dtype)
    flat[places] = numbers
    leaves = np.split(flat, np.cumsum(layout.sizes)[:-1])
    shaped = [leaf.reshape(shape) for leaf, shape in zip(leaves, layout.shapes, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), shaped)


def _parts(where: str, channel: Channel) -> tuple[Part, ...]:
    checks.instance(where, "channel", channel, Channel)
    if channel.is_sum:
        checks.fail(where, "channel", "one that says what each sender sent", "one that sums over senders")
    if channel.codec is None:
        checks.fail(where, "channel", "one whose parts all have a codec", "one with a part without")
    return channel.codec


def _first(parts: Sequence[Part]) -> int:
    """The first part that is written: the last one that sends all numbers anew."""
    return max((place for place, part in enumerate(parts) if part.anew), default=0)


def _last_quantizer(parts: tuple[Part, ...]) -> int:
    """Its place among the parts; their number where there is none and numbers are sent as they are."""
    return max((place for place, part in enumerate(parts) if part.put is not None), default=len(parts))


def _layout(where: str, one: PyTree) -> Layout:
    leaves, argument = jax.tree.leaves(one), "packet" if where == "encode" else "like"
    rule = "of arrays of one real type of at most 32 bits"
    for leaf in leaves:
        if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype.itemsize > 4:
            checks.fail(where, argument, rule, f"a leaf of {getattr(leaf, 'dtype', checks.describe(leaf))}")
    dtypes = sorted({str(leaf.dtype) for leaf in leaves})
    if len(dtypes) != 1:
        checks.fail(where, argument, rule, " and ".join(dtypes) or "no leaves")
    shapes = tuple(tuple(leaf.shape) for leaf in leaves)
    return Layout(shapes, tuple(int(np.prod(shape)) for shape in shapes), np.dtype(leaves[0].dtype))


def _flat(where: str, one: PyTree) -> tuple[np.ndarray, Layout]:
    layout = _layout(where, one)
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(one)]), layout
