"""Tables on terminals of any width: every number is there whole, in its row, under its heading."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from dlsim.analysis.folding import FoldingTable

HEADINGS = ("runs", "state of a run", "accuracy of mean", "consensus distance", "memory of a run")
ROWS = {
    "random regular, learning rate 0.001": ("3600", "1023.9 MiB", "0.9123 ± 0.0045", "1.235e-07 ± 2.1e-09", "12.5 GiB"),
    "ring": ("1", "172 B", "not finite in 2 of 8", "4.2 ± 0.1", "17 KiB"),
}


def table(**options):
    made = FoldingTable(title="What there is", caption="and 3 more", **options)
    made.add_column("group")
    for name in HEADINGS:
        made.add_column(name, justify="right")
    for name, cells in ROWS.items():
        made.add_row(name, *cells[:-1], Text(cells[-1]), style="red" if name == "ring" else None)
    return made


def lines(width, **options):
    console = Console(width=width, file=io.StringIO())
    console.print(table(**options))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [34, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("options", [{}, {"box": None, "pad_edge": False}])
def test_no_number_is_cut(width, options):
    shown = lines(width, **options)
    assert max(map(len, shown)) <= width and not any("…" in line for line in shown)
    for cells in ROWS.values():
        for cell in cells:
            assert sum(bool(re.search(rf"(?<![\w.]){re.escape(cell)}(?![\w.])", line)) for line in shown) == 1, cell
    text = " ".join(" ".join(shown).replace("┃", " ").split())
    assert text.count("What there is") == text.count("and 3 more") == 1
    for word in {word for heading in HEADINGS for word in heading.split()}:
        assert word in text


def test_a_row_keeps_its_name_in_every_part():
    shown = lines(60)
    parts = [line for line in shown if "│ ring" in line]
    assert len(parts) > 1
    found = [cell for line in parts for cell in re.split(r" *│ *", line)[2:] if cell]
    assert found == list(ROWS["ring"])


def test_a_wide_terminal_shows_what_rich_shows():
    from rich.table import Table

    plain = Table(title="t")
    folding = FoldingTable(title="t")
    for made in (plain, folding):
        made.add_column("a b")
        made.add_column("c", justify="right")
        made.add_row("x", "1")
    console = Console(width=80, file=io.StringIO())
    console.print(plain)
    first = console.file.getvalue()
    console.print(folding)
    assert console.file.getvalue() == 2 * first
