"""Axes, settings and the identity of a run: equal where the results are, different wherever they may not be."""

from __future__ import annotations

import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_sweeps import classification, quadratic, walk
from toys import environment

import dlsim
from dlsim.configs import load_experiment, make_config
from dlsim.sweeps.identity import code_of_function, describe
from dlsim.sweeps.source import from_experiment, from_function, parse_axes

SMALL = pathlib.Path(__file__).parent.parent / "small_experiment.py"
RECORD = dlsim.Record(every=2)


def identity(make, choice=None, seed=0, num_steps=4, record=RECORD):
    choice = choice or {}
    source = from_function(make, {name: [value] for name, value in choice.items()}, [seed], num_steps, record)
    return source.identity(source.choices[0], seed)


def of_file(path, axes=None, overrides=(), choice=0, seed=0):
    experiment = load_experiment(path)
    source = from_experiment(experiment, make_config(experiment, "tiny", overrides), axes, [seed])
    return source.identity(source.choices[choice], seed)


def test_choices_and_floats():
    source = from_function(walk, {"rate": [1, 0.5], "size": np.array([2, 3])}, [0], 4, None)
    assert source.floats == {"rate"} and source.axes == {"rate": [1.0, 0.5], "size": [2, 3]}
    assert [type(value) for value in source.axes["size"]] == [int, int]
    assert source.choices == [{"rate": r, "size": s} for r in (1.0, 0.5) for s in (2, 3)]
    whole = from_function(walk, {"rate": [1, 2]}, [0], 4, None)
    assert whole.floats == frozenset() and whole.axes["rate"] == [1, 2]


def test_settings_decide():
    base = identity(walk, {"rate": 0.5})
    assert base == identity(walk, {"rate": 0.5}) == identity(walk, {"rate": np.float64(0.5)})
    others = [
        identity(walk, {"rate": 0.5000000001}),
        identity(walk, {"scale": 0.5}),
        identity(walk, {"rate": 0.5}, seed=1),
        identity(walk, {"rate": 0.5}, num_steps=5),
        identity(walk, {"rate": 0.5}, record=dlsim.Record(every=3)),
        identity(walk, {"rate": 0.5}, record=dlsim.Record(every=2, fn=lambda state, info: {"x": state})),
        identity(quadratic, {"learning_rate": 0.5}),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_what_a_function_closes_over_decides():
    def over(value):
        return lambda rate: walk(rate) if value is None else None

    def made(value):
        return identity(over(value), {"rate": 0.5})

    def helper(shift):
        def inner(x):
            return x + shift

        return inner

    problems = [dlsim.problems.quadratic(5, 3, seed=seed) for seed in (0, 0, 1)]
    assert made(problems[0]) == made(problems[1]) != made(problems[2])
    assert made(np.arange(3)) == made(np.arange(3)) != made(np.arange(3) + 1)
    assert made(jax.random.key(0)) != made(jax.random.key(1))
    assert made(helper(1)) == made(helper(1)) != made(helper(2))
    assert made({"a": (1, [2.0])}) == made({"a": (1, [2.0])}) != made({"a": (1, [2.5])})
    assert made(functools.partial(helper, 1)) != made(functools.partial(helper, 2))
    assert made({"a", "b"}) == made({"b", "a"})
    assert made(jnp.sin) != made(jnp.cos)


class Maker:
    """A callable object."""

    def __init__(self, shift):
        self.shift = shift

    def __call__(self, rate):
        return walk(rate, scale=self.shift)


def test_callable_objects_and_lambdas_of_one_line():
    first, second = lambda rate: walk(rate, 1.0), lambda rate: walk(rate, 2.0)
    assert identity(first, {"rate": 0.5}) != identity(second, {"rate": 0.5})
    assert identity(Maker(1.0), {"rate": 0.5}) == identity(Maker(1.0), {"rate": 0.5})
    assert identity(Maker(1.0), {"rate": 0.5}) != identity(Maker(2.0), {"rate": 0.5})


def test_axis_values_that_are_functions_or_objects():
    assert describe((1, None, "a")) == [1, None, "a"]
    assert describe(jnp.sin) == describe(jnp.sin) != describe(jnp.cos)
    assert describe(lambda x: x + 1) == describe(lambda x: x + 1) != describe(lambda x: x + 2)
    recursive: list = [1]
    recursive.append(recursive)
    assert code_of_function(recursive) == code_of_function(recursive)


def test_identities_are_the_same_in_every_process():
    """Also with sets, whose order is drawn anew in each process, and with addresses."""
    code = (
        "import functools, jax.numpy as jnp, dlsim, test_source as t\n"
        "held = {'a', 'b', 'c', ('d', 1.5)}\n"
        "print(t.identity(t.classification, {'alpha': 0.5, 'model': 'mlp'}), t.describe([jnp.sin, t.Maker, held]), "
        "t.of_file(t.SMALL))"
    )
    here = str(pathlib.Path(__file__).parent)
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=here, env=environment(PYTHONHASHSEED="7"), capture_output=True, check=True
    ).stdout.decode()
    held = {"a", "b", "c", ("d", 1.5)}
    expected = (
        identity(classification, {"alpha": 0.5, "model": "mlp"}),
        describe([jnp.sin, Maker, held]),
        of_file(SMALL),
    )
    assert printed.split("\n")[0] == " ".join(str(one) for one in expected)


