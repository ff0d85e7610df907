"""What `12_decentralized_storage.py` says of its runs: claims C1 to C6, with thresholds that were set before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray

SOURCE = "formulas of the protocols' papers"
DELAY = 1.0  # seconds: h of the Tangle, D of the chain
FAILED = 0.3  # share of the nodes
NEAR = 0.1  # of a formula, relative (C2, C3)
ROUNDS_NEAR = 2  # rounds of a formula (C4)
SHARE = 0.1  # of the full chain's bytes a node (C6)
FOUND = 0.02  # share of the records found by lookups, beside that of those a holder is there of
RECORD_BYTES, HASH_BYTES, COPIES = 10_000, 32, 3
ALTERING = 0.1  # share of the nodes
SNOWBALL = {0.0: (20, 36), 0.1: (53, 66), 0.2: (184, 279)}  # rounds of an independent program, by Byzantine share
BLOCKS = {"size": 1e6, "transaction": 250.0, "seconds": 600.0, "confirmations": 6}


def numbers(results: xarray.Dataset, kind: str, suffix: str = "") -> list[str]:
    """The numbers of the cases of a kind, as they are written."""
    cases = [str(case).split() for case in results.case.values]
    return [case[1] for case in cases if case[0] == kind and (not suffix or case[2] == suffix)]


def all_steps(results: xarray.Dataset, case: str, name: str) -> np.ndarray:
    """Over steps after the first record, by seed: `[seeds, steps]`."""
    one = results[name].sel(case=case).isel(step=slice(1, None))
    one = one if "seed" in one.dims else one.expand_dims("seed")
    return np.asarray(one.transpose("seed", "step").values, float)


def last(results: xarray.Dataset, case: str, name: str) -> np.ndarray:
    return all_steps(results, case, name)[:, -1]


def _text(values: Any, digits: int = 2) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def decided(results: xarray.Dataset) -> list[Claim]:
    """C1 to C6 of the page, the two formulas of a chain, and what lookups bring back."""
    is_long = results.sizes["step"] > 100
    out = [*_lookup_claims(results), *_tangle_claims(results, is_long), *_chain_claims(results, is_long)]
    sizes = numbers(results, "push")
    rounds = np.array([last(results, f"push {num}", "rounds_to_all").mean() for num in sizes])
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
    return [*out, *_snowball_claims(results, is_long), *_storage_claims(results, is_long)]


def _near(
    text: str, source: str, reported: str, values: np.ndarray, formula: np.ndarray, is_long: bool, **how: Any
) -> Claim:
    """That values are those of a formula, within `NEAR`; `how`: digits, and what is said after the numbers."""
    return Claim(
        text=text,
        source=source,
        reported=reported,
        measured=_text(values, how.get("digits", 3)) + how.get("more", ""),
        holds=bool((np.abs(values / formula - 1) < NEAR).all()) if is_long else None,
    )


def _storage_claims(results: xarray.Dataset, is_long: bool) -> list[Claim]:
    kept, held = (last(results, "store 100", name) for name in ("kept", "records_per_node"))
    found, audited = (all_steps(results, "store 100", name).mean(axis=1) for name in ("found", "audited"))
    stack = held * RECORD_BYTES + 1000 * HASH_BYTES
    sound = 1 - (1 - (1 - FAILED) * (1 - ALTERING)) ** COPIES
    return [
        Claim(
            text=f"C6: hashes on a chain, records in the table: at most {SHARE:g} of a full chain's bytes a node",
            source="s T r / N + 32 T against s T",
            reported="0.033 of it by the formula",
            measured=f"{float(np.mean(stack)) / (1000 * RECORD_BYTES):.4f} of it",
            holds=bool((stack < SHARE * 1000 * RECORD_BYTES).all()),
        ),
        Claim(
            text=f"Three copies: of 1,000 records at least 0.95 are there when {FAILED:g} of the nodes have failed",
            source="1 - p^r",
            reported=f"{1 - FAILED**COPIES:.3f} by the formula",
            measured=f"{kept.mean():.3f}",
            holds=bool(kept.mean() >= 0.95),
        ),
        Claim(
            text=f"Retrieval: lookups find the records that are there, within {FOUND:g} in every seed",
            source=SOURCE,
            reported="all of them",
            measured=f"{found.mean():.3f} found, {kept.mean():.3f} there; off by {np.abs(found - kept).max():.3f} at most",
            holds=bool((np.abs(found - kept) <= FOUND).all()) if is_long else None,
        ),
        _near(
            f"Audit: where {ALTERING:g} of the nodes alter what they hold, a copy with the hash is found as often as "
            f"independent nodes would have one, within {NEAR:g}",
            "1 - (1 - (1 - p) (1 - b))^r",
            f"{sound:.3f} by the formula",
            audited.mean(keepdims=True),
            np.array([sound]),
            is_long,
        ),
    ]


def _lookup_claims(results: xarray.Dataset) -> list[Claim]:
    out = []
    for state, reported in (
        ("whole", "3.1, 3.7, 4.0 rounds, 8.3, 9.9, 10.7 messages, success 1"),
        ("failed", "3.3, 4.0, 4.5 rounds, 8.7, 10.6, 12.1 messages, success 1"),
    ):
        sizes = numbers(results, "dht", state)
        rounds, messages, success = (
            np.array([all_steps(results, f"dht {num} {state}", name).mean() for num in sizes])
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
    rates = numbers(results, "tangle")
    late = slice(results.sizes["step"] // 4, None)
    tips = np.array([all_steps(results, f"tangle {rate}", "num_tips")[:, late].mean() for rate in rates])
    theory = 2 * np.array(rates, float) * DELAY
    through = np.array([last(results, f"tangle {rate}", "throughput").mean() for rate in rates])
    limit = BLOCKS["size"] / BLOCKS["transaction"] / BLOCKS["seconds"]
    return [
        _near(
            f"C2: the mean number of tips is within {NEAR:g} of 2 lambda h (lambda = {', '.join(rates)})",
            f"{SOURCE}: {_text(theory, 0)}",
            "9.8, 39.4, 100.1 in an independent program",
            tips,
            theory,
            is_long,
            digits=1,
        ),
        _near(
            f"C2: the Tangle takes every rate (within {NEAR:g}), a chain of 1 MB in 600 s no more than its limit",
            SOURCE,
            "no number",
            through,
            np.array(rates, float),
            is_long,
            digits=1,
            more=f" transactions/s; the chain {limit:.1f}",
        ),
    ]


def _chain_claims(results: xarray.Dataset, is_long: bool) -> list[Claim]:
    ratios = numbers(results, "chain")
    x = np.array(ratios, float)
    stale, fork, through = (
        np.array([last(results, f"chain {ratio}", name).mean() for ratio in ratios])
        for name in ("stale_rate", "fork_rate", "transactions_per_second")
    )
    formula = 1 - np.exp(-x)
    return [
        _near(
            f"C3: the share of stale blocks is within {NEAR:g} of 1 - exp(-D / tau) (D / tau = {', '.join(ratios)})",
            f"page: {_text(formula, 3)}",
            ".010, .095, .259",
            stale,
            formula,
            is_long,
        ),
        _near(
            f"It is the share of heights with competing blocks that is 1 - exp(-D / tau), within {NEAR:g}",
            "Decker, Wattenhofer, 2013",
            _text(formula, 3),
            fork,
            formula,
            is_long,
        ),
        _near(
            f"and the share of stale blocks is D / (D + tau), within {NEAR:g}",
            "growth of a height in D + tau",
            _text(x / (1 + x), 3),
            stale,
            x / (1 + x),
            is_long,
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
    rounds = {share: last(results, f"snowball {share}", "rounds_to_all") for share in shares}
    agreed = [last(results, f"snowball {share}", "agreement") for share in shares]
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
