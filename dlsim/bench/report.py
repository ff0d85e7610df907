"""The figures of a bench as a table, a file and a picture."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim import checks, files
from dlsim.results import plain
from dlsim.sweeps.estimate import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


def scaling_exponent(rows: Sequence[dict[str, float]]) -> float | None:
    """Slope of log seconds a round over log nodes; 1 is linear.  None with fewer than two sizes."""
    if len(rows) < 2:
        return None
    x, y = (np.log([row[name] for row in rows]) for name in ("num_nodes", "round_seconds"))
    return float(np.polyfit(x, y, 1)[0])


def show(found: dict[str, Any]) -> None:
    """Print machine, ceilings, and a row a workload and size."""
    import sys

    from rich.console import Console

    from dlsim.analysis.folding import FoldingTable

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    about, ceilings = found["machine"], found["ceilings"]
    load = ", ".join(f"{value:.1f}" for value in about["load"])
    console.print(
        f"{about['device']}, {about['num_devices']} device(s), {about['num_cores']} cores, jax {about['jax']}, load {load}"
    )
    console.print(
        f"float32 products {ceilings['flops'] / 1e9:.0f} Gflop/s, copies {ceilings['copy_bytes'] / 1e9:.1f} GB/s, "
        f"memory {readable(ceilings['memory_bytes'])}"
    )
    table = FoldingTable(title="D-SGD, random 4-regular graph, batch 32, 784 pixels", num_keys=2)
    table.add_column("model")
    for name in ("nodes", "node-updates/s", "ms a round", "of products", "of copies", "compile s", "peak memory"):
        table.add_column(name, justify="right")
    for name, workload in found["workloads"].items():
        for row in workload["rows"]:
            table.add_row(
                name,
                f"{row['num_nodes']:,}",
                f"{row['node_updates_per_second']:,.0f}",
                f"{1e3 * row['round_seconds']:.3g}",
                f"{row['fraction_of_product_rate']:.0%}",
                f"{row['fraction_of_copy_rate']:.0%}",
                f"{row['compile_seconds']:.1f}",
                readable(row["peak_bytes"]),
            )
    if found["workloads"]:
        console.print(table)
        console.print(memory_table(found))
    if found["rounds"]:
        console.print(kernel_table(found["rounds"]))
    for name, workload in found["workloads"].items():
        if workload["scaling_exponent"] is not None:
            console.print(f"{name}: seconds a round grow as nodes to the {workload['scaling_exponent']:.2f}")
    for name, values in found["extra"].items():
        console.print(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value:,.4g}" for key, value in values.items()))


def binding(row: dict[str, float]) -> str:
    """Which of the machine's ceilings a workload is held by; neither where it reaches half of none."""
    rates = {"products": row["fraction_of_product_rate"], "memory": row["fraction_of_copy_rate"]}
    nearest = max(rates, key=lambda name: rates[name])
    return nearest if rates[nearest] >= 0.5 else "neither"


def memory_table(found: dict[str, Any]) -> Table:
    """What a round moves, beside the least that two passes do, and what it is held by."""
    from rich.table import Table

    table = Table(title="Memory and kernels, a round")
    table.caption = (
        "moved: operands and results of the compiled round's kernels; least: the update and the mix each read and write "
        "the models once; of the bound: the time of the least at the copy rate, over the time taken"
    )
    table.add_column("model")
    for name in ("nodes", "moved", "least", "moved / least", "of the bound", "held by", "kernels", "fusions"):
        table.add_column(name, justify="right")
    for name, workload in found["workloads"].items():
        for row in workload["rows"]:
            table.add_row(
                name,
                f"{row['num_nodes']:,}",
                readable(row["traffic_bytes"]),
                readable(row["least_bytes"]),
                f"{row['traffic_bytes'] / row['least_bytes']:.2f}",
                f"{row['fraction_of_bound']:.0%}",
                binding(row),
                str(row["kernels"]),
                str(row["fusions"]),
            )
    return table


def kernel_table(rounds: dict[str, dict[str, float]]) -> Table:
    """What the compiled rounds of a few methods run."""
    from rich.table import Table

    table = Table(title="Kernels a round, MLP 20-16-5 at 32 nodes")
    table.add_column("method")
    columns = ("kernels", "fusions", "products", "others", "loops")
    for name in columns:
        table.add_column(name, justify="right")
    for name, one in rounds.items():
        table.add_row(name, *(str(one[column]) for column in columns))
    return table


def figure(found: dict[str, Any]) -> Figure:
    """Node-updates a second, and the fraction of the product rate, against the number of nodes."""
    from dlsim import plotting

    with plotting.style():
        made, axes = plotting.panels(1, 2, height=2.8)
        rates, fractions = axes[0]
        for index, (name, workload) in enumerate(found["workloads"].items()):
            nodes = [row["num_nodes"] for row in workload["rows"]]
            style = {"marker": "o", "markersize": 3, "color": plotting.COLORS[index], "label": name}
            rates.loglog(nodes, [row["node_updates_per_second"] for row in workload["rows"]], **style)
            fractions.semilogx(nodes, [100 * row["fraction_of_product_rate"] for row in workload["rows"]], **style)
        rates.set(xlabel="nodes", ylabel="node-updates a second")
        fractions.set(xlabel="nodes", ylabel="of the product rate (%)", ylim=(0, None))
        plotting.letters(axes, ["throughput", "arithmetic"])
        plotting.share_legend(made, axes)
    return made


def check_folder(folder: pathlib.Path) -> None:
    """One line if nothing can be written there, before minutes are spent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        checks.fail("bench", "out", "a folder that can be written", f"{folder} ({error.strerror})")


def write(found: dict[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
    """`bench.json`, and the figure where a model was measured; each file whole or not at all."""
    paths = [folder / "bench.json"]
    text = json.dumps(plain(found), indent=2, allow_nan=False) + "\n"
    with files.writing("bench", "out", folder):
        files.write_whole(paths[0], lambda file: file.write(text.encode()))
        if found["workloads"]:
            made = figure(found)
            for kind in ("png", "svg"):
                paths.append(folder / f"bench.{kind}")
                with files.staged(paths[-1]) as staging:
                    made.savefig(staging, dpi=200)
    return paths
