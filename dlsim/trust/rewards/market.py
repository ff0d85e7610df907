"""Proof of contribution: an owner pays trainers for a federated model by what each contributed, from an escrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms import server_round
from dlsim.algorithms.local import local_updates
from dlsim.core import Aggregator, Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Arrival, Network
from dlsim.problems.blocks import check_node_block
from dlsim.trust.ledger.accounts import Ledger, fund, lock, open_ledger, pay, release, slash
from dlsim.trust.ledger.conduct import Conduct, check_conduct, check_no_cohort, handed_in
from dlsim.trust.rewards.outliers import OutlierRule, Verdict
from dlsim.trust.rewards.shapley import (
    MOST_EXACT,
    coalition_utility,
    exact_shapley,
    leave_one_out,
    sampled_leave_one_out,
    sampled_shapley,
)

if TYPE_CHECKING:
    import optax

SHAPLEY = ("exact_shapley", "sampled_shapley", "gtg_shapley")
RULES = (*SHAPLEY, "leave_one_out", "sampled_leave_one_out", "equal", "examples", "random")
METRICS = ("log_likelihood", "accuracy")
GTG: dict[str, Any] = {"is_guided": True, "between": 0.01, "within": 0.001, "change": 0.05}
TRAINING, CLOSED = range(2)


class ContributionState(NamedTuple):
    """A market of trainers, an aggregator (account N) and an owner (account N + 1)."""

    params: PyTree  # [...] the model
    outliers: PyTree
    aggregator: PyTree
    contributions: Array  # [N] sums over rounds
    strikes: Array  # int32 [N] rounds in which one was removed
    ledger: Ledger  # N + 2 accounts; the pool is the escrow
    paid: Array  # int32 [N] at settlement
    phase: Array  # int32 [] TRAINING or CLOSED
    start_utility: Array  # [] of the model before the first round
    utility: Array  # [] of the model now
    caught: Array  # int32 [] audits that found a lie
    round: Array  # int32 []


def proof_of_contribution(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    judge: Problem,
    *,
    num_rounds: int = 10,
    budget: int = 1_000_000,
    deposit: int = 100_000,
    contribution: str = "exact_shapley",
    num_permutations: int = 200,
    metric: str = "log_likelihood",
    outliers: OutlierRule | None = None,
    aggregator: Aggregator | None = None,
    features: Any = None,
    strikes: int = 3,
    accomplice: int | None = None,
    audit_probability: Any = 1.0,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
    weighting: str = "examples",
    conduct: Conduct | None = None,
    coalition_block: int | str | None = "auto",
) -> Algorithm:
    """FedAvg whose trainers are paid, at the end and to the unit, in proportion to what they contributed.

        x_i  = x, then local training;  I = those that the outlier rule keeps
        phi  = contribution of each of I to u(S) = metric of sum_{i in S} p_i x_i / sum_{i in S} p_i,  u(nobody) = metric of x
        x   <- sum_{i in I} p_i x_i / sum_{i in I} p_i,   Phi_i <- Phi_i + phi_i
        after R rounds: pay_i = B max(Phi_i, 0) / sum_j max(Phi_j, 0), deposits go back

    The owner's budget B is locked before the first round; nothing takes it out before the settlement, which comes by itself
    after R rounds: then the market is closed and steps change nothing more.  Where no contribution is above zero, those never
    removed share alike; where there is none, the owner gets the budget back.  A trainer removed `strikes` times loses its
    deposit to the owner.  Where nobody is removed, sum_i Phi_i of a Shapley rule is the metric's gain from first to last.

    The aggregator may lie: with `accomplice` it books every round's positive contributions on that trainer.  An audit, with
    probability `audit_probability` a round (1: proofs), finds it, takes the aggregator's deposit for the owner, and does the
    step again.

    Args:
      problem: what the trainers learn.
      client_optimizer: the trainers' optimiser, fresh each round, see `fedavg`.
      judge: a problem of the same model whose test examples are the owner's validation set.
      num_rounds: R, structural.
      budget, deposit: whole units, B of the owner and D of each trainer and the aggregator.
      contribution: `exact_shapley` (up to 16 trainers), `sampled_shapley`, `gtg_shapley`, `leave_one_out`,
        `sampled_leave_one_out`, or a baseline that asks for no utility: `equal`, `examples`, `random`; structural.
      num_permutations: P of the sampled ones, of `gtg_shapley` rounded up to a multiple of N; structural.
      metric: `log_likelihood` (minus the judge's loss) or `accuracy`; structural.
      outliers: such as `three_sigma()` or `krum_outliers(2)`; None: nobody is removed.
      aggregator: a rule of `dlsim.aggregators` in place of the mean of the movements x_i - x of I, and of every coalition.
      features: function of parameters `[n, ...]` that gives what outliers are judged by, such as the last layer; None: all.
      strikes: structural.
      accomplice: a trainer, structural; None: the aggregator is honest.
      audit_probability: in [0, 1]; may be traced.
      num_local_steps, num_local_epochs, weighting: as of `fedavg`.
      conduct: what trainers hand in, see `conduct`; None: all are honest.
      coalition_block: coalitions at a time, see `coalition_utility`; structural.

    Missing reports contribute zero.  The audit is of the arithmetic: proofs in zero knowledge, their seconds and their bytes
    are not simulated, nor are transactions.  Cost per round: FedAvg's, and one evaluation of each coalition.
    Source: Buyukates et al., Proof-of-contribution-based design for collaborative machine learning on blockchain, 2023; rules
      of removal and contribution as in FedML's code.  The contract's details are ours.
    """
    where = "proof_of_contribution"
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    checks.instance(where, "judge", judge, Problem, "A problem whose test examples are the owner's validation set.")
    num = problem.num_nodes
    num_rounds = checks.integer(where, "num_rounds", num_rounds, 1)
    budget = checks.integer(where, "budget", budget, 1)
    deposit = checks.integer(where, "deposit", deposit, 0, (checks.LARGEST_INTEGER - budget) // (num + 1))
    strikes = checks.integer(where, "strikes", strikes, 1)
    checks.one_of(where, "contribution", contribution, RULES)
    if contribution == "exact_shapley" and num > MOST_EXACT:
        fix = "Use contribution='sampled_shapley'."
        checks.fail(where, "contribution", f"a sampled rule for more than {MOST_EXACT} trainers", contribution, fix)
    num_permutations = checks.integer(where, "num_permutations", num_permutations, 1)
    checks.one_of(where, "metric", metric, METRICS)
    checks.probability(where, "audit_probability", audit_probability)
    if outliers is not None:
        checks.instance(where, "outliers", outliers, OutlierRule, "Pass e.g. dlsim.trust.three_sigma().")
    if features is not None:
        checks.function(where, "features", features)
    if accomplice is not None:
        accomplice = checks.integer(where, "accomplice", accomplice, 0, num - 1)
    check_conduct(where, conduct, num)
    check_node_block(where, coalition_block)
    server_round.check_weighting(where, weighting)
    server_round.check_aggregator(where, aggregator)
    local = local_updates(
        problem,
        client_optimizer,
        num_local_steps,
        num_local_epochs=num_local_epochs,
        restarts=True,
        where=where,
        argument="client_optimizer",
    )
    owner, keeper = num + 1, num  # accounts; the keeper of the books is the aggregator

    def utility_of(models: PyTree) -> Array:
        found = judge.evaluate(models)
        return -found["loss"] if metric == "log_likelihood" else found["accuracy"]

    def features_of(models: PyTree) -> Array:
        return trees.ravel(models if features is None else features(models))[0]

    def init(key: Array, params: PyTree, network: Network) -> ContributionState:
        del key, network
        model = server_round.first(params)
        accounts = jnp.full(num + 2, deposit, jnp.int32).at[owner].set(budget)
        books, _ = fund(open_ledger(accounts), jnp.arange(num + 2) == owner, budget)
        books, _ = lock(books, jnp.arange(num + 2) < owner, deposit)
        before = utility_of(server_round.as_one(model))[0]
        return ContributionState(
            params=model,
            outliers=() if outliers is None else outliers.init(features_of(params)),
            aggregator=() if aggregator is None else aggregator.init(trees.replicate(model, 1)),
            contributions=jnp.zeros(num),
            strikes=jnp.zeros(num, jnp.int32),
            ledger=books,
            paid=jnp.zeros(num, jnp.int32),
            phase=jnp.asarray(TRAINING, jnp.int32),
            start_utility=before,
            utility=before,
            caught=jnp.zeros((), jnp.int32),
            round=jnp.zeros((), jnp.int32),
        )

    def valued(key: Array, models: PyTree, weights: Array, without: PyTree, is_kept: Array, mix: Any) -> Array:
        """What each contributed in this round, `[N]`."""
        if contribution == "equal":
            return is_kept.astype(jnp.float32)
        if contribution == "examples":
            return jnp.where(is_kept, jnp.asarray(problem.num_examples, jnp.float32), 0)
        if contribution == "random":
            return jnp.where(is_kept, jax.random.uniform(keys.stream(key, "random pay"), (num,)), 0)
        utility = coalition_utility(utility_of, models, weights, without, mix=mix, block=coalition_block)
        if contribution == "exact_shapley":
            return exact_shapley(utility, num, present=is_kept)
        if contribution == "leave_one_out":
            return leave_one_out(utility, num, present=is_kept)
        if contribution == "sampled_leave_one_out":
            return sampled_leave_one_out(key, utility, num, present=is_kept)
        orders, options = num_permutations, dict[str, Any]()
        if contribution == "gtg_shapley":
            orders, options = -(-orders // num) * num, GTG
        return sampled_shapley(key, utility, num, num_permutations=orders, present=is_kept, **options).values

    def step(key: Array, state: ContributionState, network: Network) -> tuple[ContributionState, Network, Info]:
        check_no_cohort(where, network)
        report, has_model, network = server_round.broadcast_and_train(
            network, key, (state.params,), local, None, lambda received: (), state.round
        )
        trained = report.params
        if conduct is not None:
            trained = handed_in(key, conduct, report.received[0], trained, network.node_ids, state.round)
        arrival, network = server_round.collect(network, key, trees.subtract(report.received[0], trained), has_model)
        moved, mask = arrival.values, arrival.mask
        models = jax.tree.map(lambda x, m: x - m, state.params, moved)
        seen, verdict = state.outliers, Verdict(mask, jnp.zeros(num, bool), jnp.zeros(num, bool))
        if outliers is not None:
            given = features_of(server_round.as_one(state.params))[0]
            seen, verdict = outliers.apply(state.outliers, features_of(models), given, mask)
        kept = verdict.is_kept
        nothing = trees.zeros_like(moved)
        # Weights of zero would not keep out the NaN of a model that is left out.
        moved = moved if outliers is None else trees.select(kept, moved, nothing)
        weights = server_round.aggregation_weights(problem, weighting, network, None, kept)

        def combined(who: Array) -> tuple[PyTree, PyTree]:
            """What the rule remembers, and the movement that it makes of those of some trainers."""
            some = Arrival(moved, who)
            return server_round.aggregated(aggregator, state.aggregator, key, some, jnp.where(who, weights, 0))

        def mixed(who: Array) -> PyTree:
            return trees.subtract(state.params, combined(who)[1])

        remembered, mean = combined(kept)
        model = jax.tree.map(lambda x, m: jnp.where(jnp.any(kept), x - m, x), state.params, mean)

        models = jax.tree.map(lambda x, m: x - m, state.params, moved)
        earned = valued(
            keys.stream(key, "value"), models, weights, state.params, kept, None if aggregator is None else mixed
        )
        books, caught = state.ledger, state.caught
        if accomplice is not None:
            drawn = jax.random.uniform(keys.stream(key, "audit"))
            is_found = drawn < audit_probability
            booked = jnp.zeros(num).at[accomplice].set(jnp.sum(jnp.maximum(earned, 0)))
            earned = jnp.where(is_found, earned, booked)
            books = slash(books, (jnp.arange(num + 2) == keeper) & is_found, deposit, to=owner)
            caught = caught + is_found
        removed = mask & ~kept
        struck = state.strikes + removed
        out = jnp.concatenate([removed & (struck >= strikes), jnp.zeros(2, bool)])
        books = slash(books, out, deposit, to=owner)
        new = state._replace(
            params=model,
            outliers=seen,
            aggregator=remembered,
            contributions=state.contributions + earned,
            strikes=struck,
            ledger=books,
            utility=utility_of(server_round.as_one(model))[0],
            caught=caught,
            round=state.round + 1,
        )
        new = _settled(new, owner, new.round >= num_rounds)
        new = jax.tree.map(lambda a, b: jnp.where(state.phase == TRAINING, a, b), new, state)
        info = {
            **report.info,
            "earned": earned,
            "is_removed": removed,
            "is_lazy": verdict.is_lazy,
            "is_far": verdict.is_far,
        }
        return new, network, info

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: server_round.as_one(state.params),
        requires=frozenset({"server", "prompt"}),
        source="Buyukates et al., 2023",
        aggregator=aggregator,
    )


def contribution_shares(contributions: Array, strikes: Array) -> Array:
    """What payments are in proportion to, `[N]`: what is above zero; if nothing is, those never removed alike."""
    positive = jnp.maximum(contributions, 0)
    return jnp.where(jnp.any(positive > 0), positive, (strikes == 0).astype(positive.dtype))


def _settled(state: ContributionState, owner: int, is_over: Array) -> ContributionState:
    """The escrow to the trainers, what is left of it to the owner, all deposits back."""
    num = owner - 1
    shares = contribution_shares(state.contributions, state.strikes)
    everybody = jnp.ones(owner + 1, bool)
    books, paid = pay(state.ledger, state.ledger.pool, jnp.concatenate([shares, jnp.zeros(2)]))
    books, _ = pay(books, books.pool, (jnp.arange(owner + 1) == owner).astype(jnp.float32))
    books = release(books, everybody)
    new = state._replace(ledger=books, paid=paid[:num], phase=jnp.asarray(CLOSED, jnp.int32))
    return jax.tree.map(lambda a, b: jnp.where(is_over, a, b), new, state)
