"""The experiment on SwarmBench: its smallest mode, and what its claims and curves say of made-up results."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest
import xarray

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "38_swarmbench.py"
EXPERIMENT = load_experiment(FILE)
MODULE = EXPERIMENT.module
VIEWS = (3, 5, 7, 9, 19)


@pytest.mark.slow
def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None] * 4  # too short to decide
    last = saved.results.isel(step=-1)
    for task in ("foraging", "pursuit"):
        assert (last.messages_sent.sel(case=f"{task} messages 5") > 0).all()
        assert (last.messages_sent.sel(case=f"{task} silent 5") == 0).all()
    sent = last.sel(case="pursuit messages 5")
    assert (sent.bits_sent == 32 * 3 * sent.messages_sent).all()
    assert float(last.score.sel(case="flocking random 5").max()) > 0


def made_up(
    lights: tuple[float, ...], transport: float, foraging: tuple[float, float], num: int = 100
) -> xarray.Dataset:
    """Final scores; a share of the runs has a point in transport; with messages and without in foraging and pursuit."""
    finals = {f"synchronization silent {view}": np.full(num, mean) for view, mean in zip(VIEWS, lights, strict=True)}
    finals["transport random 5"] = (np.arange(num) < transport * num).astype(float)
    finals["flocking random 5"] = np.ones(num)
    for task in ("foraging", "pursuit"):
        for player, mean in zip(("messages", "silent"), foraging, strict=True):
            finals[f"{task} {player} 5"] = mean + np.arange(num) / num
    rounds = np.arange(101)
    score = np.stack(list(finals.values()))[:, :, None] * (rounds / 100)
    dims = ("case", "seed", "step")
    zero = np.zeros_like(score)
    return xarray.Dataset(
        {"score": (dims, score), "num_episodes": (dims, zero)},
        {"case": list(finals), "seed": np.arange(num), "step": rounds},
    )


@pytest.mark.parametrize(
    ("lights", "transport", "foraging", "holds"),
    [
        ((1, 4, 19, 41, 50), 0.0, (14, 13), [True, True, True, True]),
        ((1, 4, 19, 18, 50), 0.06, (13, 14), [False, False, False, False]),
        ((1, 4, 12, 15, 19), 0.05, (14, 14), [False, True, True, True]),
        ((3, 4, 12, 15, 50), 0.0, (14, 13), [False, True, True, True]),
    ],
)
def test_claims(lights: tuple, transport: float, foraging: tuple, holds: list[bool]) -> None:
    assert [claim.holds for claim in MODULE.claims(made_up(lights, transport, foraging))] == holds


def test_cases_that_were_not_run_are_not_claimed() -> None:
    results = made_up((1, 4, 19, 41, 50), 0.0, (14, 13))
    chosen = results.sel(
        case=["pursuit messages 5", "pursuit silent 5", "flocking random 5", "synchronization silent 3"]
    )
    assert [claim.holds for claim in MODULE.claims(chosen)] == [None, True]
    assert len(MODULE.figure(chosen).axes) == 10


def test_few_runs_decide_nothing() -> None:
    results = made_up((1, 4, 19, 41, 50), 0.0, (14, 13), num=50)
    assert [claim.holds for claim in MODULE.claims(results)] == [True, None, True, True]
    assert [claim.holds for claim in MODULE.claims(results.isel(seed=slice(39)))] == [None] * 4


def test_the_score_of_an_episode_that_ended_stays() -> None:
    results = made_up((1, 4, 19, 41, 50), 0.0, (14, 13), num=2)
    score = np.arange(101.0) % 30  # begins anew after round 29
    ended = np.where(np.arange(101) >= 29, 1, 0)
    results["score"].loc[{"case": "flocking random 5", "seed": 0}] = score
    results["num_episodes"].loc[{"case": "flocking random 5", "seed": 0}] = ended
    curves = MODULE._curves(results, "flocking random 5")
    np.testing.assert_array_equal(curves[0], np.minimum(np.arange(101), 29))
    np.testing.assert_allclose(curves[1], np.arange(101) / 100)


def test_unknown_cases_are_named() -> None:
    config = make_config(EXPERIMENT, "tiny")
    for case, name in (("chess random 5", "chess"), ("pursuit loud 5", "loud")):
        with config.ignore_type():
            config.case = case
        with pytest.raises(ValueError, match=f"38_swarmbench: case must be one of .*got '{name}'"):
            MODULE.build(config)


@pytest.mark.slow
def test_learned_agents_are_trained_once_for_all_runs_that_draw_them() -> None:
    config = make_config(EXPERIMENT, "tiny")
    with config.ignore_type():
        config.case = "synchronization ippo 3"
    process, record = MODULE.build(config)
    key = jax.random.key(3)
    part, until = process.feed.fill(key, 0)
    again, _ = process.feed.fill(jax.random.key(4), 5)  # one policy in this mode
    assert until >= config.num_steps and part is again
    state = jax.jit(process.init)(key)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(state.params))
    served = process.feed.put(state, part)
    assert jax.tree.map(np.shape, served.params) == jax.tree.map(np.shape, state.params)
    spread = [np.asarray(leaf).std() for leaf in jax.tree.leaves(served.params) if leaf.ndim == 3]
    assert min(spread) > 0.0  # weights of the layers, trained
    after, info = jax.jit(process.step)(key, served)
    assert set(record.fn(after, info)) == {"score", "num_episodes", "bits_sent", "messages_sent"}
    assert int(after.play.world.round) == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, served.params)


def test_learned_agents_act_by_the_policy_that_they_were_given() -> None:
    config = make_config(EXPERIMENT, "tiny")
    with config.ignore_type():
        config.case = "pursuit ippo 3"
    process, _ = MODULE.build(config)
    state, step = jax.jit(process.init)(jax.random.key(0)), jax.jit(process.step)
    for action in (0, 3):

        def only(leaf: jax.Array, action: int = action) -> jax.Array:
            return leaf.at[:, action].set(100.0) if leaf.shape == (1, 5) else leaf  # the last layer's bias

        eager = process.feed.put(state, jax.tree.map(only, state.params))
        assert (step(jax.random.key(1), eager)[1]["actions"] == action).all()


@pytest.mark.slow
def test_every_policy_is_played_by_some_run_and_is_a_training_of_its_own() -> None:
    config = make_config(EXPERIMENT, "tiny")
    with config.ignore_type():
        config.case = "synchronization ippo 3"
    config.num_policies = 2
    fill = MODULE.build(config)[0].feed.fill
    first = [np.asarray(jax.tree.leaves(fill(jax.random.key(seed), 0)[0])[0]) for seed in range(12)]
    kinds = {leaf.tobytes() for leaf in first}
    assert len(kinds) == 2
