"""A sweep as a Slurm array job through submitit; each job writes its blocks into the sweep's folder."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from dlsim import checks
from dlsim.running.stopping import Interrupted, Interrupts
from dlsim.sweeps.display import display
from dlsim.sweeps.engine import Options, Progress
from dlsim.sweeps.plan import Plan
from dlsim.sweeps.store import Store
from dlsim.sweeps.workers.tasks import TRIES, MakeSource, Player, Task, add_timing, make_tasks

POLL_SECONDS = 1.0


class SlurmWorkers(NamedTuple):
    """At most `num_workers` jobs of one array at a time.

    `parameters` go to submitit's executor as they are (`slurm_partition`, `gpus_per_node`, `timeout_min`, ...).
    `cluster="local"` runs the jobs as processes of this machine.  The folder must be one that all machines see.
    """

    num_workers: int
    cluster: str = "slurm"
    parameters: dict[str, Any] | None = None
    options: Options = Options()

    def bind(self, make_source: MakeSource) -> _Array:
        """What runs a plan as array jobs."""
        return _Array(self, make_source)


def play_task(make_source: MakeSource, options: Options, task: Task, folder: str) -> dict[str, float]:
    """What a job does."""
    store = Store(folder)
    store.refresh()
    return Player(make_source, options).play(task, store)


class _Array(NamedTuple):
    workers: SlurmWorkers
    make_source: MakeSource

    def run(self, plan: Plan, store: Store, progress: str | bool) -> dict[str, float]:
        if store.folder is None:
            checks.fail("sweep", "out", "a folder that all machines see, to use Slurm", "None")
        import submitit

        folder = store.folder / "jobs"
        executor = submitit.AutoExecutor(folder=str(folder), cluster=self.workers.cluster)
        executor.update_parameters(**(self.workers.parameters or {"timeout_min": 24 * 60}))
        if self.workers.cluster == "slurm":
            executor.update_parameters(slurm_array_parallelism=self.workers.num_workers)
        with Interrupts() as interrupts, display(plan, progress) as say:
            shown, timing = Progress(say), dict[str, float]()
            for _ in range(TRIES):
                tasks = make_tasks(plan, store, self.workers.num_workers)
                if not tasks:
                    return timing
                timing = self._submit(executor, plan, store, tasks, shown, interrupts, timing)
        left = sum(len(task.wanted) for task in make_tasks(plan, store, 1))
        if left:
            fix = f"The jobs' logs are in {folder}; finished blocks are kept."
            checks.fail("sweep", "workers", "able to finish every block", f"{left} runs lost {TRIES} times", fix)
        return timing

    def _submit(
        self,
        executor: Any,
        plan: Plan,
        store: Store,
        tasks: list[Task],
        shown: Progress,
        interrupts: Any,
        timing: dict[str, float],
    ) -> dict[str, float]:
        """One array job; what its jobs did not finish is left to the next."""
        arguments = [(self.make_source, self.workers.options, task, str(store.folder)) for task in tasks]
        waiting = list(zip(tasks, arguments, strict=True))
        running: list[tuple[Task, Any]] = []
        is_local = self.workers.cluster != "slurm"
        if not is_local:
            jobs = executor.map_array(play_task, *zip(*arguments, strict=True))
            running, waiting = list(zip(tasks, jobs, strict=True)), []
        while running or waiting:
            while waiting and len(running) < self.workers.num_workers:
                task, given = waiting.pop(0)
                running.append((task, executor.submit(play_task, *given)))
            time.sleep(POLL_SECONDS)
            if interrupts.seen:
                for _, job in running:
                    job.cancel()
                raise Interrupted.by(interrupts.first, "finished blocks are kept")
            for task, job in [pair for pair in running if pair[1].done()]:
                running.remove((task, job))
                error = job.exception()
                store.refresh()
                finished = [identity for identity in task.wanted if identity in store]
                if error is None:
                    timing = add_timing(timing, job.result())
                shown.add(len(finished) * plan.groups[task.group].num_steps)
                shown.finished(len(finished), "")
        return timing
