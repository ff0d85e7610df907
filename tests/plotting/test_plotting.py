"""Figures: what is drawn is the mean and the spread that the docstring says, and matplotlib's settings stay as they are."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import xarray

from dlsim import plotting

VALUES = np.array([[[1.0, 2.0, 0.0], [100.0, 2.0, 4.0]], [[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]]])


def data(values=VALUES):
    coordinates = {"graph": ["ring", "torus"], "seed": [0, 1], "step": [0, 5, 10]}
    return xarray.DataArray(values, dims=("graph", "seed", "step"), coords=coordinates)


def drawn(**options):
    """The first curve's points, and the lower and upper edge of its band at each."""
    _, panels = plotting.panels(1, 1)
    ax = panels[0, 0]
    plotting.curves(ax, data(), "graph", **options)
    x, y = ax.lines[0].get_data()
    corners = ax.collections[0].get_paths()[0].vertices
    edges = [[np.min(corners[corners[:, 0] == at, 1]), np.max(corners[corners[:, 0] == at, 1])] for at in x]
    return ax, np.asarray(x), np.asarray(y), np.asarray(edges)


def test_mean_and_spread_over_seeds():
    _, x, y, edges = drawn()
    np.testing.assert_array_equal(x, [0, 5, 10])
    np.testing.assert_allclose(y, [50.5, 2.0, 2.0])
    spread = np.array([99.0, 0.0, 4.0]) / np.sqrt(2)  # the sample's standard deviation of two numbers
    np.testing.assert_allclose(edges, np.stack([y - spread, y + spread], axis=1), rtol=1e-6)


def test_range_shows_the_least_and_the_greatest_seed():
    np.testing.assert_allclose(drawn(band="range")[3], [[1, 100], [2, 2], [0, 4]])


def test_log_axis_takes_the_geometric_mean_and_leaves_zeros_out():
    ax, x, y, edges = drawn(log=True, band="range")
    assert ax.get_yscale() == "log"
    np.testing.assert_array_equal(x, [0, 5])  # at step 10 a seed is 0
    np.testing.assert_allclose(y, [10.0, 2.0])
    np.testing.assert_allclose(edges, [[1, 100], [2, 2]])


def test_curves_differ_in_colour_and_line_and_are_named():
    ax = drawn(labels={"ring": "ring (0.1)"})[0]
    assert [line.get_label() for line in ax.lines] == ["ring (0.1)", "torus"]
    assert len({line.get_color() for line in ax.lines}) == len({line.get_linestyle() for line in ax.lines}) == 2


def test_one_seed_has_no_band_and_nothing_finite_no_points():
    _, panels = plotting.panels(1, 2)
    plotting.curves(panels[0, 0], data().isel(seed=0, drop=True), "graph")
    assert not panels[0, 0].collections
    plotting.curves(panels[0, 1], data(np.full_like(VALUES, np.nan)), "graph")
    assert [len(line.get_xdata()) for line in panels[0, 1].lines] == [0, 0]


def test_unknown_names_are_one_line():
    _, panels = plotting.panels(1, 1)
    with pytest.raises(ValueError, match="curves: hue must be one of graph, .* got 'graf'. Did you mean 'graph'"):
        plotting.curves(panels[0, 0], data(), "graf")
    with pytest.raises(ValueError, match="curves: band must be one of spread, range, got 'sem'"):
        plotting.curves(panels[0, 0], data(), "graph", band="sem")


def test_settings_of_matplotlib_stay_as_they_are(tmp_path):
    before = dict(matplotlib.rcParams)
    with plotting.style():
        assert matplotlib.rcParams["font.size"] == 8
        figure, panels = plotting.panels(2, 1, sharex=True)
        for ax in panels[:, 0]:
            plotting.curves(ax, data(), "graph")
        plotting.letters(panels, ["one", "two"])
        plotting.share_legend(figure, panels, title="graph")
        figure.savefig(tmp_path / "figure.png")
    assert [ax.get_title(loc="left") for ax in panels[:, 0]] == ["(a) one", "(b) two"]
    assert dict(matplotlib.rcParams) == before


