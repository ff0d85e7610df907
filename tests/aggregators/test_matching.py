"""Networks brought into one order of hidden units before they are merged."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from scipy.optimize import linear_sum_assignment

import dlsim
from dlsim.aggregators.matching import correlations

aggregators, problems = dlsim.aggregators, dlsim.problems


class Normed(linen.Module):
    """An image through a convolution and a dense layer, a BatchNorm before each ReLU."""

    @linen.compact
    def __call__(self, inputs: Any, train: bool = False) -> Any:
        x = linen.Conv(3, (3, 3), use_bias=False)(inputs.reshape(-1, 4, 4, 1))
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        x = linen.Dense(6)(x.reshape(x.shape[0], -1))
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        return linen.Dense(3)(x)


class Skipping(linen.Module):
    """A layer whose inputs are added to its outputs: one stream, two layers that write to it."""

    @linen.compact
    def __call__(self, inputs: Any) -> Any:
        x = linen.relu(linen.Dense(6)(inputs.reshape(inputs.shape[0], -1)))
        return linen.Dense(3)(x + linen.relu(linen.Dense(6)(x)))


def problem_of(model: Any, num_nodes: int = 4) -> dlsim.Problem:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 64)
    inputs = (rng.normal(size=(64, 4, 4)) + labels[:, None, None]).astype(np.float32)
    return problems.classification(
        problems.dataset(inputs, labels, test_inputs=inputs, test_labels=labels), num_nodes, model=model, batch_size=8
    )


PROBLEMS = {name: problem_of(model) for name, model in {"mlp": problems.mlp((6, 5)), "normed": Normed()}.items()}
INPUTS = np.random.default_rng(1).normal(size=(40, 4, 4)).astype(np.float32)


UNITS = {name: problems.hidden_units(problem.model, (4, 4)) for name, problem in PROBLEMS.items()}
PERMUTE = {name: jax.jit(units.permute) for name, units in UNITS.items()}
APPLY = {name: jax.jit(jax.vmap(problem.model.apply, (0, None))) for name, problem in PROBLEMS.items()}


def models(name: str, num: int) -> Any:
    """Models whose biases, scales and statistics are no constants; NumPy, `[num, ...]`."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(PROBLEMS[name].init, jax.random.key(0))

    def leaf(path: Any, shape: Any) -> np.ndarray:
        is_kernel = "kernel" in jax.tree_util.keystr(path)
        drawn = rng.normal(size=(num, *shape.shape)) / 2 if is_kernel else 0.5 + rng.random((num, *shape.shape))
        return drawn.astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def re_ordered(name: str, params: Any) -> Any:
    """Models `[N, ...]`, each with the units of every layer in a random order of its own."""
    num = len(jax.tree.leaves(params)[0])
    turned = []
    for i in range(num):
        rng = np.random.default_rng(i)
        orders = [rng.permutation(space.size).astype(np.int32) for space in UNITS[name].spaces]
        turned.append(PERMUTE[name](one(params, i), orders))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *turned)


def outputs(name: str, params: Any) -> np.ndarray:
    return np.asarray(APPLY[name](params, INPUTS))


def one(tree: Any, i: int = 0) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[i], tree)


@functools.cache
def matching(name: str, kind: str = "activations") -> Any:
    make = aggregators.activation_matching if kind == "activations" else aggregators.weight_matching
    return make(PROBLEMS[name], INPUTS, units=UNITS[name])


@functools.cache
def merging(name: str, kind: str, reference: str) -> Any:
    @jax.jit
    def merge(params: Any, inbox: Any, num_matchings: Any) -> Any:
        rule = aggregators.aligned(matching(name, kind), num_matchings=num_matchings, reference=reference)
        return rule.apply(jax.random.key(1), rule.init(params), params, inbox)

    return merge


def merged(
    name: str,
    params: Any,
    kind: str = "activations",
    num_matchings: float = np.inf,
    reference: str = "own",
    inbox: Any = None,
) -> Any:
    """The state and the models after one merge over a ring, of four models."""
    if inbox is None:
        inbox, _ = dlsim.networks.ring(4).gather(jax.random.key(0), jax.tree.map(jnp.asarray, params))
    return merging(name, kind, reference)(params, inbox, np.full(4, num_matchings, np.float32))


