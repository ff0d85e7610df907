"""What a process is, as plain values that every interpreter gives alike: its programs, the numbers in them, its arrays.

A checkpoint keeps it, so that a run does not go on with what another one left: with another learning rate (a number of
the program), another partition or graph (an array), another model or method (the program itself).  Nothing in it is an
address, the order of a set, or a place on a device.  Functions of the host that a program calls count by their code and
by the plain values that they close over.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from types import CodeType
from typing import Any, NamedTuple

import jax
import numpy as np

from dlsim.running.jaxpr_text import Walk, content
from dlsim.version import __version__

MOST_NUMBERS = 1000  # of a program that are kept one by one, to say which of them differs
PARTS = ("init", "step", "measure", "read", "write")  # the last two of a phase, where there is one
A_NUMBER = "a number in the program"  # how a difference begins that no version of anything explains
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))


class Named(NamedTuple):
    """An array of a process."""

    part: str  # which function uses it
    array: Any
    name: str = ""  # where it is, as far as that is known


def identity(parts: dict[str, Any], arrays: list[Named]) -> dict[str, Any]:
    """The identity of a process whose functions are these closed jaxprs, by name, and use these arrays."""
    known: dict[int, str] = {}  # a data set is used by several functions, and is hashed once
    found = []
    for one in arrays:
        if id(one.array) not in known:
            known[id(one.array)] = hashlib.sha256(content(one.array).encode()).hexdigest()[:32]
        shape = f"{one.array.dtype}{list(np.shape(one.array))}"
        found.append([one.part, shape, one.name, known[id(one.array)]])
    return {
        "made_with": made_with(),
        "program": {name: _program(closed) for name, closed in parts.items()},
        "arrays": found,
    }


def made_with() -> dict[str, str]:
    """What the text of a program depends on, beside the process."""
    return {
        "dlsim": __version__,
        "jax": jax.__version__,
        "python": f"{sys.version_info.major}.{sys.version_info.minor} {platform.python_implementation()}",
        "platform": jax.default_backend(),
    }


def difference(held: dict[str, Any], mine: dict[str, Any]) -> str:
    """The first thing in which two processes differ, as `<what> <theirs>, not <mine>`; empty if they are the same."""
    if held.get("phase") != mine.get("phase"):
        return "another phase on the host"
    names = [name for name in PARTS if name in held["program"] or name in mine["program"]]
    programs = [(name, held["program"].get(name), mine["program"].get(name)) for name in names]
    same_form = all(theirs and ours and theirs["form"] == ours["form"] for _, theirs, ours in programs)
    for name, theirs, ours in programs if same_form else ():
        if theirs["exact"] != ours["exact"]:
            pairs = zip(theirs["numbers"], ours["numbers"], strict=False)
            first = next((pair for pair in pairs if pair[0] != pair[1]), None)
            return (
                f"{A_NUMBER} of {name} other" if first is None else f"{A_NUMBER} of {name} {first[0]}, not {first[1]}"
            )
    if held.get("tape") != mine.get("tape"):
        return "another tape of events (clocks or links)"
    for (part, shape, name, digest), (_, other_shape, _, other_digest) in zip(
        held["arrays"], mine["arrays"], strict=False
    ):
        what = f"{name or 'an array'} of {part}"
        if shape != other_shape:
            return f"{what} {shape}, not {other_shape}"
        if digest != other_digest:
            return f"other values in {what} {shape}"
    different = next((name for name, theirs, ours in programs if theirs != ours), None)
    if different is not None:
        return f"another program of {different} (method, model, graph or options)"
    return "" if len(held["arrays"]) == len(mine["arrays"]) else "other arrays"


def versions_apart(held: dict[str, Any], mine: dict[str, Any]) -> str:
    """In what the two were made with different versions, in which one process may have two programs; empty: in none."""
    theirs, ours = held.get("made_with", {}), mine["made_with"]
    apart = [f"{name} {theirs.get(name)}, not {ours[name]}" for name in ours if theirs.get(name) != ours[name]]
    return " and ".join(apart)


def of_tree(tree: Any) -> str:
    """Digest of the arrays of a tree."""
    leaves = [content(leaf) for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256("\n".join(leaves).encode()).hexdigest()[:32]


def of_phase(phase: Any) -> dict[str, Any]:
    """What of a process's phase its programs do not tell: when it is, and what the host does."""
    return {} if phase is None else {"phase": f"every {phase.every} steps: {_of_host(phase.work)}"}


def _program(closed: Any) -> dict[str, Any]:
    numbers: list[str] = []
    exact = hashlib.sha256()

    def number(value: Any) -> str:
        array = np.asarray(value)
        exact.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        if len(numbers) < MOST_NUMBERS:
            numbers.append(str(array[()]) if array.ndim == 0 else content(array)[:40])
        return "number"

    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):  # arrays inside of other objects, in full
        text = Walk(opaque=_of_host, number=number).jaxpr(closed.jaxpr)
    return {"form": hashlib.sha256(text.encode()).hexdigest(), "exact": exact.hexdigest(), "numbers": numbers}


def _of_host(value: Any) -> str:
    """A function of the host by its name, code and what plain values it closes over; another object by its class."""
    function = getattr(value, "__func__", value)
    function = getattr(function, "func", function)  # a partial's
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return f"{type(value).__module__}.{type(value).__qualname__}"
    cells = [_plain(_cell(cell)) for cell in getattr(function, "__closure__", None) or ()]
    given = [_plain(one) for one in (getattr(value, "args", ()), function.__defaults__ or ())]
    name = f"{function.__module__}.{function.__qualname__}"
    return f"{name} {hashlib.sha256(_of_code(code).encode()).hexdigest()} {cells} {given}"


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _plain(value: Any) -> str:
    """A value that cannot change by its contents, any other one by its class: a cache fills, and a counter counts."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, tuple):
        return f"({','.join(_plain(item) for item in value)})"
    return content(value) if isinstance(value, jax.Array) else type(value).__qualname__


def _of_code(code: CodeType) -> str:
    constants = [_of_code(one) if isinstance(one, CodeType) else _constant(one) for one in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _constant(value: Any) -> str:
    return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
