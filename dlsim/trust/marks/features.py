"""White-box watermarks: secret bits of every node in the signs of secret projections of one layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.core import Array, Info, Problem, PyTree
from dlsim.problems.maps import without_maps
from dlsim.problems.notices import notice
from dlsim.problems.variables import trained, with_statistics, with_trained
from dlsim.trust.marks.models import flags, named_leaf

SOURCE = "Li et al., FedIPR, 2022"
LOSSES = ("hinge", "logistic")


class FeatureMarks(NamedTuple):
    """Secret bits of K nodes, and where they are read.  Nothing of it is ever sent."""

    bits: Array  # float32 [K, b], -1 or 1
    matrices: Array  # float32 [K, d, b]
    is_marked: Array  # bool [K]: who embeds any
    carry: Callable[[PyTree], Array]  # (params [...]) -> the numbers that carry them, [d]


@checks.typed
def feature_marks(
    problem: Problem,
    num_bits: int,
    carrier: str,
    *,
    axis: int = -1,
    marked: np.ndarray | None = None,
    seed: int = 0,
) -> FeatureMarks:
    """Secret bits B_k, uniform in {-1, 1}^b, and a secret matrix M_k, normal, of each node: draws of (seed, node id) alone.

    Args:
      problem: whose parameters carry the marks.
      num_bits: b, at most as many as the carrier has numbers: a longer watermark cannot be held whatever M_k is.  That all
        nodes together ask for more than twice as many as it has, which no vector can satisfy as a rule, is said in a warning.
      carrier: the name of a leaf of the parameters, or the end of its path, as in "scale" or "Dense_0/kernel".  A vector
        carries itself, a leaf of more dimensions its mean over the output units.
      axis: of the output units: -1 in flax's layers, 0 in those of `dlsim.problems.mlp`.
      marked: bool `[K]`, who embeds a watermark; None: all.
      seed: of the secrets.
    """
    where = "feature_marks"
    num, b = problem.num_nodes, checks.integer(where, "num_bits", num_bits, 1)
    seed = checks.seed(where, seed)
    shapes = jax.eval_shape(problem.init, jax.random.key(0))
    carry = _carrier(where, trained(shapes), carrier, axis)
    size = jax.eval_shape(carry, shapes).shape[0]
    if b > size:
        fix = "Use fewer bits, or a wider layer."
        checks.fail(where, "num_bits", f"at most {size}, the numbers that {carrier!r} has to carry them", b, fix)
    is_marked = np.ones(num, bool) if marked is None else flags(where, "marked", marked, num)
    total = int(is_marked.sum()) * b
    if total > 2 * size:
        notice(
            where, f"{total} bits in all are more than twice the {size} numbers of {carrier!r}: not all can be held."
        )
    ids = jnp.arange(num)
    key = keys.stream(jax.random.key(seed), "feature marks")
    bits = 1.0 - 2.0 * (keys.node_bits(keys.stream(key, "bits"), ids, b) & 1).astype(jnp.float32)
    matrices = keys.node_normal(keys.stream(key, "matrices"), ids, size * b).reshape(num, size, b)
    return FeatureMarks(bits, matrices, jnp.asarray(is_marked), carry)


def _carrier(where: str, shapes: PyTree, carrier: str, axis: int) -> Callable[[PyTree], Array]:
    place, name, shape = named_leaf(where, shapes, carrier)
    rank = len(shape)
    axis = checks.integer(where, "axis", axis, -rank, rank - 1)

    def carry(params: PyTree) -> Array:
        leaf = (jax.tree.leaves(trained(params))[place : place + 1] or [None])[0]
        if getattr(leaf, "shape", None) != shape:
            checks.fail("feature_marks", "params", f"a model with {name} {list(shape)}", checks.describe(params))
        leaf = jnp.asarray(leaf, jnp.float32)
        return leaf if rank == 1 else jnp.mean(leaf, axis=axis).reshape(-1)

    return carry


def matched(marks: FeatureMarks, params: PyTree) -> Array:
    """Which bits are read right, bool `[K, n, b]`, of models `[n, ...]`; a product of 0 is a mismatch."""
    carried = jax.vmap(marks.carry)(params)
    return jnp.sign(jnp.einsum("nd,kdb->knb", carried, marks.matrices)) == marks.bits[:, None]


@checks.typed
def bit_detection(marks: FeatureMarks, params: PyTree) -> Array:
    """Share of each owner's bits that each model holds, mean_t [sign((gamma^T M_k)_t) = B_kt], float32 `[K, n]`.

    Args:
      marks: of K nodes.
      params: models, every leaf `[n, ...]`, as `process.params(state)` or `run.params` of one seed has them.
    """
    _check_models("bit_detection", params)
    return jnp.mean(matched(marks, params), axis=2, dtype=jnp.float32)


def _check_models(where: str, params: PyTree) -> None:
    shapes = [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(params)]
    if not shapes or any(not shape or shape[0] != (shapes[0] or (0,))[0] for shape in shapes):
        checks.fail(where, "params", "models of leaves [n, ...] for one n", checks.describe(params))


@checks.typed
def feature_watermark(
    problem: Problem,
    marks: FeatureMarks,
    *,
    strength: float | Array = 0.2,
    margin: float | Array = 0.1,
    loss: str = "hinge",
) -> Problem:
    """The same problem, whose nodes hold their secret bits in the signs of projections of one layer:

        f_k(x) + strength sum_t relu(margin - B_kt (gamma^T M_k)_t)                          "hinge"
        f_k(x) + strength sum_t log(1 + exp(-B_kt (gamma^T M_k)_t))                          "logistic"

    gamma are the numbers of the carrier.  Where all bits keep their margin the hinge adds exactly nothing.  Any method trains
    it: the term is part of every gradient, stochastic or full; closed proximal maps are gone.  Losses that gradients tell
    hold it too.  `evaluate` measures `bit_detection` besides: of a node's own bits in its own model, and of all owners' in a
    model that belongs to nobody (a server's, or the mean).

    Args:
      marks: from `feature_marks`; two nodes with the same secret are refused, as nobody could tell whose it is.
      strength: alpha, >= 0; may be traced.
      margin: mu, >= 0; may be traced.
      loss: "hinge" or "logistic" (binary cross-entropy); structural.
    Cost: K d b numbers of secrets, and 4 d b operations a gradient.
    Source: Li, Fan, Gu, Yang and Yang, FedIPR: ownership verification for federated deep neural network models, 2022; the
      carrier after Uchida et al., Embedding watermarks into deep neural networks, ICMR 2017.  Differs: the margin is not 0.
    """
    where = "feature_watermark"
    checks.number(where, "strength", strength, 0.0)
    checks.number(where, "margin", margin, 0.0)
    checks.one_of(where, "loss", loss, LOSSES)
    check_unique(where, marks)
    checks.shape(where, "marks.bits", marks.bits, (problem.num_nodes, None))

    def penalty(params: PyTree, bits: Array, matrix: Array, is_marked: Array) -> Array:
        held = bits * (marks.carry(params) @ matrix)
        each = jax.nn.relu(margin - held) if loss == "hinge" else jax.nn.softplus(-held)
        return jnp.where(is_marked, strength * jnp.sum(each), 0.0)

    of_nodes = jax.vmap(jax.value_and_grad(penalty))

    def by(oracle: Any) -> Any:
        def gradient(key: Array, params: PyTree, node_ids: Array, *batch: Array) -> tuple[PyTree, Array]:
            plain, losses = oracle(key, params, node_ids, *batch)
            own = [part[node_ids] for part in (marks.bits, marks.matrices, marks.is_marked)]
            extra, pull = of_nodes(trees.widen(trained(params)), *own)
            moved = trees.cast_like(trees.add(trees.widen(trained(plain)), pull), trained(plain))
            return with_trained(plain, moved), losses + extra

        return gradient

    def of(one: Problem) -> Problem:
        at = one.gradient_at
        return one._replace(
            loss=None,  # a node's loss depends on whose it is
            gradient=by(one.gradient),
            full_gradient=by(one.full_gradient),
            gradient_at=None if at is None else by(at),
            evaluate=evaluate,
        )

    def evaluate(params: PyTree, node_ids: Array | None = None) -> Info:
        found = matched(marks, params)
        if node_ids is None:
            kept = jnp.where(marks.is_marked[:, None], jnp.mean(found, axis=2), 0.0)
            rate = jnp.sum(kept, axis=0) / jnp.maximum(jnp.sum(marks.is_marked), 1)
        else:
            rate = jnp.mean(jax.vmap(lambda one, k: found[k, one])(jnp.arange(len(node_ids)), node_ids), axis=1)
        return {**problem.evaluate(params, node_ids), "bit_detection": rate.astype(jnp.float32)}

    inner = with_statistics(problem)
    made = of(problem) if inner is problem else of(problem)._replace(with_statistics=of(inner))
    return without_maps(made)._replace(
        smoothness=None,
        strong_convexity=None,
        optimum=None,
        source="; ".join(filter(None, (problem.source, SOURCE))),
    )


def check_unique(where: str, marks: FeatureMarks) -> None:
    """No two nodes with one secret, where they are known."""
    if not checks.is_concrete((marks.bits, marks.matrices, marks.is_marked)):
        return
    seen: dict[bytes, int] = {}
    bits, matrices = np.asarray(marks.bits), np.asarray(marks.matrices)
    for k in np.flatnonzero(np.asarray(marks.is_marked)).tolist():
        digest = hashlib.sha256(bits[k].tobytes() + matrices[k].tobytes()).digest()
        if digest in seen:
            checks.fail(where, "marks", "different for all nodes", f"the same for nodes {seen[digest]} and {k}")
        seen[digest] = k


@checks.typed
def commitment(marks: FeatureMarks) -> list[str]:
    """What each owner publishes before training: the SHA-256 of its bits and its matrix, a hexadecimal text each.

    Bits that are read from a matrix made up afterwards prove nothing (`forged_marks`): a claim counts only for secrets whose
    hash is older than the model.
    """
    parts = (np.asarray(marks.bits, np.float32), np.asarray(marks.matrices, np.float32))
    return [hashlib.sha256(bits.tobytes() + matrix.tobytes()).hexdigest() for bits, matrix in zip(*parts, strict=True)]


@checks.typed
def forged_marks(marks: FeatureMarks, params: PyTree, *, seed: int = 1) -> FeatureMarks:
    """The ambiguity attack: matrices made up, and as bits whatever the model happens to hold; they are all detected.

    Args:
      marks: whose sizes and carrier are used.
      params: the model, `[...]`, of one node.
      seed: of the matrices.
    """
    num, size, b = marks.matrices.shape
    seed = checks.seed("forged_marks", seed)
    key = keys.stream(jax.random.key(seed), "forged marks")
    matrices = keys.node_normal(key, jnp.arange(num), size * b).reshape(num, size, b)
    held = jnp.einsum("d,kdb->kb", marks.carry(params), matrices)
    return marks._replace(bits=jnp.where(held >= 0, 1.0, -1.0), matrices=matrices)
