"""Records on the host and the labelled arrays made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toys import walk

from dlsim import analysis
from dlsim.core import Record
from dlsim.running.counters import Clock, Counter
from dlsim.running.history import Axes, History, axes_of
from dlsim.running.simulate import simulate


def rows(values: list[float], **more: object) -> dict[str, object]:
    return {"loss": np.asarray(values, np.float32), **more}


def test_parts_are_joined_in_order() -> None:
    history = History()
    history.append([0], rows([3.0]), has_runs=False)
    history.append([2, 4], rows([2.0, 1.0]), has_runs=False)
    data = history.dataset(None)
    assert data.step.values.tolist() == [0, 2, 4]
    assert data.loss.values.tolist() == [3.0, 2.0, 1.0]
    assert data.loss.dims == ("step",)
    history.append([6], rows([0.5]), has_runs=False)  # also after the parts were joined
    assert history.dataset(None).loss.values.tolist() == [3.0, 2.0, 1.0, 0.5]


def test_runs_and_arrays_get_their_axes() -> None:
    history = History()
    history.append([0], {"loss": np.zeros((2, 1)), "by_class": np.zeros((2, 1, 5, 3))}, has_runs=True)
    history.append([1, 2], {"loss": np.ones((2, 2)), "by_class": np.ones((2, 2, 5, 3))}, has_runs=True)
    data = history.dataset([7, 9])
    assert data.loss.dims == ("seed", "step")
    assert data.by_class.dims == ("seed", "step", "by_class_0", "by_class_1")
    assert data.by_class.shape == (2, 3, 5, 3)
    assert data.seed.values.tolist() == [7, 9]


def test_what_is_by_node_is_called_so_and_other_axes_as_they_are_named() -> None:
    history = History()
    arrays = {
        "far": np.zeros((1, 5)),
        "pairs": np.zeros((1, 5, 5)),
        "by_class": np.zeros((1, 5)),
        "bins": np.zeros((1, 7)),
    }
    history.append([0], rows([0.0], **arrays), has_runs=False)
    data = history.dataset(None, Axes(5, {"by_class": ("class",)}))
    assert data.far.dims == ("step", "node") and data.pairs.dims == ("step", "node", "pairs_1")
    assert data.by_class.dims == ("step", "class") and data.bins.dims == ("step", "bins_0")
    assert data.loss.dims == ("step",) and "node" not in data.coords  # the nodes are no swept axis
    assert analysis.axes(data) == []


@pytest.mark.parametrize(
    ("dims", "line"),
    [
        ({"far": ("class",), "bins": ("class",)}, "one name for axes of one size, got 'class' for axes of 5 and 7"),
        ({"far": ("a", "b")}, r"1 different names for 'far', got \['a', 'b'\] for an array \[5\]"),
        ({"far": ("step",)}, "names other than those of the records and seed, step, got 'step'"),
        ({"far": ("bins",)}, "names other than those of the records and seed, step, got 'bins'"),
        ({"far": "class"}, "a tuple of names for 'far', got 'class'"),
        ("class", "a dict of names by record, got 'class'"),
    ],
)
def test_names_that_do_not_fit_are_one_line(dims: Any, line: str) -> None:
    process = walk()._replace(num_nodes=5)
    with pytest.raises(ValueError, match=rf"^simulate: record\.dims must be {line}"):
        axes_of("simulate", process, Record(dims=dims)).check("simulate", {"far": (5,), "bins": (7,)})


def test_a_record_gives_arrays_by_name() -> None:
    rule = r"^simulate: record\.fn must be a function that gives a dict of arrays by name, got 'x': tuple"
    with pytest.raises(ValueError, match=rule):
        simulate(walk(), seed=0, num_steps=1, record=Record(fn=lambda state, info: {"x": (state.word, state.word)}))


def test_names_of_a_record_come_before_those_of_the_process() -> None:
    process = walk()._replace(num_nodes=4, dims={"word": ("letter",)})
    assert simulate(process, seed=0, num_steps=1).results.word.dims == ("step", "letter")
    named = axes_of("simulate", process, Record(dims={"word": ("own",)}))
    assert named.of("word", (4,)) == ("own",) and named.of("other", (4, 2)) == ("node", "other_1")


def test_counts_and_clocks_become_float64() -> None:
    history = History()
    count = Counter(low=np.asarray([5, 4], np.uint32), high=np.asarray([0, 3], np.uint32))
    time = Clock(seconds=np.asarray([0, 2**31], np.uint32), nanoseconds=np.asarray([250_000_000, 1], np.uint32))
    history.append([0, 1], rows([1.0, 1.0], bits=count, clock=time), has_runs=False)
    data = history.dataset(None)
    assert data.bits.values.tolist() == [5.0, 3 * 2.0**32 + 4]
    assert data.clock.values.tolist() == [0.25, 2.0**31 + 1e-9]
    assert data.bits.dtype == data.clock.dtype == np.float64


def test_latest_gives_scalars_only_and_means_over_runs() -> None:
    history = History()
    assert history.latest() == {}
    count = Counter(low=np.zeros((2, 2), np.uint32), high=np.zeros((2, 2), np.uint32))
    values = {"loss": np.asarray([[9.0, 1.0], [9.0, 3.0]]), "vector": np.zeros((2, 2, 4)), "bits": count}
    history.append([0, 1], values, has_runs=True)
    assert history.latest() == {"loss": 2.0}


def test_a_partial_record_is_dropped_when_the_run_goes_on() -> None:
    history = History()
    history.append([0, 5, 10, 12], rows([4.0, 3.0, 2.0, 1.0]), has_runs=False)
    history.drop_partial(5)
    assert history.steps == [0, 5, 10]
    assert history.dataset(None).loss.values.tolist() == [4.0, 3.0, 2.0]
    history.drop_partial(5)  # nothing partial is left
    assert history.steps == [0, 5, 10]
