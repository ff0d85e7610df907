"""What each player contributed to what a coalition is worth: leave-one-out, exact and sampled Shapley values.

A utility is a function of coalitions, many at once: `utility(masks bool [m, n]) -> [m]`.  `coalition_utility` makes one of
n models and a measure.  Players that are not `present` change no coalition and get exactly zero.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Array, PyTree
from dlsim.problems.blocks import check_node_block, map_nodes

MOST_EXACT = 16  # players: 2^16 coalitions


class UtilityFn(Protocol):
    def __call__(self, masks: Array, /) -> Array: ...


class MixFn(Protocol):
    def __call__(self, mask: Array, /) -> PyTree: ...


class ShapleyEstimate(NamedTuple):
    """Shapley values from permutations."""

    values: Array  # [n]
    standard_errors: Array  # [n] of the mean over permutations; 0 with one
    num_permutations: Array  # int32 [] that were used


@checks.typed
def coalition_utility(
    evaluate: Any,
    models: PyTree,
    weights: Any,
    without: PyTree,
    *,
    mix: MixFn | None = None,
    block: int | str | None = "auto",
) -> UtilityFn:
    """u(S) = evaluate(sum_{i in S} w_i x_i / sum_{i in S} w_i), evaluate(without) where that has no weight.

    Args:
      evaluate: function of models `[m, ...]` that gives a number of each, `[m]`.
      models: x_i, every leaf `[n, ...]`.
      weights: w_i >= 0, `[n]`; may be traced.
      without: the model that there is without anybody, `[...]`.
      mix: what makes one model of a coalition's in place of their weighted mean: `mix(mask bool [n]) -> [...]`, `vmap`ped
        over coalitions that have weight.
      block: coalitions at a time, structural: memory is that of so many averages and of their evaluation; None: all;
        "auto": as `dlsim.problems.map_nodes` says.
    """
    where = "coalition_utility"
    checks.function(where, "evaluate", evaluate)
    if mix is not None:
        checks.function(where, "mix", mix, "a function of a mask that gives one model")
    check_node_block(where, block)
    shares = jnp.asarray(checks.array(where, "weights", weights, (None,), 0.0), jnp.float32)
    num = shares.shape[0]
    shapes, alone = ([np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (models, without))
    if not shapes or any(shape[:1] != (num,) for shape in shapes):
        got = ", ".join(sorted({str(list(shape)) for shape in shapes})) or "no leaves"
        checks.fail(where, "models", f"a tree of {num} models, every leaf [{num}, ...]", got)
    for name, tree in {"models": models, "without": without}.items():
        for leaf in jax.tree.leaves(tree):
            known = leaf if isinstance(leaf, jax.Array) else checks.host(where, name, leaf)
            if not checks.is_real_type(known.dtype):
                checks.fail(where, name, "a tree of real numbers", checks.describe(leaf))
    form: Any = jax.tree.structure(without)
    if form != jax.tree.structure(models) or alone != [shape[1:] for shape in shapes]:
        checks.fail(where, "without", "one model like those of models, without their first axis", "another tree")
    if mix is not None:
        made = jax.eval_shape(mix, jax.ShapeDtypeStruct((num,), bool))
        if jax.tree.structure(made) != form or [leaf.shape for leaf in jax.tree.leaves(made)] != alone:
            got = ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(made)) or "no leaves"
            checks.fail(where, "mix", "a function whose model has the form of without", f"one of leaves {got}")

    def of_block(masks: Array) -> Array:
        held = masks * shares
        total = jnp.sum(held, axis=1, keepdims=True)
        parts = held / jnp.where(total > 0, total, 1)

        def mixed(leaf: Array, alone: Array) -> Array:
            wide = trees.widen(leaf)
            mean = jnp.tensordot(parts.astype(wide.dtype), wide, axes=1, precision=jax.lax.Precision.HIGHEST)
            return jnp.where(trees.expand(total[:, 0] > 0, mean), mean.astype(leaf.dtype), alone)

        if mix is None:
            return evaluate(jax.tree.map(mixed, models, without))
        made = jax.vmap(mix)(held > 0)
        has_any = total[:, 0] > 0
        return evaluate(jax.tree.map(lambda m, x: jnp.where(trees.expand(has_any, m), m, x), made, without))

    return map_nodes(of_block, block)


@checks.typed
def exact_shapley(utility: UtilityFn, num_players: int, *, present: Any = None) -> Array:
    """phi_i = sum_{S without i} |S|! (n - |S| - 1)! / n!  (u(S + i) - u(S)), `[n]`, all 2^n coalitions in one evaluation.

    The values sum to u(all) - u(nobody); players that are alike get alike; one that never matters gets exactly zero.

    Args:
      utility: function of coalitions, bool `[m, n]`, that gives the worth of each, `[m]`.
      num_players: n, 1 to 16, structural.
      present: bool `[n]`, who counts; None: all.
    Source: Shapley, A value for n-person games, 1953.
    """
    where = "exact_shapley"
    num = checks.integer(where, "num_players", num_players, 1, MOST_EXACT)
    checks.function(where, "utility", utility)
    is_in = _present(where, present, num)
    worth = _worth(where, utility, jnp.asarray(_coalitions(num)) & is_in)
    players = np.arange(num)[:, None]
    each = np.arange(2 ** (num - 1))
    low = each & ((1 << players) - 1)
    without = ((each >> players) << (players + 1)) | low  # [n, 2^(n-1)]: all coalitions that player i is not in
    sizes = _coalitions(num).sum(axis=1)
    share = np.array([math.factorial(s) * math.factorial(num - s - 1) / math.factorial(num) for s in range(num)])
    gains = worth[without | (1 << players)] - worth[without]
    return jnp.where(is_in, jnp.sum(gains * jnp.asarray(share[sizes[without]], gains.dtype), axis=1), 0)


@checks.typed
def sampled_shapley(
    key: Array,
    utility: UtilityFn,
    num_players: int,
    *,
    num_permutations: int = 200,
    is_guided: bool = False,
    between: Any = 0.0,
    within: Any = 0.0,
    change: Any = 0.0,
    present: Any = None,
) -> ShapleyEstimate:
    """Shapley values from P random orders: what each player adds to those before it, averaged over the orders.

    The orders grow side by side, one player at a time: n evaluations of P coalitions, in one program.  Every order's gains
    sum to u(all) - u(nobody), and so do the values.

    GTG-Shapley is `is_guided=True, between=0.01, within=0.001, change=0.05`: orders take turns in who is first; all values
    are zero where |u(all) - u(nobody)| <= between; an order ends, its later players get nothing, where |u(all) - u| < within;
    and after each turn of n orders, more than 30 in all, the orders before are enough where none of the last ten running
    means is off the last by more than `change`, relative, in the mean over players.  The work is done all the same: what is
    truncated is left out of the values.

    Args:
      key: of the orders in which players join.
      utility: function of coalitions, bool `[m, n]`, that gives the worth of each, `[m]`.
      num_players: n >= 1, structural.
      num_permutations: P >= 1, structural; with `is_guided` a multiple of n.
      between, within, change: >= 0, may be traced; 0: no such truncation.
      present: bool `[n]`, who counts; None: all.
    Source: Castro, Gomez, Tejada, Polynomial calculation of the Shapley value based on sampling, 2009; Liu et al.,
      GTG-Shapley, ACM TIST 2022, with the constants of FedML's code.
    """
    where = "sampled_shapley"
    num = checks.integer(where, "num_players", num_players, 1)
    checks.function(where, "utility", utility)
    orders = checks.integer(where, "num_permutations", num_permutations, 1, 2**20)
    if is_guided and orders % num:
        fix = f"Use {-(-orders // num) * num}."
        checks.fail(where, "num_permutations", f"a multiple of the {num} players where is_guided", orders, fix)
    for name, bound in {"between": between, "within": within, "change": change}.items():
        checks.number(where, name, bound, 0.0)
    # A large Python integer would be one of 32 bits beside an array.
    between, within, change = (jnp.asarray(bound, jnp.float32) for bound in (between, within, change))
    is_in = _present(where, present, num)
    rank = _orders(key, orders, num, is_guided)
    ends = _worth(where, utility, jnp.stack([jnp.zeros(num, bool), jnp.broadcast_to(is_in, (num,))]))

    def grow(before: Array, place: Array) -> tuple[Array, Array]:
        found = _worth(where, utility, (rank <= place) & is_in)
        now = jnp.where(jnp.abs(ends[1] - before) < within, before, found)
        now = jnp.where((place == num - 1) & ~(within > 0), ends[1], now)  # the same, bit for bit
        return now, now - before

    _, gains = jax.lax.scan(grow, jnp.broadcast_to(ends[0], (orders,)), jnp.arange(num))
    by_player = jnp.where(is_in, jnp.take_along_axis(gains.T, rank, axis=1), 0)  # [P, n]
    used = _enough(by_player, change)
    counts = (jnp.arange(orders) < used)[:, None]
    values = jnp.sum(jnp.where(counts, by_player, 0), axis=0) / used
    spread = jnp.sum(jnp.where(counts, jnp.square(by_player - values), 0), axis=0) / jnp.maximum(used - 1, 1)
    moves = ~((jnp.abs(ends[1] - ends[0]) <= between) & (between > 0))
    return ShapleyEstimate(jnp.where(moves, values, 0), jnp.where(moves, jnp.sqrt(spread / used), 0), used)


@checks.typed
def leave_one_out(utility: UtilityFn, num_players: int, *, present: Any = None) -> Array:
    """phi_i = u(all) - u(all but i), `[n]`, n + 1 coalitions in one evaluation.

    Args:
      utility: function of coalitions, bool `[m, n]`, that gives the worth of each, `[m]`.
      num_players: n >= 1, structural.
      present: bool `[n]`, who counts; None: all.
    """
    where = "leave_one_out"
    num = checks.integer(where, "num_players", num_players, 1)
    checks.function(where, "utility", utility)
    is_in = _present(where, present, num)
    masks = np.concatenate([np.ones((1, num), bool), ~np.eye(num, dtype=bool)])
    worth = _worth(where, utility, jnp.asarray(masks) & is_in)
    return jnp.where(is_in, worth[0] - worth[1:], 0)


@checks.typed
def sampled_leave_one_out(key: Array, utility: UtilityFn, num_players: int, *, present: Any = None) -> Array:
    """phi_i = u(C_i + i) - u(C_i), `[n]`, with C_i a few others drawn at random: max(1, round(log10 n)) of them.

    Args:
      key: of what is drawn.
      utility: function of coalitions, bool `[m, n]`, that gives the worth of each, `[m]`.
      num_players: n >= 1, structural.
      present: bool `[n]`, who counts; None: all.
    Source: FedML's leave-one-out, which the paper on proof of contribution is by the authors of.
    """
    where = "sampled_leave_one_out"
    num = checks.integer(where, "num_players", num_players, 1)
    checks.function(where, "utility", utility)
    is_in = _present(where, present, num)
    size = min(max(1, round(math.log10(num))), num - 1)
    drawn = keys.node_uniform(keys.stream(key, "coalitions"), jnp.arange(num), num)
    drawn = jnp.where(jnp.eye(num, dtype=bool) | ~jnp.broadcast_to(is_in, (num,)), 2.0, drawn)
    others = (jnp.argsort(jnp.argsort(drawn, axis=1), axis=1) < size) & (drawn < 2)
    worth = _worth(where, utility, jnp.concatenate([others | (jnp.eye(num, dtype=bool) & is_in), others]))
    return jnp.where(is_in, worth[:num] - worth[num:], 0)


def _coalitions(num: int) -> np.ndarray:
    """All of them, bool `[2^n, n]`: bit i of the row's number says whether player i is in."""
    return (np.arange(2**num)[:, None] >> np.arange(num)) & 1 == 1


