"""AFA-CD and AFA-CS against numbers worked by hand: a memory that is stale, a mean gradient, and the limit of stability."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim.core import Job


def flat(num_nodes: int) -> dlsim.Problem:
    """f_i(x) = (x - x*)^2 / 2 for all, without noise."""
    return dlsim.problems.quadratic(num_nodes, 1, heterogeneity=0.0, gradient_noise=0.0, condition_number=1.0)


def returns(client: int) -> Job:
    """One return that makes an update."""
    yes, no = jnp.asarray(True), jnp.asarray(False)
    number = jnp.asarray(0, jnp.uint32)
    return Job(jnp.asarray(client), jnp.asarray(1.0), staleness=number, arrived=yes, is_direct=no, is_last=yes)


@pytest.mark.parametrize(
    ("name", "path", "limit"), [("afa_cs", (3.0, 2.5, 2.125), 1.0), ("afa_cd", (1.5, 0.75, 0.375), 0.0)]
)
def test_only_one_of_two_workers_returns(name: str, path: tuple[float, ...], limit: float) -> None:
    """Optima 0 and 4, both memories filled at x = 3, then worker 0 alone: AFA-CS ends at 1, AFA-CD at worker 0's optimum."""
    make: Any = getattr(dlsim.algorithms, name)
    pace = dlsim.arrivals.pace(2, 1.0)
    algorithm = make(flat(2), 0.1, pace=pace, buffer_size=1, literal=True, server_rate=0.5)
    params = jnp.array([3.0])
    server = algorithm.init(jax.random.key(0), params, 2)
    found = []
    for turn in range(60):
        # The second return is worker 1's, with AFA-CS alone; its memory stays at 3 - 4.
        is_other = name == "afa_cs" and turn == 1
        gradient = jnp.array([-1.0]) if is_other else params
        server, params = algorithm.absorb(server, params, gradient, returns(int(is_other)))
        found.append(float(params[0]))
    assert found[:3] == list(path)
    assert found[-1] == pytest.approx(limit, abs=1e-5)


@pytest.mark.parametrize(("steps", "expected"), [(1, 1.0), (2, 0.95), (3, 2.71 / 3)])
def test_a_return_is_the_mean_gradient_along_the_local_path(steps: int, expected: float) -> None:
    problem = flat(1)
    algorithm = dlsim.algorithms.afa_cd(problem, 0.1, pace=dlsim.arrivals.pace(1, 1.0), buffer_size=1)
    draws, ids = jax.random.split(jax.random.key(0), 1), jnp.zeros(1, jnp.int32)
    assert problem.optimum is not None
    start = jnp.asarray(problem.optimum)[None] + 1.0
    returned, _ = algorithm.work(draws, start, ids, jnp.full(1, steps, jnp.int32), jnp.zeros(1, jnp.int32))
    assert float(returned[0, 0]) == pytest.approx(expected, abs=1e-6)


def test_constant_delay_is_stable_up_to_the_known_step() -> None:
    """Three equal clients, an update a return: delay 2, stable iff the step is below 2 sin(pi / 10) = 0.618.

    FedAsync's schedule, in which a client begins anew at the moment of its return; a step of `mixing` / 3.
    """
    num, border = 3, 2 * np.sin(np.pi / 10)
    ends = []
    for step in (0.93 * border, 1.07 * border):
        algorithm = dlsim.algorithms.fedasync(
            flat(num),
            optax.sgd(1.0),
            pace=dlsim.arrivals.pace(num, 1.0),
            num_local_steps=1,
            mixing=num * step,
            staleness=dlsim.arrivals.constant(),
            form="movement",
        )
        when = dlsim.clocks.timing(window=20.0)
        process = dlsim.learn(flat(num), algorithm, dlsim.networks.complete(num), timing=when)
        run = dlsim.simulate(process, seed=0, num_steps=10, record=dlsim.Record(every=5), progress=False)
        assert float(run.results.mean_staleness.values[-1]) == pytest.approx(2.0, abs=0.01)
        ends.append(float(run.results.distance.values[-1]))
    assert ends[0] < 1e-3 and ends[1] > 1e3
