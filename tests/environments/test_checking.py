"""`check`: the worlds of the package keep the protocol, and each way not to is found, all at once."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import environments
from dlsim.environments import Environment, auto_reset, box, check, discrete

NUMBERS = np.random.default_rng(0)  # of the host, that no key knows of
OPEN = np.zeros((4, 4), bool)
SWARM = {"num_agents": 4, "height": 10, "width": 10, "view": 5, "max_rounds": 4}
CELLS = {"num_users": 5, "num_stations": 6, "cluster": 2}
WORLDS = {
    "coin_game": lambda: environments.coin_game(3, 2),
    "flocking": lambda: environments.flocking(**SWARM),
    "following": lambda: environments.following(OPEN, 3, 3, max_steps=4),
    "foraging": lambda: environments.foraging(4, 10, 5, max_rounds=4),
    "matrix_game": lambda: environments.matrix_game("chicken", 3),
    "pathfinding": lambda: environments.pathfinding(OPEN, 3, 3, max_steps=4),
    "pursuit": lambda: environments.pursuit(**SWARM),
    "simple": lambda: environments.simple(max_steps=4),
    "simple_adversary": lambda: environments.simple_adversary(max_steps=4),
    "simple_crypto": lambda: environments.simple_crypto(max_steps=4),
    "simple_push": lambda: environments.simple_push(max_steps=4),
    "simple_reference": lambda: environments.simple_reference(max_steps=4),
    "simple_speaker_listener": lambda: environments.simple_speaker_listener(max_steps=4),
    "simple_spread": lambda: environments.simple_spread(max_steps=4),
    "simple_tag": lambda: environments.simple_tag(max_steps=4),
    "simple_tag of numbers": lambda: environments.simple_tag(max_steps=4, continuous=True),
    "simple_world_comm": lambda: environments.simple_world_comm(max_steps=4),
    "skirmish": lambda: environments.skirmish("3m", max_steps=4, num_ticks=2),
    "small_cells": lambda: environments.small_cells(**CELLS, max_steps=4),
    "switch_riddle": lambda: environments.switch_riddle(3),
    "synchronization": lambda: environments.synchronization(**SWARM),
    "transport": lambda: environments.transport(**{**SWARM, "height": 12}),
}
PLAYED = ("coin_game", "matrix_game", "pathfinding", "simple_tag of numbers", "switch_riddle", "synchronization")


@pytest.mark.parametrize("name", WORLDS)
def test_every_world_of_the_package_keeps_the_protocol(name):
    world = WORLDS[name]()
    num_steps = None if name in PLAYED else 0  # to play in all of them is to compile all of them
    assert check(world, is_deterministic=name == "matrix_game", num_steps=num_steps) is world


class State(NamedTuple):
    places: jax.Array  # float32 [A]
    step: jax.Array  # int32 []


def sound(num_agents=2, max_steps=3):
    """A small world without a fault."""

    def observe(state):
        return jnp.clip(state.places[:, None], -5.0, 5.0)

    def reset(key):
        state = State(jax.random.uniform(key, (num_agents,)), jnp.int32(0))
        return state, observe(state)

    def step(key, state, actions):
        state = State(state.places + 0.1 * actions, state.step + 1)
        over = state.step >= max_steps
        info = {"is_over": over, "is_truncated": over}
        return state, observe(state), -state.places, jnp.full(num_agents, over), info

    return Environment(
        "world", num_agents, box((1,), -5, 5), discrete(3), reset, step, max_steps=max_steps, metrics=lambda state: {}
    )


def after_step(change, **fields):
    """The sound world, what its step gives changed by `change(key, state before, state, seen, rewards, dones, info)`."""
    world = sound()

    def step(key, state, actions):
        return change(key, state, *world.step(key, state, actions))

    return world._replace(step=step, **fields)


def after_reset(change):
    world = sound()
    return world._replace(reset=lambda key: change(key, *world.reset(key)))


def with_state(change):
    return after_step(lambda key, old, new, *rest: (change(key, old, new), *rest))


def branching(key, old, new):
    return new if new.step < 2 else old


def asking(key, old, new):
    number = jax.pure_callback(lambda: np.float32(0), jax.ShapeDtypeStruct((), jnp.float32))
    return new._replace(places=new.places + number)


def beginning_anew(key, old, new, seen, rewards, dones, info):
    fresh = sound().reset(key)[0]
    return jax.tree.map(lambda a, b: jnp.where(info["is_over"], a, b), fresh, new), seen, rewards, dones, info


def without_key(name):
    world = sound()
    own = jax.random.key(3)
    return {
        "a constant": world._replace(reset=lambda key: world.reset(jax.random.key(3))),
        "from outside": world._replace(reset=lambda key: world.reset(own)),
        "none": world._replace(reset=lambda key: (State(jnp.zeros(2), jnp.int32(0)), jnp.zeros((2, 1)))),
    }[name]


def first_is_out(old, rewards, value=0.0):
    """Dones of an agent that leaves after the first step, and rewards, its own `value` from then on."""
    return jnp.array([True, False]), jnp.where((jnp.arange(2) == 0) & (old.step > 0), value, rewards)


# What is broken, and the line about it.
STATIC = {
    "no step": (lambda: sound()._replace(step=None), r"step must be a function, got None\."),
    "no agents": (lambda: sound()._replace(num_agents=0), r"num_agents must be an integer >= 1, got 0\."),
    "a space that is none": (
        lambda: sound()._replace(action_space=3),
        r"action_space must be a Space, got 3\. Use dlsim\.environments\.discrete",
    ),
    "a mask that is none": (
        lambda: sound()._replace(action_mask=3),
        r"action_mask must be a function or None, got 3\.",
    ),
    "names of others": (
        lambda: sound()._replace(agent_names=("a",)),
        r"agent_names must be one for each of 2 agents, got 1 of them\.",
    ),
    "a reset of one part": (
        lambda: sound()._replace(reset=lambda key: jax.random.uniform(key, (2, 1))),
        r"reset must be a function that returns \(state, observations\), got float32 \[2, 1\]\.",
    ),
    "a step of four parts": (
        lambda: after_step(lambda key, old, *rest: rest[:4]),
        r"step must be a function that returns \(state, .*, info\), got a tuple of 4\.",
    ),
    "observations without their last axis": (
        lambda: after_reset(lambda key, state, seen: (state, seen[:, 0])),
        r"reset's observations must be of shape \[2, 1\], got \[2\]\.",
    ),
    "observations by name": (
        lambda: after_reset(lambda key, state, seen: (state, {"a": seen})),
        r"reset's observations must be one array, got a dict of 1\. Agents lead",
    ),
    "observations of another type": (
        lambda: after_step(lambda key, old, new, seen, *rest: (new, seen.astype(jnp.int32), *rest)),
        r"step's observations must be of type float32, got int32\.",
    ),
    "one reward for all": (
        lambda: after_step(lambda key, old, new, seen, rewards, *rest: (new, seen, rewards.sum(), *rest)),
        r"rewards must be of shape \[2\], got \[\]\.",
    ),
    "rewards in whole numbers": (
        lambda: after_step(lambda key, old, new, seen, rewards, *rest: (new, seen, rewards.astype(int), *rest)),
        r"rewards must be of type float32, got int32\. Use rewards\.astype\(float\)\.",
    ),
    "dones in numbers": (
        lambda: after_step(lambda key, old, new, seen, rewards, dones, info: (new, seen, rewards, dones * 1.0, info)),
        r"dones must be of type bool, got float32\.",
    ),
    "an episode that is over by agent": (
        lambda: after_step(lambda key, old, *rest: (*rest[:4], {**rest[4], "is_over": rest[3]})),
        r"info\['is_over'\] must be of shape \[\], got \[2\]\.",
    ),
    "nothing about the time limit": (
        lambda: after_step(lambda key, old, *rest: (*rest[:4], {"is_over": rest[4]["is_over"]})),
        r"info\['is_truncated'\] must be there, bool \[\], got nothing of that name\.",
    ),
    "a mask of another width": (
        lambda: sound()._replace(action_mask=lambda state: jnp.ones((2, 4), bool)),
        r"action_mask\(state\) must be of shape \[2, 3\], got \[2, 4\]\.",
    ),
    "a mask of numbers": (
        lambda: sound()._replace(action_mask=lambda state: jnp.ones((2, 3))),
        r"action_mask\(state\) must be of type bool, got float32\.",
    ),
    "a metric without a name": (
        lambda: sound()._replace(metrics=lambda state: state.places),
        r"metrics\(state\) must be a dict of arrays, got float32 \[2\]\.",
    ),
    "a step that is counted in floats": (
        lambda: with_state(lambda key, old, new: new._replace(step=new.step * 1.0)),
        r"state\.step must be int32 \[\] after a step, as reset makes it, got float32 \[\]\. Keep each leaf's",
    ),
    "a state that grows": (
        lambda: with_state(lambda key, old, new: new._replace(places=jnp.append(new.places, 0.0))),
        r"state\.places must be float32 \[2\] after a step, as reset makes it, got float32 \[3\]\.",
    ),
    "a state of another kind": (
        lambda: with_state(lambda key, old, new: tuple(new)),
        r"step's state must be of the structure that reset gives it, got without \.places, \.step and with \[0\], \[1\]",
    ),
    "a branch on a value": (
        lambda: with_state(branching),
        r"step must be a function that JAX can trace \(jit, vmap\), got TracerBoolConversionError: .* Use jnp\.where",
    ),
    "NumPy inside": (
        lambda: with_state(lambda key, old, new: new._replace(places=jnp.asarray(np.sqrt(new.places)))),
        r"step must be a function that JAX can trace .*TracerArrayConversionError: .* Use jax\.numpy",
    ),
    "a call to the host": (lambda: with_state(asking), r"step must be free of calls to the host, got pure_callback\."),
    "numbers of the host": (
        lambda: with_state(lambda key, old, new: new._replace(places=new.places + NUMBERS.random())),
        r"step must be the same function each time it is traced, got constants that differ\.",
    ),
    "a clock": (
        lambda: with_state(
            lambda key, old, new: new._replace(places=new.places + np.full(2, time.perf_counter_ns() % 1_000_003))
        ),
        r"step must be the same function each time it is traced, got constants that differ\.",
    ),
    "a key of its own": (
        lambda: without_key("a constant"),
        r"reset must be random by its key alone, got a key made inside\. Derive",
    ),
    "a key from outside": (
        lambda: without_key("from outside"),
        r"reset must be random by its key alone, got a key made",
    ),
    "no chance": (
        lambda: without_key("none"),
        r"reset and step must be functions of their key, got neither uses it: every episode is the same\. Where",
    ),
    "an action too many": (
        lambda: environments.coin_game(3, 2)._replace(action_space=discrete(9)),
        r"step must be a function that takes every action of its space, 8 among them, got ValueError: .*\[0, 4\], got 8",
    ),
    "a world that auto_reset goes on with": (
        lambda: auto_reset(sound()),
        r"environment must be one without auto_reset, got one with `last_observations`",
    ),
}
IN_PLAY = {
    "observations outside": (
        lambda: after_step(lambda key, old, new, seen, *rest: (new, seen.at[1].set(7.0 * (old.step == 1)), *rest)),
        r"observations must be numbers in \[-5, 5\], as their space says, got 7 in step 2 of agent_1\.",
    ),
    "actions that lead out of what is seen": (
        lambda: sound()._replace(observation_space=box((1,), -5, 0)),
        r"observations must be numbers in \[-5, 0\], as their space says, got .* at reset\.",
    ),
    "rewards that are none": (
        lambda: after_step(lambda key, old, new, seen, rewards, *rest: (new, seen, rewards.at[0].set(jnp.nan), *rest)),
        r"rewards must be finite, got nan in step 1 of agent_0\. Look for 0 / 0",
    ),
    "results that differ": (
        lambda: noisy(),
        r"a second play by the same key must be the same as the first, got another",
    ),
    "an episode without an end": (
        lambda: after_step(lambda key, old, *rest: (*rest[:4], jax.tree.map(jnp.zeros_like, rest[4]))),
        r"info\['is_over'\] must be True by step 3, which is max_steps, got False until then in 4 of 4 episodes\.",
    ),
    "a time limit that ends nothing": (
        lambda: after_step(lambda key, old, *rest: (*rest[:4], {**rest[4], "is_truncated": jnp.array(True)})),
        r"info\['is_truncated'\] must be True only where info\['is_over'\] is, got others in step 1\.",
    ),
    "an agent that comes back": (
        lambda: after_step(
            lambda key, old, new, seen, rewards, dones, info: (
                *(new, seen, rewards * 0, (jnp.arange(2) == old.step) | info["is_over"]),
                info,
            )
        ),
        r"dones must be True until the episode is over, once they are, got others in step 2 of agent_0\.",
    ),
    "an agent that earns when it is done": (
        lambda: after_step(
            lambda key, old, new, seen, rewards, dones, info: (new, seen, *first_is_out(old, rewards, 2.0)[::-1], info)
        ),
        r"rewards of agents that are done must be 0, got 2 in step 2 of agent_0\. Multiply by ~done\.",
    ),
    "an agent that may do nothing": (
        lambda: sound()._replace(action_mask=lambda state: jnp.array([[True] * 3, [False] * 3])),
        r"action_mask\(state\) must be True somewhere, for every agent that is not done, got others in step 1 of agent_1\.",
    ),
    "a world that begins anew by itself": (
        lambda: after_step(beginning_anew),
        r"step must be a function that leaves a state that is over as it ended, got others in step 3\. Do not reset",
    ),
    "a picture of another state": (
        lambda: sound()._replace(render=lambda state, axes: axes.imshow(state.walls)),
        r"render must be a function of \(state, axes\), got AttributeError: ",
    ),
}


def noisy():
    def asked(key, old, new):
        drawn = jax.pure_callback(
            lambda: np.float32(NUMBERS.random()), jax.ShapeDtypeStruct((), jnp.float32), vmap_method="sequential"
        )
        return new._replace(places=new.places + drawn)

    return with_state(asked)


def faults_of(world, **options):
    with pytest.raises(ValueError) as caught:
        check(world, **options)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(("check 'world': ", "check 'coin_game': ")) for line in lines)
    return lines


def test_a_sound_world_is_given_back():
    world = sound()
    assert check(world) is world and check(world._replace(max_steps=None), num_steps=2, seed=3).max_steps is None


@pytest.mark.parametrize("name", STATIC)
def test_what_is_read_off_the_functions(name):
    make, line = STATIC[name]
    found = faults_of(make(), num_steps=0)
    assert sum(bool(re.search(line, one)) for one in found) == 1, found
    assert len(found) == (2 if name.startswith("a key") else 1), found  # a reset that does not use its own besides


@pytest.mark.parametrize("name", IN_PLAY)
def test_what_shows_in_play(name):
    make, line = IN_PLAY[name]
    found = faults_of(make())
    assert sum(bool(re.search(line, one)) for one in found) == 1, found
    assert len(found) == (2 if name == "results that differ" else 1), found  # it calls the host besides


def test_all_faults_are_told_at_once():
    def change(key, old, new, seen, rewards, dones, info):
        return (
            new._replace(step=new.step.astype(jnp.int16)),
            seen + 9,
            rewards / 0,
            dones,
            {**info, "is_over": jnp.array(False)},
        )

    world = after_step(change, agent_names=("a",), action_mask=lambda state: jnp.ones((2, 5), bool))
    found = "\n".join(faults_of(world))
    for said in ("agent_names", "action_mask", r"state.step", "observations", "rewards", "is_truncated", "is_over"):
        assert said in found, (said, found)
    assert len(found.split("\n")) == 7


def test_what_is_no_environment_is_told_what_it_lacks():
    class Mine:
        name, num_agents, observation_space = "mine", 2, box((1,))

        def reset(self, key): ...

    with pytest.raises(
        ValueError, match=r"check: environment must be an Environment, got Mine without action_space, step"
    ):
        check(Mine())
    with pytest.raises(
        ValueError, match=r"check: environment must be an Environment, got function sound\. Call its fact"
    ):
        check(sound)
