"""Every rule against a loop over nodes in NumPy, with missing messages and with liars."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import robust_rules

import dlsim
from dlsim import aggregators, networks
from dlsim.networks.network import Inbox

KEY = jax.random.key(1)


def scene(seed: int = 0, num: int = 7, width: int = 5, dimension: int = 6):
    """Own values and an inbox in which node i heard i mod (width + 1) messages."""
    rng = np.random.default_rng(seed)
    own, heard = rng.standard_normal((num, dimension)), rng.standard_normal((num, width, dimension))
    mask = np.stack([rng.permutation(width) < i % (width + 1) for i in range(num)])
    weights = np.where(mask, rng.random((num, width)) / width, 0)
    return own, heard, mask, weights


def tree(x: np.ndarray) -> dict[str, jax.Array]:
    split = x.shape[-1] // 3
    x = jnp.asarray(x, jnp.float32)
    return {"a": x[..., :split], "b": x[..., split:].reshape(*x.shape[:-1], 2, -1)}


def apply(rule: dlsim.Aggregator, own, heard, mask, weights, ids=None) -> np.ndarray:
    if ids is None:
        ids = np.arange(mask.shape[1] + 1) + np.zeros((len(own), 1), int)
    inbox = Inbox(
        tree(heard),
        jnp.asarray(weights, jnp.float32),
        jnp.asarray(mask),
        jnp.zeros(mask.shape, jnp.int32),
        node_ids=jnp.arange(len(own)),
        candidate_ids=jnp.asarray(ids, jnp.int32),
    )
    _, out = jax.jit(rule.apply)(KEY, rule.init(tree(own)), tree(own), inbox)
    return np.concatenate([np.asarray(out["a"]), np.asarray(out["b"]).reshape(len(own), -1)], axis=1)


def trimmed(candidates: np.ndarray, b: int) -> np.ndarray:
    b = min(b, (len(candidates) - 1) // 2)
    return np.sort(candidates, axis=0)[b : len(candidates) - b].mean(axis=0)


def krum(candidates: np.ndarray, f: int, m: int) -> np.ndarray:
    return candidates[robust_rules.krum_order(candidates, len(candidates) - f - 2)[:m]].mean(axis=0)


def clipped(own: np.ndarray, heard: np.ndarray, weights: np.ndarray, radius: float) -> np.ndarray:
    out = own.copy()
    for v, w in zip(heard, weights, strict=True):
        d = v - own
        out = out + w * d * min(1, radius / np.linalg.norm(d))
    return out


ORACLES = {
    "mean": (aggregators.mean(), lambda o, h, w: o + (w[:, None] * (h - o)).sum(axis=0)),
    "median": (aggregators.median(), lambda o, h, w: np.median(np.vstack([o[None], h]), axis=0)),
    "trimmed_mean": (aggregators.trimmed_mean(1), lambda o, h, w: trimmed(np.vstack([o[None], h]), 1)),
    "trimmed_mean_2": (aggregators.trimmed_mean(2), lambda o, h, w: trimmed(np.vstack([o[None], h]), 2)),
    "krum": (aggregators.krum(1), lambda o, h, w: krum(np.vstack([o[None], h]), 1, 1)),
    "multi_krum": (
        aggregators.krum(1, num_selected=2),
        lambda o, h, w: krum(np.vstack([o[None], h]), 1, min(2, len(h) + 1)),
    ),
    "self_centered_clipping": (
        aggregators.self_centered_clipping(1.5),
        lambda o, h, w: clipped(o, h, w, 1.5),
    ),
    **robust_rules.ORACLES,
}


@pytest.mark.parametrize("name", ORACLES)
def test_against_a_loop(name: str) -> None:
    rule, oracle = ORACLES[name]
    for seed in range(3):
        own, heard, mask, weights = scene(seed)
        got = apply(rule, own, heard, mask, weights)
        for i in range(len(own)):
            wanted = oracle(own[i], heard[i][mask[i]], weights[i][mask[i]])
            np.testing.assert_allclose(got[i], wanted, atol=2e-6, err_msg=f"node {i}")


def test_geometric_median_is_near_after_its_default_iterations() -> None:
    own, heard, mask, weights = scene()
    near = apply(aggregators.geometric_median(), own, heard, mask, weights)
    best = apply(aggregators.geometric_median(num_iterations=2000), own, heard, mask, weights)
    for i in range(len(own)):
        candidates = np.vstack([own[i][None], heard[i][mask[i]]])
        sums = [np.linalg.norm(candidates - z, axis=1).sum() for z in (near[i], best[i], candidates.mean(axis=0))]
        assert sums[0] - sums[1] <= 0.02 * max(sums[2] - sums[1], 0.05)


def test_geometric_median_minimises_the_sum_of_distances() -> None:
    own, heard, mask, weights = scene()
    got = apply(aggregators.geometric_median(num_iterations=300), own, heard, mask, weights)
    for i in range(len(own)):
        candidates = np.vstack([own[i][None], heard[i][mask[i]]])

        def total(z: np.ndarray, candidates: np.ndarray = candidates) -> float:
            return np.linalg.norm(candidates - z, axis=1).sum()

        rng = np.random.default_rng(i)
        nearby = [total(got[i] + 0.05 * rng.standard_normal(got.shape[1])) for _ in range(50)]
        assert total(got[i]) <= min(nearby) + 1e-3
        assert total(got[i]) <= total(candidates.mean(axis=0)) + 1e-6


RULES = {
    "mean": aggregators.mean(),
    "median": aggregators.median(),
    "trimmed_mean": aggregators.trimmed_mean(1),
    "krum": aggregators.krum(1),
    "geometric_median": aggregators.geometric_median(),
    "self_centered_clipping": aggregators.self_centered_clipping(1.0),
    "bucketing": aggregators.bucketing(aggregators.median(), 2),
    **robust_rules.RULES,
}
ROBUST = ("median", "trimmed_mean", "krum", "geometric_median", "self_centered_clipping", *robust_rules.RULES)


@pytest.mark.parametrize("name", RULES)
def test_order_and_origin_do_not_matter(name: str) -> None:
    own, heard, mask, weights = scene()
    plain = apply(RULES[name], own, heard, mask, weights)
    order = np.random.default_rng(5).permutation(heard.shape[1])
    ids = np.concatenate([[0], 1 + order]) + np.zeros((len(own), 1), int)
    np.testing.assert_allclose(
        apply(RULES[name], own, heard[:, order], mask[:, order], weights[:, order], ids), plain, atol=1e-5
    )
    moved = apply(RULES[name], own + 2, heard + 2, mask, weights)
    np.testing.assert_allclose(moved - 2, plain, atol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_what_was_not_heard_does_not_count(name: str) -> None:
    own, heard, mask, weights = scene()
    plain = apply(RULES[name], own, heard, mask, weights)
    garbage = np.where(mask[..., None], heard, np.nan)
    np.testing.assert_array_equal(apply(RULES[name], own, garbage, mask, weights), plain)
    alone = apply(RULES[name], own, heard, np.zeros_like(mask), np.zeros_like(weights))
    np.testing.assert_allclose(alone, own, atol=1e-6)


@pytest.mark.parametrize("name", ROBUST)
def test_one_liar_does_not_carry_honest_nodes_away(name: str) -> None:
    own, heard, _, _ = scene(width=6)
    mask, weights = np.ones(heard.shape[:2], bool), np.full(heard.shape[:2], 1 / 7)
    heard[:, 2] = 1e6
    got = apply(RULES[name], own, heard, mask, weights)
    honest = np.concatenate([own[:, None], np.delete(heard, 2, axis=1)], axis=1)
    assert (np.linalg.norm(got - honest.mean(axis=1), axis=1) < 2 * np.linalg.norm(honest, axis=2).max(axis=1)).all()
    assert np.abs(apply(RULES["mean"], own, heard, mask, weights)).max() > 1e5


@pytest.mark.parametrize("name", ROBUST)
def test_lies_far_off_and_infinite(name: str) -> None:
    own, heard, _, _ = scene(width=6)
    mask, weights = np.ones(heard.shape[:2], bool), np.full(heard.shape[:2], 1 / 7)
    honest = np.concatenate([own[:, None], np.delete(heard, 2, axis=1)], axis=1)
    largest = np.linalg.norm(honest, axis=2).max(axis=1)
    for lie in (1e6, 1e12, -1e20, 3e38, np.inf, -np.inf, np.nan):
        heard[:, 2] = lie
        got = apply(RULES[name], own, heard, mask, weights)
        assert (np.linalg.norm(got - honest.mean(axis=1), axis=1) < 2 * largest).all(), lie


def test_multi_krum_never_selects_what_is_not_finite() -> None:
    own, heard, mask, weights = scene()
    heard[:, 0] = np.nan
    got = apply(aggregators.krum(0, num_selected=9), own, heard, mask, weights)
    for i in range(len(own)):
        sound = mask[i] & (np.arange(mask.shape[1]) != 0)
        wanted = np.vstack([own[i][None], heard[i][sound]]).mean(axis=0)
        np.testing.assert_allclose(got[i], wanted, atol=2e-6)


def test_mean_is_mix() -> None:
    network = networks.star(6).with_channel(networks.loss(0.3)).replace(is_present=jnp.arange(6) != 4)
    x = tree(np.random.default_rng(0).standard_normal((6, 6)))
    inbox, _ = network.gather(KEY, x, stream="same")
    mixed, _ = network.mix(KEY, x, stream="same")
    _, got = aggregators.mean().apply(KEY, (), x, inbox)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, mixed)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: aggregators.trimmed_mean(-1), "trimmed_mean: num_trimmed must be an integer >= 0, got -1"),
        (lambda: aggregators.krum(1.5), "krum: num_byzantine must be an integer >= 0, got 1.5"),
        (lambda: aggregators.krum(1, num_selected=0), "krum: num_selected must be an integer >= 1, got 0"),
        (lambda: aggregators.minimum_diameter(-1), "minimum_diameter: num_byzantine must be an integer >= 0, got -1"),
        (lambda: aggregators.bulyan(True), "bulyan: num_byzantine must be an integer >= 0, got True"),
        (lambda: aggregators.norm_clipping(aggregators.median(), 0.0), "norm_clipping: radius must be a number in"),
        (lambda: aggregators.nearest_neighbor_mixing(1, 1), "nearest_neighbor_mixing: inner must be"),
        (lambda: aggregators.bucketing(3), "bucketing: inner must be"),
        (
            lambda: aggregators.bucketing(aggregators.median(), 0),
            "bucketing: bucket_size must be an integer >= 1, got 0",
        ),
        (lambda: aggregators.self_centered_clipping(0.0), "self_centered_clipping: radius must be a number in"),
    ],
)
def test_bad_input(make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()


def test_every_rule_is_tried() -> None:
    known = set(itertools.chain(ORACLES, RULES)) - {"multi_krum", "trimmed_mean_2"}
    # test_robustness.py, test_variance_corrected.py, test_matching.py, test_flag.py, test_own_data.py, test_bristle.py,
    # test_foolsgold.py, test_sybil_wall.py
    elsewhere = {"variance_corrected", "aligned", "bucketing", "flag", "flag_qualities", "mozi", "bristle"}
    elsewhere |= {"foolsgold", "sybil_wall", "by_node"}
    helpers = {"Matching", "activation_matching", "weight_matching", "align", "linear_assignment"}
    assert known | elsewhere | helpers == set(aggregators.__all__)


def one_node(own: list[float], heard: list[list[float]], weights: list[float] | None = None):
    """A node, what it heard and its weights, each with a leading axis of one node."""
    share = [1 / (len(heard) + 1)] * len(heard) if weights is None else weights
    return np.array([own]), np.array([heard]), np.ones((1, len(heard)), bool), np.array([share])


def exact(rule: dlsim.Aggregator, own, heard, mask, weights) -> np.ndarray:
    """What the rule gives for vectors, without a tree."""
    inbox = Inbox(jnp.asarray(heard, jnp.float32), jnp.asarray(weights), jnp.asarray(mask), jnp.zeros(mask.shape, int))
    return np.asarray(jax.jit(rule.apply)(KEY, (), jnp.asarray(own, jnp.float32), inbox)[1])


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e19, 1e30, 1e38, 3e38])
def test_clipping_at_every_scale(size: float) -> None:
    """Four equal entries have norm 2 size: clipped at 1 and halved, 1/4 each; where they are below 1, half of them."""
    scene = one_node([0.0] * 4, [[size] * 4], [0.5])
    wanted = 0.5 * size * min(1, 1 / (2 * size))
    np.testing.assert_allclose(exact(aggregators.self_centered_clipping(1.0), *scene), wanted, rtol=1e-6)
    # With a radius of the entries' own size, whatever it is, half of that each.
    np.testing.assert_allclose(exact(aggregators.self_centered_clipping(size), *scene), 0.25 * size, rtol=1e-6)


def test_clipping_where_even_the_difference_overflows() -> None:
    scene = one_node([-3e38, 1.0], [[3e38, 1.0]], [0.5])
    np.testing.assert_allclose(exact(aggregators.self_centered_clipping(1e37), *scene), [[-2.95e38, 1.0]], rtol=1e-6)


def test_clipping_is_the_same_beside_a_node_out_of_range() -> None:
    own, heard, mask, weights = scene()
    plain = apply(aggregators.self_centered_clipping(1.5), own, heard, mask, weights)
    heard[0] = 1e25
    got = apply(aggregators.self_centered_clipping(1.5), own, heard, mask, weights)
    np.testing.assert_array_equal(got[1:], plain[1:])


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e18, 1e19, 1e30, 1e37])
def test_rules_that_measure_are_the_same_at_every_scale(size: float) -> None:
    own, heard, mask, weights = scene()
    own, heard = np.clip(own, -3, 3), np.clip(heard, -3, 3)
    for rule, scaled in (
        (aggregators.krum(1), aggregators.krum(1)),
        (aggregators.krum(1, num_selected=2), aggregators.krum(1, num_selected=2)),
        (aggregators.geometric_median(smoothing=1e-6), aggregators.geometric_median(smoothing=1e-6 * size)),
        (aggregators.self_centered_clipping(1.5), aggregators.self_centered_clipping(1.5 * size)),
        (aggregators.median(), aggregators.median()),
    ):
        plain = apply(rule, own, heard, mask, weights)
        got = apply(scaled, own * size, heard * size, mask, weights)
        np.testing.assert_allclose(got / size, plain, atol=2e-5)


def test_half_precision_is_measured_in_single() -> None:
    """300^2 is no float16, and (1/256)^2 has lost its digits in bfloat16."""
    own, heard = jnp.zeros((1, 4), jnp.float16), jnp.full((1, 1, 4), 300, jnp.float16)
    inbox = Inbox(heard, jnp.full((1, 1), 0.5), jnp.ones((1, 1), bool), jnp.zeros((1, 1), int))
    _, got = aggregators.self_centered_clipping(1.0).apply(KEY, (), own, inbox)
    assert got.dtype == jnp.float16
    np.testing.assert_allclose(got, 0.25, rtol=1e-3)


def test_a_node_far_away_joins_the_geometric_median_of_the_others() -> None:
    own, heard, mask, weights = scene(num=1, width=5)
    mask[:] = True
    got = exact(aggregators.geometric_median(num_iterations=200), own + 1e25, heard, mask, weights)
    # A lie pulls by a unit vector however far it is: the median of six with one at 1e12 in that direction.
    near = exact(aggregators.geometric_median(num_iterations=200), own + 1e12, heard, mask, weights)
    np.testing.assert_allclose(got, near, atol=1e-3)
    assert np.abs(got).max() < 3


@pytest.mark.parametrize("away", [0.0, 4.5e3, 4.5e4, 1e6, 1e20, 1e30, -3e38])
def test_krum_picks_what_float64_picks_however_far_the_node_itself_is(away: float) -> None:
    """Nine candidates, f = 1, d = 20, the others N(0, 1): a hundred picks, a hundred right."""
    rng = np.random.default_rng(0)
    own = (away + rng.standard_normal((100, 20))).astype(np.float32)
    heard = rng.standard_normal((100, 8, 20)).astype(np.float32)
    got = exact(aggregators.krum(1), own, heard, np.ones((100, 8), bool), np.full((100, 8), 1 / 9))
    wanted = [krum(np.vstack([o[None], h]).astype(np.float64), 1, 1) for o, h in zip(own, heard, strict=True)]
    np.testing.assert_array_equal(got, np.array(wanted).astype(np.float32))


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_krum_gives_ties_to_the_first(scale: float) -> None:
    """Twins tie, and so do whole numbers whose squared distances have the same sum."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 50)), rng.standard_normal((2, 50))
    # Two pairs of twins: each twin has the same distances as the other, the pairs are as far from each other.
    heard = [list(scale * a[0]), list(scale * b[0]), list(scale * b[0]), list(scale * a[0])]
    got = exact(aggregators.krum(0, num_selected=3), *one_node(list(scale * (a[1] + 50)), heard))
    # c - f - 2 = 3 nearest: twins, and twice the others: all four tie, and the first three win.
    np.testing.assert_allclose(got[0], scale * (a[0] + 2 * b[0]) / 3, rtol=1e-5)
    first = exact(aggregators.krum(0), *one_node(list(scale * (a[1] + 50)), heard))
    np.testing.assert_array_equal(first[0], (scale * a[0]).astype(np.float32))
    whole = exact(aggregators.krum(0), *one_node([5.0], [[0.0], [1.0], [2.0], [3.0], [4.0]]))
    assert whole == 2.0  # 2 and 3 score 1 + 1 + 4 + 4 both: the first of them


