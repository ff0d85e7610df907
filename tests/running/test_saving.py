"""Models and states as files: what was saved is what is loaded, by us, by flax alone, or there is one line."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from toys import walk

import dlsim
from dlsim import files
from dlsim.core import Process, Record
from dlsim.running import saving


class Pair(NamedTuple):
    first: Any
    second: Any


def everything() -> dict[str, Any]:
    """A tree of all that a state may be made of."""
    params = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)}}
    return {
        "params": params,
        "optimizer": optax.adam(0.1).init(params),
        "pair": Pair(jnp.uint32(7), (np.arange(3, dtype=np.int8), None, ())),
        "keys": jax.random.split(jax.random.key(3), 4),
        "other": jax.random.key(5, impl="rbg"),
        "wide": np.asarray([1 / 3, np.nan]),
        "swapped": np.arange(3, dtype=">i4"),
        "scalar": np.float16(0.1),
        "empty": np.zeros((0, 3), np.float32),
        "list": [True, -(2**63), 2**64 - 1, 0.1, 1j, "text", b"bytes"],
    }


def same(a: Any, b: Any) -> None:
    """Structure, types, dtypes, shapes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for mine, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if not hasattr(theirs, "dtype"):
            assert type(mine) is type(theirs) and mine == theirs
        elif jax.dtypes.issubdtype(theirs.dtype, jax.dtypes.prng_key):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(jax.random.key_data(mine), jax.random.key_data(theirs))
        else:
            native = np.asarray(theirs).astype(theirs.dtype.newbyteorder("="))
            assert mine.dtype == native.dtype and mine.shape == native.shape
            assert np.asarray(mine).tobytes() == native.tobytes()


def test_a_tree_comes_back_as_it_was(tmp_path: pathlib.Path) -> None:
    tree = everything()
    path = dlsim.save(tmp_path / "new" / "tree.msgpack", tree)
    assert path == tmp_path / "new" / "tree.msgpack"
    same(dlsim.load(path, like=tree), tree)
    shapes = {"params": tree["params"], "optimizer": tree["optimizer"], "keys": tree["keys"]}
    path = dlsim.save(tmp_path / "arrays", shapes)
    same(dlsim.load(path, like=jax.eval_shape(lambda: shapes)), shapes)


def test_without_like_it_is_dicts_of_arrays(tmp_path: pathlib.Path) -> None:
    tree = everything()
    found = dlsim.load(dlsim.save(tmp_path / "tree", tree))
    same(found["params"], tree["params"])
    assert set(found) == set(tree) and set(found["optimizer"]["0"]) == {"count", "mu", "nu"}
    assert found["pair"]["second"]["1"] is None and found["pair"]["second"]["2"] == {}
    assert found["list"] == {str(i): value for i, value in enumerate(tree["list"])}
    assert isinstance(found["params"]["dense"]["bias"], jax.Array) and found["wide"].dtype == np.float64
    same(found["other"], tree["other"])


def test_flax_alone_reads_it(tmp_path: pathlib.Path) -> None:
    tree = everything()
    path = dlsim.save(tmp_path / "tree", tree)
    found = flax.serialization.msgpack_restore(path.read_bytes())["value"]
    assert found["params"]["dense"]["bias"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["params"]["dense"]["kernel"], tree["params"]["dense"]["kernel"])
    np.testing.assert_array_equal(found["swapped"], [0, 1, 2])
    same(flax.serialization.from_state_dict(tree["optimizer"], found["optimizer"]), tree["optimizer"])


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int4", "uint2", "bfloat16", "float16", "bool"])
def test_narrow_numbers_keep_their_type(tmp_path: pathlib.Path, name: str) -> None:
    values = np.asarray([[0, 1, 1], [1, 0, 1]]).astype(jnp.dtype(name))
    found = dlsim.load(dlsim.save(tmp_path / "x", values))
    assert found.dtype == values.dtype and isinstance(found, jax.Array)
    np.testing.assert_array_equal(np.asarray(found), values)


def test_arrays_beyond_what_msgpack_holds_are_cut_and_joined(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flax.serialization.MAX_CHUNK_SIZE", 40)
    tree = {"large": np.arange(60.0, dtype=np.float32).reshape(3, 20), "small": np.ones(2, np.float32)}
    same(dlsim.load(dlsim.save(tmp_path / "x", tree), like=tree), tree)
    same(dlsim.load(dlsim.save(tmp_path / "x", tree["large"])), jnp.asarray(tree["large"]))


def test_the_same_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
    paths = [dlsim.save(tmp_path / name, everything()) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


# Files.


def test_a_changed_byte_anywhere_is_one_line(tmp_path: pathlib.Path) -> None:
    path = dlsim.save(tmp_path / "x", {"w": np.arange(4, dtype=np.float32)})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"^load: path must be .*dlsim\.save wrote, got "):
            dlsim.load(path)
    for cut in (0, 8, 70, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"^load: path must be .*dlsim\.save wrote, got "):
            dlsim.load(path)


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dlsim.save(tmp_path / "x", {"w": 1})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        OSError, match=r"^save: path must be on a disk that can be written, got .*Free some space there"
    ):
        dlsim.save(path, {"w": 2})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_of_a_later_version_is_one_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "FORMAT", 2)
    path = dlsim.save(tmp_path / "x", {"w": 1})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"^load: path must be of format 1 or earlier, got .* of format 2"):
        dlsim.load(path)


