"""Data sets: real files, formats written here byte by byte, and one line for everything that is wrong."""

import gzip
import os
import re
import struct

import numpy as np
import pytest

from dlsim.problems import data, data_files
from dlsim.problems.data import dataset, load, synthetic_classification

SIZES = {"fashion_mnist": (28, 28, 1), "mnist": (28, 28, 1)}


@pytest.fixture
def bare_machine(tmp_path, monkeypatch):
    """A machine without data: an empty home and no system folders."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DLSIM_DATA", raising=False)
    monkeypatch.setattr(data_files, "SYSTEM_FOLDERS", ())
    return tmp_path


def real(name):
    """The installed data set; skips where it is not, unless DLSIM_REQUIRE_DATA=1."""
    try:
        return load(name)
    except ValueError as error:
        if os.environ.get("DLSIM_REQUIRE_DATA") == "1" or "on this machine" not in str(error):
            raise
        pytest.skip(str(error))


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and re.match(r"^\w+: .+ must be .+, got .+\.", text)
    return text


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, num=20, num_test=10, zipped=False):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (num, 6, 5)),
        np.arange(num) % 3,
        rng.integers(0, 256, (num_test, 6, 5)),
        np.arange(num_test) % 3,
    ]
    for file, array in zip(data_files.IDX_FILES, arrays, strict=True):
        contents = idx_bytes(array)
        path = folder / (file + ".gz" * zipped)
        path.write_bytes(gzip.compress(contents) if zipped else contents)
    return arrays


# Real data


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist"])
def test_real_images(name):
    d = real(name)
    assert d.inputs.shape == (60000, *SIZES[name]) and d.test_inputs.shape == (10000, *SIZES[name])
    assert d.inputs.dtype == np.uint8 and d.labels.dtype == np.int32 and d.num_classes == 10
    pixels = (d.inputs[:, ::3, ::3].astype(np.float32) - d.offset) * d.scale
    mean, std = data._moments(d.inputs)
    assert (round(mean, 2), round(std, 2)) == data.PIXELS[name]
    assert abs(pixels.mean()) < 0.2 and 0.7 < pixels.std() < 1.3
    if name == "fashion_mnist":
        assert (np.bincount(d.labels) == 6000).all() and (np.bincount(d.test_labels) == 1000).all()
    else:
        assert d.labels[:5].tolist() == [5, 0, 4, 1, 9]  # the first five digits of MNIST, known to everybody


def test_digits_split_is_fixed_stratified_and_complete():
    from sklearn.datasets import load_digits

    d, whole = load("digits"), load_digits()
    assert d.inputs.shape == (1438, 8, 8, 1) and d.inputs.dtype == np.uint8 and d.num_classes == 10
    counts, total = np.bincount(d.test_labels), np.bincount(whole.target)
    assert (np.abs(counts - 0.2 * total) <= 0.5).all()
    both = np.concatenate([d.inputs, d.test_inputs]).reshape(-1, 64)
    order = np.lexsort(both.T)
    original = whole.data.astype(np.uint8)
    np.testing.assert_array_equal(both[order], original[np.lexsort(original.T)])
    # The documented rule, by hand.
    permuted = np.random.default_rng(0).permutation(1797)
    held_out = [permuted[whole.target[permuted] == c][: int(0.2 * total[c] + 0.5)] for c in range(10)]
    np.testing.assert_array_equal(d.test_labels, whole.target[np.sort(np.concatenate(held_out))])
    mean, std = data.PIXELS["digits"]
    assert abs(original.mean() - mean) < 0.005 and abs(original.std() - std) < 0.005
    assert (d.offset, d.scale) == (mean, 1 / std)


def test_breast_cancer_is_standardised_by_its_training_examples():
    d = load("breast_cancer")
    assert d.inputs.shape == (456, 30) and d.inputs.dtype == np.float32 and d.num_classes == 2
    np.testing.assert_allclose(d.inputs.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(d.inputs.std(axis=0), 1, atol=1e-5)
    assert abs(d.test_inputs.mean()) > 1e-4  # not by its own moments


# Formats


@pytest.mark.parametrize("zipped", [False, True])
def test_folder_of_idx_files(tmp_path, zipped):
    x, y, test_x, test_y = write_idx(tmp_path / "mine", zipped=zipped)
    d = load(tmp_path / "mine")
    np.testing.assert_array_equal(d.inputs[..., 0], x)
    np.testing.assert_array_equal(d.labels, y)
    np.testing.assert_array_equal(d.test_inputs[..., 0], test_x)
    np.testing.assert_array_equal(d.test_labels, test_y)
    assert d.name == "mine" and d.num_classes == 3
    np.testing.assert_allclose([d.offset, 1 / d.scale], [x.mean(), x.std()])


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_by_the_names_they_have_elsewhere(tmp_path, zipped):
    plain = write_idx(tmp_path / "a", zipped=zipped)
    dotted = tmp_path / "dotted"
    dotted.mkdir()
    for path in (tmp_path / "a").iterdir():
        (dotted / path.name.replace("-idx", ".idx")).write_bytes(path.read_bytes())
    emnist = tmp_path / "emnist"
    emnist.mkdir()
    for path in (tmp_path / "a").iterdir():
        (emnist / f"emnist-letters-{path.name.replace('t10k', 'test')}").write_bytes(path.read_bytes())
    write_idx(tmp_path / "root" / "MNIST" / "raw", zipped=zipped)  # torchvision's
    for folder in (dotted, emnist, tmp_path / "root", tmp_path / "root" / "MNIST"):
        d = load(folder)
        np.testing.assert_array_equal(d.inputs[..., 0], plain[0])
        np.testing.assert_array_equal(d.test_labels, plain[3])
    write_idx(tmp_path / "root" / "FashionMNIST" / "raw")
    with pytest.raises(ValueError) as error:
        load(tmp_path / "root")
    assert "got FashionMNIST/raw, MNIST/raw. Give the path of one" in one_line(error)
    (tmp_path / "py" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "py" / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"")
    with pytest.raises(ValueError) as error:
        load(tmp_path / "py")
    assert "binary version" in one_line(error)


def test_named_data_in_torchvisions_folder(bare_machine, monkeypatch):
    write_idx(bare_machine / "root" / "MNIST" / "raw")
    monkeypatch.setitem(data_files.SOURCES, "mnist", data_files.SOURCES["mnist"]._replace(sha256=()))
    assert load("mnist", data_dir=bare_machine / "root").inputs.shape == (20, 6, 5, 1)


def write_cifar(folder, per_file=7):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (6 * per_file, 3, 32, 32), np.uint8)
    labels = rng.integers(0, 10, 6 * per_file).astype(np.uint8)
    for i, file in enumerate(data_files.CIFAR_FILES):
        rows = range(i * per_file, (i + 1) * per_file)
        (folder / file).write_bytes(b"".join(bytes([labels[r]]) + images[r].tobytes() for r in rows))
    return images, labels


def test_cifar_binaries(bare_machine, monkeypatch):
    images, labels = write_cifar(bare_machine / "data" / "cifar-10-batches-bin")
    d = load("cifar10", data_dir=bare_machine / "data")
    assert d.inputs.shape == (35, 32, 32, 3) and d.test_inputs.shape == (7, 32, 32, 3) and d.num_classes == 10
    np.testing.assert_array_equal(np.concatenate([d.labels, d.test_labels]), labels)
    np.testing.assert_array_equal(d.inputs[4, 5, 6], images[4, :, 5, 6])
    np.testing.assert_array_equal(d.test_inputs[6, 31, 0], images[41, :, 31, 0])
    assert (d.offset, d.scale) == (120.71, 1 / 64.15)
    direct = load("cifar10", data_dir=bare_machine / "data" / "cifar-10-batches-bin")
    np.testing.assert_array_equal(direct.inputs, d.inputs)
    monkeypatch.setenv("DLSIM_DATA", str(bare_machine / "data"))
    np.testing.assert_array_equal(load("cifar10").inputs, d.inputs)
    np.testing.assert_array_equal(load(bare_machine / "data" / "cifar-10-batches-bin").labels, d.labels)


def test_npz(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    np.savez(
        tmp_path / "a.npz", inputs=x, labels=y, test_inputs=x[:5], test_labels=y[:5], scale=0.5, column_user=y + 10
    )
    d = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(d.inputs, x.astype(np.float32))
    np.testing.assert_array_equal(d.columns["user"], y + 10)
    assert d.labels.dtype == np.int32 and len(d.test_labels) == 5 and d.scale == 0.5 and d.offset == 0.0
    np.savez(tmp_path / "b.npz", x_train=x, y_train=y, column_user=y + 10, num_classes=5)
    d = load(str(tmp_path / "b.npz"))
    assert len(d.labels) + len(d.test_labels) == 30 and d.num_classes == 5
    np.testing.assert_array_equal(d.columns["user"], d.labels + 10)  # split along with the examples


def test_csv(tmp_path):
    lines = ["height,user,weight,kind"] + [f"{i / 2},u{i % 4},{-i},{'cat' if i % 3 else 'dog'}" for i in range(24)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    d = load(tmp_path / "a.csv", columns=["user"])
    assert d.inputs.shape[1] == 2 and d.num_classes == 2 and set(d.columns["user"]) == {"u0", "u1", "u2", "u3"}
    ids = (d.inputs[:, 0] * 2).astype(int)
    np.testing.assert_array_equal(d.inputs[:, 1], -ids)
    np.testing.assert_array_equal(d.labels, (ids % 3 == 0).astype(int))  # cat, dog
    np.testing.assert_array_equal(d.columns["user"], [f"u{i % 4}" for i in ids])
    real_labels = load(tmp_path / "a.csv", label="height", columns=["user", "kind"])
    assert real_labels.num_classes == 0 and real_labels.labels.dtype == np.float32
    scaled = load(tmp_path / "a.csv", columns=["user"], standardise=True)
    np.testing.assert_allclose(scaled.inputs.std(axis=0), 1, rtol=1e-5)
    (tmp_path / "b.csv").write_text("\n".join(f"{i},{i % 2}" for i in range(10)))  # no header
    with pytest.warns(UserWarning, match="column '0' counts the rows"):
        d = load(tmp_path / "b.csv")
    assert len(d.labels) + len(d.test_labels) == 10 and d.num_classes == 2
    np.testing.assert_array_equal(d.inputs[:, 0] % 2, d.labels)
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write((tmp_path / "b.csv").read_text())
    with pytest.warns(UserWarning, match="column '0' counts the rows"):
        np.testing.assert_array_equal(load(tmp_path / "b.csv.gz").inputs, d.inputs)


# Arrays


def test_dataset_keeps_what_it_can():
    x = np.arange(40, dtype=np.uint8).reshape(10, 4)
    d = dataset(x, np.arange(10) % 2, test_inputs=x, test_labels=np.zeros(10))
    assert np.shares_memory(d.inputs, x) and d.inputs.dtype == np.uint8
    assert dataset(x.astype(np.int64), np.arange(10) % 2).inputs.dtype == np.int32
    assert dataset(x > 3, np.arange(10) % 2).inputs.dtype == np.uint8
    assert load(d) is d
    r = dataset(x, np.linspace(0, 1, 10))
    assert r.num_classes == 0 and len(r.test_labels) == 2
    assert dataset(x, np.arange(10) % 2, regression=True).labels.dtype == np.float32
    assert dataset(x, ["b", "a"] * 5).labels.sum() == 4  # "b" is class 1; one of five is held out


def test_standardised_images_are_not_scaled_twice(tmp_path):
    write_idx(tmp_path / "mine")
    for d in (load("digits", standardise=True), load(tmp_path / "mine", standardise=True)):
        seen = ((d.inputs.astype(np.float32) - d.offset) * d.scale).reshape(len(d.inputs), -1)
        varies = d.inputs.reshape(len(d.inputs), -1).std(axis=0) > 0
        np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(seen.std(axis=0)[varies], 1, rtol=1e-4)
    assert load(tmp_path / "mine", regression=True).num_classes == 0


def test_synthetic_says_so_and_is_learnable():
    from sklearn.linear_model import LogisticRegression

    d = synthetic_classification(500, 10, 3, separation=4.0, seed=1)
    assert d.name == "synthetic_classification" and d.num_classes == 3
    score = LogisticRegression(max_iter=500).fit(d.inputs, d.labels).score(d.test_inputs, d.test_labels)
    assert score > 0.9
    again = synthetic_classification(500, 10, 3, separation=4.0, seed=1)
    np.testing.assert_array_equal(d.inputs, again.inputs)


# Bad input


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist", "cifar10"])
def test_missing_file_names_the_command(bare_machine, name):
    with pytest.raises(ValueError) as error:
        load(name)
    text = one_line(error)
    assert data_files.SOURCES[name].install in text and data_files.SOURCES[name].files[0] in text


def test_half_a_copy_names_the_missing_file(bare_machine):
    write_idx(bare_machine / "mnist")
    (bare_machine / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    for load_it in (lambda: load("mnist", data_dir=bare_machine), lambda: load(bare_machine / "mnist")):
        with pytest.raises(ValueError) as error:
            load_it()
        assert "t10k-labels-idx1-ubyte" in one_line(error)


def test_wrong_hash(bare_machine):
    write_idx(bare_machine / "fashion-mnist", zipped=True)
    with pytest.raises(ValueError) as error:
        load("fashion_mnist", data_dir=bare_machine)
    text = one_line(error)
    assert "SHA-256 c59f468a2f672dc8" in text and "apt-get install -y dataset-fashion-mnist" in text


def test_damaged_files(tmp_path):
    write_idx(tmp_path / "a", zipped=True)
    path = tmp_path / "a" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError) as error:
        load(tmp_path / "a")
    assert "whole gzip" in one_line(error)
    for contents, reason in ((b"GIF8", "IDX file"), (idx_bytes(np.zeros((20, 6, 5)))[:-1], "599 bytes")):
        path.write_bytes(gzip.compress(contents))
        with pytest.raises(ValueError) as error:
            load(tmp_path / "a")
        assert reason in one_line(error)
    write_cifar(tmp_path / "c")
    (tmp_path / "c" / "data_batch_2.bin").write_bytes(b"\0" * 3074)
    with pytest.raises(ValueError) as error:
        load(tmp_path / "c")
    assert "3073" in one_line(error)
    (tmp_path / "c" / "data_batch_2.bin").write_bytes(b"\0" * 3073 + b"\x0b" + b"\0" * 3072)
    with pytest.raises(ValueError) as error:
        load(tmp_path / "c")
    assert "11 in record 1" in one_line(error)
    (tmp_path / "x.npz").write_bytes(b"not a zip")
    with pytest.raises(ValueError) as error:
        load(tmp_path / "x.npz")
    one_line(error)
    np.savez(tmp_path / "y.npz", images=np.zeros((3, 2)))
    with pytest.raises(ValueError) as error:
        load(tmp_path / "y.npz")
    assert "keys images" in one_line(error)
    np.savez(tmp_path / "z.npz", inputs=np.array([{}], dtype=object), labels=np.zeros(1))
    with pytest.raises(ValueError) as error:
        load(tmp_path / "z.npz")
    one_line(error)


def test_bad_csv(tmp_path):
    path = tmp_path / "a.csv"
    for text, reason in (
        ("a,b,y\n1,2,0\n1,0\n", "2 in row 3"),
        ("a,b,y\n1,2,0\n1,,1\n", "'' in row 3, column 'b'"),
        ("a,b,y\n1,2,0\n1,nan,1\n3,4,0\n", "'nan' in row 3, column 'b'"),
        ("a,b,y\n", "two rows"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError) as error:
            load(path)
        assert reason in one_line(error)
    path.write_text("a,b,y\n1,2,0\n1,3,1\n")
    with pytest.raises(ValueError) as error:
        load(path, label="z")
    one_line(error)


def test_bad_arrays():
    x, y = np.ones((10, 3)), np.arange(10) % 2
    bad = x.copy()
    bad[7, 1] = np.nan
    cases = [
        (lambda: dataset(bad, y), "nan at index (7, 1)"),
        (lambda: dataset(x * 1e39, y), "inf at index (0, 0)"),
        (lambda: dataset(x, y[:9]), "[9]"),
        (lambda: dataset(x[:, 0], y), "[10]"),
        (lambda: dataset(x[:0], y[:0]), "[0, 3]"),
        (lambda: dataset(x, y - 1), "-1 at index 0"),
        (lambda: dataset(x, y, num_classes=1), "at index 1"),
        (lambda: dataset(x, np.where(y, np.nan, 0.5)), "nan at index (1,)"),
        (lambda: dataset(x, y * 1000), "as high as 1000"),
        (lambda: dataset(x.astype(str), y), "dtype <U"),
        (lambda: dataset(x.astype(complex), y), "complex"),
        (lambda: dataset(x.astype(np.int64) * 2**40, y), "32 bits"),
        (lambda: dataset(x, y, test_inputs=x), "together"),
        (lambda: dataset(x, y, test_inputs=x[:, :2], test_labels=y), "[10, 2]"),
        (lambda: dataset(x, y, test_fraction=1.5), "1.5"),
        (lambda: dataset(x, y, test_fraction=0.01), "hold out one"),
        (lambda: dataset(x, y, columns={"user": y[:3]}), "columns['user']"),
        (lambda: dataset(x, y, scale=float("nan")), "scale"),
        (lambda: load("mnits"), "Did you mean 'mnist'"),
        (lambda: load("nowhere.npz"), "nowhere.npz"),
        (lambda: load(x), "ndarray"),
        (lambda: load("digits", label="x"), "label must be left out: this source has no columns to name"),
        (lambda: load("digits", columns=["user"]), "columns must be left out"),
        (lambda: load("digits", standardise="no"), "standardise must be True or False, got 'no'"),
        (lambda: load("digits", data_dir=3), "data_dir must be a string, a path or None, got 3"),
        (lambda: load("mnist", data_dir="x" * 3000), "data_dir must be a name or a path, got 'xxx"),
        (lambda: load("x" * 3000), "source must be a name or a path, got 'xxx"),
        (lambda: dataset(x, y, regression="no"), "regression must be True, False or None, got 'no'"),
        (lambda: dataset(x, y, num_classes="two"), "num_classes must be an integer"),
        (lambda: dataset(x, y, test_columns={"user": y}), "test_columns must be given together with test_inputs"),
        (lambda: dataset(x, y, name=3), "name must be a string, got 3"),
        (lambda: dataset(object(), y), "of shape [M, ...]"),
        (lambda: synthetic_classification(2 * 10**9), "num_examples must be small enough for"),
        (lambda: synthetic_classification(40, 2 * 10**9), "num_features must be small enough for"),
        (lambda: synthetic_classification(seed=None), "seed must be an integer, got None"),
        (lambda: synthetic_classification(5, 2, 4), "num_examples"),
    ]
    for make, reason in cases:
        with pytest.raises(ValueError) as error:
            make()
        assert reason in one_line(error), str(error.value)


def test_folder_without_data(tmp_path):
    with pytest.raises(ValueError) as error:
        load(tmp_path)
    assert "neither" in str(error.value)
