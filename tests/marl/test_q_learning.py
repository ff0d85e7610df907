"""Learners of action values: worlds with known answers, reductions, and their arithmetic against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from environments.probes import probe

import dlsim
from dlsim import keys, marl
from dlsim.core import Record
from dlsim.marl import mixers, pqn

SMALL = {
    "model": marl.recurrent(16),
    "num_steps": 6,
    "learning_starts": 0,
    "target_period": 5,
    "capacity": 800,
    "exploration": (1.0, 0.05, 50.0),
    "num_epochs": 2,
    "num_eval_episodes": 16,
}
LEARNERS = (marl.iql, marl.vdn, marl.qmix)


def trained(learner, num_steps, network=None, **options):
    options = {"record": Record(every=num_steps), "seed": 0, "progress": False, **options}
    return dlsim.simulate(marl.train(learner, network), num_steps=num_steps, **options)


@pytest.mark.parametrize("make", LEARNERS)
def test_they_learn_to_act(make):
    sharing = {marl.iql: marl.gossip(), marl.vdn: marl.independent(), marl.qmix: marl.share_parameters()}[make]
    run = trained(make(probe("cooperative", 2, 3), optax.adam(1e-2), sharing=sharing, **SMALL), 100)
    assert float(run.results.episode_return[0]) < 2.3 and float(run.results.episode_return[-1]) > 2.7
    assert int(run.results.environment_steps[-1]) == 100 * 8 * 6 and run.status.ok


def test_pqn_learns_to_act():
    learner = marl.pqn_vdn(
        probe("cooperative", 2, 3),
        optax.adam(5e-3),
        num_copies=32,
        num_steps=6,
        num_minibatches=4,
        exploration=(1.0, 0.05, 20.0),
        model=marl.feedforward((16,), layer_norm=True),
    )
    run = trained(learner, 50)
    assert float(run.results.episode_return[0]) < 2.3 and float(run.results.episode_return[-1]) > 2.8
    assert int(run.results.gradient_evaluations[-1]) == 50 * 32 * 6 * 4 * 2


@pytest.mark.parametrize(("name", "discount", "value"), [("constant", 0.5, 1.75), ("delayed", 0.5, 0.25)])
def test_they_learn_values(name, discount, value):
    learner = marl.iql(probe(name, 2, 3), optax.adam(2e-2), discount=discount, **SMALL)
    state = trained(learner, 200).state.algorithm
    net = SMALL["model"].build(2, 1.0)
    seen = jnp.concatenate([jnp.zeros((1, 2, 1)), jnp.eye(2)[None]], axis=-1)
    own = jax.tree.map(lambda leaf: leaf[0], state.params["agent"])
    _, found = net.apply(own, net.memory(2), seen, jnp.ones((1, 2), bool))
    np.testing.assert_allclose(found[0], value, atol=0.2)


def params_of(make, steps=6, **options):
    learner = make(probe("both", 3, 4), optax.sgd(0.05), **{**SMALL, **options})
    run = trained(learner, steps)
    return run.state.algorithm.params, run.results


def test_one_agent_that_is_a_team_learns_like_one_alone():
    alone = trained(marl.iql(probe("both", 1, 4), optax.sgd(0.1), **SMALL), 8).state.algorithm.params
    team = trained(marl.vdn(probe("both", 1, 4), optax.sgd(0.1), **SMALL), 8).state.algorithm.params
    for a, b in zip(*map(jax.tree.leaves, (alone, team)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("make", [marl.iql, marl.vdn])
def test_gossip_that_is_never_due_is_independence(make):
    alone, _ = params_of(make, sharing=marl.independent())
    never, results = params_of(make, sharing=marl.gossip(period=100))
    mixed, talked = params_of(make, sharing=marl.gossip())
    for a, b in zip(*map(jax.tree.leaves, (alone, never)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert results.messages_sent[-1] == 0 and talked.messages_sent[-1] == 6 * 6
    assert all(bool(jnp.allclose(leaf[0], leaf[1], atol=1e-6)) for leaf in jax.tree.leaves(mixed))


def test_gossip_on_the_complete_graph_is_sharing_of_parameters():
    # One gradient step an update: the shared gradient is the mean over agents, and gossip takes the mean of their steps.
    shared, _ = params_of(marl.iql, has_ids=False, num_epochs=1)
    gossiped, _ = params_of(marl.iql, sharing=marl.gossip(), has_ids=False, num_epochs=1)
    start = marl.train(marl.iql(probe("both", 3, 4), has_ids=False, **SMALL)).init(
        keys.stream(jax.random.key(0), "init")
    )
    moved = 0.0
    for a, b, c in zip(*map(jax.tree.leaves, (shared, gossiped, start.algorithm.params)), strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=2e-5)
        moved = max(moved, float(jnp.abs(a - c).max()))
    assert moved > 1e-3


def test_the_mixer_is_monotone_and_is_its_formula():
    mixer = mixers.monotone(3, embedding=4, hidden=5, scale=1.0)
    params = mixer.init(jax.random.key(0), jnp.zeros(6))
    generator = np.random.default_rng(0)
    values, world = generator.normal(size=(20, 3)), generator.normal(size=(20, 6))
    slopes = jax.vmap(jax.grad(lambda q, s: mixer.apply(params, q, s)))(jnp.asarray(values), jnp.asarray(world))
    assert float(slopes.min()) >= 0 and float(slopes.max()) > 0
    tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    dense = lambda i, x: x @ tree[f"Dense_{i}"]["kernel"] + tree[f"Dense_{i}"]["bias"]  # noqa: E731
    names = {tree[f"Dense_{i}"]["kernel"].shape: i for i in range(7)}
    relu = lambda x: np.maximum(x, 0)  # noqa: E731
    # Widths tell the layers apart: hidden 5, W1 12, b1 and w2 4, the offset 1.
    wide = names[(5, 12)]
    hidden = [i for i in range(7) if tree[f"Dense_{i}"]["kernel"].shape == (6, 5)]
    flat = [i for i in range(7) if tree[f"Dense_{i}"]["kernel"].shape == (6, 4)]
    found = np.asarray(mixer.apply(params, jnp.asarray(values), jnp.asarray(world)))
    matches = []
    for first in hidden:
        for inner in flat:
            other, last = sum(hidden) - first, sum(flat) - inner
            weights = np.abs(dense(wide, relu(dense(first, world)))).reshape(20, 3, 4)
            z = np.einsum("ba,bae->be", values, weights) + dense(inner, world)
            second = np.abs(dense(names[(5, 4)], relu(dense(other, world))))
            offset = dense(names[(4, 1)], relu(dense(last, world)))[:, 0]
            matches.append(np.abs((np.where(z > 0, z, np.expm1(z)) * second).sum(1) + offset - found).max())
    assert min(matches) < 1e-4


def test_returns_are_those_of_a_plain_loop():
    generator = np.random.default_rng(1)
    rewards, after = generator.normal(size=(2, 6, 4))
    over = generator.random((6, 4)) < 0.3
    expected, carry = np.zeros((6, 4)), after[-1]
    for t in reversed(range(6)):
        carry = rewards[t] + 0.9 * ~over[t] * (0.7 * after[t] + 0.3 * carry)
        expected[t] = carry
    found = pqn.lambda_returns(jnp.asarray(rewards), jnp.asarray(after), jnp.asarray(over), 0.9, 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_is_not_allowed_is_not_done():
    environment = probe("action", 2, 3)._replace(action_mask=lambda state: jnp.array([[True, False], [False, True]]))
    for make in (marl.vdn, marl.iql):
        run = trained(make(environment, **SMALL), 4)
        np.testing.assert_allclose(run.results.episode_return, 1.5)
        np.testing.assert_allclose(run.results.training_return[1:], 1.5)


WORLD = probe("both", 2)
REFUSED = {
    "iql: environment must be an Environment": lambda: marl.iql(None),
    "qmix: environment must be an Environment": lambda: marl.qmix(None),
    "vdn: environment must be of one discrete action.*Use ippo": lambda: marl.vdn(
        WORLD._replace(action_space=dlsim.environments.box((2,)))
    ),
    "iql: capacity must be a multiple of num_copies = 8": lambda: marl.iql(WORLD, capacity=20),
    "iql: num_steps must be an integer >= 2": lambda: marl.iql(WORLD, num_steps=1),
    "vdn: exploration must be": lambda: marl.vdn(WORLD, exploration=(1.0, 0.1)),
    "qmix: embedding must be an integer >= 1": lambda: marl.qmix(WORLD, embedding=0),
    "qmix: optimizer must be an optax": lambda: marl.qmix(WORLD, 0.1),
    "pqn_vdn: num_minibatches must be a divisor of num_copies = 256": lambda: marl.pqn_vdn(WORLD, num_minibatches=7),
    "pqn_vdn: trace must be a number in": lambda: marl.pqn_vdn(WORLD, trace=2.0),
    "pqn_vdn: eval_steps must be given": lambda: marl.pqn_vdn(WORLD._replace(max_steps=None)),
}


@pytest.mark.parametrize("line", REFUSED)
def test_bad_input(line):
    with pytest.raises(ValueError, match=line):
        REFUSED[line]()
