"""The flag aggregator in c x c numbers against singular value decompositions of the vectors themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import aggregators, algorithms, networks, problems
from dlsim.networks.network import Inbox

KEY = jax.random.key(1)
EPSILON = 1e-7
ROUNDING = 4e-4  # of float32: 1 - v is about epsilon where v is 1, and columns are weighed by its root


def by_svd(
    vectors: np.ndarray,
    rank: int | None = None,
    lam: float = 0.0,
    iterations: int = 5,
    normalize_pairs: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """u, the qualities and the objectives, with the singular vectors of weighed columns."""
    count = len(vectors)
    r = min((count + 2) // 2 if rank is None else rank, count)
    x = np.array([v / np.linalg.norm(v) if v.any() else v for v in vectors])
    there = np.flatnonzero(np.abs(x).sum(axis=1) > 0)
    basis, objectives = np.zeros((x.shape[1], 0)), []
    for _ in range(iterations):
        columns = []
        for k in there:
            columns.append(x[k] * (abs(1 - ((basis.T @ x[k]) ** 2).sum()) + EPSILON) ** -0.25)
            for other in there if lam else ():
                way = x[k] - x[other]
                size = np.linalg.norm(way)
                if other == k or (normalize_pairs and size < 1e-3):
                    continue
                way = way / size if normalize_pairs else way
                weight = lam / (count * (count - 1)) * (abs(1 - ((basis.T @ way) ** 2).sum()) + EPSILON) ** -0.25
                columns.append(weight * way)
        left, sizes, _ = np.linalg.svd(np.array(columns).T, full_matrices=False)
        new = left[:, : min(r, int((sizes > 1e-9 * sizes[0]).sum()))]
        objective = np.sqrt(np.clip(1 - ((x[there] @ new) ** 2).sum(axis=1), 0, 1)).sum()
        if objectives and objective >= objectives[-1] - 1e-10:
            break
        basis = new
        objectives.append(objective)
    return x.sum(axis=0) @ basis @ basis.T / r, ((x @ basis) ** 2).sum(axis=1), objectives


def heard_of(heard, mask=None) -> Inbox:
    heard = jnp.asarray(heard, jnp.float32)
    mask = np.ones(heard.shape[:2], bool) if mask is None else mask
    return Inbox(heard, jnp.full(mask.shape, 0.1), jnp.asarray(mask), jnp.zeros(mask.shape, jnp.int32))


@functools.cache
def compiled(rule: dlsim.Aggregator):
    return jax.jit(rule.apply)


@functools.cache
def judge(rank: int | None, lam: float = 0.0, pairs: bool = False, iterations: int = 5):
    how = {"rank": rank, "regularization": lam, "normalize_pairs": pairs, "num_iterations": iterations}
    return jax.jit(functools.partial(aggregators.flag_qualities, **how))


def padded(rows) -> tuple[np.ndarray, np.ndarray]:
    """Of one shape, so that tests share their programs: entries that are zero and candidates that do not count."""
    rows = np.asarray(rows, float)
    wide = np.zeros((1, 11, 30), np.float32)
    wide[0, : len(rows), : rows.shape[1]] = rows
    return wide, np.arange(11)[None] < len(rows)


def of_rows(rule: dlsim.Aggregator, rows) -> np.ndarray:
    """Of one node, the first row its own."""
    wide, mask = padded(rows)
    return np.asarray(compiled(rule)(KEY, (), wide[:, 0], heard_of(wide[:, 1:], mask[:, 1:]))[1])[
        0, : np.shape(rows)[1]
    ]


def seen_of(rows, rank: int | None, iterations: int = 5) -> np.ndarray:
    wide, mask = padded(rows)
    return np.asarray(judge(rank, iterations=iterations)(wide, mask))[0, : len(rows)]


FLAG, WIDE, OF_MODELS = aggregators.flag(), aggregators.flag(99), aggregators.flag(centre="own", rescale="median")


def correlated(seed: int, count: int, dimension: int = 12) -> np.ndarray:
    """Gradients about a common one, two of them far from it and one reversed."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal(dimension) + 0.4 * rng.standard_normal((count, dimension))
    rows[-2:] = 3 * rng.standard_normal((2, dimension))
    rows[1] *= -2
    return rows * np.exp(rng.standard_normal(count))[:, None]


HOW = [(None, 0.0, False), (1, 0.0, False), (20, 0.0, False), (None, 8.0, False), (3, 8.0, False), (3, 8.0, True)]


