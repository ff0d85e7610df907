"""One bad argument at a time to everything public in `dlsim.environments`: one line of our form, or it works."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import environments
from dlsim.environments import Environment, Policy, Radio, Space
from dlsim.environments.skirmish.rules import Scenario

FORM = re.compile(r"^[\w.]+( '[^']*')?: .+ must be .+, got .+", re.DOTALL)
OPEN = np.zeros((3, 3), bool)
HUGE = 10**12  # of anything: refused before anything is allocated


class Nothing:
    """An object that is none of all this."""


def walk(situation):
    return [0, 0]


GAME = environments.matrix_game("chicken", 5)
SILENT = environments.random_policy(GAME)
SWARM = environments.synchronization(3, 6, 6, 3)
FOLLOWING = environments.following(OPEN, 2, 3, 9)
START = jax.jit(SWARM.reset)(jax.random.key(0))[0]
PLANS = jax.jit(FOLLOWING.reset)(jax.random.key(0))[0]
STATES = jax.tree.map(lambda leaf: leaf[None], START)
TEXT = "height 2\nwidth 2\nmap\n..\n.@\n"
VALUES = jnp.zeros((2, 3, 3))
CELLS = jnp.asarray([[0, 0], [1, 1]])
SWARM_SIZES = {"num_agents": 4, "height": 10, "width": 10, "view": 5, "max_rounds": 9, "reward": "score"}
STEPS = {"max_steps": 9, "continuous": False}
SCRIPT = {"messages": True, "height": 10, "width": 10, "view": 5}
WORLD = {"obstacles": OPEN, "num_agents": 2, "view": 3, "max_steps": 9, "rule": "soft"}
CELL_SIZES = {"num_users": 5, "num_stations": 6, "cluster": 2, "bandwidth": 10.0, "radio": Radio()}
BUYERS = {"near": np.zeros((2, 1), int), "worth": np.ones((2, 1)), "budgets": np.ones(2), "supply": np.ones(1)}

CALLS = {
    "animate": {"environment": SWARM, "states": STATES, "path": "", "frames_per_second": 5.0, "size": 1.0},
    "auto_reset": {"environment": GAME},
    "box": {"shape": (2,), "low": 0.0, "high": 1.0, "dtype": "float32"},
    "cell_market": {**CELL_SIZES, "uncertainty": 0.1, "optimum_rounds": 3},
    "check": {"environment": GAME, "num_steps": 2, "is_deterministic": True, "seed": 0},
    "coin_game": {
        "num_steps": 2,
        "num_games": 2,
        "payoffs": [[1.0, 1.0, -2.0], [1.0, 1.0, -2.0]],
        "size": 3,
        "egocentric": False,
        "shares_rewards": False,
    },
    "cost_to_go": {"obstacles": OPEN, "costs": jnp.ones((3, 3)), "goals": CELLS, "max_rounds": 3},
    "discrete": {"num": 3, "shape": ()},
    "figure_of": {"environment": SWARM, "state": START, "size": 1.0},
    "fisher_market": {**BUYERS, "rounds": 2, "demand": 1.0, "bids": np.ones((2, 1)), "tolerance": 0.1},
    "flocking": {**SWARM_SIZES, "distance": "nearest"},
    "follow": {"key": jax.random.key(0), "state": PLANS, "sidestep": 0.3},
    "follow_policy": {"environment": FOLLOWING, "sidestep": 0.3},
    "following": {**WORLD, "static_weight": 0.0, "dynamic_weight": 1.0, "reward": 0.1, "max_rounds": 2},
    "foraging": {"num_agents": 4, "size": 10, "view": 5, "max_rounds": 9, "reward": "score"},
    "group_metrics": {"before": START, "after": START, "actions": jnp.zeros(3, int)},
    "host_policy": {"fn": walk, "environment": GAME, "message_size": 1, "ordered": True},
    "matrix_game": {"payoffs": [[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]], "num_rounds": 3},
    "maze_map": {"height": 5, "width": 5, "seed": 0, "open_walls": 0.1},
    "message_metrics": {"texts": ["a", "b"], "embeddings": np.ones((2, 3))},
    "parse_map": {"text": TEXT},
    "parse_pogema": {"text": "aA."},
    "pathfinding": {**WORLD, "starts": [[0, 0], [1, 1]], "goals": [[2, 2], [0, 0]]},
    "play": {"environment": GAME, "policy": SILENT, "network": None, "scenario": None},
    "pursuit": {**SWARM_SIZES, "faithful": True},
    "random_map": {"height": 4, "width": 4, "density": 0.2, "seed": 0},
    "random_policy": {"environment": GAME},
    "read_map": {"path": ""},
    "room_map": {"rooms_down": 2, "rooms_across": 2, "room_size": 2, "seed": 0},
    "script_bidding": {"cluster": 2, "is_capped": True},
    "script_flocking": SCRIPT,
    "script_foraging": {"messages": True, "size": 10, "view": 5},
    "script_pursuit": {**SCRIPT, "reach": 3},
    "script_synchronization": {"patience": 2.0, "height": 10, "width": 10, "view": 5},
    "script_transport": SCRIPT,
    "script_waiting": {"cluster": 2},
    "simple": {"num_agents": 2, "num_landmarks": 2, **STEPS},
    "simple_adversary": {"num_good": 2, "num_adversaries": 1, "num_landmarks": 2, **STEPS},
    "simple_crypto": STEPS,
    "simple_push": {"num_good": 1, "num_adversaries": 1, **STEPS},
    "simple_reference": {"local_ratio": 0.5, **STEPS},
    "simple_speaker_listener": STEPS,
    "simple_spread": {"num_agents": 2, "num_landmarks": 2, "local_ratio": 0.5, **STEPS},
    "simple_tag": {"num_good": 1, "num_adversaries": 2, "num_obstacles": 1, **STEPS},
    "simple_world_comm": {
        "num_good": 1,
        "num_adversaries": 2,
        "num_obstacles": 1,
        "num_food": 1,
        "num_forests": 1,
        **STEPS,
    },
    "skirmish": {
        "scenario": "3m",
        "enemy": "scripted",
        "attack": "nearest",
        "enemy_shoots": True,
        "max_steps": 9,
        "width": 32.0,
        "height": 32.0,
        "num_ticks": 2,
        "walls_kill": True,
        "sees_enemy_actions": True,
        "is_zero_sum": False,
        "win_bonus": 1.0,
    },
    "small_cells": {
        **CELL_SIZES,
        "primary_bandwidth": 2.0,
        "speed": 1.0,
        "blockages": 0.5,
        "drop_db": 20.0,
        "handover": 0.2,
        "negotiation": 3,
        "budget": 1.0,
        "refill": 1.0,
        "most_tokens": 5.0,
        "lease": 0.1,
        "max_steps": 9,
    },
    "static_penalty": {"obstacles": OPEN},
    "switch_riddle": {"num_agents": 3, "reward_alive": 1.0, "reward_dead": -1.0, "bulb": False},
    "synchronization": SWARM_SIZES,
    "to_jaxmarl": {"environment": GAME, "name": "game"},
    "from_jaxmarl": {"jaxmarl_environment": None},
    "transport": {**SWARM_SIZES, "height": 12},
    "warehouse_map": {"shelf_rows": 2, "shelf_columns": 2, "shelf_length": 3, "station_columns": 1},
    "waypoints": {"values": VALUES, "costs": jnp.ones((3, 3)), "positions": CELLS, "goals": CELLS},
    "write_map": {"obstacles": OPEN},
}
TYPES = {"Environment", "Policy", "Radio", "Situation", "Space"}

BAD = {
    "a dict": {},
    "a function": walk,
    "an object": Nothing(),
    "a class": Nothing,
    "text": "abc",
    "nothing written": "",
    "nan": float("nan"),
    "minus one": -1,
    "far too many": HUGE,
    "a half": 0.5,
    "an empty list": [],
    "ragged rows": [[1, 2], [3]],
    "an array": np.ones((2, 2)),
    "an array of objects": np.asarray([None, Nothing()]),
    "a bool": True,
    "nothing": None,
    "complex": 1j,
    "a set": {1, 2},
}


def is_wrong(good, bad):
    """Whether a value cannot stand for one that is right, by what that one is."""
    if isinstance(good, bool):
        return not isinstance(bad, bool)
    if isinstance(good, int):
        return isinstance(bad, bool) or not isinstance(bad, int) or bad in (-1, HUGE)
    if isinstance(good, float):
        return isinstance(bad, bool) or not isinstance(bad, int | float) or bad != bad
    if isinstance(good, str):
        return not isinstance(bad, str)
    if isinstance(good, Environment | Policy | np.ndarray | jax.Array):
        return bad is not None and not isinstance(bad, type(good) | np.ndarray | list | float | int)
    return False


# None is a choice of its own in these; the name of a world, and any number of bits or dB, may be anything
OPTIONAL = {"num_agents", "max_rounds", "radio", "starts", "goals", "bids", "embeddings", "name", "network", "scenario"}


def may_be(name, argument, bad):
    """What is right although it looks wrong."""
    if bad is None:
        if (name, argument) == ("check", "num_steps"):
            return True
        return argument in OPTIONAL and not (argument == "num_agents" and name != "pathfinding")
    if (name, argument) in {("parse_pogema", "text")}:
        return bad == "abc"
    return False


def call(name, arguments):
    return getattr(environments, name)(**arguments)


def test_everything_public_is_called():
    assert set(CALLS) == set(environments.__all__) - TYPES


def marked(name):
    """The case, which for the adapters needs JaxMARL."""
    return pytest.param(name, marks=pytest.mark.needs("jaxmarl")) if name in ("to_jaxmarl", "from_jaxmarl") else name


@pytest.mark.parametrize("name", [marked(name) for name in CALLS])
def test_a_bad_argument_is_one_line(name, tmp_path):
    wrong = []
    for argument, good in CALLS[name].items():
        for what, bad in BAD.items():
            try:
                call(name, {**CALLS[name], argument: bad})
            except (ValueError, TypeError) as error:
                line = str(error)
                if not FORM.match(line) or "\n" in line or len(line) > 600:
                    wrong.append(f"{argument}={what}: {type(error).__name__}: {line[:150]!r}")
            except Exception as error:
                wrong.append(f"{argument}={what}: {type(error).__name__}: {str(error)[:150]!r}")
            else:
                if is_wrong(good, bad) and not may_be(name, argument, bad):
                    wrong.append(f"{argument}={what}: accepted")
    assert not wrong, "\n".join(wrong)


LINES = {
    "no action": (lambda: environments.discrete(0), r"discrete: num must be an integer >= 1, got 0\."),
    "a shape that is a number": (
        lambda: environments.discrete(3, 4),
        r"discrete: shape must be integers >= 1, got 4\.",
    ),
    "a side of nothing": (lambda: environments.box((2, 0)), r"box: shape\[1\] must be an integer >= 1, got 0\."),
    "bounds the wrong way round": (
        lambda: environments.box((2,), 1.0, -1.0),
        r"box: low must be at most high, -1, got 1\. Exchange the two\.",
    ),
    "a bound that is none": (
        lambda: environments.box((2,), float("nan")),
        r"box: low must be a finite number, got nan\.",
    ),
    "a type of whole numbers": (lambda: environments.box((2,), dtype="int32"), r"box: dtype must be one of float32, "),
    "cells that int32 cannot number": (
        lambda: environments.synchronization(4, 10**6, 10**6),
        r"synchronization: height \* width must be at most 2147483647, 2\^31 - 1, got 1000000000000\. Use smaller",
    ),
    "windows that int32 cannot number": (
        lambda: environments.pathfinding(OPEN, 2, view=60001),
        r"pathfinding: num_agents \* window must be at most 2147483647",
    ),
    "maps of the host": (
        lambda: environments.random_map(10**6, 10**6, 0.5),
        r"random_map: height \* width must be at most 268435456, cells of a map that is drawn here, got 1000000000000\.",
    ),
    "pairs that int32 cannot number": (
        lambda: environments.simple_tag(num_good=10**6),
        r"tag: num_good \+ num_adversaries \+ num_obstacles must be at most 46340, of which all see all, got 1000005\.",
    ),
    "steps beyond int32": (
        lambda: environments.coin_game(10**6, 10**6),
        r"coin_game: num_steps \* num_games must be at most 2147483647, 2\^31 - 1, got 1000000000000\.",
    ),
    "a policy without a function": (
        lambda: environments.play(GAME, Policy(act=None)),
        r"play: policy\.act must be a function, got None\.",
    ),
    "the name of a world": (
        lambda: environments.auto_reset("chicken"),
        r"auto_reset: environment must be an Environment, got 'chicken'\. Call its factory first\.",
    ),
    "the factory of a world": (
        lambda: environments.play(environments.flocking, SILENT),
        r"play: environment must be an Environment, got function flocking\. Call its factory first\.",
    ),
    "a state of another world": (
        lambda: environments.figure_of(SWARM, PLANS),
        r"figure_of: state must be a state of 'synchronization', got FollowingState\. Use what its reset and step return",
    ),
    "one state in place of many": (
        lambda: environments.animate(SWARM, START, "film.gif"),
        r"animate: states must be states of 'synchronization', stacked over time, got SwarmState\.",
    ),
    "costs that draw paths in circles": (
        lambda: environments.cost_to_go(OPEN, -jnp.ones((3, 3)), CELLS),
        r"cost_to_go: costs must be above 0, got -1 among them\.",
    ),
    "a seller beyond int32": (
        lambda: environments.fisher_market([[2**31]], [[1.0]], [1.0], [1.0], 2),
        r"fisher_market: near must be integers below 2\^31, got array \[\[2147483648\]\]\.",
    ),
    "a team of another type": (
        lambda: environments.skirmish(Scenario((7,), (0,))),
        r"skirmish: allies\[0\] must be an integer in \[0, 5\], got 7\.",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_lines(name):
    make, line = LINES[name]
    with pytest.raises(ValueError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_is_right_is_kept():
    assert environments.discrete(np.int64(3), [2]) == Space((2,), 3, 0, 2, "int32")
    assert environments.box([2, np.int64(3)]) == Space((2, 3), None, -np.inf, np.inf, "float32")
    assert environments.box((), 1, 1) == Space((), None, 1.0, 1.0, "float32")
    assert environments.box((1,), -np.inf, 0.5).low == -np.inf
