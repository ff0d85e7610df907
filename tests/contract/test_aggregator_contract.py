"""The contract every aggregator holds, tried on every row of the table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world
from contract.parts import AGGREGATORS, AggregatorCase

from dlsim import aggregators, algorithms
from dlsim.core import PyTree
from dlsim.learning.learn import learn
from dlsim.networks.network import Inbox

every_aggregator = pytest.mark.parametrize("case", AGGREGATORS, ids=lambda case: case.name)
KEY = jax.random.key(5)


def said(seed: int = 0) -> PyTree:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(world.NUM_NODES, *shape)), jnp.float32)  # noqa: E731
    return {"b": draw(5), "w": draw(2, 3)}


def inbox_of(tree: PyTree, is_present: jax.Array | None = None) -> Inbox:
    return world.uneven().replace(is_present=is_present).gather(KEY, tree)[0]


def test_every_aggregator_has_a_row() -> None:
    parts = {"Matching", "activation_matching", "align", "linear_assignment", "weight_matching"}  # of `aligned`
    parts |= {"flag_qualities", "bristle"}  # of `flag`; of output layers alone: test_bristle.py
    assert {case.name for case in AGGREGATORS} == set(aggregators.__all__) - parts


@every_aggregator
def test_states_and_values_keep_their_shapes(case: AggregatorCase) -> None:
    aggregator, own = case.make(), said()
    before = aggregator.init(own)
    after, values = jax.jit(aggregator.apply)(KEY, before, own, inbox_of(own))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), values) == jax.tree.map(lambda x: (x.shape, x.dtype), own)
    assert all(leaf.shape[0] == world.NUM_NODES for leaf in jax.tree.leaves(before))
    with jax.disable_jit():
        world.close(aggregator.apply(KEY, before, own, inbox_of(own)), (after, values))


@every_aggregator
def test_the_order_of_neighbours_does_not_matter(case: AggregatorCase) -> None:
    aggregator, own = case.make(), said()
    inbox = inbox_of(own)
    ids = inbox.candidate_ids
    shuffled = jax.tree.map(lambda leaf: leaf[:, ::-1], inbox._replace(node_ids=None, candidate_ids=None))
    shuffled = shuffled._replace(
        node_ids=inbox.node_ids, candidate_ids=jnp.concatenate([ids[:, :1], ids[:, :0:-1]], axis=1)
    )
    _, plain = aggregator.apply(KEY, aggregator.init(own), own, inbox)
    _, other = aggregator.apply(KEY, aggregator.init(own), own, shuffled)
    world.close(plain, other)


@every_aggregator
def test_what_was_not_heard_does_not_matter(case: AggregatorCase) -> None:
    """Padding and absent neighbours may hold anything, be it NaN."""
    aggregator, own = case.make(), said()
    inbox = inbox_of(own, ~jnp.isin(jnp.arange(world.NUM_NODES), jnp.asarray(world.ABSENT)))

    def spoil(leaf: jax.Array) -> jax.Array:
        return jnp.where(inbox.mask.reshape(inbox.mask.shape + (1,) * (leaf.ndim - 2)), leaf, jnp.nan)

    spoiled = inbox._replace(values=jax.tree.map(spoil, inbox.values))
    _, plain = aggregator.apply(KEY, aggregator.init(own), own, inbox)
    _, other = aggregator.apply(KEY, aggregator.init(own), own, spoiled)
    world.close(plain, other)


@every_aggregator
def test_those_who_agree_stay_where_they_are(case: AggregatorCase) -> None:
    aggregator = case.make()
    own = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), said())
    _, values = aggregator.apply(KEY, aggregator.init(own), own, inbox_of(own))
    world.close(values, own)


@every_aggregator
def test_who_hears_nobody_keeps_its_own(case: AggregatorCase) -> None:
    aggregator, own = case.make(), said()
    _, values = aggregator.apply(KEY, aggregator.init(own), own, inbox_of(own, jnp.arange(world.NUM_NODES) == 4))
    world.close(jax.tree.map(lambda leaf: leaf[4], values), jax.tree.map(lambda leaf: leaf[4], own))


@every_aggregator
def test_moving_everyone_moves_the_result(case: AggregatorCase) -> None:
    if not case.moves_along:
        pytest.skip("compares directions from zero")
    aggregator, own = case.make(), said()
    moved = jax.tree.map(lambda leaf: leaf + 3.0, own)
    _, plain = aggregator.apply(KEY, aggregator.init(own), own, inbox_of(own))
    _, other = aggregator.apply(KEY, aggregator.init(moved), moved, inbox_of(moved))
    world.close(jax.tree.map(lambda leaf: leaf + 3.0, plain), other, atol=2e-5)


@every_aggregator
def test_learning_goes_on_with_it(case: AggregatorCase) -> None:
    problem = world.problem()
    algorithm = algorithms.dsgd(problem, optax.sgd(world.RATE), aggregator=case.make())
    # Each node hears enough for every rule of the table.
    trajectory = world.roll(learn(problem, algorithm, world.complete().with_lowering("neighbors")), 40)
    first, last = (
        problem.evaluate(state.algorithm.params)["suboptimality"].mean()
        for state in (trajectory.states[0], trajectory.last)
    )
    assert last < 0.8 * first
