"""The colours of figures and pages: one source, and told apart by readers who see fewer colours."""

from __future__ import annotations

import itertools
import pathlib
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from dlsim import palette, plotting

ROOT = pathlib.Path(__file__).parent.parent
# Machado, Oliveira, Fernandes, IEEE TVCG 15, 2009, full severity, on linear RGB.
SEEN = {
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]


def lab(colour, seen):
    """CIELAB (D65) of an sRGB colour as it is seen."""
    given = np.asarray(to_rgb(colour))
    linear = np.where(given <= 0.04045, given / 12.92, ((given + 0.055) / 1.055) ** 2.4)
    xyz = np.asarray(TO_XYZ) @ np.clip(np.asarray(SEEN[seen]) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colours, seen):
    return min(np.linalg.norm(lab(a, seen) - lab(b, seen)) for a, b in itertools.combinations(colours, 2))


@pytest.mark.parametrize("seen", SEEN)
def test_any_two_colours_are_told_apart(seen):
    """A just noticeable difference is 2.3; that of matplotlib's ten colours is 4.6 for protanopes."""
    assert nearest(palette.COLORS, seen) > 15 and nearest(palette.AREAS, seen) > 15
    assert nearest(matplotlib.colormaps["tab10"].colors, "protanopia") == pytest.approx(4.6, abs=0.1)


def test_the_ramp_of_pages_is_that_of_figures():
    places = np.linspace(0, 1, len(palette.RAMP_STOPS))
    assert [to_hex(colour).upper() for colour in matplotlib.colormaps[palette.RAMP](places)] == [*palette.RAMP_STOPS]


def test_there_is_one_source():
    """No colour stands elsewhere in the package but in the worlds' own drawings and the pages' text and background."""
    own = ("palette.py", "environments", "report/style.css", "terminal")
    colour = re.compile(r"""#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}["';]|["'](?:tab:\w+|C\d|viridis|tab10|tab20)["']""")
    found = []
    for path in sorted((ROOT / "dlsim").rglob("*")):
        name = path.relative_to(ROOT / "dlsim").as_posix()
        if path.suffix in (".py", ".js", ".css") and not name.startswith(own):
            found += [f"{name}: {one}" for one in colour.findall(path.read_text(encoding="utf-8"))]
    assert [one for one in found if one != "report/plot.js: #000000"] == []
    assert (plotting.COLORS, plotting.LINES, plotting.MARKERS) == (palette.COLORS, palette.LINES, palette.MARKERS)


def test_figures_in_the_style_use_it():
    with plotting.style():
        _, panels = plotting.panels(1, 1)
        lines = [panels[0, 0].plot([0, 1])[0] for _ in palette.COLORS]
    assert [line.get_color() for line in lines] == [*palette.COLORS]
