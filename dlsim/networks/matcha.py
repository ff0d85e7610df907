"""MATCHA: links that are worth their cost are used more often."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Scenario
from dlsim.networks.network import Network, connect, host_graph

LARGEST = 1000  # nodes: semidefinite matrices of N x N


class Matcha(NamedTuple):
    """What `matcha` gives; `probabilities [M]` and `matchings` (a list of links `[L_j, 2]`) say what it decided."""

    network: Network
    scenario: Scenario
    probabilities: np.ndarray
    matchings: list[np.ndarray]
    step: float  # alpha
    mixing_rate: float  # rho = ||E[W^T W] - 1 1^T / N||


@checks.typed
def matcha(network: Network, budget: float = 0.5) -> Matcha:
    """Links in matchings, each used in a round with a probability of its own, so that information spreads the fastest.

    The links are parted into M matchings (links without a common end, which can be used at the same time) with Laplacians
    L_j; then, with B = `budget`,

        p     = argmax lambda_2(sum_j p_j L_j)      over 0 <= p_j <= 1, sum_j p_j <= B M
        W_t   = I - alpha sum_j b_j L_j             b_j = 1 with probability p_j, a coin a matching and round
        alpha = argmin rho,  rho = ||E[W_t^2] - 1 1^T / N||
                E[W_t^2] = I - 2 alpha sum_j p_j L_j + alpha^2 ((sum_j p_j L_j)^2 + 2 sum_j p_j (1 - p_j) L_j)

    `made = matcha(network, 0.5)`, then `dlsim.learn(problem, algorithm, made.network, scenario=made.scenario)`.

    Args:
      network: connected, undirected; its mixing weights are not used.
      budget: B in (0, 1], the share of the matchings used in a round on average.

    Errors: more than 1,000 nodes; cvxpy missing (`pip install 'dlsim[opt]'`).
    Source: Wang, Sahu, Yang, Joshi and Kar, MATCHA: speeding up decentralized SGD via matching decomposition sampling, ICC
      2019; IEEE TSP 2022.  Differs: the links are coloured by saturation (DSATUR), mostly in as many matchings as the
      largest degree or one more; the paper's Misra and Gries algorithm never takes more than that.
    """
    checks.number("matcha", "budget", budget, 0.0, 1.0, open_minimum=True)
    for name in ("connected", "undirected"):
        if name not in network.properties:
            checks.fail("matcha", "network", name, "one that is not")
    if network.num_nodes > LARGEST:
        checks.fail("matcha", "network", f"of at most {LARGEST} nodes (a semidefinite program)", network.num_nodes)
    graph = host_graph(network)
    is_low = graph.senders < graph.receivers
    links = np.stack([graph.senders[is_low], graph.receivers[is_low]], axis=1)
    if not len(links):
        checks.fail("matcha", "network", "one with links", f"{network.num_nodes} nodes without")
    colors = _colors(links)
    matchings = [links[colors == j] for j in range(colors.max() + 1)]
    laplacians = np.stack([_laplacian(pairs, network.num_nodes) for pairs in matchings])
    probabilities = _probabilities(laplacians, float(budget))
    step, rate = _step(laplacians, probabilities)
    edge_weights = np.full(graph.num_edges, step)
    made = connect(graph, (edge_weights, 1 - step * graph.in_degrees), network.lowering)
    color_of = {tuple(link): color for link, color in zip(links.tolist(), colors.tolist(), strict=True)}
    ends = zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)
    of_edge = np.array([color_of[min(a, b), max(a, b)] for a, b in ends], np.int32)
    return Matcha(made, _activated(probabilities, of_edge), probabilities, matchings, step, rate)


def _activated(probabilities: np.ndarray, of_edge: np.ndarray) -> Scenario:
    chances, place = jnp.asarray(probabilities, jnp.float32), jnp.asarray(of_edge)
    which = jnp.arange(len(probabilities))

    def init(key: Array, network: Network) -> tuple[()]:
        del key
        if network.num_edges != len(of_edge):
            got = f"one of {network.num_edges} edges"
            checks.fail("matcha", "network", f"its own, of {len(of_edge)} edges", got, "Use made.network.")
        return ()

    def step(key: Array, state: tuple[()], network: Network) -> tuple[tuple[()], Network]:
        up = (keys.node_uniform(key, which, 1)[:, 0] < chances)[place]
        return state, network.replace(is_linked=up if network.is_linked is None else network.is_linked & up)

    return Scenario(init=init, step=step, source="Wang, Sahu, Yang, Joshi and Kar, ICC 2019")


def _colors(links: np.ndarray) -> np.ndarray:
    """A colour a link, so that links with a common end differ."""
    import networkx as nx

    touching = nx.line_graph(nx.Graph(links.tolist()))
    chosen = nx.greedy_color(touching, strategy="DSATUR")
    both = {frozenset(link): color for link, color in chosen.items()}
    return np.array([both[frozenset(link)] for link in links.tolist()])


def _laplacian(pairs: np.ndarray, num_nodes: int) -> np.ndarray:
    made = np.zeros((num_nodes, num_nodes))
    for a, b in pairs:
        made[[a, b], [a, b]] += 1
        made[a, b] -= 1
        made[b, a] -= 1
    return made


def _probabilities(laplacians: np.ndarray, budget: float) -> np.ndarray:
    if budget == 1:
        return np.ones(len(laplacians))
    cvxpy: Any = checks.package("matcha", "cvxpy", "opt")
    num, size = laplacians.shape[:2]
    p, gap = cvxpy.Variable(num, nonneg=True), cvxpy.Variable()
    apart = np.eye(size) - 1 / size
    total: Any = sum(p[j] * laplacians[j] for j in range(num))
    rules = [total - gap * apart >> 0, p <= 1, cvxpy.sum(p) <= budget * num]
    cvxpy.Problem(cvxpy.Maximize(gap), rules).solve()
    if p.value is None:
        checks.fail("matcha", "network", "one whose probabilities the solver finds", "none found")
    return np.clip(p.value, 0, 1)


def _step(laplacians: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    """alpha and rho of it; rho is convex in alpha."""
    from scipy.optimize import minimize_scalar

    size = laplacians.shape[1]
    mean = np.tensordot(p, laplacians, 1)
    spread = np.tensordot(p * (1 - p), laplacians, 1)
    square = mean @ mean + 2 * spread

    def rho(alpha: float) -> float:
        matrix = np.eye(size) - 2 * alpha * mean + alpha**2 * square - 1 / size
        return float(np.abs(np.linalg.eigvalsh(matrix)).max())

    largest = float(np.linalg.eigvalsh(mean).max())
    found = minimize_scalar(rho, bounds=(0.0, 2 / largest), method="bounded", options={"xatol": 1e-6})
    return float(found.x), float(found.fun)
