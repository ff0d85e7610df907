"""What other people's graphs say beside their edges: names and attributes.  They are carried, and enter no computation."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

Attributes = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Labels:
    """Names and attributes of a graph's nodes and edges, on the host.

    Part of what a network is made of, not of what a step computes with: no array of it enters a program.  Equal to itself
    alone, so that networks with other labels are never taken for one another.
    """

    names: tuple[Hashable, ...]  # [N] what the nodes are called, all different
    nodes: tuple[Attributes, ...]  # [N] of each node
    edges: tuple[Attributes, ...] | None = None  # [E] of each directed edge, in the graph's order; None: they have none
    graph: Attributes = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        known = sorted({key for one in self.nodes for key in one} | {key for one in self.edges or () for key in one})
        first = ", ".join(repr(name) for name in self.names[:3]) + (", ..." if len(self.names) > 3 else "")
        return f"Labels({len(self.names)} names: {first}; attributes: {', '.join(known) or 'none'})"

    def of_nodes(self, attribute: str) -> list[Any]:
        """An attribute of every node, None where it has none, `[N]`."""
        return [one.get(attribute) for one in self.nodes]

    def of_edges(self, attribute: str) -> list[Any] | None:
        """An attribute of every directed edge, None where it has none, `[E]`; None: edges have no attributes."""
        return None if self.edges is None else [one.get(attribute) for one in self.edges]

    def ordered(self, nodes: np.ndarray, edges: np.ndarray) -> Labels:
        """Of the same graph with its nodes and edges in this order."""
        return Labels(
            names=tuple(self.names[i] for i in nodes.tolist()),
            nodes=tuple(self.nodes[i] for i in nodes.tolist()),
            edges=None if self.edges is None else tuple(self.edges[i] for i in edges.tolist()),
            graph=self.graph,
        )


def named(names: Sequence[Any] | None) -> Labels | None:
    """Labels that are names alone, of a file or a list of pairs; who has none is called by its position."""
    if names is None:
        return None
    taken = {name for name in names if name is not None}
    full = tuple((f"node {i}" if i in taken else i) if name is None else name for i, name in enumerate(names))
    return Labels(full, tuple({} for _ in full))
