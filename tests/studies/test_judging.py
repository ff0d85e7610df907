"""Claims of one seed, one value or few records: undecided, with the reason, and never a traceback."""

from __future__ import annotations

import pathlib

import pytest

from dlsim.studies.experiment import run_experiment

SMALL = pathlib.Path(__file__).parents[1] / "small_experiment.py"
FITTED = '''

def claims(results):
    """Needs two topologies, as its author had them."""
    last = results.consensus_distance.isel(step=-1).mean("seed")
    slope = np.polyfit([0.0, 1.0], np.log(last.sel(topology=["ring", "complete"]).values + 1e-9), 1)[0]
    return [Claim("it falls", "arithmetic", "below 0", f"{slope:.2f}", bool(slope < 0))]


def figure(results):
    results.consensus_distance.sel(topology="complete")
    return None
'''


@pytest.fixture
def study(tmp_path: pathlib.Path) -> pathlib.Path:
    text = SMALL.read_text(encoding="utf-8")
    file = tmp_path / "fitted.py"
    file.write_text(text[: text.index("def claims")].rstrip() + FITTED, encoding="utf-8")
    return file


def test_with_the_files_own_settings_they_are_decided(study: pathlib.Path, tmp_path: pathlib.Path) -> None:
    saved = run_experiment(study, "tiny", out=tmp_path / "run", progress=False)
    assert [claim.holds for claim in saved.claims] == [True]


def test_with_others_they_are_undecided_and_say_why(study: pathlib.Path, tmp_path: pathlib.Path) -> None:
    saved = run_experiment(study, "tiny", ["topology=ring"], 1, tmp_path / "run", progress=False)
    (claim,) = saved.claims
    assert claim.holds is None and claim.text == "The claims of fitted, with settings that are not its own"
    assert claim.measured.startswith("not decided: KeyError: ") and "\n" not in claim.measured
    assert claim.measured.endswith("(1 topology, 1 seed, 4 step)")
    assert (saved.folder / "figure.png").stat().st_size > 1000  # the overview


def test_a_mistake_in_the_file_is_still_raised(study: pathlib.Path, tmp_path: pathlib.Path) -> None:
    study.write_text(study.read_text(encoding="utf-8").replace('"ring", "complete"].values', '"rong"].values'))
    study.write_text(study.read_text(encoding="utf-8").replace('topology=["ring"', 'topology=["rong"'))
    with pytest.raises(KeyError, match="index 'topology'"):
        run_experiment(study, "tiny", out=tmp_path / "run", progress=False)
