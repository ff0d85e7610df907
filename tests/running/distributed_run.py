"""One of several processes that share runs: `python -m running.distributed_run WHAT PORT COUNT ID FOLDER`.

The process that leads writes what it found to FOLDER/WHAT.npz; a process in which something is wrong fails.
"""

from __future__ import annotations

import json
import pathlib
import signal
import sys
from typing import Any

import jax
import numpy as np
import optax
from toys import walk

import dlsim
from dlsim import meshes, networks
from dlsim.running import loop, progress_bar

STEPS, LONG = 12, 20_000


def process() -> dlsim.Process:
    problem = dlsim.problems.classification(
        "digits", num_nodes=16, partition=dlsim.problems.dirichlet(alpha=0.5), model="softmax", node_block=3
    )
    network = networks.torus(16).with_channel(networks.loss(0.1))
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.1, momentum=0.9))
    return dlsim.learn(problem, algorithm, network, networks.churn(rate=0.05))


def run(made: dlsim.Process, num_steps: int, every: int = 4, **more: Any) -> dict[str, np.ndarray]:
    """The state's leaves and the records, whole in every process."""
    done = dlsim.simulate(made, seed=3, num_steps=num_steps, record=dlsim.Record(every=every), **more)
    out = {f"state_{i}": meshes.to_host(leaf) for i, leaf in enumerate(jax.tree.leaves(done.state))}
    return out | {name: done.results[name].values for name in done.results.data_vars}


def long_walk() -> dlsim.Process:
    return walk(4)._replace(num_nodes=4)


def refused(**arguments: Any) -> str:
    try:
        dlsim.simulate(long_walk(), seed=0, num_steps=2, **arguments)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def first(folder: pathlib.Path, mesh: str) -> dict[str, np.ndarray]:
    """A whole run, half of one with checkpoints, a walk of many chunks, a run that one process stops, refusals."""
    out = {f"whole/{name}": value for name, value in run(process(), STEPS, mesh=mesh).items()}
    run(process(), STEPS // 2, mesh=mesh, checkpoint_dir=str(folder / "half"))
    shown: list[object] = []
    bar, progress_bar.bar = progress_bar.bar, lambda *given: shown.append(given[2]) or bar(*given)  # type: ignore[func-returns-value]
    out |= {f"walk/{name}": value for name, value in run(long_walk(), LONG, 40, mesh=mesh).items()}
    progress_bar.bar = bar
    assert shown == ["auto" if meshes.is_leader() else False]
    stop_here = jax.process_index() == 1
    plan = loop._plan

    def interrupted(step: int, *given: int) -> tuple[int, int]:
        if stop_here and step >= 1000:
            signal.raise_signal(signal.SIGINT)
        return plan(step, *given)

    loop._plan = interrupted
    try:
        run(long_walk(), LONG, 40, mesh=mesh, checkpoint_dir=str(folder / "stopped"))
        raise AssertionError("one process was interrupted and the run went on")
    except dlsim.Interrupted:
        loop._plan = plan
    lines = {
        "part": refused(mesh=1),
        "alone": refused(checkpoint_dir=str(folder / "alone")),
        "again": refused(mesh=mesh, checkpoint_dir=str(folder / "half")),
    }
    (folder / f"refused_{jax.process_index()}.json").write_text(json.dumps(lines))
    return out


def second(folder: pathlib.Path, mesh: str) -> dict[str, np.ndarray]:
    """Go on where the processes before these stopped."""
    more: dict[str, Any] = {"mesh": mesh, "resume": True}
    out = run(process(), STEPS, checkpoint_dir=str(folder / "half"), **more)
    walked = run(long_walk(), LONG, 40, checkpoint_dir=str(folder / "stopped"), **more)
    damaged = run(process(), STEPS, checkpoint_dir=str(folder / "damaged"), **more)
    return {
        **{f"whole/{name}": value for name, value in out.items()},
        **{f"walk/{name}": value for name, value in walked.items()},
        **{f"damaged/{name}": value for name, value in damaged.items()},
    }


if __name__ == "__main__":
    what, port, count, this, where = sys.argv[1:]
    meshes.start_distributed(f"localhost:{port}", int(count), int(this))
    assert jax.process_count() == int(count) and len(jax.local_devices()) == 1
    assert meshes.is_leader() == (this == "0")
    found = {"first": first, "second": second}[what](pathlib.Path(where), f"nodes={len(jax.devices())}")
    if meshes.is_leader():
        np.savez(pathlib.Path(where) / f"{what}.npz", **found)
