"""`sweep` from end to end: every run is the one that `simulate` makes, whatever it shares a program with."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
from tiny_sweeps import EVERY, NODES, RECORD, STEPS, check_runs, classification, close, one_by_one, quadratic, walk

import dlsim
from dlsim import keys, networks
from dlsim.core import Process, Record
from dlsim.sweeps import api

SEEDS = (0, 3)
GRID = {"topology": ["ring", "complete"], "learning_rate": [0.05, 0.2]}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Programs are compiled for one device, unless a test is about several."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)


@pytest.fixture(scope="module")
def runs():
    return one_by_one(quadratic, GRID, SEEDS)


def swept(make, axes, seed=SEEDS, num_steps=STEPS, record=RECORD, **more):
    return dlsim.sweep(make, axes, seed=seed, num_steps=num_steps, record=record, progress=False, **more)


@pytest.mark.parametrize(("layout", "lanes"), [("auto", None), ("vmap", 1), ("map", 1), (2, 2), ("4x2", 1)])
def test_layouts_and_lanes_change_nothing(runs, layout, lanes):
    results = swept(quadratic, GRID, layout=layout, lanes=lanes)
    check_runs(results, GRID, runs)
    assert (results.diverged_step == -1).all() and (results.seconds_per_step > 0).all()


def test_several_devices_change_nothing(runs, monkeypatch):
    devices = jax.devices()[:2]
    assert len(devices) == 2
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    check_runs(swept(quadratic, GRID, layout="vmap"), GRID, runs)


@pytest.mark.parametrize(
    ("make", "axes"),
    [
        pytest.param(quadratic, {"momentum": [0.5, 0.9], "heterogeneity": [0.1, 2.0]}, id="momentum"),
        pytest.param(quadratic, {"churn": [0.1, 0.6], "kept": [0.34], "lost": [0.2]}, id="churn, top_k and loss"),
        pytest.param(quadratic, {"num_nodes": [5, 7]}, id="sizes"),
        pytest.param(classification, {"model": ["mlp"], "algorithm": ["gradient_tracking"]}, id="mlp"),
        pytest.param(classification, {"alpha": [0.3, 9.0], "learning_rate": [0.1, 0.5]}, id="dirichlet"),
    ],
)
def test_every_run_is_that_of_simulate(make, axes):
    check_runs(swept(make, axes, layout="vmap"), axes, one_by_one(make, axes, SEEDS))


def test_a_channel_that_depends_on_a_float_is_kept_in_common_topologies():
    """The topologies are brought to one form; the channel of each run must stay the one of its own probability."""
    axes = {"topology": ["ring", "star"], "lost": [0.0, 1.0]}
    check_runs(swept(quadratic, axes), axes, one_by_one(quadratic, axes, SEEDS))


def time_varying(topology="ring", learning_rate=0.1):
    problem = dlsim.problems.quadratic(NODES, 3)
    scenario = networks.time_varying([getattr(networks, topology)(NODES), networks.complete(NODES)])
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(learning_rate))
    return dlsim.learn(problem, algorithm, networks.ring(NODES), scenario)


def test_time_varying_topologies():
    axes = {"topology": ["ring", "star"], "learning_rate": [0.1, 0.3]}
    check_runs(swept(time_varying, axes), axes, one_by_one(time_varying, axes, SEEDS))


def robust(topology="ring", noise=0.1):
    """An aggregator that is not linear: padding of a table of neighbours must not be heard."""
    problem = dlsim.problems.quadratic(NODES, 3, gradient_noise=noise)
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.1), aggregator=dlsim.aggregators.median())
    return dlsim.learn(problem, algorithm, getattr(networks, topology)(NODES))


def test_padded_neighbours_are_not_heard():
    axes = {"topology": ["ring", "complete"], "noise": [0.1, 1.0]}
    check_runs(swept(robust, axes), axes, one_by_one(robust, axes, SEEDS))


def random_graph(probability=0.5, scale=1.0):
    problem = dlsim.problems.quadratic(NODES, 3, heterogeneity=scale)
    network = networks.erdos_renyi(NODES, probability, seed=1)
    return dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.1)), network)


def test_a_float_that_draws_the_graph_is_structure():
    axes = {"probability": [0.5, 0.95], "scale": [0.5, 2.0]}
    check_runs(swept(random_graph, axes), axes, one_by_one(random_graph, axes, SEEDS))


def chosen(size=2, is_double=False, name="plus", shift=None, pair=(1, 2), fn=jnp.sin):
    """Every kind of value decides what is computed."""
    extra = {"plus": 1.0, "minus": -1.0}[name] + (0.0 if shift is None else shift) + pair[0] / pair[1]

    def step(key, state):
        return fn(state) * (2 if is_double else 1) + extra + 0.1 * jax.random.normal(key, (size,)), {}

    return Process(
        init=lambda key: jax.random.normal(key, (size,)), step=step, measure=lambda s, _: {"total": jnp.sum(s)}
    )


def twice(x):
    return x + x


def test_values_of_every_kind():
    axes = {
        "size": [2, 4],
        "is_double": [False, True],
        "name": ["plus", "minus"],
        "shift": [None, 0.5],
        "pair": [(1, 2), (3, 4)],
        "fn": [jnp.sin, twice, lambda x: x - 1],
    }
    labels = {"shift": ["None", "0.5"], "pair": ["(1, 2)", "(3, 4)"], "fn": ["sin", "twice", "<lambda>"]}
    for name, values in axes.items():
        results = swept(chosen, {name: values}, seed=[5], num_steps=2)
        assert results[name].values.tolist() == labels.get(name, values)
        for i, value in enumerate(values):
            state = results.total.isel({name: i}).values[0]
            np.testing.assert_allclose(state[-1], by_hand(5, 2, **{name: value}), rtol=1e-5)


def by_hand(seed, num_steps, **choice):
    process, key = chosen(**choice), jax.random.key(seed)
    state = process.init(keys.stream(key, "init"))
    for t in range(num_steps):
        state, _ = process.step(jax.random.fold_in(keys.stream(key, "steps"), t), state)
    return float(jnp.sum(state))


def test_seeds_dims_coordinates_and_dtypes():
    results = swept(walk, {"rate": [0.5, 1]}, seed=range(3))
    assert results.total.dims == ("rate", "seed", "step") and results.state.dims == ("rate", "seed", "step", "state_0")
    assert results.seed.values.tolist() == [0, 1, 2] and results.step.values.tolist() == [0, 2, 4, 6]
    assert results.rate.values.tolist() == [0.5, 1.0] and results.rate.dtype == np.float64
    assert results.total.dtype == np.float32 and results.diverged_step.dtype == np.int64
    assert results.diverged_step.dims == results.seconds_per_step.dims == ("rate", "seed")
    assert json.loads(results.attrs["axes"]) == {"rate": [0.5, 1.0]}
    for seed in (4, np.int64(4), [4], np.array([4])):
        one = swept(walk, {"rate": [0.5]}, seed=seed)
        assert one.seed.values.tolist() == [4]
    alone = dlsim.simulate(walk(0.5), seed=[4], num_steps=STEPS, record=RECORD, progress=False).results
    close(one.total.values[0], alone.total.values)
    assert swept(walk, {}, seed=None).seed.values.tolist() == [0]
    numpy = swept(walk, {"size": np.array([2, 3]), "rate": np.linspace(0.5, 0.9, 2)}, seed=0)
    assert numpy["size"].dtype.kind == "i" and numpy["size"].values.tolist() == [2, 3]


def by_node(size=2):
    """As many nodes as numbers; what is by class has three by chance."""
    process = walk(size=size)._replace(num_nodes=size)

    def record(state, info):
        return {**process.measure(state, info), "double": 2 * state, "by_class": jnp.arange(3.0), "bins": jnp.zeros(3)}

    return process, Record(every=2, fn=record, dims={"by_class": ("class",)})


def test_what_is_by_node_is_so_in_a_sweep(tmp_path):
    results = swept(by_node, {"size": [2, 3]}, seed=[5], num_steps=2, record=None)
    assert results.double.dims == results.state.dims == ("size", "seed", "step", "node") and results.sizes["node"] == 3
    assert results.by_class.dims == ("size", "seed", "step", "class")
    assert results.bins.dims == ("size", "seed", "step", "bins_0")  # not by node in all of the runs
    np.testing.assert_array_equal(results.double, 2 * results.state)
    for i, size in enumerate((2, 3)):
        alone = dlsim.simulate(by_node(size)[0], seed=[5], num_steps=2, record=by_node(size)[1]).results
        close(results.state.values[i, ..., :size], alone.state.values)
        assert np.isnan(results.state.values[i, ..., size:]).all()
    rows = dlsim.analysis.to_csv(results, tmp_path / "sweep.csv").read_text().splitlines()
    assert rows[0].startswith("size,seed,step,node,") and len(rows) == 1 + 2 * 2 + 2 * 3
    with pytest.raises(ValueError, match=r"axis must be another name than .*node, got 'node'"):
        swept(lambda node: walk(size=node), {"node": [1, 2]}, seed=0)


def test_axes_by_keyword_and_by_name():
    by_keyword = swept(walk, None, seed=0, rate=[0.5, 0.7])
    by_name = swept(walk, {"rate": [0.5, 0.7]}, seed=0)
    xarray.testing.assert_equal(by_keyword.total, by_name.total)


def test_a_record_of_the_function_and_arrays_of_several_sizes():
    def make(size):
        return walk(size=size), dlsim.Record(every=3, fn=lambda state, info: {"state": state, "count": jnp.int32(size)})

    results = dlsim.sweep(make, size=[2, 3], seed=0, num_steps=6, progress=False)
    assert results.step.values.tolist() == [0, 3, 6] and results["count"].dtype.kind == "i"
    assert results.state.shape == (2, 1, 3, 3)
    assert np.isnan(results.state.sel(size=2)[..., 2]).all() and not np.isnan(results.state.sel(size=3)).any()


def test_a_wrapped_process_keeps_its_wrapper():
    """`_replace` of a step: the sweep must not make the process anew without it, over a common topology."""

    def make(topology, factor):
        process = quadratic(topology, heterogeneity=4.0)

        def step(key, state):
            state, info = process.step(key, state)
            return state, {**info, "extra": factor * jnp.sum(info["loss"])}

        return process._replace(step=step, measure=lambda s, info: {**process.measure(s, info), "extra": info["extra"]})

    axes = {"topology": ["ring", "complete"], "factor": [1.0, 100.0]}
    results = swept(make, axes, seed=0)
    check_runs(results, axes, one_by_one(make, axes, (0,)))
    assert (results.extra.sel(factor=100.0)[..., 1:] > 50 * results.extra.sel(factor=1.0)[..., 1:]).all()


def test_a_run_that_diverges_is_marked_and_leaves_its_neighbours_alone():
    wild = swept(quadratic, {"learning_rate": [0.1, 1e30, 0.2]}, layout="vmap", num_steps=8)
    tame = swept(quadratic, {"learning_rate": [0.1, 0.3, 0.2]}, layout="vmap", num_steps=8)
    assert (wild.diverged_step.sel(learning_rate=1e30) > 0).all()
    assert (wild.diverged_step.sel(learning_rate=[0.1, 0.2]) == -1).all()
    assert not np.isfinite(wild.train_loss.sel(learning_rate=1e30).isel(step=-1)).any()
    same = [0.1, 0.2]
    for name in set(wild.data_vars) - {"seconds_per_step"}:
        np.testing.assert_array_equal(wild[name].sel(learning_rate=same), tame[name].sel(learning_rate=same))


def test_two_topologies_of_one_size_share_a_program():
    def outcome(**more):
        axes = {"topology": ["ring", "star", "complete"], "learning_rate": [0.05, 0.2]}
        source = api._source(quadratic, axes, 0, STEPS, RECORD)[0]
        store, options = api.Store(None), api.make_options("vmap")
        plan = api.plan_sweep(source, store, options, **more)
        return plan, api.execute(plan, store, options, False)

    plan, made = outcome()
    assert len(plan.groups) == made.timing["num_programs"] == 1
    assert plan.groups[0].label == "3 x topology" and "1 program to compile" in plan.lines()[1]
    apart, other = outcome(common_topologies=False)
    assert len(apart.groups) == other.timing["num_programs"] == 3
    for name in ("train_loss", "consensus_distance"):
        close(made.dataset[name].values, other.dataset[name].values)


def test_nothing_is_traced_again_for_another_value():
    """The steps of a process are traced while the sweep is planned; running it traces nothing, whatever the values."""
    traces = []

    def make(rate, scale):
        process = walk(rate, scale)

        def step(key, state):
            traces.append((rate, scale))
            return process.step(key, state)

        return process._replace(step=step)

    def count(rates, scales):
        traces.clear()
        swept(make, {"rate": rates, "scale": scales}, layout=2, lanes=1)
        return len(traces)

    assert count([0.5, 0.6], [1.0, 2.0]) == count([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0]) <= 2


def test_runs_of_different_lengths_are_padded(tmp_path):
    file = tmp_path / "lengths.py"
    file.write_text(
        "from ml_collections import ConfigDict\nimport dlsim\nfrom tiny_sweeps import walk\n"
        "def get_config(mode='default'):\n"
        "    return ConfigDict({'num_steps': 4, 'num_seeds': 2, 'rate': 0.9})\n"
        "def build(config):\n    return walk(config.rate), dlsim.Record(every=2)\n"
    )
    results = dlsim.sweep(str(file), {"num_steps": [2, 6]}, rate=[0.5, 0.9], progress=False)
    assert results.total.dims == ("num_steps", "rate", "seed", "step") and results.seed.values.tolist() == [0, 1]
    assert results.step.values.tolist() == [0, 2, 4, 6]
    assert np.isnan(results.total.sel(num_steps=2, step=[4, 6])).all()
    assert not np.isnan(results.total.sel(num_steps=6)).any()
    np.testing.assert_array_equal(
        results.total.sel(num_steps=2, step=[0, 2]), results.total.sel(num_steps=6, step=[0, 2])
    )
    alone = dlsim.simulate(walk(0.5), seed=[0, 1], num_steps=6, record=dlsim.Record(every=2), progress=False).results
    close(results.total.sel(num_steps=6, rate=0.5).values, alone.total.values)


def test_progress_totals(monkeypatch, tmp_path):
    """What is done rises to the whole, also for a sweep of which a part was done before."""
    import contextlib

    said = []

    def display(plan, progress):
        said.clear()
        said.append(sum(len(group.members) * group.num_steps for group in plan.groups))
        return contextlib.nullcontext(lambda done, text: said.append(done))

    monkeypatch.setattr(api, "display", display)
    swept(walk, {"size": [2, 3], "rate": [0.5, 0.6, 0.7]}, layout=2, lanes=2, out=tmp_path)
    assert said[0] == said[-1] == 2 * 3 * 2 * STEPS and said[1:] == sorted(said[1:])
    swept(walk, {"size": [2, 3, 4], "rate": [0.5, 0.6, 0.7]}, layout=4, out=tmp_path)
    assert said[0] == said[-1] == 3 * 3 * 2 * STEPS and said[1:] == sorted(said[1:])
    assert EVERY < STEPS
