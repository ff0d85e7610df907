"""Small sweeps of every kind, and their runs one by one through `simulate`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax

import dlsim
from dlsim import networks
from dlsim.core import Process
from dlsim.networks.compose import chain
from dlsim.problems.data import synthetic_classification

NODES = 6
STEPS = 6
EVERY = 2
RECORD = dlsim.Record(every=EVERY)
DATA = synthetic_classification(60, 5, 3)
COUNTS = ("bits_sent", "messages_sent", "gradient_evaluations", "num_present")


def quadratic(
    topology="ring",
    learning_rate=0.1,
    momentum=None,
    heterogeneity=1.0,
    lost=None,
    kept=None,
    churn=None,
    num_nodes=NODES,
):
    """Quadratics under whatever is asked for."""
    problem = dlsim.problems.quadratic(num_nodes, 3, heterogeneity=heterogeneity, gradient_noise=0.1)
    network = getattr(networks, topology)(num_nodes)
    channels = [networks.error_feedback(networks.top_k(kept))] if kept is not None else []
    channels += [networks.loss(lost)] if lost is not None else []
    if channels:
        network = network.with_channel(chain(*channels))
    scenario = None if churn is None else networks.churn(churn)
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(learning_rate, momentum=momentum))
    return dlsim.learn(problem, algorithm, network, scenario)


def classification(topology="ring", learning_rate=0.1, alpha=None, model="softmax", algorithm="dsgd"):
    """A few clouds of points, spread evenly or by a Dirichlet draw."""
    partition = None if alpha is None else dlsim.problems.dirichlet(alpha)
    problem = dlsim.problems.classification(DATA, NODES, partition=partition, model=model, batch_size=4)
    rule = learning_rate if algorithm == "quasi_global_momentum" else optax.sgd(learning_rate)
    made = getattr(dlsim.algorithms, algorithm)(problem, rule)
    return dlsim.learn(problem, made, getattr(networks, topology)(NODES))


def walk(rate=0.9, scale=1.0, size=3) -> Process:
    """No learning: a vector that is drawn to zero and noisy; quick to trace and to compile."""
    import jax

    def step(key, state):
        return rate * state + scale * jax.random.normal(key, (size,)), {}

    return Process(
        init=lambda key: jax.random.normal(key, (size,)),
        step=step,
        measure=lambda state, info: {"total": jnp.sum(state), "state": state},
    )


def one_by_one(make, axes, seeds, num_steps=STEPS, record=RECORD):
    """Runs of a sweep through `simulate`, so many that each value of each axis is met: [(choice, results by seed)]."""
    out = []
    for i in range(max(map(len, axes.values()))):
        choice = {name: values[i % len(values)] for name, values in axes.items()}
        run = dlsim.simulate(make(**choice), seed=list(seeds), num_steps=num_steps, record=record, progress=False)
        out.append((choice, run.results))
    return out


def check_runs(results, axes, runs):
    """Every run of a sweep is the run that `simulate` makes of the same process: counts exactly, floats to rounding."""
    for choice, alone in runs:
        ours = results.isel({name: list(axes[name]).index(value) for name, value in choice.items()})
        assert set(alone.data_vars) <= set(ours.data_vars)
        for name in alone.data_vars:
            where = f"{name} {choice}"
            np.testing.assert_array_equal(np.isnan(ours[name]), np.isnan(alone[name]), err_msg=where)
            if name in COUNTS:
                np.testing.assert_array_equal(ours[name].values, alone[name].values, err_msg=where)
            else:
                close(ours[name].values, alone[name].values, message=where)


def close(ours, theirs, rtol=2e-5, message=""):
    """Equal to rounding of float32, where numbers add up and where they cancel: a squared difference of equals is 1e-16."""
    scale = float(np.nanmax(np.abs(theirs), initial=0.0))
    np.testing.assert_allclose(ours, theirs, rtol, rtol * scale + 1e-12, err_msg=message)
