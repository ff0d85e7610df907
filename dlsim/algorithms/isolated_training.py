"""Isolated training: the reference without communication."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dlsim.algorithms.local import local_updates
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class IsolatedTrainingState(NamedTuple):
    params: PyTree  # [N, ...]
    optimizer_state: PyTree  # [N, ...]


def isolated_training(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
) -> Algorithm:
    """Every node trains alone, K optimiser steps a round: x_i <- x_i + u(g_i(x_i)).  What the others must beat.

    Args:
      problem: what the nodes learn.
      optimizer: the local optimiser; floats may be traced.
      num_local_steps: K, structural.
      num_local_epochs: E, in place of K: a node goes E times through its own data, see `local_updates`; structural.
    """
    local = local_updates(
        problem, optimizer, num_local_steps, num_local_epochs=num_local_epochs, where="isolated_training"
    )

    def init(key: Array, params: PyTree, network: Network) -> IsolatedTrainingState:
        del key, network
        return IsolatedTrainingState(params, local.init(params))

    def step(key: Array, state: IsolatedTrainingState, network: Network) -> tuple[IsolatedTrainingState, Network, Info]:
        params, optimizer_state, info = local.run(
            key, state.params, state.optimizer_state, network.node_ids, network.trainers
        )
        return IsolatedTrainingState(params, optimizer_state), network, info

    return Algorithm(init=init, step=step, lets_relay=True)
