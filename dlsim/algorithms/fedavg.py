"""Federated averaging, with any optimiser at the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.algorithms import server_round
from dlsim.algorithms.local import Objective, local_updates
from dlsim.algorithms.optimizers import server_optimizer as at_server
from dlsim.algorithms.server_round import ServerState
from dlsim.core import Aggregator, Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class Options(NamedTuple):
    """What all forms of FedAvg share, see `fedavg`."""

    num_local_steps: int = 1
    num_local_epochs: int | None = None
    weighting: str = "examples"
    aggregator: Aggregator | None = None
    clip_norm: Any = None


def fedavg(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
    weighting: str = "examples",
    aggregator: Aggregator | None = None,
    clip_norm: Any = None,
) -> Algorithm:
    """FedAvg and its adaptive forms (FedOpt): clients train, the server steps along the mean of their movement.

        x_i   = x, then K local optimiser steps on f_i
        Delta = sum_i p_i (x - x_i)                       over the cohort, p_i proportional to examples, or uniform
        x    <- x + U(Delta)                              U the server's optimiser; SGD at rate 1: x <- sum_i p_i x_i

    FedAvgM is `server_optimizer=optax.sgd(1.0, momentum)`.  FedAdam, FedYogi and FedAdagrad as their paper has them are
    `fedadam`, `fedyogi` and `fedadagrad`; `server_optimizer=optax.adam(...)` differs from them by the bias correction of
    its moments.

    Args:
      problem: what the nodes learn.
      client_optimizer: the clients' optimiser, fresh each round: momentum and moments start anew, but a schedule counts
        rounds and is constant within one, e.g. `optax.sgd(optax.cosine_decay_schedule(0.1, num_rounds))`; floats may be
        traced.
      server_optimizer: receives the pseudo-gradient Delta, and the clients' mean loss as `value`; its state is kept and its
        schedules count rounds in which somebody was heard; default `optax.sgd(1.0)`.
      num_local_steps: K, structural.
      num_local_epochs: E, in place of K: each client goes E times through its own data in batches of the problem's size,
        K_i = E ceil(m_i / B) steps; structural.
      weighting: `"examples"` or `"uniform"`; structural.
      aggregator: a rule of `dlsim.aggregators` in place of the mean of the clients' movements; most of them do not weigh.
      clip_norm: largest norm of a client's movement that the server takes in, larger ones are scaled down to it; above 0,
        may be traced; None: no bound.

    Participation is the network's affair (`participation(cohort_size)`): only the cohort computes and is stored.  A
    client that is absent, or whose message is lost either way, contributes nothing; an empty cohort changes nothing.
    Cost per round: K gradients, one message of D numbers down and one up, per client of the cohort.
    Source: McMahan et al., Communication-efficient learning of deep networks from decentralized data, AISTATS 2017;
      Reddi et al., Adaptive federated optimization, ICLR 2021, Algorithm 1.
    """
    options = Options(num_local_steps, num_local_epochs, weighting, aggregator, clip_norm)
    return _federated(problem, client_optimizer, server_optimizer, options, None, "fedavg")


def _federated(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None,
    options: Options,
    objective: Objective | None,
    where: str,
) -> Algorithm:
    """FedAvg whose clients' gradients pass through `objective`, given the model that was received."""
    import optax

    num_local_steps, num_local_epochs, weighting, aggregator, clip_norm = options
    server_round.check_weighting(where, weighting)
    server_round.check_aggregator(where, aggregator)
    if clip_norm is not None:
        checks.number(where, "clip_norm", clip_norm, 0.0, open_minimum=True)
    server = at_server(where, optax.sgd(1.0) if server_optimizer is None else server_optimizer)
    local = local_updates(
        problem,
        client_optimizer,
        num_local_steps,
        num_local_epochs=num_local_epochs,
        restarts=True,
        where=where,
        argument="client_optimizer",
    )

    def init(key: Array, params: PyTree, network: Network) -> ServerState:
        del key, network
        model = server_round.first(params)
        remembered = () if aggregator is None else aggregator.init(trees.replicate(model, 1))
        return ServerState(model, server.init(model), remembered, jnp.zeros((), jnp.int32))

    def step(key: Array, state: ServerState, network: Network) -> tuple[ServerState, Network, Info]:
        report, has_model, network = server_round.broadcast_and_train(
            network,
            key,
            (state.params,),
            local,
            objective,
            lambda received: () if objective is None else received[0],
            state.round,
        )
        moved = trees.subtract(report.received[0], report.params)
        arrival, network = server_round.collect(network, key, moved, has_model)
        weights = server_round.aggregation_weights(problem, weighting, network, report.rows, arrival.mask)
        arrival = arrival._replace(values=server_round.clipped(arrival.values, clip_norm))
        remembered, pseudo_gradient = server_round.aggregated(
            aggregator, state.aggregator_state, key, arrival, weights, report.rows
        )
        loss = trees.mean(jnp.where(arrival.mask, report.info["loss"], 0), weights)
        moving = state._replace(aggregator_state=remembered)
        new = server_round.server_update(server, key, moving, pseudo_gradient, loss)
        new = jax.tree.map(lambda a, b: jnp.where(jnp.any(arrival.mask), a, b), new, state)
        return new._replace(round=state.round + 1), network, report.info

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: server_round.as_one(state.params),
        requires=frozenset({"server"}),
        source="McMahan et al., AISTATS 2017; Reddi et al., ICLR 2021",
        aggregator=aggregator,
    )
