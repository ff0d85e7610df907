"""The federated baseline of paper 02: an autoencoder of all regions of a freeway, by FedAvg or FedProx."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from lasso_freeway import Freeway

import dlsim
from dlsim.problems.one_class_svm import judged


def federated_autoencoder(world: Freeway, name: str, nu: float) -> tuple[dlsim.Process, Any]:
    """The process, and `found(state)`: detection at every region, `[N]`.

    6-4-2-4-6, tanh, 5 local epochs of Adam(1e-3) in batches of 10, mu 0.01.  An incident is where the squared error of
    reconstruction is above the region's own (1 - nu) quantile in training.
    """
    num, num_windows, size = world.train.shape
    widths = (size, 4, 2, 4, size)

    def init(key: Any) -> Any:
        pairs = zip(jax.random.split(key, 4), widths[:-1], widths[1:], strict=True)
        return [(jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros(b)) for k, a, b in pairs]

    def error(params: Any, rows: Any) -> Any:
        hidden = rows
        for place, (kernel, bias) in enumerate(params):
            hidden = hidden @ kernel + bias
            hidden = hidden if place == len(params) - 1 else jnp.tanh(hidden)
        return jnp.sum(jnp.square(hidden - rows), axis=-1)

    flat = world.train.reshape(-1, size).astype(np.float32)
    none = np.zeros(len(flat), np.float32)
    data = dlsim.problems.dataset(flat, none, test_inputs=flat[:8], test_labels=none[:8], regression=True)
    parts = dlsim.problems.partition_from_lists(np.arange(len(flat)).reshape(num, num_windows))
    model = dlsim.problems.Model(init, lambda params, rows: error(params, rows)[:, None])
    problem = dlsim.problems.supervised(model, data, parts, loss=lambda errors, _: errors[:, 0], batch_size=10)
    algorithm = getattr(dlsim.algorithms, name)(problem, optax.adam(1e-3), num_local_epochs=5)
    process = dlsim.learn(problem, algorithm, dlsim.networks.complete(num))
    train, test, outlier = (
        jnp.asarray(world.train, float),
        jnp.asarray(world.test, float),
        jnp.asarray(world.is_incident),
    )

    def found(state: Any) -> dict[str, Any]:
        params = jax.tree.map(lambda leaf: leaf[0], process.params(state))
        threshold = jnp.quantile(error(params, train), 1 - nu, axis=1, keepdims=True)
        return judged(threshold - error(params, test), jnp.ones_like(outlier), outlier)

    return process, found
