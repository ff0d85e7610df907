"""Tables of text: CSV as pandas, R, Excel and NumPy write it.  What cannot be told for sure is asked for in one line."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlsim import checks
from dlsim.problems import values
from dlsim.problems.data_files import bad_file, unpacked
from dlsim.problems.notices import notice

SUFFIXES = (".csv", ".tsv", ".txt")
INDEX = "index"  # the name of a column of row names, as pandas and R write one without a head
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


class Table(NamedTuple):
    names: list[str]
    rows: list[list[str]]  # stripped cells
    lines: list[int]  # of the file, of each row
    has_index: bool  # the first column has no head: row names


def read_csv(
    path: Path, label: str | None, columns: Sequence[str], header: bool | None
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Inputs float32 [M, D], labels [M] (text or numbers) and the named columns [M] of a table, gzipped or not.

    Cells are separated by commas, semicolons, tabs or bars, whichever gives rows of one length; lines that begin with
    `#` are comments (one before the rows, with as many cells as they have, is their head); bytes are UTF-8, UTF-16 with
    its mark, or Latin-1.  A first column without a head, over row numbers, is an index: a column, and no input.
    """
    named = {*columns} if label is None else {*columns, label}
    table = _table(path, header, named)
    names = table.names
    for name in columns:
        checks.one_of("load", "columns", name, names)
    label = names[-1] if label is None else checks.one_of("load", "label", label, names)
    kept = dict.fromkeys([*columns, *(names[:1] if table.has_index and label != names[0] else [])])
    inputs = [i for i, name in enumerate(names) if name != label and name not in kept]
    if not inputs:
        bad_file(path, "a CSV file with input columns", f"only {', '.join(names)}", "")
    cells = np.stack([_numbers(table, i, path) for i in inputs], axis=1)
    if inputs[0] == 0 and len(cells) > 2 and np.ptp(cells[:, 0] - np.arange(len(cells))) == 0:
        fix = f"if it is a number of the row and not a measure, name it: columns=[{names[0]!r}]"
        notice("load", f"{path}: column {names[0]!r} counts the rows and is taken as an input; {fix}.")
    given = {f"{path}: labels": np.array(_column(table, names.index(label)))}
    (labels,) = values.known_labels("load", given, _place(table, label))
    keys = {}
    for name in kept:
        column = _column(table, names.index(name))
        if name in columns:
            values.refuse_gaps("load", f"{path}: {name}", column, _place(table, name))
        keys[name] = values.keys("load", name, column)
    return cells, labels, keys


def _place(table: Table, name: str) -> Callable[[int], str]:
    return lambda index: f"in row {table.lines[index]}, column {name!r}"


def _column(table: Table, index: int) -> list[str]:
    return [row[index] for row in table.rows]


def _numbers(table: Table, index: int, path: Path) -> np.ndarray:
    cells, name = _column(table, index), table.names[index]
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is reported
        try:
            found = np.array(cells).astype(np.float64)
        except ValueError:
            found = np.full(len(cells), np.nan)
        is_plain = np.isfinite(found).all() and not any("_" in cell for cell in cells)
        bad = None if is_plain else next((i for i, cell in enumerate(cells) if not values.is_number(cell)), None)
        if bad is None:
            return found.astype(np.float32)
    row, cell = bad, cells[bad]
    place = _place(table, name)
    values.refuse_gaps("load", f"{path}: {name}", [cell], lambda _: place(row))
    fix = f"Name it in `columns` or drop it, if it is not an input; or fill the cell, in column {name!r}."
    if values.is_number(cell.replace(",", ".")):
        fix = 'Write points for commas: pandas.read_csv(path, sep=";", decimal=",").to_csv(path, index=False).'
    bad_file(path, "numeric", f"{cell!r} {place(row)}", fix)


def _table(path: Path, header: bool | None, named: set[str]) -> Table:
    """The cells, and the names of the columns: of the first row, of a comment before it, or `0`, `1`, ..."""
    comment, body, numbers = _without_comments(_text(path))
    separator = _separator(path, body)
    rows, lines = [], []
    try:
        reader = csv.reader(io.StringIO("".join(body), newline=""), delimiter=separator, skipinitialspace=True)
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append([cell.strip() for cell in row])
                lines.append(numbers[reader.line_num - 1])
    except csv.Error as error:
        bad_file(path, "a CSV file", str(error), "")
    width = len(rows[0])
    for row, number in zip(rows, lines, strict=True):
        if len(row) != width:
            got = f"{len(row)} in row {number} (separated by {_SEPARATORS[separator]})"
            bad_file(path, f"a table of {width} columns", got, "Is a separator there too many, or a cell missing?")
    empty = next((i for i in range(width) if not any(row[i] for row in rows)), None)
    if empty is not None:
        fix = "Is there a separator at the end of every line?"
        bad_file(path, "a table without empty columns", f"nothing in any row of column {empty}", fix)
    found = _has_header(rows, named) if header is None else header
    names = rows[0] if found else [str(i) for i in range(width)]
    if comment is not None and header is None and not found:
        heads = [cell.strip() for cell in next(csv.reader([comment], delimiter=separator))]
        if len(heads) == width and not any(map(values.is_number, heads)):
            names, found = heads, False
    if found is None:
        rule = "said to have a head or not, by header=True or header=False"
        bad_file(path, rule, f"the first row {','.join(rows[0])[:60]!r}, which may be either", "")
    if len(rows) - found < 1 or len(rows) < 2:
        bad_file(path, "a CSV file of two rows or more", f"{len(rows)}", "")
    has_index = names[0] == ""
    if has_index and INDEX not in names:
        names = [INDEX, *names[1:]]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        fix = "Rename one, or pass header=False if the first row is data."
        bad_file(path, "a table whose columns differ in name", f"{twice!r} twice", fix)
    return Table(names, rows[found:], lines[found:], has_index)


