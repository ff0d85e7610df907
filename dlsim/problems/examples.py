"""Examples as a model sees them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array
from dlsim.problems.data import Dataset

CHUNK = 256  # examples at a time where a whole data set goes through a model


def model_inputs(inputs: Array, dataset: Dataset) -> Array:
    """Inputs in their own dtype as float32, shifted and scaled as the data set says."""
    return (inputs.astype(jnp.float32) - dataset.offset) * dataset.scale


def chunks_of_tests(where: str, dataset: Dataset, num_test: int | None) -> tuple[int, tuple[Array, Array, Array]]:
    """How many test examples are used, and their inputs `[chunks, size, ...]`, labels and a mask, `[chunks, size]`.

    They are evenly spaced, for test sets that are sorted by class, and padded to whole chunks.
    """
    total = len(dataset.test_labels)
    if num_test is not None:
        num_test = checks.integer(where, "num_test", num_test, 1)
    num = total if num_test is None else min(num_test, total)
    if not num:
        checks.fail(where, "dataset", "one with test examples", "none", "Hold some out: dataset(x, y).")
    size = min(CHUNK, num)
    chunks = -(-num // size)
    rows = np.minimum(np.arange(chunks * size) * total // num, total - 1)
    inputs = jnp.asarray(dataset.test_inputs[rows]).reshape(chunks, size, *dataset.test_inputs.shape[1:])
    labels = jnp.asarray(dataset.test_labels[rows]).reshape(chunks, size)
    return num, (inputs, labels, jnp.asarray(np.arange(chunks * size) < num).reshape(chunks, size))
