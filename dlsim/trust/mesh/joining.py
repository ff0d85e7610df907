"""Handshakes and transmissions over lossy links: how many tries, how many bytes, and whether they get through."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array

MESSAGES, MESSAGE_BYTES = 8, 200  # of an exchange with the server
NO_PATH = 1 << 20  # hops where there is no path


class Attempt(NamedTuple):
    """What came of one attempt each to join."""

    succeeds: Array  # bool [n]
    num_messages: Array  # uint32 [], over all hops


def passes(loss: Any, retries: int, num: Any) -> Array:
    """Probability that `num` transmissions all get through, each tried `retries` + 1 times:  (1 - loss^(R+1))^num."""
    return jnp.asarray(1.0 - jnp.asarray(loss, jnp.float32) ** (retries + 1)) ** jnp.asarray(num, jnp.float32)


@checks.typed
def handshake_success(loss: float | Array, retries: int, hops: int, *, num_messages: int = MESSAGES) -> Array:
    """Probability that an exchange of messages over some hops gets through at once:  (1 - loss^(retries+1))^(m hops).

    Args:
      loss: of a try over one link, in [0, 1].
      retries: tries beyond the first, R.
      hops: links between the two, 1 or more.
      num_messages: m.
    """
    where = "handshake_success"
    checks.probability(where, "loss", loss)
    retries = checks.integer(where, "retries", retries, 0, 1000)
    num = checks.integer(where, "hops", hops, 1, NO_PATH) * checks.integer(where, "num_messages", num_messages, 1, 1000)
    return passes(loss, retries, num)


def transmission(draw: Array, loss: Any, retries: int) -> tuple[Array, Array]:
    """How often a packet is sent over a link, uint32, and whether all tries are lost; by one uniform draw each.

    P[tries > k] = loss^k for k up to `retries`, and it is lost with probability loss^(retries + 1).
    """
    tries = jnp.ones(draw.shape, jnp.uint32)
    for k in range(1, retries + 1):
        tries += (draw < jnp.asarray(loss) ** k).astype(jnp.uint32)
    return tries, draw < jnp.asarray(loss) ** (retries + 1)


def attempts(key: Array, ids: Array, asking: Array, hops: Array, exchanges: int, loss: Any, retries: int) -> Attempt:
    """One attempt of everyone that is asking, `exchanges` exchanges over its hops to the server."""
    draw = keys.node_uniform(key, ids, 1)[:, 0]
    succeeds = asking & (draw < passes(loss, retries, exchanges * MESSAGES * hops))
    sent = jnp.sum(jnp.where(asking, exchanges * MESSAGES * hops, 0))
    return Attempt(succeeds, sent.astype(jnp.uint32))
