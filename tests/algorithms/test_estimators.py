"""Gradients with a memory: against loops of their definitions, and noise that vanishes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes
from contract import world

from dlsim import algorithms, keys, problems
from dlsim.algorithms.estimators import estimator_of
from dlsim.problems.sampling import batch_positions

NOISY = six_nodes.problem(gradient_noise=0.5)
METHODS = {
    "tracking": lambda p, **options: algorithms.gradient_tracking(p, optax.sgd(six_nodes.RATE), **options),
    "lt_admm": lambda p, **options: algorithms.lt_admm(p, 0.1, num_local_steps=3, consensus_step_size=0.1, **options),
}
OF_TWO_POINTS = {
    "svrg": algorithms.svrg(0.3),
    "svrg, one coin": algorithms.svrg(0.3, is_common=True),
    "sarah": algorithms.sarah(4),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OF_TWO_POINTS)
def test_noise_that_does_not_depend_on_the_parameters_is_gone(name: str, method: str) -> None:
    """It cancels between the two gradients of a batch: the method is the one without noise, whoever is away."""
    one = six_nodes.play(METHODS[method](NOISY, estimator=OF_TWO_POINTS[name]), six_nodes.network())
    other = six_nodes.play(METHODS[method](six_nodes.problem()), six_nodes.network())
    six_nodes.agree(six_nodes.models(one), six_nodes.models(other))


def walk(estimator: Any, problem: Any, num_steps: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Points that a walk goes through, what the estimator says at each, and the numbers of gradients."""
    bound = estimator_of("here", problem, estimator, False)
    ids = jnp.arange(problem.num_nodes)
    rows = jax.vmap(problem.init)(jax.random.split(jax.random.key(7), problem.num_nodes))
    said, memory = bound.init(jax.random.key(0), rows, ids)
    points, made, counts = [rows], [said], []
    step = jax.jit(bound.step)
    for t in range(num_steps):
        key = jax.random.key(t + 1)
        rows = jax.tree.map(lambda x, g: x - 0.5 * g, rows, said)
        said, _, memory, count = step(key, rows, ids, memory)
        points.append(rows), made.append(said), counts.append(count)
    return points, made, counts


def test_saga_is_its_table() -> None:
    """An explicit table, node by node and example by example."""
    problem = world.classification()
    points, made, counts = walk(algorithms.saga(), problem, 6)
    sizes, ids = np.asarray(problem.num_examples), jnp.arange(problem.num_nodes)

    @jax.jit
    def one_each(rows: Any, places: Any) -> Any:
        return problem.gradient_at(jax.random.key(0), rows, ids, places[:, None], jnp.ones((len(ids), 1), bool))[0]

    table = {}  # (node, example) -> leaves
    for h in range(sizes.max()):
        gradients = one_each(points[0], jnp.minimum(h, sizes - 1))
        table |= {(i, h): [leaf[i] for leaf in jax.tree.leaves(gradients)] for i in range(len(sizes)) if h < sizes[i]}
    num_leaves = len(jax.tree.leaves(points[0]))
    for t, (rows, said) in enumerate(zip(points, made, strict=True)):
        expected = [
            [np.mean([table[i, h][k] for h in range(n)], axis=0) for k in range(num_leaves)]
            for i, n in enumerate(sizes)
        ]
        if t > 0:
            drawn = np.asarray(batch_positions(keys.stream(jax.random.key(t), "positions"), ids, jnp.asarray(sizes), 4))
            news = {}
            for b in range(4):
                gradients = one_each(rows, drawn[:, b])
                news |= {(i, drawn[i, b]): [leaf[i] for leaf in jax.tree.leaves(gradients)] for i in range(len(sizes))}
            for (i, h), new in news.items():
                for k in range(num_leaves):
                    expected[i][k] = expected[i][k] + (new[k] - table[i, h][k]) / 4
            table |= news
        for i in range(len(sizes)):
            for leaf, wanted in zip(jax.tree.leaves(said), expected[i], strict=True):
                np.testing.assert_allclose(leaf[i], wanted, rtol=1e-4, atol=1e-5)
    assert all((np.asarray(count) == 4).all() for count in counts)


