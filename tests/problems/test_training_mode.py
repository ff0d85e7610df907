"""Dropout and BatchNorm, of flax's linen and nnx: nodes train as plain loops of flax do, and are evaluated without."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import dlsim
from dlsim import algorithms, keys, networks
from dlsim.problems import classification, dataset, partition_from_lists, supervised
from dlsim.problems.models import Model, from_flax
from dlsim.problems.variables import Variables

KEY = jax.random.key(0)
STEPS, RATE, NUM = 2, 0.1, 4
DATA = np.random.default_rng(0)
X, Y = DATA.normal(size=(48, 6)).astype(np.float32) * 2 + 1, DATA.integers(0, 3, 48)
LISTS = [list(range(12 * i, 12 * i + 12)) for i in range(NUM)]


class Linen(linen.Module):
    rate: float = 0.0
    norm: bool = False

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Dense(8)(x)
        if self.norm:
            x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = linen.Dropout(self.rate, deterministic=not train)(linen.relu(x))
        return linen.Dense(3)(x)


class Nnx(nnx.Module):
    def __init__(self, rate=0.0, norm=False, *, rngs):
        self.first, self.last = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs) if norm else None
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        x = x if self.norm is None else self.norm(x)
        return self.last(self.dropout(nnx.relu(x)))


def problem_of(model, num=NUM, **options):
    data = dataset(X, Y, test_inputs=X[:16], test_labels=Y[:16], offset=0.0, scale=1.0)
    return supervised(model, data, partition_from_lists(LISTS[:num]), **{"batch_size": 4, **options})


def stacked(problem, num=NUM):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *leaf.shape)), problem.init(KEY))


def network_of(num):
    return networks.complete(num) if num > 1 else networks.from_matrix(np.ones((1, 1)))


@functools.partial(jax.jit, static_argnums=0)
def flax_step(model, variables, batch, rng):
    """A step of flax's own loop."""

    def loss(params):
        outputs, changed = model.apply(
            {**variables, "params": params}, batch.inputs, True, rngs={"dropout": rng}, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(outputs, batch.labels).mean(), changed

    gradient, changed = jax.grad(loss, has_aux=True)(variables["params"])
    params = jax.tree.map(lambda p, g: p - RATE * g, variables["params"], gradient)
    return {**changed, "params": params}


def plain_step(model, variables, key, node, problem):
    """That step at one node: its variables after, by the batch and the key of (step, node)."""
    own = jnp.array([node])
    batch = jax.tree.map(lambda leaf: leaf[0], problem.sample(key, own))
    return flax_step(model, variables, batch, keys.at_nodes(keys.stream(key, "dropout"), own)[0])


def as_variables(params, row):
    tree = row_of(params, row)
    return tree._asdict() if isinstance(tree, Variables) else {"params": tree}


def mean_of(trees_):
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees_)


def close(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), got, wanted)


CASES = {
    "dropout": Linen(rate=0.5),
    "batch norm": Linen(norm=True),
    "both": Linen(rate=0.3, norm=True),
}


@pytest.mark.parametrize(("name", "num"), [("both", 1), ("both", NUM), ("dropout", NUM)])
def test_rounds_are_those_of_a_plain_loop_of_flax(name, num):
    """D-SGD on the complete graph averages all variables after every node's own step; FedAvg after two of them."""
    model = CASES[name]
    problem = problem_of(model, num)
    network = network_of(num)
    algorithm = algorithms.dsgd(problem, optax.sgd(RATE))
    state = algorithm.init(KEY, stacked(problem, num), network)
    wanted = [as_variables(state.params, row) for row in range(num)]
    step = jax.jit(lambda key, state: algorithm.step(key, state, network)[0])
    for t in range(STEPS):
        key = jax.random.key(100 + t)
        state = step(key, state)
        after = [plain_step(model, wanted[node], keys.stream(key, "batch"), node, problem) for node in range(num)]
        wanted = [mean_of(after)] * num
    for row in range(num):
        close(as_variables(state.params, row), wanted[row])
    if name == "both":
        mean = state.params.batch_stats["BatchNorm_0"]["mean"]
        assert np.abs(mean).max() > 0.1  # it has moved