def over(x, values, **options):
    """The curves of `values[graph, seed, step]` over `x[seed, step]`."""
    _, panels = plotting.panels(1, 1)
    bits = xarray.DataArray(np.asarray(x, float), dims=("seed", "step"), coords={"seed": [0, 1], "step": [0, 5, 10]})
    plotting.curves(panels[0, 0], data(np.asarray(values, float)), "graph", x=bits, **options)
    return [np.stack(line.get_data()) for line in panels[0, 0].lines]


def test_over_the_same_places_the_records_are_drawn_as_they_are():
    first, second = over([[0, 10, 40]] * 2, VALUES)
    np.testing.assert_allclose(first, [[0, 10, 40], [50.5, 2, 2]])
    np.testing.assert_allclose(second, [[0, 10, 40], [3, 3, 3]])


def test_over_places_that_differ_by_seed_values_are_interpolated():
    # Seed 0 is y = x, seed 1 is y = 2 x: both known on [2, 8] alone, and 3/2 x in the mean.
    x = np.array([[0.0, 4.0, 8.0], [2.0, 8.0, 12.0]])
    first, _ = over(x, [[x[0], 2 * x[1]]] * 2)
    np.testing.assert_allclose(first, [[2, 6, 8], [3, 9, 12]])
    geometric, _ = over([[0, 4, 8], [0, 8, 8]], [[[1, 10, 100], [1, 77, 100]]] * 2, log=True)
    np.testing.assert_allclose(geometric, [[0, 6, 8], [1, 10**1.5, 100]])


def test_over_places_without_a_common_range_nothing_is_drawn():
    first, _ = over([[0, 1, 2], [5, 6, 7]], VALUES)
    assert first.shape == (2, 0)
    assert over([[0, 1, 2]] * 2, np.full_like(VALUES, np.nan))[0].shape == (2, 0)


def test_over_places_that_fall_or_have_other_axes_is_one_line():
    with pytest.raises(ValueError, match="curves: x must be never falling over step, got a step down of 3"):
        over([[0, 4, 1], [0, 1, 2]], VALUES)
    _, panels = plotting.panels(1, 1)
    with pytest.raises(ValueError, match="curves: x.dims must be one of graph, .* got 'algorithm'"):
        plotting.curves(panels[0, 0], data(), "graph", x=data().rename(graph="algorithm"))


def grid(values=((1.0, 10.0, np.nan), (1000.0, 100.0, 0.0))):
    coordinates = {"topology": ["ring", "torus"], "rate": [0.01, 0.1, 1.0]}
    return xarray.DataArray(np.array(values), dims=("topology", "rate"), coords=coordinates, name="test_accuracy")


def heat(values, **options):
    with plotting.style():
        figure, panels = plotting.panels(1, 1)
        image = plotting.heat_map(panels[0, 0], values, x="rate", y="topology", **options)
        figure.canvas.draw()
    return panels[0, 0], image


def test_heat_map_writes_every_cell_in_its_place():
    ax, image = heat(grid().transpose("rate", "topology"))
    np.testing.assert_array_equal(image.get_array().filled(np.nan), grid())
    cells = {text.get_position(): text.get_text() for text in ax.texts}
    assert cells == {(0, 0): "1", (1, 0): "10", (2, 0): "–", (0, 1): "1e3", (1, 1): "100", (2, 1): "0"}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.01", "0.1", "1"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ring", "torus"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rate", "topology")
    assert image.colorbar.ax.get_ylabel() == "test accuracy"


def test_heat_map_by_logarithm_greys_what_has_none():
    ax, image = heat(grid(), log=True, label="accuracy, %", form=".0e")
    np.testing.assert_allclose(image.norm([1, 10, 1000]), [0, 1 / 3, 1], atol=1e-12)
    assert [text.get_text() for text in ax.texts] == ["1e0", "1e1", "–", "1e3", "1e2", "–"]
    assert image.colorbar.ax.get_ylabel() == "accuracy, %"
    shades = {text.get_text(): text.get_color() for text in ax.texts}
    assert (shades["1e0"], shades["1e3"]) == ("white", "black")  # dark violet and bright yellow


def test_heat_map_frames_the_best_of_each_row():
    def framed(mark):
        ax, _ = heat(grid(), mark=mark)
        return [tuple(np.round(patch.get_center())) for patch in ax.patches]

    assert framed("max") == [(1, 0), (0, 1)]
    assert framed("min") == [(0, 0), (2, 1)]
    assert framed(None) == []


