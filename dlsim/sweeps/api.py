"""`sweep`: topology x algorithm x rate x seed as few programs, one labelled array, resumable."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from dlsim import checks
from dlsim.core import Record
from dlsim.running import progress_bar
from dlsim.running.meshes import laid_over, node_mesh
from dlsim.running.stopping import Interrupts
from dlsim.sweeps import layout as layouts
from dlsim.sweeps.assemble import attributes, dataset
from dlsim.sweeps.display import display
from dlsim.sweeps.engine import Engine, Options, Progress
from dlsim.sweeps.estimate import parse_memory
from dlsim.sweeps.plan import Plan, make_plan, num_cores
from dlsim.sweeps.source import Source, from_experiment, from_function
from dlsim.sweeps.store import Store

if TYPE_CHECKING:
    import xarray


class Outcome(NamedTuple):
    """What a sweep gave, and how."""

    dataset: xarray.Dataset
    parts: list[dict[str, Any]]  # of each block: group, choices, seeds, status, layout, timing
    timing: dict[str, Any]  # num_programs, compile_seconds, run_seconds of this call
    sources: list[str]


def sweep(
    what: Any,
    axes: Mapping[str, Sequence[Any]] | None = None,
    *,
    seed: int | Sequence[int] | None = None,
    num_steps: int | None = None,
    record: Record | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: str | bool = "auto",
    layout: Any = "auto",
    memory: Any = None,
    lanes: int | None = None,
    mesh: Any = None,
    common_topologies: bool = True,
    workers: Any = None,
    **more_axes: Sequence[Any],
) -> xarray.Dataset:
    """Run every combination of the axes with every seed.

    Floats, seeds and topologies of one size are data; ints, bools and names are structure.  Runs that differ in data
    alone form a group, which is one compiled program.

        results = dlsim.sweep(make, topology=["ring", "torus"], learning_rate=[0.01, 0.1], seed=range(8), num_steps=500)
        results.accuracy.isel(step=-1).mean("seed").plot()

    Args:
      what: `make(**choice) -> Process` (or `(Process, Record)`); or an experiment file, `"file.py"` or `"file.py:mode"`.
      axes: values by name, for names that this function uses itself; the others are given as keywords.
      seed: an int or several; default: 0, or the experiment's `num_seeds`.
      num_steps: for a function; an experiment's config says it.
      record: for a function that gives none.
      out: a folder in which finished blocks are kept.  A sweep that was stopped goes on there, and one with more values
        runs what is new.  None: in memory alone.
      progress: as in `simulate`.
      layout: `"auto"` (chosen by trial among real blocks), `"vmap"`, `"map"`, a number of runs side by side, or
        `"32x4"`: 32 runs a program, 4 at a time.
      memory: bytes a device, or `"8GiB"`; default: what is free.
      lanes: programs that run at a time on a device; default: by trial on a CPU, 1 elsewhere.
      mesh: lay the nodes of every run over devices, as in `simulate`; runs then follow one another.
      common_topologies: bring topologies of one size to a common form, so that they share a program.
      workers: an executor of `dlsim.sweeps.workers`, for several machines; None: this process.

    Returns:
      A Dataset with a dimension for each axis, then `seed` and `step`; beside the records it has `diverged_step` and
      `seconds_per_step` of every run.

    Raises:
      ValueError: one line, before anything runs.
      Interrupted: Ctrl-C, or SIGTERM where there is `out`; finished blocks, and the state of those in flight, are in `out`.
    """
    chosen = _check_axes(axes, more_axes)
    checks.flag("sweep", "common_topologies", common_topologies)
    workers = _check_workers(workers)
    if out is not None:
        out = checks.path("sweep", "out", out, "a folder, or None")
    source, mode = _source(what, chosen, seed, num_steps, record)
    store = Store(out)
    about: dict[str, Any] = {"experiment": source.name, "mode": mode, "config": {}}
    options = make_options(layout, memory, lanes, mesh)
    progress_bar.check("sweep", progress)
    with store.locked():
        store.check(about)
        store.refresh()
        plan = plan_sweep(source, store, options, progress, common_topologies=common_topologies)
        if workers is None:
            check_memory(plan, options)
        store.open(about)  # last: bad settings are told before anything is written
        bound = None if workers is None else bind_workers(workers, source, what, chosen, mode, seed)
        return execute(plan, store, options, progress, workers=bound).dataset


def _check_axes(axes: Any, more_axes: dict[str, Any]) -> dict[str, Any]:
    """All axes by name, each a list of values in an order."""
    if axes is not None and not isinstance(axes, Mapping):
        fix = 'Write e.g. {"learning_rate": [0.01, 0.1]}.'
        checks.fail("sweep", "axes", "a mapping from names to lists of values", checks.describe(axes), fix)
    chosen = {**(axes or {}), **more_axes}
    for key, values in chosen.items():
        if not isinstance(key, str):
            checks.fail("sweep", "axis", "a name", checks.describe(key))
        if axes and key in axes and key in more_axes:
            checks.fail("sweep", f"axis {key}", "given once", "twice", "Name it in axes or as a keyword.")
        has_order = not isinstance(values, str | bytes | Mapping | Set | type) and hasattr(values, "__len__")
        if not has_order or getattr(values, "shape", None) == ():
            checks.fail("sweep", f"axis {key}", "a list of values", checks.describe(values), f"Write {key}=[...].")
    return chosen


def _check_workers(workers: Any) -> Any:
    """What blocks go to: None, a name with a number, or an object that binds."""
    if workers is None:
        return None
    from dlsim.sweeps.workers import parse

    made = parse(workers) if isinstance(workers, str) else workers
    if isinstance(made, type) or not callable(getattr(made, "bind", None)):
        fix = "See dlsim.sweeps.workers."
        checks.fail("sweep", "workers", "None, a word such as ray:4, or workers", checks.describe(made), fix)
    return made


def bind_workers(workers: Any, source: Source, what: Any, axes: dict[str, Any], mode: str | None, seed: Any) -> Any:
    """Workers that make the source by themselves: of a function it travels, of a file each loads it."""
    import functools

    from dlsim.sweeps.workers import parse

    made = parse(workers) if isinstance(workers, str) else workers
    if callable(what):
        return made.bind(functools.partial(_same, source))
    return made.bind(functools.partial(_loaded, os.fspath(what), axes, seed))


def _same(source: Source) -> Source:
    return source


def _loaded(what: str, axes: dict[str, Any], seed: Any) -> Source:
    return _source(what, axes, seed, None, None)[0]


def _source(
    what: Any,
    axes: dict[str, Any],
    seed: int | Sequence[int] | None,
    num_steps: int | None,
    record: Record | None,
) -> tuple[Source, str | None]:
    if callable(what):
        return from_function(what, axes, check_seeds(0 if seed is None else seed), num_steps, record), None
    if not isinstance(what, str | os.PathLike):
        checks.fail("sweep", "what", "a function or an experiment file", type(what).__name__)
    from dlsim.configs import load_experiment, make_config, split_mode

    path, mode = split_mode(os.fspath(what))
    if num_steps is not None or record is not None:
        checks.fail("sweep", "num_steps", "left to the experiment's config", num_steps, "Pass num_steps=[...] in axes.")
    experiment = load_experiment(path)
    config = make_config(experiment, mode)
    seeds = check_seeds(range(config.num_seeds) if seed is None else seed)
    return from_experiment(experiment, config, axes, seeds), mode


def check_seeds(seed: int | Sequence[int]) -> list[int]:
    """One or more distinct seeds that 32 bits hold."""
    return checks.seeds("sweep", [seed] if isinstance(seed, int) or not hasattr(seed, "__len__") else seed)


def make_options(layout: Any = "auto", memory: Any = None, lanes: int | None = None, mesh: Any = None) -> Options:
    """Options of the engine from what a user writes."""
    if mesh is not None and jax.process_count() > 1:
        fix = "Over several hosts run one process with dlsim.simulate(mesh=...), or spread blocks with workers."
        checks.fail("sweep", "mesh", "of one host's devices", f"{jax.process_count()} processes", fix)
    return Options(
        layout=layouts.parse(layout),
        memory=None if memory is None else parse_memory(memory),
        lanes=None if lanes is None else checks.integer("sweep", "lanes", lanes, 1, 64),
        num_cores=num_cores(),
        mesh=None if mesh is None else node_mesh(mesh, "sweep"),
    )


def plan_sweep(
    source: Source, store: Store, options: Options, progress: str | bool = False, *, common_topologies: bool = True
) -> Plan:
    """What is to be run, given what the store holds; building and counting it takes a while, which is said."""
    progress_bar.check("sweep", progress)
    runs = math.prod(map(len, source.axes.values())) * len(source.seeds)
    label = f"{source.name}: planning {runs:,} run{'s' if runs > 1 else ''}"
    with progress_bar.working(label, progress), laid_over(options.mesh):
        return make_plan(
            source,
            store.__contains__,
            memory=options.memory,
            devices=options.devices,
            common_topologies=common_topologies,
        )


def execute(
    plan: Plan, store: Store, options: Options, progress: str | bool = "auto", *, workers: Any = None
) -> Outcome:
    """Run what the store does not hold yet of a plan, and put all runs together."""
    timing = {"num_programs": 0.0, "compile_seconds": 0.0, "run_seconds": 0.0}
    identities = [member.identity for group in plan.groups for member in group.members]
    if not all(identity in store for identity in identities):
        timing = workers.run(plan, store, progress) if workers is not None else run_here(plan, store, options, progress)
    blocks = store.blocks(identities)
    merged = dataset(plan.source, blocks).assign_attrs(attributes(plan.source))
    parts = [_part(block) for block in blocks]
    return Outcome(merged, parts, timing, list(dict.fromkeys(s for group in plan.groups for s in group.sources)))


def check_memory(plan: Plan, options: Options) -> None:
    """One line if a run of any group does not fit, before the first one is run."""
    engine = Engine(Store(), options, Progress())
    for group, need, left in zip(plan.groups, plan.needs, plan.todo, strict=True):
        if left:
            engine.check(group, need)


def run_here(plan: Plan, store: Store, options: Options, progress: str | bool) -> dict[str, float]:
    """Run what is left of a plan in this process."""
    with Interrupts(store.folder is not None) as interrupts, display(plan, progress) as say:
        shown = Progress(say)
        engine = Engine(store, options, shown, lambda: interrupts.first)
        done_before = [(group, len(group.members) - left) for group, left in zip(plan.groups, plan.todo, strict=True)]
        for group, done in done_before:
            shown.add(done * group.num_steps)
            shown.finished(done, "")
        for group, need in zip(plan.groups, plan.needs, strict=True):
            engine.run(group, need)
        store.clear_checkpoints()
    return engine.timing


def _part(block: Any) -> dict[str, Any]:
    """What the provenance keeps of a block."""
    from dlsim.running.status import Status, StatusLog

    labels = [" ".join(str(value) for value in choice.values()) for choice in block.meta["choices"]]
    lines: list[str] = []
    ok = True
    for run, (label, seed) in enumerate(zip(labels, block.meta["seeds"], strict=True)):
        status = Status(StatusLog(block.bits[run], block.first_step[run], block.first_node[run]), [seed])
        ok = ok and status.ok
        lines.extend(f"{label}: {line}".removeprefix(": ") for line in status.report())
    return {
        "label": ", ".join(dict.fromkeys(labels)),
        "seeds": block.meta["seeds"],
        "ok": ok,
        "status": lines,
        "layout": block.meta["layout"],
        "timing": {name: block.meta[name] for name in ("compile_seconds", "run_seconds")},
        "sources": block.meta["sources"],
    }
