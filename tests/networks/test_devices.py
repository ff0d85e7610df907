"""Devices from files and distributions; who is there, slow or fading; and the media's calibration."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import networks
from dlsim.core import Scenario
from dlsim.networks.pace.seconds import elapse
from dlsim.running.counters import to_float

KEY = jax.random.key(2)
CAPACITY = "client_id,computation,communication\n7,162.0,5648.5\n9,20,800\n3,50,1e4\n"
SESSIONS = "client_id,duration,active,inactive,finish_time,model\n5,9,0,60,100,x\n5,9,80,90,100,x\n2,9,30,70,80,y\n"
RATES = "client_id,Timestamp,DL_bitrate,UL_bitrate\n1,0,100,10\n1,10,300,30\n1,20,200,20\n4,5,1000,50\n4,15,2000,70\n"


def file(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def at(network: networks.Network, seconds: float) -> networks.Network:
    return elapse(network, jnp.float32(seconds))


def linked(num: int, **more: Any) -> networks.Network:
    return networks.complete(num).with_links(networks.links(num, **more))


def step(scenario: Scenario, network: networks.Network, state: Any = None) -> networks.Network:
    state = scenario.init(KEY, network) if state is None else state
    return scenario.step(KEY, state, network)[1]


def test_devices_are_those_of_the_file(tmp_path: pathlib.Path) -> None:
    path = file(tmp_path, CAPACITY)
    first = networks.trace_devices(path, 2)
    np.testing.assert_allclose(first.compute, [0.486, 0.06])  # three passes of 162 and 20 ms
    np.testing.assert_allclose(first.upload, [5648500, 800000])
    np.testing.assert_array_equal(first.upload, first.download)
    drawn = networks.trace_devices(path, 3, passes=1.0, seed=1)
    np.testing.assert_allclose(np.sort(drawn.compute), [0.02, 0.05, 0.162])
    ways = file(tmp_path, "client_id, computation, dl_kbps, ul_kbps\n1,10,900,100\n")
    both = networks.trace_devices(ways, 1)
    assert (both.download[0], both.upload[0]) == (9e5, 1e5)
    made = networks.links(2, **first._asdict(), latency=0.1)
    np.testing.assert_allclose(made.compute, first.compute, rtol=1e-6)


def test_devices_of_a_distribution() -> None:
    many = networks.lognormal_devices(4000, compute=0.02, upload=1e6, download=4e6, seed=3)
    np.testing.assert_array_equal(many.upload[:10], networks.lognormal_devices(10, upload=1e6, seed=3).upload)
    np.testing.assert_allclose(np.median(many.compute), 0.02, rtol=0.05)
    assert np.log(many.compute).std() == pytest.approx(0.6, abs=0.03)
    np.testing.assert_allclose(many.download / many.upload, 4)


def test_sessions_of_a_file_by_the_clock(tmp_path: pathlib.Path) -> None:
    """Device 5 is there from 0 to 60 and 80 to 90 of every 100 seconds, device 2 from 30 to 70 of every 80."""
    scenario, network = networks.session_trace(file(tmp_path, SESSIONS)), linked(2)
    for seconds in (0.0, 29.5, 30.0, 60.0, 85.0, 110.0, 159.0, 1085.0):
        current = step(scenario, at(network, seconds))
        mine = (seconds % 100 < 60) or 80 <= seconds % 100 < 90
        yours = 30 <= seconds % 80 < 70
        assert current.is_present.tolist() == [mine, yours], seconds
        assert to_float(current.state.traffic.clock) == seconds
    assert step(scenario, network.relabel([1, 0])).is_present.tolist() == [False, True]


def test_where_nobody_is_there_time_goes_on(tmp_path: pathlib.Path) -> None:
    network = linked(2)
    path = file(tmp_path, SESSIONS)
    current = step(networks.session_trace(path), at(network, 75.0))
    assert current.is_present.tolist() == [True, False]
    assert to_float(current.state.traffic.clock) == 80
    away = networks.sessions(3.0, 50.0)
    state = away.init(KEY, network)._replace(is_present=jnp.zeros(2, bool))
    later = [away.step(jax.random.key(k), state, network)[1] for k in range(200)]
    assert all(one.is_present.sum() == 1 for one in later)
    waited = np.array([to_float(one.state.traffic.clock) for one in later])
    assert waited.mean() == pytest.approx(25, rel=0.25)  # the first of two


def test_sessions_by_rounds_need_no_links(tmp_path: pathlib.Path) -> None:
    scenario = networks.session_trace(file(tmp_path, SESSIONS), seconds_per_round=30.0)
    network = networks.complete(2)
    state, seen = scenario.init(KEY, network), []
    for _ in range(4):
        state, current = scenario.step(KEY, state, network)
        seen.append(current.is_present.tolist())
    assert seen == [[True, False], [True, True], [False, True], [False, False]]  # at 0, 30, 60 and 90 (10 of 80)


def test_sessions_of_a_distribution() -> None:
    num = 4000
    scenario, network = networks.sessions(30.0, 10.0), linked(num)
    state = scenario.init(KEY, network)
    assert float(state.is_present.mean()) == pytest.approx(0.75, abs=0.03)
    after, current = scenario.step(jax.random.key(9), state, at(network, 4.0))
    kept = np.exp(-4 * (1 / 30 + 1 / 10))
    was, now = np.asarray(state.is_present), np.asarray(current.is_present)
    assert now[was].mean() == pytest.approx(0.75 + 0.25 * kept, abs=0.03)
    assert now[~was].mean() == pytest.approx(0.75 * (1 - kept), abs=0.04)
    _, same = scenario.step(jax.random.key(10), after, at(network, 4.0))
    np.testing.assert_array_equal(same.is_present, now)  # no time has passed


def test_rates_of_a_file(tmp_path: pathlib.Path) -> None:
    scenario, network = networks.rate_trace(file(tmp_path, RATES)), linked(2)
    for seconds, down, up in (
        (0.0, [100, 1000], [10, 50]),
        (9.0, [100, 1000], [10, 50]),
        (25.0, [200, 1000], [20, 50]),
    ):
        links = step(scenario, at(network, seconds)).links
        np.testing.assert_allclose(links.download, np.array(down) * 1e3)
        np.testing.assert_allclose(links.upload, np.array(up) * 1e3)
    # The second begins anew after 20 seconds, the first after 30.
    np.testing.assert_allclose(step(scenario, at(network, 31.0)).links.upload, [10e3, 70e3])
    dated = "Timestamp,DL_bitrate,UL_bitrate\n2019.12.14_10.16.30,10,1\n2019.12.14_10.16.32,20,2\n"
    alone = networks.rate_trace(file(tmp_path, dated))
    np.testing.assert_allclose(step(alone, at(linked(1), 2.5)).links.download, [20e3])


def test_stragglers_and_fading() -> None:
    num = 4000
    network = linked(num, compute=2.0, upload=8.0)
    once = networks.stragglers(10.0, probability=0.25)
    slow = np.asarray(step(once, network).links.compute) / 2
    assert set(slow.tolist()) == {1.0, 10.0} and (slow == 10).mean() == pytest.approx(0.25, abs=0.03)
    lasting = networks.stragglers(1.15, 0.95, lasting=True)
    state = lasting.init(KEY, network)
    first, second = (lasting.step(jax.random.key(k), state, network)[1].links.compute for k in (1, 2))
    np.testing.assert_array_equal(first, second)
    assert 1.9 <= float(first.min()) < 1.91 and 2.29 < float(first.max()) <= 2.3
    wandering = networks.fading(0.5, 0.8)
    state = wandering.init(KEY, network)
    after, current = wandering.step(jax.random.key(8), state, network)
    logs = np.log(np.asarray(current.links.upload) / 8)
    np.testing.assert_allclose(np.log(np.asarray(current.links.download) / 1e8), logs, atol=1e-5)
    np.testing.assert_allclose(logs, after, atol=1e-6)
    assert logs.std() == pytest.approx(0.5, abs=0.02)
    assert np.corrcoef(state, after)[0, 1] == pytest.approx(0.8, abs=0.02)


def uplink_seconds(links: networks.Links) -> np.ndarray:
    num = links.upload.shape[0]
    network = networks.complete(num).with_links(links._replace(jitter=None), by_node=True)
    message = {"x": jnp.zeros((num, 10**6), jnp.float32)}  # 4 MB
    after = network.uplink(KEY, message)[1]
    return to_float(after.state.ledger.upload) - np.asarray(links.latency)


def test_media_have_the_ratios_that_were_measured() -> None:
    times = {
        make.__name__: uplink_seconds(make(5)) for make in (networks.ethernet, networks.wifi, networks.cellular_5g)
    }
    np.testing.assert_allclose(times["ethernet"], 0.32, rtol=1e-6)
    np.testing.assert_allclose(times["cellular_5g"] / times["ethernet"], 33.3, rtol=1e-5)
    np.testing.assert_allclose(times["cellular_5g"] / times["wifi"], 17.8, rtol=1e-5)
    cell = networks.cellular_5g(5)
    np.testing.assert_allclose(cell.download, 200e6)
    np.testing.assert_allclose(networks.cellular_5g(2, cell_rate=1e8, uplink_share=0.25).upload, 25e6)


def test_a_mixed_fleet_keeps_its_cells_apart() -> None:
    parts = (networks.ethernet(1), networks.wifi(2), networks.cellular_5g(1), networks.wifi(2))
    fleet = networks.join_links(*parts)
    np.testing.assert_array_equal(fleet.upload_cells, [-1, 0, 0, 1, 2, 2])
    np.testing.assert_allclose(uplink_seconds(fleet), np.concatenate([uplink_seconds(one) for one in parts]), rtol=1e-5)
    plain = networks.join_links(networks.links(1, latency=0.5), networks.wifi(2, loss=0.5))
    np.testing.assert_allclose(plain.latency, [0.5, 3e-3, 3e-3])
    np.testing.assert_allclose(plain.loss, [0, 0.5, 0.5])
    np.testing.assert_array_equal(plain.download_cells, [-1, 0, 0])


@pytest.mark.parametrize(
    ("make", "text", "line"),
    [
        (
            networks.session_trace,
            "client_id,active,until\n1,0,2\n",
            r"table of the columns client_id, active, .* 'until'",
        ),
        (
            networks.session_trace,
            "client_id,active\n1,0\n",
            "with the columns client_id, active, inactive, each once, got",
        ),
        (
            networks.session_trace,
            "client_id,active,inactive\n1,0,\n",
            r"without gaps, got an empty cell in line 2, column",
        ),
        (networks.session_trace, "client_id,active,inactive\n1,5,5\n", r"end after they begin, got 5 to 5 in line 2"),
        (
            networks.session_trace,
            "client_id,active,inactive\n1,0,9\n1,5,12\n",
            r"do not overlap, got one that begins at 5",
        ),
        (
            networks.session_trace,
            "client_id,active,inactive\n1,-1,5\n",
            r"whose active is at least 0, got '-1' in line 2",
        ),
        (
            networks.session_trace,
            "client_id,active,inactive,finish_time\n1,0,50,20\n",
            r"one whole finish_time a device, after its sessions, got 20 for the device of line 2, whose sessions end at 50",
        ),
        (networks.session_trace, "client_id,active,inactive\n", r"a head and one row or more, got a head alone"),
        (networks.session_trace, "client_id,active,inactive\n1,2\n", r"a table of 3 columns, got 2 in line 2"),
        (
            networks.rate_trace,
            "Timestamp,DL_bitrate,UL_bitrate\n0,10,0\n",
            r"whose UL_bitrate is above 0, got '0' in line 2",
        ),
        (
            networks.rate_trace,
            "Timestamp,DL_bitrate,UL_bitrate\n0,1,1\n1,1,1\n2,1,1\n9,1,1\n",
            r"without gaps \(more than 2 s between samples\), got 7 s before line 5. Fill it, or pass largest_gap=7",
        ),
        (
            networks.rate_trace,
            "Timestamp,DL_bitrate,UL_bitrate\n3,1,1\n1,1,1\n",
            r"in the order of time, got an earlier one",
        ),
        (
            lambda path: networks.trace_devices(path, 1),
            "client_id,computation\n1,2\n",
            r"with communication, or with dl_kbps",
        ),
        (
            lambda path: networks.trace_devices(path, 1),
            "client_id,computation,communication\n1,nan,2\n",
            r"whose computation is above 0, got 'nan' in line 2",
        ),
        (
            lambda path: networks.trace_devices(path, 4),
            CAPACITY,
            r"num_nodes must be at most the file's 3 devices, got 4",
        ),
        (
            lambda path: networks.trace_devices(path, 1),
            "client_id,computation,communication\n1,2,3\n1,2,3\n",
            r"one row a device, got '1' again in line 3",
        ),
    ],
)
def test_bad_traces(tmp_path: pathlib.Path, make: Any, text: str, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make(file(tmp_path, text))


def test_bad_input(tmp_path: pathlib.Path) -> None:
    (tmp_path / "trace").write_bytes(b"\x80\x04\x95abc")
    with pytest.raises(ValueError, match="trace must be a CSV file, got a pickle. Write it as CSV where you trust it"):
        networks.session_trace(tmp_path / "trace")
    with pytest.raises(ValueError, match="session_trace: path must be a file that is there, got"):
        networks.session_trace(tmp_path / "nothing.csv")
    for make in (networks.stragglers(2.0), networks.fading(0.1), networks.sessions(1.0, 1.0)):
        with pytest.raises(
            ValueError, match="network must be one with links, got one without. Call network.with_links"
        ):
            make.init(KEY, networks.complete(2))
    with pytest.raises(
        ValueError, match="network must be one with links, got one without. .* Or pass seconds_per_round"
    ):
        networks.session_trace(file(tmp_path, SESSIONS)).init(KEY, networks.complete(2))
    with pytest.raises(ValueError, match="session_trace: num_nodes must be at most the file's 2 devices, got 3"):
        networks.session_trace(file(tmp_path, SESSIONS)).init(KEY, linked(3))
    with pytest.raises(ValueError, match="stragglers: fastest must be at most slowest, 2, got 3"):
        networks.stragglers(2.0, 3.0)