def test_heat_map_of_nothing_finite_or_of_one_number_is_drawn():
    for values in (grid() * np.nan, grid() * 0 + 2.0):
        for log in (False, True):
            heat(values, log=log, mark="max")


def test_heat_maps_side_by_side_share_one_scale_and_one_bar():
    values = xarray.concat([grid(), grid() / 10], "algorithm").assign_coords(algorithm=["dsgd", "choco"])
    for log, (low, high) in ((False, (0.0, 1000.0)), (True, (0.1, 1000.0))):
        figure, panels = plotting.panels(1, 3)
        options = {"x": "rate", "y": "topology", "panel": "algorithm", "log": log}
        images = plotting.heat_maps(panels, values.transpose("rate", "algorithm", "topology"), **options)
        assert [(image.norm.vmin, image.norm.vmax) for image in images] == [(low, high)] * 2
        np.testing.assert_array_equal(images[1].get_array().filled(np.nan)[0], [0.1, 1.0, np.nan])
        assert images[0].norm(10.0) == images[1].norm(10.0)  # a number has one colour
        figure.canvas.draw()
        shown = [ax for ax in figure.axes if ax.get_visible()]
        bars = [ax for ax in shown if ax not in panels.ravel()]
        assert len(bars) == 1 and bars[0].get_ylabel() == "test accuracy"
        left, right, spare = panels[0]
        assert [ax.get_title(loc="left") or ax.get_title() for ax in (left, right)] == [
            "algorithm dsgd",
            "algorithm choco",
        ]
        assert (left.get_ylabel(), right.get_ylabel(), spare.get_visible()) == ("topology", "", False)
        assert [text.get_text() for text in right.get_yticklabels()] == ["", ""]


BAD_LIMITS = ((1, 1), False), ((3, 2), False), ((0, 1), True), ((1,), False), ("ab", False), ((0, np.inf), False)


def test_heat_maps_between_given_limits_or_without_a_bar():
    image = heat(grid(), limits=(-1, 3), bar=False)[1]
    assert (image.norm.vmin, image.norm.vmax) == (-1, 3) and image.colorbar is None
    for limits, log in BAD_LIMITS:
        with pytest.raises(ValueError, match="heat_map: limits must be .*, got"):
            heat(grid(), limits=limits, log=log)
    _, panels = plotting.panels(1, 1)
    two = xarray.concat([grid(), grid()], "algorithm").assign_coords(algorithm=["dsgd", "choco"])
    options = {"x": "rate", "y": "topology", "panel": "algorithm"}
    with pytest.raises(ValueError, match="heat_maps: axes must be one for each of the 2 values of algorithm, got 1"):
        plotting.heat_maps(panels, two, **options)
    with pytest.raises(ValueError, match="heat_maps: panel must be one of algorithm, .* got 'algoritm'. Did you"):
        plotting.heat_maps(panels, two, **{**options, "panel": "algoritm"})
    with pytest.raises(ValueError, match="heat_maps: options must be one of .* got 'lables'. Did you mean 'label'"):
        plotting.heat_maps(panels, two, **options, lables=1)
    with pytest.raises(ValueError, match="heat_maps: data must be an array over x, y and panel alone"):
        plotting.heat_maps(panels, two.expand_dims(seed=[0]), **options)


def sweep():
    accuracy = np.array([[[0.5, 0.7], [0.8, 0.8]], [[0.7, 0.5], [0.9, 0.9]], [[0.9, 0.9], [0.95, np.nan]]])
    bits = np.array([[[10.0, 10.0], [100.0, 100.0]], [[30.0, 30.0], [80.0, 80.0]], [[200.0, 200.0], [5.0, 5.0]]])
    dims = ("algorithm", "rate", "seed")
    return xarray.Dataset(
        {
            "accuracy": ((*dims, "step"), accuracy[..., None]),
            "bits_sent": ((*dims, "step"), bits[..., None]),
            "diverged_step": (dims, np.where(np.isnan(accuracy), 4, -1)),
        },
        coords={"algorithm": ["dsgd", "choco", "extra"], "rate": [0.1, 1.0], "seed": [0, 1], "step": [10]},
    )


