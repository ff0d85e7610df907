"""What `16_proof_of_contribution.py` says of its runs: claims C1 to C4, with thresholds that were set before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from contract_games import BUDGET, DEPOSIT, GAIN, NUM, PAIRS, PROBABILITIES, TICKS

from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray

SOURCE = "Buyukates et al., 2023"
NOISE = (0.0, 0.0, 0.2, 0.2, 0.4, 0.4, 0.8, 0.8)  # share of a trainer's labels that are wrong
RANK = 0.9  # correlation of payments with quality, log-likelihood
POISONED = 0.5  # accuracy at most without removal
CLEANED = 0.85  # accuracy at least with it
ENOUGH = 4  # seeds
ATTACKED = (0, 4)  # who sends random models, or returns what it was given


def last(results: xarray.Dataset, name: str, case: str) -> np.ndarray:
    """At the end, `[seeds, ...]`."""
    one = results[name].sel(case=case).isel(step=-1)
    is_row = name in ("paid", "net", "short", "unpaid")
    return one.values.reshape(results.sizes["seed"], -1) if is_row else np.atleast_1d(one.values)


def _correlations(results: xarray.Dataset, case: str) -> np.ndarray:
    """Spearman's between payment and the share of right labels, by seed; 0 where all are paid alike."""
    from scipy.stats import rankdata

    quality = rankdata(1 - np.array(NOISE))
    ranks = [rankdata(row[:NUM]) for row in last(results, "paid", case)]
    return np.array([np.corrcoef(r, quality)[0, 1] if r.std() > 0 else 0.0 for r in ranks])


def _text(values: np.ndarray, digits: int = 2) -> str:
    spread = f" ± {values.std(ddof=1):.{digits}f}" if values.size > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def decided(results: xarray.Dataset) -> list[Claim]:
    """Payments against quality, removal, budgets and strategies; thresholds are the constants above."""
    have = set(results.case.values.tolist())
    decides = results.sizes["seed"] >= ENOUGH
    out = []
    likelihood, accuracy, left_out = (
        f"pay {name}" for name in ("exact_shapley log_likelihood", "exact_shapley accuracy", "leave_one_out accuracy")
    )
    if likelihood in have:
        found = _correlations(results, likelihood)
        shares = last(results, "paid", likelihood)[:, :NUM].mean(axis=0) / BUDGET
        out.append(
            Claim(
                text=f"C1: Shapley payments by log-likelihood: rank correlation >= {RANK:g} with the share of right labels",
                source=f"{SOURCE}: contribution-based rewards",
                reported="0.98 in every seed; shares .29 .31 .16 .17 .03 .05 0 0 (independent program)",
                measured=f"{_text(found)}, {found.min():.2f} at least; {' '.join(f'{s:.2f}' for s in shares)}",
                holds=bool(found.min() >= RANK) if decides else None,
            )
        )
    if {accuracy, left_out} <= have:
        ours, theirs = _correlations(results, accuracy), _correlations(results, left_out)
        out.append(
            Claim(
                text="C1: by accuracy, Shapley payments have at least the rank correlation of leave-one-out",
                source=f"{SOURCE}: contribution-based rewards",
                reported="0.5 to 0.8 against 0.3 to 0.5 (independent program)",
                measured=f"{_text(ours)} against {_text(theirs)}",
                holds=bool(ours.mean() >= theirs.mean()) if decides else None,
            )
        )
    if {"random none", "random 1"} <= have:
        out.append(_removal(results, decides))
    if {"random krum", "random median"} <= have:
        out.append(_other_rules(results, decides))
    if {"honest 1", "honest krum"} <= have:
        out.append(_false_removals(results, decides))
    if likelihood in have:
        pays = [case for case in have if case.startswith("pay ")]
        whole = max(float(np.abs(np.nansum(last(results, "paid", case), axis=1) - BUDGET).max()) for case in pays)
        off = np.abs(last(results, "sum_phi", likelihood) - last(results, "gain", likelihood)).max()
        gain = last(results, "gain", likelihood).mean()
        changed = max(float(np.nanmax(np.abs(results.total_change.sel(case=case)))) for case in pays)
        out.append(
            Claim(
                text="C3: payments sum to the budget, to the unit, and Shapley values to the gain of utility, to 1e-4",
                source=f"{SOURCE}: contribution-based rewards",
                reported="exactly",
                measured=f"off by {whole:.0f} units, the books by {changed:.0f}; by {off:.1e} of {gain:.2f}",
                holds=bool(whole == 0 and changed == 0 and off < 1e-4),
            )
        )
    if "contracts" in have:
        short = max(float(last(results, "short", "contracts").max()), 0.0)
        began = [i for i, pair in enumerate(PAIRS) if not {"never_funds", "never_joins"} & set(pair)]
        unpaid = float(np.abs(last(results, "unpaid", "contracts")[:, began]).max())
        out.append(
            Claim(
                text="C4: in every pair of strategies honest trainers end with their deposit and their pay",
                source=f"{SOURCE}: the owner cannot evade payment",
                reported="always",
                measured=f"{len(PAIRS)} pairs: short by {short:.0f} units; of begun ones {unpaid:.0f} units unpaid",
                holds=bool(short == 0 and unpaid == 0) if results.sizes["step"] > TICKS else None,
            )
        )
    if "audits" in have:
        nets = dict(zip(PROBABILITIES, last(results, "net", "audits").mean(axis=0), strict=True))
        agree = all((net > 0) == ((1 - p) * GAIN > p * DEPOSIT) for p, net in nets.items())
        out.append(
            Claim(
                text="C4: a lie of the aggregator pays exactly where p x deposit < (1 - p) x gain",
                source=f"{SOURCE}: the aggregator need not be trusted",
                reported=f"threshold p = {GAIN / (GAIN + DEPOSIT):g}",
                measured=", ".join(f"p = {p:g}: {net:+,.0f}" for p, net in nets.items()),
                holds=bool(agree) if decides else None,
            )
        )
    out += _limits(results, have, decides)
    return out


