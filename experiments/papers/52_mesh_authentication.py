"""Mesh authentication (52): what do attackers of a wireless mesh achieve, and what does each protection cost?

Sen, Secure and privacy-preserving authentication protocols for wireless mesh networks, 2012.  Command:
`dlsim run experiments/papers/52_mesh_authentication.py`

Sixty routers in the unit square, linked within 0.22 (graphs are drawn until they are connected), send the packets of a
hundred clients to a gateway, hop by hop, for sixty rounds.  A seed is a graph, clients, droppers and draws.  Outsiders forge
and replay; insiders, a fraction f of the routers, drop 0.8 of what they should forward.  A second world has 64 users who
ask for access under rings of n public keys.  The cryptography is toy arithmetic: protocols' behaviour, never security.

The paper says: authentication with little overhead, robust and efficient.  None of its numbers could be read; those reported
beside ours are of an independent program (droppers) or follow from formulas, and thresholds were set before the first run.

Measured (default mode, 10 seeds): all claims hold.  With f = 0.1 of droppers 0.69 +- 0.29 of honest traffic is delivered,
with the watchdog 1.00; with 0.2 of them 0.56 +- 0.24 and 0.99, which is the share that has an honest path.  Nothing forged or
replayed is accepted with all protection; without the window 1,898 of 2,093 replays are, without tags 2,232 of 2,294
forgeries.

Departures: the defence against droppers, all sizes and rates are ours; see `dlsim.trust.wireless_mesh`.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from mesh_claims import at_end, decided, delivery
from ml_collections import ConfigDict

import dlsim
from dlsim import checks, keys, trust
from dlsim.experiment import Claim
from dlsim.networks.graphs.padding import lengthen
from dlsim.running import counters
from dlsim.trust.mesh import epochs

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "52_mesh_authentication"
MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.5, "default": 4}  # on 2 cores
CITATION = "Sen, Secure and privacy-preserving authentication protocols for wireless mesh networks, 2012."
NOTHING = {"tags": False, "window": None, "watchdog": False, "rekeying": None, "joins": False}
PROTOCOLS = {
    "open": NOTHING,
    "link": {"window": None, "watchdog": False},
    "untagged": {"tags": False},
    "full": {},
    "server": {"rekeying": "server"},
}
COUNTED = ("forged", "forged_accepted", "replayed", "replayed_accepted", "lost_window", "lost_stale", "sent_all")
COUNTED = (*COUNTED, "delivered_all", "bytes_data", "bytes_joining", "bytes_keys", "accused", "watched")
PLAIN = ("delivery", "bound", "hops", "guess_rate", "exposed", "requests_to_expose", "verified", "forged_signatures")
PLAIN = (*PLAIN, "signature_bytes", "sign_cost", "verify_cost", "refused", "expected")


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of(NAME, "mode", mode, MODES)
    is_tiny = mode == "tiny"
    config = ConfigDict()
    fractions = (0.2,) if is_tiny else (0.1, 0.2, 0.3)
    droppers = [f"{how} {f:g}" for f in fractions for how in ("plain", "watchdog")]
    attacked = ("open", "full") if is_tiny else tuple(PROTOCOLS)
    rings = ["ring 8 fresh"] if is_tiny else [f"ring {n} fresh" for n in (2, 4, 8, 16, 32)]
    rings += [] if is_tiny else ["ring 8 fixed", "ring 1 pseudonym"]
    config.case = (*droppers, *(f"attack {name}" for name in attacked), *rings, "clocks")
    config.num_routers = 16 if is_tiny else 60
    config.radius = 0.4 if is_tiny else 0.22
    config.num_clients = 10 if is_tiny else 100
    config.num_graphs = 2 if is_tiny else 16
    config.num_users = 16 if is_tiny else 64
    config.drop_probability = 0.8
    config.loss = 0.05  # of a try, under attack
    config.forgeries = 4.0  # a round
    config.replays = 4.0
    config.reorder = 60.0  # packets by which one may be overtaken
    config.key_period = 10.0
    config.list_length = 4
    config.grace = 0.6
    config.clock_spread = 0.5
    config.num_steps = 6 if is_tiny else 60
    config.num_seeds = {"tiny": 1, "default": 10, "paper": 100}[mode]
    config.record_every = 1
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Droppers by fraction, attacks by protocol, rings by size, and clocks."""
    return {"case": config.case}


