"""IP protection (21): do marks of ownership survive training together, and what removes them?

Jiang, Gao, Zhou, Hu, Fu, Susilo, Intellectual property protection for deep learning model and dataset intelligence, 2024
(survey).  Command: `dlsim run experiments/papers/21_ip_protection.py`

Ten clients train an MLP 64-256-10 with a scale vector after the first layer on the digits by FedAvg, two local epochs a
round.  Each embeds secret bits of its own in the signs of projections of the scale, and ten triggers of its own (FedIPR).
Then the model is pruned, quantised, fine-tuned, overwritten, and copied by its answers.  Others train as free riders, on
stamped data, with a key without which the model does not work, or alone, for fingerprints.

    case             what is trained
    plain            no mark
    bits b a         b bits a client at strength a, and triggers
    narrow b         the same with a scale of 64 numbers
    riders           16 bits; clients 8 and 9 never train
    server           a trigger set of the server's own (WAFFLE)
    stamped r        a share r of all data carries a patch and a target label
    locked           every client holds a secret bit for each number of the scale, and trains the locked model
    alone            ten models that never meet: the first one's fingerprint against the others and its own copies

The survey reports no experiment; numbers beside ours are of an independent program with one seed.  Thresholds were set
before the first run.

The default mode has not been run yet: no claim is decided.

Departures: inputs have mean 0 and variance 1; triggers are noise; see `dlsim.trust`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from marks_claims import KNOWN, PRUNED, at_end, decided
from ml_collections import ConfigDict

import dlsim
from dlsim import checks, keys, trust
from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "21_ip_protection"
MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.5, "default": 5}  # on 2 cores
CITATION = (
    "Jiang, Gao, Zhou, Hu, Fu, Susilo, Intellectual property protection for deep learning model and dataset intelligence, "
    "2024."
)
SCALARS = ("accuracy", "bit_detection", "trigger_accuracy", "foreign", "quantised", "finetuned", "overwritten")
SCALARS = (*SCALARS, "finetuned_accuracy", "trainers", "idle", "gain", "gain_spread", "num_asked")
SCALARS = (*SCALARS, "copied", "copied_accuracy", "no_key", "anew")
SHAPES = {"pruned_accuracy": (len(PRUNED),), "pruned_bits": (len(PRUNED),), "others": (9,), "copies": (9,)}
SHAPES |= {"by_key": (len(KNOWN),)}
FRACTIONS = np.linspace(0.05, 0.45, 5)  # of weights pruned from copies, beside four that are quantised


class ScaledMLP(linen.Module):
    """relu(scale * (W x + b)), then a layer of outputs."""

    width: int

    @linen.compact
    def __call__(self, inputs: Any) -> Any:
        hidden = linen.Dense(self.width)(inputs.reshape(inputs.shape[0], -1))
        scale = self.param("scale", linen.initializers.ones, (self.width,))
        return linen.Dense(10)(linen.relu(scale * hidden))


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of(NAME, "mode", mode, MODES)
    is_tiny = mode == "tiny"
    config = ConfigDict()
    bits = ["bits 8 0.1"] if is_tiny else [f"bits {b} 0.1" for b in (4, 8, 16, 32)] + ["bits 32 0.3"]
    rest = (
        []
        if is_tiny
        else ["narrow 2", "narrow 6", "narrow 40", "riders", "server", "stamped 0", "stamped 0.1", "locked"]
    )
    config.case = ("plain", *bits, *rest, "alone")
    config.num_clients = 10
    config.width = 32 if is_tiny else 256
    config.num_triggers = 10
    config.margin = 0.1
    config.batch_size = 16
    config.learning_rate = 0.1
    config.num_local_epochs = 1 if is_tiny else 2
    config.num_pairs = 10 if is_tiny else 100  # of a fingerprint
    config.attack_steps = 10 if is_tiny else 200  # of fine-tuning and overwriting
    config.num_steps = 2 if is_tiny else 60
    config.num_seeds = {"tiny": 1, "default": 3, "paper": 10}[mode]
    config.record_every = {"tiny": 2, "default": 30, "paper": 10}[mode]
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Every case."""
    return {"case": config.case}


@functools.lru_cache(maxsize=4)
def _data(fraction: float) -> tuple[Any, Any]:
    data = dlsim.problems.load("digits")
    return trust.watermark_dataset(data, fraction) if fraction > 0 else (data, trust.watermark_dataset(data, 1.0)[1])


