"""Private by rounding alone: the randomised quantisation mechanism, and what it is compared with."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.channels.bits import no_scales
from dlsim.channels.levels import MOST_LEVELS, at_levels, codec, level_bits, positions
from dlsim.channels.packets import stateless, whole
from dlsim.channels.privacy import Releases, no_releases, released
from dlsim.core import Array, Channel, Packet, Route

MOST_COMPARED = 32  # levels up to which comparing is quicker than logarithms
MOST_TRIALS = 100  # the smaller of the two probabilities is at most 1/2, and 2^-100 a float32


def rqm(*, clip: Any, extension: Any, num_levels: int = 16, keep_probability: Any = 0.42) -> Channel:
    """Randomised quantisation: a random part of m levels is kept, and each number is rounded at random to a kept neighbour.

        B(i) = -X + 2 X i / (m - 1),  i = 0 .. m-1,  X = c + Delta;  x clipped to [-c, c], number by number
        levels 0 and m-1 are kept, each other one with probability q, by number and message anew
        of the kept neighbours B(a) <= x < B(b):   z = b with probability (x - B(a)) / (B(b) - B(a)), else a

    The receiver takes B(z).  E B(z) = x, and z is Renyi differentially private without noise; how private,
    `dlsim.privacy.rqm` says exactly.  Sends ceil(log2 m) bits a number.  Scale-free: privacy depends on Delta / c, m and q.
    What a server sends goes as it is.  A number that is not finite stays so.

    Drawn from one word of 32 bits a number, not m: going down from x, the kept level is found after a geometric number of
    dropped ones, and so going up.  Probabilities are right to about 1e-6; the divergences are those of exact ones.

    Args:
      clip: c > 0; may be traced.
      extension: Delta > 0, how far the levels reach beyond the clip; may be traced.  The paper's settings are 2.33 c and c
        with q = 0.42, and 0.66 c with q = 0.57.
      num_levels: m, structural; the paper's default.
      keep_probability: q in (0, 1); may be traced.
    Source: Youn, Hu, Ziani and Abernethy, Randomized quantization is all you need for differential privacy in federated
      learning, 2023, Algorithm 2.
    """
    checks.number("rqm", "clip", clip, 0.0, open_minimum=True)
    fix = "Without it there is no privacy: use clipped_rounding."
    if checks.is_concrete(extension) and checks.number("rqm", "extension", extension) <= 0:
        checks.fail("rqm", "extension", "greater than 0", checks.describe(extension), fix)
    checks.integer("rqm", "num_levels", num_levels, 2, MOST_LEVELS)
    checks.number("rqm", "keep_probability", keep_probability, 0.0, 1.0, open_minimum=True, open_maximum=True)

    span = clip + extension

    def send(key: Array, state: Releases, packet: Packet, route: Route) -> tuple[Releases, Packet]:
        flat, unravel = trees.ravel(packet.values)
        words = keys.node_bits(key, route.node_ids, flat.shape[1])
        place = positions(jnp.clip(flat, -clip, clip), span, num_levels)
        levels = _rounded_among_kept(place, words, num_levels, keep_probability)
        private = packet._replace(
            values=unravel(_finite(flat, at_levels(levels, span, num_levels))), **whole(packet, level_bits(num_levels))
        )
        return released(state, packet, private, route, no_scales(flat.shape[0]))

    return Channel(init=no_releases, send=send, source="Youn et al., 2023", codec=(codec(span, num_levels),))


def _rounded_among_kept(place: Array, words: Array, num_levels: int, keep_probability: Any) -> Array:
    """The level z of each position `[n, D]`, from one random word each."""
    below = jnp.minimum(jnp.floor(place), num_levels - 2)
    # A float32 holds the small ones, which drop many levels, as finely as the others.
    num_down, left = _geometric((words.astype(jnp.float32) + 0.5) * jnp.float32(2**-32), num_levels, keep_probability)
    num_up, left = _geometric(left, num_levels, keep_probability)
    low = jnp.maximum(below - num_down, 0)
    high = jnp.minimum(below + 1 + num_up, num_levels - 1)
    return jnp.where(left * (high - low) < place - low, high, low)


def _geometric(uniform: Array, num_levels: int, keep_probability: Any) -> tuple[Array, Array]:
    """How many levels are dropped before one is kept (m - 2 stands for more), and what is left of the draw, uniform again.

    The number is G where (1 - q)^(G + 1) <= u < (1 - q)^G; within that cell u is uniform.
    """
    drop = 1 - keep_probability
    if num_levels <= MOST_COMPARED:
        number, cell = jnp.zeros_like(uniform), jnp.ones_like(uniform)
        for g in range(1, num_levels - 1):
            edge = jnp.float32(drop**g)
            passed = uniform < edge
            number, cell = jnp.where(passed, jnp.float32(g), number), jnp.where(passed, 1 / edge, cell)
    else:
        number = jnp.minimum(jnp.floor(jnp.log(uniform) / jnp.log(jnp.float32(drop))), num_levels - 2)
        cell = jnp.exp(-number * jnp.log(jnp.float32(drop)))
    left = (uniform * cell - drop) / keep_probability
    # Beyond the last number the cell goes down to zero, and nothing is asked of what is left but that it is a draw.
    last = number >= num_levels - 2
    left = jnp.where(last, uniform * cell, left)
    return number, jnp.clip(left, jnp.float32(2**-32), jnp.float32(1 - 2**-24))


def poisson_binomial(*, clip: Any, theta: Any, num_trials: int = 15) -> Channel:
    """The Poisson binomial mechanism: each number sets the bias of M coins, and what is sent is how many show heads.

        z ~ Binomial(M, 1/2 + theta x / c),   x clipped to [-c, c], number by number
        received as   c (z - M / 2) / (M theta),   unbiased, of variance c^2 (1/4 - theta^2 x^2 / c^2) / (M theta^2)

    How private it is, `dlsim.privacy.poisson_binomial` says.  Sends ceil(log2(M + 1)) bits a number; M = m - 1 has the levels
    and bits of `rqm`.  What a server sends goes as it is; a number that is not finite stays so.  One uniform of 24 bits a
    number, through the distribution function.

    Args:
      clip: c > 0; may be traced.
      theta: in (0, 1/2): larger is more exact and less private; may be traced.
      num_trials: M, 1 to 100; structural.
    Source: Chen, Ozgur and Kairouz, The Poisson binomial mechanism for unbiased federated learning with secure aggregation,
      ICML 2022.
    """
    checks.number("poisson_binomial", "clip", clip, 0.0, open_minimum=True)
    checks.number("poisson_binomial", "theta", theta, 0.0, 0.5, open_minimum=True, open_maximum=True)
    checks.integer("poisson_binomial", "num_trials", num_trials, 1, MOST_TRIALS)
    span = clip / (2 * theta)  # received where all or no coins show heads

    def send(key: Array, state: Releases, packet: Packet, route: Route) -> tuple[Releases, Packet]:
        flat, unravel = trees.ravel(packet.values)
        bias = theta * jnp.clip(flat / clip, -1, 1)
        heads = _binomial(keys.node_uniform(key, route.node_ids, flat.shape[1]), bias, num_trials)
        values = at_levels(heads, span, num_trials + 1)
        bits = level_bits(num_trials + 1)
        private = packet._replace(values=unravel(_finite(flat, values)), **whole(packet, bits))
        return released(state, packet, private, route, no_scales(flat.shape[0]))

    parts = (codec(span, num_trials + 1),)
    return Channel(init=no_releases, send=send, source="Chen, Ozgur and Kairouz, ICML 2022", codec=parts)


def _binomial(uniform: Array, bias: Array, num_trials: int) -> Array:
    """Binomial(M, 1/2 + bias) by inversion; of the rarer side, whose probability of zero is at least 2^-M."""
    rare = 0.5 - jnp.abs(bias)
    odds = rare / (1 - rare)
    chance = (1 - rare) ** num_trials
    total, count = chance, jnp.zeros_like(chance)
    for k in range(num_trials):
        count = count + (uniform >= total)
        chance = chance * odds * ((num_trials - k) / (k + 1))
        total = total + chance
    return jnp.where(bias > 0, num_trials - count, count)


def clipped_rounding(*, clip: Any, num_levels: int = 16) -> Channel:
    """Rounding at random to m levels of [-c, c], unbiased and not private: `rqm` with all levels kept and no extension.

        z = floor(p) + 1 with probability p - floor(p), else floor(p),   p = (x / c + 1) (m - 1) / 2

    Sends ceil(log2 m) bits a number; the range is known beforehand, so no scale is sent.  Error of a number at most
    2 c / (m - 1), variance at most (c / (m - 1))^2, beside what is clipped.  What a server sends goes as it is.

    Args:
      clip: c > 0; may be traced.
      num_levels: m; structural.
    """
    checks.number("clipped_rounding", "clip", clip, 0.0, open_minimum=True)
    checks.integer("clipped_rounding", "num_levels", num_levels, 2, MOST_LEVELS)

    def send(key: Array, state: tuple[()], packet: Packet, route: Route) -> tuple[tuple[()], Packet]:
        flat, unravel = trees.ravel(packet.values)
        place = positions(flat, clip, num_levels)
        levels = jnp.floor(place + keys.node_uniform(key, route.node_ids, flat.shape[1]))
        levels = jnp.minimum(levels, num_levels - 1)  # place + draw may round up to the next whole number
        rounded = packet._replace(
            values=unravel(_finite(flat, at_levels(levels, clip, num_levels))), **whole(packet, level_bits(num_levels))
        )
        nothing = Releases(jnp.zeros(route.node_ids.shape, jnp.uint32))
        return state, released(nothing, packet, rounded, route, no_scales(flat.shape[0]))[1]

    return Channel(init=stateless, send=send, codec=(codec(clip, num_levels),))


def _finite(flat: Array, values: Array) -> Array:
    """`values` where the message was finite; elsewhere what it was, which clipping would hide."""
    return jnp.where(jnp.isfinite(flat), values, flat).astype(flat.dtype)
