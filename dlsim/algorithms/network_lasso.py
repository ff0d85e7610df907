"""Network Lasso: a model a node, tied along the links by the unsquared distance, so that alike nodes become equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.local_solver import local_solver
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.edge_messages import (
    check_edge_weights,
    edge_weights as weights_by_edge,
    from_receivers,
    heard_edges,
    reverse_edges,
    send_edges,
    sum_at_receivers,
)
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax

NORMS = ("euclidean", "squared")


class NetworkLassoState(NamedTuple):
    params: PyTree  # [N, ...]
    copies: PyTree  # [E, ...] z_ij at the receiver i of the edge j -> i
    duals: PyTree  # [E, ...] u_ij, scaled by 1 / rho, likewise
    memory: PyTree  # [N, ...] of what solves the local problem: a proximal map by iterations, an optimiser; else ()


@checks.typed
def network_lasso(
    problem: Problem,
    coupling: Any,
    *,
    edge_weights: Any = None,
    norm: str = "euclidean",
    penalty: Any = 1.0,
    num_local_steps: int | None = None,
    local_learning_rate: Any = 0.1,
    optimizer: optax.GradientTransformation | None = None,
    use_full_gradient: bool = False,
    weighting: str = "uniform",
) -> Algorithm:
    """Network Lasso by ADMM:  min  sum_i f_i(x_i) + lambda sum_{links (i, j)} a_ij ||x_i - x_j||.

        x_i  <- argmin_x f_i(x) + (rho / 2) sum_{j in N(i)} ||x - z_ij + u_ij||^2
        p_ij <- x_i + u_ij,  told to j
        z_ij <- theta p_ij + (1 - theta) p_ji,   theta = max(1 - lambda a_ij / (rho ||p_ij - p_ji||), 1/2)
        u_ij <- u_ij + x_i - z_ij

    from z_ij = x_i and u_ij = 0.  lambda = 0 is learning alone; from some lambda on all nodes of a component have one model,
    its optimum; in between, linked models become exactly equal (theta = 1/2) or stay apart.  With `norm="squared"` the
    tie is (lambda / 2) a_ij ||x_i - x_j||^2 and theta = (rho + lambda a_ij) / (rho + 2 lambda a_ij): models come closer
    and never fuse.

    Args:
      problem: what the nodes learn; convex for the optimum, which is then reached from any start and for any rho.
      coupling: lambda >= 0, traced.
      edge_weights: a `[N, N]` by node id, symmetric, >= 0, 0 on the diagonal; may be traced; None: 1 a link.  They are apart
        from the mixing weights, which are not used.  Entries without a link count nothing.
      norm: `"euclidean"` or `"squared"`; structural.
      penalty: rho > 0, traced: how fast, and not where to.
      num_local_steps, local_learning_rate, optimizer, use_full_gradient: the first line is exact where the problem has
        its proximal map (`problem.proximal`, `problem.warm_proximal`) and `num_local_steps` is None; else it is K gradient
        steps, as in `decentralized_admm`.
      weighting: `"uniform"`, or `"examples"` (f_i counts n_i / mean(n) times); structural.

    Returns:
      Algorithm whose state holds the parameters of all nodes and z, u at each end of a link, (1 + 2 d) D a node.  Its info
      has `primal_residual`, the root mean square of the numbers in all x_i - z_ij, and `dual_residual`, rho times that of
      the change of z, both `[]`: at the optimum 0.  To stop where both are small, record the larger one and give
      `dlsim.stop_at("residual", at_most=1e-4)`.
    Cost per round: one message of D numbers a neighbour, a different one each; one proximal map (counted as the examples it
      reads), or K gradients.  Every round reads and writes z and u, 2 d D numbers a node, where D-SGD has D: with 4
      neighbours, one gradient of a batch of 8 and a small network it takes 3.8 times D-SGD's time on a CPU (`lt_admm`,
      with one variable a link, 1.8 times), on the standard workload (100 nodes) with one gradient 2.4 to 2.9 times.
    Assumes: undirected network that lists its edges, the same all the time.  It need not be connected: components have
      nothing to do with each other, and a node without links learns alone.  Absent nodes keep their state; over a link
      that is down, or whose message is lost, z and u stay as they were.  u_ij + u_ji = 0 after a round; a loss on one
      way breaks it until the link next works both ways, and moves no fixed point.
    Source: Hallac, Leskovec and Boyd, Network Lasso: clustering and optimization in large graphs, KDD 2015, section 3;
      as Zhu, Qin, Abeysekara, Dia and Grzybowska, Decentralised traffic incident detection via Network Lasso, 2024, use
      it.  Differs: z starts from x_i and not from 0 (the same where models start at 0).
    """
    where = "network_lasso"
    problem = weighted(where, problem, weighting)
    checks.number(where, "coupling", coupling, 0.0)
    checks.number(where, "penalty", penalty, 0.0, open_minimum=True)
    checks.one_of(where, "norm", norm, NORMS)
    matrix = check_edge_weights(where, "edge_weights", edge_weights, problem.num_nodes)
    local = local_solver(where, problem, num_local_steps, local_learning_rate, optimizer, use_full_gradient)

    def init(key: Array, params: PyTree, network: Network) -> NetworkLassoState:
        del key
        if network.is_implicit:
            checks.fail(where, "network", "one that lists its edges", "a large complete graph")
        copies = from_receivers(network, params)
        return NetworkLassoState(params, copies, trees.zeros_like(copies), local.init(params, network))

    def share(network: Network, apart: PyTree) -> Array:
        """theta of every edge `[E]`, for p_ij - p_ji `[E, ...]`."""
        pull = coupling * weights_by_edge(network, matrix)
        if norm == "squared":
            return (penalty + pull) / (penalty + 2 * pull)
        distance = penalty * jnp.sqrt(trees.squared_norm(apart))
        is_apart = distance > 0
        return jnp.where(is_apart, jnp.maximum(1 - pull / jnp.where(is_apart, distance, 1), 0.5), 0.5)

    def step(key: Array, state: NetworkLassoState, network: Network) -> tuple[NetworkLassoState, Network, Info]:
        rho = penalty * network.in_degrees.astype(float)
        wanted = sum_at_receivers(network, trees.subtract(state.copies, state.duals))
        target = jax.tree.map(lambda leaf: (penalty * leaf).astype(leaf.dtype), wanted)
        batches = keys.stream(key, "batch")
        params, memory, loss, count = local.solve(batches, state.params, target, rho, state.memory, network)
        params, memory = trees.select(network.is_present, (params, memory), (state.params, state.memory))
        own = trees.add(from_receivers(network, params), state.duals)  # p_ij at i
        back = reverse_edges(network)
        arrival, network = send_edges(network, key, trees.take(own, back))
        apart = trees.subtract(own, arrival.values)
        duals = trees.scale(1 - share(network, apart), apart)  # u_ij + x_i - z_ij = p_ij - z_ij
        heard = heard_edges(network, arrival)
        copies, duals = trees.select(heard, (trees.subtract(own, duals), duals), (state.copies, state.duals))
        new = NetworkLassoState(params, copies, duals, memory)
        info = {"loss": loss, "num_gradients": count, **_residuals(network, state, new, penalty)}
        return new, network, info

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"undirected", "fixed_topology"}),
        source="Hallac, Leskovec and Boyd, KDD 2015",
    )


def _residuals(network: Network, old: NetworkLassoState, new: NetworkLassoState, penalty: Any) -> Info:
    num_numbers = jnp.maximum(jnp.sum(network.in_degrees), 1) * trees.num_entries(new.params)

    def norm(tree: PyTree) -> Array:
        return jnp.sqrt(jnp.sum(trees.squared_norm(tree)) / num_numbers)

    primal = norm(trees.subtract(from_receivers(network, new.params), new.copies))
    return {"primal_residual": primal, "dual_residual": penalty * norm(trees.subtract(new.copies, old.copies))}
