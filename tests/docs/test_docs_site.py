"""The documentation site: it builds strictly, holds every public symbol, asks for nothing from elsewhere, its code runs."""

from __future__ import annotations

import html.parser
import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import pytest
from patience import PATIENCE

import dlsim
from dlsim.studies.experiment import run_experiment

ROOT = pathlib.Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
REQUESTS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data", "link": "href"}
TINY = '''"""A small package."""

__version__ = "0"
__all__ = ["double"]


def double(x: int) -> int:
    """Twice x."""
    return 2 * x
'''
INDEX = """# Tiny

See {py:obj}`dlsim.double` and [numbers](numbers.md#first).

```{toctree}
numbers
papers
peers
reference/index
```
"""


TOOL = [sys.executable, "-W", "ignore"]
needs_sphinx = pytest.mark.needs("sphinx", "furo", "myst_parser")


@pytest.fixture
def symbols(monkeypatch):
    """The module that looks for gaps."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("symbols")


def build(root, out):
    return subprocess.run(
        [*TOOL, str(root / "docs" / "build.py"), str(out)], cwd=root, capture_output=True, text=True, timeout=PATIENCE
    )


class Requests(html.parser.HTMLParser):
    """What a browser fetches for a page, and the anchors in it."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched, self.anchors, self.styles, self.text, self._in_style = [], set(), [], [], False

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id"))
        self._in_style = tag == "style"
        if found.get("style"):
            self.styles.append(found["style"])
        is_only_a_name = tag == "link" and found.get("rel") in ("index", "search", "next", "prev", "canonical")
        if REQUESTS.get(tag) in found and not is_only_a_name:
            self.fetched.append(found[REQUESTS[tag]])

    def handle_data(self, data):
        (self.styles if self._in_style else self.text).append(data)


def read(path):
    page = Requests()
    page.feed(path.read_text())
    return page


@pytest.mark.slow
@needs_sphinx
def test_site_holds_every_symbol_and_asks_for_nothing(tmp_path):
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
    pages = {path.relative_to(tmp_path / "site"): read(path) for path in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > 25
    assert not (tmp_path / "site" / ".doctrees").exists()

    # Every name of every `__all__` has its place on its package's page.
    packages = [value for name in dlsim.__all__ if hasattr(value := getattr(dlsim, name), "__all__")]
    assert len(packages) >= 8
    for package in (dlsim, *packages, importlib.import_module("dlsim.bench"), importlib.import_module("dlsim.sweeps")):
        anchors = pages[pathlib.Path("reference") / f"{package.__name__.replace('.', '_')}.html"].anchors
        for name in package.__all__:
            if not isinstance(getattr(package, name), type(pathlib)):
                assert f"{package.__name__}.{name}" in anchors, name
    assert "dlsim.networks.Network.mix" in pages[pathlib.Path("reference/dlsim_networks.html")].anchors

    # Experiments are listed with what they ask.
    papers = " ".join("".join(pages[pathlib.Path("papers.html")].text).split())
    for path in (ROOT / "experiments" / "papers").glob("[0-9]*.py"):
        assert f"dlsim run experiments/papers/{path.name}" in papers, path.name

    fetched = [(page, what) for page, found in pages.items() for what in found.fetched]
    assert len(fetched) > 100
    assert [one for one in fetched if re.match(r"(https?:)?//", one[1])] == []
    sheets = [path.read_text() for path in (tmp_path / "site").rglob("*.css")]
    styles = [text for found in pages.values() for text in found.styles]
    assert sheets and not any(re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text) for text in (*sheets, *styles))


