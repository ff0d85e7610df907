"""A message clipped and hidden in Gaussian noise, and what all private channels share: a count of what was let out."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.channels import draws
from dlsim.channels.bits import PLAIN
from dlsim.channels.packets import pieces, whole
from dlsim.core import SERVER, Array, Channel, Packet, PyTree, Route


class Releases(NamedTuple):
    """The state of a private channel: how many messages each sender has let out, from which its budget is reckoned."""

    num_sent: Array  # uint32 [num_senders]


def no_releases(message: PyTree, num_senders: int) -> Releases:
    """Nothing was let out yet."""
    del message
    return Releases(jnp.zeros(num_senders, jnp.uint32))


def released(
    state: Releases, packet: Packet, private: Packet, route: Route, side: PyTree = ()
) -> tuple[Releases, Packet]:
    """Nodes send what is `private`; what a server sends it has from them and goes as it is.

    `side` is what the codec needs of a node's message beside its numbers, `[n, ...]`.
    """
    is_node = route.node_ids != SERVER
    values = trees.select(is_node, private.values, packet.values)
    mixed = packet._replace(
        values=values,
        is_sent=None if packet.is_sent is None else packet.is_sent | is_node[:, None],
        beside=(*packet.beside, (is_node, side)),
        num_entries=jnp.where(is_node, private.num_entries, packet.num_entries),
        bits_per_entry=jnp.where(is_node, private.bits_per_entry, packet.bits_per_entry),
        extra_bits=jnp.where(is_node, private.extra_bits, packet.extra_bits),
    )
    return Releases(state.num_sent + is_node), mixed


def clipped_rows(flat: Array, clip: Any) -> Array:
    """Rows `[n, D]` scaled down to a Euclidean norm of at most `clip`; what is not finite gives NaN."""
    return flat * clipped_share([flat], clip)


def clipped_share(parts: list[Array], clip: Any) -> Array:
    """By how much rows that lie in parts `[n, d]` are scaled down, `[n, 1]`."""
    tops = [jnp.max(jnp.abs(part), axis=1, keepdims=True, initial=0) for part in parts]
    top = functools.reduce(jnp.maximum, tops)
    unit = jnp.where(top > 0, top, 1)  # squares of numbers up to one neither overflow nor vanish
    squares = [jnp.sum(jnp.square(part / unit), axis=1, keepdims=True) for part in parts]
    norm = jnp.sqrt(functools.reduce(jnp.add, squares))
    return jnp.minimum(1, clip / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny) / unit)


def dp_gaussian(*, clip: Any, noise_multiplier: Any) -> Channel:
    """The Gaussian mechanism: each sender's message is clipped to norm C and hidden in noise of C z.

        y = x min(1, C / ||x||) + C z n,   n ~ N(0, I),  all leaves of a message side by side

    Meant for messages that are updates, gradients or differences (`fedavg`, `choco_sgd`); a model is not small, and clipping
    shrinks it.  One message to several neighbours is one release.  What a server sends is not clipped and carries no
    noise.  All numbers are sent, with 32 bits each: in a chain this stands before what compresses.  What a release costs is
    `dlsim.privacy.gaussian(noise_multiplier)`, the budget spent `dlsim.privacy.spent`; for the privacy of single examples see
    `dlsim.privacy.dp_sgd`.

    A message that is not finite stays so.  Draws are floats of 24 bits: a simulation, not a generator to hide secrets with.

    Args:
      clip: C > 0, the largest Euclidean norm of a message; may be traced.
      noise_multiplier: z >= 0, the noise's standard deviation over C; 0 only clips; may be traced.
    Source: Abadi et al., Deep learning with differential privacy, CCS 2016; McMahan, Ramage, Talwar and Zhang, Learning
      differentially private recurrent language models, ICLR 2018.  Differs: the noise is each sender's own, not a server's.
    """
    checks.number("dp_gaussian", "clip", clip, 0.0, open_minimum=True)
    checks.number("dp_gaussian", "noise_multiplier", noise_multiplier, 0.0)

    def send(key: Array, state: Releases, packet: Packet, route: Route) -> tuple[Releases, Packet]:
        leaves, rebuild = pieces(packet.values)
        share = clipped_share([piece.numbers for piece in leaves], clip)
        spread = clip * noise_multiplier
        noisy = [piece.numbers * share + spread * piece.draw(draws.normal, key, route.node_ids) for piece in leaves]
        width = max(jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(packet.values)) * 8
        private = packet._replace(values=rebuild(noisy), **whole(packet, width))
        return released(state, packet, private, route)

    codec = PLAIN._replace(nodes_only=True, anew=True)
    return Channel(init=no_releases, send=send, source="Abadi et al., CCS 2016", codec=(codec,))
