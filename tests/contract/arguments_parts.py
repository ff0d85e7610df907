"""The small things that the right calls of `arguments_table` are made of."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dlsim
from dlsim import arrivals, clocks, core, environments, networks, plotting, privacy, problems

ROOMS = ("algorithms", "aggregators", "networks", "problems", "analysis", "clocks", "arrivals", "environments", "marl")
ROOMS = (*ROOMS, "privacy", "plotting", "metrics", "trust", "dlsim")
LATER = "*"  # the name of a row's entry for `*parts`

Call = Callable[[], dict[str, Any]]
KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
MAP = "type octile\nheight 2\nwidth 3\nmap\n..@\n...\n"
PACE = arrivals.pace(4, 0.1)
POISSON = clocks.poisson(2.0)


@functools.cache
def problem() -> core.Problem:
    return problems.quadratic(4, 3)


@functools.cache
def ring() -> networks.Network:
    return networks.ring(4)


@functools.cache
def graph() -> networks.Graph:
    return networks.graph(4, np.array([0, 1, 2]), np.array([1, 2, 3]))


@functools.cache
def data() -> problems.Dataset:
    return problems.synthetic_classification(60, 4, 3)


@functools.cache
def parts() -> problems.Partition:
    return problems.partition(data(), 4, problems.iid())


@functools.cache
def examples() -> core.Problem:
    return problems.supervised("softmax", data(), parts(), batch_size=2)


@functools.cache
def private_curve() -> privacy.Renyi:
    return privacy.gaussian(1.0)


@functools.cache
def process() -> core.Process:
    """One that is compiled at once."""
    return core.Process(
        lambda key: jnp.zeros(4), lambda key, state: (state + 1, {}), lambda state, info: {"x": state[0]}
    )


@functools.cache
def results() -> Any:
    """A sweep's Dataset: accuracy and bits over graphs, rates, seeds and steps."""
    import xarray

    dims = ("graph", "rate", "seed", "step")
    values = np.linspace(0.1, 0.9, 24).reshape(2, 2, 2, 3)
    coords = {"graph": ["ring", "torus"], "rate": [0.1, 0.2], "seed": [0, 1], "step": [0, 5, 10]}
    made = {"accuracy": (dims, values), "bits_sent": (dims, 100 * values), "loss": (dims, 1 - values)}
    return xarray.Dataset({**made, "diverged_step": (dims[:3], np.full((2, 2, 2), -1))}, coords=coords)


@functools.cache
def tape() -> clocks.Tape:
    return clocks.make_tape(ring(), POISSON, clocks.poisson(1.0), KEY, 3.0)


@functools.cache
def waves() -> clocks.Waves:
    return clocks.make_waves(tape())


@functools.cache
def blocks() -> clocks.Blocks:
    return clocks.pack(waves(), tape(), width=4)


def on_event(events: clocks.Events, *rows: Any) -> Any:
    return rows if len(rows) > 1 else rows[0]


def on_counted(events: clocks.Events, *rows: Any) -> Any:
    return (*rows, jnp.sum(events.is_event.astype(jnp.int32)))


def some_events() -> clocks.Events:
    one, true = np.ones(2, np.uint32), np.ones(2, bool)
    return clocks.Events(one, one, 0, one, one, one, one, one, true, {})


def spsa_log() -> Any:
    """Two rounds of three nodes."""
    rounds = np.zeros((2, 2), np.uint32), np.ones((2, 3, 1), np.float32), np.ones((2, 3), bool)
    return dlsim.algorithms.SPSALog(*rounds)


@functools.cache
def jobs() -> arrivals.Jobs:
    return arrivals.first_jobs(schedule(), 12)


@functools.cache
def schedule() -> arrivals.Schedule:
    return arrivals.next_arrival(PACE, 2)


@functools.cache
def spread() -> environments.Environment:
    return environments.simple_spread(2, 2, max_steps=3)


@functools.cache
def walls() -> np.ndarray:
    return np.zeros((6, 6), bool)


@functools.cache
def followed() -> Any:
    return environments.following(walls(), 2, view=3, max_steps=4)


@functools.cache
def hunt() -> tuple[Any, Any]:
    made = environments.pursuit(2, max_rounds=4)
    state, _ = jax.jit(made.reset)(KEY)
    return made, state


def panel() -> Any:
    return plotting.panels(1, 1)[1][0, 0]


def optimized(**more: Any) -> Call:
    return lambda: {"problem": problem(), "optimizer": SGD, **more}


def clients(**more: Any) -> Call:
    return lambda: {"problem": problem(), "client_optimizer": SGD, **more}


def rated(name: str = "learning_rate", **more: Any) -> Call:
    return lambda: {"problem": problem(), name: 0.1, **more}


def just(**given: Any) -> Call:
    """Values, or what makes them (functions without a name of their own)."""
    made = {
        name: value if isinstance(value, functools._lru_cache_wrapper) else (lambda value=value: value)
        for name, value in given.items()
    }
    return lambda: {name: make() for name, make in made.items()}


