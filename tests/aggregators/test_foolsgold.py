"""FoolsGold against loops, and by hand: who says too nearly the same as somebody else counts for nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import sybil_wall as oracle

import dlsim
from dlsim import aggregators, networks, problems
from dlsim.aggregators.similarity import confident, cosines, foolsgold_weights
from dlsim.networks.network import Inbox

KEY = jax.random.key(0)
A, B, C = (0, 1, 0, 1, 0, 1), (1, 0, 1, 0, 1, 0), (1, -1, 1, -1, 1, -1)


def weights_of(vectors, num_kept=None):
    """Scaled weights of the first `num_kept` vectors, compared with all."""
    return np.asarray(_weights(jnp.asarray(np.array(vectors, np.float32))[None], num_kept))[0]


@functools.partial(jax.jit, static_argnums=1)
def _weights(values, num_kept):
    mask = jnp.ones(values.shape[:2], bool)
    return confident(foolsgold_weights(cosines(values, mask), mask)[:, :num_kept])


@pytest.mark.parametrize(
    ("vectors", "kept", "wanted"),
    [
        ((A, B, C), None, (1, 0, 0)),
        ((A, B, tuple(-x for x in A)), None, (1, 1, 1)),
        (((1, 0, 0), (0.6, 0.8, 0), (0, 0, 1), (0, 0, 1)), None, (1, 1, 0, 0)),
        (((1, 0, 0), (0.6, 0.8, 0), (0, 0, 1), (0, 0, 1)), 3, (1, 1, 0)),  # the lone Sybil has its twin farther away
        (((1, 0, 0), (0.6, 0.8, 0), (0, 0, 1)), None, (np.log(2 / 3) + 0.5,) * 2 + (1,)),  # and is believed without it
        (((1, 2, 3), (1, 2, 3)), None, (0, 0)),
    ],
)
def test_weights_by_hand(vectors, kept, wanted):
    np.testing.assert_allclose(weights_of(vectors, kept), wanted, atol=1e-4)
    of_loop = oracle.scaled(oracle.compared(np.array(vectors, float))[:kept])
    np.testing.assert_allclose(weights_of(vectors, kept), of_loop, atol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e15, 1e35])
def test_the_scale_of_a_vector_does_not_matter(size):
    vectors = np.random.default_rng(0).standard_normal((5, 8))
    plain = weights_of(vectors)
    assert plain.min() < plain.max()
    vectors[2] *= size
    np.testing.assert_allclose(weights_of(vectors), plain, atol=1e-5)


def test_what_is_not_finite_or_zero():
    vectors = np.random.default_rng(0).standard_normal((1, 4, 8)).astype(np.float32)
    plain = cosines(jnp.asarray(vectors[:, :3]), jnp.ones((1, 3), bool))
    for bad in (np.nan, np.inf, 0):
        vectors[0, 3] = bad
        got = cosines(jnp.asarray(vectors), jnp.ones((1, 4), bool))
        np.testing.assert_array_equal(got[0, 3], 0)
        np.testing.assert_allclose(got[:, :3, :3], plain, atol=1e-6)


def scene(seed=0, num=7, width=5, dimension=6):
    rng = np.random.default_rng(seed)
    # A common part, so that cosines are not small.
    common = rng.standard_normal(dimension)
    own, heard = (common + rng.standard_normal((*shape, dimension)) for shape in ((num,), (num, width)))
    mask = np.stack([rng.permutation(width) < i % (width + 1) for i in range(num)])
    return own, heard, mask


def inbox_of(heard, mask, **more):
    senders = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    weights = mask / (1 + mask.sum(1, keepdims=True))
    return Inbox(jnp.asarray(heard, jnp.float32), jnp.asarray(weights), jnp.asarray(mask), jnp.asarray(senders), **more)


PLAIN = jax.jit(aggregators.foolsgold().apply)


def test_against_a_loop():
    rule = aggregators.foolsgold()
    for seed in range(3):
        own, heard, mask = scene(seed)
        state, got = PLAIN(KEY, rule.init(own), jnp.asarray(own, jnp.float32), inbox_of(heard, mask))
        assert not jax.tree.leaves(state)
        for i in range(len(own)):
            np.testing.assert_allclose(got[i], oracle.foolsgold(np.vstack([own[i], heard[i][mask[i]]])), atol=2e-5)
        order = np.random.default_rng(5).permutation(heard.shape[1])
        _, other = PLAIN(KEY, rule.init(own), jnp.asarray(own, jnp.float32), inbox_of(heard[:, order], mask[:, order]))
        np.testing.assert_allclose(other, got, atol=1e-5)
        garbage = np.where(mask[..., None], heard, np.nan)
        _, other = PLAIN(KEY, rule.init(own), jnp.asarray(own, jnp.float32), inbox_of(garbage, mask))
        np.testing.assert_array_equal(other, got)


def test_sybils_count_for_nothing_and_who_has_a_twin_keeps_its_own():
    own, heard, _ = scene(width=6)
    mask = np.ones(heard.shape[:2], bool)
    heard[:, 3:] = 50.0 * np.arange(1, 7)
    _, got = PLAIN(KEY, aggregators.foolsgold().init(own), jnp.asarray(own, jnp.float32), inbox_of(heard, mask))
    _, alone = aggregators.foolsgold().apply(
        KEY, (), jnp.asarray(own, jnp.float32), inbox_of(heard, mask & (np.arange(6) < 3))
    )
    assert np.abs(got).max() < 10
    twins = np.broadcast_to(own[:, None], heard.shape)
    _, kept = PLAIN(KEY, aggregators.foolsgold().init(own), jnp.asarray(own, jnp.float32), inbox_of(twins, mask))
    np.testing.assert_array_equal(kept, np.asarray(own, np.float32))
    assert alone.shape == got.shape


def test_a_server_remembers_who_said_what():
    """Histories by client, whichever slot it has and whoever stands in for the server's own value."""
    rng = np.random.default_rng(0)
    rule, num, dimension = aggregators.foolsgold(num_clients=6), 6, 5
    state, sums = rule.init(jnp.zeros((1, dimension))), np.zeros((num, dimension))
    for _ in range(4):
        cohort = rng.permutation(num)[:4]
        said = rng.standard_normal((4, dimension)) + 0.5
        arrived = rng.random(4) < 0.9
        middle = int(np.flatnonzero(arrived)[0])
        mask = arrived & (np.arange(4) != middle)
        inbox = inbox_of(said[None], mask[None], candidate_ids=jnp.asarray([[cohort[middle], *cohort]]))
        state, got = jax.jit(rule.apply)(KEY, state, jnp.asarray(said[middle][None], jnp.float32), inbox)
        sums[cohort[arrived]] += said[arrived]
        np.testing.assert_allclose(state.sums[0], sums, atol=1e-5)
        order = [middle, *np.flatnonzero(mask)]
        np.testing.assert_allclose(got[0], oracle.foolsgold(said[order], sums[cohort[order]]), atol=1e-4)


