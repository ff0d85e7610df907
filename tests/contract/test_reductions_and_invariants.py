"""What rows of the table reduce to, and what they keep."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from contract import world
from contract.table import CASES, Case, Invariant, Make, Reduction

from dlsim.core import Problem
from dlsim.learning.learn import learn
from dlsim.networks.network import Network

REDUCTIONS = [(case, reduction) for case in CASES for reduction in case.reduces_to]
INVARIANTS = [(case, invariant) for case in CASES for invariant in case.invariants]


def named(pair: tuple[Case, Reduction | Invariant]) -> str:
    return f"{pair[0].id}: {pair[1].claim}"


@pytest.mark.parametrize("pair", REDUCTIONS, ids=named)
def test_reduction(pair: tuple[Case, Reduction]) -> None:
    _, reduction = pair
    problem = world.problem(gradient_noise=0.0)

    def models(make: Make, network: Network) -> list[np.ndarray]:
        algorithm = make(problem, world.RATE)
        states = world.roll(learn(problem, algorithm, network), 6).states
        return [np.asarray(algorithm.params(state.algorithm)) for state in states]

    special = models(reduction.special, reduction.network())
    other = models(reduction.other, (reduction.other_network or reduction.network)())
    assert np.abs(special[-1] - special[0]).max() > 1e-2, "nothing moved, so nothing was shown"
    for step, (a, b) in enumerate(zip(special, other, strict=True)):
        shape = (world.NUM_NODES, world.DIMENSION)
        a, b = np.broadcast_to(a, shape), np.broadcast_to(b, shape)
        np.testing.assert_allclose(a, b, rtol=reduction.rtol, atol=1e-5, err_msg=f"step {step}")


@pytest.mark.parametrize("pair", INVARIANTS, ids=named)
def test_invariant(pair: tuple[Case, Invariant]) -> None:
    case, invariant = pair
    problem: Problem = world.problem(gradient_noise=invariant.gradient_noise)
    network = case.network()
    trajectory = world.roll(learn(problem, case.make(problem, world.RATE), network), 6)
    for state, info in zip(trajectory.states[1:], trajectory.infos, strict=True):
        left = invariant.left(state.algorithm, info, network)
        right = invariant.right(state.algorithm, info, network)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=invariant.atol)
