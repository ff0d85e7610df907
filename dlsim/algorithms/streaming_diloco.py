"""Streaming DiLoCo: a fragment of the model at a time, applied while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.algorithms.fragments import cut
from dlsim.algorithms.local import local_updates
from dlsim.algorithms.outer import OuterGradient, Shared, outer_half
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.collectives.all_reduce import Collective
from dlsim.networks.network import Network, NetworkState
from dlsim.problems.variables import without_statistics

if TYPE_CHECKING:
    import optax

FIRST = ("paper", "early")


class StreamingDiLoCoState(NamedTuple):
    params: PyTree  # [N, ...] theta_i
    shared: tuple[Shared, ...]  # by fragment
    pending: tuple[Any, ...]  # OuterGradients by fragment; () for those that never outlast a round
    optimizer_state: PyTree  # [N, ...] of the inner optimiser
    is_current: Any  # bool [N]: was there in the round before; () over a graph
    round: Array  # int32 []


class Outside(NamedTuple):
    """What changes when fragments are sent and applied."""

    params: PyTree  # [N, ...] theta_i
    shared: tuple[Shared, ...]
    flying: tuple[OuterGradient, ...]  # by fragment: sent and not yet applied
    network: NetworkState


class Moment(NamedTuple):
    """What happens after the local steps of a round up to `step`, 1..H: fragments sent, then fragments applied."""

    step: int
    sent: tuple[int, ...]
    applied: tuple[int, ...]


class Timetable(NamedTuple):
    """A round of H local steps, the same every time."""

    moments: tuple[Moment, ...]  # in order; the last is that of step H
    skips_first: tuple[bool, ...]  # by fragment: not sent in the first round
    outlasts: tuple[bool, ...]  # by fragment: still in flight when the round ends


def streaming_diloco(
    problem: Problem,
    inner_optimizer: optax.GradientTransformation,
    *,
    outer_optimizer: optax.GradientTransformation | None = None,
    num_local_steps: int = 100,
    fragments: int | Callable[[PyTree], PyTree] | None = None,
    pattern: str = "strided",
    num_overlap_steps: int = 1,
    merge: Any = None,
    first_sync: str = "paper",
    over: str | Collective = "all_reduce",
    consensus_step_size: Any = 1.0,
) -> Algorithm:
    """Streaming DiLoCo: `diloco` fragment by fragment, each sent at a time of its own and applied tau steps later.

    A round is H local steps of the inner optimiser.  Fragment p of P is sent t_p = p floor(H / P) steps into it (the first
    at its end), and applied tau steps after it was sent, which may be in the next round:

        sent:     G_p = mean_i C(phi_p - theta_(i,p))               C the network's channel: 4-bit numbers in the paper
        applied:  phi_p <- phi_p + U_p(G_p)                         U_p the outer optimiser, momentum by fragment
                  theta_(i,p) <- alpha theta_(i,p) + (1 - alpha) phi_p

    The most that is sent at a time is one fragment.  With one fragment, tau = 0 and alpha = 0 it is `diloco`; with alpha = 1
    replicas train alone while phi still moves.  `params` are phi, whose fragments have different ages.

    Args:
      problem: what the replicas learn, each on its own data.
      inner_optimizer: one state a replica, never sent nor reset; floats may be traced.
      outer_optimizer: default `optax.sgd(0.4, momentum=0.9, nesterov=True)`.
      num_local_steps: H, structural.
      fragments: how many; or a function of the model `[...]` that gives a tree like it, of whole numbers 0, 1, ...: the
        fragment of a leaf, or an array of them, one for each of its rows (blocks stacked in one leaf).  By default as many
        as have three layers each.  Layers are the entries at the top of the model; where some of them are numbered
        (`block_0`, `block_1`), these are the layers, and the others (embedding, head) form one more fragment, the last.
        Structural.
      pattern: `"strided"` (fragment p holds layers p, p + P, ...) or `"sequential"` (layers in a row); structural.
      num_overlap_steps: tau in [0, H), structural.
      merge: alpha in [0, 1], traced; by default 0.5, and 0 where tau is 0.
      first_sync: `"paper"`: fragment p is first sent after t_p + H steps; `"early"`: after t_p (the first: H), as known
        implementations do; structural.
      over, consensus_step_size: as in `diloco`.

    A run that ends drops what is in flight.  Absences as in `diloco`; over a graph one that is away when its G_i is due
    applies it when it is back, unless it has sent anew by then.  Simulated seconds add up messages and local steps: that
    they overlap is not in them.
    Cost per round: H gradients a replica and its D numbers once, in P messages.  State: 1 D a replica and phi, v and what
      is in flight once; with gossip 5 D a replica more.
    Source: Douillard et al., Streaming DiLoCo with overlapping communication: towards a distributed free lunch, 2025.
      Differs: one delay for all replicas.  Gossip in place of the all-reduce is ours.
    """
    import optax

    where = "streaming_diloco"
    without_statistics(where, checks.instance(where, "problem", problem, Problem, "See dlsim.problems."))
    checks.optimizer(where, "inner_optimizer", inner_optimizer)
    num_local_steps = checks.integer(where, "num_local_steps", num_local_steps, 1)
    delay = checks.integer(where, "num_overlap_steps", num_overlap_steps, 0)
    if delay >= num_local_steps:
        fix = "A fragment has one transfer at a time; for a whole round late use async_diloco."
        checks.fail(where, "num_overlap_steps", f"below num_local_steps, {num_local_steps}", delay, fix)
    alpha = (0.5 if delay else 0.0) if merge is None else checks.number(where, "merge", merge, 0.0, 1.0)
    checks.one_of(where, "first_sync", first_sync, FIRST)
    parts = cut(where, fragments, pattern, jax.eval_shape(problem.init, jax.random.key(0)))
    times = timetable(parts.num, num_local_steps, delay, first_sync)
    if outer_optimizer is None:
        outer_optimizer = optax.sgd(0.4, momentum=0.9, nesterov=True)
    outer = outer_half(where, outer_optimizer, over, consensus_step_size)
    shares_all = outer.is_one_model
    lead = 0 if shares_all else 1  # axes of phi before the model's own
    local = local_updates(problem, inner_optimizer, 1, where=where, argument="inner_optimizer")

    def init(key: Array, params: PyTree, network: Network) -> StreamingDiLoCoState:
        del key, network
        shared = tuple(outer.init(parts.take(params, p, 1)) for p in range(parts.num))
        pending = tuple(
            outer.nothing(one.params) if late else () for one, late in zip(shared, times.outlasts, strict=True)
        )
        everyone = jnp.ones(problem.num_nodes, bool) if shares_all else ()
        return StreamingDiLoCoState(params, shared, pending, local.init(params), everyone, jnp.zeros((), jnp.int32))

    def send(key: Array, p: int, is_first: Array, now: Outside, network: Network) -> tuple[Outside, Network]:
        present = network.is_present
        if times.skips_first[p]:  # in the first round nobody is there to send it
            everyone = jnp.ones(network.num_nodes, bool) if present is None else present
            network = network.replace(is_present=everyone & ~is_first)
        part = parts.take(now.params, p, 1)
        gradient, shared, network = outer.reduce(key, now.shared[p], part, network, f"fragment_{p}")
        network = network.replace(is_present=present)
        flying = _with(now.flying, p, outer.keep(network, gradient, now.flying[p]))
        return now._replace(shared=_with(now.shared, p, shared), flying=flying), network

    def apply(key: Array, p: int, now: Outside, network: Network) -> Outside:
        gradient, here = now.flying[p], network.is_present
        shared = outer.step(key, now.shared[p], gradient, network)
        old = parts.take(now.params, p, 1)
        new = jax.tree.map(lambda x, phi: (alpha * x + (1 - alpha) * phi).astype(x.dtype), old, shared.params)
        counts = gradient.counts if here is None else gradient.counts & here
        done = gradient._replace(counts=jnp.zeros_like(gradient.counts))
        return Outside(
            params=parts.put(now.params, p, trees.select(counts, new, old), 1),
            shared=_with(now.shared, p, shared),
            flying=_with(now.flying, p, outer.keep(network, done, gradient)),
            network=now.network,
        )

    def at_moment(key: Array, moment: Moment, is_first: Array, network: Network) -> Any:
        def happens(now: Outside) -> Outside:
            on = network.with_state(now.network)
            for p in moment.sent:
                now, on = send(key, p, is_first, now, on)
            for p in moment.applied:
                now = apply(key, p, now, on)
            return now._replace(network=on.state)

        return happens

    def step(key: Array, state: StreamingDiLoCoState, network: Network) -> tuple[StreamingDiLoCoState, Network, Info]:
        theta, here, is_current = state.params, network.is_present, state.is_current
        if shares_all and here is not None:  # who comes back begins with phi
            phi = trees.replicate(parts.join([one.params for one in state.shared], 0), network.num_nodes)
            theta = trees.select(here & ~is_current, phi, theta)
            is_current = here

        def local_step(number: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            theta, optimizer_state, loss, count = carry
            theta, optimizer_state, info = local.run(
                key, theta, optimizer_state, network.node_ids, here, first=None if num_local_steps == 1 else number
            )
            asked = info["num_gradients"].astype(jnp.uint32)
            return theta, optimizer_state, loss + info["loss"].astype(loss.dtype), count + asked

        # One program of a local step for all stretches between two moments, of the lengths that they have.
        events = [at_moment(key, moment, state.round == 0, network) for moment in times.moments]

        def stretch(carry: tuple[Any, ...], part: tuple[Array, Array, Array]) -> tuple[tuple[Any, ...], None]:
            now, *rest = carry
            begins, ends, place = part
            theta, *rest = jax.lax.fori_loop(begins, ends, local_step, (now.params, *rest))
            return (jax.lax.switch(place, events, now._replace(params=theta)), *rest), None

        nothing = (jnp.zeros(network.num_nodes), jnp.zeros(network.num_nodes, jnp.uint32))
        flying: Any = tuple(
            kept if late else outer.nothing(one.params)
            for kept, one, late in zip(state.pending, state.shared, times.outlasts, strict=True)
        )
        ends = jnp.asarray([moment.step for moment in times.moments])
        begins = jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]])
        start = (Outside(theta, state.shared, flying, network.state), state.optimizer_state, *nothing)
        (now, optimizer_state, loss, count), _ = jax.lax.scan(stretch, start, (begins, ends, jnp.arange(len(events))))
        pending = tuple(one if late else () for one, late in zip(now.flying, times.outlasts, strict=True))
        new = StreamingDiLoCoState(now.params, now.shared, pending, optimizer_state, is_current, state.round + 1)
        return new, network.with_state(now.network), {"loss": loss / num_local_steps, "num_gradients": count}

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: outer.models(parts.join([one.params for one in state.shared], lead)),
        requires=outer.requires,
        source="Douillard et al., Streaming DiLoCo, 2025",
    )


def _with(items: tuple[Any, ...], p: int, item: Any) -> tuple[Any, ...]:
    """The tuple with another item at place p."""
    return (*items[:p], item, *items[p + 1 :])


def timetable(num_fragments: int, num_local_steps: int, delay: int, first_sync: str) -> Timetable:
    """When in a round of H steps each fragment is sent and applied.

    Fragments are sent at steps p floor(H / P), the first, and all where H < P, at step H.
    """
    offsets = [p * (num_local_steps // num_fragments) or num_local_steps for p in range(num_fragments)]
    ends = [offset + delay for offset in offsets]
    applied = [end if end <= num_local_steps else end - num_local_steps for end in ends]
    moments = tuple(
        Moment(
            step,
            tuple(p for p, offset in enumerate(offsets) if offset == step),
            tuple(p for p, end in enumerate(applied) if end == step),
        )
        for step in sorted({*offsets, *applied, num_local_steps})
    )
    return Timetable(
        moments,
        tuple(first_sync == "paper" and offset < num_local_steps for offset in offsets),
        tuple(end > num_local_steps for end in ends),
    )
