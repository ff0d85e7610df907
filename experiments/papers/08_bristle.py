"""Bristle (08): can nodes that know a few classes learn the others from peers of which a third lie?

Verbraeken, de Vos, Pouwelse, Bristle: decentralized federated learning in Byzantine, non-i.i.d. environments, 2021.
Command: `dlsim run experiments/papers/08_bristle.py`

Nodes train the output layer over 256 frozen random features of handwritten digits, two examples a class and node, and send
it to all others after every batch of five.  `iid`: ten nodes hold all classes, and three of them train on labels shifted by
one where they lie (`flip`).  `skew`: ten nodes hold four neighbouring classes each (or as many as is said) and five more,
who hold all, train on shifted labels (`flip`) or send numbers drawn from [-0.2, 0.3) (`noise`).  Accuracy is that of the
honest on all ten classes, after 150 batches.

The paper says: with label skew 2.3 times the accuracy of the most robust baseline, and 90 % less traffic.  No other number of
it could be checked; what stands beside ours is from an independent NumPy program.

Measured (default mode, 2 draws with 2 seeds each): all claims hold.  With four classes a node and 5 of 15 flipping, Bristle
0.77, Krum 0.35, the median 0.25; against noise the median overtakes it, 0.83.  To an accuracy of 0.6 with four classes it
sends 4.3 MB a node where a network of which all layers are sent takes 86, and with all classes and no liar 0.46 and 13.8.

Departures: features are random where the authors pre-train a network; a node's own columns of classes that it does not hold
enter the integrator as they were sent, not after a training step; Krum's choice may be the node's own model; it guards
against four liars among ten nodes too, as theirs, which is beyond its condition.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from uniform_lies import uniform_lies

import dlsim
from dlsim import aggregators, checks, problems
from dlsim.experiment import Claim
from dlsim.learning.measures import only
from dlsim.problems.index_lists import LocalTest

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.3, "default": 7}  # on 2 cores
CITATION = (
    "Verbraeken, de Vos, Pouwelse, Bristle: decentralized federated learning in Byzantine, non-i.i.d. environments, "
    "arXiv:2110.11006, 2021."
)
SOURCE = "Verbraeken et al., 2021"
SCENARIOS = ("iid none", "iid flip", "skew4 flip", "skew4 noise")
RULES = ("none", "average", "median", "krum", "mozi", "bristle")
TITLES = {"krum": "Krum", "mozi": "MOZI", "bristle": "Bristle"}
NUM_HONEST, NUM_CLASSES = 10, 10
EXAMPLES = 2  # a class and node
NUM_TESTS = 10  # a familiar class
TIMES_BEST = 1.5  # C1
WITHIN, BELOW = 0.05, 0.2  # C2
TARGET = 0.6  # C3
FEW, MANY = 0.35, 0.65  # limits: with two classes a node below, with six above
REPORTED = {
    "iid none": {"none": 0.73, "average": 0.87, "median": 0.87, "krum": 0.83, "mozi": 0.86, "bristle": 0.82},
    "iid flip": {"none": 0.73, "average": 0.02, "median": 0.83, "krum": 0.81, "mozi": 0.87, "bristle": 0.83},
    "skew4 flip": {"none": 0.34, "average": 0.02, "median": 0.27, "krum": 0.33, "mozi": 0.35, "bristle": 0.65},
    "skew4 noise": {"none": 0.35, "average": 0.11, "median": 0.80, "krum": 0.31, "mozi": 0.35, "bristle": 0.79},
}


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("08_bristle", "mode", mode, MODES)
    config = ConfigDict()
    is_tiny = mode == "tiny"
    cases = [f"{scenario} {rule}" for scenario in SCENARIOS for rule in RULES]
    cases += [f"skew{num} flip {rule}" for num in (2, 6) for rule in ("median", "bristle")]
    cases += ["iid none whole-average", "skew4 flip whole-median"]
    config.case = ("skew4 flip median", "skew4 flip bristle") if is_tiny else tuple(cases)
    config.draw = {"tiny": (0,), "default": (0, 1), "paper": (0, 1, 2)}[mode]  # of features, and of who holds what
    config.num_seeds = 1 if is_tiny else 2  # of batches, and of whom a node looks at
    config.num_features = 800 if mode == "paper" else 256
    config.dataset = "mnist" if mode == "paper" else "digits"
    config.batch_size = 5
    config.learning_rate = 1e-3
    config.regularization = 5e-3
    config.num_steps = {"tiny": 20, "default": 150, "paper": 300}[mode]
    config.record_every = 5
    return config


def axes(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Every case (data, lies, rule) with every draw of features and of who holds what."""
    return {"case": config.case, "draw": config.draw}


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case."""
    spread, attack, name = config.case.split()
    checks.one_of("08_bristle", "attack", attack, ("none", "flip", "noise"))
    num_liars = 0 if attack == "none" else 3 if spread == "iid" else 5
    num_honest = NUM_HONEST if spread != "iid" else NUM_HONEST - num_liars
    per_node = NUM_CLASSES if spread == "iid" else int(spread.removeprefix("skew"))
    whole = name.startswith("whole-")
    name = name.removeprefix("whole-")
    held = _held(num_honest, num_liars, per_node)
    data = _data(config.dataset) if whole else _features(config.dataset, config.num_features, config.draw)
    problem = problems.supervised(
        problems.mlp(hidden=(config.num_features,)) if whole else problems.softmax_regression(use_bias=False),
        data,
        _parts(data, held, attack == "flip", num_honest, config.draw),
        batch_size=min(config.batch_size, EXAMPLES * per_node),
        regularization=config.regularization,
    )
    optimizer = optax.adam(config.learning_rate)
    liars = list(range(num_honest, num_honest + num_liars))
    if name == "none":
        algorithm = dlsim.algorithms.isolated_training(problem, optimizer)
    else:
        rule = _for_honest(_rule(name, problem), num_honest)
        trained = problems.own_classes(problem) if name == "bristle" else problem
        algorithm = dlsim.algorithms.dsgd(trained, optimizer, aggregator=rule)
    network = dlsim.networks.complete(num_honest + num_liars).with_lowering("neighbors")
    if attack == "noise":
        network = network.with_channel(uniform_lies(liars, -0.2, 0.3))
    process = dlsim.learn(problem, algorithm, network)
    measure = only(process, ("bits_sent",))

    def record(state: Any, info: dict[str, Any]) -> dict[str, Any]:
        models = jax.tree.map(lambda leaf: leaf[:num_honest], process.params(state))
        accuracy = jnp.mean(problem.evaluate(models, None)["accuracy"])
        return {**measure(state, info), "accuracy": accuracy, "num_nodes": jnp.asarray(num_honest + num_liars)}

    return process, dlsim.Record(every=config.record_every, fn=record)


def _rule(name: str, problem: dlsim.Problem) -> dlsim.Aggregator:
    # Four liars among ten nodes are more than Krum is made for (2 f + 3 values); the authors compare with it all the same.
    made = {
        "average": aggregators.mean,
        "median": aggregators.median,
        "krum": lambda: _half(aggregators.krum(4)._replace(bound=None)),
        "mozi": lambda: aggregators.mozi(problem, 0.5, otherwise="own"),
        "bristle": lambda: aggregators.bristle(problem),
    }
    return made[checks.one_of("08_bristle", "rule", name, RULES)]()


def _half(inner: dlsim.Aggregator) -> dlsim.Aggregator:
    """The mean of a node's own model and what the rule makes."""

    def apply(key: Any, state: Any, own: Any, inbox: Any) -> tuple[Any, Any]:
        state, values = inner.apply(key, state, own, inbox)
        return state, jax.tree.map(lambda a, b: (a + b) / 2, own, values)

    return inner._replace(apply=apply, linear=None)


