"""Views: what every node believes of every other, merged like replicated counters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class View(NamedTuple):
    """Of each node, as one node has it, or all nodes `[N, N]`: row i is node i's."""

    heard: np.ndarray  # int32 [N] last round in which it was heard of
    events: np.ndarray  # int32 [N] how often it has joined or left, which it alone raises
    is_member: np.ndarray  # bool [N] whether it had joined at its last event

    def row(self, node: int) -> View:
        """One node's view, not a copy."""
        return View(self.heard[node], self.events[node], self.is_member[node])

    def copy(self) -> View:
        """The view as it is now."""
        return View(self.heard.copy(), self.events.copy(), self.is_member.copy())


def first_views(is_present: np.ndarray) -> View:
    """Everyone who is present is known to all, and heard of in round 0."""
    num = is_present.shape[0]
    shape = (num, num)
    return View(
        heard=np.zeros(shape, np.int32),
        events=np.broadcast_to(is_present, shape).astype(np.int32),
        is_member=np.broadcast_to(is_present, shape).copy(),
    )


def merge(mine: View, other: View) -> None:
    """`mine` with what `other` knows better: the later round, and membership at the later event; in place.

    Commutative, associative and idempotent where only a node itself raises its counter of events.
    """
    newer = other.events > mine.events
    if newer.any():
        mine.events[newer] = other.events[newer]
        mine.is_member[newer] = other.is_member[newer]
    np.maximum(mine.heard, other.heard, out=mine.heard)


def candidates(mine: View, node: int, round: int, window: int) -> np.ndarray:
    """Whom `node` takes to be there in a round, bool `[N]`: members heard of in the last `window` rounds, and itself."""
    here = mine.is_member & (mine.heard >= round - window)
    here[node] = True
    return here