@pytest.mark.parametrize(("rank", "lam", "pairs"), HOW)
def test_it_is_what_decompositions_of_the_vectors_give(rank: int | None, lam: float, pairs: bool) -> None:
    rng = np.random.default_rng(0)
    width, num = 8, 6
    vectors = np.stack([correlated(seed, width + 1) for seed in range(num)])
    mask = np.stack([rng.permutation(width) < 3 + i for i in range(num)])
    rule = aggregators.flag(rank, regularization=lam, normalize_pairs=pairs)
    own = jnp.asarray(vectors[:, 0], jnp.float32)
    got = np.asarray(compiled(rule)(KEY, (), own, heard_of(vectors[:, 1:], mask))[1])
    full = np.concatenate([np.ones((num, 1), bool), mask], axis=1)
    qualities = np.asarray(judge(rank, lam, pairs)(vectors.astype(np.float32), full)) if rank != 20 else None
    for i in range(num):
        there = vectors[i][full[i]].astype(np.float32).astype(float)
        wanted, seen, _ = by_svd(there, rank, lam, normalize_pairs=pairs)
        np.testing.assert_allclose(got[i], wanted, atol=ROUNDING, err_msg=f"node {i}")
        if qualities is not None:
            np.testing.assert_allclose(qualities[i][full[i]], seen, atol=ROUNDING)
            assert not qualities[i][~full[i]].any()


@pytest.mark.parametrize(
    ("rows", "rank", "wanted", "seen"),
    [
        ([[1, 0], [2, 0], [0, 3]], 1, [2, 0], [1, 1, 0]),
        ([[1, 0], [2, 0], [0, 3]], 2, [1, 0.5], [1, 1, 1]),
        # One reversed, one apart: the subspace does not see signs.
        ([[1, 0], [1, 0], [-5, 0], [0, 1]], 1, [1, 0], [1, 1, 1, 0]),
    ],
)
def test_by_hand(rows, rank: int, wanted, seen) -> None:
    np.testing.assert_allclose(of_rows(aggregators.flag(rank), rows), wanted, atol=1e-5)
    np.testing.assert_allclose(seen_of(rows, rank), seen, atol=1e-5)


def test_with_as_many_dimensions_as_candidates_it_is_the_mean_of_directions() -> None:
    rows = correlated(3, 9)
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(of_rows(WIDE, rows), directions.mean(axis=0), atol=1e-5)
    alike = np.tile(rows[0], (7, 1))
    np.testing.assert_allclose(of_rows(FLAG, alike), 7 / 4 * directions[0], atol=1e-5)


def test_lengths_rotations_and_order_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    rows = correlated(4, 9)
    plain = of_rows(FLAG, rows)
    np.testing.assert_allclose(of_rows(FLAG, rows * np.exp(rng.standard_normal((9, 1)))), plain, atol=ROUNDING)
    np.testing.assert_allclose(of_rows(FLAG, rows[rng.permutation(9)]), plain, atol=ROUNDING)
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    np.testing.assert_allclose(of_rows(FLAG, rows @ turn), plain @ turn, atol=ROUNDING)
    assert np.linalg.norm(plain) <= 9 / 5 + 1e-5


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_the_same_at_every_scale(size: float) -> None:
    rows = np.clip(correlated(5, 7), -5, 5)
    np.testing.assert_allclose(of_rows(FLAG, rows * size), of_rows(FLAG, rows), atol=ROUNDING)


def test_more_iterations_never_explain_less() -> None:
    falls = 0
    for seed in range(4):
        rows = correlated(seed, 11, 30)
        left = [np.sqrt(np.clip(1 - seen_of(rows, 3, iterations), 0, 1)).sum() for iterations in (1, 2, 5)]
        assert max(np.diff(left)) <= 1e-5
        np.testing.assert_allclose(left[2], by_svd(rows, 3)[2][-1], atol=1e-3)
        falls += left[2] < left[0] - 1e-3
    assert falls


def test_what_has_no_direction_adds_nothing_and_what_is_not_finite_does_not_count() -> None:
    rows = correlated(6, 7)
    zeroed = np.concatenate([rows, np.zeros((1, 12))])
    np.testing.assert_allclose(of_rows(FLAG, zeroed), by_svd(zeroed)[0], atol=ROUNDING)
    for lie in (np.nan, np.inf):
        with_lie = np.concatenate([rows, np.full((1, 12), lie)])
        np.testing.assert_allclose(of_rows(FLAG, with_lie), of_rows(FLAG, rows), atol=1e-6)


