"""Blocks on other machines: a local Ray cluster of two workers, and submitit's local executor."""

from __future__ import annotations

import os
import pathlib
import signal

import pytest
import xarray

import dlsim
from dlsim.sweeps.store import Store
from dlsim.sweeps.workers import RayWorkers, SlurmWorkers, parse
from dlsim.sweeps.workers.tasks import Player, make_tasks

AXES = {"topology": ["ring", "complete"], "learning_rate": [0.05, 0.1, 0.2]}
STEPS = 6


def make(topology: str, learning_rate: float) -> dlsim.Process:
    import optax

    problem = dlsim.problems.quadratic(6, 3, seed=0)
    network = getattr(dlsim.networks, topology)(6)
    return dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(learning_rate)), network)


def dies_once(topology: str, learning_rate: float, folder: str) -> dlsim.Process:
    """The process that builds the second topology first dies, as a machine would; the next one lives."""
    mark = pathlib.Path(folder) / "died"
    if os.environ.get("DLSIM_TEST_WORKER") == "1" and topology == "complete" and not mark.exists():
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return make(topology, learning_rate)


def equal(ours: xarray.Dataset, theirs: xarray.Dataset) -> None:
    xarray.testing.assert_allclose(ours.drop_vars("seconds_per_step"), theirs.drop_vars("seconds_per_step"), rtol=1e-5)


@pytest.fixture(scope="module")
def here() -> xarray.Dataset:
    return dlsim.sweep(make, AXES, seed=[0, 1], num_steps=STEPS, progress=False)


@pytest.fixture
def for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started processes get one device, as a worker has, and know that they are workers."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("DLSIM_TEST_WORKER", "1")
    root = pathlib.Path(__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root / "sweeps")]))


@pytest.mark.slow
@pytest.mark.needs("ray")
def test_a_ray_cluster_of_two_workers(here: xarray.Dataset, for_workers: None) -> None:
    found = dlsim.sweep(make, AXES, seed=[0, 1], num_steps=STEPS, progress=False, workers=RayWorkers(2))
    equal(found, here)


@pytest.mark.slow
@pytest.mark.needs("ray")
def test_a_lost_ray_worker_is_replaced(tmp_path: pathlib.Path, here: xarray.Dataset, for_workers: None) -> None:
    os.environ.pop("DLSIM_TEST_WORKER")  # planning here must not die
    axes = {**AXES, "folder": [str(tmp_path)]}
    import ray

    ray.init(
        num_cpus=2, log_to_driver=False, include_dashboard=False, runtime_env={"env_vars": {"DLSIM_TEST_WORKER": "1"}}
    )
    try:
        found = dlsim.sweep(dies_once, axes, seed=[0, 1], num_steps=STEPS, progress=False, workers=RayWorkers(2))
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists(), "no worker was lost: the test shows nothing"
    equal(found.isel(folder=0, drop=True), here)


@pytest.mark.slow
@pytest.mark.needs("submitit")
def test_submitit_processes_write_into_the_folder(
    tmp_path: pathlib.Path, here: xarray.Dataset, for_workers: None
) -> None:
    out = tmp_path / "sweep"
    found = dlsim.sweep(make, AXES, seed=[0, 1], num_steps=STEPS, progress=False, out=out, workers="local:2")
    equal(found, here)
    blocks = sorted(path.name for path in (out / "blocks").glob("*.npz"))
    assert len(blocks) >= 2
    again = dlsim.sweep(make, AXES, seed=[0, 1], num_steps=STEPS, progress=False, out=out)
    xarray.testing.assert_identical(again, found)
    assert sorted(path.name for path in (out / "blocks").glob("*.npz")) == blocks, "nothing was left to run"


@pytest.mark.slow
@pytest.mark.needs("submitit")
def test_a_lost_job_is_submitted_again(
    tmp_path: pathlib.Path, here: xarray.Dataset, for_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    mark.mkdir()
    axes = {**AXES, "folder": [str(mark)]}
    # Planning here must not die: the environment is a worker's only while jobs are started.
    import submitit

    monkeypatch.delenv("DLSIM_TEST_WORKER")
    submit = submitit.AutoExecutor.submit

    def as_worker(self: object, *arguments: object) -> object:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DLSIM_TEST_WORKER", "1")
            return submit(self, *arguments)

    monkeypatch.setattr(submitit.AutoExecutor, "submit", as_worker)
    found = dlsim.sweep(
        dies_once, axes, seed=[0, 1], num_steps=STEPS, progress=False, out=tmp_path / "sweep", workers="local:2"
    )
    assert (mark / "died").exists(), "no job was lost: the test shows nothing"
    equal(found.isel(folder=0, drop=True), here)


def test_tasks_hold_every_run_once_and_no_group_is_split_too_far() -> None:
    from dlsim.sweeps.api import make_options, plan_sweep
    from dlsim.sweeps.source import from_function

    source = from_function(make, AXES, [0, 1], STEPS, None)
    plan, store = plan_sweep(source, Store(), make_options()), Store()
    for workers in (1, 2, 50):
        tasks = make_tasks(plan, store, workers)
        wanted = [identity for task in tasks for identity in task.wanted]
        assert len(wanted) == len(set(wanted)) == 12
        assert len(tasks) <= 2 * workers * len(plan.groups)
        assert all(set(task.wanted) <= task.members for task in tasks)
    blocks, timing = Player(lambda: source).blocks(make_tasks(plan, store, 2)[0])
    assert sum(len(block.identities) for block in blocks) == len(make_tasks(plan, store, 2)[0].wanted)
    assert timing["num_programs"] >= 1
    store.save(blocks[0])
    left = [identity for task in make_tasks(plan, store, 2) for identity in task.wanted]
    assert len(left) == 12 - len(blocks[0].identities)


def test_words_for_workers() -> None:
    assert parse("ray:3") == RayWorkers(3) and parse("ray") == RayWorkers(1)
    assert parse("slurm:16") == SlurmWorkers(16, cluster="slurm")
    assert parse("local:2") == SlurmWorkers(2, cluster="local")
    for text, message in (
        ("rai:2", "sweep: workers must be one of ray, slurm, local, got 'rai'. Did you mean 'ray'"),
        ("ray:two", "sweep: workers must be a kind and a number such as ray:4, got 'ray:two'"),
        ("ray:0", "sweep: workers must be an integer >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            parse(text)


def test_slurm_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="sweep: out must be a folder that all machines see, to use Slurm, got None"):
        dlsim.sweep(make, AXES, num_steps=STEPS, progress=False, workers="slurm:2")
