"""How wide the waves of a tape are: the parallelism that its topology and its clocks allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.clocks.waves import Waves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 200  # of a curve along the tape


class WaveSummary(NamedTuple):
    """Widths are events in a wave."""

    num_events: int
    num_waves: int
    mean_width: float
    median_width: float
    max_width: int
    least_waves: int  # events at the busiest node, which must follow each other: no schedule has fewer waves
    largest_mean_width: float  # events over `least_waves`: what no schedule exceeds

    def __str__(self) -> str:
        return (
            f"{self.num_events:,} events in {self.num_waves:,} waves: width {self.mean_width:.1f} in the mean (no "
            f"schedule has above {self.largest_mean_width:.1f}), {self.median_width:.0f} in the median, {self.max_width} "
            "at most"
        )


def wave_summary(waves: Waves) -> WaveSummary:
    """Numbers of events and waves, and how wide these are.

    Args:
      waves: of a tape with at least one event.
    """
    _check("wave_summary", "waves", waves)
    widths = waves.widths
    return WaveSummary(
        num_events=len(waves.order),
        num_waves=waves.num_waves,
        mean_width=float(widths.mean()),
        median_width=float(np.median(widths)),
        max_width=int(widths.max()),
        least_waves=waves.most_at_node,
        largest_mean_width=len(waves.order) / waves.most_at_node,
    )


def plot_waves(waves: Mapping[str, Waves]) -> Figure:
    """Widths of waves along the tape, and how they are distributed, one curve a tape.

    Args:
      waves: by label, for example the name of a topology.
    Returns: a matplotlib Figure of two panels, both with a share of the nodes on the axis of widths.
    """
    from dlsim import plotting

    if not isinstance(waves, Mapping) or not waves:
        checks.fail("plot_waves", "waves", "a mapping {label: waves} with an entry", type(waves).__name__)
    with plotting.style():
        figure, axes = plotting.panels(1, 2, height=2.9)
        along, spread = axes[0]
        for place, (label, one) in enumerate(waves.items()):
            _check("plot_waves", f"waves[{label!r}]", one)
            line = {
                "color": plotting.COLORS[place % len(plotting.COLORS)],
                "linestyle": plotting.LINES[place % len(plotting.LINES)],
            }
            share = one.widths / one.num_nodes
            middles, means = _means(share)
            along.plot(middles, means, label=label, **line)
            spread.step(np.sort(share), np.arange(1, len(share) + 1) / len(share), where="post", label=label, **line)
        along.set_xlabel("wave, share of all waves")
        along.set_ylabel("events in a wave / nodes")
        along.set_yscale("log")
        along.set_xlim(0, 1)
        spread.set_xlabel("events in a wave / nodes")
        spread.set_ylabel("share of waves at most this wide")
        spread.set_xscale("log")
        spread.set_ylim(0, 1)
        plotting.letters(axes, ("Width along the tape", "Distribution of widths"))
        plotting.share_legend(figure, axes)
    return figure


def _means(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal parts of the tape, so that long tapes give smooth curves, and where those parts lie in [0, 1]."""
    edges = np.unique(np.linspace(0, len(share), min(len(share), POINTS) + 1).astype(np.int64))
    return (edges[1:] + edges[:-1]) / (2 * len(share)), np.add.reduceat(share, edges[:-1]) / np.diff(edges)


def _check(where: str, argument: str, waves: Waves) -> None:
    checks.instance(where, argument, waves, Waves, "Make them with dlsim.clocks.make_waves.")
    if waves.num_waves == 0:
        checks.fail(where, argument, "of a tape with an event", "none")
