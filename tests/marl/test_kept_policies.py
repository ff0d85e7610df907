"""What agents have learned is kept in a file, and acts again without a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from environments.probes import probe

import dlsim
from dlsim import marl

ARENA = probe("both", num_agents=3, length=2)
MODEL = marl.feedforward((8,))
SMALL = {"num_copies": 4, "num_steps": 4, "num_minibatches": 1, "num_eval_episodes": 2, "model": MODEL}


@pytest.mark.parametrize(
    ("make", "sharing", "rows"),
    [
        (marl.ippo, marl.share_parameters, 1),
        (marl.mappo, marl.independent, 3),
        (marl.iql, marl.share_parameters, 1),
        (marl.iql, marl.gossip, 3),
        (marl.vdn, marl.share_parameters, 1),
        (marl.qmix, marl.share_parameters, 1),
        (marl.pqn_vdn, marl.independent, 3),
    ],
)
def test_a_team_that_shares_has_one_set_and_others_one_an_agent(make, sharing, rows):
    process = marl.train(make(ARENA, sharing=sharing(), model=MODEL))
    found = jax.eval_shape(lambda key: process.params(process.init(key)), jax.random.key(0))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(found)} == {rows}


def test_a_policy_from_a_file_acts_as_the_one_that_was_kept(tmp_path):
    """Of agents at their start: `test_ppo` has those that were trained."""
    learner = marl.ippo(ARENA, optax.adam(1e-2), sharing=marl.gossip(), **SMALL)
    params = jax.jit(jax.vmap(learner.problem.init))(jax.random.split(jax.random.key(0), 3))  # [3, ...]
    params = jax.tree.map(lambda leaf: 3 * leaf, params)
    path = dlsim.save(tmp_path / "policy.msgpack", params)
    seen = jnp.asarray([[1.0], [-1.0], [1.0]])
    keys = jax.random.split(jax.random.key(0), 20)

    def actions_of(policy):
        acted = jax.vmap(lambda key: policy.act(key, policy.init(3), seen, None, None)[1])
        return np.asarray(jax.jit(acted)(keys))

    before = actions_of(learner.policy(params))
    assert len({tuple(row) for row in before}) > 1  # PPO draws its actions
    params = dlsim.load(path)
    again = marl.ippo(ARENA, sharing=marl.gossip(), **SMALL)  # as made in another program
    np.testing.assert_array_equal(actions_of(again.policy(params)), before)

    # With the model alone: what PPO draws from are the outputs of its actor.
    net = MODEL.build(2, 0.01)
    for agent in range(3):
        mine = jax.tree.map(lambda leaf, agent=agent: leaf[agent], params["actor"])
        _, outputs = net.apply(mine, (), seen[None, agent : agent + 1], jnp.zeros((1, 1), bool))
        kernels, x = params["actor"]["params"], np.asarray(seen[agent])
        hidden = np.tanh(x @ kernels["Dense_0"]["kernel"][agent] + kernels["Dense_0"]["bias"][agent])
        by_hand = hidden @ kernels["Dense_1"]["kernel"][agent] + kernels["Dense_1"]["bias"][agent]
        np.testing.assert_allclose(outputs[0, 0], by_hand, rtol=1e-5, atol=1e-6)
