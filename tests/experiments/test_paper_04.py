"""Disrupted peer-to-peer learning: its tiny mode, what is exact about its cases, and what claims say of made-up results."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray

import dlsim
from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "04_disrupted_p2p.py"
MODULE = load_experiment(FILE).module
NUM, ROUNDS = 16, 5
NEVER = np.inf


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None]  # too short to decide
    accuracy = saved.results.accuracy.isel(seed=0, draw=0)
    assert accuracy.sizes["node"] == 16 and float(accuracy.isel(step=-1).mean()) > 0.3
    hit = MODULE.lost(MODULE.parse("hubs m=2 f=0.25 t=4 A"), 16, 0)
    one = {case: accuracy.sel(case=f"hubs m=2 f=0.25 t=4 {case}") for case in ("A0", "A", "B", "C")}
    one["B0"] = accuracy.sel(case="none m=2 f=0 t=0 B0")
    # Rounds up to t_d are alike, and who is gone stays as it is.
    for case, like in (("A", "A0"), ("B", "B0"), ("C", "B0")):
        np.testing.assert_array_equal(one[case].sel(step=[0, 4]), one[like].sel(step=[0, 4]))
        assert (one[case].isel(step=-1) != one[like].isel(step=-1)).any()
    np.testing.assert_array_equal(one["B"].isel(step=-1)[hit], one["B"].sel(step=4)[hit])


# What is exact, on quadratics: one program for all cases.


def network() -> dlsim.networks.Network:
    # By rows: a dense product is taken around node 0's values, so what is not heard may change how it rounds.
    return MODULE.network_of(NUM, 2, 3).with_lowering("neighbors")


HIT = dlsim.networks.victims(network(), 0.3, "degree")


@functools.cache
def played() -> Any:
    problem = dlsim.problems.quadratic(NUM, 3, heterogeneity=1.0, gradient_noise=0.1)

    @jax.jit
    def rounds(away: Any, dataless: Any, apart: Any, sizes: Any) -> Any:
        base = network()
        last = dlsim.networks.reweigh(base, sizes=sizes)
        scenario = dlsim.networks.chain(MODULE.scenario_of(base, away, dataless, apart), last)
        process = dlsim.learn(
            problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.1), num_local_steps=2), base, scenario
        )
        key = jax.random.key(0)

        def step(state: Any, t: Any) -> Any:
            state, _ = process.step(jax.random.fold_in(key, t), state)
            return state, (state.algorithm.params, state.network.traffic.messages.low)

        return jax.lax.scan(step, process.init(key), jnp.arange(ROUNDS))[1]

    return rounds


def case(name: str, t: float, sizes: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Models after every round `[T, N, D]`, and messages so far; the same with sizes of one each."""
    setting = MODULE.Setting("hubs", 2, 0.3, t, name)
    away, dataless, apart = MODULE.times(setting, HIT)
    rows = (away.astype(np.float32), dataless.astype(np.float32), np.float32(apart))
    params, messages = played()(*rows, np.ones(NUM, np.float32) if sizes is None else sizes)
    return np.asarray(params), np.asarray(messages)


def test_before_the_disaster_a_case_is_its_reference() -> None:
    for one, like in (("A", "A0"), ("B", "B0"), ("C", "B0")):
        (lost, _), (whole, _) = case(one, 2), case(like, 2)
        np.testing.assert_array_equal(lost[:2], whole[:2])
        assert (lost[2:] != whole[2:]).any()
        np.testing.assert_array_equal(case(one, ROUNDS)[0], whole)  # it never comes
    assert (case("A0", 2)[0] != case("B0", 2)[0]).any()


def test_a_disaster_at_the_start_leaves_no_data_to_lose() -> None:
    survivors = ~HIT
    np.testing.assert_array_equal(case("A", 0)[0][:, survivors], case("B", 0)[0][:, survivors])
    np.testing.assert_array_equal(case("C", 0)[0], case("A0", 0)[0])


