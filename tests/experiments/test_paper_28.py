"""The tiny mode of the experiment on 5G, WiFi and Ethernet, and the numbers that its links are made of."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dlsim.studies.experiment import SavedRun, load_experiment, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "papers" / "28_5g_wifi_ethernet.py"
MESSAGE = 8 * 4e6  # bits


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    return run_experiment(FILE, "tiny", out=tmp_path_factory.mktemp("media") / "run", progress=False)


def test_the_tiny_mode_gives_claims_and_a_figure(saved: SavedRun) -> None:
    assert (saved.folder / "figure.png").exists()
    assert [claim.holds for claim in saved.claims] == [None, None, None, True, None, None, None, None]
    assert [claim.reported for claim in saved.claims[:3]] == ["33.3", "17.8", "about 0.23"]


def test_a_round_is_that_of_its_slowest_device(saved: SavedRun) -> None:
    """max_c t_c + t_a, and who is done early waits; the same messages on every medium."""
    module = load_experiment(FILE).module
    for medium in module.MEDIA:
        found = module.parts(saved.results, medium)
        np.testing.assert_allclose(found["t_r"], found["t_c"].max("node") + 0.05, rtol=1e-6)
        waiting = saved.results.sel(medium=medium).waiting_seconds.diff("step")
        np.testing.assert_allclose(found["t_c"] + waiting, found["t_r"].broadcast_like(found["t_c"]), rtol=1e-5)
        bits = saved.results.sel(medium=medium).bits_sent.isel(step=-1)
        np.testing.assert_array_equal(bits, 6 * 5 * 2 * MESSAGE)
        # Speeds belong to the trial and are the same over media.
        compute = found["t_compute"]
        np.testing.assert_array_equal(compute, module.parts(saved.results, "ethernet")["t_compute"])
        assert (compute > 35.7 * 0.95 * np.exp(-0.25)).all() and (compute < 35.7 * 1.15 * np.exp(0.25)).all()


def test_the_arithmetic_of_the_calibration() -> None:
    """With e the Ethernet uplink: WiFi 1.871 e, 5G 33.3 e; all else 111.5 e, so that a 5G round is 1.287 of Ethernet's."""
    module = load_experiment(FILE).module
    rates = {}
    for medium in module.MEDIA:
        config = module.get_config("tiny")
        with config.ignore_type():
            config.medium = medium
        rates[medium] = np.asarray(module.links(config).upload, np.float64)[0]
    e = MESSAGE / rates["ethernet"]
    assert 5 * MESSAGE / rates["wifi"] / e == pytest.approx(33.3 / 17.8, rel=1e-5)
    assert 5 * MESSAGE / rates["5g"] / e == pytest.approx(33.3, rel=1e-5)
    assert config.compute_seconds / e == pytest.approx(111.5, abs=0.1)
    assert (111.5 + 33.3) / (111.5 + 1) == pytest.approx(1.287, abs=5e-4)
