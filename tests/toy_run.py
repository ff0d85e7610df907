"""Runs a toy to its end in a process of its own: `python -m toy_run CHECKPOINTS OUT NUM_STEPS`.

The run resumes, checkpoints as often as it can, and leaves its last state and results in OUT (.npz).
"""

from __future__ import annotations

import sys

import jax
import numpy as np
from toys import walk

from dlsim import Run, simulate
from dlsim.core import Record
from dlsim.running import loop


def everything(run: Run) -> dict[str, np.ndarray]:
    """All that two equal runs share: the leaves of the state and the results."""
    out = {f"state_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(run.state))}
    return out | {f"result_{name}": run.results[name].values for name in (*run.results.data_vars, "step")}


def run_walk(folder: str | None, num_steps: int, resume: bool = True, checkpoint_seconds: float = 0.0) -> Run:
    return simulate(
        walk(),
        seed=3,
        num_steps=num_steps,
        record=Record(every=7),
        checkpoint_dir=folder,
        checkpoint_seconds=checkpoint_seconds,
        resume=resume,
    )


if __name__ == "__main__":
    loop.CHUNK_SECONDS = 1e-4  # many chunks, so many checkpoints
    checkpoints, out, count = sys.argv[1:]
    try:
        finished = run_walk(checkpoints, int(count))
    except loop.Interrupted as stop:
        print(f"Interrupted: {stop}")
        sys.exit(130)
    np.savez(out, **everything(finished))
