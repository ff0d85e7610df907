"""One right call of every public function, from which `test_wrong_arguments` takes wrong ones.

A new public function adds a row here: the arguments that have no default, and those that `**options` hide.  Values are
made when they are first asked for.
"""

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
from dlsim import analysis, arrivals, clocks, core, environments, marl, networks, plotting, problems

ROOMS = ("algorithms", "aggregators", "networks", "problems", "analysis", "clocks", "arrivals", "environments", "marl")
ROOMS = (*ROOMS, "plotting", "metrics", "dlsim")
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

ROWS: dict[str, dict[str, Call]] = {
    "aggregators": {
        "krum": just(num_byzantine=1),
        "self_centered_clipping": just(radius=1.0),
        "trimmed_mean": just(num_trimmed=1),
    },
    "algorithms": {
        "a2cid2": lambda: {**optimized()(), "constants": dlsim.algorithms.a2cid2_constants(ring())},
        "a2cid2_constants": IN_NETWORK,
        "ad_psgd": optimized(),
        "afa_cd": rated("client_rate", pace=PACE, **AFA),
        "afa_cs": rated("client_rate", pace=PACE, **AFA),
        "centralized_sgd": optimized(),
        "choco_sgd": optimized(),
        "d2": optimized(),
        "decentralized_admm": just(problem=problem),
        "dsgd": optimized(),
        "exact_diffusion": optimized(),
        "extra": rated(),
        **{name: clients(server_learning_rate=0.1) for name in ("fedadam", "fedyogi", "fedadagrad")},
        "fedasync": clients(pace=PACE),
        "fedavg": clients(),
        "fedbuff": clients(pace=PACE, buffer_size=2),
        "fedcompass": clients(pace=PACE, **COMPASS),
        "federated_arrivals": lambda: {**clients()(), "schedule": schedule()},
        "fedfix": clients(pace=PACE, window=1.0),
        "fedprox": clients(),
        "gossip_learning": optimized(),
        "gradient_tracking": optimized(),
        "isolated_training": optimized(),
        "k_gt": rated("local_learning_rate"),
        "local_events": optimized(where="local_events"),
        "local_updates": optimized(),
        "nids": rated(),
        "proxskip": rated(),
        "quasi_global_momentum": rated(),
        "randomized_gossip": lambda: {"values": jnp.ones((4, 3))},
        "relay_sgd": optimized(),
        "scaffold": rated("local_learning_rate"),
        "stochastic_gradient_push": optimized(),
        "swarm_sgd": optimized(),
        "synchronous_fedavg": clients(pace=PACE),
    },
    "analysis": {
        "axes": DATA,
        "best": just(results=results, metric="accuracy", over="rate"),
        "best_runs": lambda: {"results": results(), "chosen": analysis.best(results(), "accuracy", over="rate")},
        "first_reaching": just(results=results, metric="accuracy", target=0.5),
        "mean_and_spread": DATA,
        "pareto": just(results=results, metric="accuracy", cost="bits_sent"),
        "power_law": just(x=[1.0, 2.0, 4.0], y=[1.0, 2.0, 4.1]),
        "reduce_steps": DATA,
        "scores": just(results=results, metrics=["accuracy"]),
        "spread_text": just(mean=0.5),
        "to_csv": just(results=results, path="table.csv"),
        "to_table": DATA,
    },
    "arrivals": {
        "anarchic": just(pace=PACE, num_steps=2, buffer_size=2),
        "buffered": just(pace=PACE, num_steps=2, buffer_size=2),
        "compass": just(pace=PACE),
        "first_jobs": just(schedule=schedule, num_jobs=3),
        "fixed_window": just(pace=PACE, num_steps=2, window=0.1),
        "gantt": just(jobs=jobs),
        "jobs_per_client": just(jobs=jobs, num_clients=4),
        "linear_speeds": just(num_clients=4, percent=50.0),
        "next_arrival": just(pace=PACE, num_steps=2),
        "pace": just(num_clients=4, seconds_per_step=0.1),
        "pace_from_links": lambda: {
            "links": networks.links(4, compute=0.1),
            "batch_size": 2,
            "bits_down": 10.0,
            "bits_up": 10.0,
        },
        "participation": just(jobs=jobs, num_clients=4),
        "staleness_histogram": just(jobs=jobs),
        "synchronous": just(pace=PACE, num_steps=2),
    },
    "clocks": {
        "advance": lambda: {"clock": POISSON, "position": clocks.cursor(POISSON, [0, 1], KEY), "stop": 2**30},
        "check_tape": just(where="check_tape", tape=tape, network=ring),
        "choose_width": just(sizes=np.array([2, 3])),
        "clock_edges": IN_NETWORK,
        "cursor": just(clock=POISSON, ids=[0, 1], key=KEY),
        "deterministic": just(period=1.0),
        "event_keys": lambda: {"key": KEY, "events": some_events()},
        "events": just(clock=POISSON, ids=[0, 1], key=KEY, start=0.0, stop=2.0),
        "in_tape_order": lambda: {
            "outputs": jnp.zeros((blocks().num_blocks, blocks().width)),
            "blocks": blocks(),
        },
        "log_normal": just(median=1.0, sigma=0.5),
        "make_tape": just(network=ring, gradient_clock=POISSON, communication_clock=POISSON, key=KEY, horizon=2.0),
        "make_waves": just(tape=tape),
        "neighbor_rates": IN_NETWORK,
        "one_by_one": just(tape=tape),
        "pack": just(waves=waves, tape=tape),
        "play": lambda: {"carry": jnp.zeros((4, 2)), "blocks": blocks(), "event_fns": {0: on_event, 1: on_event}},
        "play_between": lambda: {
            "carry": jnp.zeros((4, 2)),
            "blocks": jax.tree.map(jnp.asarray, blocks()),
            "event_fns": {0: on_counted, 1: on_counted},
            "begin": jnp.int32(0),
            "end": jnp.int32(2),
            "totals": jnp.int32(0),
        },
        "plot_waves": lambda: {"waves": {"ring": waves()}},
        "poisson": just(rate=1.0),
        "stream_tape": just(
            network=ring, gradient_clock=POISSON, communication_clock=POISSON, key=KEY, horizon=2.0, block=1.0
        ),
        "tape": just(num_nodes=3, kind=[0, 1], a=[0, 1], b=[-1, 2], ticks=[5, 7]),
        "to_seconds": just(ticks=2**30),
        "to_ticks": just(seconds=1.0),
        "trace": just(times=[[0.5, 1.2]]),
        "wave_summary": just(waves=waves),
    },
    "dlsim": {
        "learn": lambda: {
            "problem": problem(),
            "algorithm": dlsim.algorithms.dsgd(problem(), SGD),
            "network": ring(),
        },
        "simulate": lambda: {"process": process(), "num_steps": 1, "seed": 0, "progress": False},
        "stop_at": just(name="loss", at_most=0.1),
        "stop_on_plateau": just(name="loss", patience=2),
        "sweep": lambda: {
            "what": lambda rate: process(),
            "axes": {"rate": [0.1]},
            "layout": "map",
            "lanes": 1,
            "num_steps": 1,
            "seed": 0,
            "progress": False,
        },
    },
    "environments": {
        "animate": lambda: {
            "environment": hunt()[0],
            "states": jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), hunt()[1]),
            "path": "film.html",
        },
        "auto_reset": ARENA,
        "box": just(shape=(3,)),
        "cell_market": just(num_users=6, num_stations=4, optimum_rounds=2),
        "cost_to_go": lambda: {
            "obstacles": jnp.asarray(walls()),
            "costs": jnp.ones((6, 6)),
            "goals": jnp.array([[1, 1], [2, 3]]),
        },
        "discrete": just(num=3),
        "figure_of": lambda: {"environment": hunt()[0], "state": hunt()[1]},
        "fisher_market": just(
            near=np.array([[0, 1], [1, 0]]), worth=np.ones((2, 2)), budgets=np.ones(2), supply=np.ones(2), rounds=2
        ),
        "follow": lambda: {"key": KEY, "state": jax.jit(followed().reset)(KEY)[0]},
        "follow_policy": just(environment=followed),
        "following": just(obstacles=walls, num_agents=2, view=3),
        "from_jaxmarl": lambda: {"jaxmarl_environment": environments.to_jaxmarl(spread())},
        "group_metrics": lambda: {"before": hunt()[1], "after": hunt()[1], "actions": jnp.zeros(2, jnp.int32)},
        "host_policy": lambda: {"fn": lambda situation: np.zeros(2, np.int32), "environment": spread()},
        "maze_map": just(height=5, width=5),
        "message_metrics": just(texts=["go left", "go right"]),
        "parse_map": just(text=MAP),
        "parse_pogema": just(text="..#\n...\n"),
        "pathfinding": just(obstacles=walls, num_agents=2, view=3),
        "play": lambda: {"environment": spread(), "policy": environments.random_policy(spread())},
        "random_map": just(height=5, width=5, density=0.2),
        "random_policy": ARENA,
        "read_map": just(path="map.txt"),
        "room_map": just(rooms_down=2, rooms_across=2, room_size=2),
        "skirmish": just(scenario="3m"),
        "small_cells": just(num_users=6, num_stations=4),
        "static_penalty": lambda: {"obstacles": jnp.asarray(walls())},
        "to_jaxmarl": ARENA,
        "waypoints": lambda: {
            "values": jnp.ones((2, 6, 6)),
            "costs": jnp.ones((6, 6)),
            "positions": jnp.array([[1, 1], [2, 2]]),
            "goals": jnp.array([[1, 3], [2, 4]]),
        },
        "write_map": just(obstacles=walls),
    },
    "marl": {
        "from_flax": lambda: {"make": lambda num_outputs, gain: __import__("flax").linen.Dense(num_outputs)},
        "ippo": lambda: {**ARENA(), **PPO},
        "iql": lambda: {**ARENA(), **Q},
        "mappo": lambda: {**ARENA(), **PPO},
        "pqn_vdn": lambda: {**ARENA(), **PQN},
        "qmix": lambda: {**ARENA(), **Q},
        "train": lambda: {"learner": marl.ippo(spread(), **PPO)},
        "vdn": lambda: {**ARENA(), **Q},
    },
    "metrics": {
        "consensus_distance": lambda: {"params": jnp.ones((4, 3))},
        "population": lambda: {"problem": problem(), "params": jnp.ones((4, 3))},
    },
    "networks": {
        "barabasi_albert": just(num_nodes=8, num_links=2),
        "byzantine": just(node_ids=(0, 1)),
        "caveman": just(num_nodes=8, clique_size=4),
        "chain": lambda: {LATER: (networks.loss(0.1), networks.sign())},
        "check_stochastic": lambda: {
            "graph": graph(),
            "edge_weights": np.full(6, 0.2),
            "self_weights": np.full(4, 0.5),
        },
        "chi_1": EITHER,
        "chi_2": EITHER,
        "connect": just(graph=graph),
        "crash": just(at_step=1, fraction=0.2),
        "diameter": EITHER,
        "draw": IN_NETWORK,
        "effective_resistances": EITHER,
        "epidemic": just(out_degree=2),
        "erdos_renyi": just(num_nodes=8, probability=0.6),
        "error_feedback": lambda: {"compressor": networks.sign()},
        "from_edge_list": just(path="edges.txt"),
        "from_jraph": lambda: {"graphs_tuple": networks.to_jraph(ring())},
        "from_matrix": just(matrix=np.full((3, 3), 1 / 3)),
        "from_networkx": lambda: {"network": networks.to_networkx(ring())},
        "gaussian_noise": just(standard_deviation=0.1),
        "graph": just(num_nodes=4, senders=np.array([0, 1, 2]), receivers=np.array([1, 2, 3])),
        "host_graph": IN_NETWORK,
        "hypercube": just(num_nodes=8),
        "is_connected": EITHER,
        "laplacian": EITHER,
        "link_failure": just(probability=0.2),
        "links": just(num_nodes=4),
        "loss": just(probability=0.2),
        "mixing_matrix": IN_NETWORK,
        "mixing_rate": IN_NETWORK,
        "mixing_weights": just(graph=graph, name="laplacian", step=0.2),
        "participation": just(cohort_size=2),
        "quantize": just(bits=4),
        "random_geometric": just(num_nodes=8, radius=0.8),
        "random_k": just(fraction=0.5),
        "random_presence": just(probability=0.5),
        "random_regular": just(num_nodes=8, degree=3),
        "random_sparsification": just(probability=0.5),
        "read_graph_file": just(path="edges.txt"),
        "reverse_edges": IN_NETWORK,
        "second_eigenvalue": IN_NETWORK,
        "send_edges": lambda: {"network": ring(), "key": KEY, "tree": jnp.ones((8, 2))},
        "spectral_gap": IN_NETWORK,
        "spectrum": IN_NETWORK,
        "stochastic_block": just(num_nodes=8, num_blocks=2, within=0.9, between=0.5),
        "time_varying": lambda: {"networks": [ring(), networks.star(4)]},
        "to_jraph": IN_NETWORK,
        "to_networkx": IN_NETWORK,
        "top_k": just(fraction=0.5),
        "watts_strogatz": just(num_nodes=8, degree=4, probability=0.1),
        **{
            name: just(num_nodes=8)
            for name in ("base_graph", "binary_tree", "bipartite", "complete", "exponential", "grid")
            + ("one_peer_exponential", "path", "ring", "star", "torus")
        },
    },
    "plotting": {
        "curves": lambda: {"ax": panel(), "data": results().accuracy.isel(rate=0, drop=True), "hue": "graph"},
        "heat_map": lambda: {
            "ax": panel(),
            "data": results().accuracy.isel(seed=0, step=0, drop=True),
            "x": "rate",
            "y": "graph",
        },
        "letters": lambda: {"axes": [panel()], "titles": ["one"]},
        "main_metric": DATA,
        "overview": DATA,
        "panels": just(num_rows=1, num_columns=1),
        "pareto_plot": lambda: {
            "ax": panel(),
            "results": results(),
            "metric": "accuracy",
            "cost": "bits_sent",
            "hue": "graph",
        },
        "share_legend": lambda: (lambda one: {"figure": one[0], "axes": one[1]})(plotting.panels(1, 1)),
        "slope": lambda: {"ax": panel(), "x": [1.0, 2.0, 4.0], "y": [1.0, 2.0, 4.1], "expected": 1.0},
    },
    "problems": {
        "auto_block": lambda: {"fn": lambda x: x, LATER: (jnp.ones((4, 2)),)},
        "avg_pool": lambda: {"inputs": jnp.ones((1, 4, 4, 1))},
        "batch_positions": just(
            key=KEY, node_ids=jnp.arange(4), sizes=jnp.full(4, 9), batch_size=2, sampling="with_replacement"
        ),
        "bootstrap": just(num_examples=4),
        "by_column": just(name="writer"),
        "classification": lambda: {"dataset": data(), "num_nodes": 4, "model": "softmax"},
        "conv_general_dilated": lambda: {
            "lhs": jnp.ones((1, 4, 4, 1)),
            "rhs": jnp.ones((2, 2, 1, 1)),
            "window_strides": (1, 1),
            "padding": "SAME",
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        },
        "dataset": just(inputs=np.ones((9, 2)), labels=np.arange(9) % 3),
        "describe": just(made=parts, dataset=data),
        "dirichlet": just(alpha=0.5),
        "from_flax": lambda: {"module": __import__("flax").linen.Dense(3), "input_shape": (2,)},
        "load": just(source="digits"),
        "logistic_regression": lambda: {"dataset": data(), "num_nodes": 4, "positive": (0,), "solve": False},
        "map_nodes": lambda: {"fn": lambda x: x},
        "max_pool": lambda: {"inputs": jnp.ones((1, 4, 4, 1))},
        "partition": lambda: {"dataset": data(), "num_nodes": 4, "partitioner": problems.iid()},
        "partition_from_lists": just(lists=[[0, 1], [2, 3]]),
        "plot_partition": just(made=parts, dataset=data),
        "quadratic": just(num_nodes=4, dimension=3),
        "supervised": lambda: {"model": "softmax", "dataset": data(), "partition": parts()},
    },
}

# Kinds that are right where neither the annotation nor the right value says so, with the reason.
MORE: dict[str, frozenset[str]] = {
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
    "networks.mixing_weights.step": frozenset({"none"}),
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

# Arguments that still fail in another way, as `room.function(argument`; to be mended, never to grow.
LEFT: frozenset[str] = frozenset({"dlsim.learn(initial_params", "dlsim.sweep(progress"})


def write_files(folder: pathlib.Path) -> None:
    """What the rows read."""
    (folder / "edges.txt").write_text("0 1\n1 2\n")
    (folder / "map.txt").write_text(MAP)
