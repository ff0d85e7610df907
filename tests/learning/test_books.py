"""Seconds of computing, sending, hearing and waiting by node where nodes act by clocks or a pace, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax
import pytest

import dlsim
from dlsim import algorithms, arrivals, clocks, networks, problems
from dlsim.core import Record

WAYS = ("compute", "upload", "download", "waiting")
SGD = optax.sgd(0.1)
PAIR = problems.quadratic(2, 4, seed=0)
# A message of four numbers has 128 bits: 0.25 + 0.25 and 0.25 + 0.5 s up, 0.25 + 0.125 s down; a gradient takes two seconds.
POWER = networks.Watts(compute=4.0, upload=[1.0, 2.0], download=0.5, waiting=0.25)
RATES = networks.links(2, compute=2.0, latency=0.25, upload=[512.0, 256.0], download=1024.0, watts=POWER)
# Node 0 takes gradients at 1 and 2 s, node 1 at 1.5 s; they meet at 3 s.
TIMES = {"gradient": clocks.trace([[1.0, 2.0], [1.5]]), "communication": clocks.trace([[3.0]])}


def books(network: Any, windows: int, scenario: Any = None, window: float = 1.0) -> Any:
    process = dlsim.learn(
        PAIR, algorithms.ad_psgd(PAIR, SGD), network, scenario, timing=clocks.timing(**TIMES, window=window)
    )
    return dlsim.simulate(process, seed=0, num_steps=windows, progress=False).results


def found(results: Any, step: int = -1) -> np.ndarray:
    return np.array([results[f"{name}_seconds"].isel(step=step).values for name in WAYS])


@pytest.mark.parametrize("window", [1.0, 4.0])
def test_a_node_does_one_thing_after_the_other(window: float) -> None:
    """Node 0: nothing for 1 s, two gradients until 5, its half of the meeting until 5.875.  Node 1: 1.5, 3.5, 4.625."""
    results = books(networks.path(2).with_links(RATES), int(8 / window), window=window)
    expected = np.array([[4.0, 2.0], [0.5, 0.75], [0.375, 0.375], [1 + 2.125, 1.5 + 3.375]])
    np.testing.assert_allclose(found(results), expected, rtol=1e-6)
    np.testing.assert_allclose(expected.sum(0), 8)  # nothing is counted twice, nothing is left out
    half = found(results, int(4 / window))
    np.testing.assert_allclose(half, [[4.0, 2.0], [0.5, 0.75], [0.375, 0.375], [1.0, 1.5]], rtol=1e-6)
    watts = np.array([[4.0, 4.0], [1.0, 2.0], [0.5, 0.5], [0.25, 0.25]])
    np.testing.assert_allclose(results.joules.isel(step=-1), (watts * expected).sum(0), rtol=1e-6)
    assert results.compute_seconds.dims == ("step", "node")
    if window != 1.0:
        return
    plain = books(networks.path(2), 8)
    for name in ("suboptimality", "consensus_distance", "bits_sent", "messages_sent", "gradient_evaluations"):
        np.testing.assert_array_equal(plain[name], results[name])  # books change no model


def test_what_is_under_way_is_heard_and_paid_for_when_it_arrives() -> None:
    """Two seconds later, at 5: node 1 has had nothing to do since 4.25."""
    late = networks.path(2).with_links(RATES).with_delays(networks.fixed_seconds(2.0))
    results = books(late, 8)
    np.testing.assert_allclose(found(results, 5), [[4.0, 2.0], [0.5, 0.75], [0.0, 0.0], [1.0, 2.25]], rtol=1e-6)
    expected = [[4.0, 2.0], [0.5, 0.75], [0.375, 0.375], [3.125, 2.25 + 2.625]]
    np.testing.assert_allclose(found(results), expected, rtol=1e-6)
    # Away from 5 to 6 s node 1 hears nothing, and does not wait.
    results = books(late, 8, networks.outages((1,), start=5, end=6))
    expected = [[4.0, 2.0], [0.5, 0.75], [0.375, 0.0], [3.125, 2.25 + 2.0]]
    np.testing.assert_allclose(found(results), expected, rtol=1e-6)


def test_a_push_is_sent_by_one_and_heard_by_the_other() -> None:
    """A model and its age, 160 bits; who hears it takes a gradient.  Packets that are lost are sent again."""
    rates = networks.links(2, compute=2.0, upload=160.0, download=320.0, loss=[0.0, 0.5])
    when = clocks.timing(communication=clocks.trace([[1.0], []]))
    process = dlsim.learn(
        PAIR, algorithms.gossip_learning(PAIR, SGD), networks.path(2).with_links(rates, by_node=True), timing=when
    )
    results = dlsim.simulate(process, seed=0, num_steps=6, progress=False).results
    np.testing.assert_allclose(found(results), [[0, 2.0], [1.0, 0], [0, 1.0], [5.0, 3.0]], rtol=1e-6)
    assert "joules" not in results


# Three clients whose jobs of two steps take 2, 4 and 10 s of computing, and a second each way.
TRIO = problems.quadratic(3, 4, seed=0)
FEDERATED = networks.links(
    3, compute=[1.0, 2.0, 5.0], latency=0.5, upload=256.0, download=256.0, watts=POWER._replace(upload=[1.0, 2.0, 3.0])
)


def served(make: Any, links: Any = FEDERATED, seconds: float = 16.0, **options: Any) -> Any:
    algorithm = make(TRIO, SGD, **({"num_local_steps": 2} if "max_steps" not in options else {}), **options)
    network = networks.star(3).with_links(links, by_node=True)
    process = dlsim.learn(TRIO, algorithm, network, timing=clocks.timing(window=seconds))
    return dlsim.simulate(process, seed=0, num_steps=1, record=Record(every=1), progress=False).results


def test_a_buffer_of_two_on_a_timeline() -> None:
    """Back at 4, 6 and 12 s.  Aggregations at 6 (0, 1), at 12 (0 is back at 10, 1 at 12) and at 16 (2 of 12, 0 of 16)."""
    results = served(algorithms.fedbuff, buffer_size=2, restart="aggregation")
    expected = np.array([[6.0, 8, 10], [3, 2, 1], [3, 2, 1], [2 + 2 + 0, 0, 4]])
    np.testing.assert_allclose(found(results), expected, rtol=1e-6)
    assert results.num_jobs.values[-1] == 6 and results.num_aggregations.values[-1] == 3
    watts = np.array([[4.0] * 3, [1, 2, 3], [0.5] * 3, [0.25] * 3])
    np.testing.assert_allclose(results.joules.isel(step=-1), (watts * expected).sum(0), rtol=1e-6)


def test_who_goes_on_at_once_does_not_wait() -> None:
    """Jobs of 4, 6 and 12 s, one after the other; those that are back by 16 s are booked."""
    results = served(algorithms.fedasync)
    np.testing.assert_allclose(found(results), [[8, 8, 10], [4, 2, 1], [4, 2, 1], [0, 0, 0]], rtol=1e-6)
    whole = served(algorithms.fedasync, seconds=12.0)
    np.testing.assert_allclose(found(whole).sum(0), 12.0, rtol=1e-6)


def test_compass_keeps_the_length_of_every_job() -> None:
    results = served(algorithms.fedcompass, seconds=60.0, min_steps=1, max_steps=8)
    total = found(results).sum(0)
    assert (total <= 60 * (1 + 1e-6)).all() and (total > 30).all()
    assert results.compute_seconds.isel(step=-1).values.min() > 0


def test_a_pace_of_ones_own_is_shared_as_the_links_say() -> None:
    results = served(algorithms.fedasync, seconds=32.0, pace=arrivals.pace(3, 0.0, 8.0))
    np.testing.assert_allclose(found(results)[:, 0], [16.0, 8.0, 8.0, 0.0], rtol=1e-6)  # 2 : 1 : 1
    np.testing.assert_allclose(found(results)[:, 2], np.array([10, 1, 1, 0]) * 32 / 12, rtol=1e-6)


def test_who_does_as_it_pleases_is_away_and_does_not_wait() -> None:
    pace = arrivals.pace(3, 1.0, 1.0)
    schedule = arrivals.anarchic(pace, 2, 2, idle=3.0)
    assert not schedule.waits
    algorithm = algorithms.federated_arrivals(TRIO, SGD, schedule)
    network = networks.star(3).with_links(FEDERATED, by_node=True)
    process = dlsim.learn(TRIO, algorithm, network, timing=clocks.timing(window=20.0))
    results = dlsim.simulate(process, seed=0, num_steps=1, progress=False).results
    np.testing.assert_array_equal(found(results)[3], 0)
    assert found(results)[:3].sum() > 0


def test_what_cannot_be_said_is_refused_in_one_line() -> None:
    ad_psgd, fedbuff = algorithms.ad_psgd(PAIR, SGD), algorithms.fedbuff(PAIR, SGD, buffer_size=1)
    shared = RATES._replace(upload_cells=np.zeros(2, np.int32))
    for algorithm in (ad_psgd, fedbuff):
        with pytest.raises(ValueError, match=r"learn: network\.barrier must be 'exchange' for a method without rounds"):
            dlsim.learn(PAIR, algorithm, networks.path(2).with_links(RATES, barrier="round"))
        with pytest.raises(ValueError, match=r"learn: links\.upload_cells must be None where seconds by node are kept"):
            dlsim.learn(PAIR, algorithm, networks.path(2).with_links(shared))