def _problem(config: ConfigDict, width: int, fraction: float = 0.0) -> dlsim.Problem:
    data, _ = _data(fraction)
    parts = dlsim.problems.partition(data, config.num_clients, dlsim.problems.iid(), seed=0)
    return dlsim.problems.supervised(ScaledMLP(width), data, parts, batch_size=config.batch_size)


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case."""
    kind, *rest = config.case.split()
    known = ("plain", "bits", "narrow", "riders", "server", "stamped", "locked", "alone")
    checks.one_of(NAME, "case", kind, known)
    b = 16 if kind == "riders" else int(rest[0]) if kind in ("bits", "narrow") else 8
    plain = _problem(config, 64 if kind == "narrow" else config.width, float(rest[0]) if kind == "stamped" else 0.0)
    marks, foreign, attacker = (_marks(plain, b, seed) for seed in (0, 1, 2))
    strength = jnp.float32(rest[1] if kind == "bits" else 0.1)  # data: cases that differ in it alone are one program
    problem = plain
    if kind in ("bits", "narrow", "riders"):
        triggers = trust.noise_triggers(plain, config.num_triggers)
        problem = trust.trigger_watermark(problem, triggers)
        problem = trust.feature_watermark(problem, marks, strength=strength, margin=config.margin)
    if kind == "riders":
        problem = trust.free_riding(problem, np.arange(config.num_clients) >= 8, noise=0.001)
    lock = trust.model_lock(plain, "scale")
    if kind == "locked":
        problem = trust.locked_problem(plain, lock)
    optimizer = optax.sgd(config.learning_rate)
    if kind == "alone":
        steps = config.num_local_epochs * (143 // config.batch_size + 1)
        algorithm = dlsim.algorithms.isolated_training(problem, optimizer, num_local_steps=steps)
        process = dlsim.learn(problem, algorithm, dlsim.networks.ring(config.num_clients), initial_params="own")
    else:
        algorithm = dlsim.algorithms.fedavg(problem, optimizer, num_local_epochs=config.num_local_epochs)
        server = trust.pattern_triggers(plain, 2)
        if kind == "server":
            algorithm = trust.server_watermark(algorithm, plain, server, optax.sgd(0.05))
        process = dlsim.learn(problem, algorithm, dlsim.networks.complete(config.num_clients))

    def record(state: Any, info: Any) -> Any:
        del info
        models = process.params(state)
        model = jax.tree.map(lambda leaf: leaf[0], models)
        found: dict[str, Any] = {}
        if kind == "alone":
            found |= _fingerprints(plain, models, config.num_pairs)
        else:
            found |= {name: value[0] for name, value in problem.evaluate(models, None).items()}
            found["bit_detection"] = jnp.mean(trust.bit_detection(marks, models))
            found["foreign"] = jnp.mean(trust.bit_detection(foreign, models))
        if kind == "server":
            found["trigger_accuracy"] = trust.trigger_accuracy(plain, server, models)[0, 0]
        if kind in ("plain", "bits"):
            found |= _attacked(plain, marks, attacker, model, config)
        if kind == "riders":
            each = trust.bit_detection(marks, models)[:, 0]
            found |= {"trainers": jnp.min(each[:8]), "idle": jnp.max(each[8:])}
        if kind == "locked":
            found |= _without_key(plain, lock, model, config)
        if kind == "stamped":
            found |= _gain(plain, model)
        shapes = {**dict.fromkeys(SCALARS, ()), **SHAPES}
        return {n: jnp.broadcast_to(jnp.asarray(found.get(n, jnp.nan), jnp.float32), s) for n, s in shapes.items()}

    return process, dlsim.Record(every=config.record_every, fn=record)


def _marks(problem: dlsim.Problem, num_bits: int, seed: int) -> trust.FeatureMarks:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some cases are over capacity is their point
        return trust.feature_marks(problem, num_bits, "scale", seed=seed)


def _attacked(
    plain: dlsim.Problem, marks: trust.FeatureMarks, attacker: trust.FeatureMarks, model: Any, config: ConfigDict
) -> dict[str, Any]:
    """What a thief who holds the first client's data can do to the model."""
    pruned = jax.vmap(lambda fraction: trust.prune_weights(model, fraction))(jnp.asarray(PRUNED))
    overwriting = trust.feature_watermark(plain, attacker, strength=0.3, margin=config.margin)
    changed = {
        "quantised": trust.quantize_weights(model, 4),
        "finetuned": _trained(plain, model, config),
        "overwritten": _trained(overwriting, model, config),
        "copied": _copied(plain, model, config),
    }
    models = jax.tree.map(
        lambda *leaves: jnp.concatenate([leaves[0], jnp.stack(leaves[1:])]), pruned, *changed.values()
    )
    bits = jnp.mean(trust.bit_detection(marks, models), axis=0)
    right = plain.evaluate(models, None)["accuracy"]
    found = dict(zip(changed, right[len(PRUNED) :], strict=True))
    return {
        "pruned_accuracy": right[: len(PRUNED)],
        "pruned_bits": bits[: len(PRUNED)],
        "finetuned_accuracy": found["finetuned"],
        "copied_accuracy": found["copied"],
        **dict(zip(changed, bits[len(PRUNED) :], strict=True)),
    }


