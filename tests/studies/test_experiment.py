"""From a file to a saved run: modes, overrides, the grid, resuming."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray
from patience import PATIENCE

from dlsim import checks, results
from dlsim.configs import apply_overrides, load_experiment, make_config
from dlsim.results import PARTIAL
from dlsim.studies.experiment import run_experiment
from dlsim.sweeps.api import make_options
from dlsim.sweeps.engine import Engine
from dlsim.sweeps.source import from_experiment

ROOT = pathlib.Path(__file__).parents[2]
SMALL = pathlib.Path(__file__).parents[1] / "small_experiment.py"
QUICKSTART = ROOT / "experiments" / "quickstart.py"


def equal(ours, theirs):
    """Equal but for what the clock said."""
    xarray.testing.assert_allclose(ours.drop_vars("seconds_per_step"), theirs.drop_vars("seconds_per_step"), rtol=1e-6)


def small_config(mode="tiny", overrides=(), seeds=None):
    return make_config(load_experiment(SMALL), mode, overrides, seeds)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of the small experiment, shared by the tests that only look."""
    return run_experiment(SMALL, "tiny", out=tmp_path_factory.mktemp("runs") / "small", progress=False)


def test_overrides_are_typed():
    given = ["learning_rate=1", "num_steps=8", "is_heavy=true", "problem.num_nodes=7", "problem.name='x y'"]
    config = small_config(overrides=[*given, "topology=ring", "weights=[3, 4.5]"])
    assert config.learning_rate == 1.0 and isinstance(config.learning_rate, float)
    assert (config.num_steps, config.is_heavy, config.problem.num_nodes) == (8, True, 7)
    assert (config.problem.name, config.topology, config.weights) == ("x y", ("ring",), (3.0, 4.5))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_steps=2.5", r"run: config.num_steps must be an integer, got '2.5'"),
        ("learning_rate=fast", r"run: config.learning_rate must be a finite number, got 'fast'"),
        ("learning_rate=nan", r"run: config.learning_rate must be a finite number, got 'nan'"),
        ("is_heavy=1", r"run: config.is_heavy must be true or false, got '1'"),
        ("weights=1,a", r"run: config.weights must be a finite number, got 'a'"),
        ("topology=", r"run: config.topology must be a list of at least one value"),
        (
            "learning_rat=1",
            r"config key must be one of learning_rate, .* got 'learning_rat'. Did you mean 'learning_rate'",
        ),
        ("problem=1", r"run: config key must be one of .*problem.num_nodes"),
        ("num_steps", r"run: override must be of the form --config.key=value"),
        ("num_steps=0", r"run: config.num_steps must be an integer >= 1, got 0"),
    ],
)
def test_bad_overrides_are_one_line(override, message):
    with pytest.raises(ValueError, match=message) as caught:
        small_config(overrides=[override])
    assert "\n" not in str(caught.value)


def test_a_bad_override_changes_nothing():
    config = small_config()
    with pytest.raises(ValueError, match="finite number"):
        apply_overrides(config, ["num_steps=9", "learning_rate=x"])
    assert config.num_steps == 6


def test_modes_and_files(tmp_path):
    with pytest.raises(ValueError, match="small_experiment: mode must be one of tiny, default, got 'tny'"):
        small_config("tny")
    with pytest.raises(FileNotFoundError, match=r"There: .*small_experiment"):
        load_experiment(SMALL.with_name("smal_experiment.py"))
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="without get_config and build"):
        load_experiment(tmp_path / "empty.py")
    with pytest.raises(ValueError, match="seeds must be an integer >= 1, got 0"):
        small_config(seeds=0)


@pytest.mark.parametrize("mode", ["default", "tiny", "paper"])
def test_quickstart_builds_in_every_mode(mode):
    quickstart = load_experiment(QUICKSTART)
    source = from_experiment(quickstart, make_config(quickstart, mode), seeds=[0])
    assert len(source.choices) == 8 and "Command:" in quickstart.module.__doc__
    process, record, _ = source.build(source.choices[0])
    assert record.every >= 1 and len(process.sources) >= 1
    with pytest.raises(ValueError, match="quickstart: mode must be one of"):
        quickstart.module.get_config("huge")


