"""SybilWall (13): one adversary with many names poisons a sparse network. Who finds out that they say the same?

Werthenbach, Pouwelse, Towards Sybil resilience in decentralized learning, 2023.
Command: `dlsim run experiments/papers/13_sybilwall.py`

Forty-nine honest nodes of a random geometric graph (radius 0.3, at most 7 links each) hold 28 handwritten digits each of
Dirichlet class shares (alpha 0.1 or 1) and train softmax regression, 5 epochs a round. An adversary trains one model on
poisoned data and sends it to its victims under many names; phi attack edges an honest node. It flips the labels of zeros and
ones (and holds all of them), or teaches a backdoor. Rules: the plain mean, FoolsGold (weight for whom no other neighbour
resembles), SybilWall (the same, compared with models of nodes farther away, which one random record a link and round
brings), and everybody alone.

The paper says: SybilWall alone has consistent accuracy whatever the attack; more Sybils do not pay. None of its table values
could be verified, so those reported are of an independent NumPy program.

Measured (default mode, 3 seeds): attack score at phi = 0.5, 1, 2 with alpha = 0.1 0.20, 0.06, 0.00 for SybilWall, 0.72, 0.86,
0.00 for FoolsGold, 0.18, 0.67, 0.91 for the mean; accuracy over phi 0.82 to 0.88, 0.67 to 0.91, 0.65 to 0.91, alone 0.26.
Six claims hold.  Two do not, as thresholds go.  Labels flipped, alpha = 1, phi = 1: the mean is fooled less than the
independent program says, 0.25 for 0.76 (SybilWall 0.07, FoolsGold 0.86); it takes two attack edges a node, 0.73.  Backdoor,
alpha = 0.1: SybilWall's score is 0.26 where 0.2 was allowed (FoolsGold and mean 0.94).  It is still falling when the run
ends, from 0.57 in round 3 to 0.34 in round 18 and 0.24 in round 30: who learns from few classes forgets a backdoor slowly.

Departures: digits for MNIST; balanced Dirichlet shares, so that nobody is without data; the adversary's own examples of the
two classes count once beside all others' (its code holds them twice); Sybils aggregate one by one and say the mean, where
the adversary's one model takes the mean over all victims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import aggregators, checks, networks, problems
from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.3, "default": 10}  # on 2 cores
CITATION = "Werthenbach, Pouwelse, Towards Sybil resilience in decentralized learning, 2023."
SOURCE = "Werthenbach and Pouwelse, 2023"
RULES = ("average", "foolsgold", "sybilwall", "local")
NAMES = {"average": "mean", "foolsgold": "FoolsGold", "sybilwall": "SybilWall", "local": "alone"}
ATTACKS = ("flip", "backdoor")
FLIP, TARGET = {0: 1, 1: 0}, 1
LAST = 5  # rounds that results are means over
CAUGHT, FOOLED, POISONED = 0.2, 0.5, 0.6  # attack score at phi = 1: SybilWall at most, FoolsGold and the mean at least
STEADY, FALLS = 0.15, 0.2  # accuracy over phi: SybilWall varies by at most, the mean at alpha = 0.1 by at least
WORTH = 0.15  # accuracy: SybilWall above training alone
PRICE = 0.13  # accuracy without Sybils: SybilWall below the mean at most
# Accuracy and attack score of an independent NumPy program, flipped labels.
CHECKED = {
    0.1: {
        "average": {0: (0.79, 0), 0.5: (0.70, 0.52), 1: (0.63, 0.91), 2: (0.58, 0.98), 4: (0.52, 0.99)},
        "foolsgold": {0: (0.73, 0), 0.5: (0.60, 0.63), 1: (0.55, 0.81), 2: (0.73, 0), 4: (0.73, 0)},
        "sybilwall": {0: (0.69, 0), 0.5: (0.65, 0.32), 1: (0.69, 0.08), 2: (0.72, 0), 4: (0.71, 0)},
    },
    1.0: {"average": {1: (0.76, 0.76)}, "foolsgold": {1: (0.64, 0.97)}, "sybilwall": {1: (0.89, 0.05)}},
}
CHECKED_BACKDOOR = {0.1: {"average": 0.91, "foolsgold": 0.76, "sybilwall": 0.10}}


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("13_sybilwall", "mode", mode, MODES)
    config = ConfigDict()
    is_tiny, is_paper = mode == "tiny", mode == "paper"
    densities = (0, 1) if is_tiny else (0, 0.1, 0.25, 0.5, 1, 1.5, 2, 4) if is_paper else (0, 0.5, 1, 2, 4)
    alphas = (0.1,) if is_tiny else (0.1, 1)
    rules = ("average", "sybilwall") if is_tiny else RULES[:3]
    cases = [f"{rule} flip alpha={a:g} phi={phi:g}" for a in alphas for rule in rules for phi in densities]
    cases += [f"local flip alpha={a:g} phi=0" for a in alphas]
    if not is_tiny:
        cases += [f"{rule} backdoor alpha={a:g} phi=1" for a in alphas for rule in rules]
        cases += [f"{rule} flip alpha=0.1 phi=1 {kind}" for kind in ("dense", "echo") for rule in rules]
    config.case = tuple(cases)
    config.num_seeds = 1 if is_tiny else 3
    config.num_steps = {"tiny": 5, "default": 30, "paper": 100}[mode]
    config.dataset = "mnist" if is_paper else "digits"
    config.num_honest = {"tiny": 16, "default": 49, "paper": 99}[mode]
    config.radius = {"tiny": 0.45, "default": 0.3, "paper": 0.2}[mode]
    config.max_degree = 7
    config.graph_seed = 1
    config.data_seed = 0
    config.num_local_epochs = {"tiny": 1, "default": 5, "paper": 10}[mode]
    config.batch_size = 8
    config.learning_rate = 0.01 if is_paper else 0.1
    config.decay = 0.8
    config.num_records = 32
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Every case: a rule, an attack, how uneven data are, how many attack edges there are and where."""
    return {"case": config.case}


