"""The experiments of `experiments/sweeps/`: their theory against simulation, and their smallest modes."""

from __future__ import annotations

import json
import pathlib

import jax
import numpy as np
import pytest

from dlsim.configs import load_experiment, make_config
from dlsim.studies.experiment import run_experiment, sweep_experiment
from dlsim.sweeps.engine import Options
from dlsim.sweeps.source import from_experiment

SWEEPS = pathlib.Path(__file__).parents[2] / "experiments" / "sweeps"
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
    module = load_experiment(THOUSAND).module
    config = make_config(load_experiment(THOUSAND), "tiny", ["gradient_noise=0.0", "topology=ring"])
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.topology, config.algorithm, config.learning_rate, config.num_steps = "ring", algorithm, 0.1, 20
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
    for t in range(20):
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
    one = Options(devices=tuple(jax.local_devices()[:1]))  # every device would compile programs of its own
    saved = run_experiment(THOUSAND, "tiny", out=tmp_path / "run", progress=False, options=one)
    assert [claim.holds for claim in saved.claims] == [True] * len(saved.claims) and len(saved.claims) >= 5
    assert saved.provenance["timing"]["num_programs"] <= 6  # at most two layouts of each of three methods
    assert (saved.folder / "figure.png").stat().st_size > 10_000


def test_scaling_is_timed_one_run_at_a_time(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(SCALING, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.results.seconds_per_step > 0).all() and saved.results.seconds_per_step.dims == (
        "topology",
        "num_nodes",
        "seed",
    )
    assert {part["layout"] for part in saved.provenance["runs"]} == {"1 at once, 1 lane a device"}
    assert (saved.folder / "figure.png").exists()


def test_a_sweep_over_another_key_draws_an_overview(tmp_path: pathlib.Path) -> None:
    saved = sweep_experiment(
        SCALING, "tiny", ["num_nodes=(100,)"], out=tmp_path / "run", progress=False, axes=["learning_rate=0.05,0.5"]
    )
    assert dict(saved.results.sizes)["learning_rate"] == 2 and not saved.claims
    assert (saved.folder / "figure.png").stat().st_size > 5_000


def as_in_theory(module, num_nodes: int = 64, num_steps: int = 4000, every: int = 4):
    """Results of the thousand nodes as the theory has them: the slowest mode on top of where the method stays."""
    import xarray

    config = {"num_nodes": num_nodes, "dimension": 16, "gradient_noise": 0.1, "num_steps": num_steps}
    axes = {"topology": module.TOPOLOGIES, "algorithm": tuple(module.METHODS), "learning_rate": (0.0003, 0.03, 0.3)}
    step = np.arange(0, num_steps + 1, every)
    curves = np.empty((*map(len, axes.values()), 2, len(step)))
    for place in np.ndindex(curves.shape[:3]):
        topology, method, rate = (values[i] for values, i in zip(axes.values(), place, strict=True))
        radius, bias, noise = module.predict(config, topology, method, rate)
        stays = bias + noise if radius < 1 else 0.0
        with np.errstate(over="ignore"):
            curves[place] = module.APART**2 * np.float64(radius) ** (2 * step) + stays
    found = xarray.Dataset(
        {"consensus_distance": ((*axes, "seed", "step"), curves)},
        {**{name: list(values) for name, values in axes.items()}, "seed": [0, 1], "step": step},
    )
    found.attrs["config"] = json.dumps({**config, "record_every": every})
    return found


def test_claims_hold_where_results_are_those_of_the_theory_and_not_where_they_are_others() -> None:
    module = load_experiment(THOUSAND).module
    results = as_in_theory(module)
    pace, slope, *stays, bias, diverges = module.claims(results)
    assert len(stays) == 3
    assert all(claim.holds for claim in (pace, slope, *stays, bias, diverges))
    assert "off by 0.0%" in pace.measured, "an exponential is interpolated exactly"

    slower = results.assign_coords(step=results.step * 1.3)
    assert not module.claims(slower)[0].holds

    further = results.copy(deep=True)
    further.consensus_distance.loc[{"algorithm": "exact_diffusion"}] *= 1.2
    held = [claim.holds for claim in module.claims(further)]
    assert held == [True, True, True, True, False, False, True]

    lost = results.copy(deep=True)
    lost.consensus_distance.loc[{"algorithm": "dsgd", "topology": "torus", "learning_rate": 0.03}] = np.nan
    held = [claim.holds for claim in module.claims(lost)]
    assert not held[0] and not held[2] and not held[-1], "a run that is not finite is not left out"


def test_rounds_that_do_not_fall_as_one_over_the_gap_are_seen() -> None:
    module = load_experiment(THOUSAND).module
    config = {"num_nodes": 64}
    names = [name for name in module.TOPOLOGIES if name not in ("ring", "complete")]
    for exponent in (-1.0, -0.5):
        taken = [(name, 0.0003, 5 * module.gap(name, 64) ** exponent) for name in names]
        slope, count = module.fitted_slope(taken, config)
        assert count == len(names) and slope == pytest.approx(exponent)
    assert np.isnan(module.fitted_slope(taken[:2], config)[0])


def timed_results(cost: dict[int, float], loss: float = 1.5):
    import xarray

    seconds = np.asarray([[1e-9 * nanoseconds * n * slow for slow in (1.0, 2.0)] for n, nanoseconds in cost.items()])
    losses = np.full((1, len(cost), 2, 1), loss)
    axes = ("topology", "num_nodes", "seed")
    return xarray.Dataset(
        {"seconds_per_step": (axes, seconds[None]), "train_loss": ((*axes, "step"), losses)},
        {"topology": ["torus"], "num_nodes": list(cost), "seed": [0, 1], "step": [20]},
    )


def test_the_cost_of_a_node_is_judged_by_the_best_of_its_runs() -> None:
    module = load_experiment(SCALING).module
    even, million = module.claims(timed_results({100: 90.0, 1000: 10.0, 10_000: 11.0, 100_000: 12.0, 1_000_000: 40.0}))
    assert even.holds and "20%" in even.measured and million.holds and even.text.endswith("torus")
    uneven = module.claims(timed_results({1000: 10.0, 10_000: 11.0, 100_000: 13.0}))
    assert len(uneven) == 1 and not uneven[0].holds and "30%" in uneven[0].measured
    (stuck,) = module.claims(timed_results({1_000_000: 1.0}, loss=2.4))
    assert not stuck.holds
