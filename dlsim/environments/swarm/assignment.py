"""Least cost of giving every row its own column: exact, inside `jit`, for costs of whole numbers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array

FAR = 2**28


class _Search(NamedTuple):
    """Shortest augmenting paths, one a row; a column beyond the last stands for where a path begins."""

    row_of: Array  # int32 [M + 1] row given to each column, R for none; the last: the row that is being placed
    row_price: Array  # int32 [R]
    column_price: Array  # int32 [M]
    slack: Array  # int32 [M] least reduced cost from the columns reached to each other one
    came_from: Array  # int32 [M] the column before on the path
    is_row_reached: Array  # bool [R]
    is_reached: Array  # bool [M]
    column: Array  # int32 [] last column reached
    walks_back: Array  # bool [] the path has come to a free column; its columns take their new rows
    row: Array  # int32 [] row being placed


def assignment_cost(costs: Array) -> Array:
    """min over one-to-one maps s of sum_r costs[r, s(r)], int32 `[]`, for costs int32 `[R, M]`, R <= M, below 2^28 / R.

    Shortest augmenting paths with prices (the Hungarian method), O(R^2 M).  Columns that are the cheapest of their row and
    of no row before it are given away first, so that only the rest of the rows need a path.

    Source: Jonker, Volgenant, A Shortest Augmenting Path Algorithm for Dense and Sparse Linear Assignment Problems,
    Computing, 1987.
    """
    rows, columns = costs.shape
    if rows > columns:
        checks.fail("assignment_cost", "costs", "of a shape [R, M] with R <= M", list(costs.shape), "Transpose it.")
    costs = costs.astype(jnp.int32)
    cheapest = jnp.argmin(costs, axis=1).astype(jnp.int32)
    index = jnp.arange(rows, dtype=jnp.int32)
    row_of = jnp.full(columns + 1, rows, jnp.int32).at[cheapest].min(index)
    placed = row_of[cheapest] == index
    search = _Search(
        row_of=row_of,
        row_price=jnp.min(costs, axis=1),
        column_price=jnp.zeros(columns, jnp.int32),
        slack=jnp.full(columns, FAR, jnp.int32),
        came_from=jnp.full(columns, columns, jnp.int32),
        is_row_reached=jnp.zeros(rows, bool),
        is_reached=jnp.zeros(columns, bool),
        column=jnp.asarray(columns, jnp.int32),
        walks_back=jnp.asarray(False),
        row=jnp.asarray(-1, jnp.int32),
    )

    def step(search: _Search) -> _Search:
        return jax.lax.cond(
            search.walks_back, lambda search: _walk_back(search, placed), lambda search: _reach(search, costs), search
        )

    search = jax.lax.while_loop(lambda search: search.row < rows, step, _next_row(search, placed))
    return jnp.sum(search.row_price) + jnp.sum(search.column_price)


def _next_row(search: _Search, placed: Array) -> _Search:
    """The search for the next row that has no column, from its beginning; row R when there is none."""
    rows, columns = placed.shape[0], search.slack.shape[0]
    index = jnp.arange(rows, dtype=jnp.int32)
    row = jnp.min(jnp.where(~placed & (index > search.row), index, rows))
    return search._replace(
        row=row,
        row_of=jnp.where(jnp.arange(columns + 1) == columns, row, search.row_of),
        slack=jnp.full_like(search.slack, FAR),
        is_row_reached=jnp.zeros_like(search.is_row_reached),
        is_reached=jnp.zeros_like(search.is_reached),
        column=jnp.asarray(columns, jnp.int32),
        walks_back=jnp.asarray(False),
    )


def _reach(search: _Search, costs: Array) -> _Search:
    """One more column is reached; prices change by its slack."""
    rows, columns = costs.shape
    index = jnp.arange(columns, dtype=jnp.int32)
    row = search.row_of[search.column]
    is_reached = search.is_reached | (index == search.column)
    is_row_reached = search.is_row_reached | (jnp.arange(rows) == row)
    reduced = costs[row] - search.row_price[row] - search.column_price
    better = ~is_reached & (reduced < search.slack)
    slack = jnp.where(better, reduced, search.slack)
    open_slack = jnp.where(is_reached, FAR, slack)
    change = jnp.min(open_slack)
    column = jnp.min(jnp.where(open_slack == change, index, columns))
    return search._replace(
        row_price=search.row_price + jnp.where(is_row_reached, change, 0),
        column_price=search.column_price - jnp.where(is_reached, change, 0),
        slack=jnp.where(is_reached, slack, slack - change),
        came_from=jnp.where(better, search.column, search.came_from),
        is_row_reached=is_row_reached,
        is_reached=is_reached,
        column=column,
        walks_back=search.row_of[column] == rows,
    )


def _walk_back(search: _Search, placed: Array) -> _Search:
    """The column takes the row of the one before it on the path; at the beginning of the path comes the next row."""
    columns = search.slack.shape[0]
    before = search.came_from[search.column]
    row_of = jnp.where(jnp.arange(columns + 1) == search.column, search.row_of[before], search.row_of)
    search = search._replace(row_of=row_of, column=before)
    return jax.tree.map(lambda a, b: jnp.where(before == columns, a, b), _next_row(search, placed), search)


def assignment_bounds(costs: Array, num_rounds: int) -> Array:
    """Lower bounds of `assignment_cost` for B problems at once, int32 `[B]`; costs int32 `[M, R, B]`, columns first.

    Prices p <= 0 of columns give the bound sum_r min_m (costs - p) + sum_m p.  In each round the columns that are the
    cheapest of several rows fall by 1; the best bound of all rounds is returned.
    """
    columns = jnp.arange(costs.shape[0], dtype=jnp.int32)
    tagged = costs.astype(jnp.int32) * costs.shape[0] + columns[:, None, None]  # the least tells its column too

    def cheaper(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        prices, best = carry
        least = jnp.min(tagged - prices[:, None] * costs.shape[0], axis=0)
        bound = jnp.sum(least // costs.shape[0], axis=0) + jnp.sum(prices, axis=0)
        wanted = jnp.sum((least % costs.shape[0])[None] == columns[:, None, None], axis=1)
        return (prices - (wanted > 1), jnp.maximum(best, bound)), None

    start = (jnp.zeros((costs.shape[0], costs.shape[2]), jnp.int32), jnp.zeros(costs.shape[2], jnp.int32))
    return jax.lax.scan(cheaper, start, None, length=num_rounds)[0][1]
