"""Simulated seconds worked out by hand: shared cells, loss, jitter, who spends what on what, and joules."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import algorithms, keys, networks, problems
from dlsim.networks.pace.links import Ledger
from dlsim.running.counters import to_float

KEY = jax.random.key(3)
BITS = 4 * 32.0  # of a message
ROWS = {"x": jnp.ones((4, 4))}
MODEL = {"x": jnp.ones(4)}
WAYS = ("compute", "upload", "download", "waiting")


def clock(network: networks.Network) -> float:
    return float(to_float(network.state.traffic.clock))


def spent(network: networks.Network) -> dict[str, np.ndarray]:
    ledger = network.state.ledger
    assert isinstance(ledger, Ledger)
    return {name: to_float(getattr(ledger, name)) for name in WAYS}


def test_who_sends_shares_the_uplink() -> None:
    """Three of one cell and one on a cable of its own; then one of the three is away."""
    rates = networks.links(4, upload=[64.0, 64.0, 32.0, 16.0], upload_cells=[2, 2, 2, -1], download_cells=[2, 2, 2, -1])
    base = networks.ring(4).with_links(rates, by_node=True)
    # Alone: 2, 2, 4 and 8 seconds.  Shared: 3 * 2, 3 * 2, 2 + 2 + 4.
    _, after = base.uplink(KEY, ROWS)
    np.testing.assert_allclose(spent(after)["upload"], [6, 6, 8, 8])
    assert clock(after) == pytest.approx(8)
    _, after = base.replace(is_present=jnp.array([True, False, True, True])).uplink(KEY, ROWS)
    np.testing.assert_allclose(spent(after)["upload"], [4, 0, 6, 8])
    # A cohort's rows keep their cells.
    _, after = base.replace(cohort=jnp.array([2, 0])).uplink(KEY, {"x": jnp.ones((2, 4))})
    np.testing.assert_allclose(spent(after)["upload"], [4, 0, 6, 0])
    _, after = base.downlink(KEY, MODEL)
    np.testing.assert_allclose(spent(after)["download"], np.array([3, 3, 3, 1]) * BITS / 1e8, atol=1e-9)


def test_loss_latency_and_aggregation() -> None:
    rates = networks.links(4, latency=[0.5, 1.0, 2.0, 0.0], upload=128.0, loss=[0, 0.5, 0, 0], aggregation=7.0)
    _, after = networks.ring(4).with_links(rates, by_node=True).uplink(KEY, ROWS)
    np.testing.assert_allclose(spent(after)["upload"], [1.5, 3, 3, 1])
    assert clock(after) == pytest.approx(3 + 7)
    bits = to_float(after.state.traffic.bits)
    np.testing.assert_array_equal(bits, BITS)  # what was sent again is not counted


@pytest.mark.parametrize("verb", ["mix", "gather", "exchange", "send_edges", "uplink", "downlink"])
def test_every_verb_keeps_the_ledger_and_the_clock_of_the_plain_links(verb: str) -> None:
    plain = {"upload": [64.0, 32.0, 128.0, 128.0], "download": 100.0, "latency": 0.25}
    seconds, ledgers = [], []
    for more in ({}, {"loss": 0.0, "jitter": 0.0, "upload_cells": -1, "download_cells": np.arange(4)}):
        network = networks.ring(4).with_links(networks.links(4, **plain, **more), by_node=bool(more))
        if verb == "downlink":
            _, after = network.downlink(KEY, MODEL)
        elif verb == "exchange":
            _, after = network.exchange(KEY, ROWS, jnp.array([1, 0, 3, 2]))
        elif verb == "send_edges":
            _, after = networks.send_edges(network, KEY, {"x": jnp.ones((8, 4))})
        else:
            _, after = getattr(network, verb)(KEY, ROWS)
        seconds.append(np.asarray(after.state.traffic.clock))
        ledgers.append(after)
    np.testing.assert_array_equal(*seconds)  # what plays no part changes no bit
    upload, download = (spent(ledgers[1])[name] for name in ("upload", "download"))
    sent, heard = {"exchange": (1, 1), "uplink": (1, 0), "downlink": (0, 1)}.get(verb, (2, 2))
    np.testing.assert_allclose(upload, (0.25 + sent * BITS / np.array(plain["upload"])) * (sent > 0), rtol=1e-6)
    np.testing.assert_allclose(download, (0.25 + heard * BITS / 100) * (heard > 0), rtol=1e-6)


def test_jitter_has_mean_one_and_belongs_to_seed_node_and_stream() -> None:
    num = 4000
    rates = networks.links(num, upload=128.0, jitter=0.35)
    base = networks.complete(num).with_links(rates, by_node=True)
    message = {"x": jnp.ones((num, 4))}
    first, again, other, stream = (
        spent(base.uplink(key, message, stream=name)[1])["upload"]
        for key, name in ((KEY, "uplink"), (KEY, "uplink"), (jax.random.key(4), "uplink"), (KEY, "second"))
    )
    np.testing.assert_array_equal(first, again)
    logs = np.log(first)
    assert abs(first.mean() - 1) < 4 * 0.36 / np.sqrt(num)
    assert abs(logs.std() - 0.35) < 0.02 and abs(logs.mean() + 0.35**2 / 2) < 0.03
    for more in (other, stream):
        assert abs(np.corrcoef(first, more)[0, 1]) < 0.06
    order = np.random.default_rng(0).permutation(num)
    moved = spent(base.relabel(order).uplink(KEY, message)[1])["upload"]
    np.testing.assert_array_equal(moved, first[order])
    few = networks.complete(10).with_links(networks.links(10, upload=128.0, jitter=0.35), by_node=True)
    np.testing.assert_array_equal(spent(few.uplink(KEY, {"x": jnp.ones((10, 4))})[1])["upload"], first[:10])


def learnt(network: networks.Network, scenario: Any = None, num_steps: int = 3, server: bool = True) -> Any:
    problem = problems.quadratic(4, 4, seed=0)
    make = algorithms.fedavg if server else algorithms.dsgd
    algorithm = make(problem, optax.sgd(0.1), num_local_steps=2) if server else make(problem, optax.sgd(0.1))
    process = dlsim.learn(problem, algorithm, network, scenario)
    return dlsim.simulate(process, seed=0, num_steps=num_steps, progress=False).results


UNEVEN = {"upload": [64.0, 64.0, 32.0, 16.0], "download": 128.0, "compute": [1.0, 1.0, 5.0, 1.0], "latency": 0.5}
POWER = networks.Watts(compute=4.0, upload=[1.0, 1.0, 2.0, 2.0], download=0.5, waiting=0.25)


@pytest.mark.parametrize("barrier", ["exchange", "round"])
def test_a_federated_round_splits_into_its_parts(barrier: str) -> None:
    """t_d = 1.5; two gradients take 2, 2, 10, 2; t_u = 2.5, 2.5, 4.5, 8.5: the barrier decides who waits for whom."""
    rates = networks.links(4, **UNEVEN, aggregation=3.0, watts=POWER)
    results = learnt(networks.ring(4).with_links(rates, barrier=barrier))
    parts = np.array([[2.0, 2, 10, 2], [2.5, 2.5, 4.5, 8.5], [1.5, 1.5, 1.5, 1.5]])
    own = parts.sum(0)  # 6, 6, 16, 12
    whole = 10 + 8.5 + 1.5 + 3 if barrier == "exchange" else own.max() + 3
    for t in range(4):
        found = [results[f"{name}_seconds"].isel(step=t).values for name in WAYS]
        np.testing.assert_allclose(found[:3], t * parts, rtol=1e-6)
        np.testing.assert_allclose(found[3], t * (whole - own), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(results.simulated_seconds.isel(step=t), t * whole, rtol=1e-6)
        watts = np.array([np.full(4, 4.0), [1, 1, 2, 2], np.full(4, 0.5), np.full(4, 0.25)])
        np.testing.assert_allclose(results.joules.isel(step=t), (watts * np.array(found)).sum(0), rtol=1e-5)
    assert results.compute_seconds.dims == ("step", "node")


@pytest.mark.parametrize("barrier", ["exchange", "round"])
def test_a_decentralised_round_splits_into_its_parts(barrier: str) -> None:
    """Two copies up (4, 4, 8, 16) while two come down (2): the slower counts, and both are kept."""
    rates = networks.links(4, **UNEVEN)
    results = learnt(networks.ring(4).with_links(rates, by_node=True, barrier=barrier), server=False)
    last = {name: results[f"{name}_seconds"].isel(step=-1).values / 3 for name in WAYS}
    np.testing.assert_allclose(last["compute"], [1, 1, 5, 1])
    np.testing.assert_allclose(last["upload"], [4.5, 4.5, 8.5, 16.5])
    np.testing.assert_allclose(last["download"], 2.5)
    whole = 16.5 + 5 if barrier == "exchange" else 17.5
    np.testing.assert_allclose(last["waiting"], whole - np.array([5.5, 5.5, 13.5, 17.5]), atol=1e-6)
    assert "joules" not in results
    np.testing.assert_allclose(results.simulated_seconds.isel(step=-1), 3 * whole)


def test_what_links_say_changes_no_model() -> None:
    plain = learnt(networks.ring(4).with_links(networks.links(4, **UNEVEN)))
    rates = networks.links(4, **UNEVEN, jitter=0.3, compute_jitter=0.2, loss=0.1, upload_cells=0, watts=POWER)
    other = learnt(networks.ring(4).with_links(rates, barrier="round"))
    assert not np.array_equal(plain.simulated_seconds, other.simulated_seconds)
    for name in ("suboptimality", "consensus_distance", "bits_sent", "messages_sent", "gradient_evaluations"):
        np.testing.assert_array_equal(plain[name], other[name])


def test_who_is_away_spends_nothing() -> None:
    rates = networks.links(4, **UNEVEN)
    away = networks.outages((2,), start=1, end=2)
    results = learnt(networks.ring(4).with_links(rates, by_node=True), away)
    total = sum(results[f"{name}_seconds"] for name in WAYS)
    np.testing.assert_allclose(total.sel(node=2).diff("step"), [20.0, 0.0, 20.0])
    np.testing.assert_allclose(total.sel(node=0).diff("step"), [20.0, 12.0, 20.0])  # without node 2: 2 + 8.5 + 1.5
    np.testing.assert_allclose(results.simulated_seconds.diff("step"), [20.0, 12.0, 20.0])


def test_the_slowest_of_exponential_times_is_harmonic() -> None:
    """max of n exponentials of mean theta has mean theta (1 + 1/2 + ... + 1/n)."""
    draws = -jnp.log1p(-keys.node_uniform(KEY, jnp.arange(4000), 5))
    base = networks.ring(5)

    def round_of(compute: jax.Array) -> jax.Array:
        after = dlsim.networks.pace.seconds.computed(
            base.with_links(networks.links(5, compute=compute)), KEY, jnp.ones(5, jnp.uint32), None
        )
        time = after.state.traffic.clock
        return time.seconds + time.nanoseconds * 1e-9

    mean = float(jnp.mean(jax.jit(jax.vmap(round_of))(draws)))
    assert mean == pytest.approx(sum(1 / k for k in range(1, 6)), rel=0.04)


def test_a_sweep_over_rates_is_one_program() -> None:
    """Which technology it is, is data: rates, cells and jitter are traced."""
    made = [networks.ethernet(4), networks.wifi(4), networks.cellular_5g(4)]
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), one) for one in made]
    assert shapes[0] == shapes[1] == shapes[2]
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *made)

    def seconds(links: networks.Links) -> jax.Array:
        _, after = networks.ring(4).with_links(links).uplink(KEY, {"x": jnp.ones((4, 10**6))})
        return after.state.traffic.clock.seconds + after.state.traffic.clock.nanoseconds * 1e-9

    together = jax.jit(jax.vmap(seconds))(stacked)
    np.testing.assert_allclose(together, [float(seconds(one)) for one in made], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: networks.links(4, jitter=-0.1), r"links: jitter must be a number in \[0, inf\), got -0.1"),
        (lambda: networks.links(4, upload=0.0), r"links: upload must be a number in \(0, inf\), got 0"),
        (lambda: networks.links(4, loss=1.0), r"links: loss must be a number in \[0, 1\), got 1"),
        (lambda: networks.links(4, loss=[0, 0, 1.0, 0]), r"links: loss\[2\] must be a number in \[0, 1\), got 1"),
        (lambda: networks.links(4, watts=networks.Watts(upload=-1.0)), r"links: watts.upload must be a number in \[0"),
        (
            lambda: networks.links(4, watts=networks.Watts(compute=[1, 2, -3, 4])),
            r"links: watts.compute\[2\] must be a number in \[0, inf\), got -3",
        ),
        (lambda: networks.links(4, watts=3.0), r"links: watts must be a Watts, got 3.0. Pass dlsim.networks.Watts"),
        (
            lambda: networks.links(4, upload_cells=0.5),
            r"links: upload_cells must be an integer, or one for each of the 4",
        ),
        (
            lambda: networks.links(4, download_cells=[1, 2]),
            r"links: download_cells must be an integer, or one for each",
        ),
        (lambda: networks.links(4, latency=[0, 0, -1, 0]), r"links: latency\[2\] must be a number in \[0, inf\)"),
        (
            lambda: networks.ring(4).with_links(networks.links(4), barrier="never"),
            r"with_links: barrier must be one of",
        ),
        (lambda: networks.join_links(), "join_links: parts must be one or more Links, got none"),
        (
            lambda: networks.join_links(networks.links(2, watts=POWER._replace(upload=1.0)), networks.links(2)),
            "join_links: watts must be given for all parts or for none, got those of 1 of 2",
        ),
        (lambda: networks.cellular_5g(4, uplink_share=1.0), r"cellular_5g: uplink_share must be a number in \(0, 1\)"),
        (lambda: networks.cellular_5g(4, cell_rate=0.0), r"cellular_5g: cell_rate must be a number in \(0, inf\)"),
        (lambda: networks.wifi(4, overhead=1.0), r"wifi: overhead must be a number in \[0, 1\), got 1"),
        (lambda: networks.ethernet(4, rate=-1.0), r"links: upload must be a number in \(0, inf\), got -1"),
    ],
)
def test_bad_input(call: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        call()


def test_methods_by_clocks_and_paces() -> None:
    problem = problems.quadratic(4, 4, seed=0)
    plain = networks.ring(4).with_links(networks.links(4, compute=1.0))
    with pytest.raises(ValueError, match="learn: scenario must be one that leaves the links alone"):
        dlsim.learn(problem, algorithms.ad_psgd(problem, optax.sgd(0.1)), plain, networks.stragglers(3.0))
    dlsim.learn(problem, algorithms.ad_psgd(problem, optax.sgd(0.1)), plain, networks.churn(0.1))
    with pytest.raises(ValueError, match="pace_from_links: links.upload_cells must be None, as a job's time is one"):
        dlsim.arrivals.pace_from_links(networks.links(4, compute=1.0, upload_cells=0), 1, 1.0, 1.0)
    slow = networks.links(2, compute=1.0, upload=8.0, download=16.0, latency=[0.5, 1.0], loss=[0, 0.5])
    pace = dlsim.arrivals.pace_from_links(slow, 3, 16.0, 16.0)
    np.testing.assert_allclose(pace.overhead, [1 + 1 + 2, 2 + 2 + 4])
    np.testing.assert_allclose(pace.seconds_per_step, 3.0)