@pytest.mark.slow
@needs_sphinx
def test_a_gap_or_a_broken_link_stops_the_build(tmp_path):
    """The same program on a package of one function and two pages."""
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("*.md", "how_to", "__pycache__"))
    (tmp_path / "dlsim").mkdir()
    (tmp_path / "experiments").mkdir()
    package, index, numbers = (tmp_path / name for name in ("dlsim/__init__.py", "docs/index.md", "docs/numbers.md"))
    numbers.write_text("# Numbers\n\n## First\n\nOne.\n")
    (tmp_path / "docs" / "peers_page.py").write_text('def page(package):\n    return "# Peers\\n"\n')

    def attempt(code=TINY, text=INDEX):
        package.write_text(code)
        index.write_text(text)
        shutil.rmtree(tmp_path / "site", ignore_errors=True)
        return build(tmp_path, tmp_path / "site")

    sound = attempt()
    assert sound.returncode == 0, sound.stderr
    assert "Twice x." in (tmp_path / "site" / "reference" / "dlsim.html").read_text()

    bare = attempt(code=TINY.replace('    """Twice x."""\n', ""))
    assert bare.returncode == 1 and "docs: dlsim.double: no docstring" in bare.stderr
    assert not (tmp_path / "site").exists()

    for wrong in ("{py:obj}`dlsim.triple`", "[numbers](nombres.md)", "[numbers](numbers.md#last)", "{doc}`elsewhere`"):
        broken = attempt(text=INDEX.replace("See ", f"See {wrong} and "))
        assert broken.returncode == 1 and "WARNING" in broken.stderr, wrong


def test_every_public_symbol_is_documented(symbols):
    assert symbols.undocumented("dlsim") == []
    modules = {module.__name__ for module in symbols.modules_of("dlsim")}
    assert {"dlsim", "dlsim.checks", "dlsim.core", "dlsim.keys", "dlsim.networks", "dlsim.results"} <= modules
    assert sum(len(symbols.symbols_of(module)) for module in symbols.modules_of("dlsim")) > 300


def test_methods_of_peers_are_what_the_table_says(monkeypatch):
    """Every call in the table exists with its arguments; every method of decent-bench's peer-to-peer rooms has a row."""
    monkeypatch.syspath_prepend(str(DOCS))
    peers_page = importlib.import_module("peers_page")
    assert peers_page.faults(dlsim) == []
    names = [row.there["decent-bench"] for row in peers_page.ROWS if "decent-bench" in row.there]
    assert len(names) == len(set(names)) == 21
    text = peers_page.page(dlsim)
    assert text.count("\n|") == len(peers_page.ROWS) + 2 and "dlsim.algorithms.led" in text
    odd = peers_page.Row("odd", {"nobody": "X"}, "algorithms.led(learning_speed=1)")
    monkeypatch.setattr(
        peers_page, "ROWS", (odd, peers_page.Row("no", {}, "algorithms.leed()"), peers_page.Row("", {}, ""))
    )
    assert peers_page.faults(dlsim) == [
        "odd: unknown peer",
        "odd: algorithms.led has no argument learning_speed",
        "no: algorithms.leed is unknown",
        ": neither a call nor a reason",
    ]


def test_gaps_are_found(symbols):
    """What counts as a gap, one by one."""

    def many(first, second, third, fourth, fifth):
        """Does it."""

    def listed(first, second):
        """Does it.

        Args:
          first: the first one; for
            instance: 1.
          other: nothing.
        """

    class Thing:
        """A thing; `told` is said here."""

        def told(self):
            return self

        def silent(self):
            return self

    def linking():
        """As `dlsim.networks.ring(5)`, and not as `dlsim.networks.rong`."""

    def gaps(value):
        return symbols.problems_of(symbols.Symbol("dlsim.x", value.__name__, value), "dlsim")

    assert gaps(many) == ["dlsim.x.many: nothing is said of first, second, third, fourth, fifth"]
    assert gaps(listed) == [
        "dlsim.x.listed: nothing is said of second",
        "dlsim.x.listed: other is in its Args and not an argument",
    ]
    assert gaps(Thing) == ["dlsim.x.Thing.silent: no docstring"]
    assert gaps(linking) == ["dlsim.x.linking: `dlsim.networks.rong` does not exist"]
    assert symbols.problems_of(symbols.Symbol("dlsim", "NOT_THERE", 3), "dlsim") == [
        "dlsim.NOT_THERE: no comment beside the constant"
    ]


