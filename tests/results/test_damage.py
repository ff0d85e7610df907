"""What was written is what is read: flipped bits, files of other runs, tampered and old ones end in one line."""

from __future__ import annotations

import contextlib
import json
import random
import shutil

import matplotlib.figure
import numpy as np
import pytest
import xarray

from dlsim import results
from dlsim.results import Claim, digests

NETWORKS = {"pair": {"places": [[0, 0], [0, 1]], "segments": [[0, 0, 0, 1]], "at": {}}}
CONFIG = {"rate": 0.1, "sizes": [1, 2], "model": {"width": 8}}


def dataset(value=1.0, config=CONFIG, experiment="study"):
    values = np.linspace(0, value, 24).reshape(2, 12)
    made = xarray.Dataset({"loss": (("topology", "step"), values)}, coords={"topology": ["a", "b"], "step": range(12)})
    return made.assign_attrs(experiment=experiment, mode="tiny", config=json.dumps(config))


def save(folder, value=1.0, config=CONFIG, experiment="study"):
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    figure.subplots().plot([0, value])
    claims = [Claim("it holds", "a paper", "1", f"{value} ± 0.1", True), Claim("open", "a paper", "2", "-", None)]
    provenance = {
        "experiment": experiment,
        "mode": "tiny",
        "runs": [{"seeds": [0, 1], "label": "a", "status": [], "ok": True}],
        "timing": {"run_seconds": 1.25, "compile_seconds": 0.5, "total_seconds": None, "num_programs": 1.0},
    }
    return results.save(folder, dataset(value, config, experiment), config, provenance, claims, figure, NETWORKS)


def unsealed(folder):
    """The run as a version without digests would have left it."""
    path = folder / "provenance.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({name: held[name] for name in held if name not in ("files", "digest")}))


def refused(folder, words="results.load: "):
    """The one line that reading the run ends in."""
    with pytest.raises(ValueError, match=words) as caught:
        results.load(folder)
    assert str(caught.value).startswith("results.load: ") and "\n" not in str(caught.value)
    return str(caught.value)


def same(one, other):
    xarray.testing.assert_identical(one.results, other.results)
    assert (one.config, one.claims, one.provenance) == (other.config, other.claims, other.provenance)


def test_provenance_holds_the_digest_of_every_file(tmp_path):
    saved = save(tmp_path / "run")
    import hashlib

    held = saved.provenance
    assert set(held["files"]) == set(results.FILES) - {"provenance.json"}
    for name, digest in held["files"].items():
        assert digest == hashlib.sha256((saved.folder / name).read_bytes()).hexdigest()
    rest = json.dumps({name: held[name] for name in held if name != "digest"}, sort_keys=True)
    assert held["digest"] == hashlib.sha256(rest.encode()).hexdigest() and results.is_sealed(held)
    same(results.load(saved.folder), saved)


@pytest.mark.parametrize("name", results.FILES)
def test_no_flipped_bit_loads_as_another_run(name, tmp_path):
    """200 bits, spread over each file: each is refused in one line, or changes nothing of what is read (a blank)."""
    saved = save(tmp_path / "run")
    path = saved.folder / name
    whole, draw, seen = path.read_bytes(), random.Random(7), 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            same(results.load(saved.folder), saved)
        except ValueError as error:
            assert str(error).startswith("results.load: ") and "\n" not in str(error)
            seen += 1
    assert seen == 200 if name != "provenance.json" else seen > 150
    path.write_bytes(whole)
    same(results.load(saved.folder), saved)


def test_the_first_bits_of_every_byte_of_the_provenance(tmp_path):
    """The file that holds the digests is the one that could turn them off."""
    saved = save(tmp_path / "run")
    path = saved.folder / "provenance.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 7)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            same(results.load(saved.folder), saved)


@pytest.mark.filterwarnings("ignore")
def test_flipped_bits_of_runs_without_digests_are_never_a_traceback(tmp_path):
    saved = save(tmp_path / "run")
    unsealed(saved.folder)
    draw = random.Random(3)
    for name in ("results.nc", "claims.json", "config.json", "provenance.json"):
        path = saved.folder / name
        whole = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            try:
                results.load(saved.folder)
            except ValueError as error:
                assert "\n" not in str(error)
        path.write_bytes(whole)