def test_the_assignment_is_the_optimum_on_the_device() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(3, 4, 17, 17))
    tied = rng.integers(0, 3, size=(3, 4, 17, 17)).astype(float)
    solve = jax.jit(aggregators.linear_assignment)
    for scores in (normal, tied, np.zeros_like(tied)):
        found = np.asarray(solve(scores.astype(np.float32)))
        assert found.shape == (3, 4, 17) and found.dtype == np.int32
        for place in np.ndindex(3, 4):
            matrix = scores[place].astype(np.float32)
            best = matrix[linear_sum_assignment(matrix, maximize=True)].sum()
            assert sorted(found[place]) == list(range(17))
            np.testing.assert_allclose(matrix[np.arange(17), found[place]].sum(), best, rtol=1e-5, atol=1e-5)
    assert solve(np.zeros((1, 1), np.float32)).tolist() == [0]
    assert aggregators.linear_assignment(np.eye(4)[[2, 0, 3, 1]]).tolist() == [2, 0, 3, 1]
    # Not a number is worst, and nothing goes round for ever.
    bad = np.full((3, 3), np.nan, np.float32)
    bad[0, 2] = 1
    assert aggregators.linear_assignment(bad)[0] == 2
    with pytest.raises(ValueError, match=r"linear_assignment: scores must be square matrices \[..., H, H\]"):
        aggregators.linear_assignment(np.zeros((2, 3)))


def test_the_example_by_hand() -> None:
    """W1 = I, W2 = (3, 4) and the same with its units swapped: C, q and the merge are known."""
    inputs = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    own, heard = inputs, inputs[:, ::-1]  # what the two units of each make of them, after ReLU
    scores = correlations(own, heard)
    np.testing.assert_allclose(scores, [[-0.5, 1], [1, -0.5]], atol=1e-6)
    assert aggregators.linear_assignment(scores).tolist() == [1, 0]
    data = problems.dataset(np.asarray(inputs), np.array([3.0, 4.0, 7.0]), regression=True)
    small = problems.supervised(problems.mlp((2,)), data, problems.partition(data, 1, problems.iid()), batch_size=1)
    layers = {"Dense_0": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}
    first = {**layers, "Dense_1": {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.zeros(1)}}
    other = {
        "Dense_0": {"kernel": jnp.eye(2)[::-1], "bias": jnp.zeros(2)},
        "Dense_1": {"kernel": jnp.array([[4.0, 3.0]]), "bias": jnp.zeros(1)},
    }
    turned = aggregators.align(aggregators.activation_matching(small, inputs), first, other)
    merged = jax.tree.map(lambda a, b: (a + b) / 2, first, turned)
    jax.tree.map(np.testing.assert_array_equal, merged, first)
    np.testing.assert_allclose(small.model.apply(merged, inputs)[:, 0], [3, 4, 7], rtol=1e-6)
    plain = jax.tree.map(lambda a, b: (a + b) / 2, first, other)
    np.testing.assert_allclose(small.model.apply(plain, inputs)[:, 0], [3.5, 3.5, 7], rtol=1e-6)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_order_of_hidden_units_changes_no_function(name: str) -> None:
    some = models(name, 2)
    turned = re_ordered(name, some)
    assert max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (some, turned)), strict=True)) > 0.1
    np.testing.assert_allclose(outputs(name, turned), outputs(name, some), atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("mlp", "activations"), ("normed", "activations"), ("mlp", "weights")])
def test_merging_does_not_depend_on_the_order_of_anybodys_units(name: str, kind: str) -> None:
    """Models, and the same models with every node's units in an order of its own: the same functions come out."""
    some = models(name, 4)
    if kind == "weights":  # its search is sure to end at the best order only where the models are near each other
        some = jax.tree.map(lambda leaf: leaf[:1] + 0.02 * (leaf - leaf[:1]), some)
    (_, plain), (state, found) = merged(name, some, kind), merged(name, re_ordered(name, some), kind)
    assert float(state.moved.min()) > 0.3 and state.num_refused.tolist() == [0] * 4
    np.testing.assert_allclose(outputs(name, found), outputs(name, plain), atol=1e-5)


@pytest.mark.parametrize("name", PROBLEMS)
def test_copies_in_other_orders_stay_as_they_are_and_an_average_does_not(name: str) -> None:
    renew = jax.jit(lambda model: problems.batch_statistics(PROBLEMS[name].model, model, INPUTS))
    copies = re_ordered(name, jax.tree.map(lambda leaf: np.stack([leaf] * 4), renew(one(models(name, 1)))))
    kept, averaged = (merged(name, copies, num_matchings=limit)[1] for limit in (np.inf, 0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), kept, copies)
    assert np.abs(outputs(name, averaged) - outputs(name, copies)).max() > 0.1


