"""Work over nodes block by block is the work over all of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import trees
from dlsim.algorithms.local import local_updates
from dlsim.problems.blocks import auto_block, map_nodes


def draw(shape):
    return jax.random.normal(jax.random.key(0), shape)


def test_map_nodes_equals_the_function_in_place_or_not():
    def fn(a, tree):
        return {"new": jnp.sin(tree["x"]) + a[:, None], "same": tree["y"] * 2, "other": jnp.stack([a, a], 1)}

    trees = (jnp.arange(13.0), {"x": draw((13, 4)), "y": jnp.arange(13)})
    for block in (1, 5, 6, 13, 20, None, "auto"):
        got = jax.jit(map_nodes(fn, block))(*trees)
        for key, value in fn(*trees).items():
            assert got[key].dtype == value.dtype
            np.testing.assert_allclose(got[key], value, rtol=1e-6)


def test_map_nodes_swaps_inputs_of_one_shape():
    a, b = map_nodes(lambda a, b: (b, a), 2)(jnp.arange(5), jnp.arange(5, 10))
    assert (a == jnp.arange(5, 10)).all() and (b == jnp.arange(5)).all()


def test_map_nodes_works_under_vmap_and_grad():
    def total(x):
        return jnp.sum(map_nodes(lambda x: x**3, 2)(x))

    x = draw((3, 5))
    np.testing.assert_allclose(jax.vmap(jax.grad(total))(x), 3 * x**2, rtol=1e-5)


def test_auto_block_shrinks_with_the_work_of_a_node():
    def fn(x):
        return (x[:, None] * jnp.ones(2**20)).sum(1)

    assert auto_block(fn, jnp.zeros(1000)) < 10 < 1000 < auto_block(lambda x: x + 1, jnp.zeros(1000))


def test_map_nodes_refuses_leaves_of_other_lengths():
    with pytest.raises(
        ValueError, match=r"map_nodes: every leaf must be of shape \[n, ...\] for one n, got \[3\], \[4\]"
    ):
        map_nodes(lambda a, b: a, 2)(jnp.zeros(3), jnp.zeros(4))


def copies_in_loops(text: str, num_nodes: int) -> list[str]:
    """Copies of leaves of all nodes in the bodies of the loops of a compiled program."""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    found, inside = [], False
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")):
            inside = line.split(" ")[0].lstrip("%") in bodies
        elif inside and re.search(rf"= \w+\[{num_nodes}[\],].* copy\(", line):
            found.append(line.strip())
    return found


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.1),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9, nesterov=True)),
}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="reads the CPU's program")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["softmax", "mlp"])
def test_no_block_copies_what_belongs_to_all_nodes(model, optimizer):
    """Else the time of a step grows with the square of the number of nodes."""
    num_nodes = 30
    data = dlsim.problems.synthetic_classification(120, 5, 3)
    problem = dlsim.problems.classification(data, num_nodes, model=model, batch_size=2, node_block=3)
    local = local_updates(problem, OPTIMIZERS[optimizer], 1)
    params = trees.replicate(problem.init(jax.random.key(0)), num_nodes)
    state = local.init(params)
    ids = jnp.arange(num_nodes)
    run = jax.jit(lambda key, params, state: local.run(key, params, state, ids), donate_argnums=(1, 2))
    text = run.lower(jax.random.key(0), params, state).compile().as_text()
    assert "while(" in text and "dynamic-update-slice" in text
    assert copies_in_loops(text, num_nodes) == []
