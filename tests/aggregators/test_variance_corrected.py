"""Variance-corrected averages against NumPy loops, numbers worked by hand, and what a mix without gathering must give."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import aggregators, networks, problems
from dlsim.aggregators.linear import aggregate
from dlsim.aggregators.variance_corrected import FOLLOW, variances
from dlsim.networks.network import Inbox

KEY = jax.random.key(3)
C = 0.5
OWN, HEARD = np.array([2.0, 0, 0, 2]), np.array([[1.0, -1, 2, 0], [3, 1, -2, 2]])


def apply(rule, own, heard, mask=None, weights=None):
    own, heard = np.asarray(own, np.float32)[None], np.asarray(heard, np.float32)[None]
    mask = np.ones(heard.shape[:2], bool) if mask is None else np.asarray(mask)[None]
    weights = mask / (1 + mask.sum(1, keepdims=True)) if weights is None else np.asarray(weights)[None]
    inbox = Inbox(jnp.asarray(heard), jnp.asarray(weights, jnp.float32), jnp.asarray(mask), jnp.zeros(mask.shape, int))
    return np.asarray(rule.apply(KEY, (), jnp.asarray(own), inbox)[1][0])


def corrected(c=C, follow="others", epsilon=0.0):
    return aggregators.variance_corrected(aggregators.mean(self_weight=c), follow=follow, epsilon=epsilon)


def var(x):
    return np.var(x, ddof=1) if np.size(x) > 1 else 0.0


def oracle(own, heard, c, follow, epsilon=0.0):
    """One tensor of one node, a plain loop in float64."""
    if not len(heard):
        return own
    average = c * own + (1 - c) * np.mean(heard, axis=0)
    others = np.mean([var(h) for h in heard])
    v = {"others": others, "self": var(own), "rule": c * var(own) + (1 - c) * others}[follow]
    now = var(average) + epsilon
    return average if now == 0 else average.mean() + (average - average.mean()) * np.sqrt((v + epsilon) / now)


@pytest.mark.parametrize(
    ("c", "follow", "wanted"),
    [
        (0.0, "others", [3.0733, -0.6440, -0.6440, 1.2147]),
        (0.5, "others", [2.8172, -0.6356, -0.6356, 1.9540]),
        (0.5, "rule", [2.5121, -0.3983, -0.3983, 1.7845]),
    ],
)
def test_by_hand(c, follow, wanted) -> None:
    """Variances 4/3; 5/3, 14/3: FollowOthers aims at 19/6, FollowConservative at 9/4; the mean entry is kept."""
    got = apply(corrected(c, follow), OWN, HEARD)
    np.testing.assert_allclose(got, wanted, atol=6e-5)
    np.testing.assert_allclose(var(got), {"others": 19 / 6, "rule": 9 / 4}[follow], rtol=1e-6)
    np.testing.assert_allclose(got.mean(), 0.75 if c == 0 else 0.875, rtol=1e-6)


def test_own_share_one() -> None:
    np.testing.assert_allclose(apply(corrected(1.0, "self"), OWN, HEARD), OWN, atol=1e-6)
    scaled = 1 + (OWN - 1) * np.sqrt((19 / 6) / (4 / 3))
    np.testing.assert_allclose(apply(corrected(1.0, "others"), OWN, HEARD), scaled, rtol=1e-6)


def tensors(seed, num, *shapes):
    rng = np.random.default_rng(seed)
    return {str(k): jnp.asarray(rng.normal(0.1, 1 + k, (num, *shape)), jnp.float32) for k, shape in enumerate(shapes)}


def crowd(num, seed=0):
    return {**tensors(seed, num, (3, 4), (5,), (1,)), "bias": jnp.zeros((num, 6))}


TOPOLOGIES = {
    "ring": lambda: networks.ring(8),
    "torus": lambda: networks.torus(9),
    "complete": lambda: networks.complete(8),
    "star": lambda: networks.star(8),
    "tree": lambda: networks.binary_tree(7),
    "dense": lambda: networks.complete(8).with_lowering("dense"),
    "edges": lambda: networks.barabasi_albert(10, 3, seed=0).with_lowering("edges"),
    "directed": lambda: networks.connect(
        networks.graph(6, [0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 3, 5]), "row_stochastic"
    ),
}


def heard_by(network, i):
    senders, receivers = np.asarray(network.senders), np.asarray(network.receivers)
    return senders[receivers == i], np.asarray(network.edge_weights)[receivers == i]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_variance_is_that_of_the_formula_at_every_topology(name) -> None:
    """One product, no gathering: against the formula in float64, and against the same rule over gathered messages."""
    network = TOPOLOGIES[name]()
    own = crowd(network.num_nodes)

    @jax.jit
    def by_means_and_gathered(own):
        inbox = None if network.neighbors is None else network.gather(KEY, own)[0]
        rules = {follow: corrected(0.3, follow) for follow in FOLLOW}
        means = {follow: aggregate(network, KEY, rule, (), own)[1] for follow, rule in rules.items()}
        return means, {f: means[f] if inbox is None else rules[f].apply(KEY, (), own, inbox)[1] for f in rules}

    means, held = by_means_and_gathered(own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), means, held)
    for follow, got in means.items():
        for leaf, value in own.items():
            value = np.asarray(value, np.float64)
            for i in range(network.num_nodes):
                senders, weights = heard_by(network, i)
                share = weights / weights.sum()
                average = 0.3 * value[i] + 0.7 * np.tensordot(share, value[senders], axes=1)
                others = share @ [var(value[j]) for j in senders]
                v = {"others": others, "self": var(value[i]), "rule": 0.3 * var(value[i]) + 0.7 * others}[follow]
                found = np.asarray(got[leaf][i])
                if var(average) == 0:
                    np.testing.assert_allclose(found, average, atol=1e-5)
                else:
                    np.testing.assert_allclose(var(found), v, rtol=2e-5)
                    np.testing.assert_allclose(found.mean(), average.mean(), atol=1e-5)


HARD = {
    "absent": lambda n: n.replace(is_present=jnp.arange(n.num_nodes) % 3 != 1),
    "loss": lambda n: n.with_channel(networks.loss(0.4)),
    "top_k": lambda n: n.with_channel(networks.top_k(0.5)),
}


@pytest.mark.parametrize("name", HARD)
def test_without_gathering_as_with_it_when_messages_are_lost_or_changed(name) -> None:
    network, rule = HARD[name](networks.torus(9)), corrected()

    @jax.jit
    def once(own):
        inbox, _ = network.gather(KEY, own, stream="mix")
        mixed, after = aggregate(network, KEY, rule, (), own)[1:]
        return rule.apply(KEY, (), own, inbox)[1], mixed, after, network.mix(KEY, own)[1].state.traffic

    gathered, mixed, after, plain = once(crowd(9))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), mixed, gathered)
    np.testing.assert_array_equal(after.state.traffic.bits.low, plain.bits.low)  # variances cost no bits


def test_without_gathering_as_with_it_when_messages_are_late() -> None:
    problem = problems.consensus(np.asarray(crowd(9)["0"]))
    ends = []
    for rule in (corrected(), corrected()._replace(linear=None)):
        network = networks.torus(9).with_delays(networks.fixed_delay(1))
        process = dlsim.learn(problem, dlsim.algorithms.gossip(aggregator=rule), network)
        run = jax.jit(
            lambda key, process=process: jax.lax.fori_loop(
                0, 4, lambda t, state: process.step(jax.random.fold_in(key, t), state)[0], process.init(key)
            )
        )
        ends.append(run(KEY).algorithm.params)
    np.testing.assert_allclose(*ends, atol=2e-5)
    assert np.abs(np.asarray(ends[0]) - np.asarray(crowd(9)["0"])).max() > 0.1


def test_the_programs_hold_no_messages() -> None:
    """8 neighbours of 5,000 numbers: the mix and its corrected form keep the models, not the inboxes."""
    network = networks.random_regular(64, 8, seed=0)
    own = jnp.zeros((64, 5000))

    def used(rule):
        return (
            jax.jit(lambda own: aggregate(network, KEY, rule, (), own)[1])
            .lower(own)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    assert used(corrected()) < 3 * own.nbytes
    # Nor does a rule that needs them hold more than those of a block of receivers.
    assert used(aggregators.median()) < 3 * own.nbytes


def test_equal_models_and_scales_and_shifts() -> None:
    network, rule = networks.ring(6), corrected()
    mixed = jax.jit(lambda own: aggregate(network, KEY, rule, (), own)[1])
    equal = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), crowd(6))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), mixed(equal), equal)
    own = crowd(6)
    scaled = mixed(jax.tree.map(lambda leaf: 3 * leaf, own))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 3 * b, atol=1e-5), scaled, mixed(own))
    moved = mixed(jax.tree.map(lambda leaf: leaf + 2, own))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b + 2, atol=1e-5), moved, mixed(own))


def test_mean_variance_is_conserved_without_training() -> None:
    """Weighted by the stationary distribution of A/deg, which is deg / sum deg: FollowOthers moves variance about."""
    network = networks.barabasi_albert(16, 2, seed=1)
    network = networks.connect(networks.host_graph(network), "uniform_neighbor")
    start = {"w": tensors(0, 16, (40,))["0"] * (1 + jnp.arange(16.0))[:, None]}
    share = np.asarray(network.in_degrees, float)
    share /= share.sum()
    before = share @ np.asarray(variances(start)["w"])
    own = jax.jit(lambda own: aggregate(network, KEY, corrected(0.0), (), own, num_steps=20)[1])(start)
    after = np.asarray(variances(own)["w"])
    np.testing.assert_allclose(share @ after, before, rtol=1e-4)
    np.testing.assert_allclose(after, before, rtol=0.5)  # and spreads it


def test_variance_of_plain_averages_is_that_of_the_recursion() -> None:
    """r_t = (1/N) sum_ij [(W^t)_ij]^2: c^2 + (1-c)^2/d after one round if d-regular; .2917, .1361, .0422 for d = 6."""
    network = networks.random_regular(24, 6, seed=0)
    weights = np.zeros((24, 24))
    weights[np.asarray(network.receivers), np.asarray(network.senders)] = 0.5 / 6
    np.fill_diagonal(weights, 0.5)
    ratios = [(np.linalg.matrix_power(weights, t) ** 2).sum() / 24 for t in range(1, 11)]
    assert abs(ratios[0] - 0.2917) < 1e-4  # exact for any such graph; the others depend on the draw of it
    assert abs(ratios[1] / 0.1361 - 1) < 0.05 and abs(ratios[9] / 0.0422 - 1) < 0.05
    assert abs(C**2 + (1 - C) ** 2 / 8 - 0.2813) < 1e-4
    rule = aggregators.mean(self_weight=C)

    def one(own, _):
        own = aggregate(network, KEY, rule, (), own)[1]
        return own, variances(own).mean()

    found = jax.jit(lambda own: jax.lax.scan(one, own, jnp.arange(10))[1])(jax.random.normal(KEY, (24, 10000)))
    np.testing.assert_allclose(found, ratios, rtol=0.03)


def test_opposite_tensors_and_flat_ones_are_left() -> None:
    np.testing.assert_array_equal(apply(corrected(0.0), [0.0] * 4, [[1.0, -1, 2, -2], [-1, 1, -2, 2]]), [0.0] * 4)
    np.testing.assert_array_equal(apply(corrected(), [0.0] * 4, [[0.0] * 4]), [0.0] * 4)
    # One sender's tensor is all of one value: the target falls.
    got = apply(corrected(0.0), [1.0, 2, 3, 4], [[1.0, -1, 2, -2], [3, 3, 3, 3]])
    np.testing.assert_allclose(var(got), var([1, -1, 2, -2]) / 2, rtol=1e-6)
    with_noise = apply(corrected(0.0, epsilon=1e-4), [0.0] * 4, [[1.0, -1, 2, -2], [-1, 1, -2, 2]])
    np.testing.assert_array_equal(with_noise, [0.0] * 4)


def test_epsilon_is_that_of_the_formula_and_may_be_traced() -> None:
    traced = jax.jit(lambda c, eps: corrected(c, epsilon=eps).apply(KEY, (), *_one())[1])(0.5, 0.2)
    np.testing.assert_allclose(traced[0], oracle(OWN, HEARD, 0.5, "others", 0.2), rtol=1e-5)


def _one():
    weights = jnp.full((1, 2), 1 / 3)
    inbox = Inbox(jnp.asarray(HEARD, jnp.float32)[None], weights, jnp.ones((1, 2), bool), jnp.zeros((1, 2), int))
    return jnp.asarray(OWN, jnp.float32)[None], inbox


def test_a_robust_rule_is_corrected_too() -> None:
    rng = np.random.default_rng(0)
    own, heard = rng.standard_normal(30), rng.standard_normal((4, 30))
    rule = aggregators.variance_corrected(aggregators.median(), follow="rule")
    got = apply(rule, own, heard)
    candidates = np.vstack([own, heard])
    middle, target = np.median(candidates, axis=0), np.median([var(one) for one in candidates])
    wanted = middle.mean() + (middle - middle.mean()) * np.sqrt(target / var(middle))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_running_statistics_are_averaged_and_not_spread() -> None:
    own = problems.Variables(tensors(0, 6, (8,)), tensors(1, 6, (8,)))
    network = networks.ring(6)
    _, got, _ = aggregate(network, KEY, corrected(), (), own)
    _, mean, _ = aggregate(network, KEY, aggregators.mean(self_weight=C), (), own)
    np.testing.assert_allclose(got.batch_stats["0"], mean.batch_stats["0"], atol=1e-7)
    own_variance = np.asarray(variances(own)["0"])
    np.testing.assert_allclose(
        variances(got)["0"], (np.roll(own_variance, 1) + np.roll(own_variance, -1)) / 2, rtol=1e-5
    )


def test_mean_with_its_own_share() -> None:
    """On a d-regular graph c = 1/(d + 1) is the uniform mix; else a plain mean over whoever was heard."""
    own = crowd(16)
    network = networks.torus(16)
    _, got, _ = aggregate(network, KEY, aggregators.mean(self_weight=1 / 5), (), own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, network.mix(KEY, own)[0])
    present = jnp.arange(16) != 1
    _, got, _ = aggregate(network.replace(is_present=present), KEY, aggregators.mean(self_weight=0.25), (), own)
    senders, _ = heard_by(network, 0)
    heard = np.asarray(own["0"])[[j for j in senders if j != 1]]
    np.testing.assert_allclose(got["0"][0], 0.25 * own["0"][0] + 0.75 * heard.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(got["0"][1], own["0"][1])


def test_a_linear_rule_is_the_mix_to_the_last_bit() -> None:
    problem, network = problems.quadratic(9, 4), networks.torus(9).with_channel(networks.loss(0.3))
    runs = [
        dlsim.simulate(
            dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.1), aggregator=rule), network),
            seed=0,
            num_steps=5,
            progress=False,
        ).params
        for rule in (None, aggregators.mean())
    ]
    np.testing.assert_array_equal(*runs)


def test_homogeneous_networks_fade_with_depth() -> None:
    """A bias-free ReLU net of L layers: f(sqrt(r) w) = r^(L/2) f(w); four layers at r = 1/24: 576 times less."""
    shapes = ((8, 16), (16, 16), (16, 16), (16, 3))
    layers = [layer[0] for layer in tensors(0, 1, *shapes).values()]

    def outputs(weights, x):
        for layer in weights[:-1]:
            x = jax.nn.relu(x @ layer)
        return x @ weights[-1]

    x = jax.random.normal(KEY, (5, 8))
    faded = outputs([layer * np.sqrt(1 / 24) for layer in layers], x)
    np.testing.assert_allclose(576 * faded, outputs(layers, x), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: aggregators.variance_corrected(follow="them"), "variance_corrected: follow must be one of"),
        (lambda: aggregators.variance_corrected("mean"), "variance_corrected: rule must be"),
        (lambda: aggregators.variance_corrected(epsilon=-1.0), "variance_corrected: epsilon must be"),
        (lambda: aggregators.mean(self_weight=1.5), "mean: self_weight must be"),
        (lambda: aggregators.mean(self_weight=0.5, is_partial=True), "mean: self_weight must be None where is_partial"),
    ],
)
def test_bad_input(make, line) -> None:
    with pytest.raises(ValueError, match=line):
        make()


def test_a_server_refuses_a_rule_with_a_share_of_its_own() -> None:
    problem = problems.quadratic(4, 3)
    with pytest.raises(ValueError, match="one centred on it"):
        dlsim.algorithms.fedavg(problem, optax.sgd(0.1), aggregator=aggregators.mean(self_weight=0.5))