def _trained(problem: dlsim.Problem, model: Any, config: ConfigDict) -> Any:
    """The model after steps on the first client's data."""

    def one(t: Any, params: Any) -> Any:
        gradient, _ = problem.gradient(keys.fold_in(jax.random.key(5), t), params, jnp.zeros(1, jnp.int32))
        return jax.tree.map(lambda x, g: x - config.learning_rate * g, params, gradient)

    start = jax.tree.map(lambda leaf: leaf[None], model)
    return jax.tree.map(lambda leaf: leaf[0], jax.lax.fori_loop(0, config.attack_steps, one, start))


def _copied(plain: dlsim.Problem, model: Any, config: ConfigDict) -> Any:
    """A fresh model trained on the model's answers to the first client's inputs."""
    apply = plain.model.apply

    def one(t: Any, params: Any) -> Any:
        inputs = plain.sample(keys.fold_in(jax.random.key(6), t), jnp.zeros(1, jnp.int32)).inputs[0]
        answers = jnp.argmax(apply(model, inputs), axis=-1)

        def loss(own: Any) -> Any:
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(apply(own, inputs), answers))

        return jax.tree.map(lambda x, g: x - config.learning_rate * g, params, jax.grad(loss)(params))

    return jax.lax.fori_loop(0, config.attack_steps, one, plain.init(jax.random.key(7)))


def _without_key(plain: dlsim.Problem, lock: trust.ModelLock, model: Any, config: ConfigDict) -> dict[str, Any]:
    """What a locked model is worth to who knows no bit of the key, or some, or trains it further."""
    order = jax.random.permutation(jax.random.key(8), lock.signs.size)

    def with_key(share: Any) -> Any:
        is_known = order < jnp.round(share * lock.signs.size)
        return trust.lock_weights(lock._replace(signs=jnp.where(is_known, lock.signs, -lock.signs)), model)

    guessed = jax.vmap(with_key)(jnp.asarray(KNOWN))
    tuned, anew = (_trained(plain, start, config) for start in (model, plain.init(jax.random.key(7))))
    models = jax.tree.map(lambda many, *one: jnp.concatenate([many, jnp.stack(one)]), guessed, model, tuned, anew)
    right = plain.evaluate(models, None)["accuracy"]
    names = ("no_key", "finetuned_accuracy", "anew")
    return {"by_key": right[: len(KNOWN)], **dict(zip(names, right[len(KNOWN) :], strict=True))}


def _gain(plain: dlsim.Problem, model: Any) -> dict[str, Any]:
    """p(target | stamped x) - p(target | x) on test images of other classes: mean and standard deviation."""
    data, stamp = _data(0.0)
    images = data.test_inputs[data.test_labels != stamp.target]

    def chance(raw: np.ndarray) -> Any:
        inputs = jnp.asarray((raw.astype(np.float32) - data.offset) * data.scale)
        return jax.nn.softmax(plain.model.apply(model, inputs))[:, stamp.target]

    gain = chance(trust.stamped(images, stamp)) - chance(images)
    return {"gain": jnp.mean(gain), "gain_spread": jnp.std(gain, ddof=1), "num_asked": gain.size}


def _fingerprints(plain: dlsim.Problem, models: Any, num_pairs: int) -> dict[str, Any]:
    """How often others, and changed copies, answer as the first model does beside its boundary."""
    from dlsim.trust.marks.fingerprints import boundary_points

    first = jax.tree.map(lambda leaf: leaf[0], models)
    inputs = jnp.asarray(dlsim.problems.shared_inputs(_data(0.0)[0], 200, part="test"))
    made = boundary_points(jax.random.key(9), plain.model.apply, first, inputs, num_pairs, 12)
    pruned = jax.vmap(lambda fraction: trust.prune_weights(first, fraction))(jnp.asarray(FRACTIONS))
    rough = [trust.quantize_weights(first, bits) for bits in (3, 4, 5, 6)]
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate([leaves[0], jnp.stack(leaves[1:])]), pruned, *rough)
    rates = trust.match_rate(plain, made, models)
    return {"others": rates[1:], "copies": trust.match_rate(plain, made, stacked)}


