"""How fast a network mixes: spectra, gaps, effective resistances, distances.  Host side, float64.

Functions of a mixing matrix take a Network (anything with `num_nodes`, `senders`, `receivers`, `edge_weights`,
`self_weights`); those of the graph alone take a Graph as well.  Up to `DENSE_NODES` nodes they work on dense matrices;
beyond, on sparse ones: Lanczos where the gap is wide, shift and invert where it is narrow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlsim import checks
from dlsim.networks.graphs import sparse_ends
from dlsim.networks.graphs.graph import check_graph
from dlsim.networks.graphs.stochastic import TOLERANCE, check_stochastic

DENSE_NODES = 1500
LARGEST_SPECTRUM = 20_000  # nodes of a whole spectrum without a closed form: 3.2 GB and an hour
_BLOCK = 256  # right-hand sides solved at once


def mixing_matrix(network: Any) -> Any:
    """W as a scipy CSR array, float64 `[N, N]`: W[i, j] the weight receiver i gives sender j."""
    from scipy.sparse import coo_array, csr_array

    check_graph("mixing_matrix", network, weighted=True)
    num_nodes = network.num_nodes
    if _is_implicit(network):
        if num_nodes > LARGEST_SPECTRUM:
            fix = "Its eigenvalues are 1 and 0: see spectrum."
            checks.fail(
                "mixing_matrix", "num_nodes", f"at most {LARGEST_SPECTRUM} for a complete graph", num_nodes, fix
            )
        return csr_array(np.full((num_nodes, num_nodes), 1 / num_nodes))
    ids = np.arange(num_nodes)
    rows = np.concatenate([np.asarray(network.receivers), ids])
    columns = np.concatenate([np.asarray(network.senders), ids])
    entries = np.concatenate([np.asarray(network.edge_weights), np.asarray(network.self_weights)]).astype(np.float64)
    return coo_array((entries, (rows, columns)), shape=(num_nodes, num_nodes)).tocsr()


def spectrum(network: Any) -> np.ndarray:
    """All N eigenvalues of W: real and falling if W is symmetric, else complex and falling in modulus.

    Shifts with one weight each (ring, torus, hypercube, exponential) are diagonalised by the Fourier transform, at any
    size; the rest costs N^3.
    """
    check_graph("spectrum", network, weighted=True)
    if _is_implicit(network):
        return np.concatenate([[1.0], np.zeros(network.num_nodes - 1)])
    values = _fourier_spectrum(network)
    is_symmetric = _is_symmetric(network)
    if values is None:
        if network.num_nodes > LARGEST_SPECTRUM:
            fix = "Use second_eigenvalue or spectral_gap for its end."
            checks.fail("spectrum", "num_nodes", f"at most {LARGEST_SPECTRUM}", network.num_nodes, fix)
        dense = mixing_matrix(network).toarray()
        values = np.linalg.eigvalsh((dense + dense.T) / 2) if is_symmetric else np.linalg.eigvals(dense)
    if is_symmetric:
        return np.sort(values.real)[::-1]
    return values[np.argsort(-np.abs(values), kind="stable")]


def spectral_gap(network: Any) -> float:
    """1 - rho, rho the second largest modulus among the eigenvalues of W; 0 where the network is not connected.

    W must be row or column stochastic, so that one eigenvalue is 1.  Above `DENSE_NODES` nodes an iterative method is
    used: its error is some 1e-8 or less, relative where the gap is narrow and W symmetric.
    """
    check_graph("spectral_gap", network, weighted=True)
    if network.num_nodes == 1 or _is_implicit(network):
        return 1.0
    stochastic = check_stochastic(network, network.edge_weights, network.self_weights)
    if not (stochastic["is_row_stochastic"] or stochastic["is_column_stochastic"]):
        checks.fail("spectral_gap", "network", "row or column stochastic", "neither")
    if not is_connected(network) and stochastic["is_symmetric"]:
        return 0.0
    values = _fourier_spectrum(network)
    if values is None and network.num_nodes <= DENSE_NODES:
        values = spectrum(network)
    if values is not None:
        # What float32 made of the row sums would hide a narrow gap, so by the eigenvalue that stands for 1.
        values = values / values[np.argmin(np.abs(values - 1))]
        modulus = np.abs(values)
        modulus[np.argmin(np.abs(values - 1))] = 0  # the eigenvalue 1 itself, once
        return float(max(1 - modulus.max(), 0.0))
    matrix = mixing_matrix(network)
    if stochastic["is_symmetric"] and matrix.data.min() >= 0:
        return sparse_ends.symmetric_gap(matrix)
    return 1 - sparse_ends.second_modulus(matrix if stochastic["is_row_stochastic"] else matrix.T.tocsr())


def second_eigenvalue(network: Any) -> float:
    """rho, the second largest modulus among the eigenvalues of W; 1 - `spectral_gap`."""
    return 1 - spectral_gap(check_graph("second_eigenvalue", network, weighted=True))


def mixing_rate(network: Any) -> float:
    """p, the largest with ||W X - X_bar||^2 <= (1 - p) ||X - X_bar||^2 for all X `[N, D]`: 1 - ||W - 1 1^T/N||_2^2.

    For symmetric W that is 1 - rho^2.  For others it may be less, and negative where one product can spread the nodes
    further from their mean than they were.  W must be row stochastic.
    """
    check_graph("mixing_rate", network, weighted=True)
    if network.num_nodes == 1 or _is_implicit(network):
        return 1.0
    stochastic = check_stochastic(network, network.edge_weights, network.self_weights)
    if not stochastic["is_row_stochastic"]:
        checks.fail("mixing_rate", "network", "row stochastic (or agreement would not last)", "one that is not")
    if stochastic["is_symmetric"]:
        gap = spectral_gap(network)
        return gap * (2 - gap)
    values = _fourier_spectrum(network)
    if values is not None:  # normal: singular values are moduli
        gap = spectral_gap(network)
        return gap * (2 - gap)
    matrix = mixing_matrix(network)
    if network.num_nodes <= DENSE_NODES:
        return float(1 - np.linalg.norm(matrix.toarray() - 1 / network.num_nodes, 2) ** 2)
    return 1 - sparse_ends.squared_norm_off_mean(matrix)


def laplacian(network_or_graph: Any, edge_rates: Any = None) -> Any:
    """L = sum over undirected edges of r_ij (e_i - e_j)(e_i - e_j)^T, scipy CSR, float64 `[N, N]`.

    `edge_rates [E]`, in the order of the edges and alike for both directions, are how often an edge is used per unit of
    time (or its weight, or its conductance); default 1.
    """
    from scipy.sparse import coo_array, diags_array

    one = check_graph("laplacian", network_or_graph)
    if _is_implicit(one):
        return _implicit_laplacian(one.num_nodes, edge_rates)
    rates = _rates("laplacian", one, edge_rates)
    adjacency = coo_array((rates, (np.asarray(one.receivers), np.asarray(one.senders))), shape=(one.num_nodes,) * 2)
    degrees = np.bincount(np.asarray(one.receivers), rates, one.num_nodes)
    return (diags_array(degrees) - adjacency).tocsr()


def laplacian_ends(network_or_graph: Any, edge_rates: Any = None) -> tuple[float, float]:
    """The smallest positive and the largest eigenvalue of L; the graph must be connected."""
    one = check_graph("laplacian_ends", network_or_graph)
    if one.num_nodes < 2 or not is_connected(one):
        checks.fail("laplacian_ends", "network", "connected, with at least 2 nodes", _what(one))
    if _is_implicit(one) and edge_rates is None:
        return float(one.num_nodes), float(one.num_nodes)
    matrix = laplacian(one, edge_rates)
    if one.num_nodes <= DENSE_NODES:
        values = np.linalg.eigvalsh(matrix.toarray())
        return float(values[1]), float(values[-1])
    return sparse_ends.smallest_positive(matrix), sparse_ends.largest(matrix)


def effective_resistances(network_or_graph: Any, edge_rates: Any = None) -> np.ndarray:
    """(e_i - e_j)^T L^+ (e_i - e_j) of every edge (i, j), `[E]` in the order of the edges (both directions alike).

    Dense up to `DENSE_NODES` nodes; beyond, one sparse factorisation and a solve a node, so N solves in all: seconds
    for 10,000 nodes of a planar-like graph, not meant for 100,000.  They obey Foster: the sum of r_e R_e is N - 1.
    """
    one = check_graph("effective_resistances", network_or_graph)
    if _is_implicit(one) or one.num_nodes < 2 or not is_connected(one):
        checks.fail("effective_resistances", "network", "connected, with a list of at least one edge", _what(one))
    matrix = laplacian(one, edge_rates)
    senders, receivers = np.asarray(one.senders), np.asarray(one.receivers)
    num_nodes = one.num_nodes
    if num_nodes <= DENSE_NODES:
        inverse = np.linalg.inv(matrix.toarray() + 1 / num_nodes)  # L^+ + 1 1^T / N; the second part cancels
        own = inverse.diagonal()
        return own[senders] + own[receivers] - 2 * inverse[receivers, senders]
    # With node N - 1 grounded the inverse G of the rest gives R_ij = G_ii + G_jj - 2 G_ij, its own row being zero.
    solve = sparse_ends.factorise(matrix[:-1, :-1])
    own, across = np.zeros(num_nodes), np.zeros(len(senders))
    for start in range(0, num_nodes - 1, _BLOCK):
        nodes = np.arange(start, min(start + _BLOCK, num_nodes - 1))
        right = np.zeros((num_nodes - 1, len(nodes)))
        right[nodes, nodes - start] = 1
        columns = np.concatenate([solve(right), np.zeros((1, len(nodes)))])
        own[nodes] = columns[nodes, nodes - start]
        low, high = np.searchsorted(receivers, [nodes[0], nodes[-1] + 1])  # edges are sorted by receiver
        across[low:high] = columns[senders[low:high], receivers[low:high] - start]
    return own[senders] + own[receivers] - 2 * across


def chi_1(network_or_graph: Any, edge_rates: Any = None) -> float:
    """Inverse of the smallest positive eigenvalue of L with these edge rates: the time gossip takes to agree.

    Source: Nabli, Oyallon, DADAO: decoupled accelerated decentralized asynchronous optimization, ICML 2023.
    """
    return 1 / laplacian_ends(check_graph("chi_1", network_or_graph), edge_rates)[0]


def chi_2(network_or_graph: Any, edge_rates: Any = None) -> float:
    """The maximal effective resistance over the edges, max (e_i - e_j)^T L^+ (e_i - e_j).

    Source: Nabli, Oyallon, DADAO: decoupled accelerated decentralized asynchronous optimization, ICML 2023.  Differs:
      the paper's chi_2 is half of this; halve it where its formulas are used.
    """
    check_graph("chi_2", network_or_graph)
    if _is_implicit(network_or_graph) and edge_rates is None:
        return 2 / network_or_graph.num_nodes
    return float(effective_resistances(network_or_graph, edge_rates).max())


def is_connected(network_or_graph: Any) -> bool:
    """Whether every node reaches every other along the edges (strongly connected, if they are directed)."""
    from scipy.sparse.csgraph import connected_components

    check_graph("is_connected", network_or_graph)
    if _is_implicit(network_or_graph):
        return True
    links = _adjacency(network_or_graph)
    return bool(connected_components(links, directed=True, connection="strong")[0] == 1)


def diameter(network_or_graph: Any) -> int:
    """The largest number of hops between two nodes, exactly; the graph must be connected.

    One search of the graph for shifts (all nodes are alike), at most N for others: undirected graphs stop as soon as
    the bounds from the searches made so far meet.

    Source: Takes, Kosters, Determining the diameter of small world networks, CIKM 2011.
    """
    one = check_graph("diameter", network_or_graph)
    if not is_connected(one):
        checks.fail("diameter", "network", "connected", _what(one))
    if one.num_nodes == 1 or _is_implicit(one):
        return min(one.num_nodes - 1, 1)
    links = _adjacency(one)
    if getattr(one, "offsets", None):
        return int(_hops(links, 0).max())
    if not _is_undirected(one):
        return max(int(_hops(links, node).max()) for node in range(one.num_nodes))
    low, high = np.zeros(one.num_nodes, np.int64), np.full(one.num_nodes, one.num_nodes)
    is_open, best, pick_far = np.ones(one.num_nodes, bool), 0, True
    degrees = np.bincount(np.asarray(one.receivers), minlength=one.num_nodes)
    while is_open.any():
        candidates = np.flatnonzero(is_open)
        bound = high[candidates] if pick_far else -low[candidates]
        node = int(candidates[np.lexsort((degrees[candidates], bound))[-1]])
        pick_far = not pick_far
        hops = _hops(links, node)
        reach = int(hops.max())
        best = max(best, reach)
        low = np.maximum(low, np.maximum(hops, reach - hops))
        high = np.minimum(high, hops + reach)
        is_open &= high > best
        is_open[node] = False
    return best


def _hops(links: Any, node: int) -> np.ndarray:
    """Hops from a node to every other, `[N]`."""
    from scipy.sparse.csgraph import breadth_first_order

    order, before = breadth_first_order(links, node, directed=True)
    hops = np.zeros(len(order), np.int64)
    # In order of visit, so a level is a stretch; its nodes were found from the stretch before.
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    parents = place[before[order[1:]]]
    start, end, level = 1, 1, 0
    while start < len(order):
        level += 1
        end = start + int(np.searchsorted(parents[start - 1 :], start, side="left"))
        hops[order[start:end]] = level
        start = end
    return hops


def _adjacency(one: Any) -> Any:
    from scipy.sparse import coo_array

    ends = (np.asarray(one.senders), np.asarray(one.receivers))
    return coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(one.num_nodes, one.num_nodes)).tocsr()


def _fourier_spectrum(network: Any) -> np.ndarray | None:
    """Eigenvalues of a set of shifts with one weight each, or None where it is not one."""
    grid, offsets = getattr(network, "grid", None), getattr(network, "offsets", None)
    if not offsets or grid is None:
        return None
    own, edges = np.asarray(network.self_weights, np.float64), np.asarray(network.edge_weights, np.float64)
    if np.ptp(own) > 0 or np.ptp(edges) > 0:
        return None
    kernel = np.zeros(grid)
    kernel.flat[0] = own[0]
    for offset in offsets:
        kernel[offset] += edges[0]
    return np.fft.fftn(kernel).ravel()


def _rates(where: str, one: Any, edge_rates: Any) -> np.ndarray:
    if not _is_undirected(one):
        checks.fail(where, "network", "undirected", "a directed one")
    if edge_rates is None:
        return np.ones(len(one.senders))
    checks.known(where, "edge_rates", edge_rates, "known values")
    rates = checks.array(where, "edge_rates", edge_rates, (len(one.senders),)).astype(np.float64)
    if len(rates) and rates.min() <= 0:
        checks.fail(where, "edge_rates", "positive", f"{rates.min():g}", "Leave out an edge that is never used.")
    if not _mirrored(one, rates):
        checks.fail(where, "edge_rates", "the same for both directions of an edge", "different ones")
    return rates


def _mirrored(one: Any, values: np.ndarray) -> bool:
    """Whether every edge has its opposite, with the same value."""
    senders, receivers = np.asarray(one.senders, np.int64), np.asarray(one.receivers, np.int64)
    there = np.argsort(receivers * one.num_nodes + senders)
    back = np.argsort(senders * one.num_nodes + receivers)
    same = np.array_equal(receivers[there], senders[back]) and np.array_equal(senders[there], receivers[back])
    return bool(same and (np.abs(values[there] - values[back]) <= TOLERANCE * np.abs(values[there])).all())


def _is_undirected(one: Any) -> bool:
    return _is_implicit(one) or _mirrored(one, np.ones(len(one.senders)))


def _is_symmetric(network: Any) -> bool:
    return check_stochastic(network, network.edge_weights, network.self_weights)["is_symmetric"]


def _is_implicit(one: Any) -> bool:
    return bool(getattr(one, "is_implicit", False))


def _implicit_laplacian(num_nodes: int, edge_rates: Any) -> Any:
    from scipy.sparse import csr_array

    if edge_rates is not None or num_nodes > LARGEST_SPECTRUM:
        fix = f"Use a Graph from complete_graph({num_nodes})."
        checks.fail("laplacian", "network", "one with an edge list", f"the complete graph of {num_nodes} nodes", fix)
    return csr_array(num_nodes * np.eye(num_nodes) - 1)


def _what(one: Any) -> str:
    return f"{one.num_nodes} nodes, {len(one.senders)} directed edges" + ("" if is_connected(one) else ", disconnected")
