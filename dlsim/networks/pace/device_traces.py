"""Devices as files and distributions have them: how fast they compute and send, when they are there, how rates change.

Files are CSV with a head.  The columns are those of public traces of federated learning; a trace that comes as a pickle
is refused, since to read one is to run what it says.
"""

from __future__ import annotations

import csv
import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlsim import checks

CAPACITY = ("client_id", "computation", "communication", "dl_kbps", "ul_kbps")
AVAILABILITY = ("client_id", "active", "inactive", "finish_time", "duration", "model")
PLACES = ("client_id", "Timestamp", "x", "y")
RATES = ("client_id", "Timestamp", "DL_bitrate", "UL_bitrate")
_WHEN = "%Y.%m.%d_%H.%M.%S"


class Devices(NamedTuple):
    """Of N devices: what `dlsim.networks.links` takes, `links(N, **devices._asdict())`."""

    compute: np.ndarray  # float64 [N] seconds a gradient evaluation (one example)
    upload: np.ndarray  # float64 [N] bits per second
    download: np.ndarray  # float64 [N] bits per second


class Rows(NamedTuple):
    path: Path
    columns: dict[str, list[str]]
    lines: list[int]  # of the file, of each row


class Sessions(NamedTuple):
    """When each of M devices is there, in seconds of a time that begins anew after `period`."""

    starts: np.ndarray  # float64 [M, K], infinite in the padding
    ends: np.ndarray  # float64 [M, K]
    period: np.ndarray  # int64 [M] whole seconds


class Rates(NamedTuple):
    """What each of M devices can send and receive from `times` on, until the next; it begins anew after `period`."""

    times: np.ndarray  # float64 [M, K] seconds since the first, infinite in the padding
    download: np.ndarray  # float64 [M, K] bits per second
    upload: np.ndarray  # float64 [M, K]
    period: np.ndarray  # int64 [M]


def trace_devices(path: str | Path, num_nodes: int, *, passes: Any = 3.0, seed: int | None = None) -> Devices:
    """Devices from a file of capacities, a row each: `client_id`, `computation`, and `communication` or both rates.

    `computation` is in milliseconds for one example's forward pass, `communication` in kbit/s both ways; `dl_kbps` and
    `ul_kbps` in its place tell the ways apart.  These are the columns of FedScale's `client_device_capacity` (which is a
    pickle: write `pandas.DataFrame.from_dict(trace, orient="index").to_csv(path, index_label="client_id")`) and of its
    extension by measured rates both ways.

    Args:
      path: of the file.
      num_nodes: N, at most the file's devices.
      passes: a gradient in forward passes, above 0; 3, as FedScale has it: the backward pass costs two.
      seed: draws N different devices; None: the first N.
    Source: Lai et al., FedScale: benchmarking model and system performance of federated learning at scale, ICML 2022.
    """
    where = "trace_devices"
    checks.integer(where, "num_nodes", num_nodes, 1)
    checks.number(where, "passes", passes, 0.0, open_minimum=True)
    rows = _read(where, path, CAPACITY, ("client_id", "computation"))
    both = [name for name in ("dl_kbps", "ul_kbps") if name in rows.columns]
    if len(both) + 2 * ("communication" in rows.columns) != 2:
        got = ", ".join(rows.columns)
        checks.fail(where, f"{rows.path}", "a table with communication, or with dl_kbps and ul_kbps", f"columns {got}")
    ids = rows.columns["client_id"]
    twice = next((i for i, one in enumerate(ids) if one in ids[:i]), None) if len(set(ids)) < len(ids) else None
    if twice is not None:
        checks.fail(
            where, f"{rows.path}", "a table of one row a device", f"{ids[twice]!r} again in {_place(rows, twice)}"
        )
    chosen = choose(where, len(ids), num_nodes, seed)
    down, up = both if both else ("communication", "communication")
    return Devices(
        compute=_numbers(where, rows, "computation", True)[chosen] * 1e-3 * passes,
        upload=_numbers(where, rows, up, True)[chosen] * 1e3,
        download=_numbers(where, rows, down, True)[chosen] * 1e3,
    )


