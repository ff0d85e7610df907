"""One round of a server and its clients: what FedAvg, FedProx and SCAFFOLD share."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.algorithms.local import LocalUpdates
from dlsim.algorithms.optimizers import ServerOptimizer
from dlsim.core import Aggregator, Array, Info, Problem, PyTree
from dlsim.networks.flight.server_messages import asked
from dlsim.networks.network import Arrival, Inbox, Network

WEIGHTINGS = ("examples", "uniform")


class ServerState(NamedTuple):
    params: PyTree  # [...] the server's model
    server_optimizer_state: PyTree
    aggregator_state: PyTree  # [1, ...]
    round: Array  # int32 [] rounds so far, those in which nobody came with them


class Report(NamedTuple):
    """What the clients made of a broadcast, over the cohort."""

    rows: Array | None  # [C] positions, None: all nodes
    received: PyTree  # [C, ...] what came down
    params: PyTree  # [C, ...] after local training
    info: Info


def broadcast_and_train(
    network: Network, key: Array, message: PyTree, local: LocalUpdates, correct: Any, extra: Any, round: Array
) -> tuple[Report, Array, Network]:
    """Send `message` (its first entry the model) to the cohort and let it train; also who got it, bool `[C]`.

    `extra(received) -> [C, ...]` is what `correct` needs of the message.  Clients keep no optimiser state between
    rounds: what it counts or gathers (momentum, Adam's moments) starts anew, but schedules stand at `round`.
    """
    arrival, network = network.downlink(key, message)
    rows, _ = asked(network)
    ids = network.node_ids if rows is None else network.node_ids[rows]
    model = arrival.values[0]
    # Without faults everyone is there, and a mask would only cost copies.
    mask = None if network.is_present is None and not network.may_miss else arrival.mask
    params, _, info = local.run(key, model, local.init(model), ids, mask, correct, extra(arrival.values), round=round)
    return Report(rows=rows, received=arrival.values, params=params, info=info), arrival.mask, network


def collect(
    network: Network, key: Array, message: PyTree, has_model: Array, stream: str = "uplink"
) -> tuple[Arrival, Network]:
    """The uplink of those of the cohort that got the broadcast; nobody else sends."""
    present, rows = network.is_present, network.cohort
    if network.may_miss:
        everyone = jnp.ones(network.num_nodes, bool) if present is None else present
        there = has_model if rows is None else everyone.at[rows].set(has_model, unique_indices=True)
        network = network.replace(is_present=there)
    arrival, network = network.uplink(key, message, stream=stream)
    if network.may_miss:
        # Weights of zero would not keep out the NaN of a client that diverged and was not heard.
        arrival = arrival._replace(values=trees.select(arrival.mask, arrival.values, trees.zeros_like(arrival.values)))
    return arrival, network.replace(is_present=present)


def aggregation_weights(problem: Problem, weighting: str, network: Network, rows: Array | None, mask: Array) -> Array:
    """Weight of each member of the cohort `[C]`: its examples, or one; zero where nothing arrived."""
    if weighting == "uniform":
        return mask.astype(float)
    ids = network.node_ids if rows is None else network.node_ids[rows]
    return jnp.where(mask, jnp.asarray(problem.num_examples, float)[ids], 0.0)


def clipped(updates: PyTree, clip_norm: Any) -> PyTree:
    """Every client's update `[C, ...]` scaled down to a Euclidean norm of at most `clip_norm`; None: as they are.

    The norm is taken of numbers below one, so that squares neither overflow nor vanish.
    """
    if clip_norm is None:
        return updates
    largest = [
        jnp.max(jnp.abs(leaf.reshape(leaf.shape[0], -1)), axis=1, initial=0) for leaf in jax.tree.leaves(updates)
    ]
    top = jnp.max(jnp.stack([one.astype(jnp.float32) for one in largest]), axis=0)
    unit = jnp.where(top > 0, top, 1)
    norm = jnp.sqrt(
        trees.squared_norm(jax.tree.map(lambda leaf: leaf / trees.expand(unit, leaf).astype(leaf.dtype), updates))
    )
    # min(1, c / (unit norm)) without the product, which may overflow.
    share = jnp.minimum(1, clip_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny) / unit)
    return trees.scale(share, updates)


def aggregated(
    aggregator: Aggregator | None,
    state: PyTree,
    key: Array,
    arrival: Arrival,
    weights: Array,
    rows: Array | None = None,
) -> tuple[PyTree, PyTree]:
    """`(state, one value [...])` of what arrived `[C, ...]`: the weighted mean, or what the rule makes of it.

    Rules were made for nodes, which have a value of their own beside what they hear.  A server has none, so one of the
    clients' stands there, which is as good for a rule that treats all alike (`check_aggregator`): the one whose norm is the
    median of those that are finite, as rules may leave out what is too far away from it.  Ties go to it.  `rows` `[C]` are
    the clients' positions (None: all N in order), for rules that remember who said what.
    """
    if aggregator is None:
        return state, trees.mean(arrival.values, weights)
    size = jnp.sqrt(trees.squared_norm(arrival.values))
    counts = arrival.mask & jnp.isfinite(size)
    order = jnp.argsort(jnp.where(counts, size, jnp.inf), stable=True)
    # Where nothing is finite, whatever has arrived; where nothing has, the result is not used.
    middle = jnp.where(jnp.any(counts), order[jnp.maximum(jnp.sum(counts) - 1, 0) // 2], jnp.argmax(arrival.mask))
    num = arrival.mask.shape[0]
    clients = jnp.arange(num, dtype=jnp.int32) if rows is None else rows
    own = jax.tree.map(lambda leaf: leaf[middle][None], arrival.values)
    inbox = Inbox(
        values=jax.tree.map(lambda leaf: leaf[None], arrival.values),
        weights=(weights / jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny))[None],
        mask=(arrival.mask & (jnp.arange(num) != middle))[None],
        senders=jnp.arange(num, dtype=jnp.int32)[None],
        candidate_ids=jnp.append(clients[middle], clients)[None],
    )
    inbox = inbox._replace(weights=jnp.where(inbox.mask, inbox.weights, 0))
    new, value = aggregator.apply(keys.stream(key, "aggregate"), state, own, inbox)
    return new, jax.tree.map(lambda leaf: leaf[0], value)


def check_aggregator(where: str, aggregator: Any) -> Aggregator | None:
    """A rule that a server can use: one that makes the same of a value whether it is heard or the node's own."""
    if aggregator is None:
        return None
    fix = "Pass e.g. dlsim.aggregators.median()."
    checks.instance(where, "aggregator", aggregator, Aggregator, fix)
    if aggregator.ask is not None:
        checks.fail(where, "aggregator", "one that asks nothing of neighbours", "one with messages of its own", fix)
    entries = np.array([0.3, -1.7, 2.9, 0.8, -0.2, 11.3, 1.1, -4.1, 0.5], np.float32)
    values = np.stack([np.roll(entries, by) for by in (0, 2, 5)], axis=1)  # some rules ask where vectors point

    @jax.jit  # one program for both: rule by rule, operation by operation, is a hundred small ones
    def of(heard: Array, everyone: Array, start: Array) -> Any:
        share = jnp.full((1, len(values) - 1), 1 / len(values))
        mask, senders = jnp.ones(share.shape, bool), jnp.arange(len(values) - 1, dtype=jnp.int32)[None]
        inbox = Inbox(heard, share, mask, senders, candidate_ids=everyone)
        return aggregator.apply(jax.random.key(0), aggregator.init(start), start, inbox)[1]

    with jax.ensure_compile_time_eval():

        def at(own: int) -> Any:
            everyone = np.array([own, *np.delete(np.arange(len(values)), own)], np.int32)
            return of(np.delete(values, own, axis=0)[None], everyone[None], values[own][None])

        first, second = at(0), at(5)
        if checks.is_concrete((first, second)) and not np.allclose(first, second, rtol=1e-3, atol=1e-3):
            fix = "A server has no model of its own in a round: use median, trimmed_mean, krum, ..., or clip_norm."
            checks.fail(
                where, "aggregator", "one that treats a node's own value as any other", "one centred on it", fix
            )
    return aggregator


def server_update(
    optimizer: ServerOptimizer, key: Array, state: ServerState, pseudo_gradient: PyTree, loss: Array
) -> ServerState:
    """The server's optimiser on the mean of before minus after, `loss` that of its clients."""
    import optax

    updates, optimizer_state = optimizer.update(
        keys.stream(key, "server"), pseudo_gradient, state.server_optimizer_state, state.params, loss
    )
    return state._replace(params=optax.apply_updates(state.params, updates), server_optimizer_state=optimizer_state)


def check_weighting(where: str, weighting: str) -> str:
    """The name of a weighting, or one line that lists them."""
    return checks.one_of(where, "weighting", weighting, WEIGHTINGS)


def first(params: PyTree) -> PyTree:
    """The model all nodes start from, `[...]`."""
    return jax.tree.map(lambda leaf: leaf[0], params)


def as_one(params: PyTree) -> PyTree:
    """The server's model as a population of one, `[1, ...]`."""
    return trees.replicate(params, 1)
