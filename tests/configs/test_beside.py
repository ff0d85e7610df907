"""What lies beside an experiment file is imported as `python file.py` imports it, and by nobody else."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys

import pytest

from dlsim.configs import load_experiment, make_config
from dlsim.configs.beside import files_beside
from dlsim.sweeps.source import from_experiment
from dlsim.terminal import cli

STUDY = """
import numpy as np
from helpers import RATE
import tools.deep

def get_config(mode):
    from ml_collections import ConfigDict
    return ConfigDict({"num_steps": 3, "num_seeds": 1, "rate": RATE})

def build(config):
    import late
    from tools import deep
    return late.VALUE, deep.NUMBER, tools.deep.other()
"""


def lay(folder, **files):
    """Files by name, `__` for a slash."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/", 1) + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "study.py"


def study(folder, rate=0.5):
    return lay(
        folder,
        study=STUDY,
        helpers="import rates\nRATE = rates.RATE\ndef loop():\n    import study_only\n    return study_only.X\n",
        rates=f"import helpers\nRATE = {rate}\n",  # a circle, as Python allows it
        late="import random\nVALUE = 'late'\nassert hasattr(random, 'gauss')\n",
        random="raise AssertionError('not the standard library')\n",
        study_only="X = 'x'\n",
        tools____init__="from . import deep\n",
        tools__deep="import late\nNUMBER = 4\ndef other():\n    from .wide import WIDE\n    import rates\n"
        "    return WIDE + rates.RATE\n",
        tools__wide="WIDE = 6\n",
    )


def test_as_python_would_and_without_a_trace(tmp_path):
    file, path = study(tmp_path), list(sys.path)
    experiment = load_experiment(file)
    assert make_config(experiment, "tiny").rate == 0.5
    assert experiment.module.build(None) == ("late", 4, 6.5)
    assert experiment.module.tools.__name__ == "tools"
    assert sys.path == path and not [finder for finder in sys.meta_path if "Beside" in type(finder).__name__]
    seen = [
        name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(str(tmp_path))
    ]
    assert seen == ["dlsim_experiment_study"]
    for name in ("helpers", "rates", "late", "tools"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_two_folders_each_have_their_own(tmp_path):
    first, second = load_experiment(study(tmp_path / "a", 0.5)), load_experiment(study(tmp_path / "b", 2.0))
    assert [make_config(one, "tiny").rate for one in (first, second, first)] == [0.5, 2.0, 0.5]
    assert [one.module.build(None)[2] for one in (first, second, first)] == [6.5, 8.0, 6.5]
    (tmp_path / "a" / "rates.py").write_text("RATE = 3.0\n")
    assert make_config(load_experiment(tmp_path / "a" / "study.py"), "tiny").rate == 3.0  # as a new process has it


def test_nothing_installed_is_shadowed_for_others(tmp_path, monkeypatch):
    """A file with the name of an installed module serves its neighbours alone, also where that one is in use."""
    other = tmp_path / "site"
    lay(other, colours="NAME = 'installed'\n", painter="import colours\nNAME = colours.NAME\n")
    monkeypatch.syspath_prepend(str(other))
    import colours  # type: ignore[import-not-found]

    file = lay(
        tmp_path / "mine",
        study="import colours, painter\nHEARD = (colours.NAME, painter.NAME)\n"
        "def get_config(mode): ...\ndef build(config): ...\n",
        colours="NAME = 'beside'\n",
    )
    assert load_experiment(file).module.HEARD == ("beside", "installed")
    assert sys.modules["colours"] is colours and colours.NAME == "installed"
    for name in ("colours", "painter"):
        sys.modules.pop(name)


def test_the_same_as_python_says(tmp_path):
    file = study(tmp_path)
    (tmp_path / "random.py").unlink()  # which would be in Python's own way
    with file.open("a", encoding="utf-8") as text:
        text.write("\nif __name__ == '__main__':\n    print(get_config('tiny').rate, build(None))\n")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == "0.5 ('late', 4, 6.5)\n"


def test_the_files_that_an_experiment_reaches(tmp_path):
    file = study(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in files_beside(file)]
    assert names == [
        "helpers.py", "late.py", "rates.py", "study_only.py", "tools/__init__.py", "tools/deep.py", "tools/wide.py"
    ]  # fmt: skip


@pytest.mark.parametrize("changed", ["helpers", "rates", "late", "tools/__init__", "tools/wide", None])
def test_a_run_has_another_identity_where_the_code_beside_it_changes(tmp_path, changed):
    def identity(folder):
        experiment = load_experiment(folder / "study.py")
        source = from_experiment(experiment, make_config(experiment, "tiny"), {}, [0])
        return source.identity({}, 0)

    study(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    if changed:
        with (tmp_path / "b" / f"{changed}.py").open("a", encoding="utf-8") as file:
            file.write("\nMORE = 1\n")
    (tmp_path / "b" / "unused.py").write_text("X = 1\n")
    assert (identity(tmp_path / "a") == identity(tmp_path / "b")) is (changed is None)


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("from .helpers import RATE", "from helpers import RATE"),
        ("import helpers.missing", None),
        ("from helpers import MISSING", None),
        ("import no_such_package", "pip install no_such_package"),
        ("import cvxpy_is_not_here as cvxpy", "put it beside the experiment's"),
    ],
)
def test_what_is_said_of_an_import_that_fails(tmp_path, capsys, line, advice):
    lay(tmp_path, study=line + "\n", helpers="RATE = 1\n")
    assert cli.main(["run", str(tmp_path / "study.py")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("dlsim: error: ")
    assert advice in err if advice else "pip" not in err
