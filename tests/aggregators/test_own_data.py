"""Rules that judge models by a node's own data: what they ask, whom, and MOZI against a loop over nodes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import aggregators, algorithms, networks, problems
from dlsim.networks.network import Inbox
from dlsim.problems import own_losses, own_outputs

KEY = jax.random.key(2)
NUM, WIDTH = 7, 5


@functools.cache
def problem(test_per_node: float | None = 0.3) -> dlsim.Problem:
    return problems.classification(
        "digits",
        NUM,
        partition=problems.dirichlet(0.5, min_size=20),
        test_per_node=test_per_node,
        model="softmax",
        batch_size=6,
    )


@functools.cache
def models(seed: int = 0, num: int = NUM, width: int = WIDTH):
    """Of every node its own and what it heard: about a few useful models."""
    rng = np.random.default_rng(seed)
    start = dlsim.trees.replicate(problem().init(jax.random.key(0)), NUM)
    gradient = jax.tree.map(np.asarray, problem().full_gradient(KEY, start, jnp.arange(NUM))[0])

    def leaf(g: np.ndarray) -> jax.Array:
        scale = rng.normal(size=(num, width + 1, *(1,) * (g.ndim - 1)))
        return jnp.asarray(
            -scale * g.mean(axis=0) + 0.01 * rng.normal(size=(num, width + 1, *g.shape[1:])), jnp.float32
        )

    whole = jax.tree.map(leaf, gradient)
    return jax.tree.map(lambda v: v[:, 0], whole), jax.tree.map(lambda v: v[:, 1:], whole)


def inbox_of(heard, seed: int = 0, node_ids=None) -> Inbox:
    rng = np.random.default_rng(seed)
    num, width = jax.tree.leaves(heard)[0].shape[:2]
    mask = jnp.asarray(np.stack([rng.permutation(width) < i % (width + 1) for i in range(num)]))
    ids = jnp.arange(num, dtype=jnp.int32) if node_ids is None else node_ids
    senders = jnp.tile(jnp.arange(width, dtype=jnp.int32), (num, 1))
    return Inbox(heard, jnp.where(mask, 0.1, 0), mask, senders, node_ids=ids)


def row(tree, *at: int):
    return jax.tree.map(lambda leaf: leaf[at], tree)


def test_losses_are_those_of_the_nodes_own_batch_and_outputs_those_of_its_own_tests() -> None:
    own, heard = models()
    ids = jnp.array([3, 1, 6])
    heard = jax.tree.map(lambda v: v[:3], heard)
    losses = own_losses(problem(), KEY, heard, ids)
    outputs, labels, mask = own_outputs(problem(), heard, ids)
    batch, (tests, there) = problem().sample(KEY, ids), problem().own_tests(ids)
    np.testing.assert_array_equal(mask, there)
    for i in range(3):
        for k in range(WIDTH):
            wanted = problem().loss(row(heard, i, k), row(batch, i))
            np.testing.assert_allclose(losses[i, k], wanted, rtol=1e-5)
            np.testing.assert_allclose(
                outputs[i, k], problem().model.apply(row(heard, i, k), tests.inputs[i]), atol=1e-5
            )
    right = (np.argmax(outputs[:, 0], axis=-1) == labels) & mask
    measured = problem().evaluate(jax.tree.map(lambda v: v[:, 0], heard), ids)["accuracy_local"]
    np.testing.assert_allclose(right.sum(axis=1) / np.asarray(mask).sum(axis=1), measured, rtol=1e-6)
    whole = own_losses(problem(), KEY, heard, ids, on="all")
    wanted = problem().full_gradient(KEY, jax.tree.map(lambda v: v[:, 2], heard), ids)[1]
    np.testing.assert_allclose(whole[:, 2], wanted, rtol=1e-6)
    # Own models against what was heard: the same batch.
    mine = own_losses(problem(), KEY, jax.tree.map(lambda v: v[:3, None], own), ids)
    np.testing.assert_allclose(mine[0, 0], problem().loss(row(own, 0), row(batch, 0)), rtol=1e-5)


def test_no_gradient_is_taken_and_blocks_change_nothing() -> None:
    _, heard = models()
    ids = jnp.arange(NUM)
    of = lambda one: jax.jit(lambda h: own_losses(one, KEY, h, ids))  # noqa: E731
    blocks = problem()._replace(node_block=2)
    np.testing.assert_allclose(of(blocks)(heard), of(problem())(heard), rtol=1e-6)
    forward = of(problem()).lower(heard).compile().cost_analysis()["flops"]
    first = jax.tree.map(lambda v: v[:, 0], heard)
    both = jax.jit(lambda p: problem().gradient(KEY, p, ids)).lower(first).compile().cost_analysis()["flops"]
    assert forward < 0.8 * WIDTH * both  # a gradient of softmax regression costs as much as its loss


def mozi_of(own, heard, mask, losses, mine, share: float, alpha: float, otherwise: str) -> np.ndarray:
    """One node, vectors."""
    there = [k for k in range(len(heard)) if mask[k]]
    near = sorted(there, key=lambda k: np.linalg.norm(heard[k] - own))[: int(np.ceil(share * len(there) - 1e-9))]
    good = [k for k in near if losses[k] <= mine]
    if not good and near and otherwise == "best":
        good = [min(near, key=lambda k: losses[k])]
    return alpha * own + (1 - alpha) * heard[good].mean(axis=0) if good else own


def flat(tree, lead: int) -> np.ndarray:
    leaves = jax.tree.leaves(tree)
    return np.concatenate([np.asarray(v, float).reshape(*v.shape[:lead], -1) for v in leaves], axis=-1)


def test_mozi_against_a_loop(share: float, alpha: float, otherwise: str) -> None:
    own, heard = models()
    inbox = inbox_of(heard)
    rule = aggregators.mozi(problem(), share, self_weight=alpha, otherwise=otherwise)
    _, got = jax.jit(rule.apply)(KEY, (), own, inbox)
    losses = np.asarray(own_losses(problem(), KEY, heard, inbox.node_ids))
    mine = np.asarray(own_losses(problem(), KEY, jax.tree.map(lambda v: v[:, None], own), inbox.node_ids))[:, 0]
    own_flat, heard_flat = flat(own, 1), flat(heard, 2)
    moved = 0
    for i in range(NUM):
        wanted = mozi_of(own_flat[i], heard_flat[i], inbox.mask[i], losses[i], mine[i], share, alpha, otherwise)
        np.testing.assert_allclose(flat(got, 1)[i], wanted, atol=2e-6, err_msg=f"node {i}")
        moved += not np.allclose(wanted, own_flat[i])
    assert 0 < moved < NUM


def test_mozi_takes_no_lie_however_many_and_however_far() -> None:
    """All but one neighbour lie; what is far, infinite, or does worse on a node's own data moves nothing."""
    own, heard = models()
    good = jax.tree.map(lambda v: v[:, 0], heard)
    losses = lambda one: own_losses(problem(), KEY, jax.tree.map(lambda v: v[:, None], one), jnp.arange(NUM))[:, 0]  # noqa: E731
    for lie in (1e3, 1e20, np.inf, np.nan):
        lies = jax.tree.map(lambda v, lie=lie: v.at[:, 1:].set(lie * jnp.sign(v[:, 1:])), heard)
        inbox = inbox_of(lies)._replace(mask=jnp.ones((NUM, WIDTH), bool))
        _, got = aggregators.mozi(problem(), 1.0, otherwise="own").apply(KEY, (), own, inbox)
        taken = np.asarray(losses(good) <= losses(own))
        wanted = np.where(taken[:, None], (flat(own, 1) + flat(good, 1)) / 2, flat(own, 1))
        np.testing.assert_allclose(flat(got, 1), wanted, atol=1e-6)


