"""Where the nodes of a drawing are."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.graph import Graph

LAYOUTS = ("auto", "positions", "circular", "spring", "spectral", "communities")
LARGEST_CIRCLE = 40  # nodes; above, a circle of chords says nothing
LARGEST_SPRING = 500
LARGEST_ASKED_SPRING = 3000  # nodes for which springs take a minute


def placed(graph: Graph, how: str, groups: Sequence[Any] | None) -> np.ndarray:
    """Places `[N, 2]` by the name of a layout other than `auto`; `groups` `[N]` are the communities of nodes."""
    if how == "positions":
        if graph.positions is None:
            fix = 'Use layout="spring", or give the graph positions.'
            checks.fail("draw", "layout", "one that the network can have", "'positions' of a network without", fix)
        return np.asarray(graph.positions, np.float64)
    if how == "circular":
        return _circle(graph.num_nodes)
    if how == "communities":
        return _in_groups(graph, communities(graph) if groups is None else groups)
    if how == "spring" and graph.num_nodes > LARGEST_ASKED_SPRING:
        rule = f"another than 'spring' above {LARGEST_ASKED_SPRING} nodes"
        checks.fail("draw", "layout", rule, f"{graph.num_nodes} nodes", 'Use layout="spectral".')
    if graph.num_nodes < 4:  # fewer than an eigensolver asks for
        return _circle(graph.num_nodes)
    places = _spectral(graph)
    return places if how == "spectral" else _springs(graph, places)


def communities(graph: Graph) -> list[str]:
    """A community of each node, `[N]`, named by falling size: those of greatest modularity that merging finds.

    Source: Clauset, Newman, Moore, Finding community structure in very large networks, Physical Review E 70, 2004, as
      networkx has it.
    """
    import networkx as nx

    theirs = nx.Graph()
    theirs.add_nodes_from(range(graph.num_nodes))
    theirs.add_edges_from(zip(*(ends.tolist() for ends in pairs_of(graph)), strict=True))
    found = [""] * graph.num_nodes
    if not theirs.number_of_edges():
        return ["community 1"] * graph.num_nodes
    for number, members in enumerate(nx.community.greedy_modularity_communities(theirs), 1):
        for node in members:
            found[node] = f"community {number}"
    return found


def _in_groups(graph: Graph, groups: Sequence[Any]) -> np.ndarray:
    """Groups stand around a circle, or side by side if they are two; within one, springs place its nodes."""
    texts = np.array([str(group) for group in groups])
    known = sorted(set(texts.tolist()))
    places = np.zeros((graph.num_nodes, 2))
    sizes = np.array([np.sqrt((texts == name).sum()) for name in known])
    # Two discs that do not touch, or as many on a circle that is long enough.
    ring = 0.0 if len(known) == 1 else max(1.3 * sizes.max(), 1.25 * sizes.sum() / np.pi)
    turns = np.pi / 2 - 2 * np.pi * np.arange(len(known)) / len(known) + (np.pi / 2 if len(known) == 2 else 0)
    for name, size, turn in zip(known, sizes, turns, strict=True):
        members = np.flatnonzero(texts == name)
        row = np.full(graph.num_nodes, -1)
        row[members] = np.arange(len(members))
        inner = (row[graph.senders] >= 0) & (row[graph.receivers] >= 0)
        part = Graph(len(members), row[graph.senders[inner]], row[graph.receivers[inner]])
        can = 4 <= len(members) <= LARGEST_SPRING and inner.any()
        own = placed(part, "spring", None) if can else _circle(len(members)) * (len(members) > 1)
        reach = np.linalg.norm(own, axis=1).max()
        places[members] = own * (size / reach if reach > 0 else 0) + ring * np.array([np.cos(turn), np.sin(turn)])
    return places


def _circle(num_nodes: int) -> np.ndarray:
    turn = np.pi / 2 - 2 * np.pi * np.arange(num_nodes) / num_nodes
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def layout(graph: Graph, largest_spring: int = LARGEST_SPRING) -> tuple[np.ndarray, np.ndarray]:
    """Places of the nodes `[N, 2]` and one segment an undirected edge `[S, 2, 2]`, by the rules of `draw`.

    `largest_spring`: nodes from which on springs take too long, a second or two for 500.
    """
    sides = flat_sides(graph)
    if graph.positions is not None:
        places = np.asarray(graph.positions, np.float64)
    elif len(sides) == 2 and max(sides) > 2:
        return _plane(graph, sides)
    elif len(sides) == 1 or (graph.num_nodes <= LARGEST_CIRCLE and not _is_tree(graph)):
        places = _circle(graph.num_nodes)
    else:
        places = _spectral(graph)
        if graph.num_nodes <= largest_spring:
            places = _springs(graph, places)
    first, second = pairs_of(graph)
    return places, np.stack([places[first], places[second]], axis=1)


def flat_sides(graph: Graph) -> tuple[int, ...]:
    """The sides of a grid that are longer than one node."""
    return () if graph.grid is None else tuple(side for side in graph.grid if side > 1)


def _plane(graph: Graph, sides: tuple[int, int] | tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns; an edge that wraps around becomes a stub at each end."""
    ids = np.arange(graph.num_nodes)
    places = np.stack([ids % sides[1], sides[0] - 1.0 - ids // sides[1]], axis=1)
    box = np.array([sides[1], sides[0]])
    first, second = pairs_of(graph)
    step = places[second] - places[first]
    short = step - box * np.round(step / box)
    wraps = np.abs(step - short).max(axis=1) > 0
    inner = np.stack([places[first], places[second]], axis=1)[~wraps]
    stubs = [
        np.stack([places[ends], places[ends] + sign * 0.45 * short[wraps]], axis=1)
        for ends, sign in ((first[wraps], 1), (second[wraps], -1))
    ]
    return places, np.concatenate([inner, *stubs])


def pairs_of(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Each pair of linked nodes once, whichever way they are linked."""
    low, high = np.minimum(graph.senders, graph.receivers), np.maximum(graph.senders, graph.receivers)
    code = np.unique(low.astype(np.int64) * graph.num_nodes + high)
    return code // graph.num_nodes, code % graph.num_nodes


def _is_tree(graph: Graph) -> bool:
    """A forest large enough to have a shape, which a circle would hide."""
    return 4 < graph.num_nodes > len(pairs_of(graph)[0])


def _spectral(graph: Graph) -> np.ndarray:
    """Second and third eigenvectors of I + D^{-1/2} A D^{-1/2}, the slowest ways to disagree."""
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import eigsh

    first, second = pairs_of(graph)
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    root = 1 / np.sqrt(np.maximum(np.bincount(rows, minlength=graph.num_nodes), 1))
    scaled = coo_array((root[rows] * root[columns], (rows, columns)), shape=(graph.num_nodes,) * 2).tocsr()
    start = np.random.default_rng(0).standard_normal(graph.num_nodes)
    # Where few eigenvalues differ (a star) the iteration starts again at random, from 1.17 on with a generator of its own.
    seeded: dict[str, Any] = {}
    if "rng" in inspect.signature(eigsh).parameters:
        seeded["rng"] = np.random.default_rng(0)
    # A picture needs two digits, so the tolerance is loose.
    ncv = min(graph.num_nodes, 40)
    _, vectors = eigsh(scaled, k=3, which="LA", v0=start, tol=1e-3, ncv=ncv, maxiter=5000, **seeded)
    places = vectors[:, :2] * root[:, None]
    spread = np.abs(places).max(axis=0)
    return places / np.where(spread > 0, spread, 1)


def _springs(graph: Graph, places: np.ndarray, num_steps: int = 150) -> np.ndarray:
    """Force-directed placement: linked nodes pull with d^2 / k, all push with k^2 / d, in steps that grow smaller.

    Source: Fruchterman, Reingold, Graph drawing by force-directed placement, Software: Practice and Experience 21, 1991.
    """
    num_nodes = graph.num_nodes
    first, second = pairs_of(graph)
    ideal = 2 / np.sqrt(num_nodes)
    places = places + np.random.default_rng(0).normal(0, 0.05 * ideal, places.shape)  # parts twins
    for step in range(num_steps):
        apart = places[:, None] - places[None]
        squared = np.maximum((apart**2).sum(axis=2), 1e-6 * ideal**2)
        force = ideal**2 * (apart / squared[..., None]).sum(axis=1)
        pull = places[second] - places[first]
        pull *= np.linalg.norm(pull, axis=1, keepdims=True) / ideal
        np.add.at(force, first, pull)
        np.add.at(force, second, -pull)
        length = np.maximum(np.linalg.norm(force, axis=1, keepdims=True), 1e-12)
        places = places + force / length * np.minimum(length, 0.15 * (1 - step / num_steps))
    return places - places.mean(axis=0)
