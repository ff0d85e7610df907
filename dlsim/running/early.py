"""Early stopping: what is recorded decides, on the host, at each record.

A rule is a pure fold over one run's records, so a resumed run, which reads them again, stops where an unbroken one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.core import Info
from dlsim.running.counters import Clock, Counter, to_float


class Stop(NamedTuple):
    """A rule by which a run ends before its last step; `stop_at` and `stop_on_plateau` make them."""

    name: str  # of the record that it looks at, one number a run
    start: Any  # what the rule knows before the first record
    note: Callable[[Any, int, float], tuple[Any, bool]]  # (known, step, value) -> (known, whether the run is to end)
    says: str  # the rule in words, such as "accuracy >= 0.9"


def stop_at(name: str, *, at_least: float | None = None, at_most: float | None = None) -> Stop:
    """End a run at the first record in which a value has reached a target.

        run = dlsim.simulate(process, seed=0, num_steps=5000, stop=dlsim.stop_at("accuracy", at_least=0.9))

    Args:
      name: of a recorded number, such as `"accuracy"` or `"loss"`.
      at_least: the target of what rises; or give `at_most`.
      at_most: the target of what falls.
    """
    where = "stop_at"
    _check_name(where, name)
    if (at_least is None) == (at_most is None):
        got = "neither" if at_least is None else "both"
        checks.fail(
            where, "at_least", "given, or else at_most (one of the two)", got, "Write stop_at('loss', at_most=0.1)."
        )
    if at_least is not None:
        target = _known(where, "at_least", at_least)
        return Stop(name, None, lambda known, step, value: (known, value >= target), f"{name} >= {target:g}")
    target = _known(where, "at_most", at_most)
    return Stop(name, None, lambda known, step, value: (known, value <= target), f"{name} <= {target:g}")


def stop_on_plateau(name: str, *, patience: int, min_delta: float = 0.0, mode: str = "min") -> Stop:
    """End a run once a value has not improved for a number of records in a row.

    A record improves if it is better than the best before it by more than `min_delta`.  NaN is no improvement, so a
    run that has diverged ends as well; at step 0, where some records are not there yet, it does not count.

    Args:
      name: of a recorded number, such as `"loss"`.
      patience: records (not steps) without an improvement after which the run ends.
      min_delta: what an improvement has to be larger than, in the units of the record.
      mode: `"min"` for what falls, `"max"` for what rises.
    """
    where = "stop_on_plateau"
    _check_name(where, name)
    patience = checks.integer(where, "patience", patience, 1)
    checks.known(where, "min_delta", min_delta)
    delta = float(checks.number(where, "min_delta", min_delta, 0.0))
    sign = 1.0 if checks.one_of(where, "mode", mode, ("min", "max")) == "min" else -1.0

    def note(known: tuple[float, int], step: int, value: float) -> tuple[tuple[float, int], bool]:
        best, waited = known
        if sign * value < best - delta:
            return (sign * value, 0), False
        waited += int(step > 0 or not math.isnan(value))
        return (best, waited), waited >= patience

    better = "lower" if mode == "min" else "higher"
    by = f" by more than {delta:g}" if delta else ""
    return Stop(name, (math.inf, 0), note, f"{name} no {better}{by} in {patience} record{'s' if patience > 1 else ''}")


def _check_name(where: str, name: Any) -> None:
    if not isinstance(name, str) or not name:
        checks.fail(where, "name", "the name of a record, such as 'accuracy'", repr(name))


def _known(where: str, argument: str, value: Any) -> float:
    checks.known(where, argument, value)
    return float(checks.number(where, argument, value))


def rules(where: str, stop: Any) -> tuple[Stop, ...]:
    """The rules that a user gives: none, one, or several of which the first to hold ends the run."""
    if stop is None:
        return ()
    is_list = isinstance(stop, list | tuple) and not isinstance(stop, Stop)
    given: list[Any] = list(stop) if is_list else [stop]
    for one in given:
        checks.instance(where, "stop", one, Stop, "Pass e.g. dlsim.stop_at('accuracy', at_least=0.9).")
    return tuple(given)


class Watch:
    """Rules and what they know of each run.

    Args:
      stops: the rules.
      row: shapes of a record, with the axis of runs leading where there is one.
      labels: of the runs, such as their seeds; None: a single run without an axis.
    """

    def __init__(self, stops: Sequence[Stop], row: Info, labels: Sequence[Any] | None) -> None:
        self._stops, self._labels = tuple(stops), labels
        self._known = [[stop.start for stop in stops] for _ in range(1 if labels is None else len(labels))]
        self._ends: list[tuple[int, str] | None] = [None] * len(self._known)
        for stop in stops:
            checks.one_of("simulate", "stop", stop.name, row)
            shape = None if isinstance(row[stop.name], Counter | Clock) else row[stop.name].shape
            if shape is not None and len(shape) > (labels is not None):
                got = f"{stop.name} of shape {list(shape[labels is not None :])}"
                checks.fail(
                    "simulate", "stop", "about a record of one number", got, "Record its mean, say, under a name."
                )

    @property
    def is_done(self) -> bool:
        """Whether every run has reached its end."""
        return bool(self._stops) and None not in self._ends

    def note(self, steps: Sequence[int], rows: Info) -> None:
        """Look at the records of `steps`, in their order."""
        for s, stop in enumerate(self._stops):
            held = rows[stop.name]
            values = to_float(held) if isinstance(held, Counter | Clock) else np.asarray(held, np.float64)
            for run, of_run in enumerate(values.reshape(len(self._known), len(steps))):
                for step, value in zip(steps, of_run, strict=True):
                    self._known[run][s], ends = stop.note(self._known[run][s], step, float(value))
                    first = self._ends[run]
                    if ends and (first is None or step < first[0]):
                        self._ends[run] = (step, stop.says)

    def says(self, step: int) -> str:
        """Why the runs ended at `step`, in one line; empty without a rule."""
        if not self._stops:
            return ""
        wanted = " or ".join(stop.says for stop in self._stops)
        if self._labels is None:
            end = self._ends[0]
            return f"at step {end[0]}: {end[1]}" if end is not None else f"at step {step}, the last, before {wanted}"
        ends = zip(self._labels, self._ends, strict=True)
        each = [f"seed {label} " + ("not" if end is None else f"at step {end[0]}: {end[1]}") for label, end in ends]
        number = sum(end is not None for end in self._ends)
        if self.is_done:
            return f"at step {step}, when all runs had: {'; '.join(each)}"
        return f"at step {step}, the last, when {number} of {len(each)} runs had {wanted}: {'; '.join(each)}"
