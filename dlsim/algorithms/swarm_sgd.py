"""SwarmSGD: nodes that train for a while, then meet in pairs and average."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, trees
from dlsim.algorithms.local import local_events
from dlsim.algorithms.randomized_gossip import towards
from dlsim.core import Array, EventAlgorithm, Info, Problem, PyTree
from dlsim.keys import fold_in
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax

STEPS = ("fixed", "geometric")


class SwarmSGDState(NamedTuple):
    params: PyTree  # [N, ...] x, the live copy
    copy: PyTree | tuple[()]  # [N, ...] y, what others read without waiting: without the latest local steps
    start: PyTree | tuple[()]  # [N, ...] x as it was before the latest local steps
    optimizer_state: PyTree


def swarm_sgd(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    num_local_steps: int = 2,
    steps: str = "fixed",
    blocking: bool = True,
) -> EventAlgorithm:
    """Local SGD between random meetings.

        meeting (i,j), blocking:      u_i = H_i local steps from x_i,   x_i <- x_i + u_i,  and so j
                                      x_i, x_j <- (x_i + x_j) / 2
        meeting (i,j), non-blocking:  u_i = H_i local steps from x_i,   y_i <- (x_i + y_j) / 2,   x_i <- y_i + u_i,  and so j

    The steps of the time since a node's last meeting are taken at the next: nothing else happens to it between.  Blocking,
    a node waits until its partner has finished its own.  Non-blocking, it reads what the partner has at hand, the
    communication copy y_j that lacks j's latest steps, and averages while its own steps go on.

    Args:
      problem: what the nodes learn.
      optimizer: each node's own; SGD in the paper; floats may be traced.
      num_local_steps: H, or its mean; structural.
      steps: "fixed", or "geometric": H_i drawn at every meeting, P(H_i = h) = (1 - 1/H)^(h-1) / H; structural.
      blocking: structural; without, a node holds three models.

    Compressed messages (the paper's quantiser codes differences to the receiver's model) are the network's channel's
    affair, e.g. `network.with_channel(quantize(8))`.  Departure: who does not hear its partner keeps its model and copy,
    with its own steps.  Staleness is that of the gradients, as in `ad_psgd`: 0, or 1 where the averaging does not wait.
    Where messages take time nobody waits for them: steps are taken at the meeting, averaging follows when a message comes.
    Cost of a meeting: 2 H gradients and two messages of D numbers.
    Source: Nadiradze, Sabour, Davies, Li, Alistarh, Asynchronous decentralized SGD with quantized and local updates,
      NeurIPS 2021.
    """
    where = "swarm_sgd"
    num_local_steps = checks.integer(where, "num_local_steps", num_local_steps, 1, 10_000)
    checks.one_of(where, "steps", steps, STEPS)
    checks.instance(where, "blocking", blocking, bool)
    is_fixed = steps == "fixed"
    local = local_events(problem, optimizer, num_local_steps if is_fixed else 1, where=where)
    run = local.run if is_fixed else _geometric(local.run, num_local_steps)

    def init(key: Array, params: PyTree, network: Network) -> SwarmSGDState:
        del key, network
        empty: tuple[()] = ()
        return SwarmSGDState(params, empty if blocking else params, empty if blocking else params, local.init(params))

    def before_message(keys: Array, rows: SwarmSGDState, node_ids: Array) -> tuple[SwarmSGDState, Info]:
        params, optimizer_state, info = run(keys, rows.params, rows.optimizer_state, node_ids)
        info["staleness"] = jnp.full(node_ids.shape, int(not blocking), jnp.uint32)
        start = () if blocking else rows.params
        return SwarmSGDState(params, rows.copy, start, optimizer_state), info

    def on_message(keys: Array, rows: SwarmSGDState, heard: PyTree, node_ids: Array) -> tuple[SwarmSGDState, Info]:
        del keys, node_ids
        if blocking:
            return rows._replace(params=towards(rows.params, heard, 0.5)), {}
        averaged = towards(rows.start, heard, 0.5)
        return rows._replace(params=trees.add(averaged, trees.subtract(rows.params, rows.start)), copy=averaged), {}

    def on_late(keys: Array, rows: SwarmSGDState, heard: PyTree, node_ids: Array) -> tuple[SwarmSGDState, Info]:
        # Several may come before the next steps are taken: what the steps are added to moves on with each.
        rows, info = on_message(keys, rows, heard, node_ids)
        return rows._replace(start=rows.copy), info

    return EventAlgorithm(
        init=init,
        on_message=on_message,
        on_late=None if blocking else on_late,
        before_message=before_message,
        message=lambda rows: rows.params if blocking else rows.copy,
        requires=frozenset({"undirected", "connected"}),
        source="Nadiradze et al., NeurIPS 2021",
    )


def _geometric(one_step: Any, mean: int) -> Any:
    """Runs of a number of steps that each row draws for itself; the others wait for the longest."""
    tails = jnp.asarray(_tails(mean))

    def run(keys: Array, params: PyTree, optimizer_state: PyTree, node_ids: Array) -> tuple[PyTree, PyTree, Info]:
        words = jax.vmap(lambda key: jax.random.bits(key, dtype=jnp.uint32))(fold_in(keys, 0))
        # H exceeds h with probability tails[h - 1] / 2^32.
        num_steps = 1 + jnp.sum(words[:, None] < tails[None, :], axis=1, dtype=jnp.int32)

        def step(k: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            params, optimizer_state, loss, count = carry
            draws = fold_in(keys, k + 1)
            params, optimizer_state, info = one_step(draws, params, optimizer_state, node_ids)
            loss = loss + info["loss"].astype(loss.dtype)
            stepped = (params, optimizer_state, loss, count + info["num_gradients"])
            return trees.select(k < num_steps, stepped, carry)

        nothing = (jnp.zeros(node_ids.shape, jnp.float32), jnp.zeros(node_ids.shape, jnp.uint32))
        params, optimizer_state, loss, count = jax.lax.fori_loop(
            0, jnp.max(num_steps), step, (params, optimizer_state, *nothing)
        )
        return params, optimizer_state, {"loss": loss / num_steps.astype(jnp.float32), "num_gradients": count}

    return run


def _tails(mean: int) -> np.ndarray:
    """2^32 P(H > h) for h = 1, 2, ... until it is below 1, uint32."""
    share = 1 - 1 / mean
    length = 0 if mean == 1 else int(np.ceil(32 * np.log(2) / -np.log(share)))
    return np.floor(2.0**32 * share ** np.arange(1, length + 1)).astype(np.uint32)
