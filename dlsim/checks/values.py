"""One clear line for bad input: `<where>: <argument> must be <rule>, got <value>. <fix>`.

Shape and type checks always run; value checks are skipped for tracers, whose values are not known while tracing.
`where` is the function that the user called, `argument` the name of what was bad, `fix` what to do, ready to paste.
Bounds `minimum` and `maximum` are part of what is allowed, unless `open_minimum` or `open_maximum`; None: no bound.  `kind`
is the type wanted.  Any Python object may be tried: what it is not is said, and what is long is cut.
"""

from __future__ import annotations

import difflib
import itertools
import numbers
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import jax
import numpy as np

MOST_SEEDS = 100_000  # of one call: each is a run with records of its own
MOST_STEPS = 2**31 - 1  # steps are counted in int32 inside a program
LARGEST_SEED = 2**32 - 1  # keys are made of 32 bits: a larger seed would repeat a smaller one
LARGEST_INTEGER = 2**31 - 1  # ids, positions and steps are int32 on the device
LONGEST_VALUE = 160  # characters of a value in a line
MOST_ENTRIES = 8  # of a small array, which is written out
MOST_NAMES = 30  # that a line lists


def fail(where: str, argument: str, rule: str, got: Any, fix: str = "") -> NoReturn:
    """Raise the one line; what was got is cut where it is long."""
    line = f"{where}: {_cut(argument)} must be {rule}, got {_cut(got)}." + (f" {fix}" if fix else "")
    raise ValueError(line)


def describe(value: Any) -> str:
    """What was given, in a few words: numbers, names and small containers as they are written, others by their type."""
    return _cut(_SHORT.repr(value))


def _cut(value: Any) -> str:
    """One line of at most `LONGEST_VALUE` characters."""
    text = value if isinstance(value, str) else describe(value)
    text = " ".join(text.split()) if "\n" in text else text
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE - 40]} ... {text[-35:]}"


