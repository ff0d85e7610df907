"""Plays the groups of a sweep: lanes take blocks of runs, results are saved block by block."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from dlsim import checks, files
from dlsim.running.history import History
from dlsim.running.loop import Checkpoints, play
from dlsim.running.meshes import Placement, laid_over, place
from dlsim.running.programs import Data, Executable, compile_traced
from dlsim.running.stopping import Interrupted
from dlsim.sweeps.estimate import HEADROOM, Need, memory_limit, readable
from dlsim.sweeps.groups import Group, Member
from dlsim.sweeps.layout import Layout, Tuner
from dlsim.sweeps.store import Block, Store

CHECKPOINT_SECONDS = 30.0  # a block that takes longer keeps its state on the way
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory", "failed to allocate")


class Options(NamedTuple):
    """How a sweep is run; none of it changes a result beyond rounding."""

    layout: Any = "auto"  # as `layout.parse` gives it
    memory: int | None = None  # bytes a device; None: what is free
    lanes: int | None = None  # a device; None: by trial
    devices: tuple[Any, ...] = ()  # none: all local ones
    num_cores: int = 2
    mesh: Any = None  # lays the nodes of each run over devices; runs then follow one another


class Progress:
    """Run-steps done so far over the whole sweep, told to a display from any lane."""

    def __init__(self, say: Callable[[float, str], None] = lambda done, text: None) -> None:
        self._say, self._lock = say, threading.Lock()
        self.done, self.updates, self.runs, self._text = 0, 0.0, 0, ""
        self._began = time.perf_counter()

    def add(self, run_steps: int, updates: float = 0.0) -> None:
        with self._lock:
            self.done += run_steps
            self.updates += updates
            self._tell()

    def finished(self, runs: int, text: str) -> None:
        with self._lock:
            self.runs += runs
            self._text = text
            self._tell()

    def _tell(self) -> None:
        from dlsim.running.progress_bar import short

        rate = self.updates / max(time.perf_counter() - self._began, 1e-9)
        pace = f"  {short(rate)} node-updates/s" if rate else ""
        self._say(self.done, f"{self.runs} runs done  {self._text}{pace}")


class Engine:
    """Runs groups on this machine's devices."""

    def __init__(
        self, store: Store, options: Options, progress: Progress, stopped: Callable[[], int | None] = lambda: None
    ) -> None:
        self.store, self._options, self._progress, self._stopped = store, options, progress, stopped
        self._devices = options.devices or tuple(jax.local_devices())
        if options.mesh is not None:
            self._devices = self._devices[:1]  # one lane, whose programs run on all devices of the mesh
            self._options = options._replace(layout=(1, 1) if options.layout == "auto" else options.layout, lanes=1)
        self._programs: dict[tuple[Any, ...], Executable] = {}
        self._shared: dict[tuple[Any, ...], Any] = {}
        self._compiling = threading.Lock()
        self.compile_seconds = self.run_seconds = 0.0  # the latter of all lanes together
        self.num_programs = 0

    @property
    def timing(self) -> dict[str, float]:
        """What was compiled and run so far."""
        return {
            "num_programs": float(self.num_programs),
            "compile_seconds": self.compile_seconds,
            "run_seconds": self.run_seconds,
        }

    def check(self, group: Group, need: Need) -> None:
        """One line if a run of the group does not fit."""
        limit, fits = self._limit(need)
        if fits < 1:
            self._refuse(group, need, limit)

    def _limit(self, need: Need) -> tuple[int, int]:
        """Bytes that may be used of a device, and the runs that fit into them at once."""
        if self._options.mesh is not None:
            need = need.over(self._options.mesh.size)
        limit = int(HEADROOM * (self._options.memory or memory_limit(self._devices[0])))
        return limit, int((limit - need.shared_bytes) // max(need.run_bytes, 1))

    def run(self, group: Group, need: Need, members: Sequence[Member] | None = None) -> None:
        """Run what the store does not hold of a group, or of some of its members."""
        todo = [member for member in members or group.members if member.identity not in self.store]
        if not todo:
            return
        limit, fits = self._limit(need)
        if fits < 1:
            self._refuse(group, need, limit)
        is_cpu = self._devices[0].platform == "cpu"
        tuner = Tuner(
            self._options.layout,
            num_runs=len(todo),
            fits=fits,
            devices=len(self._devices),
            lanes=self._options.lanes,
            num_cores=self._options.num_cores,
            is_cpu=is_cpu,
            run_bytes=need.run_bytes,
        )
        tuner.runs_left = len(todo)
        layout: Layout
        for phase in tuner.phases():
            layout = phase.layout
            while todo:
                blocks = _blocks(todo, layout.runs)
                blocks = blocks[: phase.blocks] if phase.blocks else blocks
                compiled, began = self.compile_seconds, time.perf_counter()
                lost = self._play_all(group, blocks, layout)
                todo = [member for member in todo if member.identity not in self.store]
                tuner.runs_left = len(todo)
                if lost is not None:
                    smaller = tuner.shrink(layout)
                    if smaller is None:
                        self._refuse(group, need, limit, lost)
                    else:
                        layout = smaller
                    continue
                spent = time.perf_counter() - began - (self.compile_seconds - compiled)
                tuner.note(layout, sum(map(len, blocks)) / max(spent, 1e-9), self.compile_seconds - compiled)
                if phase.blocks:
                    break
            if not todo:
                return

    def _refuse(self, group: Group, need: Need, limit: int, error: BaseException | None = None) -> None:
        """One line: what one run takes, what there is, and how many nodes would fit."""
        if self._options.mesh is not None:
            need = need.over(self._options.mesh.size)
        got = readable(limit) if error is None else f"an error of the device with {readable(limit)} free"
        share = max(limit - need.shared_bytes, 0) / max(need.run_bytes, 1)
        nodes = int(min(0.9 if error is None else 0.5, share) * group.num_nodes)
        fix = f"About {nodes} nodes would fit." if nodes else "Give memory= more, or use a smaller model or data set."
        rule = f"at least {readable(need.bytes(1))} (estimated) for one run of {group.label}"
        try:
            checks.fail("sweep", "memory", rule, got, fix)
        except ValueError as line:
            raise line from error

    def _play_all(self, group: Group, blocks: list[list[Member]], layout: Layout) -> BaseException | None:
        """Play blocks in lanes; an out-of-memory error if there was one, other errors are raised."""
        waiting = list(reversed(blocks))
        places = [(device, lane) for lane in range(layout.lanes) for device in self._devices][: len(blocks)]
        lock, errors = threading.Lock(), list[BaseException]()

        def lane(device: Any) -> None:
            while not errors and not self._stopped():
                with lock:
                    if not waiting:
                        return
                    block = waiting.pop()
                try:
                    self._play(group, block, layout, device, lambda: self._stopped() or len(errors))
                except Exception as error:
                    errors.append(error)
                except Interrupted as error:  # no Exception, so that nobody swallows it
                    errors.append(error)

        if len(places) == 1:
            lane(places[0][0])
        else:
            with ThreadPoolExecutor(len(places), thread_name_prefix="dlsim-lane") as pool:
                list(pool.map(lane, [device for device, _ in places]))
        real = [error for error in errors if not isinstance(error, Interrupted)]
        for error in real:
            # Of a disk that is full, storage says RESOURCE_EXHAUSTED too.
            if files.why_unwritable(error) is not None or not any(text in str(error) for text in _OUT_OF_MEMORY):
                raise error
        if real:
            return real[0]
        if errors or self._stopped():
            raise Interrupted.by(self._stopped(), "finished runs are kept")
        return None

    def _play(
        self, group: Group, block: list[Member], layout: Layout, device: Any, stopped: Callable[[], int | None]
    ) -> None:
        # The last block is filled up with its last run, so that all blocks share one program.
        filled = block + [block[-1]] * (layout.runs - len(block))
        data = self._data(group, filled, device)
        executable, fresh = self._executable(group, layout, device, data)
        seen = [0]
        per_step = group.num_nodes * len(block)

        def report(step: int, history: History) -> None:
            first = not history.steps or (len(history.steps) == 1 and step == 0)
            new = step - seen[0]
            self._progress.add(new * len(block), 0.0 if first else float(new * per_step))
            seen[0] = step

        # Of the filled block: its size is part of a checkpoint, and may differ when the sweep goes on.
        places = [member.identity for member in filled]
        folder = self.store.checkpoints(places)
        kept = None if folder is None else Checkpoints(str(folder), CHECKPOINT_SECONDS, resume=True, at_end=False)
        began = time.perf_counter()
        try:
            played = play(
                executable.bind(data),
                data.own[2],
                group.num_steps,
                group.every,
                has_runs=True,
                checkpoints=kept,
                report=report,
                stopped=stopped,
                first_chunk=max(1, min(group.num_steps, 4 * group.every)),
                feeds=[group.feeds[member.variant] for member in filled],
                phases=[group.phases[member.variant] for member in filled],
            )
        except (Exception, Interrupted):
            self._progress.add(-seen[0] * len(block))  # it is played again, perhaps in other company
            raise
        seconds = time.perf_counter() - began
        self.run_seconds += seconds
        self.store.save(_result(group, block, played, layout, fresh, seconds))
        self.store.clear_checkpoints(places)
        self._progress.finished(len(block), _latest(played.history))

    def _data(self, group: Group, runs: list[Member], device: Any) -> Data:
        """The arguments of a block on its device, where what all runs share is put once."""
        key = (id(group), device)
        with self._compiling:
            if key not in self._shared:
                for other in [other for other in self._shared if other[0] != id(group)]:
                    del self._shared[other]  # of a group that is done
                self._shared[key] = self._put(group, group.shared(), device)
        return Data(self._shared[key], self._put(group, group.own(runs), device))

    def _put(self, group: Group, tree: Any, device: Any) -> Any:
        if self._options.mesh is None:
            return jax.device_put(tree, device)
        return self._placement(group).put(tree)

    def _placement(self, group: Group) -> Placement:
        return place(group.num_nodes or None, self._options.mesh, "sweep")

    def _executable(self, group: Group, layout: Layout, device: Any, data: Any) -> tuple[Executable, float]:
        key = (id(group), layout.runs, layout.at_once, device)
        with self._compiling:  # XLA compiles in threads of its own
            if key in self._programs:
                return self._programs[key], 0.0
            for other in [other for other in self._programs if other[0] != id(group)]:
                del self._programs[other]  # of a group that is done
            mesh = self._options.mesh
            with laid_over(mesh):
                placement = None if mesh is None else self._placement(group)
                executable = compile_traced(group.traced, data, layout.at_once, placement)
            self._programs[key] = executable
            self.compile_seconds += executable.compile_seconds
            self.num_programs += 1
            return executable, executable.compile_seconds


def _blocks(todo: Sequence[Member], runs: int) -> list[list[Member]]:
    return [list(todo[i : i + runs]) for i in range(0, len(todo), runs)]


def _result(
    group: Group, block: list[Member], played: Any, layout: Layout, compile_seconds: float, seconds: float
) -> Block:
    """What is kept of a block: its first runs, without those it was filled up with."""
    size, log = len(block), played.carry.log
    history: History = played.history
    variables = {name: (dims, array[:size]) for name, (dims, array) in history.variables(group.record_axes).items()}
    return Block(
        identities=[member.identity for member in block],
        steps=np.asarray(history.steps, np.int64),
        variables=variables,
        bits=np.asarray(log.bits)[:size],
        first_step=np.asarray(log.first_step)[:size],
        first_node=np.asarray(log.first_node)[:size],
        seconds=np.full(size, played.seconds * group.num_steps / max(played.num_done, 1) / size),
        meta={
            "group": group.label,
            "choices": [member.choice for member in block],
            "seeds": [member.seed for member in block],
            "sources": list(group.sources),
            "layout": str(layout),
            "compile_seconds": compile_seconds,
            "run_seconds": seconds,
        },
    )


def _latest(history: History) -> str:
    from dlsim.running.progress_bar import SHOWN

    latest = history.latest()
    return "  ".join(f"{name.replace('_', ' ')} {latest[name]:.4g}" for name in SHOWN if name in latest)
