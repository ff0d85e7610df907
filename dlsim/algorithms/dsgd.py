"""Decentralised stochastic gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.aggregators.linear import aggregate, initial_state
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.weighting import weighted
from dlsim.core import Aggregator, Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax

ORDERS = ("adapt_then_combine", "combine_then_adapt")


class DSGDState(NamedTuple):
    params: PyTree  # [N, ...]
    optimizer_state: PyTree  # [N, ...]; where it starts anew each round, int32 []: the rounds so far
    aggregator_state: PyTree


def dsgd(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
    num_gossip_steps: int = 1,
    fresh_optimizer: bool = False,
    order: str = "adapt_then_combine",
    aggregator: Aggregator | None = None,
    weighting: str = "uniform",
) -> Algorithm:
    """Decentralised SGD: local gradient steps, then one exchange with the neighbours.

    With `optimizer=optax.sgd(eta)`, one local step and mixing weights W,

        x_i <- sum_j W_ij (x_j - eta g_j(x_j))        order="adapt_then_combine"
        x_i <- sum_j W_ij x_j - eta g_i(x_i)          order="combine_then_adapt"

    where g_i is node i's stochastic gradient.  Papers call both D-PSGD or DGD; on the complete graph only the first is
    centralised SGD.  With K = `num_local_steps` > 1 the gradient step becomes K optimiser steps from x_i (local SGD
    over a graph); combine-then-adapt adds their displacement to the mixed parameters.  With Q = `num_gossip_steps` > 1 a
    round mixes Q times, with W^Q in place of W, each time with messages of its own.

    Under the scenario `dlsim.networks.epidemic(s)` this is Epidemic Learning.  With K > 1 it is DFedAvg, with a momentum
    that starts anew each round DFedAvgM; on `dlsim.problems.sharpness_aware(problem, rho)` it is DFedSAM, and with Q > 1
    DFedSAM-MGS.

    Args:
      problem: what the nodes learn.
      optimizer: the local optimiser, one state a node; its floats may be traced.
      num_local_steps: K, structural.
      num_local_epochs: E, in place of K: a node goes E times through its own data, see `local_updates`; structural.
      num_gossip_steps: Q >= 1, structural.
      fresh_optimizer: the optimiser's state (momentum, moments) starts anew each round, and its schedules count
        rounds; else it is kept, and they count local steps.  Structural.
      order: `"adapt_then_combine"` or `"combine_then_adapt"`.
      aggregator: a rule for what a node hears, in place of the linear mix (`dlsim.aggregators`); adapt-then-combine.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters and optimiser states of all nodes.
    Cost per round: K gradients and Q messages of D numbers a neighbour, per node.
    Assumes: connected network with row-stochastic weights; the mean is preserved where they are doubly stochastic.
    Source: Lian et al., Can decentralized algorithms outperform centralized algorithms? NeurIPS 2017
      (combine-then-adapt); Chen and Sayed, Diffusion adaptation strategies, IEEE TSP 2012 (adapt-then-combine);
      Sun, Li and Wang, Decentralized federated averaging, IEEE TPAMI 2023 (DFedAvg, DFedAvgM); Shi et al., Improving the
      model consistency of decentralized federated learning, ICML 2023 (DFedSAM, DFedSAM-MGS).
    """
    problem = weighted("dsgd", problem, weighting)
    checks.one_of("dsgd", "order", order, ORDERS)
    if aggregator is not None:
        checks.instance("dsgd", "aggregator", aggregator, Aggregator, "Pass e.g. dlsim.aggregators.trimmed_mean(1).")
    if aggregator is not None and order != "adapt_then_combine":
        checks.fail("dsgd", "order", "'adapt_then_combine' where an aggregator is given", repr(order))
    if type(num_gossip_steps) is int and num_gossip_steps == 0:
        fix = "Nodes that never talk are dlsim.algorithms.isolated_training."
        checks.fail("dsgd", "num_gossip_steps", "an integer >= 1", num_gossip_steps, fix)
    checks.integer("dsgd", "num_gossip_steps", num_gossip_steps, 1)
    is_fresh = checks.flag("dsgd", "fresh_optimizer", fresh_optimizer)
    local = local_updates(
        problem, optimizer, num_local_steps, num_local_epochs=num_local_epochs, where="dsgd", restarts=is_fresh
    )

    def init(key: Array, params: PyTree, network: Network) -> DSGDState:
        del key, network
        optimizer_state = jnp.zeros((), jnp.int32) if is_fresh else local.init(params)
        return DSGDState(params, optimizer_state, initial_state(aggregator, params))

    def step(key: Array, state: DSGDState, network: Network) -> tuple[DSGDState, Network, Info]:
        aggregator_state, base = state.aggregator_state, None
        if order == "combine_then_adapt":
            _, base, network = aggregate(network, key, None, (), state.params, num_steps=num_gossip_steps)
        optimizer_state, round = state.optimizer_state, None
        if is_fresh:
            optimizer_state, round = local.init(state.params), state.optimizer_state
        # With a base the updates, of gradients at the nodes' own models, are added to it instead, block by block.
        params, optimizer_state, info = local.run(
            key, state.params, optimizer_state, network.node_ids, network.trainers, onto=base, round=round
        )
        if is_fresh:
            optimizer_state = state.optimizer_state + 1
        if order == "adapt_then_combine":
            aggregator_state, params, network = aggregate(
                network, key, aggregator, aggregator_state, params, num_steps=num_gossip_steps
            )
        else:
            params = trees.select(network.is_present, params, state.params)
        return DSGDState(params, optimizer_state, aggregator_state), network, info

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "row_stochastic"}),
        source="Lian et al., NeurIPS 2017; Chen and Sayed, IEEE TSP 2012",
        lets_relay=True,
        aggregator=aggregator,
    )
