"""Adapters: JaxMARL's environments as ours, ours under JaxMARL's wrappers, and the same random numbers both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.environments.adapters import from_jaxmarl, to_jaxmarl
from dlsim.environments.environment import auto_reset
from dlsim.environments.games.coin_game import coin_game
from dlsim.environments.games.switch_riddle import switch_riddle
from dlsim.environments.particle.contest import tag
from dlsim.environments.particle.cooperation import simple_spread, speaker_listener
from dlsim.environments.skirmish.world import skirmish

KEY = jax.random.key(0)


def test_bad_input():
    with pytest.raises(ValueError, match="to_jaxmarl: environment must be an Environment, got 'simple_spread'"):
        to_jaxmarl("simple_spread")
    with pytest.raises(ValueError, match="from_jaxmarl: jaxmarl_environment must be a JaxMARL environment"):
        from_jaxmarl("MPE_simple_spread_v3")
    with pytest.raises(ValueError, match="to_jaxmarl: name must be a str, got 3"):
        to_jaxmarl(simple_spread(), name=3)


class Mixed:
    """What `from_jaxmarl` reads of an environment, with one discrete agent and one that acts in floats."""

    name, agents = "mixed", ("a", "b")

    def reset(self, key):
        return {"a": jnp.zeros(2), "b": jnp.zeros(3)}, jnp.int32(0)

    def step_env(self, key, state, actions):
        raise NotImplementedError

    def action_space(self, agent):
        from jaxmarl.environments import spaces

        return spaces.Discrete(3) if agent == "a" else spaces.Box(0.0, 1.0, (2,))


@pytest.mark.needs("jaxmarl")
def test_mixed_actions_are_refused():
    with pytest.raises(ValueError, match="action spaces must be all Discrete or all Box, got Box, Discrete. Wrap"):
        from_jaxmarl(Mixed())


# Environment, agents, width of what is seen, actions: the smaller of those that JaxMARL can make without more packages.
THEIRS = {
    "MPE_simple_spread_v3": (3, (18,), 5),
    "MPE_simple_tag_v3": (4, (16,), 5),
    "MPE_simple_world_comm_v3": (6, (34,), (9,)),
    "switch_riddle": (3, (2,), 3),
    "coin_game": (2, (36,), 5),
    "overcooked": (2, (4, 5, 26), 6),
    "hanabi": (2, (658,), 21),
    "storm": (2, (5, 5, 16), 5),
    "jaxnav": (2, (205,), (2,)),
    "HeuristicEnemySMAX": (5, (127,), 10),
}


@pytest.mark.needs("jaxmarl")
@pytest.mark.parametrize("name", THEIRS)
def test_jaxmarl_environments_as_ours(name):
    import jaxmarl

    num_agents, width, actions = THEIRS[name]
    environment = from_jaxmarl(jaxmarl.make(name))
    assert (environment.num_agents, environment.observation_space.shape) == (num_agents, width)
    assert (environment.action_space.num or environment.action_space.shape) == actions
    allowed = jnp.ones((num_agents, environment.action_space.num or 1), bool)

    def first(key):
        state, seen = environment.reset(key)
        return state, seen, allowed if environment.action_mask is None else environment.action_mask(state)

    # Shapes alone where compiling takes long: whether all fits together is known by then.
    state, seen, mask = jax.eval_shape(first, KEY)
    assert seen.shape == (num_agents, *width) and mask.shape == allowed.shape and seen.dtype == jnp.float32
    dtype = jnp.int32 if environment.action_space.is_discrete else jnp.float32
    given = jax.ShapeDtypeStruct((num_agents, *environment.action_space.shape), dtype)
    after, seen, rewards, dones, info = jax.eval_shape(environment.step, KEY, state, given)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert seen.shape == (num_agents, *width) and rewards.shape == dones.shape == (num_agents,)
    assert info["is_over"].shape == info["is_truncated"].shape == () and dones.dtype == info["is_over"].dtype == bool
    if environment.global_state is not None:
        assert len(jax.eval_shape(environment.global_state, state).shape) == 1


@pytest.mark.needs("jaxmarl")
@pytest.mark.parametrize("name", ["MPE_simple_speaker_listener_v4", "coin_game", "switch_riddle"])
def test_the_same_key_is_the_same_trajectory_from_jaxmarl(name):
    """Ours with `auto_reset` against JaxMARL's own step, which resets; spaces of different sizes are padded."""
    import jaxmarl

    theirs = jaxmarl.make(name)
    ours = auto_reset(from_jaxmarl(theirs))
    agents, nums = theirs.agents, np.array([theirs.action_space(agent).n for agent in theirs.agents])
    if nums.min() < nums.max():
        np.testing.assert_array_equal(np.asarray(ours.action_mask(None)).sum(1), nums)
    actions = jnp.asarray(np.random.default_rng(0).integers(0, nums, (120, len(nums))))
    width = ours.observation_space.shape[0]

    def one(carry, inputs):
        key, action = inputs
        state, mine = carry
        seen, state, rewards, dones, _ = theirs.step(key, state, dict(zip(agents, action, strict=True)))
        mine, looks, paid, _, info = ours.step(key, mine, action)
        seen = jnp.stack([jnp.pad(seen[a].astype(float), (0, width - seen[a].size)) for a in agents])
        expected = seen, jnp.stack([rewards[a] for a in agents]), dones["__all__"]
        return (state, mine), (expected, (looks, paid, info["is_over"]))

    def run(key):
        state = theirs.reset(key)[1]
        return jax.lax.scan(one, (state, ours.reset(key)[0]), (jax.random.split(key, 120), actions))[1]

    expected, got = jax.jit(run)(KEY)
    for mine, wanted in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-6)
    assert int(got[2].sum()) > 0


