"""Experiment files in folders, and what they say of themselves, read without running them."""

from __future__ import annotations

import ast
import os
import pathlib
from typing import Any, NamedTuple

from dlsim import checks
from dlsim.configs import MODES, NEEDED

PAPERS = pathlib.Path("experiments") / "papers"


class Entry(NamedTuple):
    """An experiment file, unopened."""

    path: pathlib.Path
    title: str  # first line of the docstring
    citation: str  # the second paragraph's first sentence, up to the command; empty if there is none
    modes: tuple[str, ...]
    minutes: dict[str, float]  # what a mode takes on two cores, as the file says; modes it says nothing of are absent

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> str:
        """`"38"` of `38_swarmbench.py`; empty for a file without a number."""
        head = self.name.partition("_")[0]
        return head if head.isdigit() else ""


def read_entry(file: pathlib.Path) -> Entry | None:
    """What an experiment file says of itself; None if the file is none."""
    try:
        tree = ast.parse(file.read_text())
    except (SyntaxError, UnicodeDecodeError):
        return None
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if not set(NEEDED) <= defined:
        return None
    doc = ast.get_docstring(tree) or ""
    paragraphs = [" ".join(part.split()) for part in doc.split("\n\n")]
    citation = paragraphs[1].partition("Command:")[0].strip() if len(paragraphs) > 1 else ""
    modes, minutes = _constant(tree, "MODES"), _constant(tree, "MINUTES")
    return Entry(
        path=file,
        title=doc.partition("\n")[0],
        citation=citation,
        modes=tuple(str(mode) for mode in modes) if isinstance(modes, tuple | list) else MODES,
        minutes={str(mode): float(value) for mode, value in minutes.items()} if isinstance(minutes, dict) else {},
    )


def _constant(tree: ast.Module, name: str) -> Any:
    """The literal that a module gives a name; None if there is none, or only running the file would tell."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            try:
                return ast.literal_eval(node.value)
            except (ValueError, TypeError):
                return None
    return None


def entries(folder: str | os.PathLike[str]) -> list[Entry]:
    """All experiments of a folder and of those in it, in the order of their paths."""
    found = (read_entry(file) for file in sorted(pathlib.Path(folder).rglob("*.py")))
    return [one for one in found if one is not None]


def papers_folder(folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Where the papers' experiments are: the folder given, or `experiments/papers` here, or that of the checkout."""
    if folder is not None:
        place = pathlib.Path(folder)
        if not place.is_dir():
            checks.fail("reproduce", "folder", "a folder of experiments", str(place))
        return place
    checkout = pathlib.Path(__file__).parent.parent
    for root in (pathlib.Path(), checkout):
        if (root / PAPERS).is_dir():
            return root / PAPERS
    fix = "Run it in a checkout of dlsim, or give --folder."
    return checks.fail("reproduce", "folder", f"a folder of experiments, such as {PAPERS}", "none here", fix)


def choose(found: list[Entry], names: list[str] | tuple[str, ...]) -> list[Entry]:
    """The papers that `names` (numbers, names of files, or `all`) mean, each once, in the order of the folder.

    Raises ValueError with one line that lists the papers for one that is not there.
    """
    if not found:
        checks.fail("reproduce", "folder", "a folder of experiments", "one without any")
    chosen: set[str] = set()
    for name in names:
        short = pathlib.Path(name).stem if name.endswith(".py") else name
        fits = [
            one.name
            for one in found
            if short in ("all", one.name) or (one.number and short.isdigit() and int(short) == int(one.number))
        ]
        if not fits:
            there = ", ".join(
                f"{one.number} ({one.name.partition('_')[2]})" if one.number else one.name for one in found
            )
            checks.fail("reproduce", "paper", f"all, or one of {there}", repr(name))
        chosen.update(fits)
    return [one for one in found if one.name in chosen]
