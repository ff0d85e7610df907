"""The universal trust machine (23): when do strangers cooperate, and what do reputations and cheap names change?

Madhwal, Pouwelse, The universal trust machine, 2023, a survey without experiments; what it argues from is played here.
Command: `dlsim run experiments/papers/23_universal_trust_machine.py`

T = 5, R = 3, P = 1, S = 0.  A tournament of ten automata over 200 rounds, with and without noise of 5 %; the ecology of their
exact scores; discounted games of tit for tat against w; a market of 1,000 strangers of whom 30 % defect, with no
reputation, image scores, own experience and EigenTrust (one power iteration a round, a = 0.15, in multiples of the mean),
and defectors that take new names; EigenTrust of 40 honest nodes and 20 that praise each other.

Sybils: each honest node trusts four others by 1, and one of the clique by 0.1; EigenTrust counts as good from half the mean
on.  Measured (default mode, 5 seeds, not ten): all claims hold; scores are within 2 % of those of an independent program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import dlsim
from dlsim import checks, keys, networks, trust
from dlsim.experiment import Claim
from dlsim.learning.measures import only
from dlsim.palette import AREAS

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.4, "default": 6}  # on 2 cores
CITATION = "Madhwal, Pouwelse, The universal trust machine, 2023."
SOURCE = "Axelrod, 1984"
FIELD = ("always_cooperate", "always_defect", "tit_for_tat", "suspicious_tit_for_tat", "win_stay_lose_shift")
FIELD = (*FIELD, "generous_tit_for_tat", "random", "joss", "grim", "tit_for_two_tats")
NICE = ("always_cooperate", "tit_for_tat", "win_stay_lose_shift", "generous_tit_for_tat", "grim", "tit_for_two_tats")
SHORT = ("ALLC", "ALLD", "TFT", "STFT", "WSLS", "GTFT", "RANDOM", "JOSS", "GRIM", "TF2T")
REPORTED = "TF2T 533, GTFT 525, ALLC 503, WSLS 500, TFT 496, GRIM 484, RANDOM 445, STFT 400, JOSS 394, ALLD 384"
LEAST = 0.01  # share of a strategy that is gone (C2)
GENERATION = 50
CROSSING = 0.02  # of w, within which signs change (C3)
NOISE = 0.05
COOPERATING = {"TFT": (0.45, 0.55), "GTFT": (0.8, 1), "WSLS": (0.8, 1), "TF2T": (0.9, 1), "GRIM": (0, 0.15)}  # C4
RESTART = 0.15  # a of EigenTrust
GOOD = 0.5  # times the mean reputation
SHARE_NEAR = 0.03  # of an independent program's shares (C6)
HONEST, FRIENDS, LEAK = 40, 4, 0.1
NUM_COPIES = 20  # of each strategy, among which C4 looks


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    is_tiny = checks.one_of("23_universal_trust_machine", "mode", mode, MODES) == "tiny"
    config = ConfigDict()
    markets = ["market none", "market image", "market own", "market eigen"]
    rates = (1.0,) if is_tiny else (0.03, 0.1, 0.3, 1.0)
    kinds = ("image",) if is_tiny else ("image", "eigen")
    markets += [f"market {kind} {rate} {who}" for kind in kinds for rate in rates for who in ("trusted", "doubted")]
    if is_tiny:
        markets.remove("market own")
    sybils = [f"sybils {p} {size} {leak}" for p in ("pretrusted", "uniform") for size, leak in ((20, LEAK), (20, 0.0))]
    sybils += [] if is_tiny else [f"sybils pretrusted {size} {LEAK}" for size in (60, 180)]
    config.case = ("tournament", "noise", "ecology", "invasion 0.5", "invasion 2", "shadow", *markets, *sybils)
    config.num_strangers = 100 if is_tiny else 1000
    config.defectors = 0.3
    config.num_seeds = {"tiny": 1, "default": 5, "paper": 10}[mode]
    config.num_steps = 200
    config.record_every = 10 if is_tiny else 1
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Every case: a tournament, an ecology, a market, a clique."""
    return {"case": config.case}


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case."""
    kind, *rest = str(config.case).split()
    known = ("tournament", "noise", "ecology", "invasion", "shadow", "market", "sybils")
    checks.one_of("23_universal_trust_machine", "case", kind, known)
    names: tuple[str, ...]
    if kind == "tournament":
        process, names = trust.tournament(trust.strategies(*FIELD)), ("score",)
    elif kind == "noise":
        return _noise(config.record_every)
    elif kind == "ecology":
        process = trust.ecology(trust.expected_scores(trust.strategies(*FIELD), 200).payoffs)
        names = ("shares",)
    elif kind == "invasion":
        share = float(rest[0]) * trust.invasion_share(200)
        scores = trust.expected_scores(trust.strategies("tit_for_tat", "always_defect"), 200).payoffs
        process = trust.ecology(scores, shares=jnp.stack([share, 1 - share]))
        return process, dlsim.Record(every=config.record_every, fn=lambda state, info: {"invaders": state[0]})
    elif kind == "shadow":
        process, names = _shadow(config.num_steps), ("resists_defectors", "resists_alternators")
    elif kind == "market":
        process, names = _market(config, rest), ("gap", "cooperation", "is_trusting", "names_per_defector")
    else:
        process, names = _sybils(rest[0], int(rest[1]), jnp.float32(rest[2])), ("clique_share", "image_share")
    dims = {name: ("strategy",) for name in names if name in ("score", "shares")}
    return process, dlsim.Record(every=config.record_every, fn=only(process, names), dims=dims)


def _noise(every: int) -> tuple[dlsim.Process, dlsim.Record]:
    """A noisy tournament of several copies of each strategy; how often copies cooperate with copies."""

    def record(state: Any, info: Any) -> dict[str, Any]:
        del info
        shape = (NUM_COPIES, len(FIELD), NUM_COPIES, len(FIELD))
        moves = trust.tournament_scores(state).cooperation.reshape(shape)
        return {"among_copies": jnp.diagonal(jnp.mean(moves, axis=(0, 2)))}

    process = trust.tournament(trust.strategies(*FIELD * NUM_COPIES), noise=NOISE)
    return process, dlsim.Record(every=every, fn=record, dims={"among_copies": ("strategy",)})


def _shadow(num_steps: int) -> dlsim.Process:
    """Step t has w = t / (steps + 1): what tit for tat has of itself, beyond what defectors and alternators have of it."""
    alternator = trust.memory_one(0.0, 0.0, 1.0, 1.0, 0.0)  # defects first
    field = trust.strategies("tit_for_tat", "always_defect", alternator)

    def measure(step: Any, info: Any) -> dict[str, Any]:
        del info
        found = trust.discounted_scores(field, step / (num_steps + 1)).payoffs
        lead = found[0, 0] - found[:, 0]
        return {"resists_defectors": lead[1], "resists_alternators": lead[2]}

    return dlsim.Process(lambda key: jnp.zeros(()), lambda key, step: (step + 1, {}), measure)


def _eigen_step(weights: Any, first: Any, before: Any) -> Any:
    """One iteration of EigenTrust, t <- (1 - a) C^T t + a p, on a matrix of trust whose empty rows trust p."""
    total = jnp.sum(weights, axis=1)
    part = before / jnp.maximum(total, 1e-30) * (total > 0)
    alone = jnp.sum(jnp.where(total > 0, 0, before))
    return (1 - RESTART) * (part @ weights + alone * first) + RESTART * first


def _market(config: ConfigDict, rest: list[str]) -> dlsim.Process:
    """`<reputation> [<rate of whitewashing> <trusted or doubted newcomers>]`."""
    name = checks.one_of("23_universal_trust_machine", "case", rest[0], ("none", "image", "own", "eigen"))
    num = config.num_strangers
    first = jnp.full(num, 1 / num)

    def solve(good: Any, bad: Any, before: Any) -> Any:
        now = jnp.where(jnp.sum(before) > 0, before / num, first)
        return num * _eigen_step(jnp.maximum(good - bad, 0), first, now)

    reputation = {
        "none": trust.no_reputation,
        "image": trust.image_scoring,
        "own": trust.own_experience,
        "eigen": lambda: trust.solved_reputation(solve, "Kamvar et al., WWW 2003"),
    }[name]()
    threshold = GOOD if name == "eigen" else 0.0
    rate, who = (float(rest[1]), rest[2]) if len(rest) > 1 else (0.0, "trusted")
    newcomers = threshold if who == "trusted" else threshold - 0.5
    # As data: markets of one reputation are one program.
    numbers = {"threshold": threshold, "newcomers": newcomers, "whitewashing": rate}
    numbers = {name: jnp.float32(number) for name, number in numbers.items()}
    return trust.anonymous_market(networks.complete(num), reputation, defectors=config.defectors, **numbers)


def _sybils(start: str, size: int, leak: Any) -> dlsim.Process:
    """EigenTrust of honest nodes and a clique, an iteration a step; and image scores, to which all praise adds."""
    checks.one_of("23_universal_trust_machine", "case", start, ("pretrusted", "uniform"))
    num = HONEST + size
    is_honest = jnp.arange(num) < HONEST
    founders = 5 if start == "pretrusted" else num
    first = (jnp.arange(num) < founders) / founders

    def init(key: Any) -> Any:
        ids = jnp.arange(num)
        ends = jnp.broadcast_to(ids[:, None], (num, num)), jnp.broadcast_to(ids, (num, num))
        draws = jnp.where(is_honest & (ids != ids[:, None]), keys.edge_uniform(key, *ends), 2.0)
        nearest = jnp.sort(draws, axis=1)[:, FRIENDS - 1 : FRIENDS]
        honest = (draws <= nearest).astype(jnp.float32).at[:, HONEST].set(leak)
        clique = (~is_honest & (ids != ids[:, None])).astype(jnp.float32)
        weights = jnp.where(is_honest[:, None], honest, clique)
        return {"weights": weights, "trust": first, "image": jnp.zeros(num)}

    def step(key: Any, state: Any) -> Any:
        del key
        # Everybody acts once, well: each honest node for another, each of the clique for one of its own.
        image = jnp.clip(state["image"] + 1, -5, 5)
        return {**state, "trust": _eigen_step(state["weights"], first, state["trust"]), "image": image}, {}

    def measure(state: Any, info: Any) -> dict[str, Any]:
        del info
        image = jnp.sum(jnp.where(is_honest, 0, state["image"])) / jnp.maximum(jnp.sum(state["image"]), 1)
        return {"clique_share": jnp.sum(jnp.where(is_honest, 0, state["trust"])), "image_share": image}

    return dlsim.Process(init, step, measure, ("Kamvar et al., WWW 2003",))


def _rows(results: xarray.Dataset, case: str, name: str) -> np.ndarray:
    """By seed, step, and what the record has beside: `[seeds, steps, ...]`."""
    one = results[name].sel(case=case)
    one = one if "seed" in one.dims else one.expand_dims("seed")
    return np.asarray(one.transpose("seed", "step", ...).values, float)


def claims(results: xarray.Dataset) -> list[Claim]:
    """C1 to C6 of the page; thresholds are the constants above."""
    score = _rows(results, "tournament", "score")[:, -1].mean(0)
    by_name = dict(zip(FIELD, score, strict=True))
    worst = min(by_name[name] for name in NICE)
    best = max(by_name[name] for name in FIELD if name not in (*NICE, "random"))
    order = sorted(zip(SHORT, score, strict=True), key=lambda one: -one[1])
    out = [
        Claim(
            text="C1: every strategy that never defects first beats every other one (RANDOM aside)",
            source=f"{SOURCE}, tournament of ten over 200 rounds",
            reported=f"{REPORTED} in an independent program",
            measured=", ".join(f"{name} {value:.0f}" for name, value in order),
            holds=bool(worst > best),
        )
    ]
    out.extend(_ecology_claims(results))
    out.extend(_shadow_claims(results))
    own = dict(zip(SHORT, _rows(results, "noise", "among_copies")[:, -1].mean(0), strict=True))
    out.append(
        Claim(
            text=f"C4, noise {NOISE:g}: among copies TFT cooperates half of the time, GTFT, WSLS, TF2T mostly, GRIM hardly",
            source="1/2 for TFT in the long run",
            reported="TFT .506, GTFT .87, WSLS .87, TF2T .95, GRIM .05 in an independent program",
            measured=", ".join(f"{name} {own[name]:.3f}" for name in COOPERATING) + " over 200 rounds",
            holds=all(low <= own[name] <= high for name, (low, high) in COOPERATING.items()),
        )
    )
    out.extend(_market_claims(results))
    out.extend(_sybil_claims(results))
    return out


def _ecology_claims(results: xarray.Dataset) -> list[Claim]:
    at = int(np.argmin(np.abs(results.step.values - GENERATION)))
    shares = dict(zip(FIELD, _rows(results, "ecology", "shares")[0, at], strict=True))
    gone = {short: shares[name] for short, name in zip(SHORT, FIELD, strict=True) if name not in NICE}
    kept = sum(shares[name] for name in NICE)
    moved = {}
    for factor in ("0.5", "2"):
        invaders = _rows(results, f"invasion {factor}", "invaders")[0]
        moved[factor] = invaders[-1] / invaders[0]
    return [
        Claim(
            text=f"C2: ALLD, STFT, RANDOM, JOSS are below {LEAST:g} each by generation {GENERATION}, nice ones have the rest",
            source=f"{SOURCE}, ecology",
            reported="below 1 %, 100 % in an independent program",
            measured=", ".join(f"{name} {value:.4f}" for name, value in gone.items()) + f"; nice {kept:.4f}",
            holds=bool(max(gone.values()) < LEAST and kept > 1 - len(gone) * LEAST),
        ),
        Claim(
            text="C2: among ALLD a share of TFT grows above the invasion threshold, and shrinks below it",
            source="x = 1/397 for 200 rounds",
            reported=".00252",
            measured=f"from half of it to {moved['0.5']:.2f} times as much, from twice to {moved['2']:.2f} times",
            holds=bool(moved["0.5"] < 1 < moved["2"]),
        ),
    ]


def _shadow_claims(results: xarray.Dataset) -> list[Claim]:
    w, out = results.step.values / (results.step.values[-1] + 1), []
    for name, who, limit in (("defectors", "ALLD", 1 / 2), ("alternators", "the alternator", 2 / 3)):
        lead = _rows(results, "shadow", f"resists_{name}")[0]
        crossing = float(w[np.argmax(lead >= 0)])
        once = bool((np.diff(np.sign(lead)) != 0).sum() <= 2 and (lead[w > limit + CROSSING] > 0).all())
        close = max(CROSSING, float(w[1]))
        out.append(
            Claim(
                text=f"C3: tit for tat resists {who} from w = {limit:.3f} on (within {CROSSING:g})",
                source="Axelrod, Hamilton, 1981",
                reported=f"{limit:.3f}",
                measured=f"{crossing:.3f}",
                holds=bool(once and abs(crossing - limit) <= close and (lead[w < limit - close] < 0).all()),
            )
        )
    return out


def _market_claims(results: xarray.Dataset) -> list[Claim]:
    have = [str(case) for case in results.case.values if str(case).startswith("market")]
    gap = {case.removeprefix("market "): _rows(results, case, "gap")[:, -1] for case in have}
    good = [name for name in ("image", "eigen") if name in gap]

    def shown(names: list[str]) -> str:
        return ", ".join(f"{name} {gap[name].mean():.2f}" for name in names)

    out = [
        Claim(
            text="C5: among strangers defectors gain without reputation, cooperators with image scores or EigenTrust",
            source="Nowak, Sigmund, 1998; Kamvar et al., 2003",
            reported="negative; positive",
            measured=f"payoff of cooperators above defectors: {shown([n for n in ('none', *good, 'own') if n in gap])}",
            holds=bool((gap["none"] < 0).all() and all((gap[name] > 0).all() for name in good)),
        )
    ]
    washed = [f"{name} 1.0" for name in good if f"{name} 1.0 trusted" in gap]
    trusted, doubted = ([f"{name} {who}" for name in washed] for who in ("trusted", "doubted"))
    out.append(
        Claim(
            text="C5: who changes a bad name at once gains again where newcomers are trusted, not where they are doubted",
            source="Friedman, Resnick, 2001",
            reported="negative; positive",
            measured=shown([*trusted, *doubted]),
            holds=bool(all((gap[n] < 0).all() for n in trusted) and all((gap[n] > 0).all() for n in doubted)),
        )
    )
    return out


def _sybil_claims(results: xarray.Dataset) -> list[Claim]:
    def share(case: str, name: str = "clique_share") -> float:
        return float(_rows(results, f"sybils {case}", name)[:, -1].mean())

    found = {(p, leak): share(f"{p} 20 {leak}") for p in ("pretrusted", "uniform") for leak in (LEAK, 0.0)}
    page = {("pretrusted", LEAK): 0.13, ("uniform", LEAK): 0.43, ("pretrusted", 0.0): 0.0, ("uniform", 0.0): 1 / 3}
    out = [
        Claim(
            text=f"C6: the clique's share of EigenTrust is within {SHARE_NEAR:g} of an independent program's: pretrusted "
            "peers, uniform p; the same without a leak",
            source="Kamvar et al., 2003",
            reported=".13, .43; 0 and .33",
            measured=", ".join(f"{found[which]:.3f}" for which in page),
            holds=all(abs(found[which] - page[which]) < SHARE_NEAR for which in page),
        )
    ]
    sizes = [size for size in (20, 60, 180) if f"sybils pretrusted {size} {LEAK}" in results.case.values]
    image = [share(f"pretrusted {size} {LEAK}", "image_share") for size in sizes]
    eigen = [share(f"pretrusted {size} {LEAK}") for size in sizes]
    out.append(
        Claim(
            text="C6: with more Sybils their share of all image scores grows towards 1, that of EigenTrust with pretrusted "
            f"peers by less than 0.01 (20 to {sizes[-1]} Sybils)",
            source="image scores are unbounded in the number of Sybils",
            reported="no number",
            measured=f"image {', '.join(f'{x:.2f}' for x in image)}; EigenTrust {', '.join(f'{x:.3f}' for x in eigen)}",
            holds=bool((np.diff(image) > 0).all() and np.ptp(eigen) < 0.01) if len(sizes) > 1 else None,
        )
    )
    return out


def figure(results: xarray.Dataset) -> Figure:
    """Ranked scores; shares by generation; what cooperation is worth against w; payoff gaps against whitewashing."""
    from dlsim import plotting

    with plotting.style():
        made, panels = plotting.panels(2, 2, height=5.2)
        score = _rows(results, "tournament", "score")[:, -1]
        order = np.argsort(score.mean(0))
        colors = [plotting.COLORS[int(FIELD[i] not in NICE)] for i in order]
        panels[0, 0].barh([SHORT[i] for i in order], score.mean(0)[order], xerr=score.std(0)[order], color=colors)
        panels[0, 0].set(xlabel="mean score of 200 rounds (blue: never defects first)", xlim=(300, None))
        shares = _rows(results, "ecology", "shares")[0]
        panels[0, 1].stackplot(results.step.values, shares.T, labels=SHORT, colors=AREAS)
        panels[0, 1].set(xlabel="generation", ylabel="share", xlim=(0, 60), ylim=(0, 1))
        panels[0, 1].legend(fontsize=5, loc="upper right", frameon=True, framealpha=1)
        w = results.step.values / (results.step.values[-1] + 1)
        for place, (name, limit) in enumerate((("defectors", 1 / 2), ("alternators", 2 / 3))):
            lead = _rows(results, "shadow", f"resists_{name}")[0]
            panels[1, 0].plot(w, lead, color=plotting.COLORS[place], label=name)
            panels[1, 0].axvline(limit, color=plotting.COLORS[place], ls="--", lw=0.7)
        panels[1, 0].set(xlabel="w, probability of another round", ylabel="TFT's lead over invaders", ylim=(-3, 6))
        panels[1, 0].legend()
        _draw_gaps(panels[1, 1], results)
        plotting.letters(panels, ("Tournament", "Ecology", "Shadow of the future", "Changing names"))
    return made


def _draw_gaps(ax: Any, results: xarray.Dataset) -> None:
    from dlsim import plotting

    cases = [str(case) for case in results.case.values]
    for place, name in enumerate(("image", "eigen")):
        for who, line, mark in (("trusted", "-", "o"), ("doubted", "--", "s")):
            rates = [case.split()[2] for case in cases if case.startswith(f"market {name} ") and case.endswith(who)]
            at = [0.0, *map(float, rates)]
            shown = (f"market {name}", *(f"market {name} {rate} {who}" for rate in rates))
            gap = [_rows(results, case, "gap")[:, -1] for case in shown]
            label = f"{'image score' if name == 'image' else 'EigenTrust'}, newcomers {who}"
            middle, spread = np.mean(gap, axis=1), np.std(gap, axis=1)
            ax.errorbar(at, middle, spread, ls=line, marker=mark, ms=3, color=plotting.COLORS[place], label=label)
    none = float(_rows(results, "market none", "gap")[:, -1].mean())
    ax.axhline(none, color="k", lw=0.7, ls=":", label="no reputation")
    ax.axhline(0, color="k", lw=0.5)
    ylabel = "payoff: cooperators less defectors"
    ax.set(xlabel="new name where distrusted, probability", ylabel=ylabel, ylim=(-3.2, 1.8))
    ax.legend(fontsize=5, loc="lower left", handlelength=3.5)
