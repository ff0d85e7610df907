"""Inputs that all nodes know, without labels."""

from __future__ import annotations

import numpy as np

from dlsim import checks
from dlsim.problems.data import Dataset

PARTS = ("train", "test")


@checks.typed
def shared_inputs(dataset: Dataset, num: int, *, part: str = "train") -> np.ndarray:
    """`num` of a data set's inputs, evenly spaced in its order, float32 `[num, ...]` as a model sees them.

    For what nodes do on common, unlabelled examples: `dlsim.aggregators.activation_matching`, `dlsim.metrics.disagreement`.

    Args:
      dataset: as `load` or `dataset` gives it.
      num: how many, at most those there are.
      part: of the "train"ing or the "test" examples.
    """
    where = "shared_inputs"
    checks.instance(where, "dataset", dataset, Dataset, "Use dlsim.problems.load or dataset.")
    checks.one_of(where, "part", part, PARTS)
    held = np.asarray(dataset.inputs if part == "train" else dataset.test_inputs)
    num = checks.integer(where, "num", num, 1)
    if num > len(held):
        checks.fail(where, "num", f"at most {len(held)}, the {part} examples there are", num)
    rows = np.arange(num) * len(held) // num
    return np.asarray((held[rows].astype(np.float32) - dataset.offset) * dataset.scale, np.float32)