def test_saved_run(finished):
    assert dict(finished.results.sizes) == {"topology": 2, "seed": 2, "step": 4}
    assert finished.results.topology.values.tolist() == ["ring", "complete"]
    assert finished.results.consensus_distance.dims == ("topology", "seed", "step")
    assert [claim.holds for claim in finished.claims] == [True]
    assert finished.config["topology"] == ["ring", "complete"] and finished.config["num_steps"] == 6
    assert json.loads(finished.results.attrs["config"]) == finished.config
    provenance = finished.provenance
    assert provenance["ok"]
    ran = [
        (label, seed) for part in provenance["runs"] for label in part["label"].split(", ") for seed in part["seeds"]
    ]
    assert sorted(set(ran)) == [("complete", 0), ("complete", 1), ("ring", 0), ("ring", 1)]
    assert provenance["timing"]["num_programs"] >= 1 and provenance["timing"]["compile_seconds"] > 0
    assert any("Lian" in source for source in provenance["sources"])
    assert (finished.folder / "figure.svg").stat().st_size > 1000
    assert not (finished.folder / PARTIAL).exists()


def test_results_are_those_of_simulate(finished):
    import dlsim

    source = from_experiment(load_experiment(SMALL), small_config(), seeds=[0, 1])
    process, record, num_steps = source.build({"topology": "complete"})
    run = dlsim.simulate(process, seed=[0, 1], num_steps=num_steps, record=record)
    ours = finished.results.sel(topology="complete")
    np.testing.assert_allclose(ours.train_loss.values, run.results.train_loss.values, rtol=1e-6)


def test_resume_of_a_finished_run_gives_it_back(finished):
    before = (finished.folder / "results.nc").stat().st_mtime_ns
    again = run_experiment(SMALL, "tiny", out=finished.folder, resume=True, progress=False)
    assert (finished.folder / "results.nc").stat().st_mtime_ns == before
    xarray.testing.assert_identical(again.results, finished.results)


