"""What is asked of a sweep's results, on small Datasets whose answers were worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray

from dlsim import analysis

NAN = np.nan
STEPS = [0, 10, 20]
# accuracy[topology, learning_rate, seed, step]; the largest rate diverges in one seed on the ring, in both on the torus.
ACCURACY = np.array(
    [
        [[[0.1, 0.3, 0.5], [0.1, 0.5, 0.7]], [[0.1, 0.9, 0.8], [0.1, 0.7, 0.6]], [[0.1, 0.9, 0.95], [0.1, NAN, NAN]]],
        [[[0.1, 0.6, 0.9], [0.1, 0.6, 0.7]], [[0.1, 0.7, 0.8], [0.1, 0.7, 0.8]], [[0.1, NAN, NAN], [0.1, 0.2, NAN]]],
    ]
)
DIVERGED = np.array([[[-1, -1], [-1, -1], [-1, 7]], [[-1, -1], [-1, -1], [3, 12]]])


def results():
    bits = 100.0 * np.array([1.0, 2.0])[:, None, None, None] * np.array(STEPS)
    dims = ("topology", "learning_rate", "seed", "step")
    return xarray.Dataset(
        {
            "spectral_gap": (("topology",), [0.1, 0.4]),
            "accuracy": (dims, ACCURACY.copy()),
            "bits_sent": (dims, np.broadcast_to(bits, ACCURACY.shape).copy()),
            "diverged_step": (dims[:3], DIVERGED),
        },
        coords={"topology": ["ring", "torus"], "learning_rate": [0.01, 0.1, 1.0], "seed": [0, 1], "step": STEPS},
        attrs={"config": json.dumps({"num_nodes": 16})},
    )


def settings(metric, cost, **extra):
    """One run a setting, at one step, along an axis `compression`."""
    coordinates = {"compression": list(range(len(metric))), "seed": [0], "step": [1]}
    shape = (len(metric), 1, 1)
    dims = ("compression", "seed", "step")
    made = {"accuracy": (dims, np.reshape(metric, shape)), "bits_sent": (dims, np.reshape(cost, shape)), **extra}
    return xarray.Dataset(made, coords=coordinates)


def test_axes_are_the_swept_keys_in_their_order():
    assert analysis.axes(results()) == ["topology", "learning_rate"]
    other = results().assign(per_node=(("topology", "per_node_0"), np.zeros((2, 4))))
    assert analysis.axes(other.isel(seed=0, drop=True)) == ["topology", "learning_rate"]
    assert analysis.axes(results().accuracy.transpose("learning_rate", ...)) == ["learning_rate", "topology"]


def test_reduce_steps_takes_the_last_a_named_or_the_best_record_or_a_mean():
    one = results().sel(topology="ring", learning_rate=0.1)
    np.testing.assert_array_equal(analysis.reduce_steps(one).accuracy, [0.8, 0.6])
    np.testing.assert_array_equal(analysis.reduce_steps(one, 10).accuracy, [0.9, 0.7])
    np.testing.assert_allclose(analysis.reduce_steps(one, 0.67).accuracy, [0.85, 0.65])
    np.testing.assert_allclose(analysis.reduce_steps(one, 1.0).accuracy, [0.6, 1.4 / 3])
    top = analysis.reduce_steps(one, "best", by="accuracy")
    np.testing.assert_array_equal(top.accuracy, [0.9, 0.7])
    np.testing.assert_array_equal(top.best_step, [10, 10])
    np.testing.assert_array_equal(top.bits_sent, [1000, 1000])  # everything at the same record
    np.testing.assert_array_equal(analysis.reduce_steps(one, "best", by="accuracy", mode="min").best_step, [0, 0])
    assert float(top.spectral_gap) == 0.1 and top.attrs == results().attrs
    lost = results().sel(topology="torus", learning_rate=1.0, seed=1)
    assert int(analysis.reduce_steps(lost, "best", by="accuracy").best_step) == 10  # NaN is never best


def test_best_record_of_counts_by_least():
    wrong = np.array([[3, 0, 1], [5, 4, 255]], np.uint8)  # unsigned: turning the sign would wrap
    counts = xarray.Dataset({"wrong": (("seed", "step"), wrong)}, coords={"seed": [0, 1], "step": [0, 5, 10]})
    np.testing.assert_array_equal(analysis.reduce_steps(counts, "best", by="wrong", mode="min").best_step, [5, 5])
    found = analysis.scores(counts, ["wrong"], at="best", mode="min")
    assert float(found.wrong) == 2.0 and int(found.num_failed) == 0


def uneven():
    """As a sweep over the number of steps gives it: run 0 has the records 0, 10, 20, run 1 0, 15, 30, run 2 none."""
    table = [[0.0, 0.2, NAN, 0.4, NAN], [0.0, NAN, 0.3, NAN, NAN], [NAN] * 5]
    bits = [[0.0, 10, NAN, 20, NAN], [0, NAN, 15, NAN, 30], [NAN] * 5]
    dims = ("num_steps", "seed", "step")
    made = {"accuracy": (dims, np.array(table)[:, None]), "bits_sent": (dims, np.array(bits)[:, None])}
    made["diverged_step"] = (dims[:2], np.full((3, 1), -1))
    return xarray.Dataset(made, coords={"num_steps": [20, 30, 40], "seed": [0], "step": [0, 10, 15, 20, 30]})


def test_of_runs_of_several_lengths_each_has_its_own_records():
    last = analysis.reduce_steps(uneven())
    np.testing.assert_array_equal(last.bits_sent[:, 0], [20, 30, NAN])
    # Run 1 has a record at 30 whose accuracy is not a number: that is no reason to take the one before.
    np.testing.assert_array_equal(last.accuracy[:, 0], [0.4, NAN, NAN])
    tail = analysis.reduce_steps(uneven(), 0.67)
    np.testing.assert_allclose(tail.bits_sent[:, 0], [15, 22.5, NAN])
    np.testing.assert_allclose(tail.accuracy[:, 0], [0.3, NAN, NAN])
    found = analysis.scores(uneven(), ["accuracy"])
    np.testing.assert_array_equal(found.accuracy, [0.4, NAN, NAN])
    np.testing.assert_array_equal(found.num_failed, [0, 1, 1])
    front = analysis.pareto(uneven(), "accuracy", "bits_sent", at=0.67)
    np.testing.assert_array_equal(front.bits_sent, [20, 30, NAN])


def test_a_number_that_is_missing_in_a_record_is_missing():
    data = results()
    data.accuracy[0, 0, 0, 2] = NAN  # its bits are there, so the record is
    found = analysis.scores(data, ["accuracy"])
    assert float(found.accuracy[0, 0]) == 0.7 and int(found.num_failed[0, 0]) == 1
    assert bool(np.isnan(analysis.reduce_steps(data).accuracy[0, 0, 0]))
    front = analysis.pareto(data, "accuracy", "bits_sent", at=0.67)
    assert int(front.num_failed[0, 0]) == 1


def test_a_run_that_nothing_is_known_of_ends_at_the_last_step():
    one = uneven().drop_vars("diverged_step").isel(num_steps=0)
    assert bool(analysis.reduce_steps(one).accuracy.isnull().all())


def test_first_reaching_goes_from_record_to_record():
    between = analysis.first_reaching(uneven(), "accuracy", 0.3, interpolate=True)
    np.testing.assert_allclose(between[:, 0], [15, 15, NAN])
    bits = analysis.first_reaching(uneven(), "accuracy", 0.15, axis="bits_sent", interpolate=True)
    np.testing.assert_allclose(bits[:, 0], [7.5, 7.5, NAN])


def test_mean_and_spread_leave_diverged_runs_out_and_count_them():
    found = analysis.mean_and_spread(results())
    assert found.accuracy.dims == ("statistic", "topology", "learning_rate", "step")
    np.testing.assert_array_equal(found.num_diverged, [[0, 0, 1], [0, 0, 2]])
    fine = found.accuracy.sel(topology="ring", learning_rate=0.01, step=10)
    np.testing.assert_allclose(fine, [0.4, 0.1 * np.sqrt(2), 0.1, 2])
    # The diverged seed does not count even at step 0, where its number was still finite.
    one = found.accuracy.sel(topology="ring", learning_rate=1.0)
    np.testing.assert_array_equal(one, [[0.1, 0.9, 0.95], [NAN] * 3, [NAN] * 3, [1] * 3])
    none = found.accuracy.sel(topology="torus", learning_rate=1.0)
    np.testing.assert_array_equal(none, [[NAN] * 3, [NAN] * 3, [NAN] * 3, [0] * 3])
    assert found.spectral_gap.dims == ("topology",) and "diverged_step" not in found
    assert found.attrs == results().attrs


def test_numbers_that_are_not_finite_enter_no_mean():
    data = results()
    data.accuracy[0, 0, 0, 2] = np.inf
    found = analysis.mean_and_spread(data.drop_vars("diverged_step"))
    np.testing.assert_array_equal(found.accuracy[:, 0, 0, 2], [0.7, NAN, NAN, 1])
    np.testing.assert_array_equal(found.num_diverged, np.zeros((2, 3)) if found.num_diverged.ndim else 0)


def test_scores_give_one_number_a_setting():
    found = analysis.scores(results(), ["accuracy", "bits_sent"])
    assert found.accuracy.dims == ("topology", "learning_rate")
    np.testing.assert_allclose(found.accuracy, [[0.6, 0.7, 0.95], [0.8, 0.8, NAN]])
    np.testing.assert_allclose(found.accuracy_spread[0, 0], 0.1 * np.sqrt(2))
    np.testing.assert_allclose(found.bits_sent, [[2000, 2000, 2000], [4000, 4000, NAN]])
    np.testing.assert_array_equal(found.num_failed, [[0, 0, 1], [0, 0, 2]])
    assert int(found.num_seeds) == 2
    single = analysis.scores(results().isel(seed=0, drop=True), ["accuracy"], at="best")
    np.testing.assert_allclose(single.accuracy, [[0.5, 0.9, 0.95], [0.9, 0.8, NAN]])


def test_best_is_by_the_mean_without_settings_that_diverge():
    found = analysis.best(results(), "accuracy", over="learning_rate")
    assert found.learning_rate.dims == ("topology",)
    np.testing.assert_array_equal(found.learning_rate, [0.1, 0.01])  # the torus has a tie: the first
    np.testing.assert_allclose(found.accuracy, [0.7, 0.8])
    np.testing.assert_allclose(found.accuracy_spread, [0.1 * np.sqrt(2), 0.1 * np.sqrt(2)])
    np.testing.assert_array_equal(found.num_failed, [0, 0])
    survivors = analysis.best(results(), "accuracy", over="learning_rate", max_failed=1)
    np.testing.assert_array_equal(survivors.learning_rate, [1.0, 0.01])
    np.testing.assert_array_equal(survivors.num_diverged, [1, 0])
    at_best = analysis.best(results(), "accuracy", over=["learning_rate"], at="best")
    np.testing.assert_allclose(at_best.accuracy, [0.8, 0.8])


def test_best_over_several_axes_and_by_the_least():
    found = analysis.best(results(), "accuracy", over=("learning_rate", "topology"))
    assert (float(found.learning_rate), str(found.topology.values), found.accuracy.dims) == (0.01, "torus", ())
    reverse = analysis.best(results(), "accuracy", over=("topology", "learning_rate"), mode="min")
    assert (float(reverse.learning_rate), str(reverse.topology.values)) == (0.01, "ring")
    by_topology = analysis.best(results(), "accuracy", over="topology")
    assert by_topology.topology.values.tolist() == ["torus", "torus", NAN]
    np.testing.assert_allclose(by_topology.accuracy, [0.8, 0.8, NAN])


def test_best_of_rounds_to_a_target_prefers_settings_that_all_reach_it():
    data = results()
    data["rounds"] = analysis.first_reaching(data, "accuracy", 0.6)
    found = analysis.best(data, "rounds", over="learning_rate", mode="min")
    np.testing.assert_array_equal(found.learning_rate, [0.1, 0.01])
    np.testing.assert_array_equal(found.rounds, [10, 10])


def test_best_runs_are_the_curves_of_the_chosen():
    data = results()
    runs = analysis.best_runs(data, analysis.best(data, "accuracy", over="learning_rate"))
    assert runs.accuracy.dims == ("topology", "seed", "step")
    np.testing.assert_array_equal(runs.accuracy, [ACCURACY[0, 1], ACCURACY[1, 0]])
    np.testing.assert_array_equal(runs.learning_rate, [0.1, 0.01])
    np.testing.assert_array_equal(runs.diverged_step, [[-1, -1], [-1, -1]])
    assert runs.attrs == data.attrs
    both = analysis.best_runs(data, analysis.best(data, "accuracy", over=("topology", "learning_rate")))
    np.testing.assert_array_equal(both.accuracy, ACCURACY[1, 0])
    some = analysis.best_runs(data, analysis.best(data, "accuracy", over="topology"))
    np.testing.assert_array_equal(some.accuracy.isel(learning_rate=slice(2)), ACCURACY[1, :2])
    assert bool(some.accuracy.isel(learning_rate=2).isnull().all())


def test_best_of_axes_of_bools_and_whole_numbers():
    data = results().assign_coords(topology=[False, True], learning_rate=[1, 2, 4])
    data = data.rename(topology="is_lazy", learning_rate="num_local_steps")
    chosen = analysis.best(data, "accuracy", over="num_local_steps")
    assert chosen.num_local_steps.dtype.kind == "i" and chosen.num_local_steps.values.tolist() == [2, 1]
    chosen = analysis.best(data, "accuracy", over="is_lazy")
    assert chosen.is_lazy.values.tolist()[:2] == [True, True]
    np.testing.assert_array_equal(analysis.best_runs(data, chosen).accuracy[0], ACCURACY[1, 0])


def test_first_reaching_in_rounds_and_bits():
    rounds = analysis.first_reaching(results(), "accuracy", 0.6)
    assert rounds.dims == ("topology", "learning_rate", "seed")
    np.testing.assert_array_equal(rounds, [[[NAN, 20], [10, 10], [10, NAN]], [[10, 10], [10, 10], [NAN, NAN]]])
    bits = analysis.first_reaching(results(), "accuracy", 0.6, axis="bits_sent")
    np.testing.assert_array_equal(bits[0, 0], [NAN, 2000])
    between = analysis.first_reaching(results(), "accuracy", 0.6, axis="bits_sent", interpolate=True)
    np.testing.assert_allclose(between[:, 0], [[NAN, 1500], [2000, 2000]])
    np.testing.assert_allclose(analysis.first_reaching(results(), "accuracy", 0.2, interpolate=True)[0, 0], [5, 2.5])
    np.testing.assert_array_equal(analysis.first_reaching(results(), "accuracy", 0.1, interpolate=True)[0, 0], [0, 0])


def test_first_reaching_downwards_and_before_a_run_diverges():
    data = results()
    data["loss"] = 1 - data.accuracy
    np.testing.assert_array_equal(analysis.first_reaching(data, "loss", 0.5, mode="min")[0, 0], [20, 10])
    # Seed 1 of the torus diverges at step 12: its record at 10 counts, a finite number at 20 would not.
    data.accuracy[1, 2, 1, 2] = 0.9
    np.testing.assert_array_equal(analysis.first_reaching(data, "accuracy", 0.2)[1, 2], [NAN, 10])
    np.testing.assert_array_equal(analysis.first_reaching(data, "accuracy", 0.8)[1, 2], [NAN, NAN])


def test_pareto_keeps_what_nothing_dominates():
    found = analysis.pareto(settings([0.5, 0.7, 0.7, 0.6, 0.9, NAN], [10, 20, 30, 25, 40, 1]), "accuracy", "bits_sent")
    np.testing.assert_array_equal(found.is_efficient, [True, True, False, False, True, False])
    least = analysis.pareto(settings([0.5, 0.7, 0.4], [10, 20, 10]), "accuracy", "bits_sent", mode="min")
    np.testing.assert_array_equal(least.is_efficient, [False, False, True])
    equals = analysis.pareto(settings([0.5, 0.5, 0.5], [10, 10, 11]), "accuracy", "bits_sent")
    np.testing.assert_array_equal(equals.is_efficient, [True, True, False])


def test_pareto_agrees_with_all_pairs():
    metric, cost = np.random.default_rng(0).integers(0, 12, (2, 80)).astype(float)
    found = analysis.pareto(settings(metric, cost), "accuracy", "bits_sent").is_efficient.values
    no_worse = (metric[:, None] >= metric) & (cost[:, None] <= cost)
    better = no_worse & ((metric[:, None] > metric) | (cost[:, None] < cost))
    np.testing.assert_array_equal(found, ~better.any(axis=0))
    assert 1 < found.sum() < 80


def test_pareto_of_a_sweep_counts_the_cost_of_the_record_it_judges():
    found = analysis.pareto(results(), "accuracy", "bits_sent", at="best")
    np.testing.assert_allclose(found.bits_sent, [[2000, 1000, 2000], [4000, 4000, NAN]])
    np.testing.assert_array_equal(found.is_efficient, [[False, True, False], [False, False, False]])
    tail = analysis.pareto(results(), "accuracy", "bits_sent", at=0.67)
    np.testing.assert_array_equal(tail.bits_sent[0], [2000, 2000, 2000])
    allowed = analysis.pareto(results(), "accuracy", "bits_sent", max_failed=1)
    np.testing.assert_array_equal(allowed.is_efficient, [[False, False, True], [False, False, False]])


def test_pareto_where_the_cost_lacks_an_axis():
    data = results().assign(price=(("topology",), [1.0, 2.0]))
    found = analysis.pareto(data, "accuracy", "price")
    assert found.price.dims == found.is_efficient.dims == ("topology", "learning_rate")
    np.testing.assert_array_equal(found.is_efficient, [[False, True, False], [True, True, False]])


def test_power_law_is_found():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    law = analysis.power_law(x, 3 * x**-0.5)
    np.testing.assert_allclose([law.slope, law.factor], [-0.5, 3], rtol=1e-12)
    assert law.num_points == 4 and law.slope_error < 1e-12
    # Residuals of log y: (+a, -2a, +a) at log x = -1, 0, 1, so the slope's error is sqrt(6 a² / 1 / 2).
    bent = analysis.power_law(np.exp([-1.0, 0.0, 1.0]), np.exp([0.1, -0.2, 0.1]))
    np.testing.assert_allclose([bent.slope, bent.slope_error, bent.factor], [0, np.sqrt(0.03), 1], atol=1e-12)
    two = analysis.power_law([1, 10, 100], [1, 100, NAN])
    np.testing.assert_allclose(two.slope, 2)
    assert two.num_points == 2 and np.isnan(two.slope_error)


BAD = {
    "mean_and_spread: results must be a Dataset, got DataArray": lambda r: analysis.mean_and_spread(r.accuracy),
    "with a seed dimension": lambda r: analysis.mean_and_spread(r.isel(seed=0)),
    "best: metric must be one of accuracy, .* got 'acuracy'. Did you mean 'accuracy'?": lambda r: analysis.best(
        r, "acuracy", over="topology"
    ),
    "best: over must be one of learning_rate, topology, got 'learning_rat'. Did you": lambda r: analysis.best(
        r, "accuracy", over="learning_rat"
    ),
    "best: over must be one of topology, learning_rate, got 'seed'": lambda r: analysis.best(
        r, "accuracy", over="seed"
    ),
    "best: over must be one or more different axes, got none": lambda r: analysis.best(r, "accuracy", over=()),
    "best: mode must be one of max, min": lambda r: analysis.best(r, "accuracy", over="topology", mode="maximum"),
    "best: at must be -1 or a recorded step, got 14. The nearest one is 10": lambda r: analysis.best(
        r, "accuracy", over="topology", at=14
    ),
    "best: at must be a number in .0, 1., got 1.5": lambda r: analysis.best(r, "accuracy", over="topology", at=1.5),
    "best: at must be one of best, got 'last'": lambda r: analysis.best(r, "accuracy", over="topology", at="last"),
    "best_runs: chosen must be what best returned": lambda r: analysis.best_runs(r, r),
    "got another value of learning_rate": lambda r: analysis.best_runs(
        r.isel(learning_rate=[1]), analysis.best(r, "accuracy", over="learning_rate")
    ),
    "first_reaching: axis must be one of bits_sent, .* got 'bits'. Did you": lambda r: analysis.first_reaching(
        r, "accuracy", 0.5, axis="bits"
    ),
    "first_reaching: target must be a finite number": lambda r: analysis.first_reaching(r, "accuracy", NAN),
    "first_reaching: metric must be a variable over step": lambda r: analysis.first_reaching(r, "spectral_gap", 0.5),
    "pareto: cost must be one of bits_sent, .* got 'bits_snt'": lambda r: analysis.pareto(r, "accuracy", "bits_snt"),
    "pareto: cost must be another variable": lambda r: analysis.pareto(r, "accuracy", "accuracy"),
    "reduce_steps: by must be one of .* got None": lambda r: analysis.reduce_steps(r, "best"),
    "power_law: y must be positive, got 0": lambda r: analysis.power_law([1, 2], [1, 0]),
    "power_law: y must be as many": lambda r: analysis.power_law([1, 2], [1]),
    "power_law: x must be two or more different": lambda r: analysis.power_law([2, 2], [1, 3]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_line(message):
    with pytest.raises(ValueError, match=message) as error:
        BAD[message](results())
    assert "\n" not in str(error.value)