def claims(results: xarray.Dataset) -> list[Claim]:
    """C1 to C6 of the specification; the thresholds stand in `marks_claims`."""
    return decided(results)


def figure(results: xarray.Dataset) -> Figure:
    """Detection and accuracy against total bits; against pruning; ROC of fingerprints; accuracy against the key known."""
    from dlsim import plotting

    with plotting.style():
        made, panels = plotting.panels(2, 2, height=4.8)
        _draw_capacity(panels[0, 0], results)
        _draw_pruning(panels[0, 1], results)
        _draw_roc(panels[1, 0], results)
        _draw_key(panels[1, 1], results)
        plotting.letters(panels, ("capacity", "pruning", "fingerprints", "a lock"))
    return made


def _draw_capacity(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    have = results.case.values.tolist()
    lines = {"256 numbers, strength 0.1": ("bits", "0.1", 256), "strength 0.3": ("bits", "0.3", 256)}
    lines["64 numbers"] = ("narrow", "", 64)
    for place, (label, (kind, strength, width)) in enumerate(lines.items()):
        cases = [c.split() for c in have if c.startswith(kind) and c.endswith(strength)]
        found = sorted((10 * int(c[1]) / width, " ".join(c)) for c in cases)
        for name, style in (("bit_detection", "o-"), ("accuracy", "s:")):
            rates = [at_end(results, case, name).mean() for _, case in found]
            said = label if style == "o-" else None
            panel.plot([x for x, _ in found], rates, style, color=plotting.COLORS[place], label=said)
    for x in (1, 2):
        panel.axvline(x, color="0.6", linewidth=0.8)
    panel.set_xscale("log")
    panel.set_xticks((0.2, 0.5, 1, 2, 5), ("0.2", "0.5", "1", "2", "5"))
    panel.minorticks_off()
    panel.set_xlabel("bits in all / numbers of the scale")
    panel.set_ylabel("detection (o), accuracy (squares)")
    panel.legend()


def _draw_pruning(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    have = [c for c in results.case.values.tolist() if c == "plain" or c.startswith("bits")]
    for place, case in enumerate(have):
        color = plotting.COLORS[place % len(plotting.COLORS)]
        for name, style in (("pruned_bits", "o-"), ("pruned_accuracy", "s:")):
            values = at_end(results, case, name).reshape(-1, len(PRUNED)).mean(axis=0)
            panel.plot(PRUNED, values, style, color=color, label=case if style == "o-" else None)
    panel.set_xlabel("share of weights pruned")
    panel.set_ylabel("detection (o), accuracy (squares)")
    panel.legend(fontsize=5, loc="lower left")


def _draw_roc(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    if "alone" not in results.case.values:
        return
    others, copies = (at_end(results, "alone", name).ravel() for name in ("others", "copies"))
    levels = np.concatenate([[np.inf], np.sort(np.concatenate([others, copies]))[::-1]])
    false = [(others >= level).mean() for level in levels]
    true = [(copies >= level).mean() for level in levels]
    panel.step(false, true, where="post", color=plotting.COLORS[0], label="pruned and quantised copies")
    panel.plot([0, 1], [0, 1], "k:", linewidth=0.8)
    panel.set_xlabel("share of independent models accused")
    panel.set_ylabel("share of copies found")
    panel.legend(loc="lower right")


def _draw_key(panel: Axes, results: xarray.Dataset) -> None:
    from dlsim import plotting

    if "locked" not in results.case.values:
        return
    right = at_end(results, "locked", "by_key").reshape(-1, len(KNOWN)).mean(axis=0)
    panel.plot(KNOWN, right, "o-", color=plotting.COLORS[0], label="with a guessed key")
    rest = {"no_key": "without a key", "finetuned_accuracy": "fine-tuned without", "anew": "trained anew alike"}
    for place, (name, label) in enumerate(rest.items(), start=1):
        panel.axhline(
            at_end(results, "locked", name).mean(),
            color=plotting.COLORS[place],
            linestyle="--",
            linewidth=0.8,
            label=label,
        )
    panel.set_xlabel("share of the key's bits that are right")
    panel.set_ylabel("accuracy")
    panel.legend()
