"""One clear line for bad input: `<where>: <argument> must be <rule>, got <value>. <fix>`.

Shape and type checks always run; value checks are skipped for tracers, whose values are not known while tracing.
`where` is the function that the user called, `argument` the name of what was bad, `fix` what to do, ready to paste.
Bounds `minimum` and `maximum` are part of what is allowed, unless `open_minimum` or `open_maximum`; None: no bound.  `kind`
is the type wanted.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Sized
from typing import Any, NoReturn

import jax
import numpy as np

MOST_SEEDS = 100_000  # of one call: each is a run with records of its own
MOST_STEPS = 2**31 - 1  # steps are counted in int32 inside a program
LARGEST_SEED = 2**32 - 1  # keys are made of 32 bits: a larger seed would repeat a smaller one


def fail(where: str, argument: str, rule: str, got: Any, fix: str = "") -> NoReturn:
    """Raise the one line."""
    raise ValueError(f"{where}: {argument} must be {rule}, got {got}." + (f" {fix}" if fix else ""))


def is_concrete(value: Any) -> bool:
    """Whether the value is known now (not a tracer, in any leaf)."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def known(where: str, argument: str, value: Any, rule: str = "a known number", fix: str = "") -> None:
    """What the host computes with cannot be a tracer."""
    if not is_concrete(value):
        fail(where, argument, rule, "a tracer", fix)


def integer(where: str, argument: str, value: Any, minimum: int | None = None, maximum: int | None = None) -> int:
    """An int (bools are not), within bounds; NumPy integers become ints."""
    bounds = _bounds(minimum, maximum)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        fail(where, argument, f"an integer{bounds}", repr(value))
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        fail(where, argument, f"an integer{bounds}", int(value))
    return int(value)


def seed(where: str, value: Any) -> int:
    """A seed that a key of 32 bits can tell from others."""
    value = integer(where, "seed", value, 0)
    return value if value <= LARGEST_SEED else integer(where, "seed", value, 0, LARGEST_SEED)


def count(where: str, argument: str, value: Any, most: int) -> int:
    """A positive integer; what is too large is told from what is no number of things."""
    value = integer(where, argument, value, 1)
    return value if value <= most else integer(where, argument, value, 1, most)


def seeds(where: str, values: Iterable[Any]) -> list[int]:
    """One or more seeds, all different."""
    number = len(values) if isinstance(values, Sized) else None
    values = list(itertools.islice(values, MOST_SEEDS + 1))
    if len(values) > MOST_SEEDS:
        fail(where, "seed", f"at most {MOST_SEEDS} distinct integers", number or "more", "Run them in several calls.")
    checked = [seed(where, value) for value in values]
    if not checked or len(set(checked)) < len(checked):
        fail(where, "seed", "one or more distinct integers", str(checked))
    return checked


def _bounds(minimum: Any, maximum: Any) -> str:
    if minimum is not None and maximum is not None:
        return f" in [{minimum}, {maximum}]"
    if minimum is not None:
        return f" >= {minimum}"
    return f" <= {maximum}" if maximum is not None else ""


def number(
    where: str,
    argument: str,
    value: Any,
    minimum: float | None = None,
    maximum: float | None = None,
    open_minimum: bool = False,
    open_maximum: bool = False,
) -> Any:
    """A finite real scalar within bounds, given back unchanged; a tracer passes on its type alone."""
    left = "(" if open_minimum else "["
    right = ")" if open_maximum else "]"
    if minimum is None and maximum is None:
        rule = "a finite number"
    else:
        low = "-inf" if minimum is None else f"{minimum:g}"
        high = "inf" if maximum is None else f"{maximum:g}"
        rule = f"a number in {left if minimum is not None else '('}{low}, {high}{right if maximum is not None else ')'}"
    if not is_concrete(value):
        return value
    if isinstance(value, bool | str) or value is None or np.ndim(value) != 0 or not np.isrealobj(value):
        fail(where, argument, rule, repr(value))
    x = float(value)
    low_bad = minimum is not None and (x <= minimum if open_minimum else x < minimum)
    high_bad = maximum is not None and (x >= maximum if open_maximum else x > maximum)
    if not np.isfinite(x) or low_bad or high_bad:
        fail(where, argument, rule, f"{x:g}")
    return value


def probability(where: str, argument: str, value: Any) -> Any:
    """A number in [0, 1], given back unchanged; a tracer passes on its type alone."""
    return number(where, argument, value, 0.0, 1.0)


def one_of(where: str, argument: str, value: Any, known: Iterable[str]) -> str:
    """A known name; the nearest known ones come first in the error."""
    names = list(known)
    if value in names:
        return value
    nearest = difflib.get_close_matches(str(value), names, n=3, cutoff=0.4)
    ordered = nearest + [name for name in names if name not in nearest]
    hint = f"Did you mean {nearest[0]!r}?" if nearest else ""
    fail(where, argument, "one of " + ", ".join(ordered), repr(value), hint)


def instance(where: str, argument: str, value: Any, kind: type, fix: str = "") -> Any:
    """A value of this class, and not, say, its name or what makes one."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        fail(where, argument, f"{article} {kind.__name__}", _named(value), fix)
    return value


def optimizer(where: str, argument: str, value: Any) -> Any:
    """An optax.GradientTransformation, or what has its two functions."""
    if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        fail(where, argument, "an optax.GradientTransformation", _named(value), "Pass e.g. optax.sgd(0.1).")
    return value


def _named(value: Any) -> str:
    """What was given in place of another thing, briefly."""
    if isinstance(value, str | int | float) or value is None:
        return repr(value)
    name = getattr(value, "__name__", None)
    return f"{type(value).__name__} {name}" if isinstance(name, str) else type(value).__name__


def finite(where: str, argument: str, value: Any) -> Any:
    """An array without NaN or infinity; names the first bad position."""
    if not is_concrete(value):
        return value
    array = np.asarray(value)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        fail(where, argument, "numeric", f"dtype {array.dtype}")
    if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
        position = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        fail(where, argument, "finite", f"{array[position]} at index {position}", "Drop or impute those rows first.")
    return value


def shape(where: str, argument: str, value: Any, expected: tuple[int | None, ...]) -> None:
    """An array of this shape; None stands for any length."""
    got = tuple(np.shape(value))
    if len(got) != len(expected) or any(e is not None and g != e for g, e in zip(got, expected, strict=True)):
        pattern = "[" + ", ".join("*" if e is None else str(e) for e in expected) + "]"
        fail(where, argument, f"of shape {pattern}", str(list(got)))