def lognormal_devices(
    num_nodes: int,
    *,
    compute: float = 0.0136,
    upload: float = 1e7,
    download: float = 4e7,
    compute_sigma: float = 0.6,
    rate_sigma: float = 1.0,
    seed: int = 0,
) -> Devices:
    """Devices drawn once: value = median exp(sigma z), z standard normal; one z for both of a device's rates.

    Device i's draws depend on (seed, i) alone.

    Args:
      num_nodes: N.
      compute: median seconds a gradient evaluation; with its spread that of FedScale's model of devices.
      upload, download: median bits per second.
      compute_sigma, rate_sigma: standard deviations of the logarithms, in [0, 5].
      seed: of the draws.
    Source: Lai et al., FedScale, ICML 2022 (5 ms times a log-normal of parameters 1 and 0.6); the rates' are ours.
    """
    where = "lognormal_devices"
    checks.integer(where, "num_nodes", num_nodes, 1)
    checks.seed(where, seed)
    for name, value in (("compute", compute), ("upload", upload), ("download", download)):
        checks.known(where, name, value)
        checks.number(where, name, value, 0.0, open_minimum=True)
    for name, value in (("compute_sigma", compute_sigma), ("rate_sigma", rate_sigma)):
        checks.known(where, name, value)
        checks.number(where, name, value, 0.0, 5.0)
    z = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64))).standard_normal((num_nodes, 2))
    rate = np.exp(rate_sigma * z[:, 1])
    return Devices(compute * np.exp(compute_sigma * z[:, 0]), upload * rate, download * rate)


def read_sessions(where: str, path: str | Path) -> Sessions:
    """Rows `client_id, active, inactive[, finish_time]`: a device is there in [active, inactive), in seconds."""
    rows = _read(where, path, AVAILABILITY, ("client_id", "active", "inactive"))
    begins, ends = (_numbers(where, rows, name) for name in ("active", "inactive"))
    finish = _numbers(where, rows, "finish_time") if "finish_time" in rows.columns else None
    for i in np.flatnonzero(ends <= begins)[:1]:
        got = f"{begins[i]:g} to {ends[i]:g} in {_place(rows, int(i))}"
        checks.fail(where, f"{rows.path}", "a table of sessions that end after they begin", got)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    periods: list[int] = []
    for places in _by_device(rows):
        own = places[np.argsort(begins[places], kind="stable")]
        for i in np.flatnonzero(begins[own][1:] < ends[own][:-1])[:1]:
            got = (
                f"one that begins at {begins[own[i + 1]]:g} before {ends[own[i]]:g} in {_place(rows, int(own[i + 1]))}"
            )
            checks.fail(where, f"{rows.path}", "a table whose sessions of a device do not overlap", got, "Join them.")
        last = ends[own].max()
        whole = np.ceil(last) if finish is None else finish[own[0]]
        if finish is not None and ((finish[own] != whole).any() or whole < last or whole != np.floor(whole)):
            got = f"{whole:g} for the device of {_place(rows, int(own[0]))}, whose sessions end at {last:g}"
            checks.fail(where, f"{rows.path}", "a table with one whole finish_time a device, after its sessions", got)
        found.append((begins[own], ends[own]))
        periods.append(int(whole))
    width = max(len(one[0]) for one in found)
    starts, stops = (_padded([one[side] for one in found], width) for side in (0, 1))
    return Sessions(starts, stops, np.array(periods))


