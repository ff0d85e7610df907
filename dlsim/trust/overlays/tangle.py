"""The Tangle: a ledger of transactions that approve earlier ones, without blocks."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info, Process
from dlsim.running import counters, status

LONG_AGO = 1e9  # seconds: the age of the genesis


class Transactions(NamedTuple):
    """The last W transactions, in a ring; a transaction is a slot of it."""

    ages: Array  # float32 [W] seconds since it was issued; below 0: none yet
    approved: Array  # float32 [W] seconds since the first that approves it was issued; -inf: none does
    parents: Array  # int32 [W, k] slots, -1: gone from the ring
    reaches: Array  # uint32 [W, W / 32] which others it approves, directly or not, a bit each
    weights: Array  # int32 [W] 1 + how many approve it, directly or not
    issued: Array  # int32 [] transactions so far, the genesis among them
    clock: counters.Clock  # []
    num_tips: Array  # float32 [] as the arrivals of the last step saw them, their mean


@checks.typed
def tangle(
    *,
    rate: float = 10.0,
    delay: float = 1.0,
    num_parents: int = 2,
    selection: str = "uniform",
    bias: float = 0.0,
    window: int = 1024,
    arrivals_per_step: int = 100,
) -> Process:
    """Transactions arrive as a Poisson process, and each approves k tips as they looked h seconds ago.

    A transaction is seen h seconds after it was issued.  A tip is one that is seen and that nobody seen approves.  Each new
    one approves k tips, distinct where there are as many: drawn at random ("uniform"), or found by k walks from the oldest
    in the ring, which go on to one that approves y of those seen with probability prop. to exp(bias weight_y) until there
    is none ("walk").  A weight is 1 plus the number of transactions that approve it, directly or not.

    In the long run there are k lambda h / (k - 1) tips.  The process measures `num_tips` (mean of what the step's arrivals
    saw), `num_transactions`, `throughput` (transactions a second since the start), `confirmation_seconds` (the age from which
    on at least 95 % of the tips approve each transaction in the ring) and `simulated_seconds`.

    Args:
      rate: lambda, arrivals a second, above 0; traced.
      delay: h in seconds, 0 or more; traced.
      num_parents: k, 1 to 16; structural.
      selection: "uniform" or "walk"; structural.
      bias: alpha of the walk, 0 or more (0: unbiased); traced.
      window: W, transactions kept, a multiple of 32; structural.  More than four times those under way and in wait are
        needed; a tip of "uniform" that falls out of the ring sets the status bit of a full buffer.
      arrivals_per_step: 1 or more; structural.

    Cost an arrival: O(W), of a walk O(W) a step.  Memory: W^2 / 8 bytes.
    Source: Popov, The Tangle, 2018.  Differs: weights are those at the arrival, not h seconds earlier.
    """
    where = "tangle"
    checks.number(where, "rate", rate, 0.0, open_minimum=True)
    checks.number(where, "delay", delay, 0.0)
    checks.number(where, "bias", bias, 0.0)
    num_parents = checks.integer(where, "num_parents", num_parents, 1, 16)
    checks.one_of(where, "selection", selection, ("uniform", "walk"))
    window = checks.integer(where, "window", window, 32, 2**15)
    if window % 32:
        checks.fail(where, "window", "a multiple of 32", window, f"Use window={-(-window // 32) * 32}.")
    arrivals_per_step = checks.integer(where, "arrivals_per_step", arrivals_per_step, 1)
    if checks.is_concrete((rate, delay)):
        needed = 32 * int(np.ceil(4 * num_parents / max(num_parents - 1, 1) * float(rate) * float(delay) / 32))
        if window < needed:
            rule = f"at least {needed} for rate * delay = {float(rate) * float(delay):g}"
            checks.fail(where, "window", rule, window, f"Use window={needed}.")
    slots = jnp.arange(window, dtype=jnp.int32)
    is_short = selection == "uniform"  # a walk leaves some behind for good

    def init(key: Array) -> Transactions:
        del key
        return Transactions(
            ages=jnp.full(window, -1.0, jnp.float32).at[0].set(LONG_AGO),
            approved=jnp.full(window, -jnp.inf, jnp.float32),
            parents=jnp.full((window, num_parents), -1, jnp.int32),
            reaches=jnp.zeros((window, window // 32), jnp.uint32),
            weights=jnp.zeros(window, jnp.int32).at[0].set(1),
            issued=jnp.ones((), jnp.int32),
            clock=counters.clock(),
            num_tips=jnp.ones((), jnp.float32),
        )

    def arrive(key: Array, state: Transactions, turn: Array) -> tuple[Transactions, Array, Array]:
        uniform = keys.node_uniform(keys.stream(key, "gap"), turn[None], 1)[0, 0]
        gap = (-jnp.log1p(-uniform) / rate).astype(jnp.float32)
        ages = jnp.where(state.ages < 0, state.ages, jnp.minimum(state.ages + gap, LONG_AGO))
        approved = state.approved + gap
        is_tip, _ = _tips(ages, approved, delay)
        now = state._replace(ages=ages, approved=approved)
        draw = keys.fold_in(key, turn)
        if selection == "uniform":
            order = jnp.where(is_tip, keys.node_uniform(draw, slots, 1)[:, 0], -1.0)
            _, chosen = jax.lax.top_k(order, num_parents)
            chosen = jnp.where(is_tip[chosen], chosen, chosen[0]).astype(jnp.int32)
        else:
            walks = keys.fold_in(keys.stream(draw, "walk"), jnp.arange(num_parents))
            chosen = jax.vmap(lambda one: _walk(one, now, delay, bias))(walks)
        slot = state.issued % window
        # Whoever approves the one that leaves its slot does so no more.
        is_lost = (ages[slot] >= 0) & (approved[slot] < delay) & (state.issued >= window)
        keep = ~_bit(slot, window)
        row = jnp.zeros(window // 32, jnp.uint32)
        for i in range(num_parents):
            row = row | state.reaches[chosen[i]] | _bit(chosen[i], window)
        row = row & keep
        state = Transactions(
            ages=ages.at[slot].set(0.0),
            approved=approved.at[chosen].max(0.0).at[slot].set(-jnp.inf),
            parents=jnp.where(state.parents == slot, -1, state.parents).at[slot].set(chosen),
            reaches=(state.reaches & keep).at[slot].set(row),
            weights=(state.weights + _unpacked(row)).at[slot].set(1),
            issued=state.issued + 1,
            clock=counters.advance(state.clock, gap),
            num_tips=state.num_tips,
        )
        return state, jnp.sum(is_tip), is_lost

    def step(key: Array, state: Transactions) -> tuple[Transactions, Info]:
        def one(state: Transactions, turn: Array) -> tuple[Transactions, tuple[Array, Array]]:
            state, tips, is_lost = arrive(key, state, turn)
            return state, (tips, is_lost)

        state, (tips, is_lost) = jax.lax.scan(one, state, jnp.arange(arrivals_per_step))
        state = state._replace(num_tips=jnp.mean(tips.astype(jnp.float32)))
        return state, {"status": status.flag(jnp.any(is_lost) & is_short, status.BUFFER_OVERFLOW)}

    def measure(state: Transactions, info: Info) -> Info:
        del info
        sure = confidence(state, delay)
        is_unsure = (state.ages >= 0) & (sure < 0.95)
        seconds = state.clock.seconds.astype(jnp.float32) + state.clock.nanoseconds * jnp.float32(1e-9)
        return {
            "num_tips": state.num_tips,
            "num_transactions": state.issued,
            "throughput": (state.issued - 1) / jnp.maximum(seconds, 1e-9),
            "confirmation_seconds": jnp.max(jnp.where(is_unsure, state.ages, 0.0)),
            "simulated_seconds": state.clock,
        }

    return Process(init, step, measure, ("Popov, The Tangle, 2018",))


def confidence(state: Transactions, delay: Array | float) -> Array:
    """Share of the tips that are, or approve, each transaction in the ring, `[W]`: how sure it is.  O(W^2)."""
    is_tip, _ = _tips(state.ages, state.approved, delay)
    reached = jax.vmap(_unpacked)(state.reaches) + jnp.eye(state.ages.shape[0], dtype=jnp.int32)
    return jnp.sum(jnp.where(is_tip[:, None], reached, 0), axis=0) / jnp.maximum(jnp.sum(is_tip), 1)


def _tips(ages: Array, approved: Array, delay: Array | float) -> tuple[Array, Array]:
    """Who is a tip, and who is seen, bool `[W]` each."""
    is_seen = (ages >= 0) & (ages >= delay)
    return is_seen & (approved < delay), is_seen


def _walk(key: Array, state: Transactions, delay: Array | float, bias: Array | float) -> Array:
    """The slot of a tip, `[]`: from the oldest, by those that approve it, heavier ones rather."""
    slots = jnp.arange(state.ages.shape[0], dtype=jnp.int32)
    _, is_seen = _tips(state.ages, state.approved, delay)

    def nexts(at: Array) -> Array:
        return is_seen & jnp.any(state.parents == at, axis=1)

    def move(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        at, turn = carry
        noise = -jnp.log(-jnp.log(keys.node_uniform(keys.fold_in(key, turn), slots, 1)[:, 0] + 1e-9) + 1e-9)
        merit = jnp.where(nexts(at), bias * state.weights + noise, -jnp.inf)
        return jnp.argmax(merit).astype(jnp.int32), turn + 1

    # From the oldest that somebody seen approves: one that nobody does was left behind.
    is_inner = is_seen & ~_tips(state.ages, state.approved, delay)[0]
    is_first = jnp.where(jnp.any(is_inner), is_inner, is_seen)
    first = jnp.argmax(jnp.where(is_first, state.ages, -1.0)).astype(jnp.int32)
    return jax.lax.while_loop(lambda carry: jnp.any(nexts(carry[0])), move, (first, jnp.zeros((), jnp.int32)))[0]


def _bit(slot: Array, window: int) -> Array:
    """The word in which the bit of a slot is set, uint32 `[W / 32]`."""
    words = jnp.arange(window // 32)
    return jnp.where(words == slot // 32, jnp.uint32(1) << (slot % 32).astype(jnp.uint32), jnp.uint32(0))


def _unpacked(row: Array) -> Array:
    """The bits of `[W / 32]` words, int32 `[W]`."""
    return ((row[:, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1).astype(jnp.int32).reshape(-1)