def _for_honest(inner: dlsim.Aggregator, num_honest: int) -> dlsim.Aggregator:
    """Liars mix with nobody."""

    def apply(key: Any, state: Any, own: Any, inbox: Any) -> tuple[Any, Any]:
        state, values = inner.apply(key, state, own, inbox)
        return state, dlsim.trees.select(inbox.node_ids < num_honest, values, own)

    return inner._replace(apply=apply, linear=None)


def _held(num_honest: int, num_liars: int, per_node: int) -> list[list[int]]:
    """The classes of every node: neighbouring ones of the honest, all of liars."""
    of_honest = [[(node + k) % NUM_CLASSES for k in range(per_node)] for node in range(num_honest)]
    return of_honest + [list(range(NUM_CLASSES)) for _ in range(num_liars)]


@functools.cache
def _data(name: str) -> dlsim.problems.Dataset:
    return problems.load(name)


@functools.lru_cache(maxsize=3)
def _features(name: str, num_features: int, draw: int) -> dlsim.problems.Dataset:
    """relu(R x + b), entries of R and b normal of variance 1 / inputs, in units of four times their root mean square."""
    data = _data(name)
    rng = np.random.default_rng(100 + draw)

    def flat(inputs: np.ndarray) -> np.ndarray:
        return (inputs.reshape(len(inputs), -1).astype(np.float32) - data.offset) * data.scale

    width = flat(data.inputs[:1]).shape[1]
    matrix = rng.normal(size=(width, num_features)) / np.sqrt(width)
    shift = rng.normal(size=num_features) / np.sqrt(width)
    made = [np.maximum(flat(part) @ matrix + shift, 0) for part in (data.inputs, data.test_inputs)]
    unit = 4 * np.sqrt(np.mean(np.square(made[0])))
    inputs, tests = ((part / unit).astype(np.float32) for part in made)
    return problems.dataset(
        inputs, data.labels, test_inputs=tests, test_labels=data.test_labels, num_classes=NUM_CLASSES
    )


