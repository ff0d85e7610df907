"""How many liars a rule stands, what it does without any, and the line for a neighbourhood that is too small for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import aggregators, algorithms, networks, problems
from dlsim.aggregators.linear import aggregate
from dlsim.algorithms import server_round
from dlsim.networks.network import Arrival, Inbox

KEY = jax.random.key(3)
DIMENSION = 6
FAR = 1e4
MEDIAN, MEAN = aggregators.median(), aggregators.mean()


def made_of(rule: dlsim.Aggregator, candidates: np.ndarray, node_ids: np.ndarray | None = None) -> np.ndarray:
    """What rows of candidates `[n, c, D]`, each row's first the node's own, come to."""
    num, count, _ = candidates.shape
    values = jnp.asarray(candidates, jnp.float32)
    ids = np.arange(num) if node_ids is None else node_ids
    inbox = Inbox(
        values[:, 1:],
        jnp.full((num, count - 1), 1 / count),
        jnp.ones((num, count - 1), bool),
        jnp.zeros((num, count - 1), jnp.int32),
        node_ids=jnp.asarray(ids, jnp.int32),
        candidate_ids=jnp.asarray(np.arange(count) + np.zeros((num, 1)), jnp.int32),
    )
    return np.asarray(jax.jit(rule.apply)(KEY, rule.init(values[:, 0]), values[:, 0], inbox)[1])


# By rule: candidates c, and the least number of liars, all at one place far away, that carry it there.  Trimmed means,
# MeaMed, MDA, CGE and nearest-neighbour mixing keep c - f values, or c - 2 f in the middle: f + 1.  A liar finds Krum's
# c - f - 2 nearest among its kind as soon as there are c - f - 1 of them, which for c = 2 f + 3 is f + 2.  Medians: half.
BREAKS = {
    "trimmed_mean": (aggregators.trimmed_mean(2), 7, 3),
    "mean_around_median": (aggregators.mean_around_median(2), 7, 3),
    "minimum_diameter": (aggregators.minimum_diameter(2), 7, 3),
    "cge": (aggregators.cge(2), 7, 3),
    "nearest_neighbor_mixing": (aggregators.nearest_neighbor_mixing(aggregators.trimmed_mean(2), 2), 7, 3),
    "krum": (aggregators.krum(2), 7, 4),
    "median": (MEDIAN, 7, 4),
    "geometric_median": (aggregators.geometric_median(num_iterations=30), 7, 4),
    "bucketing": (aggregators.bucketing(aggregators.trimmed_mean(1), 1), 5, 2),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_rule_breaks_at_one_liar_more_than_it_stands(name: str) -> None:
    rule, count, breaks = BREAKS[name]
    rng = np.random.default_rng(0)
    honest = rng.standard_normal((4, count, DIMENSION))
    for liars in (breaks - 1, breaks):
        candidates = honest.copy()
        candidates[:, count - liars :] = FAR
        away = np.linalg.norm(made_of(rule, candidates), axis=1)
        assert (away < 10).all() if liars < breaks else (away > FAR / 100).all(), (liars, away)


@pytest.mark.parametrize(
    "rule",
    [
        aggregators.centered_clipping(1.0, num_iterations=2),
        aggregators.self_centered_clipping(1.0),
        aggregators.norm_clipping(MEAN, 1.0),
    ],
)
def test_clipping_bounds_what_any_number_of_liars_do(rule: dlsim.Aggregator) -> None:
    """Each moves the result by its share of the radius an iteration at most."""
    candidates = np.random.default_rng(0).standard_normal((4, 7, DIMENSION))
    candidates[:, 1:] = FAR
    moved = np.linalg.norm(made_of(rule, candidates) - candidates[:, 0], axis=1)
    assert (moved <= 2 * 6 / 7 + 1e-3).all() and (moved > 0.5).all()


@pytest.mark.parametrize(
    "rule", [aggregators.caf(2), aggregators.bulyan(1), aggregators.adaptive_robust_clipping(MEDIAN, 2)]
)
def test_rules_that_promise_f_stand_f(rule: dlsim.Aggregator) -> None:
    """Together, and each at a place of its own."""
    rng = np.random.default_rng(1)
    candidates = rng.standard_normal((4, 7, DIMENSION))
    f = 1 if rule.bound is not None and rule.bound.why.startswith("4") else 2
    for lies in (FAR, FAR * rng.standard_normal((4, f, DIMENSION))):
        candidates[:, 7 - f :] = lies
        assert (np.linalg.norm(made_of(rule, candidates), axis=1) < 10).all()


@pytest.mark.parametrize(
    "rule",
    [
        aggregators.trimmed_mean(0),
        aggregators.mean_around_median(0),
        aggregators.minimum_diameter(0),
        aggregators.krum(0, num_selected=9),
        aggregators.bulyan(0),
        aggregators.cge(0),
        aggregators.caf(0),
        aggregators.nearest_neighbor_mixing(MEAN, 0),
        aggregators.adaptive_robust_clipping(MEAN, 0),
        aggregators.norm_clipping(MEAN, 1e6),
        aggregators.centered_clipping(1e6),
        aggregators.self_centered_clipping(1e6),
        aggregators.bucketing(MEAN, 2),
        aggregators.bucketing(MEAN, 9),
    ],
    ids=lambda rule: rule.source,
)
def test_with_nothing_to_stand_it_is_the_mean(rule: dlsim.Aggregator) -> None:
    candidates = np.random.default_rng(2).standard_normal((4, 7, DIMENSION))
    np.testing.assert_allclose(made_of(rule, candidates), candidates.mean(axis=1), atol=2e-6)


def test_buckets_are_means_of_a_random_order_by_receiver() -> None:
    """Of seven candidates in threes the median of three buckets is one of the ways to cut them."""
    import itertools

    candidates = np.random.default_rng(3).standard_normal((1, 7, 1))
    cuts = set()
    for order in itertools.permutations(range(7)):
        buckets = tuple(sorted(candidates[0, list(order[i : i + 3]), 0].mean() for i in (0, 3, 6)))
        cuts.add(round(buckets[1], 4))
    rule = aggregators.bucketing(MEDIAN, 3)
    many = np.broadcast_to(candidates, (60, 7, 1))
    got = made_of(rule, many)[:, 0]
    assert all(min(abs(one - cut) for cut in cuts) < 2e-4 for one in got)
    assert len(np.unique(got.round(4))) > 20, "every receiver draws an order of its own"
    # Draws belong to ids: the same receivers in another order, or fewer of them, cut alike.
    np.testing.assert_array_equal(made_of(rule, many[:7], np.arange(7)[::-1])[::-1, 0], got[:7])


def test_buckets_with_missing_messages_and_lies() -> None:
    """What was not heard is in no bucket; what is not finite in none that is seen."""
    rule, rng = aggregators.bucketing(aggregators.trimmed_mean(0), 2), np.random.default_rng(4)
    own, heard = rng.standard_normal((3, 2)), rng.standard_normal((3, 4, 2))
    mask = np.array([[True, True, True, True], [False, True, False, True], [False] * 4])
    inbox = Inbox(
        jnp.asarray(np.where(mask[..., None], heard, np.nan), jnp.float32),
        jnp.where(mask, 0.2, 0.0),
        jnp.asarray(mask),
        jnp.asarray(np.arange(4) + np.zeros((3, 1), int)),
    )
    got = np.asarray(rule.apply(KEY, (), jnp.asarray(own, jnp.float32), inbox)[1])
    np.testing.assert_allclose(got[2], own[2], atol=1e-6)
    pairs = [(a, b, c) for a, b, c in ((0, 1, 3), (0, 3, 1), (1, 3, 0))]
    three = np.stack([own[1], *heard[1]])[[0, 2, 4]]
    ways = [
        (three[[0, 1]].mean(0) + three[2]) / 2,
        (three[[0, 2]].mean(0) + three[1]) / 2,
        (three[[1, 2]].mean(0) + three[0]) / 2,
    ]
    assert len(pairs) == 3 and min(np.abs(got[1] - way).max() for way in ways) < 1e-6
    lied = inbox._replace(values=inbox.values.at[0, 2].set(jnp.inf))
    assert np.isfinite(np.asarray(rule.apply(KEY, (), jnp.asarray(own, jnp.float32), lied)[1][0])).all()


def test_a_server_may_bucket() -> None:
    """Its buckets do not depend on which client stands where a node's own value would."""
    rule = aggregators.bucketing(MEDIAN, 2)
    algorithms.fedavg(problems.quadratic(9, 3), optax.sgd(0.1), aggregator=rule)
    values = jnp.asarray(np.random.default_rng(5).standard_normal((8, 3)), jnp.float32)
    arrival, weights = Arrival(values, jnp.ones(8, bool)), jnp.ones(8)
    (_, one), (_, other) = (server_round.aggregated(rule, (), jax.random.key(s), arrival, weights) for s in (0, 1))
    assert np.abs(one).max() < 2 and np.abs(one - other).max() > 1e-3


