"""What a compressor leaves out is sent later."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks, trees
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
        inner, packet = compressor.send(key, inner, packet._replace(values=wanted), route)
        return (trees.subtract(wanted, packet.values), inner), packet

    source = "; ".join(filter(None, ("Seide et al., 2014", compressor.source)))
    return Channel(init=init, send=send, source=source, codec=compressor.codec)
