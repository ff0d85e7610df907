"""The wireless mesh as a Process: what it delivers, refuses and costs, against formulas.

Programs are few: floats are data, so tests of one structure share one.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlsim
from dlsim import trust
from dlsim.running import counters
from dlsim.trust.mesh import epochs
from dlsim.trust.mesh.mesh_state import COUNTS

OPEN = {"tags": False, "window": None, "watchdog": False, "rekeying": None, "joins": False}
FLOATS = {
    "dropper_fraction": 0.0,
    "drop_probability": 0.8,
    "loss": 0.0,
    "forgeries": 0.0,
    "replays": 0.0,
    "reorder": 0.0,
    "key_period": 10.0,
    "grace": 1.0,
    "clock_spread": 0.0,
}


@functools.cache
def net(name):
    if name == "mesh":
        return dlsim.networks.random_geometric(20, 0.35, seed=1)
    if name == "square":  # 0 - 1 - 2 and 0 - 3 - 2
        places = [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
        return dlsim.networks.ring(4).replace(positions=jnp.asarray(places))
    places = jnp.zeros((4, 2)).at[:, 0].set(jnp.arange(4))
    return dlsim.networks.path(4).replace(positions=places)


@functools.cache
def program(name, num_clients, options):
    """`(floats, seed, num_steps) -> (first state, state, delivery of the last round)`, compiled once a structure."""

    network = net(name)  # made before anything is traced

    def run(floats, seed, num_steps):
        process = trust.wireless_mesh(network, num_clients, **dict(options), **floats)
        key = jax.random.key(seed)
        first = process.init(key)
        info = {"sent": jnp.uint32(0), "delivered": jnp.uint32(0)}

        def one(t, carry):
            return process.step(jax.random.fold_in(key, t), carry[0])

        state, info = jax.lax.fori_loop(0, num_steps, one, (first, info))
        return first, state, process.measure(state, info)

    return jax.jit(run)


def ran(name, num_clients=12, num_steps=20, seed=0, options=(), **floats):
    """Counts and measures at the end, and the world."""
    given = {k: jnp.float32(v) for k, v in (FLOATS | floats).items()}
    made = program(name, num_clients, tuple(sorted(dict(options).items(), key=str)))
    first, state, measured = made(given, seed, num_steps)
    found = {k: int(counters.to_float(v)) if k in COUNTS else float(v) for k, v in measured.items()}
    return found, first.world, state


def test_without_attackers_everything_arrives_with_protection_and_without():
    for options in (OPEN, {}):
        end, _, _ = ran("mesh", options=options)
        assert end["delivery"] == 1.0 and end["delivered_all"] == end["sent_all"] > 0
        assert end["lost_window"] == end["lost_stale"] == end["dropped"] == end["forged_accepted"] == 0
        assert end["bound"] == 1.0 and end["unreachable"] == 0


def test_protection_costs_what_the_formulas_say():
    """Bytes of joining: two exchanges of eight messages a router and one a client, over h hops, all at once (no loss)."""
    end, world, _ = ran("line", 200)
    at = np.asarray(world.router)
    assert end["bytes_joining"] == 8 * 200 * (2 * (1 + 2 + 3) + np.sum(at + 1))
    assert end["bytes_keys"] == 0  # client-driven keys
    assert end["bytes_data"] == 536 * sum(hops * (20 - hops) for hops in at)  # joined after h rounds
    served = (("rekeying", "server"), ("list_length", 5), ("joins", False))
    end, _, _ = ran("line", 200, options=served, key_period=2.0)
    # Lists of five epochs of two rounds: asked for at 0.8 of a life, twice in ten epochs.
    assert end["bytes_keys"] == 2 * 5 * 16 * (1 + 2 + 3) and end["delivered_all"] == end["sent_all"]
    # Who never hears of the next list is cut off: five epochs of ten, and nothing after.
    end, world, _ = ran("line", 200, options=served, key_period=2.0, loss=0.999)
    assert end["bytes_keys"] == 0 and end["lost_stale"] == np.sum(np.asarray(world.router) > 0) * 10


def test_forgeries_and_replays_pass_only_where_nothing_stops_them():
    attack = {"forgeries": 4.0, "replays": 4.0, "reorder": 8.0}
    bare, _, _ = ran("mesh", options=OPEN, **attack)
    linked, _, _ = ran("mesh", options={"window": None, "watchdog": False}, **attack)
    untagged, _, _ = ran("mesh", options={"tags": False}, **attack)
    full, _, _ = ran("mesh", **attack)
    assert bare["forged_accepted"] == bare["forged"] > 40 and bare["replayed_accepted"] == bare["replayed"] > 30
    assert linked["forged_accepted"] == 0 and linked["replayed_accepted"] > 20
    assert untagged["forged_accepted"] > 20 and untagged["replayed_accepted"] == 0
    assert full["forged_accepted"] == full["replayed_accepted"] == 0 and full["forged"] > 40 and full["replayed"] > 20
    assert full["lost_window"] == 0  # reordering below the window's width


def test_a_window_narrower_than_the_disorder_loses_honest_packets():
    beyond, _, _ = ran("line", 200, 12, reorder=200.0)
    below, _, _ = ran("line", 200, 12, reorder=63.0)
    assert beyond["lost_window"] > 30 and below["lost_window"] == 0


def test_delivery_over_a_path_of_droppers_is_the_power_of_its_hops():
    """(1 - f d)^(h-1) with f = 1: the inner routers all drop; a client's own router only sends."""
    end, world, _ = ran("line", 2000, 10, options=OPEN, dropper_fraction=1.0, drop_probability=0.3)
    at = np.asarray(world.router)
    expected = np.mean(0.7 ** np.maximum(at - 1, 0))
    spread = 3 * math.sqrt(expected * (1 - expected) / 20_000)
    assert end["delivered_all"] / end["sent_all"] == pytest.approx(expected, abs=spread)
    assert end["sent"] == np.sum(at == 0) * 10  # the honest: those of the gateway
    assert end["bound"] == 1.0


