"""Network Lasso (02): do regions that tie their one-class SVMs along a graph detect traffic incidents better?

Zhu, Qin, Abeysekara, Dia, Grzybowska, Decentralised traffic incident detection via Network Lasso, 2024, after Hallac,
Leskovec, Boyd, KDD 2015.  Command: `dlsim run experiments/papers/02_network_lasso.py`

Thirty regions of a freeway (a cell transmission model, `lasso_freeway.py`), of three types, each with 20 windows of normal
traffic, learn a one-class SVM on 100 random features.  Linked regions are tied by lambda a_ij ||x_i - x_j||; ADMM sends 101
numbers a link, each way, an iteration.  Lambda 0 is learning alone, 3 one model for all.  Against it: squared ties, one SVM
of all data, an oracle that knows the types, and an autoencoder by FedAvg or FedProx (50 rounds).  Eight worlds lie side by
side as one network in parts, so that all ties are one program.

The paper says: better than centralised and local learning, on loop detectors of California that cannot be had here.  No
number of its tables could be checked; those reported below are of an independent program on a world of the same kind, whose
free choices are not ours.  The thresholds are from there.

Measured (default mode, 8 worlds, mean; 100 iterations):

                    local   .03    .1     .3     1      3    centralised  oracle  FedAvg   squared .3    3     10
    AUC             .940   .943   .949   .957   .955   .954     .954      .955    .930       .948     .953   .955
    false alarms    .353   .331   .281   .169   .134   .130     .122      .128    .151       .308     .230   .183
    the same at 90% .181   .179   .172   .142   .149   .150     .148      .145    .277       .174     .160   .153

The order is the reported one: AUC is best in between, in all eight worlds above local (0.0175 +- 0.0066, where 0.0049 was
reported), in five of eight above one model for all.  By how much it is above the better end is 0.00297, and the claim asks
for 0.003.  Regions over-fit more here (.353 for .273), so .3 leaves more false alarms than the claim allows (.169), and local
learning misses .985 with easy incidents by .002; with 200 windows each the gain over local falls from .0175 to .0031, and the
claim asks for .002.  Squared ties of 10 bring up to 4.6 % of a world's links closer than 0.01, which the claim takes for
fused: none is equal, and up to 3 there are none.  All links that fuse at .3 join like types.

Departures: no second world of ridership data; no mean time to detection; models start at 0 and iterations are 100, without a
stopping rule.  FedProx (mu 0.01) and FedAvg are the same to four digits.
"""

from __future__ import annotations

