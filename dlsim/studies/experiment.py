"""config -> build -> run -> claims -> figure -> saved run.

An experiment file holds

    get_config(mode)     a ConfigDict with num_steps, num_seeds and whatever `build` reads
    axes(config)         {config key: values}: every combination is run (optional)
    build(config)        (Process, Record), where each axis' key holds one of its values
    claims(results)      [Claim], decided by numbers of the run (optional)
    figure(results)      a matplotlib Figure (optional)
    drawings(results)    {label: (Network, {axis: value or values})}, in place of the networks that its processes have, which
                         reports draw with the results of their nodes (optional)
    CITATION             the source, as reports and tables give it (optional)
    MODES, MINUTES       the modes, and what each takes on two cores (optional)
    TWO_CORES            the mode for two cores, where that is not `default` (optional)

`results` is an xarray.Dataset with the axes, `seed` and `step` as dimensions; its attribute `config` is JSON.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dlsim import checks, files, results
from dlsim.configs import Experiment, apply_overrides, flatten, load_experiment, make_config
from dlsim.plotting.networks import drawing_of
from dlsim.results import PARTIAL, SWEEP, Claim, SavedRun
from dlsim.studies.catalogue import code_digest
from dlsim.studies.judging import judge
from dlsim.studies.networks import Networks
from dlsim.studies.sittings import Sitting
from dlsim.sweeps.api import Outcome, check_memory, execute, plan_sweep
from dlsim.sweeps.engine import Options
from dlsim.sweeps.plan import Plan
from dlsim.sweeps.source import Source, from_experiment, parse_axes
from dlsim.sweeps.store import Store

if TYPE_CHECKING:
    import xarray

    from dlsim.sweeps.workers import Workers

__all__ = [
    "Claim",
    "Experiment",
    "SavedRun",
    "apply_overrides",
    "load_experiment",
    "make_config",
    "run_experiment",
    "sweep_experiment",
]


def default_folder(name: str, mode: str, is_sweep: bool = False) -> pathlib.Path:
    """`runs/<name>-<mode>`, of a sweep over axes of one's own `runs/<name>-<mode>-sweep`."""
    return pathlib.Path("runs") / f"{name}-{mode}{'-sweep' if is_sweep else ''}"


def has_kept(folder: pathlib.Path) -> bool:
    """Whether a run's folder holds what can be gone on with: a finished run, finished blocks, or states on the way."""
    return (folder / "provenance.json").exists() or any(_has_work(folder / part) for part in (PARTIAL, SWEEP))


def _has_work(place: pathlib.Path) -> bool:
    kept = (place / "blocks").glob("*.npz"), (place / "current").glob("**/*")
    return any(path.is_file() for paths in kept for path in paths)


def run_experiment(
    path: str | os.PathLike[str],
    mode: str = "default",
    overrides: Sequence[str] = (),
    seeds: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: str | bool = "auto",
    *,
    options: Options | None = None,
    tell: Callable[[Plan], None] = lambda plan: None,
) -> SavedRun:
    """Run an experiment file and save it.

    Args:
      path: the experiment file.
      mode: one of the file's modes.
      overrides: settings such as `"learning_rate=0.1"`.
      seeds: run seeds 0 .. seeds-1, in place of the config's number.
      out: the run's folder, by default `runs/<name>-<mode>`; an earlier run of the same settings there is replaced once
        this one is complete, a run of other settings is left alone.
      resume: go on with the unfinished run in `out`; the result equals that of an unbroken run.
      progress: as in `simulate`.
      options: how runs share programs and devices, from `dlsim.sweeps.api.make_options`.
      tell: called with the plan before anything runs.

    Raises ValueError with one clear line for bad settings, or if another process is at it in this folder, and leaves
    nothing behind if no run got anywhere; OSError with one line if the disk is full; Interrupted on Ctrl-C, after which
    `resume` goes on.  If `claims` or `figure` fails, the runs are kept: mend it, then `resume`.
    """
    clock = time.monotonic()
    experiment = load_experiment(path)
    config = make_config(experiment, mode, overrides, seeds)
    identity = results.identify(experiment.name, mode, config.to_dict())
    with results.locked(default_folder(experiment.name, mode) if out is None else out) as folder:
        results.check_folder(folder, identity)
        networks = Networks()
        source = networks.watch(from_experiment(experiment, config, None, range(config.num_seeds)))
        options = _options(experiment, options)
        if resume and (folder / "provenance.json").exists() and not (folder / PARTIAL).exists():
            return results.load(folder)
        started = _check_partial(folder / PARTIAL, identity, resume)
        store = Store(folder / PARTIAL)
        store.check(identity)
        store.refresh()
        plan = plan_sweep(source, store, options, progress)  # bad settings are told before anything is written
        check_memory(plan, options)
        new = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            began = started or _open_partial(folder / PARTIAL, identity)
            store.open(identity)
            tell(plan)
            with Sitting(folder / PARTIAL, _has_work(folder / PARTIAL), clock) as sitting:
                outcome = _timed(execute(plan, store, options, progress), plan, clock, sitting)
        except BaseException:
            _clear_if_empty(folder / PARTIAL, new)
            raise
        return _finish(experiment, mode, config.to_dict(), identity, outcome, folder, began, networks)


