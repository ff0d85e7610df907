"""Convolution and pooling that stay fast when every node has its own kernel.

`vmap` of `lax.conv_general_dilated` over kernels is a grouped convolution, and `reduce_window` has a slow backward
pass (select and scatter).  Shifted slices, matrix products and reshapes have neither problem, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks

Array = jax.Array

# With at most so many inputs under a kernel (a 5x5 kernel on a grey image has 25), one product over all of them is
# faster than one product a kernel row, whose inner dimension would be too small.
_SMALL_KERNEL = 64


@checks.typed
def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> Array:
    """`jax.lax.conv_general_dilated` by patches and matrix products; equal to it up to rounding.

    For flax: `nn.Conv(..., conv_general_dilated=dlsim.problems.conv_general_dilated)`.  Two spatial axes with any
    stride, padding, kernel dilation and layout; everything else (one or three spatial axes, groups, dilated inputs)
    is handed to `lax.conv_general_dilated`, correct but slow under a `vmap` over kernels.

    Args: those of `lax.conv_general_dilated`: `lhs` is the input, `rhs` the kernel; `window_strides`, `padding`,
      `lhs_dilation`, `rhs_dilation`, `dimension_numbers`, `feature_group_count`, `batch_group_count`, `precision` and
      `preferred_element_type` mean what they mean there.

    With x[b, h, w, c] padded, k[i, j, c, o] and stride 1:
      p[b, h, w, (j, c)] = x[b, h, w + j, c];   y[b, h, w, o] = sum_i p[b, h + i, w, :] @ k[i, :, :, o].
    So patches hold one row of the kernel, and memory grows by its width, not by its area; the sum over rows is a sum
    of products.  Autodiff turns slices into pads and products into products, so the backward pass has the same cost.
    """
    axes = max(np.ndim(lhs), 3)
    for name, given in (("lhs", lhs), ("rhs", rhs)):
        if np.ndim(given) != axes:
            checks.fail("conv_general_dilated", name, f"of {axes} axes", checks.describe(given))
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    for name, steps in (
        ("window_strides", window_strides),
        ("lhs_dilation", lhs_dilation),
        ("rhs_dilation", rhs_dilation),
    ):
        if steps is not None:
            checks.integers("conv_general_dilated", name, steps, lhs.ndim - 2, 1)
    if isinstance(padding, str):
        checks.one_of("conv_general_dilated", "padding", padding.upper(), ("SAME", "SAME_LOWER", "VALID"))
    elif np.shape(np.asarray(padding, dtype=object)) != (lhs.ndim - 2, 2):
        checks.fail("conv_general_dilated", "padding", "(low, high) for each axis", checks.describe(padding))
    for name, groups in (("feature_group_count", feature_group_count), ("batch_group_count", batch_group_count)):
        checks.integer("conv_general_dilated", name, groups, 1)
    is_plain = feature_group_count == 1 and batch_group_count == 1 and not any(o is not None for o in options.values())
    if lhs.ndim != 4 or not is_plain or (lhs_dilation is not None and any(d != 1 for d in lhs_dilation)):
        return jax.lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=None if lhs_dilation is None else tuple(lhs_dilation),
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            batch_group_count=batch_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
            **options,
        )
    layout = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    batch, feature, *space = layout.lhs_spec
    out_axis, in_axis, *kernel_space = layout.rhs_spec
    x = lhs.transpose(batch, *space, feature)
    kernel = rhs.transpose(*kernel_space, in_axis, out_axis)
    if x.shape[3] != kernel.shape[2]:
        checks.fail("conv_general_dilated", "rhs", f"a kernel for {x.shape[3]} input features", kernel.shape[2])
    strides = tuple(window_strides)
    dilation = (1, 1) if rhs_dilation is None else tuple(rhs_dilation)
    window = [(size - 1) * step + 1 for size, step in zip(kernel.shape[:2], dilation, strict=True)]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    pads = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), pads)
    size = [max((x.shape[1 + i] - window[i]) // strides[i] + 1, 0) for i in range(2)]
    y = _patches_product(x, kernel, strides, dilation, size, precision, preferred_element_type)
    out_batch, out_feature, *out_space = layout.out_spec
    place = [0] * 4
    for axis, position in enumerate((out_batch, *out_space, out_feature)):
        place[position] = axis
    return y.transpose(place)


def _patches_product(
    x: Array, kernel: Array, strides: tuple, dilation: tuple, size: list[int], precision: Any, dtype: Any
) -> Array:
    """x [B, H, W, C] (padded), kernel [kh, kw, C, O] -> [B, *size, O]."""
    rows, columns, channels, features = kernel.shape

    def shifted(array: Array, axis: int, shift: int) -> Array:
        start, stride = shift * dilation[axis - 1], strides[axis - 1]
        stop = start + max(size[axis - 1] - 1, 0) * stride + min(size[axis - 1], 1)
        return jax.lax.slice_in_dim(array, start, stop, stride, axis)

    def product(patches: Array, weights: Array) -> Array:
        return jnp.einsum("bhwk,ko->bhwo", patches, weights, precision=precision, preferred_element_type=dtype)

    patches = jnp.concatenate([shifted(x, 2, j) for j in range(columns)], axis=3)
    weights = kernel.reshape(rows, columns * channels, features)
    if rows * columns * channels <= _SMALL_KERNEL:
        whole = jnp.concatenate([shifted(patches, 1, i) for i in range(rows)], axis=3)
        return product(whole, weights.reshape(-1, features))
    total = product(shifted(patches, 1, 0), weights[0])
    for i in range(1, rows):
        total = total + product(shifted(patches, 1, i), weights[i])
    return total


@checks.typed
def max_pool(inputs: Array, window: tuple[int, int] = (2, 2)) -> Array:
    """Largest entry of each disjoint window, `[..., H, W, C] -> [..., H // h, W // w, C]`; what is over is dropped.

    Differs from a pooling by `reduce_window` in one thing: entries that tie share the gradient equally.
    """
    return _windows(inputs, window).max(axis=(-4, -2))


@checks.typed
def avg_pool(inputs: Array, window: tuple[int, int] = (2, 2)) -> Array:
    """Mean of each disjoint window, `[..., H, W, C] -> [..., H // h, W // w, C]`; what is over is dropped."""
    return _windows(inputs, window).mean(axis=(-4, -2))


def _windows(inputs: Array, window: tuple[int, int]) -> Array:
    """`[..., H, W, C]` as `[..., H // h, h, W // w, w, C]`."""
    if np.ndim(inputs) < 3:
        checks.fail("pooling", "inputs", "of shape [..., H, W, C]", checks.describe(inputs))
    inputs = jnp.asarray(inputs)
    window = checks.integers("pooling", "window", window, 2, 1)  # type: ignore[assignment]
    *lead, height, width, channels = inputs.shape
    rows, columns = height // window[0], width // window[1]
    if not rows or not columns:
        checks.fail("pooling", "inputs", f"at least {window[0]} x {window[1]}", f"{height} x {width}")
    kept = inputs[..., : rows * window[0], : columns * window[1], :]
    return kept.reshape(*lead, rows, window[0], columns, window[1], channels)