def test_docstrings_become_markdown(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    made = importlib.import_module("docstrings").to_markdown(
        "Sums x_i <here>.\n\n    y = a * b\n      + c\n\nArgs:\n  x: the first,\n    went on.\n"
        "  y, z: others.\n\nSource: A, 2020.\n  B."
    )
    assert made == (
        "Sums x_i \\<here>.\n\n```text\ny = a * b\n  + c\n```\n\n**Arguments**\n\n- `x`: the first,\n  went on.\n"
        "- `y, z`: others.\n\n**Source:** A, 2020.\nB."
    )


def blocks(name):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(), flags=re.S | re.M)


def play(name, *changes):
    """The names that a page's code defines; `changes` make it smaller."""
    code = "\n".join(blocks(name))  # what follows goes on with what stands before
    for old, new in changes:
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    found = {"__name__": "page"}
    exec(compile(code, name, "exec"), found)
    return found


def test_every_page_with_code_is_tried():
    with_code = {path.relative_to(DOCS).as_posix() for path in PAGES if "```python" in path.read_text()}
    how_to = {"an_algorithm", "a_channel", "a_scenario", "an_environment", "an_experiment"}
    pages = {*(f"how_to/add_{name}.md" for name in how_to), "how_to/measure_and_keep.md", "how_to/train_on_text.md"}
    assert with_code == {"index.md", "install.md", "concepts.md", *pages}


