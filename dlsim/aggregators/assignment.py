"""Linear assignment inside a compiled program: which unit of one model is which unit of another."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array


class _Search(NamedTuple):
    """One problem on its way; rows and columns are matched one after the other."""

    prices: Array  # float [n] of the columns
    row_of: Array  # int32 [n] the row matched to each column; -1: none
    column_of: Array  # int32 [n] the column matched to each row; -1: none
    root: Array  # int32 [] the free row that a path is sought for
    row: Array  # int32 [] the row reached last
    column: Array  # int32 [] the column reached last; where a path is being turned round, the one to be matched next
    reached: Array  # float [] length of the path to `row`
    lengths: Array  # float [n] of the shortest paths known to each column
    before: Array  # int32 [n] the row before each column on that path
    is_settled: Array  # bool [n] columns whose path is final
    is_found: Array  # bool [] a free column was reached: the path is being turned round
    passes: Array  # int32 [] so far


@checks.typed
def linear_assignment(scores: Array) -> Array:
    """The permutation q that maximises sum_u scores[u, q(u)], int32 `[..., H]`, of `scores [..., H, H]`.

    Shortest augmenting paths (Jonker and Volgenant) with prices v of the columns: from a free row a path goes on to the
    column j that is nearest by  c[i, j] - v[j] - (c[i, j_i] - v[j_i]),  c = -scores, j_i the column matched to row i, until
    a free column is reached; then every row of the path takes the next column, and settled columns get v[j] += length[j] -
    length of the path.  First every column is offered to the row that it costs least.

    Leading axes are problems side by side.  Each is a little machine that does one step of a path, or turns round one link
    of it, in every pass of a loop, so none waits for the others' paths and the passes are those of the longest problem: at
    most H (2 H + 1), and for correlations of trained layers some 5 H.  The optimum is that of float32 (of the dtype given);
    where several are equal, which one is found depends on `scores` alone.  What is not finite counts as worst.
    `scipy.optimize.linear_sum_assignment` finds the same optimum on the host.

    Source: Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems,
      Computing 1987; Crouse, On implementing 2D rectangular assignment algorithms, IEEE TAES 2016.  Differs: reduction of
      rows and columns alone comes before the paths, no augmenting row reduction.
    """
    shape: tuple[int, ...] = getattr(scores, "shape", ())
    if len(shape) < 2 or shape[-1] != shape[-2] or not shape[-1]:
        rule = "square matrices [..., H, H] with H >= 1"
        checks.fail("linear_assignment", "scores", rule, checks.describe(scores))
    scores = jnp.asarray(scores)
    scores = scores if jnp.issubdtype(scores.dtype, jnp.floating) else scores.astype(jnp.float32)
    found = jax.vmap(_solve)(scores.reshape(-1, *shape[-2:]))
    return found.reshape(shape[:-1])


def _solve(scores: Array) -> Array:
    num = scores.shape[0]
    worst = jnp.min(jnp.where(jnp.isfinite(scores), scores, jnp.inf), initial=0.0)
    costs = -jnp.where(jnp.isfinite(scores), scores, jnp.minimum(worst, 0) - 1)
    costs = costs - jnp.min(costs, axis=1, keepdims=True)
    columns = jnp.arange(num, dtype=jnp.int32)
    # Every column is offered to the row that it costs least; a row takes the first one offered.
    prices, offered = jnp.min(costs, axis=0), jnp.argmin(costs, axis=0).astype(jnp.int32)
    first = jnp.full(num, num, jnp.int32).at[offered].min(columns)
    column_of = jnp.where(first < num, first, -1)
    row_of = jnp.where(first[offered] == columns, offered, -1)

    def begin(prices: Array, row_of: Array, column_of: Array, passes: Array) -> _Search:
        root = jnp.argmax(column_of < 0).astype(jnp.int32)
        return _Search(
            prices=prices,
            row_of=row_of,
            column_of=column_of,
            root=root,
            row=root,
            column=jnp.full_like(root, -1),
            reached=jnp.zeros((), costs.dtype),
            lengths=jnp.full(num, jnp.inf, costs.dtype),
            before=jnp.zeros(num, jnp.int32),
            is_settled=jnp.zeros(num, bool),
            is_found=jnp.zeros((), bool),
            passes=passes,
        )

    def is_open(search: _Search) -> Array:
        return jnp.any(search.column_of < 0) & (search.passes < num * (2 * num + 1))

    def step(search: _Search) -> _Search:
        on = search._replace(passes=search.passes + 1)
        found: _Search = jax.lax.cond(search.is_found, turn, seek, on)
        return found

    def seek(search: _Search) -> _Search:
        """The nearest column that is not settled yet."""
        reduced = costs[search.row] - search.prices
        own = jnp.where(search.column < 0, 0, reduced[search.column])
        through = search.reached + reduced - own
        is_shorter = ~search.is_settled & (through < search.lengths)
        lengths = jnp.where(is_shorter, through, search.lengths)
        before = jnp.where(is_shorter, search.row, search.before)
        column = jnp.argmin(jnp.where(search.is_settled, jnp.inf, lengths)).astype(jnp.int32)
        reached, row = lengths[column], search.row_of[column]
        is_found = row < 0
        paid = jnp.where(search.is_settled & is_found, lengths - reached, 0)
        return search._replace(
            prices=search.prices + paid,
            row=jnp.where(is_found, search.row, row),
            column=column,
            reached=reached,
            lengths=lengths,
            before=before,
            is_settled=search.is_settled.at[column].set(True),
            is_found=is_found,
        )

    def turn(search: _Search) -> _Search:
        """The row before a column takes it, and leaves its own to the row before that."""
        row = search.before[search.column]
        left = search.column_of[row]
        row_of, column_of = search.row_of.at[search.column].set(row), search.column_of.at[row].set(search.column)
        is_last = row == search.root
        anew = begin(search.prices, row_of, column_of, search.passes)
        on = search._replace(row_of=row_of, column_of=column_of, column=left)
        return jax.tree.map(lambda new, old: jnp.where(is_last, new, old), anew, on)

    start = begin(prices, row_of, column_of, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(is_open, step, start).column_of
