"""The page of experiments, from the docstrings of their files."""

from __future__ import annotations

import ast
import pathlib
import re

import docstrings

INTRODUCTION = """\
# Papers and experiments

Every file under `experiments/` that `dlsim run` takes, with what it asks, how it is run, what was measured and what was
left out, in the words of the file itself.  How to read such numbers: {doc}`numbers`.
"""
GROUPS = {".": "First", "papers": "Papers", "sweeps": "Sweeps", "benchmarks": "Benchmarks"}


def about(path: pathlib.Path) -> tuple[str, str] | None:
    """First line and rest of the docstring of an experiment file, read without running it; None if it is none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    text = ast.get_docstring(tree)
    if not {"get_config", "build"} <= defined or not text:
        return None
    first, _, rest = text.partition("\n\n")
    return first.replace("\n", " "), rest


def page(folder: pathlib.Path) -> str:
    """The page as Markdown."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        parts = about(path)
        if parts is None:
            continue
        group = str(path.relative_to(folder).parent)
        title, _, question = parts[0].partition(": ")
        anchor = re.sub(r"\W+", "-", path.stem)
        body = docstrings.to_markdown(parts[1])
        asked = docstrings.escaped(question[:1].upper() + question[1:])
        command = f"dlsim run experiments/{path.relative_to(folder).as_posix()}"
        said = [] if command in body else [f"`{command}`"]
        entry = "\n\n".join([f"({anchor})=\n### {docstrings.escaped(title)}", f"*{asked}*", *said, body])
        found.setdefault(group, []).append(entry)
    sections = [
        f"## {GROUPS.get(group, group)}\n\n" + "\n\n".join(found[group])
        for group in sorted(found, key=lambda name: (list(GROUPS).index(name) if name in GROUPS else 9, name))
    ]
    return "\n\n".join([INTRODUCTION, *sections]) + "\n"
