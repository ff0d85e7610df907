"""Optimisers that draw: agents with parameters of their own, and seeds, have noise of their own."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from environments.probes import probe

from dlsim import marl

PLAY = {"num_copies": 4, "num_steps": 4, "num_epochs": 1}
LEARNERS = {
    "ippo": (marl.ippo, {**PLAY, "num_minibatches": 1}),
    "pqn_vdn": (marl.pqn_vdn, {**PLAY, "num_minibatches": 1}),
    "iql": (marl.iql, {**PLAY, "learning_starts": 0, "capacity": 80, "batch_size": 4}),
    "vdn": (marl.vdn, {**PLAY, "learning_starts": 0, "capacity": 80, "batch_size": 4}),
}


def noise() -> optax.GradientTransformation:
    """Noise of size one in place of any step."""
    return optax.chain(optax.scale(0.0), optax.add_noise(1.0, 0.0, key=0))


@pytest.mark.parametrize("name", LEARNERS)
def test_agents_and_seeds_have_noise_of_their_own(name: str) -> None:
    make, options = LEARNERS[name]
    learner = make(
        probe("cooperative", 3), noise(), model=marl.feedforward((16,)), sharing=marl.independent(), **options
    )
    process = marl.train(learner)
    step, before = jax.jit(process.step), jax.jit(process.init)(jax.random.key(5))
    draws = []
    for seed in (0, 1):
        after, _ = step(jax.random.key(seed), before)
        models = zip(*(jax.tree.leaves(state.algorithm.params) for state in (before, after)), strict=True)
        moved = [np.asarray(new - old).reshape(3, -1) for old, new in models]
        draws.append(np.concatenate(moved, axis=1))
    rows = np.concatenate(draws)
    np.testing.assert_allclose(rows.std(), 1.0, rtol=0.2)
    assert np.abs(np.corrcoef(rows) - np.eye(6)).max() < 0.6, "two draws are alike"
