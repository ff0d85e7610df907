"""`simulate`: one Process, with one seed or several, run and recorded; it can be stopped and resumed at any moment."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, files
from dlsim.core import Array, ParamsFn, Process, PyTree, Record
from dlsim.running import progress_bar, status
from dlsim.running.early import Stop, Watch, rules
from dlsim.running.history import axes_of, shapes_of
from dlsim.running.loop import Checkpoints, play
from dlsim.running.meshes import is_leader, node_mesh
from dlsim.running.programs import Programs, compile_process
from dlsim.running.stopping import Interrupted, Interrupts

if TYPE_CHECKING:
    import xarray

    from dlsim.running.history import History


__all__ = ["Interrupted", "Run", "simulate"]


class Run(NamedTuple):
    """What a simulation gives back."""

    state: PyTree  # the last state, with a leading axis of runs where several seeds were given
    results: xarray.Dataset  # dims (seed,) step
    status: status.Status
    timing: dict[str, float]  # compile_seconds, run_seconds, steps_per_second, node_updates_per_second
    seeds: tuple[int, ...] | None = None  # as they were given; None where a key was
    models: Models | None = None  # how `params` finds the models in the state; None: the process has none

    @property
    def params(self) -> PyTree:
        """The trained models, every leaf `[num_seeds, N or 1, ...]`, whatever the method.

        The first axis is that of the seeds, also of a single one (`num_seeds` is 1).  The second has N entries where
        every node holds a model of its own, and one where what the method learns is one model: at a server (`fedavg`
        and its kin, `scaffold`, `fedbuff` and others by arrivals), in `centralized_sgd`, or for a team that shares its
        parameters (`dlsim.marl.share_parameters`).  They are the models that the metrics in `results` are of
        (`process.params(state)`): what a method keeps beside them (a corrected iterate, momentum, a tracker) is in
        `state`.  The model of node 3 with the first seed is

            jax.tree.map(lambda leaf: leaf[0, 3], run.params)

        and the mean model `leaf[0].mean(0)`.  They are on the device, and made anew from the state whenever asked for;
        over several processes they are in parts, as the state is.  `dlsim.save` keeps them.

        Raises ValueError if the process names no models, as worlds without learning do.
        """
        if self.models is None:
            fix = "Make it with dlsim.learn or dlsim.marl.train, or with Process(..., params=)."
            checks.fail("Run", "params", "asked of a process with models", "one that names none", fix)
        return self.models.of(self.state)

    @property
    def step(self) -> int:
        """How many steps the state is from the start."""
        return int(self.results["step"].values[-1])


class Models(NamedTuple):
    """How the models are found in a state of one or several runs."""

    find: ParamsFn
    num_nodes: int | None
    has_runs: bool

    def of(self, state: PyTree) -> PyTree:
        """Every leaf `[num_runs, N or 1, ...]`."""
        found = jax.vmap(self.find)(state) if self.has_runs else self.find(state)
        rows = {leaf.shape[self.has_runs :][:1] for leaf in jax.tree.leaves(found)}
        legal = {(1,)} if self.num_nodes is None else {(1,), (self.num_nodes,)}
        if len(rows) > 1 or not rows <= legal:
            got = ", ".join(sorted(str(list(row)) for row in rows))
            checks.fail("Run", "params", f"of leaves [{self.num_nodes or 'N'} or 1, ...]", f"leaves that begin {got}")
        return found if self.has_runs else jax.tree.map(lambda leaf: leaf[None], found)


def simulate(
    process: Process,
    key: Array | None = None,
    num_steps: int | None = None,
    record: Record | None = None,
    *,
    seed: int | Sequence[int] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    resume: bool = False,
    progress: str | bool = "auto",
    label: str = "",
    mesh: Any = None,
    stop: Stop | Sequence[Stop] | None = None,
) -> Run:
    """Run `process` for `num_steps` steps.

    Step t uses the key fold_in(key, t) and nothing else that is random, so a resumed run equals an unbroken one bit
    for bit, whatever the lengths of its chunks.

    Args:
      process: what to run; `dlsim.learn` makes one of a learning problem.
      key: the run's key (`jax.random.key(0)`); or give `seed`.
      num_steps: steps to run, counted from the very start also when resuming.
      record: what to keep and how often; default: what the process measures, about 100 times.
      seed: an int, or several: they run side by side, vectorised, and the results gain a `seed` axis.
      checkpoint_dir: a folder for checkpoints; one is written every `checkpoint_seconds`, at the end, on Ctrl-C and
        on SIGTERM (as Slurm sends it before a job's time is up; without a folder it ends the process, as ever).  One
        process at a time can use it.
      resume: go on from the newest sound checkpoint in `checkpoint_dir`, if there is one.  It must be of this process:
        the same programs, numbers (rates) and arrays (data, partition, graph), the same seeds and records.
      progress: `"auto"`: a bar on terminals and in notebooks; elsewhere a line on stderr now and then, the first after five
        seconds.  `True`: the same, of short runs too.  `"bar"` or `"lines"`: always that.  `False` or `"off"`: nothing.
      label: a name for the bar.
      mesh: lay the node axis over devices: their number, `"nodes=4"`, or a `jax.sharding.Mesh` with an axis `nodes`; the
        devices may be those of several processes (`dlsim.meshes.start_distributed`).
      stop: end the run early: `dlsim.stop_at("accuracy", at_least=0.9)`, `dlsim.stop_on_plateau("loss", patience=10)`, or
        several, of which the first to hold counts.  The host looks at every record and at nothing else, so let `record`
        be as far apart as the answer may be late.  Several runs end when all have a reason to.  `results.attrs["stopped"]`
        and `status.stopped` say why the run ended; the results hold the records that were made.  A run that is resumed
        stops at the same step with the same bits, or goes on where a new rule asks for more.

    Returns:
      Run, of which `results` are the records, `params` the trained models, and `status` says what went wrong.

    Raises:
      ValueError: bad arguments, a checkpoint of another run, or a checkpoint folder that another process uses.
      OSError: the disk is full, in one line.
      Interrupted: Ctrl-C or SIGTERM; the state is in `checkpoint_dir`.  A second Ctrl-C stops at once.
    """
    checks.instance("simulate", "process", process, Process, "Make one with dlsim.learn(problem, algorithm, network).")
    checks.flag("simulate", "resume", resume)
    checks.text("simulate", "label", label)
    num_steps = checks.count("simulate", "num_steps", num_steps, checks.MOST_STEPS)
    if (key is None) == (seed is None):
        checks.fail("simulate", "key", "given, or else seed (one of the two)", "neither" if key is None else "both")
    if record is None:
        record = Record(every=max(1, num_steps // 100))
    checks.instance("simulate", "record", record, Record, "Pass e.g. dlsim.Record(every=10).")
    every = checks.count("simulate", "record.every", record.every, checks.MOST_STEPS)
    measure = record.fn if record.fn is not None else process.measure
    if measure is None:
        checks.fail("simulate", "record.fn", "given for a process that measures nothing", "None")
    progress_bar.check("simulate", progress)
    checks.number("simulate", "checkpoint_seconds", checkpoint_seconds, 0.0)
    if resume and checkpoint_dir is None:
        checks.fail("simulate", "checkpoint_dir", "given to resume", "None")
    axes = axes_of("simulate", process, record)
    seeds, key = _keys(key, seed)
    given = None if seed is None else tuple(seeds or [int(seed)])  # type: ignore[arg-type]
    checkpoints = None
    if checkpoint_dir is not None:
        folder = files.given_path("simulate", "checkpoint_dir", checkpoint_dir)
        checkpoints = Checkpoints(str(folder), checkpoint_seconds, resume)
    if checkpoint_dir is not None and mesh is None and jax.process_count() > 1:
        fix = "Pass mesh, so that they run it together, or give each process a folder and no start_distributed."
        got = f"given to a run that each of {jax.process_count()} processes does alone"
        checks.fail("simulate", "checkpoint_dir", "of one run", got, fix)
    stops = rules("simulate", stop)
    nodes = None if mesh is None else node_mesh(mesh)
    if mesh is not None and not is_leader():
        progress = False
    with progress_bar.working(f"{label or 'run'}: compiling", progress):
        programs = compile_process(process, key, measure, nodes)
    axes.check("simulate", shapes_of("simulate", programs.shapes[1], int(seeds is not None)))
    updates = _updates(programs)
    watch = Watch(stops, programs.shapes[1], seeds) if stops else None
    with Interrupts(checkpoint_dir is not None) as interrupts, progress_bar.bar(num_steps, 0, progress, label) as bar:
        began: list[float] = []

        def report(step: int, history: History) -> None:
            began.extend([step, time.perf_counter()] if not began else [])
            seconds = max(time.perf_counter() - began[1], 1e-9)
            bar.update(step, history.latest(), updates * (step - began[0]) / seconds)

        played = play(
            programs,
            key,
            num_steps,
            every,
            has_runs=seeds is not None,
            checkpoints=checkpoints,
            report=report,
            stopped=lambda: interrupts.first,
            feeds=() if process.feed is None else [process.feed] * (1 if seeds is None else len(seeds)),
            phases=() if process.phase is None else [process.phase] * (1 if seeds is None else len(seeds)),
            watch=watch,
        )
        ended = int(played.history.steps[-1])
        stopped = "" if watch is None else watch.says(ended)
        if stopped:
            bar.say(ended, f"stopped {stopped}")
    done, seconds = played.num_done, played.seconds
    timing = {
        "compile_seconds": programs.compile_seconds,
        "run_seconds": seconds,
        "steps_per_second": done / seconds if done else 0.0,
        "node_updates_per_second": done * updates / seconds if done else 0.0,
    }
    dataset = played.history.dataset(seeds, axes)
    if stopped:
        dataset.attrs["stopped"] = stopped
    log = status.Status(played.carry.log, seeds, stopped)
    models = None if process.params is None else Models(process.params, process.num_nodes, seeds is not None)
    return Run(played.carry.state, dataset, log, timing, given, models)


def _keys(key: Array | None, seed: int | Sequence[int] | None) -> tuple[list[int] | None, Array]:
    """Labels of the runs (None: a single one) and their key `[]` or keys `[R]`."""
    if seed is None:
        if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            checks.fail("simulate", "key", "a typed key", type(key).__name__, "Use jax.random.key(0), or seed=0.")
        return (list(range(key.shape[0])) if key.ndim else None), key
    if np.ndim(seed) == 0:
        return None, jax.random.key(checks.seed("simulate", seed))
    labels = checks.seeds("simulate", seed)  # type: ignore[arg-type]
    return labels, jax.vmap(jax.random.key)(np.asarray(labels, np.uint32))  # all at once: they may be many


def _updates(programs: Programs) -> int:
    """Node updates a step, all runs together, where the process says its nodes' losses; else 0."""
    info = programs.shapes[0].info
    if "loss" not in info:
        return 0
    shape = info["loss"].shape
    return int(np.prod(shape)) if shape else 1
