"""What a partition gave to whom: counts, and the figure of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dlsim import checks, palette
from dlsim.problems.data import Dataset
from dlsim.problems.partition import Partition

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@checks.typed
def describe(made: Partition, dataset: Dataset) -> np.ndarray:
    """How many examples of each class (as stored, before any label permutation) each node holds, int64 [N, C].

    For regression, `[N, 1]`: the nodes' sizes.
    """
    checks.instance("describe", "made", made, Partition, "Make one: partition(dataset, num_nodes, iid()).")
    checks.instance("describe", "dataset", dataset, Dataset, 'Make one: load("digits") or dataset(x, y).')
    num_nodes, num_classes = len(made.sizes), max(dataset.num_classes, 1)
    nodes = np.repeat(np.arange(num_nodes), made.sizes)
    # Runs need not lie end to end: a hand-made partition may share one list among nodes.
    within = np.arange(len(nodes)) - np.repeat(np.cumsum(made.sizes) - made.sizes, made.sizes)
    ids = made.indices[np.repeat(made.offsets, made.sizes) + within]
    labels = dataset.labels[ids] if dataset.num_classes else np.zeros(len(ids), np.int64)
    return np.bincount(nodes * num_classes + labels, minlength=num_nodes * num_classes).reshape(num_nodes, num_classes)


@checks.typed
def plot_partition(made: Partition, dataset: Dataset, ax: Axes | None = None) -> Axes:
    """Who holds what, drawn on `ax` (default: a new figure); gives the axes back.

    Up to 40 nodes: a bubble for every node and class, its area the number of examples, and the nodes' sizes above.
    More: one column a node, stacked by class.
    """
    counts = describe(made, dataset)
    num_nodes, num_classes = counts.shape
    if ax is not None and not hasattr(ax, "set_xlabel"):
        checks.fail("plot_partition", "ax", "matplotlib axes", type(ax).__name__, "Such as plt.gca().")
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(min(12.0, 3.5 + 0.2 * num_nodes), 3.6), layout="constrained")
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    name = dataset.name.replace("_", " ")
    smallest, largest = made.sizes.min(), made.sizes.max()
    sizes = f"{largest}" if smallest == largest else f"{smallest} to {largest}"
    from matplotlib.colors import to_rgba_array

    few = num_classes <= len(palette.AREAS)
    ramp = matplotlib.colormaps[palette.RAMP](np.linspace(0, 1, num_classes))
    shades = to_rgba_array(palette.AREAS[:num_classes]) if few else ramp
    ax.set_xlabel("node")
    if num_nodes <= 40:
        nodes, classes = np.nonzero(counts)
        held = counts[nodes, classes]
        # The fullest bubble just touches its neighbours: areas are in square points of a cell's side.
        box = ax.get_window_extent()
        inches = min(box.width / (num_nodes + 1), box.height / (num_classes + 1)) / ax.figure.dpi
        ax.scatter(nodes, classes, s=held / held.max() * (72 * inches * 0.95) ** 2, c=shades[classes], linewidths=0)
        ax.set(xlim=(-0.7, num_nodes - 0.3), ylim=(-0.7, num_classes - 0.3), ylabel="class")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_title(f"{name}: largest bubble {held.max()} examples, nodes of {sizes}")
        return ax
    edges = np.arange(num_nodes + 1) - 0.5
    tops = np.cumsum(counts, axis=1)
    for c in range(num_classes):
        base = tops[:, c] - counts[:, c]
        ax.stairs(
            tops[:, c], edges, baseline=base, fill=True, color=shades[c], label=str(c), linewidth=0, antialiased=False
        )
    ax.set(xlim=(-0.5, num_nodes - 0.5), ylim=(0, 1.02 * made.sizes.max()), ylabel="examples")
    ax.set_title(f"{name}: {num_nodes} nodes of {sizes} examples")
    if num_classes <= 10:
        ax.legend(title="class", ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    return ax
