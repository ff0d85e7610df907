"""Blocks on disk: whole or not at all, damage is noticed, and folders of others are left alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dlsim.sweeps.store import Block, Store, digest, write_block

ABOUT = {"experiment": "toy", "mode": "tiny", "config": {"rate": 0.1, "size": 3, "num_seeds": 2}}


def block(names=("a", "b"), value=1.0):
    size = len(names)
    values = np.full((size, 3), value, np.float32) + np.arange(3, dtype=np.float32)
    return Block(
        identities=list(names),
        steps=np.array([0, 2, 4]),
        variables={"loss": (("step",), values), "hits": (("step", "hits_0"), np.ones((size, 3, 2), np.int32))},
        bits=np.zeros(size, np.uint32),
        first_step=np.full((size, 4), -1, np.int32),
        first_node=np.full((size, 4), -1, np.int32),
        seconds=np.ones(size),
        meta={"group": "g", "choices": [{"rate": 0.1}] * size, "seeds": list(range(size)), "layout": "1 at once"},
    )


def same(ours, theirs):
    assert ours.identities == theirs.identities and ours.variables.keys() == theirs.variables.keys()
    for name, (dims, values) in theirs.variables.items():
        assert ours.variables[name][0] == dims and ours.variables[name][1].dtype == values.dtype
        np.testing.assert_array_equal(ours.variables[name][1], values)
    for name in ("steps", "bits", "first_step", "first_node", "seconds"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def opened(folder, about=ABOUT):
    store = Store(folder)
    store.open(about)
    return store


def test_blocks_come_back_whole(tmp_path):
    store = opened(tmp_path)
    store.save(block())
    store.save(block(("c",), 5.0))
    again = opened(tmp_path)
    assert "a" in again and "c" in again and "d" not in again
    found = again.blocks(["c", "a", "b", "d"])
    assert len(found) == 2
    same(found[1], block())
    assert found[1].meta == json.loads(json.dumps(block().meta))
    assert found[0].digest == digest(["c"])
    assert sorted(path.name for path in (tmp_path / "blocks").iterdir()) == sorted(
        f"{digest(names)}.npz" for names in (["a", "b"], ["c"])
    )


def test_memory_alone_and_blocks_of_others(tmp_path):
    memory = Store()
    memory.open(ABOUT)
    memory.save(block())
    assert "a" in memory and memory.checkpoints(["a"]) is None and list(tmp_path.iterdir()) == []
    mine, other = opened(tmp_path), opened(tmp_path)
    other.save(block(("z",)))
    assert "z" not in mine
    mine.refresh()
    assert "z" in mine


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    store = opened(tmp_path)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(block())
    assert list((tmp_path / "blocks").iterdir()) == [] and "a" not in store


@pytest.mark.parametrize("length", [0, 1, 100, -1, -30])
def test_a_block_that_was_cut_short_is_set_aside(tmp_path, length):
    write_block_in(tmp_path)
    file = next((tmp_path / "blocks").glob("*.npz"))
    whole = file.read_bytes()
    file.write_bytes(whole[:length])
    with pytest.warns(UserWarning, match=r"block .* is damaged \(.*\); its runs are run again"):
        store = opened(tmp_path)
    assert "a" not in store and file.with_suffix(".damaged").exists() and not file.exists()
    store.save(block())
    same(opened(tmp_path).blocks(["a"])[0], block())


def write_block_in(folder):
    opened(folder)
    write_block(folder, block())


@pytest.mark.filterwarnings("ignore:block .* is damaged")
def test_any_flipped_byte_is_noticed_or_harmless(tmp_path):
    """Some bytes of a zip file mean nothing (dates); every other one must not change what is read."""
    write_block_in(tmp_path)
    file = next((tmp_path / "blocks").glob("*.npz"))
    whole, noticed = file.read_bytes(), 0
    positions = range(0, len(whole), 7)
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 0x11
        file.write_bytes(damaged)
        store = Store(tmp_path)
        store.refresh()
        if "a" in store:
            same(store.blocks(["a"])[0], block())
        else:
            noticed += 1
    assert noticed > 0.7 * len(positions)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"experiment": "other"}, r"out must be a folder of a sweep of 'other', got .* with one of 'toy'"),
        ({"mode": "paper"}, r"a folder of a sweep with these settings, got mode = paper \(was tiny\)"),
        ({"config": {"rate": 0.1, "size": 4}}, r"got size = 4 \(was 3\). Choose another --out"),
    ],
)
def test_the_folder_of_another_sweep_is_left_alone(tmp_path, about, message):
    opened(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        opened(tmp_path, {**ABOUT, **about})
    assert "\n" not in str(caught.value)


def test_axes_may_differ(tmp_path):
    opened(tmp_path, {**ABOUT, "axes": ["rate"]})
    opened(tmp_path, {**ABOUT, "config": {"rate": 0.7, "size": 9, "num_seeds": 5}, "axes": ["size"]})
    opened(tmp_path, {**ABOUT, "config": {"rate": 0.9, "size": 1}})
    assert json.loads((tmp_path / "sweep.json").read_text())["axes"] == ["rate", "size"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"experiment": "toy"}', '"x"'])
def test_a_damaged_note_is_one_line(tmp_path, text):
    opened(tmp_path)
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ValueError, match=r"sweep: out must be a folder of a sweep, got .*damaged") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"sweep: out must be a folder, got the file .*file"):
        opened(tmp_path / "file")
    with pytest.raises(ValueError, match=r"sweep: out must be a folder that can be written, got /proc/nowhere"):
        opened("/proc/nowhere")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"out must be a new folder, or one of a sweep, got .*\(thesis.tex\)"):
        opened(tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_checkpoints_of_a_block(tmp_path):
    store = opened(tmp_path)
    first, second = store.checkpoints(["a"]), store.checkpoints(["b"])
    assert first != second
    for place in (first, second):
        place.mkdir(parents=True)
    store.clear_checkpoints(["a"])
    assert not first.exists() and second.exists()
    store.clear_checkpoints()
    assert not second.exists()
