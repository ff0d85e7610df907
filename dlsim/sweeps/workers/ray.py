"""A sweep on a Ray cluster: one actor a worker; a task whose actor is lost runs again on another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from dlsim import checks
from dlsim.running.stopping import Interrupted, Interrupts
from dlsim.sweeps.display import display
from dlsim.sweeps.engine import Options, Progress
from dlsim.sweeps.plan import Plan
from dlsim.sweeps.store import Store
from dlsim.sweeps.workers.tasks import TRIES, MakeSource, Player, Task, add_timing, make_tasks

POLL_SECONDS = 0.5


class RayWorkers(NamedTuple):
    """`num_workers` actors on the cluster that `ray.init(address)` finds, or on this machine if there is none.

    An actor gets one GPU where the cluster has any.  The experiment's file, and `dlsim`, must be at the same place on
    every machine.
    """

    num_workers: int
    address: str | None = None
    options: Options = Options()

    def bind(self, make_source: MakeSource) -> _Cluster:
        """What runs a plan on the cluster."""
        return _Cluster(self, make_source)


class _Cluster(NamedTuple):
    workers: RayWorkers
    make_source: MakeSource

    def run(self, plan: Plan, store: Store, progress: str | bool) -> dict[str, float]:
        ray = _ray()
        tasks = make_tasks(plan, store, self.workers.num_workers)
        started = not ray.is_initialized()
        if started:
            ray.init(address=self.workers.address, log_to_driver=False, include_dashboard=False, logging_level="error")
        try:
            with Interrupts() as interrupts, display(plan, progress) as say:
                return self._run(ray, plan, store, tasks, Progress(say), lambda: interrupts.first)
        finally:
            if started:
                ray.shutdown()

    def _run(
        self, ray: Any, plan: Plan, store: Store, tasks: list[Task], shown: Progress, stopped: Callable[[], int | None]
    ) -> dict[str, float]:
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        actor = ray.remote(num_cpus=1, num_gpus=gpus)(Player)
        waiting, tries = list(reversed(tasks)), dict.fromkeys(tasks, 0)
        timing: dict[str, float] = {}
        idle = [
            actor.remote(self.make_source, self.workers.options)
            for _ in range(min(self.workers.num_workers, len(tasks)))
        ]
        flying: dict[Any, tuple[Task, Any]] = {}
        while waiting or flying:
            while waiting and idle:
                task, worker = waiting.pop(), idle.pop()
                flying[worker.blocks.remote(task)] = (task, worker)
            done, _ = ray.wait(list(flying), num_returns=1, timeout=POLL_SECONDS)
            if stopped():
                raise Interrupted.by(stopped(), "finished blocks are kept")
            for reference in done:
                task, worker = flying.pop(reference)
                try:
                    blocks, part = ray.get(reference)
                except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
                    tries[task] += 1
                    if tries[task] >= TRIES:
                        got = f"{TRIES} workers lost over {plan.groups[task.group].label}"
                        _lost(got, error)
                    with contextlib.suppress(Exception):
                        ray.kill(worker)
                    idle.append(actor.remote(self.make_source, self.workers.options))
                    waiting.append(task)
                    continue
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, Exception) else error from None
                timing = add_timing(timing, part)
                for block in blocks:
                    store.save(block)
                shown.add(len(task.wanted) * plan.groups[task.group].num_steps)
                shown.finished(len(task.wanted), "")
                idle.append(worker)
        return timing


def _lost(got: str, error: BaseException) -> None:
    try:
        checks.fail("sweep", "workers", "alive", got, "Blocks that were finished are kept; run the sweep again.")
    except ValueError as line:
        raise line from error


def _ray() -> Any:
    import ray

    return ray
