"""Rates of the links' clocks: what they say of how fast a network agrees, and the least that DADAO needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlsim import checks, clocks
from dlsim.networks.graphs import spectral
from dlsim.networks.network import Network

RELATIVE = ("uniform", "optimal")
SAME = 1e-6  # relative, of rates
MOST_LINKS = 4096  # whose rates are optimised: a product of links by links at every step
SHARPNESS = (4.0, 16.0, 64.0, 256.0)  # orders of the norms that stand for a maximum, one after the other


def check_links(where: str, network: Network) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of each link's clock; the network must be connected and undirected."""
    checks.instance(where, "network", network, Network, "Use a topology, or from_networkx, from_jraph, from_matrix.")
    for name in ("undirected", "connected"):
        if name not in network.properties:
            held = ", ".join(sorted(network.properties)) or "none of these properties"
            checks.fail(where, "network", name, held)
    return clocks.clock_edges(network)


def check_rates(where: str, argument: str, rates: Any, num: int | None = None) -> np.ndarray:
    """Rates of `num` links (None: of any number), float64, `[]` or `[num]`: finite and above 0."""
    rule = f"one or {'more' if num is None else num} finite numbers above 0"
    values = checks.host(where, argument, rates, rule)
    if not checks.is_real_type(values.dtype):
        checks.fail(where, argument, rule, checks.describe(rates))
    values = values.astype(np.float64)
    wanted = () if values.ndim == 0 else (values.size if num is None else num,)
    if values.shape != wanted or not values.size or not (np.isfinite(values) & (values > 0)).all():
        is_odd = values.shape != wanted or not values.size
        got = f"shape {list(values.shape)}" if is_odd else f"{values.min():g}"
        checks.fail(where, argument, rule, got)
    return values


def agreement(where: str, network: Network, values: np.ndarray) -> tuple[float, float]:
    """chi_1 and chi_2 of links with these rates (see `check_rates`).

    With L the Laplacian whose weights are the rates: chi_1 is the inverse of its smallest positive eigenvalue, and chi_2
    half the largest effective resistance of a link, max (e_i - e_j)^T L^+ (e_i - e_j) / 2.  Never chi_2 > chi_1.
    """
    least = float(values.min())
    if network.is_implicit and values.max() > least * (1 + 1e-9):
        checks.fail(where, "rates", "one number for a complete network without a list of edges", "different rates")
    # Rates are relative to the least, so that a network that keeps no list of edges needs none.
    if network.is_implicit:
        return spectral.chi_1(network) / least, spectral.chi_2(network) / least / 2
    first, second = clocks.clock_edges(network)
    weights = _of_edges(network, first, second, np.broadcast_to(values, first.shape))
    return spectral.chi_1(network, weights), spectral.chi_2(network, weights) / 2


def check_graphs(where: str, graphs: Any) -> tuple[Network, ...]:
    """Graphs that a network shows in turn, each connected and undirected; None: none, it is always its own."""
    if graphs is None:
        return ()
    given = checks.sequence(where, "graphs", graphs, "one or more Networks, or None")
    for graph in given:
        checks.instance(where, "graphs", graph, Network, "Each is a network of some of the links.")
        for name in ("undirected", "connected"):
            if name not in graph.properties:
                held = ", ".join(sorted(graph.properties)) or "none of these properties"
                checks.fail(where, "graphs", f"{name}, each of them", held)
    if not given:
        checks.fail(where, "graphs", "one or more Networks, or None", "none")
    return tuple(given)


def slowest_agreement(
    where: str, network: Network, values: np.ndarray, graphs: tuple[Network, ...]
) -> tuple[float, float]:
    """The largest chi_1 and the largest chi_2 among graphs of the network's links (none: its own), at the links' rates."""
    if not graphs:
        return agreement(where, network, values)
    if network.is_implicit:
        checks.fail(where, "network", "one that lists its edges where graphs are given", "a large complete graph")
    num = network.num_nodes
    codes = _codes(num, *clocks.clock_edges(network))
    order = np.argsort(codes)
    found = []
    for graph in graphs:
        if graph.num_nodes != num:
            checks.fail(where, "graphs", f"of the network's {num} nodes", f"{graph.num_nodes} nodes")
        first, second = clocks.clock_edges(graph)
        wanted = _codes(num, first, second)
        place = np.minimum(np.searchsorted(codes[order], wanted), len(codes) - 1)
        for k in np.flatnonzero(codes[order][place] != wanted)[:1].tolist():
            got = f"one from node {first[k]} to node {second[k]}"
            checks.fail(
                where, "graphs", "of links that the network has", got, "Give learn a network of all their links."
            )
        found.append(agreement(where, graph, np.broadcast_to(values, codes.shape)[order][place]))
    return max(chi_1 for chi_1, _ in found), max(chi_2 for _, chi_2 in found)


