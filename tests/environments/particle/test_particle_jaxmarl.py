"""The particle tasks agree with JaxMARL step by step: same start, same actions, for 100 steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extras import need

from dlsim.environments.particle.contest import adversary, crypto, push, tag, world_comm
from dlsim.environments.particle.cooperation import reference, simple, simple_spread, speaker_listener
from dlsim.environments.particle.world import ParticleState

jaxmarl = need("jaxmarl")  # compares with JaxMARL
pytestmark = pytest.mark.needs("jaxmarl")

NUM_STEPS = 100
STIFF = ("MPE_simple_tag_v3", "MPE_simple_world_comm_v3")  # in a crowd a rounding error doubles every few steps
TASKS = {
    "MPE_simple_v3": simple,
    "MPE_simple_spread_v3": simple_spread,
    "MPE_simple_tag_v3": tag,
    "MPE_simple_adversary_v3": adversary,
    "MPE_simple_push_v3": push,
    "MPE_simple_crypto_v3": crypto,
    "MPE_simple_speaker_listener_v4": speaker_listener,
    "MPE_simple_reference_v3": reference,
    "MPE_simple_world_comm_v3": world_comm,
}


def ours_of(name, theirs, num_symbols):
    """JaxMARL's state as ours; where nobody speaks its messages are zeros, and ours have no columns."""
    num_agents = theirs.c.shape[0]
    goals = jnp.zeros(0, int) if theirs.goal is None else jnp.atleast_1d(theirs.goal)
    if name == "MPE_simple_crypto_v3":  # the goal's colour and the key are rows of 255 in one place
        goals = jnp.stack([jnp.argmax(theirs.goal_colour), jnp.argmax(theirs.private_key)])
    return ParticleState(
        positions=theirs.p_pos[:num_agents],
        velocities=theirs.p_vel[:num_agents],
        landmarks=theirs.p_pos[num_agents:],
        messages=theirs.c[:, :num_symbols],
        goals=goals.astype(jnp.int32),
        step=jnp.asarray(theirs.step, jnp.int32),
    )


@pytest.mark.parametrize("name", TASKS)
def test_hundred_random_steps(name):
    theirs = jaxmarl.make(name, max_steps=NUM_STEPS - 1, action_type="Discrete")
    ours, agents = TASKS[name](max_steps=NUM_STEPS), theirs.agents
    nums = np.array([theirs.action_space(agent).n for agent in agents])
    assert tuple(agents) == ours.names and ours.action_space.num == nums.max()
    if ours.action_mask is not None:
        np.testing.assert_array_equal(np.asarray(ours.action_mask(None)).sum(1), nums)
    first, first_seen = ours.reset(jax.random.key(0))
    num_symbols, width = first.messages.shape[1], first_seen.shape[1]

    def one(carry, actions):
        state, mine = carry
        before = ours_of(name, state, num_symbols)
        given = dict(zip(agents, actions, strict=True))
        seen, state, rewards, dones, _ = theirs.step_env(jax.random.key(0), state, given)
        mine = before if name in STIFF else mine
        mine, looks, paid, over, _ = ours.step(jax.random.key(0), mine, actions)
        padded = [jnp.pad(seen[agent], (0, width - seen[agent].shape[0])) for agent in agents]
        expected = (
            ours_of(name, state, num_symbols),
            jnp.stack(padded),
            jnp.stack([rewards[agent] for agent in agents]),
            jnp.stack([dones[agent] for agent in agents]),
        )
        return (state, mine), (expected, (mine, looks, paid, over), state.c)

    _, state = theirs.reset(jax.random.key(1))
    state = state.replace(p_pos=state.p_pos * 0.6)  # so that discs touch
    actions = jnp.asarray(np.random.default_rng(0).integers(0, nums, (NUM_STEPS, len(agents))))
    carry = (state, ours_of(name, state, num_symbols))
    _, (expected, got, messages) = jax.jit(lambda carry: jax.lax.scan(one, carry, actions))(carry)
    for mine, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-5, rtol=1e-5)
    assert num_symbols or not messages.any()
    over, rewards = np.asarray(got[3]), np.asarray(got[2])
    assert over[-1].all() and not over[:-1].any() and np.ptp(rewards, axis=0).min() > 0
    if name in STIFF:
        assert rewards[:, 0].max() > 4  # somebody was caught
