"""What `52_mesh_authentication.py` says of its runs: claims C1 to C4, with thresholds that were set before the run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dlsim.experiment import Claim
from dlsim.trust.mesh import epochs

if TYPE_CHECKING:
    import xarray

SOURCE = "Sen 2012"
GAIN = 0.15  # C2: delivery that the watchdog wins
WINDOW_LOSS = 0.01  # C1: legitimate packets that the window costs, at most
LAST = 20  # rounds that delivery is averaged over
ABOUT = 1.0  # C3: requests that the formula of the intersection may be off
ENOUGH = 60  # rounds, after which claims are decided
EXPECTED = {0.1: (0.65, 0.83), 0.2: (0.64, 0.99)}  # independent program, five seeds


def at_end(results: xarray.Dataset, case: str, name: str) -> np.ndarray:
    return np.atleast_1d(results[name].sel(case=case).isel(step=-1).values).astype(float)


def delivery(results: xarray.Dataset, case: str) -> np.ndarray:
    """Of honest traffic over the last rounds, by seed."""
    return np.atleast_1d(results.delivery.sel(case=case).isel(step=slice(-LAST, None)).mean("step").values)


def _text(values: np.ndarray) -> str:
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if values.size > 1 else "")


def decided(results: xarray.Dataset) -> list[Claim]:
    """C1 to C4 of the specification; thresholds are the constants above."""
    have = results.case.values.tolist()
    decides = int(results.step.values[-1]) >= ENOUGH and results.sizes["seed"] >= 5
    out = []
    if {"attack open", "attack link", "attack untagged", "attack full"} <= set(have):
        out += _outsiders(results, decides)
    for f, (plain, watched) in EXPECTED.items():
        pair = f"plain {f:g}", f"watchdog {f:g}"
        if set(pair) <= set(have):
            before, after = (delivery(results, case) for case in pair)
            bound = at_end(results, pair[0], "bound")
            out.append(
                Claim(
                    text=f"C2, f = {f:g}: the watchdog wins at least {GAIN:g} of the delivery of honest traffic",
                    source=f"{SOURCE}: droppers",
                    reported=f"{plain:.2f} plain, {watched:.2f} with it (independent program, 5 seeds)",
                    measured=f"{_text(before)} plain, {_text(after)} with it; {_text(bound)} have an honest path",
                    holds=bool(after.mean() - before.mean() >= GAIN) if decides else None,
                )
            )
    out += _anonymity(results, have, decides)
    if {"attack full", "attack server"} <= set(have):
        out.append(_keys(results, decides))
    if "clocks" in have:
        seen, expected = at_end(results, "clocks", "refused"), at_end(results, "clocks", "expected")[0]
        off = abs(seen.mean() - expected)
        room = 3 * math.sqrt(expected * (1 - expected) / (4000 * seen.size)) + 1e-3
        out.append(
            Claim(
                text="C4: around a change of keys, neighbours refuse a packet where clocks differ by more than the grace",
                source=f"{SOURCE}: 2 (1 - Phi(g / (sigma sqrt 2))), to three standard errors",
                reported=f"{expected:.4f}",
                measured=f"{seen.mean():.4f}",
                holds=bool(off <= room) if decides else None,
            )
        )
    return out


def _outsiders(results: xarray.Dataset, decides: bool) -> list[Claim]:
    taken = {
        name: [
            (at_end(results, f"attack {name}", f"{what}_accepted").sum(), at_end(results, f"attack {name}", what).sum())
            for what in ("forged", "replayed")
        ]
        for name in ("open", "link", "untagged", "full")
    }
    holds = taken["full"][0][0] == taken["full"][1][0] == 0
    holds &= taken["link"][1][0] > 0 and taken["untagged"][0][0] > 0
    lost = at_end(results, "attack full", "lost_window") / at_end(results, "attack full", "sent_all")
    said = {"open": "no security", "link": "no window", "untagged": "no tags", "full": "all"}
    return [
        Claim(
            text="C1: nothing forged or replayed is accepted with all protection; replays are without the window, forgeries "
            "without tags",
            source=f"{SOURCE}: outsiders inject and replay",
            reported="0; more than 0; more than 0",
            measured="; ".join(
                f"{said[name]}: {forged[0]:.0f} of {forged[1]:.0f} forged, {again[0]:.0f} of {again[1]:.0f} replayed"
                for name, (forged, again) in taken.items()
            ),
            holds=bool(holds) if decides else None,
        ),
        Claim(
            text=f"C1: the window costs at most {100 * WINDOW_LOSS:g} % of honest packets where fewer than 64 overtake one",
            source=f"{SOURCE}: replay window of 64",
            reported="at most 1 %",
            measured=f"{100 * lost.mean():.3f} %",
            holds=bool(lost.mean() <= WINDOW_LOSS) if decides else None,
        ),
    ]


def _anonymity(results: xarray.Dataset, have: list[str], decides: bool) -> list[Claim]:
    sizes = [n for n in (2, 4, 8, 16, 32) if f"ring {n} fresh" in have]
    out, users = [], 64
    if len(sizes) >= 3 and "ring 1 pseudonym" in have:
        rates = {n: at_end(results, f"ring {n} fresh", "guess_rate") for n in sizes}
        num = users * int(results.step.values[-1]) * results.sizes["seed"]
        near = [abs(rate.mean() - 1 / n) <= 3 * math.sqrt((1 - 1 / n) / n / num) for n, rate in rates.items()]
        known = at_end(results, "ring 1 pseudonym", "guess_rate")
        verified = [at_end(results, f"ring {n} fresh", "verified").min() for n in sizes]
        out.append(
            Claim(
                text="C3: a guess is right with probability 1/n (three standard errors), with pseudonyms always; all "
                "signatures verify",
                source=f"{SOURCE}: anonymity in a ring",
                reported=", ".join(f"1/{n} = {1 / n:.4f}" for n in sizes) + "; 1",
                measured=", ".join(f"{rate.mean():.4f}" for rate in rates.values()) + f"; {known.mean():.0f}",
                holds=bool(all(near) and known.mean() == 1 and min(verified) == 1) if decides else None,
            )
        )
        lines = {}
        for name in ("signature_bytes", "sign_cost", "verify_cost"):
            values = [at_end(results, f"ring {n} fresh", name)[0] for n in sizes]
            fit = np.polyfit(sizes, values, 1)
            lines[name] = fit[0], float(np.abs(np.polyval(fit, sizes) - values).max())
        out.append(
            Claim(
                text="C3: bytes and modular powers of signing and verifying grow linearly in n",
                source=f"{SOURCE}: ring signatures; a count, not a time",
                reported="(n + 1) 128 + 4 n bytes",
                measured="slopes " + ", ".join(f"{slope:.1f}" for slope, _ in lines.values()),
                holds=all(off < 1e-3 * max(1, slope) for slope, off in lines.values()) if decides else None,
            )
        )
    if {"ring 8 fresh", "ring 8 fixed"} <= set(have):
        soon, still = at_end(results, "ring 8 fresh", "requests_to_expose"), at_end(results, "ring 8 fixed", "exposed")
        about = math.log(users) / math.log(users / 8)
        everyone = at_end(results, "ring 8 fresh", "exposed")
        holds = abs(soon.mean() - about) <= ABOUT and everyone.min() == 1 and still.max() == 0
        out.append(
            Claim(
                text=f"C3: fresh rings of 8 out of 64 expose their user after log U / log(U/n) requests (to {ABOUT:g}), a "
                "fixed one never",
                source=f"{SOURCE}: intersection of rings",
                reported=f"about {about:.1f}; never",
                measured=f"{soon.mean():.2f} ({100 * everyone.mean():.0f} % exposed); {100 * still.mean():.0f} % exposed",
                holds=bool(holds) if decides else None,
            )
        )
    return out


def _keys(results: xarray.Dataset, decides: bool) -> Claim:
    own, served = (at_end(results, f"attack {name}", "bytes_keys") for name in ("full", "server"))
    hops = at_end(results, "attack server", "hops")
    # Epochs of ten rounds, lists of four keys: one more list in sixty rounds, asked for at 32.
    one = 4 * epochs.KEY_BYTES * hops
    each = served / 59
    return Claim(
        text="C4: client-driven rekeying sends nothing, server-driven L 16 mean hops bytes a router and list (to 2 %)",
        source=f"{SOURCE}: backbone keys",
        reported=f"0; {one.mean():.0f}",
        measured=f"{own.mean():.0f}; {each.mean():.0f}",
        holds=bool(own.max() == 0 and np.allclose(each, one, rtol=0.02)) if decides else None,
    )
