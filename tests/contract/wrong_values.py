"""Values that do not belong, each of a kind, and which kinds an argument may take."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import numpy as np

from dlsim.core import Record

Traced = object()  # in place of a tracer, which lives in a traced function alone

# name: (kind, value)
VALUES: dict[str, tuple[str, Any]] = {
    "None": ("none", None),
    "text": ("text", "abc"),
    "no text": ("text", ""),
    "mapping": ("mapping", {}),
    "empty": ("sequence", []),
    "ragged": ("sequence", [[1.0], [2.0, 3.0]]),
    "names": ("sequence", ["a", "b"]),
    "object": ("object", object()),
    "function": ("function", lambda: 0),
    "class": ("object", Record),
    "noun": ("noun", Record()),
    "True": ("flag", True),
    "nan": ("nan", float("nan")),
    "inf": ("inf", float("inf")),
    "half": ("number", 0.5),
    "-1": ("integer", -1),
    "0": ("integer", 0),
    "10**12": ("huge", 10**12),
    "array": ("array", np.array([1, 2])),
    "nan array": ("array", np.array([np.nan, 1.0])),
    "objects": ("objects", np.array([object(), None])),
    "complex": ("object", 1j),
    "key": ("key", jax.random.key(7)),
    "tracer": ("tracer", Traced),
}

NUMBERS = frozenset({"number", "integer", "huge", "inf"})
# What an annotation lets pass, by its words; "nan" and "object" never are what anybody asks for.
KINDS: dict[str, frozenset[str]] = {
    "bool": frozenset({"flag"}),
    "int": frozenset({"integer"}),
    "float": NUMBERS | {"tracer"},
    "str": frozenset({"text"}),
    "None": frozenset({"none"}),
    "Sequence": frozenset({"sequence", "array", "noun"}),
    "tuple": frozenset({"sequence", "array", "noun"}),
    "Mapping": frozenset({"mapping"}),
    "dict": frozenset({"mapping"}),
    "ndarray": frozenset({"sequence", "array", "tracer"}) | NUMBERS,
    "Array": frozenset({"sequence", "array", "key", "tracer"}) | NUMBERS,
    "PyTree": frozenset({"sequence", "array", "mapping", "noun", "tracer"}) | NUMBERS,
    "Fn": frozenset({"function", "object"}),
    "Callable": frozenset({"function", "object"}),
    "Damping": frozenset({"function", "object"}),
    "Path": frozenset({"text"}),
    "PathLike": frozenset({"text"}),
    "Weights": frozenset({"text"}),
}
EVERYTHING = frozenset(kind for kind, _ in VALUES.values())


def allowed(parameter: inspect.Parameter | None, right: Any) -> frozenset[str]:
    """The kinds that an argument may take: by its annotation, or by what is right where that says `Any`."""
    annotation = "Any" if parameter is None or parameter.annotation is inspect._empty else str(parameter.annotation)
    known: set[str] = set()
    for word in annotation.replace("[", "|").replace("]", "|").replace(",", "|").split("|"):
        name = word.strip().split(".")[-1]
        if name == "Any" and annotation.strip() in ("Any", "Any | None"):
            known |= like(right)
        elif name.endswith("Fn"):
            known |= KINDS["Fn"]
        known |= KINDS.get(name, frozenset())
    return frozenset(known)


def like(right: Any) -> frozenset[str]:
    """What may stand in place of a right value whose annotation says nothing."""
    if right is None:
        return EVERYTHING - {"nan"}
    if isinstance(right, bool):
        return KINDS["bool"]
    if isinstance(right, str):
        return KINDS["str"]
    if isinstance(right, float | int | np.generic):
        return NUMBERS | {"array", "tracer"}
    if isinstance(right, np.ndarray | jax.Array):
        return KINDS["Array"] | NUMBERS
    if isinstance(right, list | tuple) and type(right) in (list, tuple):
        return KINDS["Sequence"] | {"tracer"}
    return frozenset({"function"}) if callable(right) else frozenset()
