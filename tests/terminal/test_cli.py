"""The command line: one line and status 2 for mistakes, 130 for Ctrl-C, and a run that can be taken up."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import xarray
from patience import PATIENCE

from dlsim import results
from dlsim.configs import split_mode
from dlsim.terminal import cli

ROOT = pathlib.Path(__file__).parents[2]
SMALL = str(pathlib.Path(__file__).parents[1] / "small_experiment.py")
PARTIAL = results.PARTIAL


def call(capsys, *words):
    """Exit status, stdout and stderr of the command line in this process."""
    status = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_run_prints_table_claims_and_figure(tmp_path, capsys):
    out = tmp_path / "run"
    words = ("run", f"{SMALL}:tiny", "--config.learning_rate=0.2", "--config.problem.num_nodes", "6", "--out", out)
    status, printed, err = call(capsys, *words, "--seeds", "3", "--progress", "off", "--resume")
    assert (status, err) == (0, f"dlsim: nothing to resume in {out}: the run starts anew\n")
    saved = results.load(out)
    assert saved.config["learning_rate"] == 0.2 and saved.config["problem"]["num_nodes"] == 6
    assert saved.results.sizes["seed"] == 3
    assert "over 3 seeds" in printed and "complete" in printed and "±" in printed
    assert "holds         the complete graph agrees" in printed
    assert str(out / "figure.png") in printed and (out / "figure.png").exists()


def test_resume_says_so_where_there_is_nothing_to_resume(tmp_path, capsys, monkeypatch):
    """Of a sweep as of a run; what a folder holds is used, and then nothing is said."""
    monkeypatch.chdir(tmp_path)
    words = ("sweep", f"{SMALL}:tiny", "--resume", "--progress", "off", "--axis", "topology=ring")
    status, printed, err = call(capsys, *words)
    assert status == 0 and "done before" not in printed
    assert err == "dlsim: nothing to resume in runs/small_experiment-tiny-sweep: the sweep starts anew\n"
    status, printed, err = call(capsys, *words)
    assert (status, err) == (0, "") and "2 runs (1 topology x 2 seeds) in 1 group; 2 done before" in printed
    assert re.search(r"ran [\d.]+ s; .* over 2 sittings\n", printed)
    timing = results.load("runs/small_experiment-tiny-sweep").provenance["timing"]
    assert timing["num_sittings"] == 2 and timing["all_seconds"] > timing["run_seconds"] + timing["compile_seconds"]


def test_a_plan_says_that_it_works(tmp_path, capsys):
    words = ("sweep", f"{SMALL}:tiny", "--out", tmp_path / "sweep", "--progress", "lines", "--plan")
    status, printed, err = call(capsys, *words)
    assert status == 0 and "4 runs" in printed and err.splitlines()[0] == "small_experiment: planning 4 runs"


def test_a_diverging_run_is_reported_line_by_line(tmp_path, capsys):
    words = (
        "run",
        f"{SMALL}:default",
        "--config.learning_rate=1e20",
        "--config.topology=ring",
        "--out",
        tmp_path / "run",
        "--progress",
        "lines",
    )
    status, printed, err = call(capsys, *words)
    lines = err.splitlines()
    assert status == 0 and "small_experiment: 2 runs: 0 of 80 steps (0 %)" in lines
    assert lines[-1].startswith("small_experiment: 2 runs: 80 of 80 steps (100 %), ") and "2 runs done" in lines[-1]
    assert "ring: NOT_FINITE first at step" in printed and "node" in printed and "not finite in 2 of 2" in printed
    assert results.load(tmp_path / "run").provenance["ok"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nowhere.py"], "run: file must be an experiment file"),
        (["run", f"{SMALL}:tny"], "mode must be one of tiny, default, got 'tny'"),
        (["run", SMALL, "--config.learning_rat=1"], "Did you mean 'learning_rate'?"),
        (["run", SMALL, "--config.num_steps=many"], "config.num_steps must be an integer, got 'many'"),
        (["run", SMALL, "--config.topology=rin"], "topology must be one of ring, complete, got 'rin'"),
        (["run", SMALL, "--seeds", "0"], "seeds must be an integer >= 1, got 0"),
        (["run", SMALL, "--out", "/proc/nowhere"], "out must be a folder that can be written"),
        (["run", SMALL, "--threads", "0"], "--threads must be an integer >= 1, got 0"),
        (["run", SMALL, "--threads", "100000"], "--threads must be an integer in [1, "),
        (["run", SMALL, "--mesh", "nodes=2000"], "--mesh must be nodes=N with N in [1, "),
        (["run", SMALL, "--mesh", "99999999999"], "--mesh must be nodes=N with N in [1, "),
        (["run", SMALL, "--mesh", "nodes=²"], "--mesh must be a number of devices or nodes=4, got 'nodes=²'"),
        (["run", SMALL, "--mesh", "9" * 5000], "--mesh must be a number of devices or nodes=4"),
        (["run", SMALL, "--seeds", "3000000"], "--seeds must be an integer in [1, 100000], got 3000000"),
        (["sweep", SMALL, "--seeds", "-1"], "--seeds must be an integer >= 1, got -1"),
        (["reproduce", "all", "--seeds", "3000000"], "--seeds must be an integer in [1, 100000], got 3000000"),
        (["run", SMALL, "--config.num_seeds=2147483648"], "config.num_seeds must be an integer in [1, 100000]"),
        (["run", SMALL, "--config.num_steps=2147483648"], "num_steps must be an integer in [1, 2147483647]"),
        (["sweep", SMALL, "--axis", "num_steps=5,1099511627776"], "num_steps must be an integer in [1, 2147483647]"),
        (
            ["run", SMALL, "--progress", "bra"],
            "dlsim: --progress must be one of bar, auto, lines, off, got 'bra'. Did you",
        ),
        (["bench", "--progress", "loud"], "dlsim: --progress must be one of auto, bar, lines, off, got 'loud'."),
        (["sweep", SMALL, "--axis", "topolgy=ring"], "got 'topolgy'. Did you mean 'topology'?"),
        (["sweep", SMALL, "--layout", "vmp"], "got 'vmp'. Did you mean 'vmap'?"),
        (["sweep", SMALL, "--workers", "raay:2"], "got 'raay'. Did you mean 'ray'?"),
        (["run", SMALL.replace("small_", "smal_")], "Did you mean 'small_experiment'?"),
        (["reproduce", "quickstrt"], "got 'quickstrt'. Did you mean 'quickstart'?"),
        (["reproduce", "swarmbnch"], "got 'swarmbnch'. Did you mean 'swarmbench'?"),
        (["list", "nowhere"], "list: folder must be a folder of experiments"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, err = call(capsys, *words)
    assert (status, printed) == (2, "")
    assert err.startswith("dlsim: error: ") and message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    status, _, err = call(capsys, "run", f"{SMALL}:tiny", "--out", tmp_path)
    assert status == 2 and "with other files (thesis.tex)" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").is_dir(), reason="counts the threads that Linux lists")
def test_threads_are_as_many_as_asked_for():
    program = f"""
