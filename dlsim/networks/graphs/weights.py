"""Mixing weights: how much a receiver gives each sender, and itself.

W[i, j] is the weight receiver i gives sender j.  In float64 on the host, rounded to float32 so that what is left over
by rounding the edges goes to the diagonal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.graph import Graph, check_graph, weight_dtype
from dlsim.networks.graphs.spectral import laplacian_ends
from dlsim.networks.graphs.stochastic import edge_places

NAMES = (
    "metropolis_hastings",
    "max_degree",
    "laplacian",
    "fastest_mixing",
    "uniform",
    "uniform_neighbor",
    "row_stochastic",
    "column_stochastic",
)
LAZY = "lazy_"
LARGEST_FASTEST_MIXING = 1000  # nodes; its semidefinite program has N^2 / 2 constraints


def mixing_weights(graph: Graph, name: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """`(edge_weights float32 [E] in the graph's order, self_weights float32 [N])` by name.

    | name                  | W[i, j] of an edge                    | graph      | W is                               |
    |-----------------------|---------------------------------------|------------|------------------------------------|
    | `metropolis_hastings` | 1 / (1 + max(d_i, d_j))               | undirected | symmetric, doubly stochastic       |
    | `max_degree`          | 1 / (1 + max d)                       | undirected | symmetric, doubly stochastic       |
    | `laplacian`           | eps: W = I - eps L                    | undirected | symmetric, doubly stochastic       |
    | `fastest_mixing`      | those of least rho with W >= 0        | undirected | symmetric, doubly stochastic       |
    | `uniform`             | 1 / (1 + d)                           | regular    | doubly stochastic, directed or not |
    | `uniform_neighbor`    | 1 / (1 + in-degree of i)              | any        | row stochastic                     |
    | `row_stochastic`      | the same, by its usual directed name  | any        | row stochastic                     |
    | `column_stochastic`   | 1 / (1 + out-degree of j)             | any        | column stochastic                  |
    | `lazy_` + any of them | half: (I + W) / 2                     | as above   | as above; no negative eigenvalues* |

    * where W is symmetric.

    Options: `step` of `laplacian`, a number in (0, 2 / lambda_max(L)) or `"optimal"`.  The default, 1 / (1 + max d), keeps
    every entry non-negative and the diagonal positive, hence converges on any connected graph without an eigensolve (it
    is then `max_degree`); `"optimal"`, 2 / (lambda_max + lambda_2), is the best of all constant weights and costs one.
    `solver` of `fastest_mixing`, a name that cvxpy knows; `nonnegative=False` lets weights be negative, which mixes
    faster still (fastest linear averaging, Xiao and Boyd 2004) but is no average.

    Sources: Xiao, Boyd, Fast linear iterations for distributed averaging, Systems & Control Letters 53, 2004 (max_degree,
      laplacian, metropolis_hastings); Boyd, Diaconis, Xiao, Fastest mixing Markov chain on a graph, SIAM Review 46, 2004.
    """
    where = "mixing_weights"
    checks.instance(where, "graph", graph, Graph, "Of a Network: host_graph(network).")
    checks.one_of(where, "weights", name, (*NAMES, *(LAZY + known for known in NAMES)))
    base = name.removeprefix(LAZY)
    known = {"laplacian": ("step",), "fastest_mixing": ("solver", "nonnegative")}.get(base, ())
    for option in options:
        if option not in known:
            listed = f"one of {', '.join(known)}" if known else f"absent, as {base} takes none"
            checks.fail(where, "option", listed, repr(option))
    if base in ("metropolis_hastings", "max_degree", "laplacian", "fastest_mixing"):
        _needs_undirected(graph, base)
    rule = _RULES[base]
    edges = np.asarray(rule(graph, **options), np.float64) / (2 if name.startswith(LAZY) else 1)
    edge_weights = edges.astype(weight_dtype())
    shared = graph.senders if base == "column_stochastic" else graph.receivers
    given = np.bincount(shared, edge_weights.astype(np.float64), graph.num_nodes)
    return edge_weights, (1 - given).astype(weight_dtype())


def matrix_weights(graph: Graph, matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """`(edge_weights [E], self_weights [N])` read from a mixing matrix `[N, N]`, dense or scipy sparse.

    Entries outside the graph's edges are an error, as they would be lost.
    """
    import scipy.sparse

    check_graph("matrix_weights", graph, argument="graph")
    checks.shape("matrix_weights", "matrix", matrix, (graph.num_nodes, graph.num_nodes))
    entries = scipy.sparse.coo_array(matrix)
    off = (entries.row != entries.col) & (entries.data != 0)
    code = entries.row[off].astype(np.int64) * graph.num_nodes + entries.col[off]
    place = edge_places(graph, code)
    if (place < 0).any():
        i, j = divmod(int(code[np.argmin(place)]), graph.num_nodes)
        checks.fail("matrix_weights", "matrix", "zero where the graph has no edge", f"an entry at [{i}, {j}]")
    edge_weights = np.zeros(graph.num_edges)
    np.add.at(edge_weights, place, entries.data[off])
    dtype = weight_dtype()
    return edge_weights.astype(dtype), scipy.sparse.csr_array(entries).diagonal().astype(dtype)


def _needs_undirected(graph: Graph, name: str) -> None:
    if graph.is_directed:
        is_regular = len(np.unique(np.concatenate([graph.in_degrees, graph.out_degrees]))) == 1
        fix = "'uniform' (doubly stochastic here)" if is_regular else "'row_stochastic' or 'column_stochastic'"
        checks.fail("mixing_weights", "graph", f"undirected for {name}", "a directed one", f"Use weights={fix}.")


def _metropolis_hastings(graph: Graph) -> np.ndarray:
    degrees = graph.in_degrees
    return 1 / (1 + np.maximum(degrees[graph.senders], degrees[graph.receivers]))


def _max_degree(graph: Graph) -> np.ndarray:
    return np.full(graph.num_edges, 1 / (1 + graph.in_degrees.max()))


def _laplacian(graph: Graph, step: float | str | None = None) -> np.ndarray:
    if step is None or graph.num_nodes == 1:
        return _max_degree(graph)
    if isinstance(step, str):
        checks.one_of("mixing_weights", "step", step, ("optimal",))
    else:
        checks.number("mixing_weights", "step", step, 0.0, open_minimum=True)
        checks.known("mixing_weights", "step", step, fix="Weights are made on the host: sweep it as structure.")
    smallest, largest = laplacian_ends(graph)
    if isinstance(step, str):
        step = 2 / (smallest + largest)
    elif step >= 2 / largest:
        rule = f"below 2 / lambda_max = {2 / largest:.6g}, or W does not converge"
        checks.fail("mixing_weights", "step", rule, f"{step:g}", 'Use step="optimal".')
    return np.full(graph.num_edges, float(step))


def _uniform(graph: Graph) -> np.ndarray:
    degrees = np.stack([graph.in_degrees, graph.out_degrees])
    degree = int(degrees[0, 0])
    if (degrees != degree).any():
        node = int(np.argmax((degrees != degree).any(axis=0)))
        got = f"in-degree {degrees[0, node]} and out-degree {degrees[1, node]} at node {node} beside {degree} at node 0"
        fix = "'row_stochastic'" if graph.is_directed else "'metropolis_hastings'"
        checks.fail("mixing_weights", "graph", "regular for uniform", got, f"Use weights={fix}.")
    return np.full(graph.num_edges, 1 / (1 + degree))


def _row_stochastic(graph: Graph) -> np.ndarray:
    return 1 / (1 + graph.in_degrees[graph.receivers])


def _column_stochastic(graph: Graph) -> np.ndarray:
    return 1 / (1 + graph.out_degrees[graph.senders])


def _fastest_mixing(graph: Graph, solver: str | None = None, nonnegative: bool = True) -> np.ndarray:
    """min ||I - B diag(w) B^T - 1 1^T / N||_2 ; if `nonnegative`, over w >= 0 that leave no diagonal of W below 0."""
    checks.flag("mixing_weights", "nonnegative", nonnegative)
    num_nodes = graph.num_nodes
    if num_nodes > LARGEST_FASTEST_MIXING:
        rule = f"at most {LARGEST_FASTEST_MIXING} for fastest_mixing (a semidefinite program)"
        checks.fail("mixing_weights", "num_nodes", rule, num_nodes, "Use weights='metropolis_hastings'.")
    is_low = graph.senders < graph.receivers
    first, second = graph.senders[is_low].astype(np.int64), graph.receivers[is_low].astype(np.int64)
    num_pairs = len(first)
    if not num_pairs:
        return np.zeros(0)
    # Imported after what needs no solver, so that its absence is told only where it matters.
    cvxpy: Any = checks.package("mixing_weights", "cvxpy", "opt")
    import scipy.sparse

    if solver is not None:
        checks.one_of("mixing_weights", "solver", solver, cvxpy.installed_solvers())
    pairs = np.arange(num_pairs)
    # vec(L) = sum_e w_e vec((e_i - e_j)(e_i - e_j)^T), four entries an edge
    rows = np.concatenate([first * num_nodes + first, second * num_nodes + second,
                           first * num_nodes + second, second * num_nodes + first])  # fmt: skip
    signs = np.repeat([1.0, 1.0, -1.0, -1.0], num_pairs)
    outer = scipy.sparse.csr_matrix((signs, (rows, np.tile(pairs, 4))), shape=(num_nodes**2, num_pairs))
    incident = scipy.sparse.csr_matrix(
        (np.ones(2 * num_pairs), (np.concatenate([first, second]), np.tile(pairs, 2))), shape=(num_nodes, num_pairs)
    )
    weight, rho, eye = cvxpy.Variable(num_pairs), cvxpy.Variable(), np.eye(num_nodes)
    deviation = eye - 1 / num_nodes - cvxpy.reshape(outer @ weight, (num_nodes, num_nodes), order="C")
    rules = [deviation << rho * eye, deviation >> -rho * eye]
    rules += [weight >= 0, incident @ weight <= 1] if nonnegative else []
    problem = cvxpy.Problem(cvxpy.Minimize(rho), rules)
    problem.solve(solver=solver)
    if weight.value is None:
        raise RuntimeError(f"mixing_weights: fastest_mixing found no solution ({problem.status}). Try solver='SCS'.")
    # The solver meets its constraints to its own tolerance only.
    solved = np.maximum(weight.value, 0) if nonnegative else weight.value
    solved = solved / max(1.0, float((incident @ solved).max())) if nonnegative else solved
    by_pair = np.zeros(graph.num_edges)
    by_pair[edge_places(graph, second * num_nodes + first)] = solved
    by_pair[edge_places(graph, first * num_nodes + second)] = solved
    return by_pair


_RULES: dict[str, Any] = {
    "metropolis_hastings": _metropolis_hastings,
    "max_degree": _max_degree,
    "laplacian": _laplacian,
    "fastest_mixing": _fastest_mixing,
    "uniform": _uniform,
    "uniform_neighbor": _row_stochastic,
    "row_stochastic": _row_stochastic,
    "column_stochastic": _column_stochastic,
}