def _parts(data: Any, held: list[list[int]], flips: bool, num_honest: int, draw: int) -> dlsim.problems.Partition:
    """Two training examples a class and node, no two nodes the same, and ten tests of those that nobody trains on."""
    rng = np.random.default_rng(draw)
    pools = [rng.permutation(np.flatnonzero(np.asarray(data.labels) == c)).tolist() for c in range(NUM_CLASSES)]
    training = [[pools[c].pop() for c in classes for _ in range(EXAMPLES)] for classes in held]
    tests = [np.concatenate([rng.choice(pools[c], NUM_TESTS, replace=False) for c in classes]) for classes in held]
    parts = problems.partition_from_lists(training)
    own = problems.partition_from_lists(tests)
    parts = parts._replace(local_test=LocalTest(own.indices, own.offsets, own.sizes, of_training=True))
    if not flips:
        return parts
    seen = np.tile(np.arange(NUM_CLASSES, dtype=np.int32), (len(held), 1))
    seen[num_honest:] = (seen[num_honest:] - 1) % NUM_CLASSES
    return parts._replace(label_permutation=seen)


def _final(results: xarray.Dataset, case: str) -> np.ndarray:
    """Accuracy after the last step, by draw and seed."""
    return np.atleast_1d(results.accuracy.sel(case=case).isel(step=-1).values).reshape(-1)


def _text(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if values.size > 1 else "")


def _bits_to(results: xarray.Dataset, case: str) -> float:
    """Bits a node sends until the mean accuracy over draws is the target; infinite where it never is."""
    one = results.sel(case=case)
    mean = one.accuracy.mean([dim for dim in one.accuracy.dims if dim != "step"]).values
    bits = (one.bits_sent / one.num_nodes).mean([dim for dim in one.accuracy.dims if dim != "step"]).values
    reached = mean >= TARGET
    return float(bits[np.argmax(reached)]) if reached.any() else float("inf")


def claims(results: xarray.Dataset) -> list[Claim]:
    """The page's claims and limits; thresholds are the constants above."""
    have = set(results.case.values.tolist())
    is_long = results.sizes["step"] >= 30
    ends = {case: _final(results, case) for case in have}
    out = []
    skew = {rule: f"skew4 flip {rule}" for rule in RULES}
    if all(case in have for case in skew.values()):
        best = max((rule for rule in RULES if rule != "bristle"), key=lambda rule: ends[skew[rule]].mean())
        mine, theirs = ends[skew["bristle"]], ends[skew[best]]
        out.append(
            Claim(
                text=f"C1: four classes a node, 5 of 15 flip: Bristle has at least {TIMES_BEST:g} times the best baseline",
                source=f"{SOURCE}, 2.3 times the most robust baselines",
                reported="2.3 times; 0.65 against 0.37 in an independent NumPy program",
                measured=f"{_text(mine)} against {_text(theirs)} ({best}), {mine.mean() / theirs.mean():.2f} x",
                holds=bool(mine.mean() >= TIMES_BEST * theirs.mean()) if is_long else None,
            )
        )
    wanted = ("iid none bristle", "iid flip bristle", "iid flip average", "iid none average")
    if all(case in have for case in wanted):
        calm, attacked, average, plain = (ends[case] for case in wanted)
        out.append(
            Claim(
                text=f"C2: all classes at all nodes, 3 of 10 flip: Bristle is within {WITHIN:g} of what it is without, "
                f"the average below {BELOW:g}",
                source=f"{SOURCE}, consistent accuracy in Byzantine settings",
                reported="0.83 and 0.82, average 0.02",
                measured=f"{_text(attacked)} and {_text(calm)}, average {_text(average)}",
                holds=bool(attacked.mean() >= calm.mean() - WITHIN and average.mean() < BELOW) if is_long else None,
            )
        )
        out.append(
            Claim(
                text="Limit: with all classes at all nodes and no liar the plain average is better than Bristle",
                source="not the paper's",
                reported="0.87 against 0.82",
                measured=f"{_text(plain)} against {_text(calm)}",
                holds=bool(plain.mean() > calm.mean()) if is_long else None,
            )
        )
    return [*out, *_traffic(results, have, is_long), *_few_classes(ends, is_long)]


