"""Figures of results: curves with spreads, overviews of a run, heat maps and fronts of sweeps, drawings of networks."""

from dlsim.palette import COLORS, LINES, MARKERS
from dlsim.plotting.curves import COLUMN, PAGE, curves, letters, panels, share_legend, style
from dlsim.plotting.overview import main_metric, overview
from dlsim.plotting.sweeps import heat_map, heat_maps, pareto_plot, slope

__all__ = [
    "COLORS",
    "COLUMN",
    "LINES",
    "MARKERS",
    "PAGE",
    "curves",
    "heat_map",
    "heat_maps",
    "letters",
    "main_metric",
    "overview",
    "panels",
    "pareto_plot",
    "share_legend",
    "slope",
    "style",
]