def _parse(case: str) -> tuple[str, str, float, float, str]:
    rule, attack, alpha, phi, *pattern = case.split()
    return rule, attack, float(alpha.split("=")[1]), float(phi.split("=")[1]), pattern[0] if pattern else "distributed"


def _joined(config: ConfigDict, phi: float, pattern: str) -> networks.Joined:
    drawn = networks.random_geometric(config.num_honest, config.radius, seed=config.graph_seed)
    honest = networks.limit_degrees(drawn, config.max_degree, seed=config.graph_seed)
    return networks.join_sybils(honest, phi, pattern=pattern, max_degree=config.max_degree, seed=config.graph_seed)


def _trigger(data: problems.Dataset) -> problems.Trigger:
    """Three by three pixels in the first corner."""
    mask = np.zeros(data.inputs.shape[1:], bool)
    mask[:3, :3] = True
    return problems.Trigger(mask, data.inputs.max())


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case."""
    rule, attack, alpha, phi, pattern = _parse(config.case)
    checks.one_of("13_sybilwall", "rule", rule, RULES)
    checks.one_of("13_sybilwall", "attack", attack, ATTACKS)
    num = config.num_honest
    joined = _joined(config, phi, pattern)
    sybils = joined.node_ids
    # The adversary has a share like anybody, and so has each of its Sybils the same; it knows all of the two classes.
    data = problems.load(config.dataset)
    shares = problems.partition(data, num + 1, problems.dirichlet(alpha), seed=config.data_seed)
    known = shares.of_node(num)
    if attack == "flip":
        known = np.union1d(known, np.flatnonzero(np.isin(data.labels, list(FLIP))))
    parts = problems.partition_from_lists([shares.of_node(node) for node in range(num)] + [known] * len(sybils))
    trigger = _trigger(data)
    poisoned = data, parts
    if len(sybils) and attack == "flip":
        poisoned = problems.label_flip(data, parts, sybils, FLIP)
    elif len(sybils):
        poisoned = problems.backdoor(data, parts, sybils, trigger, TARGET, share=1.0)
    problem = problems.supervised("softmax", *poisoned, batch_size=config.batch_size)
    if attack == "flip":
        problem = problems.with_flip_rate(problem, data, FLIP)
    else:
        problem = problems.with_backdoor_rate(problem, data, trigger, TARGET)
    network = networks.connect(joined.graph, "uniform_neighbor", "neighbors")
    if len(sybils):
        network = network.with_channel(networks.byzantine(sybils, "echo"))
    optimizer = optax.sgd(config.learning_rate)
    if rule == "local":
        algorithm = dlsim.algorithms.isolated_training(problem, optimizer, num_local_epochs=config.num_local_epochs)
    else:
        algorithm = dlsim.algorithms.dsgd(
            problem,
            optimizer,
            num_local_epochs=config.num_local_epochs,
            aggregator=_aggregator(config, rule, np.arange(num + len(sybils)) >= num),
        )
    process = dlsim.learn(problem, algorithm, network)
    assert process.params is not None
    models = process.params

    def record(state: Any, info: Any) -> dict[str, jax.Array]:
        honest = jax.tree.map(lambda leaf: leaf[:num], models(state))
        found = problem.evaluate(honest, jnp.arange(num))
        return {
            "accuracy": jnp.mean(found["accuracy"]),
            "success": jnp.mean(found["flip_rate" if attack == "flip" else "backdoor_rate"]),
            "worst_accuracy": jnp.min(found["accuracy"]),
            "num_sybils": jnp.asarray(len(sybils)),
        }

    return process, dlsim.Record(every=1, fn=record)


def _aggregator(config: ConfigDict, rule: str, is_sybil: np.ndarray) -> dlsim.Aggregator | None:
    """The honest nodes' rule; the adversary takes the mean whatever they do."""
    if rule == "average":
        return None
    honest = aggregators.foolsgold()
    if rule == "sybilwall":
        honest = aggregators.sybil_wall(num_records=config.num_records, decay=config.decay)
    return aggregators.by_node((honest, aggregators.mean()), is_sybil.astype(int)) if is_sybil.any() else honest


