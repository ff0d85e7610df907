"""Status bits: what went wrong, first when, and where."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world

from dlsim.algorithms import dsgd
from dlsim.core import Algorithm, Array, Problem, Process, Record
from dlsim.learning.learn import learn
from dlsim.running import status
from dlsim.running.simulate import simulate


def scripted(rows: list[list[int]]) -> Process:
    """A process whose step t has the status `rows[t]`."""
    script = jnp.asarray(rows, jnp.uint32)
    return Process(
        init=lambda key: jnp.zeros((), jnp.int32),
        step=lambda key, t: (t + 1, {"status": script[t]}),
        measure=lambda t, info: {"t": t},
    )


def test_the_first_step_and_node_of_every_bit_are_kept() -> None:
    rows = [[0, 0, 0], [0, 0, 4], [2, 1, 4], [1, 1, 1], [0, 0, 0]]
    run = simulate(scripted(rows), seed=0, num_steps=5)
    assert run.status.bits.tolist() == [7]
    assert run.status.first(status.ISOLATED_NODE) == (1, 2)
    assert run.status.first(status.BUFFER_OVERFLOW) == (2, 0)
    assert run.status.first(status.NOT_FINITE) == (2, 1)
    assert run.status.first(status.EMPTY_COHORT) is None
    assert not run.status.ok
    assert run.status.report() == [
        "NOT_FINITE first at step 2, node 1: a node diverged (lower the learning rate)",
        "BUFFER_OVERFLOW first at step 2, node 0: a buffer was full and entries were dropped (raise its capacity)",
        "ISOLATED_NODE first at step 1, node 2: a present node heard nobody in that round",
    ]


def test_remarks_are_not_errors() -> None:
    run = simulate(scripted([[0, status.ISOLATED_NODE | status.EMPTY_COHORT]]), seed=0, num_steps=1)
    assert run.status.ok
    assert len(run.status.report()) == 2


def test_a_status_of_no_node() -> None:
    process = Process(
        init=lambda key: jnp.zeros((), jnp.int32),
        step=lambda key, t: (t + 1, {"status": status.flag(t == 3, status.WEIGHTS_NOT_STOCHASTIC)}),
        measure=lambda t, info: {"t": t},
    )
    run = simulate(process, seed=0, num_steps=5)
    assert run.status.first(status.WEIGHTS_NOT_STOCHASTIC) == (3, -1)
    assert run.status.report() == ["WEIGHTS_NOT_STOCHASTIC first at step 3: mixing weights did not sum to one"]


def test_a_sound_run_has_nothing_to_report() -> None:
    run = simulate(scripted([[0, 0]] * 3), seed=0, num_steps=3)
    assert run.status.ok
    assert run.status.report() == []
    assert repr(run.status) == "Status(ok)"


def test_each_seed_has_a_row() -> None:
    def step(key: Array, state: tuple[Array, Array]) -> tuple[tuple[Array, Array], dict[str, Array]]:
        t, bad_at = state
        return (t + 1, bad_at), {"status": status.flag(jnp.asarray([False, True]) & (t == bad_at), status.NOT_FINITE)}

    process = Process(
        init=lambda key: (jnp.zeros((), jnp.int32), jax.random.randint(key, (), 0, 8)),
        step=step,
        measure=lambda state, info: {"bad_at": state[1]},
    )
    run = simulate(process, seed=range(10, 16), num_steps=4, record=Record(every=4))
    bad_at = run.results.bad_at.values[:, 0]
    assert (bad_at < 4).any() and (bad_at >= 4).any(), "choose other seeds"
    for row, step_ in enumerate(bad_at):
        assert run.status.first(status.NOT_FINITE, run=row) == ((step_, 1) if step_ < 4 else None)
    assert f"(seed {10 + int(np.argmax(bad_at < 4))})" in run.status.report()[0]


def steep(curvatures: list[float]) -> Problem:
    """f_i(x) = curvature_i x^2 / 2: gradient descent from 1 multiplies x by 1 - rate * curvature_i."""
    table = jnp.asarray(curvatures, jnp.float32)

    def gradient(key: Array, params: Array, node_ids: Array) -> tuple[Array, Array]:
        del key
        slope = table[node_ids][:, None] * params
        return slope, 0.5 * jnp.sum(slope * params, axis=1)

    return Problem(
        num_nodes=len(curvatures),
        init=lambda key: jnp.ones(1),
        loss=None,
        sample=None,
        gradient=gradient,
        full_gradient=gradient,
        evaluate=lambda params, node_ids: {"size": jnp.sum(jnp.abs(params), axis=1)},
        num_examples=np.ones(len(curvatures)),
    )


def alone(problem: Problem, rate: float) -> Algorithm:
    """Gradient descent at every node, without a word."""

    def step(key: Array, state: Array, network: Any) -> tuple[Array, Any, dict[str, Array]]:
        gradients, losses = problem.gradient(key, state, network.node_ids)
        info = {"loss": losses, "num_gradients": jnp.ones(losses.shape, jnp.uint32)}
        return state - rate * gradients, network, info

    return Algorithm(init=lambda key, params, network: params, step=step, params=lambda state: state)


def first_infinite_loss(curvature: float, rate: float) -> int:
    x, t = np.float32(1), 0
    with np.errstate(over="ignore"):
        while np.isfinite(np.float32(0.5) * (np.float32(curvature) * x) * x):
            x, t = x - np.float32(rate) * (np.float32(curvature) * x), t + 1
    return t


def test_a_diverging_node_is_reported_with_its_step() -> None:
    curvatures = [1.0] * 3 + [1e4] + [1.0] * 3 + [1e3]
    expected = first_infinite_loss(1e4, 0.1)
    assert 3 < expected < first_infinite_loss(1e3, 0.1) < 20
    problem = steep(curvatures)
    run = simulate(learn(problem, alone(problem, 0.1), world.uneven()), seed=0, num_steps=30)
    assert not run.status.ok
    assert run.status.first(status.NOT_FINITE) == (expected, 3)
    assert f"step {expected}, node 3" in repr(run.status)


def test_divergence_is_found_also_where_it_spreads() -> None:
    curvatures = [1.0] * 5 + [1e6] + [1.0] * 2
    problem = steep(curvatures)
    run = simulate(learn(problem, dsgd(problem, optax.sgd(1.0)), world.uneven()), seed=0, num_steps=30)
    found = run.status.first(status.NOT_FINITE)
    assert found is not None and found[1] == 5
    before = simulate(learn(problem, dsgd(problem, optax.sgd(1.0)), world.uneven()), seed=0, num_steps=found[0])
    assert before.status.ok


def test_an_absent_node_cannot_diverge() -> None:
    problem = steep([1.0] * 5 + [1e6] + [1.0] * 2)
    process = learn(problem, dsgd(problem, optax.sgd(0.1)), world.uneven(), world.absent((5,)))
    run = simulate(process, seed=0, num_steps=30)
    assert run.status.ok, run.status
    assert run.status.first(status.NOT_FINITE) is None


def test_a_node_without_a_working_link_is_a_remark() -> None:
    problem = world.problem()
    process = learn(problem, dsgd(problem, optax.sgd(0.1)), world.uneven(), world.absent((6,), from_step=3))
    run = simulate(process, seed=0, num_steps=6)  # node 6 is node 7's only neighbour
    assert run.status.ok
    assert run.status.first(status.ISOLATED_NODE) == (3, 7)


def test_a_server_that_finds_nobody_is_a_remark() -> None:
    problem = world.problem()
    algorithm = alone(problem, 0.1)._replace(requires=frozenset({"server"}))
    nobody = world.absent(tuple(range(world.NUM_NODES)), from_step=2)
    run = simulate(learn(problem, algorithm, world.uneven(), nobody), seed=0, num_steps=4)
    assert run.status.ok
    assert run.status.first(status.EMPTY_COHORT)[0] == 2


@pytest.mark.parametrize("name", [n for n in dir(status) if n.isupper() and n not in ("ERRORS", "NAMES", "MEANINGS")])
def test_every_bit_has_a_name_and_a_meaning(name: str) -> None:
    if name.startswith("_"):
        return
    bit = getattr(status, name)
    assert bit & (bit - 1) == 0
    assert status.NAMES[bit] == name
    assert status.MEANINGS[bit]
