"""The sampling protocol: numbers worked by hand, what its views keep, and what theory says of pings and samples."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

from dlsim import networks
from dlsim.networks.membership.protocol import TICKS_PER_SECOND, Play, Settings
from dlsim.networks.membership.turnover import Turnover
from dlsim.networks.membership.views import View, first_views, merge


def play(num: int = 5, **changes: Any) -> Play:
    given: dict[str, Any] = {
        "num_nodes": num,
        "num_rounds": 10,
        "sample_size": 2,
        "num_aggregators": 1,
        "success_fraction": 1.0,
        "window_rounds": 50,
        "ping_timeout": 2.0,
        "training_seconds": np.ones(num),
        "training_sigma": 0.3,
        "latency": 0.1,
        "transfer": 0.2,
        "aggregation_timeout": 300.0,
        "least_models": 3,
        "turnover": Turnover(),
        "seed": 0,
    }
    return Play(Settings(**{**given, **changes}))


def selected(made: Play, node: int, num: int) -> tuple[list[int], float]:
    """The sample that a node finds for round 1, and the seconds that it takes."""
    found: list[Any] = []
    made.select(node, 1, num, lambda: True, lambda sample: found.append((sample, made.now / TICKS_PER_SECOND)))
    while made._heap:
        made.now, _, what, args = __import__("heapq").heappop(made._heap)
        what(*args)
    return found[0]


def test_select_by_hand() -> None:
    """Order 2, 0, 3, 4, 1; node 0 is dead: 2 answers at 0.1 s, 0 is given up at 2 s, 3 answers at 2.1 s."""
    made = play()
    made.priorities = lambda round: np.array([0.3, 0.9, 0.1, 0.5, 0.7])  # type: ignore[method-assign]
    assert made.order(1).tolist() == [2, 0, 3, 4, 1]
    made.is_online[0] = False
    assert selected(made, 1, 2) == ([2, 3], 2.1)
    log = made.rounds[0]
    assert (log.pings, log.failures, log.small.tolist()) == (3, 1, [0, 3, 1, 1, 0])
    # Who pinged and who answered have heard of each other in round 1, and nobody of node 0.
    assert made.views.heard[1].tolist() == [0, 0, 1, 1, 0] and made.views.heard[:, 1].tolist() == [0, 0, 1, 1, 0]


def test_select_ends_at_the_end_of_the_list_and_does_not_ping_itself() -> None:
    made = play()
    made.priorities = lambda round: np.array([0.3, 0.9, 0.1, 0.5, 0.7])  # type: ignore[method-assign]
    made.is_online[[0, 3, 4]] = False
    assert selected(made, 2, 4) == ([2, 1], 2.1)  # 2, 0, 3, 4 at once; 1 in place of those; nobody else
    assert made.rounds[0].pings == 4 and made.rounds[0].is_short
    alone = play()
    alone.is_online[1:] = False
    alone.views.is_member[0, 1:] = False
    assert selected(alone, 0, 1) == ([0], 0.0)


def test_pings_needed_for_n_answers_of_r_among_m() -> None:
    """n (m + 1) / (r + 1): 48.1 for 10 answers, 20 of 100 alive."""
    pings = []
    for seed in range(60):
        made = play(101, seed=seed, ping_timeout=0.5)
        made.is_online[:] = False
        made.is_online[1:21] = made.is_online[0] = True
        made.views.is_member[0, 0] = False
        made.priorities = lambda round, seed=seed: np.append(2.0, np.random.default_rng(seed).random(100))  # type: ignore[method-assign]
        selected(made, 0, 10)
        pings.append(made.rounds[0].pings)
    # Pings in flight when the last answer is found are of one batch, so the number is a sum of batches, at least as many.
    expected = 10 * 101 / 21
    assert abs(np.mean(pings) - expected) < 3 * np.std(pings, ddof=1) / np.sqrt(60) + 0.5


def view(*entries: tuple[int, int, bool]) -> View:
    heard, events, is_member = zip(*entries, strict=True)
    return View(np.array(heard, np.int32), np.array(events, np.int32), np.array(is_member))


def merged(a: View, b: View) -> list[Any]:
    mine = a.copy()
    merge(mine, b)
    return [leaf.tolist() for leaf in mine]


def test_merge() -> None:
    assert merged(view((7, 2, True)), view((9, 1, False))) == [[9], [2], [True]]
    rng = np.random.default_rng(0)
    history = rng.random((6, 4)) < 0.5  # membership of each node after each of its own events
    views = [
        View(rng.integers(0, 9, 6).astype(np.int32), (events := rng.integers(0, 4, 6)), history[np.arange(6), events])
        for _ in range(4)
    ]
    for a, b in itertools.permutations(views, 2):
        assert merged(a, b) == merged(b, a)
        assert merged(a, a) == [leaf.tolist() for leaf in a]
    for a, b, c in itertools.permutations(views, 3):
        left, right = a.copy(), b.copy()
        merge(left, b)
        merge(left, c)
        merge(right, c)
        assert [leaf.tolist() for leaf in left] == merged(a, right)


def test_views_at_the_start() -> None:
    views = first_views(np.array([True, False, True]))
    assert views.is_member.tolist() == [[True, False, True]] * 3 and views.events[1].tolist() == [1, 0, 1]


def test_views_never_forget_and_never_know_more_than_the_node_itself() -> None:
    coming = networks.turnover(
        30, joins_at=np.where(np.arange(30) < 6, 5.0, np.inf), leaves_at=np.where(np.arange(30) > 26, 9.0, np.inf)
    )
    made = play(30, sample_size=5, num_aggregators=2, num_rounds=25, turnover=coming)
    last = made.views.copy()
    spy = made.after

    def after(seconds: float, what: Any, *args: Any) -> None:
        nonlocal last
        assert (made.views.heard >= last.heard).all() and (made.views.events >= last.events).all()
        assert (made.views.events <= np.diag(made.views.events)[None, :]).all()
        assert made.views.heard.max() <= made._newest + 2
        last = made.views.copy()
        spy(seconds, what, *args)

    made.after = after  # type: ignore[method-assign]
    made.run()
    tape = networks.sampling_tape(30, 25, sample_size=5, num_aggregators=2, turnover=coming)
    late = tape.trainers[12:][tape.trains[12:]]
    assert set(range(6)) & set(late.tolist()) and not set(range(27, 30)) & set(late.tolist())


@pytest.mark.parametrize(("aggregators", "expected"), [(1, 18.9), (2, 37.8)])
def test_models_a_round(aggregators: int, expected: float) -> None:
    """2 a s - a - a s / N: nobody sends itself its model."""
    tape = networks.sampling_tape(100, 200, num_aggregators=aggregators)
    assert abs(tape.models[1:].mean() - expected) < 0.15
    assert (tape.used.sum((1, 2)) == 10 * aggregators).all() and (tape.trains.sum(1) == 10).all()
    assert np.nanmin(tape.overlap[1:]) == 1.0
    assert (tape.failures == 0).all() and not tape.is_short.any() and tape.num_played == 200


def test_live_candidates_are_chosen_evenly() -> None:
    """Chi-square over 1000 rounds with 20 nodes: 19 degrees of freedom, scaled as draws are without replacement."""
    tape = networks.sampling_tape(20, 1000, sample_size=5, window_rounds=50)
    times = np.bincount(tape.trainers[tape.trains], minlength=20)
    statistic = ((times - 250.0) ** 2 / 250).sum() / (1 - 5 / 20)
    assert 5 < statistic < 43.8  # 0.1 % beyond


def test_everybody_gone_at_once_stalls() -> None:
    """With one survivor no aggregator hears three models, so it gives up: the system has stalled, and the tape says when."""
    crashes = np.where(np.arange(12) > 0, 4.0, np.inf)
    tape = networks.sampling_tape(
        12, 9, sample_size=4, num_aggregators=2, turnover=networks.turnover(12, crashes_at=crashes), ping_timeout=1.0
    )
    assert 2 <= tape.num_played <= 4 and (tape.first[tape.num_played :] == -1).all()
    assert "stalled after" in repr(tape)
    assert not tape.used[tape.num_played :].any() and tape.seconds[tape.num_played :].sum() == 0


def test_an_aggregator_that_leaves_in_good_order_is_replaced() -> None:
    """Whoever is to make the mean of round 3 leaves when all models are on their way: those are sent again, to another."""
    quiet = {"sample_size": 4, "num_aggregators": 1, "training_sigma": 0.0}
    plain = networks.sampling_tape(12, 6, **quiet)
    # The aggregator of round 3 (row 1) hears 4 models at one time; two of them are slowed, so that it waits while it leaves.
    gone = int(plain.aggregators[1, 0])
    slow = np.where(np.isin(np.arange(12), plain.trainers[1][:2]), 2.0, 1.0)
    begin = float(plain.seconds[0])
    stay = networks.sampling_tape(12, 6, training_seconds=slow, **quiet)
    begin = float(stay.seconds[0]) + 0.1 + 0.2 + 1.0 + 0.1 + 0.2 + 0.4  # selected, sent, trained, selected, sent, waits
    leaves = np.where(np.arange(12) == gone, begin, np.inf)
    coming = networks.turnover(12, leaves_at=leaves, clock="seconds")
    tape = networks.sampling_tape(12, 6, training_seconds=slow, turnover=coming, **quiet)
    assert tape.num_played == 6
    made = tape.aggregators[1][tape.used[1].any(0)].tolist()
    assert gone not in made and len(made) == 1
    assert (
        tape.up[1].sum() == 4 + 2
    )  # two had sent theirs already and send it again; the slow two never ask who is gone
    assert gone not in tape.trainers[3:][tape.trains[3:]].tolist()


def test_a_crash_is_found_by_pings_and_forgotten_after_the_window() -> None:
    crashes = np.where(np.arange(20) < 10, 5.0 + np.arange(20), np.inf)
    tape = networks.sampling_tape(
        20, 60, sample_size=5, num_aggregators=2, success_fraction=0.6, window_rounds=20, ping_timeout=1.0,
        turnover=networks.turnover(20, crashes_at=crashes), training_sigma=0.0,
    )  # fmt: skip
    assert tape.num_played == 60 and tape.present[-1] == 10
    assert tape.failures[14:20].mean() > 5 and tape.failures[45:].sum() == 0
    assert tape.candidates[-1] == 10 and tape.candidates[3] == 20


def test_newcomers_are_known_within_three_rounds() -> None:
    joins = np.where(np.arange(100) < 30, 20.0, np.inf)
    tape = networks.sampling_tape(100, 30, num_aggregators=2, turnover=networks.turnover(100, joins_at=joins))
    assert tape.present[18] == 70 and tape.present[22] == 100
    assert tape.known[19] == pytest.approx(0.7) and tape.known[22] >= 0.99


def test_tapes_repeat_by_seed() -> None:
    one, two, other = (networks.sampling_tape(12, 8, sample_size=3, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one.trainers, other.trainers)
    longer = networks.sampling_tape(12, 12, sample_size=3, seed=1)
    assert np.array_equal(longer.trainers[:8], one.trainers) and np.array_equal(longer.seconds[:8], one.seconds)


def test_random_crashes_are_drawn_by_the_seed() -> None:
    coming = networks.turnover(50, random_crashes=(40, 6.0, 10.0))
    events = coming.events(50, np.random.default_rng(0))
    assert len({node for _, node, _ in events}) == 40 and events == sorted(events)
    assert all(6 <= time <= 10 for time, _, _ in events)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"sample_size": 9}, "sample_size must be at most the 8 nodes, got 9"),
        ({"num_aggregators": 4}, "num_aggregators must be"),
        ({"num_aggregators": 0}, "num_aggregators must be"),
        ({"success_fraction": 0.2}, "success_fraction must be at least 1 / sample_size = 0.333333, got 0.2"),
        ({"success_fraction": 0.0}, "success_fraction must be"),
        ({"window_rounds": 0}, "window_rounds must be"),
        ({"ping_timeout": 0.0}, "ping_timeout must be"),
        ({"training_seconds": np.ones(3)}, r"training_seconds must be above 0, one number or one a node \[8\]"),
        ({"turnover": networks.turnover(8, joins_at=np.arange(8.0))}, "turnover must be such that somebody is there"),
        (
            {"turnover": networks.turnover(8, joins_at=np.where(np.arange(8) < 6, 1.0, np.inf))},
            "sample_size must be at most the 2 nodes that are there from the start",
        ),
        ({"turnover": networks.turnover(7)}, "turnover must be of 8 nodes, got one of 7"),
    ],
)
def test_bad_settings(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"sampling_tape: {line}"):
        networks.sampling_tape(**{"num_nodes": 8, "num_rounds": 3, "sample_size": 3, **change})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"clock": "days"}, "clock must be"),
        ({"joins_at": [1.0]}, "joins_at must"),
        ({"crashes_at": [-1.0, 1.0, 1.0]}, "crashes_at must be times of at least 0"),
        ({"random_crashes": (4, 1.0, 2.0)}, r"random_crashes\[0\] must be"),
        ({"random_crashes": (2, 3.0, 2.0)}, r"random_crashes\[2\] must be"),
    ],
)
def test_bad_turnover(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"turnover: {line}"):
        networks.turnover(3, **change)


def test_a_window_that_is_too_short_is_said() -> None:
    with pytest.warns(UserWarning, match=r"silent for 10 rounds .* Use window_rounds=44 or more"):
        networks.sampling_tape(100, 3, window_rounds=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        networks.sampling_tape(100, 3, window_rounds=44)
