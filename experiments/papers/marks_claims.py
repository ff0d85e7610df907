"""What `21_ip_protection.py` says of its runs: claims C1 to C6, with thresholds that were set before the run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dlsim import trust
from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray

SOURCE = "FedIPR's method in the survey"
PRUNED = (0.0, 0.2, 0.5, 0.8)
KNOWN = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # share of a lock's bits that are right
ALIKE, USELESS, WORTH = 0.01, 0.5, 0.02  # locks: accuracy lost with the key; at most without; won by fine-tuning
COSTS = 0.03  # C1: accuracy
WHOLE, LESS = 0.99, 0.95  # C2: detection within capacity, and beyond it
WITHIN, BEYOND = 0.6, 1.25  # C2: bits in all by numbers of the carrier
LEVEL = 1e-3  # C3, C4: of a p-value
KEPT, GONE = 0.05, 0.1  # C4: accuracy lost at 50 %, at most, and at 80 %, at least
MARGIN, STOLEN = 0.2, 0.01  # C6
ENOUGH = 60  # rounds
NUM_CLIENTS = 10
EXPECTED = {"bits 4 0.1": 1.0, "bits 8 0.1": 1.0, "bits 16 0.1": 1.0, "bits 32 0.1": 0.87, "bits 32 0.3": 0.98}
EXPECTED |= {"narrow 2": 1.0, "narrow 6": 0.75, "narrow 40": 0.59}


def at_end(results: xarray.Dataset, case: str, name: str) -> np.ndarray:
    """By seed, at the end, `[seeds, ...]`."""
    one = results[name].sel(case=case).isel(step=-1)
    return one.values.astype(float) if "seed" in one.dims else one.values.astype(float)[None]


def load(case: str) -> float:
    """Bits of all clients by the numbers that carry them."""
    kind, bits, *_ = case.split()
    return NUM_CLIENTS * int(bits) / (64 if kind == "narrow" else 256)


def _text(values: np.ndarray, digits: int = 3) -> str:
    return f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if values.size > 1 else "")


def _each(results: xarray.Dataset, cases: list[str], name: str) -> str:
    return ", ".join(f"{at_end(results, case, name).mean():.3f}" for case in cases)


def _p_values(rates: np.ndarray, num: int) -> list[float]:
    return [trust.log10_p_value(round(float(rate) * num), num) for rate in rates]


def decided(results: xarray.Dataset) -> list[Claim]:
    """Every claim whose cases were run."""
    have = results.case.values.tolist()
    decides = int(results.step.values[-1]) >= ENOUGH and results.sizes.get("seed", 1) >= 3
    marked = [case for case in have if case.split()[0] in ("bits", "narrow")]
    wide = [case for case in marked if case.startswith("bits")]
    out = []
    if "plain" in have and wide:
        base = at_end(results, "plain", "accuracy").mean()
        out.append(
            Claim(
                text=f"C1: accuracy with marks is at most {COSTS:g} below that without",
                source=SOURCE,
                reported=".986; .968 .984 .980 .972 with 4, 8, 16, 32 bits (independent program, one seed)",
                measured=f"{base:.3f}; {_each(results, wide, 'accuracy')} for {', '.join(wide)}",
                holds=all(at_end(results, c, "accuracy").mean() >= base - COSTS for c in wide) if decides else None,
            )
        )
    for text, cases, rule in (
        (
            f"at least {WHOLE:g} of the bits are detected up to {WITHIN:g} bits a number",
            [c for c in marked if load(c) <= WITHIN],
            lambda rate: rate >= WHOLE,
        ),
        (
            f"fewer than {LESS:g} are from {BEYOND:g} on, at strength 0.1",
            [c for c in marked if load(c) >= BEYOND and not c.endswith("0.3")],
            lambda rate: rate < LESS,
        ),
    ):
        if len(cases) >= 2:
            out.append(
                Claim(
                    text=f"C2: {text}",
                    source=SOURCE,
                    reported=", ".join(f"{EXPECTED[c]:.2f}" for c in cases) + " (independent program)",
                    measured=f"{_each(results, cases, 'bit_detection')} for {', '.join(cases)}",
                    holds=all(rule(at_end(results, c, "bit_detection").mean()) for c in cases) if decides else None,
                )
            )
    if "plain" in have and "bits 8 0.1" in have:
        out += _uniqueness(results, wide, decides)
        out += _robustness(results, decides)
    if "riders" in have:
        trainers, idle = at_end(results, "riders", "trainers"), at_end(results, "riders", "idle")
        out.append(
            Claim(
                text="C5: every client that trains has more of its bits in the model than any that does not, in all seeds",
                source=SOURCE,
                reported="1 against chance",
                measured=f"at least {trainers.min():.3f} against at most {idle.max():.3f}",
                holds=bool((trainers > idle).all()) if decides else None,
            )
        )
    if {"stamped 0", "stamped 0.1"} <= set(have):
        out.append(_data_set(results, decides))
    if {"plain", "locked"} <= set(have):
        out += _locks(results, decides)
    return out


def _uniqueness(results: xarray.Dataset, wide: list[str], decides: bool) -> list[Claim]:
    off = {}
    for case in wide:
        num = NUM_CLIENTS * int(case.split()[1])
        off[case] = np.abs(at_end(results, case, "foreign") - 0.5).max() / (0.5 / math.sqrt(num))
    chance = _p_values(at_end(results, "plain", "bit_detection"), 80)
    return [
        Claim(
            text="C3: keys of others are detected within three standard errors of one half; without a watermark p > 0.001",
            source=SOURCE,
            reported="0.5 ± 3 / (2 sqrt n)",
            measured=f"at most {max(off.values()):.1f} standard errors; p from {10 ** min(chance):.2g}",
            holds=bool(max(off.values()) <= 3 and min(chance) > math.log10(LEVEL)) if decides else None,
        )
    ]


def _robustness(results: xarray.Dataset, decides: bool) -> list[Claim]:
    case = "bits 8 0.1"
    bits = at_end(results, case, "pruned_bits")
    right = at_end(results, case, "pruned_accuracy")
    tails = _p_values(bits[:, PRUNED.index(0.5)], 80)
    loses = right[:, :1].mean() - right.mean(axis=0)
    holds = max(tails) < math.log10(LEVEL) and loses[2] <= KEPT and loses[3] >= GONE
    others = {name: at_end(results, case, name) for name in ("quantised", "finetuned", "overwritten")}
    copied, copy = at_end(results, case, "copied"), at_end(results, case, "copied_accuracy")
    least = min(_p_values(copied, 80))
    worst = {name: max(_p_values(rates, 80)) for name, rates in others.items()}
    return [
        Claim(
            text=f"C4: pruned by half, 80 bits still prove ownership (p < {LEVEL:g}), at {KEPT:g} of accuracy; by 0.8 it "
            f"costs at least {GONE:g}",
            source=SOURCE,
            reported="bits .89, accuracy .96 at half, .54 at .8 (independent program)",
            measured=f"bits {_text(bits[:, 2], 2)}, accuracy {right[:, 2].mean():.3f} at half, "
            f"{right[:, 3].mean():.3f} at .8; p at most 10^{max(tails):.1f}",
            holds=bool(holds) if decides else None,
        ),
        Claim(
            text=f"C4: quantised to 4 bits, fine-tuned or overwritten for 200 steps, they still do (p < {LEVEL:g})",
            source=SOURCE,
            reported="no number",
            measured="; ".join(f"{name} {_text(r, 2)}, p at most 10^{worst[name]:.1f}" for name, r in others.items()),
            holds=bool(max(worst.values()) < math.log10(LEVEL)) if decides else None,
        ),
        Claim(
            text=f"Extraction: a copy trained on the model's answers proves nothing (p > {LEVEL:g} in every seed)",
            source=SOURCE,
            reported="no number",
            measured=f"bits {_text(copied, 2)}, p at least 10^{least:.1f}; the copy's accuracy {_text(copy)}",
            holds=bool(least > math.log10(LEVEL)) if decides else None,
        ),
    ]


def _locks(results: xarray.Dataset, decides: bool) -> list[Claim]:
    plain, owner = at_end(results, "plain", "accuracy"), at_end(results, "locked", "accuracy")
    thief, tuned, anew = (at_end(results, "locked", name) for name in ("no_key", "finetuned_accuracy", "anew"))
    by_key = at_end(results, "locked", "by_key").reshape(-1, len(KNOWN)).mean(axis=0)
    return [
        Claim(
            text=f"Authorisation: with the key a locked model is the plain one within {ALIKE:g}, without at most {USELESS:g} "
            "is right, in every seed",
            source="locking in the survey, by a secret bit a unit",
            reported="no number",
            measured=f"{_text(owner)} with it, {_text(plain)} unlocked, {_text(thief)} without; with "
            + ", ".join(f"{100 * share:.0f} % of it {rate:.2f}" for share, rate in zip(KNOWN, by_key, strict=True)),
            holds=bool((np.abs(owner - plain) <= ALIKE).all() and (thief <= USELESS).all()) if decides else None,
        ),
        Claim(
            text=f"Fine-tuned without the key, for 200 steps, it is at most {WORTH:g} above a model trained anew alike",
            source="locking in the survey, by a secret bit a unit",
            reported="no number",
            measured=f"{_text(tuned)} against {_text(anew)}",
            holds=bool(tuned.mean() <= anew.mean() + WORTH) if decides else None,
        ),
    ]


def _data_set(results: xarray.Dataset, decides: bool) -> Claim:
    from scipy.stats import t

    tails = {}
    for case in ("stamped 0", "stamped 0.1"):
        mean, spread = at_end(results, case, "gain"), at_end(results, case, "gain_spread")
        num = at_end(results, case, "num_asked")
        tails[case] = t.sf((mean - MARGIN) / np.maximum(spread / np.sqrt(num), 1e-9), num - 1)
    clean, stolen = tails["stamped 0"], tails["stamped 0.1"]
    return Claim(
        text=f"C6: models trained on data with a tenth stamped are found (p < {STOLEN:g}), clean ones are not, in all seeds",
        source="data-set ownership in the survey",
        reported="found; not",
        measured=f"p at most {stolen.max():.2g}; at least {clean.min():.2g}",
        holds=bool(stolen.max() < STOLEN and clean.min() >= STOLEN) if decides else None,
    )
