"""What the server-based asynchronous methods share: clients' movements, added up as a schedule says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.local import local_jobs
from dlsim.algorithms.optimizers import server_optimizer as at_server
from dlsim.core import Array, ArrivalAlgorithm, Info, Job, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax


class FederatedServer(NamedTuple):
    optimizer_state: PyTree
    draws: Array  # uint32 [2] the key of the optimiser's draws
    num_updates: Array  # uint32 [] aggregations so far
    collected: PyTree  # [...] sum of coefficients times movements since the last aggregation


@checks.typed
def federated_arrivals(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    schedule: Any,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
    where: str = "federated_arrivals",
) -> ArrivalAlgorithm:
    """Clients train on the version they were sent; the server adds up their movements and steps along the sum.

        x_i          = K_i optimiser steps on f_i from x^(v_i)                    v_i the version that job began with
        collected   += c_i (x^(v_i) - x_i)                                        c_i the schedule's coefficient
        x           <- x + U(collected), collected <- 0                           where an aggregation ends

    U is the server's optimiser; at SGD with rate 1, x <- x + sum c_i (x_i - x^(v_i)).  A direct job is applied alone, at
    once: what was collected stays.  FedAvg, FedAsync, FedBuff, FedFix and FedCompass are schedules for it.

    Args:
      problem: what the clients learn.
      client_optimizer: the clients' optimiser, fresh for every job: momentum and moments start anew, but a schedule counts
        the server's versions and stands at v_i for the whole job; floats may be traced.
      schedule: `(network) -> dlsim.arrivals.Schedule`, or a Schedule.
      server_optimizer: receives the sum as a pseudo-gradient; default `optax.sgd(1.0)`.
      where: name of the method, for its error lines.

    Source: Fraboni, Vidal, Kameni, Lorenzi, A general theory for federated optimization with asynchronous and
      heterogeneous clients updates, JMLR 2023.
    """
    import optax

    from dlsim.arrivals import Schedule

    if not isinstance(schedule, Schedule):
        checks.function(where, "schedule", schedule, "a Schedule, or a function of the network")
    server = at_server(where, optax.sgd(1.0) if server_optimizer is None else server_optimizer)
    run = local_jobs(problem, client_optimizer, where=where)

    def init(key: Array, params: PyTree, num_clients: int) -> FederatedServer:
        del num_clients
        # Words of one kind of key, whichever the run uses: what absorbs is given none.
        draws = jax.random.key_data(keys.stream(key, "server")).astype(jnp.uint32)[:2]
        return FederatedServer(server.init(params), draws, jnp.zeros((), jnp.uint32), trees.zeros_like(params))

    def work(draws: Array, params: PyTree, node_ids: Array, num_steps: Array, versions: Array) -> tuple[PyTree, Info]:
        after, _, info = run(draws, params, node_ids, num_steps, versions)
        return trees.subtract(params, after), info

    def absorb(state: FederatedServer, params: PyTree, message: PyTree, job: Job) -> tuple[FederatedServer, PyTree]:
        mine = jax.tree.map(lambda leaf: job.coefficient.astype(leaf.dtype) * leaf, message)
        collected = jax.tree.map(lambda a, b: jnp.where(job.is_direct, a, a + b), state.collected, mine)

        def apply(_: None) -> tuple[FederatedServer, PyTree]:
            total = jax.tree.map(lambda a, b: jnp.where(job.is_direct, b, a), collected, mine)
            kept = jax.tree.map(lambda leaf: jnp.where(job.is_direct, leaf, jnp.zeros_like(leaf)), collected)
            draw = jax.random.wrap_key_data(state.draws, impl=keys.THREEFRY)
            updates, optimizer_state = server.update(
                keys.fold_in(draw, state.num_updates), total, state.optimizer_state, params
            )
            new = FederatedServer(optimizer_state, state.draws, state.num_updates + 1, kept)
            return new, optax.apply_updates(params, updates)

        def keep(_: None) -> tuple[FederatedServer, PyTree]:
            return state._replace(collected=collected), params

        return jax.lax.cond(job.is_last, apply, keep, None)

    return ArrivalAlgorithm(
        schedule=(lambda network: schedule) if isinstance(schedule, Schedule) else schedule,
        init=init,
        work=work,
        absorb=absorb,
        source="Fraboni et al., JMLR 2023",
    )


def at_pace(schedule: Any, pace: Any, problem: Problem, where: str) -> Any:
    """`(network) -> Schedule` of `schedule(pace)`: the pace given, or the one that the network's links make."""
    from dlsim import arrivals

    if pace is not None:
        checks.instance(where, "pace", pace, arrivals.Pace, "Use dlsim.arrivals.pace(M, seconds_per_step).")
        known = schedule(pace)  # at once, so that what it refuses is refused where it was written
        return lambda network: known

    def made(network: Network) -> Any:
        if network.links is None:
            fix = "Pass pace=dlsim.arrivals.pace(M, seconds_per_step), or a network.with_links(...)."
            checks.fail(where, "pace", "given for a network without links", "None", fix)
        model = jax.eval_shape(lambda key: trees.replicate(problem.init(key), 1), jax.random.key(0))
        bits = trees.num_bits(model)
        return schedule(arrivals.pace_from_links(network.links, problem.evaluations, bits, bits))

    return made
