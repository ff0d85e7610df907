"""FedProx: FedAvg with clients tied to the server's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from dlsim import checks, trees
from dlsim.algorithms.fedavg import Options, _federated
from dlsim.algorithms.local import Objective
from dlsim.core import Aggregator, Algorithm, Array, Problem, PyTree

if TYPE_CHECKING:
    import optax


def fedprox(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    *,
    proximal_weight: Any = 0.01,
    server_optimizer: optax.GradientTransformation | None = None,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
    weighting: str = "examples",
    aggregator: Aggregator | None = None,
    clip_norm: Any = None,
) -> Algorithm:
    """FedProx: clients minimise f_i(y) + (mu / 2) ||y - x||^2, x the server's model of the round.

    Each local gradient becomes g_i(y) + mu (y - x); everything else is `fedavg`, which mu = 0 gives exactly.

    Args:
      proximal_weight: mu >= 0, traced.
      problem, client_optimizer, server_optimizer, num_local_steps, num_local_epochs, weighting, aggregator, clip_norm: as
        in `fedavg`; momentum starts anew each round, schedules count rounds.

    Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, Federated optimization in heterogeneous networks, MLSys 2020.
      Differs: the local problem is solved by K steps, not to a given inexactness.
    """
    checks.number("fedprox", "proximal_weight", proximal_weight, 0.0)

    def correct(gradients: PyTree, params: PyTree, model: PyTree) -> PyTree:
        return jax.tree.map(lambda g, y, x: g + proximal_weight * (y - x), gradients, params, model)

    def penalty(params: PyTree, model: PyTree) -> Array:
        return proximal_weight / 2 * trees.squared_norm(trees.subtract(params, model))

    options = Options(num_local_steps, num_local_epochs, weighting, aggregator, clip_norm)
    objective = Objective(correct, penalty)
    algorithm = _federated(problem, client_optimizer, server_optimizer, options, objective, "fedprox")
    return algorithm._replace(source="Li et al., MLSys 2020")
