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
from jax.sharding import AxisType, Mesh, PartitionSpec
from patience import PATIENCE
from toys import environment, walk

from dlsim import Record, meshes, networks, simulate

ROUNDING = 2e-5  # float32, after a dozen steps of sums in another order
NO_NODES = {"centralized_sgd", "fedavg", "fedprox", "scaffold"}  # may hold one model, and nothing by node


# Four devices make twice the programs: less time in the compiler, the same partitioning.
FAST_COMPILES = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def run(what: str) -> dict[str, dict]:
    world = environment(XLA_FLAGS=FAST_COMPILES)
    done = subprocess.run(
        [sys.executable, "-m", "running.mesh_run", what], env=world, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["name"]: row for row in rows}


@pytest.mark.slow
def test_every_lowering_of_mix() -> None:
    """The results of one device, and nothing on the wire but what the product needs: no draws, no gradients."""
    rows = run("lowerings")
    channelled = rows.pop("sparse")
    assert [row["lowering"] for row in rows.values()] == ["shifts", "neighbors", "edges", "dense", "average"]
    for name, row in rows.items():
        assert row["distance"] < ROUNDING and row["is_laid"], name
    nodes, numbers = 64, 64 * 6
    border = 8 * 6  # a row of the 8 x 8 torus
    for name, row in (*rows.items(), ("sparse", channelled)):
        sizes = row["collectives"]
        whole = {kind: [size for size in found if size >= numbers] for kind, found in sizes.items()}
        gathers = {"neighbors": 1, "edges": 1, "dense": 1}.get(name, 0)
        assert whole["all-gather"] == [numbers] * gathers, (name, sizes)
        assert whole["all-reduce"] == [numbers] * (name == "edges"), (name, sizes)
        assert not whole["all-to-all"] and all(size <= numbers for found in sizes.values() for size in found), name
        assert sizes["collective-permute"] == [border] * (2 * (name in ("shifts", "sparse"))), (name, sizes)
        assert all(size <= 2 * nodes for size in sizes["all-gather"] if size < numbers), (name, sizes)


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


def test_a_mesh_made_for_explicit_axes_or_with_other_axes_serves() -> None:
    process = walk()._replace(num_nodes=4)
    plain = simulate(process, seed=0, num_steps=5)
    explicit = jax.make_mesh((2,), ("nodes",), (AxisType.Explicit,), devices=jax.devices()[:2])
    for mesh in (explicit, Mesh(np.asarray(jax.devices()[:4]).reshape(2, 2), ("other", "nodes"))):
        laid = simulate(process, seed=0, num_steps=5, mesh=mesh)
        assert laid.state.position.sharding.spec == PartitionSpec("nodes")
        np.testing.assert_array_equal(laid.state.word, plain.state.word)
        np.testing.assert_allclose(laid.state.position, plain.state.position, rtol=1e-6)


def test_constants_are_laid_by_node_where_they_belong_to_the_network_and_kept_once() -> None:
    network = networks.erdos_renyi(8, 0.5, seed=0, lowering="dense")
    data = jax.numpy.zeros((8, 3))
    placement = meshes.place(8, meshes.node_mesh(4), network=network)
    matrix, edges, first, again = placement.put([network.matrix, network.senders, data, data])
    assert matrix.sharding.shard_shape(matrix.shape) == (2, 8)
    assert edges.is_fully_replicated and first.is_fully_replicated
    assert first is again
    np.testing.assert_array_equal(matrix, network.matrix)


def test_a_checkpoint_of_one_device_goes_on_over_several(tmp_path: pathlib.Path) -> None:
    process = walk()._replace(num_nodes=4)
    whole = simulate(process, seed=0, num_steps=8)
    simulate(process, seed=0, num_steps=4, record=Record(), checkpoint_dir=str(tmp_path))
    more = {"record": Record(), "checkpoint_dir": str(tmp_path), "resume": True}
    resumed = simulate(process, seed=0, num_steps=8, mesh=2, **more)
    assert resumed.state.word.sharding.spec == PartitionSpec("nodes")
    np.testing.assert_array_equal(resumed.state.word, whole.state.word)


def test_one_device_changes_nothing() -> None:
    process = walk()._replace(num_nodes=4)
    plain = simulate(process, seed=0, num_steps=5)
    laid = simulate(process, seed=0, num_steps=5, mesh=1)
    jax.tree.map(np.testing.assert_array_equal, plain.state, laid.state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1", None, None), "start_distributed: coordinator must be given together with num_processes"),
        (("localhost:1", 2, 2), r"start_distributed: process_id must be an integer in \[0, 1\], got 2"),
        (("localhost", 2, 0), r"start_distributed: coordinator must be host:port of process 0, got 'localhost'"),
        (("localhost:1", 0, 0), r"start_distributed: num_processes must be an integer >= 1, got 0"),
    ],
)
def test_bad_hosts_are_one_line(given: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        meshes.start_distributed(*given)