def _traffic(results: xarray.Dataset, have: set[str], is_long: bool) -> list[Claim]:
    out = []
    for mine, whole in (
        ("iid none bristle", "iid none whole-average"),
        ("skew4 flip bristle", "skew4 flip whole-median"),
    ):
        if mine not in have or whole not in have:
            continue
        layer, all_layers = (_bits_to(results, case) for case in (mine, whole))
        size = [
            float((results.bits_sent / results.num_nodes).sel(case=case).isel(step=-1).mean()) for case in (mine, whole)
        ]
        ratio = size[1] / size[0]
        out.append(
            Claim(
                text=f"C3, {mine.rsplit(' ', 1)[0]}: to an accuracy of {TARGET:g} Bristle sends fewer bits than a network "
                f"that sends all its layers ({whole.rsplit('-', 1)[1]}), by the ratio of their messages at least",
                source=f"{SOURCE}, 90 % less communication",
                reported="10 times",
                measured=f"{layer / 8e6:.2f} against {all_layers / 8e6:.2f} MB a node; messages {ratio:.1f} times smaller",
                holds=bool(layer * ratio <= all_layers * 1.0001 and np.isfinite(layer)) if is_long else None,
            )
        )
    return out


def _few_classes(ends: dict[str, np.ndarray], is_long: bool) -> list[Claim]:
    few, many = (f"skew{num} flip bristle" for num in (2, 6))
    if few not in ends or many not in ends:
        return []
    return [
        Claim(
            text=f"Limit: with two classes a node Bristle fails too (at most {FEW:g}), with six it is at {MANY:g} or more",
            source="not the paper's",
            reported="0.17 and 0.77",
            measured=f"{_text(ends[few])} and {_text(ends[many])}",
            holds=bool(ends[few].mean() <= FEW and ends[many].mean() >= MANY) if is_long else None,
        )
    ]


def figure(results: xarray.Dataset) -> Figure:
    """Accuracy against batches, a panel a scenario; final accuracy against the classes of a node."""
    from dlsim import plotting

    have = set(results.case.values.tolist())
    names = {
        "iid none": "All classes, no liar",
        "iid flip": "All classes, 3 of 10 flip",
        "skew4 flip": "Four classes, 5 of 15 flip",
        "skew4 noise": "Four classes, 5 of 15 noise",
    }
    with plotting.style():
        made, panels = plotting.panels(2, 3, height=5.2)
        places = (panels[0, 0], panels[0, 1], panels[1, 0], panels[1, 1])
        for axes_, scenario in zip(places, SCENARIOS, strict=True):
            for place, rule in enumerate(RULES):
                if f"{scenario} {rule}" in have:
                    one = results.accuracy.sel(case=f"{scenario} {rule}")
                    one = one.mean([dim for dim in one.dims if dim != "step"])
                    axes_.plot(one.step, one, color=plotting.COLORS[place], lw=1, label=TITLES.get(rule, rule))
            axes_.set_xlabel("batches")
            axes_.set_ylabel("accuracy, all classes")
            axes_.set_ylim(0, 1)
        panels[1, 0].legend(fontsize=5)
        bars = panels[0, 2]
        for place, rule in enumerate(("median", "bristle")):
            there = [num for num in (2, 4, 6) if f"skew{num} flip {rule}" in have]
            ends = [_final(results, f"skew{num} flip {rule}") for num in there]
            bars.bar(
                [num + 0.5 * (place - 0.5) for num in there],
                [end.mean() for end in ends],
                0.45,
                yerr=[end.std() for end in ends],
                color=plotting.COLORS[RULES.index(rule)],
                label=TITLES.get(rule, rule),
            )
        bars.set_xlabel("classes a node, 5 of 15 flip")
        bars.set_ylabel("final accuracy")
        bars.set_ylim(0, 1)
        bars.legend(fontsize=5)
        right = panels[1, 2]
        for place, case in enumerate(("iid none bristle", "iid none whole-average")):
            if case in have:
                one = results.sel(case=case)
                over = [dim for dim in one.accuracy.dims if dim != "step"]
                sent = (one.bits_sent / one.num_nodes / 8e6).mean(over)
                label = "Bristle, output layer" if place == 0 else "average, all layers"
                right.plot(
                    sent.isel(step=slice(1, None)), one.accuracy.mean(over).isel(step=slice(1, None)), label=label
                )
        right.axhline(TARGET, color="0.6", lw=0.7, ls="--")
        right.set_xscale("log")
        right.set_xlabel("MB sent a node")
        right.set_ylabel("accuracy, all classes")
        if right.lines[1:]:
            right.legend(fontsize=5)
        titles = [names[scenario] for scenario in SCENARIOS]
        plotting.letters(panels, (titles[0], titles[1], "How many classes", titles[2], titles[3], "What it costs"))
    return made
