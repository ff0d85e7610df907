"""Gossip learning: models that travel from node to node, merge and are trained where they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dlsim import checks, clocks, trees
from dlsim.algorithms.local import local_events
from dlsim.algorithms.model_parts import AgedPart, ModelParts, part_of, with_part
from dlsim.algorithms.token_account import TokenAccount, Tokens, at_arrival, at_slot, opened, uniform
from dlsim.core import Array, EventAlgorithm, Info, Problem, PyTree
from dlsim.keys import fold_in
from dlsim.networks.network import Network, host_graph

if TYPE_CHECKING:
    import optax

MERGES = ("age_weighted", "average", "none")
ORDERS = ("merge_update", "update_merge")
EXCHANGES = {"push": "nodes", "pull": "links", "push_pull": "edges"}  # whose clocks each has


class GossipLearningState(NamedTuple):
    params: PyTree  # [N, ...] x
    age: Array  # uint32 [N] t, updates behind x on the longest way to it; with parts [N, S], of each
    optimizer_state: PyTree
    degree: Array | tuple[()] = ()  # uint32 [N] neighbours, where they count
    tokens: Tokens | tuple[()] = ()
    drawn: Array | tuple[()] = ()  # uint32 [N, w] which part is sent, where parts are


class AgedModel(NamedTuple):
    """What is sent: a model and its age.  The age is an integer, which no channel touches."""

    params: PyTree  # [n, ...]
    age: Array  # uint32 [n]
    degree: Array | tuple[()] = ()  # uint32 [n] of the sender, where it counts


def gossip_learning(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    merge: str = "age_weighted",
    order: str = "merge_update",
    num_local_steps: int = 1,
    exchange: str = "push",
    pass_through: bool = False,
    tokens: TokenAccount | None = None,
    parts: ModelParts | None = None,
) -> EventAlgorithm:
    """Gossip: now and then a node sends its model to a neighbour drawn at random, which makes a new one with it.

        j receives (x, t):   x_j, t_j <- update(merge((x, t), (x_j, t_j)))            order "merge_update" (MU)
                             x_j, t_j <- merge(update(x, t), update(x_j, t_j))        order "update_merge" (UM)
        merge:               x_j + a (x - x_j), max(t, t_j),   a = t / (t + t_j)      "age_weighted" (1/2 if both are new)
                                                               a = 1/2                "average"
                             x, t                                                     "none": random walks (RW)
        update:              num_local_steps optimiser steps on j's data, t + num_local_steps

    `exchange`: once a second a node draws a neighbour, and sends to it ("push"), is sent to by it ("pull"), or both at once
    ("push_pull", each the model it had).  Clocks are those of nodes, of links j -> i at rate 1 / degree_i, and of pairs at
    rate 1 / degree_i + 1 / degree_j; requests are free.

    With `pass_through` j makes a new model with probability min(1, degree_i / degree_j) of what i sent, and else takes x, t
    as they are: models then walk as often to nodes of few neighbours as to those of many.

    With `tokens` (`token_account`) nodes send when their account says so, at one of its slots a period, which is a second:
    answers to what they heard go out soon, and yet messages stay bounded.

    With `parts` (`model_partition`, `model_sample`) a message holds a part of the model, which is merged with the same part
    of j's; the rest of x_j stays.  Parts of a partition have an age each: what counts is how much was learned behind that
    part, and an update adds to the ages of all.

    Without a gradient clock: nodes train when a model comes.  Staleness is how many updates the received model has less
    than the receiver's, max(t_j - t, 0), before either is trained.  Models that take time on their way are all merged when
    they come, also those that others overtook.

    Args:
      problem: what the nodes learn.
      optimizer: each node's own, its state stays at the node; floats may be traced.
      merge: "age_weighted", "average" or "none"; structural.
      order: "merge_update", or "update_merge", with two updates a message; structural.
      num_local_steps: optimiser steps an update, structural.
      exchange: "push", "pull" or "push_pull"; structural.
      pass_through: see above; structural.
      tokens: of "push"; None: a message an event of the clock.
      parts: None: all of it; of "merge_update", merged in some way, without `pass_through`.

    Departure: both models of a push-pull are those before it (gossipy replies with the updated one).  A node merges with its
      own model, as in the papers of 2019 and 2021; in that of 2013 with the last one that it received.  Their rates fall
      as 1 / t; here they are the optimiser's, whose schedules count a node's own steps.
    Cost: a message of D numbers and an age of 32 bits (with `pass_through` a degree of 32 too; with `parts` see there), and
      num_local_steps gradients (twice as many for UM).
    Source: Ormandi, Hegedus, Jelasity, Gossip learning with linear models on fully distributed data, Concurrency and
      Computation 2013, Algorithms 1 and 2; Hegedus, Danner, Jelasity, Gossip learning as a decentralized alternative to
      federated learning, DAIS 2019; the same, Decentralized learning works, Journal of Parallel and Distributed
      Computing 2021 (parts); Giaretta, Girdzijauskas, Gossip learning: off the beaten path, IEEE Big Data 2019
      (pass-through).
    """
    where = "gossip_learning"
    checks.one_of(where, "merge", merge, MERGES)
    checks.one_of(where, "order", order, ORDERS)
    if merge == "none" and order != "merge_update":
        checks.fail(where, "order", '"merge_update" where nothing is merged', repr(order), "Drop it.")
    checks.one_of(where, "exchange", exchange, tuple(EXCHANGES))
    checks.flag(where, "pass_through", pass_through)
    if pass_through and merge == "none":
        checks.fail(where, "pass_through", "False where nothing is merged", True, "Drop it.")
    if tokens is not None:
        checks.instance(where, "tokens", tokens, TokenAccount, 'Use dlsim.algorithms.token_account("simple").')
        if exchange != "push":
            checks.fail(where, "exchange", '"push" with tokens', repr(exchange), "Drop it.")
    if parts is not None:
        fix = "Use dlsim.algorithms.model_partition(10), or model_sample(0.1)."
        checks.instance(where, "parts", parts, ModelParts, fix)
        if merge == "none" or order != "merge_update" or pass_through:
            got = f"merge={merge!r}, order={order!r}, pass_through={pass_through}"
            checks.fail(where, "parts", "None where whole models move", got, 'Merge, by "merge_update".')
    local = local_events(problem, optimizer, num_local_steps, where=where)
    updates = jnp.uint32(local.num_steps)

    def init(key: Array, params: PyTree, network: Network) -> GossipLearningState:
        del key
        num = network.num_nodes
        degree = jnp.asarray(_degrees(network), jnp.uint32) if pass_through else ()
        accounts = () if tokens is None else opened(tokens, num)
        age: Array = jnp.zeros(num, jnp.uint32)
        drawn: Array | tuple[()] = ()
        if parts is not None:
            age, drawn = (jnp.zeros((num, size), jnp.uint32) for size in (parts.num_ages, parts.width))
        return GossipLearningState(params, age, local.init(params), degree, accounts, drawn)

    def set_clocks(network: Network, when: clocks.Timing) -> clocks.Timing:
        if when.communication is not None or (exchange == "push" and tokens is None):
            return when
        if tokens is not None:
            rates: Any = float(tokens.slots)
        elif exchange == "push_pull":
            rates = clocks.neighbor_rates(network, 1.0)
        else:
            rates = 1 / _degrees(network)[clocks.clock_edges(network, "links")[1]]
        return when._replace(communication=clocks.poisson(rates))

    def before_message(keys: Array, rows: GossipLearningState, node_ids: Array) -> tuple[GossipLearningState, Info]:
        del node_ids
        info: Info = {}
        if parts is not None:
            rows = rows._replace(drawn=parts.draw(fold_in(keys, 2)))
        if tokens is not None:
            assert isinstance(rows.tokens, Tokens)
            accounts, info["sends"] = at_slot(tokens, keys, rows.tokens)
            rows = rows._replace(tokens=accounts)
        return rows, info

    def message(rows: GossipLearningState) -> AgedModel | AgedPart:
        if parts is not None:
            assert not isinstance(rows.drawn, tuple)
            return part_of(parts, rows.params, rows.age, rows.drawn)
        return AgedModel(rows.params, rows.age, rows.degree)

    def merged(heard: AgedModel, own: AgedModel) -> AgedModel:
        if merge == "none":
            return AgedModel(heard.params, heard.age)
        if merge == "average":
            share = jnp.full(own.age.shape, 0.5, jnp.float32)
        else:
            theirs, total = heard.age.astype(jnp.float32), (heard.age + own.age).astype(jnp.float32)
            share = jnp.where(total > 0, theirs / jnp.maximum(total, 1), 0.5)
        moved = trees.add(own.params, trees.scale(share, trees.subtract(heard.params, own.params)))
        return AgedModel(moved, jnp.maximum(heard.age, own.age))

    def updated(
        keys: Array, model: AgedModel, optimizer_state: PyTree, node_ids: Array
    ) -> tuple[AgedModel, PyTree, Info]:
        params, optimizer_state, info = local.run(keys, model.params, optimizer_state, node_ids)
        return AgedModel(params, model.age + updates), optimizer_state, info

    def on_part(
        keys: Array, rows: GossipLearningState, heard: AgedPart, node_ids: Array
    ) -> tuple[GossipLearningState, Info]:
        assert parts is not None
        own = part_of(parts, rows.params, rows.age, heard.drawn)
        both = merged(AgedModel(heard.values, heard.age), AgedModel(own.values, own.age))
        model = AgedModel(*with_part(parts, rows.params, rows.age, AgedPart(both.params, both.age, heard.drawn)))
        new, optimizer_state, info = updated(keys, model, rows.optimizer_state, node_ids)
        accounts = answered(keys, rows, own.age, heard.age)
        state = rows._replace(params=new.params, age=new.age, optimizer_state=optimizer_state, tokens=accounts)
        return state, {**info, "staleness": _staleness(own.age, heard.age)}

    def answered(keys: Array, rows: GossipLearningState, own_age: Array, age: Array) -> Tokens | tuple[()]:
        if tokens is None:
            return ()
        assert isinstance(rows.tokens, Tokens)
        return at_arrival(tokens, fold_in(keys, 3), rows.tokens, own_age, age)

    def on_message(
        keys: Array, rows: GossipLearningState, heard: AgedModel, node_ids: Array
    ) -> tuple[GossipLearningState, Info]:
        own, optimizer_state = AgedModel(rows.params, rows.age), rows.optimizer_state
        if order == "merge_update":
            new, optimizer_state, info = updated(keys, merged(heard, own), optimizer_state, node_ids)
        else:
            others, _, extra = updated(_other(keys), heard, optimizer_state, node_ids)
            own, optimizer_state, info = updated(keys, own, optimizer_state, node_ids)
            new = merged(others, own)
            info = {"loss": info["loss"], "num_gradients": info["num_gradients"] + extra["num_gradients"]}
        if pass_through:
            assert not isinstance(heard.degree, tuple) and not isinstance(rows.degree, tuple)
            share = heard.degree.astype(jnp.float32) / rows.degree.astype(jnp.float32)
            merges = uniform(fold_in(keys, 2)) < share
            took = (AgedModel(heard.params, heard.age), rows.optimizer_state)
            new, optimizer_state = trees.select(merges, (new, optimizer_state), took)
            info = {"loss": info["loss"], "num_gradients": jnp.where(merges, info["num_gradients"], 0)}
        accounts = answered(keys, rows, rows.age, heard.age)
        state = GossipLearningState(new.params, new.age, optimizer_state, rows.degree, accounts)
        return state, {**info, "staleness": _staleness(rows.age, heard.age)}

    return EventAlgorithm(
        init=init,
        on_message=on_message if parts is None else on_part,
        before_message=None if tokens is None and parts is None else before_message,
        message=message,
        communication=EXCHANGES[exchange],
        clocks=set_clocks,
        may_be_silent=tokens is not None,
        hear="all",  # every model is on a way of its own
        requires=frozenset({"connected"}),
        source="Ormandi et al., Concurrency and Computation 2013; Hegedus et al., DAIS 2019",
    )


def _staleness(own_age: Array, age: Array) -> Array:
    """How many updates what was heard has less than one's own, uint32 `[n]`."""
    return jnp.where(own_age > age, own_age - age, 0).astype(jnp.uint32)


def _other(keys: Array) -> Any:
    """Keys of a second draw at the same events."""
    return fold_in(keys, 1)


def _degrees(network: Network) -> np.ndarray:
    """How many neighbours send to each node, int64 `[N]`."""
    if network.is_implicit:
        return np.full(network.num_nodes, network.num_nodes - 1)
    return np.bincount(np.asarray(host_graph(network).receivers), minlength=network.num_nodes)
