"""What must not change: conserved sums while nodes and links come and go, means under mixing, and the pace of mixing."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes
from contract import world
from six_nodes import DIMENSION, NUM_NODES, RATE

import dlsim
from dlsim import algorithms, networks
from dlsim.core import Algorithm, Channel, Problem, PyTree, Scenario
from dlsim.networks.network import Network

NUM_ROUNDS = 15
CHI = 1 / networks.spectral_gap(six_nodes.network())


def directed() -> Network:
    arrows = np.array([(0, 1), (1, 2), (2, 0), (0, 3), (3, 4), (4, 5), (5, 0), (0, 4)])
    return networks.connect(networks.graph(NUM_NODES, *arrows.T, is_directed=True), "column_stochastic")


def come_and_go() -> Scenario:
    """Nodes leave and return, and links fail both ways."""
    return networks.chain(networks.churn(0.2, 0.5), networks.link_failure(0.3))


def cohorts() -> Scenario:
    """Cohorts of which some do not answer."""
    return networks.chain(networks.churn(0.3, 0.5), networks.participation(3))


class Row(NamedTuple):
    """`of(state, network)`, the invariant, is `value` after every round, and `part(state)` is not trivially so."""

    name: str  # file and function
    make: Callable[[Problem], Algorithm]
    part: Callable[[Any], PyTree]
    network: Callable[[], Network] = six_nodes.network
    scenario: Callable[[], Scenario] = come_and_go
    channel: Channel | None = None
    value: float = 0.0


ROWS = (
    Row("gradient_tracking.invariant_tracking",
        lambda p: algorithms.gradient_tracking(p, optax.sgd(RATE), order="combine_then_adapt"), lambda s: s.tracker),
    Row("gradient_tracking.invariant_tracking",
        lambda p: algorithms.gradient_tracking(p, optax.sgd(RATE), order="adapt_then_combine"), lambda s: s.tracker),
    Row("k_gt.invariant_correction",
        lambda p: algorithms.k_gt(p, RATE, num_local_steps=3), lambda s: s.correction),
    Row("extra.invariant_correction", lambda p: algorithms.extra(p, RATE), lambda s: s.correction),
    Row("nids.invariant_correction", lambda p: algorithms.nids(p, RATE), lambda s: s.correction),
    Row("exact_diffusion.invariant_correction",
        lambda p: algorithms.exact_diffusion(p, optax.sgd(RATE)), lambda s: s.correction),
    Row("exact_diffusion.invariant_correction", lambda p: algorithms.d2(p, optax.sgd(RATE)), lambda s: s.correction,
        lambda: six_nodes.network("lazy_metropolis_hastings")),
    Row("proxskip.invariant_control", lambda p: algorithms.proxskip(p, RATE, 0.5), lambda s: s.control_variate),
    Row("decentralized_admm.invariant_dual", lambda p: algorithms.decentralized_admm(p, 0.3), lambda s: s.dual),
    Row("decentralized_admm.invariant_dual",
        lambda p: algorithms.decentralized_admm(p, 0.3, num_local_steps=2, local_learning_rate=RATE), lambda s: s.dual),
    Row("adom_plus.invariant_consensus", lambda p: algorithms.adom_plus(p, CHI), lambda s: s.consensus,
        scenario=lambda: networks.link_failure(0.3)),
    Row("msda.invariant_dual", lambda p: algorithms.msda(p, 2 * CHI), lambda s: s.dual,
        lambda: six_nodes.network("lazy_metropolis_hastings"), lambda: networks.link_failure(0.3)),
    Row("led.invariant_dual", lambda p: algorithms.led(p, RATE, num_local_steps=2), lambda s: s.dual),
    Row("wang_elia.invariant_integral", lambda p: algorithms.wang_elia(p, RATE), lambda s: s.integral),
    Row("diloco.invariant_outer_gradient",
        lambda p: algorithms.diloco(p, optax.sgd(RATE), num_local_steps=2, over="gossip"),
        lambda s: s.shared.mixed_public - s.shared.public, channel=networks.top_k(2)),
    Row("choco_sgd.invariant_public",
        lambda p: algorithms.choco_sgd(p, optax.sgd(RATE), consensus_step_size=0.4),
        lambda s: s.mixed_public - s.public, channel=networks.top_k(2)),
    Row("stochastic_gradient_push.invariant_mass",
        lambda p: algorithms.stochastic_gradient_push(p, optax.sgd(RATE)), lambda s: s.push_weight - 1, directed,
        value=1.0),
    Row("scaffold.invariant_control",
        lambda p: algorithms.scaffold(p, RATE, num_local_steps=2), lambda s: s.client_control_variates,
        scenario=cohorts),
    Row("scaffold.invariant_control",
        lambda p: algorithms.scaffold(p, RATE, num_local_steps=2), lambda s: s.client_control_variates,
        scenario=cohorts, channel=networks.loss(0.4)),
    Row("scaffold.invariant_control",
        lambda p: algorithms.scaffold(p, RATE, num_local_steps=2), lambda s: s.client_control_variates,
        channel=networks.quantize(4)),
    Row("scaffold.invariant_control",
        lambda p: algorithms.scaffold(p, RATE, num_local_steps=2, option="I"), lambda s: s.client_control_variates,
        scenario=cohorts, channel=networks.chain(networks.quantize(4), networks.loss(0.2))),
)  # fmt: skip


def function(name: str) -> Callable[[Any], PyTree]:
    file, invariant = name.split(".")
    return getattr(importlib.import_module(f"dlsim.algorithms.{file}"), invariant)


def test_every_invariant_is_tried() -> None:
    found = set()
    for info in pkgutil.iter_modules(algorithms.__path__):
        module = importlib.import_module(f"dlsim.algorithms.{info.name}")
        names = [name for name in vars(module) if name.startswith("invariant_")]
        found |= {f"{info.name}.{name}" for name in names if vars(module)[name].__module__ == module.__name__}
    assert found == {row.name for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_it_holds_while_nodes_and_links_come_and_go(row: Row) -> None:
    problem, network = six_nodes.problem(gradient_noise=0.5), row.network()
    network = network if row.channel is None else network.with_channel(row.channel)
    process = dlsim.learn(problem, row.make(problem), network, row.scenario())
    states = world.roll(process, NUM_ROUNDS).states
    invariant = function(row.name)
    for t, state in enumerate(states):
        off = np.asarray(invariant(state.algorithm)) - row.value
        np.testing.assert_allclose(off, 0, atol=5e-6, err_msg=f"after round {t}")
    assert np.abs(row.part(states[-1].algorithm)).max() > 5e-3, "nothing there whose sum could be off"


def one_way_failures() -> Network:
    """A ring some of whose links are down in one direction alone."""
    ring = networks.ring(NUM_NODES)
    return ring.replace(is_linked=jnp.arange(ring.num_edges) % 5 != 0)


@pytest.mark.parametrize("network", [directed, lambda: networks.exponential(NUM_NODES), one_way_failures])
def test_push_sum_conserves_what_is_pushed(network: Callable[[], Network]) -> None:
    """Without gradients the sum of x stays, whoever is away, and the nodes agree on the mean over all of them."""
    with jax.enable_x64(True):
        algorithm = algorithms.stochastic_gradient_push(six_nodes.problem(), optax.sgd(0.0))
        first = jax.random.normal(jax.random.key(3), (NUM_NODES, DIMENSION), float)
        states = walk(algorithm, network(), first, 120, six_nodes.ROLL_CALL)
        for state in states:
            np.testing.assert_allclose(state.biased.sum(axis=0), first.sum(axis=0), atol=1e-12)
        expected = np.broadcast_to(first.mean(axis=0), first.shape)
        np.testing.assert_allclose(algorithm.params(states[-1]), expected, atol=1e-6)


def walk(
    algorithm: Algorithm, network: Network, first: Any, num_rounds: int, present: np.ndarray | None = None
) -> list[Any]:
    """States from one's own first parameters; the roll-call is for the first rounds, then all are there."""
    key = jax.random.key(0)
    step = jax.jit(lambda state, there: algorithm.step(key, state, network.replace(is_present=there))[0])
    states = [algorithm.init(key, first, network)]
    for t in range(num_rounds):
        there = np.ones(network.num_nodes, bool) if present is None or t >= len(present) else present[t]
        states.append(step(states[-1], jnp.asarray(there)))
    return states


