"""The public symbols of a package, and what of them is not documented."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import io
import pkgutil
import re
import tokenize
from types import ModuleType
from typing import Any, NamedTuple

# Modules that are public as a whole, though they have no `__all__`: what is defined in them, without an underscore.
WHOLE = (
    "checks",
    "core",
    "experiment",
    "keys",
    "learning.metrics",
    "running.batching",
    "running.meshes",
    "trees",
)
MANY = 4  # arguments; a function with fewer may say with its name and one line what they are
PATH = re.compile(r"`(\w+(?:\.\w+)+)(\([^`]*\))?`")


class Symbol(NamedTuple):
    """One public name."""

    module: str  # where it is public, e.g. dlsim.algorithms
    name: str
    value: Any

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"


def defined_here(module: ModuleType, value: Any) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def names_of(module: ModuleType) -> list[str]:
    """What a module makes public: its `__all__`, or what is defined in it."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return sorted(
        name for name, value in vars(module).items() if not name.startswith("_") and defined_here(module, value)
    )


def symbols_of(module: ModuleType) -> list[Symbol]:
    """The public symbols of one module, its submodules left out: they have their own page."""
    pairs = [(name, getattr(module, name)) for name in names_of(module)]
    return [Symbol(module.__name__, name, value) for name, value in pairs if not isinstance(value, ModuleType)]


def modules_of(package: str) -> list[ModuleType]:
    """The package, every subpackage with an `__all__`, the modules it exports and those of `WHOLE`, in order of name."""
    root = importlib.import_module(package)
    exported = [getattr(root, name) for name in names_of(root)]
    names = {package, *(value.__name__ for value in exported if isinstance(value, ModuleType))}
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        is_whole = found.name.removeprefix(f"{package}.") in WHOLE
        if is_whole or (found.ispkg and hasattr(importlib.import_module(found.name), "__all__")):
            names.add(found.name)
    return [importlib.import_module(name) for name in sorted(names)]


@functools.cache
def comments(source: str) -> dict[int, str]:
    """The comments of a source text by line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def comment_at(source: str, line: int) -> str:
    """The comment on a line, or the lines of comment right above it."""
    found = comments(source)
    if line in found:
        return found[line]
    lines, above = source.splitlines(), []
    while line - 1 in found and lines[line - 2].lstrip().startswith("#"):
        line -= 1
        above.insert(0, found[line])
    return " ".join(above)


def constant_comment(symbol: Symbol) -> str:
    """What the comment beside a constant says, in the module that assigns it: of the package, or where that has it from."""
    package = importlib.import_module(symbol.module)
    paths = getattr(package, "__path__", None)
    found = [one.name for one in pkgutil.iter_modules(paths, f"{symbol.module}.")] if paths else []
    for node in ast.parse(inspect.getsource(package)).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == symbol.name for alias in node.names):
            found.insert(0, str(node.module))
    for module in (package, *map(importlib.import_module, found)):
        source = inspect.getsource(module)
        for node in ast.parse(source).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [one for target in targets if target is not None for one in ast.walk(target)]
            if any(isinstance(one, ast.Name) and one.id == symbol.name for one in names):
                return comment_at(source, node.lineno)
    return ""


class Field(NamedTuple):
    """One field of a record."""

    name: str
    annotation: str
    default: str | None
    comment: str


def fields_of(value: type) -> list[Field]:
    """The fields of a NamedTuple or dataclass with the comments beside them; none for other classes."""
    if not (hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__")):
        return []
    lines, start = inspect.getsourcelines(value)
    source = inspect.getsource(importlib.import_module(value.__module__))
    found = []
    for node in ast.parse(source).body:
        if (
            isinstance(node, ast.ClassDef)
            and node.name == value.__name__
            and start <= node.lineno <= start + len(lines)
        ):
            for one in node.body:
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                    default = None if one.value is None else ast.unparse(one.value)
                    comment = comment_at(source, one.lineno) or comment_at(source, one.end_lineno or one.lineno)
                    found.append(Field(one.target.id, ast.unparse(one.annotation), default, comment))
    return [one for one in found if not one.name.startswith("_")]


def methods_of(value: type) -> list[tuple[str, Any]]:
    """Public methods and properties that the class itself defines, in the order of the source."""
    members = [(name, member) for name, member in vars(value).items() if not name.startswith("_")]
    kinds = (property, functools.cached_property, staticmethod, classmethod)
    taken = {one.name for one in fields_of(value)}
    return [
        pair for pair in members if pair[0] not in taken and (inspect.isfunction(pair[1]) or isinstance(pair[1], kinds))
    ]


def is_protocol(value: Any) -> bool:
    return isinstance(value, type) and bool(getattr(value, "_is_protocol", False))


@functools.cache
def imported(module: str) -> dict[str, Any]:
    """What the names in a module stand for, those imported for annotations alone included."""
    loaded = importlib.import_module(module)
    found = dict(vars(loaded))
    for node in ast.walk(ast.parse(inspect.getsource(loaded))):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.partition(".")[0] == module.partition(".")[0]
        ):
            source = importlib.import_module(node.module)
            found |= {one.asname or one.name: getattr(source, one.name, None) for one in node.names}
    return found


def own_docstring(value: Any) -> str:
    """The docstring that was written for it: none for what Python makes up (`Point(x, y)`) or inherits."""
    text = (vars(value).get("__doc__") if isinstance(value, type) else getattr(value, "__doc__", None)) or ""
    if isinstance(value, type) and text.startswith(f"{value.__name__}("):
        return ""
    return inspect.cleandoc(text)


def arguments_of(function: Any) -> list[str]:
    try:
        return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
    except (TypeError, ValueError):
        return []


def listed_arguments(text: str) -> list[str]:
    """The names that a docstring's `Args:` lists."""
    found, tail = f"\n{text}\n".partition("\nArgs:\n")[1:]
    body = re.split(r"\n(?=\S)", f"\n{tail}", maxsplit=1)[0] if found else ""
    least = min((len(line) - len(line.lstrip()) for line in body.splitlines() if line.strip()), default=0)
    names = re.findall(rf"^ {{{least}}}((?:\*{{0,2}}\w+(?:, | and )?)+):", body, flags=re.M)
    return [part.strip(" *") for name in names for part in re.split(r",| and ", name)]


