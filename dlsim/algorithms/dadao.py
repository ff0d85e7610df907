"""DADAO: gradients and pairwise messages at times of their own, both accelerated, on any graph at one rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, clocks, trees
from dlsim.algorithms.convexity import convexity_of
from dlsim.algorithms.edge_rates import (
    SAME,
    check_graphs,
    check_links,
    check_rates,
    dadao_rates,
    meeting_clocks,
    slowest_agreement,
)
from dlsim.algorithms.estimators import batch_count, full_count
from dlsim.algorithms.local import by_row
from dlsim.core import Array, EventAlgorithm, Info, Problem, PyTree
from dlsim.networks.network import Network

ENOUGH = 1 + 1e-6  # of chi_1 chi_2 over 1/2: rounding


class DADAOState(NamedTuple):
    params: PyTree  # [N, ...] x
    momentum: PyTree  # [N, ...] x~
    dual: PyTree  # [N, ...] y
    dual_momentum: PyTree  # [N, ...] y~
    consensus: PyTree  # [N, ...] z, what is learned of the others
    consensus_momentum: PyTree  # [N, ...] z~
    chi_1: Array  # [N] of the network's rates, the same for all; a node's own, as it is part of its step


class _Constants(NamedTuple):
    """The paper's, of mu and L alone; s = sqrt(mu / 2 L)."""

    nu: Any
    share: Any  # s
    step: Any  # gamma
    momentum_step: Any  # gamma~
    dual_step: Any  # delta + delta~