def test_droppers_without_a_will_change_nothing():
    plain, _, _ = ran("mesh")
    harmless, world, _ = ran("mesh", dropper_fraction=0.5, drop_probability=0.0)
    assert np.asarray(world.is_dropper).any()
    assert harmless["dropped"] == 0 and harmless["delivered_all"] == plain["delivered_all"]
    assert harmless["mean_trust"] == 1.0


def test_a_watchdog_finds_the_way_round():
    """Exactly one of the two inner routers of the square drops everything: the other way is found wherever it lies."""
    late = []
    for seed in range(30):
        end, world, _ = ran("square", 8, 25, seed, {"joins": False}, dropper_fraction=0.3, drop_probability=1.0)
        if np.asarray(world.is_dropper).tolist() in ([False, True, False, False], [False, False, False, True]):
            assert end["bound"] == 1.0
            late.append((end["delivery"], end["dropped"]))
    assert len(late) >= 3 and all(delivery == 1.0 for delivery, _ in late)
    assert any(dropped > 0 for _, dropped in late)  # it was learned, not given


def test_a_watchdog_accuses_as_often_as_links_lose():
    end, _, _ = ran("line", 200, 60, loss=0.2)
    spread = 3 * math.sqrt(0.2 * 0.8 / end["watched"])
    assert end["watched"] > 3000 and end["accused"] / end["watched"] == pytest.approx(0.2, abs=spread)
    lost = end["lost_links"] / (end["watched"] + end["lost_links"])
    assert lost == pytest.approx(0.2**4, abs=3 * math.sqrt(0.2**4 / end["watched"]))


def test_a_handshake_succeeds_as_often_as_all_its_hops():
    assert float(trust.handshake_success(0.1, 3, 3)) == pytest.approx(0.9976, abs=1e-4)
    assert float(trust.handshake_success(0.0, 0, 1)) == 1.0
    # A client of the gateway, one exchange of eight messages over one hop, tried in each of two rounds.
    _, world, state = ran("line", 2000, 2, options={"retries": 0}, loss=0.1)
    own = np.asarray(state.is_client)[np.asarray(world.router) == 0]
    chance = 1 - (1 - float(trust.handshake_success(0.1, 0, 1))) ** 2
    assert own.mean() == pytest.approx(chance, abs=3 * math.sqrt(chance * (1 - chance) / own.size))


