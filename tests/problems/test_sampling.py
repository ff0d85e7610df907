"""Batches: distinct, in range, uniform, and a matter of (key, node id, size) alone."""

import math
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from dlsim.problems.sampling import SAMPLING, batch_positions, below

KEY = jax.random.key(3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(4, 10**6), min_size=1, max_size=30), st.integers(0, 10**6))
def test_positions_are_distinct_and_within_the_nodes_data(sizes, seed):
    ids = jnp.arange(len(sizes))
    drawn = np.asarray(batch_positions(jax.random.key(seed), ids, jnp.array(sizes), 4))
    assert drawn.shape == (len(sizes), 4) and drawn.dtype == np.int32
    assert (drawn >= 0).all() and (drawn < np.array(sizes)[:, None]).all()
    assert all(len(set(row)) == 4 for row in drawn)


def test_a_batch_of_all_examples_holds_each_once():
    drawn = batch_positions(KEY, jnp.arange(50), jnp.full(50, 9), 9)
    assert (np.sort(drawn, axis=1) == np.arange(9)).all()


def test_every_subset_is_equally_likely():
    num, size, batch = 40_000, 6, 3
    drawn = np.sort(batch_positions(KEY, jnp.arange(num), jnp.full(num, size), batch), axis=1)
    subsets = {subset: i for i, subset in enumerate(combinations(range(size), batch))}
    counts = np.bincount([subsets[tuple(row)] for row in drawn.tolist()], minlength=math.comb(size, batch))
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("sampling", SAMPLING)
def test_every_position_is_equally_likely_over_rounds_too(sampling):
    size, batch, rounds, nodes = 37, 8, 400, 20
    draw = jax.jit(
        jax.vmap(lambda key: batch_positions(key, jnp.arange(nodes), jnp.full(nodes, size), batch, sampling))
    )
    drawn = np.asarray(draw(jax.random.split(KEY, rounds)))
    assert stats.chisquare(np.bincount(drawn.ravel(), minlength=size)).pvalue > 1e-3
    # Neighbouring nodes and rounds are independent: no more equal first draws than chance.
    first = drawn[:, :, 0]
    for equal in ((first[1:] == first[:-1]).mean(), (first[:, 1:] == first[:, :-1]).mean()):
        # Without replacement Floyd's first draw is uniform on the first size - batch + 1 positions.
        chance = 1 / (size if sampling == "with_replacement" else size - batch + 1)
        assert abs(equal - chance) < 5 * math.sqrt(chance / (rounds * nodes))


def test_with_replacement_repeats_and_takes_batches_larger_than_the_data():
    drawn = np.asarray(batch_positions(KEY, jnp.arange(10), jnp.full(10, 3), 20, "with_replacement"))
    assert drawn.min() >= 0 and drawn.max() < 3


@pytest.mark.parametrize("sampling", SAMPLING)
def test_a_draw_depends_on_key_and_node_id_alone(sampling):
    sizes = jnp.arange(20, 120)
    full = np.asarray(batch_positions(KEY, jnp.arange(100), sizes, 8, sampling))
    some = jnp.array([77, 3, 3, 50])
    assert (np.asarray(batch_positions(KEY, some, sizes[some], 8, sampling)) == full[some]).all()
    assert (full[:-1] != full[1:]).any(axis=1).all()
    assert (
        (np.asarray(batch_positions(jax.random.key(4), jnp.arange(100), sizes, 8, sampling)) != full).any(axis=1).all()
    )


def test_below_is_the_high_word_of_the_product():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, 10_000, dtype=np.uint32)
    bounds = rng.integers(1, 2**31, 10_000, dtype=np.int64)
    got = np.asarray(below(jnp.asarray(words), jnp.asarray(bounds.astype(np.int32))))
    assert (got == (words.astype(np.uint64) * bounds.astype(np.uint64) >> np.uint64(32))).all()


def test_unknown_sampling_names_the_known_ones():
    with pytest.raises(
        ValueError, match=r"batch_positions: sampling must be one of .*without_replacement.*Did you mean"
    ):
        batch_positions(KEY, jnp.arange(2), jnp.array([5, 5]), 2, "without_replacment")


def test_bad_arguments_get_one_clear_line():
    good = {"key": jax.random.key(0), "node_ids": jnp.arange(3), "sizes": jnp.array([4, 5, 6]), "batch_size": 2}
    for name, bad, reason in (
        ("key", 0, "key must be one key of random numbers"),
        ("node_ids", [0, 1], "node_ids must be an array of integers"),
        ("node_ids", jnp.ones(3), "node_ids must be an array of integers"),
        ("sizes", jnp.arange(4), r"sizes must be of shape \[3\], got \[4\]"),
        ("batch_size", 0, "batch_size must be an integer"),
        ("batch_size", 10**12, "batch_size must be an integer"),
    ):
        with pytest.raises(ValueError, match=f"batch_positions: {reason}"):
            batch_positions(**{**good, name: bad})
