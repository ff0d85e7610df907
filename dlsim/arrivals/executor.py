"""Jobs in blocks for the device: which of them can be worked on at once, and where the models they start from lie.

Jobs come in the order in which the server uses them.  Those of a block start from versions that were made before the block
begins, so their local work is done side by side; what comes back is then used one by one, in order.  A version that some
job still starts from has a place in a pool; the host knows who needs which, so there are never more places than clients.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from dlsim import checks, keys
from dlsim.arrivals.jobs import Jobs, Schedule, joined
from dlsim.arrivals.pace import JobParts
from dlsim.clocks.clocks import TICKS_PER_SECOND, to_ticks
from dlsim.clocks.waves import choose_width
from dlsim.core import Array, Feed
from dlsim.running.stretches import Room, Stretch, Window, stretches

SLOTS = 2**14  # about how many jobs are on the device at a time
LONGEST_WAIT = 2**24  # jobs that others may do while a client does one
PILOTS = 2
SPARE = 1.25
CPU_OVERHEAD, ACCELERATOR_OVERHEAD = 1, 64  # what starting a block costs, in jobs: a job is many gradients


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class JobBlocks:
    """B blocks of C jobs, in order; a slot without a job has no steps and the client M."""

    client: Array  # int32 [B, C]
    number: Array  # uint32 [B, C] of the job at its client
    num_steps: Array  # int32 [B, C]
    version: Array  # int32 [B, C] it starts from, counted from the first
    coefficient: Array  # float32 [B, C]
    staleness: Array  # uint32 [B, C] versions made between its start and its use
    source: Array  # int32 [B, C] place of the version it starts from
    target: Array  # int32 [B, C] place of the version that is made after it; V: none is, or nobody needs it
    is_direct: Array  # bool [B, C]
    is_last: Array  # bool [B, C]
    is_job: Array  # bool [B, C]
    seconds: dict[str, Array]  # float32 [B, C] compute, upload, download and waiting, where books are kept


class JobWindows(NamedTuple):
    """How the jobs of a schedule come to the device."""

    feed: Feed  # puts into `state.buffer`
    empty: Stretch  # NumPy; `blocks` are JobBlocks
    seconds: float  # a window
    num_versions: int  # V, places of the pool


def job_windows(
    schedule: Schedule, window: float, *, one_by_one: bool = False, parts: JobParts | None = None
) -> JobWindows:
    """The windows of a schedule, `window` seconds each: window w has what is used in (w window, (w + 1) window].

    `one_by_one` gives every job a block of its own, as wide as the others: the same bits, slowly.  With `parts` the jobs say
    how their clients have spent their seconds (`_spent`).
    """
    ticks = max(1, int(to_ticks(window)))
    if schedule.max_live is not None and schedule.max_live > schedule.num_clients:
        schedule = schedule._replace(max_live=None)  # places for those in use are fewer than for all that recent
    num_versions = (schedule.num_clients if schedule.max_live is None else schedule.max_live) + 1
    sizes, per_window, rate = [], [], 1.0
    for seed in range(PILOTS):
        natural = _pilot(schedule, seed)
        sizes.append(natural.sizes)
        rate = max(rate, natural.jobs_per_tick * ticks)
    overhead = CPU_OVERHEAD if jax.default_backend() == "cpu" else ACCELERATOR_OVERHEAD
    width = choose_width(np.concatenate(sizes), overhead)
    cut = _Cut(ticks, width, 1 if one_by_one else width, parts)
    count = int(np.clip(SLOTS // rate, 1, 1024))
    for seed in range(PILOTS):
        made = _windows(schedule, seed, cut, num_versions)
        some = [next(made) for _ in range(count)]
        per_window.append(sum(one.num_blocks for one in some))
        sample = some[0].piece
    blocks = -(-int(SPARE * max(per_window) + 16) // 16) * 16
    room = Room(count, blocks, sample, {})

    def make(key: Array) -> Iterator[list[Window]]:
        with jax.ensure_compile_time_eval():
            words = np.asarray(jax.random.key_data(keys.stream(key, "schedule"))).astype(np.uint64).ravel()
        seed = int(words[0]) << 32 | int(words[-1])
        for one in _windows(schedule, seed, cut, num_versions):
            yield [one]

    return JobWindows(stretches(make, room, "learn"), room.empty, ticks / TICKS_PER_SECOND, num_versions)


class _Pilot(NamedTuple):
    sizes: np.ndarray  # how many jobs could go side by side, block by block
    jobs_per_tick: float


def _pilot(schedule: Schedule, seed: int) -> _Pilot:
    reader = _Reader(schedule, seed)
    reader.read(max(512, 4 * schedule.num_clients))
    jobs = reader.jobs
    ends = _cuts(jobs, np.zeros(len(jobs), np.int64), len(jobs), 0)
    return _Pilot(np.diff(ends), len(jobs) / max(int(jobs.use[-1]), 1))


class _Reader:
    """The jobs of a schedule from the first that was not yet handed out, as far ahead as was read."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self._pieces = schedule.jobs(seed)
        self._name = schedule.name
        self.jobs = next(self._pieces)
        self._newest = np.full(schedule.num_clients, -1, np.int64)  # latest version each client starts from so far
        self._note(self.jobs)

    def _note(self, piece: Jobs) -> None:
        np.maximum.at(self._newest, piece.client, piece.start_version)

    def read(self, num: int) -> None:
        """Have at least `num` jobs."""
        pieces, have = [self.jobs], len(self.jobs)
        while have < num:
            piece = next(self._pieces)
            self._note(piece)
            pieces.append(piece)
            have += len(piece)
        if len(pieces) > 1:
            self.jobs = joined(pieces)

    def read_beyond(self, version: int) -> None:
        """Have for every client a job from a later version: only then is it known who needs this one."""
        have = len(self.jobs)
        while self._newest.min() <= version:
            if len(self.jobs) > have + LONGEST_WAIT:
                client = int(np.argmin(self._newest))
                rule = f"such that client {client} comes back within {LONGEST_WAIT} jobs of the others"
                checks.fail(self._name, "pace", rule, "one that takes longer", "Leave it out.")
            self.read(2 * len(self.jobs))

    def drop(self, num: int) -> None:
        """Hand out the first `num` jobs."""
        self.jobs = self.jobs.part(slice(num, None))