def test_keys_are_refused_beyond_the_grace_and_only_there():
    """P(|d_i - d_j| > g) = 2 (1 - Phi(g / (sigma sqrt 2))): packets just before or after the sender's change."""
    rng = np.random.default_rng(0)
    sigma, g, period = 0.5, 0.6, 10.0
    d = rng.normal(0, sigma, (2, 20_000)).astype(np.float32)
    change = np.float32(50.0) - d[0]
    refused = np.zeros(20_000, bool)
    for shift in (-1e-3, 1e-3):
        sent = epochs.epoch_of(jnp.asarray(change + shift + d[0]), period)
        refused |= ~np.asarray(epochs.is_timely(sent, jnp.asarray(change + shift + d[1]), period, g))
    expected = math.erfc(g / (2 * sigma))
    assert refused.mean() == pytest.approx(expected, abs=3 * math.sqrt(expected / 20_000) + 2e-3)
    apart = np.abs(d[0] - d[1])
    assert refused[apart > g + 0.002].all() and not refused[apart < g - 0.002].any()


def test_clocks_within_the_grace_lose_nothing_and_others_do():
    within, _, _ = ran("mesh", key_period=2.0, clock_spread=0.05, grace=0.5)
    beyond, _, _ = ran("mesh", key_period=2.0, clock_spread=1.0, grace=0.0)
    assert within["lost_stale"] == 0 and beyond["lost_stale"] > 10


def test_under_simulate_with_seeds_records_and_a_break(tmp_path):
    process = trust.wireless_mesh(net("square"), 8, dropper_fraction=0.3, forgeries=2.0, replays=2.0, loss=0.1)
    options = {"seed": [0, 1], "record": dlsim.Record(every=6), "progress": False}
    dlsim.simulate(process, **options, num_steps=6, checkpoint_dir=tmp_path)
    resumed = dlsim.simulate(process, **options, num_steps=12, checkpoint_dir=tmp_path, resume=True).results
    whole = dlsim.simulate(process, **options, num_steps=12).results
    for name in ("delivered", "dropped", "forged", "bytes_data", "mean_trust"):
        np.testing.assert_array_equal(resumed[name].values, whole[name].values)
    assert whole.sizes["seed"] == 2 and (whole.sent_all[:, -1] > 0).all()


def test_a_disconnected_client_is_counted_and_not_dropped():
    graph = dlsim.networks.graph(4, np.array([0, 2]), np.array([1, 3]))
    process = trust.wireless_mesh(dlsim.networks.connect(graph), 40, **OPEN)
    state, info = jax.jit(process.step)(jax.random.key(1), first := process.init(jax.random.key(0)))
    end, at = process.measure(state, info), np.asarray(first.world.router)
    assert int(end["unreachable"]) == np.sum(at >= 2) > 0
    assert int(info["delivered"]) == int(info["sent"]) == np.sum(at < 2)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"window": 0}, r"window must be an integer in \[1, 64\], got 0"),
        ({"dropper_fraction": 1.2}, r"dropper_fraction must be a number in \[0, 1\], got 1.2"),
        ({"loss": 1.0}, r"loss must be a number in \[0, 1\), got 1"),
        ({"rekeying": "both"}, "rekeying must be one of client, server, got 'both'"),
        ({"key_period": 0.5}, "key_period must be a number in .*, got 0.5"),
        ({"forgeries": 9.0}, r"forgeries must be a number in \[0, 8\], got 9"),
        ({"num_gateways": 20}, r"num_gateways must be an integer in \[1, 19\], got 20"),
    ],
)
def test_bad_input_is_one_line(options, line):
    with pytest.raises(ValueError, match=f"wireless_mesh: {line}"):
        trust.wireless_mesh(net("mesh"), 5, **options)
