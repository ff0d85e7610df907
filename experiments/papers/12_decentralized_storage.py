"""Decentralised data storage (12): what do a chain, a Tangle, a hash table and gossip pay for having no centre?

Karaarslan, Konacakli, Data storage in the decentralized world: blockchain and derivatives, 2020, a survey without
experiments; the protocols it compares are played here, and held against the formulas of their own papers.
Command: `dlsim run experiments/papers/12_decentralized_storage.py`

Kademlia with buckets of 8 and 3 questions at a time, whole and with 30 % of the contacts away; a Tangle with h = 1 s; a
chain of 200 equal miners and one delay of 1 s; push broadcast with f = 1; Snowball with K = 10, a majority of 7, beta = 15;
and 1,000 records of 10 kB on 100 nodes, three copies each, of which 30 % of the nodes fail and 10 % hand out altered copies,
looked up and compared with their 32-byte hashes on a chain.  A step is 4 lookups, 20 transactions, 20 blocks, or a round.
The server beside them is an M / M / 1 queue.

Measured: see experiments/papers/README.md.  What the page calls the stale rate, 1 - exp(-D / tau), is the share of heights at
which blocks compete; of all blocks a share D / (D + tau) is stale, since a height is won once.  Both are measured: at
D / tau = 0.3 they are 0.259 and 0.231, 11 % apart, so C3 as the page has it fails there by arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from storage_claims import (
    ALTERING,
    BLOCKS,
    COPIES,
    DELAY,
    FAILED,
    HASH_BYTES,
    RECORD_BYTES,
    SNOWBALL,
    all_steps,
    decided,
    last,
    numbers,
)

import dlsim
from dlsim import checks, networks, trust
from dlsim.experiment import Claim
from dlsim.learning.measures import only

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.4, "default": 6}  # on 2 cores
CITATION = "Karaarslan, Konacakli, Data storage in the decentralized world: blockchain and derivatives, 2020."
SERVER, LOAD, HOP = 200.0, 100.0, 0.1  # requests a second; seconds of a question and its answer


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("12_decentralized_storage", "mode", mode, MODES)
    config = ConfigDict()
    is_tiny = mode == "tiny"
    sizes, spread = ((64,), (64,)) if is_tiny else ((64, 256, 1024), (64, 1024, 16_384))
    if mode == "paper":
        sizes, spread = (*sizes, 2**14, 2**20), (*spread, 2**20)
    cases = [f"dht {num} {state}" for num in sizes for state in ("whole", "failed")]
    cases += [f"tangle {rate}" for rate in ((5,) if is_tiny else (5, 20, 50))]
    cases += [f"chain {ratio}" for ratio in ((0.1,) if is_tiny else (0.01, 0.1, 0.3))]
    cases += [f"push {num}" for num in spread]
    cases += [f"snowball {share}" for share in ((0.0,) if is_tiny else SNOWBALL)]
    config.case = (*cases, "store 100")
    config.num_seeds = 1 if is_tiny else 10
    config.num_steps = 40 if is_tiny else 400
    config.record_every = 1
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Every case: a protocol and its size or rate."""
    return {"case": config.case}


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case."""
    kind, *rest = str(config.case).split()
    checks.one_of("12_decentralized_storage", "case", kind, ("dht", "tangle", "chain", "push", "snowball", "store"))
    number = float(rest[0])
    value = jnp.float32(number)  # data, where it is a rate: cases that differ in rates alone are one program
    if kind == "dht":
        scenario = networks.crash(0, jnp.float32(FAILED if rest[1] == "failed" else 0.0))
        process = trust.dht(networks.complete(int(number)), num_lookups=4, scenario=scenario)
    elif kind == "tangle":
        process = trust.tangle(rate=value, delay=DELAY, window=512, arrivals_per_step=20)
    elif kind == "chain":
        process = trust.proof_of_work(
            200, block_seconds=DELAY / value, delay=DELAY, confirmations=BLOCKS["confirmations"], blocks_per_step=20
        )
    elif kind == "push":
        process = trust.broadcast(networks.complete(int(number)))
    elif kind == "snowball":
        process = trust.snowball(networks.complete(500), byzantine=value)
    else:
        process = trust.dht(
            networks.complete(int(number)),
            num_lookups=4,
            num_records=1000,
            copies=COPIES,
            altering=ALTERING,
            scenario=networks.crash(0, FAILED),
        )
    names = _measured_by(kind)
    return process, dlsim.Record(every=config.record_every, fn=only(process, names))


def _measured_by(kind: str) -> tuple[str, ...]:
    return {
        "dht": ("rounds", "messages", "success"),
        "tangle": ("num_tips", "throughput", "confirmation_seconds"),
        "chain": ("stale_rate", "fork_rate", "transactions_per_second"),
        "push": ("rounds_to_all", "share_informed"),
        "snowball": ("rounds_to_all", "agreement", "share_of_ones", "share_decided"),
        "store": ("rounds", "kept", "found", "audited", "records_per_node"),
    }[kind]


def claims(results: xarray.Dataset) -> list[Claim]:
    """C1 to C6 of the page; thresholds stand in `storage_claims`."""
    return decided(results)


def figure(results: xarray.Dataset) -> Figure:
    """Lookups against N; tips over time; forks against D / tau; Snowball's colours; bytes, survival and latency compared."""
    from dlsim import plotting

    with plotting.style():
        made, panels = plotting.panels(2, 3, height=4.6)
        _draw_lookups(panels[0, 0], results)
        for place, rate in enumerate(numbers(results, "tangle")):
            tips = all_steps(results, f"tangle {rate}", "num_tips")
            seconds = 20 / float(rate) * np.arange(1, tips.shape[1] + 1)
            panels[0, 1].plot(seconds, tips.mean(0), color=plotting.COLORS[place], label=f"λ = {rate}/s")
            panels[0, 1].axhline(2 * float(rate) * DELAY, color=plotting.COLORS[place], ls="--", lw=0.7)
        panels[0, 1].set(xscale="log", xlabel="seconds (dashed: 2 λ h)", ylabel="tips", ylim=(0, None))
        panels[0, 1].legend()
        ratios = np.array(numbers(results, "chain"), float)
        x = np.geomspace(0.005, 0.5, 60)
        for place, (name, label, line) in enumerate(
            (("fork_rate", "heights with forks", 1 - np.exp(-x)), ("stale_rate", "stale blocks", x / (1 + x)))
        ):
            values = [last(results, f"chain {ratio:g}", name).mean() for ratio in ratios]
            panels[0, 2].plot(x, line, color=plotting.COLORS[place], lw=0.7, ls="--")
            panels[0, 2].plot(ratios, values, "o", ms=4, color=plotting.COLORS[place], label=label)
        panels[0, 2].set(xscale="log", yscale="log", xlabel="D / τ (dashed: formulas)", ylabel="share")
        panels[0, 2].legend()
        for place, share in enumerate(numbers(results, "snowball")):
            ones = all_steps(results, f"snowball {share}", "share_of_ones")
            panels[1, 0].plot(ones.T, color=plotting.COLORS[place], lw=0.6)
            panels[1, 0].plot([], [], color=plotting.COLORS[place], label=f"{100 * float(share):.0f} % Byzantine")
        panels[1, 0].set(xlabel="round", ylabel="share of colour 1, a line a seed")
        panels[1, 0].legend(fontsize=6)
        _draw_bars(panels[1], results)
        titles = ("Lookups", "Tips of the Tangle", "Forks of a chain", "Snowball", "Bytes a node", "30 % fail")
        plotting.letters(panels, titles)
    return made


