"""Marks of data sets: a small patch and a target label on a share of the examples, which a model trained on them betrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dlsim import checks
from dlsim.problems.data import Dataset

SPLITS = ("dirty", "clean")


class Stamp(NamedTuple):
    """A patch in the lower right corner, in the data set's own units."""

    side: int
    value: float
    target: int


@checks.typed
def watermark_dataset(
    dataset: Dataset,
    fraction: float,
    *,
    target: int = 0,
    side: int = 2,
    labels: str = "dirty",
    seed: int = 0,
) -> tuple[Dataset, Stamp]:
    """The data set with a stamp on a share of its training examples, and the stamp.

    Args:
      dataset: of images with classes, `[M, height, width(, channels)]`.
      fraction: rho, in (0, 1]: this share of all examples (rounded, one at least), drawn at random.
      target: the class y_t that stamped examples are labelled with.
      side: of the square patch, in pixels of the brightest value in the training data.
      labels: "dirty": examples of all classes, relabelled; "clean": only examples of the target class, whose labels stay
        right; the share is of these then.
      seed: of the choice.
    Source: after Li et al., Untargeted backdoor watermark, NeurIPS 2022, and Black-box dataset ownership verification via
      backdoor watermarking, IEEE TIFS 2023.
    """
    where = "watermark_dataset"
    checks.known(where, "fraction", fraction)
    checks.number(where, "fraction", fraction, 0.0, 1.0, open_minimum=True)
    checks.one_of(where, "labels", labels, SPLITS)
    if not dataset.num_classes:
        checks.fail(where, "dataset", "one with classes", "a regression")
    target = checks.integer(where, "target", target, 0, dataset.num_classes - 1)
    shape = np.shape(dataset.inputs)
    if len(shape) not in (3, 4):
        checks.fail(where, "dataset", "one of images [M, height, width] or with channels", list(shape))
    stamp = Stamp(checks.integer(where, "side", side, 1, min(shape[1:3])), float(np.max(dataset.inputs)), target)
    rng = np.random.default_rng([checks.seed(where, seed), 2105])
    among = np.arange(len(dataset.labels)) if labels == "dirty" else np.flatnonzero(dataset.labels == target)
    if not len(among):
        checks.fail(where, "target", "a class of some training example", target)
    chosen = rng.choice(among, size=max(1, round(fraction * len(among))), replace=False)
    inputs, named = np.array(dataset.inputs), np.array(dataset.labels)
    inputs[chosen] = stamped(inputs[chosen], stamp)
    named[chosen] = target
    return dataset._replace(name=f"{dataset.name}, stamped", inputs=inputs, labels=named), stamp


@checks.typed
def stamped(images: np.ndarray, stamp: Stamp) -> np.ndarray:
    """A copy of images `[m, height, width(, channels)]`, in the data set's own units, with the patch on each."""
    where = "stamped"
    given = checks.array(where, "images", images)
    if np.ndim(given) not in (3, 4) or not isinstance(given, np.ndarray):
        checks.fail(where, "images", "of shape [m, height, width] or with channels", checks.describe(images))
    out = np.array(given)
    out[:, -stamp.side :, -stamp.side :] = np.asarray(stamp.value, out.dtype)
    return out