class _Short(reprlib.Repr):
    """`repr`, cut at every level, of objects that may have none."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 3, 60, 40, 60
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 6

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, jax.core.Tracer):
            return "a tracer"
        if isinstance(x, np.generic):
            return self.repr1(x.item(), level) if x.dtype.kind in "biufcSU" else type(x).__name__
        if isinstance(x, np.ndarray | jax.Array):
            return _array_text(x)
        if isinstance(x, int) and not isinstance(x, bool) and abs(x) >= 10**self.maxlong:
            return f"an integer of {x.bit_length()} bits"
        if x is None or x is Ellipsis or isinstance(x, bool | int | float | complex | str | bytes):
            return super().repr1(x, level)
        if type(x) in (list, tuple, dict, set, frozenset):
            return super().repr1(x, level)
        name = getattr(x, "__name__", None)
        return f"{type(x).__name__} {name}" if isinstance(name, str) else type(x).__name__


_SHORT = _Short()


def _array_text(value: Any) -> str:
    is_plain = value.dtype != object and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)
    if is_plain and value.size <= MOST_ENTRIES:
        return f"array {np.asarray(value).tolist()}"
    return f"an array of shape {list(value.shape)}, {value.dtype}"


def is_concrete(value: Any) -> bool:
    """Whether the value is known now (not a tracer, in any leaf)."""
    try:
        leaves = jax.tree.leaves(value)
    except (TypeError, ValueError):  # dicts whose keys have no order are no trees
        leaves = list(value.values()) if isinstance(value, Mapping) else [value]
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def known(where: str, argument: str, value: Any, rule: str = "a known number", fix: str = "") -> None:
    """What the host computes with cannot be a tracer."""
    if not is_concrete(value):
        fail(where, argument, rule, "a tracer", fix)


def flag(where: str, argument: str, value: Any) -> bool:
    """True or False, and nothing that is merely true in an `if`."""
    if not isinstance(value, bool | np.bool_):
        fail(where, argument, "True or False", describe(value))
    return bool(value)


def integer(
    where: str,
    argument: str,
    value: Any,
    minimum: int | None = None,
    maximum: int | None = None,
    limit: int = LARGEST_INTEGER,
) -> int:
    """An int (bools are not), within bounds and, where no maximum is given, up to `limit`; NumPy integers become ints."""
    bounds = _bounds(minimum, maximum)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        fail(where, argument, f"an integer{bounds}", describe(value))
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        fail(where, argument, f"an integer{bounds}", describe(value))
    if maximum is None and abs(int(value)) > limit:
        fail(where, argument, f"an integer{_bounds(-limit if minimum is None else minimum, limit)}", describe(value))
    return int(value)


def integers(
    where: str,
    argument: str,
    values: Any,
    length: int | None = None,
    minimum: int | None = None,
    maximum: int | None = None,
) -> tuple[int, ...]:
    """A sequence of ints, say a shape, each within bounds; `length`: how many, None: any number."""
    rule = f"{'' if length is None else f'{length} '}integers{_bounds(minimum, maximum)}"
    items = sequence(where, argument, values, rule)
    if length is not None and len(items) != length:
        fail(where, argument, rule, describe(values))
    return tuple(integer(where, f"{argument}[{i}]", item, minimum, maximum) for i, item in enumerate(items))


def seed(where: str, value: Any) -> int:
    """A seed that a key of 32 bits can tell from others."""
    return integer(where, "seed", value, 0, limit=LARGEST_SEED)


def count(where: str, argument: str, value: Any, most: int) -> int:
    """A positive integer; what is too large is told from what is no number of things."""
    is_many = isinstance(value, int | np.integer) and value > most
    return integer(where, argument, value, 1, most if is_many else None)


def seeds(where: str, values: Iterable[Any]) -> list[int]:
    """One or more seeds, all different."""
    rule = "one or more distinct integers"
    number = len(values) if isinstance(values, range | list | tuple) else "more"
    items = sequence(where, "seed", values, rule, most=MOST_SEEDS + 1)  # never all of a range of millions
    if len(items) > MOST_SEEDS:
        fail(where, "seed", f"at most {MOST_SEEDS} distinct integers", number, "Run them in several calls.")
    checked = [seed(where, value) for value in items]
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
    if isinstance(value, jax.core.Tracer):
        if value.shape != () or not is_real_type(value.dtype):
            fail(where, argument, rule, f"a tracer of shape {list(value.shape)}, {value.dtype}")
        return value
    x = real(value)
    if x is None:
        fail(where, argument, rule, describe(value))
    low_bad = minimum is not None and (x <= minimum if open_minimum else x < minimum)
    high_bad = maximum is not None and (x >= maximum if open_maximum else x > maximum)
    if not np.isfinite(x) or low_bad or high_bad:
        fail(where, argument, rule, f"{x:g}")
    return value


def is_real_type(dtype: Any) -> bool:
    """Whether it is a type of real numbers, which bool is not."""
    return any(jax.dtypes.issubdtype(dtype, kind) for kind in (np.integer, np.floating))


def real(value: Any) -> float | None:
    """The value of a real scalar: a Python or NumPy number, or an array of shape `[]`; None: it is no such thing."""
    if isinstance(value, bool | str | bytes) or value is None:
        return None
    try:
        if not isinstance(value, numbers.Real):
            array = np.asarray(value)
            if array.shape != () or not is_real_type(array.dtype):
                return None
        return float(value)
    except OverflowError:
        return float("inf")
    except Exception:  # whatever an object of the user's says when it is taken for a number
        return None


def probability(where: str, argument: str, value: Any) -> Any:
    """A number in [0, 1], given back unchanged; a tracer passes on its type alone."""
    return number(where, argument, value, 0.0, 1.0)


def one_of(where: str, argument: str, value: Any, known: Iterable[str]) -> str:
    """A known name; the nearest known ones come first in the error."""
    names = list(known)
    if isinstance(value, str) and value in names:
        return value
    near = nearest(value, names)
    ordered = near + [name for name in names if name not in near]
    hint = meant(value, names)
    shown = ordered if len(ordered) <= MOST_NAMES else [*ordered[:MOST_NAMES], f"{len(ordered) - MOST_NAMES} more"]
    fail(where, argument, "one of " + ", ".join(shown), describe(value), hint)


def nearest(value: Any, names: Iterable[str], most: int = 3) -> list[str]:
    """The known names that are most like what was given, best first."""
    return difflib.get_close_matches(value, list(names), n=most, cutoff=0.4) if isinstance(value, str) else []


def meant(value: Any, names: Iterable[str]) -> str:
    """`Did you mean 'ring'?`, or nothing where no known name is like what was given."""
    near = nearest(value, names, 1)
    return f"Did you mean {near[0]!r}?" if near else ""


def text(where: str, argument: str, value: Any, rule: str = "a string") -> str:
    """A string."""
    if not isinstance(value, str):
        fail(where, argument, rule, describe(value))
    return value


def path(where: str, argument: str, value: Any, rule: str = "a path") -> str:
    """A path: a string that is not empty, or what is like a path; given as a string."""
    if not isinstance(value, str | os.PathLike):
        fail(where, argument, rule, describe(value))
    given = os.fspath(value)
    if not isinstance(given, str) or not given or "\0" in given:
        fail(where, argument, rule, repr(given))
    return given


def instance(where: str, argument: str, value: Any, kind: type | tuple[type, ...], fix: str = "") -> Any:
    """A value of this class, or of one of these, and not, say, its name or what makes one."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        named = [f"{'an' if one.__name__[0] in 'AEIOUaeiou' else 'a'} {one.__name__}" for one in kinds]
        fail(where, argument, " or ".join(named), describe(value), fix)
    return value


