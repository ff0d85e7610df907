"""What can be read off a traced function: what it calls, by what it draws, and what it depends on."""

from __future__ import annotations

from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from dlsim.running.jaxpr_text import Walk, content


def primitives(jaxpr: Jaxpr) -> set[str]:
    """The primitives of a jaxpr and of those inside it."""
    found = {equation.primitive.name for equation in jaxpr.eqns}
    return found.union(*(primitives(inner) for equation in jaxpr.eqns for inner in within(equation)))


def within(equation: Any) -> list[Jaxpr]:
    """The jaxprs that an equation calls."""
    values = [one for value in equation.params.values() for one in (value if isinstance(value, tuple) else (value,))]
    return [
        one.jaxpr if isinstance(one, ClosedJaxpr) else one for one in values if isinstance(one, ClosedJaxpr | Jaxpr)
    ]


def draws_alone(jaxpr: Jaxpr, given: list[bool]) -> bool:
    """Whether a draw is by a key that no argument has a part in; `given`: which of the arguments count."""
    known = {one for one, counts in zip(jaxpr.invars, given, strict=True) if counts}
    for equation in jaxpr.eqns:
        operands = [not isinstance(one, Literal) and one in known for one in equation.invars]
        if equation.primitive.name == "random_bits" and not operands[0]:
            return True
        passed = operands[1:] if equation.primitive.name == "cond" else operands
        for inner in within(equation):
            is_plain = len(inner.invars) == len(passed)
            if draws_alone(inner, passed if is_plain else [True] * len(inner.invars)):
                return True
        if any(operands):
            known.update(equation.outvars)
    return False


def uses_first(jaxpr: Jaxpr) -> bool:
    """Whether anything that comes out depends on the first argument."""
    needed = {one for one in jaxpr.outvars if not isinstance(one, Literal)}
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(one for one in equation.invars if not isinstance(one, Literal))
    return jaxpr.invars[0] in needed


def text(closed: ClosedJaxpr) -> str:
    """What a traced function does, its constants included, as text that can be compared."""
    return "\n".join([Walk(lambda value: "").jaxpr(closed.jaxpr), *map(content, closed.consts)])
