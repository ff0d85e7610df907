"""The tiny mode of the experiment on PCCL, and what its DiLoCo among peers reduces to."""

from __future__ import annotations

import importlib.util
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import networks, problems
from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "papers"
FILE = FOLDER / "24_pccl.py"
ROUNDS = 8


def beside(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


peer_diloco = beside("pccl_peers").peer_diloco


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    held = {claim.text[:2]: claim.holds for claim in saved.claims}
    assert held["C1"] and held["C4"] and held["C6"] and held["Th"]
    last = saved.results.isel(step=-1, seed=0)
    assert (
        float(last.loss.sel(case="sync churn"))
        < 2.0
        < float(saved.results.loss.sel(case="sync churn").isel(seed=0, step=0))
    )
    assert float(last.unequal.sel(case="stress")) == 0 < float(last.kills.sel(case="stress"))
    # At P = 16 the bias of an independent program is -0.122, the rms of rounding to nearest 0.018.
    assert float(last.bias.sel(case="bias floor 16")) == pytest.approx(-0.122, abs=0.006)
    assert float(last.rms.sel(case="bias nearest 16")) == pytest.approx(0.018, abs=0.002)


def test_unknown_cases_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.case = "order best"
    with pytest.raises(ValueError, match="24_pccl: case must be one of .*order bottleneck"):
        experiment.module.build(config)


def run(optimizer, scenario=None, **options):
    """theta after every step, `[ROUNDS + 1, D]`, and the counts, of four peers on quadratics without noise."""
    problem = problems.quadratic(4, 3, gradient_noise=0.0, seed=0)
    algorithm = peer_diloco(problem, optimizer, **options)
    process = dlsim.learn(problem, algorithm, networks.complete(4), scenario)

    def record(state, info):
        return {"theta": process.params(state)[0], **state.algorithm.counts}

    return dlsim.simulate(process, seed=0, num_steps=ROUNDS, record=dlsim.Record(every=1, fn=record)).results


def test_one_step_and_an_outer_rate_of_one_are_data_parallel_sgd() -> None:
    rate = 0.05
    problem = problems.quadratic(4, 3, gradient_noise=0.0, seed=0)
    key, ids = jax.random.key(0), jnp.arange(4)
    seen = run(optax.sgd(rate), outer_rate=1.0, num_local_steps=1).theta.values
    for before, after in itertools.pairwise(seen):
        gradients, _ = problem.full_gradient(key, jnp.tile(before, (4, 1)), ids)
        np.testing.assert_allclose(after, before - rate * np.mean(gradients, axis=0), rtol=1e-4, atol=1e-5)


def test_late_means_of_a_constant_field_are_one_step_behind() -> None:
    constant = optax.GradientTransformation(
        lambda params: (), lambda g, state, params=None: (jax.tree.map(lambda x: jnp.full_like(x, -0.5), g), state)
    )
    prompt, late = (run(constant, outer_rate=0.7, num_local_steps=2, manner=manner) for manner in ("sync", "async"))
    np.testing.assert_allclose(late.theta.values[1:], prompt.theta.values[:-1], rtol=1e-6)
    assert float(late.lost[-1]) == 0 and late.steps_done.values.tolist() == [0, *range(ROUNDS)]


def test_checkpoints_take_everyone_back() -> None:
    seen = run(optax.sgd(0.05), networks.peer_churn(0.1, 0.5), outer_rate=0.7, manner="restart", checkpoint_every=2)
    done, kept, thetas = 0, 0, {0: seen.theta.values[0]}
    for step in range(1, ROUNDS + 1):
        died = seen.kills.values[step] > seen.kills.values[step - 1]
        done = kept if died else done + 1
        if died:
            np.testing.assert_array_equal(seen.theta.values[step], thetas[kept])
        elif done % 2 == 0:
            kept, thetas[done] = done, seen.theta.values[step]
        assert seen.steps_done.values[step] == done
    assert 0 < seen.kills.values[-1] and seen.unequal.values[-1] == 0
