"""Pace: how long clients take for their local work, and the way there and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.arrivals.coefficients import known_numbers
from dlsim.clocks.clocks import LONGEST, TICKS_PER_SECOND
from dlsim.networks.pace.links import Links

DRAWS = 32  # of a client at a time


class Pace(NamedTuple):
    """A job of Q steps takes client i `(overhead_i + Q seconds_per_step_i) exp(sigma z)` seconds, z standard normal.

    z is drawn for every job from (seed, client, number of the job) alone.
    """

    seconds_per_step: np.ndarray  # float64 [M]
    overhead: np.ndarray  # float64 [M]
    sigma: float

    @property
    def num_clients(self) -> int:
        """M, as many as values were given for."""
        return len(self.overhead)

    @property
    def is_fixed(self) -> bool:
        """Whether a client takes the same time for every job of one length."""
        return self.sigma == 0

    def ticks(self, num_steps: int) -> np.ndarray:
        """Median time of a job, int64 `[M]`, at least 1."""
        return _whole(self.overhead + num_steps * self.seconds_per_step)

    def stream(self, seed: int) -> PaceStream:
        """The times of a run's jobs."""
        return PaceStream(self, seed)


class PaceStream:
    """Times of jobs, asked for in the order of each client's jobs."""

    def __init__(self, pace: Pace, seed: int) -> None:
        self._pace, self._seed = pace, seed
        self._overhead, self._per_step = pace.overhead.tolist(), pace.seconds_per_step.tolist()
        self._draws: list[list[float]] = [[] for _ in range(pace.num_clients)]
        self._sources: list[Any] = [None] * pace.num_clients

    def ticks(self, client: int, num_steps: int) -> int:
        """Of the client's next job."""
        seconds = self._overhead[client] + num_steps * self._per_step[client]
        if self._pace.sigma:
            seconds *= self._factor(client)
        return max(1, round(seconds * TICKS_PER_SECOND))

    def _factor(self, client: int) -> float:
        if not self._draws[client]:
            if self._sources[client] is None:
                self._sources[client] = generator(self._seed, client, purpose=1)
            normal = self._sources[client].standard_normal(DRAWS)
            self._draws[client] = np.exp(self._pace.sigma * normal)[::-1].tolist()
        return self._draws[client].pop()


def generator(seed: int, client: int, purpose: int) -> np.random.Generator:
    """A client's own random numbers."""
    words = (seed & (2**64 - 1)) ^ (purpose << 56)
    return np.random.Generator(np.random.Philox(key=np.array([words, client], np.uint64)))


@checks.typed
def pace(num_clients: int, seconds_per_step: Any = 0.0, overhead: Any = 0.0, *, sigma: float = 0.0) -> Pace:
    """How long clients take.

    Args:
      num_clients: M.
      seconds_per_step: of local work, a number or `[M]`, at least 0.
      overhead: seconds a job takes beside its steps (the way of the model down and of the message up), likewise.  For a
        client the two may not both be 0.
      sigma: standard deviation of the logarithm of a factor that every job's time is drawn with, in [0, 5].
    """
    num_clients = checks.integer("pace", "num_clients", num_clients, 1)
    per_step = _per_client("seconds_per_step", seconds_per_step, num_clients)
    beside = _per_client("overhead", overhead, num_clients)
    checks.known("pace", "sigma", sigma, fix="It is structure: build outside jit.")
    checks.number("pace", "sigma", sigma, 0.0, 5.0)
    bad = per_step + beside <= 0
    if bad.any():
        fix = "Give seconds_per_step or overhead."
        checks.fail("pace", "seconds_per_step", "above 0 for every client", f"0 for client {int(np.argmax(bad))}", fix)
    return Pace(per_step, beside, float(sigma))


