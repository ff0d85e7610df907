"""The node axis over several devices, and several hosts: JAX's own engine, with nothing of ours between.

Leaves of a run's state that lead with the nodes are laid over the mesh axis `nodes`; topologies, data sets and records
lie on every device.  XLA partitions the programs.  What that makes of the lowerings of `mix` (looked up in the compiled
programs, by `tests/meshes`): shifts become collective-permutes of the rows at the borders; the complete graph an
all-reduce; tables, edge lists and matrices gather the rows of all nodes once a product and then work on their own.
Gradients and updates in blocks of nodes (`map_nodes`) run on each device's own nodes.

Draws are those of one device bit for bit, because they belong to node ids; sums over nodes and products agree to
rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlsim import checks
from dlsim.core import PyTree

AXIS = "nodes"


class Placement(NamedTuple):
    """Where the arrays of a run lie."""

    mesh: Mesh
    num_nodes: int

    def carry(self, tree: PyTree, num_run_axes: int) -> PyTree:
        """Shardings of a state: leaves that lead with the nodes, behind the axes of runs, over the mesh."""

        def leaf(shape: Any) -> NamedSharding:
            leads = len(shape.shape) > num_run_axes and shape.shape[num_run_axes] == self.num_nodes
            spec = PartitionSpec(*[None] * num_run_axes, AXIS) if leads else PartitionSpec()
            return NamedSharding(self.mesh, spec)

        return jax.tree.map(leaf, tree)

    def everywhere(self, tree: PyTree) -> PyTree:
        """Shardings that put every leaf on every device."""
        return jax.tree.map(lambda _: NamedSharding(self.mesh, PartitionSpec()), tree)

    def put(self, tree: PyTree) -> PyTree:
        """The tree on every device of the mesh, also those of other processes, which hold the same."""
        return jax.tree.map(lambda leaf: put(leaf, NamedSharding(self.mesh, PartitionSpec())), tree)


def put(leaf: Any, sharding: NamedSharding) -> Any:
    """An array that every process holds, laid out as `sharding` says."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        # Key data have one more dimension, which is never split.
        data = put(jax.random.key_data(leaf), NamedSharding(sharding.mesh, sharding.spec))
        return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(leaf)))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def to_host(leaf: Any) -> np.ndarray:
    """An array's values in this process; a collective where other processes hold parts of it."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def node_mesh(spec: Any, where: str = "simulate") -> Mesh:
    """A mesh with the axis `nodes`, from a number of devices, `"nodes=4"`, or a `jax.sharding.Mesh` that has it."""
    if isinstance(spec, Mesh):
        if AXIS not in spec.shape:
            checks.fail(where, "mesh", f"one with an axis {AXIS!r}", f"axes {', '.join(map(str, spec.axis_names))}")
        return spec
    text = str(spec)
    name, equals, number = text.partition("=")
    if not equals:
        name, number = AXIS, text
    if name != AXIS or not number.isdigit() or int(number) < 1:
        checks.fail(where, "mesh", f"a number of devices or {AXIS}=4", repr(spec))
    devices = jax.devices()
    if int(number) > len(devices):
        fix = f"Here: {len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''}."
        checks.fail(where, "mesh", "of devices that exist", f"{number} of them", fix)
    return jax.make_mesh((int(number),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[: int(number)])


def place(num_nodes: int | None, mesh: Mesh, where: str = "simulate") -> Placement:
    """Check that a process of so many nodes can be laid over the mesh."""
    if num_nodes is None:
        fix = "Set num_nodes of the Process."
        checks.fail(where, "mesh", "given to a process that says its number of nodes", "one that does not", fix)
    parts = mesh.shape[AXIS]
    if num_nodes % parts:
        fix = f"Use {num_nodes - num_nodes % parts} nodes."
        got = f"{parts} for {num_nodes} nodes"
        checks.fail(where, "mesh", "of a number of devices that divides the number of nodes", got, fix)
    return Placement(mesh, num_nodes)


def num_parts() -> int:
    """Devices the node axis is laid over where a process is being traced; 1 outside."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(AXIS, 1)


def gathered(tree: PyTree) -> PyTree:
    """Rows of all nodes on every device, where the node axis is laid over several: one all-gather, for lookups in it."""
    if num_parts() == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec()), tree)


def by_part(fn: Callable[..., PyTree], num_rows: int) -> Callable[..., PyTree]:
    """`fn` of trees that lead with the nodes, on each device for its own rows; `fn` itself where there is one device."""
    parts = num_parts()
    if parts == 1 or num_rows % parts:
        return fn
    rows = PartitionSpec(AXIS)
    # Its loops run for different rows on different devices, so there is nothing to check about replication.
    return jax.shard_map(fn, in_specs=rows, out_specs=rows, axis_names={AXIS}, check_vma=False)


def start_distributed(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Make this process one of several, on one host or many; call it before anything else of JAX.

    With no arguments the cluster's own environment says who is who (Slurm, Open MPI, TPU pods).
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given) and any(value is None for value in given):
        rule = "given together with num_processes and process_id, or none of the three"
        checks.fail("start_distributed", "coordinator", rule, str(given))
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        checks.fail("start_distributed", "process_id", f"in [0, {num_processes - 1}]", process_id)
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes, process_id)


def is_leader() -> bool:
    """Whether this process writes files and shows progress."""
    return jax.process_index() == 0