def _draw_lookups(ax: Any, results: xarray.Dataset) -> None:
    from dlsim import plotting

    for place, state in enumerate(("whole", "failed")):
        sizes = np.array(numbers(results, "dht", state), float)
        rounds = [all_steps(results, f"dht {int(num)} {state}", "rounds").mean() for num in sizes]
        label = "all there" if state == "whole" else "30 % away"
        ax.plot(sizes, rounds, "o-", ms=4, color=plotting.COLORS[place], label=label)
    ax.plot(sizes, np.log2(sizes), "k--", lw=0.7, label="log2 N")
    ax.set(xscale="log", xlabel="N", ylabel="rounds of a lookup", ylim=(0, None))
    ax.legend()


def _draw_bars(axes_: Any, results: xarray.Dataset) -> None:
    from dlsim import plotting

    rate = numbers(results, "tangle")[0]
    stack = last(results, "store 100", "records_per_node").mean() * RECORD_BYTES + 1000 * HASH_BYTES
    rounds = all_steps(results, "store 100", "rounds").mean()
    sure = last(results, f"tangle {rate}", "confirmation_seconds").mean()
    full = 1000 * RECORD_BYTES
    rows = {
        "server": (full / 100, 1 - FAILED, 1 / (SERVER - LOAD)),
        "chain": (full, 1.0, BLOCKS["seconds"] * BLOCKS["confirmations"]),
        "Tangle": (full, 1.0, sure),
        "table": (stack, all_steps(results, "store 100", "found").mean(), rounds * HOP),
    }
    names = list(rows)
    axes_[1].bar(names, [rows[name][0] for name in names], color=plotting.COLORS[: len(names)])
    axes_[1].set(yscale="log", ylabel="bytes, 1,000 records")
    axes_[2].bar(names, [rows[name][1] for name in names], color=plotting.COLORS[: len(names)])
    for place, name in enumerate(names):
        axes_[2].text(
            place, rows[name][1] / 2, f"{float(f'{rows[name][2]:.2g}'):g} s", ha="center", color="white", fontsize=6
        )
    axes_[2].set(ylabel="survives (in bars: latency)", ylim=(0, 1.05))
