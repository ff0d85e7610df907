"""Pages of reference: one for every public module, with an entry for every public symbol."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import docstrings
import symbols
from symbols import Symbol

FENCE = "``````"


class Paths:
    """Where each public object has its entry: under its shortest name, of those the one where it is defined."""

    def __init__(self, everything: list[Symbol]) -> None:
        self.of: dict[int, str] = {}
        self.symbols = [symbol for symbol in everything if callable(symbol.value)]
        for symbol in sorted(self.symbols, key=self._rank):
            self.of.setdefault(id(symbol.value), symbol.path)

    @staticmethod
    def _rank(symbol: Symbol) -> tuple[int, bool, str]:
        return symbol.path.count("."), symbol.module != symbol.value.__module__, symbol.path

    def canonical(self, symbol: Symbol) -> str:
        return self.of.get(id(symbol.value), symbol.path) if callable(symbol.value) else symbol.path

    def annotation(self, annotation: Any, module: str) -> str:
        """The text of an annotation in which names of public objects are replaced by their full names."""
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        names = symbols.imported(module)

        def replaced(found: re.Match[str]) -> str:
            return self.of.get(id(names.get(found[0], self)), found[0])

        return re.sub(r"(?<![.\w'\"])[A-Za-z_]\w*(?![\w.])", replaced, text)


def first_line(text: str) -> str:
    return text.partition("\n\n")[0].replace("\n", " ").replace("|", r"\|")


def slug(module: str) -> str:
    return module.replace(".", "_")


def signature_of(function: Any, paths: Paths, *, is_method: bool = False) -> str:
    """`(argument: Type = default, *, ...) -> Type`, public types by their full names."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return "()"
    written = functools.partial(paths.annotation, module=function.__module__)
    parts, starred = [], False
    for place, one in enumerate(found.parameters.values()):
        if is_method and place == 0:
            continue
        if one.kind is one.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        if one.kind is one.VAR_POSITIONAL:
            starred = True
        mark = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        text = f"{mark}{one.name}"
        if one.annotation is not one.empty:
            text += f": {written(one.annotation)}"
        if one.default is not one.empty:
            text += f" = {default_text(one.default)}"
        parts.append(text)
    result = "" if found.return_annotation is found.empty else f" -> {written(found.return_annotation)}"
    return f"({', '.join(parts)}){result}"


