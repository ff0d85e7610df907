"""One-class SVMs: each node learns what is normal with it, and what falls outside is an outlier."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info, Problem, WarmProximal
from dlsim.problems.blocks import check_rows
from dlsim.problems.notices import notice

_WHERE = "one_class_svm"
_HIGHEST = jax.lax.Precision.HIGHEST
DETECTED = 0.9  # of `false_alarm_rate_at_90`


class Examples(NamedTuple):
    """Rows of all nodes, padded to the longest."""

    rows: np.ndarray  # float64 [N, m, d]; 0 in the padding
    is_there: np.ndarray  # bool [N, m]


@checks.typed
def one_class_svm(
    examples: Any,
    *,
    nu: Any = 0.1,
    num_features: int | None = 100,
    gamma: Any = 0.25,
    standardize: bool = True,
    test_examples: Any = None,
    test_is_outlier: Any = None,
    num_inner_steps: int = 60,
    batch_size: int | None = None,
    seed: int = 0,
) -> Problem:
    """f_i(w, b) = 1/2 ||w||^2 - b + 1/(nu n_i) sum_s max(0, b - w'phi(s)),  s over node i's examples, all of them normal.

    A score w'phi(s) - b below 0 is an outlier.  Parameters are one array `[D + 1]`, b last; they start at 0.  phi are random
    Fourier features of the Gaussian kernel exp(-gamma ||s - s'||^2), the same at all nodes:

        phi(s) = sqrt(2/D) cos(Omega s + c),  Omega ~ N(0, 2 gamma),  c ~ U(0, 2 pi)

    At a minimum at most nu n_i examples have a score below 0.  f_i is convex, and its proximal map has no closed form: it is
    found by FISTA on its dual,

        w = (r v_w + Phi'alpha) / (1 + r),  b = v_b + (1 - sum alpha) / r,  alpha in [0, 1/(nu n_i)]^n_i,

    from the last alpha (`problem.warm_proximal`; keep r, rho times a node's neighbours, at 0.1 or more).  `gradient`
    is a subgradient.

    `evaluate` gives `loss`, the mean of all f_i; and with test examples, over a node's own (of all nodes, where it is asked
    about no node): `detection_rate`, the share of outliers below 0, `false_alarm_rate`, that of the others, `auc`,
    the probability that an outlier's score is below another's, and `false_alarm_rate_at_90`, where the threshold lets
    90 % of the outliers be detected.

    Args:
      examples: `[N, n, d]`, or a sequence of N arrays `[n_i, d]`, n_i >= 1.
      nu: in (0, 1], may be traced.  Where nu n_i < 1 no example of the node is outside at its minimum (that would take a
        dual variable of 1/(nu n_i), and their sum is 1): a warning says so.
      num_features: D, structural; None: phi(s) = s.
      gamma: of the kernel, > 0; may be traced.
      standardize: whether inputs lose the mean over all nodes' examples and are divided by their deviation (1 where
        there is none): 2 d numbers that all nodes know beforehand, and that no traffic counts; structural.
      test_examples, test_is_outlier: `[N, t, d]` and bool `[N, t]`, or sequences of N, both or neither; with an outlier and
        another at every node.
      num_inner_steps: of FISTA in one proximal map; structural.
      batch_size: B of `gradient`, drawn with replacement; None: all of a node's examples; structural.
      seed: of Omega and c; structural.

    Source: Schölkopf, Platt, Shawe-Taylor, Smola and Williamson, Estimating the support of a high-dimensional
      distribution, Neural Computation 2001; Rahimi and Recht, Random features for large-scale kernel machines, NIPS 2007;
      Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, SIIMS 2009.  Differs: the primal has -b and the
      factor 1/(nu n), as Zhu et al. 2024; libsvm's solution is this one's, times nu n.
    """
    checks.number(_WHERE, "nu", nu, 0.0, 1.0, open_minimum=True)
    checks.number(_WHERE, "gamma", gamma, 0.0, open_minimum=True)
    checks.integer(_WHERE, "num_inner_steps", num_inner_steps, 1)
    seed = checks.integer(_WHERE, "seed", seed, 0)
    train = _stacked("examples", examples)
    num_nodes, _, num_inputs = train.rows.shape
    sizes = train.is_there.sum(axis=1)
    if checks.is_concrete(nu) and float(nu) * sizes.min() < 1:
        few = f"nu n_i is {float(nu) * sizes.min():.2g} at node {int(sizes.argmin())}"
        notice(_WHERE, f"{few}, less than one example: none of its own is ever outside, whatever nu.")
    test, outliers = _tests(test_examples, test_is_outlier, num_nodes, num_inputs)
    if batch_size is not None:
        checks.integer(_WHERE, "batch_size", batch_size, 1)
    offset, scale = _standard(train) if standardize else (np.zeros(num_inputs), np.ones(num_inputs))
    lift = _features(num_inputs, num_features, gamma, seed)

    def seen(those: Examples) -> Array:
        return lift(jnp.asarray((those.rows - offset) * scale, float)) * those.is_there[..., None]

    phi, there = seen(train), jnp.asarray(train.is_there)
    count = jnp.asarray(sizes, phi.dtype)
    gram = jnp.einsum("nsd,ntd->nst", phi, phi, precision=_HIGHEST)
    most = there / (nu * count[:, None])  # C_i of every example; 0 in the padding
    test_phi: Any = None if test is None else seen(test)
    test_there: Any = None if test is None else jnp.asarray(test.is_there)
    dimension = phi.shape[-1]

    def scores(params: Array, features: Array) -> Array:
        """Of each node's row of parameters on its own features `[n, s, D]`."""
        products = jnp.einsum("nd,nsd->ns", params[:, :-1], features, precision=_HIGHEST)
        return products - params[:, -1:]

    def subgradient(params: Array, features: Array, weights: Array) -> tuple[Array, Array]:
        """`weights [n, s]` stand for 1/(nu n_i)."""
        score = scores(params, features)
        active = jnp.where(score < 0, weights, 0)
        w = params[:, :-1] - jnp.einsum("ns,nsd->nd", active, features, precision=_HIGHEST)
        b = jnp.sum(active, axis=1) - 1
        value = jnp.sum(jnp.square(params[:, :-1]), axis=1) / 2 - params[:, -1] - jnp.sum(active * score, axis=1)
        return jnp.concatenate([w, b[:, None]], axis=1), value

    def full_gradient(key: Array, params: Array, node_ids: Array) -> tuple[Array, Array]:
        del key
        check_rows(_WHERE, node_ids, num_nodes)
        return subgradient(params, phi[node_ids], most[node_ids])

    def sample(key: Array, node_ids: Array) -> Array:
        """phi of the batch, `[n, B, D]`."""
        size = round(float(sizes.mean())) if batch_size is None else batch_size
        where = keys.node_uniform(keys.stream(key, "batch"), node_ids, size) * count[node_ids, None]
        places = jnp.minimum(where.astype(jnp.int32), count[node_ids, None].astype(jnp.int32) - 1)
        return jnp.take_along_axis(phi[node_ids], places[..., None], axis=1)

    def gradient(key: Array, params: Array, node_ids: Array) -> tuple[Array, Array]:
        if batch_size is None:
            return full_gradient(key, params, node_ids)
        batch = sample(key, node_ids)
        return subgradient(params, batch, jnp.full(batch.shape[:2], 1 / (nu * batch_size)))

    def loss(params: Array, batch: Array) -> Array:
        return subgradient(params[None], batch[None], jnp.full((1, batch.shape[0]), 1 / (nu * batch.shape[0])))[1][0]

    def solve(params: Array, rho: Any, node_ids: Array, alpha: Array) -> tuple[Array, Array]:
        r = jnp.broadcast_to(jnp.asarray(rho, phi.dtype), node_ids.shape)[:, None]
        own, bound = phi[node_ids], most[node_ids]
        pairs = there[node_ids].astype(phi.dtype)
        hessian = gram[node_ids] / (1 + r)[..., None] + (pairs[:, :, None] * pairs[:, None, :]) / r[..., None]
        step = 1 / jnp.linalg.norm(hessian, axis=(1, 2))[:, None]
        products = jnp.einsum("nd,nsd->ns", params[:, :-1], own, precision=_HIGHEST)
        constant = (params[:, -1:] + 1 / r) - r / (1 + r) * products

        def ascend(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
            alpha, ahead, t = carry
            slope = constant - jnp.einsum("nst,nt->ns", hessian, ahead, precision=_HIGHEST)
            new = jnp.clip(ahead + step * slope, 0, bound)
            t_new = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
            return (new, new + (t - 1) / t_new * (new - alpha), t_new), None

        start = (alpha, alpha, jnp.ones((), phi.dtype))
        (alpha, _, _), _ = jax.lax.scan(ascend, start, length=num_inner_steps)
        w = (r * params[:, :-1] + jnp.einsum("ns,nsd->nd", alpha, own, precision=_HIGHEST)) / (1 + r)
        b = params[:, -1:] + (1 - jnp.sum(alpha, axis=1, keepdims=True)) / r
        return jnp.concatenate([w, b], axis=1), alpha

    def total_loss(params: Array) -> Array:
        """The mean of all f_i, of every row."""
        score = jnp.einsum("nd,isd->nis", params[:, :-1], phi, precision=_HIGHEST) - params[:, -1, None, None]
        hinge = jnp.einsum("nis,is->n", jnp.maximum(-score, 0), most) / num_nodes
        return jnp.sum(jnp.square(params[:, :-1]), axis=1) / 2 - params[:, -1] + hinge

    def evaluate(params: Array, node_ids: Array | None = None) -> Info:
        found = {"loss": total_loss(params)}
        if test_phi is None:
            return found
        if node_ids is not None:
            own = scores(params, test_phi[node_ids])
            return {**found, **judged(own, test_there[node_ids], outliers[node_ids])}
        everywhere = jnp.einsum("nd,isd->nis", params[:, :-1], test_phi, precision=_HIGHEST)
        every = jax.vmap(lambda s: judged(s, test_there, outliers))(everywhere - params[:, -1, None, None])
        return {**found, **{name: jnp.mean(values, axis=1) for name, values in every.items()}}

    return Problem(
        num_nodes=num_nodes,
        init=lambda key: jnp.zeros(dimension + 1, phi.dtype),
        loss=loss,
        sample=sample,
        gradient=gradient,
        full_gradient=full_gradient,
        evaluate=evaluate,
        num_examples=sizes.astype(np.int32),
        batch_size=round(float(sizes.mean())) if batch_size is None else batch_size,
        warm_proximal=WarmProximal(lambda node_ids: jnp.zeros((node_ids.shape[0], phi.shape[1]), phi.dtype), solve),
        source="Schölkopf et al., Neural Computation 2001",
    )


def _stacked(argument: str, given: Any) -> Examples:
    parts = [given[i] for i in range(len(given))] if _is_block(given) else checks.sequence(_WHERE, argument, given)
    if not parts:
        checks.fail(_WHERE, argument, "arrays [n_i, d], one a node", "none")
    hosts: list[np.ndarray] = []
    for i, part in enumerate(parts):
        one = checks.host(_WHERE, f"{argument}[{i}]", part)
        if one.ndim != 2 or not one.shape[0] or not one.shape[1] or one.shape[1] != (hosts or [one])[0].shape[1]:
            like = f"[n >= 1, {hosts[0].shape[1]}]" if hosts else "[n >= 1, d]"
            fix = "Leave nodes without data out: what they want has no minimum."
            checks.fail(_WHERE, f"{argument}[{i}]", f"of shape {like}", str(list(one.shape)), fix)
        checks.finite(_WHERE, f"{argument}[{i}]", one)
        hosts.append(one)
    longest = max(len(one) for one in hosts)
    rows = np.stack([np.pad(one.astype(float), ((0, longest - len(one)), (0, 0))) for one in hosts])
    there = np.arange(longest) < np.array([[len(one)] for one in hosts])
    return Examples(rows, there)


def _is_block(given: Any) -> bool:
    return checks.is_concrete(given) and getattr(given, "ndim", 0) == 3


def _tests(examples: Any, is_outlier: Any, num_nodes: int, num_inputs: int) -> tuple[Any, Any]:
    if (examples is None) != (is_outlier is None):
        missing = "test_examples" if examples is None else "test_is_outlier"
        checks.fail(_WHERE, missing, "given with the other of the two", None)
    if examples is None:
        return None, None
    test = _stacked("test_examples", examples)
    if test.rows.shape[0] != num_nodes or test.rows.shape[2] != num_inputs:
        rule = f"of {num_nodes} nodes and {num_inputs} columns, as examples"
        checks.fail(_WHERE, "test_examples", rule, f"{test.rows.shape[0]} and {test.rows.shape[2]}")
    there = test.is_there
    flags = checks.sequence(_WHERE, "test_is_outlier", is_outlier)
    found = np.zeros(there.shape, bool)
    for i in range(num_nodes):
        flag = checks.host(_WHERE, f"test_is_outlier[{i}]", flags[i] if i < len(flags) else ())
        own = int(there[i].sum())
        if flag.shape != (own,) or flag.dtype != bool or not 0 < flag.sum() < own:
            rule = f"bool [{own}] with an outlier and another"
            checks.fail(_WHERE, f"test_is_outlier[{i}]", rule, checks.describe(flag))
        found[i, :own] = flag
    return test, jnp.asarray(found)


def _standard(train: Examples) -> tuple[np.ndarray, np.ndarray]:
    rows = train.rows[train.is_there]
    deviation = rows.std(axis=0)
    return rows.mean(axis=0), 1 / np.where(deviation > 0, deviation, 1)


def _features(num_inputs: int, num_features: int | None, gamma: Any, seed: int) -> Any:
    """`[..., d] -> [..., D]`."""
    if num_features is None:
        return lambda rows: rows
    num_features = checks.integer(_WHERE, "num_features", num_features, 1)
    rng = np.random.default_rng(seed)
    omega = jnp.sqrt(2 * jnp.asarray(gamma, float)) * jnp.asarray(
        rng.standard_normal((num_inputs, num_features)), float
    )
    phase = jnp.asarray(rng.uniform(0, 2 * np.pi, num_features), float)
    return lambda rows: np.sqrt(2 / num_features) * jnp.cos(jnp.matmul(rows, omega, precision=_HIGHEST) + phase)


def judged(scores: Array, is_there: Array, is_outlier: Array) -> Info:
    """The metrics of every row's scores `[n, t]`; below 0 is called an outlier."""
    normal = is_there & ~is_outlier
    num_out, num_in = jnp.sum(is_outlier, axis=1), jnp.sum(normal, axis=1)

    def share(of: Array, total: Array) -> Array:
        return jnp.sum(of, axis=1) / total

    below = jnp.sort(jnp.where(normal, scores, -jnp.inf), axis=1)
    # Normals above an outlier's score, and half of those at it.
    sides = [
        jax.vmap(lambda s, x, side=side: jnp.searchsorted(s, x, side=side))(below, scores) for side in ("left", "right")
    ]
    above = scores.shape[1] - (sides[0] + sides[1]) / 2
    ranked = jnp.sort(jnp.where(is_outlier, scores, jnp.inf), axis=1)
    place = jnp.ceil(DETECTED * num_out).astype(jnp.int32) - 1
    threshold = jnp.take_along_axis(ranked, place[:, None], axis=1)
    return {
        "detection_rate": share(is_outlier & (scores < 0), num_out),
        "false_alarm_rate": share(normal & (scores < 0), num_in),
        "auc": share(jnp.where(is_outlier, above, 0), num_out) / num_in,
        "false_alarm_rate_at_90": share(normal & (scores <= threshold), num_in),
    }
