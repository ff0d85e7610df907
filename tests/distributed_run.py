"""One of several processes that share a run: `python -m distributed_run PORT COUNT ID OUT STEPS [CHECKPOINTS]`.

The process that leads writes the results and the state to OUT (.npz).
"""

from __future__ import annotations

import sys

import jax
import numpy as np
import optax

import dlsim
from dlsim import meshes, networks


def process() -> dlsim.Process:
    problem = dlsim.problems.classification(
        "digits", num_nodes=16, partition=dlsim.problems.dirichlet(alpha=0.5), model="softmax", node_block=3
    )
    network = networks.torus(16).with_channel(networks.loss(0.1))
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.1, momentum=0.9))
    return dlsim.learn(problem, algorithm, network, networks.churn(rate=0.05))


def run(num_steps: int, mesh: object = None, checkpoints: str | None = None) -> dict[str, np.ndarray]:
    """The state's leaves and the records, whole in every process."""
    done = dlsim.simulate(
        process(),
        seed=3,
        num_steps=num_steps,
        record=dlsim.Record(every=4),
        mesh=mesh,
        checkpoint_dir=checkpoints,
        resume=checkpoints is not None,
    )
    out = {f"state_{i}": meshes.to_host(leaf) for i, leaf in enumerate(jax.tree.leaves(done.state))}
    return out | {name: done.results[name].values for name in done.results.data_vars}


if __name__ == "__main__":
    port, count, this, out, steps, *folder = sys.argv[1:]
    meshes.start_distributed(f"localhost:{port}", int(count), int(this))
    assert jax.process_count() == int(count) and len(jax.local_devices()) == 1
    found = run(int(steps), f"nodes={len(jax.devices())}", *folder)
    assert meshes.is_leader() == (this == "0")
    if meshes.is_leader():
        np.savez(out, **found)