def default_text(value: Any) -> str:
    """A default that says nothing of memory addresses."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{type(value).__name__}(...)"
    if callable(value):
        return getattr(value, "__name__", "...")
    return re.sub(r"<.*>", "...", repr(value))


def directive(kind: str, signature: str, body: str, *options: str) -> str:
    """A MyST directive of the Python domain."""
    return "\n".join([f"{FENCE}{{py:{kind}}} {signature}", *options, "", body, FENCE])


class Linker:
    """Puts links to public symbols into running text: `` `dlsim.networks.ring` `` and bare names of the same module."""

    def __init__(self, everything: list[Symbol], paths: Paths, module: str) -> None:
        self.paths = {symbol.path: paths.canonical(symbol) for symbol in everything}
        self.modules = {symbol.module for symbol in everything}
        self.here = {symbol.name: paths.canonical(symbol) for symbol in everything if symbol.module == module}

    def __call__(self, text: str, own: frozenset[str] = frozenset()) -> str:
        """The text with its links; `own` are names that mean something else here: arguments, fields, the symbol."""

        def replaced(found: re.Match[str]) -> str:
            name, call = found[1], found[2] or ""
            if name in self.paths:
                return f"{{py:obj}}`{name}{call} <{self.paths[name]}>`"
            if name in self.modules and not call:
                return f"{{doc}}`{name} <{slug(name)}>`"
            if name in self.here and name not in own:
                return f"{{py:obj}}`{name}{call} <{self.here[name]}>`"
            return found[0]

        return re.sub(r"(?<![`}])`([A-Za-z_][\w.]*)(\([^`]*\))?`(?!`)", replaced, text)


def own_names(symbol: Symbol) -> frozenset[str]:
    """Names that stand for parts of a symbol in its own docstring."""
    found = {symbol.name}
    if isinstance(symbol.value, type):
        found |= {one.name for one in symbols.fields_of(symbol.value)}
        found |= {name for name, _ in symbols.methods_of(symbol.value)}
    elif callable(symbol.value):
        found |= set(symbols.arguments_of(symbol.value))
    return frozenset(found)


def body_of(text: str, link: Callable[[str], str]) -> str:
    return docstrings.to_markdown(text, link)


def record_fields(value: type, link: Callable[[str], str]) -> str:
    """The fields of a record with their types and what the comments beside them say."""
    items = []
    for one in symbols.fields_of(value):
        default = "" if one.default is None else f" = {one.default}"
        default = "" if len(default) > 60 else default
        comment = f": {link(docstrings.escaped(one.comment))}" if one.comment else ""
        items.append(f"- ``{one.name}: {one.annotation}{default}``{comment}")
    return "**Fields**\n\n" + "\n".join(items) if items else ""


def method_entry(owner: Symbol, name: str, member: Any, link: Callable[[str], str], paths: Paths) -> str:
    function = symbols.unwrapped(member)
    body = body_of(symbols.own_docstring(function), link)
    if isinstance(member, property | functools.cached_property):
        return directive("property", f"{owner.name}.{name}", body)
    kinds = {staticmethod: "staticmethod", classmethod: "classmethod"}
    kind = kinds.get(type(member), "method")
    signature = signature_of(function, paths, is_method=kind != "staticmethod")
    return directive(kind, f"{owner.name}.{name}{signature}", body)


def entry(symbol: Symbol, link: Linker, paths: Paths) -> str:
    """The directive of one symbol."""
    value = symbol.value
    linked = functools.partial(link, own=own_names(symbol))
    if not callable(value):
        return directive("data", symbol.name, docstrings.escaped(symbols.constant_comment(symbol)))
    text = body_of(symbols.own_docstring(value), linked)
    if not isinstance(value, type):
        return directive("function", f"{symbol.name}{signature_of(value, paths)}", text)
    if symbols.is_protocol(value):
        calls = [
            f"``{'' if name == '__call__' else name}{signature_of(vars(value)[name], paths, is_method=True)}``"
            for name in vars(value)
            if inspect.isfunction(vars(value)[name]) and (name == "__call__" or not name.startswith("_"))
        ]
        return directive("class", symbol.name, "\n\n".join([text, "A protocol: " + ", ".join(calls)]))
    kind = "exception" if issubclass(value, BaseException) else "class"
    methods = [method_entry(symbol, name, member, linked, paths) for name, member in symbols.methods_of(value)]
    inner = "\n\n".join(part for part in (text, record_fields(value, linked), *methods) if part)
    return directive(kind, symbol.name, inner).replace(FENCE + "{py:" + kind, FENCE + "`{py:" + kind, 1) + "`"


def page(module: ModuleType, everything: list[Symbol], paths: Paths) -> str:
    """The page of one module: its docstring, a table, the entries that stand here, places to link to for the others."""
    name = module.__name__
    link = Linker(everything, paths, name)
    own = [symbol for symbol in everything if symbol.module == name]
    rows = []
    for symbol in own:
        text = symbols.own_docstring(symbol.value) if callable(symbol.value) else symbols.constant_comment(symbol)
        line = link(docstrings.escaped(first_line(text)), own_names(symbol))
        rows.append(f"| {{py:obj}}`{symbol.name} <{paths.canonical(symbol)}>` | {line} |")
    parts = [f"# {name}", f"```{{py:module}} {name}\n```", docstrings.to_markdown(symbols.own_docstring(module), link)]
    if rows:
        parts += ["\n".join(["| Name | What it is |", "|---|---|", *rows])]
    for symbol in own:
        is_here = paths.canonical(symbol) == symbol.path
        parts.append(entry(symbol, link, paths) if is_here else directive("data", symbol.name, "", ":no-typesetting:"))
    return "\n\n".join(parts) + "\n"


def pages(package: str) -> dict[str, str]:
    """The pages by file name, the index first."""
    modules = symbols.modules_of(package)
    everything = [symbol for module in modules for symbol in symbols.symbols_of(module)]
    paths = Paths(everything)
    rows = [
        f"| {{doc}}`{module.__name__} <{slug(module.__name__)}>` "
        f"| {docstrings.escaped(first_line(symbols.own_docstring(module)))} |"
        for module in modules
    ]
    tree = ["```{toctree}", ":hidden:", "", *(slug(module.__name__) for module in modules), "```"]
    index = [
        "# Reference",
        "",
        "Every public module; everything in it.",
        "",
        "| Module | What it holds |",
        "|---|---|",
        *rows,
        "",
        *tree,
    ]
    found = {"index.md": "\n".join(index) + "\n"}
    return found | {f"{slug(module.__name__)}.md": page(module, everything, paths) for module in modules}