class _Cut(NamedTuple):
    ticks: int  # a window
    width: int  # C
    most: int  # jobs of a block
    parts: JobParts | None


def _windows(schedule: Schedule, seed: int, cut: _Cut, num_versions: int) -> Iterator[Window]:
    """One window after the other."""
    reader = _Reader(schedule, seed)
    pool = _Pool(num_versions, schedule.max_live)
    made = window = 0  # versions made so far; the window to come
    while True:
        # Windows whose jobs are all known: those before the one of the last job read.
        reader.read(1)
        while _index(reader.jobs.use[-1:], cut.ticks)[0] <= window:
            reader.read(len(reader.jobs) + 1)
        index = _index(reader.jobs.use, cut.ticks)
        until = int(index[-1])
        num = int(np.searchsorted(index, until))
        if schedule.max_live is None or cut.parts is not None:
            reader.read_beyond(made + int(reader.jobs.is_last[:num].sum()))
        jobs = reader.jobs.part(slice(0, num))
        seconds = {} if cut.parts is None else _spent(reader.jobs, num, cut.parts, schedule.waits)
        ends = _cuts(jobs, index[:num], cut.most, made)
        source, target = pool.places(reader.jobs, num, made)
        piece = _blocks(jobs, ends, cut.width, source, target, schedule.num_clients, seconds)
        first_of_block = index[ends[:-1]] if num else np.zeros(0, np.int64)
        bounds = np.searchsorted(first_of_block, np.arange(window, until + 1))
        for begin, end in itertools.pairwise(bounds):
            yield Window(piece, int(begin), int(end), {})
        made += int(jobs.is_last.sum())
        window = until
        reader.drop(num)


def _index(use: np.ndarray, ticks: int) -> np.ndarray:
    """The window of each time of use; what is used at a window's very end belongs to it."""
    return np.maximum(use - 1, 0) // ticks


def _cuts(jobs: Jobs, index: np.ndarray, width: int, made: int) -> np.ndarray:
    """Where blocks begin and end, int64 `[b + 1]`: as many jobs as fit whose versions are there when the block begins."""
    num = len(jobs)
    before = made + np.cumsum(jobs.is_last) - jobs.is_last  # versions made before each job is used
    ends = [0]
    while ends[-1] < num:
        begin = ends[-1]
        stop = min(begin + width, int(np.searchsorted(index, index[begin], side="right")))
        late = jobs.start_version[begin:stop] > before[begin]
        ends.append(begin + int(np.argmax(late)) if late.any() else stop)
        if ends[-1] == begin:
            checks.fail("learn", "schedule", "one whose jobs start from versions that exist", f"job {begin} does not")
    return np.asarray(ends)