@checks.typed
def dadao(
    problem: Problem,
    strong_convexity: Any = None,
    smoothness: Any = None,
    *,
    rates: Any = "uniform",
    allow_low_rates: bool = False,
    use_full_gradient: bool = False,
    graphs: Sequence[Network] | None = None,
) -> EventAlgorithm:
    """Decoupled accelerated decentralised asynchronous optimisation of sum_i f_i, f_i mu-strongly convex and L-smooth.

    With nu = mu / 2 and s = sqrt(nu / L), every node follows a linear flow between its events:

        dx/dt = s/8 (x~ - x)      dy/dt = s/4 (y~ - y)                          dz/dt = s/4 (z~ - z)
        dx~/dt = s/8 (x - x~)     dy~/dt = -(nu x~ + y + z) / (2 s)             dz~/dt = s/8 (z - z~)

        gradient event at i:        g = grad f_i(x_i) - nu x_i - y~_i
                                    x_i <- x_i - g / (4 L),   x~_i <- x~_i - g / (4 sqrt(nu L)),   y~_i <- y~_i + (1 + s/4) g
        communication event (i,j):  m = (y_i + z_i) - (y_j + z_j)
                                    z_i <- z_i - m / 2,   z~_i <- z~_i - (2 chi_1 / s) m,   and so j with -m

    The flow is applied when a node's next event comes, in closed form (`flow`), for the time since its last.  If the
    links' rates are such that chi_1 chi_2 <= 1/2 (`dadao_rates`; these are the clocks where `timing` gives none) the
    expected squared error falls by exp(-c sqrt(mu / L) t) on every graph, with one gradient a second and node.

    The sums of z_i and of z~_i over nodes are zero at equal times, whatever happens at gradient events.  At the optimum
    x* every event and the flow leave x = x~ = x*, y = y~ = grad f_i(x*) - nu x*, z = z~ = -nu x* - y as they are.

    Args:
      problem: what the nodes learn.
      strong_convexity: mu > 0 of every f_i; None: the problem's own, where it knows; may be traced.
      smoothness: L >= mu of every f_i; likewise.
      rates: meetings a second: "uniform", or "optimal" for the fewest (both from `dadao_rates`), or numbers, one or one a
        link in the order of `dlsim.clocks.clock_edges`; fewer than the method needs are refused.
      allow_low_rates: take them all the same, to see what becomes of it: the method may diverge; structural.
      use_full_gradient: gradients over all of a node's data, as the paper states the method; structural.
      graphs: where the network changes, the graphs that it shows: each connected, of the same nodes and of links of the
        network, which a scenario takes away for a while (`network.replace(is_linked=...)`).  Meetings over a link that is
        down do not take place.  chi_1 and chi_2 are then the largest among them, and "optimal" rates are refused.  None:
        all links all the time; with a scenario that takes some away the rates would be too low, without a word.

    One node alone has no messages and follows the flow and its gradients: accelerated gradient descent.

    Departure: stochastic gradients unless `use_full_gradient` (the error then has a floor).  All vectors but x start at 0.
    Assumes: messages that arrive at both ends or at neither, and unchanged.  One that is lost one way, or rounded by a
      channel, leaves the sums of z off zero for good, and the limit is off by as much.
    Cost: a gradient event is one gradient, a communication event two messages of D numbers, and every event reads and
      writes the six vectors of its nodes.  Events that share a node come one after the other, in waves: on the standard
      workload (100 nodes, a random 4-regular graph, a CPU) a second, of 100 gradients and 194 meetings in 34 waves, takes
      20 to 23 times a round of D-SGD and 15 times a second of `gossip_learning`, of 98 gradients and 98 messages.
    Source: Nabli, Oyallon, DADAO: decoupled accelerated decentralized asynchronous optimization, ICML 2023, Algorithm 1.
    """
    where = "dadao"
    strong_convexity, smoothness = convexity_of(where, problem, strong_convexity, smoothness)
    checks.flag(where, "use_full_gradient", use_full_gradient)
    checks.flag(where, "allow_low_rates", allow_low_rates)
    if isinstance(rates, str):
        checks.one_of(where, "rates", rates, ("uniform", "optimal"))
    else:
        check_rates(where, "rates", rates)
    shown = check_graphs(where, graphs)
    if shown and isinstance(rates, str) and rates != "uniform":
        checks.fail(where, "rates", '"uniform" or numbers where graphs are given', repr(rates))
    gradient = by_row(problem.full_gradient if use_full_gradient else problem.gradient)
    counted = full_count if use_full_gradient else batch_count

    def constants(dtype: Any = float) -> _Constants:
        mu, smooth = jnp.asarray(strong_convexity, dtype), jnp.asarray(smoothness, dtype)
        nu = mu / 2
        share = jnp.sqrt(nu / smooth)
        return _Constants(nu, share, 1 / (4 * smooth), 1 / (4 * jnp.sqrt(nu * smooth)), 1 + share / 4)

    def set_clocks(network: Network, when: clocks.Timing) -> clocks.Timing:
        given = when.gradient
        if given is not None and not np.allclose(given.rate, 1.0, rtol=SAME):
            got = f"{np.min(given.rate):g} to {np.max(given.rate):g} a second"
            fix = "Its time is counted in gradients of a node: leave it out, and scale the window."
            checks.fail(where, "timing.gradient", "a clock of one event a second and node", got, fix)
        if network.num_nodes == 1:
            return when
        return meeting_clocks(where, when, _rates_of(network, rates, allow_low_rates, shown))

    def init(key: Array, params: PyTree, network: Network) -> DADAOState:
        del key
        chi_1 = 0.0
        if network.num_nodes > 1:
            chi_1, _ = slowest_agreement(where, network, _rates_of(network, rates, allow_low_rates, shown), shown)
        zero = trees.zeros_like(params)
        return DADAOState(params, zero, zero, zero, zero, zero, jnp.full(network.num_nodes, chi_1, float))

    def on_gradient(keys: Array, rows: DADAOState, node_ids: Array) -> tuple[DADAOState, Info]:
        gradients, losses = gradient(keys, rows.params, node_ids)
        k = constants()
        g = jax.tree.map(lambda g, x, y: g - _as(k.nu, x) * x - y, gradients, rows.params, rows.dual_momentum)
        new = rows._replace(
            params=_moved(rows.params, -k.step, g),
            momentum=_moved(rows.momentum, -k.momentum_step, g),
            dual_momentum=_moved(rows.dual_momentum, k.dual_step, g),
        )
        staleness = jnp.zeros(node_ids.shape, jnp.uint32)
        return new, {"loss": losses, "num_gradients": counted(problem, node_ids), "staleness": staleness}

    def message(rows: DADAOState) -> PyTree:
        return trees.add(rows.dual, rows.consensus)

    def on_message(keys: Array, rows: DADAOState, heard: PyTree, node_ids: Array) -> tuple[DADAOState, Info]:
        del keys, node_ids
        apart = trees.subtract(heard, message(rows))  # -m
        fast = trees.scale(2 * rows.chi_1 / constants().share, apart)
        new = rows._replace(
            consensus=_moved(rows.consensus, 0.5, apart), consensus_momentum=trees.add(rows.consensus_momentum, fast)
        )
        return new, {}

    def flow(rows: DADAOState, seconds: Array) -> DADAOState:
        k = _flowing(constants(), seconds.astype(float))
        leaves = zip(*(jax.tree.leaves(part) for part in rows[:6]), strict=True)
        moved = [_flow(jax.tree.map(lambda row, x=x: _as(trees.expand(row, x), x), k), x, *rest) for x, *rest in leaves]
        structure = jax.tree.structure(rows.params)
        parts = [jax.tree.unflatten(structure, part) for part in zip(*moved, strict=True)]
        return rows._replace(**dict(zip(DADAOState._fields, parts, strict=False)))

    return EventAlgorithm(
        init=init,
        on_gradient=on_gradient,
        on_message=None if problem.num_nodes == 1 else on_message,
        message=message,
        flow=flow,
        clocks=set_clocks,
        requires=frozenset({"undirected", "connected", "prompt"}),
        source="Nabli and Oyallon, ICML 2023",
    )


