"""The small worlds that the contract is tried in, and the few ways of running in them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import dlsim
from dlsim import keys, problems
from dlsim.core import Array, Channel, Problem, Process, PyTree, Scenario
from dlsim.networks.graphs.graph import Graph, graph
from dlsim.networks.network import Network, connect

NUM_NODES = 8  # one a fake device
DIMENSION = 5
RATE = 0.1
ABSENT = (2, 5)
HIT = np.isin(np.arange(NUM_NODES), (1, 6))  # by a disaster
ORDER = (3, 7, 0, 5, 1, 6, 2, 4)


def problem(gradient_noise: Any = 0.1) -> Problem:
    return problems.quadratic(
        NUM_NODES, DIMENSION, heterogeneity=0.5, gradient_noise=gradient_noise, condition_number=4.0
    )


@functools.cache
def classification() -> Problem:
    """A tiny supervised problem: two leaves of parameters; nodes with other labels, and more or less data."""
    data = problems.synthetic_classification(160, 4, 3, seed=0)
    skewed = problems.dirichlet(alpha=1.0, balanced=False, min_size=4)
    parts = problems.partition(data, NUM_NODES, skewed, seed=0)
    assert len(set(parts.sizes.tolist())) > 1, "choose another seed"
    return problems.supervised("softmax", data, parts, batch_size=4)


def uneven_graph() -> Graph:
    """Degrees from 1 to 4, 10 links: a hub, a cycle, a tail."""
    links = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7)]
    return graph(NUM_NODES, *np.asarray(links).T)


def uneven(weights: str = "metropolis_hastings") -> Network:
    return connect(uneven_graph(), weights)


def link_weights() -> np.ndarray:
    """[N, N] by node id, symmetric: another one a link."""
    draws = np.random.default_rng(2).uniform(0.5, 1.5, (NUM_NODES, NUM_NODES))
    return (draws + draws.T) * (1 - np.eye(NUM_NODES)) / 2


def directed(weights: str = "column_stochastic") -> Network:
    """A directed cycle with three chords, column-stochastic."""
    links = [(i, (i + 1) % NUM_NODES) for i in range(NUM_NODES)] + [(0, 4), (2, 7), (5, 1)]
    return connect(graph(NUM_NODES, *np.asarray(links).T, is_directed=True), weights)


def tree() -> Network:
    links = [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (5, 6), (5, 7)]
    return connect(graph(NUM_NODES, *np.asarray(links).T))


def complete() -> Network:
    return dlsim.networks.complete(NUM_NODES)


def halves() -> Network:
    """Two cycles of four that never meet."""
    links = [(i, (i + 1) % 4) for i in range(4)] + [(4 + i, 4 + (i + 1) % 4) for i in range(4)]
    return connect(graph(NUM_NODES, *np.asarray(links).T))


def absent(nodes: tuple[int, ...] = ABSENT, from_step: int = 0) -> Scenario:
    """The nodes with these ids are away from a step on."""
    away = jnp.asarray(nodes)

    def init(key: Array, network: Network) -> Array:
        del key, network
        return jnp.zeros((), jnp.int32)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        del key
        there = ~jnp.isin(network.node_ids, away) | (state < from_step)
        return state + 1, network.replace(is_present=there)

    return Scenario(init=init, step=step)


class Trajectory(NamedTuple):
    """States after steps 0..T as a list, and the infos of steps 1..T."""

    states: list[PyTree]
    infos: list[dict[str, Any]]

    @property
    def last(self) -> PyTree:
        return self.states[-1]


def roll(process: Process, num_steps: int, seed: int = 0, step: Any = None, state: PyTree = None) -> Trajectory:
    """`num_steps` single steps, with the keys that `simulate` uses."""
    key = jax.random.key(seed)
    step = jax.jit(process.step) if step is None else step
    states, infos = [jax.jit(process.init)(keys.stream(key, "init")) if state is None else state], []
    for t in range(num_steps):
        state, info = step(jax.random.fold_in(keys.stream(key, "steps"), t), states[-1])
        states.append(state)
        infos.append(info)
    return Trajectory(states, infos)


def final(process: Process, num_steps: int) -> Any:
    """`key -> last state` as one traceable function."""

    def run(key: Array) -> PyTree:
        def step(t: Array, state: PyTree) -> PyTree:
            return process.step(jax.random.fold_in(keys.stream(key, "steps"), t), state)[0]

        return jax.lax.fori_loop(0, num_steps, step, process.init(keys.stream(key, "init")))

    return run


def close(a: PyTree, b: PyTree, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    """Equal to rounding; integers to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        name = jax.tree_util.keystr(path)
        x, y = np.asarray(x), np.asarray(y)
        if np.issubdtype(x.dtype, np.inexact):
            np.testing.assert_allclose(x, y, rtol=rtol, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(x, y, err_msg=name)


def same(a: PyTree, b: PyTree) -> None:
    """Equal to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))


def node_rows(tree: PyTree, rows: tuple[int, ...], num_nodes: int = NUM_NODES) -> dict[str, np.ndarray]:
    """The rows of some nodes in every leaf that leads with the nodes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    led = {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves if x.ndim and x.shape[0] == num_nodes}
    return {name: x[list(rows)] for name, x in led.items()}


@functools.cache
def node_sharding() -> Any:
    """`tree -> tree` with the node axis of every leaf spread over eight devices, the rest copied to all."""
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((NUM_NODES,), ("nodes",), axis_types=(AxisType.Auto,))

    def place(tree: PyTree) -> PyTree:
        def leaf(x: Array) -> Array:
            spec = PartitionSpec("nodes") if x.ndim and x.shape[0] == NUM_NODES else PartitionSpec()
            return jax.device_put(x, NamedSharding(mesh, spec))

        return jax.tree.map(leaf, tree)

    return place


def halving() -> Channel:
    """A channel with a state: what is sent is half the message plus half the last one, in 16 bits a number."""

    def init(message: PyTree, num_senders: int) -> PyTree:
        del num_senders
        return jax.tree.map(jnp.zeros_like, message)

    def send(key: Array, state: PyTree, packet: Any, route: Any) -> tuple[PyTree, Any]:
        del key, route
        values = jax.tree.map(lambda new, old: (new + old) / 2, packet.values, state)
        return packet.values, packet._replace(values=values, bits_per_entry=jnp.full_like(packet.bits_per_entry, 16))

    return Channel(init=init, send=send, source="a toy")
