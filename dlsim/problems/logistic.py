"""Logistic regression on real data, solved beforehand, so that exact methods can be held to the answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Info, Problem
from dlsim.problems.data import Dataset, load
from dlsim.problems.models import Model
from dlsim.problems.partition import Partition, PartitionFn, iid, partition as make_partition
from dlsim.problems.sampling import WITHOUT_REPLACEMENT
from dlsim.problems.supervised import supervised

_WHERE = "logistic_regression"
_CHUNK = 2048  # examples at a time
_HIGHEST = jax.lax.Precision.HIGHEST


class _Objective(NamedTuple):
    """f as one weighted sum over training examples, on the host."""

    rows: np.ndarray  # int32 [E] training example ids
    signs: np.ndarray  # float32 [E] labels, -1 or +1, as their node sees them
    weights: np.ndarray  # float64 [E] 1 / (N m_i); they add up to 1


@checks.typed
def logistic_regression(
    dataset: str | Dataset | Any = "breast_cancer",
    num_nodes: int = 10,
    *,
    partition: PartitionFn | None = None,
    regularization: Any = 0.01,
    batch_size: int | None = None,
    sampling: str = WITHOUT_REPLACEMENT,
    positive: Sequence[int] | None = None,
    intercept: bool = True,
    solve: bool = True,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    node_block: int | str | None = "auto",
) -> Problem:
    """f_i(x) = (1/m_i) sum_j log(1 + exp(-y_j a_j'x)) + (mu / 2) ||x||^2,  y_j in {-1, +1}, j over node i's examples.

    Parameters are one array `[D]`, the intercept last (it is regularised like the rest), and start at 0.  Classes in
    `positive` are y = +1.  f = (1/N) sum_i f_i weighs nodes, not examples, equally.

    The optimum of f is found at build by Newton's method in float64 on the host, to a gradient norm of 1e-10.
    `evaluate` gives `loss` f, `accuracy` on the test examples (labels permuted as the node sees them, given node ids)
    and, where the optimum is known, `suboptimality` f - f* and `distance` ||x - x*||^2.  The suboptimality is summed
    from differences to the optimum (a Bregman divergence), so it does not stop at float32's rounding of f.

    Args:
      dataset: name, path or Dataset with class labels; see `load`.
      num_nodes: N.
      partition: who holds what, over the classes of the data set; by default `iid()`.  Concept shift is allowed,
        feature shift is not.
      regularization: mu >= 0; may be traced.
      batch_size: B, structural.  None: all of a node's examples, so gradients are exact; `sample` then draws as many as
        the smallest node has, and `num_gradients` counts the mean size.
      sampling: as in `supervised`.
      positive: classes that are +1; by default class 1 of two.
      intercept: whether to append a constant 1 to every example.
      solve: find the optimum; not possible where mu is traced or 0, where it is left out.
      seed: of the partition; structural.
      data_dir: as in `load`.
      node_block: nodes at a time; see `map_nodes`.

    Cost: building takes some ten passes of M D^2 operations in float64 (0.02 s for 456 x 31, about 25 seconds of
      processor time for 60,000 x 785), `evaluate` one pass of M D operations a model.
    """
    checks.number(_WHERE, "regularization", regularization, 0.0)
    checks.instance(_WHERE, "intercept", intercept, bool)
    checks.instance(_WHERE, "solve", solve, bool)
    data = load(dataset, data_dir=data_dir)
    class_signs = _class_signs(data, positive)
    parts = make_partition(data, num_nodes, iid() if partition is None else partition, seed)
    if parts.local_test is not None and parts.local_test.of_training:
        checks.fail(
            _WHERE, "partition", "one without test examples of the nodes' own", "local_test", "Use supervised()."
        )
    parts = parts._replace(local_test=None)
    if parts.noise is not None or parts.rotation is not None:
        fix = "Use supervised() for those."
        checks.fail(_WHERE, "partition", "one without feature shift", "noise or rotation", fix)
    objective = _objective(data, parts, class_signs)
    # The examples as rows, on the device, once: what `supervised` samples from is what f is summed over.
    inputs = jnp.asarray(data.inputs).reshape(len(data.inputs), -1)
    flat = data._replace(
        inputs=cast(Any, inputs),
        labels=_signs_of_examples(data, parts, objective, class_signs),
        test_inputs=data.test_inputs.reshape(len(data.test_inputs), -1),
        num_classes=0,
    )
    smallest = int(np.min(parts.sizes))
    problem = supervised(
        _linear(inputs.shape[1], intercept),
        flat,
        parts._replace(label_permutation=None),
        loss=lambda margins, signs: jax.nn.softplus(-signs * margins),
        batch_size=smallest if batch_size is None else batch_size,
        sampling=sampling,
        regularization=regularization,
        node_block=node_block,
    )
    if batch_size is None:
        mean_size = round(float(np.mean(parts.sizes)))
        problem = problem._replace(gradient=problem.full_gradient, batch_size=mean_size)
    known, best = None, 0.0
    if solve and checks.is_concrete(regularization) and float(regularization) > 0:

        def chunk(start: int) -> np.ndarray:  # the very float32 numbers that the model sees
            rows = _as_seen(inputs[objective.rows[start : start + _CHUNK]], data, intercept)
            return np.asarray(rows, np.float64)

        known, best = _newton(chunk, objective, float(regularization))
    optimum = None if known is None else jnp.asarray(known, jnp.float32)
    test = _accuracy(flat, parts, class_signs, intercept)

    def seen(ids: Array) -> Array:
        return _as_seen(inputs.at[ids].get(mode="promise_in_bounds"), data, intercept)

    def smoothness() -> Any:
        """The greatest lambda_max(A_i'A_i) / (4 m_i), and mu: the logistic function bends by 1/4 at most."""
        greatest = 0.0
        for i in range(num_nodes):
            rows = np.asarray(_as_seen(inputs[parts.of_node(i)], data, intercept), np.float64)
            gram = rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows
            greatest = max(greatest, float(np.linalg.eigvalsh(gram)[-1]) / len(rows))
        return greatest / 4 + regularization

    value = _global_loss(seen, objective, regularization, optimum, best)
    return problem._replace(
        optimum=optimum,
        smoothness=smoothness,
        strong_convexity=lambda: regularization,
        evaluate=lambda params, node_ids=None: {**value(params), "accuracy": test(params, node_ids)},
    )


def _class_signs(data: Dataset, positive: Sequence[int] | None) -> np.ndarray:
    """-1 or +1 of each class, float32 [C]."""
    if not data.num_classes:
        checks.fail(_WHERE, "dataset", "one with class labels", "a regression", "Use supervised().")
    if positive is None:
        if data.num_classes != 2:
            fix = f"Say which are +1: positive={tuple(range(data.num_classes // 2, data.num_classes))}."
            checks.fail(_WHERE, "dataset", "of two classes", f"{data.num_classes}", fix)
        positive = (1,)
    if isinstance(positive, str) or not np.iterable(positive):
        checks.fail(_WHERE, "positive", "a list of classes", repr(positive)[:60], "Such as positive=(1,).")
    chosen = {checks.integer(_WHERE, "positive", c, 0, data.num_classes - 1) for c in positive}
    if not 0 < len(chosen) < data.num_classes:
        rule = f"some but not all of the {data.num_classes} classes"
        checks.fail(_WHERE, "positive", rule, sorted(chosen))
    return np.where(np.isin(np.arange(data.num_classes), list(chosen)), 1.0, -1.0).astype(np.float32)


def _objective(data: Dataset, parts: Partition, class_signs: np.ndarray) -> _Objective:
    num_nodes = len(parts.sizes)
    nodes = np.repeat(np.arange(num_nodes), parts.sizes)
    rows = np.concatenate([parts.of_node(i) for i in range(num_nodes)])
    labels = data.labels[rows]
    if parts.label_permutation is not None:
        labels = parts.label_permutation[nodes, labels]
    return _Objective(rows, class_signs[labels], 1.0 / (num_nodes * parts.sizes[nodes].astype(np.float64)))


def _signs_of_examples(data: Dataset, parts: Partition, objective: _Objective, class_signs: np.ndarray) -> np.ndarray:
    """Labels of all training examples as -1 or +1, float32 [M], each as the node that holds it sees it."""
    signs = class_signs[data.labels]
    signs[objective.rows] = objective.signs
    torn = np.flatnonzero(signs[objective.rows] != objective.signs)
    if len(torn):
        rule = "one that gives each example to nodes that see its label alike"
        checks.fail(_WHERE, "partition", rule, f"example {objective.rows[torn[0]]} with both labels")
    return signs


def _linear(num_inputs: int, intercept: bool) -> Model:
    """Margins a'x [B] of parameters [D], or [D + 1] with the intercept last."""

    def apply(params: Array, inputs: Array) -> Array:
        if not intercept:
            return inputs @ params
        return inputs @ params[:-1] + params[-1]

    return Model(init=lambda key: jnp.zeros(num_inputs + intercept, jnp.float32), apply=apply)


def _as_seen(inputs: Any, data: Dataset, intercept: bool) -> Array:
    """Examples as the model sees them, with the constant 1 where there is an intercept, [B, D]."""
    rows = (inputs.astype(jnp.float32) - data.offset) * data.scale
    return jnp.pad(rows, ((0, 0), (0, int(intercept))), constant_values=1.0)


def _newton(chunk: Any, objective: _Objective, regularization: float) -> tuple[np.ndarray, float]:
    """argmin and minimum of f, float64, by damped Newton steps until the gradient's norm is at most 1e-10.

    `chunk(start)` gives the examples [B, D] from `start` on, so that the data are never whole in float64.
    """

    def derivatives(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, gradient = regularization / 2 * float(x @ x), regularization * x
        hessian = regularization * np.eye(len(x))
        for start in range(0, len(objective.rows), _CHUNK):
            a = chunk(start)
            s = objective.signs[start : start + _CHUNK].astype(np.float64)
            w = objective.weights[start : start + _CHUNK]
            u = -s * (a @ x)
            sigma = 0.5 * (1 + np.tanh(u / 2))  # the logistic function, without overflow
            value += float(w @ np.logaddexp(0.0, u))
            gradient = gradient - a.T @ (w * s * sigma)
            a *= np.sqrt(w * sigma * (1 - sigma))[:, None]
            hessian += a.T @ a  # of one array with itself: half the work of a general product
        return value, gradient, hessian

    x = np.zeros(chunk(0).shape[1])
    value, gradient, hessian = derivatives(x)
    for _ in range(100):
        norm = np.linalg.norm(gradient)
        if norm <= 1e-10:
            return x, value
        step = np.linalg.solve(hessian, gradient)
        size, decrease = 1.0, float(gradient @ step)
        new = derivatives(x - step)
        # Near the optimum rounding hides a decrease of f; there the full step at least shrinks the gradient.
        while new[0] > value - 1e-4 * size * decrease and np.linalg.norm(new[1]) > norm / 2 and size > 1e-6:
            size /= 2
            new = derivatives(x - size * step)
        x, (value, gradient, hessian) = x - size * step, new
    rule, got = "large enough for Newton's method to converge", f"{regularization:g}"
    checks.fail(_WHERE, "regularization", rule, got, "Standardise the inputs, or pass solve=False.")


def _bregman(u: Array, delta: Array) -> Array:
    """softplus(u + delta) - softplus(u) - softplus'(u) delta >= 0, to float32's relative precision or nearly."""
    # softplus(u) - u = softplus(-u), so both signs may be turned; then p <= 1/2 keeps its digits.
    u, delta = -jnp.abs(u), jnp.where(u > 0, -delta, delta)
    p = jax.nn.sigmoid(u)
    q = p * (1 - p)
    small = jnp.clip(delta, -0.03, 0.03)
    series = q * small**2 * (0.5 + small * ((1 - 2 * p) / 6 + small * (1 - 6 * q) / 24))
    middle = jnp.clip(delta, -1.0, 1.0)
    form = jnp.log1p(p * jnp.expm1(middle)) - p * middle
    plain = jax.nn.softplus(u + delta) - jax.nn.softplus(u) - p * delta
    size = jnp.abs(delta)
    return jnp.where(size < 0.03, series, jnp.where(size < 1.0, form, plain))


def _global_loss(seen: Any, objective: _Objective, regularization: Any, optimum: Array | None, best: float) -> Any:
    """`value(params [n, D]) -> {"loss": [n], ...}`, over all nodes' examples; `seen(ids [B]) -> [B, D]` reads them."""
    num = len(objective.rows)
    size = min(_CHUNK, num)
    padded = -(-num // size) * size
    # Padding repeats the first example with weight zero.
    rows = jnp.asarray(np.pad(objective.rows, (0, padded - num))).reshape(-1, size)
    signs = jnp.asarray(np.pad(objective.signs, (0, padded - num))).reshape(-1, size)
    weights = jnp.asarray(np.pad(objective.weights, (0, padded - num)), jnp.float32).reshape(-1, size)

    def total(params: Array, of_margins: Any) -> Array:
        """Weighted sum over examples of `of_margins(-y a'x [B, n], a [B, D], y [B, 1])`."""

        def of_chunk(chunk: tuple[Array, Array, Array]) -> Array:
            ids, y, w = chunk
            a = seen(ids)
            margins = -y[:, None] * jnp.matmul(a, params.T, precision=_HIGHEST)
            return w @ of_margins(margins, a, y[:, None])

        return jnp.sum(jax.lax.map(of_chunk, (rows, signs, weights)), axis=0)

    def value(params: Array) -> Info:
        if optimum is None:
            loss = total(params, lambda u, a, y: jax.nn.softplus(u))
            return {"loss": loss + regularization / 2 * jnp.sum(jnp.square(params), axis=1)}
        z = params - optimum
        distance = jnp.sum(jnp.square(z), axis=1)

        def excess(delta: Array, a: Array, y: Array) -> Array:
            return _bregman(-y * jnp.matmul(a, optimum[:, None], precision=_HIGHEST), delta)

        suboptimality = total(z, excess) + regularization / 2 * distance
        return {"loss": best + suboptimality, "suboptimality": suboptimality, "distance": distance}

    return value


def _accuracy(data: Dataset, parts: Partition, class_signs: np.ndarray, intercept: bool) -> Any:
    """`accuracy(params [n, D], node_ids [n] | None) -> [n]` on the test examples."""
    inputs, labels, table = jnp.asarray(data.test_inputs), jnp.asarray(data.test_labels), jnp.asarray(class_signs)
    permutation = None if parts.label_permutation is None else jnp.asarray(parts.label_permutation)

    def accuracy(params: Array, node_ids: Array | None) -> Array:
        # One pass: a test set is small beside the training set, and margins are [T, n].
        margins = jnp.matmul(_as_seen(inputs, data, intercept), params.T)
        if permutation is None or node_ids is None:
            seen = table[labels][:, None]
        else:
            seen = table[permutation[node_ids][:, labels].T]
        return jnp.mean((margins > 0) == (seen > 0), axis=0)

    return accuracy