def _rates_of(network: Network, rates: Any, allow_low_rates: bool, graphs: tuple[Network, ...]) -> np.ndarray:
    """Meetings a second, float64 `[links]`, in the order of the clocks; of links that are up, where they change."""
    if isinstance(rates, str) and not graphs:
        return dadao_rates(network, rates)
    first, _ = check_links("dadao", network)
    if isinstance(rates, str):
        values = np.full(len(first), 1 / len(first))
        chi_1, chi_2 = slowest_agreement("dadao", network, values, graphs)
        return values * np.sqrt(2 * chi_1 * chi_2)
    values = check_rates("dadao", "rates", rates, len(first))
    chi_1, chi_2 = slowest_agreement("dadao", network, values, graphs)
    if chi_1 * chi_2 > ENOUGH / 2 and not allow_low_rates:
        total = np.broadcast_to(values, first.shape).sum()
        factor = float(np.sqrt(2 * chi_1 * chi_2))
        fix = f"Multiply them by {factor:.4g}, or use dadao_rates(network)."
        rule = f"such that chi_1 chi_2 <= 1/2, {total * factor:.6g} meetings a second in these proportions"
        checks.fail("dadao", "rates", rule, f"{chi_1 * chi_2:.4g} of {total:.6g} a second", fix)
    return np.broadcast_to(values, first.shape)


class _Flow(NamedTuple):
    """What the flow of C rows over their times is made of, each `[C]`."""

    nu: Array
    fade_x: Array  # exp(-a t) - 1, a = s/4
    fade_z: Array  # exp(-b t) - 1, b = 3 s/8
    turn: Array  # exp(-s t/8) cos(w t) - 1
    swing: Array  # exp(-s t/8) sin(w t) / w
    alpha: Array  # s/4
    theta: Array  # 1/(2 s)
    pull: Array  # theta / (theta + b/2)


def _flowing(k: _Constants, t: Array) -> _Flow:
    # All as changes from t = 0, so that what is at rest stays at rest in few digits too.
    frequency = jnp.sqrt(1 / 8 - k.share**2 / 64)
    slow = jnp.expm1(-k.share / 8 * t)
    theta = 1 / (2 * k.share)
    return _Flow(
        nu=jnp.full_like(t, k.nu),
        fade_x=jnp.expm1(-k.share / 4 * t),
        fade_z=jnp.expm1(-3 * k.share / 8 * t),
        turn=slow - 2 * (1 + slow) * jnp.square(jnp.sin(frequency * t / 2)),
        swing=(1 + slow) * jnp.sin(frequency * t) / frequency,
        alpha=jnp.full_like(t, k.share / 4),
        theta=jnp.full_like(t, theta),
        pull=jnp.full_like(t, theta / (theta + 3 * k.share / 16)),
    )


def _flow(
    k: _Flow, x: Array, x_fast: Array, y: Array, y_fast: Array, z: Array, z_fast: Array
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The six vectors of one leaf after the flow: x and z relax, y and y~ turn about what x and z draw them to."""
    gap_x, gap_z = (x - x_fast) / 2, (z - z_fast) / 3
    rest = k.nu * (x + x_fast) / 2 + (z + 2 * z_fast) / 3  # -rest is where y and y~ come to
    by_x, by_z = k.nu * gap_x, -2 * k.pull * gap_z
    off, off_fast = y + rest - by_x - by_z, y_fast + rest + by_z / 2
    return (
        x + k.fade_x * gap_x,
        x_fast - k.fade_x * gap_x,
        y + k.fade_x * by_x + k.fade_z * by_z + k.turn * off + k.swing * k.alpha * (off_fast - off / 2),
        y_fast - k.fade_z * by_z / 2 + k.turn * off_fast + k.swing * (k.alpha / 2 * off_fast - k.theta * off),
        z + 2 * k.fade_z * gap_z,
        z_fast - k.fade_z * gap_z,
    )


def _as(value: Any, like: Array) -> Array:
    return jnp.asarray(value, like.dtype)


def _moved(tree: PyTree, step: Any, along: PyTree) -> PyTree:
    """tree + step along, leaf by leaf, for one step for all."""
    return jax.tree.map(lambda x, g: x + _as(step, x) * g, tree, along)
