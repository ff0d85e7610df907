"""Random topologies.  `name_graph` draws the edges, `name` gives a Network over them.

The same seed gives the same graph.  `connected=True` draws again until the graph is connected, which is the model's
own distribution given that it is; after `MAX_TRIES` draws it gives up.  Memory and time are linear in nodes and edges.
All take `num_nodes`, and `weights` and `lowering` as `connect` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.graph import Graph, graph
from dlsim.networks.graphs.spectral import is_connected
from dlsim.networks.graphs.topologies import Weights
from dlsim.networks.network import Network, connect
from dlsim.networks.pace.sizes import check_size

MAX_TRIES = 50
_MAX_REPAIRS = 200
_STRUCTURE = "It shapes the graph: sweep it as structure."
_REDRAWN_DEGREE = 3  # a pairing is simple with probability exp(-(d^2 - 1) / 4): 0.14 for 3, 0.02 for 4


def random_regular_graph(num_nodes: int, degree: int, *, seed: int = 0, connected: bool = True) -> Graph:
    """Every node has `degree` neighbours: stubs paired at random, loops and double edges removed by edge swaps.

    Uniform over such graphs for degrees up to 3 (and N - 4 and up), where bad pairings are drawn anew; nearly so beyond,
    where swaps touch some degree^2 / 2 edges, whatever N.
    """
    where = "random_regular"
    checks.integer(where, "num_nodes", num_nodes, 1)
    checks.flag(where, "connected", connected)
    checks.integer(where, "degree", degree, 0, num_nodes - 1)
    check_size(where, num_nodes, num_nodes * degree)
    if num_nodes * degree % 2:
        fix = f"Use degree={degree - 1} or degree={degree + 1}, or an even num_nodes."
        checks.fail(where, "degree", f"even for an odd num_nodes ({num_nodes})", degree, fix)
    if connected and degree < min(2, num_nodes - 1):
        fix = "Use degree=2 or more, or connected=False."
        checks.fail(where, "degree", f"at least {min(2, num_nodes - 1)} for a connected graph", degree, fix)

    def draw(rng: np.random.Generator) -> Graph:
        if connected and degree == 2:  # a connected one is a single cycle, which pairing finds once in sqrt(N) draws
            order = rng.permutation(num_nodes)
            return graph(num_nodes, order, np.roll(order, 1))
        if 2 * degree < num_nodes:
            return graph(num_nodes, *_regular_pairs(rng, num_nodes, degree))
        missing = _codes(*_regular_pairs(rng, num_nodes, num_nodes - 1 - degree))
        every = np.delete(np.arange(num_nodes * (num_nodes - 1) // 2), missing)
        return graph(num_nodes, *_decode(every))

    return _sample(where, draw, seed, connected, "Use a larger degree, or connected=False.")


def erdos_renyi_graph(num_nodes: int, probability: float, *, seed: int = 0, connected: bool = True) -> Graph:
    """G(n, p): each of the N (N - 1) / 2 pairs is an edge with `probability`, independently."""
    checks.integer("erdos_renyi", "num_nodes", num_nodes, 1)
    probability = _known("erdos_renyi", "probability", probability)
    num_pairs = num_nodes * (num_nodes - 1) // 2
    check_size("erdos_renyi", num_nodes, round(2 * num_pairs * probability))
    threshold = math.log(num_nodes) / num_nodes
    return _sample(
        "erdos_renyi",
        lambda rng: graph(num_nodes, *_decode(_bernoulli(rng, num_pairs, probability))),
        seed,
        connected,
        f"Use probability={min(2 * threshold, 1):.2g} (twice log(N)/N) or more, or connected=False.",
    )


def watts_strogatz_graph(
    num_nodes: int, degree: int, probability: float, *, seed: int = 0, connected: bool = True
) -> Graph:
    """A ring lattice of even `degree`, each edge with `probability` moved at one end to a random node."""
    where = "watts_strogatz"
    checks.integer(where, "num_nodes", num_nodes, 1)
    checks.integer(where, "degree", degree, 0, num_nodes - 1)
    probability = _known(where, "probability", probability)
    if degree % 2:
        checks.fail(where, "degree", "even", degree, f"Use degree={degree + 1} or degree={degree - 1}.")
    check_size(where, num_nodes, num_nodes * degree)

    def draw(rng: np.random.Generator) -> Graph:
        near = np.tile(np.arange(num_nodes), degree // 2)
        far = (near + np.repeat(np.arange(1, degree // 2 + 1), num_nodes)) % num_nodes
        waiting = np.flatnonzero(rng.random(len(near)) < probability)
        taken = np.unique(_codes(near, far))  # the lattice's places stay taken: no move lands on one
        for _ in range(_MAX_REPAIRS):
            target = rng.integers(0, num_nodes, len(waiting))
            code = _codes(near[waiting], target)
            is_free = (near[waiting] != target) & ~_contains(taken, code) & _is_first(code)
            far[waiting[is_free]] = target[is_free]
            taken = np.union1d(taken, code[is_free])
            waiting = waiting[~is_free]
            if not len(waiting):
                break
        return graph(num_nodes, near, far)  # those still waiting found no free place and stay where they were

    return _sample(where, draw, seed, connected, "Use a larger degree, or connected=False.")


def barabasi_albert_graph(num_nodes: int, num_links: int, *, seed: int = 0) -> Graph:
    """Nodes arrive one by one and link to `num_links` distinct earlier nodes, drawn in proportion to their degrees.

    The first `num_links + 1` nodes form a star.  Always connected.
    """
    checks.integer("barabasi_albert", "num_nodes", num_nodes, 2)
    m = checks.integer("barabasi_albert", "num_links", num_links, 1, num_nodes - 1)
    check_size("barabasi_albert", num_nodes, 2 * m * (num_nodes - m))
    rng = _generator("barabasi_albert", seed)
    ends = [end for leaf in range(1, m + 1) for end in (0, leaf)]  # every node as often as its degree
    spare: list[float] = []
    for node in range(m + 1, num_nodes):
        size = len(ends)
        chosen: list[int] = []
        while len(chosen) < m:
            if not spare:
                spare = rng.random(4 * m + 100_000).tolist()
            target = ends[int(spare.pop() * size)]
            if target not in chosen:
                chosen.append(target)
        for target in chosen:
            ends += (node, target)
    return graph(num_nodes, np.array(ends[::2]), np.array(ends[1::2]))


def random_geometric_graph(
    num_nodes: int, radius: float | None = None, *, seed: int = 0, connected: bool = True
) -> Graph:
    """Nodes uniform in the unit square, linked within `radius` (default sqrt(2 log N / (pi N)), mean degree 2 log N)."""
    checks.integer("random_geometric", "num_nodes", num_nodes, 1)
    default = math.sqrt(2 * math.log(max(num_nodes, 2)) / (math.pi * num_nodes))
    reach = default
    if radius is not None:
        checks.known("random_geometric", "radius", radius, fix=_STRUCTURE)
        reach = float(checks.number("random_geometric", "radius", radius, 0.0, open_minimum=True))
    # A quarter of the disc lies in the square wherever its centre is, if it is no wider than the square.
    least = min(math.pi * min(reach, 0.5) ** 2 / 4, 1.0)
    check_size("random_geometric", num_nodes, round(num_nodes * (num_nodes - 1) * least))

    def draw(rng: np.random.Generator) -> Graph:
        from scipy.spatial import cKDTree

        positions = rng.random((num_nodes, 2))
        pairs = cKDTree(positions).query_pairs(reach, output_type="ndarray")
        return graph(num_nodes, pairs[:, 0], pairs[:, 1], positions=positions)

    fix = f"Use radius={1.3 * max(default, reach):.2g} or more, or connected=False."
    return _sample("random_geometric", draw, seed, connected, fix)


def stochastic_block_graph(
    num_nodes: int,
    num_blocks: int | Sequence[int],
    within: float,
    between: float,
    *,
    seed: int = 0,
    connected: bool = True,
) -> Graph:
    """Blocks of nodes in a row; a pair is an edge with probability `within` a block and `between` blocks.

    `num_blocks` blocks as equal as can be, or a sequence of their sizes.
    """
    where = "stochastic_block"
    checks.integer(where, "num_nodes", num_nodes, 1)
    within, between = _known(where, "within", within), _known(where, "between", between)
    if isinstance(num_blocks, int | np.integer):
        count = checks.integer(where, "num_blocks", num_blocks, 1, num_nodes)
        sizes = np.full(count, num_nodes // count) + (np.arange(count) < num_nodes % count)
    else:
        rule = "a number of blocks, or a sequence of their sizes"
        blocks = checks.sequence(where, "num_blocks", num_blocks, rule)
        sizes = np.array(checks.integers(where, "num_blocks", blocks, minimum=1), np.int64)
        if sizes.sum() != num_nodes:
            checks.fail(where, "num_blocks", f"sizes that sum to {num_nodes}", f"{sizes.tolist()} (sum {sizes.sum()})")
    inside = int((sizes * (sizes - 1)).sum())
    check_size(where, num_nodes, round(inside * within + (num_nodes * (num_nodes - 1) - inside) * between))
    block_of = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.cumsum(sizes) - sizes

    def draw(rng: np.random.Generator) -> Graph:
        first, second = _decode(_bernoulli(rng, num_nodes * (num_nodes - 1) // 2, between))
        crosses = block_of[first] != block_of[second]
        pairs = [np.stack([first[crosses], second[crosses]])]
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            pairs.append(start + np.stack(_decode(_bernoulli(rng, size * (size - 1) // 2, within))))
        return graph(num_nodes, *np.concatenate(pairs, axis=1))

    return _sample(where, draw, seed, connected, "Use larger probabilities, or connected=False.")


def random_regular(
    num_nodes: int,
    degree: int,
    *,
    seed: int = 0,
    connected: bool = True,
    weights: Weights = "metropolis_hastings",
    lowering: str = "auto",
) -> Network:
    """A random graph in which every node has `degree` neighbours; an expander from degree 3 on.

    Source: Bollobas, A probabilistic proof of an asymptotic formula for the number of labelled regular graphs, European
      Journal of Combinatorics 1, 1980 (the pairing model).  Differs: above degree 3, bad pairs are swapped away, not
      drawn anew.
    """
    return connect(random_regular_graph(num_nodes, degree, seed=seed, connected=connected), weights, lowering)


def erdos_renyi(
    num_nodes: int,
    probability: float,
    *,
    seed: int = 0,
    connected: bool = True,
    weights: Weights = "metropolis_hastings",
    lowering: str = "auto",
) -> Network:
    """G(n, p): each pair is linked with `probability`, independently.

    Source: Gilbert, Random graphs, Annals of Mathematical Statistics 30, 1959.
    """
    return connect(erdos_renyi_graph(num_nodes, probability, seed=seed, connected=connected), weights, lowering)


def watts_strogatz(
    num_nodes: int,
    degree: int,
    probability: float,
    *,
    seed: int = 0,
    connected: bool = True,
    weights: Weights = "metropolis_hastings",
    lowering: str = "auto",
) -> Network:
    """A small world: a ring lattice of even `degree` with each edge moved at one end with `probability`.

    Source: Watts, Strogatz, Collective dynamics of small-world networks, Nature 393, 1998.  Differs: all moves are drawn
      at once, and none lands on a place of the lattice.
    """
    one = watts_strogatz_graph(num_nodes, degree, probability, seed=seed, connected=connected)
    return connect(one, weights, lowering)


def barabasi_albert(
    num_nodes: int,
    num_links: int,
    *,
    seed: int = 0,
    weights: Weights = "metropolis_hastings",
    lowering: str = "auto",
) -> Network:
    """Preferential attachment: each new node links to `num_links` others; a few hubs, degrees with a tail of power -3.

    Source: Barabasi, Albert, Emergence of scaling in random networks, Science 286, 1999.
    """
    return connect(barabasi_albert_graph(num_nodes, num_links, seed=seed), weights, lowering)


def random_geometric(
    num_nodes: int,
    radius: float | None = None,
    *,
    seed: int = 0,
    connected: bool = True,
    weights: Weights = "metropolis_hastings",
    lowering: str = "auto",
) -> Network:
    """Nodes uniform in the unit square that hear each other within `radius`: radios.

    Source: Gupta, Kumar, Critical power for asymptotic connectivity in wireless networks, 1998 (the default radius is
      sqrt 2 times their threshold).
    """
    return connect(random_geometric_graph(num_nodes, radius, seed=seed, connected=connected), weights, lowering)


def stochastic_block(
    num_nodes: int,
    num_blocks: int | Sequence[int],
    within: float,
    between: float,
    *,
    seed: int = 0,
    connected: bool = True,
    weights: Weights = "metropolis_hastings",
    lowering: str = "auto",
) -> Network:
    """Communities: pairs are linked with probability `within` one of `num_blocks` blocks and `between` blocks.

    Source: Holland, Laskey, Leinhardt, Stochastic blockmodels: first steps, Social Networks 5, 1983.
    """
    one = stochastic_block_graph(num_nodes, num_blocks, within, between, seed=seed, connected=connected)
    return connect(one, weights, lowering)


def _known(where: str, argument: str, probability: float) -> float:
    """A probability that shapes the graph, so that it cannot be a tracer."""
    checks.probability(where, argument, probability)
    checks.known(where, argument, probability, fix=_STRUCTURE)
    return float(probability)


def _generator(where: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(checks.integer(where, "seed", seed, 0, limit=2**64 - 1))


def _sample(where: str, draw: Callable[[np.random.Generator], Graph], seed: int, connected: bool, fix: str) -> Graph:
    rng = _generator(where, seed)
    checks.flag(where, "connected", connected)
    for _ in range(MAX_TRIES):
        one = draw(rng)
        if not connected or is_connected(one):
            return one
    checks.fail(where, "the graph", "connected", f"{MAX_TRIES} disconnected draws", fix)
    raise AssertionError


def _regular_pairs(rng: np.random.Generator, num_nodes: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the N degree / 2 edges of a simple regular graph, degree at most N / 2."""
    while True:
        first, second = rng.permutation(np.repeat(np.arange(num_nodes), degree)).reshape(2, -1)
        for _ in range(_MAX_REPAIRS):
            code = _codes(first, second)
            is_bad = (first == second) | ~_is_first(code)
            bad = np.flatnonzero(is_bad)
            if not len(bad):
                return first, second
            if degree <= _REDRAWN_DEGREE:
                break
            good = np.flatnonzero(~is_bad)
            bad = bad[: len(good)]
            partner = rng.choice(good, len(bad), replace=False)
            # (a, b), (c, d) become (a, d), (c, b) where both are new; so every pass leaves fewer bad edges.
            ends = np.concatenate([second[partner], second[bad]])
            new = _codes(np.concatenate([first[bad], first[partner]]), ends)
            is_new = (np.concatenate([first[bad], first[partner]]) != ends) & ~_contains(np.sort(code), new)
            is_new = (is_new & _is_first(new)).reshape(2, -1).all(axis=0)
            bad, partner = bad[is_new], partner[is_new]
            second[bad], second[partner] = second[partner], second[bad]


