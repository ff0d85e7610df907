"""What lies beside an experiment file, imported as `python file.py` would import it, and seen by nobody else.

The file, and the user's modules that it reaches, have an `__import__` of their own: it looks into the file's folder first,
but not for names of the standard library.  Outside of their import statements neither `sys.path` nor `sys.modules` show
anything of it, so that two experiments may each have a `helpers.py`, and no installed package gets one of them.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import importlib.machinery
import importlib.util
import pathlib
import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

_IMPORTING = threading.RLock()


def load_module(name: str, file: pathlib.Path) -> ModuleType:
    """A file as the module `name`, with what lies beside it within reach."""
    loader = _Loader(name, str(file), _Beside(file.absolute().parent))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # what pickling and dataclasses look up
    loader.exec_module(module)
    return module


def files_beside(file: pathlib.Path) -> list[pathlib.Path]:
    """The files in the folder of an experiment file that it imports, anywhere in it and through one another, sorted."""
    folder, found = file.absolute().parent, set[pathlib.Path]()
    waiting = [(file.absolute(), "")]
    while waiting:
        path, package = waiting.pop()
        for name in _imported(ast.parse(path.read_text(encoding="utf-8")), package):
            for other, inside in _files_of(folder, name):
                if other not in found and other != file.absolute():
                    found.add(other)
                    waiting.append((other, inside))
    return sorted(found)


def _files_of(folder: pathlib.Path, name: str) -> list[tuple[pathlib.Path, str]]:
    """The files that `import a.b.c` runs, with the packages that relative imports in them start from."""
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names:
        return []
    out = []
    for i in range(len(parts)):
        place, whole = folder.joinpath(*parts[: i + 1]), ".".join(parts[: i + 1])
        out += [(place / "__init__.py", whole), (place.with_suffix(".py"), ".".join(parts[:i]))]
    return [(path, package) for path, package in out if path.is_file()]


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The dotted names that the import statements of a file name, those of `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level and package else []
            base = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            if base and (node.level == 0 or package):
                yield base
            yield from (f"{base}.{alias.name}".strip(".") for alias in node.names if node.level == 0 or package)


class _Loader(importlib.machinery.SourceFileLoader):
    """Gives a module the `__import__` of its folder before it runs."""

    def __init__(self, name: str, path: str, beside: _Beside) -> None:
        super().__init__(name, path)
        self._beside = beside

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._beside.builtins
        super().exec_module(module)


class _Beside:
    """The `__import__` of one experiment, and the finder that serves it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._modules: dict[str, ModuleType] = {}
        self._open: set[str] = set()  # whose statement is under way: what imports one another in a circle
        self.builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import}

    def _import(
        self,
        name: str,
        globals: dict[str, Any] | None = None,
        locals: dict[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        asked = ((globals or {}).get("__package__") or "") if level else name
        top = asked.partition(".")[0]
        if not self._serves(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        with _IMPORTING:
            if top in self._open:
                return builtins.__import__(name, globals, locals, fromlist or (), level)
            with self._within_reach(top):
                return builtins.__import__(name, globals, locals, fromlist or (), level)

    def _serves(self, top: str) -> bool:
        """Whether the folder has it; one without an `__init__.py` comes after all that is installed, as always."""
        if top in self._modules:
            return True
        if not top or top in sys.stdlib_module_names or top in sys.builtin_module_names:
            return False
        spec = importlib.machinery.PathFinder.find_spec(top, [str(self._folder)])
        if spec is None:
            return False
        return spec.loader is not None or (top not in sys.modules and importlib.util.find_spec(top) is None)

    @contextlib.contextmanager
    def _within_reach(self, top: str) -> Iterator[None]:
        """With the modules of the folder in place of others of their names, until the statement is done."""
        mine = {name: module for name, module in self._modules.items() if _is_of(name, top)}
        others = {name: module for name, module in sys.modules.items() if _is_of(name, top) and name not in mine}
        others |= {
            name: sys.modules[name] for name in mine if name in sys.modules and sys.modules[name] is not mine[name]
        }
        for name in others:
            del sys.modules[name]
        sys.modules.update(mine)
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]
        self._open.add(top)
        try:
            yield
        finally:
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            self._open.remove(top)
            for name in [name for name in sys.modules if _is_of(name, top)]:
                self._modules[name] = sys.modules.pop(name)
            sys.modules.update(others)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        """What `sys.meta_path` asks: a module of the folder, for a file of the folder."""
        if path is None and not self._is_asking():
            return None
        places = [str(self._folder)] if path is None else [p for p in path if self._has(p)]
        spec = importlib.machinery.PathFinder.find_spec(name, places) if places else None
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _Loader(name, spec.loader.path, self)
        return spec

    def _is_asking(self) -> bool:
        """Whether the statement that imports is in a file of the folder, and not in a package that it has imported."""
        frame = sys._getframe(2)
        while frame is not None and (
            frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code is _Beside._import.__code__
        ):
            frame = frame.f_back  # type: ignore[assignment]
        return frame is not None and frame.f_builtins is self.builtins

    def _has(self, place: str) -> bool:
        return pathlib.Path(place).absolute().is_relative_to(self._folder)


def _is_of(name: str, top: str) -> bool:
    return name == top or name.startswith(f"{top}.")
