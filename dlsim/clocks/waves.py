"""Waves: a tape cut into groups of events that share no node, in an order that respects every dependency.

An event depends on the last earlier event at each of its nodes.  Its wave is one more than theirs, so the events of a
wave share no node, no event comes before one that it depends on, and there are as few waves as the dependencies allow.
Playing wave after wave, all events of a wave at once, does what playing the tape one event at a time does.

For the device a wave is cut into blocks of a fixed width, each of events of one kind; what is left of a block points
at nodes that do not exist, which reads harmlessly and writes nowhere.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.clocks import clocks
from dlsim.clocks.tapes import Tape
from dlsim.core import Array

NOTHING = np.uint32(2**32 - 1)  # position of no event
# What starting a block costs, in slots: on a CPU about 0.4 us against 30 ns for a slot of 100 floats; an accelerator
# starts its kernels in microseconds and works through thousands of slots in that time.
CPU_OVERHEAD, ACCELERATOR_OVERHEAD = 16, 4096
LEAST_WIDTH = 8
PIECE = 2**20  # events whose waves are found in one call


@dataclasses.dataclass(frozen=True)
class Waves:
    """The events of a tape, wave by wave; within a wave in order of time."""

    order: np.ndarray  # int32 [M] positions in the tape
    starts: np.ndarray  # int64 [W + 1] wave w is order[starts[w] : starts[w + 1]]
    num_nodes: int
    most_at_node: int  # events at the busiest node: no schedule has fewer waves

    @property
    def num_waves(self) -> int:
        """How many waves there are, W."""
        return len(self.starts) - 1

    @property
    def widths(self) -> np.ndarray:
        """Events in each wave, int64 `[W]`."""
        return np.diff(self.starts)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks:
    """Waves as `play` reads them: B blocks of C slots, all of a block's events of one kind and of one wave.

    The arrays are NumPy's until they are put on a device.

    Slot k of a block that has no event points at the nodes N + k and N + C + k, which do not exist; so does b where
    one node is involved.
    """

    kind: Array  # int32 [B] position in `kinds`
    a: Array  # int32 [B, C]
    b: Array  # int32 [B, C]
    number: Array  # uint32 [B, C] of the event at its clock
    position: Array  # uint32 [B, C] in the tape; NOTHING where there is no event
    seconds: Array  # float32 [B, C] time of the event, to seven digits
    since_a: Array  # float32 [B, C] seconds since the last event of a, from exact ticks
    since_b: Array  # float32 [B, C]
    columns: dict[str, Array]  # [B, C, ...]
    num_nodes: int = dataclasses.field(metadata={"static": True})
    kinds: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    is_pair: tuple[bool, ...] = dataclasses.field(metadata={"static": True})  # whether the kind's events have a b

    @property
    def num_blocks(self) -> int:
        """Blocks, the padding included."""
        return self.a.shape[-2]

    @property
    def width(self) -> int:
        """Slots of a block."""
        return self.a.shape[-1]


def make_waves(tape: Tape, stretch: np.ndarray | None = None) -> Waves:
    """The fewest waves, each event as early as its dependencies allow.

    Args:
      tape: of events.
      stretch: ints `[M]` that do not decrease: no wave holds events of two stretches, and those of an earlier one come
        first.  Time between records is such a stretch: after its waves the nodes are as they are at its end.
    """
    checks.instance("make_waves", "tape", tape, Tape, "Make one with dlsim.clocks.make_tape.")
    if stretch is not None:
        wanted = f"{len(tape)} integers that do not decrease"
        given, stretch = stretch, checks.host("make_waves", "stretch", stretch, wanted)
        is_whole = np.issubdtype(stretch.dtype, np.integer)
        if stretch.shape != (len(tape),) or not is_whole or (np.diff(stretch) < 0).any():
            checks.fail("make_waves", "stretch", wanted, checks.describe(given))
    level = _levels(tape.a, tape.b, tape.num_nodes, stretch)
    num_waves = int(level.max(initial=-1)) + 1
    order, starts = _counting_sort(level, num_waves)
    return Waves(order=order, starts=starts, num_nodes=tape.num_nodes, most_at_node=_most_at_node(tape))


def one_by_one(tape: Tape) -> Waves:
    """Every event a wave of its own, in order of time: the definition of what the waves of `make_waves` must do."""
    checks.instance("one_by_one", "tape", tape, Tape, "Make one with dlsim.clocks.make_tape.")
    return Waves(
        order=np.arange(len(tape), dtype=np.int32),
        starts=np.arange(len(tape) + 1),
        num_nodes=tape.num_nodes,
        most_at_node=_most_at_node(tape),
    )


@checks.typed
def pack(
    waves: Waves, tape: Tape, *, width: int | None = None, multiple: int = 1, overhead: int | None = None
) -> Blocks:
    """Waves as blocks of one width, for `play`.

    Args:
      waves: of this tape.
      tape: the tape.
      width: slots a block, C; default: the one that costs least, by `choose_width`.  Give the pieces of a stream the
        width of the first, so that they share a compiled program.
      multiple: blocks are added that do nothing, until their number is a multiple of this one: tapes of one shape
        share a compiled program, and a run may take a fixed number of blocks a step.
      overhead: see `choose_width`.
    """
    checks.instance("pack", "waves", waves, Waves, "Make them with dlsim.clocks.make_waves.")
    checks.instance("pack", "tape", tape, Tape, "Give the tape that the waves were made of.")
    if len(waves.order) != len(tape) or waves.num_nodes != tape.num_nodes:
        got = f"{len(tape)} events on {tape.num_nodes} nodes"
        checks.fail("pack", "tape", f"that of the waves: {len(waves.order)} events on {waves.num_nodes} nodes", got)
    checks.integer("pack", "multiple", multiple, 1)
    kinds, is_pair = zip(*tape.kinds, strict=True)
    order, sizes, kind_of_group = _groups(waves, tape, kinds)
    width = choose_width(sizes, overhead) if width is None else checks.integer("pack", "width", width, 1)
    blocks_of_group = -(-sizes // width)
    num_blocks = -(-max(int(blocks_of_group.sum()), 1) // multiple) * multiple
    first = np.cumsum(blocks_of_group) - blocks_of_group
    # The slot of each event when all blocks lie one after the other.
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    slot = np.repeat(first * width, sizes) + within
    kind: Any = np.zeros(num_blocks, np.int32)
    kind[: blocks_of_group.sum()] = np.repeat(kind_of_group, blocks_of_group)
    nobody = np.broadcast_to(tape.num_nodes + np.arange(width, dtype=np.int32), (num_blocks, width))
    b = tape.b[order]

    def spread(values: np.ndarray, fill: Any) -> Any:
        out = np.empty((num_blocks * width, *values.shape[1:]), values.dtype)
        out.reshape(num_blocks, width, *values.shape[1:])[:] = fill
        out[slot] = values
        return out.reshape(num_blocks, width, *values.shape[1:])

    def seconds(ticks: np.ndarray) -> Any:
        return spread(clocks.to_seconds(ticks[order]).astype(np.float32), 0)

    return Blocks(
        kind=kind,
        a=spread(tape.a[order], nobody),
        b=spread(np.where(b < 0, tape.num_nodes + width + slot % width, b).astype(np.int32), nobody + np.int32(width)),
        number=spread(tape.number[order].astype(np.uint32), 0),
        position=spread(order.astype(np.uint32), NOTHING),
        seconds=seconds(tape.ticks),
        since_a=seconds(tape.since_a),
        since_b=seconds(tape.since_b),
        columns={name: spread(column[order], np.zeros((), column.dtype)) for name, column in tape.columns.items()},
        num_nodes=tape.num_nodes,
        kinds=kinds,
        is_pair=is_pair,
    )


def choose_width(sizes: np.ndarray, overhead: int | None = None) -> int:
    """The width C that makes `blocks * (C + overhead)` least.

    Args:
      sizes: events of one kind in one wave, for each such group.
      overhead: what a block costs beside its slots, in slots; default: 16 on a CPU, 4096 on an accelerator.
    """
    if overhead is None:
        overhead = CPU_OVERHEAD if jax.default_backend() == "cpu" else ACCELERATOR_OVERHEAD
    checks.integer("choose_width", "overhead", overhead, 0)
    wanted = "whole numbers, at least 0"
    given, sizes = sizes, checks.host("choose_width", "sizes", sizes, wanted)
    if not np.issubdtype(sizes.dtype, np.integer) or sizes.ndim != 1 or (sizes < 0).any():
        checks.fail("choose_width", "sizes", wanted, checks.describe(given))
    widest = int(sizes.max(initial=1))
    count = np.bincount(sizes.astype(np.int64))
    values = np.flatnonzero(count)
    # Multiples of 8 fill vector registers, and rows are then rounded alike at every width.
    powers = [LEAST_WIDTH << shift for shift in range(int(widest).bit_length())]
    candidates = [c for power in powers for c in (power, 3 * power) if c < widest]
    candidates.append(-(-widest // LEAST_WIDTH) * LEAST_WIDTH)
    costs = [(int((-(-values // c) * count[values]).sum()) * (c + overhead), c) for c in candidates]
    return min(costs)[1]


@checks.typed
def in_tape_order(outputs: Any, blocks: Blocks) -> Any:
    """What `play` collected, leaves `[B, C, ...]`, in the order of the tape, NumPy `[M, ...]`."""
    position = np.asarray(blocks.position)
    is_event = position != NOTHING
    order = np.argsort(position[is_event])
    for leaf in jax.tree.leaves(outputs) or [outputs]:
        if getattr(leaf, "shape", ())[:2] != position.shape:
            expected = f"leaves [{position.shape[0]}, {position.shape[1]}, ...]"
            checks.fail("in_tape_order", "outputs", f"what play collected, {expected}", checks.describe(leaf))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[is_event][order], outputs)


@cache
def _level_program() -> Any:
    def levels(standing: Array, ends: Array, least: Array) -> tuple[Array, Array]:
        def body(standing: Array, event: tuple[Array, Array]) -> tuple[Array, Array]:
            pair, least = event
            # One gather and one scatter: two of each make XLA copy `standing` at every event.
            level = jnp.maximum(jnp.max(standing.at[pair].get(mode="promise_in_bounds")), least)
            return standing.at[pair].set(level + 1, mode="promise_in_bounds"), level

        return jax.lax.scan(body, standing, (ends, least))

    return jax.jit(levels, donate_argnums=0)


def _levels(a: np.ndarray, b: np.ndarray, num_nodes: int, stretch: np.ndarray | None) -> np.ndarray:
    """The wave of each event, int32 `[M]`, from 0."""
    if stretch is None or len(a) == 0:
        return _in_order(a, b, num_nodes, None)
    # Levels of stretch r begin at r * room, so that one pass over the events finds those of all stretches.
    rank = np.cumsum(np.diff(stretch, prepend=stretch[0]) > 0)
    room = int(np.bincount(rank).max())
    a_time = max(1, (2**31 - 2) // room)  # stretches in one pass
    levels, offset = [], 0
    for first in range(0, int(rank[-1]) + 1, a_time):
        some = slice(*np.searchsorted(rank, (first, first + a_time)))
        within = (rank[some] - first).astype(np.int32)
        level = _in_order(a[some], b[some], num_nodes, within * np.int32(room))
        local = level - within * np.int32(room)
        depth = np.zeros(int(within[-1]) + 1, np.int64)
        np.maximum.at(depth, within, local + 1)
        levels.append(local + (offset + np.cumsum(depth) - depth)[within])
        offset += int(depth.sum())
    return np.concatenate(levels).astype(np.int32)


def _in_order(a: np.ndarray, b: np.ndarray, num_nodes: int, least: np.ndarray | None) -> np.ndarray:
    """One more than the last earlier level at either node, and at least `least`; int32 `[M]`."""
    program = _level_program()
    levels = []
    with jax.ensure_compile_time_eval(), jax.default_device(jax.local_devices(backend="cpu")[0]):
        standing = jnp.zeros(num_nodes + 1, jnp.int32)  # the first level that each node is free for
        for begin in range(0, len(a), PIECE):
            ends = np.stack([a[begin : begin + PIECE], b[begin : begin + PIECE]], axis=1)
            ends[:, 1] = np.where(ends[:, 1] < 0, ends[:, 0], ends[:, 1])
            length = len(ends)
            floor = np.zeros(length, np.int32) if least is None else least[begin : begin + PIECE]
            padded = 1 << max(12, (length - 1).bit_length())  # few lengths, few compilations
            ends = np.pad(ends, ((0, padded - length), (0, 0)), constant_values=num_nodes)
            floor = np.pad(floor, (0, padded - length))
            standing, level = program(standing, jnp.asarray(ends, jnp.int32), jnp.asarray(floor))
            levels.append(np.asarray(level)[:length])
    return np.concatenate(levels) if levels else np.zeros(0, np.int32)


def _most_at_node(tape: Tape) -> int:
    counts = np.bincount(tape.a, minlength=tape.num_nodes)
    counts += np.bincount(tape.b[tape.b >= 0], minlength=tape.num_nodes)
    return int(counts.max())


def _counting_sort(group: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Stable order by group, int32 `[M]`, and where each group starts, int64 `[num_groups + 1]`."""
    from scipy.sparse import coo_array

    length = len(group)
    if length == 0:
        return np.zeros(0, np.int32), np.zeros(num_groups + 1, np.int64)
    # A matrix of groups x events with one entry a column, sorted by its rows.
    places = np.arange(length, dtype=np.int32)
    table = coo_array((np.ones(length, np.int8), (group.astype(np.int32), places)), shape=(num_groups, length)).tocsr()
    return table.indices.astype(np.int32), table.indptr.astype(np.int64)


def _groups(waves: Waves, tape: Tape, kinds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order, sizes and kinds of the groups of events of one kind in one wave."""
    if len(kinds) == 1:
        sizes = waves.widths
        return waves.order, sizes, np.zeros(len(sizes), np.int32)
    place = np.searchsorted(np.asarray(kinds), tape.kind[waves.order])
    group = np.repeat(np.arange(waves.num_waves), waves.widths) * len(kinds) + place
    order, starts = _counting_sort(group, waves.num_waves * len(kinds))
    sizes = np.diff(starts)
    kind = np.tile(np.arange(len(kinds), dtype=np.int32), waves.num_waves)
    return waves.order[order], sizes[sizes > 0], kind[sizes > 0]