def _bernoulli(rng: np.random.Generator, num: int, probability: float) -> np.ndarray:
    """Those of 0..num-1 that come up, each with `probability`: sums of geometric gaps, so it costs what comes up."""
    if num == 0 or probability <= 0:
        return np.zeros(0, np.int64)
    batch = int(num * probability + 4 * math.sqrt(num * probability) + 16)
    found, last = [], -1
    while last < num:
        # A gap past the end is as good as any longer one, and keeps the sum within 64 bits.
        places = last + np.cumsum(np.minimum(rng.geometric(probability, batch), num + 1))
        found.append(places[places < num])
        last = int(places[-1])
    return np.concatenate(found)


def _codes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pairs as numbers: for a < b, b (b - 1) / 2 + a; what a loop gets means nothing."""
    low, high = np.minimum(first, second).astype(np.int64), np.maximum(first, second).astype(np.int64)
    return high * (high - 1) // 2 + low


def _decode(code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs a < b of `_codes`."""
    high = ((1 + np.sqrt(1 + 8 * code.astype(np.float64))) / 2).astype(np.int64)
    high -= high * (high - 1) // 2 > code  # the root may be rounded to the next integer
    high += high * (high + 1) // 2 <= code
    return code - high * (high - 1) // 2, high


def _is_first(code: np.ndarray) -> np.ndarray:
    """Whether each entry is the first of its value."""
    mask = np.zeros(len(code), bool)
    mask[np.unique(code, return_index=True)[1]] = True
    return mask


def _contains(ordered: np.ndarray, code: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(ordered, code), max(len(ordered) - 1, 0))
    return ordered[place] == code if len(ordered) else np.zeros(len(code), bool)