@pytest.mark.parametrize("num", [1, NUM])
def test_fedavg_averages_running_statistics_after_local_steps(num):
    model = CASES["both"]
    problem = problem_of(model, num)
    network = network_of(num)
    algorithm = algorithms.fedavg(problem, optax.sgd(RATE), num_local_steps=2)
    state = algorithm.init(KEY, stacked(problem, num), network)
    start = as_variables(algorithm.params(state), 0)
    key = jax.random.key(7)
    state, _, info = jax.jit(lambda key, state: algorithm.step(key, state, network))(key, state)
    ends = []
    for node in range(num):
        variables = start
        for k in range(2):
            draw = keys.fold_in(keys.stream(key, "batch"), jnp.arange(2))[k]
            variables = plain_step(model, variables, draw, node, problem)
        ends.append(variables)
    close(as_variables(algorithm.params(state), 0), mean_of(ends))
    assert np.isfinite(info["loss"]).all()


def nnx_variables(net):
    """Those that are neither parameters nor statistics, in the order of the tree."""
    rest = nnx.split(net, nnx.Param, nnx.BatchStat, ...)[3]
    return jax.tree.leaves(rest, is_leaf=lambda one: isinstance(one, nnx.Variable))


def plain_nnx(model, key, node, problem, num_steps):
    """nnx's own loop at one node, its dropout's stream made anew at every step."""
    net = model(rngs=nnx.Rngs(KEY))
    net.train()
    own = jnp.array([node])
    for t in range(num_steps):
        draw = keys.stream(key(t), "batch")
        batch = jax.tree.map(lambda leaf: leaf[0], problem.sample(draw, own))
        rng = keys.at_nodes(keys.stream(draw, "dropout"), own)[0]
        place = [type(one) for one in nnx_variables(net)].index(nnx.RngKey)
        net.dropout.rngs.key[...] = keys.fold_in(rng, place)
        net.dropout.rngs.count[...] = jnp.uint32(0)

        def loss(net, batch=batch):
            return optax.softmax_cross_entropy_with_integer_labels(net(batch.inputs), batch.labels).mean()

        gradient = nnx.grad(loss)(net)
        nnx.update(net, jax.tree.map(lambda p, g: p - RATE * g, nnx.state(net, nnx.Param), gradient))
    return net


def test_nnx_modules_train_as_a_plain_loop_of_nnx():
    def make(rngs):
        return Nnx(0.3, True, rngs=rngs)

    problem = problem_of(make)
    algorithm = algorithms.isolated_training(problem, optax.sgd(RATE))
    network = networks.complete(NUM)
    state = algorithm.init(KEY, stacked(problem), network)
    step = jax.jit(lambda key, state: algorithm.step(key, state, network)[0])
    for t in range(STEPS):
        state = step(jax.random.key(100 + t), state)
    for node in (0, 3):
        net, own = plain_nnx(make, lambda t: jax.random.key(100 + t), node, problem, STEPS), row_of(state.params, node)
        close(own.params["first"]["kernel"], net.first.kernel[...])
        close(own.batch_stats["norm"], {"mean": net.norm.mean[...], "var": net.norm.var[...]})
        net.eval()
        close(from_flax(make, (6,)).apply(own, X[:5]), net(X[:5]))


def row_of(tree, row):
    return jax.tree.map(lambda leaf: leaf[row], tree)


