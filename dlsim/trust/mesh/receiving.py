"""What a router does with packets that arrive: key, tag and window, in this order, packet after packet on a link."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim.core import Array
from dlsim.trust.mesh import epochs, replay_windows
from dlsim.trust.mesh.replay_windows import ReplayWindow
from dlsim.trust.mesh.toy_ciphers import tag

ACCEPTED, STALE_KEY, FORGED, REPLAYED, TOO_OLD = range(5)


class Packets(NamedTuple):
    """On the air, `[P]` each."""

    link: Array  # int32, over which
    sequence: Array  # uint32
    payload: Array  # uint32
    tag: Array  # uint32
    epoch: Array  # int32, of the key that the tag was made with


class Security(NamedTuple):
    """What receivers check; all of it structure but `period` and `grace`."""

    has_tags: bool
    window: int | None
    has_epochs: bool
    period: Any
    grace: Any


def ranks(link: Array, order: Array, is_there: Array) -> Array:
    """The place of each packet among those of its link, int32 `[P]` from 0, by `order` and then by slot."""
    far = jnp.int32(2**31 - 1)
    link = jnp.where(is_there, link, far)
    by_link = jnp.lexsort((order, link))  # stable: slots break ties
    sorted_link = link[by_link]
    starts = jnp.searchsorted(sorted_link, sorted_link, side="left")
    place = jnp.arange(link.shape[0], dtype=jnp.int32) - starts.astype(jnp.int32)
    return jnp.zeros_like(place).at[by_link].set(place)


def received(
    security: Security,
    keys: epochs.EpochKeys,
    windows: ReplayWindow,
    packets: Packets,
    receivers: Array,
    local_time: Array,
    rank: Array,
    is_there: Array,
) -> tuple[ReplayWindow, Array]:
    """Verdicts int32 `[P]` and the windows afterwards: packets of one link in the order of their `rank`.

    Args:
      receivers: int32 `[P]`, who receives each.
      local_time: `[P]`, the receiver's clock.
      rank: int32 `[P]`, from `ranks`.
      is_there: bool `[P]`; what is not there gets `ACCEPTED` and changes nothing.
    """
    verdict = jnp.zeros(rank.shape, jnp.int32)
    if security.has_epochs:
        key, has_key = epochs.key_at(keys, receivers, packets.epoch)
        is_timely = has_key & epochs.is_timely(packets.epoch, local_time, security.period, security.grace)
        verdict = jnp.where(is_timely, verdict, STALE_KEY)
    else:
        key = keys.key[receivers]
    if security.has_tags:
        is_right = packets.tag == tag(key, packets.link, packets.sequence, packets.payload)
        verdict = jnp.where((verdict == ACCEPTED) & ~is_right, FORGED, verdict)
    if security.window is None:
        return windows, jnp.where(is_there, verdict, ACCEPTED)
    width = security.window
    passes = is_there & (verdict == ACCEPTED)
    num = windows.newest.shape[0]
    last = jnp.max(jnp.where(passes, rank, -1))

    def one(carry: tuple[Array, ReplayWindow, Array]) -> tuple[Array, ReplayWindow, Array]:
        turn, windows, verdict = carry
        now = passes & (rank == turn)
        place = jnp.where(now, packets.link, num)  # out of bounds: dropped
        sequence = jnp.zeros(num, jnp.uint32).at[place].set(packets.sequence, mode="drop")
        is_used = jnp.zeros(num, bool).at[place].set(True, mode="drop")
        windows, found = replay_windows.check_sequences(windows, sequence, is_used, width=width)
        told = jnp.where(found == replay_windows.REPLAYED, REPLAYED, TOO_OLD)
        at_link = found.at[packets.link].get(mode="clip")
        refused = now & (at_link != replay_windows.ACCEPTED)
        return turn + 1, windows, jnp.where(refused, told.at[packets.link].get(mode="clip"), verdict)

    start = (jnp.zeros((), jnp.int32), windows, verdict)
    _, windows, verdict = jax.lax.while_loop(lambda carry: carry[0] <= last, one, start)
    return windows, jnp.where(is_there, verdict, ACCEPTED)
