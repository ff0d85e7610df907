"""SCAFFOLD: control variates against client drift."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms import server_round
from dlsim.algorithms.local import local_updates
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

OPTIONS = ("I", "II")


class ScaffoldState(NamedTuple):
    params: PyTree  # [...] the server's model x
    control_variate: PyTree  # [...] the server's c
    client_control_variates: PyTree  # [N, ...] c_i


def scaffold(
    problem: Problem,
    local_learning_rate: Any,
    *,
    server_learning_rate: Any = 1.0,
    num_local_steps: int = 5,
    option: str = "II",
) -> Algorithm:
    """SCAFFOLD: local steps corrected by the difference between the server's and the client's control variates.

        y_i = x;  K times:  y_i <- y_i - eta_l (g_i(y_i) - c_i + c)
        c_i+  = c_i - c + (x - y_i) / (K eta_l)           option="II";   grad f_i(x)           option="I"
        x    <- x + eta_g mean_{i in S} (y_i - x)
        c    <- c + (|S| / N) mean_{i in S} (c_i+ - c_i)
        c_i  <- c_i+

    from c = c_i = 0, S the clients whose report arrived.  c stays the mean of the c_i (`invariant_control`).

    Args:
      problem: what the nodes learn.
      local_learning_rate: eta_l, traced.
      server_learning_rate: eta_g, traced.
      num_local_steps: K, structural.
      option: `"II"` uses the gradients of the local steps again, `"I"` takes one more over all the client's data at x,
        which costs more and is steadier; structural.

    A client moves its c_i by what went on the air, so that a channel that compresses keeps the invariant.  A client whose
    report is lost does not know: here it keeps its old c_i, as if it had learnt of the loss, so that the invariant holds.
    Cost per round: K gradients (and a pass over the data, option I), and messages of 2 D numbers down and up, per client
      of the cohort; [N, D] state.
    Source: Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, SCAFFOLD: stochastic controlled averaging for federated
      learning, ICML 2020, Algorithm 1.
    """
    import optax

    checks.number("scaffold", "local_learning_rate", local_learning_rate, 0.0, open_minimum=True)
    checks.number("scaffold", "server_learning_rate", server_learning_rate, 0.0, open_minimum=True)
    checks.one_of("scaffold", "option", option, OPTIONS)
    local = local_updates(problem, optax.sgd(local_learning_rate), num_local_steps, where="scaffold")
    reach = num_local_steps * local_learning_rate

    def init(key: Array, params: PyTree, network: Network) -> ScaffoldState:
        del key, network
        model = server_round.first(params)
        return ScaffoldState(model, trees.zeros_like(model), trees.zeros_like(params))

    def correct(gradients: PyTree, params: PyTree, offset: PyTree) -> PyTree:
        del params
        return trees.add(gradients, offset)

    def at_server_model(key: Array, model: PyTree, info: Info, network: Network) -> tuple[PyTree, Info]:
        """Gradients over all data of each of the cohort, `[C, ...]`, and what they cost beside the local steps."""
        ids = network.node_ids if network.cohort is None else network.node_ids[network.cohort]
        gradients, _ = problem.full_gradient(keys.stream(key, "full"), model, ids)
        passes = jnp.asarray(problem.num_examples, jnp.uint32)[ids]
        count = info["num_gradients"]
        return gradients, {**info, "num_gradients": jnp.where(count > 0, count + passes, count)}

    def step(key: Array, state: ScaffoldState, network: Network) -> tuple[ScaffoldState, Network, Info]:
        rows = network.cohort
        own = state.client_control_variates if rows is None else trees.take(state.client_control_variates, rows)
        report, has_model, network = server_round.broadcast_and_train(
            network,
            key,
            (state.params, state.control_variate),
            local,
            correct,
            lambda received: trees.subtract(received[1], own),
        )
        model, control = report.received
        moved = trees.subtract(report.params, model)
        info = report.info
        if option == "I":
            fresh, info = at_server_model(key, model, info, network)
            change = trees.subtract(fresh, own)
        else:
            change = jax.tree.map(lambda c, y: -c - y / reach, control, moved)
        arrival, network = server_round.collect(network, key, (moved, change), has_model)
        weights = arrival.mask.astype(float)
        share = jnp.sum(weights) / problem.num_nodes
        mean_moved, mean_change = trees.mean(arrival.values, weights)
        kept = trees.select(arrival.mask, trees.add(own, arrival.values[1]), own)
        new = ScaffoldState(
            params=jax.tree.map(lambda x, d: x + server_learning_rate * d, state.params, mean_moved),
            control_variate=jax.tree.map(lambda c, d: c + share * d, state.control_variate, mean_change),
            client_control_variates=kept if rows is None else trees.put(state.client_control_variates, rows, kept),
        )
        return new, network, info

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: server_round.as_one(state.params),
        requires=frozenset({"server"}),
        source="Karimireddy et al., ICML 2020",
    )


def invariant_control(state: ScaffoldState) -> PyTree:
    """The server's control variate minus the mean of the clients', `[...]`: zero up to rounding."""
    return trees.subtract(state.control_variate, trees.mean(state.client_control_variates))
