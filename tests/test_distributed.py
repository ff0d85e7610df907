"""Two real processes, each with half of the nodes: the results of one."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

import distributed_run
import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent
STEPS = 12


def together(out: pathlib.Path, num_steps: int, *folder: str) -> dict[str, np.ndarray]:
    """What two processes on loopback make of the run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    world = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-m", "distributed_run", str(port), "2"]
    both = [
        subprocess.Popen(
            [*words, str(this), str(out), str(num_steps), *folder],
            cwd=HERE,
            env=world,
            stderr=subprocess.PIPE,
            text=True,
        )
        for this in range(2)
    ]
    try:
        errors = [one.communicate(timeout=240)[1] for one in both]
    finally:
        for one in both:
            one.kill()
    assert [one.returncode for one in both] == [0, 0], "\n".join(error[-2000:] for error in errors)
    with np.load(out) as found:
        return dict(found)


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.slow
def test_two_processes_are_as_good_as_one(tmp_path: pathlib.Path) -> None:
    same(together(tmp_path / "two.npz", STEPS), distributed_run.run(STEPS))


@pytest.mark.slow
def test_two_processes_stop_and_go_on(tmp_path: pathlib.Path) -> None:
    """Half of the run, then the rest from the checkpoint: the bits of an unbroken run of two."""
    folder = str(tmp_path / "checkpoints")
    together(tmp_path / "half.npz", STEPS // 2, folder)
    resumed = together(tmp_path / "whole.npz", STEPS, folder)
    same(resumed, distributed_run.run(STEPS))
