"""The node axis over several devices: the results of one device to rounding, its draws bit for bit."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from contract.table import CASES
from jax.sharding import Mesh
from toys import walk

from dlsim import meshes, simulate

HERE = pathlib.Path(__file__).parent
ROUNDING = 2e-5  # float32, after a dozen steps of sums in another order
NO_NODES = {"centralized_sgd", "fedavg", "fedprox", "scaffold"}  # may hold one model, and nothing by node


def run(what: str) -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, "-m", "mesh_run", what], cwd=HERE, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["name"]: row for row in rows}


@pytest.mark.slow
def test_every_lowering_of_mix() -> None:
    rows = run("lowerings")
    assert [row["lowering"] for row in rows.values()] == ["shifts", "neighbors", "edges", "dense", "average"]
    for name, row in rows.items():
        assert row["distance"] < ROUNDING and row["is_laid"], name
    assert rows["shifts"]["collective-permute"] >= 2, "a roll sends borders, not everything"
    assert rows["shifts"]["all-gather"] < rows["neighbors"]["all-gather"]
    for name in ("neighbors", "edges", "dense"):
        assert rows[name]["collective-permute"] == 0 and rows[name]["all-gather"] >= 1, name
    assert rows["average"]["all-reduce"] > rows["neighbors"]["all-reduce"]


@pytest.mark.slow
def test_every_algorithm_and_so_every_verb() -> None:
    rows = run("table")
    first = {case.name: case for case in reversed(CASES)}
    assert set(rows) == {case.id for case in first.values()}
    for case in first.values():
        row = rows[case.id]
        assert row["distance"] < ROUNDING, (case.id, row)
        assert row["is_laid"] or case.name in NO_NODES, case.id


@pytest.mark.slow
def test_worlds_made_hard_blocks_and_seeds() -> None:
    for name, row in run("worlds").items():
        assert row["distance"] < ROUNDING, (name, row)
        assert row["is_laid"], name


def test_draws_are_the_same_bits() -> None:
    row = run("draws")["draws"]
    assert row["distance"] == 0 and row["is_laid"]


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("rows=2", "simulate: mesh must be a number of devices or nodes=4, got 'rows=2'."),
        ("nodes=0", "simulate: mesh must be a number of devices or nodes=4, got 'nodes=0'."),
        ("nodes=many", "simulate: mesh must be a number of devices or nodes=4, got 'nodes=many'."),
        (1000, "simulate: mesh must be of devices that exist, got 1000 of them. Here: "),
        (Mesh(np.asarray(jax.devices()[:1]), ("x",)), "simulate: mesh must be one with an axis 'nodes', got axes x."),
    ],
)
def test_bad_meshes_are_one_line(mesh: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        simulate(walk(), seed=0, num_steps=1, mesh=mesh)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_process_must_say_its_nodes_and_devices_must_divide_them() -> None:
    with pytest.raises(ValueError, match="a process that says its number of nodes, got one that does not. Set"):
        simulate(walk(), seed=0, num_steps=1, mesh=1)
    fake = Mesh(np.asarray(jax.devices()[:1]), ("nodes",))
    assert meshes.place(7, fake).num_nodes == 7

    class Three:
        shape = {"nodes": 3}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"divides the number of nodes, got 3 for 7 nodes. Use 6 nodes."):
        meshes.place(7, Three())  # type: ignore[arg-type]


def test_one_device_changes_nothing() -> None:
    process = walk()._replace(num_nodes=4)
    plain = simulate(process, seed=0, num_steps=5)
    laid = simulate(process, seed=0, num_steps=5, mesh=1)
    jax.tree.map(np.testing.assert_array_equal, plain.state, laid.state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1", None, None), "start_distributed: coordinator must be given together with num_processes"),
        (("localhost:1", 2, 2), r"start_distributed: process_id must be in \[0, 1\], got 2"),
    ],
)
def test_bad_hosts_are_one_line(given: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        meshes.start_distributed(*given)
