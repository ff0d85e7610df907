"""AD-PSGD: stochastic gradients and pairwise averaging, each at its own pace."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from dlsim import checks
from dlsim.algorithms.local import local_events
from dlsim.algorithms.randomized_gossip import towards
from dlsim.core import Array, EventAlgorithm, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax

READS = ("start", "now")


class ADPSGDState(NamedTuple):
    params: PyTree  # [N, ...]
    read: PyTree | tuple[()]  # [N, ...] the model that the gradient under way is taken at; () if it is read at the end
    optimizer_state: PyTree
    age: Array  # uint32 [N] averagings since that model was read


def ad_psgd(problem: Problem, optimizer: optax.GradientTransformation, *, read: str = "start") -> EventAlgorithm:
    """Asynchronous decentralised parallel SGD.

        gradient event at i:        x_i <- x_i + u(g_i(x^_i)),  then x^_i <- x_i      u the optimiser's update
        communication event (i,j):  x_i, x_j <- (x_i + x_j) / 2

    A gradient event is the end of a computation: the gradient is that of the model which node i read when the
    computation began, at its last gradient event (x^_i); since then it may have been averaged several times.  How
    often is its staleness.  Where messages take time, x_i <- (x_i + x_j(sent)) / 2 when x_j arrives, and so j.

    Args:
      problem: what the nodes learn.
      optimizer: each node's own; SGD in the paper; floats may be traced.
      read: `"start"`, as in the paper, or `"now"`: gradients of the model as it is when they are applied, without
        staleness and with half the memory; structural.

    Departure: the paper's worker is in one of its two parts at a time when it writes; here both are instants.
    Cost: a gradient event is one gradient, a communication event two messages of D numbers.
    Source: Lian, Zhang, Zhang, Liu, Asynchronous decentralized parallel stochastic gradient descent, ICML 2018,
      Algorithm 1.
    """
    checks.one_of("ad_psgd", "read", read, READS)
    local = local_events(problem, optimizer, where="ad_psgd")
    at_start = read == "start"

    def init(key: Array, params: PyTree, network: Network) -> ADPSGDState:
        del key
        age = jnp.zeros(network.num_nodes, jnp.uint32)
        return ADPSGDState(params, params if at_start else (), local.init(params), age)

    def on_gradient(keys: Array, rows: ADPSGDState, node_ids: Array) -> tuple[ADPSGDState, Info]:
        params, optimizer_state, info = local.run(
            keys,
            rows.read if at_start else rows.params,
            rows.optimizer_state,
            node_ids,
            onto=rows.params if at_start else None,
        )
        age = rows.age if at_start else jnp.zeros_like(rows.age)
        info["staleness"] = age
        return ADPSGDState(params, params if at_start else (), optimizer_state, jnp.zeros_like(age)), info

    def on_message(keys: Array, rows: ADPSGDState, heard: PyTree, node_ids: Array) -> tuple[ADPSGDState, Info]:
        del keys, node_ids
        return rows._replace(params=towards(rows.params, heard, 0.5), age=rows.age + jnp.uint32(1)), {}

    return EventAlgorithm(
        init=init,
        on_gradient=on_gradient,
        on_message=on_message,
        requires=frozenset({"undirected", "connected"}),
        source="Lian et al., ICML 2018",
        lets_relay=True,
    )