OURS = {
    "simple_spread": lambda: simple_spread(max_steps=5),
    "tag": lambda: tag(max_steps=5),
    "speaker_listener": lambda: speaker_listener(max_steps=5),
    "switch_riddle": switch_riddle,
    "coin_game": lambda: coin_game(num_steps=3, num_games=2),
    "skirmish": lambda: skirmish("3m", max_steps=5),
}


@pytest.mark.needs("jaxmarl")
@pytest.mark.parametrize("name", OURS)
def test_the_same_key_is_the_same_trajectory_to_jaxmarl_and_back(name):
    environment = OURS[name]()
    theirs, native = to_jaxmarl(environment), auto_reset(environment)
    back, agents = from_jaxmarl(theirs), theirs.agents
    assert agents == list(environment.names) and theirs.name == environment.name
    assert back.action_space == environment.action_space
    assert back.observation_space.shape == environment.observation_space.shape
    assert sorted(agent for group in theirs.agent_classes.values() for agent in group) == sorted(agents)
    again = auto_reset(back)
    num = environment.action_space.num
    actions = jnp.asarray(np.random.default_rng(0).integers(0, num, (15, len(agents))))

    def one(carry, inputs):
        key, action = inputs
        one_, two, three = carry
        one_, seen, rewards, dones, info = native.step(key, one_, action)
        given = {agent: action[i : i + 1] for i, agent in enumerate(agents)}  # JaxMARL's scripts give them a last axis
        seen2, two, rewards2, dones2, info2 = theirs.step(key, two, given)
        three, seen3, rewards3, dones3, info3 = again.step(key, three, action)
        assert not info2 and ("world_state" in seen2) == (environment.global_state is not None)
        stack = lambda values: jnp.stack([values[agent] for agent in agents])  # noqa: E731
        a = (seen, rewards, dones, info["is_over"])
        b = (stack(seen2), stack(rewards2), stack(dones2), dones2["__all__"])
        masks = stack(theirs.get_avail_actions(two))
        mask = jnp.ones_like(masks) if environment.action_mask is None else environment.action_mask(one_)
        return (one_, two, three), ((*a, mask), (*b, masks), (seen3, rewards3, dones3, info3["is_over"], mask))

    def run(key):
        state, two, three = environment.reset(key)[0], theirs.reset(key)[1], back.reset(key)[0]
        return jax.lax.scan(one, (state, two, three), (jax.random.split(key, 15), actions))[1]

    native_run, their_run, back_run = jax.jit(run)(KEY)
    for other in (their_run, back_run):
        for mine, wanted in zip(other, native_run, strict=True):
            np.testing.assert_array_equal(mine, wanted)
    assert int(native_run[3].sum()) > 0  # an episode ended


def scan_rollout(step, reset, num_steps=12):
    """The last of `num_steps` outcomes of `step(key, state)` in a scan, as JaxMARL's scripts do it."""

    def run(key):
        return jax.lax.scan(lambda state, key: step(key, state), reset(key)[1], jax.random.split(key, num_steps))

    return jax.jit(run)(KEY)[1]