def _late(results: xarray.Dataset, case: str, name: str) -> np.ndarray:
    """Mean over the last rounds, by seed."""
    return np.atleast_1d(results[name].sel(case=case).isel(step=slice(-LAST, None)).mean("step").values)


def _text(values: np.ndarray) -> str:
    spread = f" ± {values.std(ddof=1):.2f}" if values.size > 1 else ""
    return f"{values.mean():.2f}{spread}"


def _by_density(results: xarray.Dataset, rule: str, alpha: float, name: str) -> dict[float, np.ndarray]:
    """Of the flip attack with edges all over, by phi."""
    out = {}
    for case in results.case.values.tolist():
        its_rule, attack, its_alpha, phi, pattern = _parse(case)
        if (its_rule, attack, its_alpha, pattern) == (rule, "flip", alpha, "distributed"):
            out[phi] = _late(results, case, name)
    return dict(sorted(out.items()))


def claims(results: xarray.Dataset) -> list[Claim]:
    """What the page asks for; thresholds are the constants above."""
    have = results.case.values.tolist()
    is_long = results.sizes["step"] >= 30
    out = []
    for attack in ATTACKS:
        for alpha in (0.1, 1.0):
            names = [f"{rule} {attack} alpha={alpha:g} phi=1" for rule in ("sybilwall", "foolsgold", "average")]
            if not all(name in have for name in names):
                continue
            wall, fools, mean = (_late(results, name, "success") for name in names)
            holds = wall.mean() <= CAUGHT and fools.mean() >= FOOLED and mean.mean() >= POISONED
            out.append(
                Claim(
                    text=f"C1, {attack}, alpha = {alpha:g}, phi = 1: attack score at most {CAUGHT:g} with SybilWall, "
                    f"at least {FOOLED:g} with FoolsGold and {POISONED:g} with the mean",
                    source=f"{SOURCE}; numbers of an independent program",
                    reported=_reported(attack, alpha),
                    measured=f"{_text(wall)}, {_text(fools)}, {_text(mean)}",
                    holds=bool(holds) if is_long else None,
                )
            )
    for alpha in (0.1, 1.0):
        wall, mean = (_by_density(results, rule, alpha, "accuracy") for rule in ("sybilwall", "average"))
        alone = _by_density(results, "local", alpha, "accuracy").get(0.0)
        if not wall or not mean or alone is None:
            continue
        spread, falls = (
            max(v.mean() for v in one.values()) - min(v.mean() for v in one.values()) for one in (wall, mean)
        )
        least = min(v.mean() for v in wall.values())
        is_steady = spread <= STEADY and least >= alone.mean() + WORTH and (alpha == 1.0 or falls >= FALLS)
        more = f", the mean's by at least {FALLS:g}" if alpha < 1 else ""
        out.append(
            Claim(
                text=f"C2, alpha = {alpha:g}: over phi SybilWall's accuracy varies by at most {STEADY:g}{more}; everywhere "
                f"{WORTH:g} above training alone",
                source=f"{SOURCE}, abstract: consistent accuracy",
                reported="varies by 0.07 (mean 0.27), at least 0.65, alone 0.24" if alpha < 1 else "0.89 at phi = 1",
                measured=f"varies by {spread:.2f} (mean {falls:.2f}), at least {least:.2f}, alone {_text(alone)}",
                holds=bool(is_steady) if is_long else None,
            )
        )
    scores = _by_density(results, "sybilwall", 0.1, "success")
    if all(phi in scores for phi in (0.5, 1.0, 2.0)):
        few, one, two = (scores[phi] for phi in (0.5, 1.0, 2.0))
        out.append(
            Claim(
                text="C3: fewer Sybils succeed more, SybilWall's attack score falls from phi = 0.5 to 1 to 2 (alpha = 0.1)",
                source=f"{SOURCE}, abstract",
                reported="0.32, 0.08, 0",
                measured=f"{_text(few)}, {_text(one)}, {_text(two)}",
                holds=bool(few.mean() > one.mean() > two.mean()) if is_long else None,
            )
        )
    costs = {a: [_by_density(results, r, a, "accuracy").get(0.0) for r in ("average", "sybilwall")] for a in (0.1, 1.0)}
    known = {a: mean.mean() - wall.mean() for a, (mean, wall) in costs.items() if mean is not None and wall is not None}
    if known:
        out.append(
            Claim(
                text=f"Limit: without Sybils SybilWall is below the mean, by at most {PRICE:g}",
                source="an independent program: weights of honest twins are cut",
                reported="0.01 to 0.13",
                measured=", ".join(f"{cost:.2f} (alpha = {a:g})" for a, cost in known.items()),
                holds=bool(all(0 <= cost <= PRICE for cost in known.values())) if is_long else None,
            )
        )
    return out


