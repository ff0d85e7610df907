"""SALSA: walks against a linear system over pairs of users and items, decays, and what is refused."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import trust
from dlsim.trust.graphs.graph import cumulated
from dlsim.trust.graphs.salsa import item_tally, salsa_steps, walk_items

USERS, ITEMS, STOP = 10, 12, 0.2


@functools.cache
def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(4)
    both = np.unique(np.stack([draw.integers(0, USERS, 50), draw.integers(0, ITEMS, 50)], 1), axis=0)
    return both[:, 0], both[:, 1], draw.integers(1, 9, len(both)).astype(float)


@functools.cache
def liked() -> trust.Affinity:
    return trust.affinity(USERS, ITEMS, *pairs())


@functools.cache
def friends() -> trust.TrustGraph:
    draw = np.random.default_rng(5)
    who = (np.arange(USERS)[:, None] + 1 + np.argsort(draw.random((USERS, USERS - 1)), axis=1)[:, :4]) % USERS
    return trust.trust_graph(USERS, np.repeat(np.arange(USERS), 4), who.ravel(), 1.0)


def affinities() -> np.ndarray:
    matrix = np.zeros((USERS, ITEMS))
    matrix[pairs()[0], pairs()[1]] = pairs()[2]
    return matrix / matrix.sum(axis=1, keepdims=True)


def expected(root: int, trusted: np.ndarray | None, modifiers: np.ndarray) -> np.ndarray:
    """Visits of items by a linear system over pairs (user, item), the state of such a walk."""
    affinity, (users, items, _) = affinities(), pairs()
    place = {pair: k for k, pair in enumerate(zip(users.tolist(), items.tolist(), strict=True))}
    move = np.zeros((len(users), len(users)))
    for (u, i), k in place.items():
        weights = affinity[:, i].copy()
        weights[u] = 0
        if trusted is not None:
            weights = weights * trusted[u]
        for v in np.flatnonzero(weights):
            left = affinity[v].copy()
            left[i] = 0
            for j in np.flatnonzero(left):
                move[k, place[v, j]] += weights[v] / weights.sum() * left[j] / left.sum() * (1 - STOP) ** 2
    start = np.zeros(len(users))
    for j in np.flatnonzero(affinity[root]):
        start[place[root, j]] = affinity[root, j] * (1 - STOP)
    visits = np.linalg.solve(np.eye(len(users)) - move.T, start) * modifiers[users]
    out = np.zeros(ITEMS)
    np.add.at(out, items, visits)
    return out / out.sum()


def test_walks_among_all_users_and_among_trusted_ones():
    matrix = np.zeros((USERS, USERS))
    matrix[np.asarray(friends().sources), np.asarray(friends().targets)] = 1
    scores = np.random.default_rng(0).random(USERS)
    scores /= scores.sum()
    people = liked()  # made here, for it is kept and must hold no tracers

    def walk(key, graph, scores):
        return trust.salsa(
            key, people, 0, trust=graph, user_scores=scores, balance=0.5, num_walks=20_000,
            transitivity_decay=STOP, connectivity_decay=0.0,
        )  # fmt: skip

    modifiers = 0.5 + 0.5 * USERS * scores
    for graph, trusted in ((None, None), (friends(), matrix)):
        found = jax.jit(functools.partial(walk, graph=graph))(jax.random.key(0), scores=jnp.asarray(scores))
        np.testing.assert_allclose(found, expected(0, trusted, modifiers), atol=0.012)


def test_walks_take_turns_and_never_go_back_at_once():
    steps = salsa_steps(liked(), friends())
    walks = np.asarray(walk_items(jax.random.key(1), steps, jnp.int32(2), 300, 0.05, 60))
    users, items = walks[0::2], walks[1::2]
    assert (users[0] == 2).all() and (users < USERS).all() and (items[items >= 0] >= USERS).all()
    both = (items[:-1] >= 0) & (items[1:] >= 0)
    assert both.sum() > 100 and (items[:-1] != items[1:])[both].all()
    trusted = set(zip(np.asarray(friends().sources).tolist(), np.asarray(friends().targets).tolist(), strict=True))
    here, there = users[:-1][: len(items)], users[1:]
    on = there >= 0
    assert {(int(a), int(b)) for a, b in zip(here[on], there[on], strict=True)} <= trusted


def test_connectivity_decay_takes_from_what_hangs_on_one_user():
    # User 0 and user 1 share item 0; item 1 is reached through user 1 alone.
    alone = trust.affinity(2, 2, [0, 1, 1], [0, 0, 1])
    key = jax.random.key(0)
    plain = trust.salsa(key, alone, 0, num_walks=500, connectivity_decay=0.0)
    lost = trust.salsa(key, alone, 0, num_walks=500, connectivity_decay=0.8)
    np.testing.assert_allclose(lost, plain * jnp.array([1.0, 0.2]), atol=1e-6)
    few = trust.salsa(key, alone, 0, num_walks=500, connectivity_decay=0.8, min_visits=10_000)
    np.testing.assert_allclose(few, plain, atol=1e-6)


def test_heard_counts_visits_from_users():
    walks = jnp.array([[0, 0], [3, 2], [1, -1], [2, -1]])  # two users, then two items
    found = item_tally(walks, jnp.int32(0), jnp.array([1.0, 3.0]), 2)
    np.testing.assert_allclose(found.scores, [4 / 5, 1 / 5])
    np.testing.assert_allclose(found.hits, [2, 1])
    np.testing.assert_allclose(found.bottlenecks, [0.5, 0])


def test_both_sides_of_an_affinity_are_one():
    users, items, plays = pairs()
    made = liked()
    np.testing.assert_allclose(made.items.weights, affinities()[users, items], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(made.users.targets)[np.asarray(made.at_item)], made.items.sources)
    np.testing.assert_array_equal(np.asarray(made.items.targets)[np.asarray(made.at_user)], made.users.sources)
    traced = jax.jit(lambda u, i: trust.affinity(USERS, ITEMS, u, i, plays, most=(ITEMS, USERS)))(users, items)
    np.testing.assert_array_equal(traced.users.starts, made.users.starts)
    np.testing.assert_allclose(np.asarray(cumulated(made.items))[np.asarray(made.items.starts[1:]) - 1], 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: trust.affinity(2, 2, [0, 0], [1, 1]),
            "affinity: items must be of every pair once, got user 0 with item 1",
        ),
        (lambda: trust.affinity(2, 2, [0], [1], [-1.0]), "affinity: plays must be 0 or more, got -1"),
        (lambda: trust.affinity(2, 2, [0], [3]), "affinity: items must be in 0 to 1, got 3"),
        (
            lambda: trust.salsa(jax.random.key(0), trust.affinity(2, 2, [0], [1]), 1),
            "salsa: roots must be nodes that trust somebody, got node 1 without edges",
        ),
        (
            lambda: trust.salsa(jax.random.key(0), liked(), 0, trust=trust.trust_graph(3, [0], [1])),
            "salsa: trust must be of 10 users",
        ),
        (
            lambda: trust.salsa(jax.random.key(0), liked(), 0, balance=-0.1),
            r"salsa: balance must be a number in \[0, 1\], got -0.1",
        ),
        (lambda: trust.salsa(jax.random.key(0), friends(), 0), "salsa: liked must be an Affinity"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(ValueError, match=says):
        call()
