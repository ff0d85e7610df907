"""One at a time: the same numbers, and no batch of decompositions on a CPU, which may wait for ever."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import marl
from dlsim.running.batching import one_at_a_time

DECOMPOSED = re.compile(r"lapack_\w+geqrf\w*\(.*?\) .*?: \(tensor<([\dx]+)xf32>", re.DOTALL)


def orthogonal(key: jax.Array, like: dict[str, jax.Array]) -> dict[str, jax.Array]:
    make = jax.nn.initializers.orthogonal()
    return {"first": make(key, (40, 40)) + like["add"], "second": make(jax.random.fold_in(key, 1), (40, 40))}


def ranks(fn: object, *args: object) -> list[int]:
    """Axes of the matrices that a program decomposes."""
    text = jax.jit(fn).lower(*args).as_text()
    found = [len(shape.split("x")) for shape in DECOMPOSED.findall(text)]
    assert len(found) == text.count("geqrf") > 0
    return found


def test_the_numbers_are_those_of_the_function() -> None:
    keys = jax.random.split(jax.random.key(0), 6)
    like = {"add": jnp.float32(0.5)}
    alone = one_at_a_time(orthogonal)
    got = jax.vmap(alone, in_axes=(0, None))(keys, like)
    twice = jax.vmap(jax.vmap(alone, in_axes=(0, {"add": None})), in_axes=(0, {"add": 0}))(
        keys.reshape(2, 3), {"add": jnp.full(2, 0.5)}
    )
    for row in range(6):
        want = orthogonal(keys[row], like)
        for name in want:
            np.testing.assert_array_equal(got[name][row], want[name])
            np.testing.assert_allclose(twice[name].reshape(6, 40, 40)[row], want[name], atol=1e-6)
            np.testing.assert_array_equal(alone(keys[row], like)[name], want[name])


def test_a_cpu_decomposes_one_matrix_at_a_time() -> None:
    keys = jax.random.split(jax.random.key(0), 6).reshape(2, 3)
    like = {"add": jnp.zeros(())}
    nested = jax.vmap(jax.vmap(one_at_a_time(orthogonal), in_axes=(0, None)), in_axes=(0, None))
    assert set(ranks(nested, keys, like)) == {2}
    plain = jax.vmap(jax.vmap(orthogonal, in_axes=(0, None)), in_axes=(0, None))
    assert set(ranks(plain, keys, like)) == {4}, "what the test is against"
    assert jax.jit(nested)(keys, like)["first"].shape == (2, 3, 40, 40)


LEARNERS = {
    "ippo": lambda: marl.ippo(dlsim.environments.simple_spread(), optax.adam(1e-3), num_copies=2, num_steps=4),
    "recurrent": lambda: marl.ippo(
        dlsim.environments.simple_spread(), optax.adam(1e-3), num_copies=8, num_steps=4, model=marl.recurrent(16)
    ),
    "qmix": lambda: marl.qmix(dlsim.environments.simple_spread(), optax.adam(1e-3), model=marl.recurrent(16)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_start_side_by_side(name: str) -> None:
    process = marl.train(LEARNERS[name]())
    keys = jax.random.split(jax.random.key(0), 4)
    assert set(ranks(jax.vmap(process.init), keys)) == {2}
    jax.block_until_ready(jax.jit(jax.vmap(process.init))(keys))


def test_models_of_users_start_side_by_side() -> None:
    from flax import linen

    module = linen.Sequential(
        [lambda x: x.reshape(len(x), -1), linen.Dense(10, kernel_init=linen.initializers.orthogonal())]
    )
    model = dlsim.problems.from_flax(module, (8, 8))
    assert set(ranks(jax.vmap(model.init), jax.random.split(jax.random.key(0), 4))) == {2}
