"""Nodes that share a medium: when each is done, by processor sharing."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def finishing_times(work: Array, cells: Array) -> Array:
    """When each is done of n that begin together and share their cells' time evenly, `[n]`; exact for unequal work.

    While k of a cell are not done, each gets 1/k of its time.  Node i, which would take w_i alone, is done at

        t_i = sum_j min(w_i, w_j)     over the nodes j of its cell,

    since j has had w_j of the cell's time by then if it was done before, and as much as i if not.  Sorted within the
    cell, with r of its k nodes at or before i: t_i = w_1 + ... + w_r + (k - r) w_i.  The last one is done when all the
    work is; who has no work takes no time and disturbs nobody.

    Args:
      work: seconds each would take alone, `[n]`, at least 0.
      cells: integers `[n]`; who has one below 0 shares with nobody.
    Source: the egalitarian processor sharing of queueing theory (Kleinrock, JACM 1967), with all arrivals at time 0.
    """
    num = work.shape[0]
    places = jnp.arange(num, dtype=jnp.int32)
    own = jnp.where(cells < 0, -1 - places, cells)
    cell, sorted_work, order = jax.lax.sort((own, work, places), num_keys=2)
    change = cell[1:] != cell[:-1]
    edge = jnp.ones((1,), bool)
    begins, ends = jnp.concatenate([edge, change]), jnp.concatenate([change, edge])
    first = jax.lax.cummax(jnp.where(begins, places, 0))
    last = jax.lax.cummin(jnp.where(ends, places, num), reverse=True)

    # A sum that begins anew at each cell, by doubling: differences of one long sum would lose the digits of small work.
    def double(turn: Array, sums: Array) -> Array:
        before = places - (1 << turn)
        return sums + jnp.where(before >= first, sums[before], 0)

    done = jax.lax.fori_loop(0, max(num - 1, 0).bit_length(), double, sorted_work)
    finished = done + (last - places).astype(work.dtype) * sorted_work
    return jnp.zeros_like(work).at[order].set(finished, unique_indices=True)
