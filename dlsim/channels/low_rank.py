"""A channel that sends matrices as products of two thin ones."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.channels.bits import PLAIN, Layout, Numbers, Part, Reader, Writer
from dlsim.channels.error_feedback import error_feedback as with_error_feedback
from dlsim.channels.packets import whole
from dlsim.core import Array, Channel, Packet, PyTree, Route

EXACT = jax.lax.Precision.HIGHEST  # products in full, where a GPU would round the factors to fewer digits
DEPENDENT = 1e-5  # of its length: what is left of a column that depends on those before it


class Shape(NamedTuple):
    """How one leaf `[n, ...]` is sent: as a matrix of rank r, or whole (r = 0)."""

    rows: int
    columns: int
    rank: int

    @property
    def num_entries(self) -> int:
        return self.rank * (self.rows + self.columns) if self.rank else self.rows * self.columns


def matrix_shapes(tree: PyTree, rank: int) -> list[Shape]:
    """Of each leaf `[n, ..., b]`: a matrix of prod(...) rows and b columns.

    Vectors are sent whole, and so are matrices for which two factors would be no less.
    """
    shapes = []
    for leaf in jax.tree.leaves(tree):
        rows, columns = math.prod(leaf.shape[1:-1]), leaf.shape[-1] if leaf.ndim > 1 else 1
        thin = min(rank, rows, columns)
        shapes.append(Shape(rows, columns, thin if thin * (rows + columns) < rows * columns else 0))
    return shapes


def starts(shapes: list[Shape]) -> list[Array | None]:
    """The right factors that power iteration starts from, `[r, b]`, normal numbers that every node knows; None: whole.

    They lie with the long side last, as which they are multiplied fastest.
    """
    key = jax.random.key(0)
    return [
        jax.random.normal(jax.random.fold_in(key, place), (shape.columns, shape.rank)).T if shape.rank else None
        for place, shape in enumerate(shapes)
    ]


def as_matrix(leaf: Array, shape: Shape) -> Array:
    """A leaf `[n, ...]` as `[n, rows, columns]`, in float32 or wider."""
    return leaf.reshape(leaf.shape[0], shape.rows, shape.columns).astype(jnp.promote_types(leaf.dtype, jnp.float32))


def left(matrix: Array, right: Array) -> Array:
    """M Q, `[n, a, r]`; `right` `[n, r, b]`, or `[r, b]` for all."""
    side = "rb" if right.ndim == 2 else "nrb"
    return jnp.einsum(f"nab,{side}->nar", matrix, right, precision=EXACT)


def right(matrix: Array, left: Array) -> Array:
    """(M^T P)^T, `[n, r, b]`; `left` `[n, a, r]`, or `[a, r]` for all."""
    side = "ar" if left.ndim == 2 else "nar"
    return jnp.einsum(f"nab,{side}->nrb", matrix, left, precision=EXACT)


def product(left: Array, right: Array) -> Array:
    """P Q^T, `[..., a, b]`, of `[..., a, r]` and `[..., r, b]`."""
    return jnp.einsum("...ar,...rb->...ab", left, right, precision=EXACT)


def multiplied(left: Array, right: Array) -> Array:
    """`product` in float32 or wider."""
    wide = jnp.promote_types(left.dtype, jnp.float32)
    return product(left.astype(wide), right.astype(wide))


def orthonormal(columns: Array) -> Array:
    """An orthonormal basis of the columns `[..., a, r]`, by Gram-Schmidt, twice; zero for one that depends on others."""
    basis: list[Array] = []
    for place in range(columns.shape[-1]):
        column = columns[..., place]
        length = jnp.linalg.norm(column, axis=-1, keepdims=True)
        column = column / jnp.where(length > 0, length, 1)
        for _ in range(2):  # the second time what the first left for rounding
            for other in basis:
                column = column - jnp.sum(column * other, axis=-1, keepdims=True) * other
        rest = jnp.linalg.norm(column, axis=-1, keepdims=True)
        basis.append(jnp.where(rest > DEPENDENT, column / jnp.where(rest > DEPENDENT, rest, 1), 0))
    return jnp.stack(basis, axis=-1)


def revived(right: Array, start: Array) -> Array:
    """Rows of `right` `[..., r, b]` that are zero begin anew: power iteration never leaves zero."""
    return jnp.where(jnp.any(right != 0, axis=-1, keepdims=True), right, start.astype(right.dtype))


def _codec(rank: int) -> Part:
    """Leaf by leaf the factors of its matrix, the left one first, or the leaf itself; numbers as they are."""

    def shapes_of(layout: Layout) -> list[Shape]:
        return matrix_shapes([jax.ShapeDtypeStruct((1, *shape), layout.dtype) for shape in layout.shapes], rank)

    def all_of(layout: Layout, values: np.ndarray | None, count: int) -> Numbers:
        return Numbers(values, np.arange(count), layout)

    def put(writer: Writer, numbers: Numbers, side: Any) -> None:
        assert PLAIN.put is not None and numbers.values is not None
        factors = iter(side)
        for shape, mine in zip(shapes_of(numbers.layout), numbers.by_leaf(), strict=True):
            parts = [np.asarray(one).ravel() for one in next(factors)] if shape.rank else [numbers.values[mine]]
            for part in parts:
                PLAIN.put(writer, all_of(numbers.layout, part, len(part)), ())

    def get(reader: Reader, numbers: Numbers, side: Any) -> np.ndarray:
        del side
        assert PLAIN.get is not None
        out = np.zeros(len(numbers.places), np.float32)
        for shape, mine in zip(shapes_of(numbers.layout), numbers.by_leaf(), strict=True):
            if not shape.rank:
                out[mine] = PLAIN.get(reader, all_of(numbers.layout, None, len(mine)), ())
                continue
            basis, factor = (
                PLAIN.get(reader, all_of(numbers.layout, None, math.prod(size)), ()).reshape(1, *size)
                for size in ((shape.rows, shape.rank), (shape.rank, shape.columns))
            )
            out[mine] = np.asarray(jax.jit(multiplied)(basis, factor)).ravel()
        return out

    return Part(PLAIN.write, PLAIN.read, put=put, get=get, anew=True)


def low_rank(rank: int, *, error_feedback: bool = False) -> Channel:
    """Every matrix as a product of rank r: one step of power iteration from the factor that was sent last.

        P = orthonormal(M Q),   Q <- M^T P,   C(M) = P Q^T

    from normal numbers Q that all nodes know.  C(M) = P P^T M is a projection, so ||C(M) - M||^2 = ||M||^2 - ||C(M)||^2,
    and where messages change slowly P comes to span their leading left singular vectors.  A leaf `[n, ..., b]` is a matrix
    of prod(...) rows and b columns; vectors, and matrices for which the factors would be no less, are sent whole.
    Sends r (a + b) numbers a matrix of a rows and b columns.

    Args:
      rank: r >= 1, structural.
      error_feedback: add up what was left out and send it later (`error_feedback`).

    State: Q, r b numbers a matrix and sender.  A message follows its factors, not its numbers: put no channel behind it
    that changes values (a quantiser would be given a b numbers and count those of the factors); `loss` is right.  What a
    sparsifier before it chose is one more matrix to it: factors are sent whole.
    Source: Vogels, Karimireddy and Jaggi, PowerSGD, NeurIPS 2019, whose compressor this is with one sender; the method,
      in which the senders share P, is `dlsim.algorithms.power_sgd`.
    """

    rank = checks.integer("low_rank", "rank", rank, 1)
    checks.flag("low_rank", "error_feedback", error_feedback)

    def init(message: PyTree, num_senders: int) -> tuple[Array, ...]:
        return tuple(
            jnp.zeros((num_senders, *start.shape), start.dtype)
            for start in starts(matrix_shapes(message, rank))
            if start is not None
        )

    def send(key: Array, state: tuple[Array, ...], packet: Packet, route: Route) -> tuple[tuple[Array, ...], Packet]:
        del key, route
        leaves, treedef = jax.tree.flatten(packet.values)
        shapes = matrix_shapes(packet.values, rank)
        old, new, sent, factors = iter(state), [], [], []
        for leaf, shape, start in zip(leaves, shapes, starts(shapes), strict=True):
            if start is None:
                sent.append(leaf)
                continue
            matrix = as_matrix(leaf, shape)
            basis = orthonormal(left(matrix, revived(next(old), start)))
            factor = right(matrix, basis)
            new.append(factor.astype(start.dtype))
            basis, factor = basis.astype(leaf.dtype), factor.astype(leaf.dtype)  # as they are sent
            factors.append((basis, factor))
            sent.append(multiplied(basis, factor).reshape(leaf.shape).astype(leaf.dtype))
        width = max(8 * jnp.dtype(leaf.dtype).itemsize for leaf in leaves)
        sizes = whole(packet, width)
        sizes["num_entries"] = jnp.full_like(packet.num_entries, sum(shape.num_entries for shape in shapes))
        return tuple(new), packet._replace(
            values=jax.tree.unflatten(treedef, sent), beside=(*packet.beside, tuple(factors)), **sizes
        )

    source = "Vogels, Karimireddy and Jaggi, PowerSGD, NeurIPS 2019"
    channel = Channel(init=init, send=send, source=source, codec=(_codec(rank),))
    return with_error_feedback(channel) if error_feedback else channel