def test_batch_statistics_are_those_of_the_inputs() -> None:
    problem = PROBLEMS["normed"]
    params = one(models("normed", 1))
    found = jax.jit(lambda model: problems.batch_statistics(problem.model, model, INPUTS))(params).batch_stats
    conv = jax.lax.conv_general_dilated(
        INPUTS[..., None], params.params["Conv_0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(found["BatchNorm_0"]["mean"], np.mean(conv, (0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["BatchNorm_0"]["var"], np.var(conv, (0, 1, 2)), rtol=1e-4)
    scaled = (conv - np.mean(conv, (0, 1, 2))) / np.sqrt(np.var(conv, (0, 1, 2)) + 1e-5)
    norm = params.params["BatchNorm_0"]
    hidden = np.maximum(scaled * norm["scale"] + norm["bias"], 0).reshape(len(INPUTS), -1)
    dense = hidden @ params.params["Dense_0"]["kernel"] + params.params["Dense_0"]["bias"]
    np.testing.assert_allclose(found["BatchNorm_1"]["mean"], np.mean(dense, 0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["BatchNorm_1"]["var"], np.var(dense, 0), rtol=1e-3)
    plain = one(models("mlp", 1))
    assert problems.batch_statistics(PROBLEMS["mlp"].model, plain, jnp.asarray(INPUTS)) is plain


def numpy_merge(params: Any) -> list[Any]:
    """One merge of perceptrons over the ring of four, node by node: forward, correlate, assign, re-order, average."""
    num, found = 4, []

    def layers(model: Any) -> list[np.ndarray]:
        x, out = INPUTS.reshape(len(INPUTS), -1).astype(np.float64), []
        for name in ("Dense_0", "Dense_1"):
            x = np.maximum(x @ np.asarray(model[name]["kernel"], float).T + np.asarray(model[name]["bias"], float), 0)
            out.append(x)
        return out

    for i in range(num):
        own = one(params, i)
        total = jax.tree.map(lambda leaf: np.asarray(leaf, float) / 3, own)
        for j in ((i - 1) % num, (i + 1) % num):
            other = jax.tree.map(lambda leaf: np.asarray(leaf, float).copy(), one(params, j))
            for place, (a, b) in enumerate(zip(layers(own), layers(one(params, j)), strict=True)):
                spread = np.maximum(np.outer(a.std(0), b.std(0)), 1e-7)
                scores = (a - a.mean(0)).T @ (b - b.mean(0)) / len(a) / spread
                q = linear_sum_assignment(scores, maximize=True)[1]
                layer, after = other[f"Dense_{place}"], other[f"Dense_{place + 1}"]
                layer["kernel"], layer["bias"] = layer["kernel"][q], layer["bias"][q]
                after["kernel"] = after["kernel"][:, q]
            total = jax.tree.map(lambda t, o: t + o / 3, total, other)
        found.append(total)
    return found


def test_a_merge_is_that_of_a_loop_in_numpy() -> None:
    params = models("mlp", 4)
    found = merged("mlp", params)[1]
    for i, wanted in enumerate(numpy_merge(params)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one(found, i), wanted)


def test_equal_models_are_not_touched_bit_for_bit() -> None:
    same = jax.tree.map(lambda leaf: np.stack([leaf[0]] * 4), models("mlp", 1))
    state, found = merged("mlp", same)
    plain = merged("mlp", same, num_matchings=0)[1]
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    assert state.moved.tolist() == [0] * 4


def test_a_frustrated_cycle_takes_the_difference_of_two_units_apart() -> None:
    """A triangle, W = 1/3, two units, swapped between nodes 2 and 0 alone: eigenvalues 1, 0, 0 and 2/3, 2/3, -1/3."""

    def orders(key: Any, own: Any, inbox: Any) -> Any:
        receivers = jnp.arange(3)[:, None]
        swaps = (receivers - inbox.senders) % 3 != 0
        swaps = swaps & (jnp.minimum(receivers, inbox.senders) == 0) & (jnp.maximum(receivers, inbox.senders) == 2)
        return inbox, (jnp.where(swaps[..., None], jnp.array([1, 0]), jnp.array([0, 1])),)

    def reorder(own: Any, inbox: Any, found: Any) -> Any:
        return inbox._replace(values=jnp.take_along_axis(inbox.values, found[0], axis=2))

    swapping = aggregators.Matching((2,), None, reorder, lambda key, params, node_ids: params, search=orders)
    rule = aggregators.aligned(swapping)
    operator = []
    for unit in np.eye(6, dtype=np.float32):
        params = jnp.asarray(unit.reshape(3, 2))
        inbox, _ = dlsim.networks.complete(3).gather(jax.random.key(0), jax.tree.map(jnp.asarray, params))
        operator.append(np.asarray(rule.apply(jax.random.key(0), rule.init(params), params, inbox)[1]).ravel())
    found = np.sort(np.linalg.eigvals(np.array(operator).T).real)
    np.testing.assert_allclose(found, [-1 / 3, 0, 0, 2 / 3, 2 / 3, 1], atol=1e-6)


def test_one_order_for_all_on_the_complete_graph() -> None:
    params = models("mlp", 4)
    inbox, _ = dlsim.networks.complete(4).gather(jax.random.key(0), jax.tree.map(jnp.asarray, params))
    together, each = (merged("mlp", params, reference=name, inbox=inbox)[1] for name in ("first", "own"))
    for i in range(4):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one(together, i), one(each))
    # Whoever hears nobody keeps its own, and the first who hears somebody is the reference.
    deaf = inbox._replace(mask=inbox.mask.at[0].set(False), weights=inbox.weights.at[0].set(0))
    together, each = (merged("mlp", params, reference=name, inbox=deaf)[1] for name in ("first", "own"))
    jax.tree.map(np.testing.assert_array_equal, one(together, 0), one(params, 0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one(together, 3), one(each, 1))
    with pytest.raises(ValueError, match="aligned: reference must be 'own' where a node hears a part of the nodes"):
        merged("mlp", params, reference="first")


@pytest.mark.parametrize("kind", ["activations", "weights"])
def test_what_is_not_finite_is_left_out_and_counted(kind: str) -> None:
    sick = jax.tree.map(
        lambda leaf: np.where(np.arange(4).reshape(4, *[1] * (leaf.ndim - 1)) == 1, np.nan, leaf), models("mlp", 4)
    )
    state, found = merged("mlp", jax.tree.map(np.float32, sick), kind)
    assert state.num_refused.tolist()[0] == state.num_refused.tolist()[2] == 1 and int(state.num_refused[3]) == 0
    assert np.isfinite(outputs("mlp", found))[[0, 2, 3]].all()


def test_orders_by_a_nodes_own_data_and_as_many_times_as_asked() -> None:
    own = aggregators.activation_matching(PROBLEMS["mlp"], units=UNITS["mlp"])  # a batch of each node's own
    params = models("mlp", 4)
    rule = aggregators.aligned(own, num_matchings=1)
    inbox, _ = dlsim.networks.ring(4).gather(jax.random.key(0), jax.tree.map(jnp.asarray, params))
    apply = jax.jit(lambda state, inbox: rule.apply(jax.random.key(1), state, params, inbox)[0])
    silent = inbox._replace(mask=jnp.zeros_like(inbox.mask), weights=jnp.zeros_like(inbox.weights))
    state = apply(rule.init(params), silent)
    assert state.left.tolist() == [1] * 4  # nothing was heard
    state = apply(state, inbox)
    assert state.left.tolist() == [0] * 4 and float(state.moved.min()) > 0
    assert apply(state, inbox).moved.tolist() == [0] * 4


def test_refusals() -> None:
    problem, known = PROBLEMS["mlp"], matching("mlp")
    first = one(models("mlp", 1))
    wider = jax.tree.map(lambda leaf: np.zeros([size + (size == 5) for size in leaf.shape], np.float32), first)
    lines = {
        r"align: other must be of shape \[5\] at \['Dense_1'\]\['bias'\], got \[6\]": lambda: aggregators.align(
            known, first, wider
        ),
        "align: other must be of the problem's structure": lambda: aggregators.align(
            known, first, one(models("normed", 1))
        ),
        "hidden_units: model must be one whose layers follow one another": lambda: aggregators.weight_matching(
            problem_of(Skipping())
        ),
        "hidden_units: model must be one with a hidden layer, got 1 layers": lambda: aggregators.weight_matching(
            problem_of("softmax")
        ),
        "activation_matching: problem must be one with a model of layers": lambda: aggregators.activation_matching(
            problems.quadratic(4, 3)
        ),
        r"activation_matching: inputs must be of shape \[m, 4, 4\] with m >= 1, got \[40, 16\]": lambda: (
            aggregators.activation_matching(problem, INPUTS.reshape(40, 16))
        ),
        r"activation_matching: inputs\[0, 0, 0\] must be": lambda: aggregators.activation_matching(
            problem, INPUTS * np.nan
        ),
        "aligned: matching must be ": lambda: aggregators.aligned("activations"),
        "aligned: num_matchings must be a number or 4, one a node, got 3 numbers": lambda: aggregators.aligned(
            known, num_matchings=np.ones(3)
        ).init(models("mlp", 4)),
        "aligned: reference must be one of first, own": lambda: aggregators.aligned(known, reference="last"),
        "dimat: assignment must be 'device' where": lambda: dlsim.algorithms.dimat(
            problem, None, matching=matching("mlp", "weights"), assignment="host"
        ),
        "shared_inputs: num must be at most 64, the train examples": lambda: problems.shared_inputs(
            problems.dataset(
                np.ones((64, 2)), np.arange(64) % 2, test_inputs=np.ones((2, 2)), test_labels=np.arange(2)
            ),
            65,
        ),
    }
    for line, call in lines.items():
        with pytest.raises(ValueError, match=line):
            call()
