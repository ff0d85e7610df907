"""SPSA with shared randomness: its oracle, copies that stay alike through joins and leaves, and what a round costs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes
from contract import world
from oracles.spsa import log_byte, spsa as by_hand
from six_nodes import DIMENSION, EVERYONE, NUM_NODES, RATE, ROLL_CALL

import dlsim
from dlsim import algorithms, keys, networks
from dlsim.core import Process, PyTree, Route
from dlsim.networks.messages import whole_packet
from dlsim.problems.zeroth_order import directions, seed_of
from dlsim.running import counters, status

MODULE = sys.modules["dlsim.algorithms.spsa"]
BYTES = networks.complete(8).with_channel(networks.log_quantize())
LOG = algorithms.SPSALog._fields


# The oracle.


def test_the_oracle_on_numbers_worked_out_by_hand() -> None:
    z = np.array([[[[1.0, -1.0], [0.5, 2.0], [-1.0, 0.0]]]])
    start, present = np.array([[1.0, 2.0]]), np.ones((1, 1), bool)
    for codec, expected in ((float, (0.925, 1.666667)), (log_byte, (0.925305, 1.667887))):
        after = by_hand(lambda i, x: 0.5 * x @ x, z, start, 0.1, present, 0.1, codec=codec)[1, 0]
        np.testing.assert_allclose(after, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("present", "normalization"), [(ROLL_CALL[:6], "mean"), (EVERYONE[:4], "sqrt")], ids=["roll_call", "everyone"]
)
def test_a_round_is_the_oracles(present: np.ndarray, normalization: str) -> None:
    """One copy and N copies: the same models, at every node that is there."""
    problem, num_samples, mu = six_nodes.problem(), 3, 0.2
    key = jax.random.key(0)
    with jax.enable_x64(True):
        problem = six_nodes.problem()
        curvature, constant = six_nodes.affine(problem)
        like = jnp.zeros((1, DIMENSION))
        seeds = jnp.stack([seed_of(keys.stream(jax.random.fold_in(key, t), "batch")) for t in range(len(present))])
        draw = jax.vmap(jax.vmap(directions, (None, None, 0, None, None)), (0, None, None, None, None))
        z = jax.jit(draw, static_argnums=4)(seeds, jnp.arange(NUM_NODES), jnp.arange(num_samples), like, "normal")
        z = np.moveaxis(np.asarray(z), 1, 2)  # [T, N, S, D]
        power = {"mean": 1.0, "sqrt": 0.5}[normalization]
        rate = RATE / 2 if normalization == "mean" else RATE / 8
        expected = by_hand(
            lambda i, x: 0.5 * x @ curvature[i] @ x + constant[i] @ x,
            z, six_nodes.start(), rate, present, mu, power,
        )  # fmt: skip
        for copies in (True, False):
            algorithm = algorithms.spsa(
                problem,
                optax.sgd(rate),
                num_directions=num_samples,
                smoothing=mu,
                normalization=normalization,
                copies=copies,
            )
            models = six_nodes.models(six_nodes.play(algorithm, networks.complete(NUM_NODES), present))
            shown = expected if copies else expected[:, [1]]  # who is always there
            six_nodes.agree(models, shown, rtol=1e-8, atol=1e-10)


# Copies.


@functools.cache
def churning(copies: bool, catch_up: str = "download", adam: bool = False) -> dlsim.Run:
    """Thirty rounds in which nodes leave and come back."""
    problem = world.problem()
    optimizer = optax.adam(0.05) if adam else optax.sgd(0.05)
    algorithm = algorithms.spsa(problem, optimizer, num_directions=4, copies=copies, catch_up=catch_up)
    process = dlsim.learn(problem, algorithm, BYTES, networks.churn(0.3, 0.3))

    def record(state: Any, info: Any) -> dict[str, Any]:
        there = state.algorithm.missed.low == 0
        rows = jax.tree.leaves(algorithm.params(state.algorithm))[0]
        return {**{name: info[name] for name in LOG}, "models": rows, "knows": there, **process.measure(state, info)}

    return dlsim.simulate(process, seed=0, num_steps=30, record=dlsim.Record(every=1, fn=record))


@pytest.mark.parametrize(("catch_up", "adam"), [("download", False), ("replay", True)])
def test_copies_are_bit_identical_through_joins_and_leaves(catch_up: str, adam: bool) -> None:
    many, one = churning(True, catch_up, adam), churning(False, catch_up, adam)
    models, knows = many.results.models.values, many.results.knows.values
    came_back = (~knows[:-1] & knows[1:]).sum()
    assert came_back >= 10 and (~knows).sum() >= 50, "too little churn to show anything"
    for t in range(31):
        assert (models[t][knows[t]] == one.results.models.values[t]).all(), f"copies differ after round {t}"
    np.testing.assert_array_equal(many.results.bits_sent, one.results.bits_sent)
    assert np.abs(models[-1][knows[-1]][0] - models[0][0]).max() > 0.1


def test_a_log_replayed_gives_the_same_bits() -> None:
    run = churning(False, "replay", True)
    kept = run.results.isel(step=slice(1, None))
    log = algorithms.SPSALog(*(kept[name].values for name in LOG))
    models = run.results.models.values[:, 0]
    replayed = algorithms.spsa_replay(models[0], log, optax.adam(0.05))
    np.testing.assert_array_equal(replayed, models[-1])
    whole = churning(False).results
    late = algorithms.SPSALog(*(whole[name].values[11:] for name in LOG))  # somebody who joins after ten rounds
    np.testing.assert_array_equal(
        algorithms.spsa_replay(whole.models.values[10, 0], late, optax.sgd(0.05)), whole.models.values[-1, 0]
    )
    for words in log.projections[log.reported].tolist():
        ids, byte = jnp.arange(1), networks.log_quantize()
        _, packet = byte.send(jax.random.key(0), (), whole_packet(jnp.asarray([words])), Route(ids, ids, ids))
        bits = networks.encode(byte, packet)
        assert len(bits) == 32 and networks.decode(byte, bits, jnp.zeros(4)) == pytest.approx(words, rel=1e-6)


@pytest.mark.parametrize("catch_up", ["download", "replay"])
def test_bits_are_a_byte_a_number_and_what_those_who_come_back_fetch(catch_up: str) -> None:
    results = churning(False, catch_up, catch_up == "replay").results
    reported, knows = results.reported.values[1:], results.knows.values
    num_there = reported.sum(axis=1)
    said = 32 * num_there * (num_there - 1)  # four bytes to each of the others
    fetched, missed = np.zeros(30), np.zeros(8)
    for t in range(30):
        back = reported[t] & ~knows[t]
        fetched[t] = missed[back].sum() if catch_up == "replay" else 32 * world.DIMENSION * back.sum()
        missed = np.where(reported[t], 0, missed + (32 * num_there[t] + 8 if num_there[t] else 0))
    np.testing.assert_array_equal(np.diff(results.bits_sent.values), said + fetched)
    assert fetched.sum() > 0


def rolled(num_steps: int, network: networks.Network, scenario: Any = None, problem: Any = None, **options: Any) -> Any:
    problem = world.problem() if problem is None else problem
    algorithm = algorithms.spsa(problem, optax.sgd(0.05), **options)
    return world.roll(dlsim.learn(problem, algorithm, network, scenario), num_steps)


def spread(state: PyTree) -> float:
    models = np.asarray(state.algorithm.params, np.float64)
    return float(((models - models.mean(axis=0)) ** 2).sum())


def test_lost_bytes_pull_copies_apart_for_good_and_a_download_brings_them_together() -> None:
    lossy = networks.chain(networks.log_quantize(), networks.loss(0.1))
    network = networks.complete(8).with_channel(lossy)
    apart = [spread(state) for state in rolled(9, network, copies=True, refresh_rounds=4).states]
    assert apart[0] == 0 and apart[1] > 0
    assert apart[4] > apart[1] and apart[5] < apart[4]
    # The fifth round begins with copies that are alike, so its spread is that of one round.
    assert apart[5] < 5 * apart[1] and apart[9] < 5 * apart[1]


def test_without_copies_only_what_everyone_has_is_applied() -> None:
    network = networks.complete(8).with_channel(networks.loss(0.1))
    reported = np.stack([info["reported"] for info in rolled(30, network).infos])
    assert abs(reported.mean() - 0.9**7) < 0.13  # 240 messages, each to seven others


def test_a_node_without_a_finite_loss_reports_nothing() -> None:
    problem = world.problem()
    sick = problem._replace(
        loss=lambda params, batch: jnp.where(batch.node_ids[0] == 2, jnp.nan, problem.loss(params, batch))
    )
    done = rolled(2, networks.complete(8), problem=sick)
    healthy = np.arange(8) != 2
    for info in done.infos:
        np.testing.assert_array_equal(info["reported"], healthy)
        np.testing.assert_array_equal((np.asarray(info["status"]) & status.NOT_FINITE) > 0, ~healthy)
        assert not np.asarray(info["projections"])[2].any()
    assert np.isfinite(done.last.algorithm.params).all()
    assert float(counters.to_float(done.last.network.traffic.bits)[2]) == 0


def test_who_takes_part_and_who_is_alone() -> None:
    cohort = rolled(2, networks.complete(8), networks.participation(3))
    assert [int(info["reported"].sum()) for info in cohort.infos] == [3, 3]
    assert cohort.infos[0]["num_gradients"].tolist() == [2, 2, 2]
    nobody = rolled(2, networks.complete(8), world.absent(tuple(range(8)), from_step=1))
    world.same(nobody.last.algorithm.params, nobody.states[1].algorithm.params)
    alone = dlsim.problems.quadratic(1, 5, heterogeneity=0.0)
    done = rolled(2, networks.complete(1), problem=alone)
    assert np.abs(np.asarray(done.last.algorithm.params)).max() > 0
    assert float(counters.to_float(done.last.network.traffic.bits)[0]) == 0


# What a round costs.


def counted(fn: Callable[..., Any], *arguments: Any) -> dict[str, int]:
    """Normal numbers drawn, and multiplications of matrix products, in all trips of the loops of a program."""
    found = {"erf_inv": 0, "dot_general": 0}

    def walk(jaxpr: Any, trips: int) -> None:
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            if name == "erf_inv":
                found[name] += trips * equation.outvars[0].aval.size
            elif name == "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                shape = equation.invars[0].aval.shape
                found[name] += trips * equation.outvars[0].aval.size * int(np.prod([shape[i] for i in contracted]))
            assert name != "while", "a loop whose trips are not known"
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=has_equations):
                if has_equations(value):
                    inside = trips * equation.params["length"] if name == "scan" else trips
                    walk(getattr(value, "jaxpr", value), inside)

    def has_equations(value: Any) -> bool:
        return hasattr(value, "jaxpr") or hasattr(value, "eqns")

    walk(jax.make_jaxpr(fn)(*arguments).jaxpr, 1)
    return found


@pytest.mark.parametrize("copies", [False, True])
def test_a_round_is_its_forward_passes_and_each_direction_drawn_twice(copies: bool) -> None:
    """Once to measure along it and once to apply it, by however many copies: nothing else of the size of the model."""
    problem, num_samples = world.classification(), 5
    size = sum(leaf.size for leaf in jax.tree.leaves(problem.init(jax.random.key(0))))
    process = dlsim.learn(
        problem,
        algorithms.spsa(problem, optax.sgd(0.1), num_directions=num_samples, copies=copies),
        networks.complete(8),
    )
    key = jax.random.key(0)
    state = process.init(key)
    models = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (8, *leaf.shape)), problem.init(key))
    forward = counted(jax.vmap(problem.loss), models, problem.sample(key, jnp.arange(8)))
    round_ = counted(process.step, key, state)
    assert forward["dot_general"] > 0 and forward["erf_inv"] == 0
    assert round_["dot_general"] == 2 * num_samples * forward["dot_general"]
    assert round_["erf_inv"] == 2 * 8 * num_samples * size


def test_directions_of_those_who_are_away_are_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def noting(seed: Any, node_ids: Any, *rest: Any) -> Any:
        jax.debug.callback(lambda ids: drawn.extend(np.asarray(ids).ravel().tolist()), node_ids)
        return directions(seed, node_ids, *rest)

    monkeypatch.setattr(MODULE, "directions", noting)
    done = rolled(1, networks.complete(8), world.absent((0, 2, 5, 6, 7)), num_directions=16)
    jax.block_until_ready(done.last)
    jax.effects_barrier()
    assert sorted(drawn) == sorted(16 * [1, 3, 4])


# Refusals.


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"smoothing": 0.0}, r"^spsa: smoothing must be a number in \(0, inf\), got 0"),
        ({"smoothing": -1e-3}, r"^spsa: smoothing must be a number in \(0, inf\), got -0.001"),
        ({"num_directions": 0}, r"^spsa: num_directions must be an integer >= 1, got 0"),
        ({"normalization": "sum"}, r"^spsa: normalization must be "),
        ({"distribution": "uniform"}, r"^spsa: distribution must be "),
        ({"catch_up": "wait"}, r"^spsa: catch_up must be "),
        (
            {"refresh_rounds": 8},
            r"^spsa: refresh_rounds must be None where one copy stands for all, got 8. Pass copies=True",
        ),
        ({"refresh_rounds": 0, "copies": True}, r"^spsa: refresh_rounds must be an integer >= 1, got 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        algorithms.spsa(world.problem(), optax.sgd(0.1), **options)


def test_a_network_in_which_not_all_hear_all() -> None:
    problem = world.problem()
    process: Process = dlsim.learn(problem, algorithms.spsa(problem, optax.sgd(0.1)), networks.ring(8))
    with pytest.raises(ValueError, match=r"^spsa: network must be complete, .* node 0 hears 2 of 7 others. Use dlsim"):
        process.init(jax.random.key(0))


def test_a_log_that_does_not_fit() -> None:
    log = algorithms.SPSALog(np.zeros((3, 2), np.uint32), np.zeros((3, 4, 1)), np.zeros((2, 4), bool))
    with pytest.raises(ValueError, match=r"^spsa_replay: log.reported must be of shape \[3, 4\], got \[2, 4\]"):
        algorithms.spsa_replay(jnp.zeros(5), log, optax.sgd(0.1))
