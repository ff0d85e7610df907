"""Parameters stored in bfloat16: every method keeps them so, its state keeps its dtypes, and what is measured is float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world
from contract.arrivals_table import METHODS
from contract.event_table import EVENT_CASES
from contract.table import CASES

import dlsim
from dlsim import algorithms, clocks, networks, problems
from dlsim.algorithms.optimizers import node_optimizer
from dlsim.core import Problem, Process
from dlsim.learning.metrics import consensus_distance

KEY = jax.random.key(0)


@functools.cache
def problem(dtype: str = "bfloat16") -> Problem:
    data = problems.synthetic_classification(160, 4, 3, seed=0)
    parts = problems.partition(data, world.NUM_NODES, problems.iid(), seed=0)
    return problems.supervised("softmax", data, parts, batch_size=4, dtype=dtype)


def process_of(name: str) -> Process:
    """The process of a row of any of the three tables."""
    if name in METHODS:
        algorithm = METHODS[name].make(problem(), world.RATE)
        network = networks.complete(world.NUM_NODES)
        return dlsim.learn(problem(), algorithm, network, timing=clocks.timing(window=0.5))
    rounds = {case.id: case for case in CASES}
    if name in rounds:
        return dlsim.learn(problem(), rounds[name].make(problem(), world.RATE), rounds[name].network())
    (case,) = (case for case in EVENT_CASES if case.id == name)
    algorithm = case.make(problem(), world.RATE)
    return dlsim.learn(problem(), algorithm, networks.ring(world.NUM_NODES), timing=clocks.timing(window=0.5))


NAMES = [case.id for case in CASES if not case.needs_proximal]
# The first averages values of its own, the other asks for gradients of conjugates.
NAMES += [case.id for case in EVENT_CASES if case.name not in ("randomized_gossip", "continuized")]
NAMES += list(METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_keeps_its_dtypes(name):
    process = process_of(name)
    state = jax.eval_shape(process.init, KEY)
    after, _ = jax.eval_shape(process.step, KEY, state)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(state)]
    assert [leaf.dtype for leaf in jax.tree.leaves(after)] == dtypes
    assert dtypes.count(jnp.dtype(jnp.bfloat16)) >= 2  # the model's two leaves, at the least


def test_optimisers_reckon_in_float32_unless_told_otherwise():
    params = {"w": jnp.full((2, 3), 0.1, jnp.bfloat16)}
    gradients = {"w": jnp.full((2, 3), 0.25, jnp.bfloat16)}
    steps = node_optimizer("test", optax.adam(0.5))
    updates, state = steps.update(KEY, jnp.arange(2), gradients, steps.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
    assert updates["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(updates["w"], np.float32), -0.5, rtol=0.004)  # Adam's first step is the rate
    told = node_optimizer("test", optax.sgd(0.5, momentum=0.9, accumulator_dtype=jnp.bfloat16)).init(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(told)} == {jnp.dtype(jnp.bfloat16)}


def test_mixing_sums_in_float32_and_rounds_once():
    """Weights of 1/5 are no bfloat16, and ten sums of 8 bits each would be off by several units."""
    network = networks.random_regular(10, degree=4, seed=0)
    x = jax.random.normal(KEY, (10, 7)).astype(jnp.bfloat16)
    mixed, _ = network.mix(KEY, x)
    matrix = np.zeros((10, 10))
    matrix[np.asarray(network.receivers), np.asarray(network.senders)] = np.asarray(network.edge_weights)
    matrix += np.diag(np.asarray(network.self_weights))
    exact = matrix @ np.asarray(x, np.float64)
    assert mixed.dtype == jnp.bfloat16
    unit = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 7)  # in the last of 8 bits
    assert (np.abs(np.asarray(mixed, np.float64) - exact) <= 0.501 * unit).all()


def test_what_is_measured_is_float32():
    """Nodes at 256 and 257 are 1/2 from their mean, which bfloat16 has no number for."""
    two = {"w": jnp.asarray([[256.0, 1.0], [258.0, 1.0]], jnp.bfloat16)}
    assert float(consensus_distance(two)) == 1.0
    near = {"w": jnp.asarray([[1.0], [1.0], [1.0078125]], jnp.bfloat16)}  # one unit in the last place apart
    np.testing.assert_allclose(consensus_distance(near), np.var([1, 1, 1.0078125]), rtol=1e-5)


def test_half_the_bits_and_the_same_resumed(tmp_path):
    """Messages of 16 bits a number; a run that stops half way goes on to the same bits."""
    network = networks.ring(world.NUM_NODES)
    process = dlsim.learn(problem(), algorithms.dsgd(problem(), optax.sgd(0.1, momentum=0.9)), network)
    given = {"record": dlsim.Record(every=3), "progress": False}
    whole = dlsim.simulate(process, KEY, 6, **given)
    dlsim.simulate(process, KEY, 3, **given, checkpoint_dir=tmp_path)
    resumed = dlsim.simulate(process, KEY, 6, **given, checkpoint_dir=tmp_path, resume=True)
    for a, b in zip(jax.tree.leaves(whole.state.algorithm), jax.tree.leaves(resumed.state.algorithm), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    numbers = 4 * 3 + 3  # of a model
    assert float(whole.results.bits_sent.values.ravel()[-1]) == 6 * world.NUM_NODES * 2 * numbers * 16
    assert whole.results.loss.dtype == whole.results.consensus_distance.dtype == np.float32
    assert whole.results.accuracy.values.ravel()[-1] > whole.results.accuracy.values.ravel()[0]


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match="supervised: dtype must be one of"):
        problem("float16")
