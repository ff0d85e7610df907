"""LEAF's and PFLlib's folders: every client keeps its own training and test examples."""

import json
import pickle
import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.problems.classification import classification
from dlsim.problems.data import load

USERS = ["f10", "f2", "f3"]


def leaf_part(offset, sizes):
    """Users with inputs that say whose they are: 100 i + j."""
    data = {
        user: {"x": [[100.0 * i + j + offset, 1.0] for j in range(num)], "y": [(i + j) % 2 for j in range(num)]}
        for i, (user, num) in enumerate(zip(USERS, sizes, strict=True))
    }
    return {"users": USERS, "num_samples": list(sizes), "user_data": data}


@pytest.fixture
def leaf(tmp_path):
    for part, offset, sizes in (("train", 0, (5, 7, 6)), ("test", 50, (2, 3, 2))):
        (tmp_path / "femnist" / part).mkdir(parents=True)
        (tmp_path / "femnist" / part / "all_data_0.json").write_text(json.dumps(leaf_part(offset, sizes)))
    return tmp_path / "femnist"


@pytest.fixture
def pfllib(tmp_path):
    rng = np.random.default_rng(0)
    for part, sizes in (("train", range(4, 15)), ("test", range(2, 13))):
        (tmp_path / "Cifar" / part).mkdir(parents=True)
        for i, num in enumerate(sizes):
            x = rng.standard_normal((num, 3, 4, 4)).astype(np.float32)
            x[:, 1, 2, 3] = i
            data = {"x": x, "y": np.arange(num, dtype=np.int64) % 2}
            np.savez_compressed(tmp_path / "Cifar" / part / f"{i}.npz", data=data)
    return tmp_path / "Cifar"


def refused(source):
    with pytest.raises(ValueError) as error:
        load(source)
    text = str(error.value)
    assert "\n" not in text and re.match(r"^\w+: .+ must be .+, got .+\.", text)
    return text


def test_leaf(leaf):
    d = load(leaf)
    assert d.inputs.shape == (18, 2) and d.test_inputs.shape == (7, 2) and d.clients == "user" and d.name == "femnist"
    for i, user in enumerate(USERS):
        mine = d.columns["user"] == user
        np.testing.assert_array_equal(d.inputs[mine, 0], 100 * i + np.arange(mine.sum()))
        tests = d.test_columns["user"] == user
        np.testing.assert_array_equal(d.test_inputs[tests, 0], 100 * i + 50 + np.arange(tests.sum()))


def test_clients_are_the_nodes_and_are_measured_on_their_own_tests(leaf):
    problem = classification(str(leaf), model="softmax", batch_size=5)
    assert problem.num_nodes == 3 and problem.num_examples.tolist() == [5, 7, 6]
    whose = np.asarray(problem.sample(jax.random.key(0), jnp.arange(3)).inputs)[..., 0] // 100
    np.testing.assert_array_equal(whose, np.arange(3)[:, None] * np.ones((3, 5)))
    params = jax.tree.map(lambda leaf: leaf[None], problem.init(jax.random.key(0)))
    params = jax.tree.map(
        lambda leaf: leaf.at[(0,) + (0,) * (leaf.ndim - 1)].set(1.0), params
    )  # class 0, for all x > 0
    stacked = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), params)
    found = problem.evaluate(stacked, jnp.arange(3))
    zeros = [[(i + j) % 2 == 0 for j in range(num)] for i, num in enumerate((2, 3, 2))]
    wanted = [np.mean(part) for part in zeros]
    np.testing.assert_allclose(found["accuracy_local"], wanted, rtol=1e-6)
    np.testing.assert_allclose(problem.evaluate(params, None)["accuracy_local"], [np.mean(wanted)], rtol=1e-6)
    np.testing.assert_allclose(found["accuracy"], [np.mean(np.concatenate(zeros))] * 3, rtol=1e-6)
    fewer = classification(str(leaf), 2, model="softmax", batch_size=5)
    assert sorted(fewer.num_examples) in ([5, 13], [6, 12], [7, 11])


def test_pfllib(pfllib):
    d = load(pfllib)
    assert d.inputs.shape == (sum(range(4, 15)), 4, 4, 3)  # planes last
    np.testing.assert_array_equal(d.inputs[:, 2, 3, 1], d.columns["user"])
    np.testing.assert_array_equal(d.test_inputs[:, 2, 3, 1], d.test_columns["user"])
    problem = classification(d, model="softmax", batch_size=4)
    assert problem.num_examples.tolist() == list(range(4, 15))  # client 10 is the last, and not the third
    np.savez(pfllib / "train" / "0.npz", x=np.ones((4, 3, 4, 4), np.float32), y=np.zeros(4, int))
    assert (load(pfllib).inputs[:4] == 1).all()


def test_what_is_wrong_with_a_client_folder_is_said(leaf, pfllib):
    path = leaf / "train" / "all_data_0.json"
    whole = path.read_text()
    for change, reason in (
        ({"num_samples": [5, 7, 5]}, "5 examples of user 'f3', got 6 inputs and 6 labels"),
        ({"num_samples": [5, 7]}, "one num_samples a user, got 2 for 3"),
        ({"users": ["f10", "f2", "f4"]}, "no 'f4'"),
        ({"user_data": None}, "of LEAF's form"),
    ):
        path.write_text(json.dumps({**json.loads(whole), **change}))
        assert reason in refused(leaf)
    path.write_text(whole[:100])
    assert "a JSON file" in refused(leaf)
    text = json.loads(whole)
    text["user_data"]["f10"]["x"] = ["to be or not"] * 5
    path.write_text(json.dumps(text))
    assert "text for x of user 'f10'" in refused(leaf)
    path.write_text(whole)
    (leaf / "train" / "all_data_1.json").write_text(whole)
    assert "'f10' in all_data_0.json too" in refused(leaf)
    first = pfllib / "train" / "0.npz"
    raw = first.read_bytes()
    first.write_bytes(raw[:200])
    refused(pfllib)
    np.savez_compressed(first, data={"x": np.ones((2, 3, 4, 4))})
    assert "a dict with x and y, got keys x" in refused(pfllib)


def test_a_pickle_that_runs_code_is_not_opened(pfllib, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    np.savez_compressed(pfllib / "train" / "0.npz", data=np.array({"x": Evil(), "y": 1}, object))
    assert "open, which is no array" in refused(pfllib)
    assert not (tmp_path / "made").exists()
    with zipfile.ZipFile(pfllib / "train" / "0.npz") as archive:
        assert b"open" in archive.read("data.npy") and pickle.dumps(Evil())
