"""Traced programs as text: equal where the same primitives are applied in the same order to arrays of the same shapes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")
# What a traced program never calls again: rules of derivatives, and the function that a jaxpr beside it was made of.
_SPENT = {"jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "policy", "computation", "out_trees"}


def content(leaf: Any) -> str:
    """Digest of an array's shape, type and values."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array: Any = np.ascontiguousarray(leaf)
    return f"{array.dtype}{array.shape}{hashlib.sha256(array.reshape(-1).view(np.uint8)).hexdigest()}"


class Walk:
    """A jaxpr as text in which variables are numbered by their first appearance.

    Args:
      opaque: names what cannot be read: functions of the host, and other objects.
      number: says what stands for a literal in the text; default: its contents.
    """

    def __init__(self, opaque: Callable[[Any], str], number: Callable[[Any], str] = content) -> None:
        self._opaque, self._number = opaque, number
        self._names: dict[Any, int] = {}
        self._known: dict[int, str] = {}

    def jaxpr(self, jaxpr: Jaxpr) -> str:
        """The text of a jaxpr, without the values of its constants."""
        lines = [f"in {self._vars([*jaxpr.constvars, *jaxpr.invars])}"]
        for equation in jaxpr.eqns:
            named = sorted(equation.params.items())
            params = ",".join(f"{name}={self._param(value)}" for name, value in named if not _is_spent(name, value))
            heard = self._vars(equation.invars)
            lines.append(f"{self._vars(equation.outvars)} = {equation.primitive.name}[{params}] {heard}")
        lines.append(f"out {self._vars(jaxpr.outvars)}")
        return "\n".join(lines)

    def _vars(self, variables: Any) -> str:
        return " ".join(self._var(variable) for variable in variables)

    def _var(self, variable: Any) -> str:
        if isinstance(variable, Literal):
            return f"literal({self._number(variable.val)} {variable.aval})"
        number = self._names.setdefault(variable, len(self._names))
        return f"{number}:{variable.aval}"

    def _param(self, value: Any) -> str:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            return self._inner(value)
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{key}:{self._param(item)}" for key, item in value.items()) + "}"
        if isinstance(value, tuple | list):
            return f"{type(value).__name__}(" + ",".join(self._param(item) for item in value) + ")"
        if isinstance(value, set | frozenset):  # its order differs from process to process
            return f"{type(value).__name__}(" + ",".join(sorted(self._param(item) for item in value)) + ")"
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return content(value)
        if hasattr(value, "callback_func"):  # wrapped anew at each trace
            return f"{type(value).__name__} {self._opaque(value.callback_func)} {value.in_tree}"
        text = str(value)
        if (callable(value) and not isinstance(value, type)) or ADDRESS.search(text):
            return f"{ADDRESS.sub('', text)} {self._opaque(value)}"
        return text

    def _inner(self, value: Any) -> str:
        """An inner jaxpr, walked once however often it is called."""
        if id(value) not in self._known:
            closed = isinstance(value, ClosedJaxpr)
            walk = Walk(self._opaque, self._number)
            walk._known = self._known
            text = walk.jaxpr(value.jaxpr if closed else value)
            baked = [content(leaf) for leaf in value.consts] if closed else []
            self._known[id(value)] = hashlib.sha256("\n".join([text, *baked]).encode()).hexdigest()
        return self._known[id(value)]


def _is_spent(name: str, value: Any) -> bool:
    """Whether a parameter adds nothing to those beside it; a rule of `one_at_a_time` is made of the call it rules."""
    return name in _SPENT or getattr(value, "follows_call", False)
