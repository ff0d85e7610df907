"""The experiments of `experiments/sweeps/`: their theory against simulation, and their smallest modes."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim.configs import load_experiment, make_config
from dlsim.experiment import run_experiment, sweep_experiment
from dlsim.sweeps.source import from_experiment

SWEEPS = pathlib.Path(__file__).parent.parent / "experiments" / "sweeps"
THOUSAND, SCALING = SWEEPS / "thousand_nodes.py", SWEEPS / "scaling.py"


@pytest.mark.parametrize("mode", ["default", "small", "tiny", "paper"])
def test_a_thousand_nodes_in_every_mode(mode: str) -> None:
    experiment = load_experiment(THOUSAND)
    config = make_config(experiment, mode)
    source = from_experiment(experiment, config, seeds=range(config.num_seeds))
    if mode == "default":
        assert config.num_nodes == 1024 and config.num_seeds == 4
        assert [len(values) for values in source.axes.values()] == [6, 3, 5]
    assert "learning_rate" in source.floats and "topology" not in source.floats


@pytest.mark.parametrize("algorithm", ["dsgd", "gradient_tracking", "exact_diffusion"])
def test_the_modes_recursion_is_the_method(algorithm: str) -> None:
    """Without noise, a matrix product of all modes gives what the method computes, round by round."""
    import jax

    module = load_experiment(THOUSAND).module
    config = make_config(load_experiment(THOUSAND), "tiny", ["gradient_noise=0.0", "topology=ring"])
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.topology, config.algorithm, config.learning_rate, config.num_steps = "ring", algorithm, 0.1, 30
    process, _ = module.build(config)
    state = process.init(jax.random.key(0))
    values, vectors = module.modes("ring", 16)
    pulls = module._pulls(16, config.dimension)
    matrix, drive = module.recursion(algorithm, values, 0.1)
    optimum = np.asarray(module.make_problem(config).optimum, np.float64)
    start = vectors.T @ (np.asarray(state.algorithm.params, np.float64) - optimum)
    modes = np.zeros((16, matrix.shape[1], config.dimension))
    modes[:, 0] = start
    gradient = start + vectors.T @ pulls
    if algorithm == "gradient_tracking":
        modes[:, 1] = modes[:, 2] = gradient
        # What drives a mode is what is new in the gradient: nothing after the start, when there is no noise.
        modes[:, 2] -= vectors.T @ pulls
    if algorithm == "exact_diffusion":
        modes[:, 1] = start
    for t in range(30):
        state, _ = process.step(jax.random.key(t), state)
        push = (
            np.zeros_like(modes)
            if algorithm == "gradient_tracking"
            else drive[..., None] * (vectors.T @ pulls)[:, None]
        )
        modes = np.einsum("kij,kjd->kid", matrix, modes) + push
    expected = vectors @ modes[:, 0]
    np.testing.assert_allclose(np.asarray(state.algorithm.params) - optimum, expected, atol=2e-3)
    assert np.abs(expected).max() > 1, "the start is not forgotten yet"


@pytest.mark.slow
def test_the_theory_holds_in_the_smallest_mode(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(THOUSAND, "tiny", out=tmp_path / "run", progress=False)
    assert [claim.holds for claim in saved.claims] == [True] * len(saved.claims) and len(saved.claims) >= 5
    assert saved.provenance["timing"]["num_programs"] <= 6  # at most two layouts of each of three methods
    assert (saved.folder / "figure.png").stat().st_size > 10_000


def test_scaling_is_timed_one_run_at_a_time(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(SCALING, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.results.seconds_per_step > 0).all() and saved.results.seconds_per_step.dims == ("num_nodes", "seed")
    assert {part["layout"] for part in saved.provenance["runs"]} == {"1 at once, 1 lane a device"}
    assert (saved.folder / "figure.png").exists()


def test_a_sweep_over_another_key_draws_an_overview(tmp_path: pathlib.Path) -> None:
    saved = sweep_experiment(
        SCALING, "tiny", ["num_nodes=(100,)"], out=tmp_path / "run", progress=False, axes=["learning_rate=0.05,0.5"]
    )
    assert dict(saved.results.sizes)["learning_rate"] == 2 and not saved.claims
    assert (saved.folder / "figure.png").stat().st_size > 5_000