def _orders(key: Array, orders: int, num: int, is_guided: bool) -> Array:
    """The place of each player in each order, int32 `[P, n]`; an order depends on the key and its number alone."""
    drawn = keys.node_uniform(keys.stream(key, "orders"), jnp.arange(orders), num)
    if is_guided:
        drawn = jnp.where(jnp.arange(orders)[:, None] % num == jnp.arange(num), -1.0, drawn)
    return jnp.argsort(jnp.argsort(drawn, axis=1), axis=1)


def _enough(by_player: Array, change: Any) -> Array:
    """How many of the orders are used, int32 `[]`: the first turn of n after which the running means stand still."""
    orders, num = by_player.shape
    running = jnp.cumsum(by_player, axis=0) / jnp.arange(1, orders + 1)[:, None]
    stops = jnp.asarray([k for k in range(num, orders, num) if k > 30] or [orders])
    last = running[stops - 1][:, None]
    before = running[jnp.maximum(stops[:, None] - 1 - jnp.arange(10), 0)]
    off = jnp.max(jnp.mean(jnp.abs(before - last) / (jnp.abs(last) + 1e-12), axis=2), axis=1)
    is_still = (off <= change) & (change > 0)
    return jnp.where(jnp.any(is_still), stops[jnp.argmax(is_still)], orders).astype(jnp.int32)


def _present(where: str, present: Any, num: int) -> Array:
    if present is None:
        return jnp.ones(num, bool)
    rule = f"True or False, [{num}]"
    got = present if isinstance(present, jax.core.Tracer) else checks.host(where, "present", present, rule)
    if got.dtype != bool or got.shape != (num,):
        checks.fail(where, "present", rule, checks.describe(present))
    return jnp.asarray(got)


def _worth(where: str, utility: UtilityFn, masks: Array) -> Array:
    found = utility(masks)
    if not isinstance(found, jax.Array | np.ndarray) or found.shape != masks.shape[:1]:
        rule = f"a function of masks {list(masks.shape)} that gives {list(masks.shape[:1])}"
        got = f"shape {list(found.shape)}" if isinstance(found, jax.Array | np.ndarray) else checks.describe(found)
        checks.fail(where, "utility", rule, got)
    return found if jnp.issubdtype(found.dtype, jnp.floating) else found.astype(jnp.float32)
