"""How fast are other simulators on the same two workloads, each in an environment of its own, side by side with dlsim?

Command: `python experiments/benchmarks/peers/run.py --env fedjax=/path/to/venv --env pfl=/path/to/venv ...`
(`--list` says how to make each environment; a system that is not named is listed as not run.)

Every measurement is a process of its own: `<system>_.py`, run by that system's interpreter, calls its public functions
on the workload of `workload.py` and prints one JSON line.  The lines go to one file, `table.py` makes the table of it.

Measured 2026-11-28, `--runs 1`, 2 cores (x86_64), 24 GiB, no accelerator, nothing else on the machine (load 1; 4 to 10 after
decentralizepy and Flower, whose workers keep it up).  One run each.  Node-updates a second:

| system                            | what ran                          | logreg, N=100 | logreg, N=1000 | mlp, N=100 |
|-----------------------------------|-----------------------------------|---------------|----------------|------------|
| dlsim 0.1.0, jax 0.10.2           | D-SGD, 4-regular                  | 31,194        | 28,974         | 4,287      |
| dlsim 0.1.0, jax 0.10.2           | FedAvg                            | 34,663        | 26,767         | 4,219      |
| fedjax 0.0.17, jax 0.4.25         | FedAvg, jit backend               | 3,730         | 3,686          | 1,444      |
| decent-bench 0.3.0, torch 2.13.0  | DGD, 4-regular                    | 2,144         | not run        | 988        |
| pfl 0.6.0, torch 2.13.0           | FedAvg                            | 1,966         | 1,834          | 1,151      |
| gossipy-dfl 0.0.1, torch 2.13.0   | gossip, one neighbour             | 1,285         | not run        | 726        |
| fluke-fl 0.8.1, torch 2.13.0      | FedAvg                            | 1,235         | 1,027          | 617        |
| fluke-fl 0.8.1, torch 2.13.0      | gossip, one neighbour             | 994           | 899            | 520        |
| decentralizepy main a5d46be       | D-PSGD, 4-regular, process a node | 659           | not run        | 407        |
| gossipy main ea85ab1              | D-SGD, 4-regular                  | 543           | not run        | 284        |
| flwr 1.41.0, ray 2.55.1           | FedAvg, Ray                       | 215           | not run        | 104        |

The rows of dlsim and FedJAX are medians of calls of their own (`--runs 3`, load below 2), on the code after blocks of nodes
were made to copy no leaf whole; before, two hours earlier, dlsim had 35,779, 30,938, 4,918 and 38,398, 30,261, 5,207, FedJAX
3,728, 3,707, 1,511: plain SGD of small populations is 5 to 10 % slower since, momentum 4 to 40 times faster.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import driver
import table
import workload

HERE = Path(__file__).resolve().parent
REFERENCE = table.REFERENCE
PEERS = ("fedjax", "pfl", "fluke", "gossipy", "decentralizepy", "decent_bench", "flower")


class Job(NamedTuple):
    """One measurement to make: what, and the command that makes it."""

    system: str
    kind: str
    what: str
    server: bool
    model: str
    nodes: int
    command: tuple[str, ...]

    def names(self) -> dict[str, Any]:
        """What a line says of it, measured or failed."""
        return {name: value for name, value in self._asdict().items() if name != "command"}


def peer(name: str) -> driver.Peer:
    """What a driver says of its system; the system itself is not imported."""
    return importlib.import_module(f"{name}_").PEER


def pairs(argument: str, given: Sequence[str]) -> dict[str, Path]:
    """`name=path` arguments, checked."""
    out: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not path:
            workload.fail(argument, "name=path", repr(text))
        if name not in PEERS:
            workload.fail(argument, "a name of " + ", ".join(PEERS), repr(name), "See --list.")
        if name in out:
            workload.fail(argument, "given once for each name", f"{name} twice")
        out[name] = Path(path).expanduser().absolute()
        if not out[name].exists():
            workload.fail(argument, "a path that exists", str(out[name]))
    return out


def python_of(environment: Path) -> str:
    """The interpreter of a virtual environment, or the interpreter that was named itself."""
    if environment.is_file():
        return str(environment)
    for place in ("bin/python", "Scripts/python.exe"):
        if (environment / place).is_file():
            return str(environment / place)
    workload.fail("--env", "a virtual environment or a Python interpreter", str(environment), "See --list.")
    raise AssertionError  # unreachable: the line above raises


def plan(options: argparse.Namespace) -> tuple[list[Job], list[dict[str, Any]]]:
    """The jobs of one turn, and a line for everything that will not run, and why."""
    environments, checkouts = pairs("--env", options.env), pairs("--checkout", options.checkout)
    jobs, others = [], []
    for name in (REFERENCE, *PEERS):
        about = peer(name)
        if name != REFERENCE and name not in environments:
            others.append({"system": name, "not_run": f"no environment named (--env {name}=PATH; --list says how)"})
            continue
        python = sys.executable if name == REFERENCE else python_of(environments[name])
        for kind, what in about.kinds.items():
            if kind in about.checkout and name not in checkouts:
                why = f"{what}: no source tree named (--checkout {name}=PATH; --list says how)"
                others.append({"system": name, "not_run": why})
                continue
            for model in options.models:
                for nodes in options.nodes:
                    if nodes > about.most_nodes:
                        why = f"{what}, {model}, N={nodes}: at most {about.most_nodes} nodes (see below)"
                        others.append({"system": name, "not_run": why})
                        continue
                    command = [python, str(HERE / f"{name}_.py"), "--kind", kind, "--model", model]
                    command += [
                        "--nodes",
                        str(nodes),
                        "--seconds",
                        str(options.seconds),
                        "--rounds",
                        str(options.rounds),
                    ]
                    command += ["--data", options.data] if options.data else []
                    command += ["--checkout", str(checkouts[name])] if kind in about.checkout else []
                    jobs.append(Job(name, kind, what, kind in about.server, model, nodes, tuple(command)))
    return jobs, others


def play(jobs: Sequence[Job], runs: int, timeout: float, pause: float, write: Callable[[dict[str, Any]], None]) -> None:
    """Every job once a turn, for `runs` turns; within a turn the systems of one model and N follow each other, and who
    begins changes from turn to turn.  A job that fails is a line with an `error`, and the others go on."""
    cases = list(dict.fromkeys((job.model, job.nodes) for job in jobs))
    for turn in range(runs):
        for case in cases:
            mine = [job for job in jobs if (job.model, job.nodes) == case]
            shift = turn % len(mine)
            for job in mine[shift:] + mine[:shift]:
                before = load()
                line = {**job.names(), **measure(job, timeout), "run": turn}
                write({**line, "load_before": before, "load_after": load()})
                time.sleep(pause)


def measure(job: Job, timeout: float) -> dict[str, Any]:
    """The driver's JSON line, or `{"error": its last line on standard error}`."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    if job.system == REFERENCE:
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        job.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        out, errors = process.communicate(timeout=timeout)
    except BaseException as error:
        end(process)
        if isinstance(error, subprocess.TimeoutExpired):
            return {"error": f"stopped after {timeout:g} s"}
        raise
    said = [line for line in errors.splitlines() if line.strip()]
    if process.returncode:
        return {"error": said[-1].strip() if said else f"ended with {process.returncode} and said nothing"}
    for line in reversed(out.splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "node_updates_per_second" in found:
                return found
    return {"error": "ended well but printed no result"}


def end(process: subprocess.Popen[str]) -> None:
    """Kill a driver and all that it started, also what left its process group."""
    family = driver.descendants(process.pid)
    for each in (process.pid, *family):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    process.communicate()


def load() -> float:
    """The machine's load average over the last minute."""
    return round(os.getloadavg()[0], 2)


def machine() -> str:
    """One line that says what this ran on."""
    about = Path("/proc/cpuinfo")
    names = [line for line in about.read_text().splitlines() if line.startswith("model name")] if about.exists() else []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    accelerators = "no accelerator"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        said = subprocess.run(query, capture_output=True, text=True, check=False)
        accelerators = ", ".join(said.stdout.split("\n")).strip(", ") if said.returncode == 0 else accelerators
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    return f"{len(os.sched_getaffinity(0))} cores ({name}), {memory:.0f} GiB, {accelerators}, {platform.system()}"


def recipes() -> str:
    """How to make the environment of each system."""
    out = ["A CPU build of torch does, and saves gigabytes.  Then name them: --env fedjax=fedjax --env pfl=pfl ...", ""]
    for name in PEERS:
        about = peer(name)
        out += [f"{name}: {', '.join(about.kinds.values())}", *(f"    {line}" for line in about.install)]
        out += [f"    {about.unequal}", ""]
    return "\n".join(out)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--env", action="append", default=[], metavar="NAME=PATH", help="a system's environment")
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=PATH", help="a system's source tree")
    parser.add_argument("--nodes", default="100,1000", help="numbers of nodes, by commas")
    parser.add_argument("--models", default=",".join(workload.MODELS), help="models, by commas")
    parser.add_argument("--runs", type=int, default=3, help="measurements of each, in turns")
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long to time each")
    parser.add_argument("--rounds", type=int, default=0, help="rounds to time; 0: as many as fill --seconds")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds after which a measurement is stopped")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds of rest after each measurement")
    parser.add_argument("--data", help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--out", help="JSON-lines file to write (default: peers-<time>.jsonl)")
    parser.add_argument("--table", metavar="FILE", help="print the table of a JSON-lines file written before")
    parser.add_argument("--list", action="store_true", help="how to make each system's environment")
    options = parser.parse_args(given)
    options.nodes = [
        _whole("--nodes", text, workload.DEGREE + 1, workload.LARGEST) for text in options.nodes.split(",")
    ]
    options.models = options.models.split(",")
    for model in options.models:
        workload.widths(model)
    for name, least in (("runs", 1), ("rounds", 0)):
        _whole(f"--{name}", str(getattr(options, name)), least)
    for name in ("seconds", "timeout"):
        if not getattr(options, name) > 0:
            workload.fail(f"--{name}", "> 0", getattr(options, name))
    if options.pause < 0:
        workload.fail("--pause", ">= 0", options.pause)
    return options


def _whole(argument: str, text: str, least: int, most: int | None = None) -> int:
    bounds = f"an integer >= {least}" if most is None else f"an integer in [{least}, {most}]"
    try:
        value = int(text)
    except ValueError:
        workload.fail(argument, bounds, repr(text))
    if value < least or (most is not None and value > most):
        workload.fail(argument, bounds, value)
    return value


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    if options.list:
        print(recipes())
        return
    if options.table:
        if not Path(options.table).is_file():
            workload.fail("--table", "a file that exists", options.table)
        print(table.render(table.read(options.table)))
        return
    jobs, others = plan(options)
    workload.data_folder(options.data)  # say now that there is no data, and not once a driver
    now = datetime.datetime.now()
    path = Path(options.out or f"peers-{now:%Y%m%d-%H%M%S}.jsonl")
    if path.exists():
        workload.fail("--out", "a file that does not exist yet", str(path))
    command = shlex.join(["python", *(sys.argv if given is None else [__file__, *given])])
    header = {"machine": machine(), "date": f"{now:%Y-%m-%d %H:%M}", "command": command}
    with path.open("w") as file:

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()
            if "kind" in line:
                rate = line.get("node_updates_per_second")
                said = line["error"] if rate is None else f"{rate:,.0f} node-updates/s"
                print(
                    f"{line['system']:15s} {line['kind']:7s} {line['model']:7s} {line['nodes']:5d}  {said}", flush=True
                )

        for line in (header, *others):
            write(line)
        for name in (REFERENCE, *PEERS):
            write({"system": name, "unequal": peer(name).unequal})
        play(jobs, options.runs, options.timeout, options.pause, write)
    print("\n" + table.render(table.read(path)))
    print(f"\nLines: {path}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end like Ctrl-C: the driver at work is ended first
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("peers: stopped; what was measured is in the JSON-lines file (--table FILE prints it)")
