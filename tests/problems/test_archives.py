"""Named arrays: none is left out without a word, and a damaged archive is one line."""

import re
import warnings

import numpy as np
import pytest

from dlsim.problems.data import load
from dlsim.problems.partition import by_column, partition

X = np.arange(48, dtype=np.float32).reshape(24, 2)
Y = np.arange(24) % 3
USERS = np.repeat(["u1", "u10", "u2", "u3"], 6)


def refused(source, **options):
    with pytest.raises(ValueError) as error:
        load(source, **options)
    text = str(error.value)
    assert "\n" not in text and re.match(r"^\w+: .+ must be .+, got .+\.", text)
    return text


@pytest.mark.parametrize("form", ["npz", "dict"])
def test_other_keys_are_columns_that_by_column_works_on(tmp_path, form):
    arrays = {
        "x": X,
        "y": Y,
        "user_id": USERS,
        "train_site": Y,
        "column_hour": np.arange(24),
        "test_user_id": USERS[:6],
    }
    arrays |= {"x_test": X[:6], "y_test": Y[:6], "classes": np.array(["a", "b"]), "x_val": X[:3], "num_classes": 5}
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.warns(
        UserWarning, match=r"classes \[2\], x_val \[3, 2\] is neither inputs, labels nor a column"
    ) as said:
        d = load(tmp_path / "mine.npz" if form == "npz" else arrays)
    assert said[0].filename == __file__ and len(said) == 1
    assert d.num_classes == 5 and set(d.columns) == {"user_id", "site", "hour"} and set(d.test_columns) == {"user_id"}
    with pytest.warns(UserWarning, match="3 of 4 nodes .* have no test examples of their own"):
        made = partition(d, 4, by_column("user_id"))
    for node, user in enumerate(["u1", "u10", "u2", "u3"]):
        assert set(USERS[made.of_node(node)]) == {user}


def test_every_user_with_tests_has_them_as_its_own(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y, user=USERS, x_test=X[::2], y_test=Y[::2], user_test=USERS[::-2])
    d = load(tmp_path / "a.npz")
    made = partition(d, 4, by_column("user"))
    tests = made.local_test
    assert not tests.of_training and tests.sizes.tolist() == [3, 3, 3, 3]
    for node, user in enumerate(["u1", "u10", "u2", "u3"]):
        own = tests.indices[tests.offsets[node] : tests.offsets[node] + tests.sizes[node]]
        assert set(d.test_columns["user"][own]) == {user}
    fewer = partition(d, 3, by_column("user"), seed=1)
    for node in range(3):
        own = fewer.local_test.indices[fewer.local_test.offsets[node] :][: fewer.local_test.sizes[node]]
        assert set(d.test_columns["user"][own]) == set(d.columns["user"][fewer.of_node(node)])


def test_a_column_asked_for_must_be_there_and_whole():
    assert "columns must be one of user" in refused({"x": X, "y": Y, "user": USERS}, columns=["usr"])
    holed = np.where(USERS == "u2", None, USERS)
    assert "None at index 12" in refused({"x": X, "y": Y, "user": holed}, columns=["user"])
    assert load({"x": X, "y": Y, "note": np.where(Y == 0, "", "n")}).columns["note"].shape == (18,)  # of no concern
    assert "a dict of arrays with 'labels', got keys x, z" in refused({"x": X, "z": Y})
    assert "columns must be a sequence, each a string, got 'user'" in refused(
        {"x": X, "y": Y, "user": USERS}, columns="user"
    )


def test_an_archive_by_another_name(tmp_path):
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    assert "got a single array, as np.save writes it" in refused(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=X, y=Y)
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    assert "Rename it: b.npz" in refused(tmp_path / "b.npy")
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    assert "an .npz, a table (.csv, .tsv, .txt) or a folder" in refused(tmp_path / "c.parquet")
    assert "one of digits" in refused("a\0b")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_flipped_bit_gives_other_numbers(tmp_path, save):
    save(tmp_path / "a.npz", x=X, y=Y, user_id=USERS)
    whole, raw = load(tmp_path / "a.npz"), (tmp_path / "a.npz").read_bytes()
    rng, num_refused = np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(raw)
        damaged[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        (tmp_path / "b.npz").write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                d = load(tmp_path / "b.npz")
        except ValueError:
            num_refused += 1
            refused(tmp_path / "b.npz")
            continue
        np.testing.assert_array_equal(d.inputs, whole.inputs)
        np.testing.assert_array_equal(d.labels, whole.labels)
    assert num_refused > 50
    for length in (0, 5, 50, len(raw) // 2, len(raw) - 1):
        (tmp_path / "b.npz").write_bytes(raw[:length])
        refused(tmp_path / "b.npz")