def read_rates(where: str, path: str | Path, largest_gap: float | None) -> Rates:
    """Rows `[client_id,] Timestamp, DL_bitrate, UL_bitrate`, in seconds (or as dates) and kbit/s."""
    rows = _read(where, path, RATES, ("Timestamp", "DL_bitrate", "UL_bitrate"))
    when = _times(where, rows)
    down, up = (_numbers(where, rows, name, True) * 1e3 for name in ("DL_bitrate", "UL_bitrate"))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    periods: list[int] = []
    for own in _by_device(rows):
        usual = _usual_step(where, rows, own, when[own], largest_gap)
        since = when[own] - when[own[0]]
        found.append((since, down[own], up[own]))
        periods.append(int(np.ceil(since[-1] + usual)))
    width = max(len(one[0]) for one in found)
    times = _padded([one[0] for one in found], width)
    downs, ups = (np.where(np.isinf(m), 1.0, m) for m in (_padded([one[s] for one in found], width) for s in (1, 2)))
    return Rates(times, downs, ups, np.array(periods))


class Places(NamedTuple):
    """Where each of M devices is at `times`, in the units of the file."""

    times: np.ndarray  # float64 [M, K] seconds since the first of the file, infinite in the padding
    positions: np.ndarray  # float64 [M, K, 2], the last one in the padding


def read_positions(where: str, path: str | Path, largest_gap: float | None) -> Places:
    """Rows `[client_id,] Timestamp, x, y`, in seconds (or as dates); every device is there from first to last."""
    rows = _read(where, path, PLACES, ("Timestamp", "x", "y"))
    when = _times(where, rows)
    when = when - when.min()
    x, y = (_numbers(where, rows, name, at_least=-np.inf) for name in ("x", "y"))
    owns = _by_device(rows)
    usual = [_usual_step(where, rows, own, when[own], largest_gap) for own in owns]
    for own, step in zip(owns, usual, strict=True):
        most = 2 * step if largest_gap is None else largest_gap
        ends = ((own[0], "begins", when[own[0]]), (own[-1], "ends", when.max() - when[own[-1]]))
        for row, what, missing in ends:
            if missing > most:
                got = f"a device that {what} {missing:g} s apart from the others, in {_place(rows, int(row))}"
                rule = f"a table without gaps (more than {most:g} s)"
                checks.fail(where, f"{rows.path}", rule, got, f"Fill it, or pass largest_gap={missing:g}.")
    width = max(len(own) for own in owns)
    places = [np.pad(axis[own], (0, width - len(own)), mode="edge") for own in owns for axis in (x, y)]
    positions = np.stack(places).reshape(len(owns), 2, width).swapaxes(1, 2)
    return Places(_padded([when[own] for own in owns], width), positions)


def choose(where: str, num_devices: int, num_nodes: int, seed: int | None) -> np.ndarray:
    """Which of the devices the nodes are, `[N]`: the first, or a draw of different ones."""
    if num_devices < num_nodes:
        checks.fail(where, "num_nodes", f"at most the file's {num_devices} devices", num_nodes)
    if seed is None:
        return np.arange(num_nodes)
    return np.random.default_rng(checks.seed(where, seed)).permutation(num_devices)[:num_nodes]


