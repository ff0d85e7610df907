"""Both ways between these environments and JaxMARL's: the same key, the same trajectory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import environments, marl
from dlsim.environments import adapters, from_jaxmarl, to_jaxmarl

jaxmarl = pytest.importorskip("jaxmarl", reason="needs the extra rl")

THEIRS = {
    "MPE_simple_spread_v3": (3, (18,), 5),
    "MPE_simple_speaker_listener_v4": (2, (11,), 5),
    "MPE_simple_tag_v3": (4, (16,), 5),
    "HeuristicEnemySMAX": (5, None, None),
    "switch_riddle": (3, None, 3),
    "coin_game": (2, (36,), 5),
    "overcooked": (2, None, 6),
    "storm": (None, None, None),
}


@pytest.mark.parametrize("name", THEIRS)
def test_theirs_run_here_with_the_same_trajectories(name):
    theirs = jaxmarl.make(name)
    ours = from_jaxmarl(theirs)
    num, shape, actions = THEIRS[name]
    assert num in (None, ours.num_agents) and shape in (None, ours.observation_space.shape)
    assert actions in (None, ours.action_space.num)
    key = jax.random.key(0)
    seen, state = jax.jit(theirs.reset)(key)
    mine, observed = jax.jit(ours.reset)(key)
    step, their_step = jax.jit(ours.step), jax.jit(theirs.step_env)
    mask_of = None if ours.action_mask is None else jax.jit(ours.action_mask)
    generator = np.random.default_rng(0)
    total = 0.0
    for t in range(12):
        allowed = (
            np.ones((ours.num_agents, ours.action_space.num), bool) if mask_of is None else np.asarray(mask_of(mine))
        )
        picked = jnp.asarray([generator.choice(np.flatnonzero(row)) for row in allowed])
        key = jax.random.key(t + 1)
        seen, state, rewards, dones, _ = their_step(key, state, dict(zip(theirs.agents, picked, strict=True)))
        mine, observed, paid, done, info = step(key, mine, picked)
        for i, agent in enumerate(theirs.agents):
            row = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(adapters._of(seen, agent, i))])
            np.testing.assert_allclose(np.ravel(observed[i])[: row.size], row, atol=1e-6)
            assert not np.any(np.ravel(observed[i])[row.size :])
            np.testing.assert_allclose(paid[i], np.ravel(adapters._of(rewards, agent, i))[0], atol=1e-6)
        assert bool(info["is_over"]) == bool(np.all(dones["__all__"])) and done.shape == (ours.num_agents,)
        total += float(np.abs(observed).sum())
    assert total > 0
    for a, b in zip(*map(jax.tree.leaves, (mine, state)), strict=True):
        np.testing.assert_array_equal(jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a, b)


def test_theirs_are_learned_in():
    ours = from_jaxmarl(jaxmarl.make("MPE_simple_spread_v3"))
    learner = marl.ippo(ours, optax.adam(1e-3), num_copies=4, num_steps=8, num_eval_episodes=2, eval_steps=25)
    run = dlsim.simulate(marl.train(learner), num_steps=2, seed=0, progress=False, record=dlsim.Record(every=2))
    assert run.status.ok and float(run.results.episode_return[-1]) < 0


OURS = {
    "simple_spread": environments.simple_spread,
    "skirmish": lambda: environments.skirmish("3m"),
    "switch_riddle": environments.switch_riddle,
    "pursuit": lambda: environments.pursuit(num_agents=4),
}


@pytest.mark.parametrize("name", OURS)
def test_ours_run_there_with_the_same_trajectories(name):
    ours = OURS[name]()
    theirs = to_jaxmarl(ours)
    assert isinstance(theirs, jaxmarl.environments.multi_agent_env.MultiAgentEnv)
    assert tuple(theirs.agents) == ours.names and theirs.num_agents == ours.num_agents
    key = jax.random.key(3)
    seen, state = jax.jit(theirs.reset)(key)
    mine, observed = jax.jit(ours.reset)(key)
    step, their_step = jax.jit(ours.step), jax.jit(theirs.step_env)
    for t in range(10):
        masks = jax.tree.map(np.asarray, theirs.get_avail_actions(state))
        picked = [int(np.flatnonzero(masks[agent])[t % masks[agent].sum()]) for agent in theirs.agents]
        key = jax.random.key(t)
        actions = {agent: jnp.int32(action) for agent, action in zip(theirs.agents, picked, strict=True)}
        seen, state, rewards, dones, _ = their_step(key, state, actions)
        mine, observed, paid, _, info = step(key, mine, jnp.asarray(picked))
        np.testing.assert_array_equal(np.stack([seen[a] for a in theirs.agents]), observed)
        np.testing.assert_array_equal(np.stack([rewards[a] for a in theirs.agents]), paid)
        assert bool(dones["__all__"]) == bool(info["is_over"]) == bool(state.done)


def test_their_wrappers_and_automatic_reset_work_on_ours():
    from jaxmarl.wrappers.baselines import CTRolloutManager, LogWrapper, MPELogWrapper, SMAXLogWrapper

    for make, wrap in (
        (environments.simple_spread, MPELogWrapper),
        (environments.simple_spread, LogWrapper),
        (lambda: environments.skirmish("3m", max_steps=12, num_ticks=2), SMAXLogWrapper),
    ):
        ours = make()
        wrapped = wrap(to_jaxmarl(ours))
        keys = jax.random.split(jax.random.key(0), 4)
        _, state = jax.vmap(wrapped.reset)(keys)

        def one(carry, key, wrapped=wrapped, ours=ours):
            state, _ = carry
            actions = {agent: jnp.full(4, 1) for agent in ours.names}
            _, state, _, dones, info = jax.vmap(wrapped.step)(jax.random.split(key, 4), state, actions)
            return (state, None), (info["returned_episode_returns"], dones["__all__"])

        (state, _), (returns, over) = jax.lax.scan(
            one, (state, None), jax.random.split(jax.random.key(1), ours.max_steps + 5)
        )
        assert bool(over.any()) and returns.shape == (ours.max_steps + 5, 4, ours.num_agents)
        assert float(jnp.abs(returns[-1]).max()) > 0 or wrap is SMAXLogWrapper
    manager = CTRolloutManager(to_jaxmarl(environments.simple_spread()), batch_size=5)
    seen, state = manager.batch_reset(jax.random.key(0))
    assert seen["__all__"].shape[0] == 5 and seen["agent_0"].shape == (5, 18 + 3)
    actions = manager.batch_sample
    picked = {agent: actions(jax.random.key(1), agent) for agent in manager.agents}
    seen, state, rewards, _, _ = manager.batch_step(jax.random.key(2), state, picked)
    assert rewards["__all__"].shape == (5,)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (
            lambda: from_jaxmarl("MPE_simple_spread_v3"),
            "from_jaxmarl: jaxmarl_environment must be a JaxMARL environment",
        ),
        (lambda: to_jaxmarl(jaxmarl.make("MPE_simple_v3")), "to_jaxmarl: environment must be an Environment"),
        (
            lambda: (e := from_jaxmarl(jaxmarl.make("MPE_simple_v3"))).step(
                jax.random.key(0), e.reset(jax.random.key(0))[0], jnp.zeros(4, jnp.int32)
            ),
            r"from_jaxmarl: actions must be of shape \[1\]",
        ),
    ],
)
def test_bad_input(wrong, line):
    with pytest.raises(ValueError, match=line):
        wrong()
