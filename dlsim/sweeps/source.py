"""What a sweep runs: an experiment file or a function, its axes, and the identity of every run."""

from __future__ import annotations

import copy
import hashlib
import inspect
import itertools
import json
import numbers
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from dlsim import checks
from dlsim.configs import Experiment, assign, flatten
from dlsim.core import Process, Record
from dlsim.results import plain
from dlsim.running.history import NODE
from dlsim.sweeps.identity import code_of_experiment, code_of_function, code_of_package, describe

Choice = dict[str, Any]  # a value for each axis
RESERVED = ("seed", "step", "diverged_step", "seconds_per_step")  # what a Dataset of a sweep has beside the axes


class Built(NamedTuple):
    """One run, ready for tracing."""

    process: Process
    record: Record
    num_steps: int


class Source(NamedTuple):
    """What a sweep runs.

    `build(choice) -> Built`, where the floats of the choice may be tracers; `settings(choice)` is all that decides a run
    but its seed and the code.
    """

    name: str
    axes: dict[str, list[Any]]
    floats: frozenset[str]  # axes whose values are floats
    seeds: list[int]
    build: Callable[[Choice], Built]
    settings: Callable[[Choice], dict[str, Any]]
    code: str  # digest of the code that builds

    @property
    def choices(self) -> list[Choice]:
        """Every combination, the last axis fastest."""
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())]

    def identity(self, choice: Choice, seed: int) -> str:
        """The address of a run's results: equal for equal code, settings and seed."""
        precision = jax.config.jax_enable_x64  # type: ignore[attr-defined]
        decided = [self.name, code_of_package(), precision, self.code, plain(self.settings(choice)), seed]
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:32]


def from_experiment(
    experiment: Experiment, config: Any, axes: Mapping[str, Sequence[Any]] | None = None, seeds: Sequence[int] = ()
) -> Source:
    """The sweep of an experiment file: its own `axes(config)`, with those of `axes` in place of, or beside them."""
    own = dict(experiment.module.axes(config)) if hasattr(experiment.module, "axes") else {}
    known = flatten(config)
    for key in {**own, **(axes or {})}:
        checks.one_of(experiment.name, "axis", key, known)
        if key == "num_seeds":
            checks.fail(
                experiment.name, "axis", "another key than num_seeds", "num_seeds", "Seeds have an axis anyway."
            )
    given = {key: _of_type(key, _values(values), _default(key, own, known)) for key, values in (axes or {}).items()}
    chosen = {key: _values(values) for key, values in {**own, **given}.items()}
    floats = _check_axes(experiment.name, chosen)
    described = _Described(chosen)

    def configured(choice: Choice) -> Any:
        combined = copy.deepcopy(config)
        for key, value in choice.items():
            assign(combined, key, value)
        return combined

    def build(choice: Choice) -> Built:
        combined = configured(choice)
        try:
            made = experiment.module.build(combined)
        except (ValueError, LookupError, AttributeError) as error:
            _tell_unknown(experiment.name, choice, own, error)
            raise
        if not (
            isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Process) and isinstance(made[1], Record)
        ):
            checks.fail(experiment.name, "build", "a function that gives (Process, Record)", type(made).__name__)
        return Built(*made, num_steps=combined.num_steps)

    def settings(choice: Choice) -> dict[str, Any]:
        decided = {**known, **described(choice)}
        decided.pop("num_seeds", None)
        return decided

    code = code_of_experiment(experiment.module, experiment.path.read_text(encoding="utf-8"))
    return Source(experiment.name, chosen, floats, list(seeds), build, settings, code)


