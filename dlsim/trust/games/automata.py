"""Strategies of repeated games with two moves, as finite automata of one form."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array

DILEMMA = ((3.0, 0.0), (5.0, 1.0))  # ((R, S), (T, P)): what one gets, by one's own move and the other's
MOST_STATES = 128  # so that a state's row fits one word, see `tournament`


class Automata(NamedTuple):
    """A strategies of at most S states.  Moves are 0, to cooperate, and 1, to defect; all begin in state 0."""

    cooperates: Array  # float32 [A, S] probability of cooperating in each state
    goes: Array  # int32 [A, S, 2, 2] the next state, by one's own move as it was made and the other's


# (p_CC, p_CD, p_DC, p_DD; first move): probability of cooperating after one's own and the other's last move.
MEMORY_ONE = {
    "always_cooperate": (1, 1, 1, 1, 1),
    "always_defect": (0, 0, 0, 0, 0),
    "tit_for_tat": (1, 0, 1, 0, 1),
    "suspicious_tit_for_tat": (1, 0, 1, 0, 0),
    "win_stay_lose_shift": (1, 0, 0, 1, 1),
    "generous_tit_for_tat": (1, 1 / 3, 1, 1 / 3, 1),
    "random": (0.5, 0.5, 0.5, 0.5, 0.5),
    "joss": (0.9, 0, 0.9, 0, 1),
    "alternate": (0, 0, 1, 1, 1),
}
# By state: whether it cooperates, and the next state where the other (cooperated, defected).
BY_STATES = {
    "grim": ((1, (0, 1)), (0, (1, 1))),
    "tit_for_two_tats": ((1, (0, 1)), (1, (0, 2)), (0, (0, 2))),
}
NAMES = (*MEMORY_ONE, *BY_STATES)
# The field of the page's tournament: all but the alternator.
FIELD = tuple(name for name in NAMES if name != "alternate")


@checks.typed
def memory_one(p_cc: float, p_cd: float, p_dc: float, p_dd: float, first: float = 1.0) -> Automata:
    """One strategy that knows the last round, by five probabilities of cooperating, all of which may be traced.

    Args:
      p_cc: after both cooperated.
      p_cd: after it cooperated and the other did not.
      p_dc: after the other alone cooperated.
      p_dd: after nobody did.
      first: in the first round.

    Five states: the start, and the four outcomes.
    Source: Nowak, Sigmund, A strategy of win-stay, lose-shift that outperforms tit-for-tat, Nature 1993.
    """
    given = {"first": first, "p_cc": p_cc, "p_cd": p_cd, "p_dc": p_dc, "p_dd": p_dd}
    for name, value in given.items():
        checks.probability("memory_one", name, value)
    goes = jnp.broadcast_to(jnp.array([[1, 2], [3, 4]], jnp.int32), (1, 5, 2, 2))
    return Automata(jnp.stack([jnp.asarray(value, jnp.float32) for value in given.values()])[None], goes)


@checks.typed
def automaton(cooperates: Any, goes: Any) -> Automata:
    """One strategy of your own.

    Args:
      cooperates: `[S]`, the probability of cooperating in each state, the first of which is the start; may be traced.
      goes: integers `[S, 2]`, the next state by the other's move (0: it cooperated), or `[S, 2, 2]`, by one's own and the
        other's.  Moves are as they were made, which noise may have changed.
    """
    where = "automaton"
    out = checks.array(where, "cooperates", cooperates, (None,), 0.0, 1.0)
    size = out.shape[0]
    if not 1 <= size <= MOST_STATES:
        checks.fail(where, "cooperates", f"of 1 to {MOST_STATES} states", f"{size} states")
    checks.known(where, "goes", goes)
    table = checks.array(where, "goes", goes, None, 0, size - 1)
    if not np.issubdtype(table.dtype, np.integer):
        checks.fail(where, "goes", "integers", f"dtype {table.dtype}")
    if table.shape not in ((size, 2), (size, 2, 2)):
        checks.fail(where, "goes", f"of shape [{size}, 2] or [{size}, 2, 2]", f"shape {list(table.shape)}")
    if table.ndim == 2:
        table = np.broadcast_to(table[:, None, :], (size, 2, 2))
    return Automata(jnp.asarray(out, jnp.float32)[None], jnp.asarray(table, jnp.int32)[None])


def strategies(*which: str | Automata) -> Automata:
    """Strategies side by side, by name or as automata; without any, the ten of `strategy_names()` but the alternator.

    Known names: always_cooperate, always_defect, tit_for_tat, suspicious_tit_for_tat (defects first), win_stay_lose_shift
    (Pavlov), generous_tit_for_tat (forgives one defection in three), random, joss (tit for tat that defects one time in ten),
    alternate (C, D, C, ...), grim (defects for good once betrayed), tit_for_two_tats.
    Source: Axelrod, The evolution of cooperation, 1984; Nowak, Sigmund, Nature 1993.
    """
    where = "strategies"
    made = []
    for one in which or FIELD:
        if isinstance(one, Automata):
            made.append(check_automata(where, one))
            continue
        checks.one_of(where, "which", one, NAMES)
        made.append(_named(one))
    size = max(one.cooperates.shape[1] for one in made)
    return Automata(*(jnp.concatenate(parts) for parts in zip(*(_padded(one, size) for one in made), strict=True)))


def strategy_names() -> tuple[str, ...]:
    """The names that `strategies` knows."""
    return NAMES


def _named(name: str) -> Automata:
    if name in MEMORY_ONE:
        return memory_one(*MEMORY_ONE[name])
    states = BY_STATES[name]
    return automaton([out for out, _ in states], [nexts for _, nexts in states])


def _padded(one: Automata, size: int) -> Automata:
    more = size - one.cooperates.shape[1]
    return Automata(
        jnp.pad(one.cooperates, ((0, 0), (0, more))), jnp.pad(one.goes, ((0, 0), (0, more), (0, 0), (0, 0)))
    )


def check_automata(where: str, given: Any, argument: str = "automata") -> Automata:
    """Automata, whose two arrays fit."""
    if not isinstance(given, Automata):
        fix = "Pass e.g. dlsim.trust.strategies('tit_for_tat', 'grim')."
        checks.fail(where, argument, "Automata", checks.describe(given), fix)
    checks.shape(where, f"{argument}.cooperates", given.cooperates, (None, None))
    checks.shape(where, f"{argument}.goes", given.goes, (*given.cooperates.shape, 2, 2))
    return given


def check_payoffs(where: str, payoffs: Any, is_dilemma: bool = False) -> Array:
    """A payoff matrix ((R, S), (T, P)), float32 `[2, 2]`; no dilemma is a warning, or an error where one is needed."""
    table = checks.array(where, "payoffs", payoffs, (2, 2))
    if checks.is_concrete(table):
        (r, s), (t, p) = np.asarray(table, np.float64)
        rule = "((R, S), (T, P)) of a dilemma: T > R > P > S and 2 R > T + S"
        if not (t > r > p > s and 2 * r > t + s):
            shown = f"T={t:g}, R={r:g}, P={p:g}, S={s:g}"
            if is_dilemma:
                checks.fail(where, "payoffs", rule, shown)
            warnings.warn(f"{where}: payoffs are not {rule}, but {shown}: another game", UserWarning, stacklevel=3)
    return jnp.asarray(table, jnp.float32)
