"""The tiny mode of FedZip's experiment: rates that must come out, and the two counts of gaps side by side."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import networks
from dlsim.core import Route
from dlsim.networks.messages import whole_packet
from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "31_fedzip.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None] * 4  # too short to decide
    last = saved.results.isel(step=-1, seed=0)
    plain = last.bits_up.sel(case="none")
    np.testing.assert_array_equal(plain, 4 * 4 * 32 * 2410)  # clients, rounds, bits, parameters
    readable, counted = (
        plain / last.bits_up.sel(case=name) for name in ("differences", "differences as the paper counts")
    )
    assert (counted > readable).all() and (readable.values > [15, 50]).all()
    assert float(readable.sel(sparsity=0.99)) > float(readable.sel(sparsity=0.8))
    np.testing.assert_array_equal(
        last.accuracy.sel(case="differences"), last.accuracy.sel(case="differences as the paper counts")
    )


def test_gaps_as_the_paper_counts_by_hand() -> None:
    """Clusters of 2, 2 and 6: gaps 3, 5 and 5, 5 have 2 + 3 and 3 + 3 bits; the six zeros would need 9 and are left out."""
    experiment = load_experiment(FILE).module
    row, ids = jnp.array([[0.0, 0.0, 5.0, 0.0, -4.0, 0.0, 0.0, 6.0, 0.0, -5.0]]), jnp.zeros(1, jnp.int32)
    channel = networks.fedzip(0.6)
    _, packet = jax.jit(lambda p: channel.send(jax.random.key(0), (), p, Route(ids, ids, ids)))(whole_packet(row))
    assert int(experiment._bits_of_gaps(packet)[0]) == 96 + 5 + 6
    with pytest.raises(ValueError, match="31_fedzip: case must be one of"):
        config = make_config(load_experiment(FILE), "tiny")
        with config.ignore_type():
            config.case, config.sparsity = "zip", 0.8
        experiment.build(config)