def test_a_server_is_not_carried_away_by_sybils():
    """Four of ten clients send one lie: the mean moves by it, FoolsGold's hardly."""
    problem = problems.quadratic(10, 6, heterogeneity=1.0, seed=1)
    network = networks.complete(10).with_channel(networks.byzantine((6, 7, 8, 9), "constant", 3.0))
    errors = {}
    for name, rule in (("mean", None), ("foolsgold", aggregators.foolsgold(num_clients=10))):
        algorithm = dlsim.algorithms.fedavg(problem, optax.sgd(0.05), aggregator=rule)
        process = dlsim.learn(problem, algorithm, network, networks.participation(10))
        state, step = process.init(KEY), jax.jit(process.step)
        for t in range(30):
            state, _ = step(jax.random.fold_in(KEY, t), state)
        errors[name] = float(jnp.abs(state.algorithm.params).max())
        if rule is not None:
            assert state.algorithm.aggregator_state.sums.shape == (1, 10, 6)
    assert errors["mean"] > 10 and errors["foolsgold"] < 5, errors


def test_bad_input():
    with pytest.raises(ValueError, match="foolsgold: num_clients must be an integer >= 1, got 0"):
        aggregators.foolsgold(num_clients=0)
    rule = aggregators.foolsgold(num_clients=3)
    inbox = inbox_of(np.ones((1, 4, 2)), np.ones((1, 4), bool))
    with pytest.raises(ValueError, match="foolsgold: num_clients must be None where nobody says who sent what, got 3"):
        rule.apply(KEY, rule.init(jnp.zeros((1, 2))), jnp.zeros((1, 2)), inbox)