TREES = {
    "path": lambda: networks.path(7),
    "star": lambda: networks.star(7),
    "binary_tree": lambda: networks.binary_tree(7),
    "uneven": lambda: networks.connect(
        networks.graph(7, *np.array([(0, 1), (0, 2), (2, 3), (2, 4), (4, 5), (4, 6)]).T)
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_relayed_sums_are_the_exact_mean_of_models_as_old_as_they_are_far(name: str) -> None:
    """x_i(t+1) = mean over j of y_j as it was max(dist(i, j), 1) - 1 rounds ago; at first over those near enough."""
    network = TREES[name]()
    far = hops(network)
    with jax.enable_x64(True):
        algorithm = algorithms.relay_sgd(seven(), optax.sgd(RATE))
        first = jax.random.normal(jax.random.key(1), (7, DIMENSION), float)
        x = np.stack([state.params for state in walk(algorithm, network, first, far.max() + 6)])
        curvature, constant = six_nodes.affine(seven())
    y = x - RATE * (np.einsum("nij,tnj->tni", curvature, x) + constant)
    for t in range(len(x) - 1):
        for i in range(7):
            near = [j for j in range(7) if far[i, j] <= t + 1]
            expected = np.mean([y[t + 1 - max(far[i, j], 1), j] for j in near], axis=0)
            np.testing.assert_allclose(x[t + 1, i], expected, atol=1e-12, err_msg=f"node {i} after round {t + 1}")
    assert len(near) == 7, "in the end everybody is heard"


def test_relayed_models_agree_without_gradients() -> None:
    with jax.enable_x64(True):
        algorithm = algorithms.relay_sgd(seven(), optax.sgd(0.0))
        first = jax.random.normal(jax.random.key(1), (7, DIMENSION), float)
        x = walk(algorithm, TREES["path"](), first, 150)[-1].params
    assert np.ptp(x, axis=0).max() < 1e-6


@pytest.mark.parametrize("name", TREES)
def test_relay_sgd_forgets_who_is_gone(name: str) -> None:
    """Leaf 6 leaves for good: the six who stay go on to where they go without it, in the same number of rounds."""
    left = np.ones((600, 7), bool)
    left[5:, 6] = False
    with jax.enable_x64(True):
        algorithm = algorithms.relay_sgd(seven(), optax.sgd(0.05))
        first = 3 + jax.random.normal(jax.random.key(1), (7, DIMENSION), float)
        x = np.asarray(walk(algorithm, TREES[name](), first, 600, left)[-1].params)[:6]
        curvature, constant = six_nodes.affine(seven())
    optimum = np.linalg.solve(curvature[:6].mean(axis=0), -constant[:6].mean(axis=0))
    gone = np.linalg.norm(np.asarray(first)[6] - optimum)
    assert np.linalg.norm(x - optimum, axis=1).max() < 0.05 * gone


def seven() -> Problem:
    return dlsim.problems.quadratic(7, DIMENSION, heterogeneity=0.5, curvature="dense", seed=3)


def hops(network: Network) -> np.ndarray:
    """Links between every two nodes, [N, N]."""
    far = np.where(np.eye(network.num_nodes, dtype=bool), 0, 99)
    far[np.asarray(network.senders), np.asarray(network.receivers)] = 1
    for k in range(network.num_nodes):
        far = np.minimum(far, far[:, k, None] + far[None, k, :])
    return far


@pytest.mark.parametrize("scenario", [None, come_and_go], ids=["always", "come_and_go"])
@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
def test_mixing_keeps_the_mean(order: str, scenario: Callable[[], Scenario] | None) -> None:
    """D-SGD without gradients: who is away keeps its model, and the others exchange theirs."""
    with jax.enable_x64(True):
        problem, network = six_nodes.problem(), six_nodes.network()
        process = dlsim.learn(
            problem, algorithms.dsgd(problem, optax.sgd(0.0), order=order), network, scenario and scenario()
        )
        first = jax.random.normal(jax.random.key(2), (NUM_NODES, DIMENSION), float)
        state = process.init(jax.random.key(0))
        state = state._replace(algorithm=state.algorithm._replace(params=first))
        x = np.stack([s.algorithm.params for s in world.roll(process, NUM_ROUNDS, state=state).states])
    assert x.dtype == np.float64
    np.testing.assert_allclose(x.mean(axis=1), np.broadcast_to(x[0].mean(axis=0), x[:, 0].shape), atol=1e-13)
    assert np.ptp(x[-1], axis=0).max() < 0.8 * np.ptp(x[0], axis=0).max()


TOPOLOGIES = {
    "ring": lambda: networks.ring(12),
    "torus": lambda: networks.torus(16),
    "star": lambda: networks.star(9),
    "path": lambda: networks.path(8),
    "hypercube": lambda: networks.hypercube(8),
    "exponential": lambda: networks.exponential(12),
    "caveman": lambda: networks.caveman(12, 4),
    "uneven": six_nodes.network,
    "uneven-lazy": lambda: six_nodes.network("lazy_metropolis_hastings"),
    "erdos_renyi": lambda: networks.erdos_renyi(14, 0.3, seed=2),
}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_mixing_contracts_at_the_second_eigenvalue(name: str) -> None:
    """The squared distance from the mean shrinks by rho^2 a mix, and in the long run by no more."""
    with jax.enable_x64(True):
        network = TOPOLOGIES[name]()
        rho = networks.second_eigenvalue(network)
        x = jax.random.normal(jax.random.key(4), (network.num_nodes, 3), float)
        mix = jax.jit(lambda x: network.mix(jax.random.key(0), x)[0])
        apart = []
        for _ in range(2 * NUM_ROUNDS):
            apart.append(float(jnp.sum((x - x.mean(axis=0)) ** 2)))
            x = mix(x)
    ratios = np.divide(apart[1:], apart[:-1])
    # Doubly stochastic and normal (symmetric, or a sum of shifts): no single mix is worse either.
    assert ratios.max() <= rho**2 * (1 + 1e-6)
    pace = (apart[-1] / apart[NUM_ROUNDS]) ** (1 / (2 * NUM_ROUNDS - 1 - NUM_ROUNDS))
    assert pace == pytest.approx(rho**2, rel=0.02)
