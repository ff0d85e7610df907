"""`average`: vectors that are given, a network, and nothing else."""

from __future__ import annotations

from dlsim import checks
from dlsim.algorithms.gossip import gossip
from dlsim.clocks.windows import Timing
from dlsim.core import Algorithm, EventAlgorithm, Process, PyTree, Scenario
from dlsim.learning.learn import learn
from dlsim.networks.network import Network
from dlsim.problems.consensus import consensus


def average(
    values: PyTree,
    network: Network,
    algorithm: Algorithm | EventAlgorithm | None = None,
    scenario: Scenario | None = None,
    *,
    timing: Timing | None = None,
) -> Process:
    """Nodes that average what they hold: the Process of `algorithm` from `values` over `network` under `scenario`.

    It is `learn(dlsim.problems.consensus(values), algorithm, network, scenario, timing=timing)`, so that channels, clocks,
    sweeps and checkpoints are those of any method.  It measures `distance`, the error (1/N) sum_i ||x_i - mean||^2 against
    the mean of `values`, its two parts `consensus_distance` and `distance_of_mean`, and what was sent.

    Args:
      values: what the nodes hold, `[N, ...]` or a tree of such arrays; may be traced.
      network: who hears whom, with what weight.
      algorithm: `dlsim.algorithms.gossip()` (the default), `push_sum()` for directed graphs, `randomized_gossip()` for
        pairs that meet by clocks; or any other method without a server.
      scenario: what happens to nodes and links; default nothing.
      timing: of a method whose nodes act by clocks (`dlsim.clocks.timing`).

    Example:
      run = dlsim.simulate(dlsim.average(values, dlsim.networks.ring(16)), seed=0, num_steps=50)
      run.results.distance
    """
    checks.instance("average", "network", network, Network, "Call average(values, network).")
    if algorithm is None:
        if "row_stochastic" not in network.properties:
            fix = "Pass dlsim.algorithms.push_sum()."
            checks.fail("average", "algorithm", "given where rows of the weights do not sum to one", "None", fix)
        algorithm = gossip()
    else:
        kinds = (Algorithm, EventAlgorithm)
        checks.instance("average", "algorithm", algorithm, kinds, "Pass e.g. dlsim.algorithms.push_sum().")
    problem = consensus(values)
    if problem.num_nodes != network.num_nodes:
        checks.fail("average", "values", f"of the network's {network.num_nodes} nodes", f"{problem.num_nodes} rows")
    return learn(problem, algorithm, network, scenario, timing=timing)
