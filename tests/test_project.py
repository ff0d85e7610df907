"""What holds of the project as a whole: sizes, docstrings, imports, the README's example."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pathlib
import pkgutil
import re
import stat
import subprocess
import sys

import pytest
from patience import PATIENCE

import dlsim
from dlsim.networks.graphs.weights import NAMES as WEIGHTS

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "dlsim").rglob("*.py"))
SOURCES = [*PACKAGE, *sorted((ROOT / "experiments").rglob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]
SCRIPTS = [ROOT / ".ci" / name for name in ("run", "install_data.sh", "install_browser.sh")]
PAGES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").glob("*.*"), *ROOT.glob("C*.*")]
TEXTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt")),
    *SCRIPTS,
    *PAGES,
]
HEAVY = (
    "flax",
    "sklearn",
    "matplotlib",
    "xarray",
    "networkx",
    "orbax",
    "scipy",
    "pandas",
    "cvxpy",
    "dp_accounting",
    "rich",
    "ml_collections",
    "ray",
    "submitit",
    "jaxmarl",
    "PIL",
)
SLOWEST_IMPORT = (
    5.0  # seconds, of `import dlsim` in a fresh process, JAX included, on a machine that is busy with other tests
)
# Parts and references
NOT_OF_A_PAPER = ("LocalUpdates", "SPSALog", "local_events", "local_updates", "centralized_sgd", "isolated_training")


def relative(path):
    return str(path.relative_to(ROOT))


def test_files_are_short():
    long = {relative(path): lines for path in SOURCES if (lines := len(path.read_text().splitlines())) >= 400}
    assert long == {}


def public_definitions(body, prefix=""):
    """Public functions and classes of a module, and public methods of its public classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{node.name}.")


def is_record(node):
    """A NamedTuple or a Protocol, whose fields or signature say it all."""
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)} if isinstance(node, ast.ClassDef) else set()
    return bool(bases & {"NamedTuple", "Protocol"})


def test_every_exported_name_resolves_and_is_documented():
    modules = [dlsim] + [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(dlsim.__path__, "dlsim.")
        if hasattr(importlib.import_module(found.name), "__all__")
    ]
    bare = []
    for module in modules:
        assert module.__doc__, module.__name__
        assert len(set(module.__all__)) == len(module.__all__), module.__name__
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and not (getattr(value, "__doc__", None) or "").strip():
                bare.append(f"{module.__name__}.{name}")
    assert len(modules) >= 5 and bare == []


def test_public_functions_of_an_algorithm_say_their_source():
    for name in dlsim.algorithms.__all__:
        text = getattr(dlsim.algorithms, name).__doc__
        if name not in NOT_OF_A_PAPER:
            assert "Source:" in text, name


def test_modules_have_docstrings():
    bare = [relative(path) for path in PACKAGE if not ast.get_docstring(ast.parse(path.read_text()))]
    assert bare == []


def is_overload(node):
    return any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list)


def test_public_functions_have_docstrings():
    bare, count = [], 0
    for path in PACKAGE:
        for qualified, node in public_definitions(ast.parse(path.read_text()).body):
            if "." in qualified or is_record(node) or is_overload(node):
                continue
            count += 1
            if not ast.get_docstring(node):
                bare.append(f"{relative(path)}: {qualified}")
    assert count > 200 and bare == []


