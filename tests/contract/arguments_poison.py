"""Right calls of what poisons data or leaves work undone."""

from __future__ import annotations

import functools

import numpy as np
from contract.arguments_parts import just, problem

from dlsim import problems
from dlsim.core import Problem


@functools.cache
def _images() -> problems.Dataset:
    pixels = np.arange(320, dtype=np.uint8).reshape(20, 4, 4, 1)
    return problems.dataset(pixels, np.arange(20) % 2)


@functools.cache
def _parts() -> problems.Partition:
    return problems.partition(_images(), 4, problems.iid())


@functools.cache
def _learned() -> Problem:
    return problems.supervised("softmax", _images(), _parts(), batch_size=2)


@functools.cache
def _trigger() -> problems.Trigger:
    return problems.Trigger(np.eye(4, dtype=bool)[..., None], 9)


_POISON = {"dataset": _images, "partition": _parts, "node_ids": (0, 1)}
POISONED = {
    "label_flip": just(**_POISON),
    "backdoor": just(**_POISON, trigger=_trigger, target=1),
    "pixel_trigger": just(dataset=_images),
    "with_backdoor_rate": just(problem=_learned, dataset=_images, trigger=_trigger, target=1),
    "free_riders": just(problem=problem, node_ids=(0, 1)),
}
