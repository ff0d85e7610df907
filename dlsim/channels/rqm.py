"""Private by rounding alone: the randomised quantisation mechanism, and what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.channels import draws
from dlsim.channels.bits import no_scales
from dlsim.channels.levels import MOST_LEVELS, at_levels, codec, level_bits, positions
from dlsim.channels.packets import Piece, pieces, stateless, whole
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

    Drawn from three words of 32 bits a number, not m: going down from x, the kept level is found after a geometric number
    of dropped ones, and so going up.  Probabilities are right to about 1e-7; the divergences are those of exact ones.

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

        def rounded(piece: Piece) -> Array:
            def draw(name: str) -> Array:
                return piece.draw(draws.words, keys.stream(key, name), route.node_ids)

            place = positions(jnp.clip(piece.numbers, -clip, clip), span, num_levels)
            return _rounded_among_kept(place, draw, num_levels, keep_probability)

        private = _at_levels(packet, rounded, span, num_levels)
        return released(state, packet, private, route, no_scales(route.node_ids.shape[0]))

    return Channel(init=no_releases, send=send, source="Youn et al., 2023", codec=(codec(span, num_levels),))


def _rounded_among_kept(place: Array, draw: Callable[[str], Array], num_levels: int, keep_probability: Any) -> Array:
    """The level z of each position `[n, d]`; `draw` gives random words of a name, `[n, d]`."""
    below = jnp.minimum(jnp.floor(place), num_levels - 2)
    low = jnp.maximum(below - _geometric(draw("down"), num_levels, keep_probability), 0)
    high = jnp.minimum(below + 1 + _geometric(draw("up"), num_levels, keep_probability), num_levels - 1)
    share = (draw("which") >> 8).astype(jnp.float32) * jnp.float32(2**-24)
    return jnp.where(share * (high - low) < place - low, high, low)


def _geometric(words: Array, num_levels: int, keep_probability: Any) -> Array:
    """How many levels are dropped before one is kept, G where (1 - q)^(G + 1) <= u < (1 - q)^G; m - 2 stands for more."""
    drop = 1 - keep_probability
    if num_levels <= MOST_COMPARED:
        # As signed integers, which processors compare and count at once.
        turned, number = _signed(words), jnp.zeros(words.shape, jnp.int32)
        for g in range(1, num_levels - 1):
            edge = jnp.minimum(jnp.float32(drop**g) * 2.0**32, 2.0**32 - 256)  # a float32 below 2^32
            number = number + (turned < _signed(jnp.round(edge).astype(jnp.uint32))).astype(jnp.int32)
        return number.astype(jnp.float32)
    # A float32 holds the small ones, which drop many levels, as finely as the others.
    uniform = (words.astype(jnp.float32) + 0.5) * jnp.float32(2**-32)
    return jnp.minimum(jnp.floor(jnp.log(uniform) / jnp.log(jnp.float32(drop))), num_levels - 2)


def _signed(words: Array) -> Array:
    """Words as int32 of the same order."""
    return jax.lax.bitcast_convert_type(words ^ jnp.uint32(2**31), jnp.int32)


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

        def heads(piece: Piece) -> Array:
            bias = theta * jnp.clip(piece.numbers / clip, -1, 1)
            return _binomial(piece.draw(draws.uniform, key, route.node_ids), bias, num_trials)

        private = _at_levels(packet, heads, span, num_trials + 1)
        return released(state, packet, private, route, no_scales(route.node_ids.shape[0]))

    parts = (codec(span, num_trials + 1),)
    return Channel(init=no_releases, send=send, source="Chen, Ozgur and Kairouz, ICML 2022", codec=parts)


def _binomial(uniform: Array, bias: Array, num_trials: int) -> Array:
    """Binomial(M, 1/2 + bias) by inversion; of the rarer side, whose probability of zero is at least 2^-M.

    All in units of that probability: the terms are C(M, k) (p / (1 - p))^k.
    """
    rare = 0.5 - jnp.abs(bias)
    odds = rare / (1 - rare)
    drawn = uniform / (1 - rare) ** num_trials
    power, total, count = jnp.ones_like(odds), jnp.ones_like(odds), jnp.zeros(odds.shape, jnp.int32)
    for k in range(1, num_trials + 1):
        count = count + (drawn >= total).astype(jnp.int32)
        power = power * odds
        total = total + float(math.comb(num_trials, k)) * power
    return jnp.where(bias > 0, num_trials - count, count).astype(odds.dtype)


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

        def rounded(piece: Piece) -> Array:
            place = positions(piece.numbers, clip, num_levels)
            levels = jnp.floor(place + piece.draw(draws.uniform, key, route.node_ids))
            return jnp.minimum(levels, num_levels - 1)  # place + draw may round up to the next whole number

        out, nothing = _at_levels(packet, rounded, clip, num_levels), jnp.zeros(route.node_ids.shape, jnp.uint32)
        return state, released(Releases(nothing), packet, out, route, no_scales(len(nothing)))[1]

    return Channel(init=stateless, send=send, codec=(codec(clip, num_levels),))


def _at_levels(packet: Packet, levels: Callable[[Piece], Array], span: Any, num_levels: int) -> Packet:
    """Every number at the level it is given; one that is not finite as it was, which clipping would hide."""
    leaves, rebuild = pieces(packet.values)
    values = [
        jnp.where(jnp.isfinite(piece.numbers), at_levels(levels(piece), span, num_levels), piece.numbers)
        for piece in leaves
    ]
    return packet._replace(values=rebuild(values), **whole(packet, level_bits(num_levels)))