def sweep_experiment(
    path: str | os.PathLike[str],
    mode: str = "default",
    overrides: Sequence[str] = (),
    seeds: int | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: str | bool = "auto",
    *,
    axes: Sequence[str] = (),
    options: Options | None = None,
    tell: Callable[[Plan], None] = lambda plan: None,
    plan_only: bool = False,
    workers: Workers | None = None,
) -> SavedRun | Plan:
    """Run an experiment file over axes of one's own, and keep every block: more values later cost only what is new.

    Args:
      path, mode, overrides, seeds, progress, options, tell: as in `run_experiment`.
      out: the folder, by default `runs/<name>-<mode>-sweep`.  What it holds of the same code and settings is used.
      axes: `"learning_rate=0.01,0.1"` and the like, in place of, or beside, those of the file.
      plan_only: return the plan and run nothing.
      workers: several machines (`dlsim.sweeps.workers`); None: this process.
    """
    clock = time.monotonic()
    experiment, config, source = load_sweep(os.fspath(path), mode, tuple(overrides), seeds, tuple(axes))
    networks = Networks()
    source = networks.watch(source)
    options = _options(experiment, options)
    settings = {key: list(values) for key, values in source.axes.items()}
    identity = results.identify(experiment.name, mode, {**flatten(config), **settings})
    place = default_folder(experiment.name, mode, is_sweep=True) if out is None else out
    with contextlib.nullcontext(results.folder_of(place)) if plan_only else results.locked(place) as folder:
        results.check_folder(folder, identity, extends=True)
        store = Store(folder / SWEEP)
        store.check({**identity, "axes": sorted(source.axes)})
        store.refresh()
        plan = plan_sweep(source, store, options, progress)
        tell(plan)
        if plan_only:
            return plan
        if workers is None:  # the memory of other machines is not known here
            check_memory(plan, options)
        began, has_work = _now(), _has_work(folder / SWEEP)
        store.open({**identity, "axes": sorted(source.axes)})
        where = str(experiment.path)
        make_source = functools.partial(_source_of, where, mode, tuple(overrides), seeds, tuple(axes))
        remote = None if workers is None else workers.bind(make_source)
        with Sitting(folder / SWEEP, has_work, clock) as sitting:
            outcome = execute(plan, store, options, progress, workers=remote)
            outcome = outcome._replace(timing={**outcome.timing, **sitting.timing})
        own = experiment.module.axes(config) if hasattr(experiment.module, "axes") else {}
        is_own = set(own) == set(source.axes)
        return _finish(experiment, mode, identity["config"], identity, outcome, folder, began, networks, is_own)


def _drawings(
    experiment: Experiment, dataset: xarray.Dataset, networks: Networks, is_own: bool
) -> dict[str, Any] | None:
    """Where the networks have their nodes and links, for reports: those of the file, or those that were built."""
    if not is_own or not hasattr(experiment.module, "drawings"):
        return networks.drawings()
    return {label: drawing_of(*one) for label, one in experiment.module.drawings(dataset).items()}


def _options(experiment: Experiment, options: Options | None) -> Options:
    """How runs share the machine; where a file says TIMED they go one at a time, unless the user has said how."""
    options = options or Options()
    if getattr(experiment.module, "TIMED", False) and options.layout == "auto" and options.lanes is None:
        import jax

        return options._replace(layout=(1, 1), lanes=1, devices=options.devices or tuple(jax.local_devices()[:1]))
    return options


