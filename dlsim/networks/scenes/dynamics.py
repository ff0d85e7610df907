"""Topologies that change from round to round, as scenarios."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Scenario
from dlsim.networks.graphs.graph import Graph
from dlsim.networks.graphs.padding import lengthen, widen
from dlsim.networks.graphs.periods import check_dwell
from dlsim.networks.graphs.spectral import is_connected
from dlsim.networks.network import Network, host_graph
from dlsim.problems.sampling import batch_positions

MODES = ("oracle", "local")
_TOPOLOGY = (
    "senders",
    "receivers",
    "edge_weights",
    "self_weights",
    "out_degrees",
    "in_degrees",
    "neighbors",
    "neighbor_edges",
    "neighbor_weights",
)


def time_varying(
    networks: Sequence[Network], *, dwell_rounds: Sequence[int] | None = None, cycle: bool = True
) -> Scenario:
    """Round t takes place on `networks[t mod P]`: same nodes, other links and weights.

    With dwell times d_1, ..., d_P the first holds for d_1 rounds, the second for the next d_2, and so on; a period is then
    their sum.  Without `cycle` the last network stays once its turn has come.  `dlsim.networks.period_gap` says how fast
    a period mixes.

    The topologies are data of one program, padded to the same number of edges and neighbours; mixing gathers padded
    neighbours.  The scenario has the properties that all P share, and is connected if their union is.  Give `learn` any
    of the networks, for its channel and links.

    Args:
      networks: one or more networks of the same nodes in the same order, such as `one_peer_exponential(N)` or
        `base_graph(N, k)`.
      dwell_rounds: how many rounds each is held, `[P]` integers >= 1, structural; default one.
      cycle: whether the first follows the last (structural), else the last stays for good.
    """
    where = "time_varying"
    networks = checks.sequence(where, "networks", networks, "one or more Networks")
    if not networks or not all(isinstance(network, Network) for network in networks):
        got = ", ".join(type(network).__name__ for network in networks) or "none"
        checks.fail(where, "networks", "one or more Networks", got)
    checks.known(where, "networks", networks, "known values", "Sweep which of them as structure.")
    sizes = sorted({network.num_nodes for network in networks})
    if len(sizes) > 1:
        checks.fail(where, "networks", "of one size", f"sizes {sizes}")
    if any(network.is_implicit for network in networks):
        checks.fail(where, "networks", "networks that list their edges", "a large complete graph")
    order = np.asarray(networks[0].node_ids)
    if not all(np.array_equal(network.node_ids, order) for network in networks):
        checks.fail(where, "networks", "of the same nodes in the same order", "other orders of nodes")
    dwell = check_dwell(where, dwell_rounds, len(networks))
    checks.flag(where, "cycle", cycle)
    turns = np.repeat(np.arange(len(networks), dtype=np.int32), dwell)  # whose turn it is, [rounds of a period]
    stacked = _stacked(networks)
    properties = frozenset.intersection(*(network.properties for network in networks)) - {"connected"}
    if _is_union_connected(networks):
        properties |= {"connected"}

    def init(key: Array, network: Network) -> Array:
        del key
        if network.num_nodes != sizes[0]:
            checks.fail(where, "networks", f"of the {network.num_nodes} nodes of the run", f"{sizes[0]} nodes")
        if checks.is_concrete(network.node_ids) and not np.array_equal(network.node_ids, order):
            fix = "Relabel every one of them as the run's network is."
            checks.fail(where, "networks", "in the order of the run's network", "another order of nodes", fix)
        return jnp.zeros((), jnp.int32)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        del key
        turn = state % len(turns) if cycle else jnp.minimum(state, len(turns) - 1)
        if dwell_rounds is not None:
            turn = jnp.asarray(turns)[turn]
        now = {name: values[turn] for name, values in stacked.items()}
        check_first(where, network)
        network = network.replace(
            **{"is_edge": None, **now},
            matrix=None,
            lowering="neighbors",
            grid=None,
            offsets=None,
            labels=None,
            properties=properties,
        )
        return state + 1, network

    return Scenario(init=init, step=step, properties=properties)


def check_first(where: str, network: Network) -> None:
    """Nobody has taken links away yet, of a topology that is about to be replaced, or ValueError."""
    if network.is_linked is not None:
        checks.fail(where, "place", "before scenarios that take links away", "after one", "Put it first in chain().")


def _stacked(networks: Sequence[Network]) -> dict[str, Array]:
    """The arrays of all topologies `[P, ...]`, padded to one width and one number of edges."""
    width = max(int(np.asarray(network.in_degrees).max(initial=0)) for network in networks)
    longest = max(network.num_edges for network in networks)
    names = list(_TOPOLOGY)
    # Arrays, not tracers, also where an experiment is built inside a traced function.
    with jax.ensure_compile_time_eval():
        alike = [widen(network, width) for network in networks]
        if any(network.num_edges < longest for network in networks):
            alike = [lengthen(network, longest) for network in alike]
            names.append("is_edge")
        return {name: jnp.stack([getattr(network, name) for network in alike]) for name in names}


def _is_union_connected(networks: Sequence[Network]) -> bool:
    graphs = [host_graph(network) for network in networks]
    senders, receivers = (np.concatenate([getattr(g, name) for g in graphs]) for name in ("senders", "receivers"))
    return is_connected(Graph(graphs[0].num_nodes, senders, receivers, is_directed=True))


def epidemic(out_degree: int, mode: str = "oracle") -> Scenario:
    """Epidemic Learning's topologies: every round each node sends to `out_degree` = s random others.

    `oracle` (EL-Oracle): a random s-regular directed graph, weights 1/(s+1), doubly stochastic.  Nodes stand in a fresh
    random circle and hear those at s distinct random distances, so every pair of others is heard together as often as
    in a uniformly drawn regular graph, which is what the method's rate depends on.
    `local` (EL-Local): each node draws its own s receivers; a node averages what it happens to hear with its own,
    weights 1 / (1 + heard), row stochastic.

    Run `dsgd` under it for Epidemic Learning.  `local` is what an ideal service of peer sampling gives: k uniformly random
    others a round; `dlsim.networks.peer_sampling` is such a service as nodes run it.

    Args:
      out_degree: s, structural, at most N - 1.
      mode: `"oracle"` or `"local"`; structural.
    Source: de Vos et al., Epidemic learning: boosting decentralized learning with randomized communication, NeurIPS
      2023, Algorithm 1.  Differs: the oracle's regular graph is drawn as said above, not by a pairing model.
    """
    checks.integer("epidemic", "out_degree", out_degree, 1)
    checks.one_of("epidemic", "mode", mode, MODES)
    names = {"connected", "row_stochastic"}
    names |= {"column_stochastic", "doubly_stochastic"} if mode == "oracle" else set()
    properties = frozenset(names)
    draw = _oracle if mode == "oracle" else _local

    def init(key: Array, network: Network) -> tuple[()]:
        del key
        if out_degree >= network.num_nodes:
            checks.fail("epidemic", "out_degree", f"below the number of nodes, {network.num_nodes}", out_degree)
        return ()

    def step(key: Array, state: tuple[()], network: Network) -> tuple[tuple[()], Network]:
        check_first("epidemic", network)
        fresh = network.replace(is_edge=None, matrix=None, grid=None, offsets=None, labels=None, properties=properties)
        return state, draw(key, fresh, out_degree)

    return Scenario(init=init, step=step, source="de Vos et al., NeurIPS 2023", properties=properties)


def _oracle(key: Array, network: Network, degree: int) -> Network:
    num = network.num_nodes
    heard = drawn_regular(key, network.node_ids, degree)
    edges = jnp.arange(num * degree, dtype=jnp.int32).reshape(num, degree)
    weight = jnp.asarray(1 / (degree + 1), network.self_weights.dtype)
    degrees = jnp.full(num, degree, jnp.uint32)
    return network.replace(
        senders=heard.reshape(-1),
        receivers=jnp.repeat(jnp.arange(num, dtype=jnp.int32), degree),
        edge_weights=jnp.full(num * degree, weight),
        self_weights=jnp.full(num, weight),
        out_degrees=degrees,
        in_degrees=degrees,
        neighbors=heard,
        neighbor_edges=edges,
        neighbor_weights=jnp.full((num, degree), weight),
        lowering="neighbors",
    )


def drawn_regular(key: Array, ids: Array, degree: int) -> Array:
    """A random directed graph of all in- and out-degrees `degree`: the other ends of each node's links, int32 `[n, degree]`.

    Positions, distinct in a row.  Nodes stand in a random circle and are linked to those at random distances.
    """
    num = ids.shape[0]
    circle = jnp.argsort(keys.node_bits(keys.stream(key, "circle"), ids, 1)[:, 0])
    place = jnp.zeros(num, jnp.int32).at[circle].set(jnp.arange(num, dtype=jnp.int32), unique_indices=True)
    _, distances = jax.lax.top_k(jax.random.bits(keys.stream(key, "distances"), (num - 1,), jnp.uint32), degree)
    return circle[(place[:, None] + 1 + distances[None, :]) % num].astype(jnp.int32)


def _local(key: Array, network: Network, degree: int) -> Network:
    num, ids = network.num_nodes, network.node_ids
    # Receivers are drawn among the other ids; then ids are turned into the positions of this run.
    others = batch_positions(key, ids, jnp.full(num, num - 1), degree)
    chosen = others + (others >= ids[:, None])
    place = jnp.zeros(num, jnp.int32).at[ids].set(jnp.arange(num, dtype=jnp.int32), unique_indices=True)
    return sending_to(network, place[chosen])


def sending_to(network: Network, chosen: Array) -> Network:
    """The network on which each node sends to the nodes `chosen` `[N, k]` and averages what it hears with its own."""
    num, degree = chosen.shape
    receivers, senders = chosen.reshape(-1), jnp.repeat(jnp.arange(num, dtype=jnp.int32), degree)
    order = jnp.argsort(receivers, stable=True)
    receivers, senders = receivers[order], senders[order]
    heard = jax.ops.segment_sum(jnp.ones(num * degree, jnp.uint32), receivers, num, indices_are_sorted=True)
    share = (1 / (1 + heard)).astype(network.self_weights.dtype)
    return network.replace(
        senders=senders,
        receivers=receivers,
        edge_weights=share[receivers],
        self_weights=share,
        out_degrees=jnp.full(num, degree, jnp.uint32),
        in_degrees=heard,
        neighbors=None,
        neighbor_edges=None,
        neighbor_weights=None,
        lowering="edges",
    )