def _removal(results: xarray.Dataset, decides: bool) -> Claim:
    without, cleaned = (last(results, "accuracy", f"random {which}") for which in ("none", "1"))
    one = results.sel(case="random 1").isel(step=slice(1, None))
    hits, wrong = float(one.hits.min()), float(one.false_removals.mean())
    paid = last(results, "paid", "random 1")[:, list(ATTACKED)].max()
    raw = ""
    if {"raw none", "raw 1"} <= set(results.case.values.tolist()):
        raw = " and ".join(_text(last(results, "accuracy", f"raw {which}")) for which in ("none", "1"))
        raw = f"; of pixels in [0, 1] {raw}"
    held = without.mean() <= POISONED and cleaned.min() >= CLEANED and hits == 1 and wrong == 0 and paid == 0
    return Claim(
        text=f"C2: two random models of eight: accuracy <= {POISONED:g} without removal, >= {CLEANED:g} with it (b = 1), "
        "removed in every round, nobody else ever, unpaid",
        source=f"{SOURCE}: robustness to poisoning",
        reported=".33 and .89 to .92 (independent program)",
        measured=f"{_text(without)} and {_text(cleaned)}; at least {100 * hits:.0f} % of them removed in a round, "
        f"{100 * wrong:.1f} % of the others; paid {paid:.0f}{raw}",
        holds=bool(held) if decides else None,
    )


def _other_rules(results: xarray.Dataset, decides: bool) -> Claim:
    cases = [f"random {rule}" for rule in ("1", "krum", "median")]
    right = [last(results, "accuracy", case) for case in cases]
    paid = [last(results, "paid", case)[:, list(ATTACKED)].sum(axis=1) / BUDGET for case in cases]
    return Claim(
        text=f"Baselines: Multi-Krum and the median end at {CLEANED:g} too; the first pays who sends random models nothing",
        source="rules of page 22 in place of removal",
        reported="no number",
        measured=f"three-sigma, Multi-Krum, median: accuracy {', '.join(_text(one) for one in right)}; random models get "
        f"{', '.join(_text(one, 3) for one in paid)} of the budget",
        holds=bool(min(right[1].min(), right[2].min()) >= CLEANED and paid[1].max() == 0) if decides else None,
    )


def _false_removals(results: xarray.Dataset, decides: bool) -> Claim:
    share = len(ATTACKED) / NUM
    ours, krum = (results.sel(case=f"honest {rule}").isel(step=slice(1, None)).mean("step") for rule in ("1", "krum"))
    ours, krum = (np.atleast_1d((share * one.hits + (1 - share) * one.false_removals).values) for one in (ours, krum))
    return Claim(
        text="Where nobody lies three-sigma removes fewer trainers than Multi-Krum, which always removes a quarter",
        source="rules of page 22 in place of removal",
        reported="0.25 by Multi-Krum's rule",
        measured=f"{_text(ours)} and {_text(krum)} of the trainers a round",
        holds=bool(ours.mean() < krum.mean()) if decides else None,
    )


def _limits(results: xarray.Dataset, have: set[str], decides: bool) -> list[Claim]:
    out = []
    if {"lazy none", "lazy 1"} <= have:
        riders = list(ATTACKED)
        loose, tight = (last(results, "paid", f"lazy {which}")[:, riders] / BUDGET for which in ("none", "1"))
        out.append(
            Claim(
                text="Limit: who returns what it was given is paid without the check for it, and nothing with it",
                source=f"{SOURCE}, removal of lazy trainers",
                reported="0.06 of the budget each, by accuracy (independent program)",
                measured=f"{_text(loose.mean(axis=1), 3)} each, against {_text(tight.mean(axis=1), 3)}",
                holds=bool(loose.mean() > 0 and tight.max() == 0) if decides else None,
            )
        )
    if {"split one", "split three"} <= have:
        one = last(results, "paid", "split one")[:, 0]
        three = last(results, "paid", "split three")[:, :3].sum(axis=1)
        out.append(
            Claim(
                text="Limit: what a trainer gets who comes as three, of a third of its data each, over what it gets as one",
                source=f"{SOURCE}: nothing is said of Sybils",
                reported="may be more than one; no number",
                measured=_text(three / one),
                holds=None,
            )
        )
    return out
