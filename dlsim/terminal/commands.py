"""The commands: what each of them runs, once its words are read."""

from __future__ import annotations

import argparse
import importlib
import os
import pathlib
import sys
from typing import Any

MOST_DEVICES = 64  # that a CPU is split into, or its cores: each takes memory and threads
MOST_THREADS = 256  # of a program, or four for each core
_LOADED = {
    "run": ("studies.experiment", "terminal.runs"),
    "sweep": ("studies.experiment", "terminal.runs"),
    "reproduce": ("studies.reproduce", "studies.claims_table", "terminal.papers", "terminal.runs"),
    "report": ("report",),
    "bench": ("bench",),
    "list": ("studies.catalogue",),
    "info": ("results",),
}


def load(command: str) -> None:
    """Import what a command needs, and do nothing else: it may be broken off at any moment."""
    for name in _LOADED[command]:
        importlib.import_module(f"dlsim.{name}")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Run a command; gives the exit status."""
    _check_numbers(options)
    status: int = _RUN[options.command](options, overrides)
    return status


def _check_numbers(options: argparse.Namespace) -> None:
    """Of seeds, devices and threads, before anything is made."""
    from dlsim import checks
    from dlsim.running import progress_bar
    from dlsim.running.meshes import parse_number

    given, cores = vars(options), os.cpu_count() or 1
    if "progress" in given:
        progress_bar.check("dlsim", given["progress"], "--progress")
    if given.get("threads") is not None:
        # Read when JAX looks for devices, which is when the first array is made.
        most = max(MOST_THREADS, 4 * cores)
        os.environ["PJRT_NPROC"] = str(checks.count("dlsim", "--threads", given["threads"], most))
    if given.get("seeds") is not None:
        checks.count("dlsim", "--seeds", given["seeds"], checks.MOST_SEEDS)
    if given.get("mesh") is not None:
        most = max(MOST_DEVICES, cores)
        fix = f"A CPU of {cores} cores is split into {most} devices at most."
        if parse_number(given["mesh"], "dlsim", "--mesh") > most:
            checks.fail("dlsim", "--mesh", f"nodes=N with N in [1, {most}]", given["mesh"], fix)


def _run(options: argparse.Namespace, overrides: list[str]) -> int:
    from dlsim.configs import split_mode
    from dlsim.studies.experiment import run_experiment
    from dlsim.terminal import runs

    _prepare(options)
    path, mode = split_mode(options.file)
    if options.resume:
        runs.tell_nothing_kept(options.out, path, mode)
    saved = run_experiment(
        path,
        mode,
        overrides,
        **_settings(options),
        resume=options.resume,
        tell=runs.tell_plan,
    )
    runs.report(saved)
    return 0


def _sweep(options: argparse.Namespace, overrides: list[str]) -> int:
    from dlsim.configs import split_mode
    from dlsim.results import SavedRun
    from dlsim.studies.experiment import sweep_experiment
    from dlsim.terminal import runs

    _prepare(options)
    path, mode = split_mode(options.file)
    if options.resume:
        runs.tell_nothing_kept(options.out, path, mode, is_sweep=True)
    saved = sweep_experiment(
        path,
        mode,
        overrides,
        **_settings(options),
        axes=options.axis,
        tell=lambda plan: runs.tell_plan(plan, whole=True),
        plan_only=options.plan,
        workers=_workers(options),
    )
    if isinstance(saved, SavedRun):
        runs.report(saved)
        if options.csv is not None:
            from dlsim.analysis import to_csv

            print(f"csv:     {to_csv(saved.results, options.csv)}")
    return 0


def _reproduce(options: argparse.Namespace, _: list[str]) -> int:
    from dlsim.studies import claims_table, reproduce
    from dlsim.terminal import papers, runs

    if options.only_list:
        chosen = reproduce.find(options.papers or ["all"], folder=options.folder)
        papers.tell_papers(chosen, options.out)
        return 0
    if not options.papers:
        raise ValueError("reproduce: experiment must be numbers, names or all, got none. --list shows them.")
    if options.table is not None:
        claims_table.check_file(options.table)
    _prepare(options)
    chosen = reproduce.find(options.papers, options.mode, options.folder)
    papers.tell_times(chosen, options.mode, options.out, options.seeds)
    settings = _settings(options)
    done = reproduce.reproduce(
        options.papers,
        options.mode,
        **settings,
        folder=options.folder,
        tell=runs.tell_plan,
        begin=papers.tell_begin,
        end=papers.tell_end,
    )
    papers.tell_claims(done)
    if options.table is not None:
        print(f"table:   {claims_table.write(done, options.table)}")
    return 0 if reproduce.all_ran(done) else 1


def _report(options: argparse.Namespace, _: list[str]) -> int:
    from dlsim.report import write_report

    left_out: list[str] = []
    path = write_report(options.runs, options.out, tell=left_out.append)
    for line in left_out:
        print(f"dlsim: left out: {line}", file=sys.stderr)
    print(f"report: {path}")
    return 1 if left_out else 0


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What `run` and `sweep` have in common."""
    from dlsim.sweeps.api import make_options

    engine = make_options(options.layout, options.memory, options.lanes, options.mesh)
    return {"seeds": options.seeds, "out": options.out, "options": engine, "progress": options.progress}


def _workers(options: argparse.Namespace) -> Any:
    if options.workers is None:
        return None
    from dlsim.sweeps.workers import parse

    return parse(options.workers)


def _bench(options: argparse.Namespace, _: list[str]) -> int:
    from dlsim.bench import command

    return command(quick=options.quick, out=options.out, only=options.only, progress=options.progress)


def _prepare(options: argparse.Namespace) -> None:
    """What must be set before JAX starts: on a CPU, as many devices as the mesh asks for."""
    import jax

    from dlsim.running.meshes import parse_number

    _keep_compiled_programs()
    number = 1 if options.mesh is None else parse_number(options.mesh, "dlsim", "--mesh")
    if number > 1 and not jax.config.jax_num_cpu_devices > 1:  # type: ignore[attr-defined]
        jax.config.update("jax_num_cpu_devices", number)


def _keep_compiled_programs() -> None:
    """Compile a program once: runs that differ in data alone share it, and so does the next run on this machine."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "dlsim" / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _list(options: argparse.Namespace, _: list[str]) -> int:
    from dlsim import files
    from dlsim.studies import catalogue

    folder = files.given_path("list", "folder", options.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"list: folder must be a folder of experiments, got {folder}.")
    found = catalogue.entries(folder)
    if not found:
        print(f"no experiments in {folder}")
    width = max((len(str(one.path)) for one in found), default=0)
    for one in found:
        print(f"{one.path!s:{width}s}  {one.title}")
        print(f"{'':{width}s}  modes: {', '.join(one.modes)}")
    return 0


def _info(_: argparse.Namespace, __: list[str]) -> int:
    import jax

    from dlsim import results

    about = results.describe()
    for name, version in about["versions"].items():
        print(f"{name:10s} {version}")
    if about["commit"]:
        print(f"{'commit':10s} {about['commit'][:12]}{' with changes' if about['dirty'] else ''}")
    print(f"{'memory':10s} {_host_memory()}, {os.cpu_count()} cores")
    for device in jax.devices():
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        print(
            f"{'device':10s} {device.platform} {device.device_kind}" + (f", {limit / 2**30:.1f} GiB" if limit else "")
        )
    return 0


def _host_memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{size / 2**30:.1f} GiB"


_RUN = {
    "run": _run,
    "sweep": _sweep,
    "reproduce": _reproduce,
    "report": _report,
    "bench": _bench,
    "list": _list,
    "info": _info,
}
