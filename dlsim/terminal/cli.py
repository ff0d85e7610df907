"""The command line: `dlsim run | sweep | reproduce | report | bench | list | info`.

A mistake of the user is one line on stderr and exit status 2; Ctrl-C is exit status 130 and the command that goes on.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import sys
import types
from collections.abc import Sequence
from typing import Any

from dlsim.configs import split_mode
from dlsim.version import __version__

# OSError: no file, no permission, no space left.  A TypeError is a mistake in the program and keeps its traceback.
USER_ERRORS = (ValueError, OSError, ImportError)
EXTRAS = {"cvxpy": "opt", "ray": "ray", "submitit": "slurm", "pytest": "test", "hypothesis": "test"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, overrides = _parse(given)
    try:
        _use_threads(getattr(options, "threads", None))
        return options.run(options, overrides)
    except KeyboardInterrupt as stop:
        said = f" ({stop})" if str(stop) else ""
        print(f"dlsim: stopped{said}", file=sys.stderr)
        if options.command in ("run", "sweep", "reproduce"):
            print(f"dlsim: go on with: {_resume_command(given)}", file=sys.stderr)
        return 130
    except AttributeError as error:
        line = _unknown_name(error)
        if options.debug or line is None:
            raise
        print(f"dlsim: error: {line}", file=sys.stderr)
        return 2
    except USER_ERRORS as error:
        if options.debug:
            raise
        print(f"dlsim: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _use_threads(num: int | None) -> None:
    """Before the first array is made: the variable is read when JAX looks for devices."""
    from dlsim import checks

    if num is not None:
        os.environ["PJRT_NPROC"] = str(checks.integer("dlsim", "--threads", num, 1))


def _parse(given: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="dlsim", description="Massive-scale simulation of decentralised learning.", allow_abbrev=False
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show the traceback of an error")

    run = commands.add_parser(
        "run", parents=[debug], allow_abbrev=False, help="run an experiment file and save the results"
    )
    run.add_argument(
        "file", metavar="FILE[:mode]", help="an experiment file; mode: default, tiny, paper, or the file's own"
    )
    run.add_argument("--seeds", type=int, metavar="N", help="run seeds 0 .. N-1")
    run.add_argument("--out", metavar="DIR", help="folder of the run (default: runs/<name>-<mode>)")
    run.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    run.set_defaults(run=_run)

    sweep = commands.add_parser(
        "sweep", parents=[debug], allow_abbrev=False, help="run an experiment file over axes of your own"
    )
    sweep.add_argument("file", metavar="FILE[:mode]", help="an experiment file")
    sweep.add_argument(
        "--axis", action="append", default=[], metavar="KEY=A,B,...", help="values of any config key; may be repeated"
    )
    sweep.add_argument("--seeds", type=int, metavar="N", help="run seeds 0 .. N-1")
    sweep.add_argument("--out", metavar="DIR", help="folder of the sweep (default: runs/<name>-<mode>-sweep)")
    sweep.add_argument("--plan", action="store_true", help="print groups, memory and time, and stop")
    sweep.add_argument("--csv", metavar="FILE", help="write the results as a table too")
    sweep.add_argument("--workers", metavar="KIND[:N]", help="ray:N, slurm:N or local:N: blocks go to N machines")
    sweep.set_defaults(run=_sweep)
    reproduce = commands.add_parser(
        "reproduce",
        parents=[debug],
        allow_abbrev=False,
        help="run papers and other studies, judge their claims",
    )
    reproduce.add_argument(
        "papers", nargs="*", metavar="NAME", help="numbers of papers, names of files, or: all, papers, studies"
    )
    reproduce.add_argument(
        "--list", action="store_true", dest="only_list", help="list what there is, with modes, times and runs"
    )
    reproduce.add_argument("--mode", help="tiny, paper, ... (default: the file's own for two cores, mostly default)")
    reproduce.add_argument("--seeds", type=int, metavar="N", help="run seeds 0 .. N-1 of each")
    reproduce.add_argument("--out", metavar="DIR", default="runs", help="runs go to DIR/<name>-<mode> (default: runs)")
    reproduce.add_argument("--folder", metavar="DIR", help="of the files (default: experiments)")
    reproduce.add_argument("--table", metavar="FILE", help="write the claims table as .md, .csv or .json too")
    reproduce.set_defaults(run=_reproduce)
    for command in (run, sweep, reproduce):
        command.add_argument("--layout", default="auto", help="auto, vmap, map, a number of runs at once, or 32x4")
        command.add_argument("--memory", metavar="SIZE", help="of a device, such as 8GiB (default: what is free)")
        command.add_argument(
            "--lanes", type=int, metavar="N", help="programs at a time on a device (default: by trial)"
        )
        command.add_argument("--mesh", metavar="nodes=N", help="lay the nodes of each run over N devices")
    for command in (run, sweep):
        command.epilog = "--config.key=value sets any setting of the experiment; a list is written 1,2"

    report = commands.add_parser(
        "report", parents=[debug], allow_abbrev=False, help="make a web site of saved runs that works from a disk"
    )
    report.add_argument("runs", nargs="*", metavar="RUNS", default=["runs"], help="folders of runs (default: runs)")
    report.add_argument("--out", metavar="DIR", default="report", help="folder of the site (default: report)")
    report.set_defaults(run=_report)

    bench = commands.add_parser("bench", parents=[debug], allow_abbrev=False, help="measure this machine")
    bench.add_argument("--quick", action="store_true", help="under two minutes")
    bench.add_argument("--out", metavar="DIR", help="folder of the figures (default: runs/bench)")
    bench.add_argument("--only", action="append", metavar="NAME", help="one workload; may be repeated")
    bench.set_defaults(run=_bench)

    for command in (run, sweep, reproduce, bench):
        command.add_argument(
            "--threads",
            type=int,
            metavar="N",
            help="threads for the kernels of a program on a CPU (default: all cores)",
        )

    show = commands.add_parser("list", parents=[debug], allow_abbrev=False, help="list the experiments of a folder")
    show.add_argument("folder", nargs="?", default="experiments")
    show.set_defaults(run=_list)

    info = commands.add_parser("info", parents=[debug], allow_abbrev=False, help="versions, devices and memory")
    info.set_defaults(run=_info)

    options, rest = parser.parse_known_args(given)
    takes_config = options.command in ("run", "sweep")
    overrides, unknown = _overrides(rest) if takes_config else ([], rest)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options, overrides


def _overrides(rest: list[str]) -> tuple[list[str], list[str]]:
    """`--config.key=value` and `--config.key value` as `key=value`, and what is neither."""
    overrides, unknown = [], []
    queue = list(rest)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--config."):
            unknown.append(word)
            continue
        text = word.removeprefix("--config.")
        if "=" not in text and queue and not queue[0].startswith("--"):
            text = f"{text}={queue.pop(0)}"
        overrides.append(text)
    return overrides, unknown


class _Version(argparse.Action):
    """Prints the version, importing the package only then."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, *_: Any) -> None:
        print(f"dlsim {__version__}")
        raise SystemExit(0)


