"""Bad input gets one clear line; good input and tracers pass."""

import decimal
import fractions
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import algorithms, checks, networks


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: checks.integer("f", "n", 0, 1), "f: n must be an integer >= 1, got 0."),
        (lambda: checks.integer("f", "n", 9, 1, 5), "f: n must be an integer in [1, 5], got 9."),
        (lambda: checks.integer("f", "n", True), "f: n must be an integer, got True."),
        (lambda: checks.integer("f", "n", 2.0), "f: n must be an integer, got 2.0."),
        (lambda: checks.number("f", "x", -1, 0.0), "f: x must be a number in [0, inf), got -1."),
        (lambda: checks.number("f", "x", 0, 0, 1, open_minimum=True), "f: x must be a number in (0, 1], got 0."),
        (lambda: checks.number("f", "x", float("nan")), "f: x must be a finite number, got nan."),
        (lambda: checks.number("f", "x", "1"), "f: x must be a finite number, got '1'."),
        (lambda: checks.number("f", "x", None, 0.0), "f: x must be a number in [0, inf), got None."),
        (lambda: checks.probability("f", "p", 1.1), "f: p must be a number in [0, 1], got 1.1."),
        (
            lambda: checks.one_of("f", "name", "tours", ("ring", "torus")),
            "f: name must be one of torus, ring, got 'tours'. Did you mean 'torus'?",
        ),
        (
            lambda: checks.finite("f", "x", np.array([[1.0, np.nan]])),
            "f: x must be finite, got nan at index (0, 1). Drop or impute those rows first.",
        ),
        (lambda: checks.finite("f", "x", np.array(["a"])), "f: x must be numeric, got dtype <U1."),
        (lambda: checks.shape("f", "x", np.ones((2, 3)), (2, None, 1)), "f: x must be of shape [2, *, 1], got [2, 3]."),
        (lambda: checks.fail("f", "x", "y", 3, "Do z."), "f: x must be y, got 3. Do z."),
    ],
)
def test_one_line(call, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == line


def test_good_input_comes_back() -> None:
    assert checks.integer("f", "n", np.int64(3), 1) == 3
    assert checks.number("f", "x", 0.5, 0.0, 1.0) == 0.5
    assert checks.one_of("f", "name", "ring", ("ring",)) == "ring"
    checks.shape("f", "x", np.ones((2, 3)), (None, 3))


def test_tracers_pass_on_their_type() -> None:
    def traced(x: jax.Array) -> jax.Array:
        checks.probability("f", "p", x)
        checks.finite("f", "x", x)
        return x

    assert not bool(jnp.any(jax.jit(traced)(jnp.float32(7.0)) != 7))
    with pytest.raises(ValueError, match="f: p must be"):
        traced(jnp.float32(7.0))


class Hostile:
    """An object that fails whatever is asked of it."""

    __hash__ = None  # type: ignore[assignment]

    def _fails(self, *args: object) -> None:
        raise RuntimeError

    __repr__ = __array__ = __float__ = __iter__ = __len__ = __eq__ = __bool__ = _fails  # type: ignore[assignment]


HALF = fractions.Fraction(1, 2)
ANYTHING = [
    *(None, True, np.True_, "abc", b"x", "", {}, [], {1: 2, "a": 3}, {3, "a"}, object(), Hostile(), print, Hostile),
    *(float("nan"), float("inf"), 10**400, -1, 0, 10**12, 1 + 2j, HALF, decimal.Decimal(1), range(3), iter([1])),
    *(np.array([1, 2]), np.ones(3000), np.array("a"), np.array([object()]), np.datetime64("2020"), jnp.ones(3)),
    *(jax.random.key(0), jnp.array(3), [[1, 2], [3]], "a" * 4000, list(range(5000)), {"a": {"b": {"c": [[1]]}}}),
    *(jax.ShapeDtypeStruct((3,), "float32"), float, algorithms.dsgd, networks.ring(3)),
]
CHECKS = {
    "array": lambda value: checks.array("f", "x", value, (2,), 0, 1),
    "fail": lambda value: checks.fail("f", "x", "good", value),
    "finite": lambda value: checks.finite("f", "x", value),
    "flag": lambda value: checks.flag("f", "x", value),
    "function": lambda value: checks.function("f", "x", value),
    "instance": lambda value: checks.instance("f", "x", value, (dict, networks.Network)),
    "integer": lambda value: checks.integer("f", "x", value, 0),
    "integers": lambda value: checks.integers("f", "x", value, 2, 1),
    "key": lambda value: checks.key("f", "x", value),
    "known": lambda value: checks.known("f", "x", value),
    "number": lambda value: checks.number("f", "x", value, 0),
    "one_of": lambda value: checks.one_of("f", "x", value, ("a", "b")),
    "optimizer": lambda value: checks.optimizer("f", "x", value),
    "path": lambda value: checks.path("f", "x", value),
    "probability": lambda value: checks.probability("f", "x", value),
    "seed": lambda value: checks.seed("f", value),
    "seeds": lambda value: checks.seeds("f", value),
    "sequence": lambda value: checks.sequence("f", "x", value),
    "shape": lambda value: checks.shape("f", "x", value, (3, None)),
    "text": lambda value: checks.text("f", "x", value),
}


@pytest.mark.parametrize("name", CHECKS)
def test_any_object_passes_or_gets_its_line(name: str) -> None:
    refused = 0
    for value in ANYTHING:
        try:
            CHECKS[name](value)
        except ValueError as error:
            refused += 1
            assert re.fullmatch(r"f: (x|seed)(\[\d+\])? must be .+, got .+", str(error)), str(error)
            assert len(str(error)) < 320
            assert "0x" not in str(error)
    assert refused > 0 or name == "known"


def test_what_passes_is_of_the_kind() -> None:
    """Which of the objects above each check lets through, by hand."""

    def passed(name: str) -> list:
        found = []
        for value in ANYTHING:
            try:
                CHECKS[name](value)
            except ValueError:
                continue
            found.append(value)
        return found

    assert passed("flag") == [True, np.True_]
    assert passed("integer") == [0]
    assert [list(value) for value in passed("integers")] == [[1, 2]]
    assert [value.shape for value in passed("key")] == [()]
    assert passed("probability") == [0, HALF]
    assert passed("number") == [0, 10**12, HALF, jnp.array(3)]
    assert passed("text") == ["abc", "", "a" * 4000]
    assert passed("path") == ["abc", "a" * 4000]
    assert passed("one_of") == []
    assert passed("optimizer") == []
    assert [type(value) for value in passed("instance")] == [dict] * 3 + [networks.Network]


def test_values_are_described_in_few_words() -> None:
    for value, text in {
        "np.float32(2)": (np.float32(2), "2.0"),
        "function": (len, "builtin_function_or_method len"),
        "long list": (list(range(900)), "[0, 1, 2, 3, 4, 5, ...]"),
        "small array": (np.array([1, 2]), "array [1, 2]"),
        "large array": (np.ones((30, 30)), "an array of shape [30, 30], float64"),
        "large integer": (2**400, "an integer of 401 bits"),
        "object": (object(), "object"),
        "key": (jax.random.key(0), "an array of shape [], key<fry>"),
    }.values():
        assert checks.describe(value) == text


def test_arrays_name_the_first_bad_entry() -> None:
    for value, line in (
        ([0.5, -1.0, -2.0], "f: x[1] must be a number in [0, 1], got -1."),
        ([[0.5, np.nan]], "f: x[0, 1] must be a number in [0, 1], got nan."),
        (7, "f: x must be a number in [0, 1], got 7."),
        (["a"], "f: x must be real numbers, got dtype <U1."),
        ([[1], [1, 2]], "f: x must be numeric, got ragged rows."),
    ):
        with pytest.raises(ValueError) as caught:
            checks.array("f", "x", value, minimum=0, maximum=1)
        assert str(caught.value) == line
    np.testing.assert_array_equal(checks.array("f", "x", [0, 1], (None,), 0, 1), [0, 1])


def test_whole_numbers_fit_the_device() -> None:
    assert checks.integer("f", "n", 2**31 - 1, 1) == 2**31 - 1
    with pytest.raises(ValueError, match=r"f: n must be an integer in \[1, 2147483647\], got 1000000000000"):
        checks.integer("f", "n", 10**12, 1)
    assert checks.integer("f", "n", 10**12, 1, 10**13) == 10**12
    assert checks.seed("f", 2**32 - 1) == 2**32 - 1
    with pytest.raises(ValueError, match=r"f: seed must be an integer in \[0, 4294967295\], got 4294967296"):
        checks.seed("f", 2**32)


def test_tracers_of_another_shape_or_kind_are_no_numbers() -> None:
    for value in (jnp.ones(3), jnp.array(True), jnp.array(1j)):
        with pytest.raises(ValueError, match="f: x must be a finite number, got a tracer of shape"):
            jax.jit(lambda x: checks.number("f", "x", x))(value)