@pytest.mark.parametrize("make", [Linen(rate=0.5, norm=True), lambda rngs: Nnx(0.5, True, rngs=rngs)])
def test_evaluation_draws_nothing_and_uses_the_running_statistics(make):
    model = from_flax(make, (6,))
    params = model.init(KEY)
    assert isinstance(params, Variables)
    shifted = params._replace(batch_stats=jax.tree.map(lambda leaf: leaf + 1.0, params.batch_stats))
    one, all_ = model.apply(params, X[:1]), model.apply(params, X[:8])
    np.testing.assert_allclose(one[0], all_[0], rtol=1e-4, atol=1e-5)  # whatever it is evaluated with
    assert not np.allclose(all_, model.apply(shifted, X[:8]))
    outputs = [model.train(jax.random.key(k), params, X[:8])[0] for k in (0, 0, 1)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.allclose(outputs[0], outputs[2])


def test_draws_are_by_seed_step_and_node():
    """Rows of like models on like batches: nodes differ, and a node's gradient is its own in any company."""
    problem = problem_of(Linen(rate=0.5), sampling="with_replacement")
    params, ids = stacked(problem), jnp.arange(NUM)
    gradient = jax.jit(problem.gradient)
    gradients, losses = gradient(KEY, params, ids)
    alone, loss = gradient(KEY, jax.tree.map(lambda leaf: leaf[2:3], params), jnp.array([2]))
    np.testing.assert_allclose(losses[2], loss[0], rtol=1e-6)
    close(jax.tree.map(lambda leaf: leaf[2:3], gradients), alone)
    other, _ = gradient(jax.random.key(1), params, ids)
    assert not np.allclose(gradients["Dense_1"]["kernel"], other["Dense_1"]["kernel"])


def test_statistics_know_no_optimiser_and_no_regulariser():
    """Adam, momentum and weight decay move the parameters alone: the statistics are those of plain SGD's first step."""
    ends = []
    for optimizer, regularization in ((optax.sgd(RATE), 0.0), (optax.adamw(0.01, weight_decay=0.5), 0.3)):
        problem = problem_of(CASES["batch norm"], regularization=regularization)
        network = networks.complete(NUM)
        algorithm = algorithms.dsgd(problem, optimizer, weighting="examples")
        state = algorithm.init(KEY, stacked(problem), network)
        state = jax.jit(algorithm.step)(jax.random.key(1), state, network)[0]
        ends.append(state.params)
        assert not any("batch_stats" in str(path) for path, _ in jax.tree.leaves_with_path(state.optimizer_state))
    close(ends[0].batch_stats, ends[1].batch_stats)
    assert not np.allclose(ends[0].params["Dense_0"]["kernel"], ends[1].params["Dense_0"]["kernel"])


def test_a_server_that_adapts_averages_statistics_all_the_same():
    problem, network = problem_of(CASES["batch norm"]), networks.complete(NUM)
    ends = []
    for options in ({}, {"server_optimizer": optax.adam(0.3)}):
        algorithm = algorithms.fedprox(problem, optax.sgd(RATE), proximal_weight=5.0, **options)
        state = algorithm.init(KEY, stacked(problem), network)
        ends.append(jax.jit(algorithm.step)(jax.random.key(1), state, network)[0].params)
    close(ends[0].batch_stats, ends[1].batch_stats)


def test_a_model_by_hand_may_train_otherwise_than_it_is_evaluated():
    def train(key, params, inputs):
        return inputs @ params + jax.random.normal(key, (3,)), None

    problem = problem_of(Model(lambda key: jnp.zeros((6, 3)), lambda params, inputs: inputs @ params, train))
    _, losses = problem.gradient(KEY, stacked(problem), jnp.arange(NUM))
    assert len(np.unique(losses)) == NUM and not np.isclose(losses, np.log(3)).any()
    assert np.allclose(problem.evaluate(stacked(problem), None)["loss"], np.log(3))


# What cannot be right is refused.


class Fixed(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(linen.BatchNorm(use_running_average=False)(x))


class Drawing(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(linen.Dropout(0.5, deterministic=False)(x))


class Counting(linen.Module):
    @linen.compact
    def __call__(self, x):
        self.variable("calls", "count", lambda: jnp.zeros(()))
        return linen.Dense(3)(x)


class Noisy(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        return linen.Dense(3)(x + jax.random.normal(self.make_rng("noise"), x.shape) if train else x)


class Stuck(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs)

    def __call__(self, x):
        return self.norm(x[:, :3])


def round_of(make, model=CASES["batch norm"], **options):
    problem = problem_of(model, **options)
    algorithm, network = make(problem), networks.complete(NUM)
    start = stacked(problem)
    state = jax.eval_shape(lambda: algorithm.init(KEY, start, network))
    return jax.eval_shape(lambda key, state: algorithm.step(key, state, network)[0], KEY, state)


REFUSED = {
    "fixed": (lambda: from_flax(Fixed(), (6,)), r"from_flax: Fixed must be a module that is told whether it trains"),
    "told": (
        lambda: from_flax(CASES["batch norm"], (6,), train=False),
        r"from_flax: Linen must be a module that is told .* Give its __call__ an argument `train`, and leave it to us",
    ),
    "drawing": (
        lambda: from_flax(Drawing(), (6,)),
        r"from_flax: Drawing must be a module that draws no random numbers",
    ),
    "counting": (lambda: from_flax(Counting(), (6,)), r"Counting must be .* only variables are .*, got calls\."),
    "noisy": (lambda: from_flax(Noisy(), (6,)), r"Noisy must be .* the stream 'dropout', got one with others\."),
    "stuck": (lambda: from_flax(Stuck, (6,)), r"Stuck must be .* got one that is set to evaluation\. Call its \.train"),
    "extra": (
        lambda: round_of(lambda problem: algorithms.extra(problem, 0.1)),
        r"supervised: model must be one without running statistics for this algorithm, got one with BatchNorm\. Use dsgd",
    ),
    "tracking": (
        lambda: round_of(lambda problem: algorithms.gradient_tracking(problem, optax.sgd(0.1))),
        r"supervised: model must be one without running statistics",
    ),
    "scaffold": (
        lambda: round_of(lambda problem: algorithms.scaffold(problem, 0.1)),
        r"scaffold: problem must be one whose model keeps no running statistics, got one with BatchNorm\.",
    ),
    "k_gt": (
        lambda: round_of(lambda problem: algorithms.k_gt(problem, 0.1)),
        r"k_gt: problem must be one whose model keeps no running statistics",
    ),
    "full": (
        lambda: round_of(lambda problem: algorithms.extra(problem, 0.1, use_full_gradient=True), CASES["dropout"]),
        r"supervised: model must be one that computes alike in training and evaluation",
    ),
    "epochs": (
        lambda: round_of(lambda problem: algorithms.dsgd(problem, optax.sgd(0.1), num_local_epochs=1), batch_size=5),
        r"supervised: batch_size must be a divisor of every node's number of examples",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_one_line(name):
    make, line = REFUSED[name]
    with pytest.raises(ValueError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_is_right_for_dropout_and_epochs_is_not_refused():
    round_of(lambda problem: algorithms.extra(problem, 0.1), CASES["dropout"])
    state = round_of(lambda problem: algorithms.dsgd(problem, optax.sgd(0.1), num_local_epochs=1), batch_size=4)
    assert isinstance(state.params, Variables)
    off = from_flax(Linen(rate=0.5), (6,), train=False)
    assert off.train is None and from_flax(Linen(), (6,)).train is None

    def still(rngs):
        module = Nnx(0.5, rngs=rngs)
        module.eval()  # as it is given it trains: without Dropout
        return module

    assert from_flax(still, (6,)).train is None


def test_a_run_measures_and_mixes_them():
    problem = classification("digits", 8, model=DigitsNet(), batch_size=16, num_test=64)
    process = dlsim.learn(problem, algorithms.dsgd(problem, optax.sgd(0.1)), networks.ring(8))
    run = dlsim.simulate(process, num_steps=20, record=dlsim.Record(every=20), seed=0, progress=False)
    assert run.status.ok and float(run.results.accuracy[-1]) > 0.7 > 0.3 > float(run.results.accuracy[0])


class DigitsNet(linen.Module):
    @linen.compact
    def __call__(self, x, training=False):
        x = linen.BatchNorm(use_running_average=not training, momentum=0.9)(linen.Dense(32)(x.reshape(x.shape[0], -1)))
        return linen.Dense(10)(linen.Dropout(0.2, deterministic=not training)(linen.relu(x)))


def test_running_statistics_stay_float32_where_parameters_are_stored_as_less():
    """A moving average of momentum 0.9 in 8 bits would stand still."""
    problem = problem_of(Linen(0.3, True), dtype="bfloat16")
    process = dlsim.learn(problem, algorithms.dsgd(problem, optax.sgd(RATE)), networks.ring(NUM))
    before, run = problem.init(KEY), dlsim.simulate(process, KEY, 3, progress=False)
    models = run.state.algorithm.params
    assert {leaf.dtype for leaf in jax.tree.leaves(models.params)} == {jnp.dtype(jnp.bfloat16)}
    for old, new in zip(jax.tree.leaves(before.batch_stats), jax.tree.leaves(models.batch_stats), strict=True):
        assert new.dtype == old.dtype == np.float32 and not np.allclose(old, new, atol=1e-3)
