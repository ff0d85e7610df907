"""The words of the command line, and what they are read as."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from dlsim.version import __version__

MAKING = ("run", "sweep", "reproduce")  # commands that can be gone on with


def parse(given: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and what is set of an experiment's config, as `key=value`; a mistake ends the process with status 2."""
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
    run.add_argument("--resume", action="store_true", help="go on with an unfinished run; say so if there is none")

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
    for command in (run, sweep, reproduce):
        command.add_argument("--layout", default="auto", help="auto, vmap, map, a number of runs at once, or 32x4")
        command.add_argument("--memory", metavar="SIZE", help="of a device, such as 8GiB (default: what is free)")
        command.add_argument(
            "--lanes", type=int, metavar="N", help="programs at a time on a device (default: by trial)"
        )
        command.add_argument("--mesh", metavar="nodes=N", help="lay the nodes of each run over N devices")
    sweep.add_argument(
        "--resume",
        action="store_true",
        help="go on with what the folder holds, as every sweep does; say so if there is nothing",
    )
    for command in (run, sweep):
        command.epilog = "--config.key=value sets any setting of the experiment; a list is written 1,2"

    report = commands.add_parser(
        "report", parents=[debug], allow_abbrev=False, help="make a web site of saved runs that works from a disk"
    )
    report.add_argument("runs", nargs="*", metavar="RUNS", default=["runs"], help="folders of runs (default: runs)")
    report.add_argument("--out", metavar="DIR", default="report", help="folder of the site (default: report)")

    bench = commands.add_parser("bench", parents=[debug], allow_abbrev=False, help="measure this machine")
    bench.add_argument("--quick", action="store_true", help="under two minutes")
    bench.add_argument("--out", metavar="DIR", help="folder of the figures (default: runs/bench)")
    bench.add_argument("--only", action="append", metavar="NAME", help="one workload; may be repeated")

    for command in (run, sweep, reproduce, bench):
        command.add_argument(
            "--threads",
            type=int,
            metavar="N",
            help="threads for the kernels of a program on a CPU (default: all cores)",
        )

    for command in (run, sweep, reproduce, bench):
        command.add_argument(
            "--progress",
            default="auto",
            metavar="HOW",
            help="bar, lines, off, or auto: a bar on a terminal, elsewhere a line now and then (default)",
        )

    show = commands.add_parser("list", parents=[debug], allow_abbrev=False, help="list the experiments of a folder")
    show.add_argument("folder", nargs="?", default="experiments")

    commands.add_parser("info", parents=[debug], allow_abbrev=False, help="versions, devices and memory")

    if given and not given[0].startswith("-") and given[0] not in commands.choices:
        names = list(commands.choices)
        parser.error(f"COMMAND must be one of {', '.join(names)}, got {given[0]!r}. {_meant(given[0], names)}".rstrip())
    options, rest = parser.parse_known_args(given)
    takes_config = options.command in ("run", "sweep")
    overrides, unknown = _overrides(rest) if takes_config else ([], rest)
    if unknown:
        own = commands.choices[options.command]._option_string_actions
        known = [*own, "--config."] if takes_config else [*own]
        hints = [_meant(word.partition("=")[0], known) for word in unknown if word.startswith("--")]
        parser.error(" ".join(filter(None, [f"unrecognized arguments: {' '.join(unknown)}.", *hints])))
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


def _meant(word: str, known: Sequence[str]) -> str:
    """As `checks.meant`, without JAX, which takes a second to import."""
    import difflib

    near = difflib.get_close_matches(word, known, 1, 0.4)
    return f"Did you mean {near[0]!r}?" if near else ""


class _Version(argparse.Action):
    """Prints the version, importing the package only then."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, *_: Any) -> None:
        print(f"dlsim {__version__}")
        raise SystemExit(0)
