"""One round of a server and its clients: what FedAvg, FedProx and SCAFFOLD share."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.algorithms.local import LocalUpdates
from dlsim.core import Array, Info, Problem, PyTree
from dlsim.networks.messages import asked
from dlsim.networks.network import PERFECT, Arrival, Network

WEIGHTINGS = ("examples", "uniform")


class ServerState(NamedTuple):
    params: PyTree  # [...] the server's model
    server_optimizer_state: PyTree


class Report(NamedTuple):
    """What the clients made of a broadcast, over the cohort."""

    rows: Array | None  # [C] positions, None: all nodes
    received: PyTree  # [C, ...] what came down
    params: PyTree  # [C, ...] after local training
    info: Info


def broadcast_and_train(
    network: Network, key: Array, message: PyTree, local: LocalUpdates, correct: Any, extra: Any
) -> tuple[Report, Array, Network]:
    """Send `message` (its first entry the model) to the cohort and let it train; also who got it, bool `[C]`.

    `extra(received) -> [C, ...]` is what `correct` needs of the message.  Clients keep no optimiser state between
    rounds.
    """
    arrival, network = network.downlink(key, message)
    rows, _ = asked(network)
    ids = network.node_ids if rows is None else network.node_ids[rows]
    model = arrival.values[0]
    # Without faults everyone is there, and a mask would only cost copies.
    mask = None if network.is_present is None and network.channel is PERFECT else arrival.mask
    params, _, info = local.run(key, model, local.init(model), ids, mask, correct, extra(arrival.values))
    return Report(rows=rows, received=arrival.values, params=params, info=info), arrival.mask, network


def collect(network: Network, key: Array, message: PyTree, has_model: Array) -> tuple[Arrival, Network]:
    """The uplink of those of the cohort that got the broadcast; nobody else sends."""
    present, rows = network.is_present, network.cohort
    if network.channel is not PERFECT:
        everyone = jnp.ones(network.num_nodes, bool) if present is None else present
        there = has_model if rows is None else everyone.at[rows].set(has_model, unique_indices=True)
        network = network.replace(is_present=there)
    arrival, network = network.uplink(key, message)
    if network.channel is not PERFECT:
        # Weights of zero would not keep out the NaN of a client that diverged and was not heard.
        arrival = arrival._replace(values=trees.select(arrival.mask, arrival.values, trees.zeros_like(arrival.values)))
    return arrival, network.replace(is_present=present)


def aggregation_weights(problem: Problem, weighting: str, network: Network, rows: Array | None, mask: Array) -> Array:
    """Weight of each member of the cohort `[C]`: its examples, or one; zero where nothing arrived."""
    if weighting == "uniform":
        return mask.astype(float)
    ids = network.node_ids if rows is None else network.node_ids[rows]
    return jnp.where(mask, jnp.asarray(problem.num_examples, float)[ids], 0.0)


def server_update(optimizer: Any, state: ServerState, pseudo_gradient: PyTree, is_empty: Array) -> ServerState:
    """The server's optimiser on the mean of before minus after; an empty cohort changes nothing."""
    import optax

    updates, optimizer_state = optimizer.update(pseudo_gradient, state.server_optimizer_state, state.params)
    new = ServerState(optax.apply_updates(state.params, updates), optimizer_state)
    return jax.tree.map(lambda a, b: jnp.where(is_empty, b, a), new, state)


def check_weighting(where: str, weighting: str) -> str:
    """The name of a weighting, or one line that lists them."""
    return checks.one_of(where, "weighting", weighting, WEIGHTINGS)


def first(params: PyTree) -> PyTree:
    """The model all nodes start from, `[...]`."""
    return jax.tree.map(lambda leaf: leaf[0], params)


def as_one(params: PyTree) -> PyTree:
    """The server's model as a population of one, `[1, ...]`."""
    return trees.replicate(params, 1)
