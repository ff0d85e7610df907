"""DiLoCo: many local steps, then one outer step along the mean way; also with that step one round late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dlsim import trees
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.outer import Outer, OuterGradient, Shared, outer_half
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.collectives.all_reduce import Collective
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax

SOURCE = "Douillard et al., DiLoCo, 2023"


class DiLoCoState(NamedTuple):
    shared: Shared
    optimizer_state: PyTree  # [N, ...] of the inner optimiser


class AsyncDiLoCoState(NamedTuple):
    shared: Shared
    pending: OuterGradient  # of the round before, in flight while the replicas train
    optimizer_state: PyTree  # [N, ...]


def diloco(
    problem: Problem,
    inner_optimizer: optax.GradientTransformation,
    *,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_local_steps: int = 30,
    over: str | Collective = "all_reduce",
    consensus_step_size: Any = 1.0,
) -> Algorithm:
    """DiLoCo: replicas train for H steps from the shared parameters phi, which then take one step along the mean way.

        theta_i = phi, then H steps of the inner optimiser, whose state goes on from round to round
        G       = mean_i C(phi - theta_i)                  the outer gradient, C the network's channel
        v      <- mu v + G;   phi <- phi - eta (mu v + G)  the outer optimiser: SGD with Nesterov momentum

    This is `fedavg` whose clients keep their optimisers and which sends no model down: every replica makes phi of what
    all sent.  With H = 1, inner SGD, eta = 1 and mu = 0 it is data-parallel SGD.  `params` are phi.

    Args:
      problem: what the replicas learn, each on its own data.
      inner_optimizer: one state a replica, kept; its schedules count local steps; floats may be traced.
      outer_optimizer: receives G, kept; default `optax.sgd(0.7, momentum=0.9, nesterov=True)`.
      num_local_steps: H, structural.
      over: `"all_reduce"`, by a server that counts a message a replica; a `dlsim.networks.collective()`, for the mean by
        `Network.all_reduce`: a ring or a butterfly with its hops, bits and seconds, retried when replicas die on the way
        (`peer_churn`), phi left as it is where fewer than two are left; or `"gossip"`, for which every replica has a
        phi_i of its own and hears its neighbours alone:

            q_i = C(theta_i - theta^_i);  theta^_i <- theta^_i + q_i;  s_i <- s_i + sum_j W_ij q_j
            G_i = phi_i - theta_i - gamma (s_i - theta^_i)

        from theta^ = s = phi.  theta^_i is the copy of theta_i that all neighbours have, so that what is sent is small
        and stands compression, and the mean of the G_i is that of phi_i - theta_i whatever C does
        (`invariant_outer_gradient`).  On the complete graph with gamma = 1 and nothing compressed it is the all-reduce;
        with eta = 1 and mu = 0 D-SGD with H local steps (adapt, then combine).  Structural.
      consensus_step_size: gamma in (0, 1], traced; for gossip.

    A replica that is away sends nothing, the mean is over those that are heard, and who comes back starts from phi; with
    nobody there phi and its momentum stay.  That fetch of phi is not counted.
    Cost per round: H gradients a replica; a message of D numbers each, counted once, at the sender (an all-gather sends
      N - 1 copies of it), with gossip one a neighbour.  State: phi and v once; with gossip 4 D a replica more.
    Source: Douillard et al., DiLoCo: Distributed low-communication training of language models, 2023.  Gossip in place of
      the all-reduce is ours, after Koloskova et al., ICLR 2020 (CHOCO-SGD).
    """
    outer = outer_half("diloco", _outer(outer_optimizer, 0.9), over, consensus_step_size)
    local = local_updates(problem, inner_optimizer, num_local_steps, where="diloco", argument="inner_optimizer")

    def init(key: Array, params: PyTree, network: Network) -> DiLoCoState:
        del key, network
        return DiLoCoState(outer.init(params), local.init(params))

    def step(key: Array, state: DiLoCoState, network: Network) -> tuple[DiLoCoState, Network, Info]:
        theta, optimizer_state, info = _train(key, outer, local, state, network)
        gradient, shared, network = outer.reduce(key, state.shared, theta, network, "outer_gradient")
        shared = outer.step(key, shared, gradient, network)
        return DiLoCoState(shared, optimizer_state), network, info

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: outer.models(state.shared.params),
        requires=outer.requires,
        lets_relay=True,
        source=SOURCE,
    )


def async_diloco(
    problem: Problem,
    inner_optimizer: optax.GradientTransformation,
    *,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_local_steps: int = 8,
    over: str | Collective = "all_reduce",
    consensus_step_size: Any = 1.0,
) -> Algorithm:
    """Asynchronous DiLoCo: the reduce of one round runs while the next one trains, so phi is one round late.

        theta_i = phi^t, then H steps of the inner optimiser
        G^t     = mean_i C(phi^t - theta_i)          under way during round t + 1
        phi^(t+1) = phi^t + U(G^(t-1))               nothing in the first round

    In a field of constant gradients phi^t is `diloco`'s phi^(t-1).  What is in flight when a run ends is not applied.

    Args:
      problem, inner_optimizer, over, consensus_step_size: as in `diloco`.
      outer_optimizer: receives G, kept; default `optax.sgd(0.7)`: with momentum the delay is unstable.
      num_local_steps: H, structural.

    A replica that was away for the reduce has no part in it and goes on from phi.  Over a graph one that is away when its
    G_i is due applies it when it is back.
    Cost per round: as `diloco`, and one more D of state; simulated seconds add up all the same: the overlap of the reduce
      with computing is not in them.
    Source: Keiblinger et al., Prime Collective Communications Library, technical report, 2025.
    """
    outer = outer_half("async_diloco", _outer(outer_optimizer, None), over, consensus_step_size)
    local = local_updates(problem, inner_optimizer, num_local_steps, where="async_diloco", argument="inner_optimizer")

    def init(key: Array, params: PyTree, network: Network) -> AsyncDiLoCoState:
        del key, network
        shared = outer.init(params)
        return AsyncDiLoCoState(shared, outer.nothing(shared.params), local.init(params))

    def step(key: Array, state: AsyncDiLoCoState, network: Network) -> tuple[AsyncDiLoCoState, Network, Info]:
        theta, optimizer_state, info = _train(key, outer, local, state, network)
        gradient, shared, network = outer.reduce(key, state.shared, theta, network, "outer_gradient")
        shared = outer.step(key, shared, state.pending, network)
        pending = outer.keep(network, gradient, state.pending)
        return AsyncDiLoCoState(shared, pending, optimizer_state), network, info

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: outer.models(state.shared.params),
        requires=outer.requires,
        lets_relay=True,
        source="Keiblinger et al., PCCL, 2025",
    )


def _outer(optimizer: optax.GradientTransformation | None, momentum: float | None) -> optax.GradientTransformation:
    import optax

    return optax.sgd(0.7, momentum=momentum, nesterov=momentum is not None) if optimizer is None else optimizer


def _train(
    key: Array, outer: Outer, local: Any, state: DiLoCoState | AsyncDiLoCoState, network: Network
) -> tuple[PyTree, PyTree, Info]:
    """theta after H local steps from phi, `[N, ...]`."""
    phi = state.shared.params
    if outer.is_one_model:
        phi = trees.replicate(phi, network.num_nodes)
    return local.run(key, phi, state.optimizer_state, network.node_ids, network.trainers)


def invariant_outer_gradient(state: DiLoCoState | AsyncDiLoCoState) -> PyTree:
    """Over a graph, the mean of s_i minus the mean of theta^_i, `[...]`: zero up to rounding."""
    return trees.subtract(trees.mean(state.shared.mixed_public), trees.mean(state.shared.public))
