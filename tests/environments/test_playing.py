"""Policies in worlds: what is measured, who hears whom, and what the host may answer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environments.probes import probe

from dlsim import networks
from dlsim.core import Record
from dlsim.environments import playing, policies
from dlsim.environments.environment import Environment, box
from dlsim.environments.policies import Policy, host_policy, random_policy
from dlsim.running import counters
from dlsim.running.simulate import simulate

STEPS = 12


def run(process, num_steps=STEPS, **options):
    return simulate(process, num_steps=num_steps, record=Record(every=1), seed=0, progress=False, **options)


def always(action: int, message_size: int = 0) -> Policy:
    def act(key, memory, observations, allowed, heard):
        said = jnp.broadcast_to(observations, (observations.shape[0], message_size)) if message_size else None
        return memory, jnp.full(observations.shape[0], action), said

    return Policy(act, message_size=message_size)


def test_episodes_end_and_begin_anew():
    results = run(playing.play(probe("action", num_agents=3, length=4), always(1))).results
    np.testing.assert_array_equal(results.steps, [0, *([1, 2, 3, 4] * 3)])
    np.testing.assert_allclose(results.episode_return, [0, *([1, 2, 3, 4] * 3)])
    np.testing.assert_array_equal(results.num_episodes, [0] * 4 + [1] * 4 + [2] * 4 + [3])
    np.testing.assert_allclose(results.last_episode_return[4:], 4)
    assert np.isnan(results.last_episode_return[:4]).all() and (results.reward[1:] == 1).all()
    assert (results.num_repaired == 0).all()


def test_what_is_no_action_is_repaired_and_counted():
    results = run(playing.play(probe("action"), always(7))).results
    np.testing.assert_array_equal(results.num_repaired, 2 * np.arange(STEPS + 1))
    assert (results.reward[1:] == 0).all()


def test_what_is_not_allowed_becomes_the_first_that_is():
    environment = probe("action", num_agents=2)._replace(action_mask=lambda state: jnp.array([[False, True]] * 2))
    results = run(playing.play(environment, always(0))).results
    assert (results.reward[1:] == 1).all() and results.num_repaired[-1] == 2 * STEPS


def test_random_play_is_uniform_over_what_is_allowed():
    environment = probe("action", num_agents=500)
    rewards = run(playing.play(environment, random_policy(environment))).results.reward[1:]
    assert abs(float(rewards.mean()) - 0.5) < 4 * 0.5 / np.sqrt(500 * STEPS)
    masked = environment._replace(action_mask=lambda state: jnp.array([[True, False]] * 500))
    assert (run(playing.play(masked, random_policy(masked))).results.reward[1:] == 0).all()


def test_random_numbers_stay_between_the_bounds():
    space = box((2,), low=-0.5, high=0.25)
    environment = probe("constant", num_agents=50)._replace(action_space=space)
    _, actions, _ = random_policy(environment).act(jax.random.key(0), (), jnp.zeros((50, 1)), None, None)
    assert actions.shape == (50, 2) and actions.min() >= -0.5 and actions.max() <= 0.25 and actions.std() > 0.1
    fixed, bad = policies.repair(environment, jnp.full((50, 2), jnp.nan).at[0].set(0.1), None)
    assert np.isfinite(fixed).all() and not bad[0] and bad[1:].all()


def listening(log: list) -> Policy:
    """Says what it observes, and notes what it hears."""

    def act(key, memory, observations, allowed, heard):
        jax.debug.callback(
            lambda *seen: log.append(jax.tree.map(np.asarray, seen)), observations, *heard[:4], ordered=True
        )
        return memory, jnp.zeros(observations.shape[0], jnp.int32), observations

    return Policy(act, message_size=1)


def test_messages_are_heard_a_round_later_by_those_in_contact():
    log: list = []
    results = run(playing.play(probe("both", num_agents=6, length=4), listening(log))).results
    jax.effects_barrier()
    assert len(log) == STEPS
    sent = 0
    for t, (seen, values, _, mask, senders) in enumerate(log):
        if t % 4 == 0:
            assert not mask.any()
            continue
        before = log[t - 1][0]
        contact = (seen @ seen.T > 0) & ~np.eye(6, dtype=bool)
        for receiver in range(6):
            heard = {int(s) for s in senders[receiver][mask[receiver]]}
            assert heard == set(np.flatnonzero(contact[receiver]))
            np.testing.assert_array_equal(values[receiver][mask[receiver]], before[senders[receiver][mask[receiver]]])
        sent += contact.sum()
    assert sent > 20 and results.messages_sent[-1] == sent and results.bits_sent[-1] == 32 * sent


def test_a_lossy_network_and_failing_links_lose_messages():
    log: list = []
    environment = probe("both", num_agents=6, length=50)._replace(contact=None)
    network = networks.complete(6).with_channel(networks.loss(0.5))
    results = run(playing.play(environment, listening(log), network, networks.link_failure(0.5)), num_steps=40).results
    jax.effects_barrier()
    heard = sum(mask.sum() for *_, mask, _ in log)
    possible = 39 * 30
    assert 0.35 * possible < results.messages_sent[-1] < 0.65 * possible
    assert 0.15 * possible < heard < 0.35 * possible


def test_runs_side_by_side_are_the_runs_alone():
    environment = probe("both", num_agents=3, length=3)
    process = playing.play(environment, random_policy(environment))
    both = simulate(process, num_steps=6, seed=[0, 1], record=Record(), progress=False).results
    for seed in (0, 1):
        alone = simulate(process, num_steps=6, seed=seed, record=Record(), progress=False).results
        np.testing.assert_array_equal(both.sel(seed=seed).reward, alone.reward)


def test_a_function_on_the_host_is_asked_once_a_round_for_all():
    environment = probe("both", num_agents=3, length=4)
    asked: list = []

    def fn(situation):
        asked.append(situation)
        return [int(x > 0) for x in situation.observations[:, 0]]

    results = run(playing.play(environment, host_policy(fn, environment))).results
    assert (results.reward[1:] == 1).all() and len(asked) == STEPS
    assert [s.step for s in asked] == [0, 1, 2, 3] * 3 and asked[0].observations.shape == (3, 1)
    assert asked[0].heard is None and asked[0].allowed is None


def test_answers_that_are_none_are_repaired_and_counted():
    environment = probe("action", num_agents=5)
    fn = lambda situation: [None, "left", 1.5, float("nan"), 1]  # noqa: E731
    results = run(playing.play(environment, host_policy(fn, environment))).results
    assert results.num_repaired[-1] == 4 * STEPS
    np.testing.assert_allclose(results.reward[1:], 0.2)


def test_a_host_that_speaks_is_heard():
    environment = probe("both", num_agents=3, length=100)._replace(contact=None)
    heard = []

    def fn(situation):
        heard.append(situation.heard[situation.heard_mask].tolist())
        return [0, 0, 0], np.full((3, 2), situation.step)

    run(playing.play(environment, host_policy(fn, environment, message_size=2)), num_steps=3)
    assert heard == [[], [[0.0, 0.0]] * 6, [[1.0, 1.0]] * 6]


def test_numbers_that_a_host_answers():
    environment = probe("constant", num_agents=2)._replace(action_space=box((2,), low=-1, high=1))
    policy = host_policy(lambda s: [[0.5, 0.5], [3, "x"]], environment)
    _, actions, message = policy.act(jax.random.key(0), policy.init(2), jnp.zeros((2, 1)), None, None)
    assert message is None and np.allclose(actions[0], 0.5) and np.isnan(actions[1]).all()


@pytest.mark.parametrize("answers", [[0], None, 3, "stay", [0, 1, 0]])
def test_a_wrong_number_of_answers_is_an_error(answers):
    with pytest.raises(ValueError, match="host_policy: actions must be one for each of 2 agents, got"):
        policies._read_actions(answers, probe("action").action_space, 2)


WORLD = probe("action")
REFUSED = {
    "play: environment must be an Environment": lambda: playing.play(probe, always(0)),
    "play: policy must be a Policy": lambda: playing.play(WORLD, always),
    "play: network must be None for a policy that says nothing": lambda: playing.play(
        WORLD, always(0), networks.ring(2)
    ),
    "play: network must be of 2 nodes, got 5 nodes": lambda: playing.play(WORLD, always(0, 1), networks.ring(5)),
    "play: network must be a Network": lambda: playing.play(WORLD, always(0, 1), "ring"),
    "play: scenario must be a Scenario": lambda: playing.play(WORLD, always(0, 1), None, networks.loss(0.1)),
    r"play: message must be of shape \[2, 3\]": lambda: jax.eval_shape(
        (p := playing.play(WORLD, always(0, 3)._replace(act=always(0, 2).act))).step,
        jax.random.key(0),
        p.init(jax.random.key(0)),
    ),
    r"probe_action: actions must be of shape \[2\]": lambda: policies.repair(WORLD, jnp.zeros(3), None),
    "host_policy: fn must be a function": lambda: host_policy("gpt", WORLD),
    "host_policy: environment must be an Environment": lambda: host_policy(print, "swarm"),
    "host_policy: message_size must be an integer >= 0": lambda: host_policy(print, WORLD, message_size=-1),
    r"host_policy: messages must be of shape \[2, 4\]": lambda: policies._read_messages([[1.0]], 2, 4),
    "random_policy: environment must be an Environment": lambda: random_policy(None),
}


@pytest.mark.parametrize("line", REFUSED)
def test_bad_input(line):
    with pytest.raises(ValueError, match=line):
        REFUSED[line]()


def test_counted_traffic_is_what_the_network_says():
    environment: Environment = probe("both", num_agents=4, length=3)
    process = playing.play(environment, always(0, 2))
    state = process.init(jax.random.key(0))
    for t in range(3):
        state, _ = jax.jit(process.step)(jax.random.key(t), state)
    measured = process.measure(state, {})
    assert counters.to_float(measured["bits_sent"]) == 64 * counters.to_float(measured["messages_sent"])