def test_no_paths_of_a_machine():
    pattern = re.compile(r"/(?:work|home|root|Users|tmp)/[\w.]")
    found = []
    for path in [*SOURCES, *TEXTS]:
        lines = path.read_text().splitlines()
        found += [f"{relative(path)}:{number}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == [], found


def test_no_registry_is_named():
    """Packages come from wherever the user's own pip, npm and apt are set up to look."""
    pattern = re.compile(r"pypi\.|pythonhosted|npmjs|index-url|find-links|deb\.debian", re.IGNORECASE)
    assert [relative(path) for path in TEXTS if pattern.search(path.read_text())] == []


def fresh(code, **extra):
    """What a fresh interpreter prints, outside of the checkout's folder of tests."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, **extra},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light():
    every = "import json, sys, dlsim; [getattr(dlsim, name) for name in dlsim.__all__]"
    told = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    loaded = set(json.loads(fresh(f"{every}; {told}")))
    assert "jax" in loaded
    assert loaded & set(HEAVY) <= set(json.loads(fresh(f"import json, sys, jax; {told}"))) & set(HEAVY)
    alone = set(json.loads(fresh(f"import json, sys, dlsim, dlsim.terminal.cli; {told}")))
    assert not alone & {*HEAVY, "jax", "numpy", "argparse"}  # the command line listens to signals before those


def test_the_package_gives_what_it_names_when_it_is_asked():
    """Names, rooms and modules; what type checkers read and what runs are one list."""
    typed = next(
        node for node in ast.parse((ROOT / "dlsim" / "__init__.py").read_text()).body if isinstance(node, ast.If)
    )
    imported = {alias.asname or alias.name for node in typed.body for alias in node.names}
    assert imported == {*dlsim.__all__, "__version__"}
    assert {*dlsim.__all__, "__version__"} <= set(dir(dlsim))
    for node in typed.body:
        for alias in node.names:
            home = importlib.import_module(node.module)
            value = getattr(home, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
            assert getattr(dlsim, alias.name) is value
    code = "import dlsim; assert callable(dlsim.plotting.curves) and callable(dlsim.experiment.run_experiment)"
    fresh(code)
    code = "import dlsim; dlsim.sweeps.api; dlsim.results.load; assert dlsim.learn is dlsim.learning.learn.learn"
    fresh(f"{code}; from dlsim import *; simulate, problems.quadratic")
    with pytest.raises(AttributeError, match="module 'dlsim' has no attribute 'simulat'"):
        dlsim.simulat  # noqa: B018


def test_files_say_how_their_text_is_written():
    """The encoding of a terminal is not that of a file."""
    loose = []
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "attr", getattr(getattr(node, "func", None), "id", None))
            is_text = name in ("read_text", "write_text") or (
                name in ("open", "fdopen", "TextIOWrapper")
                and ast.unparse(node.func) != "os.open"  # a descriptor, which has no text
                and not any(isinstance(one, ast.Constant) and "b" in str(one.value) for one in node.args)
                and ast.unparse(node.func) not in ("store.open", "Image.open", "archive.open")  # bytes
            )
            if is_text and not any(keyword.arg == "encoding" for keyword in node.keywords):
                loose.append(f"{relative(path)}:{node.lineno}")
    assert loose == []


def test_import_is_fast(tmp_path):
    """In seconds of one core, compiled before as on any second start: importing alone, whoever shares the machine."""
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    names = "[getattr(dlsim, name) for name in dlsim.__all__]"
    code = f"import time, jax; before = time.process_time(); import dlsim; {names}; print(before, time.process_time())"
    times = [tuple(map(float, fresh(code, **kept).split())) for _ in range(4)]
    assert min(after for _, after in times) < SLOWEST_IMPORT
    assert min(after - before for before, after in times) < 0.5  # our own part


def readme_blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


@pytest.mark.slow
def test_readme_example_runs():
    example, own, hard, clocked, sweep, agents = readme_blocks()
    assert len(example.strip().splitlines()) <= 15
    check = "\nprint(run.status.ok, float(run.results.accuracy[-1]), dict(run.results.sizes))\n"
    assert own.count("num_steps=500") == 1
    own = own.replace("num_steps=500", "num_steps=40")
    by_node = "run.results.accuracy_by_node"
    mean = f"abs(float(({by_node}.mean('node') - run.results.accuracy).max())) < 1e-6"
    kept = f"\nprint({by_node}.dims, {mean}, {{leaf.shape[:2] for leaf in __import__('jax').tree.leaves(run.params)}})"
    shorter = hard.replace("num_steps=500", "num_steps=40")
    assert shorter != hard
    also = "\nprint(float(run.results.accuracy_of_mean[-1]), int(run.results.num_present[-1]), type(robust).__name__)"
    shortest = sweep.replace("num_steps=500", "num_steps=20").replace("range(8)", "range(2)")
    assert shortest.count("range(2)") == 1 and "num_steps=20" in shortest
    assert clocked.count("num_steps=200") == clocked.count("num_steps=60") == 1
    clocked = clocked.replace("num_steps=200", "num_steps=20").replace("num_steps=60", "num_steps=10")
    both = "\nprint(float(run.results.simulated_seconds[-1]), int(run.results.num_jobs[-1]) > 100)"
    last = "\nprint(dict(results.accuracy.sizes), chosen.learning_rate.dims)"
    assert agents.count("num_steps=20)") == 1
    agents = agents.replace("num_steps=20)", "num_steps=2)")
    acted = "\nprint(float(run.results.episode_return[-1]) < 0, int(run.results.messages_sent[-1]))"
    blocks = (example + check, own + kept, shorter + also, clocked + both, shortest + last, agents + acted)
    printed = fresh("\n".join(blocks), MPLBACKEND="Agg")
    first, mine, second, timed, third, fourth = printed.splitlines()
    assert mine == "('step', 'node') True {(1, 100)}"
    assert fourth == "True 12"
    assert timed == "10.0 True"
    assert third == "{'topology': 3, 'learning_rate': 3, 'seed': 2, 'step': 21} ('topology',)"
    ok, accuracy, sizes = first.split(" ", 2)
    assert ok == "True" and 0.7 < float(accuracy) <= 1.0 and "'step': 51" in sizes
    accuracy, num_present, kind = second.split()
    assert float(accuracy) > 0.5 and 60 < int(num_present) < 100 and kind == "Algorithm"


def test_readme_lists_every_public_name_and_no_other():
    """The catalogue against the packages' exports."""
    catalogue = (ROOT / "README.md").read_text().partition("## Catalogue")[2].partition("\n## ")[0]
    table = "\n".join(line for line in catalogue.splitlines() if line.startswith("| ") and "| Kind" not in line)
    listed = set(re.findall(r"`([A-Za-z_0-9]+)`", table))
    names = (
        "algorithms",
        "aggregators",
        "networks",
        "problems",
        "analysis",
        "clocks",
        "arrivals",
        "environments",
        "marl",
        "plotting",
        "privacy",
        "experiment",
        "trust",
    )
    packages = [getattr(dlsim, name) for name in names]
    public = {name for package in packages for name in package.__all__}
    assert public - listed == set()
    assert listed == {*public, *WEIGHTS, "lazy_", "simulated_seconds"}


def test_readme_commands_are_those_of_ci():
    readme = (ROOT / "README.md").read_text()
    first_screen = "\n".join(readme.splitlines()[:30])
    install = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e"
    assert f"{install} . && .venv/bin/dlsim run experiments/quickstart.py" in first_screen
    test_command = f"{install} '.[test]' && .venv/bin/python -m pytest -n 2 --dist loadfile"
    assert test_command in first_screen
    script = ROOT / ".ci" / "run"
    assert f"({test_command})" in script.read_text()  # README's second command to the letter, before any other extra
    assert script.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("broken", ["pip", "python", "ruff", "mypy", None])
def test_ci_fails_when_a_step_fails(broken, tmp_path):
    """The real script, with programs that do nothing but note that they ran, one of which fails."""
    binaries = tmp_path / ".venv" / "bin"
    (tmp_path / "path").mkdir()
    (tmp_path / ".ci").mkdir()
    binaries.mkdir(parents=True)
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    for name in ("install_data.sh", "install_browser.sh"):
        (tmp_path / ".ci" / name).write_text("")
    for name in ("pip", "python", "ruff", "mypy", "python3"):
        program = (tmp_path / "path" if name == "python3" else binaries) / name
        program.write_text(f"#!/bin/sh\necho {name} $DLSIM_REQUIRE_DATA\nexit {int(name == broken)}\n")
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'path'}{os.pathsep}{os.environ['PATH']}"}
    script = ["bash", str(tmp_path / ".ci" / "run")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    ran = [line.split() for line in done.stdout.splitlines() if "done after" not in line]
    assert (done.returncode == 0) is (broken is None)
    if broken is None:
        assert ran == [[name, "1"] for name in ("python3", "pip", "python", "pip", "python", "ruff", "ruff", "mypy")]
    else:
        assert ran[-1] == [broken, "1"]  # nothing runs after what failed


def test_constraints_pin_every_dependency():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9._-]+==[\w.]+( ; .*)?", line) for line in lines)
    pinned = {line.partition("==")[0] for line in lines}
    project = (ROOT / "pyproject.toml").read_text()
    extras = re.findall(
        r"^(?:test|lint|docs|notebooks|browser|opt|privacy|cuda|ray|rl|slurm) = \[(.*)\]", project, flags=re.M
    )
    assert len(extras) == 11 and any(name.startswith("jax-cuda") for name in pinned)
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, flags=re.S | re.M).group(1) + "".join(extras)
    wanted = {re.split(r"[<>=\[]", text)[0].lower() for text in re.findall(r'"([^"]+)"', listed)}
    assert len(wanted) > 15 and wanted <= pinned
