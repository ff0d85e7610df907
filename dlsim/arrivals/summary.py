"""What a schedule of jobs amounts to: how stale work is, who takes part how often, and who works when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlsim import checks
from dlsim.arrivals.jobs import Jobs, Schedule, joined
from dlsim.clocks.clocks import TICKS_PER_SECOND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

NARROWEST = 0.018  # share of a chart's width below which a bar has no room for its number
MOST_BARS = 5000  # of a chart


def first_jobs(schedule: Schedule, num_jobs: int, seed: int = 0) -> Jobs:
    """The first `num_jobs` jobs of a schedule in order of use; the last aggregation may be cut.

    Args:
      schedule: of any kind.
      num_jobs: at least 1.
      seed: of the schedule's draws.
    """
    where = "first_jobs"
    checks.instance(where, "schedule", schedule, Schedule, "Make one, e.g. dlsim.arrivals.next_arrival(pace, 10).")
    num = checks.integer(where, "num_jobs", num_jobs, 1)
    pieces, have = [], 0
    for piece in schedule.jobs(checks.seed(where, seed)):
        pieces.append(piece)
        have += len(piece)
        if have >= num:
            break
    return joined(pieces).part(slice(0, num))


def staleness_histogram(jobs: Jobs) -> np.ndarray:
    """How many jobs were used 0, 1, 2, ... versions after the one they began with, int64 `[largest + 1]`."""
    _check("staleness_histogram", jobs)
    return np.bincount(jobs.staleness).astype(np.int64)


def jobs_per_client(jobs: Jobs, num_clients: int) -> np.ndarray:
    """How many of the jobs are each client's, int64 `[M]`.

    Args:
      jobs: of clients 0 to M - 1.
      num_clients: M.
    """
    return _counts("jobs_per_client", jobs, num_clients)


def participation(jobs: Jobs, num_clients: int) -> np.ndarray:
    """Jobs of each client that an aggregation uses, in the mean over all complete aggregations, float64 `[M]`.

    It is the share of aggregations in which the client takes part, where nobody comes twice in one; a fast client of a
    buffer may have more than 1.  The sum over clients is the mean size of an aggregation.

    Args:
      jobs: of clients 0 to M - 1, with the end of at least one aggregation.
      num_clients: M.
    """
    where = "participation"
    _check(where, jobs)
    ends = np.flatnonzero(jobs.is_last)
    if len(ends) == 0:
        checks.fail(where, "jobs", "at least one whole aggregation", f"{len(jobs)} jobs without the end of one")
    return _counts(where, jobs.part(slice(0, int(ends[-1]) + 1)), num_clients) / len(ends)


@checks.typed
def gantt(jobs: Jobs, until: float | None = None, panel: Axes | None = None) -> Figure | SubFigure:
    """Who works when: a bar a job with its number of local steps, a thin line while its result waits for its use.

    Vertical lines are aggregations, dotted where one client's work is applied alone at once.

    Args:
      jobs: from the first on (`first_jobs`), since jobs that are left out leave gaps.
      until: seconds, the end of the chart; default the last use.  Jobs that begin before it are drawn.
      panel: matplotlib Axes to draw on; default those of a figure of its own.
    Returns: the matplotlib Figure that holds it.
    """
    from dlsim import plotting

    where = "gantt"
    _check(where, jobs)
    if until is None:
        until = float(jobs.use[-1]) / TICKS_PER_SECOND
    else:
        checks.known(where, "until", until, "a known number of seconds", "Draw outside jit.")
        checks.number(where, "until", until, 0.0, open_minimum=True)
    shown = jobs.part(jobs.start < until * TICKS_PER_SECOND)
    if len(shown) > MOST_BARS:
        fix = "Give an earlier `until`."
        checks.fail(where, "jobs", f"at most {MOST_BARS} to draw", f"{len(shown)}", fix)
    clients = np.unique(shown.client)
    with plotting.style():
        if panel is None:
            panel = plotting.panels(1, 1, height=min(1.2 + 0.22 * len(clients), 9.0))[1][0, 0]
        _draw(panel, shown, clients, float(until))
    return panel.figure


def _draw(panel: Axes, jobs: Jobs, clients: np.ndarray, until: float) -> None:
    from dlsim import plotting

    start, finish, use = (ticks / TICKS_PER_SECOND for ticks in (jobs.start, jobs.finish, jobs.use))
    for row, client in enumerate(clients.tolist()):
        own = np.flatnonzero(jobs.client == client)
        color = plotting.COLORS[row % len(plotting.COLORS)]
        bars = list(zip(start[own], finish[own] - start[own], strict=True))
        panel.broken_barh(bars, (row - 0.3, 0.6), facecolor=color, edgecolor=color, alpha=0.45)
        waits = own[use[own] > finish[own]]
        panel.hlines(np.full(len(waits), row), finish[waits], use[waits], color=color, linewidth=0.8)
        for job in own.tolist():
            end = min(float(finish[job]), until)
            if end - start[job] >= NARROWEST * until:
                middle = (float(start[job]) + end) / 2
                panel.text(middle, row, str(jobs.num_steps[job]), ha="center", va="center", fontsize=5.5)
    for direct, line in ((False, "-"), (True, ":")):
        times = np.unique(use[jobs.is_last & (jobs.is_direct == direct)])
        for time in times[times <= until].tolist():
            panel.axvline(time, color="k", linewidth=0.7, linestyle=line, zorder=0)
    panel.set_yticks(range(len(clients)), [str(client) for client in clients.tolist()])
    panel.invert_yaxis()
    panel.grid(visible=False)
    panel.set(xlabel="simulated time (s)", ylabel="client", xlim=(0, until))


def _counts(where: str, jobs: Jobs, num_clients: int) -> np.ndarray:
    _check(where, jobs)
    num = checks.integer(where, "num_clients", num_clients, 1)
    if jobs.client.max() >= num:
        checks.fail(where, "num_clients", f"above every client of the jobs ({jobs.client.max()})", num)
    return np.bincount(jobs.client, minlength=num).astype(np.int64)


def _check(where: str, jobs: Jobs) -> None:
    checks.instance(where, "jobs", jobs, Jobs, "Take them with dlsim.arrivals.first_jobs(schedule, 1000).")
    if len(jobs) == 0:
        checks.fail(where, "jobs", "at least one job", "none")
