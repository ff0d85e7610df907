"""What a compressor leaves out is sent later."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.channels.bits import CHANGES, PLAIN
from dlsim.core import Array, Channel, Packet, PyTree, Route


def error_feedback(compressor: Channel) -> Channel:
    """What a compressor leaves out is kept and added to the next message:  send C(x + e),  e <- x + e - C(x + e).

    The residual e `[num_senders, ...]` belongs to one stream of messages of one sender; an absent sender keeps it.
    Meant for messages that add up over rounds (gradients, differences): a stream of parameters needs differences
    first (`choco_sgd`).
    Source: Seide et al., 1-bit SGD, Interspeech 2014; Karimireddy et al., ICML 2019.
    """
    if not isinstance(compressor, Channel):
        checks.fail("error_feedback", "compressor", "a Channel", checks.describe(compressor))
    if compressor.is_sum:
        checks.fail("error_feedback", "compressor", "one that says what each sender sent", "one that sums over senders")

    def init(message: PyTree, num_senders: int) -> tuple[PyTree, PyTree]:
        residual = jax.tree.map(lambda leaf: jnp.zeros((num_senders, *leaf.shape[1:]), leaf.dtype), message)
        return residual, compressor.init(message, num_senders)

    def send(
        key: Array, state: tuple[PyTree, PyTree], packet: Packet, route: Route
    ) -> tuple[tuple[PyTree, PyTree], Packet]:
        residual, inner = state
        wanted = trees.add(packet.values, residual)
        inner, packet = compressor.send(key, inner, _changed(packet, wanted), route)
        return (trees.subtract(wanted, packet.values), inner), packet

    source = "; ".join(filter(None, ("Seide et al., 2014", compressor.source)))
    codec = None if compressor.codec is None else (PLAIN, *compressor.codec)
    return Channel(init=init, send=send, source=source, codec=codec)


def ef21(compressor: Channel) -> Channel:
    """What is sent are compressed differences from what was said before:  h <- h + C(x - h),  and h is what is heard.

    Both ends keep h `[num_senders, ...]`, from zero; an absent sender keeps it.  With a compressor of contraction delta
    and messages that settle, ||h - x|| falls by sqrt(1 - delta) a message: it is right for parameters and gradients alike,
    where `error_feedback` needs messages that add up.  The compressor must not be scaled up to be unbiased.  A message that
    is lost on its way is taken to be made up for later, so that the next one is heard as if it had come.
    Source: Richtarik, Sokolov and Fatkhullin, EF21, NeurIPS 2021, Algorithm 1 with g^0 = 0.
    """
    if not isinstance(compressor, Channel):
        checks.fail("ef21", "compressor", "a Channel", checks.describe(compressor))

    def init(message: PyTree, num_senders: int) -> tuple[PyTree, PyTree]:
        said = jax.tree.map(lambda leaf: jnp.zeros((num_senders, *leaf.shape[1:]), leaf.dtype), message)
        return said, compressor.init(message, num_senders)

    def send(
        key: Array, state: tuple[PyTree, PyTree], packet: Packet, route: Route
    ) -> tuple[tuple[PyTree, PyTree], Packet]:
        said, inner = state
        wanted = _changed(packet, trees.subtract(packet.values, said))
        inner, packet = compressor.send(key, inner, wanted, route)
        said = trees.add(said, packet.values)
        return (said, inner), packet._replace(values=said, beside=(*packet.beside, packet.values))

    source = "Richtarik, Sokolov and Fatkhullin, EF21, NeurIPS 2021"
    codec = None if compressor.codec is None else (PLAIN, *compressor.codec, CHANGES)
    return Channel(init=init, send=send, source="; ".join(filter(None, (source, compressor.source))), codec=codec)


def _changed(packet: Packet, values: PyTree) -> Packet:
    """The packet with other values, which no quantiser before has made."""
    return packet._replace(values=values, beside=(*packet.beside, ()))
