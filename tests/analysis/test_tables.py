"""A sweep's results as CSV and as a table on the terminal."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import xarray
from rich.console import Console

from dlsim import analysis
from dlsim.analysis import tables

NAN = np.nan


def results():
    accuracy = np.array([[[[0.1, 0.9], [0.1, 0.7]], [[0.1, 0.95], [0.1, NAN]]], [[[0.1, 0.3], [0.1, 0.4]]] * 2])
    dims = ("topology", "is_lazy", "seed", "step")
    return xarray.Dataset(
        {
            "spectral_gap": (("topology",), [0.1, 0.4]),
            "accuracy": (dims, accuracy),
            "bits_sent": (dims, np.broadcast_to([0.0, 123456789.0], accuracy.shape)),
            "per_node": ((*dims, "per_node_0"), np.zeros((*accuracy.shape, 3))),
            "diverged_step": (dims[:3], [[[-1, -1], [-1, 5]], [[-1, -1], [-1, -1]]]),
        },
        coords={"topology": ["ring, lazy", "torus"], "is_lazy": [False, True], "seed": [4, 5], "step": [0, 10]},
    )


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def text(table):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_csv_has_a_line_for_each_run_and_step(tmp_path):
    path = analysis.to_csv(results(), tmp_path / "new" / "sweep.csv")
    rows = lines(path)
    assert path == tmp_path / "new" / "sweep.csv" and len(rows) == 2 * 2 * 2 * 2
    names = ["topology", "is_lazy", "seed", "step", "spectral_gap", "accuracy", "bits_sent", "diverged_step"]
    assert list(rows[0]) == names
    assert list(rows[7].values()) == ["ring, lazy", "True", "5", "10", "0.1", "nan", "123456789.0", "5"]
    back = np.array([float(row["accuracy"]) for row in rows])
    np.testing.assert_array_equal(back, results().accuracy.values.ravel())  # every digit


def test_csv_of_one_run_and_of_numbers_of_32_bits(tmp_path):
    one = results().isel(topology=0, is_lazy=0, seed=0).astype(np.float32)[["accuracy"]]
    rows = lines(analysis.to_csv(one, str(tmp_path / "run.csv")))
    assert [list(row.values()) for row in rows] == [["0", "0.1"], ["10", "0.9"]]


def test_csv_has_no_lines_for_what_a_run_did_not_record(tmp_path):
    data = results().drop_vars("per_node")
    data["accuracy"][0, 0, 0, 1] = data["accuracy"][1, 1, 1, 0] = np.nan
    data["bits_sent"] = data.bits_sent.where(data.accuracy.notnull() | (data.diverged_step >= 0))
    rows = lines(analysis.to_csv(data, tmp_path / "sweep.csv"))
    gone = [("ring, lazy", "False", "4", "10"), ("torus", "True", "5", "0")]
    assert len(rows) == 14 and not {tuple(row.values())[:4] for row in rows} & set(gone)


def test_csv_has_a_line_for_each_node_where_something_is_by_node(tmp_path):
    data = results().drop_vars("per_node")
    far = np.arange(data.accuracy.size * 3.0).reshape(*data.accuracy.shape, 3)
    far[1, ..., 2] = np.nan  # the torus has two nodes only, as a sweep over the number of nodes gives it
    far[0, 0, 0, 0, 1] = np.nan
    far[0, 1, 1] = np.nan  # a run that diverged keeps its lines
    data["far"] = ((*data.accuracy.dims, "node"), far)
    rows = lines(analysis.to_csv(data, tmp_path / "sweep.csv"))
    names = ["topology", "is_lazy", "seed", "step", "node", "spectral_gap", "accuracy", "bits_sent"]
    assert list(rows[0]) == [*names, "diverged_step", "far"]
    assert len(rows) == 8 * 3 + 8 * 2
    assert {row["node"] for row in rows if row["topology"] == "torus"} == {"0", "1"}
    assert [row["far"] for row in rows[:6]] == ["0.0", "nan", "2.0", "3.0", "4.0", "5.0"]
    assert [row["accuracy"] for row in rows[:6]] == ["0.1"] * 3 + ["0.9"] * 3
    gone = [row["far"] for row in rows if (row["is_lazy"], row["seed"], row["topology"]) == ("True", "5", "ring, lazy")]
    assert gone == ["nan"] * 6


def test_csv_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "sweep.csv"
    path.write_text("earlier")
    monkeypatch.setattr(
        tables.os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(ValueError, match=r"to_csv: path must be a file that can be written, got .*No space left"):
        analysis.to_csv(results(), path)
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    analysis.to_csv(results(), path)
    assert len(lines(path)) == 16 and list(tmp_path.iterdir()) == [path]


def test_csv_into_a_folder_or_of_nothing_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="to_csv: path must be a file, got the folder"):
        analysis.to_csv(results(), tmp_path)
    with pytest.raises(ValueError, match="to_csv: results must be a Dataset with variables over"):
        analysis.to_csv(results()[["per_node"]], tmp_path / "sweep.csv")


def test_table_has_a_row_a_setting():
    table = analysis.to_table(results(), title="four settings")
    assert [column.header for column in table.columns] == ["topology", "is lazy", "accuracy", "bits sent", "diverged"]
    shown = text(table).splitlines()
    assert shown[0].strip() == "four settings" and len(shown) == 2 + 4
    assert shown[2].split() == ["ring,", "lazy", "False", "0.80", "±", "0.14", "1.235e8", "±", "0", "0", "of", "2"]
    assert shown[3].split() == ["ring,", "lazy", "True", "0.95", "1.235e8", "1", "of", "2"]
    assert [row.style for row in table.rows] == [None, "red", None, None]


def test_table_sorted_and_cut():
    table = analysis.to_table(results(), ["bits_sent"], by="accuracy", is_sorted=True, max_rows=3)
    shown = text(table).splitlines()
    # The largest mean has a failed run, so it comes last, and is cut.
    assert [line.split()[:-6] for line in shown[1:4]] == [
        ["ring,", "lazy", "False"],
        ["torus", "False"],
        ["torus", "True"],
    ]
    assert shown[4].strip() == "and 1 more" and len(shown) == 5
    least = analysis.to_table(results(), "accuracy", mode="min", is_sorted=True)
    assert text(least).splitlines()[1].startswith("torus")


def test_table_of_one_setting_and_at_another_record():
    one = results().isel(topology=0, is_lazy=0, drop=True)
    assert text(analysis.to_table(one, ["accuracy"], at=0)).splitlines()[1].split() == ["0.1", "±", "0", "0", "of", "2"]


def test_table_with_unknown_names_is_one_line():
    with pytest.raises(ValueError, match="to_table: metric must be one of accuracy, .* got 'acuracy'"):
        analysis.to_table(results(), ["acuracy"])
    with pytest.raises(ValueError, match="to_table: metrics must be given, for none of the usual ones is there"):
        analysis.to_table(results()[["spectral_gap"]])


@pytest.mark.parametrize(
    ("mean", "spread", "expected"),
    [
        (0.91234, 0.0123, "0.912 ± 0.012"),
        (12.3456, 3.2, "12.3 ± 3.2"),
        (123.4, 45.0, "123 ± 45"),
        (0.5, NAN, "0.5"),
        (0.5, 0.0, "0.5 ± 0"),
        (1.5e9, 2.5e7, "(1.500 ± 0.025)e9"),
        (3.2e-9, 1.1e-9, "(3.2 ± 1.1)e-9"),
        (-2.0, 3e6, "(-0.0 ± 3.0)e6"),
        (0.5, 3e-17, "0.5 ± 3e-17"),
        (123456789.0, NAN, "1.235e8"),
        (NAN, NAN, "-"),
    ],
)
def test_numbers_are_written_to_their_spread(mean, spread, expected):
    assert analysis.spread_text(mean, spread) == expected