class _Pool:
    """Places of versions: one is free when the last job that starts from its version has been handed out."""

    def __init__(self, num: int, max_live: int | None) -> None:
        self._num, self._is_ring = num, max_live is not None
        self._free = list(range(num - 1, 0, -1))
        self._place = {0: 0}  # version -> place

    def places(self, jobs: Jobs, num: int, made: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the first `num` jobs: where the versions lie that they start from, and where those go that they make."""
        if self._is_ring:
            after = made + np.cumsum(jobs.is_last[:num])
            if (jobs.staleness[:num] >= self._num).any():
                checks.fail("learn", "schedule", f"one whose jobs are at most {self._num - 1} versions old", "older")
            target = np.where(jobs.is_last[:num], after % self._num, self._num)
            return (jobs.start_version[:num] % self._num).astype(np.int32), target.astype(np.int32)
        versions, last = _last_positions(jobs.start_version)
        needed = dict(zip(versions.tolist(), last.tolist(), strict=True))
        source, target = np.zeros(num, np.int32), np.full(num, self._num, np.int32)
        start, is_last = jobs.start_version[:num].tolist(), jobs.is_last[:num].tolist()
        version = made
        self._drop(version for version in list(self._place) if version not in needed)
        for p in range(num):
            source[p] = self._place[start[p]]
            if needed[start[p]] == p:
                self._drop([start[p]])
            if is_last[p]:
                version += 1
                if version in needed:
                    self._place[version] = self._free.pop()
                    target[p] = self._place[version]
        return source, target

    def _drop(self, versions: Any) -> None:
        for version in versions:
            self._free.append(self._place.pop(version))


def _last_positions(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, and the last position of each."""
    found, from_end = np.unique(values[::-1], return_index=True)
    return found, len(values) - 1 - from_end


def _spent(jobs: Jobs, num: int, parts: JobParts, waits: bool) -> dict[str, np.ndarray]:
    """How the clients of the first `num` jobs have spent their seconds until they begin anew, float64 `[num]` each.

    What a job lasted is shared among its steps, the way down and the way up as the links' times of these are.  Then its
    client waits until the job is used, or it begins the next.
    """
    client, steps = jobs.client[:num], jobs.num_steps[:num]
    shares = {"compute": parts.step[client] * steps, "download": parts.down[client], "upload": parts.up[client]}
    lasted = (jobs.finish - jobs.start)[:num] / TICKS_PER_SECOND
    whole = np.sum(list(shares.values()), axis=0)
    spent = {name: lasted * share / whole for name, share in shares.items()}
    order = np.lexsort((jobs.number, jobs.client))
    following = np.full(len(jobs), np.iinfo(np.int64).max)
    same = jobs.client[order][1:] == jobs.client[order][:-1]
    following[order[:-1][same]] = jobs.start[order[1:][same]]
    until = np.minimum(jobs.use[:num], following[:num])
    waited = np.maximum(until - jobs.finish[:num], 0) / TICKS_PER_SECOND
    return {**spent, "waiting": waited if waits else np.zeros(num)}


def _blocks(
    jobs: Jobs,
    ends: np.ndarray,
    width: int,
    source: np.ndarray,
    target: np.ndarray,
    num_clients: int,
    seconds: dict[str, np.ndarray],
) -> JobBlocks:
    num_blocks = max(len(ends) - 1, 1)
    sizes = np.diff(ends)
    block = np.repeat(np.arange(len(sizes)), sizes)
    slot = block * width + np.arange(len(jobs)) - np.repeat(ends[:-1], sizes)

    def spread(values: np.ndarray, dtype: Any, fill: Any = 0) -> Any:
        out = np.full(num_blocks * width, fill, dtype)
        out[slot] = values
        return out.reshape(num_blocks, width)

    return JobBlocks(
        client=spread(jobs.client, np.int32, num_clients),
        number=spread(jobs.number, np.uint32),
        num_steps=spread(jobs.num_steps, np.int32),
        version=spread(jobs.start_version, np.int32),
        coefficient=spread(jobs.coefficient, np.float32),
        staleness=spread(jobs.staleness, np.uint32),
        source=spread(source, np.int32),
        target=spread(target, np.int32, np.iinfo(np.int32).max),
        is_direct=spread(jobs.is_direct, bool),
        is_last=spread(jobs.is_last, bool),
        is_job=spread(np.ones(len(jobs), bool), bool),
        seconds={name: spread(each, np.float32) for name, each in seconds.items()},
    )