def function(where: str, argument: str, value: Any, rule: str = "a function", fix: str = "") -> Callable[..., Any]:
    """What can be called."""
    if not callable(value):
        fail(where, argument, rule, describe(value), fix)
    return value


def is_key(value: Any) -> bool:
    """Whether it is one key of random numbers: typed, as jax.random.key makes it, or the words of PRNGKey."""
    if not isinstance(value, jax.Array | np.ndarray):
        return False
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.shape == ()
    return value.dtype == np.uint32 and value.shape in ((2,), (4,))


def key(where: str, argument: str, value: Any) -> Any:
    """One key of random numbers, given back unchanged."""
    if not is_key(value):
        fail(where, argument, "one key of random numbers", describe(value), "Pass e.g. jax.random.key(0).")
    return value


def is_optimizer(value: Any) -> bool:
    """Whether it has the two functions of an optax.GradientTransformation."""
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def optimizer(where: str, argument: str, value: Any) -> Any:
    """An optax.GradientTransformation, or what has its two functions."""
    if not is_optimizer(value):
        fail(where, argument, "an optax.GradientTransformation", describe(value), "Pass e.g. optax.sgd(0.1).")
    return value


def sequence(
    where: str, argument: str, value: Any, rule: str = "a sequence", fix: str = "", most: int | None = None
) -> list[Any]:
    """The entries, up to `most`, of what can be gone through, which strings, mappings and tracers are not meant to be."""
    try:
        if not isinstance(value, str | bytes | Mapping | jax.core.Tracer):
            return list(itertools.islice(value, most))
    except Exception:  # no iterable, or one that fails on the way
        pass
    fail(where, argument, rule, describe(value), fix)


def array(
    where: str,
    argument: str,
    value: Any,
    expected: tuple[int | None, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    open_minimum: bool = False,
) -> Any:
    """An array of finite real numbers within bounds, on the host (NumPy), of this shape; a tracer is given back as it is.

    Names the first bad entry.  `expected` as in `shape`; None: any shape.
    """
    if isinstance(value, jax.core.Tracer):
        got: Any = value
    else:
        got = host(where, argument, value)
    if not is_real_type(got.dtype):
        fail(where, argument, "real numbers", _entry_of(value, got))
    if expected is not None:
        shape(where, argument, got, expected)
    if isinstance(got, jax.core.Tracer):
        return got
    bad = ~np.isfinite(got.astype(np.float64))
    if minimum is not None:
        bad |= ~(got > minimum if open_minimum else got >= minimum)
    if maximum is not None:
        bad |= ~(got <= maximum)
    if bad.any():
        position = tuple(int(i) for i in np.argwhere(bad)[0])
        name = f"{argument}[{', '.join(map(str, position))}]" if position else argument
        number(where, name, got[position].item(), minimum, maximum, open_minimum)
    return got


def host(where: str, argument: str, value: Any, rule: str = "numeric") -> np.ndarray:
    """What NumPy makes of it, where that is one array, known now: no tracer, no key and no ragged rows."""
    try:
        return np.asarray(value)
    except Exception:  # ragged rows, or an object whose own conversion fails
        is_rows = isinstance(value, list | tuple)
        fail(where, argument, rule, "ragged rows" if is_rows else describe(value))


def _entry_of(value: Any, made: np.ndarray) -> str:
    return describe(value) if made.dtype == object and made.ndim == 0 else f"dtype {made.dtype}"


def finite(where: str, argument: str, value: Any) -> Any:
    """An array without NaN or infinity; names the first bad position."""
    if not is_concrete(value):
        return value
    given = host(where, argument, value)
    if not (jax.dtypes.issubdtype(given.dtype, np.number) or given.dtype == bool):
        fail(where, argument, "numeric", _entry_of(value, given))
    if np.issubdtype(given.dtype, np.inexact) and not np.isfinite(given).all():
        position = tuple(int(i) for i in np.argwhere(~np.isfinite(given))[0])
        fail(where, argument, "finite", f"{given[position]} at index {position}", "Drop or impute those rows first.")
    return value


def shape(where: str, argument: str, value: Any, expected: tuple[int | None, ...]) -> None:
    """An array of this shape; None stands for any length."""
    pattern = "[" + ", ".join("*" if e is None else str(e) for e in expected) + "]"
    got = getattr(value, "shape", None)
    if not isinstance(got, tuple):
        got = host(where, argument, value, f"of shape {pattern}").shape
    if len(got) != len(expected) or any(e is not None and g != e for g, e in zip(got, expected, strict=True)):
        fail(where, argument, f"of shape {pattern}", str(list(got)))