def test_pairs_are_never_held_as_differences() -> None:
    """n K^2 D numbers would be 2.5 GB for a thousand nodes of nine candidates and 7,850 parameters."""
    num, width, dimension = 50, 8, 1000
    inbox = Inbox(
        jax.ShapeDtypeStruct((num, width, dimension), jnp.float32),
        jax.ShapeDtypeStruct((num, width), jnp.float32),
        jax.ShapeDtypeStruct((num, width), bool),
        jax.ShapeDtypeStruct((num, width), jnp.int32),
    )
    own = jax.ShapeDtypeStruct((num, dimension), jnp.float32)
    for many in (lambda f: f, lambda f: jax.vmap(f, axis_size=1, in_axes=None)):
        compiled = jax.jit(many(lambda own, inbox: aggregators.krum(1).apply(KEY, (), own, inbox)[1]))
        used = compiled.lower(own, inbox).compile().memory_analysis()
        assert used.temp_size_in_bytes < 4 * 4 * num * (width + 1) * dimension


def test_a_partial_mean_is_over_those_who_sent_the_entry() -> None:
    own, heard, mask, weights = scene()
    heard[np.random.default_rng(1).random(heard.shape) < 0.4] = 0.0
    expected = own.copy()
    for i, k in np.argwhere(mask):
        for d in np.flatnonzero(heard[i, k]):
            expected[i, d] += weights[i, k] * (heard[i, k, d] - own[i, d])
    np.testing.assert_allclose(
        apply(aggregators.mean(is_partial=True), own, heard, mask, weights), expected, rtol=1e-5, atol=1e-6
    )


def test_partial_models_keep_what_nobody_sent() -> None:
    """Zero for what was not sent would halve every model that a sparsifier touches; own values agree in the end."""
    problem = dlsim.problems.consensus(np.arange(24.0).reshape(6, 4) + 1)
    network = networks.complete(6).with_channel(networks.random_k(2, is_unbiased=False))
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.0), aggregator=aggregators.mean(is_partial=True))
    run = dlsim.simulate(dlsim.learn(problem, algorithm, network), seed=0, num_steps=60, progress=False)
    models = np.asarray(run.params)[0]
    assert np.ptp(models, axis=0).max() < 0.05 and models.min() >= 1