@functools.lru_cache(maxsize=4)
def _graphs(num: int, radius: float, count: int) -> Any:
    """Several graphs as one stack of networks with lists of links of one length."""
    with jax.ensure_compile_time_eval():  # arrays and not tracers, wherever it is built first
        made = [dlsim.networks.random_geometric(num, radius, seed=draw, lowering="edges") for draw in range(count)]
        longest = 1 + max(network.num_edges for network in made)
        tables = dict.fromkeys(
            ("neighbors", "neighbor_edges", "neighbor_weights")
        )  # as wide as each graph's largest degree
        made = [lengthen(network.replace(**tables), longest) for network in made]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


def _mesh(config: ConfigDict, **options: Any) -> dlsim.Process:
    """A mesh on one of the graphs, which the seed draws."""
    graphs = _graphs(config.num_routers, config.radius, config.num_graphs)

    def on(place: Any) -> dlsim.Process:
        return trust.wireless_mesh(jax.tree.map(lambda leaf: leaf[place], graphs), config.num_clients, **options)

    def init(key: Any) -> Any:
        place = jax.random.randint(keys.stream(key, "graph"), (), 0, config.num_graphs)
        return place, on(place).init(key)

    def step(key: Any, state: Any) -> Any:
        place, mesh = state
        mesh, info = on(place).step(key, mesh)
        return (place, mesh), info

    def measure(state: Any, info: Any) -> Any:
        place, mesh = state
        found = on(place).measure(mesh, info)
        hops = jnp.sum(jnp.where(mesh.has_joined, mesh.world.hops, 0)) / (config.num_routers - 1)
        return {**{k: v for k, v in found.items() if k in ("delivery", "bound")}, "hops": hops} | {
            name: counters.as_float(found[name]) for name in COUNTED
        }

    return dlsim.Process(init, step, measure)


