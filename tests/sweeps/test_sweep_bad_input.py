"""Bad input of a sweep: one clear line, before anything is run or written, from Python and from the command line."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from tiny_sweeps import walk

import dlsim
from dlsim.studies.experiment import sweep_experiment
from dlsim.sweeps.api import make_options

SMALL = pathlib.Path(__file__).parent.parent / "small_experiment.py"


def one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


OF_A_FUNCTION = {
    "unknown axis": ({"rat": [1.0]}, {}, r"sweep: axis must be one of rate, .*, got 'rat'. Did you mean 'rate'"),
    "empty axis": ({"rate": []}, {}, r"sweep: axis rate must be one or more distinct values, got \[\]"),
    "value twice": ({"rate": [0.5, 0.5]}, {}, r"axis rate must be one or more distinct values, got \[0.5, 0.5\]"),
    "one float as two": ({"rate": [1, 1.0]}, {}, r"axis rate must be one or more distinct values"),
    "alike in content": ({"size": [(1, 2), [1, 2]]}, {}, r"axis size must be one or more distinct values"),
    "twice the same key": (
        {"rate": [0.5]},
        {"rate": [0.6]},
        r"axis rate must be given once, got twice. Name it in axes or",
    ),
    "no list": ({"rate": 0.5}, {}, r"axis rate must be a list of values, got 0.5. Write rate=\[...\]"),
    "a string": ({"size": "abc"}, {}, r"axis size must be a list of values, got 'abc'"),
    "a dict": ({"size": {2: 3}}, {}, r"axis size must be a list of values, got \{2: 3\}. Write size=\[...\]"),
    "a set, which has no order": ({"size": {2, 3}}, {}, r"axis size must be a list of values, got \{2, 3\}. Write"),
    "a function": ({"size": len}, {}, r"axis size must be a list of values, got builtin_function_or_method len. Write"),
    "an array without a length": ({"size": np.array(3)}, {}, r"axis size must be a list of values, got array 3. Write"),
    "bytes": ({"size": b"ab"}, {}, r"axis size must be a list of values, got b'ab'"),
    "a number for a name": ({3: [0.5]}, {}, r"sweep: axis must be a name, got 3\."),
    "pairs": ([("rate", [0.5])], {}, r"sweep: axes must be a mapping from names to lists of values, got \[\('rate'"),
    "no axes, but no mapping": (
        [],
        {},
        r"sweep: axes must be a mapping from names to lists of values, got \[\]\. Write e",
    ),
    "a function for axes": (len, {}, r"sweep: axes must be a mapping from names to lists .*, got builtin_function"),
    "no flag": ({}, {"common_topologies": "yes"}, r"sweep: common_topologies must be True or False, got 'yes'\."),
    "no workers": ({}, {"workers": 4}, r"sweep: workers must be None, a word such as ray:4, or workers, got 4\. See"),
    "unknown workers": ({}, {"workers": "rays:4"}, r"sweep: workers must be one of ray, .*Did you mean 'ray'"),
    "no folder": ({}, {"out": 5}, r"sweep: out must be a folder, or None, got 5\."),
    "a folder without a name": ({}, {"out": ""}, r"sweep: out must be a folder, or None, got ''\."),
    "no step that int32 holds": ({}, {"num_steps": 2**31}, r"sweep: num_steps must be an integer in \[1, 2147483647\]"),
    "no finite number": ({"rate": [0.5, np.nan]}, {}, r"sweep: axis rate must be finite, got"),
    "a wrong type": ({"rate": ["fast"]}, {}, r"walk: rate must be a number, got 'fast'"),
    "a name of its own": ({"step": [1, 2]}, {}, r"axis must be another name than seed, step, .*, got 'step'. Rename"),
    "seeds twice": ({}, {"seed": [1, 1]}, r"sweep: seed must be one or more distinct integers, got \[1, 1\]"),
    "no seed": ({}, {"seed": []}, r"sweep: seed must be one or more distinct integers, got \[\]"),
    "a seed that is too large": ({}, {"seed": 2**32}, r"sweep: seed must be an integer in \[0, 4294967295\]"),
    "a seed that is none": ({}, {"seed": 0.5}, r"sweep: seed must be an integer"),
    "no steps": ({}, {"num_steps": None}, r"sweep: num_steps must be an integer >= 1, got None"),
    "zero steps": ({}, {"num_steps": 0}, r"sweep: num_steps must be an integer >= 1, got 0"),
    "too many steps": ({}, {"num_steps": 2**31}, r"sweep: num_steps must be an integer in \[1, 2147483647\]"),
    "too many seeds": (
        {},
        {"seed": range(10**7)},
        r"sweep: seed must be at most 100000 distinct integers, got 10000000",
    ),
    "records too far apart": (
        {},
        {"record": dlsim.Record(every=2**40)},
        r"record.every must be an integer in \[1, 2147483647\], got 1099511627776",
    ),
    "no record": ({}, {"record": 5}, r"sweep: record must be a Record, got 5"),
    "no layout": ({}, {"layout": "vmp"}, r"sweep: layout must be auto, vmap, map, .*, got 'vmp'"),
    "no size": ({}, {"memory": "much"}, r"sweep: memory must be a size such as 8GiB or 500MB, got 'much'"),
    "no lanes": ({}, {"lanes": 0}, r"sweep: lanes must be an integer in \[1, 64\], got 0"),
    "no progress": ({}, {"progress": "loud"}, r"sweep: progress must be one of auto, bar, lines, off, got 'loud'"),
    "too little memory": ({}, {"memory": "1KiB"}, r"sweep: memory must be at least .* for one run of .*, got 921 B"),
}


def checked_walk(rate=0.9, size=3, step=1):
    if isinstance(rate, str):
        raise ValueError(f"walk: rate must be a number, got {rate!r}.")
    return walk(rate, size=3 if isinstance(size, tuple | list) else size)


@pytest.mark.parametrize("name", OF_A_FUNCTION)
def test_bad_input_of_a_function(name, tmp_path):
    axes, more, message = OF_A_FUNCTION[name]
    settings = {"num_steps": 2, "progress": False, "out": tmp_path / "out", **more}
    one_line(lambda: dlsim.sweep(checked_walk, axes, **settings), message)
    assert list(tmp_path.iterdir()) == []


def test_functions_and_what_they_give(tmp_path):
    one_line(lambda: dlsim.sweep(lambda rate: 5, rate=[0.5], num_steps=2), r"make\(...\) must be a Process, got 5")
    one_line(
        lambda: dlsim.sweep(lambda rate, size: walk(rate), rate=[0.5], num_steps=2),
        r"sweep: axes must be given for size, which make needs, got rate",
    )
    one_line(lambda: dlsim.sweep(5, rate=[0.5], num_steps=2), "what must be a function or an experiment file, got int")
    silent = walk()._replace(measure=None)
    one_line(
        lambda: dlsim.sweep(lambda rate: silent, rate=[0.5], num_steps=2), "record.fn must be given for a process that"
    )
    one_line(
        lambda: dlsim.sweep(lambda rate: (walk(rate), dlsim.Record(every=0)), rate=[0.5], num_steps=2),
        r"record.every must be an integer >= 1, got 0",
    )


OF_A_FILE = {
    "unknown axis": (
        ["learning_rat=1"],
        r"sweep: --axis must be one of learning_rate, .* got 'learning_rat'. Did you mean 'learning_rate'\?",
    ),
    "part of the config": (["problem=1"], r"--axis must be one of problem.name, .* got 'problem'"),
    "wrong type": (["learning_rate=fast"], r"axis learning_rate must be a finite number, got 'fast'"),
    "a float for an int": (["num_steps=1.5"], r"axis num_steps must be an integer, got '1.5'"),
    "no bool": (["is_heavy=1"], r"axis is_heavy must be true or false, got '1'"),
    "no such name": (["topology=ring,rin"], r"small: topology must be one of ring, complete, got 'rin'"),
    "twice the same key": (
        ["learning_rate=0.1", "learning_rate=0.2"],
        r"--axis must be given once for each key, got learning_rate twice. Join the values",
    ),
    "empty axis": (["learning_rate="], r"axis learning_rate must be one or more distinct values, got \[\]"),
    "value twice": (["learning_rate=0.1,0.10"], r"axis learning_rate must be one or more distinct values"),
    "no axis": (["learning_rate"], r"--axis must be of the form key=value,value, got 'learning_rate'"),
    "seeds": (["num_seeds=1,2"], r"axis must be another key than num_seeds, got num_seeds. Seeds have an axis anyway"),
    "no steps": (["num_steps=2,0"], r"num_steps must be an integer >= 1, got 0"),
}


@pytest.mark.parametrize("name", OF_A_FILE)
def test_bad_input_of_a_file(name, tmp_path):
    axes, message = OF_A_FILE[name]
    out = tmp_path / "out"
    one_line(lambda: sweep_experiment(SMALL, "tiny", out=out, axes=axes, progress=False), message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"learning_rat": [0.1]},
            r"small_experiment: axis must be one of learning_rate, .* got 'learning_rat'. Did you",
        ),
        ({"learning_rate": ["fast"]}, r"sweep: axis learning_rate must be values of type float, got 'fast'"),
        ({"num_steps": [2.5]}, r"sweep: axis num_steps must be values of type int, got 2.5"),
        ({"num_steps": [True]}, r"sweep: axis num_steps must be values of type int, got True"),
        ({"topology": [3]}, r"sweep: axis topology must be values of type str, got 3"),
        ({"learning_rate": []}, r"axis learning_rate must be one or more distinct values, got \[\]"),
        ({"num_seeds": [1, 2]}, r"axis must be another key than num_seeds"),
    ],
)
def test_bad_axes_of_a_file_in_python(axes, message, tmp_path):
    one_line(lambda: dlsim.sweep(f"{SMALL}:tiny", axes, out=tmp_path / "out", progress=False), message)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_and_settings_of_a_function():
    with pytest.raises(FileNotFoundError, match=r"file must be an experiment file"):
        dlsim.sweep("nowhere.py", rate=[0.5])
    one_line(lambda: dlsim.sweep(f"{SMALL}:tny", topology=["ring"]), "mode must be one of tiny, default, got 'tny'")
    one_line(
        lambda: dlsim.sweep(f"{SMALL}:tiny", num_steps=5), "num_steps must be left to the experiment's config, got 5"
    )


def test_too_little_memory_says_what_would_fit(tmp_path):
    rule = r"sweep: memory must be at least [\d.]+ .iB \(estimated\) for one run of .*, got 12 KiB. About \d nodes would fit"
    options = make_options(memory=14_000)
    one_line(lambda: sweep_experiment(SMALL, "tiny", out=tmp_path / "out", options=options, progress=False), rule)


def test_the_folder_of_another_sweep(tmp_path):
    plan = {"axes": ["learning_rate=0.1,0.2"], "progress": False, "seeds": 1}
    sweep_experiment(SMALL, "tiny", out=tmp_path / "one", **plan)
    one_line(
        lambda: sweep_experiment(SMALL, "tiny", ["problem.num_nodes=6"], out=tmp_path / "one", **plan),
        r"sweep: out must be a folder of a sweep with these settings, got problem.num_nodes = 6 \(was 5\). Choose another",
    )
    one_line(
        lambda: sweep_experiment(SMALL, "default", ["num_steps=6"], out=tmp_path / "one", **plan),
        r"with these settings, got mode = default \(was tiny\)",
    )
    dlsim.sweep(walk, rate=[0.5], seed=0, num_steps=2, out=tmp_path / "two", progress=False)
    one_line(
        lambda: dlsim.sweep(checked_walk, rate=[0.5], seed=0, num_steps=2, out=tmp_path / "two", progress=False),
        r"sweep: out must be a folder of a sweep of 'checked_walk', got .*two with one of 'walk'",
    )
    (tmp_path / "notes").write_text("mine")
    one_line(
        lambda: dlsim.sweep(walk, rate=[0.5], seed=0, num_steps=2, out=tmp_path / "notes", progress=False),
        r"sweep: out must be a folder, got the file .*notes",
    )
    assert (tmp_path / "notes").read_text() == "mine"
