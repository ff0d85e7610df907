"""FedFix, and FedAvg by the clock: the server takes in what is there at fixed times, or when all are back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlsim import checks
from dlsim.algorithms.federated_arrivals import at_pace, federated_arrivals
from dlsim.core import ArrivalAlgorithm, Problem

if TYPE_CHECKING:
    import optax

    from dlsim.arrivals import Pace, Schedule


@checks.typed
def fedfix(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    *,
    window: float,
    pace: Pace | None = None,
    num_local_steps: int = 10,
    server_optimizer: optax.GradientTransformation | None = None,
    weights: Any = None,
    debias: bool = True,
) -> ArrivalAlgorithm:
    """An aggregation every `window` seconds, of the clients that are back by then.

        x <- x + U( sum over those back of d_i (x^(v_i) - x_i) ),    d_i = p_i ceil(T_i / window)

    d_i makes up for how seldom a slow client comes, so that the optimum of sum_i p_i f_i is reached.

    Args:
      problem: what the clients learn.
      client_optimizer: fresh for every job (momentum starts anew); schedules count the server's versions and stand at the
        one the job began with; floats may be traced.
      window: seconds; `math.inf` waits for all clients, which is FedAvg; structural.
      pace: of the clients; default: what the network's links say.
      num_local_steps: K, structural.
      server_optimizer: U; default `optax.sgd(1.0)`.
      weights, debias: p_i, and whether d_i are used; see `dlsim.arrivals.fixed_window`.
    Source: Fraboni, Vidal, Kameni, Lorenzi, A general theory for federated optimization with asynchronous and
      heterogeneous clients updates, JMLR 2023.
    """
    from dlsim import arrivals

    num_local_steps = checks.integer("fedfix", "num_local_steps", num_local_steps, 1)

    def schedule(own: Pace) -> Schedule:
        return arrivals.fixed_window(own, num_local_steps, window, weights=weights, debias=debias)

    made = at_pace(schedule, pace, problem, "fedfix")
    return federated_arrivals(problem, client_optimizer, made, server_optimizer=server_optimizer, where="fedfix")


@checks.typed
def synchronous_fedavg(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    *,
    pace: Pace | None = None,
    num_local_steps: int = 10,
    server_optimizer: optax.GradientTransformation | None = None,
    weights: Any = None,
    cohort_size: int | None = None,
) -> ArrivalAlgorithm:
    """FedAvg on the clock of the asynchronous methods: a round lasts as long as its slowest client.

        x <- x + U( sum over the cohort of p_i (x - x_i) / sum of p_i )

    The rounds are those of `fedavg`; here a step of the run is a window of simulated time, with as many rounds as end in
    it, so that methods are compared second by second.

    Args:
      problem: what the clients learn.
      client_optimizer: fresh for every round (momentum starts anew); schedules count the server's versions and stand at the
        one the round began with; floats may be traced.
      pace: of the clients; default: what the network's links say.
      num_local_steps: K, structural.
      server_optimizer: U; default `optax.sgd(1.0)`.
      weights: p_i; default the clients' examples.
      cohort_size: clients a round; default all.
    Source: McMahan et al., Communication-efficient learning of deep networks from decentralized data, AISTATS 2017.
    """
    from dlsim import arrivals

    num_local_steps = checks.integer("synchronous_fedavg", "num_local_steps", num_local_steps, 1)
    share = problem.num_examples if weights is None else weights

    def schedule(own: Pace) -> Schedule:
        return arrivals.synchronous(own, num_local_steps, weights=share, cohort_size=cohort_size)

    made = at_pace(schedule, pace, problem, "synchronous_fedavg")
    algorithm = federated_arrivals(
        problem, client_optimizer, made, server_optimizer=server_optimizer, where="synchronous_fedavg"
    )
    return algorithm._replace(source="McMahan et al., AISTATS 2017")
