"""Routes to gateways: every node's next link on a cheapest path, by sweeps of Bellman and Ford over the list of links."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array


class Routes(NamedTuple):
    """Where packets go next."""

    links: Array  # int32 [N], position in the list of links; -1 at gateways and where no path leads to one
    costs: Array  # float32 [N], of the path; inf where there is none


@checks.typed
def cheapest_routes(senders: Array, receivers: Array, costs: Array, is_gateway: Array) -> Routes:
    """c_i = min over links i -> j of cost_ij + c_j, 0 at gateways; of equal paths the first in the list.

    Args:
      senders, receivers: ends of each link, int32 `[E]`; packets go from the sender to the receiver.
      costs: float32 `[E]`, above 0; inf: no link.
      is_gateway: bool `[N]`.
    Cost: E operations a sweep, as many sweeps as the longest cheapest path has links.
    """
    where = "cheapest_routes"
    checks.shape(where, "is_gateway", is_gateway, (None,))
    num = is_gateway.shape[0]
    checks.shape(where, "senders", senders, (None,))
    for name, value in (("receivers", receivers), ("costs", costs)):
        checks.shape(where, name, value, senders.shape)
    start = jnp.where(is_gateway, 0.0, jnp.inf).astype(jnp.float32)

    def offers(found: Array) -> Array:
        return costs.astype(jnp.float32) + found[receivers]

    def sweep(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        found, _ = carry
        best = jax.ops.segment_min(offers(found), senders, num)
        after = jnp.minimum(found, best)
        return after, jnp.any(after < found)

    found, _ = jax.lax.while_loop(lambda carry: carry[1], sweep, (start, jnp.ones((), bool)))
    places = jnp.arange(senders.shape[0], dtype=jnp.int32)
    is_best = (offers(found) <= found[senders]) & jnp.isfinite(costs)
    first = jax.ops.segment_min(jnp.where(is_best, places, jnp.int32(2**31 - 1)), senders, num)
    has_one = jnp.isfinite(found) & ~is_gateway
    return Routes(jnp.where(has_one, first, -1), found)
