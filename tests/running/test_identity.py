"""A checkpoint is of one process: another rate, partition, graph, method or clock is refused, the same one goes on."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world
from running import identity_run
from toys import environment, walk

import dlsim
from dlsim import algorithms, clocks, networks, problems, simulate
from dlsim.core import Process, Record
from dlsim.networks.graphs.graph import graph
from dlsim.networks.network import Network, connect
from dlsim.running import checkpoint, identity, loop

pytestmark = pytest.mark.filterwarnings("error::UserWarning:dlsim")
NODES = 8
NAMES = ("classification", "choco_sgd", "scaffold", "gradient_tracking", "event swarm_sgd", "arrivals fedbuff")


def learner(
    rate: float = 0.1,
    partition_seed: int = 0,
    graph: Any = None,
    method: Any = None,
    noise: float = 0.0,
    optimizer: Any = optax.sgd,
    batch: int = 4,
) -> Process:
    """Classifiers on shards of one data set."""
    data = problems.synthetic_classification(160, 4, 3, seed=0)
    data = data._replace(inputs=data.inputs + np.float32(noise))
    parts = problems.partition(data, NODES, problems.iid(), seed=partition_seed)
    problem = problems.supervised("softmax", data, parts, batch_size=batch)
    method = method or algorithms.dsgd
    return dlsim.learn(problem, method(problem, optimizer(rate)), networks.ring(NODES) if graph is None else graph)


def events(rate: float = 1.0) -> Process:
    """The clocks are of the host: no program holds when they tick."""
    problem = world.problem()
    timing = clocks.timing(clocks.poisson(rate), window=0.5)
    return dlsim.learn(problem, algorithms.ad_psgd(problem, optax.sgd(0.1)), networks.ring(8), timing=timing)


def run(process: Process, folder: pathlib.Path, num_steps: int, **more: Any) -> dlsim.Run:
    options = {"record": Record(every=2), "seed": 0, "checkpoint_dir": folder, "resume": True, "progress": False}
    return simulate(process, num_steps=num_steps, **{**options, **more})


def weighted(weights: str) -> Network:
    links = [(i, (i + 1) % NODES) for i in range(NODES)] + [(0, 3)]
    return connect(graph(NODES, *np.asarray(links).T), weights)


def shifted(state: Any, info: Any) -> dict[str, Any]:
    return {"loss": jnp.mean(info["loss"]) + 1.0}


def plain(state: Any, info: Any) -> dict[str, Any]:
    return {"loss": jnp.mean(info["loss"]) + 0.0}


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (learner, lambda: learner(rate=0.05), r"a number in the program of step 0?-?.*0\.1, not .*0\.05"),
        (learner, lambda: learner(partition_seed=1), r"other values in an array of (init|step|measure) int32\[127\]"),
        (learner, lambda: learner(noise=1e-3), r"other values in an array of (init|step|measure) float32\[127, 4\]"),
        (learner, lambda: learner(graph=networks.complete(NODES)), "another program of|an array of|of step"),
        (
            lambda: learner(graph=weighted("metropolis_hastings")),
            lambda: learner(graph=weighted("max_degree")),
            r"other values in network\.\w+ of step float32",
        ),
        (learner, lambda: learner(method=algorithms.gradient_tracking), r"same (state|process)"),
        (learner, lambda: learner(batch=5), "same (state|process)"),
        (events, lambda: events(1.001), r"another tape of events \(clocks or links\)"),
    ],
    ids=["rate", "partition", "data", "graph", "weights", "method", "batch", "clock"],
)
def test_another_process_is_refused_and_its_difference_is_named(
    tmp_path: pathlib.Path, first: Any, second: Any, what: str
) -> None:
    run(first(), tmp_path, 4)
    with pytest.raises(ValueError, match=what) as caught:
        run(second(), tmp_path, 8)
    text = str(caught.value)
    assert text.startswith("simulate: checkpoint_dir must be one of this run (same ") and "\n" not in text
    assert text.endswith("Resume with the settings of that run, or use another folder.")
    whole, resumed = run(first(), tmp_path / "whole", 8), run(first(), tmp_path, 8)  # it is as it was
    assert resumed.results.equals(whole.results)


def test_another_record_of_the_same_names_is_refused(tmp_path: pathlib.Path) -> None:
    run(learner(), tmp_path, 4, record=Record(every=2, fn=plain))
    with pytest.raises(ValueError, match=r"a number in the program of measure 0\.0, not 1\.0"):
        run(learner(), tmp_path, 8, record=Record(every=2, fn=shifted))


def test_two_graphs_of_one_form_differ_in_their_arrays(tmp_path: pathlib.Path) -> None:
    one, other = (networks.random_regular(NODES, 4, seed=seed) for seed in (0, 1))
    run(learner(graph=one), tmp_path, 4)
    with pytest.raises(ValueError, match=r"other values in network\.\w+ of (step|init)"):
        run(learner(graph=other), tmp_path, 8)


def test_several_seeds_and_floats_that_a_process_closes_over(tmp_path: pathlib.Path) -> None:
    run(walk(rate=0.9), tmp_path, 4, seed=[1, 2])
    with pytest.raises(ValueError, match=r"a number in the program of step 0\.9, not 0\.8"):
        run(walk(rate=0.8), tmp_path, 8, seed=[1, 2])
    assert run(walk(rate=0.9), tmp_path, 8, seed=[1, 2]).results.sizes["seed"] == 2


def test_a_fresh_interpreter_gives_the_same_identity() -> None:
    """Whatever its hash seed; asynchronous ones with their tapes."""
    told = []
    for seed in ("1", "77"):
        command = [sys.executable, "-m", "running.identity_run", *NAMES]
        done = subprocess.run(command, env=environment(PYTHONHASHSEED=seed), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    assert told[0].keys() == told[1].keys() and len(told[0]) == len(NAMES)
    assert [name for name in told[0] if told[0][name] != told[1][name]] == []
    mine = identity_run.identity(identity_run.processes()["classification"]())
    assert json.loads(json.dumps(mine)) == told[0]["classification"]


def test_other_rows_have_other_identities() -> None:
    """Every method differs from every other, but for two that are one and the same."""
    known = identity_run.processes()
    names = [name for name in known if name.startswith("event") or known[name] is known["classification"]]
    found = {name: json.dumps(identity_run.identity(known[name]())) for name in names}
    assert len(set(found.values())) == len(found) > 10


def test_any_number_of_devices_may_go_on(tmp_path: pathlib.Path) -> None:
    whole = run(learner(), tmp_path / "whole", 9)
    run(learner(), tmp_path / "parts", 3)
    run(learner(), tmp_path / "parts", 6, mesh=2)
    resumed = run(learner(), tmp_path / "parts", 9, mesh=4)
    np.testing.assert_allclose(resumed.results.loss.values, whole.results.loss.values, rtol=1e-5)
    with pytest.raises(ValueError, match="a number in the program of step"):
        run(learner(rate=0.3), tmp_path / "parts", 12, mesh=2)


def test_checkpoints_of_before_are_taken_with_a_word(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.signature
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "signature", lambda shapes, key, every, process=None: real(shapes, key, every))
        run(learner(), tmp_path, 4)
    with pytest.warns(UserWarning, match="was written before they said of which process they are"):
        assert run(learner(), tmp_path, 8).results.step[-1] == 8


def test_another_version_of_jax_is_said_rather_than_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_with = {**identity.made_with(), "jax": "0.0.1"}
    with monkeypatch.context() as patch:
        patch.setattr(identity, "made_with", lambda: made_with)
        run(learner(graph=weighted("metropolis_hastings")), tmp_path, 4)
    run(learner(graph=weighted("metropolis_hastings")), tmp_path, 4)  # the programs are the same: nothing to say
    words = (
        rf"was written with jax 0.0.1, not {jax.__version__}; whether it is of this process cannot be told \(it has "
    )
    with pytest.warns(UserWarning, match=words):
        run(learner(graph=weighted("max_degree")), tmp_path, 8)
    with monkeypatch.context() as patch:
        patch.setattr(identity, "made_with", lambda: made_with)
        run(learner(), tmp_path / "rate", 4)
    with pytest.raises(ValueError, match="a number in the program of step"):  # no version explains another rate
        run(learner(rate=0.7), tmp_path / "rate", 8)


def test_functions_of_the_host_count_by_code_and_plain_values_not_by_what_fills_up() -> None:
    def calls(scale: float, memory: dict[str, int], name: str = "x") -> Process:
        def host(x: np.ndarray) -> np.ndarray:
            memory[name] = memory.get(name, 0) + 1
            return np.asarray(scale * x, np.float32)

        def step(key: jax.Array, state: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            return jax.pure_callback(host, jax.ShapeDtypeStruct((3,), jnp.float32), state), {}

        return Process(lambda key: jnp.ones(3), step, lambda state, info: {"x": state})

    first = identity_run.identity(calls(0.5, {}))
    assert identity.difference(first, identity_run.identity(calls(0.5, {"x": 7}))) == ""
    assert "another program of step" in identity.difference(first, identity_run.identity(calls(0.25, {})))


def test_a_data_set_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is every array that several functions of a process use."""
    hashed: list[Any] = []
    real = identity.content

    def noted(leaf: Any) -> str:
        hashed.append(np.shape(leaf))
        return real(leaf)

    monkeypatch.setattr(identity, "content", noted)
    data = jnp.arange(12.0).reshape(3, 4)
    process = Process(
        lambda key: jnp.zeros(3) + data.sum(1),
        lambda key, state: (state + data.sum(1), {}),
        lambda state, info: {"x": state @ data},
    )
    arrays = identity_run.identity(process)["arrays"]
    assert [part for part, shape, _, _ in arrays if shape == "float32[3, 4]"] == ["init", "step", "measure"]
    assert hashed == [(3, 4)]


