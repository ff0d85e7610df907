"""Stretches: what the host prepares window by window, and the device holds some windows of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from dlsim import checks
from dlsim.core import Array, Feed, PyTree

KEPT = 64  # streams that go on where they stopped; others begin anew


class Stretch(NamedTuple):
    """What the device holds: at most P windows, whose blocks lie one after the other."""

    blocks: PyTree  # leaves [B, ...]
    starts: Array  # int32 [P + 1] blocks starts[p] to starts[p + 1] - 1 are those of window first + p
    first: Array  # int32 []
    rows: dict[str, Array]  # [P, ...] one row a window

    def find(self, window: Array) -> tuple[Array, Array, Array]:
        """A window's row, its first block, and the one after its last, int32 `[]`."""
        place = window - self.first
        begin, end = (self.starts.at[place + i].get(mode="clip") for i in (0, 1))
        return place, begin, end


class Window(NamedTuple):
    """Blocks `begin` to `end - 1` of a piece, and the window's row of each table."""

    piece: PyTree  # NumPy leaves [b, ...]
    begin: int
    end: int
    rows: dict[str, np.ndarray]

    @property
    def num_blocks(self) -> int:
        return self.end - self.begin


class Room(NamedTuple):
    """How much the device holds, and of what."""

    windows: int  # P
    blocks: int  # B
    piece: PyTree  # any piece, for its leaves' shapes and dtypes
    rows: dict[str, np.ndarray]  # any window's

    @property
    def empty(self) -> Stretch:
        """A stretch without windows, NumPy."""
        return _assemble([], 0, self)


def stretches(make: Callable[[Array], Iterator[list[Window]]], room: Room, where: str) -> Feed:
    """A feed for `state.buffer` of the windows that `make(key)` yields, some at a time, in order and without end.

    A stretch has as many windows as there is room for, counted from the first, so it does not depend on where a run
    begins.
    """
    streams: dict[bytes, _Stream] = {}
    lock = threading.Lock()

    def fill(key: Array, step: int) -> tuple[Any, int]:
        name = np.asarray(jax.random.key_data(key)).tobytes()
        with lock:  # several runs may be played at a time
            stream = streams.pop(name, None)
            if stream is None or step < stream.first:
                stream = _Stream(make(key), room, where)
            while step >= stream.until:
                stream.advance()
            streams[name] = stream
            while len(streams) > KEPT:
                del streams[next(iter(streams))]
            return _assemble(stream.taken, stream.first, room), stream.until

    return Feed(fill=fill, put=lambda state, part: state._replace(buffer=part))


class _Stream:
    """The windows of one run, in order."""

    def __init__(self, made: Iterator[list[Window]], room: Room, where: str) -> None:
        self._made, self._room, self._where = made, room, where
        self._waiting: list[Window] = []
        self.taken: list[Window] = []
        self.first, self.until = 0, 0

    def advance(self) -> None:
        """On to the next stretch."""
        taken: list[Window] = []
        used = 0
        while len(taken) < self._room.windows:
            while not self._waiting:
                self._waiting = next(self._made)
            size = self._waiting[0].num_blocks
            if used + size > self._room.blocks:
                if not taken:
                    rule = f"such that the events of a window fit into {self._room.blocks} blocks"
                    checks.fail(self._where, "timing.window", rule, f"{size} blocks", "Shorten it.")
                break
            used += size
            taken.append(self._waiting.pop(0))
        self.taken, self.first, self.until = taken, self.until, self.until + len(taken)


def _assemble(taken: list[Window], first: int, room: Room) -> Stretch:
    """Windows as a stretch of the full size, NumPy."""
    counts = [window.num_blocks for window in taken]
    starts: Any = np.zeros(room.windows + 1, np.int32)
    starts[1 : len(counts) + 1] = np.cumsum(counts)
    starts[len(counts) + 1 :] = starts[len(counts)]

    def joined(like: Any, *leaves: Any) -> np.ndarray:
        out = np.zeros((room.blocks, *np.shape(like)[1:]), np.asarray(like).dtype)
        at = 0
        for window, leaf in zip(taken, leaves, strict=True):
            out[at : at + window.num_blocks] = leaf[window.begin : window.end]
            at += window.num_blocks
        return out

    rows: Any = {}
    for name, like in room.rows.items():
        rows[name] = np.zeros((room.windows, *like.shape), like.dtype)
        for p, window in enumerate(taken):
            rows[name][p] = window.rows[name]
    place: Any = np.asarray(first, np.int32)
    blocks = jax.tree.map(joined, room.piece, *[window.piece for window in taken])
    return Stretch(blocks=blocks, starts=starts, first=place, rows=rows)