def resolves(path: str) -> bool:
    """Whether a dotted path is a module or something in one."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(value, part) and part not in getattr(value, "_fields", ()):
                return False
            value = getattr(value, part, None)
        return True
    return False


def argument_problems(symbol: Symbol, text: str) -> list[str]:
    """Arguments of a function of which nothing is said, and names in its `Args:` that are none of its arguments."""
    arguments, listed = arguments_of(symbol.value), listed_arguments(text)
    shared = f"{text} {own_docstring(importlib.import_module(symbol.value.__module__))}"
    parameters = inspect.signature(symbol.value).parameters.values()
    catch_all = [one.name for one in parameters if one.kind is one.VAR_KEYWORD]
    unsaid = [name for name in arguments if name not in catch_all and not re.search(rf"\b{name}\b", shared)]
    found = []
    if unsaid and (listed or len(arguments) > MANY):
        found.append(f"{symbol.path}: nothing is said of {', '.join(unsaid)}")
    unknown = [] if catch_all else [name for name in listed if name not in arguments]
    return found + [f"{symbol.path}: {name} is in its Args and not an argument" for name in unknown]


def problems_of(symbol: Symbol, package: str) -> list[str]:
    """What is missing in the documentation of one symbol.

    It has a docstring of its own (a constant: a comment beside it; a protocol of one call may do with its name).  A
    function with an `Args:` section, or with more than `MANY` arguments, says something of every argument, there or in
    the docstring of its module; what `Args:` lists is an argument.  Methods have a docstring, or stand in that of their
    class.  What is called `package.path` in backticks exists.
    """
    value, path = symbol.value, symbol.path
    if not callable(value):
        return [] if constant_comment(symbol) else [f"{path}: no comment beside the constant"]
    text = own_docstring(value)
    if not text and not is_protocol(value):
        return [f"{path}: no docstring"]
    found = argument_problems(symbol, text) if inspect.isfunction(value) else []
    if isinstance(value, type) and not is_protocol(value):
        bare = [name for name, member in methods_of(value) if not own_docstring(unwrapped(member))]
        found += [f"{path}.{name}: no docstring" for name in bare if not re.search(rf"\b{name}\b", text)]
    links = {match[0] for match in PATH.findall(text) if match[0].startswith(f"{package}.")}
    return found + [f"{path}: `{link}` does not exist" for link in sorted(links) if not resolves(link)]


def unwrapped(member: Any) -> Any:
    """The function behind a property, cached property, static method or class method."""
    for name in ("fget", "func", "__func__"):
        if getattr(member, name, None) is not None:
            return getattr(member, name)
    return member


def undocumented(package: str) -> list[str]:
    """Everything that is missing in a package's documentation, one line each."""
    found = []
    for module in modules_of(package):
        if not own_docstring(module):
            found.append(f"{module.__name__}: no docstring")
        for symbol in symbols_of(module):
            found += problems_of(symbol, package)
    return found
