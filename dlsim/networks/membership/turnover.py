"""When nodes come and go while a protocol is played."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dlsim import checks

CLOCKS = ("rounds", "seconds")
JOIN, LEAVE, CRASH = "join", "leave", "crash"
KINDS = {JOIN: "joins_at", LEAVE: "leaves_at", CRASH: "crashes_at"}


class Turnover(NamedTuple):
    """Who comes and goes when; `dlsim.networks.turnover` makes one."""

    num_nodes: int = 0
    clock: str = "rounds"
    joins_at: np.ndarray | None = None  # [N], infinite: never
    leaves_at: np.ndarray | None = None
    crashes_at: np.ndarray | None = None
    random_crashes: tuple[int, float, float] | None = None  # how many, from, to

    def events(self, num_nodes: int, rng: np.random.Generator) -> list[tuple[float, int, str]]:
        """(time, node, kind) in order; equal times by node."""
        found = []
        for kind, name in KINDS.items():
            times = getattr(self, name)
            if times is not None:
                found += [(float(t), i, kind) for i, t in enumerate(times) if np.isfinite(t)]
        if self.random_crashes is not None:
            number, first, last = self.random_crashes
            nodes = rng.permutation(num_nodes)[:number]
            found += [(float(t), int(i), CRASH) for t, i in zip(rng.uniform(first, last, number), nodes, strict=True)]
        return sorted(found)

    def is_present(self, num_nodes: int) -> np.ndarray:
        """Who is there from the start, bool `[N]`: all but those whose first event is that they join."""
        never = np.full(num_nodes, np.inf)
        joins, leaves, crashes = (never if x is None else x for x in (self.joins_at, self.leaves_at, self.crashes_at))
        return ~np.isfinite(joins) | (np.minimum(leaves, crashes) < joins)


def turnover(
    num_nodes: int,
    *,
    joins_at: Any = None,
    leaves_at: Any = None,
    crashes_at: Any = None,
    random_crashes: tuple[int, float, float] | None = None,
    clock: str = "rounds",
) -> Turnover:
    """When nodes join, leave (they say so) and crash (they do not), for `dlsim.networks.sampling_tape`.

    Args:
      num_nodes: N.
      joins_at, leaves_at, crashes_at: times by node, `[N]`, infinite for never.  A node whose first event is that it joins is
        not there before.
      random_crashes: `(number, first, last)`: so many nodes, drawn by the tape's seed, crash one after the other at uniform
        times from `first` to `last`.
      clock: of these times: `"rounds"`, in halves: 7 is when round 7 begins, 7.5 when as many of its models are on their
        way as an aggregator waits for (who may be gone when they arrive); or `"seconds"`.
    """
    where = "turnover"
    checks.integer(where, "num_nodes", num_nodes, 1)
    checks.one_of(where, "clock", clock, CLOCKS)
    made: dict[str, Any] = {}
    for name, given in (("joins_at", joins_at), ("leaves_at", leaves_at), ("crashes_at", crashes_at)):
        if given is not None:
            checks.known(where, name, given, "known while tracing")
            times = checks.host(where, name, given)
            checks.shape(where, name, times, (num_nodes,))
            if times.dtype.kind not in "iuf":
                checks.fail(where, name, "times of at least 0, or infinite", checks.describe(given))
            times = times.astype(np.float64)
            if np.isnan(times).any() or (times < 0).any():
                checks.fail(where, name, "times of at least 0, or infinite", checks.describe(given))
            made[name] = times
    if random_crashes is not None:
        parts = checks.sequence(where, "random_crashes", random_crashes, "(number, first, last)")
        if len(parts) != 3:
            checks.fail(where, "random_crashes", "(number, first, last)", checks.describe(random_crashes))
        number, first, last = parts
        checks.known(where, "random_crashes", list(parts), "known while tracing")
        checks.integer(where, "random_crashes[0]", number, 0, num_nodes)
        checks.number(where, "random_crashes[1]", first, 0.0)
        checks.number(where, "random_crashes[2]", last, float(first))
        made["random_crashes"] = (number, float(first), float(last))
    return Turnover(num_nodes=num_nodes, clock=clock, **made)