def _text(path: Path) -> str:
    raw = unpacked(path)
    if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError as error:
            bad_file(path, "UTF-16, as its first bytes say", f"{error.reason} at byte {error.start}")
    if raw[:4] == b"PK\x03\x04":
        fix = "Export it as CSV: pandas.read_excel(path).to_csv(..., index=False)."
        bad_file(path, "a table of text", "a zip archive, such as a spreadsheet (.xlsx) or an .npz", fix)
    if b"\0" in raw[:4096]:
        fix = "Write it as UTF-8 text; UTF-16 needs its byte-order mark."
        bad_file(path, "a table of text", f"zero bytes (it begins with {raw[:8].hex(' ')})", fix)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")  # one letter a byte: different names stay different


def _without_comments(text: str) -> tuple[str | None, list[str], list[int]]:
    """The last comment before the first row, if any; the lines that are none; and their numbers in the file."""
    comment: str | None = None
    body: list[str] = []
    numbers: list[int] = []
    for number, line in enumerate(io.StringIO(text, newline="").readlines(), 1):
        if line.lstrip().startswith("#"):
            comment = line.strip().lstrip("#").strip() if not body else comment
        elif number == 1 and line.lower().startswith("sep=") and len(line.strip()) == 5:
            continue  # Excel's word for its separator
        elif line.strip():
            body.append(line)
            numbers.append(number)
    return comment, body, numbers


def _separator(path: Path, body: list[str]) -> str:
    """The one that cuts all lines into as many cells, two or more; of several, the one that gives most numbers."""
    best, score = None, -1.0
    for separator in _SEPARATORS:
        try:
            rows = list(csv.reader(body[:50], delimiter=separator, skipinitialspace=True))
        except csv.Error:
            continue
        if not rows or max(len(row) for row in rows) < 2:
            continue
        cells = [cell if separator == "," else cell.replace(",", ".") for row in rows for cell in row]
        # Rows of one length weigh most: a comma may stand in a number, a bar in a name.
        new = (len({len(row) for row in rows}) == 1) + sum(map(values.is_number, cells)) / len(cells)
        if new > score:
            best, score = separator, new
    if best is None:
        got = f"one column ({body[0].strip()[:40]!r})" if body else "no rows"
        fix = "Separate cells by commas; of blanks: pandas.read_csv(path, sep=r'\\s+', header=None).to_csv(...)."
        bad_file(path, "a CSV file, with cells separated by commas, semicolons, tabs or bars", got, fix)
    return best


def _has_header(rows: list[list[str]], named: set[str]) -> bool | None:
    """Whether the first row names the columns; None where nobody can tell.

    It does if it holds a name that the user asked for; if a text of it stands over numbers alone; if its numbers are
    0, 1, 2, ... as pandas names columns that have no names, and its texts are found nowhere below; or if its first cell
    is empty and stands over row numbers.  It is data if a text of it comes again below, if a number of it has a point, if
    a cell of it is a gap.
    """
    first, rest = rows[0], rows[1:1001]
    if any(name in first and not values.is_number(name) for name in named):
        return True
    start = int(first[0] == "" and len(first) > 2)
    ids = [row[0] for row in rest]
    is_index = bool(start and rest) and all(map(values.is_integer, ids)) and len(set(ids)) == len(ids)
    heads = dict(enumerate(first[start:], start))
    if any(map(values.is_missing, heads.values())):
        return False
    below = {i: [row[i] for row in rest if not values.is_missing(row[i])] for i in heads}
    numeric = [i for i in heads if below[i] and all(map(values.is_number, below[i]))]
    text = [i for i in heads if not values.is_number(heads[i])]
    as_data = [i for i in heads if (heads[i] in below[i] if i in text else not values.is_integer(heads[i]))]
    if any(i in numeric for i in text):
        return None if as_data else True
    if as_data or len(text) == len(heads) or len(set(heads.values())) < len(heads):
        return is_index and not as_data
    # What numbers it has are whole; its texts, if any, are new, and stand over text.
    whole = [i for i in heads if i not in text]
    is_counted = [int(heads[i]) for i in whole] == [i - start for i in whole]
    repeats = all(2 * len(set(below[i])) <= len(below[i]) for i in text)
    pointed = [
        i for i in whole if below[i] and not any(map(values.is_integer, below[i]))
    ]  # floats as pandas writes them
    if is_counted and (pointed or len(whole) >= 4 or (len(text) and len(whole) >= 2 and repeats)):
        return True
    if text and repeats and len(pointed) == len(whole):
        return True  # years, say, over numbers with points
    if is_index:
        return True
    return None if is_counted and len(rest) >= 2 and repeats else False
