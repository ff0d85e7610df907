"""The code that a run's results depend on, as text that is the same in every process.

For an experiment file it is the file, less what only looks at results, with the user's own modules that it imports.
For a function it is its byte code, what it closes over and the globals it names, followed through everything that
belongs to no installed package; those, and this one, count by version.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import pathlib
import re
import sysconfig
from types import CodeType, ModuleType
from typing import Any

import jax
import numpy as np

from dlsim.configs.beside import files_beside
from dlsim.running.jaxpr_text import content

NOT_BUILDING = (
    "get_config",
    "axes",
    "claims",
    "figure",
    "drawings",
    "main",
)  # functions of a file that no run depends on
NOT_DECIDING = (
    "analysis", "bench", "environments/rendering", "plotting", "report", "results", "running/progress_bar.py",
    "running/terminal_bar.py", "studies", "sweeps", "terminal", "__main__.py", "experiment.py", "files.py", "locks.py",
    "palette.py",
)  # rooms and files of the package that no result depends on  # fmt: skip
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")
_OWN = pathlib.Path(__file__).resolve().parent.parent
_PATHS = ("stdlib", "platstdlib", "purelib", "platlib")
_INSTALLED = tuple({pathlib.Path(sysconfig.get_path(name)).resolve() for name in _PATHS})


def code_of_experiment(module: ModuleType, text: str) -> str:
    """Digest of an experiment file and of the user's own modules that it imports, wherever in it."""
    parts = [code_of_file(text)]
    beside = files_beside(pathlib.Path(module.__file__)) if module.__file__ else []
    parts += [f"module {code_of_file(path.read_text(encoding='utf-8'))}" for path in beside]
    for value in vars(module).values():
        other = value if isinstance(value, ModuleType) else inspect.getmodule(value) if callable(value) else None
        if other is not None and other is not module and _is_users(other):
            parts.append(_of_module(other))
    return hashlib.sha256("\n".join(dict.fromkeys(parts)).encode()).hexdigest()


def code_of_function(make: Any) -> str:
    """Digest of a function with all that it reaches, or of a callable object."""
    return hashlib.sha256(_Reader().read(make).encode()).hexdigest()


def describe(value: Any) -> Any:
    """A value of an axis as JSON can hold it: plain ones as they are, functions and objects by what is in them."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (tuple, list):
        return [describe(item) for item in value]
    return hashlib.sha256(_Reader().read(value).encode()).hexdigest()


@functools.cache
def code_of_package(root: pathlib.Path = _OWN) -> str:
    """Digest of this package's own code, less what only looks at results or talks to a terminal."""
    digest = hashlib.sha256()
    for path in deciding_files(root):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def deciding_files(root: pathlib.Path = _OWN) -> list[pathlib.Path]:
    """The files of the package that results may depend on, in order."""
    inside = {path: path.relative_to(root) for path in sorted(root.rglob("*.py"))}
    rooms = {pathlib.PurePosixPath(name) for name in NOT_DECIDING}
    return [path for path, place in inside.items() if not rooms & {pathlib.PurePosixPath(place), *place.parents}]


def code_of_file(text: str) -> str:
    """A file without comments, docstrings and the functions that no run depends on."""
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name in NOT_BUILDING)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


class _Reader:
    """Follows a value; what was met before is named by its place, so that cycles end."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no address is used twice

    def read(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, np.ndarray | np.generic | jax.Array) and not getattr(value.dtype, "hasobject", False):
            return content(value)
        if isinstance(value, ModuleType):
            return _of_module(value)
        if id(value) in self._met:
            return f"met {self._met[id(value)]}"
        self._met[id(value)] = len(self._met)
        self._alive.append(value)
        return self._of_kind(value)

    def _of_kind(self, value: Any) -> str:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, tuple | list):
            return f"{kind}({','.join(self.read(item) for item in value)})"
        if isinstance(value, dict):
            return f"{kind}({','.join(f'{self.read(key)}:{self.read(item)}' for key, item in value.items())})"
        if isinstance(value, set | frozenset):
            return f"{kind}({','.join(sorted(_Reader().read(item) for item in value))})"
        if isinstance(value, functools.partial):
            return f"partial({self.read((value.func, value.args, value.keywords))})"
        if inspect.ismethod(value):
            return f"method({self.read(value.__func__)} {self.read(value.__self__)})"
        if isinstance(value, type):
            return self._of_class(value)
        if inspect.isfunction(value):
            return self._of_function(value)
        if inspect.isfunction(getattr(value, "__wrapped__", None)):  # jitted, cached, ...
            return f"{kind}({self.read(value.__wrapped__)})"
        held = getattr(value, "__dict__", None)
        if held:
            return f"{kind} {self.read(type(value))} {self.read(dict(held))}"
        return f"{kind} {_ADDRESS.sub('', repr(value))}"

    def _of_function(self, function: Any) -> str:
        cells = [_held(cell) for cell in function.__closure__ or ()]
        given = [cells, function.__defaults__, function.__kwdefaults__]
        name = f"{function.__module__}.{function.__qualname__}"
        if not _is_users(inspect.getmodule(function)):
            return f"{name}({self.read(given)})"
        named = sorted(_names(function.__code__) & function.__globals__.keys())
        reached = [function.__globals__[other] for other in named]
        return f"{self._of_code(function.__code__)}({self.read(given)} {named} {self.read(reached)})"

    def _of_code(self, code: CodeType) -> str:
        constants = [self._of_code(c) if isinstance(c, CodeType) else self.read(c) for c in code.co_consts]
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        return f"{code.co_code.hex()} {names} {constants}"

    def _of_class(self, kind: type) -> str:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if not _is_users(inspect.getmodule(kind)):
            return name
        own = {key: item for key, item in vars(kind).items() if not (key.startswith("__") and not callable(item))}
        return f"{name}({self.read([*kind.__bases__])} {self.read(own)})"


def _held(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _names(code: CodeType) -> set[str]:
    """The names that a function and those inside it may take from the globals."""
    return {*code.co_names}.union(*(_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _is_users(module: ModuleType | None) -> bool:
    """Whether a module belongs to no installed package."""
    file = getattr(module, "__file__", None)
    if file is None:
        return module is None or module.__name__ == "__main__"
    place = pathlib.Path(file).resolve()
    return not any(place.is_relative_to(folder) for folder in (_OWN, *_INSTALLED))


def _of_module(module: ModuleType) -> str:
    if not _is_users(module):
        return f"module {module.__name__}"
    try:
        return f"module {code_of_file(inspect.getsource(module))}"
    except (OSError, TypeError, SyntaxError):
        return f"module {module.__name__}"
