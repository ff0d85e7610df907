"""`dlsim bench`: what this machine does with the standard workloads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dlsim import checks

__all__ = ["command", "run_bench"]


def run_bench(
    quick: bool = False, only: Sequence[str] | None = None, note: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure the machine's ceilings and the workloads; every figure with its unit in its name.

    Args:
      quick: under two minutes on two cores; else about ten.
      only: names of workloads; None: all.
      note: told what is being measured.
    """
    import jax

    from dlsim.bench import machine, rounds, workloads
    from dlsim.bench.report import scaling_exponent

    known = [*workloads.MODELS, *workloads.EXTRA, "kernels"]
    for name in only or ():
        checks.one_of("bench", "--only", name, known)
    chosen = [name for name in known if not only or name in only]
    note("product and copy rates")
    ceilings = machine.ceilings(0.3 if quick else 1.0)
    found: dict[str, Any] = {"machine": machine.describe(), "ceilings": ceilings, "workloads": {}, "extra": {}}
    found["rounds"] = {}
    for name in [name for name in chosen if name in workloads.MODELS]:
        model, rows = workloads.MODELS[name], []
        for num_nodes in workloads.sizes(name, quick, ceilings["memory_bytes"]):
            note(f"{name}, {num_nodes} nodes")
            row = workloads.isolated(name, num_nodes, 2.0 if quick else 6.0)
            rate = row["node_updates_per_second"]
            row["fraction_of_product_rate"] = rate * model.flops / ceilings["flops"]
            copies = ceilings["copy_bytes"] * row["round_seconds"]  # bytes that could have been copied meanwhile
            row["fraction_of_copy_rate"] = row["traffic_bytes"] / copies
            row["fraction_of_bound"] = row["least_bytes"] / copies
            rows.append(row)
        entry = {"flops_per_update": model.flops, "parameters": model.parameters, "rows": rows}
        found["workloads"][name] = {**entry, "scaling_exponent": scaling_exponent(rows)}
    for name in rounds.NAMES if "kernels" in chosen else ():
        note(f"kernels of {name}")
        one = rounds.counted(name)
        found["rounds"][name] = {
            part: getattr(one, part) for part in ("kernels", "fusions", "products", "others", "loops")
        }
    for name in [name for name in chosen if name in workloads.EXTRA]:
        note(name)
        found["extra"][name] = workloads.EXTRA[name](quick)
    jax.clear_caches()
    return found


def command(
    quick: bool = False, out: str | None = None, only: Sequence[str] | None = None, progress: str = "auto"
) -> int:
    """The command line's `bench`: prints a table, writes `bench.json` and a figure.

    `progress`: `"off"` says nothing meanwhile; any other, a line for each thing that is measured.
    """
    import sys

    from dlsim import files
    from dlsim.bench import report

    folder = files.given_path("bench", "out", "runs/bench" if out is None else out)
    report.check_folder(folder)

    def note(text: str) -> None:
        if progress != "off":
            print(f"measuring {text} ...", file=sys.stderr, flush=True)

    found = run_bench(quick, only, note)
    report.show(found)
    for path in report.write(found, folder):
        print(path)
    return 0