def test_blocks_of_receivers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes the messages of its own neighbours: bit for bit what all do at once, where nothing is summed otherwise."""
    from dlsim.problems import blocks

    network = networks.random_regular(12, degree=4, seed=0).with_channel(networks.loss(0.2))
    values = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    rules = (aggregators.krum(1), MEDIAN, aggregators.bucketing(MEDIAN, 2), aggregators.caf(1))

    def averaged(rule: dlsim.Aggregator) -> np.ndarray:
        return np.asarray(jax.jit(lambda x: aggregate(network, KEY, rule, rule.init(x), x)[1])(values))

    whole = [averaged(rule) for rule in rules]
    monkeypatch.setattr(blocks, "auto_block", lambda fn, *trees: 3)
    for rule, wanted in zip(rules, whole, strict=True):
        np.testing.assert_allclose(averaged(rule), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (
            aggregators.krum(2),
            r"every node has 7 values \(2 f \+ 3\), its own among them, for krum\(num_byzantine=2\), got ",
        ),
        (aggregators.trimmed_mean(3), r"has 7 values \(2 b \+ 1\).* for trimmed_mean\(num_trimmed=3\)"),
        (aggregators.bulyan(1), r"has 7 values \(4 f \+ 3\).* for bulyan\(num_byzantine=1\)"),
        (aggregators.minimum_diameter(2), r"has 5 values \(2 f \+ 1\).* for minimum_diameter"),
        (aggregators.mean_around_median(2), "for mean_around_median"),
        (aggregators.cge(2), "for cge"),
        (aggregators.caf(2), "for caf"),
        (aggregators.nearest_neighbor_mixing(MEDIAN, 2), "for nearest_neighbor_mixing"),
        (aggregators.nearest_neighbor_mixing(aggregators.krum(1), 1), "for krum"),
        (aggregators.adaptive_robust_clipping(MEDIAN, 2), "for adaptive_robust_clipping"),
        (aggregators.norm_clipping(aggregators.krum(1), 1.0), "for krum"),
        (aggregators.bucketing(aggregators.trimmed_mean(1), 2), r"has 5 values .*for bucketing\(trimmed_mean"),
    ],
)
def test_a_neighbourhood_too_small_for_the_rule_is_named(rule: dlsim.Aggregator, line: str) -> None:
    """A wheel whose last node hangs on by one link fewer than the rest."""
    graph = networks.graph(
        8, *np.array([(i, j) for i in range(7) for j in range(i + 1, 7)] + [(7, 0), (7, 1), (7, 2)]).T
    )
    problem = problems.quadratic(8, 3)
    for algorithm in (algorithms.dsgd(problem, optax.sgd(0.1), aggregator=rule), algorithms.gossip(aggregator=rule)):
        with pytest.raises(ValueError, match=f"learn: network must be one in which .*{line}") as refused:
            dlsim.learn(problem, algorithm, networks.connect(graph))
        assert "got 4 at node 7, of degree 3. Give it more neighbours" in str(refused.value)
    # Where a scenario makes other topologies the degrees are not known.
    dlsim.learn(problem, algorithms.gossip(aggregator=rule), networks.connect(graph), networks.epidemic(3))


def test_a_server_of_few_clients_is_refused() -> None:
    problem = problems.quadratic(4, 3)
    algorithm = algorithms.fedavg(problem, optax.sgd(0.1), aggregator=aggregators.krum(1))
    with pytest.raises(ValueError, match=r"learn: network must be of at least 5 clients \(2 f \+ 3\) .* got 4 clients"):
        dlsim.learn(problem, algorithm, networks.complete(4))
