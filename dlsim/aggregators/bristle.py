"""Bristle: output layers mixed class by class, as far as one's own tests say that a neighbour knows the class."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.aggregators.candidates import distances_to, no_state, ranks
from dlsim.core import Aggregator, Array, Problem, PyTree
from dlsim.networks.network import Inbox
from dlsim.problems.own_data import num_classes_of, own_outputs

PRIORITIZERS = ("distance", "random")
_STEEPNESS, _MOST, _BASE = 100.0, 10.0, 4.0  # sigma(s) = max(0, 10 / (1 + exp(-s / 100)) - 4): sigma(0) = 1
_FLOOR = -100.0  # of a class's own score


def bristle(
    problem: Problem,
    *,
    prioritizer: str = "distance",
    num_drawn: int = 10,
    exploration: float = 0.4,
    num_common: int | None = 3,
    centre_columns: bool = True,
) -> Aggregator:
    """Distance-based prioritiser and performance-based integrator, over features that are frozen and shared.

    A model is an output layer W, a column W_c a class.  F are the classes among a node's own test examples, m_c the F1 score
    of its own model on them and p_jc that of neighbour j's, c in F; sigma(s) = max(0, 10 / (1 + exp(-s / 100)) - 4).

    1. Of n models heard, ordered by distance, floor(n/3) are near, floor(n/3) far, the others between; round((1-a)^2 q),
       round(2 a (1-a) q) and round(a^2 q) of them are drawn.  The others are not looked at.
    2. Selected are the k classes of F with the highest p_jc (of equal ones the first).  With delta = 10 |m_c - p_jc|,

           s_jc = delta^(3 + m_c) where p_jc > m_c, else -delta^(4 + m_c)
           u_j = max(0, mean p_jc - std p_jc) over the selected classes

    3. W_c <- (W_c + sum_j w_jc W_jc) / (1 + sum_j w_jc),
       w_jc = sigma(max(s_jc, -100)) u_j where c in F (0 where c is not selected), sigma(sum_c s_jc) u_j elsewhere
    4. The mean of each column is taken from it: a column-wise shift would let a class win or lose everywhere.

    A node that hears nobody keeps what it has.  Where nodes train their own classes alone (`dlsim.problems.own_classes`)
    what they heard of others is not forgotten.

    Args:
      problem: one whose nodes hold test examples of their own, and whose parameters lead with the classes, as
        `softmax_regression(use_bias=False)` over frozen features.
      prioritizer: `"distance"`, or `"random"`: q of all alike; structural.
      num_drawn: q, structural; 4, 5 and 2 at the defaults.
      exploration: a in [0, 1], structural: 0 draws near models alone, 1 far ones.
      num_common: k, how many of one's classes a neighbour is taken to know, structural; None: all.  In the paper nodes find
        it for each pair by private set intersection; the authors' code has 3.
      centre_columns: whether step 4 is done; structural.

    A model that is not finite has p_jc = 0.  Weights are not used.
    Cost: at most the number drawn plus one forward passes of a node's tests, see `dlsim.problems.own_outputs`.
    Source: Verbraeken, de Vos and Pouwelse, Bristle: decentralized federated learning in Byzantine, non-i.i.d.
      environments, 2021, and the authors' code.  Differs: the own columns of foreign classes enter as they were sent, where
      the code has them after a training step that it then discards.
    """
    where = "bristle"
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    checks.one_of(where, "prioritizer", prioritizer, PRIORITIZERS)
    checks.integer(where, "num_drawn", num_drawn, 1)
    checks.known(where, "exploration", exploration)
    checks.number(where, "exploration", exploration, 0.0, 1.0)
    checks.flag(where, "centre_columns", centre_columns)
    if num_common is not None:
        checks.integer(where, "num_common", num_common, 1)
    num_classes = num_classes_of(where, problem)
    quotas = draws_by_distance(num_drawn, float(exploration)) if prioritizer == "distance" else (num_drawn,)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        lengths = distances_to(inbox.values, own).value
        is_sound = inbox.mask & jnp.isfinite(lengths)
        drawn = _drawn(keys.stream(key, "prioritizer"), lengths, is_sound, inbox, quotas)
        width = min(drawn.shape[1], sum(quotas))
        place = jnp.argsort(~drawn, axis=1, stable=True)[:, :width]
        there = jnp.take_along_axis(drawn, place, axis=1)
        heard = jax.tree.map(lambda v: jax.vmap(lambda rows, at: rows[at])(v, place), inbox.values)
        models = jax.tree.map(lambda o, h: jnp.concatenate([o[:, None], h], axis=1), own, heard)
        scores, familiar = f1_scores(*own_outputs(problem, models, inbox.node_ids), num_classes)
        mine, theirs = scores[:, 0], jnp.where(there[:, :, None], scores[:, 1:], 0)
        weights = jnp.where(there[:, :, None], class_weights(mine, theirs, familiar, num_common), 0)
        anyone = jnp.any(there, axis=1)

        def leaf(o: Array, h: Array) -> Array:
            by_class = weights.reshape(weights.shape + (1,) * (h.ndim - 3)).astype(h.dtype)
            total = o + jnp.sum(jnp.where(by_class == 0, 0, by_class * h), axis=1)
            mixed = total / (1 + jnp.sum(by_class, axis=1))
            if centre_columns and o.ndim > 2:
                mixed -= jnp.mean(mixed, axis=tuple(range(2, o.ndim)), keepdims=True)
            return jnp.where(trees.expand(anyone, o), mixed, o)

        return state, jax.tree.map(leaf, own, heard)

    return Aggregator(init=no_state, apply=apply, source="Verbraeken, de Vos and Pouwelse, 2021")


def draws_by_distance(num_drawn: int, exploration: float) -> tuple[int, int, int]:
    """How many near, middle and far models are drawn: q times the binomial law of two draws with chance a, rounded."""
    a = exploration
    near, middle, far = (int(num_drawn * share + 0.5 + 1e-9) for share in ((1 - a) ** 2, 2 * a * (1 - a), a**2))
    return near, middle, far


def _drawn(key: Array, lengths: Array, is_sound: Array, inbox: Inbox, quotas: tuple[int, ...]) -> Array:
    """Which of the heard models are looked at, bool `[n, K]`."""
    node_ids = jnp.zeros(lengths.shape[:1], jnp.int32) if inbox.node_ids is None else inbox.node_ids
    senders = inbox.senders if inbox.candidate_ids is None else inbox.candidate_ids[:, 1:]
    draws = keys.edge_uniform(key, jnp.broadcast_to(node_ids[:, None], lengths.shape), senders)
    count = jnp.sum(is_sound, axis=1, keepdims=True)
    rank = ranks(jnp.where(is_sound, lengths, jnp.inf))
    third = jnp.zeros_like(rank)
    if len(quotas) == 3:
        third = jnp.where(rank < count // 3, 0, jnp.where(rank >= count - count // 3, 2, 1))
    drawn = jnp.zeros_like(is_sound)
    for part, quota in enumerate(quotas):
        within = is_sound & (third == part)
        drawn |= within & (ranks(jnp.where(within, draws, 2.0)) < quota)
    return drawn


def f1_scores(outputs: Array, labels: Array, mask: Array, num_classes: int) -> tuple[Array, Array]:
    """F1 of each model and class, 2 tp / (2 tp + fp + fn), `[n, K, C]`, and which classes a node has tests of, `[n, C]`.

    0 where it is not defined, and of models whose outputs are not finite.
    """
    classes = jnp.arange(num_classes)
    actual = (labels[:, :, None] == classes) & mask[:, :, None]  # [n, T, C]
    guessed = (jnp.argmax(outputs, axis=-1)[..., None] == classes) & mask[:, None, :, None]
    right = jnp.sum(guessed & actual[:, None], axis=2)
    either = jnp.sum(guessed, axis=2) + jnp.sum(actual, axis=1)[:, None]
    is_sound = jnp.all(jnp.isfinite(jnp.where(mask[:, None, :, None], outputs, 0)), axis=(2, 3))
    scores = jnp.where(is_sound[:, :, None], 2 * right / jnp.maximum(either, 1), 0)
    return scores, jnp.any(actual, axis=1)


def class_weights(mine: Array, theirs: Array, familiar: Array, num_common: int | None) -> Array:
    """w_jc of every neighbour and class, `[n, K, C]`, of F1 scores `[n, C]` and `[n, K, C]`; see `bristle`."""
    selected = jnp.broadcast_to(familiar[:, None], theirs.shape)
    if num_common is not None:
        selected &= ranks(jnp.where(selected, -theirs, jnp.inf)) < num_common
    own = mine[:, None]
    gap = 10 * jnp.abs(own - theirs)
    score = jnp.where(theirs > own, gap ** (3 + own), -(gap ** (4 + own)))
    score = jnp.where(selected, score, 0)
    count = jnp.maximum(jnp.sum(selected, axis=2), 1)
    average = jnp.sum(jnp.where(selected, theirs, 0), axis=2) / count
    spread = jnp.where(selected, jnp.square(theirs - average[:, :, None]), 0)
    certainty = jnp.maximum(average - jnp.sqrt(jnp.sum(spread, axis=2) / count), 0)[:, :, None]
    known = jnp.where(selected, weight_of(jnp.maximum(score, _FLOOR)), 0)
    foreign = weight_of(jnp.sum(score, axis=2, keepdims=True))
    return jnp.where(familiar[:, None], known, foreign) * certainty


def weight_of(score: Array) -> Array:
    """sigma(s): 1 at 0, 6 far above, 0 from -40.5 down."""
    return jnp.maximum(_MOST * jax.nn.sigmoid(score / _STEEPNESS) - _BASE, 0)