from dlsim.terminal import cli
import pathlib, sys
def names(threads):
    cli.main(["run", {SMALL!r}, "--threads", threads, "--out", sys.argv[1], "--config.num_steps=0", "--seeds", "0"])
    import jax
    jax.numpy.zeros(3).block_until_ready()
    return [(task / "comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()]
print(names(sys.argv[2]).count("tf_XLAEigen"))
"""
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # tests see eight devices
    for threads in ("1", "3"):
        done = subprocess.run(
            [sys.executable, "-c", program, "nowhere", threads], capture_output=True, text=True, check=True, env=clean
        )
        assert done.stdout.strip().splitlines()[-1] == threads


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError):
        cli.main(["run", "nowhere.py", "--debug"])


def test_unknown_options_and_version(capsys):
    cases = {
        "Did you mean '--seeds'?": ["run", SMALL, "--sed", "1"],
        "unrecognized arguments: --config.x=1": ["list", "--config.x=1"],
        "COMMAND must be one of run, sweep, reproduce, report, bench, list, info, got 'swep'. Did you mean 'sweep'?": [
            "swep"
        ],
        "the following arguments are required": [],
    }
    for line, words in cases.items():
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2 and line in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out.startswith("dlsim 0.")


LOOKS_UP = '''"""A study that looks its names up."""
from ml_collections import ConfigDict
def get_config(mode): return ConfigDict({"num_steps": 2, "num_seeds": 1, "shape": ("ring 4", "torus 9")})
def axes(config): return {"shape": config.shape}
def build(config): return {"ring 4": 4, "torus 9": 9}[config.shape]
'''


def test_a_name_that_a_file_fails_on_gets_the_nearest_of_its_own(tmp_path, capsys):
    """Whatever its `build` raises; of a name that it knows, its own error stays."""
    (tmp_path / "study.py").write_text(LOOKS_UP)
    words = ("sweep", tmp_path / "study.py", "--out", tmp_path / "run", "--axis")
    status, _, err = call(capsys, *words, "shape=rng 4")
    assert status == 2 and err.count("\n") == 1
    assert "study: axis shape must be a name that the file knows, such as ring 4, torus 9, got 'rng 4'." in err
    assert "Did you mean 'ring 4'? (The file's build stopped with KeyError: 'rng 4'.)" in err
    status, _, err = call(capsys, *words, "shape=ring 4")
    assert status == 2 and "build must be a function that gives (Process, Record), got int" in err


@pytest.mark.parametrize("width", [50, 80, 120])
def test_no_number_of_the_claims_is_cut(width, capsys, monkeypatch):
    from rich.console import Console

    from dlsim.studies import claims_table
    from dlsim.terminal import papers

    row = {"experiment": "05", "claim": "A claim of more than a few words, which wraps.", "source": "the paper"}
    row |= {
        "reported": "0.98 ± 0.02",
        "measured": "0.9123 ± 0.0045",
        "scale": "tiny, 3 seeds",
        "holds": "does not hold",
    }
    monkeypatch.setattr(claims_table, "rows", lambda done: [row, {**row, "holds": "holds"}])
    monkeypatch.setattr(papers, "console", lambda: Console(width=width, highlight=False))
    papers.tell_claims([])
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()[:-1]) <= width and "…" not in shown
    for text in ("0.98 ± 0.02", "0.9123 ± 0.0045", "does not hold"):
        assert text in shown
    assert ("┃" in shown) == (width >= papers.TABLE_WIDTH)


def test_a_missing_package_names_the_command(tmp_path, capsys):
    (tmp_path / "study.py").write_text("import no_such_package\n")
    status, _, err = call(capsys, "run", tmp_path / "study.py")
    assert status == 2 and err.count("\n") == 1 and "pip install no_such_package" in err


def test_a_mistake_in_the_program_keeps_its_traceback(tmp_path):
    (tmp_path / "study.py").write_text("def get_config(): ...\ndef build(config): ...\n")
    with pytest.raises(TypeError):
        cli.main(["run", str(tmp_path / "study.py")])


def test_list_and_info(capsys, tmp_path):
    status, printed, _ = call(capsys, "list", ROOT / "experiments")
    lines = printed.splitlines()
    assert status == 0 and any(re.search("quickstart.py +Quickstart: ", line) for line in lines)
    assert not any("startup.py" in line for line in lines)  # a benchmark is no experiment
    below = lines[next(i for i, line in enumerate(lines) if "quickstart.py" in line) + 1]
    assert below.strip() == "modes: default, tiny, paper"
    (tmp_path / "one.py").write_text(
        '"""One."""\nMODES = ("a", "b")\ndef get_config(mode): ...\ndef build(config): ...\n'
    )
    assert call(capsys, "list", tmp_path)[1].splitlines()[1].strip() == "modes: a, b"
    status, printed, _ = call(capsys, "info")
    assert status == 0
    assert all(word in printed for word in ("python", "jax", "device", "memory", "GiB", "cores"))


def test_file_and_mode():
    assert split_mode("a/b.py") == ("a/b.py", "default")
    assert split_mode("a/b.py:tiny") == ("a/b.py", "tiny")
    assert split_mode("C:\\b.py") == ("C:\\b.py", "default")


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path):
    """SIGINT in the middle of a run: status 130, the exact command; that command finishes it, like an unbroken run."""
    out = tmp_path / "my runs"  # a name that needs quoting
    words = ["run", f"{SMALL}:tiny", "--out", str(out), "--config.learning_rate=0.05"]
    slow = {**os.environ, "DLSIM_TEST_SLOW": "0.3"}
    child = subprocess.Popen(
        [sys.executable, "-m", "dlsim.terminal.cli", *words], env=slow, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        began = time.monotonic()
        while not any((out / PARTIAL / "blocks").glob("*.npz")):
            assert child.poll() is None and time.monotonic() - began < PATIENCE
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
    assert child.returncode == 130 and "Traceback" not in err
    line = next(line for line in err.splitlines() if "go on with: " in line)
    command = shlex.split(line.partition("go on with: ")[2])
    assert command == ["dlsim", *words, "--resume"]
    assert cli.main(command[1:]) == 0
    whole = tmp_path / "whole"
    assert cli.main([*words[:2], "--out", str(whole), *words[4:]]) == 0
    ours, theirs = (results.load(folder).results.drop_vars("seconds_per_step") for folder in (out, whole))
    xarray.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert json.loads((out / "provenance.json").read_text())["ok"] is True


@pytest.mark.slow
def test_a_terminal_that_knows_only_ascii(tmp_path):
    """A study in UTF-8 runs, is judged, reported and taken up there; what it prints is spelled out."""
    text = pathlib.Path(SMALL).read_text(encoding="utf-8").replace("the complete graph agrees", "‖x − x̄‖ → 0")
    study, out = tmp_path / "study.py", tmp_path / "run"
    study.write_text(text.replace("An experiment", "Une étude: an experiment"), encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    world = {**{name: value for name, value in os.environ.items() if not name.startswith("LC_")}, **plain}

    def call(*words):
        done = subprocess.run(
            [sys.executable, "-m", "dlsim", *map(str, words)], env=world, cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("ascii")

    printed = call("run", f"{study}:tiny", "--out", out)
    assert "\\u2016x \\u2212 x\\u0304\\u2016 \\u2192 0" in printed
    assert "after 6 steps" in call("run", f"{study}:tiny", "--out", out, "--resume")
    assert "Une" in call("list", tmp_path)
    call("report", out, "--out", tmp_path / "site")
    pages = "".join(page.read_text(encoding="utf-8") for page in (tmp_path / "site").glob("*.html"))
    assert "‖x − x̄‖ → 0" in pages and "Une étude" in pages
