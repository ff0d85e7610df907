"""What the drivers share: the arguments, the timing, the peak memory, and the one JSON line that each prints.

A driver is a file with a `PEER` (what it is, how to install it, what makes its rows unequal) and `prepare(workload)`, which
imports the system, builds its nodes, and hands back a `Ready`.  `advance(rounds)` runs so many rounds and comes back when
they are done.  Only `prepare` imports the system, so that the runner can read `PEER` in any environment.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import workload

BEGAN = time.perf_counter()  # the driver's first line, but for the interpreter's own start
SAMPLE_SECONDS = 0.5
LARGEST_ROUNDS, FRESH_ROUNDS = 1000, 20


class Peer(NamedTuple):
    """One system, as the runner and its reader need to know it."""

    name: str  # what stands before `=` in --env
    install: tuple[str, ...]  # shell commands that make its environment, in the folder where it shall be
    kinds: dict[str, str]  # what can be timed: name -> what ran, for the table
    server: frozenset[str]  # those of `kinds` that average one model at a server
    unequal: str  # what makes its rows unequal to the others
    most_nodes: int = workload.LARGEST
    checkout: frozenset[str] = frozenset()  # those of `kinds` that need a source tree beside the environment


class Workload(NamedTuple):
    """What a driver is asked to run."""

    kind: str
    model: str
    num_nodes: int
    data: str | None
    checkout: str | None

    def shards(self) -> workload.Shards:
        return workload.shards(self.num_nodes, self.data)


class Ready(NamedTuple):
    """A system that is built and waits."""

    version: str
    advance: Callable[[int], float | None]  # rounds -> seconds they took, or None: what the caller's clock says
    updates: Callable[[], int] | None = None  # node-updates done so far, where not every node updates in every round
    close: Callable[[], None] = lambda: None
    fresh: bool = False  # every call of `advance` starts anew, warms up by itself, and tells the seconds


def version(distribution: str, *others: str) -> str:
    """`name 1.2, other 3.4` of installed distributions."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in (distribution, *others))


def use_checkout(asked: Workload, folder: str = "") -> str:
    """Import from the source tree that the user named, before anything installed; its commit."""
    root = Path(asked.checkout or "").expanduser()
    if not asked.checkout or not (root / folder).is_dir():
        workload.fail("--checkout", f"a source tree with a folder {folder or '.'}", asked.checkout)
    sys.path.insert(0, str(root / folder))
    git = ["git", "-C", str(root), "log", "-1", "--format=%h %cs"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown commit"


def torch_threads(count: int = 1) -> None:
    """Small models: more threads make PyTorch slower, not faster."""
    import torch

    torch.set_num_threads(count)


def torch_layers(model: str) -> Any:
    """The workload's model as a torch module: rectified linear units between its layers, no activation at the end."""
    import torch

    sizes = workload.widths(model)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def without_torchvision() -> None:
    """A stand-in for torchvision, which some systems import for data sets that are not used here.

    It often is not there, or is there for another build of torch, and then a system cannot even be imported.
    """
    try:
        import torchvision  # noqa: F401
    except Exception:  # a wrong build fails in many ways
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("torchvision", "torchvision.transforms", "torchvision.datasets", "torchvision.models"):
            module = types.ModuleType(name)
            module.__getattr__ = _missing  # type: ignore[method-assign]
            module.__path__ = []
            sys.modules[name] = module


def _missing(name: str) -> type:
    """Any name that a system imports from the stand-in; what Python itself asks a module for is not there."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


class PeakMemory:
    """The largest memory of this process and its descendants together: their proportional set sizes, sampled.

    A process without descendants is not sampled but asked for its own peak, which misses nothing.
    """

    def __init__(self) -> None:
        self._peak, self._families = 0.0, 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            family = descendants(os.getpid())
            if family:
                self._families += 1
                self._peak = max(self._peak, sum(map(proportional_mib, [os.getpid(), *family])))

    def stop(self) -> float:
        """MiB."""
        self._stopped.set()
        self._thread.join()
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return max(own, self._peak)


def descendants(process: int) -> list[int]:
    """Ids of the children of a process, their children, and so on; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # ended while we looked
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, todo = [], [process]
    while todo:
        todo += (new := children.get(todo.pop(), []))
        found += new
    return found


def proportional_mib(process: int) -> float:
    """Proportional set size: pages shared by k processes count 1/k for each."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**10


def measure(peer: Peer, asked: Workload, prepare: Callable[[Workload], Ready], seconds: float, rounds: int) -> dict:
    """Build, warm up, time; the line to print.  `rounds=0`: as many as fill about `seconds`."""
    memory = PeakMemory()
    ready = prepare(asked)
    start_seconds = time.perf_counter() - BEGAN
    try:
        if ready.fresh:
            rounds = rounds or FRESH_ROUNDS
        else:
            ready.advance(1)  # compiles, starts workers, fills caches
        if rounds == 0:
            one = timed(ready.advance, 1)
            rounds = min(LARGEST_ROUNDS, max(2, math.ceil(seconds / max(one, 1e-9))))
            if one < seconds / 10 and rounds > 10:  # a short first look misjudges by much; look again, longer
                one = timed(ready.advance, 5) / 5
                rounds = min(LARGEST_ROUNDS, max(2, math.ceil(seconds / max(one, 1e-9))))
        before = ready.updates() if ready.updates else 0
        taken = timed(ready.advance, rounds)
        updates = ready.updates() - before if ready.updates else asked.num_nodes * rounds
    finally:
        ready.close()
    return {
        "system": peer.name,
        "version": ready.version,
        "kind": asked.kind,
        "what": peer.kinds[asked.kind],
        "nodes": asked.num_nodes,
        "model": asked.model,
        "node_updates_per_second": updates / taken,
        "rounds": rounds,
        "seconds": taken,
        "peak_mib": memory.stop(),
        "start_seconds": start_seconds,
    }


def timed(advance: Callable[[int], float | None], rounds: int) -> float:
    began = time.perf_counter()
    told = advance(rounds)
    return time.perf_counter() - began if told is None else told


def main(peer: Peer, prepare: Callable[[Workload], Ready]) -> None:
    """Run one measurement as the command line says and print its JSON line, the last line on standard output."""
    parser = argparse.ArgumentParser(description=f"Time {peer.name} on one workload.")
    parser.add_argument("--kind", choices=list(peer.kinds), default=next(iter(peer.kinds)))
    parser.add_argument("--model", choices=workload.MODELS, default="logreg")
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long to time")
    parser.add_argument("--rounds", type=int, default=0, help="rounds to time; 0: as many as fill --seconds")
    parser.add_argument("--data", help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--checkout", help="the system's source tree, where it is not installed as a package")
    options = parser.parse_args()
    asked = Workload(options.kind, options.model, options.nodes, options.data, options.checkout)
    line = measure(peer, asked, prepare, options.seconds, options.rounds)
    print("\n" + json.dumps(line), flush=True)