def from_function(
    make: Callable[..., Any],
    axes: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    num_steps: int | None,
    record: Record | None,
) -> Source:
    """The sweep of `make(**choice) -> Process`, or `(Process, Record)`."""
    _check_parameters(make, axes)
    chosen = {key: _values(values) for key, values in axes.items()}
    floats = _check_axes("sweep", chosen)
    described = _Described(chosen)
    steps = checks.count("sweep", "num_steps", num_steps, checks.MOST_STEPS)
    if record is not None:
        checks.instance("sweep", "record", record, Record, "Pass e.g. dlsim.Record(every=10).")

    def build(choice: Choice) -> Built:
        made = make(**choice)
        process, kept = made if type(made) is tuple and len(made) == 2 else (made, None)
        checks.instance("sweep", "make(...)", process, Process, "Return dlsim.learn(problem, algorithm, network).")
        kept = kept or record or Record(every=max(1, steps // 100))
        checks.instance("sweep", "record", kept, Record, "Pass e.g. dlsim.Record(every=10).")
        return Built(process, kept, steps)

    def settings(choice: Choice) -> dict[str, Any]:
        return {**described(choice), "num_steps": steps, "record_every": None if record is None else record.every}

    name = getattr(make, "__qualname__", type(make).__name__)
    code = code_of_function((make, None if record is None else record.fn))
    return Source(name, chosen, floats, list(seeds), build, settings, code)


def _tell_unknown(where: str, choice: Choice, own: Mapping[str, Sequence[Any]], error: Exception) -> None:
    """One line for a name that a file's `build` fails on, where the file has an axis of names and this is none of them."""
    if " must be " in str(error) or (isinstance(error, AttributeError) and isinstance(error.obj, ModuleType)):
        return  # which say as much
    for key, value in choice.items():
        names = [name for name in own.get(key, ()) if isinstance(name, str)]
        if isinstance(value, str) and names and value not in names:
            said = f"{type(error).__name__}: {_line(error)}"
            shown = ", ".join(
                [*(near := checks.nearest(value, names)), *(name for name in names if name not in near)][:8]
            )
            hint = f"{checks.meant(value, names)} (The file's build stopped with {said}.)".strip()
            try:
                checks.fail(where, f"axis {key}", f"a name that the file knows, such as {shown}", repr(value), hint)
            except ValueError as line:
                raise line from error


def _line(values: Any) -> str:
    return " ".join(str(values).split())


class _Described:
    """The values of a choice as an identity holds them; each value of an axis is read once."""

    def __init__(self, axes: dict[str, list[Any]]) -> None:
        self._axes = axes  # keeps the values where they are
        self._known: dict[int, Any] = {}

    def __call__(self, choice: Choice) -> dict[str, Any]:
        return {key: self._of(value) for key, value in choice.items()}

    def _of(self, value: Any) -> Any:
        if isinstance(value, bool | int | float | str):
            return value
        if id(value) not in self._known:
            self._known[id(value)] = describe(value)
        return self._known[id(value)]


def _values(values: Sequence[Any]) -> list[Any]:
    """NumPy's numbers as Python's."""
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _check_parameters(make: Callable[..., Any], axes: Mapping[str, Any]) -> None:
    """Every axis must be a parameter of `make`, and what has no default an axis."""
    parameters = inspect.signature(make).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in axes:
        checks.one_of("sweep", "axis", key, names)
    missing = [p.name for p in parameters if p.name in names and p.default is p.empty and p.name not in axes]
    if missing:
        got = ", ".join(axes) or "no axis"
        checks.fail("sweep", "axes", f"given for {', '.join(missing)}, which make needs", got)


def _default(key: str, own: Mapping[str, Sequence[Any]], known: Mapping[str, Any]) -> Any:
    """A value whose type the values of an axis must have."""
    value = own[key][0] if own.get(key) else known[key]
    return value[0] if isinstance(value, tuple | list) and value and key not in own else value


def _of_type(key: str, values: list[Any], default: Any) -> list[Any]:
    """Values of the type of `default`; an int fits a float."""
    if not isinstance(default, bool | int | float | str):
        return values
    out = []
    for value in values:
        fits = isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)
        if type(default) is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
            value, fits = float(value), True
        if not fits:
            checks.fail("sweep", f"axis {key}", f"values of type {type(default).__name__}", _line(repr(value)))
        out.append(value)
    return out


def _check_axes(where: str, axes: dict[str, list[Any]]) -> frozenset[str]:
    """One or more distinct values each; gives the axes of floats, whose values become floats."""
    floats = set()
    for key, values in axes.items():
        taken = (*RESERVED, NODE)
        if key in taken:
            checks.fail(where, "axis", f"another name than {', '.join(taken)}", repr(key), "Rename the parameter.")
        real = all(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in values)
        if real and any(not isinstance(value, numbers.Integral) for value in values):
            axes[key] = [float(value) for value in values]
            if not np.isfinite(axes[key]).all():
                checks.fail(where, f"axis {key}", "finite", values)
            floats.add(key)
        labels, contents = ({str(one) for one in axes[key]}, {json.dumps(describe(one)) for one in axes[key]})
        if not 0 < len(values) == len(labels) == len(contents):
            checks.fail(where, f"axis {key}", "one or more distinct values", _line(values))
    return frozenset(floats)


def parse_axes(words: Sequence[str], known: Mapping[str, Any]) -> dict[str, list[Any]]:
    """`["learning_rate=0.01,0.1", "topology=ring,torus"]` as axes, typed by what the config holds under the key."""
    from dlsim.configs import parse_items

    axes: dict[str, list[Any]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            checks.fail("sweep", "--axis", "of the form key=value,value", repr(word))
        checks.one_of("sweep", "--axis", key, known)
        if key in axes:
            checks.fail("sweep", "--axis", "given once for each key", f"{key} twice", "Join the values with commas.")
        default = known[key]
        default = default[0] if isinstance(default, tuple | list) and default else default
        axes[key] = parse_items(f"axis {key}", text, default)
    return axes
