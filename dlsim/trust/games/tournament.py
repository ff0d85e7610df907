"""Tournaments: every automaton against every one, played round by round or computed exactly."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info, Process
from dlsim.trust.games.automata import DILEMMA, Automata, check_automata, check_payoffs

LARGEST_CHAIN = 64  # joint states of a pair, for which a linear system a pair is solved
MOST_STATES_OF_A_WORD = 128  # four next states of 7 bits, and a move


class Scores(NamedTuple):
    """What automaton i (row) had of its games with j (column)."""

    payoffs: Array  # float32 [A, A]
    cooperation: Array  # float32 [A, A] share of i's moves that cooperated


class Standings(NamedTuple):
    """Games of all pairs i <= j, in the order of `numpy.triu_indices`."""

    first: Array  # int32 [P] the state that i is in
    second: Array  # int32 [P] the state that j is in
    both: Array  # int32 [P] rounds in which both cooperated
    first_alone: Array  # int32 [P] rounds in which i alone did
    second_alone: Array  # int32 [P] rounds in which j alone did
    rounds: Array  # int32 [] played


@checks.typed
def tournament(automata: Automata, *, payoffs: Any = DILEMMA, noise: float | None = None) -> Process:
    """Round robin: every two automata, and each with a copy of itself, play one round a step.

    A move is made with the probability of the automaton's state, and turned with probability `noise`; both see moves as
    they were made.  The process measures `score` `[A]`, the mean over all A opponents of the payoff so far, `cooperation`
    `[A]`, the share of its moves that cooperated, `self_cooperation` `[A]`, that among copies, and `rounds`.
    `tournament_scores` gives all pairs of a state.

    Args:
      automata: A of them, of at most 128 states.
      payoffs: ((R, S), (T, P)), by one's own move and the other's; traced.  A warning says where it is no dilemma.
      noise: in [0, 1]; traced.  None: no move is turned, and where all automata are deterministic nothing is drawn.

    Cost a round: two look-ups and, where moves are drawn, two hashes for each of A (A + 1) / 2 games.
    Source: Axelrod, Effective choice in the prisoner's dilemma, Journal of Conflict Resolution 1980.
    """
    where = "tournament"
    automata = check_automata(where, automata)
    table = check_payoffs(where, payoffs)
    num, size = automata.cooperates.shape
    if size > MOST_STATES_OF_A_WORD:
        checks.fail(where, "automata", f"of at most {MOST_STATES_OF_A_WORD} states", f"{size} states")
    if noise is not None:
        checks.probability(where, "noise", noise)
    rows, columns = (jnp.asarray(ends, jnp.int32) for ends in np.triu_indices(num))
    pairs = rows.shape[0]
    is_drawn = noise is not None or not _is_deterministic(automata)
    odds = (
        automata.cooperates if noise is None else automata.cooperates * (1 - noise) + (1 - automata.cooperates) * noise
    )
    odds = odds.reshape(-1)
    words = _words(automata)

    def init(key: Array) -> Standings:
        del key
        nothing = jnp.zeros(pairs, jnp.int32)
        return Standings(nothing, nothing, nothing, nothing, nothing, jnp.zeros((), jnp.int32))

    def move(key: Array, purpose: str, at: Array, word: Array) -> Array:
        """1: defects."""
        if not is_drawn:
            return word & 1
        draw = keys.edge_uniform(keys.stream(key, purpose), rows, columns)
        return (draw >= odds[at]).astype(jnp.uint32)

    def step(key: Array, state: Standings) -> tuple[Standings, Info]:
        at, other = rows * size + state.first, columns * size + state.second
        mine, yours = words[at], words[other]
        i, j = move(key, "first", at, mine), move(key, "second", other, yours)
        c, d = (1 - i).astype(jnp.int32), (1 - j).astype(jnp.int32)
        return Standings(
            first=((mine >> (1 + 7 * (2 * i + j))) & 127).astype(jnp.int32),
            second=((yours >> (1 + 7 * (2 * j + i))) & 127).astype(jnp.int32),
            both=state.both + c * d,
            first_alone=state.first_alone + c * (1 - d),
            second_alone=state.second_alone + (1 - c) * d,
            rounds=state.rounds + 1,
        ), {}

    def measure(state: Standings, info: Info) -> Info:
        del info
        found = _scores(state, table)
        return {
            "score": jnp.mean(found.payoffs, axis=1),
            "cooperation": jnp.mean(found.cooperation, axis=1),
            "self_cooperation": jnp.diagonal(found.cooperation),
            "rounds": state.rounds,
        }

    dims = dict.fromkeys(("score", "cooperation", "self_cooperation"), ("strategy",))
    return Process(init, step, measure, ("Axelrod, Journal of Conflict Resolution 1980",), dims=dims)


def tournament_scores(state: Standings, payoffs: Any = DILEMMA) -> Scores:
    """The games of a tournament so far, by row and column: sums of payoffs, and the share of moves that cooperated."""
    where = "tournament_scores"
    checks.instance(where, "state", state, Standings, "Pass the state of a tournament.")
    return _scores(state, check_payoffs(where, payoffs))


def _scores(state: Standings, payoffs: Array) -> Scores:
    (r, s), (t, p) = payoffs
    pairs = state.both.shape[0]
    num = (int(np.sqrt(8 * pairs + 1)) - 1) // 2
    rows, columns = np.triu_indices(num)
    both, mine, yours = (x.astype(jnp.float32) for x in (state.both, state.first_alone, state.second_alone))
    none = state.rounds - both - mine - yours
    lower = r * both + s * yours + t * mine + p * none
    upper = r * both + s * mine + t * yours + p * none
    rounds = jnp.maximum(state.rounds, 1)

    def square(of_rows: Array, of_columns: Array) -> Array:
        # The diagonal is that of the first of the two copies.
        return jnp.zeros((num, num)).at[columns, rows].set(of_columns).at[rows, columns].set(of_rows)

    return Scores(square(upper, lower), square((both + mine) / rounds, (both + yours) / rounds))


@checks.typed
def expected_scores(automata: Automata, num_rounds: int, *, payoffs: Any = DILEMMA, noise: float = 0.0) -> Scores:
    """What a tournament of n rounds gives on average, exactly: every pair is a Markov chain of its joint states.

        v_(t+1)[s', t'] = sum_(m, m') P_i[m, m'][s, s'] v_t[s, t] P_j[m', m][t, t'],   v_0 = start

    where P_i[m, m'][s, s'] is the probability of making move m in state s, if (m, m') leads from s to s'.

    Args:
      automata: A of them, S states.
      num_rounds: n, 0 or more (0: zero scores); structural.
      payoffs: as of `tournament`.
      noise: as of `tournament`; traced.

    Cost: O(A^2 S^3) a round; memory O(A^2 S^2).  Returns `Scores`: sums over the rounds, and shares of moves.
    """
    where = "expected_scores"
    automata = check_automata(where, automata)
    table = check_payoffs(where, payoffs)
    num_rounds = checks.integer(where, "num_rounds", num_rounds, 0, 10**7)
    checks.probability(where, "noise", noise)
    moves, leads = _kernels(automata, noise)

    def one(carry: tuple[Array, Array, Array], _: Any) -> tuple[tuple[Array, Array, Array], None]:
        joint, payoff, cooperation = carry
        gain, rate = _gains(moves, joint, table)
        joint = _advance(leads, joint)
        return (joint, payoff + gain, cooperation + rate), None

    num, size = automata.cooperates.shape
    nothing = jnp.zeros((num, num))
    joint = jnp.zeros((num, num, size, size)).at[:, :, 0, 0].set(1.0)
    (_, payoff, cooperation), _ = jax.lax.scan(one, (joint, nothing, nothing), length=num_rounds)
    return Scores(payoff, cooperation / max(num_rounds, 1))


@checks.typed
def discounted_scores(automata: Automata, continuation: float, *, payoffs: Any = DILEMMA, noise: float = 0.0) -> Scores:
    """What games of a random length give on average, exactly: after each round another follows with probability w.

        V = v_0 (I - w M)^-1 u,   M the joint states' transitions, u the payoff in each

    Args:
      automata: A of them; at most 64 joint states a pair (S <= 8).
      continuation: w in [0, 1); traced.
      payoffs: as of `tournament`.
      noise: as of `tournament`; traced.

    Cost: a linear system of S^2 unknowns a pair.  Returns `Scores`: expected sums, and the share of moves that cooperate.
    Source: Axelrod, Hamilton, The evolution of cooperation, Science 1981 (the shadow of the future).
    """
    where = "discounted_scores"
    automata = check_automata(where, automata)
    table = check_payoffs(where, payoffs)
    checks.number(where, "continuation", continuation, 0.0, 1.0, open_maximum=True)
    checks.probability(where, "noise", noise)
    num, size = automata.cooperates.shape
    if size**2 > LARGEST_CHAIN:
        checks.fail(where, "automata", f"of at most {int(LARGEST_CHAIN**0.5)} states", f"{size} states")
    moves, leads = _kernels(automata, noise)
    start = jnp.zeros(size**2).at[0].set(1.0)

    def row(leads_i: Array) -> Array:
        chain = jnp.einsum("mnab,jnmcd->jacbd", leads_i, leads).reshape(num, size**2, size**2)
        system = jnp.eye(size**2) - continuation * jnp.swapaxes(chain, 1, 2)
        return jnp.linalg.solve(system, jnp.broadcast_to(start, (num, size**2))[..., None])[..., 0]

    visits = jax.lax.map(row, leads).reshape(num, num, size, size)
    payoff, cooperation = _gains(moves, visits, table)
    return Scores(payoff, cooperation * (1 - continuation))


@checks.typed
def invasion_share(num_rounds: int, *, payoffs: Any = DILEMMA) -> Array:
    """The share of tit for tat above which it takes over from always defect, in games of n rounds.

        x (n R) + (1 - x) (S + (n - 1) P) > x (T + (n - 1) P) + (1 - x) n P
        x = (P - S) / (P - S + n R - T - (n - 1) P)

    Above 1 where no share is enough.  Needs a dilemma.  Source: Axelrod, Hamilton, Science 1981.
    """
    where = "invasion_share"
    (r, s), (t, p) = check_payoffs(where, payoffs, is_dilemma=True)
    n = checks.integer(where, "num_rounds", num_rounds, 1)
    gain = n * r - t - (n - 1) * p
    return jnp.where(gain > 0, (p - s) / (p - s + jnp.maximum(gain, 1e-30)), jnp.inf)


@checks.typed
def resisting_continuation(*, payoffs: Any = DILEMMA) -> Array:
    """The probabilities of another round from which on tit for tat resists always defect, and the alternator, `[2]`.

        w >= (T - R) / (T - P),   w >= (T - R) / (R - S)

    Needs a dilemma.  Source: Axelrod, Hamilton, Science 1981.
    """
    (r, s), (t, p) = check_payoffs("resisting_continuation", payoffs, is_dilemma=True)
    return jnp.stack([(t - r) / (t - p), (t - r) / (r - s)])


def _is_deterministic(automata: Automata) -> bool:
    if not checks.is_concrete(automata.cooperates):
        return False
    known = np.asarray(automata.cooperates)
    return bool(((known == 0) | (known == 1)).all())


def _words(automata: Automata) -> Array:
    """A state's move and next states in one word, uint32 `[A S]`: bit 0 the move, then 7 bits for each (own, other)."""
    word = (automata.cooperates < 0.5).astype(jnp.uint32)
    for own in range(2):
        for other in range(2):
            word = word | automata.goes[:, :, own, other].astype(jnp.uint32) << (1 + 7 * (2 * own + other))
    return word.reshape(-1)


def _kernels(automata: Automata, noise: Array | float) -> tuple[Array, Array]:
    """Probabilities of moves `[A, S, 2]`, and P of `expected_scores`, `[A, 2, 2, S, S]` by own move and the other's."""
    out = automata.cooperates * (1 - noise) + (1 - automata.cooperates) * noise
    moves = jnp.stack([out, 1 - out], axis=-1)
    leads = jax.nn.one_hot(automata.goes, out.shape[1]) * moves[..., :, None, None]  # [A, S, own, other, S']
    return moves, jnp.transpose(leads, (0, 2, 3, 1, 4))


def _advance(leads: Array, joint: Array) -> Array:
    """Joint states `[A, A, S, S]` a round later."""
    out = jnp.zeros_like(joint)
    for i in range(2):
        for j in range(2):
            moved = jnp.einsum("iab,ijac->ijbc", leads[:, i, j], joint)
            out = out + jnp.einsum("ijbc,jcd->ijbd", moved, leads[:, j, i])
    return out


def _gains(moves: Array, joint: Array, payoffs: Array) -> tuple[Array, Array]:
    """The row's mean payoff, and its probability of cooperating, `[A, A]` each, under a weight on joint states."""
    made = jnp.einsum("iam,ijab,jbn->ijmn", moves, joint, moves)
    return jnp.einsum("ijmn,mn->ij", made, payoffs), jnp.sum(made[:, :, 0], axis=-1)
