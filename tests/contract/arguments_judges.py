"""Right calls of rules that judge by a node's own data, and of what they ask."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from contract.arguments_parts import KEY, Call, data, just, problem

from dlsim import core, problems


@functools.cache
def tested() -> core.Problem:
    """Four nodes with test examples of their own, and an output layer alone."""
    parts = problems.partition(data(), 4, problems.local_test(0.3))
    return problems.supervised("softmax", data(), parts, batch_size=2)


def _heard() -> dict[str, Any]:
    models = {"params": {"Dense_0": {"bias": jnp.zeros((4, 2, 3)), "kernel": jnp.zeros((4, 2, 3, 4))}}}
    return {"problem": tested(), "models": models["params"], "node_ids": jnp.arange(4)}


JUDGES: dict[str, Call] = {
    "bristle": just(problem=tested),
    "flag_qualities": just(values=jnp.ones((1, 3, 2))),
    "mozi": just(problem=problem),
}
OWN_DATA: dict[str, Call] = {
    "own_classes": just(problem=tested),
    "own_losses": lambda: {**_heard(), "key": KEY},
    "own_outputs": _heard,
}
