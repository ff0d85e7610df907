"""One wrong value at a time, in every argument of every public function: one clear line, or it is no wrong value.

What fails must say `<where>: <argument> must be <rule>, got <value>`; what Python itself says of missing or unknown
arguments is Python's.  What passes must be of a kind that the annotation (or the right value beside it) names: nothing is
taken without a word.  `DLSIM_ALL_ARGUMENTS=1` tries every value in every argument, else each argument gets its share.
"""

from __future__ import annotations

import functools
import inspect
import os
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from contract import arguments_table as table, wrong_values
from contract.wrong_values import VALUES, Traced

import dlsim

ALL = os.environ.get("DLSIM_ALL_ARGUMENTS") == "1"
SHARE = 5  # of the values, an argument
LINE = re.compile(r"[^:]+: .+ must .+, got .+", re.DOTALL)
LONGEST = 600  # characters of a line, its fix and the names that it lists with it


class Outcome(NamedTuple):
    case: str
    kind: str  # "line", "raw", "formless", "taken" or "right"
    said: str


def functions() -> dict[str, Any]:
    """Every public function, as `room.name`."""
    found = {}
    for room in table.ROOMS:
        module = dlsim if room == "dlsim" else getattr(dlsim, room, None) or __import__(f"dlsim.{room}").__dict__[room]
        names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
        for name in names:
            made = getattr(module, name)
            if inspect.isfunction(made) and made.__module__.startswith("dlsim"):
                found[f"{room}.{name}"] = made
    return found


FUNCTIONS = functions()


def of_room(room: str, needed: str | None = None) -> list[str]:
    """Functions of a room: those that need the package `needed`, or those that need none."""
    return [name for name in FUNCTIONS if name.startswith(f"{room}.") and table.NEEDS.get(name) == needed]


def row(name: str) -> dict[str, Any]:
    room, function = name.split(".")
    make = table.ROWS.get(room, {}).get(function)
    return {} if make is None else make()


def call(name: str, given: dict[str, Any]) -> Any:
    function = FUNCTIONS[name]
    given = dict(given)
    more = given.pop(table.LATER, ())
    if not more:
        made = function(**given)
    else:
        leading = [
            given.pop(n) for n, p in inspect.signature(function).parameters.items() if n in given and p.kind == 1
        ]
        made = function(*leading, *more, **given)
    return list(made) if inspect.isgenerator(made) else made


@functools.cache
def arguments(name: str) -> dict[str, tuple[inspect.Parameter | None, Any]]:
    """Each argument with its parameter (None: one of `**options`) and its right value."""
    parameters, given = inspect.signature(FUNCTIONS[name]).parameters, row(name)
    found: dict[str, tuple[inspect.Parameter | None, Any]] = {}
    for argument, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            if table.LATER in given:
                found[table.LATER] = (None, given[table.LATER][0])
        elif parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            found[argument] = (parameter, given.get(argument, parameter.default))
    return found | {n: (None, value) for n, value in given.items() if n not in found}


def with_value(name: str, argument: str, value: Any) -> dict[str, Any]:
    given = row(name)
    if argument == table.LATER:
        return {**given, argument: (value, *given[argument][1:])}
    return {**given, argument: value}


def cases(room: str, needed: str | None = None) -> Iterator[tuple[str, str, str]]:
    """(function, argument, value); a fixed share of the values, spread over them all, unless all are asked for."""
    for name in of_room(room, needed):
        for place, argument in enumerate(arguments(name)):
            for index, value in enumerate(VALUES):
                turn = zlib.crc32(f"{name} {place}".encode()) + index
                if ALL or turn % (len(VALUES) // SHARE) == 0:
                    yield name, argument, value


def attempt(name: str, argument: str, value: str) -> Outcome:
    kind, wrong = VALUES[value]
    parameter, right = arguments(name)[argument]
    case = f"{name}({argument}={value})"
    try:
        if wrong is Traced:
            jax.eval_shape(lambda x: _nothing(call(name, with_value(name, argument, x))), jnp.float32(0.5))
        else:
            call(name, with_value(name, argument, wrong))
    except (ValueError, TypeError) as error:
        said = str(error)
        is_python = type(error) is TypeError and re.search(
            "unexpected keyword argument|takes 0 positional arguments", said
        )
        if is_python or f"{name}.{argument}" in table.FOREIGN:
            return Outcome(case, "line", said)
        if LINE.match(said) and len(said) < LONGEST and "\n" not in said and not _is_jax(error):
            return Outcome(case, "line", said)
        is_ours = re.match(r"\w+: ", said) and type(error) is ValueError
        return Outcome(case, "formless" if is_ours else "raw", f"{type(error).__name__}: {said[:300]}")
    except Exception as error:
        return Outcome(case, "raw", f"{type(error).__name__}: {str(error)[:300]}")
    may = wrong_values.allowed(parameter, right) | table.MORE.get(f"{name}.{argument}", frozenset())
    return Outcome(case, "right" if kind in may else "taken", "")


def _nothing(made: Any) -> None:
    del made


def _is_jax(error: Exception) -> bool:
    return type(error).__module__.startswith("jax")


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where what is written goes, and what is read lies."""
    monkeypatch.chdir(tmp_path)
    table.write_files(tmp_path)
    return tmp_path


def test_every_public_function_has_a_right_call() -> None:
    rows = {f"{room}.{name}" for room, made in table.ROWS.items() for name in made}
    assert rows | table.NEEDS.keys() <= FUNCTIONS.keys()
    needing = {
        name
        for name, function in FUNCTIONS.items()
        if any(p.default is p.empty and p.kind in (1, 3) for p in inspect.signature(function).parameters.values())
    }
    assert needing <= rows, "add a row to arguments_table.ROWS"
    assert len(FUNCTIONS) > 230


OF_PACKAGES = sorted({(name.partition(".")[0], needed) for name, needed in table.NEEDS.items()})


@pytest.mark.parametrize(
    ("room", "needed"),
    [(room, None) for room in table.ROOMS]
    + [pytest.param(*case, marks=pytest.mark.needs(case[1])) for case in OF_PACKAGES],
)
@pytest.mark.filterwarnings("ignore")
def test_right_calls_work_and_wrong_ones_get_a_line(room: str, needed: str | None, folder: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    for name in of_room(room, needed):
        call(name, row(name))
    outcomes = [attempt(*case) for case in cases(room, needed)]
    plt.close("all")
    wrong = [outcome for outcome in outcomes if outcome.kind not in ("line", "right")]
    assert not wrong, "\n" + "\n".join(f"{outcome.case}: {outcome.kind} {outcome.said}" for outcome in wrong)


def test_every_value_and_every_argument_has_its_turn() -> None:
    tried = list(cases("clocks"))
    assert {value for _, _, value in tried} == set(VALUES)
    arguments_tried = {(name, argument) for name, argument, _ in tried}
    assert arguments_tried == {(name, argument) for name in of_room("clocks") for argument in arguments(name)}
    assert len(tried) >= SHARE * len(arguments_tried)