def _unknown_name(error: AttributeError) -> str | None:
    """The line for a name that a public module lacks (`getattr(dlsim.networks, "tours")`); None for any other error."""
    from dlsim import checks

    module = error.obj
    if not isinstance(module, types.ModuleType) or not module.__name__.startswith("dlsim"):
        return None
    try:
        checks.one_of(module.__name__, "name", error.name, getattr(module, "__all__", ()))
    except ValueError as line:
        return str(line)
    return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.strerror}: {error.filename}"
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0]
        extra = EXTRAS.get(name)
        text += f". Install it: pip install {f'dlsim[{extra}]' if extra else name or 'the missing package'}"
    return text or type(error).__name__


def _resume_command(given: list[str]) -> str:
    words = given if "--resume" in given or given[0] != "run" else [*given, "--resume"]
    return f"dlsim {shlex.join(words)}"


def _run(options: argparse.Namespace, overrides: list[str]) -> int:
    from dlsim.studies.experiment import run_experiment
    from dlsim.terminal import runs

    _prepare(options)
    path, mode = split_mode(options.file)
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
    from dlsim.results import SavedRun
    from dlsim.studies.experiment import sweep_experiment
    from dlsim.terminal import runs

    _prepare(options)
    path, mode = split_mode(options.file)
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
    return {"seeds": options.seeds, "out": options.out, "options": engine}


def _workers(options: argparse.Namespace) -> Any:
    if options.workers is None:
        return None
    from dlsim.sweeps.workers import parse

    return parse(options.workers)


def _bench(options: argparse.Namespace, _: list[str]) -> int:
    from dlsim.bench import command

    return command(quick=options.quick, out=options.out, only=options.only)


def _prepare(options: argparse.Namespace) -> None:
    """What must be set before JAX starts: on a CPU, as many devices as the mesh asks for."""
    import jax

    _keep_compiled_programs()
    number = (options.mesh or "").rpartition("=")[2]
    if number.isdigit() and int(number) > 1 and not jax.config.jax_num_cpu_devices > 1:  # type: ignore[attr-defined]
        jax.config.update("jax_num_cpu_devices", int(number))


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


if __name__ == "__main__":
    sys.exit(main())
