"""CHOCO-SGD: gossip with compressed differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from dlsim import checks, trees
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.weighting import weighted
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class ChocoSGDState(NamedTuple):
    params: PyTree  # [N, ...] x_i
    public: PyTree  # [N, ...] x^_i, the copy of x_i that everyone can rebuild
    mixed_public: PyTree  # [N, ...] s_i = sum_j W_ij x^_j
    optimizer_state: PyTree  # [N, ...]


def choco_sgd(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    consensus_step_size: Any = 1.0,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
    weighting: str = "uniform",
) -> Algorithm:
    """CHOCO-SGD, in its memory-efficient form.  The compressor C is the network's channel.

        x_i  <- x_i + u(g_i(x_i))                    K local steps
        q_i   = C(x_i - x^_i)                        sent to the neighbours
        x^_i <- x^_i + q_i
        s_i  <- s_i + sum_j W_ij q_j
        x_i  <- x_i + gamma (s_i - x^_i)

    from x^ = s = 0.  With a channel that changes nothing and gamma = 1 this is adapt-then-combine D-SGD.

    Args:
      problem: what the nodes learn.
      optimizer: the local optimiser; floats may be traced.
      consensus_step_size: gamma in (0, 1], traced; the stronger the compression, the smaller: it diverges otherwise.
      num_local_steps: K, structural.
      num_local_epochs: E, in place of K: a node goes E times through its own data, see `local_updates`; structural.
      weighting: `"uniform"` (the mean of the f_i), or `"examples"` (the mean over all data: gradients of f_i are taken
        n_i / mean(n) times); structural.

    Assumes: connected network, symmetric doubly stochastic weights, a channel that compresses (`top_k`, `quantize`; no
      error feedback on top, the public copies are one).  Over a link that is down, or to a neighbour that is absent, a
      node takes the other to have moved as itself.  So s and x^ keep one mean (`invariant_public`), and the nodes drift
      nowhere together; but s_i is off sum_j W_ij x^_j for good, and the nodes agree less.  A message lost in one
      direction breaks the invariant too.
    Cost per round: K gradients and one compressed message a neighbour; state 3 D a node.
    Source: Koloskova, Stich and Jaggi, Decentralized stochastic optimization and gossip algorithms with compressed
      communication, ICML 2019; Koloskova et al., ICLR 2020, Algorithm 3 (memory-efficient).
    """
    problem = weighted("choco_sgd", problem, weighting)
    checks.number("choco_sgd", "consensus_step_size", consensus_step_size, 0.0, 1.0, open_minimum=True)
    local = local_updates(problem, optimizer, num_local_steps, num_local_epochs=num_local_epochs, where="choco_sgd")

    def init(key: Array, params: PyTree, network: Network) -> ChocoSGDState:
        del key, network
        zeros = trees.zeros_like(params)
        return ChocoSGDState(params, zeros, zeros, local.init(params))

    def step(key: Array, state: ChocoSGDState, network: Network) -> tuple[ChocoSGDState, Network, Info]:
        x, optimizer_state, info = local.run(
            key, state.params, state.optimizer_state, network.node_ids, network.trainers
        )
        packet, network = network.send(key, trees.subtract(x, state.public), stream="difference", hear="all")
        public = trees.add(state.public, packet.values)
        mixed_public = trees.add(state.mixed_public, network.combine(packet))
        params = jax.tree.map(lambda x, s, h: x + consensus_step_size * (s - h), x, mixed_public, public)
        new = ChocoSGDState(params, public, mixed_public, optimizer_state)
        return trees.select(network.is_present, new, state), network, info

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"fixed_topology", "connected", "undirected", "symmetric", "row_stochastic"}),
        source="Koloskova, Stich and Jaggi, ICML 2019; Koloskova, Lin, Stich and Jaggi, ICLR 2020",
        lets_relay=True,
    )


def invariant_public(state: ChocoSGDState) -> PyTree:
    """Mean of s_i minus mean of x^_i, `[...]`: zero up to rounding."""
    return trees.subtract(trees.mean(state.mixed_public), trees.mean(state.public))