def test_what_of_a_file_decides(tmp_path):
    text, file = SMALL.read_text(), tmp_path / "small_experiment.py"

    def written(*changes):
        changed = text
        for old, new in changes:
            assert old in changed
            changed = changed.replace(old, new)
        file.write_text(changed)
        return of_file(file)

    base = written()
    figure = ("made, panels = plotting.panels(1, 1", "made, panels = plotting.panels(1, 2")
    claim = ("< 1e-6", "< 1e-5")
    comment = ("    return _slowed(process)", "    # said\n    return _slowed(process)")
    assert written(figure) == written(claim) == written(comment) == base
    assert written(("3, seed=0)", "3, seed=1)")) != base  # build
    assert written(("if not seconds:", "if seconds <= 0:")) != base  # what build calls
    assert written(("config.learning_rate = 0.1", "config.learning_rate = 0.2")) != base  # a setting


def test_modules_that_a_file_imports_decide(tmp_path):
    (tmp_path / "one.py").write_text(SMALL.read_text() + "\nimport user_parts_of_a_test as parts\n")
    sys.path.insert(0, str(tmp_path))
    try:
        found = []
        for number in (1, 1, 2):
            (tmp_path / "user_parts_of_a_test.py").write_text(f"SHIFT = {number}\n")
            sys.modules.pop("user_parts_of_a_test", None)
            import linecache

            linecache.clearcache()
            found.append(of_file(tmp_path / "one.py"))
        assert found[0] == found[1] != found[2]
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("user_parts_of_a_test", None)


def test_a_setting_and_an_axis_of_one_value_are_the_same_run():
    swept = of_file(SMALL, {"learning_rate": [0.1, 0.3], "topology": ["ring"]}, choice=1)
    set_ = of_file(SMALL, {"topology": ["ring"]}, ["learning_rate=0.3"])
    assert swept == set_ != of_file(SMALL, {"topology": ["ring"]})
    assert of_file(SMALL, overrides=["num_seeds=5"]) == of_file(SMALL)


def test_precision_decides():
    with jax.enable_x64(True):
        double = identity(walk, {"rate": 0.5})
    assert double != identity(walk, {"rate": 0.5})


def test_axes_of_the_command_line():
    known = {"rate": 0.1, "size": 3, "names": ("a", "b"), "deep.key": "x", "is_on": True, "other": None}
    words = ["rate=1,2e-1", "size=1,2", "names=c, 'd e'", "deep.key=y", "is_on=true,False", "other=1,None,z"]
    axes = parse_axes(words, known)
    assert axes == {
        "rate": [1.0, 0.2],
        "size": [1, 2],
        "names": ["c", "d e"],
        "deep.key": ["y"],
        "is_on": [True, False],
        "other": [1, None, "z"],
    }
    with pytest.raises(ValueError, match="--axis must be one of size, rate, .* got 'siz'. Did you mean 'size'\\?"):
        parse_axes(["siz=1"], known)
