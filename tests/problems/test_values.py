"""Labels and keys in arrays: a gap is no class, a number keeps its value, whatever it is given as."""

import re

import numpy as np
import pandas as pd
import pytest

from dlsim.problems.data import dataset
from dlsim.problems.partition import by_column, partition

X = np.arange(24, dtype=np.float32).reshape(12, 2)


def labelled(labels, **options):
    return dataset(X, labels, test_inputs=X[:1], test_labels=labels[:1], **options)


TWELVE = {
    "text": [str(i) for i in range(12)],
    "text with points": [f"{i}.0" for i in range(12)],
    "padded": [f" {i} " for i in range(12)],
    "bytes": np.array([str(i).encode() for i in range(12)]),
    "objects": np.array(list(range(12)), object),
    "mixed objects": np.array([i if i % 2 else str(i) for i in range(12)], object),
    "pandas": pd.Series(range(12), dtype="Int64"),
    "pandas text": pd.Series([str(i) for i in range(12)], dtype="string"),
    "pandas category": pd.Series([str(i) for i in range(12)], dtype="category"),
}


@pytest.mark.parametrize("form", TWELVE)
def test_whole_numbers_keep_their_value(form):
    d = labelled(TWELVE[form])
    np.testing.assert_array_equal(d.labels, np.arange(12))
    assert d.num_classes == 12 and d.labels.dtype == np.int32


def test_text_is_numbered_in_sorted_order_and_characters_are_an_alphabet():
    assert labelled(["b", "a", "c"] * 4).labels.tolist() == [1, 0, 2] * 4
    assert labelled(np.array([b"b", b"a"] * 6)).labels.tolist() == [1, 0] * 6
    assert labelled(list("a1b2") * 3).labels.tolist() == [2, 0, 3, 1] * 3
    assert labelled(np.array([True, False] * 6, object)).labels.tolist() == [1, 0] * 6
    assert labelled([f"{i * 0.37}" for i in range(12)]).num_classes == 0  # measures, written as text


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA, pd.NaT, "", "?", "NA", "None", "nan", float("nan")])
def test_a_gap_is_refused_with_its_index(gap):
    for values in (["a", "b", "a"], [0, 1, 0], [0.5, 1.25, 2.75], ["0", "1", "0"]):
        given = np.array([*values * 3, "x", *values[:2]], object)
        given[9] = gap
        with pytest.raises(ValueError, match=r"^dataset: labels must be known in every row, got .* at index 9\. Drop"):
            labelled(given)
    users = np.array(["u", "v", "w"] * 4, object)
    users[9] = gap
    d = dataset(X, np.arange(12) % 2, test_inputs=X, test_labels=np.arange(12) % 2, columns={"user": users})
    with pytest.raises(ValueError, match=r"by_column: column 'user' must be known in .* at training example 9"):
        partition(d, 3, by_column("user"))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["1.5", "2.5", "lost"] * 4, "all numbers or all text, got 'lost' at index 2 among numbers"),
        (["cat", "dog", 3] * 4, "got '3' at index 2 among text"),
        (np.ma.array([0, 1] * 6, mask=[0] * 11 + [1]), "without masked entries, got one at index (11,)"),
        ([[0], [1, 2]] * 6, "ragged rows"),
        (np.array(["2020-01-01"] * 12, "datetime64[D]"), "numbers or text, got dtype datetime64"),
        (np.ones(12, complex), "numbers or text, got dtype complex128"),
        (np.where(np.arange(12) == 5, np.nan, 1.0), "nan at index (5,)"),
        (["-1", "1"] * 6, "whole numbers from 0, got -1 at index 0"),
        ([str(10**30)] * 12, "within 64 bits"),
    ],
)
def test_what_is_neither_is_refused(labels, reason):
    with pytest.raises(ValueError) as error:
        labelled(labels)
    text = str(error.value)
    assert reason in text and "\n" not in text and re.match(r"^dataset: labels must be .+, got .+\.", text)


def test_inputs_of_several_types_and_their_gaps():
    table = pd.DataFrame({"a": [1, 2] * 6, "b": [True, False] * 6, "c": np.arange(12) / 4})
    d = dataset(table.astype(object), [0, 1] * 6, test_inputs=table, test_labels=[0, 1] * 6)
    np.testing.assert_array_equal(d.inputs, table.to_numpy(np.float32))
    holed = table.astype(object)
    holed.loc[7, "b"] = None
    with pytest.raises(ValueError, match=r"dataset: inputs must be known everywhere, got None at index \(7, 1\)"):
        dataset(holed, [0, 1] * 6)
    with pytest.raises(ValueError, match=r"dataset: inputs must be numeric, got 'x' at index \(7, 1\)"):
        dataset(holed.fillna("x"), [0, 1] * 6)
    with pytest.raises(ValueError, match=r"inputs must be without masked entries, got one at index \(0, 1\)"):
        dataset(np.ma.masked_equal(X, 1), [0, 1] * 6)


def test_users_are_nodes_in_the_order_of_their_numbers():
    users = ["10", "2", "1"] * 4
    d = dataset(X, np.arange(12) % 2, test_inputs=X, test_labels=np.arange(12) % 2, columns={"user": users})
    made = partition(d, 3, by_column("user"))
    assert [sorted(made.of_node(i) % 3) for i in range(3)] == [[2] * 4, [1] * 4, [0] * 4]
    kept = dataset(X, np.arange(12) % 2, columns={"user": ["01", "1", "2"] * 4}).columns["user"]
    assert set(kept) == {"01", "1", "2"}  # three users, and not two
