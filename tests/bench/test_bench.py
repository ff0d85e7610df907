"""`dlsim bench`: what it counts, what it writes, and its one-line errors."""

from __future__ import annotations

import json
import pathlib

import pytest

from dlsim import bench
from dlsim.bench import machine, report, workloads
from dlsim.terminal import cli


def test_floating_point_operations_are_those_of_the_layers() -> None:
    batch = workloads.BATCH
    assert workloads.MODELS["softmax"].flops == 4 * batch * 784 * 10  # no gradient for the input
    assert workloads.MODELS["mlp"].flops == batch * (4 * 784 * 128 + 6 * 128 * 10)
    assert workloads.MODELS["cnn"].flops == batch * (4 * 25 * 16 * 784 + 6 * 25 * 512 * 196 + 6 * 15_680)


@pytest.mark.parametrize("name", workloads.MODELS)
def test_a_workload_runs_and_has_the_parameters_it_says(name: str) -> None:
    row = workloads.run(name, 6, 0.01)
    assert row["parameters"] == workloads.MODELS[name].parameters
    assert row["node_updates_per_second"] == pytest.approx(6 / row["round_seconds"])
    assert row["compile_seconds"] > 0 and row["peak_bytes"] > 2**20 and row["loss"] > 0
    assert row["least_bytes"] == 4 * 4 * 6 * row["parameters"]
    assert row["traffic_bytes"] < row["least_bytes"], "six models stay in the cache"
    assert row["kernels"] > row["fusions"] > 10


def test_events_are_counted() -> None:
    row = workloads.EXTRA["events"](True)
    assert 80_000 < row["events"] < 120_000  # 2,000 links, a rate of one, fifty seconds
    assert row["events_per_second"] > row["events"] / 60 and 1 < row["events_a_wave"] <= 500


def test_sizes_stop_at_the_memory() -> None:
    assert workloads.sizes("softmax", True, 1e12) in ([100], [100, 1000])
    assert workloads.sizes("mlp", False, 0.2e9) == [100]
    assert workloads.sizes("mlp", False, 1e6) == []


def test_a_scaling_exponent_is_a_slope() -> None:
    rows = [{"num_nodes": n, "round_seconds": 3e-6 * n**1.25} for n in (100, 1000, 10_000)]
    assert report.scaling_exponent(rows) == pytest.approx(1.25)
    assert report.scaling_exponent(rows[:1]) is None


def test_ceilings_are_positive_and_below_what_any_machine_has() -> None:
    found = machine.ceilings(0.02)
    assert 1e8 < found["flops"] < 1e17 and 1e7 < found["copy_bytes"] < 1e14


def found() -> dict:
    row = {
        "num_nodes": 100, "parameters": 7850, "round_seconds": 0.01, "node_updates_per_second": 1e4,
        "compile_seconds": 1.0, "peak_bytes": 2**28, "fraction_of_product_rate": 0.3, "fraction_of_copy_rate": 0.55,
        "traffic_bytes": 3 * 2**20, "least_bytes": 2**21, "fraction_of_bound": 0.37, "kernels": 91, "fusions": 68,
    }  # fmt: skip
    return {
        "machine": machine.describe(),
        "ceilings": {"flops": 1e11, "copy_bytes": 1e10, "memory_bytes": 1e10},
        "workloads": {"softmax": {"flops_per_update": 1e6, "rows": [row], "scaling_exponent": None}},
        "rounds": {"dsgd": {"kernels": 57, "fusions": 45, "products": 2, "others": 10, "loops": 1}},
        "extra": {"sweep": {"ratio": 0.9}},
    }


def test_the_report_is_a_table_a_file_and_a_figure(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    report.show(found())
    shown = capsys.readouterr().out
    assert "10,000" in shown and "30%" in shown and "ratio 0.9" in shown
    memory = next(line for line in shown.splitlines() if "3.0 MiB" in line)
    assert memory.replace("│", " ").split() == [
        "softmax",
        "100",
        "3.0",
        "MiB",
        "2.0",
        "MiB",
        "1.50",
        "37%",
        "memory",
        "91",
        "68",
    ]
    kernels = next(line for line in shown.splitlines() if "dsgd" in line)
    assert kernels.replace("│", " ").split() == ["dsgd", "57", "45", "2", "10", "1"]
    paths = report.write(found(), tmp_path)
    assert [path.name for path in paths] == ["bench.json", "bench.png", "bench.svg"]
    assert all(path.stat().st_size > 200 for path in paths)
    assert json.loads(paths[0].read_text())["workloads"]["softmax"]["rows"][0]["num_nodes"] == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.png", "bench.svg"]


def test_what_binds_is_the_nearer_ceiling() -> None:
    def row(products: float, copies: float) -> str:
        return report.binding({"fraction_of_product_rate": products, "fraction_of_copy_rate": copies})

    assert (row(0.6, 0.9), row(0.8, 0.7), row(0.2, 0.4)) == ("memory", "products", "neither")


def test_an_unknown_workload_and_a_bad_folder_are_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(ValueError, match="bench: --only must be one of softmax, mlp, .* got 'sofmax'. Did you mean"):
        bench.run_bench(True, ["sofmax"])
    (tmp_path / "file").write_text("")
    assert cli.main(["bench", "--quick", "--out", str(tmp_path / "file" / "sub")]) == 2
    line = capsys.readouterr().err
    assert "bench: out must be a folder that can be written" in line and line.count("\n") == 1
