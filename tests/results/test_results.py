"""Runs on disk: whole or not at all, and never over something else."""

from __future__ import annotations

import json

import matplotlib.figure
import numpy as np
import pytest
import xarray

from dlsim import results
from dlsim.results import Claim, run_folder

PROVENANCE = {"experiment": "study", "runs": []}
CLAIMS = [Claim("it holds", "a paper", "1", "1.0 ± 0.1", True), Claim("unknown", "a paper", "2", "-", None)]


def dataset(value=1.0):
    values = np.full((2, 3), value)
    coordinates = {"topology": ["ring", "complete"], "step": [0, 5, 10]}
    return xarray.Dataset({"loss": (("topology", "step"), values)}, coords=coordinates)


def figure():
    made = matplotlib.figure.Figure()
    made.subplots().plot([1, 2], [3, 4])
    return made


CONFIG = {"rate": 0.1, "sizes": (1, 2), "model": {"width": 8}}


def save(folder, value=1.0, provenance=PROVENANCE, config=CONFIG, **extra):
    return results.save(folder, dataset(value), config, provenance, CLAIMS, **extra)


def test_round_trip(tmp_path):
    drawings = {"pair": {"places": [[0, 0], [0, 1]], "segments": [[0, 0, 0, 1]], "at": {}}}
    saved = save(tmp_path / "a" / "run", figure=figure(), networks=drawings)
    assert json.loads((saved.folder / "networks.json").read_text()) == drawings
    again = results.load(saved.folder)
    xarray.testing.assert_identical(again.results, dataset())
    assert again.claims == CLAIMS
    assert again.config == {"rate": 0.1, "sizes": [1, 2], "model": {"width": 8}}
    assert again.provenance["format_version"] == results.FORMAT_VERSION
    assert sorted(path.name for path in saved.folder.iterdir()) == sorted(results.FILES)
    assert [path.name for path in saved.folder.parent.iterdir()] == ["run"]


def test_same_run_gives_the_same_figure_files(tmp_path):
    one, other = (save(tmp_path / name, figure=figure()).folder for name in ("one", "other"))
    for name in ("figure.svg", "figure.png"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_numbers_that_json_lacks_become_null():
    value = {"a": np.float32(0.5), "b": float("nan"), "c": np.array([1, 2]), "d": np.bool_(True), 3: {2, 1}}
    assert results.plain(value) == {"a": 0.5, "b": None, "c": [1, 2], "d": True, "3": [1, 2]}


def test_an_earlier_run_is_replaced(tmp_path):
    save(tmp_path / "run", 1.0, figure=figure())
    save(tmp_path / "run", 2.0)
    assert float(results.load(tmp_path / "run").results.loss.max()) == 2.0
    assert not (tmp_path / "run" / "figure.png").exists()  # nothing of the earlier run is left


def test_failure_while_writing_leaves_the_earlier_run(tmp_path, monkeypatch):
    save(tmp_path / "run", 1.0)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(run_folder, "_write_figure", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "run", 2.0, figure=figure())
    assert float(results.load(tmp_path / "run").results.loss.max()) == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_killed_between_the_renames(tmp_path):
    save(tmp_path / "run", 1.0).folder.rename(tmp_path / ".run.old")
    save(tmp_path / "new", 2.0).folder.rename(tmp_path / ".run.new")
    assert float(results.load(tmp_path / "run").results.loss.max()) == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_killed_while_it_cleared_up(tmp_path):
    """A killed process may leave the earlier run beside the new one; that must not stand in the way of the next."""
    save(tmp_path / "run", 2.0)
    save(tmp_path / "earlier", 1.0).folder.rename(tmp_path / ".run.old")
    assert float(results.load(tmp_path / "run").results.loss.max()) == 2.0
    save(tmp_path / "run", 3.0)
    assert float(results.load(tmp_path / "run").results.loss.max()) == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("provenance", "config", "changed"),
    [
        (PROVENANCE, {**CONFIG, "rate": 0.2}, r"rate = 0.2 \(was 0.1\)"),
        (PROVENANCE, {**CONFIG, "model": {"width": 9}}, r"model.width = 9 \(was 8\)"),
        (PROVENANCE, {**CONFIG, "depth": 2}, r"depth = 2 \(was nothing\)"),
        ({**PROVENANCE, "mode": "tiny"}, CONFIG, r"mode = tiny \(was None\)"),
    ],
)
def test_refuses_a_run_of_other_settings(provenance, config, changed, tmp_path):
    save(tmp_path / "run", 1.0)
    with pytest.raises(ValueError, match=rf"a folder of a run with these settings, got .*: {changed}. Choose another"):
        save(tmp_path / "run", 2.0, provenance, config)
    assert float(results.load(tmp_path / "run").results.loss.max()) == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["provenance.json", "config.json", "claims.json", "results.nc"])
@pytest.mark.parametrize("content", [None, b"", b"7", b"[{"])
def test_a_damaged_folder_is_one_line(name, content, tmp_path):
    file = save(tmp_path / "run").folder / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"results.load: (run_dir|[a-z]+\.(json|nc)) must be ") as caught:
        results.load(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_refuses_another_experiment(tmp_path):
    save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run: out must be a folder of 'other', got .* with a run of 'study'"):
        save(tmp_path / "run", provenance={"experiment": "other"})
    assert results.load(tmp_path / "run").provenance["experiment"] == "study"


def test_refuses_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"with other files \(notes.txt\)"):
        save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_refuses_a_file_and_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out must be a folder, got the file"):
        save(tmp_path / "file")
    for place in ("/proc/nowhere/run", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="out must be a folder that can be written"):
            save(place)


def test_refuses_a_newer_format(tmp_path):
    folder = save(tmp_path / "run").folder
    newer = {**PROVENANCE, "format_version": results.FORMAT_VERSION + 1}
    (folder / "provenance.json").write_text(json.dumps(newer))
    for attempt in (results.load, save):
        with pytest.raises(ValueError, match=r"format_version must be at most 1, got 2 .* Install a newer dlsim"):
            attempt(folder)


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="run_dir must be the folder of a finished run"):
        results.load(tmp_path)
    (tmp_path / results.PARTIAL).mkdir()
    with pytest.raises(ValueError, match="--resume"):
        results.load(tmp_path)


def test_describe_names_versions_and_device():
    about = results.describe()
    assert {"python", "jax", "jaxlib", "numpy", "flax", "optax", "dlsim"} <= set(about["versions"])
    assert about["platform"] and about["device_kind"] and "commit" in about
