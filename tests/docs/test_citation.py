"""CITATION.cff and CONTRIBUTING.md agree with the code."""

from __future__ import annotations

import pathlib
import re
import tomllib

import pytest

import dlsim

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def citation():
    import yaml  # comes with flax

    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_citation_is_valid(citation):
    """The fields that version 1.2.0 of the format asks for, and none that it does not know."""
    assert citation["cff-version"] == "1.2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert set(citation) <= {
        "cff-version",
        "message",
        "type",
        "title",
        "abstract",
        "authors",
        "version",
        "license",
        "keywords",
    }
    assert citation["type"] in ("software", "dataset")
    assert all(set(author) == {"name"} for author in citation["authors"])  # an entity
    assert all(isinstance(word, str) for word in (*citation["keywords"], citation["message"], citation["abstract"]))


def test_citation_agrees_with_the_package(citation):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["title"] == project["name"]
    assert str(citation["version"]) == dlsim.__version__
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]
    assert citation["keywords"] == project["keywords"]


def test_contributing_gives_the_commands_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    readme = (ROOT / "README.md").read_text()
    command = next(line for line in readme.splitlines() if "-m pytest -n 2" in line)
    assert command in text
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for group in re.findall(r"\.\[([\w,]+)\]", text) for name in group.split(",")}
    assert named and named <= set(extras)
    for script in re.findall(r"python (docs/\w+\.py)", text):
        assert (ROOT / script).exists()
    assert (ROOT / ".ci" / "run").exists()
