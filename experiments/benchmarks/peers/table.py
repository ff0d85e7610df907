"""The one table: what was measured, system by system, with its ratio to dlsim and what makes rows unequal.

Its input are the lines that `run.py` writes: one with the machine, then one a measurement, failure, or system not run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

COLUMNS = (
    "model",
    "N",
    "system",
    "what ran",
    "node-updates/s (min-max; runs)",
    "dlsim is faster by",
    "peak MiB",
    "start s",
    "rounds",
    "load before, after",
)
REFERENCE = "dlsim"
GENERAL = (
    "A node-update is one SGD step of batch 32 at one node and what follows it: mixing with four neighbours, or "
    "averaging at a server.  Rate: node-updates done over the seconds of the timed rounds, after a warm-up.",
    "A system that averages at a server is compared with dlsim's FedAvg, one whose nodes mix with neighbours with dlsim's "
    "D-SGD; methods that keep N models move about five times the bytes of those that keep one.",
    "Peak memory is the largest proportional set size of a process and its children; start-up is imports, reading the "
    "data (about a second) and building the nodes.  Nothing is evaluated in the timed part.",
)


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a file that `run.py` wrote."""
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]


def rows(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each system, kind, model and number of nodes: those measured fastest first, then those that failed."""
    groups: dict[tuple[str, int, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if "kind" in line:
            groups.setdefault((line["model"], line["nodes"], line["system"], line["kind"]), []).append(line)
    made = [_row(key, group) for key, group in groups.items()]
    references = {
        (row["model"], row["nodes"], row["server"]): row["rate"] for row in made if row["system"] == REFERENCE
    }
    for row in made:
        reference = references.get((row["model"], row["nodes"], row["server"]))
        row["ratio"] = reference / row["rate"] if reference and row["rate"] else None
    return sorted(made, key=lambda row: (row["model"], row["nodes"], -(row["rate"] or 0.0)))


def _row(key: tuple[str, int, str, str], group: list[dict[str, Any]]) -> dict[str, Any]:
    good = [line for line in group if "error" not in line]
    rates = [line["node_updates_per_second"] for line in good]
    return {
        **dict(zip(("model", "nodes", "system", "kind"), key, strict=True)),
        "what": group[0]["what"],
        "server": group[0]["server"],
        "version": good[0]["version"] if good else group[0]["system"],
        "rate": median(rates) if rates else None,
        "rates": rates,
        "peak": max((line["peak_mib"] for line in good), default=None),
        "start": median(line["start_seconds"] for line in good) if good else None,
        "rounds": sorted({line["rounds"] for line in good}),
        "load": [(line["load_before"], line["load_after"]) for line in group],
        "errors": [line["error"] for line in group if "error" in line],
    }


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text, in the order of `COLUMNS`."""
    head = [row["model"], str(row["nodes"]), row["version"], row["what"]]
    loads = [_span(column, ".1f") for column in zip(*row["load"], strict=True)]
    failed = f"{len(row['errors'])} failed: {row['errors'][-1]}" if row["errors"] else ""
    if not row["rates"]:
        return [*head, failed, "-", "-", "-", "-", ", ".join(loads)]
    rates = f"{row['rate']:,.0f} ({min(row['rates']):,.0f}-{max(row['rates']):,.0f}; {len(row['rates'])})"
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.3g}"
    return [
        *head,
        rates + (f"; {failed}" if failed else ""),
        ratio,
        f"{row['peak']:,.0f}",
        f"{row['start']:.1f}",
        _span(row["rounds"], "d"),
        ", ".join(loads),
    ]


def _span(values: Iterable[float], form: str) -> str:
    """`least-greatest`, or the one value."""
    values = list(values)
    return "-".join(dict.fromkeys(format(end(values), form) for end in (min, max)))


def render(lines: list[dict[str, Any]]) -> str:
    """The whole report, as Markdown."""
    header = next((line for line in lines if "machine" in line), {"machine": "unknown", "date": "", "command": ""})
    text = [cells(row) for row in rows(lines)]
    width = [max(len(name), *(len(row[i]) for row in text)) if text else len(name) for i, name in enumerate(COLUMNS)]
    out = [f"{header['date']}  {header['machine']}", header["command"], ""]
    out += [_line(COLUMNS, width), _line(["-" * w for w in width], width), *(_line(row, width) for row in text), ""]
    for line in lines:
        if "not_run" in line:
            out.append(f"Not run: {line['system']}: {line['not_run']}")
    notes = {line["system"]: line["unequal"] for line in lines if "unequal" in line}
    seen = {row["system"] for row in rows(lines)}
    out += ["", "What makes rows unequal:", *(f"- {note}" for note in GENERAL)]
    out += [f"- {note}" for system, note in notes.items() if system in seen]
    return "\n".join(out)


def _line(texts: Iterable[str], width: list[int]) -> str:
    return "| " + " | ".join(text.ljust(w) for text, w in zip(texts, width, strict=True)) + " |"
