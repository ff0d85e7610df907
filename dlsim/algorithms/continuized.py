"""The continuized acceleration: a link's event is a coordinate step of the dual, with a momentum that flows in between."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, clocks, trees
from dlsim.algorithms.convexity import convexity_of
from dlsim.algorithms.edge_rates import agreement, check_links, check_rates, meeting_clocks
from dlsim.algorithms.estimators import full_count
from dlsim.algorithms.local import by_row
from dlsim.algorithms.msda import conjugate_of
from dlsim.core import Array, EventAlgorithm, Info, Problem, PyTree
from dlsim.networks.network import Network


class ContinuizedState(NamedTuple):
    dual: PyTree  # [N, ...] y
    momentum: PyTree  # [N, ...] z
    node_ids: Array  # [N] whose conjugate it is
    mixing: Array  # [N] eta of the network's rates, the same for all
    chi_ratio: Array  # [N] chi_1 / chi_2, likewise


@checks.typed
def continuized(
    problem: Problem, strong_convexity: Any = None, smoothness: Any = None, *, rates: Any = None
) -> EventAlgorithm:
    """Accelerated randomised coordinate steps of the dual, for mu-strongly convex, L-smooth f_i.

        always:                     dy_i = eta (z_i - y_i) dt,   dz_i = eta (y_i - z_i) dt
        communication event (i,j):  G = theta_i - theta_j,   theta_i = argmin f_i(t) - <y_i, t>
                                    y_i <- y_i - mu / 2 G,   z_i <- z_i - sqrt(mu L chi_1 / chi_2) / 2 G,   and so j with -G

    with eta = sqrt(mu / L) / sqrt(2 chi_1 chi_2), chi_1 and chi_2 those of the links' rates (see `dadao_rates`).  Messages
    and gradients are coupled: an event is one of both.  The duals of all nodes sum to zero at equal times.

    Args:
      problem: what the nodes learn, with gradients of conjugates in closed form (`quadratic`, `least_squares`).
      strong_convexity: mu > 0 of every f_i; None: the problem's own, where it knows; may be traced.
      smoothness: L >= mu of every f_i; likewise.
      rates: meetings a second, one number or one a link in the order of `dlsim.clocks.clock_edges`; default: equal, and N / 2
        together, so that a node takes part in one a second on average.

    Departure: the paper's step of y is smaller on links of less than the largest resistance over rate, in proportion; mu / 2
      is the largest with which the dual descends.
    Assumes: messages that arrive at both ends or at neither, and unchanged.
    Cost: an event is two gradients of conjugates (counted as full gradients) and two messages of D numbers.
    Source: Even, Berthier, Bach, Flammarion, Gaillard, Hendrikx, Massoulie, Taylor, Continuized accelerations of
      deterministic and stochastic gradient descents, and of gossip algorithms, NeurIPS 2021.
    """
    where = "continuized"
    mu, smooth = convexity_of(where, problem, strong_convexity, smoothness)
    conjugate = conjugate_of(where, problem)
    if rates is not None:
        check_rates(where, "rates", rates)
    # Row by row: events may be more than the problem has nodes, of which some are none.
    gradient_of_conjugate = jax.vmap(lambda y, node: jax.tree.map(_only, conjugate(_alone(y), node[None])))
    objective = by_row(problem.full_gradient)

    def rates_of(network: Network) -> np.ndarray:
        first, _ = check_links(where, network)
        equal = network.num_nodes / 2 / max(len(first), 1)
        return np.broadcast_to(check_rates(where, "rates", equal if rates is None else rates, len(first)), first.shape)

    def init(key: Array, params: PyTree, network: Network) -> ContinuizedState:
        del key
        chi_1, chi_2 = agreement(where, network, rates_of(network))
        zero = trees.zeros_like(params)
        eta = jnp.sqrt(jnp.asarray(mu / smooth, float)) / np.sqrt(2 * chi_1 * chi_2)
        num = network.num_nodes
        return ContinuizedState(
            zero, zero, network.node_ids, jnp.full(num, eta), jnp.full(num, chi_1 / chi_2, eta.dtype)
        )

    def primal(rows: ContinuizedState) -> PyTree:
        return gradient_of_conjugate(rows.dual, rows.node_ids)

    def on_message(
        keys: Array, rows: ContinuizedState, heard: PyTree, node_ids: Array
    ) -> tuple[ContinuizedState, Info]:
        own = primal(rows)
        apart = trees.subtract(heard, own)
        fast = 0.5 * jnp.sqrt(mu * smooth * rows.chi_ratio)
        new = rows._replace(
            dual=jax.tree.map(lambda y, a: y + jnp.asarray(mu / 2, y.dtype) * a, rows.dual, apart),
            momentum=trees.add(rows.momentum, trees.scale(fast, apart)),
        )
        # Of the keys none is used: the objective is that of all of a node's data.
        _, losses = objective(keys, own, node_ids)
        staleness = jnp.zeros(node_ids.shape, jnp.uint32)
        return new, {"loss": losses, "num_gradients": full_count(problem, node_ids), "staleness": staleness}

    def flow(rows: ContinuizedState, seconds: Array) -> ContinuizedState:
        share = -0.5 * jnp.expm1(-2 * rows.mixing * seconds)
        gap = trees.scale(share, trees.subtract(rows.momentum, rows.dual))
        return rows._replace(dual=trees.add(rows.dual, gap), momentum=trees.subtract(rows.momentum, gap))

    def set_clocks(network: Network, when: clocks.Timing) -> clocks.Timing:
        return meeting_clocks(where, when, rates_of(network))

    return EventAlgorithm(
        init=init,
        on_message=on_message,
        message=primal,
        flow=flow,
        params=primal,
        clocks=set_clocks,
        requires=frozenset({"undirected", "connected", "prompt", "dual_start"}),
        source="Even et al., NeurIPS 2021",
    )


def _alone(row: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[None], row)


def _only(leaf: Array) -> Array:
    return leaf[0]