def _read(where: str, path: str | Path, known: tuple[str, ...], needed: tuple[str, ...]) -> Rows:
    if not isinstance(path, str | Path):
        checks.fail(where, "path", "a path of a CSV file", checks.describe(path))
    path = Path(path).expanduser()
    if not path.is_file():
        checks.fail(where, "path", "a file that is there", f"{path}")
    raw = path.read_bytes()
    if raw[:1] == b"\x80":
        fix = 'Write it as CSV where you trust it: pandas.DataFrame.from_dict(trace, orient="index").to_csv(...).'
        checks.fail(where, f"{path}", "a CSV file", "a pickle", fix)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        checks.fail(where, f"{path}", "a CSV file in UTF-8", f"bytes {raw[:8].hex(' ')} ...")
    reader = csv.reader(text.splitlines())
    head, lines, cells = None, [], []
    for row in reader:
        stripped = [cell.strip() for cell in row]
        if not any(stripped):
            continue
        if head is None:
            head = stripped
            continue
        if len(stripped) != len(head):
            checks.fail(
                where, f"{path}", f"a table of {len(head)} columns", f"{len(stripped)} in line {reader.line_num}"
            )
        lines.append(reader.line_num)
        cells.append(stripped)
    if head is None or not cells:
        checks.fail(
            where,
            f"{path}",
            "a CSV file of a head and one row or more",
            "an empty one" if head is None else "a head alone",
        )
    for name in head:
        if name not in known:
            fix = checks.meant(name, known) or "Drop it or rename it."
            checks.fail(where, f"{path}", f"a table of the columns {', '.join(known)}", f"unknown column {name!r}", fix)
    missing = [name for name in needed if name not in head]
    if missing or len(set(head)) < len(head):
        got = f"none named {missing[0]}" if missing else "one twice"
        checks.fail(where, f"{path}", f"a table with the columns {', '.join(needed)}, each once", got)
    rows = Rows(path, {name: [row[i] for row in cells] for i, name in enumerate(head)}, lines)
    for name in needed:
        for i, cell in enumerate(rows.columns[name]):
            if not cell:
                checks.fail(
                    where, f"{path}", "a table without gaps", f"an empty cell in {_place(rows, i)}, column {name!r}"
                )
    return rows


def _place(rows: Rows, row: int) -> str:
    return f"line {rows.lines[row]}"


def _usual_step(where: str, rows: Rows, own: np.ndarray, when: np.ndarray, largest_gap: float | None) -> float:
    """The median seconds between samples of a device, in the order of time and without gaps, or ValueError."""
    steps = np.diff(when)
    for i in np.flatnonzero(steps < 0)[:1]:
        got = f"an earlier one in {_place(rows, int(own[i + 1]))}"
        checks.fail(where, f"{rows.path}", "a table in the order of time", got, "Sort it by Timestamp.")
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
    most = 2 * usual if largest_gap is None else largest_gap
    for i in np.flatnonzero(steps > most)[:1]:
        got = f"{steps[i]:g} s before {_place(rows, int(own[i + 1]))}"
        rule = f"a table without gaps (more than {most:g} s between samples)"
        checks.fail(where, f"{rows.path}", rule, got, f"Fill it, or pass largest_gap={steps[i]:g}.")
    return usual


def _numbers(where: str, rows: Rows, name: str, positive: bool = False, at_least: float = 0.0) -> np.ndarray:
    """A column of finite numbers, at least so much or above 0, float64."""
    rule = f"a table whose {name} is {'above 0' if positive else f'at least {at_least:g}'}"
    rule = f"a table of finite numbers in {name}" if np.isinf(at_least) else rule
    out = np.empty(len(rows.lines))
    for i, cell in enumerate(rows.columns[name]):
        try:
            out[i] = float(cell)
        except ValueError:
            out[i] = np.nan
        if not np.isfinite(out[i]) or out[i] < at_least or (positive and out[i] == 0):
            checks.fail(where, f"{rows.path}", rule, f"{cell!r} in {_place(rows, i)}")
    return out


def _times(where: str, rows: Rows) -> np.ndarray:
    cells = rows.columns["Timestamp"]
    try:
        dates = [datetime.datetime.strptime(cell, _WHEN) for cell in cells]
    except ValueError:
        return _numbers(where, rows, "Timestamp")
    return np.array([(one - dates[0]).total_seconds() for one in dates])


def _by_device(rows: Rows) -> list[np.ndarray]:
    """Rows of each device, in the order in which devices first come."""
    ids = rows.columns.get("client_id", [""] * len(rows.lines))
    found: dict[str, list[int]] = {}
    for i, one in enumerate(ids):
        found.setdefault(one, []).append(i)
    return [np.array(places) for places in found.values()]


def _padded(rows: list[np.ndarray], width: int) -> np.ndarray:
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=np.inf) for row in rows])
