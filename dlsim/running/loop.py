"""The loop: compiled chunks one after the other, records on the way, checkpoints, and signals between chunks."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from dlsim import checks
from dlsim.core import Array, Feed, Info, Phase
from dlsim.running.meshes import is_shared, told
from dlsim.running.phases import Between, phase_identity
from dlsim.running.programs import CHUNK_RECORDS, Carry, Programs
from dlsim.running.stopping import Interrupted

if TYPE_CHECKING:
    from dlsim.running.checkpoint import Store
    from dlsim.running.early import Watch
    from dlsim.running.history import History

CHUNK_SECONDS = 0.5  # aimed at: short enough for a live bar, long enough that the host costs nothing


class Played(NamedTuple):
    """What the loop gives back."""

    carry: Carry
    history: History
    num_done: int  # steps run here, without those of the checkpoint it went on from
    seconds: float


class Checkpoints(NamedTuple):
    """Where and how often the loop saves its state."""

    folder: str
    seconds: float = 30.0
    resume: bool = False
    at_end: bool = True  # False: the caller keeps the results, and a short run needs no folder at all


def play(
    programs: Programs,
    key: Array,
    num_steps: int,
    every: int,
    *,
    has_runs: bool,
    checkpoints: Checkpoints | None = None,
    report: Callable[[int, History], None] = lambda step, history: None,
    stopped: Callable[[], int | None] = lambda: None,
    first_chunk: int = 1,
    feeds: Sequence[Feed | None] = (),
    phases: Sequence[Phase | None] = (),
    watch: Watch | None = None,
) -> Played:
    """Run the programs for `num_steps` steps.

    Args:
      programs: compiled, with their data.
      key: of the run or runs; tells checkpoints of different runs apart.
      num_steps: counted from the very start also when resuming.
      every: steps from record to record.
      has_runs: whether everything leads with an axis of runs.
      checkpoints: where the state is kept; None: nowhere.
      report: called after every chunk, and once before the first, with the step reached.
      stopped: asked after every chunk; the number of a signal ends the loop with `Interrupted` once the state is saved.
      first_chunk: steps of the first chunk, where the pace is known; the length then follows `CHUNK_SECONDS`.
      feeds: what the host prepares, one a run; none: nothing.
      phases: what the host does between steps, one a run; none: nothing.
      watch: rules that end the run early.  Each record is then a chunk of its own, so that the last state is that of the
        record that decided, however long chunks would be.
    """
    from dlsim.running import checkpoint

    shared = is_shared(programs.shapes[0])
    with contextlib.ExitStack() as stack:
        store = None
        # Before the first step is served: later the host would have to begin its tape anew.
        tape = {} if checkpoints is None else {**_tape(feeds, key, has_runs), **phase_identity(phases)}

        def opened(at: Checkpoints) -> Store:
            process = None if programs.identity is None else {**programs.identity(), **tape}
            made = checkpoint.Store(at.folder, checkpoint.signature(programs.shapes, key, every, process), shared)
            stack.callback(made.close)  # waits for the last write, also on the way out of an error
            return made

        if checkpoints is not None and (shared or checkpoints.at_end or pathlib.Path(checkpoints.folder).is_dir()):
            store = opened(checkpoints)
        resume = checkpoints is not None and checkpoints.resume
        carry, history, step = _begin(programs, store, resume, num_steps, every, has_runs)
        first_step, chunk = step, first_chunk
        if watch is not None:
            watch.note(history.steps, history.rows())
        report(step, history)
        began = saved_at = time.perf_counter()
        feeder = _Feeder(feeds, key, has_runs, num_steps)
        between = Between(programs.phase, phases, has_runs)
        while step < num_steps and not (watch is not None and watch.is_done):
            before = time.perf_counter()
            carry = feeder.serve(carry, step)
            until = min(num_steps, feeder.until, between.after(step, num_steps))
            records, steps = _plan(step, until, every, chunk, 1 if watch else CHUNK_RECORDS)
            carry, buffer = programs.advance(carry, records, steps)
            reached = [step + steps * (i + 1) for i in range(records)]
            step = reached[-1]
            if between.is_due(step):
                _keep(history, buffer, reached[:-1], num_steps, every, has_runs)
                carry, reached = between.play(carry, step), reached[-1:]
                if step % every == 0 or step == num_steps:
                    carry, buffer = programs.advance(carry, 1, 0)  # what a phase leaves is what is recorded
            jax.block_until_ready(carry.step)
            taken = time.perf_counter() - before
            kept = _keep(history, buffer, reached, num_steps, every, has_runs)
            if watch is not None and kept is not None:
                watch.note(*kept)
            is_last = step == num_steps or (watch is not None and watch.is_done)
            report(step, history)
            waited, stop = time.perf_counter() - saved_at, int(stopped() or 0)
            if shared:
                taken, waited, stop = _of_all(taken, waited, stop)
            chunk = _next_chunk(records * steps, taken)
            if checkpoints is not None:
                due = waited > checkpoints.seconds or stop > 0
                if checkpoints.at_end if is_last else due:
                    store = opened(checkpoints) if store is None else store
                    store.save(step, carry, history)
                    saved_at = time.perf_counter()
            if stop and not is_last:
                raise Interrupted.by(stop, f"stopped at step {step} of {num_steps}")
        return Played(carry, history, step - first_step, time.perf_counter() - began)


class _Feeder:
    """Fills the states of the runs before a step that their feeds have not served yet."""

    def __init__(self, feeds: Sequence[Feed | None], key: Array, has_runs: bool, num_steps: int) -> None:
        self._feeds = [feed for feed in feeds if feed is not None]
        self._keys = [key[i] for i in range(len(self._feeds))] if has_runs else [key]
        self._has_runs = has_runs
        self.until = 0 if self._feeds else num_steps

    def serve(self, carry: Carry, step: int) -> Carry:
        """The carry with what the steps from `step` to `until` need."""
        if step < self.until:
            return carry
        parts, ends = zip(
            *(feed.fill(key, step) for feed, key in zip(self._feeds, self._keys, strict=True)), strict=True
        )
        # Runs side by side go in step, so all are served anew where the first of them must be.
        self.until = min(ends)
        part = jax.tree.map(lambda *leaves: np.stack(leaves), *parts) if self._has_runs else parts[0]
        return carry._replace(state=jax.tree.map(_laid, self._feeds[0].put(carry.state, part), carry.state))


def _tape(feeds: Sequence[Feed | None], key: Array, has_runs: bool) -> dict[str, str]:
    """The digest of what the host prepares for the first steps of a run, which its programs do not tell."""
    from dlsim.running.identity import of_tree

    first = next(((i, feed) for i, feed in enumerate(feeds) if feed is not None), None)
    if first is None:
        return {}
    place, feed = first
    return {"tape": of_tree(feed.fill(key[place] if has_runs else key, 0)[0])}


def _laid(new: Any, old: Array) -> Array:
    """A leaf from the host where the old one lies."""
    if new is old:
        return old
    if np.shape(new) != old.shape or new.dtype != old.dtype:
        got = f"{new.dtype}{list(np.shape(new))}"
        checks.fail("simulate", "process.feed", f"one that gives {old.dtype}{list(old.shape)} for this leaf", got)
    return jax.device_put(new, old.sharding)


def _begin(
    programs: Programs, store: Store | None, resume: bool, num_steps: int, every: int, has_runs: bool
) -> tuple[Carry, History, int]:
    """Where the run starts: at the newest sound checkpoint if it resumes and there is one, else at step 0."""
    from dlsim.running.history import History

    if store is not None and resume:
        found = store.restore(programs.shapes, num_steps)
        if found is not None:
            carry, history, step = found
            if step < num_steps:
                history.drop_partial(every)
            return carry, history, step
    elif store is not None:
        store.refuse_foreign()
    # A record without a step: step 0, measured by the program that measures the others.
    carry, first = programs.advance(programs.start(), 1, 0)
    history = History()
    _keep(history, first, [0], num_steps, every, has_runs)
    return carry, history, 0


def _keep(
    history: History, buffer: Info, reached: list[int], num_steps: int, every: int, has_runs: bool
) -> tuple[list[int], Info] | None:
    """Add the records of a chunk that stand on a multiple of `every` or at the end; gives their steps and rows."""
    kept = [i for i, step in enumerate(reached) if step % every == 0 or step == num_steps]
    if kept:
        rows = jax.tree.map(lambda leaf: np.take(np.asarray(leaf), kept, axis=int(has_runs)), buffer)
        history.append([reached[i] for i in kept], rows, has_runs)
        return [reached[i] for i in kept], rows
    return None


def _plan(step: int, num_steps: int, every: int, chunk: int, most: int = CHUNK_RECORDS) -> tuple[int, int]:
    """The next chunk as (records, steps a record): up to a record's boundary first, then whole records."""
    to_boundary = min(every - step % every, num_steps - step)
    if to_boundary < every or chunk < every:
        return 1, min(to_boundary, max(chunk, 1))
    return max(1, min(chunk // every, (num_steps - step) // every, most)), every


def _of_all(taken: float, waited: float, stop: int) -> tuple[float, float, int]:
    """The first process's clock, and the signal to any process: all must run the same chunks."""
    said = told(taken, waited, float(stop))
    return float(said[0, 0]), float(said[0, 1]), int(said[:, 2].max())


def _next_chunk(steps: int, seconds: float) -> int:
    """Steps of the next chunk: as many as take CHUNK_SECONDS, at most ten times more than the last."""
    return max(1, min(10 * steps, int(steps * CHUNK_SECONDS / max(seconds, 1e-6))))
