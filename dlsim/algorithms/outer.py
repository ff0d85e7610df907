"""The outer half of DiLoCo: what replicas hold in common, and how the way they went apart moves it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.optimizers import node_optimizer, server_optimizer
from dlsim.core import Array, PyTree
from dlsim.networks.collectives.all_reduce import Collective
from dlsim.networks.network import Network

OVER = ("all_reduce", "gossip")


class Shared(NamedTuple):
    """The outer state of a model, or of a part of it: `[...]` after an all-reduce, `[N, ...]` over a graph."""

    params: PyTree  # phi
    optimizer_state: PyTree  # of the outer optimiser
    public: PyTree  # [N, ...] theta^_i, what the neighbours of i know of theta_i; () with an all-reduce
    mixed_public: PyTree  # [N, ...] sum_j W_ij theta^_j; () with an all-reduce


class OuterGradient(NamedTuple):
    """What an outer step goes along, and whether there is anything: nobody may have been there to send."""

    values: PyTree  # [...], or [N, ...] over a graph
    counts: Array  # bool [], or [N] over a graph


class Outer(NamedTuple):
    """How replicas agree, see `outer_half`."""

    init: Any  # (params [N, ...]) -> Shared
    reduce: Any  # (key, shared, replicas [N, ...], network, stream) -> (OuterGradient, shared, network)
    step: Any  # (key, shared, gradient, network) -> shared
    models: Any  # (phi) -> [1, ...], or [N, ...] over a graph
    nothing: Any  # (phi) -> an OuterGradient that does not count
    keep: Any  # (network, new, old) -> what of a state `[N, ...]` over a graph is kept by who is away
    requires: frozenset[str]
    is_one_model: bool = True  # phi is `[...]`


def outer_half(where: str, optimizer: Any, over: str | Collective, consensus_step_size: Any) -> Outer:
    """The outer gradient by an all-reduce or over a graph, and the outer optimiser's step along it.

        all_reduce:  G = mean_i C(phi - theta_i)                           over the replicas that are heard
        gossip:      q_i = C(theta_i - theta^_i)                           sent to the neighbours
                     theta^_i <- theta^_i + q_i,  s_i <- s_i + sum_j W_ij q_j
                     G_i = phi_i - theta_i - gamma (s_i - theta^_i)
        phi <- phi + U(G)                                                  U the update of the outer optimiser

    `over` a Collective: the mean by `Network.all_reduce`, with its hops, retries, bits and seconds.

    C is the network's channel.  Everyone takes what it sent itself as it went on the air, so that all agree.
    """
    checks.number(where, "consensus_step_size", consensus_step_size, 0.0, 1.0, open_minimum=True)
    if isinstance(over, Collective):
        if not over.owner_replaces:
            fix = "Replicas hold one phi."
            checks.fail(where, "over", "a collective that leaves all peers equal", "one whose owners keep theirs", fix)
        return _all_reduce(where, optimizer, over)
    checks.one_of(where, "over", over, OVER)
    if over == "all_reduce":
        return _all_reduce(where, optimizer, None)
    return _gossip(where, optimizer, consensus_step_size)


def _all_reduce(where: str, optimizer: Any, collective: Collective | None) -> Outer:
    import optax

    one = server_optimizer(where, optimizer, "outer_optimizer")

    def init(params: PyTree) -> Shared:
        model = jax.tree.map(lambda leaf: leaf[0], params)
        return Shared(model, one.init(model), (), ())

    def reduce(
        key: Array, shared: Shared, replicas: PyTree, network: Network, stream: str
    ) -> tuple[OuterGradient, Shared, Network]:
        apart = trees.subtract(shared.params, replicas)
        if collective is not None:
            reduced, network = network.all_reduce(key, apart, collective, stream=stream)
            return OuterGradient(reduced.value, reduced.succeeded), shared, network
        cohort = network.cohort  # who is not in it is absent
        arrival, network = network.replace(cohort=None).uplink(key, apart, stream=stream)
        network = network.replace(cohort=cohort)
        if network.is_present is None and not network.may_miss:
            return OuterGradient(trees.mean(arrival.values), jnp.ones((), bool)), shared, network
        # Weights of zero would not keep out the NaN of a replica that diverged and was not heard.
        heard = trees.select(arrival.mask, arrival.values, trees.zeros_like(arrival.values))
        mean = trees.mean(heard, arrival.mask.astype(float))
        return OuterGradient(mean, jnp.any(arrival.mask)), shared, network

    def step(key: Array, shared: Shared, gradient: OuterGradient, network: Network) -> Shared:
        del network
        updates, state = one.update(keys.stream(key, "outer"), gradient.values, shared.optimizer_state, shared.params)
        new = shared._replace(params=optax.apply_updates(shared.params, updates), optimizer_state=state)
        return trees.select(gradient.counts, new, shared)

    return Outer(
        init=init,
        reduce=reduce,
        step=step,
        models=lambda phi: trees.replicate(phi, 1),
        nothing=lambda phi: OuterGradient(trees.zeros_like(phi), jnp.zeros((), bool)),
        keep=lambda network, new, old: new,
        requires=frozenset({"server"} if collective is None else ()),
    )


def _gossip(where: str, optimizer: Any, consensus_step_size: Any) -> Outer:
    import optax

    nodes = node_optimizer(where, optimizer, "outer_optimizer")

    def init(params: PyTree) -> Shared:
        # Everyone knows where all start, and the mix of equal models is that model.
        return Shared(params, nodes.init(params), params, params)

    def reduce(
        key: Array, shared: Shared, replicas: PyTree, network: Network, stream: str
    ) -> tuple[OuterGradient, Shared, Network]:
        packet, network = network.send(key, trees.subtract(replicas, shared.public), stream=stream)
        public = trees.add(shared.public, packet.values)
        mixed = trees.add(shared.mixed_public, network.combine(packet))
        values = jax.tree.map(
            lambda phi, theta, s, h: (phi - theta - consensus_step_size * (s - h)).astype(phi.dtype),
            shared.params,
            replicas,
            mixed,
            public,
        )
        here = jnp.ones(network.num_nodes, bool) if network.is_present is None else network.is_present
        new = trees.select(network.is_present, shared._replace(public=public, mixed_public=mixed), shared)
        return OuterGradient(values, here), new, network

    def step(key: Array, shared: Shared, gradient: OuterGradient, network: Network) -> Shared:
        updates, state = nodes.update(
            keys.stream(key, "outer"), network.node_ids, gradient.values, shared.optimizer_state, shared.params
        )
        new = shared._replace(params=optax.apply_updates(shared.params, updates), optimizer_state=state)
        here = network.is_present
        return trees.select(gradient.counts if here is None else gradient.counts & here, new, shared)

    def nothing(phi: PyTree) -> OuterGradient:
        return OuterGradient(trees.zeros_like(phi), jnp.zeros(jax.tree.leaves(phi)[0].shape[0], bool))

    return Outer(
        init=init,
        reduce=reduce,
        step=step,
        models=lambda phi: phi,
        nothing=nothing,
        keep=lambda network, new, old: trees.select(network.is_present, new, old),
        requires=frozenset(
            {"common_start", "fixed_topology", "connected", "undirected", "symmetric", "row_stochastic"}
        ),
        is_one_model=False,
    )