def test_about_the_own_model_it_is_a_mean_of_directions_of_usual_length() -> None:
    rows = correlated(7, 6)
    rule = aggregators.flag(99, centre="own", rescale="median")
    ways = rows[1:] - rows[0]
    lengths = np.linalg.norm(ways, axis=1, keepdims=True)
    wanted = rows[0] + (ways / lengths).sum(axis=0) / 6 * np.median(lengths)
    np.testing.assert_allclose(of_rows(rule, rows), wanted, rtol=1e-4, atol=1e-4)
    far = np.concatenate([rows, np.full((1, 12), 1e9)])
    assert np.linalg.norm(of_rows(OF_MODELS, far) - rows[0]) < 3 * lengths.max()


def test_a_server_may_use_it_and_is_told_where_not() -> None:
    problem = problems.quadratic(6, 3)
    algorithms.fedavg(problem, optax.sgd(0.1), aggregator=aggregators.flag(num_iterations=2))
    with pytest.raises(ValueError, match="fedavg: aggregator must be one that treats a node's own value as any other"):
        algorithms.fedavg(problem, optax.sgd(0.1), aggregator=aggregators.flag(centre="own", rescale="median"))


def test_its_floats_may_be_traced_and_nothing_is_held_per_pair() -> None:
    rows = jnp.asarray(correlated(8, 9)[None], jnp.float32)

    def of(lam, epsilon):
        return aggregators.flag(regularization=lam, epsilon=epsilon).apply(KEY, (), rows[:, 0], heard_of(rows[:, 1:]))[
            1
        ]

    swept = jax.jit(jax.vmap(of))(jnp.array([0.0, 4.0]), jnp.array([1e-7, 1e-7]))
    np.testing.assert_allclose(swept[0, 0], by_svd(np.asarray(rows[0], float))[0], atol=ROUNDING)
    np.testing.assert_allclose(swept[1, 0], by_svd(np.asarray(rows[0], float), lam=4.0)[0], atol=ROUNDING)
    num, width, dimension = 50, 8, 1000
    inbox = heard_of(np.zeros((1, 1, 1)))._replace(
        values=jax.ShapeDtypeStruct((num, width, dimension), jnp.float32),
        weights=jax.ShapeDtypeStruct((num, width), jnp.float32),
        mask=jax.ShapeDtypeStruct((num, width), bool),
        senders=jax.ShapeDtypeStruct((num, width), jnp.int32),
    )
    own = jax.ShapeDtypeStruct((num, dimension), jnp.float32)
    compiled = jax.jit(lambda own, inbox: aggregators.flag().apply(KEY, (), own, inbox)[1]).lower(own, inbox).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 4 * num * (width + 1) * dimension


def test_decentralised_learning_survives_liars_with_it() -> None:
    """Twelve nodes, three of which say the opposite ten times as loud: the mean is carried off, flag is not."""
    problem = problems.quadratic(12, 10, heterogeneity=0.2)
    network = networks.complete(12).with_channel(networks.byzantine([9, 10, 11], "sign_flip", 10.0))
    optimum = np.asarray(jax.tree.leaves(problem.optimum)[0])
    ends = {"start": np.linalg.norm(np.asarray(jax.tree.leaves(problem.init(KEY))[0]) - optimum)}
    for name, rule in (("mean", aggregators.mean()), ("flag", OF_MODELS)):
        algorithm = algorithms.dsgd(problem, optax.sgd(0.1), aggregator=rule)
        run = dlsim.simulate(dlsim.learn(problem, algorithm, network), seed=0, num_steps=60, progress=False)
        models = np.asarray(jax.tree.leaves(run.params)[0])[0, :9]
        ends[name] = np.linalg.norm(models - optimum, axis=1).max()
    assert ends["flag"] < ends["start"], ends
    assert not ends["mean"] < 10 * ends["flag"]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: aggregators.flag(0), "flag: rank must be an integer >= 1, got 0"),
        (lambda: aggregators.flag(regularization=-1.0), "flag: regularization must be a number"),
        (lambda: aggregators.flag(num_iterations=0), "flag: num_iterations must be an integer >= 1, got 0"),
        (lambda: aggregators.flag(epsilon=0.0), "flag: epsilon must be a number"),
        (lambda: aggregators.flag(centre="mean"), "flag: centre must be one of"),
        (lambda: aggregators.flag(rescale="mean"), "flag: rescale must be"),
        (lambda: aggregators.flag_qualities(jnp.ones(3)), r"flag_qualities: values must be arrays \[n, K, ...\]"),
        (
            lambda: aggregators.flag_qualities(jnp.ones((1, 3, 2)), np.ones((3, 1), bool)),
            "flag_qualities: mask must be",
        ),
    ],
)
def test_bad_input(make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