def test_weights_by_examples_do_not_hear_relays() -> None:
    """So A is A0 for the survivors, bit for bit; with equal weights it is not."""
    sizes = np.where(HIT, 0, 40).astype(np.float32)
    survivors = ~HIT
    np.testing.assert_array_equal(case("A", 2, sizes)[0][:, survivors], case("A0", 2, sizes)[0][:, survivors])
    assert (case("A", 2)[0][:, survivors] != case("A0", 2)[0][:, survivors]).any()


def test_who_is_left_alone_follows_its_own_gradients_and_the_lost_rest() -> None:
    parts = dlsim.networks.components(network(), ~HIT)
    alone = [node for node in range(NUM) if parts[node] >= 0 and (parts == parts[node]).sum() == 1]
    assert alone, "choose another graph"
    together, apart = case("B", 0)[0], case("isolated", 0)[0]
    np.testing.assert_array_equal(together[:, alone], apart[:, alone])
    late = case("B", 3)[0]
    np.testing.assert_array_equal(late[3:, HIT], np.broadcast_to(late[2, HIT], late[3:, HIT].shape))


def test_messages_are_those_of_the_links_that_are_left() -> None:
    sent = np.diff(case("B", 2)[1].sum(axis=1), prepend=0)
    graph = dlsim.networks.host_graph(network())
    left = (~HIT[graph.senders] & ~HIT[graph.receivers]).sum()
    np.testing.assert_array_equal(sent, [2 * 2 * (NUM - 2)] * 2 + [left] * 3)  # a graph of m (N - m) links


# Claims.


def made_up(**changes: float) -> xarray.Dataset:
    """Survivors' accuracies as the page has them: by case, and lower in smaller parts."""
    config = make_config(load_experiment(FILE), "default")
    levels = {"A0": 0.84, "B0": 0.85, "C": 0.843, "isolated": 0.65, "everyone": 0.86, **changes}
    accuracy = np.zeros((len(config.case), 3, 1, 2, config.num_nodes))
    for i, text in enumerate(config.case):
        one = MODULE.parse(text)
        for draw in range(3):
            there = ~MODULE.lost(one, config.num_nodes, draw)
            base = MODULE.network_of(config.num_nodes, one.m, draw)
            part = dlsim.networks.components(base, there)
            size = np.where(there, np.bincount(part[there], minlength=config.num_nodes)[part], 1)
            if one.case in ("A", "B"):
                level = 0.66 + changes.get(one.case, 0.0) + changes.get("fragments", 0.18) * np.log(size) / np.log(40)
                level = level + changes.get("persists", 0.04) * (one.case == "B") * (size == 1)
                level = level + changes.get("later", 0.06) * ((one.t == 30) - (one.t == 0.0))
            else:
                level = levels[one.case]
            accuracy[i, draw, 0, 1] = level
    coordinates = {"case": list(config.case), "draw": [0, 1, 2], "seed": [0], "step": [0, 60]}
    attributes = {"config": json.dumps({"num_nodes": config.num_nodes, "num_steps": changes.get("num_steps", 60)})}
    return xarray.Dataset({"accuracy": (("case", "draw", "seed", "step", "node"), accuracy)}, coordinates, attributes)


def verdicts(**changes: float) -> list[bool | None]:
    return [claim.holds for claim in MODULE.claims(made_up(**changes))]


def test_claims_are_decided_by_the_numbers() -> None:
    assert verdicts() == [True] * 8
    assert verdicts(num_steps=12) == [None] * 8
    assert verdicts(A=0.12)[0] is False and verdicts(C=0.80)[0] is False
    assert verdicts(C=0.81)[1] is False
    assert verdicts(isolated=0.9)[2] is False and verdicts(B=-0.1)[2] is False
    assert verdicts(persists=0.0)[3] is False
    assert verdicts(fragments=0.0)[4] is False and verdicts(fragments=-0.1)[6] is False
    assert verdicts(C=0.86)[5] is False
    assert verdicts(later=0.02)[7] is False


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    for text, line in (("leaves m=2 f=0.2 t=1 A", "hubs, random, none"), ("hubs m=2 f=0.2 t=1 D", "A0, A, B0")):
        config = make_config(experiment, "tiny")
        with config.ignore_type():
            config.case, config.draw = text, 0
        with pytest.raises(ValueError, match=f"04_disrupted_p2p: case must be one of {line}"):
            experiment.module.build(config)
