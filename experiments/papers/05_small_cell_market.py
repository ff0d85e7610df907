"""Small-cell market (05): how soon is a market of bilateral bids as good as the optimum, and what does it save in an outage?

Mukherjee, Huberman, Market-based short-term allocations in small cell wireless networks, 2020.  Command:
`dlsim run experiments/papers/05_small_cell_market.py`

Users buy spare bandwidth of the three stations around them by proportional response: two messages of 8 bytes a pair and
round, and nothing else is known to anyone.  First everyone at once, with equal budgets: how far the log utility is from the
equilibrium's, and whom the market serves better than equal shares do.  Then users who walk: their links drop by 20 dB every
two seconds for the 200 ms that a handover takes, and until then they bid for the rate they lost.

The paper says (its abstract; no mechanism or number of it could be read): users get extra rate while they are handed over,
at once, without a scheduler, at any number of users and stations.  The mechanism, the radio and the numbers expected are
our own, from an independent NumPy program.

Measured (default mode, 10 seeds, half a minute on 2 cores): the gap is 0.021, 0.026, 0.026 after 5 rounds and 0.005, 0.006,
0.006 after 10 with 30, 300, 3000 users, and 0.02 is reached in 6 rounds at all three (5 in the independent program).  300
users have a geometric mean of 1.91 Mbit/s, 1.79 with equal shares of the best station and 1.07 with equal shares of the
cluster; without nulling 1.78.  Outages lose 34 % of what is wanted, all of it without the market; five rounds of bidding
are 2.5 % of that, the rest is bandwidth that is not there.  All claims hold.  The last depends on what is wanted: here
two MHz of one's own link (10 MHz over five users a station); with five, tried first, 53 % are lost, and it would not hold.

Departures: see `dlsim.environments.small_cells`; bandwidth is divided anew every round, not at the ends of leases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import dlsim
from dlsim import checks, environments
from dlsim.environments.cells.cell_market import METHODS, QUANTILES
from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.2, "default": 1}  # on 2 cores
CITATION = "Mukherjee, Huberman, Market-based short-term allocations in small cell wireless networks, 2020."
SOURCE = "Mukherjee and Huberman, 2020"
NAME = "05_small_cell_market"
SIZES = ("30 6", "300 60", "3000 600")  # users, stations
PLAYERS = ("market", "market uncapped", "waiting")
GAPS = {5: 0.03, 10: 0.01}  # round: utility gap at most
WITHIN, GROWTH = 0.02, 1  # rounds to this gap differ by at most so many between sizes
OVER_BEST, OVER_CLUSTER = 1.03, 1.5  # geometric mean rate, over equal shares of the best station, of the cluster
LOST = 0.5  # of what is lost by waiting
ENOUGH = 4  # seeds
ROUNDS_EACH = 25  # rounds of small cells in a step of the run
HORIZON = 100  # rounds of a handover


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of(NAME, "mode", mode, MODES)
    config = ConfigDict()
    is_tiny = mode == "tiny"
    sizes = SIZES[:1] if is_tiny else SIZES
    nulled = tuple(f"bids {size} nulled" for size in sizes)
    loud = () if is_tiny else (f"bids {SIZES[1]} loud",)
    config.case = (*nulled, *loud, *(f"cells {player}" for player in (PLAYERS[::2] if is_tiny else PLAYERS)))
    config.num_users = 20 if is_tiny else 300  # of the outages
    config.num_stations = 5 if is_tiny else 60
    config.cluster = 3
    config.bandwidth = 10.0  # MHz, spare
    config.primary_bandwidth = 2.0  # MHz
    config.nulling = 0.05  # what coordinated beamforming leaves of a cluster's interference
    config.uncertainty = 0.0  # of what users believe of their channels while they bid
    config.num_steps = 4 if is_tiny else 20
    config.num_seeds = {"tiny": 2, "default": 10, "paper": 100}[mode]
    config.record_every = 1
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Bids at three sizes, with and without coordinated beamforming; outages with a market and without."""
    return {"case": config.case}


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case."""
    kind, *rest = config.case.split(" ", 1)
    checks.one_of(NAME, "case", kind, ("bids", "cells"))
    process = _bids(config, *rest) if kind == "bids" else _cells(config, *rest)
    return process, dlsim.Record(every=config.record_every, fn=_measures(process, config))


def _bids(config: ConfigDict, which: str) -> dlsim.Process:
    users, stations, beams = which.split()
    checks.one_of(NAME, "case", beams, ("nulled", "loud"))
    radio = environments.Radio(nulling=config.nulling if beams == "nulled" else 1.0)
    return environments.cell_market(
        int(users),
        int(stations),
        cluster=config.cluster,
        bandwidth=config.bandwidth,
        radio=radio,
        uncertainty=config.uncertainty,
    )


def _cells(config: ConfigDict, player: str) -> dlsim.Process:
    checks.one_of(NAME, "case", player, PLAYERS)
    world = environments.small_cells(
        config.num_users,
        config.num_stations,
        cluster=config.cluster,
        bandwidth=config.bandwidth,
        primary_bandwidth=config.primary_bandwidth,
        radio=environments.Radio(nulling=config.nulling),
        max_steps=config.num_steps * ROUNDS_EACH,
    )
    if player == "waiting":
        policy = environments.script_waiting(config.cluster)
    else:
        policy = environments.script_bidding(config.cluster, is_capped=player == "market")
    process = environments.play(world, policy)

    def step(key: jax.Array, state: Any) -> tuple[Any, Any]:
        def one(state: Any, t: jax.Array) -> tuple[Any, None]:
            return process.step(jax.random.fold_in(key, t), state)[0], None

        return jax.lax.scan(one, state, jnp.arange(ROUNDS_EACH))[0], {}

    return process._replace(step=step)


def _measures(process: dlsim.Process, config: ConfigDict) -> Any:
    """The same names and shapes for both kinds of cases; NaN is what a case does not measure."""
    assert process.measure is not None
    measure = process.measure
    shapes = {
        "utility_gap": (),
        "bytes_sent": (),
        "geometric_means": (len(METHODS),),
        "rate_quantiles": (len(METHODS), QUANTILES),
        "lost_share": (),
        "mean_price": (),
        "share_by_age": (HORIZON,),
    }

    def record(state: Any, info: Any) -> Any:
        found = measure(state, info)
        return {
            name: jnp.asarray(found.get(name, jnp.full(shape, jnp.nan)), jnp.float32) for name, shape in shapes.items()
        }

    return record


def claims(results: xarray.Dataset) -> list[Claim]:
    """Rounds to the optimum, rates against equal shares, data lost; thresholds are the constants above."""
    have = results.case.values.tolist()
    decides = results.sizes["seed"] >= ENOUGH and int(results.step.values[-1]) >= max(GAPS)
    out = []
    sizes = [size for size in SIZES if f"bids {size} nulled" in have]
    if sizes:
        out += _near_optimum(results, sizes, decides)
    middle = f"bids {SIZES[1]} nulled"
    if middle in have:
        out.append(_rates(results, middle, decides))
    if middle in have and f"bids {SIZES[1]} loud" in have:
        on, off = (_means(results, f"bids {SIZES[1]} {beams}")[:, 0] for beams in ("nulled", "loud"))
        out.append(
            Claim(
                text="Coordinated beamforming does not lower the market's geometric mean rate",
                source=f"{SOURCE}: stations coordinate",
                reported="1.76 with, 1.64 without (independent program)",
                measured=f"{_text(on)} with, {_text(off)} without, Mbit/s",
                holds=bool(on.mean() >= off.mean()) if decides else None,
            )
        )
    if {"cells market", "cells waiting"} <= set(have):
        bought, waited = (_last(results, "lost_share", f"cells {player}") for player in ("market", "waiting"))
        out.append(
            Claim(
                text=f"Outages: with the market at most {LOST:g} of the data is lost that waiting for the handover loses",
                source=f"{SOURCE}: extra rate during the handover, at once",
                reported="no number",
                measured=f"{_text(bought)} of what is wanted, against {_text(waited)}",
                holds=bool(bought.mean() <= LOST * waited.mean()) if decides else None,
            )
        )
    return out


def _near_optimum(results: xarray.Dataset, sizes: list[str], decides: bool) -> list[Claim]:
    gaps = {
        size: results.utility_gap.sel(case=f"bids {size} nulled").transpose("seed", "step").values for size in sizes
    }
    steps = results.step.values
    after = {n: {size: _at(gap, steps, n) for size, gap in gaps.items()} for n in GAPS}
    soon = {size: _first(gap.mean(axis=0), steps) for size, gap in gaps.items()}
    whole = decides and sizes == list(SIZES)
    known = [value for value in soon.values() if value is not None]
    return [
        Claim(
            text=f"The utility gap to the optimum, per unit of budget, is at most {GAPS[5]:g} after 5 rounds and "
            f"{GAPS[10]:g} after 10, at all sizes",
            source=f"{SOURCE}: decentralised, and fast",
            reported="0.025 to 0.028 and 0.006 to 0.007 (independent program)",
            measured="; ".join(
                f"{n} rounds: " + ", ".join(f"{value:.4f}" for value in found.values()) for n, found in after.items()
            ),
            holds=all(v <= GAPS[n] for n, found in after.items() for v in found.values()) if whole else None,
        ),
        Claim(
            text=f"The rounds to a gap of {WITHIN:g} differ by at most {GROWTH} between {', '.join(SIZES)} (users, stations)",
            source=f"{SOURCE}: scales in users and stations",
            reported="5 rounds at all three (independent program)",
            measured=", ".join(str(value) if value is not None else "more" for value in soon.values()),
            holds=len(known) == len(SIZES) and max(known) - min(known) <= GROWTH if whole else None,
        ),
    ]


def _rates(results: xarray.Dataset, case: str, decides: bool) -> Claim:
    means = _means(results, case)
    found = {name: means[:, i] for i, name in enumerate(METHODS)}
    held = found["market"].mean() >= OVER_BEST * found["best"].mean()
    held &= found["market"].mean() >= OVER_CLUSTER * found["cluster"].mean()
    return Claim(
        text=f"300 users: the market's geometric mean rate is >= {OVER_BEST:g} x that of equal shares of the best station, "
        f">= {OVER_CLUSTER:g} x that of equal shares of the cluster",
        source=f"{SOURCE}: what users get",
        reported="1.76, 1.58, 1.01 (independent program, one draw)",
        measured=f"{_text(found['market'])}, {_text(found['best'])}, {_text(found['cluster'])} Mbit/s",
        holds=bool(held) if decides else None,
    )


def _at(gap: np.ndarray, steps: np.ndarray, n: int) -> float:
    found = gap[:, steps == n]
    return float(found.mean()) if found.size else float("nan")


def _first(mean: np.ndarray, steps: np.ndarray) -> int | None:
    """The first round with a gap of at most WITHIN."""
    below = np.nonzero(mean <= WITHIN)[0]
    return int(steps[below[0]]) if len(below) else None


def _means(results: xarray.Dataset, case: str) -> np.ndarray:
    """Geometric mean rates at the end, `[seeds, methods]`."""
    one = results.geometric_means.sel(case=case).isel(step=-1)
    return one.values.reshape(results.sizes["seed"], len(METHODS))


def _last(results: xarray.Dataset, name: str, case: str) -> np.ndarray:
    return np.atleast_1d(results[name].sel(case=case).isel(step=-1).values)


def _text(values: np.ndarray) -> str:
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if values.size > 1 else "")


def figure(results: xarray.Dataset) -> Figure:
    """Gap against rounds; rates of users; the part of the wanted rate since the link broke; signalling."""
    from dlsim import plotting

    with plotting.style():
        made, panels = plotting.panels(2, 2, width=plotting.PAGE, height=5.0)
        _draw_gaps(panels[0, 0], results)
        _draw_rates(panels[0, 1], results)
        _draw_outage(panels[1, 0], results)
        _draw_bytes(panels[1, 1], results)
        plotting.letters(panels, ["distance to the optimum", "rates of users", "after a link broke", "signalling"])
    return made


def _draw_gaps(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    for place, size in enumerate(size for size in SIZES if f"bids {size} nulled" in results.case.values):
        rows = results.utility_gap.sel(case=f"bids {size} nulled").transpose("seed", "step").values[:, 1:]
        steps, label = results.step.values[1:], "{} users, {} stations".format(*size.split())
        # Float32 cannot tell smaller gaps from none.
        panel.plot(
            steps,
            np.maximum(rows.mean(0), 1e-6),
            linestyle=plotting.LINES[place],
            color=plotting.COLORS[place],
            label=label,
        )
        low, high = np.maximum(rows.min(0), 1e-6), np.maximum(rows.max(0), 1e-6)
        panel.fill_between(steps, low, high, color=plotting.COLORS[place], alpha=0.2, linewidth=0)
    panel.set_yscale("log")
    panel.set_xlabel("round")
    panel.set_ylabel("utility gap per budget")
    panel.legend()


def _draw_rates(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    case = next((c for c in (f"bids {s} nulled" for s in (SIZES[1], SIZES[0])) if c in results.case.values), None)
    if case is None:
        return
    values = results.rate_quantiles.sel(case=case).isel(step=-1).values
    mean = values.reshape(results.sizes["seed"], len(METHODS), QUANTILES).mean(axis=0)
    part = np.linspace(0, 1, QUANTILES)
    shown = {
        "market": "market",
        "best": "best station",
        "cluster": "cluster",
        "random": "random",
        "posted": "fixed price",
    }
    for place, (name, label) in enumerate(shown.items()):
        line = plotting.LINES[place % len(plotting.LINES)]
        panel.plot(
            np.maximum(mean[METHODS.index(name)], 1e-3), part, linestyle=line, color=plotting.COLORS[place], label=label
        )
    panel.set_xscale("log")
    panel.set_xlim(1e-2, None)
    panel.set_xlabel("rate, Mbit/s")
    panel.set_ylabel("part of users below")
    panel.legend()


def _draw_outage(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    for place, player in enumerate(PLAYERS):
        case = f"cells {player}"
        if case in results.case.values:
            rows = results.share_by_age.sel(case=case).isel(step=-1).values.reshape(-1, HORIZON)
            times = 2.0 * np.arange(HORIZON)
            line = plotting.LINES[place]
            panel.plot(times, rows.mean(axis=0), linestyle=line, color=plotting.COLORS[place], label=player)
    panel.set_ylim(-0.03, 1.03)
    panel.set_xlabel("ms since the link broke")
    panel.set_ylabel("part of the lost rate regained")
    panel.legend()


def _draw_bytes(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    sizes = [size for size in SIZES if f"bids {size} nulled" in results.case.values]
    users = [int(size.split()[0]) for size in sizes]
    rounds = [n for n in (5, 10, 20) if n in results.step.values] or [int(results.step.values[-1])]
    for place, n in enumerate(rounds):
        sent = [float(results.bytes_sent.sel(case=f"bids {s} nulled", step=n).mean()) / 1024 for s in sizes]
        panel.plot(users, sent, "o-", markersize=3, color=plotting.COLORS[place], label=f"{n} rounds")
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("users")
    panel.set_ylabel("KiB sent in all")
    panel.legend()