@pytest.mark.parametrize(
    ("what", "got"),
    [
        ({"a": [1, print]}, r"an object of class builtin_function_or_method at \['a'\]\[1\]"),
        ({"a": np.asarray(["text"])}, r"an array of <U4 at \['a'\]"),
        ({"a": np.asarray([None])}, r"an array of object at \['a'\]"),
        ({"a": 2**64}, r"the integer 1\.845e\+19 at \['a'\]"),
        ({saving.KEY: 1}, "a name with a meaning of its own at"),
    ],
)
def test_what_cannot_be_kept_is_one_line(tmp_path: pathlib.Path, what: Any, got: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^save: what must be a tree of arrays, numbers and texts, or a Run, got {got}"
    ):
        dlsim.save(tmp_path / "x", what)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("like", "line"),
    [
        ({"w": jnp.zeros(3)}, r"like must be float32\[2\] at \['w'\], as was saved, got float32\[3\]"),
        ({"w": jnp.zeros(2, jnp.bfloat16)}, r"like must be float32\[2\] at \['w'\], as was saved, got bfloat16\[2\]"),
        ({"v": jnp.zeros(2)}, r"like must be of parts that the file has, got \['v'\]\. It has b, w there"),
        ({"w": jnp.zeros(2)}, r"like must be of all parts that were saved, got none of b\.c"),
        ({"w": jnp.zeros(2), "b": 3}, r"like must be more parts at \['b'\], as was saved, got int"),
    ],
)
def test_what_is_unlike_is_one_line(tmp_path: pathlib.Path, like: Any, line: str) -> None:
    path = dlsim.save(tmp_path / "x", {"w": jnp.ones(2), "b": {"c": 1}})
    with pytest.raises(ValueError, match=f"^load: {line}"):
        dlsim.load(path, like=like)


# Runs and checkpoints.


def walkers() -> Process:
    def init(key: jax.Array) -> Any:
        return {"walk": walk().init(key), "key": key, "rest": optax.EmptyState(), "none": jnp.zeros((0, 2))}

    def step(key: jax.Array, state: Any) -> Any:
        after, info = walk().step(key, state["walk"])
        return {**state, "walk": after, "key": key}, info

    return Process(init, step, lambda state, info: {}, num_nodes=4, params=lambda state: state["walk"].position)


def test_a_whole_run_and_its_checkpoint_are_read_without_the_process(tmp_path: pathlib.Path) -> None:
    process = walkers()._replace(measure=lambda state, info: {"total": jnp.sum(state["walk"].word)})
    run = dlsim.simulate(process, seed=[3, 9], num_steps=5, record=Record(every=5), checkpoint_dir=tmp_path / "points")
    path = dlsim.save(tmp_path / "run", run)
    found = dlsim.load(path)
    assert found["step"] == 5 and found["seeds"].tolist() == [3, 9]
    same(found["params"], run.params)
    same(found["state"]["walk"]["word"], run.state["walk"].word)
    same(dlsim.load(path, like=run)["state"], run.state)
    keys = jax.random.split(jax.random.key(0), 2)
    start = jax.eval_shape(jax.vmap(process.init), keys)  # traced, not compiled
    same(dlsim.load(path, like={"state": start})["state"], run.state)

    point = dlsim.load(tmp_path / "points")
    assert point["step"] == 5 and point["key"].tolist() == [[0, 3], [0, 9]]
    same(point["state"]["walk"]["word"], run.state["walk"].word)
    same(dlsim.load(tmp_path / "points", like={"state": start})["state"], run.state)
    with pytest.raises(ValueError, match=r"^load: like must be a dict of some of state, step, key for this file, got "):
        dlsim.load(tmp_path / "points", like={"params": run.params})

    # The newest that is sound counts; none is one line, and nothing is changed.
    whole = tmp_path / "points" / "5"
    twin = tmp_path / "points" / "7"
    twin.mkdir()
    with pytest.warns(UserWarning, match="checkpoint of step 7 is damaged"):
        assert dlsim.load(tmp_path / "points")["step"] == 5
    meta = whole / "meta" / "metadata"
    meta.write_text(meta.read_text().replace('"leaves"', '"others"'))
    with pytest.warns(UserWarning, match="step 7"), pytest.raises(ValueError, match="of an earlier version"):
        dlsim.load(tmp_path / "points")
    meta.unlink()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="with damaged ones alone"):
        dlsim.load(tmp_path / "points")
    assert twin.is_dir() and whole.is_dir()


def test_a_run_without_models_or_seeds_has_none_in_its_file(tmp_path: pathlib.Path) -> None:
    run = dlsim.simulate(walk(), jax.random.key(3), 2)
    assert set(dlsim.load(dlsim.save(tmp_path / "run", run))) == {"state", "step"}


def test_places_that_are_none(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"^load: path must be a file that dlsim\.save wrote, got .*No such file"):
        dlsim.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"^load: path must be .*, or a folder of checkpoints, got the folder"):
        dlsim.load(tmp_path)
    with pytest.raises(ValueError, match=r"^save: path must be a file, got the folder"):
        dlsim.save(tmp_path, 1)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^save: path must be a file that can be written, got .*exists"):
        dlsim.save(tmp_path / "file" / "x", 1)
    with pytest.raises(ValueError, match=r"^load: path must be .*which is none or damaged\. Flax's own files"):
        dlsim.load(tmp_path / "file")
