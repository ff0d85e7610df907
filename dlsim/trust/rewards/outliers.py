"""Which trainers are left out of a round: those that hand in what they were given, and those that are far from the others."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.candidates import ranks, squared_distances
from dlsim.aggregators.krum import krum_scores
from dlsim.core import Array


class OutlierState(NamedTuple):
    """What is remembered of rounds before."""

    centre: Array  # [D] mean of those accepted last
    has_centre: Array  # bool []
    cached: Array  # [N, D] each trainer's features when it was last not suspicious
    has_cached: Array  # bool [N]
    round: Array  # int32 [] rounds so far


class Verdict(NamedTuple):
    """What a rule says of a round."""

    is_kept: Array  # bool [N] counts in the average
    is_lazy: Array  # bool [N] handed in what it was given, or what it handed in before
    is_far: Array  # bool [N] beyond the bound on distances


class OutlierRule(NamedTuple):
    """`init(features [N, D]) -> state`; `apply(state, features [N, D], given [D], mask [N]) -> (state, Verdict)`."""

    init: Any
    apply: Any


@checks.typed
def three_sigma(
    num_sigmas: Any = 1.0, *, lazy: Any = 1e-7, suspicious: Any = 0.3, first_round: str = "tested"
) -> OutlierRule:
    """Removes who is far from the others, where somebody has changed much; and who has not changed at all.

    With f_i the features of trainer i (its model, or a layer of it), f_i' those it had when it was last not suspicious, g
    those of the model it was given, and d(a, b) = 1 - cos(a, b):

        lazy_i        d(f_i, f_i') < lazy or d(f_i, g) < lazy
        suspicious_i  not lazy, and d(f_i, f_i') > suspicious or d(f_i, g) > suspicious
        s_i           ||f_i - mu||; far_i where s_i > mean(s) + b std(s), if anybody is suspicious

    with mu the mean of those accepted last, and the first time that of the ceil(N/2) - 1 with the least Krum scores (sums
    over as many neighbours).  k alike among n that are else alike are removed if b < sqrt((n - k) / k): b = 3 never finds one
    of ten or fewer, b = 1 finds fewer than half.  Nobody is removed where all distances are the same.

    Args:
      num_sigmas: b >= 0; may be traced.
      lazy, suspicious: distances in [0, 2], may be traced; lazy=0 and suspicious=0: everybody who moved is tested, nobody is
        lazy.
      first_round: `tested`, as it was meant to be, or `passes`, as in FedML's code, which resets the flag before it looks;
        structural.
    Source: FedML, core/security/defense/{cross_round,three_sigma_krum}_defense.py, which the paper on proof of contribution
      is by the authors of.  Differs: one vanishing vector makes no distance, and lazy trainers leave the centre alone.
    """
    where = "three_sigma"
    checks.number(where, "num_sigmas", num_sigmas, 0.0)
    checks.number(where, "lazy", lazy, 0.0, 2.0)
    checks.number(where, "suspicious", suspicious, 0.0, 2.0)
    checks.one_of(where, "first_round", first_round, ("tested", "passes"))

    num_sigmas, lazy, suspicious = (jnp.asarray(bound, jnp.float32) for bound in (num_sigmas, lazy, suspicious))

    def init(features: Array) -> OutlierState:
        num, width = features.shape
        zeros = jnp.zeros((num, width), jnp.float32)
        return OutlierState(zeros[0], jnp.zeros((), bool), zeros, jnp.zeros(num, bool), jnp.zeros((), jnp.int32))

    def apply(state: OutlierState, features: Array, given: Array, mask: Array) -> tuple[OutlierState, Verdict]:
        sound = mask & jnp.all(jnp.isfinite(features), axis=1)
        features, given = jnp.where(sound[:, None], features, 0).astype(jnp.float32), given.astype(jnp.float32)
        to_given, know_given = _distance(features, given[None])
        to_own, know_own = _distance(features, state.cached)
        know_own &= state.has_cached
        is_first = state.round == 0
        skips = is_first & (first_round == "passes")
        is_lazy = sound & ((know_given & (to_given < lazy)) | (know_own & (to_own < lazy))) & ~skips
        moved = (know_given & (to_given > suspicious)) | (know_own & (to_own > suspicious))
        is_suspicious = sound & ~is_lazy & moved & ~skips
        tests = jnp.any(is_suspicious) | (is_first & ~skips)

        counted = sound & ~is_lazy
        centre = jnp.where(state.has_centre, state.centre, _krum_centre(features, counted))
        score = jnp.linalg.norm(features - centre, axis=1)
        count = jnp.maximum(jnp.sum(counted), 1)
        mean = jnp.sum(jnp.where(counted, score, 0)) / count
        std = jnp.sqrt(jnp.sum(jnp.where(counted, jnp.square(score - mean), 0)) / count)
        # What is rounding of equal scores is no spread.
        slack = 1e-6 * mean
        is_far = counted & tests & (score > mean + num_sigmas * std + slack)
        is_kept = counted & ~is_far

        moves = jnp.any(is_kept) & tests
        new_centre = jnp.sum(jnp.where(is_kept[:, None], features, 0), axis=0) / jnp.maximum(jnp.sum(is_kept), 1)
        keeps = sound & ~is_suspicious
        new = OutlierState(
            centre=jnp.where(moves, new_centre.astype(jnp.float32), state.centre),
            has_centre=state.has_centre | moves,
            cached=jnp.where(keeps[:, None], features, state.cached),
            has_cached=state.has_cached | keeps,
            round=state.round + 1,
        )
        return new, Verdict(is_kept, is_lazy, is_far | (mask & ~sound))

    return OutlierRule(init, apply)


@checks.typed
def krum_outliers(num_removed: int) -> OutlierRule:
    """Removes the f trainers with the largest Krum scores: Multi-Krum's choice of n - f models, round by round.

    The score of trainer i is the sum of its squared distances to its n - f - 2 nearest others, n the number of those that
    handed in a model of finite numbers; of equal scores the later ones go.  It always removes f, whether they lie or not, and
    never all: one stays.

    Args:
      num_removed: f >= 0, structural; n >= 2 f + 3 trainers there must be.
    Source: Blanchard, El Mhamdi, Guerraoui and Stainer, Machine learning with adversaries, NeurIPS 2017.
    """
    where = "krum_outliers"
    f = checks.integer(where, "num_removed", num_removed, 0)

    def init(features: Array) -> tuple[()]:
        num = features.shape[0]
        if num < 2 * f + 3:
            fix = f"Use num_removed={max((num - 3) // 2, 0)}." if num >= 3 else ""
            checks.fail(where, "num_removed", f"f with 2 f + 3 <= {num} trainers", f, fix)
        return ()

    def apply(state: tuple[()], features: Array, given: Array, mask: Array) -> tuple[tuple[()], Verdict]:
        del given
        sound = mask & jnp.all(jnp.isfinite(features), axis=1)
        values = jnp.where(sound[:, None], features, 0).astype(jnp.float32)[None]
        count = jnp.sum(sound)
        scores = krum_scores(values, squared_distances(values), sound[None], (count - f - 2)[None])[0]
        is_kept = sound & (ranks(scores) < jnp.maximum(count - f, 1))
        return state, Verdict(is_kept, jnp.zeros_like(mask), mask & ~is_kept)

    return OutlierRule(init, apply)


def _distance(a: Array, b: Array) -> tuple[Array, Array]:
    """1 - cos of rows, exact near zero, as ||a / |a| - b / |b|||^2 / 2; and whether it is one: of one zero row it is not."""
    size_a, size_b = jnp.linalg.norm(a, axis=1), jnp.linalg.norm(b, axis=1)
    unit = [x / jnp.where(size > 0, size, 1)[:, None] for x, size in ((a, size_a), (b, size_b))]
    return 0.5 * jnp.sum(jnp.square(unit[0] - unit[1]), axis=1), (size_a > 0) == (size_b > 0)


def _krum_centre(features: Array, counted: Array) -> Array:
    """Mean of the ceil(n/2) - 1 of those counted with the least Krum scores, at least one."""
    number = jnp.maximum((jnp.sum(counted) + 1) // 2 - 1, 1)
    values, mask = features[None], counted[None]
    scores = krum_scores(values, squared_distances(values), mask, number[None])[0]
    chosen = counted & (ranks(scores) < number)
    return jnp.sum(jnp.where(chosen[:, None], features, 0), axis=0) / jnp.maximum(jnp.sum(chosen), 1)