def _codes(num_nodes: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One number a link, whichever of its ends comes first."""
    return np.minimum(first, second).astype(np.int64) * num_nodes + np.maximum(first, second)


def meeting_clocks(where: str, when: clocks.Timing, wanted: np.ndarray) -> clocks.Timing:
    """The timing with Poisson clocks of the wanted rates on the links; a clock that is given must have them."""
    if when.communication is None:
        return when._replace(communication=clocks.poisson(wanted))
    if not np.allclose(when.communication.rate, wanted, rtol=SAME):
        got = f"{np.sum(np.broadcast_to(when.communication.rate, wanted.shape)):g}"
        fix = f"Leave it out, or give its rates to {where}(rates=...)."
        checks.fail(where, "timing.communication", f"of its {wanted.sum():g} meetings a second", got, fix)
    return when


@checks.typed
def dadao_rates(network: Network, relative: Any = "uniform") -> np.ndarray:
    """Rates of the links' clocks with which DADAO converges whatever the graph, and no higher.

        rate_ij = p_ij sqrt(2 chi_1 chi_2),   chi_1, chi_2 those of the relative rates p, which sum to one

    so that chi_1 chi_2 = 1/2 with these rates (see `a2cid2_constants` for both).  Their sum is the number of meetings a
    second, n - 1 on a star, (n - 1) / sqrt(2) on the complete graph, and of order n^2 on rings and paths.

    Args:
      network: undirected and connected, of at least 2 nodes.
      relative: "uniform"; "optimal", the relative rates of the least sum (at most 4096 links; the largest eigenvalue and
        resistance are smoothed and the result of the best smoothing is kept, a local search from equal rates); or numbers
        above 0, `[links]` in the order of `dlsim.clocks.clock_edges`.
    Returns: float64 `[links]`, meetings a second, in that order.
    Source: Nabli, Oyallon, DADAO: decoupled accelerated decentralized asynchronous optimization, ICML 2023.  Differs: the
      paper optimises rates by a semidefinite relaxation, here the objective itself is descended.
    """
    where = "dadao_rates"
    first, second = check_links(where, network)
    if isinstance(relative, str):
        checks.one_of(where, "relative", relative, RELATIVE)
        values = np.ones(len(first)) if relative == "uniform" else _optimal(network, first, second)
    else:
        values = np.broadcast_to(check_rates(where, "relative", relative, len(first)), first.shape)
    values = values / values.sum()
    chi_1, chi_2 = agreement(where, network, values)
    return values * np.sqrt(2 * chi_1 * chi_2)


def _optimal(network: Network, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Relative rates of the least sqrt(chi_1 chi_2): quasi-Newton steps in their logarithms."""
    from scipy.optimize import minimize

    where, num = "dadao_rates", len(first)
    if num > MOST_LINKS:
        fix = 'Use relative="uniform", or give the numbers.'
        checks.fail(where, "network", f"one of at most {MOST_LINKS} links for optimal rates", f"{num} links", fix)

    def total(logs: np.ndarray) -> float:
        weights = np.exp(logs - logs.max())
        chi_1, chi_2 = agreement(where, network, weights)
        return float(np.log(weights.sum()) + 0.5 * np.log(chi_1 * chi_2))

    logs = np.zeros(num)
    best, least = logs, total(logs)
    for sharpness in SHARPNESS:
        found = minimize(
            _smoothed, logs, (first, second, network.num_nodes, sharpness), jac=True, method="L-BFGS-B",
            options={"maxiter": 300},
        )  # fmt: skip
        logs = found.x - found.x.mean()
        now = total(logs)
        if now < least:
            best, least = logs, now
    return np.exp(best)


def _smoothed(
    logs: np.ndarray, first: np.ndarray, second: np.ndarray, num_nodes: int, sharpness: float
) -> tuple[float, np.ndarray]:
    """log sum w + (log chi_1 + log chi_2) / 2 with norms of order `sharpness` in place of maxima, and its gradient.

    d lambda_k / d w_e = (u_k' b_e)^2,   d R_e / d w_f = -(b_e' L^+ b_f)^2,   b_e = e_i - e_j
    """
    weights = np.exp(logs)
    matrix = np.zeros((num_nodes, num_nodes))
    np.add.at(matrix, (first, first), weights)
    np.add.at(matrix, (second, second), weights)
    np.add.at(matrix, (first, second), -weights)
    np.add.at(matrix, (second, first), -weights)
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[1:], vectors[:, 1:]
    along = vectors[first] - vectors[second]  # [links, N - 1]
    across = (along / values) @ along.T
    resistance = across.diagonal()

    def norm(logs: np.ndarray) -> tuple[float, np.ndarray]:
        top = logs.max()
        shares = np.exp(sharpness * (logs - top))
        return top + np.log(shares.sum()) / sharpness, shares / shares.sum()

    slowest, shares = norm(-np.log(values))
    largest, resisting = norm(np.log(resistance))
    of_slowest = -(along**2) @ (shares / values)
    of_largest = -((resisting / resistance) @ across**2)
    total = weights.sum()
    value = np.log(total) + 0.5 * (slowest + largest)
    return float(value), weights * (1 / total + 0.5 * (of_slowest + of_largest))


def _of_edges(network: Network, first: np.ndarray, second: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Rates of links as those of the network's directed edges, `[E]`."""
    senders, receivers = np.asarray(network.senders).astype(np.int64), np.asarray(network.receivers).astype(np.int64)
    num = network.num_nodes
    code = _codes(num, first, second)
    order = np.argsort(code)
    place = np.searchsorted(code[order], _codes(num, senders, receivers))
    return rates[order][place]
