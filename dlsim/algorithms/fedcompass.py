"""FedCompass: clients get as much work as makes them come back together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlsim import checks
from dlsim.algorithms.federated_arrivals import at_pace, federated_arrivals
from dlsim.core import ArrivalAlgorithm, Problem

if TYPE_CHECKING:
    import optax

    from dlsim.arrivals import Pace, Schedule


def fedcompass(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    *,
    pace: Pace | None = None,
    server_rate: Any = 0.9,
    **settings: Any,
) -> ArrivalAlgorithm:
    """Cross-silo federated learning with a scheduler that knows how fast clients are.

        x <- x + a sum over a group of p_i s(tau_i) (x_i - x^(v_i))          x_i after Q_i steps, Q_i the scheduler's

    Args:
      problem: what the clients learn.
      client_optimizer: fresh for every job (momentum starts anew); schedules count the server's versions and stand at the
        one the job began with; floats may be traced.
      pace: of the clients; default: what the network's links say.
      server_rate: a, above 0; may be traced.
      **settings: min_steps=20, max_steps=100, latest_factor=1.2, speed_momentum=0.9, first_steps, staleness, weights; see
        `dlsim.arrivals.compass`.
    Source: Li, Chaturvedi, He, Chen, Singh, Kindratenko, Huerta, Kim, Madduri, FedCompass: Efficient cross-silo federated
      learning on heterogeneous client devices using a computing power aware scheduler, ICLR 2024.
    """
    import optax

    from dlsim import arrivals

    checks.number("fedcompass", "server_rate", server_rate, 0.0, open_minimum=True)

    def schedule(own: Pace) -> Schedule:
        return arrivals.compass(own, **settings)

    made = at_pace(schedule, pace, problem, "fedcompass")
    algorithm = federated_arrivals(
        problem, client_optimizer, made, server_optimizer=optax.sgd(server_rate), where="fedcompass"
    )
    return algorithm._replace(source="Li et al., ICLR 2024")
