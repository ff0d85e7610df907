"""A2CiD2: asynchronous gossip SGD with a momentum that mixes all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, clocks, trees
from dlsim.algorithms.edge_rates import agreement, check_links, check_rates
from dlsim.algorithms.local import local_events
from dlsim.algorithms.randomized_gossip import towards
from dlsim.core import Array, EventAlgorithm, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class A2CiD2Constants(NamedTuple):
    """What A2CiD2 is set by; `a2cid2_constants` computes it.  Source: Nabli, Belilovsky, Oyallon, NeurIPS 2023."""

    mixing: Any  # eta, at least 0, a second: how fast a model and its momentum mix
    step_size: Any = 0.5  # alpha, of the model towards what is heard
    momentum_step_size: Any = 0.5  # alpha~, of the momentum


class A2CiD2State(NamedTuple):
    params: PyTree  # [N, ...] x
    momentum: PyTree  # [N, ...] x~
    optimizer_state: PyTree


@checks.typed
def a2cid2(problem: Problem, optimizer: optax.GradientTransformation, constants: A2CiD2Constants) -> EventAlgorithm:
    """Asynchronous gossip SGD, accelerated by a continuous local momentum.

        always:                     dx_i = eta (x~_i - x_i) dt,   dx~_i = eta (x_i - x~_i) dt
        gradient event at i:        x_i <- x_i + u_i,             x~_i <- x~_i + u_i
        communication event (i,j):  x_i <- x_i - alpha (x_i - x_j),   x~_i <- x~_i - alpha~ (x_i - x_j),  and so j

    u_i is the optimiser's update for the gradient at x_i.  Between its events a node's mean (x_i + x~_i) / 2 stays and
    the difference x_i - x~_i shrinks by exp(-2 eta t): applied when the next event comes, for the time since the last.
    With the constants of the paper averaging takes of order sqrt(chi_1 chi_2) seconds in place of chi_1.  Without mixing
    (eta = 0) x is that of `ad_psgd` with `read="now"`.

    Args:
      problem: what the nodes learn.
      optimizer: each node's own; SGD in the paper; floats may be traced.
      constants: eta, alpha, alpha~, e.g. `a2cid2_constants(network)`; may be traced.

    Departure: all randomness is that of the clocks; the implementation of the paper's authors, in which a node waits for a
      partner, only comes near its equations.
    Cost: a gradient event is one gradient, a communication event two messages of D numbers.
    Source: Nabli, Belilovsky, Oyallon, A2CiD2: accelerating asynchronous communication in decentralized deep learning,
      NeurIPS 2023, Algorithm 1.
    """
    where = "a2cid2"
    checks.instance(where, "constants", constants, A2CiD2Constants, "Use dlsim.algorithms.a2cid2_constants(network).")
    checks.number(where, "constants.mixing", constants.mixing, 0.0)
    checks.number(where, "constants.step_size", constants.step_size, 0.0, 1.0, open_minimum=True)
    checks.number(where, "constants.momentum_step_size", constants.momentum_step_size, 0.0)
    local = local_events(problem, optimizer, where=where)

    def init(key: Array, params: PyTree, network: Network) -> A2CiD2State:
        del key, network
        return A2CiD2State(params, params, local.init(params))

    def flow(rows: A2CiD2State, seconds: Array) -> A2CiD2State:
        # As shares of the difference, so that nothing moves at eta = 0 or where model and momentum agree.
        share = -0.5 * jnp.expm1(-2 * jnp.asarray(constants.mixing, jnp.float32) * seconds)
        gap = trees.scale(share, trees.subtract(rows.momentum, rows.params))
        return rows._replace(params=trees.add(rows.params, gap), momentum=trees.subtract(rows.momentum, gap))

    def on_gradient(keys: Array, rows: A2CiD2State, node_ids: Array) -> tuple[A2CiD2State, Info]:
        params, optimizer_state, info = local.run(keys, rows.params, rows.optimizer_state, node_ids)
        momentum = trees.add(rows.momentum, trees.subtract(params, rows.params))
        info["staleness"] = jnp.zeros(node_ids.shape, jnp.uint32)
        return A2CiD2State(params, momentum, optimizer_state), info

    def on_message(keys: Array, rows: A2CiD2State, heard: PyTree, node_ids: Array) -> tuple[A2CiD2State, Info]:
        del keys, node_ids

        def follow(momentum: Array, own: Array, other: Array) -> Array:
            return momentum + jnp.asarray(constants.momentum_step_size, own.dtype) * (other - own)

        momentum = jax.tree.map(follow, rows.momentum, rows.params, heard)
        return rows._replace(params=towards(rows.params, heard, constants.step_size), momentum=momentum), {}

    return EventAlgorithm(
        init=init,
        on_gradient=on_gradient,
        on_message=on_message,
        flow=flow,
        requires=frozenset({"undirected", "connected"}),
        source="Nabli et al., NeurIPS 2023",
        lets_relay=True,
    )


@checks.typed
def a2cid2_constants(network: Network, rates: Any = None) -> A2CiD2Constants:
    """The constants that the paper proves its rate for.

        eta = 1 / (2 sqrt(chi_1 chi_2)),   alpha = 1 / 2,   alpha~ = sqrt(chi_1 / chi_2) / 2

    With L the Laplacian whose weights are the rates: chi_1 is the inverse of its smallest positive eigenvalue, and chi_2
    half the largest effective resistance of a link, max (e_i - e_j)^T L^+ (e_i - e_j) / 2.  Never chi_2 > chi_1.

    Args:
      network: undirected and connected.
      rates: communication events a second, a number or one a link in the order of `dlsim.clocks.clock_edges`; default:
        those of `dlsim.clocks.timing`, with which a node takes part in one event a second on average.
    Returns: floats, computed on the host.
    Source: Nabli, Belilovsky, Oyallon, A2CiD2: accelerating asynchronous communication in decentralized deep learning,
      NeurIPS 2023, section 3.
    """
    where = "a2cid2_constants"
    first, _ = check_links(where, network)
    values = check_rates(where, "rates", clocks.neighbor_rates(network, 0.5) if rates is None else rates, len(first))
    chi_1, chi_2 = agreement(where, network, values)
    return A2CiD2Constants(0.5 / float(np.sqrt(chi_1 * chi_2)), 0.5, 0.5 * float(np.sqrt(chi_1 / chi_2)))
