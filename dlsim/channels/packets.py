"""What compressors have in common: how much of a message is on the air, how much of it is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.core import Array, Packet, PyTree


def stateless(message: PyTree, num_senders: int) -> tuple[()]:
    """The state of a channel without memory."""
    del message, num_senders
    return ()


def is_sent(flat: Array, packet: Packet, at: slice = slice(None), dimension: int | None = None) -> Array:
    """Which numbers are on the air, bool `[n, D]`: all, or those a sparsifier chose; where it does not say, no zero.

    Of a part of the message, `flat` are its numbers, `at` its place among all `dimension` of them.
    """
    if packet.is_sent is not None:
        return packet.is_sent[:, at]
    return (flat != 0) | (packet.num_entries >= (dimension or flat.shape[1]))[:, None]


def flat_leaves(tree: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """Each leaf as `[n, d]`, float32 or wider, and the function that undoes it."""
    leaves, treedef = jax.tree.flatten(tree)

    def rebuild(parts: list[Array]) -> PyTree:
        shaped = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(treedef, shaped)

    return [
        leaf.reshape(leaf.shape[0], -1).astype(jnp.result_type(jnp.float32, leaf.dtype)) for leaf in leaves
    ], rebuild


class Piece(NamedTuple):
    """One leaf among the D numbers of a message, so that what is done number by number needs no copy of all of them."""

    numbers: Array  # [n, d], float32 or wider
    at: slice  # its place among the D
    dimension: int  # D

    def is_sent(self, packet: Packet) -> Array:
        """`is_sent` of these numbers."""
        return is_sent(self.numbers, packet, self.at, self.dimension)

    def draw(self, how: Callable[..., Array], key: Array, node_ids: Array) -> Array:
        """What a function of `dlsim.channels.draws` gives these places, `[n, d]`."""
        return how(key, node_ids, self.numbers.shape[1], self.at.start)


def pieces(tree: PyTree) -> tuple[list[Piece], Callable[[list[Array]], PyTree]]:
    """The leaves of a message as pieces of it, and the function that makes a message of new numbers for them."""
    parts, rebuild = flat_leaves(tree)
    ends = np.cumsum([0, *(part.shape[1] for part in parts)]).tolist()
    return [
        Piece(part, slice(at, end), ends[-1]) for part, at, end in zip(parts, ends[:-1], ends[1:], strict=True)
    ], rebuild


def side_by_side(tree: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """`trees.ravel` once: without the barrier a compiler lays leaves side by side anew wherever their numbers are used."""
    flat, unravel = trees.ravel(tree)
    return (flat if len(jax.tree.leaves(tree)) == 1 else jax.lax.optimization_barrier(flat)), unravel


def one_piece(tree: PyTree) -> tuple[list[Piece], Callable[[list[Array]], PyTree]]:
    """`pieces` of a message taken for one leaf."""
    flat, unravel = side_by_side(tree)
    return [Piece(flat, slice(0, flat.shape[1]), flat.shape[1])], lambda parts: unravel(parts[0])


def on_air(packet: Packet, chosen: Array) -> Array:
    """Of the numbers `chosen`, bool `[n, D]`, those that were sent before."""
    return chosen if packet.is_sent is None else chosen & packet.is_sent


def whole(packet: Packet, bits_per_entry: int) -> dict[str, Any]:
    """The sizes of a message of all numbers, each of so many bits: which of them a sparsifier chose would tell."""
    num_entries = trees.num_entries(packet.values)
    sizes = {"num_entries": num_entries, "bits_per_entry": bits_per_entry, "extra_bits": 0}
    return {"is_sent": None, **{name: jnp.full_like(packet.num_entries, size) for name, size in sizes.items()}}


def as_sent(scale: Array, dtype: Any) -> Array:
    """A scale as its 32 bits carry it.

    The barrier keeps the compiler from dividing later, number by number: whoever multiplies by what was sent has the
    same bits as the sender.
    """
    return jax.lax.optimization_barrier(scale.astype(jnp.float32)).astype(dtype)


def seed_words(key: Array, num_senders: int) -> Array:
    """The 64 bits from which a receiver draws what the sender drew, uint32 `[n, 2]`."""
    words = jax.random.key_data(key).astype(jnp.uint32)[:2]
    return jnp.broadcast_to(words, (num_senders, 2))


def num_kept(fraction: float | int, dimension: int, where: str = "top_k") -> int:
    """How many of D numbers a fraction, or count, keeps; of a count no more than there are."""
    if not isinstance(fraction, int):
        return min(max(1, round(float(fraction) * dimension)), dimension)
    if fraction > dimension:
        fix = "Give a share, such as 0.1, where messages differ in size."
        checks.fail(where, "fraction", f"at most the {dimension} numbers of a message", fraction, fix)
    return fraction


def check_fraction(where: str, fraction: Any) -> Any:
    """A float in (0, 1], or a count of at least one as an int."""
    if isinstance(fraction, int | np.integer) and not isinstance(fraction, bool):
        return checks.integer(where, "fraction", fraction, 1)
    checks.known(where, "fraction", fraction, "known while tracing (it sets shapes)", "Sweep it as structure.")
    return checks.number(where, "fraction", fraction, 0.0, 1.0, open_minimum=True)


def ranks(sent: Array, is_all: bool) -> Array:
    """Of the numbers that are sent, bool `[n, D]`, which one each is, from 1, int32 `[n, D]`, or `[1, D]` of all."""
    if is_all:
        return jnp.arange(1, sent.shape[1] + 1, dtype=jnp.int32)[None]
    return jnp.cumsum(sent, axis=1, dtype=jnp.int32)


MOST_CODED = 2**26  # numbers, whose codes' lengths still add up in 32 bits


def check_codable(where: str, dimension: int) -> None:
    """A message whose length in bits can be counted number by number."""
    if dimension > MOST_CODED:
        checks.fail(where, "message", f"of at most {MOST_CODED} numbers", dimension, 'Use code="fixed".')
