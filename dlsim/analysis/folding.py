"""A table for terminals of any width: what does not fit beside goes below, and no number is cut."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

UNLIMITED = 100_000  # columns


class FoldingTable(Table):
    """A table of rich's whose columns of numbers are never cut.

    Where the terminal is too narrow headings wrap; where that is not enough the table is
    printed in parts of some columns each, every part with the first `num_keys` columns, which say what the rows are of and
    whose words may wrap.
    """

    def __init__(self, *headers: Any, num_keys: int = 1, **options: Any) -> None:
        super().__init__(*headers, **options)
        self.num_keys = num_keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width if self.width is None else self.width
        every = range(len(self.columns))
        for is_tall in (False, True):
            whole = self._part(every, is_tall)
            if _width(console, options, whole) <= width:
                yield whole
                return
        keys, others = [*every][: self.num_keys], [*every][self.num_keys :]
        room = width - min(_width(console, options, self._part(keys, True)), width // 2)
        parts, used = list[list[int]](), 0
        for column in others:
            # As wide as in a table of its own; borders that parts share are counted twice, which is on the safe side.
            size = _width(console, options, self._part([column], True))
            if not parts or used + size > room:
                parts.append([])
                used = 0
            parts[-1].append(column)
            used += size
        for number, part in enumerate(parts or [[]]):
            is_last = number == len(parts) - 1
            yield self._part([*keys, *part], True, has_title=number == 0, has_caption=is_last or not parts)

    def _part(self, chosen: Sequence[int], is_tall: bool, has_title: bool = True, has_caption: bool = True) -> Table:
        """Some of the columns as a plain table; `is_tall`: with headings no wider than the cells, or their longest word."""
        named = ("box", "show_header", "show_edge", "show_lines", "padding", "pad_edge", "header_style", "border_style")
        made = Table(**{name: getattr(self, name) for name in named}, title_justify=self.title_justify)
        made.title, made.title_style = (self.title, self.title_style) if has_title else (None, "")
        made.caption = self.caption if has_caption else None
        made.caption_justify = self.caption_justify
        for place, index in enumerate(chosen):
            column = self.columns[index]
            header = _wrapped(column) if is_tall else column.header
            own = dataclasses.replace(column, header=header, overflow="fold", no_wrap=index >= self.num_keys)
            own._index, own._cells = place, list(column.cells)
            made.columns.append(own)
        made.rows = list(self.rows)
        return made


def _wrapped(column: Column) -> Any:
    """The heading on several lines, where it is wider than what stands below it."""
    if not isinstance(column.header, str):
        return column.header
    cells = [cell_len(cell.plain if isinstance(cell, Text) else str(cell)) for cell in column._cells]
    longest = max(map(cell_len, column.header.split()), default=1)
    return textwrap.fill(column.header, max(longest, *cells, 1), break_long_words=False)


def _width(console: Console, options: ConsoleOptions, table: Table) -> int:
    """Columns that a table takes where nothing is cut or wrapped."""
    return Measurement.get(console, options.update(width=UNLIMITED, max_width=UNLIMITED), table).maximum