def _clocks(config: ConfigDict) -> dlsim.Process:
    """Pairs of neighbours whose clocks are off: who refuses packets sent just before or just after a change of keys."""
    num, shift = 4000, 1e-3

    def step(key: Any, state: Any) -> Any:
        del state
        d = keys.node_normal(key, jnp.arange(num), 2) * config.clock_spread
        change = 5 * config.key_period - d[:, 0]
        refused = jnp.zeros(num, bool)
        for side in (-shift, shift):
            sent = epochs.epoch_of(change + side + d[:, 0], config.key_period)
            refused |= ~epochs.is_timely(sent, change + side + d[:, 1], config.key_period, config.grace)
        return jnp.mean(refused.astype(jnp.float32)), {}

    def measure(state: Any, info: Any) -> Any:
        return {"refused": state, "expected": jnp.float32(math.erfc(config.grace / (2 * config.clock_spread)))}

    return dlsim.Process(lambda key: jnp.float32(0), step, measure)


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case."""
    kind, *rest = config.case.split()
    checks.one_of(NAME, "case", kind, ("plain", "watchdog", "attack", "ring", "clocks"))
    if kind in ("plain", "watchdog"):
        process = _mesh(
            config,
            watchdog=kind == "watchdog",
            dropper_fraction=float(rest[0]),
            drop_probability=config.drop_probability,
        )
    elif kind == "attack":
        process = _mesh(
            config,
            **PROTOCOLS[checks.one_of(NAME, "case", rest[0], PROTOCOLS)],
            loss=config.loss,
            forgeries=config.forgeries,
            replays=config.replays,
            reorder=config.reorder,
            key_period=config.key_period,
            list_length=config.list_length,
        )
    elif kind == "ring":
        process = trust.anonymous_access(config.num_users, max(int(rest[0]), 2), rings=rest[1])
    else:
        process = _clocks(config)
    measure = process.measure
    assert measure is not None

    def record(state: Any, info: Any) -> Any:
        found = measure(state, info)
        if kind == "ring":
            found["forged_signatures"] = found.pop("forged")
        return {name: jnp.asarray(found.get(name, jnp.nan), jnp.float32).reshape(()) for name in (*COUNTED, *PLAIN)}

    return process, dlsim.Record(every=config.record_every, fn=record)


def claims(results: xarray.Dataset) -> list[Claim]:
    """C1 to C4 of the specification; the thresholds stand in `mesh_claims`."""
    return decided(results)


def figure(results: xarray.Dataset) -> Figure:
    """Delivery against droppers; bytes a delivered packet by protocol; guesses and bytes against n."""
    from dlsim import plotting

    with plotting.style():
        made, panels = plotting.panels(1, 3, height=2.8)
        _draw_delivery(panels[0, 0], results)
        _draw_bytes(panels[0, 1], results)
        _draw_rings(panels[0, 2], results)
        plotting.letters(panels, ("droppers", "overhead", "anonymity"))
    return made


def _draw_delivery(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    have = results.case.values.tolist()
    for place, how in enumerate(("plain", "watchdog")):
        found = sorted((float(case.split()[1]), case) for case in have if case.startswith(how))
        if found:
            values = [delivery(results, case) for _, case in found]
            spread = [value.std(ddof=1) if value.size > 1 else 0 for value in values]
            panel.errorbar(
                [f for f, _ in found],
                [v.mean() for v in values],
                spread,
                fmt="o-",
                color=plotting.COLORS[place],
                label=how,
            )
    found = sorted((float(case.split()[1]), case) for case in have if case.startswith("plain"))
    panel.plot(
        [f for f, _ in found], [at_end(results, c, "bound").mean() for _, c in found], "k--", label="honest path"
    )
    panel.set_xlabel("fraction of droppers")
    panel.set_ylabel("delivery, last rounds")
    panel.set_ylim(0, 1.05)
    panel.legend()


def _draw_bytes(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    names = [name for name in PROTOCOLS if f"attack {name}" in results.case.values]
    base = np.zeros(len(names))
    for place, part in enumerate(("data", "joining", "keys")):
        height = np.array(
            [
                (
                    at_end(results, f"attack {n}", f"bytes_{part}") / at_end(results, f"attack {n}", "delivered_all")
                ).mean()
                for n in names
            ]
        )
        panel.bar(range(len(names)), height, bottom=base, color=plotting.COLORS[place], label=part)
        base += height
    panel.set_xticks(range(len(names)), names, rotation=30)
    panel.set_ylabel("bytes a delivered packet")
    panel.set_ylim(0, 1.35 * float(base.max(initial=1.0)))
    panel.legend(ncols=3, columnspacing=0.8, handlelength=1.0, loc="upper center")


def _draw_rings(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    sizes = [n for n in (2, 4, 8, 16, 32) if f"ring {n} fresh" in results.case.values]
    rates = [at_end(results, f"ring {n} fresh", "guess_rate").mean() for n in sizes]
    panel.loglog(sizes, rates, "o", color=plotting.COLORS[0], label="guess is right")
    panel.loglog(sizes, 1 / np.array(sizes), "k--", label="1/n")
    panel.set_xlabel("ring size n")
    panel.set_ylabel("probability")
    panel.legend(loc="lower left")
    other = panel.twinx()
    other.loglog(
        sizes, [at_end(results, f"ring {n} fresh", "signature_bytes")[0] for n in sizes], "s:", color=plotting.COLORS[1]
    )
    other.set_ylabel("bytes of a signature", color=plotting.COLORS[1])
    panel.set_xticks(sizes, [str(n) for n in sizes])
    panel.set_xticks([], minor=True)