def test_svrg_counts_what_it_computes_and_holds_its_snapshots() -> None:
    problem = world.classification()
    _, _, counts = walk(algorithms.svrg(0.5), problem, 8)
    full = np.asarray(counts) - 8
    sizes = np.asarray(problem.num_examples)
    assert set(np.unique(full / sizes)) == {0.0, 1.0} and 0.2 < (full > 0).mean() < 0.8
    _, _, counts = walk(algorithms.svrg(0.5, is_common=True), problem, 8)
    assert all(len(set(row)) == 1 for row in (np.asarray(counts) > 8)), "one coin for all"
    points, made, _ = walk(algorithms.svrg(1.0), problem, 3)
    for rows, said in zip(points, made, strict=True):
        whole, _ = problem.full_gradient(jax.random.key(0), rows, jnp.arange(problem.num_nodes))
        world.close(said, whole, rtol=1e-4, atol=1e-5)


def test_sarah_begins_anew_every_period_and_adds_up_changes_between() -> None:
    problem, ids = world.classification(), jnp.arange(world.NUM_NODES)
    points, made, counts = walk(algorithms.sarah(3), problem, 7)
    gradient = jax.jit(problem.gradient)
    for t in range(1, 8):
        if t % 3 == 0:
            expected, _ = problem.full_gradient(jax.random.key(0), points[t], ids)
            assert (np.asarray(counts[t - 1]) == np.asarray(problem.num_examples)).all()
        else:
            here, before = (gradient(jax.random.key(t), rows, ids)[0] for rows in (points[t], points[t - 1]))
            expected = jax.tree.map(lambda a, b, v: a - b + v, here, before, made[t - 1])
            assert (np.asarray(counts[t - 1]) == 8).all()
        world.close(made[t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["svrg", "saga"])
def test_the_noise_of_batches_vanishes_at_the_optimum(name: str) -> None:
    """Tracking by plain stochastic gradients stays in a ball around it; these do not."""
    data = problems.synthetic_classification(96, 3, 2, seed=0)
    parts = problems.partition(data, 6, problems.iid(), seed=0)
    problem = problems.supervised("softmax", data, parts, regularization=0.1, batch_size=2)
    estimator = algorithms.svrg(0.2) if name == "svrg" else algorithms.saga()
    reached = {}
    for label, options in {"plain": {}, name: {"estimator": estimator}}.items():
        algorithm = algorithms.gradient_tracking(problem, optax.sgd(0.1), **options)
        key, network = jax.random.key(0), six_nodes.network()
        rows = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (6, *leaf.shape)), problem.init(key))

        @jax.jit
        def run(key: Any, rows: Any, algorithm: Any = algorithm, network: Any = network) -> Any:
            def step(t: Any, state: Any) -> Any:
                return algorithm.step(jax.random.fold_in(key, t), state, network)[0]

            return jax.lax.fori_loop(0, 1500, step, algorithm.init(key, rows, network)).params

        mean = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf.mean(0), leaf.shape), run(key, rows))
        gradients, _ = problem.full_gradient(key, mean, jnp.arange(6))
        reached[label] = float(jnp.sqrt(sum(jnp.sum(leaf.mean(0) ** 2) for leaf in jax.tree.leaves(gradients))))
    assert reached[name] < 1e-5 and reached["plain"] > 100 * reached[name]


BAD = {
    r"svrg: probability must be a number in \(0, 1\], got 0": lambda: algorithms.svrg(0.0),
    r"sarah: period must be .*, got 0": lambda: algorithms.sarah(0),
    r"saga: problem must be one with examples to go through, got one without\. Use svrg": lambda: METHODS["tracking"](
        NOISY, estimator=algorithms.saga()
    ),
    r"gradient_tracking: use_full_gradient must be False with an estimator, got True": lambda: METHODS["tracking"](
        NOISY, estimator=algorithms.svrg(), use_full_gradient=True
    ),
    r"gradient_tracking: estimator must be .*svrg\(\.\.\.\), sarah\(\.\.\.\) or saga\(\)": lambda: METHODS["tracking"](
        NOISY, estimator="svrg"
    ),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_clear_line(line: str) -> None:
    with pytest.raises(ValueError, match=line):
        BAD[line]()
