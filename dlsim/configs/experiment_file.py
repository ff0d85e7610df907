"""Experiment files and their configs: loading, modes, typed overrides from the command line."""

from __future__ import annotations

import ast
import hashlib
import math
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from dlsim import checks, files
from dlsim.configs.beside import load_module

if TYPE_CHECKING:
    from ml_collections import ConfigDict

NEEDED = ("get_config", "build")  # functions that make a file an experiment
MODES = ("default", "tiny", "paper")  # of a file that does not list its own


class Experiment(NamedTuple):
    """A loaded experiment file."""

    name: str  # the file's stem
    path: pathlib.Path
    module: ModuleType  # get_config, build; optionally axes, claims, figure, drawings, MODES, CITATION
    sha256: str

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def modes(self) -> tuple[str, ...]:
        """The file's own `MODES`, or default, tiny and paper."""
        return tuple(getattr(self.module, "MODES", MODES))

    @property
    def citation(self) -> str:
        """The file's own `CITATION`, or what its docstring gives as its source; empty if neither does."""
        return str(getattr(self.module, "CITATION", "")) or cited(self.module.__doc__ or "")


def cited(doc: str) -> str:
    """The source that a docstring gives: its second paragraph up to the command, where that has a year in it."""
    paragraphs = [" ".join(part.split()) for part in doc.split("\n\n")]
    found = paragraphs[1].partition("Command:")[0].strip() if len(paragraphs) > 1 else ""
    return found if re.search(r"\b(19|20)\d\d\b", found) else ""


def load_experiment(path: str | os.PathLike[str]) -> Experiment:
    """Import an experiment file; one clear line if it is not there or is no experiment.

    It imports as under `python file.py`: what lies beside it comes first.  Nobody else sees that; see `configs.beside`.
    """
    file = files.given_path("run", "file", path)
    if not file.is_file():
        near = sorted(p.stem for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
        hint = (
            f" There: {', '.join(near)}. {checks.meant(file.stem, near)}"
            if near
            else " `dlsim list` shows experiments."
        )
        raise FileNotFoundError(f"run: file must be an experiment file (.py), got {file}.{hint.rstrip()}")
    if file.suffix != ".py":
        checks.fail("run", "file", "a Python file", str(file))
    module = load_module(f"dlsim_experiment_{file.stem}", file)
    missing = [function for function in NEEDED if not callable(getattr(module, function, None))]
    if missing:
        checks.fail("run", "file", "an experiment with get_config and build", f"{file} without {' and '.join(missing)}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Experiment(name=file.stem, path=file.absolute(), module=module, sha256=digest)


def make_config(
    experiment: Experiment, mode: str, overrides: Sequence[str] = (), seeds: int | None = None
) -> ConfigDict:
    """The locked config of a mode, with overrides `key=value` and the number of seeds applied."""
    from ml_collections import ConfigDict

    checks.one_of(experiment.name, "mode", mode, experiment.modes)
    config = experiment.module.get_config(mode)
    if not isinstance(config, ConfigDict):
        checks.fail(experiment.name, "get_config", "a function that gives an ml_collections.ConfigDict", repr(config))
    config.lock()
    for needed in ("num_steps", "num_seeds"):
        if needed not in config:
            checks.fail(experiment.name, "config", f"one with the key {needed}", ", ".join(config))
    apply_overrides(config, overrides)
    if seeds is not None:
        config.num_seeds = checks.count("run", "seeds", seeds, checks.MOST_SEEDS)
    checks.count("run", "config.num_steps", config.num_steps, checks.MOST_STEPS)
    checks.count("run", "config.num_seeds", config.num_seeds, checks.MOST_SEEDS)
    return config


def apply_overrides(config: ConfigDict, overrides: Iterable[str]) -> None:
    """Set `key=value` for each override; `key` may be dotted.

    The value is read by the type of the one it replaces: an int fits a float, a list is written `1,2` or `(1, 2)`.
    Raises ValueError with one line for an unknown key or a value of another type, and then changes nothing.
    """
    known = flatten(config)
    pairs = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            checks.fail("run", "override", "of the form --config.key=value", repr(override))
        if key not in known:
            checks.one_of("run", "config key", key, known)
        pairs.append((key, _parse(f"config.{key}", text, known[key])))
    for key, value in pairs:
        assign(config, key, value)


def assign(config: ConfigDict, key: str, value: Any) -> None:
    """Set a dotted key that exists, whatever the type that it held."""
    *path, last = key.split(".")
    for part in path:
        config = config[part]
    with config.ignore_type():
        config[last] = value


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted keys and their values."""
    from ml_collections import ConfigDict

    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            out.update(flatten(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out


def _parse(name: str, text: str, old: Any) -> Any:
    """`text` as a value of the type of `old`."""
    if isinstance(old, bool):
        if text.lower() not in ("true", "false"):
            checks.fail("run", name, "true or false", repr(text))
        return text.lower() == "true"
    if isinstance(old, int):
        return _number(name, text, int, "an integer")
    if isinstance(old, float):
        return _number(name, text, float, "a finite number")
    if isinstance(old, str):
        return _unquoted(text)
    if isinstance(old, tuple | list):
        return _parse_list(name, text, old)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def split_mode(text: str) -> tuple[str, str]:
    """`FILE[:mode]` as file and mode."""
    path, colon, mode = text.rpartition(":")
    if colon and path and not mode.endswith(".py"):
        return path, mode or "default"
    return text, "default"


def parse_items(name: str, text: str, like: Any) -> list[Any]:
    """Values separated by commas, each of the type of `like`."""
    return [_parse(name, item.strip(), like) for item in text.split(",") if item.strip()]


def _number(name: str, text: str, kind: type, rule: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        checks.fail("run", name, rule, repr(text))
    if not math.isfinite(value):
        checks.fail("run", name, rule, repr(text))
    return value


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _parse_list(name: str, text: str, old: tuple[Any, ...] | list[Any]) -> Any:
    """A list of the type of `old`, its items of the type of the first item of `old`, if there is one."""
    inner = text.strip()
    if inner and (inner[0], inner[-1]) in (("(", ")"), ("[", "]")):
        inner = inner[1:-1]
    if old and isinstance(old[0], bool | int | float | str):
        items: Any = [_parse(name, item.strip(), old[0]) for item in inner.split(",") if item.strip()]
    else:
        try:
            items = ast.literal_eval(f"[{inner}]")
        except (ValueError, SyntaxError):
            checks.fail("run", name, "a list such as (1, 2)", repr(text))
    if old and not items:
        checks.fail("run", name, "a list of at least one value", repr(text))
    return type(old)(items)