AFA = {"num_local_steps": 2, "buffer_size": 2, "server_rate": 1.0, "literal": False, "steps": "uniform", "idle": 0.0}
COMPASS = {"min_steps": 2, "max_steps": 4, "latest_factor": 1.2, "speed_momentum": 0.9, "first_steps": 2}
SHARED = {"num_copies": 4, "num_steps": 4, "num_epochs": 1, "discount": 0.9, "has_ids": False, "eval_steps": 3}
PPO = {**SHARED, "num_minibatches": 2, "trace": 0.9, "clip": 0.2, "entropy_weight": 0.0, "value_weight": 0.5}
PPO = {**PPO, "normalize": True, "num_eval_episodes": 2, "sharing": None, "model": None, "critic_model": None}
Q = {**SHARED, "capacity": 8, "batch_size": 4, "learning_starts": 8, "target_period": 2, "reward_scale": 1.0}
Q = {**Q, "exploration": (1.0, 0.1, 5.0), "num_eval_episodes": 2, "sharing": None, "model": None}
PQN = {"num_copies": 4, "num_steps": 4, "num_minibatches": 2}
IN_NETWORK = just(network=ring)
EITHER = just(network_or_graph=ring)
DATA = just(results=results)
ARENA = just(environment=spread)


# Kinds that are right where neither the annotation nor the right value says so, with the reason.
MORE: dict[str, frozenset[str]] = {
    # Whatever a tree is made of.
    "dlsim.save.what": frozenset(
        {"array", "flag", "huge", "inf", "integer", "key", "mapping", "nan", "none", "noun", "number", "object"}
        | {"sequence", "text"}
    ),
    # Ticks are int64.
    "clocks.advance.stop": frozenset({"huge"}),
    "clocks.tape.stop": frozenset({"huge"}),
    "clocks.to_ticks.seconds": frozenset({"sequence"}),
    "clocks.to_seconds.ticks": frozenset({"sequence"}),
    # What is not finite is written as such.
    "analysis.spread_text.mean": frozenset({"nan"}),
    "analysis.spread_text.spread": frozenset({"nan"}),
    # What the environment or the sharing says.
    **{f"marl.{name}.eval_steps": frozenset({"none"}) for name in ("ippo", "iql", "mappo", "qmix", "vdn")},
    **{f"marl.{name}.has_ids": frozenset({"none"}) for name in ("iql", "qmix", "vdn")},
    "marl.from_flax.make": frozenset({"object"}),
    # Seeds of NumPy's generators.
    **{
        f"networks.{name}.seed": frozenset({"huge"})
        for name in ("barabasi_albert", "erdos_renyi", "random_geometric", "random_regular", "stochastic_block")
        + ("watts_strogatz",)
    },
    "networks.byzantine.node_ids": frozenset({"integer"}),
    **{f"problems.{name}.node_ids": frozenset({"integer"}) for name in ("backdoor", "free_riders", "label_flip")},
    "networks.mixing_weights.step": frozenset({"none"}),
    "networks.secure_aggregation.weights": frozenset({"none"}),  # it has no default, so that equal weights are said
    # Rates may be functions of the round, and a schedule one of the network; a pace comes from a network's links.
    **{
        f"algorithms.{case}": frozenset({"function", "object"})
        for case in ("afa_cd.client_rate", "afa_cs.client_rate", "scaffold.local_learning_rate")
        + ("scaffold.server_learning_rate", "federated_arrivals.schedule")
        + tuple(f"{name}.server_learning_rate" for name in ("fedadam", "fedyogi", "fedadagrad"))
    },
    **{f"algorithms.{name}.pace": frozenset({"none"}) for name in ("afa_cd", "afa_cs")},
    "algorithms.fedcompass.first_steps": frozenset({"none"}),
    # A name alone for a list of one.
    "analysis.to_table.metrics": frozenset({"text"}),
}

# Functions whose right call needs a package beyond the extra `test`.
NEEDS = {
    **{f"environments.{name}": "jaxmarl" for name in ("from_jaxmarl", "to_jaxmarl")},
    "networks.matcha": "cvxpy",
    **{f"privacy.{name}": "dp_accounting" for name in ("delta", "epsilon", "epsilons", "noise_multiplier")},
}

# What is handed on to others, whose own words are heard: `jax.lax`, and the functions of a user's problem.
FOREIGN = frozenset(
    {
        "metrics.population.params",
        "problems.conv_general_dilated.lhs_dilation",
        *(
            f"problems.conv_general_dilated.{name}"
            for name in ("dimension_numbers", "precision", "preferred_element_type")
        ),
    }
)


def write_files(folder: pathlib.Path) -> None:
    """What the rows read."""
    dlsim.save(folder / "models.msgpack", jnp.zeros(2))
    (folder / "edges.txt").write_text("0 1\n1 2\n")
    (folder / "devices.csv").write_text("client_id,computation,communication\n0,10,500\n1,20,900\n")
    (folder / "rates.csv").write_text("Timestamp,DL_bitrate,UL_bitrate\n0,10,5\n1,20,9\n")
    (folder / "sessions.csv").write_text("client_id,active,inactive\n0,0,60\n1,30,90\n")
    (folder / "map.txt").write_text(MAP)
