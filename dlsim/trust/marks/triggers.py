"""Black-box watermarks: inputs of one's own with labels of one's own, which the model is taught beside its data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.problems.maps import without_maps
from dlsim.problems.sampling import batch_positions
from dlsim.trust.marks.models import check_model, check_models, model_of

if TYPE_CHECKING:
    import optax


class Triggers(NamedTuple):
    """Trigger sets of K owners."""

    inputs: Array  # float32 [K, n, ...] as a model sees them
    labels: Array  # int32 [K, n]


def _shapes(where: str, problem: Problem) -> tuple[tuple[int, ...], int]:
    """Of one input, and the number of classes, of a problem with a model."""
    check_model(where, problem)
    if model_of(problem).train is not None:
        fix = "Use GroupNorm or LayerNorm, and no Dropout."
        checks.fail(where, "problem", "of a model that computes alike in training", "Dropout or BatchNorm", fix)
    batch = jax.eval_shape(problem.sample, jax.random.key(0), jnp.arange(1))
    params = jax.eval_shape(problem.init, jax.random.key(0))
    outputs = jax.eval_shape(
        model_of(problem).apply, params, jax.ShapeDtypeStruct(batch.inputs.shape[1:], batch.inputs.dtype)
    )
    if batch.labels.dtype != jnp.int32 or len(outputs.shape) != 2:
        checks.fail(where, "problem", "one with classes", "a regression")
    return tuple(batch.inputs.shape[2:]), outputs.shape[1]


@checks.typed
def noise_triggers(problem: Problem, num: int, *, seed: int = 0) -> Triggers:
    """Images of standard normal noise with labels drawn uniformly, `num` a node; draws of (seed, node id) alone.

    They are of no training and no test set, so neither accuracy is touched.  Source: after Adi et al., Turning your weakness
    into a strength, USENIX Security 2018, with noise in place of abstract images.
    """
    where = "noise_triggers"
    num = checks.integer(where, "num", num, 1)
    key = keys.stream(jax.random.key(checks.seed(where, seed)), "noise triggers")
    shape, num_classes = _shapes(where, problem)
    ids = jnp.arange(problem.num_nodes)
    drawn = keys.node_normal(keys.stream(key, "inputs"), ids, num * math.prod(shape))
    labels = (keys.node_uniform(keys.stream(key, "labels"), ids, num) * num_classes).astype(jnp.int32)
    return Triggers(drawn.reshape(problem.num_nodes, num, *shape), labels)


@checks.typed
def pattern_triggers(problem: Problem, num_per_class: int, *, noise: float = 0.3, seed: int = 0) -> Triggers:
    """A server's triggers: a pattern of signs a class, with some noise on each image; one owner, `[1, C num, ...]`.

    Source: Tekgul et al., WAFFLE: watermarking in federated learning, SRDS 2021, whose patterns are drawn images on noise.
    """
    where = "pattern_triggers"
    num = checks.integer(where, "num_per_class", num_per_class, 1)
    checks.known(where, "noise", noise)
    checks.number(where, "noise", noise, 0.0)
    key = keys.stream(jax.random.key(checks.seed(where, seed)), "pattern triggers")
    shape, num_classes = _shapes(where, problem)
    classes = jnp.arange(num_classes)
    pattern = jnp.sign(keys.node_normal(keys.stream(key, "patterns"), classes, math.prod(shape)))
    labels = jnp.repeat(classes, num)
    drawn = keys.node_normal(keys.stream(key, "noise"), jnp.arange(len(labels)), math.prod(shape))
    return Triggers((pattern[labels] + noise * drawn).reshape(1, -1, *shape), labels.astype(jnp.int32)[None])


def check_triggers(where: str, problem: Problem, triggers: Triggers, owners: int) -> None:
    """Shapes of inputs, and labels that are classes."""
    shape, num_classes = _shapes(where, problem)
    checks.shape(where, "triggers.labels", triggers.labels, (owners, None))
    num = triggers.labels.shape[1]
    checks.shape(where, "triggers.inputs", triggers.inputs, (owners, num, *shape))
    if checks.is_concrete(triggers.labels):
        labels = np.asarray(triggers.labels)
        if labels.size == 0 or labels.min() < 0 or labels.max() >= num_classes:
            got = f"{int(labels.min())} to {int(labels.max())}" if labels.size else "none"
            checks.fail(where, "triggers.labels", f"classes, 0 to {num_classes - 1}", got)


def _loss(problem: Problem) -> Any:
    """(params, inputs, labels) -> mean cross-entropy of one model."""

    def loss(params: PyTree, inputs: Array, labels: Array) -> Array:
        scores = jax.nn.log_softmax(model_of(problem).apply(params, inputs))
        return -jnp.mean(jnp.sum(scores * jax.nn.one_hot(labels, scores.shape[-1]), axis=-1))

    return loss


@checks.typed
def trigger_accuracy(problem: Problem, triggers: Triggers, params: PyTree) -> Array:
    """Share of each owner's triggers that each model answers as taught, float32 `[K, n]`; chance is one in C.

    Args:
      problem: whose model it is.
      triggers: of K owners.
      params: models, every leaf `[n, ...]`.
    """
    where = "trigger_accuracy"
    check_triggers(where, problem, triggers, triggers.labels.shape[0] if jnp.ndim(triggers.labels) else 0)

    def of_one(params: PyTree) -> Array:
        answers = jax.vmap(lambda x: jnp.argmax(model_of(problem).apply(params, x), axis=-1))(triggers.inputs)
        return jnp.mean(answers == triggers.labels, axis=1, dtype=jnp.float32)

    check_models(where, problem, params, stacked=True)
    return jax.vmap(of_one, out_axes=1)(params)


@checks.typed
def trigger_watermark(problem: Problem, triggers: Triggers, *, num_per_batch: int = 2) -> Problem:
    """The same problem, with m of the node's own triggers appended to every batch of B examples:

        f_k(x; batch) <- (B f_k(x; batch) + sum over m triggers of cross-entropy(x; trigger)) / (B + m)

    Triggers of a batch are drawn without replacement; a full gradient takes all of them with the same weight m / (B + m).
    A regulariser counts B / (B + m) of what it did; gradients of triggers are not among the `gradient_evaluations`.  Any
    method trains it.  `evaluate` measures `trigger_accuracy` besides: of a node's own in its own model, or of all owners'
    in a model that belongs to nobody.  Closed proximal maps are gone.

    Args:
      triggers: of as many owners as the problem has nodes.
      num_per_batch: m, 1 to the number of a node's triggers; structural.
    Source: Li et al., FedIPR, 2022; Adi et al., USENIX Security 2018.
    """
    where = "trigger_watermark"
    check_triggers(where, problem, triggers, problem.num_nodes)
    num = triggers.labels.shape[1]
    m = checks.integer(where, "num_per_batch", num_per_batch, 1, num)
    share = m / (problem.batch_size + m)
    of_nodes = jax.vmap(jax.value_and_grad(_loss(problem)))

    def by(oracle: Any, draws: bool) -> Any:
        def gradient(key: Array, params: PyTree, node_ids: Array, *batch: Array) -> tuple[PyTree, Array]:
            plain, losses = oracle(key, params, node_ids, *batch)
            inputs, labels = triggers.inputs[node_ids], triggers.labels[node_ids]
            if draws:
                sizes = jnp.full(node_ids.shape, num, jnp.int32)
                drawn = keys.stream(key, "triggers")
                rows = batch_positions(drawn, node_ids, sizes, m, "without_replacement")
                inputs, labels = jax.vmap(lambda x, y, row: (x[row], y[row]))(inputs, labels, rows)
            extra, pull = of_nodes(trees.widen(params), inputs, labels)
            mixed = jax.tree.map(lambda a, b: (1 - share) * a + share * b, trees.widen(plain), pull)
            return trees.cast_like(mixed, plain), (1 - share) * losses + share * extra

        return gradient

    def evaluate(params: PyTree, node_ids: Array | None = None) -> Info:
        found = trigger_accuracy(problem, triggers, params)  # [K, n]
        rate = jnp.mean(found, axis=0) if node_ids is None else found[node_ids, jnp.arange(len(node_ids))]
        return {**problem.evaluate(params, node_ids), "trigger_accuracy": rate}

    at = problem.gradient_at
    return without_maps(problem)._replace(
        loss=None,
        gradient=by(problem.gradient, True),
        full_gradient=by(problem.full_gradient, False),
        gradient_at=None if at is None else by(at, True),
        evaluate=evaluate,
        smoothness=None,
        strong_convexity=None,
        optimum=None,
        source="; ".join(filter(None, (problem.source, "Li et al., FedIPR, 2022"))),
    )


@checks.typed
def server_watermark(
    algorithm: Algorithm,
    problem: Problem,
    triggers: Triggers,
    optimizer: optax.GradientTransformation,
    *,
    accuracy: float | Array = 0.98,
    max_steps: int = 100,
) -> Algorithm:
    """The same server-based algorithm, whose server trains on its own triggers after each round; no client takes part.

        while accuracy on the triggers < `accuracy`, and for `max_steps` steps at most:  x <- x + U(grad loss(x; triggers))

    Args:
      algorithm: of `dlsim.algorithms` with a server, such as `fedavg`.
      problem: whose model it trains.
      triggers: of one owner, `[1, n, ...]`, such as `pattern_triggers`.
      optimizer: the server's, fresh each round.
      accuracy: in [0, 1]; may be traced.
      max_steps: structural.
    Source: Tekgul, Xia, Marchal and Asokan, WAFFLE: watermarking in federated learning, SRDS 2021.
    """
    where = "server_watermark"
    if "server" not in algorithm.requires:
        checks.fail(where, "algorithm", "one with a server, such as fedavg", "one without")
    check_triggers(where, problem, triggers, 1)
    checks.probability(where, "accuracy", accuracy)
    max_steps = checks.integer(where, "max_steps", max_steps, 1)
    inputs, labels = triggers.inputs[0], triggers.labels[0]
    loss = _loss(problem)

    def taught(params: PyTree) -> PyTree:
        def wants(carry: tuple[Array, PyTree, PyTree]) -> Array:
            answers = jnp.argmax(model_of(problem).apply(carry[1], inputs), axis=-1)
            return (carry[0] < max_steps) & (jnp.mean(answers == labels) < accuracy)

        def one(carry: tuple[Array, PyTree, PyTree]) -> tuple[Array, PyTree, PyTree]:
            turn, params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, inputs, labels), state, params)
            return turn + 1, jax.tree.map(jnp.add, params, updates), state

        return jax.lax.while_loop(wants, one, (jnp.zeros((), jnp.int32), params, optimizer.init(params)))[1]

    def step(key: Array, state: Any, network: Any) -> tuple[Any, Any, Info]:
        state, network, info = algorithm.step(key, state, network)
        return state._replace(params=taught(state.params)), network, info

    source = "; ".join(filter(None, (algorithm.source, "Tekgul et al., SRDS 2021")))
    return algorithm._replace(step=step, source=source)
