"""Decentralised data storage (12): what do a chain, a Tangle, a hash table and gossip pay for having no centre?

Karaarslan, Konacakli, Data storage in the decentralized world: blockchain and derivatives, 2020, a survey without
experiments; the protocols it compares are played here, and held against the formulas of their own papers.
Command: `dlsim run experiments/papers/12_decentralized_storage.py`

Kademlia with buckets of 8 and 3 questions at a time, whole and with 30 % of the contacts away; a Tangle with h = 1 s; a
chain of 200 equal miners and one delay of 1 s; push broadcast with f = 1; Snowball with K = 10, a majority of 7, beta = 15;
and 1,000 records of 10 kB on 100 nodes, three copies each, of which 30 % of the nodes fail, beside their 32-byte hashes on a
chain.  A step is 4 lookups, 20 transactions, 20 blocks, or a round.  The server beside them is an M / M / 1 queue.

Measured: see experiments/papers/README.md.  What the page calls the stale rate, 1 - exp(-D / tau), is the share of heights at
which blocks compete; of all blocks a share D / (D + tau) is stale, since a height is won once.  Both are measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

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
SOURCE = "formulas of the protocols' papers"
DELAY = 1.0  # seconds: h of the Tangle, D of the chain
FAILED = 0.3  # share of the nodes
NEAR = 0.1  # of a formula, relative (C2, C3)
ROUNDS_NEAR = 2  # rounds of a formula (C4)
SHARE = 0.1  # of the full chain's bytes a node (C6)
RECORD_BYTES, HASH_BYTES, COPIES = 10_000, 32, 3
SNOWBALL = {0.0: (20, 36), 0.1: (53, 66), 0.2: (184, 279)}  # rounds of an independent program, by Byzantine share
BLOCKS = {"size": 1e6, "transaction": 250.0, "seconds": 600.0, "confirmations": 6}
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
    if kind == "dht":
        scenario = networks.crash(0, FAILED) if rest[1] == "failed" else None
        process = trust.dht(networks.complete(int(number)), num_lookups=4, scenario=scenario)
    elif kind == "tangle":
        process = trust.tangle(rate=number, delay=DELAY, window=512, arrivals_per_step=20)
    elif kind == "chain":
        process = trust.proof_of_work(
            200, block_seconds=DELAY / number, delay=DELAY, confirmations=BLOCKS["confirmations"], blocks_per_step=20
        )
    elif kind == "push":
        process = trust.broadcast(networks.complete(int(number)))
    elif kind == "snowball":
        process = trust.snowball(networks.complete(500), byzantine=number)
    else:
        process = trust.dht(
            networks.complete(int(number)),
            num_lookups=4,
            num_records=1000,
            copies=COPIES,
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
        "store": ("rounds", "kept", "records_per_node", "success"),
    }[kind]


def _numbers(results: xarray.Dataset, kind: str, suffix: str = "") -> list[str]:
    """The numbers of the cases of a kind, as they are written."""
    cases = [str(case).split() for case in results.case.values]
    return [case[1] for case in cases if case[0] == kind and (not suffix or case[2] == suffix)]


def _all(results: xarray.Dataset, case: str, name: str) -> np.ndarray:
    """Over steps after the first record, by seed: `[seeds, steps]`."""
    one = results[name].sel(case=case).isel(step=slice(1, None))
    one = one if "seed" in one.dims else one.expand_dims("seed")
    return np.asarray(one.transpose("seed", "step").values, float)


def _last(results: xarray.Dataset, case: str, name: str) -> np.ndarray:
    return _all(results, case, name)[:, -1]


def _text(values: Any, digits: int = 2) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def claims(results: xarray.Dataset) -> list[Claim]:
    """C1 to C6 of the page, and the two formulas of a chain; thresholds are the constants above."""
    is_long = results.sizes["step"] > 100
    out = [*_lookup_claims(results), *_tangle_claims(results, is_long), *_chain_claims(results, is_long)]
    sizes = _numbers(results, "push")
    rounds = np.array([_last(results, f"push {num}", "rounds_to_all").mean() for num in sizes])
    theory = np.array([np.log2(float(num)) + np.log(float(num)) for num in sizes])
    out.append(
        Claim(
            text=f"C4: push informs all within {ROUNDS_NEAR} rounds of log2 N + ln N (N = {', '.join(sizes)})",
            source=f"{SOURCE}: {_text(theory, 1)}",
            reported="11.5, 17.9, 25.2 in an independent program",
            measured=_text(rounds, 1),
            holds=bool((np.abs(rounds - theory) < ROUNDS_NEAR).all()) if is_long else None,
        )
    )
    out.extend(_snowball_claims(results, is_long))
    kept = _last(results, "store 100", "kept")
    held = _last(results, "store 100", "records_per_node")
    stack = held * RECORD_BYTES + 1000 * HASH_BYTES
    out.append(
        Claim(
            text=f"C6: hashes on a chain, records in the table: at most {SHARE:g} of a full chain's bytes a node",
            source="s T r / N + 32 T against s T",
            reported="0.033 of it by the formula",
            measured=f"{float(np.mean(stack)) / (1000 * RECORD_BYTES):.4f} of it",
            holds=bool((stack < SHARE * 1000 * RECORD_BYTES).all()),
        )
    )
    out.append(
        Claim(
            text=f"Three copies: of 1,000 records at least 0.95 are there when {FAILED:g} of the nodes have failed",
            source="1 - p^r",
            reported=f"{1 - FAILED**COPIES:.3f} by the formula",
            measured=f"{kept.mean():.3f}",
            holds=bool(kept.mean() >= 0.95),
        )
    )
    return out


def _lookup_claims(results: xarray.Dataset) -> list[Claim]:
    out = []
    for state, reported in (
        ("whole", "3.1, 3.7, 4.0 rounds, 8.3, 9.9, 10.7 messages, success 1"),
        ("failed", "3.3, 4.0, 4.5 rounds, 8.7, 10.6, 12.1 messages, success 1"),
    ):
        sizes = _numbers(results, "dht", state)
        rounds, messages, success = (
            np.array([_all(results, f"dht {num} {state}", name).mean() for num in sizes])
            for name in ("rounds", "messages", "success")
        )
        fast = bool((rounds <= np.log2(np.array(sizes, float))).all()) and bool((success == 1).all())
        quadrupled = np.diff(rounds) / (np.diff(np.log2(np.array(sizes, float))) / 2)
        out.append(
            Claim(
                text=f"C1, {state}: lookups find the closest node in at most log2 N rounds; under 1 more where N is 4 times "
                f"as large (N = {', '.join(sizes)})",
                source=SOURCE,
                reported=f"{reported} in an independent program",
                measured=f"{_text(rounds)} rounds, {_text(messages, 1)} messages, success {_text(success, 4)}",
                holds=fast and bool((quadrupled < 1).all()),
            )
        )
    return out


def _tangle_claims(results: xarray.Dataset, is_long: bool) -> list[Claim]:
    rates = _numbers(results, "tangle")
    late = slice(results.sizes["step"] // 4, None)
    tips = np.array([_all(results, f"tangle {rate}", "num_tips")[:, late].mean() for rate in rates])
    theory = 2 * np.array(rates, float) * DELAY
    through = np.array([_last(results, f"tangle {rate}", "throughput").mean() for rate in rates])
    limit = BLOCKS["size"] / BLOCKS["transaction"] / BLOCKS["seconds"]
    return [
        Claim(
            text=f"C2: the mean number of tips is within {NEAR:g} of 2 lambda h (lambda = {', '.join(rates)})",
            source=f"{SOURCE}: {_text(theory, 0)}",
            reported="9.8, 39.4, 100.1 in an independent program",
            measured=_text(tips, 1),
            holds=bool((np.abs(tips / theory - 1) < NEAR).all()) if is_long else None,
        ),
        Claim(
            text=f"C2: the Tangle takes every rate (within {NEAR:g}), a chain of 1 MB in 600 s no more than its limit",
            source=SOURCE,
            reported="no number",
            measured=f"{_text(through, 1)} transactions/s; the chain {limit:.1f}",
            holds=bool((np.abs(through / np.array(rates, float) - 1) < NEAR).all()) if is_long else None,
        ),
    ]


def _chain_claims(results: xarray.Dataset, is_long: bool) -> list[Claim]:
    ratios = _numbers(results, "chain")
    x = np.array(ratios, float)
    stale, fork, through = (
        np.array([_last(results, f"chain {ratio}", name).mean() for ratio in ratios])
        for name in ("stale_rate", "fork_rate", "transactions_per_second")
    )
    formula = 1 - np.exp(-x)
    return [
        Claim(
            text=f"C3: the share of stale blocks is within {NEAR:g} of 1 - exp(-D / tau) (D / tau = {', '.join(ratios)})",
            source=f"page: {_text(formula, 3)}",
            reported=".010, .095, .259",
            measured=_text(stale, 3),
            holds=bool((np.abs(stale / formula - 1) < NEAR).all()) if is_long else None,
        ),
        Claim(
            text=f"It is the share of heights with competing blocks that is 1 - exp(-D / tau), within {NEAR:g}",
            source="Decker, Wattenhofer, 2013",
            reported=_text(formula, 3),
            measured=_text(fork, 3),
            holds=bool((np.abs(fork / formula - 1) < NEAR).all()) if is_long else None,
        ),
        Claim(
            text=f"and the share of stale blocks is D / (D + tau), within {NEAR:g}",
            source="growth of a height in D + tau",
            reported=_text(x / (1 + x), 3),
            measured=_text(stale, 3),
            holds=bool((np.abs(stale * (1 + x) / x - 1) < NEAR).all()) if is_long else None,
        ),
        Claim(
            text="C3: shorter block times buy throughput with forks: both rise",
            source=SOURCE,
            reported="no number",
            measured=f"{_text(through, 0)} transactions/s, stale {_text(stale, 3)}",
            holds=bool((np.diff(through) > 0).all() and (np.diff(stale) > 0).all()) if len(ratios) > 1 else None,
        ),
    ]


def _snowball_claims(results: xarray.Dataset, is_long: bool) -> list[Claim]:
    shares = [share for share in SNOWBALL if f"snowball {share}" in results.case.values]
    rounds = {share: _last(results, f"snowball {share}", "rounds_to_all") for share in shares}
    agreed = [_last(results, f"snowball {share}", "agreement") for share in shares]
    done = all((value > 0).all() for value in rounds.values())
    wait = BLOCKS["seconds"] * BLOCKS["confirmations"]
    shown = "; ".join(f"{value.min():.0f} to {value.max():.0f}" for value in rounds.values())
    ranges = "; ".join(f"{low} to {high}" for low, high in (SNOWBALL[share] for share in shares))
    means = [value.mean() for value in rounds.values()]
    return [
        Claim(
            text="C5: Snowball from a half: all honest nodes decide alike in every run (Byzantine "
            f"{', '.join(map(str, shares))})",
            source="Team Rocket, 2019",
            reported="agreement in every run",
            measured=f"agreement {_text([value.mean() for value in agreed])}; a chain's six blocks take {wait:.0f} s",
            holds=bool(done and all((value == 1).all() for value in agreed)) if is_long else None,
        ),
        Claim(
            text="C5: the mean number of rounds is within the range of an independent program, and grows with their share",
            source="Team Rocket, 2019",
            reported=ranges,
            measured=shown,
            holds=bool(
                done
                and all(SNOWBALL[s][0] <= m <= SNOWBALL[s][1] for s, m in zip(shares, means, strict=True))
                and (np.diff(means) > 0).all()
            )
            if is_long
            else None,
        ),
    ]


def figure(results: xarray.Dataset) -> Figure:
    """Lookups against N; tips over time; forks against D / tau; Snowball's colours; bytes, survival and latency compared."""
    from dlsim import plotting

    with plotting.style():
        made, panels = plotting.panels(2, 3, height=4.6)
        _draw_lookups(panels[0, 0], results)
        for place, rate in enumerate(_numbers(results, "tangle")):
            tips = _all(results, f"tangle {rate}", "num_tips")
            seconds = 20 / float(rate) * np.arange(1, tips.shape[1] + 1)
            panels[0, 1].plot(seconds, tips.mean(0), color=plotting.COLORS[place], label=f"λ = {rate}/s")
            panels[0, 1].axhline(2 * float(rate) * DELAY, color=plotting.COLORS[place], ls="--", lw=0.7)
        panels[0, 1].set(xscale="log", xlabel="seconds (dashed: 2 λ h)", ylabel="tips", ylim=(0, None))
        panels[0, 1].legend()
        ratios = np.array(_numbers(results, "chain"), float)
        x = np.geomspace(0.005, 0.5, 60)
        for place, (name, label, line) in enumerate(
            (("fork_rate", "heights with forks", 1 - np.exp(-x)), ("stale_rate", "stale blocks", x / (1 + x)))
        ):
            values = [_last(results, f"chain {ratio:g}", name).mean() for ratio in ratios]
            panels[0, 2].plot(x, line, color=plotting.COLORS[place], lw=0.7, ls="--")
            panels[0, 2].plot(ratios, values, "o", ms=4, color=plotting.COLORS[place], label=label)
        panels[0, 2].set(xscale="log", yscale="log", xlabel="D / τ (dashed: formulas)", ylabel="share")
        panels[0, 2].legend()
        for place, share in enumerate(_numbers(results, "snowball")):
            ones = _all(results, f"snowball {share}", "share_of_ones")
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
        sizes = np.array(_numbers(results, "dht", state), float)
        rounds = [_all(results, f"dht {int(num)} {state}", "rounds").mean() for num in sizes]
        label = "all there" if state == "whole" else "30 % away"
        ax.plot(sizes, rounds, "o-", ms=4, color=plotting.COLORS[place], label=label)
    ax.plot(sizes, np.log2(sizes), "k--", lw=0.7, label="log2 N")
    ax.set(xscale="log", xlabel="N", ylabel="rounds of a lookup", ylim=(0, None))
    ax.legend()


def _draw_bars(axes_: Any, results: xarray.Dataset) -> None:
    from dlsim import plotting

    rate = _numbers(results, "tangle")[0]
    stack = _last(results, "store 100", "records_per_node").mean() * RECORD_BYTES + 1000 * HASH_BYTES
    rounds = _all(results, "store 100", "rounds").mean()
    sure = _last(results, f"tangle {rate}", "confirmation_seconds").mean()
    full = 1000 * RECORD_BYTES
    rows = {
        "server": (full / 100, 1 - FAILED, 1 / (SERVER - LOAD)),
        "chain": (full, 1.0, BLOCKS["seconds"] * BLOCKS["confirmations"]),
        "Tangle": (full, 1.0, sure),
        "table": (stack, _last(results, "store 100", "kept").mean(), rounds * HOP),
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