@pytest.mark.parametrize("name", [name for name in results.FILES if name != "provenance.json"])
def test_a_file_of_another_run_is_seen(name, tmp_path):
    other = save(tmp_path / "other", 2.0, {**CONFIG, "rate": 0.2})
    mine = save(tmp_path / "mine")
    if name == "networks.json":
        (other.folder / name).write_text(json.dumps({"pair": {**NETWORKS["pair"], "at": {"step": 1}}}))
    shutil.copy(other.folder / name, mine.folder / name)
    assert f"{name} must be the file that the run wrote, got" in refused(mine.folder)
    with pytest.raises(ValueError, match="the file that the run wrote"):
        shutil.copy(other.folder / "provenance.json", mine.folder / "provenance.json")
        results.load(mine.folder)


def test_a_file_that_is_gone_or_was_added(tmp_path):
    saved = save(tmp_path / "run")
    (saved.folder / "figure.svg").unlink()
    same(results.load(saved.folder), saved)  # no number is lost with a figure
    (saved.folder / "networks.json").unlink()
    assert "networks.json must be there, as the run left it" in refused(saved.folder)
    plain = results.save(tmp_path / "plain", dataset(), CONFIG, {"experiment": "study", "mode": "tiny"})
    (plain.folder / "networks.json").write_text(json.dumps(NETWORKS))
    assert "networks.json must be the file that the run wrote" in refused(plain.folder)


@pytest.mark.parametrize("name", ["files", "digest"])
@pytest.mark.parametrize("value", [None, 5, {}, "0" * 64])
def test_one_seal_without_the_other_is_damage(name, value, tmp_path):
    saved = save(tmp_path / "run")
    path = saved.folder / "provenance.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, name: value}))
    refused(saved.folder, "provenance.json must be the file that the run wrote")
    path.write_text(json.dumps({key: held[key] for key in held if key != name}))
    refused(saved.folder, "provenance.json must be the file that the run wrote")


def test_runs_of_before_are_read_and_say_so(tmp_path):
    saved = save(tmp_path / "run")
    unsealed(saved.folder)
    again = results.load(saved.folder)
    xarray.testing.assert_identical(again.results, saved.results)
    assert again.claims == saved.claims and not results.is_sealed(again.provenance)


def test_arrays_of_another_run_are_seen_without_digests_too(tmp_path):
    others = [save(tmp_path / "1", 2.0, {**CONFIG, "rate": 0.2}), save(tmp_path / "2", 2.0, experiment="trial")]
    mine = save(tmp_path / "mine")
    unsealed(mine.folder)
    for other in others:
        shutil.copy(other.folder / "results.nc", mine.folder / "results.nc")
        refused(mine.folder, "results.nc must be of the same run as the files beside it")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("claims.json", '[{"text": "x"}]'),
        ("claims.json", "[5]"),
        ("claims.json", '[{"text": "a", "source": "b", "reported": "c", "measured": "d", "holds": "yes"}]'),
        ("claims.json", '[{"text": 5, "source": "b", "reported": "c", "measured": "d", "holds": true}]'),
        ("claims.json", '[{"text": "a", "source": "b", "reported": "c", "measured": "d", "holds": true, "x": 1}]'),
        ("claims.json", "[" * 100_000),
        ("provenance.json", '{"experiment": "study", "mode": "tiny", "runs": 5}'),
        ("provenance.json", '{"experiment": "study", "mode": "tiny", "runs": [5]}'),
        ("provenance.json", '{"experiment": "study", "mode": "tiny", "runs": [{"seeds": 5}]}'),
        ("provenance.json", '{"experiment": "study", "mode": "tiny", "timing": {"run_seconds": "long"}}'),
        ("provenance.json", '{"experiment": ["study"], "mode": "tiny"}'),
        ("provenance.json", '{"experiment": "study", "mode": "tiny", "format_version": true}'),
        ("provenance.json", '{"experiment": "study", "mode": "tiny", "sources": "a paper"}'),
        ("config.json", "[1]"),
        ("config.json", '"\ud800"'),
    ],
)
def test_tampered_files_of_runs_without_digests_are_one_line(name, text, tmp_path):
    saved = save(tmp_path / "run")
    unsealed(saved.folder)
    (saved.folder / name).write_bytes(text.encode(errors="surrogatepass"))
    refused(saved.folder)


def test_digests_are_kept_when_a_run_is_saved_again(tmp_path):
    """What a run is saved with may come from a run that was read."""
    saved = save(tmp_path / "run")
    again = results.save(tmp_path / "copy", saved.results, saved.config, saved.provenance, saved.claims)
    assert set(again.provenance["files"]) == {"config.json", "results.nc", "claims.json"}
    digests.check_own(again.provenance, again.folder / "provenance.json", "here")


def test_the_commit_of_a_checkout_is_told():
    about = results.describe()
    root = __import__("pathlib").Path(results.__file__).parents[2]
    assert (about["commit"] is not None) == (root / ".git").exists()
    assert about["commit"] is None or len(about["commit"]) == 40
