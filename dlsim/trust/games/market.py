"""Markets of strangers: random partners, reputations, and those who come back under another name."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Process, PyTree, Scenario
from dlsim.networks.network import Network
from dlsim.trust.draws import ranks
from dlsim.trust.games.automata import DILEMMA, check_payoffs
from dlsim.trust.rounds import check_world, in_rounds

COOPERATOR, DEFECTOR, TRAITOR = 0, 1, 2


class SolveFn(Protocol):
    def __call__(self, cooperated: Array, defected: Array, before: Array, /) -> Array: ...


class Reputation(NamedTuple):
    """What is known of whom, and by whom."""

    init: Any  # (num_nodes) -> memory
    # (memory, partners [N], cooperated bool [N], has_met bool [N]) -> memory: node i met partners[i], and cooperated or not
    observe: Any
    look: Any  # (memory, viewers [n], subjects [n]) -> (reputation [n], is_known bool [n])
    forget: Any  # (memory, is_new bool [N]) -> memory, without those that took a new name
    source: str = ""  # the paper behind it


def no_reputation() -> Reputation:
    """Nothing is known of anybody, whatever they did."""

    def look(memory: PyTree, viewers: Array, subjects: Array) -> tuple[Array, Array]:
        del memory, viewers
        return jnp.zeros(subjects.shape), jnp.zeros(subjects.shape, bool)

    return Reputation(
        init=lambda num_nodes: (),
        observe=lambda memory, partners, cooperated, has_met: memory,
        look=look,
        forget=lambda memory, is_new: memory,
    )


@checks.typed
def image_scoring(bound: int = 5) -> Reputation:
    """+1 for every move that cooperated and -1 for every one that did not, seen by all, within -bound and bound.

    Args:
      bound: 1 or more; structural.

    Source: Nowak, Sigmund, Evolution of indirect reciprocity by image scoring, Nature 1998.
    """
    bound = checks.integer("image_scoring", "bound", bound, 1, 2**30)

    def init(num_nodes: int) -> tuple[Array, Array]:
        return jnp.zeros(num_nodes, jnp.int32), jnp.zeros(num_nodes, bool)

    def observe(memory: PyTree, partners: Array, cooperated: Array, has_met: Array) -> PyTree:
        del partners
        score, is_known = memory
        moved = jnp.clip(score + jnp.where(cooperated, 1, -1), -bound, bound)
        return jnp.where(has_met, moved, score), is_known | has_met

    def look(memory: PyTree, viewers: Array, subjects: Array) -> tuple[Array, Array]:
        del viewers
        score, is_known = memory
        return score[subjects].astype(jnp.float32), is_known[subjects]

    def forget(memory: PyTree, is_new: Array) -> PyTree:
        score, is_known = memory
        return jnp.where(is_new, 0, score), is_known & ~is_new

    return Reputation(init, observe, look, forget, "Nowak, Sigmund, Nature 1998")


def own_experience() -> Reputation:
    """c_ij - d_ij: how much oftener j cooperated with i than not, for i alone.  Memory N^2 numbers."""

    def look(memory: PyTree, viewers: Array, subjects: Array) -> tuple[Array, Array]:
        good, bad = memory[0][viewers, subjects], memory[1][viewers, subjects]
        return good - bad, good + bad > 0

    return Reputation(_no_history, _counted, look, _forgotten)


@checks.typed
def solved_reputation(solve: SolveFn, source: str = "") -> Reputation:
    """A reputation of all, solved from everybody's counts after every round: EigenTrust, a random walk, a flow.

    Args:
      solve: (cooperated float32 `[N, N]`, defected `[N, N]`, before `[N]`) -> `[N]`, where row i and column j of the counts
        say how often j cooperated with i, and how often not; `before` is what it gave last, zeros at first.
      source: the paper behind it.

    Who has never been met, under the name it has now, is unknown.  Memory N^2 numbers.
    """
    checks.function("solved_reputation", "solve", solve, "a function (cooperated, defected, before) -> [N]")
    checks.text("solved_reputation", "source", source)

    def init(num_nodes: int) -> PyTree:
        return (*_no_history(num_nodes), jnp.zeros(num_nodes, jnp.float32))

    def observe(memory: PyTree, partners: Array, cooperated: Array, has_met: Array) -> PyTree:
        good, bad = _counted(memory[:2], partners, cooperated, has_met)
        return good, bad, jnp.asarray(solve(good, bad, memory[2]), jnp.float32)

    def look(memory: PyTree, viewers: Array, subjects: Array) -> tuple[Array, Array]:
        del viewers
        good, bad, found = memory
        met = jnp.sum(good, axis=0) + jnp.sum(bad, axis=0)
        return found[subjects], met[subjects] > 0

    def forget(memory: PyTree, is_new: Array) -> PyTree:
        return (*_forgotten(memory[:2], is_new), jnp.where(is_new, 0.0, memory[2]))

    return Reputation(init, observe, look, forget, source)


def _no_history(num_nodes: int) -> tuple[Array, Array]:
    nothing = jnp.zeros((num_nodes, num_nodes), jnp.float32)
    return nothing, nothing


def _counted(memory: PyTree, partners: Array, cooperated: Array, has_met: Array) -> PyTree:
    """Row i, column partners[i]: what the partner did to i."""
    rows = jnp.arange(partners.shape[0])
    did = cooperated[partners]
    good, bad = memory
    good = good.at[rows, partners].add((has_met & did).astype(good.dtype))
    return good, bad.at[rows, partners].add((has_met & ~did).astype(bad.dtype))


def _forgotten(memory: PyTree, is_new: Array) -> PyTree:
    keep = ~is_new[:, None] & ~is_new
    return tuple(jnp.where(keep, count, 0.0) for count in memory)


class Market(NamedTuple):
    """Who is what, and what it has earned."""

    kinds: Array  # int32 [N] COOPERATOR, DEFECTOR or TRAITOR
    memory: PyTree  # the reputation's
    is_founder: Array  # bool [N] has the name it began with
    earned: Array  # float32 [N] payoffs so far
    games: Array  # int32 [N] so far
    names: Array  # int32 [N] taken so far, beyond the first
    cooperation: Array  # float32 [] of the cooperators' moves in the last round
    is_trusting: Array  # bool [] somebody was trusted in it


@checks.typed
def anonymous_market(
    network: Network,
    reputation: Reputation,
    *,
    defectors: float = 0.3,
    traitors: float = 0.0,
    threshold: float = 0.0,
    founding: float | None = None,
    newcomers: float = 0.0,
    whitewashing: float = 0.0,
    noise: float = 0.0,
    payoffs: Any = DILEMMA,
    scenario: Scenario | None = None,
) -> Process:
    """Strangers meet in random pairs and play one round; cooperators trust reputations, and bad names can be changed.

        r_ij = reputation of j with i; of an unknown j: r_0 under a new name, the founders' under its first
        cooperators: cooperate iff r_ij >= theta
        defectors:   never
        traitors:    cooperate iff the other does not trust them, r_ji < theta
        then: whoever is no cooperator and met one that does not trust it takes a new name with a given probability

    A move is turned with probability `noise`.  Where nobody is trusted any more nobody cooperates, for good: an absorbing
    state, which `is_trusting` = 0 reports.  The process measures `cooperator_payoff` and `defector_payoff` (means a game
    since the start, traitors among the defectors), `gap` (their difference), `cooperation` (of cooperators' moves in this
    round), `is_trusting`, and `names_per_defector`.

    Args:
      network: who is there; any two may meet.  With an odd number of those one sits out.
      reputation: `no_reputation`, `own_experience`, `image_scoring`, `solved_reputation`, or one of your own.
      defectors: share of the nodes, drawn at random; traced, as are all numbers.
      traitors: share of the nodes, beside them; both together at most 1.
      threshold: theta, in the reputation's unit.
      founding: reputation of who is unknown under its first name; None: theta, founders are trusted.
      newcomers: r_0 of an unknown under a new name.
      whitewashing: the probability above.
      noise: in [0, 1].
      payoffs: ((R, S), (T, P)); a warning says where it is no dilemma.
      scenario: who is there.

    Cost a round: a sort of N numbers, and what the reputation takes..
    Source: Friedman, Resnick, The social cost of cheap pseudonyms, JEMS 2001; Nowak, Sigmund, Nature 1998.
    """
    where = "anonymous_market"
    check_world(where, network, scenario, 2)
    checks.instance(where, "reputation", reputation, Reputation, "Pass e.g. dlsim.trust.image_scoring().")
    for name, value in (
        ("defectors", defectors),
        ("traitors", traitors),
        ("whitewashing", whitewashing),
        ("noise", noise),
    ):
        checks.probability(where, name, value)
    if checks.is_concrete((defectors, traitors)) and float(defectors) + float(traitors) > 1 + 1e-6:
        checks.fail(where, "traitors", f"at most 1 - defectors = {1 - float(defectors):g}", f"{float(traitors):g}")
    for name, value in (("threshold", threshold), ("newcomers", newcomers)):
        checks.number(where, name, value)
    if founding is not None:
        checks.number(where, "founding", founding)
    (r, s), (t, p) = check_payoffs(where, payoffs)
    num, ids = network.num_nodes, network.node_ids
    first = threshold if founding is None else founding
    position = jnp.arange(num, dtype=jnp.int32)

    def start(key: Array) -> Market:
        place = ranks(key, ids).astype(jnp.float32) + 0.5
        kinds = jnp.where(
            place < defectors * num, DEFECTOR, jnp.where(place < (defectors + traitors) * num, TRAITOR, 0)
        )
        nothing = jnp.zeros(num, jnp.int32)
        return Market(
            kinds=kinds.astype(jnp.int32),
            memory=reputation.init(num),
            is_founder=jnp.ones(num, bool),
            earned=jnp.zeros(num, jnp.float32),
            games=nothing,
            names=nothing,
            cooperation=jnp.zeros((), jnp.float32),
            is_trusting=jnp.ones((), bool),
        )

    def one_round(key: Array, own: Market, current: Network) -> tuple[Market, Network, Info]:
        partners, has_met = matched(keys.stream(key, "pairs"), ids, current.is_present)
        seen, is_known = reputation.look(own.memory, position, partners)
        unknown = jnp.where(own.is_founder, first, newcomers)[partners]
        is_trusted = jnp.where(is_known, seen, unknown) >= threshold  # the partner, by i
        trusts_me = is_trusted[partners]
        means = jnp.where(own.kinds == COOPERATOR, is_trusted, (own.kinds == TRAITOR) & ~trusts_me)
        draws = keys.node_uniform(keys.stream(key, "moves"), ids, 2)
        cooperated = means ^ (draws[:, 0] < noise)
        theirs = cooperated[partners]
        payoff = jnp.where(cooperated, jnp.where(theirs, r, s), jnp.where(theirs, t, p))
        memory = reputation.observe(own.memory, partners, cooperated, has_met)
        is_new = has_met & (own.kinds != COOPERATOR) & ~trusts_me & (draws[:, 1] < whitewashing)
        kind = (own.kinds == COOPERATOR) & has_met
        return (
            own._replace(
                memory=reputation.forget(memory, is_new),
                is_founder=own.is_founder & ~is_new,
                earned=own.earned + jnp.where(has_met, payoff, 0.0),
                games=own.games + has_met,
                names=own.names + is_new,
                cooperation=jnp.sum(kind & cooperated).astype(jnp.float32) / jnp.maximum(jnp.sum(kind), 1),
                is_trusting=jnp.any(kind & is_trusted),
            ),
            current,
            {},
        )

    def measure(own: Market, info: Info) -> Info:
        del info
        good = own.kinds == COOPERATOR

        def payoff(who: Array) -> Array:
            return jnp.sum(jnp.where(who, own.earned, 0)) / jnp.maximum(jnp.sum(jnp.where(who, own.games, 0)), 1)

        return {
            "cooperator_payoff": payoff(good),
            "defector_payoff": payoff(~good),
            "gap": payoff(good) - payoff(~good),
            "cooperation": own.cooperation,
            "is_trusting": own.is_trusting,
            "names_per_defector": jnp.sum(own.names) / jnp.maximum(jnp.sum(~good), 1),
        }

    return in_rounds(
        where, network, scenario, start, one_round, measure, reputation.source or "Friedman, Resnick, JEMS 2001"
    )


def matched(key: Array, node_ids: Array, is_present: Array | None) -> tuple[Array, Array]:
    """Random pairs of those that are there: each one's partner, int32 `[N]` (itself: none), and whether it has one."""
    num = node_ids.shape[0]
    words = keys.node_bits(key, node_ids, 1)[:, 0]
    away = jnp.zeros(num, bool) if is_present is None else ~is_present
    order = jnp.lexsort((words, away)).astype(jnp.int32)
    count = num - jnp.sum(away)
    place = jnp.arange(num)
    beside = place ^ 1  # 0 with 1, 2 with 3, ...
    is_paired = (place < count) & (beside < count)
    partner = jnp.where(is_paired, order[jnp.minimum(beside, num - 1)], order)
    partners = jnp.zeros(num, jnp.int32).at[order].set(partner)
    return partners, jnp.zeros(num, bool).at[order].set(is_paired)
