"""Every notebook runs from its first cell to its last, shows a figure, and is kept without outputs."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pathlib
import re
import shutil

import pytest
from patience import PATIENCE

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LIMIT = int(PATIENCE)


def test_all_are_there_and_listed():
    names = [path.name for path in NOTEBOOKS]
    assert [name[:2] for name in names] == [f"{i:02d}" for i in range(1, 9)]
    listed = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", (ROOT / "notebooks" / "README.md").read_text())
    assert listed == names


def imports(path):
    """What the cells of a notebook, or the blocks of a page, import of ours: module and name."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        blocks = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    else:
        blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    plain = ["\n".join(line for line in block.splitlines() if not line.lstrip().startswith("%")) for block in blocks]
    for block in plain:
        for line in re.findall(r"^\s*((?:from|import) dlsim[^\n(]*(?:\([^)]*\))?)", block, flags=re.M):
            (node,) = ast.parse(line.strip()).body
            for one in node.names:
                yield (one.name, None) if isinstance(node, ast.Import) else (node.module, one.name)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.stem)
def test_what_is_imported_is_there(path):
    for module, name in imports(path):
        is_there = name is None or hasattr(importlib.import_module(module), name)
        assert is_there or importlib.import_module(f"{module}.{name}")  # a module that nobody has imported yet


@pytest.mark.slow
@pytest.mark.needs("nbformat", "nbclient", "ipykernel")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0] is code[0] and "%pip install -q {source}" in code[0].source
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code), "stored with outputs"
    # As in a checkout, in a folder that may be written.
    shutil.copytree(ROOT / "experiments" / "papers", tmp_path / "experiments" / "papers")
    (tmp_path / "notebooks").mkdir()
    client = nbclient.NotebookClient(
        notebook, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "notebooks")}}
    )
    client.execute()
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure"
    kept = os.environ.get("DLSIM_KEEP_NOTEBOOKS")
    if kept:
        nbformat.write(notebook, pathlib.Path(kept) / path.name)
