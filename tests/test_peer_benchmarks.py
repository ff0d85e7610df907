"""The comparison with other simulators: its workload, its table, and that no system's failure stops the others.

None of the other systems is needed: their drivers are played by small scripts, but for dlsim's own.
"""

from __future__ import annotations

import gzip
import importlib
import json
import struct
import sys
import textwrap
import time
from pathlib import Path

import networkx
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "benchmarks" / "peers"
PARTS = ("workload", "driver", "table", "run")


@pytest.fixture
def parts(monkeypatch):
    """The folder's modules, imported as a script there would, and forgotten afterwards (their names are common)."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = (*PARTS, *(f"{path.stem}" for path in FOLDER.glob("*_.py")))
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = {name: importlib.import_module(name) for name in PARTS}
    yield type("Parts", (), found)
    for name in names:
        sys.modules.pop(name, None)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0))


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """600 images whose pixels are their own number, modulo 256, in the files' format: 10 nodes' worth."""
    numbers = np.arange(600)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.broadcast_to((numbers % 256)[:, None, None], (600, 28, 28)))
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", numbers % 10)
    return tmp_path


def measured(system, kind, rate, *, server, nodes=100, model="logreg", **more):
    names = {
        "system": system,
        "kind": kind,
        "what": f"{system} {kind}",
        "server": server,
        "model": model,
        "nodes": nodes,
    }
    numbers = {"version": f"{system} 1", "rounds": 5, "seconds": 1.0, "peak_mib": 100.0, "start_seconds": 2.0}
    return {**names, **numbers, "node_updates_per_second": rate, "load_before": 0.5, "load_after": 1.5, **more}


def failed(system, kind, error, *, server, nodes=100, model="logreg"):
    line = measured(system, kind, 0.0, server=server, nodes=nodes, model=model, error=error)
    return {name: value for name, value in line.items() if name != "node_updates_per_second"}


def test_every_node_holds_sixty_examples_of_its_own(parts, data):
    held = parts.workload.shards(10, data)
    assert held.inputs.shape == (10, 60, 784) and held.inputs.dtype == np.float32
    assert held.labels.shape == (10, 60) and held.labels.dtype == np.int64
    numbers = np.rint(held.inputs[..., 0] * 255).astype(int)  # the image's number modulo 256
    assert np.array_equal(np.sort(numbers.ravel()), np.sort(np.arange(600) % 256))  # all of them, none twice
    assert held.inputs.min() == 0.0 and held.inputs.max() == 1.0
    again = parts.workload.shards(10, data)
    assert np.array_equal(held.inputs, again.inputs) and np.array_equal(held.labels, again.labels)


def test_labels_stay_with_their_images(parts, data):
    labels = np.arange(600) % 10
    write_idx(data / "train-images-idx3-ubyte.gz", np.broadcast_to(labels[:, None, None], (600, 28, 28)))
    held = parts.workload.shards(7, data)
    assert np.array_equal(np.rint(held.inputs[..., 5] * 255).astype(int), held.labels)


def test_the_graph_is_simple_four_regular_and_connected(parts):
    neighbors = parts.workload.neighbors(100)
    assert neighbors.shape == (100, 4)
    for node, row in enumerate(neighbors):
        assert len(set(row)) == 4 and node not in row
        assert all(node in neighbors[other] for other in row)
    assert networkx.is_connected(parts.workload.graph(100))
    assert np.array_equal(neighbors, parts.workload.neighbors(100))


def test_the_workload_needs_no_dlsim():
    text = "\n".join((FOLDER / f"{name}.py").read_text() for name in ("workload", "driver", "table"))
    assert "import dlsim" not in text and "from dlsim" not in text and "import jax" not in text


def test_ratios_compare_like_with_like(parts):
    lines = [
        measured("dlsim", "dsgd", 1000.0, server=False),
        measured("dlsim", "fedavg", 4000.0, server=True),
        measured("pfl", "fedavg", 100.0, server=True),
        measured("pfl", "fedavg", 300.0, server=True),
        measured("pfl", "fedavg", 200.0, server=True, peak_mib=175.0),
        measured("gossipy", "gossip", 250.0, server=False),
        measured("gossipy", "gossip", 50.0, server=False, nodes=1000),
    ]
    rows = {(row["system"], row["kind"], row["nodes"]): row for row in parts.table.rows(lines)}
    assert rows["pfl", "fedavg", 100]["rate"] == 200.0 and rows["pfl", "fedavg", 100]["ratio"] == 20.0
    assert rows["pfl", "fedavg", 100]["peak"] == 175.0
    assert rows["gossipy", "gossip", 100]["ratio"] == 4.0
    assert rows["gossipy", "gossip", 1000]["ratio"] is None  # dlsim was not measured there
    assert rows["dlsim", "dsgd", 100]["ratio"] == 1.0
    shown = {tuple(parts.table.cells(row)[2:6]) for row in rows.values()}
    assert ("pfl 1", "pfl fedavg", "200 (100-300; 3)", "20") in shown


def test_the_report_tells_failures_loads_and_what_did_not_run(parts):
    lines = [
        {"machine": "2 cores", "date": "2026-11-23 22:00", "command": "python run.py"},
        {"system": "fluke", "not_run": "no environment named"},
        {"system": "flower", "unequal": "Flower: actors"},
        {"system": "fluke", "unequal": "fluke: epochs"},
        measured("dlsim", "fedavg", 1200.0, server=True),
        measured("flower", "fedavg", 40.0, server=True, load_before=3.0),
        failed("flower", "fedavg", "RuntimeError: Ray is gone", server=True),
        failed("pfl", "fedavg", "ModuleNotFoundError: no pfl", server=True),
    ]
    text = parts.table.render(lines)
    flower = next(line for line in text.splitlines() if line.startswith("| logreg | 100 | flower"))
    assert "40 (40-40; 1); 1 failed: RuntimeError: Ray is gone" in flower and "| 30 " in flower
    assert "0.5-3.0, 1.5" in flower
    assert "1 failed: ModuleNotFoundError: no pfl" in text and "Not run: fluke: no environment named" in text
    assert "- Flower: actors" in text and "fluke: epochs" not in text  # only of those in the table
    widths = {len(line) for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def script(folder: Path, name: str, body: str) -> tuple[str, ...]:
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(body))
    return (sys.executable, str(path))


def test_a_driver_that_fails_is_reported_and_stops_nobody(parts, tmp_path):
    good = {
        "version": "b 1",
        "node_updates_per_second": 7.0,
        "rounds": 1,
        "seconds": 1,
        "peak_mib": 1,
        "start_seconds": 1,
    }
    bodies = {
        "raises": "print('noise'); raise RuntimeError('the wheel came off')",
        "silent": "import sys; sys.exit(3)",
        "wordless": "print('no JSON'); print('{}')",
        "slow": "import time; time.sleep(60)",
        "good": f"print('chatter'); print({json.dumps(json.dumps(good))}); print('goodbye')",
    }
    jobs = [
        parts.run.Job(name, "k", "w", False, "logreg", 100, script(tmp_path, name, body))
        for name, body in bodies.items()
    ]
    lines = []
    parts.run.play(jobs, runs=2, timeout=3.0, pause=0.0, write=lines.append)
    assert [line["system"] for line in lines] == [*bodies, *list(bodies)[1:], "raises"]  # in turns
    said = {line["system"]: line.get("error") for line in lines}
    assert said["raises"] == "RuntimeError: the wheel came off"
    assert said["silent"] == "ended with 3 and said nothing"
    assert said["wordless"] == "ended well but printed no result"
    assert said["slow"] == "stopped after 3 s"
    assert said["good"] is None and all(line["load_before"] >= 0 for line in lines)
    table = parts.table.render([{"machine": "m", "date": "d", "command": "c"}, *lines])
    assert "7 (7-7; 2)" in table and "2 failed: RuntimeError: the wheel came off" in table


def test_the_runner_ends_what_a_stopped_driver_started(parts, tmp_path):
    mark = tmp_path / "child"
    body = f"""
        import pathlib, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        pathlib.Path({str(mark)!r}).write_text(str(child.pid))
        time.sleep(60)
    """
    job = parts.run.Job("slow", "k", "w", False, "logreg", 100, script(tmp_path, "slow", body))
    assert "error" in parts.run.measure(job, timeout=15.0)  # long enough to start the child on a busy machine
    child = int(mark.read_text())
    until = time.monotonic() + 10  # the signal was sent; the kernel may take its time
    while _is_running(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _is_running(child)


def _is_running(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_plan_names_all_that_does_not_run(parts, tmp_path):
    given = ["--env", f"gossipy={sys.executable}", "--env", f"decentralizepy={sys.executable}"]
    given += ["--checkout", f"decentralizepy={tmp_path}", "--nodes", "16,1000", "--models", "mlp"]
    jobs, others = parts.run.plan(parts.run.arguments(given))
    assert {(job.system, job.kind, job.nodes) for job in jobs} == {
        *(("dlsim", kind, nodes) for kind in ("dsgd", "fedavg") for nodes in (16, 1000)),
        *(("gossipy", "gossip", nodes) for nodes in (16, 1000)),
        ("decentralizepy", "dsgd", 16),
    }
    assert all(job.command[0] == sys.executable and Path(job.command[1]).is_file() for job in jobs)
    why = {(line["system"], line["not_run"].partition(":")[0]) for line in others}
    assert ("gossipy", "D-SGD, 4-regular") in why  # its main branch was not named
    assert any(line["system"] == "decentralizepy" and "at most" in line["not_run"] for line in others)
    assert {line["system"] for line in others} >= {"fedjax", "pfl", "fluke", "flower", "decent_bench"}


def test_the_recipes_say_how_to_install_each_system(parts, capsys):
    parts.run.main(["--list"])
    text = capsys.readouterr().out
    for pin in ("fedjax==0.0.17", "jax==0.4.25", "pfl==0.6.0", "fluke-fl==0.8.1", "gossipy-dfl==0.0.1"):
        assert pin in text
    assert "decent-bench==0.3.0" in text and "flwr[simulation]==1.41.0" in text and "decentralizepy" in text


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--nodes", "3"], "peers: --nodes must be an integer in [5, 1000], got 3."),
        (["--nodes", "10,many"], "peers: --nodes must be an integer in [5, 1000], got 'many'."),
        (["--models", "lstm"], "peers: --models must be one of logreg, mlp, got 'lstm'."),
        (["--runs", "0"], "peers: --runs must be an integer >= 1, got 0."),
        (["--seconds", "-1"], "peers: --seconds must be > 0, got -1.0."),
        (["--env", "pfl"], "peers: --env must be name=path, got 'pfl'."),
        (["--env", "pfl=/no/such/place"], "peers: --env must be a path that exists, got /no/such/place."),
        (["--env", "pfk=/tmp"], "peers: --env must be a name of fedjax, pfl, "),
        (["--env", f"pfl={FOLDER}"], "peers: --env must be a virtual environment or a Python interpreter, got "),
        (["--env", "pfl=/tmp", "--env", "pfl=/tmp"], "peers: --env must be given once for each name, got pfl twice."),
        (["--data", "/no/such/place"], "peers: --data must be a folder with train-images-idx3-ubyte"),
        (["--table", "/no/such/file"], "peers: --table must be a file that exists, got /no/such/file."),
    ],
)
def test_bad_arguments_are_one_clear_line(parts, given, line):
    with pytest.raises(ValueError) as caught:
        parts.run.main(given)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_a_result_file_is_never_overwritten(parts, data, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="--out must be a file that does not exist yet"):
        parts.run.main(["--out", str(path), "--data", str(data)])
    assert path.read_text() == "{}\n"


def test_a_file_of_another_format_is_refused(parts, data):
    (data / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\0" * 20))
    with pytest.raises(ValueError, match="must be an IDX file of bytes"):
        parts.workload.shards(2, data)
    with pytest.raises(ValueError, match="--nodes must be in"):
        parts.workload.shards(1001, data)


def test_dlsim_itself_is_measured_from_end_to_end(parts, data, tmp_path, capsys, monkeypatch):
    about = parts.run.peer
    kinds = {"dsgd": "D-SGD, 4-regular"}
    few = lambda name: about(name)._replace(kinds=kinds) if name == "dlsim" else about(name)  # noqa: E731
    monkeypatch.setattr(parts.run, "peer", few)
    out = tmp_path / "lines.jsonl"
    given = ["--nodes", "8", "--models", "logreg", "--runs", "1", "--rounds", "3", "--pause", "0"]
    parts.run.main([*given, "--data", str(data), "--out", str(out)])
    lines = [line for line in parts.table.read(out) if "kind" in line]
    assert {line["kind"] for line in lines} == {"dsgd"}
    for line in lines:
        assert "error" not in line and line["rounds"] == 3
        assert line["node_updates_per_second"] == pytest.approx(8 * 3 / line["seconds"])
        assert line["peak_mib"] > 50 and line["start_seconds"] > 0
    assert "Not run: pfl" in capsys.readouterr().out
