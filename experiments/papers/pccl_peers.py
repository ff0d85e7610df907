"""What the experiment on PCCL runs: DiLoCo among peers that hold copies of their shared state, and a stress test.

Every peer has copies of its own of what is shared, so that whether they are equal, bit for bit, is measured and not
assumed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import dlsim
from dlsim import keys, networks, trees
from dlsim.networks import Collective, Membership, Network

Array = jax.Array
NEVER = {"momentum": 0.0, "manner": "sync", "quantization": None, "churn": False, "replaces": True, "steps": 8}
TRAININGS: dict[str, dict[str, Any]] = {
    "sync": {},
    "sync churn": {"churn": True},
    "floor": {"quantization": "floor"},
    "nearest": {"quantization": "nearest"},
    "floor churn": {"quantization": "floor", "churn": True},
    "unreplaced": {"quantization": "floor", "replaces": False},
    "sync momentum": {"momentum": 0.9},
    "async 0.1": {"manner": "async", "rate": 0.1},
    "async 0.3": {"manner": "async", "rate": 0.3},
    "async 0.7": {"manner": "async"},
    "async churn": {"manner": "async", "churn": True},
    "async momentum": {"manner": "async", "momentum": 0.9},
    "restart churn": {"manner": "restart", "churn": True},
    "ddp": {"steps": 1, "rate": 1.0},
}


class PeersState(NamedTuple):
    """What peers hold, a row a slot, and what is counted of them."""

    shared: tuple[Any, Any]  # theta and the outer momentum, every leaf [M, ...]
    revisions: Array  # int32 [M]
    expected: Array  # int32 []
    optimizer_state: Any  # [M, ...] inner, never shared
    pending: Any  # [M, ...] of the step before (async); () else
    has_pending: Array  # bool [M]
    checkpoint: Any  # (shared, steps) (restart); () else
    is_alive: Array  # bool [M]
    counts: dict[str, Array]
    seconds: Array  # float32, one a ratio of the times of a reduce and of H local steps


COUNTS = ("unequal", "lost", "kills", "joins", "failed", "peer_steps", "steps_done")


def peer_diloco(
    problem: dlsim.Problem,
    inner: optax.GradientTransformation,
    *,
    outer_rate: Any,
    momentum: Any = 0.0,
    num_local_steps: int = 8,
    manner: str = "sync",
    collective: Collective | None = None,
    checkpoint_every: int = 10,
    ratios: tuple[float, ...] = (0.25, 1.0, 4.0),
    whole_seconds: float = 1.0,
) -> dlsim.Algorithm:
    """DiLoCo on `Network.all_reduce`: one step is one of the library's loops, from election to outer step.

        Delta_m = theta - w_m, H local steps from theta;   v <- mu v + mean_m Delta_m
        theta <- theta - eta (mean_m Delta_m + mu v)        eta mean_m Delta_m without momentum

    "async" applies the mean of the step before while this one's work goes on.  "restart" has no retry: a death in a step
    loses it and takes everyone back to the last checkpoint.  `whole_seconds` is what a reduce of all M takes on the
    network's links, and stands for `ratios` times the H local steps, which take one second.
    """
    local = dlsim.algorithms.local_updates(problem, inner, num_local_steps, where="peer_diloco")

    def init(key: Array, params: Any, network: Network) -> PeersState:
        size = network.num_nodes
        shared = (params, trees.zeros_like(params))
        return PeersState(
            shared=shared,
            revisions=jnp.zeros(size, jnp.int32),
            expected=jnp.zeros((), jnp.int32),
            optimizer_state=local.init(params),
            pending=trees.zeros_like(params) if manner == "async" else (),
            has_pending=jnp.zeros(size, bool),
            checkpoint=(shared, jnp.zeros((), jnp.int32)) if manner == "restart" else (),
            is_alive=jnp.ones(size, bool),
            counts={name: jnp.zeros((), jnp.int32) for name in COUNTS},
            seconds=jnp.zeros(len(ratios), jnp.float32),
        )

    def step(key: Array, state: PeersState, network: Network) -> tuple[PeersState, Network, Any]:
        ids, size = network.node_ids, network.num_nodes
        present = jnp.ones(size, bool) if network.is_present is None else network.is_present
        nobody = Membership(jnp.full(size, jnp.inf, jnp.float32), jnp.zeros(size, bool))
        dies_at, is_new = nobody if network.membership is None else network.membership
        dies_at = jnp.where(present, dies_at, jnp.inf)
        before = network.state.traffic.clock
        # Who is new has nothing: not what the last peer of its slot had.
        blank = trees.select(is_new, trees.zeros_like(state.shared), state.shared)
        optimizer_state = trees.select(is_new, local.init(blank[0]), state.optimizer_state)
        revisions = jnp.where(is_new, 0, state.revisions)
        met, network = networks.synchronize(network, blank, revisions, state.expected, candidates=~is_new)
        theta, velocity = met.values
        work, optimizer_state, info = local.run(key, theta, optimizer_state, ids, present)
        delta = trees.subtract(theta, work)
        if manner == "async":
            gives, having = state.pending, present & state.has_pending
        else:
            gives, having = delta, present
        reduced, after = network.replace(is_present=having).all_reduce(key, gives, collective)
        network = network.with_state(after.state)
        mean, ok = reduced.value, reduced.succeeded
        if collective is None or collective.owner_replaces:
            mean = trees.replicate(mean, size)
        moved = trees.add(jax.tree.map(lambda v: momentum * v, velocity), mean)
        way = jax.tree.map(lambda g, v: g + momentum * v, mean, moved)
        stepped = (jax.tree.map(lambda t, g: t - outer_rate * g, theta, way), moved)
        takes = reduced.participants & ok
        shared = trees.select(takes, stepped, (theta, velocity))
        revisions = jnp.where(takes, state.expected + 1, state.expected)
        expected = state.expected + ok.astype(jnp.int32)
        survives = present & jnp.isinf(dies_at)
        if manner == "async":  # who joined had no part in it, and gets what came of it
            late = network.replace(is_present=survives)
            done, late = networks.synchronize(
                late, shared, revisions, expected, candidates=takes | ~ok, receivers=is_new
            )
            shared, network = done.values, network.with_state(late.state)
            revisions = jnp.where(survives, expected, revisions)
        hashes = networks.state_hash(shared)
        first = jnp.argmax(survives)
        counts = state.counts
        died = jnp.any(present & jnp.isfinite(dies_at))
        done_steps = counts["steps_done"] + ok.astype(jnp.int32)
        checkpoint = state.checkpoint
        reduce_seconds = since(before, network.state.traffic.clock) / whole_seconds
        if manner == "restart":
            kept, kept_steps = checkpoint
            shared = trees.select(jnp.broadcast_to(died, (size,)), kept, shared)
            done_steps = jnp.where(died, kept_steps, done_steps)
            is_due = ~died & (done_steps % checkpoint_every == 0)
            model = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[first], leaf.shape), shared)
            checkpoint = (
                trees.select(jnp.broadcast_to(is_due, (size,)), model, kept),
                jnp.where(is_due, done_steps, kept_steps),
            )
            # The step ends with the first death: nobody retries.
            reduce_seconds = jnp.where(died, jnp.min(dies_at), reduce_seconds)
        scaled = jnp.asarray(ratios, jnp.float32) * reduce_seconds
        spent = jnp.maximum(1.0, scaled) if manner == "async" else 1.0 + scaled
        is_first = (manner == "async") & (state.expected == 0) & ~jnp.any(state.has_pending)
        new = {
            "unequal": jnp.any(survives & (hashes != hashes[first])),
            "lost": ~ok & ~is_first,
            "kills": jnp.sum(present & jnp.isfinite(dies_at)),
            "joins": jnp.sum(is_new),
            "failed": jnp.maximum(reduced.num_attempts - 1, 0),
            "peer_steps": jnp.sum(present),
        }
        counts = {name: counts[name] + jnp.asarray(more).astype(jnp.int32) for name, more in new.items()}
        state = PeersState(
            shared=shared,
            revisions=revisions,
            expected=expected,
            optimizer_state=optimizer_state,
            pending=delta if manner == "async" else (),
            has_pending=survives if manner == "async" else state.has_pending,
            checkpoint=checkpoint,
            is_alive=survives,
            counts={**counts, "steps_done": done_steps},
            seconds=state.seconds + spent,
        )
        return state, network, info

    def params(state: PeersState) -> Any:
        first = jnp.argmax(state.is_alive)
        return jax.tree.map(lambda leaf: leaf[first][None], state.shared[0])

    return dlsim.Algorithm(init=init, step=step, params=params, source="Keiblinger et al., 2025")


def since(before: Any, after: Any) -> Array:
    """Seconds between two readings of a clock."""
    whole = (after.seconds - before.seconds).astype(jnp.float32)
    return whole + (after.nanoseconds.astype(jnp.float32) - before.nanoseconds.astype(jnp.float32)) * 1e-9


class StressState(NamedTuple):
    network: Any
    values: Array  # [M, D] the shared state, a copy a peer
    revisions: Array  # int32 [M]
    expected: Array  # int32 []
    is_alive: Array  # bool [M]
    is_new: Array  # bool [M], joins with the next operation
    wait: Array  # float32 seconds until the next peer is started or killed
    counts: dict[str, Array]
    trace: Array  # float32 [3, operations]: of the last ones when they began, peers, and +1 (started), -1 (killed) or 0


STRESS_COUNTS = ("unequal", "lost", "kills", "joins", "failed")


def stress_test(
    num_slots: int, num_entries: int, ops_a_step: int, *, traced: int = 100, seconds: float = 0.3
) -> dlsim.Process:
    """The library's stress test: all-reduces without end, and every 0.5 to 2 s a peer is started (0.6) or killed (0.4).

    Between 2 and `num_slots` peers are alive.  An operation of all of them takes `seconds`; a step is `ops_a_step` of them.
    The last `traced` operations are kept.
    """
    rate = 2 * (num_slots - 1) / num_slots * num_entries * 32 / seconds
    network = networks.complete(num_slots).with_links(networks.links(num_slots, upload=rate, download=rate))

    def init(key: Array) -> StressState:
        start = jnp.arange(num_slots) < 2
        zero = jnp.zeros((), jnp.int32)
        return StressState(
            network=network.state,
            values=jnp.zeros((num_slots, num_entries)),
            revisions=jnp.zeros(num_slots, jnp.int32),
            expected=zero,
            is_alive=start,
            is_new=jnp.zeros(num_slots, bool),
            wait=jnp.float32(0.5),
            counts=dict.fromkeys(STRESS_COUNTS, zero),
            trace=jnp.full((3, traced), jnp.nan, jnp.float32),
        )

    def operation(key: Array, state: StressState) -> StressState:
        current, ids = network.with_state(state.network), network.node_ids
        begins = state.network.traffic.clock
        present = state.is_alive | state.is_new
        peers = jnp.sum(present)
        lasts = seconds * (peers - 1) / peers * num_slots / (num_slots - 1)
        kind, gap = jax.random.uniform(keys.stream(key, "event"), (2,))
        victim = jnp.argmax(jnp.where(present, keys.node_uniform(keys.stream(key, "who"), ids, 1)[:, 0], -1))
        is_event = state.wait < lasts
        kills = is_event & (kind >= 0.6) & (peers > 2)
        starts = is_event & (kind < 0.6) & (peers < num_slots)
        dies_at = jnp.full(num_slots, jnp.inf).at[victim].set(jnp.where(kills, state.wait / lasts, jnp.inf))
        current = current.replace(is_present=present, membership=Membership(dies_at, state.is_new))
        values = jnp.where(state.is_new[:, None], 0, state.values)
        revisions = jnp.where(state.is_new, 0, state.revisions)
        met, current = networks.synchronize(current, values, revisions, state.expected, candidates=~state.is_new)
        gives = keys.node_normal(keys.stream(key, "gives"), ids, num_entries)
        reduced, current = current.all_reduce(key, gives)
        takes = reduced.participants & reduced.succeeded
        values = jnp.where(takes[:, None], met.values + reduced.value, met.values)
        expected = state.expected + reduced.succeeded.astype(jnp.int32)
        hashes, survives = networks.state_hash(values), present & jnp.isinf(dies_at)
        passed = since(begins, current.state.traffic.clock)
        new = {
            "unequal": jnp.any(survives & (hashes != hashes[jnp.argmax(survives)])),
            "lost": ~reduced.succeeded,
            "kills": kills,
            "joins": starts,
            "failed": reduced.num_attempts - 1,
        }
        now = begins.seconds.astype(jnp.float32) + begins.nanoseconds.astype(jnp.float32) * 1e-9
        seen = jnp.stack([now, peers.astype(jnp.float32), starts.astype(jnp.float32) - kills.astype(jnp.float32)])
        return StressState(
            network=current.state,
            values=values,
            revisions=jnp.where(takes, expected, revisions),
            expected=expected,
            is_alive=survives,
            is_new=starts & (jnp.arange(num_slots) == jnp.argmin(present)),
            wait=jnp.where(is_event, 0.5 + 1.5 * gap, state.wait) - passed,
            counts={name: state.counts[name] + jnp.asarray(more).astype(jnp.int32) for name, more in new.items()},
            trace=jnp.concatenate([state.trace[:, 1:], seen[:, None]], axis=1),
        )

    def step(key: Array, state: StressState) -> tuple[StressState, dict[str, Any]]:
        return jax.lax.fori_loop(0, ops_a_step, lambda i, s: operation(jax.random.fold_in(key, i), s), state), {}

    return dlsim.Process(init=init, step=step, sources=("Keiblinger et al., 2025",))
