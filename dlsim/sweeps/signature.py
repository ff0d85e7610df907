"""The signature of a program: equal for runs that differ in data alone.

Two traced processes share their programs when the same primitives are applied in the same order to arrays of the same
shapes, with the same literals.  What a process closes over is data and counts by shape; what a jitted function inside
it has baked in is part of the program and counts by content.  A function of the host, or any other object that cannot
be read, is the same only as itself: rather a program too many than two programs taken for one.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from dlsim.running.programs import Traced

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")
# What a traced program never calls again: rules of derivatives, and the function that a jaxpr beside it was made of.
_SPENT = {"jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "policy", "computation", "out_trees"}


def signature(traced: Traced) -> str:
    """Digest of the three functions of a process; to compare while the processes are alive."""
    digest = hashlib.sha256()
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):  # arrays inside of other objects, in full
        for part in traced.parts:
            digest.update(_Walk().jaxpr(part.closed.jaxpr).encode())
            digest.update(str(jax.tree.structure(part.shapes)).encode())
    return digest.hexdigest()


def content(leaf: Any) -> str:
    """Digest of an array's shape, type and values."""
    return _of_array(leaf)


class _Walk:
    """A jaxpr as text in which variables are numbered by their first appearance."""

    def __init__(self) -> None:
        self._names: dict[Any, int] = {}
        self._known: dict[int, str] = {}

    def jaxpr(self, jaxpr: Jaxpr) -> str:
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
            return f"literal({_of_array(variable.val)} {variable.aval})"
        number = self._names.setdefault(variable, len(self._names))
        return f"{number}:{variable.aval}"

    def _param(self, value: Any) -> str:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            return self._inner(value)
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{key}:{self._param(item)}" for key, item in value.items()) + "}"
        if isinstance(value, tuple | list):
            return f"{type(value).__name__}(" + ",".join(self._param(item) for item in value) + ")"
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return _of_array(value)
        if hasattr(value, "callback_func"):  # wrapped anew at each trace
            return f"{type(value).__name__} {id(value.callback_func)} {value.in_tree}"
        text = str(value)
        if (callable(value) and not isinstance(value, type)) or _ADDRESS.search(text):
            return f"{_ADDRESS.sub('', text)} {id(value)}"
        return text

    def _inner(self, value: Any) -> str:
        """An inner jaxpr, walked once however often it is called."""
        if id(value) not in self._known:
            closed = isinstance(value, ClosedJaxpr)
            text = _Walk().jaxpr(value.jaxpr if closed else value)
            baked = [_of_array(leaf) for leaf in value.consts] if closed else []
            self._known[id(value)] = hashlib.sha256("\n".join([text, *baked]).encode()).hexdigest()
        return self._known[id(value)]


def _is_spent(name: str, value: Any) -> bool:
    """Whether a parameter adds nothing to those beside it; a rule of `one_at_a_time` is made of the call it rules."""
    return name in _SPENT or getattr(value, "follows_call", False)


def _of_array(leaf: Any) -> str:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.ascontiguousarray(leaf)
    return f"{array.dtype}{array.shape}{hashlib.sha256(array.reshape(-1).view(np.uint8).tobytes()).hexdigest()}"
