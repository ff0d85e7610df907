"""Arguments are what the annotations of their function say: a network where a Network belongs, True or False for a bool.

Annotations are read as they are written, so that what is imported for the type checker alone is known by its name.  Bounds
and what else a function asks of its arguments, it checks itself.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from dlsim.checks import values

F = TypeVar("F", bound=Callable[..., Any])


class Kind(NamedTuple):
    """What one annotation lets pass."""

    words: str
    holds: Callable[[Any], bool]
    fix: str = ""


def typed(fn: F) -> F:
    """The function, its arguments checked against its annotations first.

    bool, int, float (any real number that is not NaN), str, None, paths, arrays, sequences, mappings, functions and
    classes are known, and unions of them; a tracer passes for a number or an array.  `Any`, trees and names of aliases
    (such as those that end in `Fn`) say nothing.  A default passes.  An argument `where` names who is to blame.
    """
    signature = inspect.signature(fn)
    has_where = "where" in signature.parameters

    @functools.cache
    def kinds() -> dict[str, Kind]:
        scope = getattr(fn, "__globals__", {})
        named = {name: _kind_of(parameter, scope) for name, parameter in signature.parameters.items()}
        return {name: kind for name, kind in named.items() if kind is not None}

    @functools.wraps(fn)
    def checked(*args: Any, **options: Any) -> Any:
        try:
            given = signature.bind(*args, **options).arguments
        except TypeError:
            given = {}  # Python says it better, below
        for name, kind in kinds().items():
            if name in given and given[name] is not signature.parameters[name].default and not kind.holds(given[name]):
                where = given.get("where") if has_where else None
                values.fail(where or fn.__name__, name, kind.words, values.describe(given[name]), kind.fix)
        return fn(*args, **options)

    return checked  # type: ignore[return-value]


OPEN = ("Any", "PyTree", "State", "Info", "Weights", "Damping", "type", "object")  # aliases, and what may be anything
FIXES = {
    "Channel": "Pass e.g. dlsim.networks.loss(0.1).",
    "Clock": "Pass e.g. dlsim.clocks.poisson(1.0).",
    "Environment": "Call its factory first.",
    "Network": "Pass e.g. dlsim.networks.ring(8).",
    "Problem": "Pass e.g. dlsim.problems.quadratic(8, 3).",
    "Tape": "Make it with dlsim.clocks.make_tape.",
    "Waves": "Make them with dlsim.clocks.make_waves.",
    "xarray.Dataset": "Pass what dlsim.sweep returned.",
}


def _kind_of(parameter: inspect.Parameter, scope: Mapping[str, Any]) -> Kind | None:
    if parameter.annotation is parameter.empty or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return None
    if parameter.name == "key" and str(parameter.annotation).startswith("Array"):
        return Kind("one key of random numbers", values.is_key, "Pass e.g. jax.random.key(0).")
    return _kind(ast.parse(str(parameter.annotation), mode="eval").body, scope)


def _kind(node: ast.expr, scope: Mapping[str, Any]) -> Kind | None:
    """What an annotation asks; None: nothing.  `scope` has the names that it may use, those of the type checker left out."""
    if isinstance(node, ast.BinOp):
        first, second = _kind(node.left, scope), _kind(node.right, scope)
        return None if first is None or second is None else _either(first, second)
    if isinstance(node, ast.Constant):
        return Kind("None", lambda value: value is None) if node.value is None else None
    entries: list[ast.expr] = []
    if isinstance(node, ast.Subscript):
        entries = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        node = node.value
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else "Any"
    if name in ("Sequence", "Iterable", "tuple", "list"):
        return _sequence(_kind(entries[0], scope) if entries else None)
    if name in OPEN or name.endswith("Fn"):
        return None
    return PLAIN.get(name) or _of_class(name, ast.unparse(node), scope.get(name))


def _either(first: Kind, second: Kind) -> Kind:
    if "number" in first.words and "number" in second.words:
        first = first._replace(words="a number")
        return Kind(second.words, lambda value: first.holds(value) or second.holds(value))
    words = f"{first.words} or {second.words}".replace(" or ", ", ", first.words.count(" or "))
    return Kind(words, lambda value: first.holds(value) or second.holds(value), first.fix or second.fix)


def _sequence(entry: Kind | None) -> Kind:
    def holds(value: Any) -> bool:
        if isinstance(value, str | bytes | Mapping | jax.core.Tracer) or not np.iterable(value):
            return False
        # What can be gone through only once is left for the function.
        is_kept = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype != object)
        return entry is None or not is_kept or all(map(entry.holds, value))

    return Kind("a sequence" if entry is None else f"a sequence, each {entry.words}", holds)


def _of_class(name: str, dotted: str, known: Any) -> Kind:
    """Instances of a class; of one that is imported for the type checker alone, by its name and that of its package."""
    package = dotted.split(".")[0] if "." in dotted else ""

    def holds(value: Any) -> bool:
        if isinstance(known, type):
            return isinstance(value, known)
        return any(one.__name__ == name and one.__module__.startswith(package) for one in type(value).__mro__)

    return Kind(f"{'an' if name[0] in 'AEIOU' else 'a'} {name}", holds, FIXES.get(dotted, ""))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if isinstance(value, jax.core.Tracer):
        return value.shape == () and values.is_real_type(value.dtype)
    x = values.real(value)
    return x is not None and x == x


def _is_array(value: Any) -> bool:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return value.dtype != object
    if not isinstance(value, list | tuple) or hasattr(value, "_fields"):
        return _is_number(value)
    try:
        return np.asarray(value).dtype.kind in "biufc"
    except Exception:  # ragged rows, or an object whose own conversion fails
        return False


_ARRAY = Kind("a number or an array of numbers", _is_array)
_PATH = Kind("a path", lambda value: isinstance(value, str | os.PathLike))
_MAPPING = Kind("a mapping", lambda value: isinstance(value, Mapping))
PLAIN = {
    "bool": Kind("True or False", _is_flag),
    "int": Kind("an integer", _is_integer),
    "float": Kind("a finite number", _is_number),
    "str": Kind("a string", lambda value: isinstance(value, str)),
    "Array": _ARRAY,
    "ndarray": _ARRAY,
    "Path": _PATH,
    "PathLike": _PATH,
    "Mapping": _MAPPING,
    "dict": _MAPPING,
    "Callable": Kind("a function", callable),
    "GradientTransformation": Kind("an optax.GradientTransformation", values.is_optimizer, "Pass e.g. optax.sgd(0.1)."),
}