def test_bad_settings_write_nothing(tmp_path):
    with pytest.raises(ValueError, match="small: topology must be one of ring, complete, got 'rin'"):
        run_experiment(SMALL, "tiny", ["topology=rin"], out=tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_unfinished_run_needs_resume_and_keeps_what_is_done(tmp_path, monkeypatch, finished):
    out = tmp_path / "run"
    original = Engine._play
    ran = []

    def stop_at_third(self, group, block, *rest):
        if len(ran) == 2:
            ran.append(None)
            raise KeyboardInterrupt
        ran.extend((run.choice["topology"], run.seed) for run in block)
        original(self, group, block, *rest)

    monkeypatch.setattr(Engine, "_play", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(SMALL, "tiny", out=out, progress=False, options=make_options(layout=1, lanes=1))
    with pytest.raises(ValueError, match=r"without an unfinished run, got .* Go on with --resume"):
        run_experiment(SMALL, "tiny", out=out, progress=False)
    with pytest.raises(ValueError, match=r"settings of the unfinished run, got learning_rate = 0.2 \(was 0.1\)"):
        run_experiment(SMALL, "tiny", ["learning_rate=0.2"], out=out, resume=True, progress=False)
    saved = run_experiment(SMALL, "tiny", out=out, resume=True, progress=False)
    assert sorted(run for run in ran if run) == [("complete", 0), ("complete", 1), ("ring", 0), ("ring", 1)]
    equal(saved.results, finished.results)


def test_a_late_value_of_an_axis_is_checked_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="small: topology must be one of ring, complete, got 'rin'"):
        run_experiment(SMALL, "tiny", ["topology=ring,rin"], out=tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_error_before_the_first_step_leaves_nothing(tmp_path):
    """What only the simulator can tell: here, a record that is kept every 0 steps."""
    (tmp_path / "bad.py").write_text(SMALL.read_text().replace("Record(every=2)", "Record(every=0)"))
    with pytest.raises(ValueError, match="record.every must be an integer >= 1, got 0"):
        run_experiment(tmp_path / "bad.py", "tiny", out=tmp_path / "new" / "run", progress=False)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.name != "__pycache__"] == []


def test_a_failing_figure_keeps_the_runs(tmp_path, finished):
    """Mend the figure, resume, and nothing is run again."""
    file, out, whole = tmp_path / "small_experiment.py", tmp_path / "run", SMALL.read_text()
    file.write_text(whole.replace("    return made\n", "    raise ValueError('no figure')\n"))
    with pytest.raises(ValueError, match="no figure"):
        run_experiment(file, "tiny", out=out, progress=False)
    kept = {path.name: path.stat().st_mtime_ns for path in (out / PARTIAL / "blocks").glob("*.npz")}
    assert 1 <= len(kept) <= 4
    file.write_text(whole)
    saved = run_experiment(file, "tiny", out=out, resume=True, progress=False)
    equal(saved.results, finished.results)
    assert saved.provenance["timing"]["num_programs"] == 0


def test_a_finished_run_of_other_settings_is_left_alone(finished):
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"got .*: learning_rate = 0.2 \(was 0.1\). Choose another --out"):
            run_experiment(SMALL, "tiny", ["learning_rate=0.2"], out=finished.folder, resume=resume, progress=False)
    with pytest.raises(ValueError, match=r"got .*: mode = default \(was tiny\)"):
        run_experiment(SMALL, "default", ["num_steps=6"], out=finished.folder, progress=False)
    xarray.testing.assert_identical(results.load(finished.folder).results, finished.results)


def test_an_unfinished_run_of_another_experiment_is_left_alone(tmp_path):
    (tmp_path / "run" / PARTIAL).mkdir(parents=True)
    held = {"experiment": "other", "mode": "tiny", "config": {}, "started": "-"}
    (tmp_path / "run" / PARTIAL / "identity.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"a folder of 'small_experiment', got .* with an unfinished run of 'other'"):
        run_experiment(SMALL, "tiny", out=tmp_path / "run", resume=True, progress=False)


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_results(tmp_path, finished):
    """SIGKILL in the middle of the second combination, then resume: the results of the unbroken run."""
    out = tmp_path / "run"
    code = f"from dlsim.experiment import run_experiment; run_experiment({str(SMALL)!r}, 'tiny', out={str(out)!r})"
    slow = {**os.environ, "DLSIM_TEST_SLOW": "0.3"}
    child = subprocess.Popen([sys.executable, "-c", code], env=slow, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        _wait_for(lambda: any((out / PARTIAL / "blocks").glob("*.npz")), child)
        child.send_signal(signal.SIGKILL)
        child.wait(PATIENCE)
    finally:
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not (out / "results.nc").exists()
    saved = run_experiment(SMALL, "tiny", out=out, resume=True, progress=False)
    equal(saved.results, finished.results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def _wait_for(condition, child, seconds=PATIENCE):
    began = time.monotonic()
    while not condition():
        if child.poll() is not None or time.monotonic() - began > seconds:
            checks.fail("test", "child", "running until the condition holds", child.returncode)
        time.sleep(0.05)


def test_axes_must_be_keys_with_distinct_values(tmp_path):
    text = SMALL.read_text().replace('{"topology": config.topology}', '{"topolgy": config.topology}')
    (tmp_path / "bad.py").write_text(text)
    bad = load_experiment(tmp_path / "bad.py")
    with pytest.raises(ValueError, match="bad: axis must be one of topology"):
        from_experiment(bad, make_config(bad, "tiny"))
    with pytest.raises(ValueError, match="axis topology must be one or more distinct values"):
        from_experiment(load_experiment(SMALL), small_config(overrides=["topology=ring,ring"]))
