"""Figures of results: curves with spreads, overviews of a run, heat maps and fronts of sweeps, drawings of networks."""

from dlsim.plotting.curves import COLORS, COLUMN, LINES, PAGE, curves, letters, panels, share_legend, style
from dlsim.plotting.overview import main_metric, overview
from dlsim.plotting.sweeps import MARKERS, heat_map, pareto_plot, slope

__all__ = [
    "COLORS",
    "COLUMN",
    "LINES",
    "MARKERS",
    "PAGE",
    "curves",
    "heat_map",
    "letters",
    "main_metric",
    "overview",
    "panels",
    "pareto_plot",
    "share_legend",
    "slope",
    "style",
]
