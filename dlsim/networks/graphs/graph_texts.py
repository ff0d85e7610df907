"""Edges in texts: edge lists and adjacency lists, by the names that a text has for nodes."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.networks.pace.sizes import check_size

_NAMED = ({"source", "target"}, {"from", "to"}, {"src", "dst"}, {"sender", "receiver"}, {"fromnodeid", "tonodeid"})
INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_EDGE = "'sender receiver' or 'sender receiver weight', two integers and a finite number"
NO_WEIGHTS = 'Pass weights="metropolis_hastings", or another name, if the third column is no mixing weight.'


class Lines(NamedTuple):
    """The edges of a text, by the names it has for nodes."""

    ends: list[tuple[str, str]]
    values: list[float] | None
    num_nodes: int | None  # as the text's first line says
    form: str
    alone: tuple[str, ...] = ()  # nodes that have a line of their own


class Source(NamedTuple):
    """Whom an error names."""

    where: str
    path: Any


def read_lines(source: Source, content: str, form: str, renumber: bool, values: bool) -> Lines:
    """The edges of a text of this form, see `read_graph_file`."""
    suffix = Path(str(source.path).removesuffix(".gz")).suffix
    if form == "auto":
        form = "adjacency" if suffix in (".adj", ".adjlist") else "edges"
        if form == "adjacency":
            form = _adjacency_form(source, content)
    if form == "neighbors":
        return _neighbors(source, content)
    if form == "adjacency":
        ends, nodes = [], []
        for number, line in _without_comments(content):
            node, *others = (_id(source, number, line, field, renumber) for field in _fields(line, renumber))
            nodes.append(node)
            ends += [(node, other) for other in others]
        return Lines(ends, None, None, form, tuple(nodes))
    return _edges(source, content, renumber, values)


def _edges(source: Source, content: str, renumber: bool, values: bool) -> Lines:
    ends, column = [], []
    width, said, is_first = 0, None, True
    for number, line in _without_comments(content):
        line, tail = _without_attributes(source, number, line)
        fields = _fields(line, renumber) + ([repr(tail["weight"])] if "weight" in tail else [])
        begins, is_first = is_first, False
        if begins and len(fields) == 1 and INTEGER.fullmatch(fields[0]):
            said = check_size(
                source.where, checks.integer(source.where, f"line {number} of {source.path}", int(fields[0]), 1)
            )
            continue
        if begins and {field.strip("\"'").lower() for field in fields[:2]} in _NAMED:
            continue
        if len(fields) < 2 or (values and len(fields) > 3):
            fix = NO_WEIGHTS if len(fields) > 3 else ""
            checks.fail(source.where, f"line {number} of {source.path}", _EDGE, repr(line.strip()), fix)
        ends.append((_id(source, number, line, fields[0], renumber), _id(source, number, line, fields[1], renumber)))
        if not values:
            continue
        width = width or len(fields)
        if len(fields) != width:
            checks.fail(
                source.where,
                f"line {number} of {source.path}",
                f"of {width} columns as those before",
                repr(line.strip()),
            )
        if width == 3:
            column.append(_value(source, number, line, fields[2]))
    _refuse_counts(source, ends, said)
    if renumber and len(ends) > 1 and not _are_whole(ends[:1]) and _are_whole(ends[1:]):
        got = f"{' '.join(ends[0])!r} before lines of integers"
        checks.fail(source.where, f"the first line of {source.path}", "an edge like the others", got, "Delete it.")
    return Lines(ends, column if width == 3 else None, said, "edges")


def _neighbors(source: Source, content: str) -> Lines:
    """N, then a line a node, which may be empty."""
    rows = _body(content)
    if not rows or not INTEGER.fullmatch(rows[0][1]):
        checks.fail(
            source.where,
            f"the first line of {source.path}",
            "the number of nodes",
            repr(rows[0][1]) if rows else "nothing",
        )
    said = check_size(
        source.where, checks.integer(source.where, f"line {rows[0][0]} of {source.path}", int(rows[0][1]), 1)
    )
    if len(rows) - 1 > said:
        checks.fail(
            source.where, f"the lines of {source.path}", f"{said}, one a node, as its first says", len(rows) - 1
        )
    ends = [
        (str(node), _id(source, number, line, other, False))
        for node, (number, line) in enumerate(rows[1:])
        for other in _fields(line, False)
    ]
    return Lines(ends, None, said, "neighbors")


def _adjacency_form(source: Source, content: str) -> str:
    """Whether lines name their node, or are counted."""
    rows = _body(content)
    if not rows or not INTEGER.fullmatch(rows[0][1]) or int(rows[0][1]) != len(rows) - 1:
        return "adjacency"
    lines = [_fields(line, False) for _, line in rows[1:]]
    if not any(str(node) in fields for node, fields in enumerate(lines)):
        return "neighbors"
    if all(fields and fields[0] == str(node) for node, fields in enumerate(lines)):
        return "adjacency"
    rule = "clear about whether a line names its node or is counted"
    return checks.fail(
        source.where, str(source.path), rule, "one that could be either", 'Pass form="adjacency" or form="neighbors".'
    )


def _body(content: str) -> list[tuple[int, str]]:
    """Lines and their numbers, empty ones among them but for those at the end, without comments."""
    rows = [(number, re.sub(r"\s#.*", "", line).strip()) for number, line in enumerate(content.splitlines(), 1)]
    rows = [(number, line) for number, line in rows if not line.startswith(("#", "%"))]
    while rows and not rows[-1][1] and len(rows) - 1 > (int(rows[0][1]) if INTEGER.fullmatch(rows[0][1]) else 0):
        rows.pop()
    return rows


def _without_comments(content: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(content.splitlines(), 1):
        line = line.strip()
        if line and line[0] not in "#%":
            yield number, re.sub(r"\s#.*", "", line) if "#" in line else line


def _without_attributes(source: Source, number: int, line: str) -> tuple[str, dict[str, Any]]:
    """The line without the dict at its end, as networkx writes edges, and the dict."""
    if not line.endswith("}") or "{" not in line:
        return line, {}
    before, _, rest = line.partition("{")
    try:
        found = ast.literal_eval("{" + rest)
    except (ValueError, SyntaxError):
        found = None
    if not isinstance(found, dict):
        checks.fail(source.where, f"line {number} of {source.path}", _EDGE, repr(line))
    return before.strip(), found


def _fields(line: str, has_names: bool) -> list[str]:
    """The columns; where nodes may have names, only the first kind of separator counts, as names may have blanks."""
    if has_names:
        for separator in ("\t", ";", ","):
            if separator in line:
                fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
                return [field.strip() for field in fields]
        return line.split()
    return line.replace(",", " ").replace(";", " ").split()


def _id(source: Source, number: int, line: str, field: str, has_names: bool) -> str:
    if has_names and field:
        return field
    if not INTEGER.fullmatch(field):
        fix = "Pass renumber=True where nodes have names." if field and not has_names else ""
        checks.fail(source.where, f"line {number} of {source.path}", _EDGE, repr(line), fix)
    return field


def _value(source: Source, number: int, line: str, field: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        checks.fail(source.where, f"line {number} of {source.path}", _EDGE, repr(line), NO_WEIGHTS)
    return value


def _are_whole(ends: list[tuple[str, str]]) -> bool:
    return all(INTEGER.fullmatch(end) for pair in ends for end in pair)


def _refuse_counts(source: Source, ends: list[tuple[str, str]], said: int | None) -> None:
    """A first line with the numbers of nodes and of edges looks like an edge, to a node that no other line has."""
    if said is not None or len(ends) < 3 or ends[0][1] != str(len(ends) - 1) or not INTEGER.fullmatch(ends[0][0]):
        return
    rest = [end for pair in ends[1:] for end in pair]
    if all(INTEGER.fullmatch(end) for end in rest):
        first, largest = int(ends[0][0]), max(map(int, rest))
        if first == largest + 1 or (first == largest and min(map(int, rest)) == 1):
            fix = "Delete it, or put that edge on another line."
            got = f"{' '.join(ends[0])!r}, which counts nodes and edges"
            checks.fail(source.where, f"the first line of {source.path}", "an edge", got, fix)
