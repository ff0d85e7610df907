"""The life of a contract between an owner, an aggregator and trainers, of whom the first two may break it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Process
from dlsim.trust.ledger.accounts import Ledger, fund, lock, open_ledger, pay, release, slash, total_money

OPEN, TRAINING, SETTLING, CLOSED = range(4)
OWNERS = ("honest", "never_funds", "withdraws", "never_settles")
AGGREGATORS = ("honest", "never_joins", "stops", "lies")


class ContractState(NamedTuple):
    """Accounts are the trainers, the aggregator (N) and the owner (N + 1)."""

    ledger: Ledger  # the pool is the escrow
    phase: Array  # int32 [] OPEN, TRAINING, SETTLING or CLOSED
    clock: Array  # int32 [] ticks since something happened
    rounds: Array  # int32 [] reported
    booked: Array  # [N] contributions so far, as reported
    paid: Array  # int32 [N]
    refused: Array  # int32 [] actions that the contract did not let happen
    outside: Array  # int32 [] what lies brought the aggregator, from outside the books


@checks.typed
def contract_game(
    num_trainers: int,
    *,
    owner: str = "honest",
    aggregator: str = "honest",
    num_rounds: int = 3,
    budget: int = 1_000_000,
    deposit: int = 100_000,
    penalty: int | None = None,
    gain: int = 0,
    audit_probability: Any = 1.0,
    patience: int = 2,
) -> Process:
    """A contract played tick by tick: what everybody ends with, whatever owner and aggregator do.

        open      the owner pays its budget B into the escrow, then trainers and aggregator lock deposits D
        training  the aggregator reports a round a tick, with trainer i's contribution i + 1; nothing leaves the escrow
        settling  the escrow is paid out in proportion to what was booked, to the unit; deposits go back
        closed    nothing moves

    Each phase that waits for somebody ends after `patience` ticks without an action: an open contract gives everything back;
    without reports it settles what was booked (where nothing was: alike), and the aggregator's penalty goes to the owner; one
    that the owner does not settle is settled by the trainers.  So honest trainers never end with less than they had, and get
    their pay if training began.

    An aggregator that `lies` books a round on trainer 0 alone and gets `gain` from outside for it; an audit finds each lie
    with `audit_probability` = p, books the truth and takes the penalty, or what is left of the deposit, for the owner.  The
    lie of one round pays if (1 - p) gain > p penalty.

    Args:
      num_trainers: N, structural.
      owner: `honest`, `never_funds`, `withdraws` (tries to take the escrow back, every tick) or `never_settles`; structural.
      aggregator: `honest`, `never_joins`, `stops` (after the first report) or `lies`; structural.
      num_rounds: R, structural.
      budget, deposit, gain: whole units.
      penalty: whole units, at most the deposit; None: the deposit.
      audit_probability: in [0, 1]; may be traced.
      patience: ticks, structural.

    A step is a tick; R + 4 + 3 patience ticks end every game.  `measure`: `gains` of trainers, aggregator and owner `[N + 2]`
    against what they had, `paid` `[N]`, `phase`, `refused`, `outside`, and `total`, which never changes.
    Source: the contract of Buyukates et al., Proof-of-contribution-based design for collaborative machine learning on
      blockchain, 2023, whose details are ours.
    """
    where = "contract_game"
    num = checks.integer(where, "num_trainers", num_trainers, 1)
    checks.one_of(where, "owner", owner, OWNERS)
    checks.one_of(where, "aggregator", aggregator, AGGREGATORS)
    num_rounds = checks.integer(where, "num_rounds", num_rounds, 1)
    budget = checks.integer(where, "budget", budget, 0)
    deposit = checks.integer(where, "deposit", deposit, 0, (checks.LARGEST_INTEGER - budget) // (num + 1))
    penalty = deposit if penalty is None else checks.integer(where, "penalty", penalty, 0)
    if deposit < penalty:
        checks.fail(
            where, "deposit", f"at least the penalty, {penalty}", deposit, "What is not locked cannot be taken."
        )
    gain = checks.integer(where, "gain", gain, 0, checks.LARGEST_INTEGER // num_rounds)
    checks.probability(where, "audit_probability", audit_probability)
    patience = checks.integer(where, "patience", patience, 1)
    accounts = jnp.arange(num + 2)
    is_trainer, is_aggregator, is_owner = accounts < num, accounts == num, accounts == num + 1
    start = jnp.full(num + 2, deposit, jnp.int32).at[num + 1].set(budget)
    worth = 1.0 + jnp.arange(num)

    def init(key: Array) -> ContractState:
        del key
        zero = jnp.zeros((), jnp.int32)
        return ContractState(
            open_ledger(start), zero + OPEN, zero, zero, jnp.zeros(num), jnp.zeros(num, jnp.int32), zero, zero
        )

    def ended(state: ContractState) -> ContractState:
        """The escrow to the trainers, deposits back, closed."""
        shares = jnp.where(jnp.any(state.booked > 0), state.booked, jnp.ones(num))
        books, paid = pay(state.ledger, state.ledger.pool, jnp.concatenate([shares, jnp.zeros(2)]))
        books = release(books, jnp.ones(num + 2, bool))
        return state._replace(ledger=books, paid=paid[:num], phase=jnp.full_like(state.phase, CLOSED))

    def opening(key: Array, state: ContractState) -> ContractState:
        del key
        is_funded = state.ledger.pool >= budget
        books, funded = fund(state.ledger, is_owner & (owner != "never_funds") & ~is_funded, budget)
        joins = is_funded & (is_trainer | (is_aggregator & (aggregator != "never_joins"))) & (books.stakes < deposit)
        books, joined = lock(books, joins, deposit)
        is_ready = is_funded & jnp.all((books.stakes >= deposit) | is_owner)
        acted = jnp.any(funded) | jnp.any(joined)
        waited = jnp.where(acted, 0, state.clock + 1)
        new = state._replace(
            ledger=books, phase=jnp.where(is_ready, TRAINING, OPEN), clock=jnp.where(is_ready, 0, waited)
        )
        # Nobody came: the owner has its money back, the others their deposits.
        back, _ = pay(books, books.pool, is_owner.astype(jnp.float32))
        back = release(back, jnp.ones(num + 2, bool))
        void = new._replace(ledger=back, phase=jnp.full_like(state.phase, CLOSED))
        return _choose(~is_ready & (waited >= patience), void, new)

    def training(key: Array, state: ContractState) -> ContractState:
        reports = jnp.asarray(True) if aggregator != "stops" else state.rounds < 1
        refused = state.refused + jnp.asarray(owner == "withdraws", jnp.int32)
        books, booked, outside = state.ledger, worth, state.outside
        if aggregator == "lies":
            is_found = jax.random.uniform(keys.stream(key, "audit")) < audit_probability
            booked = jnp.where(is_found, worth, jnp.zeros(num).at[0].set(jnp.sum(worth)))
            books = slash(books, is_aggregator & is_found, penalty, to=num + 1)
            outside = outside + jnp.where(is_found, 0, gain)
        rounds = state.rounds + reports
        waited = jnp.where(reports, 0, state.clock + 1)
        new = state._replace(
            ledger=books,
            phase=jnp.where(rounds >= num_rounds, SETTLING, TRAINING),
            clock=waited,
            rounds=rounds,
            booked=state.booked + jnp.where(reports, booked, 0),
            refused=refused,
            outside=outside,
        )
        late = ended(new._replace(ledger=slash(books, is_aggregator, penalty, to=num + 1)))
        return _choose(waited >= patience, late, new)

    def settling(key: Array, state: ContractState) -> ContractState:
        del key
        acts = owner in ("honest", "never_funds")
        refused = state.refused + jnp.asarray(owner == "withdraws", jnp.int32)
        waited = state._replace(clock=state.clock + 1, refused=refused)
        return _choose(jnp.asarray(acts) | (waited.clock >= patience), ended(waited), waited)

    def closed(key: Array, state: ContractState) -> ContractState:
        del key
        return state

    def step(key: Array, state: ContractState) -> tuple[ContractState, Info]:
        phases = [_same_types(phase) for phase in (opening, training, settling, closed)]
        return jax.lax.switch(state.phase, phases, key, state), {}

    def measure(state: ContractState, info: Info) -> Info:
        del info
        held = state.ledger.balances + state.ledger.stakes
        return {
            "gains": held - start,
            "paid": state.paid,
            "phase": state.phase,
            "refused": state.refused,
            "outside": state.outside,
            "total": total_money(state.ledger),
        }

    return Process(
        init=init,
        step=step,
        measure=measure,
        sources=("Buyukates et al., 2023",),
        dims={"gains": ("party",), "paid": ("trainer",)},
    )


def _same_types(phase: Any) -> Any:
    """The phase, whose state has the dtypes of the one it was given."""

    def typed(key: Array, state: ContractState) -> ContractState:
        new = phase(key, state)
        return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), new, state)

    return typed


def _choose(condition: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