def test_pareto_plot_draws_every_setting_and_the_front():
    _, panels = plotting.panels(1, 1)
    ax = panels[0, 0]
    found = plotting.pareto_plot(ax, sweep(), "accuracy", "bits_sent", hue="algorithm", labels={"dsgd": "D-SGD"})
    np.testing.assert_array_equal(found.is_efficient, [[True, False], [False, True], [False, False]])
    assert list(ax.get_legend_handles_labels()[1]) == ["D-SGD", "choco", "extra", "Pareto front"]
    front = next(line for line in ax.lines if line.get_label() == "Pareto front")
    np.testing.assert_allclose(front.get_data(), [[10, 80], [0.6, 0.9]])
    assert front.get_drawstyle() == "steps-post" and ax.get_xscale() == "log"
    hollow = [line for line in ax.lines if line.get_fillstyle() == "none" and len(line.get_xdata())]
    assert [line.get_data() for line in hollow] == [([5.0], [0.95])]  # a setting with a diverged seed
    points = np.concatenate([np.stack(line.get_data(), axis=1) for line in ax.lines if line is not front])
    assert sorted(points[:, 0].tolist()) == [5, 10, 30, 80, 100, 200]
    bars = np.concatenate([bar.get_segments() for bar in ax.collections])
    spread = 0.1 * np.sqrt(2)
    np.testing.assert_allclose(bars[0], [[10, 0.6 - spread], [10, 0.6 + spread]])


def test_pareto_plot_with_unknown_names_is_one_line():
    _, panels = plotting.panels(1, 1)
    with pytest.raises(ValueError, match="pareto_plot: hue must be one of algorithm, rate, got 'algoritm'. Did you"):
        plotting.pareto_plot(panels[0, 0], sweep(), "accuracy", "bits_sent", hue="algoritm")
    with pytest.raises(ValueError, match="pareto: cost must be one of bits_sent, accuracy, got 'bits'. Did you"):
        plotting.pareto_plot(panels[0, 0], sweep(), "accuracy", "bits", hue="algorithm")


def test_slope_shows_the_fitted_and_the_predicted_power():
    _, panels = plotting.panels(1, 1)
    ax, x = panels[0, 0], np.array([1.0, 10.0, 100.0, 1000.0])
    law = plotting.slope(ax, x, [4.0, 0.4, np.nan, 0.004], -0.5, points=["a", "b", "c", "d"])
    np.testing.assert_allclose([law.slope, law.factor], [-1, 4])
    points, fitted, predicted = ax.lines
    np.testing.assert_allclose(points.get_data(), [[1, 10, 1000], [4, 0.4, 0.004]])
    np.testing.assert_allclose(fitted.get_data(), [[1, 1000], [4, 0.004]])
    low, high = predicted.get_ydata()
    np.testing.assert_allclose(high / low, 1000**-0.5)
    middle = 10 ** (4 / 3)  # the geometric mean of x; the lines cross there
    np.testing.assert_allclose(low * middle**-0.5, 4 / middle)
    assert [text.get_text() for text in ax.texts] == ["a", "b", "d"]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend[0].startswith("measured: slope -1") and legend[1] == "predicted: slope -0.5"


def test_bad_heat_maps_and_slopes_are_one_line():
    _, panels = plotting.panels(1, 1)
    ax = panels[0, 0]
    with pytest.raises(ValueError, match="heat_map: x must be one of rate, topology, got 'rat'. Did you"):
        plotting.heat_map(ax, grid(), x="rat", y="topology")
    with pytest.raises(ValueError, match="heat_map: data must be an array over x and y alone, got dims .*seed"):
        plotting.heat_map(ax, grid().expand_dims(seed=[0]), x="rate", y="topology")
    with pytest.raises(ValueError, match="heat_map: mark must be one of max, min"):
        plotting.heat_map(ax, grid(), x="rate", y="topology", mark="best")
    with pytest.raises(ValueError, match="heat_map: colors must be one of viridis"):
        plotting.heat_map(ax, grid(), x="rate", y="topology", colors="virids")
    with pytest.raises(ValueError, match="slope: points must be one name for each of the 2 points, got 1"):
        plotting.slope(ax, [1, 2], [1, 2], 1, points=["a"])
    with pytest.raises(ValueError, match="slope: expected must be a finite number"):
        plotting.slope(ax, [1, 2], [1, 2], np.nan)