def _reported(attack: str, alpha: float) -> str:
    if attack == "backdoor":
        known = CHECKED_BACKDOOR.get(alpha)
        return (
            "not known"
            if known is None
            else ", ".join(f"{known[r]:.2f}" for r in ("sybilwall", "foolsgold", "average"))
        )
    return ", ".join(f"{CHECKED[alpha][rule][1][1]:.2f}" for rule in ("sybilwall", "foolsgold", "average"))


def figure(results: xarray.Dataset) -> Figure:
    """Accuracy and attack score against phi, by alpha; attack score by round, and where the attack edges are."""
    from dlsim import plotting

    with plotting.style():
        made, panels = plotting.panels(2, 3, height=4.6)
        for column, alpha in enumerate((0.1, 1.0)):
            for row, (name, label) in enumerate((("accuracy", "accuracy (%)"), ("success", "attack score (%)"))):
                _against_density(panels[row, column], results, alpha, name)
                panels[row, column].set_ylabel(label)
        _by_round(panels[0, 2], results)
        _by_pattern(panels[1, 2], results)
        panels[0, 0].legend(fontsize=6)
        titles = ("Accuracy, alpha = 0.1", "Accuracy, alpha = 1", "By round, phi = 1")
        plotting.letters(panels, (*titles, "Attack, alpha = 0.1", "Attack, alpha = 1", "Where edges are"))
    return made


def _against_density(ax: Axes, results: xarray.Dataset, alpha: float, name: str) -> None:
    from dlsim import plotting

    for place, rule in enumerate(RULES):
        found = _by_density(results, rule, alpha, name)
        color = plotting.COLORS[place]
        if rule == "local" and found:
            ax.axhline(100 * found[0.0].mean(), ls="--", lw=1, color=color, label=NAMES[rule])
        elif found:
            means = np.array([100 * v.mean() for v in found.values()])
            spread = np.array([100 * v.std(ddof=1) if v.size > 1 else 0.0 for v in found.values()])
            ax.plot(list(found), means, "o-", color=color, markersize=3, label=NAMES[rule])
            ax.fill_between(list(found), means - spread, means + spread, color=color, alpha=0.2, lw=0)
        known = CHECKED[alpha].get(rule, {})
        if known:
            values = [100 * pair[name == "success"] for pair in known.values()]
            ax.plot(list(known), values, "x", color=color, markersize=4)
    ax.set_xlabel("attack edges an honest node, phi")
    ax.set_ylim(-3, 103)


def _by_round(ax: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    for place, rule in enumerate(RULES[:3]):
        case = f"{rule} flip alpha=0.1 phi=1"
        if case in results.case.values:
            one = 100 * results.success.sel(case=case)
            one = one.mean("seed") if "seed" in one.dims else one
            ax.plot(results.step.values, one.values, color=plotting.COLORS[place], label=NAMES[rule])
    ax.set_xlabel("round")
    ax.set_ylabel("attack score (%)")
    ax.set_ylim(-3, 103)


def _by_pattern(ax: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    kinds = {"distributed": "", "dense": " dense", "echo": " echo"}
    for place, rule in enumerate(RULES[:3]):
        cases = [f"{rule} flip alpha=0.1 phi=1{suffix}" for suffix in kinds.values()]
        if all(case in results.case.values for case in cases):
            values = [_late(results, case, "success") for case in cases]
            ax.bar(
                np.arange(3) + 0.26 * (place - 1),
                [100 * v.mean() for v in values],
                0.24,
                yerr=[100 * v.std(ddof=1) if v.size > 1 else 0.0 for v in values],
                color=plotting.COLORS[place],
            )
    ax.set_xticks(range(3), list(kinds))
    ax.set_ylabel("attack score (%)")
    ax.set_ylim(-3, 103)
