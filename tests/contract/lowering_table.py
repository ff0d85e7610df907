"""Every method as one round, for `test_lowering`: what a device runs of it, made of the rows of the other tables."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax
from contract import arguments_table, arrivals_table, event_table, world
from contract.parts import AGGREGATORS, CHANNELS, SCENARIOS
from contract.table import CASES

import dlsim
from dlsim import algorithms, clocks, environments, marl, networks
from dlsim.core import Problem, Process

LOWERINGS = ("average", "shifts", "neighbors", "edges", "dense")  # of `mix`
SCRIPTS = {  # policies, with the world that they act in
    "script_bidding": "small_cells",
    "script_flocking": "flocking",
    "script_foraging": "foraging",
    "script_pursuit": "pursuit",
    "script_synchronization": "synchronization",
    "script_transport": "transport",
    "script_waiting": "small_cells",
    "follow_policy": "following",
    "random_policy": "simple_spread",
}
ELSEWHERE = {  # what has no row, and why
    "from_jaxmarl": "another's environment",
    "host_policy": "asks the host on purpose; `test_lowering` shows that it is found",
    "play": "what the rows of environments are played by",
    "ippo": "mappo without the critic that sees everything",
    "iql": "qmix without its mixer",
    "vdn": "qmix with a sum for its mixer",
}


def round_of(process: Process, is_measured: bool = True) -> Callable[[jax.Array], Any]:
    """The first state, a step, and what is measured of it: all of a process that runs on the device."""

    def run(words: jax.Array) -> Any:
        key = jax.random.wrap_key_data(words)
        state, info = process.step(key, process.init(key))
        return state, process.measure(state, info) if is_measured and process.measure else None

    return run


def is_measured(name: str, names: list[str]) -> bool:
    """Whether the row's measures are its own: what `learn` measures of a problem is the same in every row of a kind."""
    kind = name.split()[0]
    own = ("environment", "policy", "learner")
    return kind in own or name == next(other for other in names if other.split()[0] == kind)


@functools.cache
def problem() -> Problem:
    return world.problem()


def dsgd(network: Any = None, scenario: Any = None, **options: Any) -> Process:
    algorithm = algorithms.dsgd(problem(), optax.sgd(world.RATE), **options)
    return dlsim.learn(problem(), algorithm, world.uneven() if network is None else network, scenario)


def mixed_by(lowering: str) -> Process:
    network = world.complete() if lowering == "average" else networks.ring(world.NUM_NODES)
    return dsgd(network.with_lowering(lowering))


def arriving(method: arrivals_table.Method) -> Process:
    algorithm, network = method.make(problem(), world.RATE), networks.complete(world.NUM_NODES)
    return dlsim.learn(problem(), algorithm, network, timing=clocks.timing(window=0.5))


def called(room: Any, name: str) -> Any:
    """What a public function makes of the arguments in `arguments_table`."""
    rows = arguments_table.ROWS[room.__name__.removeprefix("dlsim.")]
    return getattr(room, name)(**(rows[name]() if name in rows else {}))


def played(name: str) -> Process:
    made = called(environments, name)
    if isinstance(made, environments.Environment):
        return environments.play(made, environments.random_policy(made))
    return made


def scripted(name: str) -> Process:
    environment = called(environments, SCRIPTS[name])
    given = {"environment": environment} if name in ("follow_policy", "random_policy") else {}
    return environments.play(environment, getattr(environments, name)(**given))


def makers(room: Any, *kinds: str) -> list[str]:
    """Public functions of a room that make one of these kinds."""
    functions = [name for name in room.__all__ if inspect.isfunction(getattr(room, name))]
    return [name for name in functions if str(inspect.signature(getattr(room, name)).return_annotation) in kinds]


def every_process() -> dict[str, Callable[[], Process]]:
    """What makes the process of every row, by a name that says which."""
    found: dict[str, Callable[[], Process]] = {}
    for case in CASES:
        found[f"algorithm {case.id}"] = lambda case=case: dlsim.learn(
            problem(), case.make(problem(), world.RATE), case.network()
        )
    lossy = next(place for place in event_table.WORLDS if place.channel and place.scenario)
    for case in event_table.EVENT_CASES:
        found[f"event method {case.id}"] = lambda case=case: lossy.process(case.make(problem(), world.RATE), problem())
    for name, method in arrivals_table.METHODS.items():
        found[f"arrival method {name}"] = lambda method=method: arriving(method)
    for case in CHANNELS:
        found[f"channel {case.id}"] = lambda case=case: dsgd(world.uneven().with_channel(case.make()))
    for case in SCENARIOS:
        found[f"scenario {case.id}"] = lambda case=case: dsgd(case.network(), scenario=case.make())
    for case in AGGREGATORS:
        # Each node hears enough for every rule of the table.
        found[f"aggregator {case.name}"] = lambda case=case: dsgd(
            world.complete().with_lowering("neighbors"), aggregator=case.make()
        )
    for name in LOWERINGS:
        found[f"mixing {name}"] = lambda name=name: mixed_by(name)
    for name in makers(environments, "Environment", "Process"):
        if name not in ELSEWHERE:
            found[f"environment {name}"] = lambda name=name: played(name)
    for name in makers(environments, "Policy"):
        if name not in ELSEWHERE:
            found[f"policy {name}"] = lambda name=name: scripted(name)
    for name in makers(marl, "Learner"):
        if name not in ELSEWHERE:
            found[f"learner {name}"] = lambda name=name: marl.train(called(marl, name))
    return found
