"""Which rooms of the package decide a result: a change there is another run, a change elsewhere is not."""

from __future__ import annotations

import ast
import pathlib
import shutil

import pytest

import dlsim
from dlsim.sweeps import identity
from dlsim.sweeps.identity import NOT_DECIDING, code_of_package, deciding_files

PACKAGE = pathlib.Path(dlsim.__file__).parent
DECIDES = {
    "core.py",
    "keys.py",
    "trees.py",
    "checks/values.py",
    "running/loop.py",
    "running/simulate.py",
    "running/history.py",
    "running/batching.py",
    "networks/mixing.py",
    "channels/quantizers.py",
    "problems/partition.py",
    "algorithms/dsgd.py",
    "aggregators/krum.py",
    "learning/learn.py",
    "learning/measures.py",
    "arrivals/executor.py",
    "clocks/waves.py",
    "configs/experiment_file.py",
    "environments/grid.py",
    "environments/swarm/physics.py",
    "environments/pathfinding/tables.py",
    "marl/ppo.py",
}
LOOKS = {
    "results/run_folder.py",
    "results/__init__.py",
    "sweeps/engine.py",
    "sweeps/identity.py",
    "sweeps/workers/ray.py",
    "studies/experiment.py",
    "studies/catalogue.py",
    "report/__init__.py",
    "plotting/curves.py",
    "analysis/statistics.py",
    "bench/report.py",
    "terminal/cli.py",
    "running/progress_bar.py",
    "running/terminal_bar.py",
    "palette.py",
    "environments/rendering/grid.py",
    "environments/rendering/film.py",
    "experiment.py",
    "__main__.py",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp("copy") / "dlsim"
    shutil.copytree(PACKAGE, root, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.mark.parametrize("file", sorted(DECIDES | LOOKS))
def test_a_change_is_another_run_where_results_are_made_and_nowhere_else(file, copy):
    def digest():
        code_of_package.cache_clear()
        return code_of_package(copy)

    path = copy / file
    before, text = digest(), path.read_text()
    try:
        path.write_text(text + "\nCHANGED = 1\n")
        assert (digest() != before) == (file in DECIDES)
    finally:
        path.write_text(text)
    assert digest() == before
    code_of_package.cache_clear()


def test_the_copy_is_this_package(copy):
    assert code_of_package(copy) == code_of_package() == code_of_package(PACKAGE)


def test_every_room_that_decides_nothing_is_there():
    """A room that moves takes its name in the list along."""
    assert [name for name in NOT_DECIDING if not (PACKAGE / name).exists()] == []
    inside = {path.relative_to(PACKAGE).as_posix() for path in deciding_files()}
    assert inside >= DECIDES and not inside & LOOKS and identity.deciding_files(PACKAGE) == deciding_files()


def test_what_decides_imports_nothing_of_what_does_not():
    """But faces of packages, the bar, colours, how files are written, drawings in functions: there is no other door."""
    faces = {"__init__.py", "environments/__init__.py"}
    doors = set()
    for path in deciding_files():
        place = path.relative_to(PACKAGE).as_posix()
        if place in faces:
            continue
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                parts = name.split(".")[1:] if name.startswith("dlsim.") else []
                for room in NOT_DECIDING:
                    wanted = room.removesuffix(".py").split("/")
                    if parts[: len(wanted)] == wanted:
                        doors.add((place, room))
    assert {room for _, room in doors} <= {"running/progress_bar.py", "files.py", "locks.py", "palette.py"}
