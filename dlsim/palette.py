"""The colours of every figure and page, which colour-blind readers tell apart.

Environments draw their worlds in colours of their own.
"""

from __future__ import annotations

# Okabe and Ito, Color universal design, 2008; the yellow is left out, being too pale for lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
AREAS = (*COLORS, "#F0E442", "#DDDDDD", "#6A3D00")  # ten kinds of filled shapes, the yellow among them
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))  # tell curves apart in print as well
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # tell points apart in print as well

RAMP = "viridis"  # matplotlib's name of the colours of numbers, from little to much
RAMP_STOPS = ("#440154", "#414487", "#2A788E", "#22A884", "#7AD151", "#FDE725")  # of it, evenly, for pages

GRID = "#D9D9D9"  # lines behind curves
MISSING = "#E6E6E6"  # cells without a number
SOFT = "#7F7F7F"  # what stands back: a front, a prediction, a link
