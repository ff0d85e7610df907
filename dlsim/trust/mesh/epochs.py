"""Keys of the backbone that change with time: a hash chain, nodes' own clocks, and what is taken from others' epochs.

A behavioural model, not cryptography to be used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from dlsim.core import Array
from dlsim.trust.mesh.toy_ciphers import next_key

KEY_BYTES = 16
LEFT = 0.2  # of a list's life, when a node asks for the next one


class EpochKeys(NamedTuple):
    """What each node holds, `[N]`: the epoch that it is in by its own clock, that epoch's key and the one before."""

    epoch: Array  # int32
    key: Array  # uint32
    before: Array  # uint32
    until: Array  # int32: the epoch from which on it knows no keys; out of reach where nodes make their own


def epoch_of(time: Array, period: Any) -> Array:
    """The epoch at a local time, int32: floor(time / period), 0 before the start."""
    return jnp.maximum(jnp.floor(time / period), 0.0).astype(jnp.int32)


def first_keys(seed: Array, num: int, list_length: int | None) -> EpochKeys:
    """All nodes in epoch 0 with the seed's key, and the first list of keys where lists are handed out."""
    until = 2**31 - 1 if list_length is None else list_length
    zeros = jnp.zeros(num, jnp.int32)
    key = jnp.broadcast_to(seed, (num,)).astype(jnp.uint32)
    return EpochKeys(zeros, key, key, jnp.full(num, until, jnp.int32))


def advanced(keys: EpochKeys, epoch: Array) -> EpochKeys:
    """One step of the chain where the node's clock is in a later epoch than its keys; none where it is not.

    A clock that runs through an epoch a round or less is followed; two steps a round catch up from the start.
    """
    is_behind = keys.epoch < epoch
    stepped = next_key(keys.key, keys.epoch)
    return keys._replace(
        epoch=jnp.where(is_behind, keys.epoch + 1, keys.epoch),
        key=jnp.where(is_behind, stepped, keys.key),
        before=jnp.where(is_behind, keys.key, keys.before),
    )


def key_at(keys: EpochKeys, nodes: Array, epoch: Array) -> tuple[Array, Array]:
    """The key of an epoch at `nodes`, uint32, and whether the node has it: the one before its own to two after."""
    held = EpochKeys(*(part[nodes] for part in keys))
    one = next_key(held.key, held.epoch)
    two = next_key(one, held.epoch + 1)
    ahead = epoch - held.epoch
    key = jnp.where(ahead < 0, held.before, jnp.where(ahead == 0, held.key, jnp.where(ahead == 1, one, two)))
    return key, (ahead >= -1) & (ahead <= 2) & (epoch < held.until)


def is_timely(epoch: Array, time: Array, period: Any, grace: Any) -> Array:
    """Whether a receiver whose clock shows `time` takes a packet of `epoch`: some time within `grace` of it lies there.

    So a packet passes wherever the two clocks differ by no more than the grace time, and around a change only there.
    """
    return (epoch >= epoch_of(time - grace, period)) & (epoch <= epoch_of(time + grace, period))
