"""How large a graph may be, said before anything is allocated."""

from __future__ import annotations

import functools
import os
import pathlib

from dlsim import checks

LARGEST_NODES = 2**28
LARGEST_EDGE_LIST = 2**29  # directed edges
# What making a network takes at its peak, at the least: measured 91 to 99 bytes an edge, 37 to 77 a node.
BYTES_PER_EDGE = 64
BYTES_PER_NODE = 32


@functools.cache
def total_memory() -> int:
    """Bytes of main memory that this machine has, or a container's limit; 2^63 where nobody says."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
    try:
        return min(total, int(pathlib.Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # no such limit, or the word "max"
        return total


def check_size(where: str, num_nodes: int, num_edges: int = 0, argument: str = "num_nodes") -> int:
    """`num_nodes`, if that many nodes and directed edges can be listed and fit in this machine's memory at all."""
    got = f"{num_nodes} nodes with {num_edges} directed edges" if num_edges else f"{num_nodes} nodes"
    if num_nodes > LARGEST_NODES or num_edges > LARGEST_EDGE_LIST:
        rule = f"small enough for lists of at most {LARGEST_NODES} nodes and {LARGEST_EDGE_LIST} directed edges"
        checks.fail(where, argument, rule, got)
    needed = BYTES_PER_EDGE * num_edges + BYTES_PER_NODE * num_nodes
    if needed > total_memory():
        each = f"{BYTES_PER_EDGE} bytes a directed edge and {BYTES_PER_NODE} a node at the least"
        checks.fail(where, argument, f"small enough for the {_gib(total_memory())} of this machine ({each})", got)
    return num_nodes


def check_table(where: str, argument: str, rows: int, columns: int, what: str, itemsize: int = 4) -> None:
    """ValueError if a table of so many rows and columns cannot fit in this machine's memory."""
    needed = rows * columns * itemsize
    if needed > total_memory():
        rule = f"small enough for the {_gib(total_memory())} of this machine"
        checks.fail(where, argument, rule, f"{rows} x {columns} {what}, {_gib(needed)}")


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
