"""FedAsync: the server takes in every client's work as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.algorithms.federated_arrivals import at_pace, federated_arrivals
from dlsim.algorithms.local import local_jobs
from dlsim.core import Array, ArrivalAlgorithm, Info, Job, Problem, PyTree

if TYPE_CHECKING:
    import optax

    from dlsim.arrivals import Pace
    from dlsim.arrivals.coefficients import Damping

FORMS = ("interpolate", "movement")


@checks.typed
def fedasync(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    *,
    pace: Pace | None = None,
    num_local_steps: int = 10,
    mixing: Any = 0.6,
    staleness: Damping | None = None,
    form: str = "interpolate",
    weights: Any = None,
    debias: bool = False,
) -> ArrivalAlgorithm:
    """Asynchronous federated optimisation: one aggregation an arrival, damped by staleness.

        interpolate:  x <- x + a s(tau) (x_i - x)                    x_i the client's model
        movement:     x <- x + a c_i s(tau) (x_i - x^(v_i))          what the client changed of the version it was sent

    tau counts the versions made while the client worked, 0 for work on the newest.  The paper counts t - tau from the
    version before its update to the one after it, which is 1 for such work: its s(t - tau) = (t - tau + 1)^-a is
    (tau + 2)^-a here, `staleness=lambda tau: (tau + 2.0) ** -a`, and its largest step is a 2^-a where ours is a.

    Args:
      problem: what the clients learn.
      client_optimizer: fresh for every job (momentum starts anew); schedules count the server's versions and stand at the
        one the job began with; floats may be traced.
      pace: of the clients; default: what the network's links say.
      num_local_steps: K, structural.
      mixing: a in (0, 1] for `interpolate`, above 0 for `movement`; may be traced.
      staleness: s, e.g. `dlsim.arrivals.polynomial(0.5)`; default `polynomial(0.5)`, and with
        `debias` none, since damped coefficients are biased again.
      form: `"interpolate"` (the paper) or `"movement"` (as in the theory of Fraboni et al.); structural.
      weights, debias: coefficients c_i of `movement`, see `dlsim.arrivals.next_arrival`; default c_i = 1/M.

    Cost of a job: K gradients, the model down, a message of D numbers up.
    Source: Xie, Koyejo, Gupta, Asynchronous federated optimization, OPT 2020.
    """
    from dlsim import arrivals

    where = "fedasync"
    num_local_steps = checks.integer(where, "num_local_steps", num_local_steps, 1)
    checks.one_of(where, "form", form, FORMS)
    # Damping would undo what the debiasing coefficients do.
    usual = arrivals.constant() if debias else arrivals.polynomial(0.5)
    damping = usual if staleness is None else staleness
    if form == "movement":
        import optax

        checks.number(where, "mixing", mixing, 0.0, open_minimum=True)

        def schedule(own: Pace) -> arrivals.Schedule:
            return arrivals.next_arrival(own, num_local_steps, weights=weights, staleness=damping, debias=debias)

        return federated_arrivals(
            problem,
            client_optimizer,
            at_pace(schedule, pace, problem, where),
            server_optimizer=optax.sgd(mixing),
            where=where,
        )._replace(source="Xie et al., OPT 2020")
    checks.number(where, "mixing", mixing, 0.0, 1.0, open_minimum=True)
    if weights is not None or debias:
        checks.fail(where, "form", '"movement" where weights or debias are given', repr(form))
    run = local_jobs(problem, client_optimizer, where=where)

    def one_each(own: Pace) -> arrivals.Schedule:
        return arrivals.next_arrival(own, num_local_steps, staleness=damping)

    def init(key: Array, params: PyTree, num_clients: int) -> Array:
        del key, params
        return jnp.asarray(float(num_clients))  # coefficients hold 1/M, which the paper's form has not

    def work(keys: Array, params: PyTree, node_ids: Array, num_steps: Array, versions: Array) -> tuple[PyTree, Info]:
        after, _, info = run(keys, params, node_ids, num_steps, versions)
        return after, info

    def absorb(num_clients: Array, params: PyTree, message: PyTree, job: Job) -> tuple[Array, PyTree]:
        share = jnp.where(job.arrived, mixing * job.coefficient * num_clients, 0.0)
        new = jax.tree.map(lambda x, y: x + share.astype(x.dtype) * (y - x), params, message)
        return num_clients, new

    return ArrivalAlgorithm(
        schedule=at_pace(one_each, pace, problem, where),
        init=init,
        work=work,
        absorb=absorb,
        source="Xie et al., OPT 2020",
    )
