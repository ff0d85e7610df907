"""The node axis over several devices, and several hosts: JAX's own engine, with nothing of ours between.

Laid over the mesh axis `nodes`: what of a run's state leads with the nodes, and the network's arrays by node (ids,
tables of neighbours, rows of a dense matrix).  On every device: data sets, what problems keep by node, edge lists,
state by edge, records.  XLA partitions the programs.  What it makes of a step, read from the compiled programs for N
nodes of D numbers on P devices:

| part of a step              | on the wire                                          | of size [N, D] on a device   |
|-----------------------------|------------------------------------------------------|------------------------------|
| draws, gradients, optimiser | nothing                                              | nothing                      |
| `mix` by shifts             | one collective-permute of the border rows an offset  | nothing                      |
| `mix` on the complete graph | all-reduces of [D]                                   | nothing                      |
| neighbours, dense, `gather` | one all-gather of the messages                       | the messages                 |
| `mix` by edges              | an all-gather of the messages, an all-reduce of sums | the messages, the sums       |
| `exchange`                  | one all-gather of the messages                       | the messages                 |
| `send_edges`                | one all-reduce of the messages by edge, [E, D]       | state by edge, [E, D]        |
| a server and its cohort     | all-reduces of [D], all-gathers of the cohort's rows | nothing                      |
| status                      | one all-gather of a word a node                      | nothing                      |

Shifts send no more than borders where the number of devices divides the first side of the grid.  Work in blocks of
nodes (`map_nodes`) and a cohort's gradients are shared out too: each device does its own rows.  A leaf that happens to
lead with N (a layer of N units at a server) is laid over the devices as well, which costs messages and changes nothing.

Draws are those of one device bit for bit, because they belong to node ids; sums over nodes and products agree to
rounding.

With several processes (`start_distributed`) every one runs the same program on the same arguments.  The first is to
write what is written and to show what is shown: ask `is_leader()`.  Lengths of chunks, checkpoints and Ctrl-C are
agreed on between chunks.  Checkpoints are gathered leaf by leaf and written by the first process, into a folder that
all of them can read.  `Run.state` is in parts; `to_host`, called by all, gives an array whole.
"""

from __future__ import annotations

import contextlib
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
    split: tuple[Any, ...] = ()  # arrays among a program's constants that are laid over the mesh, as a state is

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
        """What programs are given: `split` over the devices, the rest on every one, also those of other processes,
        which hold the same arrays.  An array that is in several places stays one.
        """
        split, made = {id(leaf) for leaf in self.split}, dict[int, Any]()

        def leaf(array: Any) -> Any:
            if id(array) not in made:
                spec = PartitionSpec(AXIS) if id(array) in split else PartitionSpec()
                made[id(array)] = put(array, NamedSharding(self.mesh, spec))
            return made[id(array)]

        return jax.tree.map(leaf, tree)


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


def is_shared(tree: PyTree) -> bool:
    """Whether several processes hold the arrays (or shapes with shardings) together."""
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree)]
    return any(sharding is not None and not sharding.is_fully_addressable for sharding in shardings)


def told(*values: Any) -> np.ndarray:
    """What every process says, `[processes, values]`, the same in all of them: a collective.

    Clocks, Ctrl-C and files differ from process to process; what the programs do next must not.
    """
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(values))).reshape(-1, len(values))


def node_mesh(spec: Any, where: str = "simulate") -> Mesh:
    """A mesh with the axis `nodes`, from a number of devices, `"nodes=4"`, or a `jax.sharding.Mesh` that has it."""
    if isinstance(spec, Mesh):
        if AXIS not in spec.shape:
            checks.fail(where, "mesh", f"one with an axis {AXIS!r}", f"axes {', '.join(map(str, spec.axis_names))}")
        return _of_all(Mesh(spec.devices, spec.axis_names, axis_types=(AxisType.Auto,) * len(spec.axis_names)), where)
    number = parse_number(spec, where)
    devices = jax.devices()
    if number > len(devices):
        fix = f"Here: {len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''}."
        checks.fail(where, "mesh", "of devices that exist", f"{number} of them", fix)
    return _of_all(jax.make_mesh((number,), (AXIS,), (AxisType.Auto,), devices=devices[:number]), where)


def parse_number(spec: Any, where: str = "simulate", argument: str = "mesh") -> int:
    """The number of devices that `4` or `"nodes=4"` asks for."""
    text = str(spec)
    name, equals, number = text.partition("=")
    if not equals:
        name, number = AXIS, text
    is_number = number.isascii() and number.isdecimal() and len(number) < 20
    if name != AXIS or not is_number or int(number) < 1:
        checks.fail(where, argument, f"a number of devices or {AXIS}=4", repr(spec))
    return int(number)