def test_numbered_folders_of_others_are_left_alone(tmp_path: pathlib.Path) -> None:
    """Photos by year are no checkpoints: the oldest of those would be removed, a damaged one renamed."""
    for year in ("2023", "2024", "2025"):
        (tmp_path / year).mkdir()
        (tmp_path / year / "photo.jpg").write_text("a cat")
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"checkpoint_dir must be a new folder, or one of checkpoints, got .*2023"):
            run(walk(), tmp_path, 4, resume=resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2023", "2024", "2025"]
    (tmp_path / "empty" / "7").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"with other files \(7\)"):
        run(walk(), tmp_path / "empty", 4)
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "notes.txt").write_text("mine")
    (tmp_path / "mixed" / "damaged-4").mkdir()
    run(walk(), tmp_path / "mixed", 4)
    for file in (tmp_path / "mixed" / "4").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.warns(UserWarning, match="checkpoint of step 4 is damaged"):
        run(walk(), tmp_path / "mixed", 6)
    kept = sorted(path.name for path in (tmp_path / "mixed").iterdir() if not path.name.startswith("."))
    assert kept == ["6", "damaged-4", "damaged-4-1", "notes.txt"]


def test_paths_as_users_write_them(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run(walk(), "~/x", 3)  # type: ignore[arg-type]
    assert (tmp_path / "x" / "3").is_dir() and [path.name for path in tmp_path.iterdir()] == ["x"]
    with pytest.raises(ValueError, match="simulate: checkpoint_dir must be a path, got ''"):
        run(walk(), "", 3)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_two_processes_do_not_share_a_folder(tmp_path: pathlib.Path) -> None:
    code = f"""
import sys, time
from running.test_identity import run, walk
from dlsim.running import loop
import pathlib
loop.CHUNK_SECONDS = 1e-3
def wait(step, *rest):
    if step > 3:
        print("running", flush=True)
        time.sleep(60)
loop._next_chunk = lambda steps, seconds: wait(2 + steps) or 2
run(walk(), pathlib.Path({str(tmp_path)!r}), 10**6, checkpoint_seconds=0.0)
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "running\n"
        words = rf"checkpoint_dir must be a folder that no other process is writing, got .*\(process {process.pid} on"
        with pytest.raises(ValueError, match=words):
            run(walk(), tmp_path, 10)
        process.kill()
        process.wait(20)
        assert run(walk(), tmp_path, 10).results.step[-1] == 10, "the dead are not waited for"
    finally:
        process.kill()
        process.wait(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(walk(), tmp_path, 12).results.step[-1] == 12
    assert loop.CHUNK_SECONDS > 0.1
