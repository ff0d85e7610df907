"""SCAFFOLD: control variates against client drift."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.algorithms import server_round
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.optimizers import rate_by_round
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.fields import check_single
from dlsim.networks.network import Network
from dlsim.problems.variables import without_statistics

OPTIONS = ("I", "II")


class ScaffoldState(NamedTuple):
    params: PyTree  # [...] the server's model x
    control_variate: PyTree  # [...] the server's c
    client_control_variates: PyTree  # [N, ...] c_i
    round: Array  # int32 [] rounds so far


def scaffold(
    problem: Problem,
    local_learning_rate: Any,
    *,
    server_learning_rate: Any = 1.0,
    num_local_steps: int | None = None,
    num_local_epochs: int | None = None,
    option: str = "II",
    weighting: str = "uniform",
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
      local_learning_rate: eta_l, a number that may be traced, or a schedule: a function of the round, constant within it.
        In a round in which it is 0 nothing moves, and with option II the c_i stay as well.
      server_learning_rate: eta_g, likewise.
      num_local_steps: K, structural; default 5.
      num_local_epochs: E, in place of K: K_i = E ceil(m_i / B) steps, see `fedavg`; structural.
      option: `"II"` uses the gradients of the local steps again, `"I"` takes one more over all the client's data at x,
        which costs more and is steadier; structural.
      weighting: `"uniform"` as in the paper, or `"examples"` for the mean over all examples as objective: the means over S
        weigh by m_i, and c moves by sum_{i in S} (m_i / m) (c_i+ - c_i), so that it stays sum_i (m_i / m) c_i; structural.

    A client moves its c_i by what went on the air, so that a channel that compresses keeps the invariant.  A client whose
    report is lost does not know: here it keeps its old c_i, as if it had learnt of the loss, so that the invariant holds.
    Cost per round: K gradients (and a pass over the data, option I), and messages of 2 D numbers down and up, per client
      of the cohort; [N, D] state.
    Source: Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, SCAFFOLD: stochastic controlled averaging for federated
      learning, ICML 2020, Algorithm 1.
    """
    import optax

    where = "scaffold"
    local_rate = rate_by_round(where, "local_learning_rate", local_learning_rate)
    server_rate = rate_by_round(where, "server_learning_rate", server_learning_rate)
    checks.one_of(where, "option", option, OPTIONS)
    server_round.check_weighting(where, weighting)
    usual = 5 if num_local_epochs is None else 1
    without_statistics(where, problem)
    local = local_updates(
        problem,
        optax.sgd(local_learning_rate),
        usual if num_local_steps is None else num_local_steps,
        num_local_epochs=num_local_epochs,
        restarts=True,
        where=where,
        argument="local_learning_rate",
    )

    whole = problem.num_nodes if weighting == "uniform" else float(np.sum(problem.num_examples))

    def init(key: Array, params: PyTree, network: Network) -> ScaffoldState:
        del key, network
        model = server_round.first(params)
        return ScaffoldState(model, trees.zeros_like(model), trees.zeros_like(params), jnp.zeros((), jnp.int32))

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
            state.round,
        )
        model, control = report.received
        moved = trees.subtract(report.params, model)
        info = report.info
        if option == "I":
            fresh, info = at_server_model(key, model, info, network)
            change = trees.subtract(fresh, own)
        else:
            ids = network.node_ids if rows is None else network.node_ids[rows]
            change = _progress(control, moved, local_rate(state.round) * local.steps_of(ids))
        check_single("scaffold", network)  # a client's c_i moves by what the server took of it
        arrival, network = server_round.collect(network, key, (moved, change), has_model)
        weights = server_round.aggregation_weights(problem, weighting, network, report.rows, arrival.mask)
        share = jnp.sum(weights) / whole
        mean_moved, mean_change = trees.mean(arrival.values, weights)
        kept = trees.select(arrival.mask, trees.add(own, arrival.values[1]), own)
        new = ScaffoldState(
            params=jax.tree.map(
                lambda x, d: (x + server_rate(state.round) * d).astype(x.dtype), state.params, mean_moved
            ),
            control_variate=jax.tree.map(
                lambda c, d: (c + share * d).astype(c.dtype), state.control_variate, mean_change
            ),
            client_control_variates=kept if rows is None else trees.put(state.client_control_variates, rows, kept),
            round=state.round + 1,
        )
        return new, network, info

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: server_round.as_one(state.params),
        requires=frozenset({"server"}),
        source="Karimireddy et al., ICML 2020",
    )


def _progress(control: PyTree, moved: PyTree, reach: Array) -> PyTree:
    """c_i+ - c_i of option II: minus c, minus the way `[C, ...]` over K eta_l `[C]`; nothing where eta_l is 0."""

    def leaf(c: Array, y: Array) -> Array:
        far = trees.expand(reach, y).astype(y.dtype)
        return jnp.where(far > 0, -c - y / jnp.where(far > 0, far, 1), 0)

    return jax.tree.map(leaf, control, moved)


def invariant_control(state: ScaffoldState) -> PyTree:
    """The server's control variate minus the mean of the clients', `[...]`: zero up to rounding (uniform weights)."""
    return trees.subtract(state.control_variate, trees.mean(state.client_control_variates))
