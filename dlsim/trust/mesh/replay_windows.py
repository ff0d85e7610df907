"""Sliding windows against replays: which sequence numbers were seen among the last so many, in two words a link."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array

WIDEST = 64  # bits in two words
ACCEPTED, REPLAYED, TOO_OLD = 0, 1, 2


class ReplayWindow(NamedTuple):
    """What receivers remember, uint32 `[...]`, one entry a link; bit j of the 64: newest - j was seen."""

    newest: Array
    low: Array  # bits 0..31
    high: Array  # bits 32..63
    is_used: Array  # bool: whether anything was received yet


@checks.typed
def replay_windows(num: int) -> ReplayWindow:
    """Windows of `num` links, on which nothing was received."""
    zeros = jnp.zeros(checks.integer("replay_windows", "num", num, 1), jnp.uint32)
    return ReplayWindow(zeros, zeros, zeros, zeros.astype(bool))


def _shifted(low: Array, high: Array, by: Array) -> tuple[Array, Array]:
    """The 64 bits moved up by 0 or more; shifts by 32 or more are undefined on the device, so each is guarded."""
    small = jnp.minimum(by, 31)
    over = jnp.where(small > 0, low >> jnp.where(small > 0, 32 - small, 0), 0)
    near = (low << small, (high << small) | over)
    far = (jnp.zeros_like(low), low << jnp.where(by >= 32, jnp.minimum(by - 32, 31), 0))
    none = jnp.zeros_like(low)
    low = jnp.where(by >= 32, far[0], near[0])
    high = jnp.where(by >= 64, none, jnp.where(by >= 32, far[1], near[1]))
    return low, high


def _bit(place: Array) -> tuple[Array, Array]:
    one = jnp.uint32(1)
    low = jnp.where(place < 32, one << jnp.minimum(place, 31), 0)
    high = jnp.where((place >= 32) & (place < 64), one << jnp.where(place >= 32, jnp.minimum(place - 32, 31), 0), 0)
    return low, high


@checks.typed
def check_sequences(
    window: ReplayWindow, sequence: Array, is_there: Array | None = None, *, width: int = WIDEST
) -> tuple[ReplayWindow, Array]:
    """Take in one sequence number a link: the windows afterwards, and `ACCEPTED` 0, `REPLAYED` 1 or `TOO_OLD` 2, int32.

    A number above the newest moves the window on; one among the last `width` is accepted once; one below is refused unseen.
    Numbers do not wrap: a link is rekeyed before 2^32 (then begin anew with `replay_windows`).

    Args:
      window: of links, `[...]`.
      sequence: uint32 `[...]`.
      is_there: bool `[...]`, the links on which something came; None: all.  Others keep their windows, and get 0.
      width: of the window, 1 to 64; structural.
    """
    where = "check_sequences"
    checks.instance(where, "window", window, ReplayWindow, "Make it with replay_windows.")
    width = checks.integer(where, "width", width, 1, WIDEST)
    checks.shape(where, "sequence", sequence, window.newest.shape)
    if is_there is not None:
        checks.shape(where, "is_there", is_there, window.newest.shape)
    if not checks.is_real_type(getattr(sequence, "dtype", jnp.asarray(sequence).dtype)):
        checks.fail(where, "sequence", "integers", checks.describe(sequence))
    sequence = jnp.asarray(sequence).astype(jnp.uint32)
    is_new = ~window.is_used | (sequence > window.newest)
    ahead = jnp.where(window.is_used, sequence - window.newest, WIDEST)
    behind = jnp.where(is_new, 0, window.newest - sequence)
    moved = _shifted(window.low, window.high, jnp.where(is_new, jnp.minimum(ahead, WIDEST), 0))
    bit = _bit(jnp.minimum(behind, WIDEST))
    was_seen = ~is_new & (((moved[0] & bit[0]) | (moved[1] & bit[1])) != 0)
    is_old = ~is_new & (behind >= width)
    verdict = jnp.where(is_old, TOO_OLD, jnp.where(was_seen, REPLAYED, ACCEPTED)).astype(jnp.int32)
    takes = verdict == ACCEPTED
    if is_there is not None:
        takes &= is_there
        verdict = jnp.where(is_there, verdict, ACCEPTED)
    after = ReplayWindow(
        newest=jnp.where(takes & is_new, sequence, window.newest),
        low=jnp.where(takes, moved[0] | bit[0], window.low),
        high=jnp.where(takes, moved[1] | bit[1], window.high),
        is_used=window.is_used | takes,
    )
    return after, verdict
