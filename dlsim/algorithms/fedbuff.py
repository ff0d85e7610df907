"""FedBuff: the server takes in a buffer of returned work at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlsim import checks
from dlsim.algorithms.federated_arrivals import at_pace, federated_arrivals
from dlsim.core import ArrivalAlgorithm, Problem

if TYPE_CHECKING:
    import optax

    from dlsim.arrivals import Pace, Schedule
    from dlsim.arrivals.coefficients import Damping


@checks.typed
def fedbuff(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    *,
    buffer_size: int,
    pace: Pace | None = None,
    num_local_steps: int = 10,
    server_optimizer: optax.GradientTransformation | None = None,
    restart: str = "arrival",
    staleness: Damping | None = None,
    weights: Any = None,
    debias: bool = False,
) -> ArrivalAlgorithm:
    """Buffered asynchronous aggregation.

        x <- x + U( (1/c) sum over the buffer of s(tau_i) (x^(v_i) - x_i) )

    Args:
      problem: what the clients learn.
      client_optimizer: fresh for every job (momentum starts anew); schedules count the server's versions and stand at the
        one the job began with; floats may be traced.
      buffer_size: c, from 1 to M; structural.
      pace: of the clients; default: what the network's links say.
      num_local_steps: K, structural.
      server_optimizer: U; default `optax.sgd(1.0)`.
      restart, staleness, weights, debias: see `dlsim.arrivals.buffered`.  The paper damps by `polynomial(0.5)`.

    With equal paces and c = M this is FedAvg.
    Source: Nguyen et al., Federated learning with buffered asynchronous aggregation, AISTATS 2022.
    """
    from dlsim import arrivals

    num_local_steps = checks.integer("fedbuff", "num_local_steps", num_local_steps, 1)

    def schedule(own: Pace) -> Schedule:
        return arrivals.buffered(
            own, num_local_steps, buffer_size, restart=restart, weights=weights, staleness=staleness, debias=debias
        )

    made = at_pace(schedule, pace, problem, "fedbuff")
    algorithm = federated_arrivals(problem, client_optimizer, made, server_optimizer=server_optimizer, where="fedbuff")
    return algorithm._replace(source="Nguyen et al., AISTATS 2022")