@checks.typed
def linear_speeds(num_clients: int, percent: float) -> Pace:
    """Client i takes 1 - i (percent/100)/(M - 1) seconds a job: the first one second, the last `percent` less.

    Args:
      num_clients: M.
      percent: in [0, 100).
    Source: Fraboni et al., JMLR 2023 (their time scenarios F-0 and F-80).
    """
    num_clients = checks.integer("linear_speeds", "num_clients", num_clients, 1)
    fix = "At 100 the fastest client would take no time."
    checks.known("linear_speeds", "percent", percent, "a known number in [0, 100)", "Build outside jit.")
    value = checks.real(percent)
    if value is None or not 0 <= value < 100:
        got = checks.describe(percent) if value is None else f"{value:g}"
        checks.fail("linear_speeds", "percent", "a number in [0, 100)", got, fix)
    places = np.arange(num_clients) / max(num_clients - 1, 1)
    return pace(num_clients, 0.0, 1 - places * percent / 100)


def pace_from_links(links: Links, batch_size: int, bits_down: float, bits_up: float, *, sigma: float = 0.0) -> Pace:
    """The pace that a network's links make: a step is `batch_size` gradient evaluations, a job two messages.

    `sigma` is that of `pace`.

    seconds a step = compute_i batch_size
    overhead       = 2 latency + bits_down / min(download_i, server_upload) + bits_up / min(upload_i, server_download)

    with the rates of a node times (1 - loss_i).  A pace knows of no other client, so links that share cells are refused,
    and draws one factor a job, so links with jitter are; `aggregation` plays no part.
    """
    checks.instance("pace_from_links", "links", links, Links, "Use network.links, or dlsim.networks.links(M).")
    checks.integer("pace_from_links", "batch_size", batch_size, 1)
    fix = "When clients come is structure: build outside jit."
    checks.known("pace_from_links", "links and bits", (links, bits_down, bits_up), "known", fix)
    for name, bits in (("bits_down", bits_down), ("bits_up", bits_up)):
        checks.number("pace_from_links", name, bits, 0.0)
    for name in ("upload_cells", "download_cells", "jitter", "compute_jitter"):
        if getattr(links, name) is not None:
            fix = f"Pass pace=dlsim.arrivals.pace(M, ..., sigma=...), or links._replace({name}=None)."
            checks.fail("pace_from_links", f"links.{name}", "None, as a job's time is one client's own", "given", fix)
    parts = job_parts(links, batch_size, float(bits_down), float(bits_up))
    return pace(len(parts.step), parts.step, parts.down + parts.up, sigma=sigma)


class JobParts(NamedTuple):
    """Seconds of what a job is made of, float64 `[M]`."""

    step: np.ndarray  # of one local step
    down: np.ndarray  # latency included
    up: np.ndarray  # likewise


def job_parts(links: Links, batch_size: int, bits_down: float, bits_up: float) -> JobParts:
    """What the parts of a job take by the links; see `pace_from_links`."""
    through = 1.0 if links.loss is None else 1 - np.asarray(links.loss, np.float64)
    latency = np.asarray(links.latency, np.float64)
    down = np.minimum(np.asarray(links.download, np.float64) * through, float(links.server_upload))
    up = np.minimum(np.asarray(links.upload, np.float64) * through, float(links.server_download))
    step = np.asarray(links.compute, np.float64) * batch_size
    return JobParts(step, latency + bits_down / down, latency + bits_up / up)


def _per_client(name: str, value: Any, num: int) -> np.ndarray:
    array = known_numbers("pace", name, value)
    if array.shape not in ((), (num,)):
        checks.fail("pace", name, f"a number, or one for each of {num} clients", f"shape {list(array.shape)}")
    bad = ~(np.isfinite(array) & (array >= 0) & (array <= LONGEST / TICKS_PER_SECOND / 2**20))
    if bad.any():
        got = float(array.ravel()[np.argmax(bad.ravel())])
        checks.fail("pace", name, "finite and at least 0, in seconds", f"{got:g}")
    return np.broadcast_to(array, (num,)).astype(np.float64)


def _whole(seconds: np.ndarray) -> np.ndarray:
    return np.maximum(np.rint(seconds * TICKS_PER_SECOND), 1).astype(np.int64)
