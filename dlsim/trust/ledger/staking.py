"""Federated averaging under a contract: workers stake deposits, score each other, are paid or slashed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.aggregators.candidates import median_by_entry
from dlsim.algorithms import server_round
from dlsim.algorithms.local import local_updates
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks import perfect_channel
from dlsim.networks.network import Network
from dlsim.problems.notices import notice
from dlsim.trust.ledger.accounts import Ledger, lock, open_ledger, pay, release, reputation_step, slash
from dlsim.trust.ledger.conduct import Conduct, check_conduct, check_no_cohort, handed_in

if TYPE_CHECKING:
    import optax

HASH_BYTES, SCORE_BYTES = 32, 8
PAYS = ("contribution", "equal", "none")


class StakedState(NamedTuple):
    """Workers under a contract; members are those that are registered and not expelled."""

    params: PyTree  # [...] the model
    ledger: Ledger  # N accounts, and the contract's pool
    pot: Array  # int32 [] the part of the pool that this round's pay may come from
    reputation: Array  # [N] in [0, 1]
    is_member: Array  # bool [N]
    num_failed: Array  # int32 [N] tests that one failed
    num_expelled: Array  # int32 [N]
    paid: Array  # int32 [N] so far
    round: Array  # int32 []


def staked_fedavg(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    *,
    stake: int = 10_000,
    reward: int = 1_000,
    endowment: int = 20_000,
    treasury: int = 1_000_000,
    num_evaluators: int = 5,
    slash_fraction: Any = 0.5,
    reputation_rate: Any = 0.2,
    expel_below: Any = 0.2,
    poison_margin: Any = 0.1,
    lazy_margin: Any = 1e-6,
    liar_margin: Any = 0.25,
    pays: str = "contribution",
    base_pay: int = 0,
    is_excluding: bool = True,
    rejoins: bool = False,
    num_local_steps: int = 1,
    num_local_epochs: int | None = None,
    conduct: Conduct | None = None,
    poisoned: Problem | None = None,
) -> Algorithm:
    """FedAvg between workers who have something to lose: deposits, scores by peers, pay, slashing and reputation.

    A round, with w the model, t_i the reputation of worker i (at first 1/2), b_i its balance and s_i its stake:

        register   who is no member, was never expelled (or `rejoins`), and has b_i >= S: locks S
        submit     w_i = w, then local training; who does not: t_i <- max(t_i - eta, 0)
        score      k members drawn for each, in turns: a_ji = accuracy of w_i on j's own test examples
                   q_i = median_j a_ji, q_0 = median_j a_j(w), c_i = max(q_i - q_0, 0), e_j = mean_i |a_ji - q_i|
        test       poisoned: q_i < q_0 - tau_m;  lazy: ||w_i - w|| <= 1e-6 ||w||;  lying: e_j > tau_e, or no number in [0, 1]
        settle     passed: t_i <- (1 - eta) t_i + eta;   failed: gamma s_i to the pool, t_i <- (1 - eta) t_i
                   pay_i = P c_i t_i / sum c_j t_j among the passed, P = rho times the members, what was slashed, and what was
                   left before; below t_i < 0.2 expelled: what is left of the stake is paid back
        aggregate  w <- sum t_i n_i w_i / sum t_i n_i over models that are not poisoned and not lazy, t_i as it was at first

    Money is in whole units (thousandths of a coin by default), and what a division leaves stays in the pool.  With fewer than
    k + 1 members the contract pauses: nobody is scored, paid or slashed, and the model stays.  Pay vanishes as w converges,
    since no c_i is above zero then; `base_pay` goes to everybody that passed, before the rest.

    Args:
      problem: with tests of the nodes' own (`local_test`), on which they score.
      client_optimizer: of the workers, fresh each round, see `fedavg`.
      stake, reward, endowment, treasury, base_pay: whole units: S, rho for each member and round, what each worker has at
        first, and what the contract has; the stake at most the endowment.
      num_evaluators: k >= 1, at most the others, structural.
      slash_fraction: gamma in [0, 1]; may be traced.
      reputation_rate: eta in [0, 1]; may be traced.
      expel_below: in [0, 1]; may be traced.
      poison_margin, lazy_margin, liar_margin: tau_m, the relative movement that is none, tau_e; >= 0, may be traced.
      pays: `contribution`; `equal`: P alike to all that passed; `none`; structural.
      is_excluding: whether models that failed are left out of the average; structural.
      rejoins: whether who was expelled comes back under a new name, with t = 1/2 and a new stake; structural.
      num_local_steps, num_local_epochs: as of `fedavg`.
      conduct: who is dishonest, and how; see `conduct`; None: nobody.
      poisoned: the problem that `flipped` workers train on, of the same nodes and model.

    Messages per round: each worker's model up and to its k evaluators, the new model down; 32 bytes of a hash and 8 of each
    score on the chain (`info["chain_bytes"]`).  A store of r replicas that are there with probability a loses a message with
    (1 - a)^r: `network.with_channel(dlsim.networks.loss((1 - a) ** r))`.  With gamma = rho = eta = 0 and no margins exceeded
    it is FedAvg, bit for bit.
    Source: Jaberzadeh et al., Blockchain-based federated learning: incentivizing data sharing and penalizing dishonest
      behavior, 2023.  Its text was not at hand: the roles are the paper's, the formulas ours.
    """
    where = "staked_fedavg"
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    num = problem.num_nodes
    if num < 2:
        checks.fail(where, "problem", "one of two workers or more", f"{num} node")
    stake = checks.integer(where, "stake", stake, 0)
    endowment = checks.integer(where, "endowment", endowment, 0, checks.LARGEST_INTEGER // (4 * num))
    if stake > endowment:
        checks.fail(where, "stake", f"at most the endowment, {endowment}", stake, "Else nobody can register.")
    treasury = checks.integer(where, "treasury", treasury, 0, checks.LARGEST_INTEGER - num * endowment)
    reward = checks.integer(where, "reward", reward, 0, checks.LARGEST_INTEGER // (4 * num))
    base_pay = checks.integer(where, "base_pay", base_pay, 0, checks.LARGEST_INTEGER // (4 * num))
    num_evaluators = min(checks.integer(where, "num_evaluators", num_evaluators, 1), num - 1)
    for name, value in {
        "slash_fraction": slash_fraction,
        "reputation_rate": reputation_rate,
        "expel_below": expel_below,
    }.items():
        checks.probability(where, name, value)
    for name, value in {
        "poison_margin": poison_margin,
        "lazy_margin": lazy_margin,
        "liar_margin": liar_margin,
    }.items():
        checks.number(where, name, value, 0.0)
    checks.one_of(where, "pays", pays, PAYS)
    checks.flag(where, "is_excluding", is_excluding)
    checks.flag(where, "rejoins", rejoins)
    check_conduct(where, conduct, num)
    if stake == 0 and checks.is_concrete(slash_fraction) and slash_fraction > 0:
        notice(where, "the stake is 0, so that slashing takes nothing and deters nobody.")
    flipped = np.zeros(0, int) if conduct is None else np.flatnonzero(conduct.is_flipped)
    if flipped.size and poisoned is None:
        fix = "Pass the problem that flipped workers train on."
        checks.fail(where, "poisoned", "given where conduct names flipped workers", None, fix)
    _check_own_tests(where, problem)

    def training(of: Problem) -> Any:
        return local_updates(
            of,
            client_optimizer,
            num_local_steps,
            num_local_epochs=num_local_epochs,
            restarts=True,
            where=where,
            argument="client_optimizer",
        )

    margins = (poison_margin, lazy_margin, liar_margin)
    poison_margin, lazy_margin, liar_margin = (jnp.asarray(margin, jnp.float32) for margin in margins)
    local = training(problem)
    bad = training(checks.instance(where, "poisoned", poisoned, Problem)) if poisoned is not None else None
    sizes = jnp.asarray(problem.num_examples, jnp.float32)

    def init(key: Array, params: PyTree, network: Network) -> StakedState:
        del key, network
        nothing = jnp.zeros(num, jnp.int32)
        return StakedState(
            params=server_round.first(params),
            ledger=open_ledger(np.full(num, endowment), pool=treasury),
            pot=jnp.zeros((), jnp.int32),
            reputation=jnp.full(num, 0.5, jnp.float32),
            is_member=jnp.zeros(num, bool),
            num_failed=nothing,
            num_expelled=nothing,
            paid=nothing,
            round=jnp.zeros((), jnp.int32),
        )

    def submitted(key: Array, state: StakedState, network: Network) -> tuple[Any, Any, Network]:
        """What is in the store, as movements `[N, ...]`, and what training said."""
        report, has_model, network = server_round.broadcast_and_train(
            network, key, (state.params,), local, None, lambda received: (), state.round
        )
        received, trained = report.received[0], report.params
        if conduct is not None:
            if bad is not None and flipped.size:
                rows = jnp.asarray(flipped)
                some = trees.take(received, rows)
                other, _, _ = bad.run(key, some, bad.init(some), network.node_ids[rows], round=state.round)
                is_late = jnp.broadcast_to(state.round >= conduct.since, rows.shape)
                other = trees.select(is_late, other, trees.take(trained, rows))
                trained = trees.put(trained, rows, other)
            trained = handed_in(key, conduct, received, trained, network.node_ids, state.round)
        there = has_model & state.is_member
        arrival, network = server_round.collect(network, key, trees.subtract(received, trained), there)
        return report, arrival._replace(mask=arrival.mask & there), network

    def scores_of(key: Array, state: StakedState, models: PyTree, sent: Array, network: Network) -> Any:
        """Evaluators `[N, k]`, what they report `[N, k]` and of w `[N]`, which of it counts, and the network."""
        to, is_asked = evaluators(keys.stream(key, "evaluators"), sent & state.is_member, num_evaluators)
        exact = network.replace(channel=perfect_channel())  # of what is in the store already
        packet, exact = exact.send_to(key, models, jnp.where(is_asked, to, -1), stream="scoring")
        network = exact.replace(channel=network.channel)
        is_heard = packet.mask & is_asked

        def measured(evaluator: Array) -> Array:
            return problem.evaluate(models, network.node_ids[evaluator])["accuracy_local"]

        found = jax.lax.map(measured, to.T).T
        base = measured_at(problem, state.params, network.node_ids)
        if conduct is not None:
            lies = (conduct.ring >= 0) & (state.round >= conduct.since)
            friends = (conduct.ring[to] == conduct.ring[:, None]) & lies[:, None]
            found = jnp.where(lies[to], friends.astype(found.dtype), found)
            base = jnp.where(lies, 0.0, base)
        return to, found, base, is_heard, network

    def step(key: Array, state: StakedState, network: Network) -> tuple[StakedState, Network, Info]:
        check_no_cohort(where, network)
        before = state
        may = ~state.is_member & (rejoins | (state.num_expelled == 0))
        books, joined = lock(state.ledger, may, stake)
        state = state._replace(
            ledger=books,
            is_member=state.is_member | joined,
            reputation=jnp.where(joined, 0.5, state.reputation),
        )
        report, arrival, network = submitted(key, state, network)
        moved, sent = arrival.values, arrival.mask
        models = jax.tree.map(lambda w, m: w - m, state.params, moved)
        to, found, base, is_heard, network = scores_of(key, state, models, sent, network)
        opinion = judge(found, base, to, is_heard, sent)
        size = jnp.sqrt(trees.squared_norm(server_round.as_one(state.params)))[0]
        is_lazy = sent & (jnp.sqrt(trees.squared_norm(moved)) <= lazy_margin * size)
        is_poison = sent & opinion.is_judged & ~(opinion.quality >= opinion.base - poison_margin)
        is_poison |= sent & ~jnp.isfinite(trees.squared_norm(moved))
        is_liar = state.is_member & ((opinion.error > liar_margin) | opinion.is_absurd)
        works = jnp.sum(sent) > num_evaluators  # else the contract pauses
        failed = (is_lazy | is_poison | is_liar) & works
        passed = sent & ~failed

        # Settle: slashed money and this round's reward may be paid, what is left over stays for the next.
        fine = jnp.floor(state.ledger.stakes.astype(jnp.float32) * slash_fraction).astype(jnp.int32)
        books = slash(state.ledger, failed, fine)
        slashed = books.pool - state.ledger.pool
        members = jnp.sum(state.is_member, dtype=jnp.int32)
        more = jnp.minimum(reward * members + slashed, books.pool - state.pot)
        pot = jnp.where(works, state.pot + more, state.pot)
        first_due = jnp.where(works, base_pay * jnp.sum(passed, dtype=jnp.int32), 0)
        books, first = pay(books, first_due, passed.astype(jnp.float32), is_whole=False)
        pot = jnp.minimum(pot, books.pool)
        worth = jnp.where(passed, jnp.maximum(opinion.quality - opinion.base, 0) * state.reputation, 0)
        shares = {"contribution": worth, "equal": passed.astype(jnp.float32), "none": jnp.zeros(num)}[pays]
        books, paid = pay(books, jnp.where(works, pot, 0), shares, is_whole=False)
        moved_on = reputation_step(state.reputation, passed, reputation_rate)
        missed = state.is_member & ~sent & ~failed
        lost = jnp.maximum(state.reputation - reputation_rate, 0)
        reputation = jnp.where(passed | failed, moved_on, jnp.where(missed, lost, state.reputation))
        reputation = jnp.where(works, reputation, state.reputation)
        is_out = state.is_member & (reputation < expel_below)
        books = release(books, is_out)

        counts = sent & ~(is_lazy | is_poison) if is_excluding else sent
        moved = trees.select(counts, moved, trees.zeros_like(moved))
        weights = jnp.where(counts, state.reputation * sizes, 0)
        mean = trees.mean(moved, weights)
        goes = works & jnp.any(counts)
        new = StakedState(
            params=jax.tree.map(lambda w, m: jnp.where(goes, w - m, w), state.params, mean),
            ledger=books,
            pot=pot - jnp.sum(paid, dtype=jnp.int32),
            reputation=reputation,
            is_member=state.is_member & ~is_out,
            num_failed=state.num_failed + failed,
            num_expelled=state.num_expelled + is_out,
            paid=before.paid + first + paid,
            round=state.round + 1,
        )
        info = {
            **report.info,
            "quality": opinion.quality,
            "is_poison": is_poison & works,
            "is_lazy": is_lazy & works,
            "is_liar": is_liar & works,
            "earned": first + paid,
            "slashed": jnp.where(failed, jnp.minimum(fine, state.ledger.stakes), 0),
            "chain_bytes": (HASH_BYTES * jnp.sum(sent) + SCORE_BYTES * jnp.sum(is_heard)).astype(jnp.float32),
        }
        return new, network, info

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: server_round.as_one(state.params),
        requires=frozenset({"server", "prompt"}),
        source="Jaberzadeh et al., 2023",
    )


class Opinion(NamedTuple):
    """What the members think of models, and what that says of them."""

    quality: Array  # [N] median score of each model; 0 where nobody judged it
    base: Array  # [] median score of the model before
    error: Array  # [N] mean distance of an evaluator's scores from the medians
    is_judged: Array  # bool [N]
    is_absurd: Array  # bool [N] evaluators that gave no number in [0, 1]


def judge(scores: Array, base: Array, to: Array, is_heard: Array, is_there: Array) -> Opinion:
    """Medians of scores `[N, k]`, given by the evaluators `to`, and of the old model `[N]`; how far evaluators were off.

    The median of five tolerates two liars; of an even number it is the mean of the middle two.
    """
    num = scores.shape[0]
    is_number = (scores >= 0) & (scores <= 1)
    counts = is_heard & is_number
    quality = jnp.where(jnp.any(counts, axis=1), median_by_entry(jnp.where(counts, scores, 0), counts), 0)
    off = jnp.where(counts, jnp.abs(scores - quality[:, None]), 0)
    total = jnp.zeros(num).at[to].add(off)
    given = jnp.zeros(num).at[to].add(counts.astype(jnp.float32))
    absurd = jnp.zeros(num, jnp.int32).at[to].add((is_heard & ~is_number).astype(jnp.int32)) > 0
    known = is_there & (base >= 0) & (base <= 1)
    start = jnp.where(jnp.any(known), median_by_entry(jnp.where(known, base, 0)[None], known[None])[0], 0)
    return Opinion(quality, start, total / jnp.maximum(given, 1), jnp.any(counts, axis=1), absurd)


def evaluators(key: Array, is_active: Array, num: int) -> tuple[Array, Array]:
    """Who scores whom, int32 `[N, k]`: the active ones in a circle drawn at random, each scored by the next k; and if at all.

    Nobody scores itself, and each of m active ones scores min(k, m - 1) others.
    """
    size = is_active.shape[0]
    drawn = jax.random.uniform(key, (size,))
    circle = jnp.argsort(jnp.where(is_active, drawn, 2.0)).astype(jnp.int32)  # the active ones come first
    place = jnp.zeros(size, jnp.int32).at[circle].set(jnp.arange(size, dtype=jnp.int32))
    active = jnp.maximum(jnp.sum(is_active), 1)
    shifts = jnp.arange(1, num + 1)
    to = circle[(place[:, None] + shifts) % active]
    return to, is_active[:, None] & (shifts < active)


def measured_at(problem: Problem, params: PyTree, node_ids: Array) -> Array:
    """Accuracy of one model on each node's own test examples, `[N]`."""
    return problem.evaluate(trees.replicate(params, node_ids.shape[0]), node_ids)["accuracy_local"]


def _check_own_tests(where: str, problem: Problem) -> None:
    """Nodes score on test examples of their own."""
    one = jax.eval_shape(lambda key: server_round.as_one(problem.init(key)), jax.random.key(0))
    found = jax.eval_shape(problem.evaluate, one, jax.ShapeDtypeStruct((1,), jnp.int32))
    if "accuracy_local" not in found:
        fix = "Use partition(..., local_test()) of classes."
        checks.fail(where, "problem", "one that measures accuracy_local", ", ".join(sorted(found)), fix)
