"""The tiny mode of Bristle's experiment: who holds what, what it sends, and that it runs."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim.configs import make_config
from dlsim.studies.experiment import load_experiment, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "08_bristle.py"


def test_the_tiny_mode_runs_and_counts_output_layers_alone(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    results = saved.results.squeeze()
    wanted = results.step * 15 * 14 * 2560 * 32.0
    for case in ("skew4 flip bristle", "skew4 flip median"):
        np.testing.assert_array_equal(results.bits_sent.sel(case=case), wanted)
    accuracy = results.accuracy.isel(step=-1)
    assert float(accuracy.sel(case="skew4 flip bristle")) > 0.3
    assert (results.num_nodes == 15).all()


@pytest.mark.parametrize("case", ["iid none krum", "skew4 noise krum", "skew2 flip median", "iid none whole-average"])
def test_cases_of_other_sizes_can_be_built(case: str) -> None:
    """Ten nodes are fewer than Krum asks for against four, and two classes of two examples less than a batch."""
    experiment = load_experiment(FILE)
    config = make_config(experiment, "default")
    with config.unlocked(), config.ignore_type():
        config.case, config.draw = case, 0
    process, _ = experiment.module.build(config)
    assert process.step is not None


def test_two_examples_a_class_and_tests_that_nobody_trains_on() -> None:
    module = load_experiment(FILE).module
    data = module._data("digits")
    held = module._held(10, 5, 4)
    parts = module._parts(data, held, True, 10, draw=1)
    labels = np.asarray(data.labels)
    assert len(set(parts.indices.tolist())) == len(parts.indices) == 2 * (10 * 4 + 5 * 10)
    assert not set(parts.indices.tolist()) & set(parts.local_test.indices.tolist())
    for node, classes in enumerate(held):
        own = labels[parts.of_node(node)]
        assert sorted(own) == sorted(2 * classes)
        start = parts.local_test.offsets[node]
        tests = labels[parts.local_test.indices[start : start + parts.local_test.sizes[node]]]
        assert sorted(tests) == sorted(10 * classes)
    assert parts.label_permutation[0].tolist() == list(range(10))
    assert parts.label_permutation[14].tolist() == [9, *range(9)]


def test_features_have_the_root_mean_square_that_they_are_said_to_have() -> None:
    data = load_experiment(FILE).module._features("digits", 64, 0)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(data.inputs))), 0.25, rtol=1e-5)
    assert (data.offset, data.scale) == (0.0, 1.0) and data.inputs.min() == 0
