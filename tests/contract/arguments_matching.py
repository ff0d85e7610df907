"""Right calls of what brings networks into one order of hidden units, for `arguments_table`."""

from __future__ import annotations

import functools

import jax
import numpy as np
from contract.arguments_parts import SGD, Call, data, just, parts
from contract.rows import nothing_hidden

from dlsim import aggregators, core, problems

SHAPE = (4,)


@functools.cache
def layers() -> core.Problem:
    """Of a model with hidden units."""
    return problems.supervised(problems.mlp((3,)), data(), parts(), batch_size=2)


def _model() -> object:
    return layers().init(jax.random.key(0))


def _pair() -> dict[str, object]:
    return {"matching": aggregators.activation_matching(layers(), np.ones((2, 4))), "own": _model(), "other": _model()}


AGGREGATORS: dict[str, Call] = {
    "activation_matching": just(problem=layers),
    "align": _pair,
    "aligned": lambda: {"matching": nothing_hidden()},
    "linear_assignment": just(scores=np.eye(3, dtype=np.float32)),
    "weight_matching": just(problem=layers),
}
PROBLEMS: dict[str, Call] = {
    "batch_statistics": lambda: {"model": layers().model, "params": _model(), "inputs": np.ones((2, 4), np.float32)},
    "hidden_units": lambda: {"model": layers().model, "input_shape": SHAPE},
    "shared_inputs": just(dataset=data, num=3),
}
METRICS: dict[str, Call] = {"disagreement": just(outputs=np.ones((3, 2, 4), np.float32))}
ALGORITHMS: dict[str, Call] = {
    "dimat": lambda: {"problem": layers(), "optimizer": SGD, "matching": nothing_hidden()},
}
