"""Decentralised stochastic gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dlsim import checks, keys, trees
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.weighting import weighted
from dlsim.core import Aggregator, Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax

ORDERS = ("adapt_then_combine", "combine_then_adapt")


class DSGDState(NamedTuple):
    params: PyTree  # [N, ...]
    optimizer_state: PyTree  # [N, ...]
    aggregator_state: PyTree


def dsgd(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
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
    over a graph); combine-then-adapt adds their displacement to the mixed parameters.

    Under the scenario `dlsim.networks.epidemic(s)` this is Epidemic Learning.

    Args:
      problem: what the nodes learn.
      optimizer: the local optimiser, one state a node; its floats may be traced.
      num_local_steps: K, structural.
      num_local_epochs: E, in place of K: a node goes E times through its own data, see `local_updates`; structural.
      order: `"adapt_then_combine"` or `"combine_then_adapt"`.
      aggregator: a rule for what a node hears, in place of the linear mix (`dlsim.aggregators`); adapt-then-combine.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters and optimiser states of all nodes.
    Cost per round: K gradients and one message of D numbers a neighbour, per node.
    Assumes: connected network with row-stochastic weights; the mean is preserved where they are doubly stochastic.
    Source: Lian et al., Can decentralized algorithms outperform centralized algorithms? NeurIPS 2017
      (combine-then-adapt); Chen and Sayed, Diffusion adaptation strategies, IEEE TSP 2012 (adapt-then-combine).
    """
    problem = weighted("dsgd", problem, weighting)
    checks.one_of("dsgd", "order", order, ORDERS)
    if aggregator is not None:
        checks.instance("dsgd", "aggregator", aggregator, Aggregator, "Pass e.g. dlsim.aggregators.trimmed_mean(1).")
    if aggregator is not None and order != "adapt_then_combine":
        checks.fail("dsgd", "order", "'adapt_then_combine' where an aggregator is given", repr(order))
    local = local_updates(problem, optimizer, num_local_steps, num_local_epochs=num_local_epochs, where="dsgd")

    def init(key: Array, params: PyTree, network: Network) -> DSGDState:
        del key, network
        aggregator_state = () if aggregator is None else aggregator.init(params)
        return DSGDState(params, local.init(params), aggregator_state)

    def step(key: Array, state: DSGDState, network: Network) -> tuple[DSGDState, Network, Info]:
        aggregator_state = state.aggregator_state
        base = None
        if order == "combine_then_adapt":
            base, network = network.mix(key, state.params)
        # With a base the updates, of gradients at the nodes' own models, are added to it instead, block by block.
        adapted, optimizer_state, info = local.run(
            key, state.params, state.optimizer_state, network.node_ids, network.trainers, onto=base
        )
        if aggregator is not None:
            inbox, network = network.gather(key, adapted)
            aggregator_state, params = aggregator.apply(keys.stream(key, "aggregate"), aggregator_state, adapted, inbox)
            aggregator_state = trees.select(network.is_present, aggregator_state, state.aggregator_state)
        elif order == "adapt_then_combine":
            params, network = network.mix(key, adapted)
        else:
            params = adapted
        params = trees.select(network.is_present, params, state.params)
        return DSGDState(params, optimizer_state, aggregator_state), network, info

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "row_stochastic"}),
        source="Lian et al., NeurIPS 2017; Chen and Sayed, IEEE TSP 2012",
    )
