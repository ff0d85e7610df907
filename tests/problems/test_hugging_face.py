"""Hugging Face data sets: columns are kept, what is not used is said, and what cannot be read is one line."""

import re

import numpy as np
import pytest

from dlsim.problems.data import load
from dlsim.problems.partition import by_column, partition


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and re.match(r"^\w+: .+ must be .+, got .+\.", text)
    return text


class FakeSplit:
    """As much of a Hugging Face data set as is used."""

    def __init__(self, columns, as_numpy=False):
        self.columns, self.as_numpy = columns, as_numpy
        self.column_names = list(columns)

    def with_format(self, kind):
        assert kind == "numpy"
        return FakeSplit(self.columns, True)

    def __getitem__(self, key):
        return np.asarray(self.columns[key]) if self.as_numpy else self.columns[key]


def test_hugging_face_objects():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 4, 4), np.uint8).tolist(), [i % 3 for i in range(12)]
    columns = {"image": np.array(images, np.uint8), "label": labels, "user": [f"u{i}" for i in range(12)]}
    train = FakeSplit(columns)
    d = load({"train": train, "test": FakeSplit({**columns, "label": labels[::-1]})}, columns=["user"])
    np.testing.assert_array_equal(d.inputs[..., 0], images)
    np.testing.assert_array_equal(d.test_labels, labels[::-1])
    assert d.columns["user"][3] == "u3" and d.num_classes == 3
    np.testing.assert_allclose(1 / d.scale, np.std(images))
    assert len(load(train).test_labels) == 3  # one a class: 0.2 * 4, rounded
    with pytest.raises(ValueError) as error:
        load(FakeSplit({"a": [1], "b": [2], "label": [0]}))
    assert "one input column" in one_line(error)


def test_hugging_face_columns_are_kept_and_what_is_not_used_is_said():
    x, labels = np.arange(24.0).reshape(12, 2), [i % 3 for i in range(12)]
    columns = {"features": x, "label": labels, "user_id": [str(i % 4) for i in range(12)], "boxes": np.zeros((12, 4))}
    columns["note"] = ["n" * 300] * 12
    splits = {"train": FakeSplit(columns), "test": FakeSplit(columns), "validation": FakeSplit(columns)}
    with pytest.warns(UserWarning, match="load: validation, boxes, note of this data set is not used") as said:
        d = load(splits)
    assert said[0].filename == __file__
    assert set(d.columns) == set(d.test_columns) == {"user_id"}
    made = partition(d, 4, by_column("user_id"))
    for node in range(4):
        np.testing.assert_array_equal(made.of_node(node) % 4, node)
    np.testing.assert_array_equal(np.sort(made.local_test.indices), np.arange(12))
    for gap in (None, float("nan")):
        with pytest.raises(ValueError, match=r"labels must be (known in every row|finite), got .* at index"):
            load(FakeSplit({"features": x, "label": [*labels[:4], gap, *labels[5:]]}))
        with pytest.raises(ValueError, match="user must be known in every row, got .* at index 0"):
            load(FakeSplit({"features": x, "label": labels, "user": [gap, *"abcdefghijk"]}), columns=["user"])
    with pytest.raises(ValueError, match="boxes must be a column of one value an example"):
        load(FakeSplit({**columns}), columns=["boxes"])


def test_grey_images_among_coloured_ones_are_one_line():
    class Ragged(FakeSplit):
        def with_format(self, kind):
            return Ragged(self.columns)

    images = [np.zeros((4, 4, 3), np.uint8)] * 5 + [np.zeros((4, 4), np.uint8)]
    with pytest.raises(ValueError) as error:
        load(Ragged({"image": images, "label": [0, 1] * 3}))
    assert "got [4, 4, 3] at index 0 and [4, 4] at index 5. Convert them: data.map(" in one_line(error)
    with pytest.raises(ValueError) as error:
        load(Ragged({"image": [np.zeros((4, 4)), np.zeros((5, 4))], "label": [0, 1]}))
    assert "Resize or pad them first" in one_line(error)


def test_a_stream_is_one_line():
    class Stream(FakeSplit):
        def __getitem__(self, key):
            raise NotImplementedError

    with pytest.raises(ValueError) as error:
        load(Stream({"x": [1], "label": [0]}))
    assert "got Stream. Not as a stream" in one_line(error)
