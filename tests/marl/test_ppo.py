"""PPO for many agents: arithmetic against NumPy, worlds with known answers, and what gossip reduces to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from environments.probes import probe

import dlsim
from dlsim import aggregators, keys, marl, networks
from dlsim.core import Record
from dlsim.environments import playing
from dlsim.environments.environment import box
from dlsim.marl import ppo_update
from dlsim.marl.distributions import categorical
from dlsim.running import programs

SMALL = {
    "num_copies": 16,
    "num_steps": 8,
    "num_minibatches": 2,
    "entropy_weight": 0.0,
    "num_eval_episodes": 16,
    "model": marl.feedforward((16,)),
}


def trained(learner, num_steps=30, network=None, scenario=None, **options):
    process = marl.train(learner, network, scenario)
    options = {"record": Record(every=num_steps), "seed": 0, "progress": False, **options}
    return dlsim.simulate(process, num_steps=num_steps, **options)


# Worlds with known answers.


@pytest.mark.parametrize(
    ("name", "length", "make", "options"),
    [
        ("action", 1, marl.ippo, {}),
        ("both", 1, marl.mappo, {}),
        ("both", 3, marl.ippo, {"model": marl.recurrent(16)}),
        ("cooperative", 1, marl.mappo, {"sharing": marl.gossip(), "model": marl.recurrent(16)}),
        ("cooperative", 1, marl.ippo, {"sharing": marl.independent()}),
    ],
)
def test_it_learns_to_act(name, length, make, options, tmp_path, monkeypatch):
    learner = make(probe(name, length=length), optax.adam(1e-2), **{**SMALL, **options})
    run = trained(learner, 40)
    assert float(run.results.episode_return[0]) < 0.8 * length
    assert float(run.results.episode_return[-1]) > 0.9 * length
    assert float(run.results.training_return[-1]) > 0.9 * length
    assert int(run.results.environment_steps[-1]) == 40 * 16 * 8 and run.status.ok
    assert int(run.results.gradient_evaluations[-1]) == 40 * 16 * 8 * 4 * 2

    # The policy from a file acts alike, and as it was trained to, without a run.
    monkeypatch.setattr(programs, "compile_traced", lambda *args, **options: pytest.fail("a run was compiled"))
    mine = jax.tree.map(lambda leaf: leaf[0], run.params)
    again = make(probe(name, length=length), **{**SMALL, **options})
    kept = again.policy(dlsim.load(dlsim.save(tmp_path / "policy.msgpack", mine)))
    seen = jnp.asarray([[1.0], [-1.0]]) if name in ("both", "cooperative") else jnp.zeros((2, 1))

    def acted(policy):
        one = jax.vmap(lambda key: policy.act(key, policy.init(2), seen, None, None)[1])
        return np.asarray(jax.jit(one)(jax.random.split(jax.random.key(0), 100)))

    np.testing.assert_array_equal(acted(kept), acted(learner.policy(mine)))
    assert np.mean(acted(kept) == [1, 1 if name == "action" else 0]) > 0.9


@pytest.mark.parametrize(
    ("name", "length", "observed", "value"),
    [("constant", 1, 0.0, 1.0), ("state", 1, 1.0, 1.0), ("state", 1, -1.0, -1.0), ("delayed", 2, 0.0, 0.5)],
)
def test_it_learns_values(name, length, observed, value):
    learner = marl.ippo(
        probe(name, length=length), optax.adam(2e-2), sharing=marl.independent(), discount=0.5, clip=0.5, **SMALL
    )
    params = trained(learner, 60).state.algorithm.params
    critic = marl.feedforward((16,)).build(1, 1.0)
    for agent in range(2):
        mine = jax.tree.map(lambda leaf, agent=agent: leaf[agent], params["critic"])
        _, found = critic.apply(mine, (), jnp.full((1, 1, 1), observed), jnp.zeros((1, 1), bool))
        assert abs(float(found[0, 0, 0]) - value) < 0.15


def test_numbers_as_actions():
    def step(key, state, actions):
        state, seen, _, dones, info = inner.step(key, state, jnp.zeros(2, jnp.int32))
        return state, seen, -jnp.sum(jnp.square(actions - 0.5), axis=-1), dones, info

    inner = probe("constant")
    environment = inner._replace(action_space=box((3,), -2.0, 2.0), step=step)
    run = trained(marl.ippo(environment, optax.adam(1e-2), **SMALL), 60)
    assert float(run.results.episode_return[0]) < -1.5 and float(run.results.episode_return[-1]) > -0.5


def test_what_is_not_allowed_is_not_done():
    environment = probe("action")._replace(action_mask=lambda state: jnp.array([[True, False], [False, True]]))
    run = trained(marl.ippo(environment, has_ids=True, **SMALL), 2)
    np.testing.assert_allclose(run.results.episode_return, 0.5)


# Arithmetic.


def test_advantages_are_those_of_a_plain_loop():
    generator = np.random.default_rng(0)
    rewards, values = generator.normal(size=(2, 3, 7, 5))
    last, ends = generator.normal(size=(3, 5)), generator.random((3, 7, 5)) < 0.3
    expected = np.zeros((3, 7, 5))
    for g, b in np.ndindex(3, 5):
        carry = 0.0
        for t in reversed(range(7)):
            after = last[g, b] if t == 6 else values[g, t + 1, b]
            delta = rewards[g, t, b] + 0.9 * after * (not ends[g, t, b]) - values[g, t, b]
            carry = delta + 0.9 * 0.8 * carry * (not ends[g, t, b])
            expected[g, t, b] = carry
    found = ppo_update.advantages(rewards, jnp.asarray(values), jnp.asarray(last), jnp.asarray(ends), 0.9, 0.8)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_its_formula():
    generator, num = np.random.default_rng(1), 50
    nets = marl.feedforward((4,)).build(3, 1.0), marl.feedforward((4,)).build(1, 1.0)
    params = {
        name: net.init(jax.random.key(i), jnp.zeros(2))
        for i, (name, net) in enumerate(zip(("actor", "critic"), nets, strict=True))
    }
    seen = jnp.asarray(generator.normal(size=(1, num, 2)), jnp.float32)
    resets = jnp.zeros((1, num), bool)
    actions = jnp.asarray(generator.integers(0, 3, (1, num)))
    old, values, gains = (jnp.asarray(generator.normal(size=(1, num)), jnp.float32) for _ in range(3))
    allowed = jnp.ones((1, num, 3), bool).at[0, :10, 2].set(False)
    actions = actions.at[0, :10].set(0)
    sample = ppo_update.Sample(ppo_update.Batch(seen, (), resets, allowed, actions, old - 2), values, gains)
    numbers = ppo_update.Clipping(0.2, 0.05, 0.7, True)
    found = ppo_update.loss(params, ((), ()), sample, nets, categorical(3), numbers)

    outputs = np.asarray(nets[0].apply(params["actor"], (), seen, resets)[1][0], np.float64)
    judged = np.asarray(nets[1].apply(params["critic"], (), seen, resets)[1][0, :, 0], np.float64)
    outputs[:10, 2] = -np.inf
    chances = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    picked = chances[np.arange(num), np.asarray(actions[0])]
    ratio = picked / np.exp(np.asarray(old[0], np.float64) - 2)
    gain = (np.asarray(gains[0]) - np.mean(gains)) / np.std(gains)
    policy = -np.minimum(ratio * gain, np.clip(ratio, 0.8, 1.2) * gain).mean()
    target, before = np.asarray(gains[0] + values[0]), np.asarray(values[0])
    near = before + np.clip(judged - before, -0.2, 0.2)
    value = 0.5 * np.maximum((judged - target) ** 2, (near - target) ** 2).mean()
    entropy = -np.sum(chances * np.log(np.where(chances > 0, chances, 1)), axis=1).mean()
    np.testing.assert_allclose(found, policy + 0.7 * value - 0.05 * entropy, rtol=1e-4)


# What gossip reduces to.

LINEAR = {**SMALL, "num_epochs": 1, "num_minibatches": 1, "normalize": False}


def params_of(sharing, num_steps=3, network=None, scenario=None, optimizer=None, name="both", **options):
    optimizer = optax.sgd(0.5) if optimizer is None else optimizer
    learner = marl.ippo(probe(name, num_agents=4), optimizer, sharing=sharing, **{**LINEAR, **options})
    run = trained(learner, num_steps, network, scenario)
    return run.state.algorithm.params, run.results


def start_of():
    """What every node starts with, `[4, ...]`."""
    learner = marl.ippo(probe("both", 4), sharing=marl.independent(), **LINEAR)
    return marl.train(learner).init(keys.stream(jax.random.key(0), "init")).algorithm.params


def leaves_of(*trees):
    return zip(*map(jax.tree.leaves, trees), strict=True)


def same(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **(tolerance or {"rtol": 0, "atol": 0}))


def test_gossip_on_the_complete_graph_is_sharing_of_parameters():
    shared, _ = params_of(marl.share_parameters())
    gossiped, results = params_of(marl.gossip())
    # The same actions are drawn either way, so one rule of updates must give one set of parameters.
    for agent in range(4):
        same(
            jax.tree.map(lambda leaf, agent=agent: leaf[agent], gossiped),
            jax.tree.map(lambda x: x[0], shared),
            atol=2e-6,
        )
    moved = max(float(jnp.abs(a[0] - b[0]).max()) for a, b in leaves_of(start_of(), shared))
    assert moved > 1e-3 and results.messages_sent[-1] == 3 * 12 and results.consensus_distance[-1] < 1e-10


def test_gossip_that_is_never_due_is_independence():
    alone, _ = params_of(marl.independent())
    never, results = params_of(marl.gossip(period=50))
    same(alone, never)
    assert results.messages_sent[-1] == 0 and results.consensus_distance[-1] > 1e-6
    _, sometimes = params_of(marl.gossip(period=2), num_steps=4)
    assert sometimes.messages_sent[-1] == 2 * 12


def test_only_parts_are_sent():
    alone, _ = params_of(marl.independent(), num_steps=1)
    params, results = params_of(marl.gossip(parts=("critic",)), num_steps=1)
    same(params["actor"], alone["actor"])
    same(params["critic"], jax.tree.map(lambda x: jnp.broadcast_to(x.mean(0), x.shape), alone["critic"]), atol=1e-6)
    size = sum(leaf[0].size for leaf in jax.tree.leaves(alone["critic"]))
    assert results.bits_sent[-1] == 12 * 32 * size


def test_who_is_out_of_contact_is_not_heard():
    environment = probe("both", num_agents=4)._replace(contact=lambda state: jnp.eye(4, dtype=bool)[::-1])
    learner = marl.ippo(environment, optax.sgd(0.5), sharing=marl.gossip(by_contact=True), **LINEAR)
    run = trained(learner, 1)
    alone, _ = params_of(marl.independent(), num_steps=1)
    found = run.state.algorithm.params
    assert run.results.messages_sent[-1] == 4
    # Weights of the complete graph: a quarter to whom is heard, what is left stays.
    expected = jax.tree.map(lambda x: 0.75 * x + 0.25 * x[::-1], alone)
    same(found, expected, atol=1e-6)


def test_absent_nodes_act_but_do_not_learn():
    params, results = params_of(marl.gossip(), 1, scenario=networks.random_presence(0.5))
    moved = np.array([any(bool(jnp.any(a[i] != b[i])) for a, b in leaves_of(start_of(), params)) for i in range(4)])
    assert moved.sum() == results.num_present[-1] and 0 < moved.sum() < 4


def test_liars_do_not_stop_those_who_take_the_median():
    lies = networks.chain(networks.byzantine((2,), "noise", 10.0), networks.loss(0.1))
    network = networks.complete(5).with_channel(lies)

    def end(aggregator):
        sharing = marl.gossip(aggregator=aggregator)
        return trained(marl.ippo(probe("both", 5), optax.adam(1e-2), sharing=sharing, **SMALL), 40, network)

    robust, plain = end(aggregators.median()), end(aggregators.mean())
    assert float(robust.results.episode_return[-1]) > 0.9
    assert not float(plain.results.episode_return[-1]) > 0.8


# One core.


def test_seeds_side_by_side_and_rates_in_a_sweep():
    learner = marl.ippo(probe("both"), optax.adam(1e-2), **SMALL)
    both = trained(learner, 3, seed=[0, 1]).results
    for seed in (0, 1):
        alone = trained(learner, 3, seed=seed).results
        np.testing.assert_allclose(both.sel(seed=seed).train_loss[-1], alone.train_loss[-1], rtol=1e-4)


def test_a_policy_plays_as_it_was_judged():
    environment = probe("both", num_agents=2, length=5)
    for model, sharing in ((SMALL["model"], marl.independent()), (marl.recurrent(8), marl.share_parameters())):
        learner = marl.ippo(environment, optax.adam(1e-2), sharing=sharing, **{**SMALL, "model": model})
        params = trained(learner, 60).state.algorithm.params
        results = dlsim.simulate(
            playing.play(environment, learner.policy(params)), num_steps=50, seed=0, record=Record(), progress=False
        ).results
        assert results.num_episodes[-1] == 10 and float(results.reward[1:].mean()) > 0.85
        greedy = learner.policy(params, greedy=True)
        act = lambda key, greedy=greedy: greedy.act(key, greedy.init(2), jnp.array([[1.0], [-1.0]]), None, None)[1]  # noqa: E731
        assert all(act(jax.random.key(seed)).tolist() == [1, 0] for seed in range(4))  # whatever is drawn


def test_the_state_keeps_its_form():
    sharing = marl.gossip(aggregator=aggregators.trimmed_mean(1))
    learner = marl.mappo(probe("both", 3), sharing=sharing, **{**SMALL, "num_copies": 2})
    process = marl.train(learner, networks.complete(3).with_channel(networks.quantize(8)))
    state = jax.eval_shape(process.init, jax.random.key(0))
    after, _ = jax.eval_shape(process.step, jax.random.key(0), state)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(state)] == [(x.shape, x.dtype) for x in jax.tree.leaves(after)]


WORLD = probe("both", 2)
REFUSED = {
    "ippo: environment must be an Environment": lambda: marl.ippo(probe),
    "ippo: optimizer must be an optax.GradientTransformation": lambda: marl.ippo(WORLD, 0.1),
    "mappo: model must be a Model.*feedforward": lambda: marl.mappo(WORLD, model="mlp"),
    "ippo: num_minibatches must be a divisor of the 4096 rows": lambda: marl.ippo(WORLD, num_minibatches=3),
    "ippo: num_copies must be an integer >= 1": lambda: marl.ippo(WORLD, num_copies=0),
    "ippo: discount must be a number in": lambda: marl.ippo(WORLD, discount=1.5),
    "ippo: clip must be a number in": lambda: marl.ippo(WORLD, clip=0.0),
    "ippo: critic_model must be recurrent where the model is": lambda: marl.ippo(WORLD, critic_model=marl.recurrent(4)),
    "ippo: eval_steps must be given": lambda: marl.ippo(WORLD._replace(max_steps=None)),
    "ippo: sharing must be a Sharing": lambda: marl.ippo(WORLD, sharing="gossip"),
    "ippo: sharing must be without by_contact": lambda: marl.ippo(
        WORLD._replace(contact=None), sharing=marl.gossip(by_contact=True)
    ),
    "ippo: environment must be of one discrete action": lambda: marl.ippo(
        WORLD._replace(action_space=WORLD.action_space._replace(shape=(2,)))
    ),
    "gossip: period must be an integer >= 1": lambda: marl.gossip(period=0),
    "gossip: aggregator must be an Aggregator": lambda: marl.gossip(aggregator="median"),
    "gossip: parts must be a sequence, each a string or None, got 'critic'": lambda: marl.gossip(parts="critic"),
    "ippo: sharing.parts must be of actor, critic, got mixer": lambda: trained(
        marl.ippo(WORLD, sharing=marl.gossip(parts=("mixer",)), **SMALL), 1
    ),
    "train: learner must be a Learner": lambda: marl.train(WORLD),
    "learn: network must be of the problem's 2 nodes": lambda: marl.train(marl.ippo(WORLD), networks.ring(3)),
    "feedforward: activation must be one of": lambda: marl.feedforward(activation="relo"),
    "feedforward: hidden.0. must be an integer >= 1, got 0": lambda: marl.feedforward((0,)),
    "recurrent: hidden must be an integer >= 1": lambda: marl.recurrent(0),
    "from_flax: make must be a function": lambda: marl.from_flax(3),
    "probe_both: problem must be one with data": lambda: trained(
        marl.ippo(WORLD)._replace(algorithm=dlsim.algorithms.dsgd(marl.ippo(WORLD).problem, optax.sgd(0.1))), 1
    ),
}


@pytest.mark.parametrize("line", REFUSED)
def test_bad_input(line):
    with pytest.raises(ValueError, match=line):
        REFUSED[line]()
