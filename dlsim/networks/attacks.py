"""What liars say: one attack a function, of all messages of an exchange and of who is honest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from dlsim import keys
from dlsim.core import Array, Route


class Attack(NamedTuple):
    """`lie(key, flat [n, D], honest bool [n], route, strength) -> [n, D]`, or `[1, D]` where all say the same."""

    lie: Callable[[Array, Array, Array, Route, Any], Array]
    source: str
    knows_others: bool = False  # needs what the honest say in the same exchange


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
}
