"""Anarchic federated learning: clients return mean gradients when they like, after as many steps as they like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.algorithms.federated_arrivals import at_pace
from dlsim.algorithms.local import local_jobs
from dlsim.algorithms.optimizers import rate_by_round
from dlsim.core import Array, ArrivalAlgorithm, Info, Job, Problem, PyTree

if TYPE_CHECKING:
    from dlsim.arrivals import Pace, Schedule


class AnarchicServer(NamedTuple):
    collected: PyTree  # [...] mean gradient of the returns since the last update; or of the whole memory
    memory: PyTree | tuple[()]  # [M, ...] each client's last return
    is_known: Array  # bool [M] who has returned
    num_updates: Array  # uint32 []


def afa_cd(problem: Problem, client_rate: Any, **settings: Any) -> ArrivalAlgorithm:
    """Anarchic federated averaging across devices: every m returns, a step along their mean.

        client:  y_0 = x^(v),  y_{k+1} = y_k - eta_L g_i(y_k)  K_i times;   returns G_i = (1/K_i) sum_k g_i(y_k)
        server:  x <- x - eta eta_L Kbar (1/m) sum over the m returns of G_i

    With eta = 1, K_i = Kbar and clients in step this is FedAvg of the m.  `literal=True` steps x <- x - eta (1/m) sum G_i
    as the paper writes it.

    Args:
      problem: what the clients learn.
      client_rate: eta_L, a number above 0 that may be traced, or a schedule of the server's version: clients use that of
        the version they began with, the server's step that of the version it leaves.
      **settings: buffer_size (m), num_local_steps=5 (Kbar), pace, server_rate=1.0 (eta), literal=False, and
        `steps`, `idle` of `dlsim.arrivals.anarchic`.

    If clients return unequally often it goes to the optimum of their losses weighed by how often they return.
    Source: Yang, Zhang, Khanduri, Liu, Anarchic federated learning, ICML 2022, AFA-CD.
    """
    return _anarchic(problem, client_rate, "afa_cd", keeps=False, **settings)


def afa_cs(problem: Problem, client_rate: Any, **settings: Any) -> ArrivalAlgorithm:
    """Anarchic federated averaging across silos: every m returns, a step along the mean of everyone's last return.

        client:  as in `afa_cd`
        server:  memory_i <- G_i for the m returns;   x <- x - eta eta_L Kbar (1/M) sum_i memory_i

    No update happens until every client has returned once.  A client that returns twice in a batch leaves its last.

    Args:
      problem, client_rate, **settings: see `afa_cd`.

    Memory: M D numbers at the server.  The mean is kept as a running sum and summed up anew every M updates, so
    that rounding does not add up.
    Source: Yang, Zhang, Khanduri, Liu, Anarchic federated learning, ICML 2022, AFA-CS.
    """
    return _anarchic(problem, client_rate, "afa_cs", keeps=True, **settings)


def _anarchic(
    problem: Problem,
    client_rate: Any,
    where: str,
    *,
    keeps: bool,
    buffer_size: int,
    num_local_steps: int = 5,
    pace: Pace | None = None,
    server_rate: Any = 1.0,
    literal: bool = False,
    steps: str = "uniform",
    idle: Any = 0.0,
) -> ArrivalAlgorithm:
    import optax

    from dlsim import arrivals

    client_rate_at = rate_by_round(where, "client_rate", client_rate)
    checks.number(where, "server_rate", server_rate, 0.0, open_minimum=True)
    checks.flag(where, "literal", literal)
    run = local_jobs(problem, optax.sgd(client_rate), where=where, argument="client_rate")

    def rate(version: Array) -> Any:
        return server_rate if literal else server_rate * client_rate_at(version) * num_local_steps

    def schedule(own: Pace) -> Schedule:
        return arrivals.anarchic(own, num_local_steps, buffer_size, steps=steps, idle=idle)

    def init(key: Array, params: PyTree, num_clients: int) -> AnarchicServer:
        del key
        memory = trees.zeros_like(trees.replicate(params, num_clients)) if keeps else ()
        known = jnp.zeros(num_clients, bool)
        return AnarchicServer(trees.zeros_like(params), memory, known, jnp.zeros((), jnp.uint32))

    def work(keys: Array, params: PyTree, node_ids: Array, num_steps: Array, versions: Array) -> tuple[PyTree, Info]:
        _, mean_gradient, info = run(keys, params, node_ids, num_steps, versions)
        return mean_gradient, info

    def absorb_devices(
        state: AnarchicServer, params: PyTree, message: PyTree, job: Job
    ) -> tuple[AnarchicServer, PyTree]:
        collected = jax.tree.map(lambda a, g: a + job.coefficient.astype(g.dtype) * g, state.collected, message)
        moved = _step(params, collected, rate(state.num_updates), job.is_last)
        kept = jax.tree.map(lambda leaf: jnp.where(job.is_last, jnp.zeros_like(leaf), leaf), collected)
        return state._replace(collected=kept, num_updates=state.num_updates + job.is_last), moved

    def absorb_silos(state: AnarchicServer, params: PyTree, message: PyTree, job: Job) -> tuple[AnarchicServer, PyTree]:
        num_clients = state.is_known.shape[0]
        own = jax.tree.map(lambda leaf: leaf[job.client], state.memory)
        new = jax.tree.map(lambda g, old: jnp.where(job.arrived, g, old), message, own)  # a lost return changes nothing
        memory = jax.tree.map(lambda leaf, value: leaf.at[job.client].set(value), state.memory, new)
        collected = jax.tree.map(lambda s, a, b: s + (a - b) / num_clients, state.collected, new, own)
        known = state.is_known.at[job.client].set(state.is_known[job.client] | job.arrived)
        count = state.num_updates + job.is_last
        anew = job.is_last & (count % jnp.uint32(num_clients) == 0)
        collected = jax.lax.cond(
            anew,
            lambda: jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), memory),
            lambda: collected,
        )
        moved = _step(params, collected, rate(state.num_updates), job.is_last & jnp.all(known))
        return AnarchicServer(collected, memory, known, count), moved

    return ArrivalAlgorithm(
        schedule=at_pace(schedule, pace, problem, where),
        init=init,
        work=work,
        absorb=absorb_silos if keeps else absorb_devices,
        source="Yang et al., ICML 2022",
    )


def _step(params: PyTree, direction: PyTree, rate: Any, happens: Array) -> PyTree:
    return jax.tree.map(lambda x, g: jnp.where(happens, x - jnp.asarray(rate, x.dtype) * g, x), params, direction)