import functools
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import dlsim
from dlsim import checks
from dlsim.experiment import Claim
from dlsim.learning.measures import several

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from lasso_autoencoder import federated_autoencoder
from lasso_freeway import EASY, HARD, Freeway, freeway, side_by_side
from lasso_records import FUSED, blank, recorder

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.4, "default": 6}  # on 2 cores
CITATION = (
    "Zhu, Qin, Abeysekara, Dia, Grzybowska, Decentralised traffic incident detection via Network Lasso, 2024; Hallac, "
    "Leskovec, Boyd, Network Lasso: clustering and optimization in large graphs, KDD 2015."
)
SOURCE = "Zhu et al. 2024; Hallac, Leskovec and Boyd, KDD 2015"
COUPLINGS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
ALONE, TOGETHER = "lasso 0", "lasso 3"
GAIN, FEWER_ALARMS = 0.003, 0.025  # C1: AUC over the best end; false alarms at 90 % detected, below local
OVER_FIT, CALM, COST = (
    2.0,
    0.16,
    0.04,
)  # C2: local false alarms over nu; those at 0.3; what of the detection rate it may cost
NONE_FUSED, SOME_FUSED = 0.02, (0.35, 0.75)  # C3: share of fused links at most at 0.1; at 0.3
CONVERGED, SAME_PLACE = (
    1e-3,
    1e-2,
)  # C4: objective after 100 iterations, relative; models from other penalties and starts
ITERATIONS = 2000  # of the long runs
EASILY = 0.985  # C5: AUC of every method
VANISHED = 0.002  # C5: gain in AUC with 200 windows
LONG = ("long rho=0.3", "long rho=1", "long rho=3", "long start")
FULL_WORLDS = 8  # claims are decided with so many or more
ROUNDS = 50  # of the federated autoencoders


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("02_network_lasso", "mode", mode, MODES)
    config = ConfigDict()
    is_tiny = mode == "tiny"
    config.num_seeds = 1  # nothing is drawn but the autoencoders' start and batches; worlds lie side by side
    config.num_worlds = {"tiny": 1, "default": FULL_WORLDS, "paper": 20}[mode]
    config.num_regions = 9 if is_tiny else 30
    config.num_windows, config.num_test = (10, 20) if is_tiny else (20, 100)
    config.nu = 0.1
    config.penalty = 1.0
    lasso = [f"lasso {c:g}" for c in COUPLINGS]
    squared = [f"squared {c:g}" for c in (*COUPLINGS[1:], 10.0)]
    federated = [f"{name} {world}" for name in ("fedavg", "fedprox") for world in range(config.num_worlds)]
    easy = ["easy lasso 0", "easy lasso 0.3", "easy centralised"]
    many = ["windows lasso 0", "windows lasso 0.3"]
    config.case = (*lasso, *squared, "oracle 3", "centralised", *federated, *easy, *many, *LONG)
    if is_tiny:
        config.case = ("lasso 0", "lasso 0.3", "lasso 3", "centralised", "fedavg 0")
    config.num_steps = 100  # iterations; of the long runs each is twenty
    config.record_every = 5 if not is_tiny else 20
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Every case: a method with its tie, perhaps in another world."""
    return {"case": config.case}


def _worlds(config: ConfigDict, kind: str) -> list[Freeway]:
    num_windows = 200 if kind == "windows" else config.num_windows
    cut = EASY if kind == "easy" else HARD
    return [freeway(seed, config.num_regions, num_windows, config.num_test, cut) for seed in range(config.num_worlds)]


def _problem(config: ConfigDict, worlds: list[Freeway]) -> dlsim.Problem:
    """All worlds side by side: nodes of another world are other nodes."""
    return dlsim.problems.one_class_svm(
        np.concatenate([world.train for world in worlds]),
        nu=config.nu,
        standardize=False,  # each world by its own
        test_examples=np.concatenate([world.test for world in worlds]),
        test_is_outlier=np.concatenate([world.is_incident for world in worlds]),
    )


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case."""
    words = config.case.split()
    kind = words.pop(0) if words[0] in ("easy", "windows", "long") else ""
    name = words[0] if kind != "long" else "lasso"
    checks.one_of("02_network_lasso", "case", name, ("lasso", "squared", "oracle", "centralised", "fedavg", "fedprox"))
    worlds = _worlds(config, kind)
    if name in ("fedavg", "fedprox"):
        return _federated(config, worlds, name, int(words[1]))
    problem = _problem(config, worlds)
    if name == "centralised":
        return _centralised(config, worlds, problem)
    coupling = jnp.asarray(0.3 if kind == "long" else float(words[1]), float)
    penalty = float(words[0].removeprefix("rho=")) if words[0].startswith("rho=") else config.penalty
    ties = side_by_side(worlds, by_type=name == "oracle")
    network = dlsim.networks.connect(dlsim.networks.graph(len(ties), *np.nonzero(np.triu(ties))))
    algorithm = dlsim.algorithms.network_lasso(
        problem,
        coupling,
        edge_weights=ties,
        norm="squared" if name == "squared" else "euclidean",
        penalty=jnp.asarray(penalty, float),
    )
    start = None
    if words == ["start"]:
        start = np.random.default_rng(1).normal(size=(len(ties), 101)).astype(np.float32)
    process = dlsim.learn(problem, algorithm, network, initial_params=start)
    record = recorder(config, worlds, problem, network, ties, process.params)
    if kind == "long":
        process = several(process, ITERATIONS // config.num_steps)
    return process, dlsim.Record(every=config.record_every, fn=functools.partial(record, coupling, name == "squared"))


def _centralised(config: ConfigDict, worlds: list[Freeway], problem: Any) -> tuple[dlsim.Process, dlsim.Record]:
    """One model of all data of a world: a node without links, by proximal point iterations."""
    pooled = np.stack([world.train.reshape(-1, world.train.shape[-1]) for world in worlds])
    whole = dlsim.problems.one_class_svm(pooled, nu=config.nu, standardize=False)
    alone = dlsim.networks.connect(dlsim.networks.graph(len(worlds), np.zeros(0, int), np.zeros(0, int)))
    process = dlsim.learn(whole, dlsim.algorithms.network_lasso(whole, 0.0), alone)
    ids = jnp.arange(problem.num_nodes)

    def record(state: Any, info: Any) -> dict[str, Any]:
        del info
        everywhere = jnp.repeat(process.params(state), config.num_regions, axis=0)
        return blank(config, problem.evaluate(everywhere, ids))

    return process, dlsim.Record(every=config.record_every, fn=record)


def _federated(config: ConfigDict, worlds: list[Freeway], name: str, place: int) -> tuple[dlsim.Process, dlsim.Record]:
    process, found = federated_autoencoder(worlds[place], name, config.nu)
    rows = jnp.arange(config.num_worlds * config.num_regions) // config.num_regions == place

    def record(state: Any, info: Any) -> dict[str, Any]:
        del info
        spread = {key: jnp.where(rows, jnp.tile(v, config.num_worlds), jnp.nan) for key, v in found(state).items()}
        return blank(config, spread)

    return process, dlsim.Record(every=config.record_every, fn=record)


def _of_worlds(results: xarray.Dataset, name: str, case: str, step: int = -1) -> np.ndarray:
    """Mean over regions, by world, [worlds]; the federated methods' after `ROUNDS`, each world's own run."""
    if case in ("fedavg", "fedprox"):
        have = [one for one in results.case.values.tolist() if one.startswith(f"{case} ")]
        late = results[name].sel(case=have).sel(step=min(ROUNDS, int(results.step[-1])), method="nearest")
        rows = np.nanmean(late.values.reshape(len(have), -1), axis=1)
        return rows
    late = results[name].sel(case=case).isel(step=step, seed=0).values
    return late.reshape(_num_worlds(results), -1).mean(axis=1)


def _num_worlds(results: xarray.Dataset) -> int:
    return results["objective"].shape[-1]


def _text(values: np.ndarray, digits: int = 4) -> str:
    spread = f" ± {values.std(ddof=1):.{digits}f}" if values.size > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def claims(results: xarray.Dataset) -> list[Claim]:
    """C1 to C5 of the specification; numbers reported are of its own program, as the paper's tables could not be had."""
    have = results.case.values.tolist()
    is_full = _num_worlds(results) >= FULL_WORLDS
    of = functools.partial(_of_worlds, results)
    out = []

    def claim(text: str, reported: str, needs: tuple[str, ...], make: Any) -> None:
        if not all(case in have for case in needs):
            return
        measured, holds = make()
        out.append(Claim(text, SOURCE, reported, measured, bool(holds) if is_full else None))

    def gain() -> tuple[str, bool]:
        best = max((of("auc", f"lasso {c}") for c in ("0.1", "0.3")), key=np.mean)
        ends = {name: of("auc", name) for name in (ALONE, TOGETHER, "centralised")}
        by = best - max(ends.values(), key=np.mean)
        return f"{_text(best)} against {', '.join(_text(v) for v in ends.values())}: {_text(by)}", by.mean() >= GAIN

    claim(
        f"C1: a tie of 0.1 or 0.3 has an AUC at least {GAIN:g} above local, all fused, and centralised",
        ".9297 against .9248, .9220, .9227",
        (ALONE, "lasso 0.1", "lasso 0.3", TOGETHER, "centralised"),
        gain,
    )

    def alarms() -> tuple[str, bool]:
        one, other = (of("false_alarm_rate_at_90", case) for case in (ALONE, "lasso 0.3"))
        return f"{_text(other, 3)} against {_text(one, 3)}: {_text(one - other, 3)}", (
            one - other
        ).mean() >= FEWER_ALARMS

    claim(
        f"C1: false alarms where 90 % are detected: a tie of 0.3 has at least {FEWER_ALARMS:g} fewer than local",
        ".241 against .282",
        (ALONE, "lasso 0.3"),
        alarms,
    )

    def over_fit() -> tuple[str, bool]:
        rate, calm = (of("false_alarm_rate", case) for case in (ALONE, "lasso 0.3"))
        lost = of("detection_rate", ALONE) - of("detection_rate", "lasso 0.3")
        says = f"{_text(rate, 3)}, {_text(calm, 3)}; {_text(lost, 3)} of the detection rate"
        return says, rate.mean() >= OVER_FIT * 0.1 and calm.mean() <= CALM and lost.mean() <= COST

    claim(
        f"C2: local false alarms are at least {OVER_FIT:g} nu; at 0.3 at most {CALM:g}, for {COST:g} of detection at most",
        ".273, .133; .028",
        (ALONE, "lasso 0.3"),
        over_fit,
    )

    def fusion() -> tuple[str, bool]:
        shares = {c: of("share_fused", f"lasso {c}").mean() for c in ("0.1", "0.3", "1", "3")}
        low, high = SOME_FUSED
        rule = (
            shares["0.1"] <= NONE_FUSED and low <= shares["0.3"] <= high and shares["0.3"] < shares["1"] <= shares["3"]
        )
        return ", ".join(f"{value:.2f}" for value in shares.values()), rule and shares["3"] >= 0.99

    claim(
        f"C3: links fuse (closer than {FUSED:g}): hardly any at 0.1, about half at 0.3, more at 1, all at 3",
        "0, .55, .90, 1",
        ("lasso 0.1", "lasso 0.3", "lasso 1", "lasso 3"),
        fusion,
    )
    squared = [case for case in have if case.startswith("squared ")]
    claim(
        "C3: with squared ties no link fuses, whatever the tie",
        "0",
        tuple(squared) or ("squared 0.3",),
        lambda: (
            f"{max(of('share_fused', case).max() for case in squared):.3f} at most",
            max(of("share_fused", case).max() for case in squared) == 0,
        ),
    )
    claim(
        "C3: among links fused at 0.3 those of like types are more than among all (.79)",
        "> .79",
        ("lasso 0.3",),
        lambda: (_text(of("share_alike", "lasso 0.3"), 3), of("share_alike", "lasso 0.3").mean() > 0.79),
    )

    def converged() -> tuple[str, bool]:
        short, long = (of("objective", case) for case in ("lasso 0.3", "long rho=1"))
        off = np.abs(short / long - 1)
        return f"{off.max():.1e} at most", off.max() <= CONVERGED

    claim(
        f"C4: the objective after 100 iterations is within {CONVERGED:g} (relative) of that after 2,000",
        "within 1e-3",
        ("lasso 0.3", "long rho=1"),
        converged,
    )

    def same_place() -> tuple[str, bool]:
        ends = [results.sketch.sel(case=case).isel(step=-1, seed=0).values for case in LONG]
        off = {case: np.linalg.norm(end - ends[1], axis=-1).max() for case, end in zip(LONG, ends, strict=True)}
        return ", ".join(f"{case.removeprefix('long ')}: {v:.1e}" for case, v in off.items()), max(
            off.values()
        ) <= SAME_PLACE

    claim(
        f"C4: models after 2,000 iterations are the same to {SAME_PLACE:g} for penalties .3, 1, 3 and from another start",
        "to 1e-2",
        LONG,
        same_place,
    )
    easy = tuple(f"easy {name}" for name in (ALONE, "lasso 0.3", "centralised"))
    claim(
        f"C5, limit: with easy incidents every method has an AUC of at least {EASILY:g}",
        ">= .985",
        easy,
        lambda: (
            ", ".join(_text(of("auc", case)) for case in easy),
            min(of("auc", case).mean() for case in easy) >= EASILY,
        ),
    )

    def many() -> tuple[str, bool]:
        gained = of("auc", "windows lasso 0.3") - of("auc", "windows lasso 0")
        return _text(gained), gained.mean() <= VANISHED

    claim(
        f"C5, limit: with 200 training windows the gain over local is at most {VANISHED:g}",
        "vanishes",
        ("windows lasso 0", "windows lasso 0.3"),
        many,
    )
    return out


def figure(results: xarray.Dataset) -> Figure:
    """AUC and false alarms against the tie; clusters of one world at three ties; how the iterations converge."""
    from dlsim import plotting

    have = results.case.values.tolist()
    of = functools.partial(_of_worlds, results)
    least = 0.01  # where a tie of 0 is drawn
    with plotting.style():
        made, panels = plotting.panels(2, 2, height=5.4)
        for axes_, name, label in zip(panels[0], ("auc", "false_alarm_rate"), ("AUC", "false-alarm rate"), strict=True):
            for place, kind in enumerate(("lasso", "squared")):
                cases = [case for case in have if case.split()[0] == kind]
                ties = [max(float(case.split()[1]), least) for case in cases]
                values = [of(name, case) for case in cases]
                spread = [v.std(ddof=1) if v.size > 1 else 0.0 for v in values]
                title = {"lasso": "network lasso", "squared": "squared ties"}[kind]
                means = [v.mean() for v in values]
                axes_.errorbar(ties, means, spread, fmt="o-", color=plotting.COLORS[place], label=title, markersize=3)
            levels = {"lasso 0": "local", "centralised": "centralised", "oracle 3": "oracle", "fedavg": "FedAvg"}
            for place, (case, title) in enumerate(levels.items(), start=2):
                if case in have or f"{case} 0" in have:
                    axes_.axhline(of(name, case).mean(), ls="--", lw=1, color=plotting.COLORS[place], label=title)
            axes_.set_xscale("log")
            axes_.set_xlabel("tie (0 drawn at 0.01)")
            axes_.set_ylabel(label)
        panels[0][1].legend(fontsize=6)
        left, right = panels[1]
        num = results.auc.shape[-1] // _num_worlds(results)
        ties = [case for case in ("lasso 0", "lasso 0.1", "lasso 0.3", "lasso 1", "lasso 3") if case in have]
        for row, case in enumerate(ties):
            label = results.cluster.sel(case=case).isel(step=-1, seed=0).values[:num]
            found = {one: k for k, one in enumerate(np.unique(label))}
            left.scatter(np.arange(num), [row] * num, c=[found[one] for one in label], cmap="nipy_spectral", s=14)
        left.set_yticks(range(len(ties)), [f"{case.split()[1]}" for case in ties])
        left.set_ylabel("tie")
        left.set_ylim(-0.5, len(ties) - 0.5)
        left.set_xlabel("region along the road, coloured by fused cluster")
        if "lasso 0.3" in have:
            one = results.sel(case="lasso 0.3").isel(seed=0, step=slice(1, None))
            best = results.objective.sel(case="long rho=1" if "long rho=1" in have else "lasso 0.3").isel(
                seed=0, step=-1
            )
            off = np.abs(one.objective.values - best.values).mean(axis=1) / np.abs(best.values).mean()
            right.semilogy(one.step, np.maximum(off, 1e-9), "o-", markersize=2, label="objective, relative")
            right.semilogy(one.step, one.primal_residual, label="primal residual")
            right.semilogy(one.step, one.dual_residual, label="dual residual")
            right.legend(fontsize=6)
            rate = float(one.bits_a_node[-1]) / 8 / 1024 / float(one.step[-1])
            right.set_xlabel(f"iteration, tie 0.3 ({rate:.1f} KiB sent by a node in each)")
        plotting.letters(panels, ("Detection", "False alarms", "Who fused", "Convergence"))
    return made
