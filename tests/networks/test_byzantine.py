"""Nodes that lie."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import aggregators, algorithms, networks, problems
from dlsim.networks import attacks

LIARS = (1, 4)
VALUES = jnp.arange(24.0).reshape(6, 4) ** 1.3


def heard(channel, step=0):
    network = networks.complete(6).with_channel(channel)
    inbox, network = network.gather(jax.random.key(step), {"a": VALUES[:, :3], "b": VALUES[:, 3]})
    values = np.concatenate([inbox.values["a"], inbox.values["b"][..., None]], axis=-1)
    said = {}
    for receiver in range(6):
        for slot, sender in enumerate(np.asarray(inbox.senders[receiver])):
            said.setdefault(int(sender), []).append(values[receiver, slot])
    for rows in said.values():
        np.testing.assert_array_equal(np.stack(rows), np.stack([rows[0]] * 5))  # the same to everyone
    return np.stack([said[i][0] for i in range(6)]), network


def reach(good, is_inside):
    """The largest g of a lie mean - g deviation that is inside, by bisection."""
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if is_inside(good.mean(0) - middle * good.std(0)) else (low, middle)
    return low


def squares(good, at):
    return ((good - at) ** 2).sum(axis=1)


@pytest.mark.parametrize("attack", attacks.ATTACKS)
def test_what_liars_say(attack):
    said, network = heard(networks.byzantine(LIARS, attack, 1.5))
    honest = np.array([i not in LIARS for i in range(6)])
    np.testing.assert_array_equal(said[honest], np.asarray(VALUES)[honest])
    good = np.asarray(VALUES, np.float64)[honest]
    expected = {
        "sign_flip": -1.5 * np.asarray(VALUES)[~honest],
        "zero": np.zeros((2, 4)),
        "constant": np.full((2, 4), 1.5),
        "alie": np.stack([good.mean(0) - 1.5 * good.std(0)] * 2),
        "inner_product": np.stack([-1.5 * good.mean(0)] * 2),
        "mimic": np.stack([good[0]] * 2),
    }
    apart = max(squares(good, x).max() for x in good)
    largest = {
        "min_max": lambda lie: squares(good, lie).max() <= apart,
        "min_sum": lambda lie: squares(good, lie).sum() <= max(squares(good, x).sum() for x in good),
    }
    if attack in largest:
        lie = good.mean(0) - 1.5 * reach(good, largest[attack]) * good.std(0)
        expected[attack] = np.stack([lie] * 2)

    if attack in expected:
        np.testing.assert_allclose(said[~honest], expected[attack], rtol=1e-5, atol=1e-4)
    else:
        again, _ = heard(networks.byzantine(LIARS, attack, 3.0))
        np.testing.assert_allclose(again[~honest], 2 * said[~honest], rtol=1e-6)
        assert len(np.unique(said[~honest])) == 8
        other, _ = heard(networks.byzantine(LIARS, attack, 1.5), step=1)
        assert not np.any(other[~honest] == said[~honest])
    _, plain = heard(networks.perfect_channel())
    for lied, honestly in zip(*map(jax.tree.leaves, (network.state.traffic, plain.state.traffic)), strict=True):
        np.testing.assert_array_equal(lied, honestly)


def test_who_hears_no_honest_one_lies_about_nobody():
    """As where messages pass one at a time."""
    channel = networks.byzantine(range(6), "min_max", 2.0)
    said, _ = heard(channel)
    np.testing.assert_array_equal(said, np.asarray(VALUES))


def test_how_far_a_little_is():
    """n = 50, f = 24 as in the paper's table: s = 2 of 26 honest ones, z = 1.43 (it says 1.5 for a bar rounded up)."""
    assert networks.alie_strength(50, 24) == pytest.approx(1.4261, abs=1e-4)
    assert networks.alie_strength(4, 1) == pytest.approx(-0.4307, abs=1e-4)
    with pytest.raises(ValueError, match=r"alie_strength: num_liars must be an integer in \[1, 4\], got 5"):
        networks.alie_strength(10, 5)


def test_a_robust_rule_stands_what_the_mean_does_not():
    problem = problems.quadratic(10, 4, heterogeneity=0.1, gradient_noise=0.0)
    network = networks.complete(10).with_channel(networks.byzantine((0, 5), "sign_flip", 20.0))

    def loss(aggregator):
        algorithm = algorithms.dsgd(problem, optax.sgd(0.1), aggregator=aggregator)
        run = dlsim.simulate(
            dlsim.learn(problem, algorithm, network),
            num_steps=60,
            record=dlsim.Record(every=60),
            seed=0,
            progress=False,
        )
        return float(run.results.loss[-1])

    clean = loss(aggregators.trimmed_mean(2))
    assert not loss(aggregators.mean()) < 100 * clean


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"node_ids": ()}, "byzantine: node_ids must be one or more node ids >= 0"),
        ({"node_ids": (-1, 2)}, "byzantine: node_ids must be one or more node ids >= 0"),
        ({"node_ids": (0.5,)}, "byzantine: node_ids must be one or more node ids >= 0"),
        ({"node_ids": (0,), "attack": "alye"}, "byzantine: attack must be one of alie.*Did you mean 'alie'"),
        ({"node_ids": (0,), "strength": -1.0}, "byzantine: strength must be a number in"),
    ],
)
def test_bad_input(wrong, line):
    with pytest.raises(ValueError, match=line):
        networks.byzantine(**wrong)