def test_a_relabelled_network_asks_the_same_data() -> None:
    """Node ids, and not places, say whose data judge."""
    own, heard = models()
    inbox = inbox_of(heard)
    order = jnp.array([4, 2, 6, 0, 1, 5, 3])
    rule = aggregators.mozi(problem())
    _, plain = rule.apply(KEY, (), own, inbox)
    _, moved = rule.apply(KEY, (), *dlsim.trees.take((own, inbox), order))
    np.testing.assert_allclose(flat(moved, 1), flat(plain, 1)[np.asarray(order)], atol=1e-6)


def test_nodes_learn_beside_liars_with_mozi() -> None:
    """Six of ten say what comes to their mind; the mean does not get through."""
    task = problems.classification("digits", 10, model="softmax", batch_size=16)
    network = networks.complete(10).with_lowering("neighbors")
    network = network.with_channel(networks.byzantine(list(range(4, 10)), "noise"))
    ends = {}
    for name, rule in (("mozi", aggregators.mozi(task, 0.4)), ("mean", aggregators.mean())):
        algorithm = algorithms.dsgd(task, optax.sgd(0.1), aggregator=rule)
        run = dlsim.simulate(dlsim.learn(task, algorithm, network), seed=0, num_steps=40, progress=False)
        honest = jax.tree.map(lambda leaf: leaf[0, :4], run.params)
        ends[name] = float(jnp.mean(task.evaluate(honest, None)["accuracy"]))
    assert ends["mozi"] > 0.8 > ends["mean"] + 0.2


def test_a_server_has_no_data_to_judge_by() -> None:
    with pytest.raises(
        ValueError, match="own_losses: node_ids must be those of nodes with data of their own, got None"
    ):
        algorithms.fedavg(problem(), optax.sgd(0.1), aggregator=aggregators.mozi(problem()))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: aggregators.mozi(None), "mozi: problem must be"),
        (lambda: aggregators.mozi(problem(), 0.0), "mozi: benign_share must be a number in"),
        (lambda: aggregators.mozi(problem(), 1.5), "mozi: benign_share must be a number in"),
        (lambda: aggregators.mozi(problem(), self_weight=2.0), "mozi: self_weight must be a number in"),
        (lambda: aggregators.mozi(problem(), otherwise="none"), "mozi: otherwise must be one of"),
        (
            lambda: own_losses(problem(), KEY, models()[1], jnp.arange(3)),
            r"own_losses: models must be arrays \[3, K, ...\]",
        ),
        (lambda: own_losses(problem(), KEY, models()[1], jnp.arange(NUM), on="test"), "own_losses: on must be one of"),
        (
            lambda: own_outputs(problem(None), models()[1], jnp.arange(NUM)),
            "own_outputs: problem must be one whose nodes hold test examples of their own, got one without",
        ),
    ],
)
def test_bad_input(make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