def load_sweep(
    path: str, mode: str, overrides: Sequence[str], seeds: int | None, axes: Sequence[str]
) -> tuple[Experiment, Any, Source]:
    """An experiment file with its config and the sweep over `axes`."""
    experiment = load_experiment(path)
    config = make_config(experiment, mode, overrides, seeds)
    chosen = parse_axes(axes, flatten(config))
    return experiment, config, from_experiment(experiment, config, chosen, range(config.num_seeds))


def _source_of(path: str, mode: str, overrides: Sequence[str], seeds: int | None, axes: Sequence[str]) -> Source:
    """What another machine makes of the same words."""
    return load_sweep(path, mode, overrides, seeds, axes)[2]


def _finish(
    experiment: Experiment,
    mode: str,
    config: dict[str, Any],
    identity: dict[str, Any],
    outcome: Outcome,
    folder: pathlib.Path,
    began: str,
    networks: Networks,
    is_own: bool = True,
) -> SavedRun:
    """Claims, figure and provenance of the runs, saved with them."""
    attributes = {"experiment": experiment.name, "mode": mode, "config": json.dumps(identity["config"])}
    dataset = outcome.dataset.assign_attrs(attributes)
    made, figure = judge(experiment, mode, config, dataset, is_own)
    drawings = _drawings(experiment, dataset, networks, is_own)
    provenance = {
        "experiment": experiment.name,
        "mode": mode,
        "summary": experiment.summary,
        "about": (experiment.module.__doc__ or "").strip(),
        "citation": experiment.citation,
        "file": experiment.path.name,
        "file_sha256": experiment.sha256,
        "code_sha256": code_digest(experiment.path.read_text(encoding="utf-8")),
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": began,
        "finished": _now(),
        **results.describe(),
        "sources": outcome.sources,
        "ok": all(part["ok"] for part in outcome.parts),
        "timing": outcome.timing,
        "runs": outcome.parts,
    }
    return results.save(folder, dataset, config, provenance, made, figure, drawings)


def _timed(outcome: Outcome, plan: Plan, clock: float, sitting: Sitting) -> Outcome:
    """With what planning, compiling and running took since `clock`, None where a part was done before, and in all."""
    is_whole = sum(plan.todo) == plan.num_runs
    took = time.monotonic() - clock if is_whole else None
    return outcome._replace(timing={**outcome.timing, "total_seconds": took, **sitting.timing})


def _clear_if_empty(partial: pathlib.Path, new: list[pathlib.Path]) -> None:
    """After an error: without a finished run or a checkpoint there is nothing to resume, so leave no trace."""
    if _has_work(partial):
        return
    shutil.rmtree(partial, ignore_errors=True)
    for place in new:  # the run's folder and the parents that were made for it
        with contextlib.suppress(OSError):
            place.rmdir()


def _check_partial(partial: pathlib.Path, identity: dict[str, Any], resume: bool) -> str | None:
    """When the unfinished run in `partial` was started, None if there is none; one line if it is not to be touched."""
    note = partial / "identity.json"
    if not note.exists():
        return None
    if not resume:
        fix = "Go on with --resume, or remove that folder."
        checks.fail("run", "out", "without an unfinished run", str(partial), fix)
    held: dict[str, Any] = results.read_json(note, "run", dict)
    if not {"experiment", "mode", "config", "started"} <= held.keys() or not isinstance(held["config"], dict):
        checks.fail("run", note.name, "readable JSON, as a run leaves it", str(note), f"Remove {partial}.")
    if held["experiment"] != identity["experiment"]:
        got = f"{partial.parent} with an unfinished run of {held['experiment']!r}"
        checks.fail("run", "out", f"a folder of {identity['experiment']!r}", got, "Choose another --out.")
    changed = results.difference(held, identity)
    if changed:
        checks.fail("run", "--resume", "given the settings of the unfinished run", changed)
    return str(held["started"])


def _open_partial(partial: pathlib.Path, identity: dict[str, Any]) -> str:
    """Make the folder of a run that begins now."""
    began = _now()
    text = json.dumps({**identity, "started": began})
    with files.writing("run", "out", partial.parent):
        partial.mkdir(parents=True, exist_ok=True)
        files.clear_dead(partial)
        files.write_whole(partial / "identity.json", lambda file: file.write(text.encode()))
    return began


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
