"""Experiment files in folders, and what they say of themselves, read without running them."""

from __future__ import annotations

import ast
import hashlib
import os
import pathlib
from typing import Any, NamedTuple

from dlsim import checks, files
from dlsim.configs import MODES, NEEDED, cited

EXPERIMENTS = pathlib.Path("experiments")
GROUPS = ("all", "papers", "studies")
ABOUT = ("MINUTES", "CITATION", "TWO_CORES")  # constants that no run depends on


class Entry(NamedTuple):
    """An experiment file, unopened."""

    path: pathlib.Path
    title: str  # first line of the docstring
    citation: str  # `CITATION`, or what the docstring gives as the source; empty if neither does
    modes: tuple[str, ...]
    minutes: dict[str, float]  # what a mode takes on two cores, as the file says; modes it says nothing of are absent
    two_cores: str  # the mode for two cores

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        """`"38"` of `38_swarmbench.py`; empty for a file without a number."""
        head = self.name.partition("_")[0]
        return head if head.isdigit() else ""

    @property
    def group(self) -> str:
        """`"papers"` for a file with a number, `"studies"` for any other."""
        return "papers" if self.number else "studies"


def read_entry(file: pathlib.Path) -> Entry | None:
    """What an experiment file says of itself; None if the file is none."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return None
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if not set(NEEDED) <= defined:
        return None
    doc = ast.get_docstring(tree) or ""
    modes, minutes = _constant(tree, "MODES"), _constant(tree, "MINUTES")
    return Entry(
        path=file,
        title=doc.partition("\n")[0],
        citation=str(_constant(tree, "CITATION") or cited(doc)),
        modes=tuple(str(mode) for mode in modes) if isinstance(modes, tuple | list) else MODES,
        minutes={str(mode): float(value) for mode, value in minutes.items()} if isinstance(minutes, dict) else {},
        two_cores=str(_constant(tree, "TWO_CORES") or "default"),
    )


def code_digest(text: str) -> str:
    """Of an experiment file, less its docstrings, its comments and what it says of itself: what a run depends on."""
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if not any(_gives(node, name) for name in ABOUT)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _gives(node: ast.stmt, name: str) -> bool:
    """Whether a statement assigns to this name."""
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)


def _constant(tree: ast.Module, name: str) -> Any:
    """The literal that a module gives a name; None if there is none, or only running the file would tell."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and _gives(node, name):
            try:
                return ast.literal_eval(node.value)
            except (ValueError, TypeError):
                return None
    return None


def entries(folder: str | os.PathLike[str]) -> list[Entry]:
    """All experiments of a folder and of those in it, papers first, in the order of their paths."""
    found = (read_entry(file) for file in sorted(pathlib.Path(folder).rglob("*.py")))
    return sorted((one for one in found if one is not None), key=lambda one: GROUPS.index(one.group))


def experiments_folder(folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Where experiments are: the folder given, or `experiments` here, or that of the checkout."""
    if folder is not None:
        place = files.given_path("reproduce", "folder", folder)
        if not place.is_dir():
            checks.fail("reproduce", "folder", "a folder of experiments", str(place))
        return place
    checkout = pathlib.Path(__file__).parents[2]
    for root in (pathlib.Path(), checkout):
        if (root / EXPERIMENTS).is_dir() and entries(root / EXPERIMENTS):
            return root / EXPERIMENTS
    fix = "Run it in a checkout of dlsim, or give --folder."
    return checks.fail("reproduce", "folder", "a folder of experiments", "none here", fix)


def choose(found: list[Entry], names: list[str] | tuple[str, ...]) -> list[Entry]:
    """What `names` (numbers of papers, names of files, or one of `GROUPS`) mean, each once, in the order of `found`.

    Raises ValueError with one line that lists what there is for one that is not there.
    """
    if not found:
        checks.fail("reproduce", "folder", "a folder of experiments", "one without any")
    chosen: set[pathlib.Path] = set()
    for name in names:
        fits = [one.path for one in found if _means(name, one)]
        if not fits:
            there = ", ".join(
                f"{one.number} ({one.name.partition('_')[2]})" if one.number else one.name for one in found
            )
            names = [
                *GROUPS,
                *(one.name for one in found),
                *(one.name.partition("_")[2] for one in found if one.number),
            ]
            hint = checks.meant(pathlib.Path(name).stem, names)
            checks.fail("reproduce", "experiment", f"{', '.join(GROUPS)}, or one of {there}", repr(name), hint)
        chosen.update(fits)
    return [one for one in found if one.path in chosen]


def _means(name: str, one: Entry) -> bool:
    short = pathlib.Path(name).stem if name.endswith(".py") else name
    is_number = bool(one.number) and short.isdigit() and int(short) == int(one.number)
    return short in ("all", one.group, one.name) or is_number
