"""How sparsifiers write down which numbers they send: indices, or the seed they were drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import keys
from dlsim.channels.bits import Layout, Part, Reader, Writer
from dlsim.channels.packets import num_kept
from dlsim.core import Array


def index_width(k: int, dimension: int) -> int:
    """Bits of an index, ceil(log2 D); none where all are sent."""
    return max(1, math.ceil(math.log2(dimension))) if k < dimension else 0


def indices(fraction: float | int) -> Part:
    """The part of a sparsifier that sends k indices; its side is the mask of what it chose, bool `[D]`."""

    def write(writer: Writer, side: Any, layout: Layout) -> None:
        chosen = np.flatnonzero(side)
        writer.numbers(chosen, index_width(len(chosen), layout.dimension))

    def read(reader: Reader, layout: Layout) -> np.ndarray:
        k, chosen = num_kept(fraction, layout.dimension), np.ones(layout.dimension, bool)
        if k < layout.dimension:
            chosen[:] = False
            chosen[reader.numbers(k, index_width(k, layout.dimension))] = True
        return chosen

    return Part(write, read, chosen=lambda side, node_id, layout: side)


def seed(draw: Callable[[Array, Array, int], Array], scale: Callable[[int], Any]) -> Part:
    """The part of a sparsifier that sends 64 bits from which `draw(key, node_ids [n], D)` gives its mask, bool `[n, D]`."""

    def write(writer: Writer, side: Any, layout: Layout) -> None:
        del layout
        writer.words(side)

    def read(reader: Reader, layout: Layout) -> np.ndarray:
        del layout
        return reader.words(2, np.uint32)

    def chosen(side: Any, node_id: int, layout: Layout) -> np.ndarray:
        key = jax.random.wrap_key_data(jnp.asarray(side), impl=keys.THREEFRY)
        return np.asarray(draw(key, jnp.full(1, node_id, jnp.int32), layout.dimension)[0])

    return Part(write, read, chosen=chosen, scale=scale)
