"""Messages bit by bit, on the host: what writes and reads them, and what a compressor says about its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array

BITS = 32  # of a scale, a centroid, a word of a seed


class Layout(NamedTuple):
    """How a sender's leaves lie side by side."""

    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    dtype: np.dtype  # of all leaves

    @property
    def dimension(self) -> int:
        """D, the numbers of a message."""
        return sum(self.sizes)

    def leaf_of_each(self) -> np.ndarray:
        """Which leaf each of the D numbers belongs to."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


class Writer:
    """Bits one after the other, the most significant of a number first."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []

    def numbers(self, values: Any, width: int) -> None:
        """Unsigned integers of `width` bits each."""
        words = np.asarray(values).astype(np.uint64).reshape(-1, 1)
        self._parts.append(((words >> np.arange(width - 1, -1, -1, dtype=np.uint64)) & np.uint64(1)).ravel() != 0)

    def text(self, bits: str) -> None:
        """Zeros and ones."""
        self._parts.append(np.frombuffer(bits.encode(), np.uint8) == ord("1"))

    def words(self, values: Any) -> None:
        """Numbers of 32 bits, floats or integers, as they lie in memory."""
        self.numbers(np.ascontiguousarray(values).view(np.uint32), BITS)

    def bits(self) -> np.ndarray:
        """All there is so far, bool `[num_bits]`."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, bool)


class Reader:
    """What a `Writer` wrote, from the front."""

    def __init__(self, bits: np.ndarray) -> None:
        self._bits, self._at = bits, 0

    @property
    def left(self) -> int:
        """Bits not yet read."""
        return len(self._bits) - self._at

    def take(self, count: int) -> np.ndarray:
        """The next bits."""
        if count > self.left:
            checks.fail("decode", "bits", "a whole message", f"one that ends {count - self.left} bits early")
        self._at += count
        return self._bits[self._at - count : self._at]

    def numbers(self, count: int, width: int) -> np.ndarray:
        """`count` unsigned integers of `width` bits, int64."""
        table = self.take(count * width).reshape(count, width).astype(np.uint64)
        return (table << np.arange(width - 1, -1, -1, dtype=np.uint64)).sum(axis=1).astype(np.int64)

    def bit(self) -> int:
        """The next bit."""
        return int(self.take(1)[0])

    def words(self, count: int, dtype: Any) -> np.ndarray:
        """`count` numbers of 32 bits."""
        return self.numbers(count, BITS).astype(np.uint32).view(dtype)


class Numbers(NamedTuple):
    """The numbers that are sent, in order: `values [m]` (None while they are read) and their `places [m]` among the D."""

    values: np.ndarray | None
    places: np.ndarray
    layout: Layout

    def by_leaf(self) -> list[np.ndarray]:
        """Which of the m belong to each leaf."""
        ends = np.searchsorted(self.places, np.cumsum((0, *self.layout.sizes)))
        return [np.arange(a, b) for a, b in itertools.pairwise(ends)]


class Part(NamedTuple):
    """How one compressor's share of a message is written and read; `side` is its entry of `Packet.beside` for one sender.

    A sparsifier says which numbers are sent, a quantiser how they are written.  Of several quantisers the last one counts;
    what sparsifiers after it did to the numbers is done again by the reader, through `scale`.
    """

    write: Callable[[Writer, Any, Layout], None]
    read: Callable[[Reader, Layout], Any]  # -> side
    chosen: Callable[[Any, int, Layout], np.ndarray] | None = None  # (side, node_id, layout) -> bool [D]
    scale: Callable[[int], Any] = lambda dimension: 1.0  # by which a sparsifier multiplies what it keeps of D numbers
    put: Callable[[Writer, Numbers, Any], None] | None = None  # (writer, numbers, side)
    get: Callable[[Reader, Numbers, Any], np.ndarray] | None = (
        None  # (reader, numbers without values, side) -> float32 [m]
    )
    nodes_only: bool = False  # a server's message passes as it is; the side is (whether a node sent it, the side)
    anew: bool = False  # all numbers are sent, whatever parts before it chose: nothing of those is written
    instead: bool = False  # its side are the values that are written: what is heard is made of them and of a memory

    @property
    def is_plain(self) -> bool:
        """Whether numbers are written as they are."""
        return self.put is _write_plain


def one_scale(layout: Layout) -> int:
    """For the whole message."""
    del layout
    return 1


def scale_a_leaf(layout: Layout) -> int:
    """As many as there are leaves."""
    return len(layout.sizes)


def scales(rows: Callable[[Layout], int], columns: int) -> tuple[Any, Any]:
    """`write` and `read` of `side [rows, columns]`, floats of 32 bits."""

    def write(writer: Writer, side: Any, layout: Layout) -> None:
        del layout
        writer.words(np.asarray(side, np.float32).ravel())

    def read(reader: Reader, layout: Layout) -> np.ndarray:
        return reader.words(rows(layout) * columns, np.float32).reshape(rows(layout), columns)

    return write, read


def spread(side: np.ndarray, numbers: Numbers) -> np.ndarray:
    """`side [rows, columns]` at each number, `[m, columns]`: the one row, or that of its leaf."""
    rows = np.asarray(side)
    at = np.zeros_like(numbers.places) if len(rows) == 1 else numbers.layout.leaf_of_each()[numbers.places]
    return rows[at]


def fixed_width(width: int, rows: Callable[[Layout], int], columns: int, to_code: Any, from_code: Any) -> Part:
    """A quantiser that writes each number in `width` bits, and `side [rows, columns]` of scales before them.

    `to_code(values float64 [m], scales [m, columns])` gives unsigned integers, `from_code(codes int64 [m], scales)` float32.
    """
    write, read = scales(rows, columns)

    def put(writer: Writer, numbers: Numbers, side: Any) -> None:
        writer.numbers(to_code(numbers.values, spread(side, numbers)), width)

    def get(reader: Reader, numbers: Numbers, side: Any) -> np.ndarray:
        return np.asarray(from_code(reader.numbers(len(numbers.places), width), spread(side, numbers)), np.float32)

    return Part(write, read, put=put, get=get)


def _write_plain(writer: Writer, numbers: Numbers, side: Any) -> None:
    del side
    assert numbers.values is not None
    values = np.ascontiguousarray(numbers.values.astype(numbers.layout.dtype))
    width = 8 * values.dtype.itemsize
    writer.numbers(values.view(f"uint{width}"), width)


def _read_plain(reader: Reader, numbers: Numbers, side: Any) -> np.ndarray:
    del side
    dtype = np.dtype(numbers.layout.dtype)
    width = 8 * dtype.itemsize
    return reader.numbers(len(numbers.places), width).astype(f"uint{width}").view(dtype)


def _write_nothing(writer: Writer, side: Any, layout: Layout) -> None:
    del writer, side, layout


def _read_nothing(reader: Reader, layout: Layout) -> tuple[()]:
    del reader, layout
    return ()


# Every number as it is, in the bits of its type.
PLAIN = Part(_write_nothing, _read_nothing, put=_write_plain, get=_read_plain)
# What is written is a change of what was heard before.
CHANGES = Part(_write_nothing, _read_nothing, instead=True)


def no_scales(num_senders: int) -> Array:
    """The side of a quantiser without scales, `[n, 1, 0]`."""
    return jnp.zeros((num_senders, 1, 0), jnp.float32)