@pytest.mark.needs("jaxmarl")
@pytest.mark.parametrize(("wrapper", "name"), [("LogWrapper", "tag"), ("MPELogWrapper", "simple_spread")])
def test_log_wrappers(wrapper, name):
    from jaxmarl.wrappers import baselines as wrappers

    theirs = getattr(wrappers, wrapper)(to_jaxmarl(OURS[name]()))

    def step(key, state):
        actions = {agent: theirs.action_space(agent).sample(key) for agent in theirs.agents}
        _, state, rewards, dones, info = theirs.step(key, state, actions)
        return state, (theirs.stack_agent_values(rewards), dones["__all__"], info)

    rewards, over, info = scan_rollout(step, theirs.reset)
    np.testing.assert_array_equal(np.flatnonzero(over), [4, 9])
    np.testing.assert_array_equal(info["returned_episode_lengths"][-1], 5)
    factor = theirs.num_agents if wrapper == "MPELogWrapper" else 1
    np.testing.assert_allclose(info["returned_episode_returns"][4], factor * rewards[:5].sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.needs("jaxmarl")
def test_rollouts_of_centralised_training():
    from jaxmarl.wrappers import baselines as wrappers

    log = wrappers.MPELogWrapper(to_jaxmarl(simple_spread(max_steps=5)))
    manager = wrappers.CTRolloutManager(log, batch_size=4)
    assert (manager.obs_size, manager.max_action_space) == (18 + 3, 5)

    def step(key, state):
        actions = {agent: manager.batch_sample(key, agent) for agent in manager.agents}
        seen, state, rewards, dones, _ = manager.batch_step(key, state, actions)
        return state, (seen, rewards, dones)

    seen, rewards, dones = scan_rollout(step, manager.batch_reset)
    assert seen["agent_1"].shape == (12, 4, 21) and seen["__all__"].shape == (12, 4, 54)
    np.testing.assert_allclose(rewards["__all__"], sum(rewards[a] for a in manager.agents), rtol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(dones["__all__"][:, 0]), [4, 9])


@pytest.mark.needs("jaxmarl")
def test_rollouts_of_the_skirmish_under_its_name():
    from jaxmarl.wrappers import baselines as wrappers

    environment = skirmish("3m", max_steps=5)
    theirs = to_jaxmarl(environment, name="skirmish_smax")
    assert theirs.state_size == 12 * 6 and theirs.num_allies == 3
    manager = wrappers.CTRolloutManager(wrappers.SMAXLogWrapper(theirs), batch_size=2)
    seen, state = manager.batch_reset(KEY)
    assert seen["__all__"].shape == (2, 72)
    masks = manager.get_valid_actions(state.env_state)
    expected = jax.vmap(environment.action_mask)(state.env_state.world)
    np.testing.assert_array_equal(jnp.stack([masks[a] for a in theirs.agents], axis=1), expected)
    _, _, rewards, dones, info = manager.batch_step(KEY, state, {a: jnp.full(2, 4) for a in theirs.agents})
    np.testing.assert_array_equal(rewards["__all__"], rewards["ally_0"])  # a team is paid as one
    assert set(info) >= {"returned_won_episode", "returned_episode_returns"} and not dones["__all__"].any()


@pytest.mark.needs("jaxmarl")
def test_resetting_to_a_given_state():
    theirs = to_jaxmarl(simple_spread(max_steps=1))
    first, start = theirs.reset(jax.random.key(7))
    _, state = theirs.reset(KEY)
    actions = {agent: jnp.int32(1) for agent in theirs.agents}
    seen, state, _, dones, _ = theirs.step(KEY, state, actions, reset_state=start)
    assert bool(dones["__all__"]) and int(state.step) == 0 and not bool(state.done)
    np.testing.assert_array_equal(seen["agent_0"], first["agent_0"])
    assert theirs.get_world_state(start).shape == (54,) and theirs.state_size == 54


@pytest.mark.needs("jaxmarl")
def test_floats_have_no_masks():
    theirs = to_jaxmarl(simple_spread(continuous=True))
    assert theirs.action_space("agent_0").shape == (5,)
    _, state = theirs.reset(KEY)
    with pytest.raises(ValueError, match="get_avail_actions: actions must be discrete, got floats"):
        theirs.get_avail_actions(state)
