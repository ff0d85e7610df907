"""How runs share programs: what a user may write, and what the tuner makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from dlsim.sweeps.estimate import duration, parse_memory, readable
from dlsim.sweeps.layout import MOST_AT_ONCE_CPU, Layout, Tuner, parse


@pytest.mark.parametrize(
    ("text", "meant"),
    [("auto", "auto"), ("vmap", "vmap"), ("map", "map"), (8, (8, 8)), ("8", (8, 8)), ("32x4", (32, 4)), ("1", (1, 1))],
)
def test_layouts(text, meant):
    assert parse(text) == meant


@pytest.mark.parametrize("text", ["", "vmp", "0", "-1", "4x8", "4x0", "x4", "4x", "2.5", None, "4x2x1", True])
def test_what_is_no_layout(text):
    with pytest.raises(ValueError, match="sweep: layout must be ") as caught:
        parse(text)
    assert "\n" not in str(caught.value) and repr(text) in str(caught.value)


def test_sizes():
    pairs = [
        ("8GiB", 2**33),
        ("500MB", 5e8),
        ("1.5 GB", 1.5e9),
        (1e6, 1e6),
        ("2TiB", 2**41),
        ("4096", 4096),
        ("3k", 3e3),
    ]
    for text, size in pairs:
        assert parse_memory(text) == size, text
    for text in ("", "much", "8 GiBs", "-1", "0", "nan", "inf", "GiB"):
        with pytest.raises(ValueError, match="memory must be a size such as 8GiB or 500MB") as caught:
            parse_memory(text)
        assert "\n" not in str(caught.value)
    assert [readable(size) for size in (10, 2048, 3 * 2**20, 2**45)] == ["10 B", "2 KiB", "3.0 MiB", "32768.0 GiB"]
    assert [duration(s) for s in (1.25, 60, 600, 36000)] == ["1.2 s", "60 s", "10 min", "10.0 h"]


def tuner(asked="auto", *, num_runs=100, fits=1000, devices=1, lanes=None, cores=2, is_cpu=True, run_bytes=1024):
    made = Tuner(
        asked,
        num_runs=num_runs,
        fits=fits,
        devices=devices,
        lanes=lanes,
        num_cores=cores,
        is_cpu=is_cpu,
        run_bytes=run_bytes,
    )
    made.runs_left = num_runs
    return made


def played(made, pace, compile_seconds=0.0, num_runs=100):
    """The layouts of all phases for a machine of this pace; runs go down as they are played."""
    out = []
    for phase in made.phases():
        out.append(phase)
        made.runs_left -= phase.blocks * phase.layout.runs
        made.note(phase.layout, pace(phase.layout), compile_seconds)
    return out


@pytest.mark.parametrize(
    ("asked", "layout"),
    [("vmap", Layout(100, 100, 1)), ("map", Layout(32, 1, 1)), ((8, 8), Layout(8, 8, 1)), ((32, 4), Layout(32, 4, 1))],
)
def test_a_forced_layout_is_played_without_trials(asked, layout):
    phases = played(tuner(asked), lambda _: 1.0)
    assert [(phase.layout, phase.blocks, phase.trial) for phase in phases] == [(layout, 0, False)]


def test_a_forced_layout_is_cut_to_what_there_is():
    assert next(tuner("vmap", num_runs=10, devices=4).phases()).layout == Layout(3, 3, 1)
    assert next(tuner("vmap", fits=6).phases()).layout.at_once == 6
    assert next(tuner((64, 64), num_runs=5).phases()).layout == Layout(5, 5, 1)
    assert next(tuner((8, 4), fits=1).phases()).layout.at_once == 1
    assert next(tuner((2, 2), lanes=4, num_runs=3).phases()).layout == Layout(2, 2, 2)
    assert next(tuner((2, 2), lanes=4, fits=5).phases()).layout.lanes == 2


def test_trials_are_real_blocks_and_the_fastest_layout_is_kept():
    wide = played(tuner(), lambda layout: layout.at_once * layout.lanes)
    assert wide[0].layout == Layout(1, 1, 1) and all(phase.blocks and phase.trial for phase in wide[:-1])
    assert wide[-1].layout.at_once == MOST_AT_ONCE_CPU and wide[-1].blocks == 0 and not wide[-1].trial
    narrow = played(tuner(), lambda layout: 1.0 / layout.at_once)
    assert narrow[-1].layout == Layout(1, 1, 1)
    lanes = played(tuner(), lambda layout: layout.lanes / layout.at_once)
    assert lanes[-1].layout == Layout(1, 1, 2)


def test_no_trial_that_costs_more_than_it_can_save():
    phases = played(tuner(num_runs=20), lambda _: 10.0, compile_seconds=5.0)
    assert {phase.layout.at_once for phase in phases} == {1}
    assert len(played(tuner(num_runs=1), lambda _: 1.0)) == 2
    assert [p.layout.lanes for p in played(tuner(lanes=1), lambda _: 1.0)] == [1, 1, 1]


def test_a_gpu_takes_all_at_once():
    assert next(tuner(is_cpu=False).phases()).layout == Layout(100, 100, 1)
    assert next(tuner(is_cpu=False, fits=30).phases()).layout == Layout(30, 30, 1)


def test_states_that_leave_the_cache_are_not_put_side_by_side():
    phases = played(tuner(run_bytes=2**20), lambda layout: 1.0)
    assert {phase.layout.at_once for phase in phases} == {1}


def test_shrinking_ends():
    made, layout, seen = tuner(), Layout(32, 16, 2), []
    while layout is not None:
        seen.append(layout)
        layout = made.shrink(layout)
    assert seen[-1] == Layout(1, 1, 1) and len(seen) <= 7
    sizes = [one.runs * one.lanes for one in seen]
    assert all(np.diff(sizes) < 0)
