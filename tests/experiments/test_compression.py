"""The tiny mode of the sweep over channels, and what its claims and its front rest on."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import xarray

from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "sweeps" / "compression.py"
SIZE = 650  # numbers of softmax regression on digits


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert len(saved.claims) == 3 and all(claim.holds is None for claim in saved.claims)  # too short to decide
    bits = saved.results.bits_sent.isel(step=-1, seed=0).sel(topology="ring")
    copies = 20 * 9 * 2  # rounds, nodes, neighbours
    assert (bits.sel(channel="32 bits") == copies * 32 * SIZE).all()
    assert (bits.sel(channel="top 10%, 8 bits") == copies * (65 * 8 + 65 * 10 + 32)).all()
    assert (bits.sel(channel="low rank 1") == copies * 32 * (64 + 10 + 10)).all()
    accuracy = saved.results.accuracy.isel(step=-1, seed=0)
    assert (accuracy > 0.3).all(), "all of them learn"


def made(bits: list[list[float]], accuracy: list[list[float]], last: int = 400) -> xarray.Dataset:
    """Results of two channels of a ring with CHOCO-SGD."""
    axes = ("channel", "topology", "algorithm", "seed", "step")
    values = {
        name: (axes, np.asarray(of)[:, None, None, None]) for name, of in (("bits_sent", bits), ("accuracy", accuracy))
    }
    names = {"channel": ["32 bits", "sign"], "topology": ["ring"], "algorithm": ["choco_sgd"], "seed": [0]}
    return xarray.Dataset(values, {**names, "step": [0, last // 2, last]})


def test_claims_are_decided_by_bits_and_ends() -> None:
    module = load_experiment(FILE).module
    cheap, near = module.claims(made([[0, 320, 640], [0, 10, 20]], [[0.1, 0.9, 0.95], [0.1, 0.9, 0.94]]))
    assert cheap.holds and cheap.measured.startswith("32 times fewer (sign)") and near.holds
    dear, far = module.claims(made([[0, 320, 640], [0, 10, 20]], [[0.1, 0.9, 0.95], [0.1, 0.7, 0.8]]))
    assert not dear.holds and not far.holds and "15.0 points" in far.measured
    lost = module.claims(made([[0, 320, 640], [0, 10, 20]], [[0.1, 0.9, 0.95], [0.1, np.nan, np.nan]]))
    assert not lost[0].holds and not lost[1].holds


def test_the_front_is_what_no_channel_beats() -> None:
    module = load_experiment(FILE).module
    results = made([[0, 300, 600], [0, 10, 400]], [[0.1, 0.8, 0.95], [0.1, 0.6, 0.7]])
    bits, best = module.front(results.sel(topology="ring", algorithm="choco_sgd"))
    assert bits.tolist() == [10, 300, 600] and best.tolist() == [0.6, 0.8, 0.95]


def test_unknown_channels_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.channel, config.topology, config.algorithm = "morse", "ring", "dsgd"
    with pytest.raises(ValueError, match="compression: channel must be one of 32 bits"):
        experiment.module.build(config)
