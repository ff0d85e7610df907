"""What liars say: one attack a function, of all messages of an exchange and of who is honest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import keys
from dlsim.core import Array, Route
from dlsim.networks.columns import by_columns


class Attack(NamedTuple):
    """`lie(key, flat [n, D], honest bool [n], route, strength) -> [n, D]`, or `[1, D]` where all say the same.

    Of an attack `to_each` the rows are those of the receivers: what each of them hears from every liar.
    """

    lie: Callable[[Array, Array, Array, Route, Any], Array]
    source: str
    knows_others: bool = False  # needs what the honest say in the same exchange
    to_each: bool = False  # says something else to each receiver, and needs to know whom it hears (`Route.edges`)

    @property
    def needs(self) -> frozenset[str]:
        """As a channel says it."""
        known = {"others": self.knows_others, "edges": self.to_each}
        return frozenset(name for name, is_needed in known.items() if is_needed)


class _Honest(NamedTuple):
    num: Array  # at least one
    mean: Array  # [D]
    deviation: Array  # [D] standard deviation, entry by entry


def _honest(flat: Array, honest: Array) -> _Honest:
    count, rows = jnp.maximum(jnp.sum(honest), 1), honest[:, None]
    mean = jnp.sum(jnp.where(rows, flat, 0), axis=0) / count
    variance = jnp.sum(jnp.where(rows, jnp.square(flat - mean), 0), axis=0) / count
    return _Honest(count, mean, jnp.sqrt(variance))


def _sign_flip(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    return -strength * flat


def _zero(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    return jnp.zeros_like(flat)


def _constant(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    return jnp.full_like(flat, strength)


def _noise(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    return strength * keys.node_normal(key, route.node_ids, flat.shape[1])


def _alie(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    known = _honest(flat, honest)
    return (known.mean - strength * known.deviation)[None]


def _inner_product(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    return -strength * _honest(flat, honest).mean[None]


def _mimic(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    return flat[jnp.argmax(honest)][None]


def _echo(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    return _honest(flat, ~honest).mean[None]


def _min_max(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    """mu - s g sigma with the largest g such that no honest one is farther from it than honest ones are apart.

    ||mu - g sigma - x_i|| <= R for all honest i: of each the positive root of a quadratic in g, and the least of them.
    """
    known = _honest(flat, honest)
    ways = jnp.where(honest[:, None], flat - known.mean, 0)
    lengths = jnp.sum(jnp.square(ways), axis=1)
    squares = lengths[:, None] + lengths[None] - 2 * ways @ ways.T
    farthest = jnp.max(jnp.where(honest[:, None] & honest[None], squares, 0))
    along, size = ways @ known.deviation, jnp.sum(jnp.square(known.deviation))
    # ||ways + g sigma||^2 = lengths + 2 g along + g^2 size
    root = jnp.sqrt(jnp.maximum(along**2 + size * (farthest - lengths), 0)) - along
    reach = jnp.min(jnp.where(honest, root, jnp.inf)) / jnp.maximum(size, jnp.finfo(flat.dtype).tiny)
    return (known.mean - strength * jnp.where(size > 0, reach, 0) * known.deviation)[None]


def _min_sum(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    """mu - s g sigma with the largest g such that its squared distances to all honest ones sum to no more than theirs.

    The sum of honest i is c ||x_i - mu||^2 + V with V the sum of all ||x_j - mu||^2, that of the lie V + c g^2 ||sigma||^2.
    """
    known = _honest(flat, honest)
    lengths = jnp.sum(jnp.square(jnp.where(honest[:, None], flat - known.mean, 0)), axis=1)
    size = jnp.sum(jnp.square(known.deviation))
    reach = jnp.sqrt(jnp.max(lengths) / jnp.maximum(size, jnp.finfo(flat.dtype).tiny))
    return (known.mean - strength * jnp.where(size > 0, reach, 0) * known.deviation)[None]


def _replacement(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    mean = _honest(flat, honest).mean
    return mean + strength * (flat - mean)


def _added_noise(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    return flat + _noise(key, flat, honest, route, strength)


def _two_faced(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    known = _honest(flat, honest)
    side = jnp.where(route.node_ids % 2 == 0, -1.0, 1.0)[:, None]
    return known.mean + side * strength * known.deviation


def _dissensus(key: Array, flat: Array, honest: Array, route: Route, strength: Any) -> Array:
    """x_i - s sum_k w_ik (x_k - x_i) / sum_l w_il over the honest k and the liars l that receiver i hears."""
    edges: Any = route.edges
    weights = edges.weights if edges.is_up is None else jnp.where(edges.is_up, edges.weights, 0)
    by_honest = jnp.where(honest[edges.senders], weights, 0)[:, None]
    of_liars = jax.ops.segment_sum(weights - by_honest[:, 0], edges.receivers, flat.shape[0], indices_are_sorted=True)
    push = jnp.where(of_liars > 0, strength / jnp.where(of_liars > 0, of_liars, 1), 0)[:, None]

    def pushed(values: Array, own: Array) -> Array:
        ways = values[edges.senders] - own[edges.receivers]
        drawn = jnp.where(by_honest == 0, 0, by_honest * ways)
        pull = jax.ops.segment_sum(drawn, edges.receivers, own.shape[0], indices_are_sorted=True)
        return (own - push * pull).astype(own.dtype)

    return by_columns(pushed, flat, flat)


RSA = "Li et al., AAAI 2019"
MANIPULATING = "Shejwalkar and Houmansadr, NDSS 2021"
ATTACKS: dict[str, Attack] = {
    "sign_flip": Attack(_sign_flip, RSA),
    "noise": Attack(_noise, RSA),
    "zero": Attack(_zero, RSA),
    "constant": Attack(_constant, RSA),
    "alie": Attack(_alie, "Baruch et al., NeurIPS 2019", knows_others=True),
    "inner_product": Attack(_inner_product, "Xie, Koyejo and Gupta, UAI 2020", knows_others=True),
    "mimic": Attack(_mimic, "Karimireddy, He and Jaggi, ICLR 2022", knows_others=True),
    "echo": Attack(_echo, "Werthenbach and Pouwelse, 2023"),
    "min_max": Attack(_min_max, MANIPULATING, knows_others=True),
    "min_sum": Attack(_min_sum, MANIPULATING, knows_others=True),
    "replacement": Attack(_replacement, "Bagdasaryan et al., AISTATS 2020", knows_others=True),
    "added_noise": Attack(_added_noise, "Fraboni, Vidal and Lorenzi, AISTATS 2021"),
    "two_faced": Attack(_two_faced, "Lamport, Shostak and Pease, TOPLAS 1982", knows_others=True, to_each=True),
    "dissensus": Attack(_dissensus, "He, Karimireddy and Jaggi, 2022", knows_others=True, to_each=True),
}