def _of_all(mesh: Mesh, where: str) -> Mesh:
    """The mesh, unless it leaves out one of several processes: that one could not follow the run."""
    idle = set(range(jax.process_count())) - {device.process_index for device in mesh.devices.flat}
    if idle:
        got = f"{mesh.devices.size} devices, none of process {min(idle)}"
        fix = f"Use {AXIS}={len(jax.devices())}, or start fewer processes."
        checks.fail(where, "mesh", f"over devices of all {jax.process_count()} processes", got, fix)
    return mesh


def place(num_nodes: int | None, mesh: Mesh, where: str = "simulate", network: Any = None) -> Placement:
    """Check that a process of so many nodes can be laid over the mesh; with its network, whose arrays are laid too."""
    if num_nodes is None:
        fix = "Set num_nodes of the Process."
        checks.fail(where, "mesh", "given to a process that says its number of nodes", "one that does not", fix)
    parts = mesh.shape[AXIS]
    if num_nodes % parts:
        fix = f"Use {num_nodes - num_nodes % parts or parts} nodes."
        got = f"{parts} for {num_nodes} nodes"
        checks.fail(where, "mesh", "of a number of devices that divides the number of nodes", got, fix)
    return Placement(mesh, num_nodes, _by_node(network, num_nodes))


def _by_node(network: Any, num_nodes: int) -> tuple[Any, ...]:
    """A network's arrays by node: ids, tables of neighbours, rows of the mixing matrix, degrees, links.

    What a problem keeps by node it looks up by id, for whichever nodes it is asked, so that has to be everywhere.
    """
    named = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(network)]
    by_edge = (".senders", ".receivers", ".edge_weights", ".is_linked", ".is_edge", ".cohort")
    return tuple(leaf for name, leaf in named if np.shape(leaf)[:1] == (num_nodes,) and name not in by_edge)


def laid_over(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Tracing and compiling inside are for nodes laid over the mesh; None: for one device."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def num_parts() -> int:
    """Devices the node axis is laid over where a process is being traced; 1 outside, and within `by_part`."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if AXIS in mesh.manual_axes else dict(mesh.shape).get(AXIS, 1)


def gathered(tree: PyTree) -> PyTree:
    """Rows of all nodes on every device, where the node axis is laid over several: one all-gather, for lookups in it."""
    if num_parts() == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec()), tree)


def spread(tree: PyTree) -> PyTree:
    """Rows laid over the devices that the node axis is laid over, also where their number is no multiple."""
    if num_parts() == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, PartitionSpec(AXIS)), tree)


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

    Every process then sees the devices of all, and a run with `mesh` over them is one run.  A process that fails takes
    the others with it, after a while; Ctrl-C to any of them stops all between two chunks.

    Args:
      coordinator: `host:port` of the process with id 0, the same for all.  That process listens there and nowhere else
        (elsewhere, where the variable JAX_COORDINATOR_BIND_ADDRESS says so: behind address translation, say).
      num_processes: how many there are.
      process_id: which this is, from 0.
      With none of the three the environment says who is who (Slurm, Open MPI, TPU pods).

    Raises:
      ValueError: some given and some not, an id out of range, or none given where the environment says nothing.
      RuntimeError: too late, JAX has started; or the others did not come.
    """
    where, given = "start_distributed", (coordinator, num_processes, process_id)
    if any(value is not None for value in given) and any(value is None for value in given):
        rule = "given together with num_processes and process_id, or none of the three"
        checks.fail(where, "coordinator", rule, str(given))
    if coordinator is not None:
        host, _, port = str(coordinator).rpartition(":")
        if not host or not port.isdigit():
            checks.fail(where, "coordinator", "host:port of process 0", repr(coordinator))
        count = checks.integer(where, "num_processes", num_processes, 1)
        checks.integer(where, "process_id", process_id, 0, count - 1)
    # Else SIGTERM would only be noted, and a job that is cancelled or timed out would go on.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", coordinator)  # JAX by itself listens on every interface
        jax.distributed.initialize(coordinator, num_processes, process_id, coordinator_bind_address=bound)
    except ValueError as error:
        fix = "Give coordinator, num_processes and process_id."
        checks.fail(where, "coordinator", "given where no cluster's environment is found", str(error).rstrip("."), fix)


def is_leader() -> bool:
    """Whether this process writes files and shows progress."""
    return jax.process_index() == 0
