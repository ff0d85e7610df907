"""Right calls of what has to do with Sybils and poisoned data."""

from __future__ import annotations

import functools

import numpy as np
from contract.arguments_parts import Call, data, examples, parts, ring

from dlsim import aggregators, core, problems


@functools.cache
def _images() -> problems.Dataset:
    rng = np.random.default_rng(0)
    pixels, labels = rng.random((30, 4, 4, 1)).astype(np.float32), np.arange(30) % 3
    return problems.dataset(pixels[:24], labels[:24], pixels[24:], labels[24:])


def _held() -> dict[str, object]:
    return {"dataset": _images(), "partition": problems.partition(_images(), 4, problems.iid()), "node_ids": (0, 2)}


@functools.cache
def _of_images() -> core.Problem:
    return problems.supervised("softmax", _images(), problems.partition(_images(), 4, problems.iid()), batch_size=2)


AGGREGATORS: dict[str, Call] = {
    "by_node": lambda: {"rules": (aggregators.mean(), aggregators.median()), "choice": np.array([0, 1, 1, 0])}
}
NETWORKS: dict[str, Call] = {
    "join_sybils": lambda: {"graph": ring(), "density": 1.0},
    "limit_degrees": lambda: {"graph": ring(), "max_degree": 2},
}
PROBLEMS: dict[str, Call] = {
    "backdoor": _held,
    "backdoor_success": lambda: {"problem": _of_images(), "dataset": _images()},
    "flip_success": lambda: {"problem": examples(), "dataset": data()},
    "label_flip": lambda: {"dataset": data(), "partition": parts(), "node_ids": (0, 2)},
}