def test_first_pages_run(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    found = play("index.md", ("num_steps=500", "num_steps=5"))
    assert found["run"].results.sizes["step"] == 6
    found = play("install.md", ("num_steps=100", "num_steps=40"))
    assert found["run"].status.ok and 0.85 < float(found["last"].mean()) < 1


def test_the_algorithm_runs():
    found = play("how_to/add_an_algorithm.md")
    run = found["run"]
    assert run.status.ok and (run.results.accuracy.isel(step=-1) > 0.85).all()
    # Its average lags behind its models, and with beta = 1 is equal to them.
    problem, process = found["problem"], None
    for beta, is_equal in ((0.1, False), (1.0, True)):
        process = dlsim.learn(
            problem, found["averaged_dsgd"](problem, found["optax"].sgd(0.1), beta=beta), found["network"]
        )
        state = dlsim.simulate(process, seed=0, num_steps=3).state.algorithm
        same = found["jax"].tree.map(lambda a, b: bool((a == b).all()), state.average, state.params)
        assert all(found["jax"].tree.leaves(same)) is is_equal


def test_the_channel_runs():
    found = play("how_to/add_a_channel.md")
    problem, algorithm = found["problem"], found["algorithm"]
    bits = {}
    for name in ("plain", "rounded"):
        run = dlsim.simulate(dlsim.learn(problem, algorithm, found[name]), seed=0, num_steps=2)
        bits[name] = float(run.results.bits_sent[-1])
        messages = float(run.results.messages_sent[-1])
    size = bits["plain"] / messages / 32
    assert bits["rounded"] == messages * (8 * size + 64)
    assert float(found["last"].accuracy) > 0.85


def test_the_scenario_runs():
    found = play("how_to/add_a_scenario.md")
    left = {name: float(run.results.distance[-1]) for name, run in found["runs"].items()}
    assert left["nothing"] < left["sleep"] < left["both"]
    there = [run.results.num_present.values for name, run in found["runs"].items() if name != "nothing"]
    assert 9 < there[0][1:].mean() < 27 and there[1][6:16].max() <= 18 < there[1][1:6].max() + 9
    results = found["results"]
    away = 36 - results.num_present.sel(reach=3.0, begin=10.0, seed=0)
    assert away.values[1:].tolist() == [18 * (10 <= t < 20) for t in range(30)]


def test_what_is_said_of_send_and_combine():
    found = play("concepts.md")
    sent = [[4, 0], [0, 2], [0, 5]]
    assert found["packet"].values.tolist() == sent
    weights = dlsim.networks.mixing_matrix(found["network"]).toarray()
    own = weights.diagonal()[:, None]
    assert abs(found["seen_alike"] - weights @ sent).max() < 1e-6
    assert abs(found["own_exact"] - (weights @ sent + own * (found["x"] - found["packet"].values))).max() < 1e-6
    assert (found["mixed"] == found["own_exact"]).all()
    assert found["after"].state.traffic.messages.low.tolist() == [1, 2, 1]
    assert abs(found["known"] - found["x"].mean(0)).max() < 1e-6
    assert found["later"].state.traffic.messages.low.tolist() == [1, 1, 0]


def test_the_environment_runs():
    found = play("how_to/add_an_environment.md")
    assert found["returns"]["towards"] > found["returns"]["random"] + 10
    (train,) = re.findall(r"`(dlsim\.marl\.train\(.*\))`", (DOCS / "how_to" / "add_an_environment.md").read_text())
    run = dlsim.simulate(eval(train, found), seed=0, num_steps=1)
    assert run.status.ok and -100 < float(run.results.episode_return[-1]) < 0


def test_models_of_text_run():
    smaller = (
        ('"transformer"', "dlsim.problems.lstm(4)"),
        ("num_test=500", "num_test=20"),
        ("batch_size=16", "batch_size=2"),
    )
    found = play("how_to/train_on_text.md", *smaller)
    method = found["axes"](found["get_config"]())["method"][1]
    config = types.SimpleNamespace(num_local_steps=2, method=method)
    try:
        process, record = found["build"](config)
    except ValueError as error:
        if os.environ.get("DLSIM_REQUIRE_DATA") == "1" or "on this machine" not in str(error):
            raise
        pytest.skip(str(error))
    results = dlsim.simulate(process, seed=0, num_steps=1, record=record).results
    assert 60 < float(results.perplexity[0]) < 100 and float(results.bits_sent[-1]) > 0


def test_metrics_and_models_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = play("how_to/measure_and_keep.md", ("num_steps=100", "num_steps=40"))
    run, tree = found["run"], found["jax"].tree
    by_node = run.results.accuracy_by_node
    assert by_node.dims == ("seed", "step", "node") and found["worst"].dims == ("seed", "step")
    assert abs(float((by_node.mean("node") - run.results.accuracy).max())) < 1e-6 < float(by_node.std("node").max())
    assert len(found["table"].read_text().splitlines()) == 1 + 2 * 3 * 20
    assert {leaf.shape[:2] for leaf in tree.leaves(found["models"])} == {(2, 20)}
    for kept in (found["models"], found["same"]):
        assert all(tree.leaves(tree.map(lambda a, b: bool((a == b).all()), kept, run.params)))
    assert all(tree.leaves(tree.map(lambda a, b: bool((a == b).all()), found["state"], run.state)))
    alone = found["problem"].evaluate(tree.map(lambda leaf: leaf[None], found["mine"]), None)["accuracy"]
    assert float(alone[0]) == float(by_node[1, -1, 3])


def test_the_experiment_runs(tmp_path):
    (code,) = blocks("how_to/add_an_experiment.md")
    file = tmp_path / "two_graphs.py"
    file.write_text(code)
    saved = run_experiment(file, "tiny", out=tmp_path / "run", progress=False)
    assert [claim.holds for claim in saved.claims] == [True]
    assert (tmp_path / "run" / "figure.png").stat().st_size > 5000
    spread = saved.results.consensus_distance.isel(step=-1).sel(topology="ring")
    assert float(spread.std()) > 0  # seeds differ, as the page says they do


def test_paths_and_commands_named_in_pages_exist():
    missing = []
    for path in (*PAGES, ROOT / "CONTRIBUTING.md"):
        text = path.read_text()
        named = re.findall(r"`((?:dlsim|tests|experiments|docs)/[\w./]*)`", text)
        missing += [f"{path.name}: {name}" for name in named if not (ROOT / name).exists()]
        options = set(
            re.findall(r"--(?!config)([a-z][a-z-]+)", " ".join(re.findall(r"^ *dlsim .*$", text, flags=re.M)))
        )
        known = (ROOT / "dlsim" / "terminal" / "options.py").read_text()
        missing += [f"{path.name}: --{name}" for name in options if f'"--{name}"' not in known]
    assert missing == []
