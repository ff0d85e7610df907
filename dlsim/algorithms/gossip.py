"""Plain gossip averaging, round by round."""

from __future__ import annotations

from typing import NamedTuple

from dlsim import checks
from dlsim.aggregators.linear import aggregate, initial_state
from dlsim.core import Aggregator, Algorithm, Array, Info, PyTree
from dlsim.networks.network import Network


class GossipState(NamedTuple):
    params: PyTree  # [N, ...]
    aggregator_state: PyTree


def gossip(*, aggregator: Aggregator | None = None) -> Algorithm:
    """Every node takes the weighted mean of what it hears and its own:

        x_i <- sum_j W_ij x_j

    so that x after t rounds is W^t x.  With doubly stochastic W the sum is conserved and the distance to the mean falls by
    `dlsim.networks.second_eigenvalue` a round; where only rows sum to one, nodes agree on another average than the mean.
    Nodes compute no gradients: they average what they start with (`dlsim.average`, `dlsim.problems.consensus`).

    Args:
      aggregator: a rule for what a node hears, in place of the weighted mean (`dlsim.aggregators`).

    Cost per round: one message of D numbers a neighbour.
    Assumes: connected network with row-stochastic weights; `push_sum` serves where only columns sum to one.  Absent nodes
      keep what they have.
    Source: DeGroot, Reaching a consensus, JASA 1974; Xiao and Boyd, Fast linear iterations for distributed averaging,
      Systems & Control Letters 2004.
    """
    if aggregator is not None:
        checks.instance("gossip", "aggregator", aggregator, Aggregator, "Pass e.g. dlsim.aggregators.trimmed_mean(1).")

    def init(key: Array, params: PyTree, network: Network) -> GossipState:
        del key, network
        return GossipState(params, initial_state(aggregator, params))

    def step(key: Array, state: GossipState, network: Network) -> tuple[GossipState, Network, Info]:
        aggregator_state, params, network = aggregate(network, key, aggregator, state.aggregator_state, state.params)
        return GossipState(params, aggregator_state), network, {}

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "row_stochastic"}),
        source="DeGroot, JASA 1974; Xiao and Boyd, Systems & Control Letters 2004",
        lets_relay=True,
        aggregator=aggregator,
    )
