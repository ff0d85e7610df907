"""Network Lasso: worked numbers, an oracle, the optimum as cvxpy finds it, its limits and what it refuses."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import six_nodes
from oracles.network_lasso import network_lasso as oracle
from six_nodes import LINKS, NUM_NODES, ROLL_CALL

import dlsim
from dlsim import algorithms, networks, problems, trees
from dlsim.core import Algorithm, Problem
from dlsim.networks.network import Network

COUPLING, PENALTY = 0.3, 0.7


def weights() -> np.ndarray:
    """Another weight a link, and entries where there is no link."""
    draws = np.random.default_rng(5).uniform(0.2, 2.0, (NUM_NODES, NUM_NODES))
    return (draws + draws.T) * (1 - np.eye(NUM_NODES))


def by_link(matrix: np.ndarray) -> dict[tuple[int, int], float]:
    return {(i, j): float(matrix[i, j]) for a, b in LINKS for i, j in ((a, b), (b, a))}


def walk(algorithm: Algorithm, network: Network, params: Any, num_rounds: int) -> list[Any]:
    key = jax.random.key(0)
    step = jax.jit(lambda state: algorithm.step(key, state, network)[::2])
    states = [(algorithm.init(key, params, network), None)]
    for _ in range(num_rounds):
        states.append(step(states[-1][0]))
    return states


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def _last(algorithm: Algorithm, network: Any, params: Any, num_rounds: int) -> Any:
    key = jax.random.key(0)
    state = algorithm.init(key, params, network())
    return jax.lax.fori_loop(0, num_rounds, lambda _, s: algorithm.step(key, s, network())[0], state)


def test_two_nodes_by_hand() -> None:
    """f_i = (x - a_i)^2 / 2, a = (0, 4), lambda = rho = 1; in the limit (lambda, 4 - lambda), from lambda = 2 on both 2."""
    problem, network = problems.consensus(np.array([[0.0], [4.0]])), networks.path(2)
    found = walk(algorithms.network_lasso(problem, 1.0), network, jnp.zeros((2, 1)), 60)
    np.testing.assert_array_equal(network.receivers, [0, 1])
    rounds = ([0, 2], [1, 1], [-1, 1]), ([1, 2], [1, 2], [-1, 1]), ([1, 2.5], [1, 2.5], [-1, 1])
    for (state, info), (x, z, u) in zip(found[1:4], rounds, strict=True):
        for measured, expected in ((state.params, x), (state.copies, z), (state.duals, u)):
            np.testing.assert_allclose(measured[:, 0], expected, atol=1e-6)
        primal = np.sqrt(np.mean(np.subtract(x, z) ** 2.0))
        np.testing.assert_allclose(info["primal_residual"], primal, atol=1e-6)
    np.testing.assert_allclose(
        [info["dual_residual"] for _, info in found[1:4]], [1, np.sqrt(0.5), np.sqrt(1 / 8)], 1e-6
    )
    np.testing.assert_allclose(found[-1][0].params[:, 0], [1, 3], atol=1e-5)
    together = walk(algorithms.network_lasso(problem, 2.5), network, jnp.zeros((2, 1)), 60)[-1][0]
    np.testing.assert_allclose(together.params[:, 0], [2, 2], atol=1e-5)


@pytest.mark.parametrize("norm", ["euclidean", "squared"])
def test_it_agrees_with_the_oracle_whoever_is_away(norm: str) -> None:
    problem = six_nodes.problem()
    curvature, constant = six_nodes.affine(problem)

    def proximal(i: int, v: np.ndarray, r: float) -> np.ndarray:
        return np.linalg.solve(curvature[i] + r * np.eye(len(v)), r * v - constant[i])

    algorithm = algorithms.network_lasso(problem, COUPLING, edge_weights=weights(), norm=norm, penalty=PENALTY)
    start, links = six_nodes.start(), by_link(weights())
    expected = oracle(proximal, start, links, COUPLING, PENALTY, ROLL_CALL, norm == "squared")
    six_nodes.agree(six_nodes.models(six_nodes.play(algorithm, six_nodes.network())), expected)


@functools.cache
def solved(coupling: float) -> Any:
    """A long run on six quadratics with `weights()`."""
    problem = six_nodes.problem()
    algorithm = algorithms.network_lasso(problem, coupling, edge_weights=weights(), penalty=PENALTY)
    return _last(algorithm, six_nodes.network, jnp.asarray(six_nodes.start(), float), 3000)


@pytest.mark.needs("cvxpy")
@pytest.mark.parametrize("coupling", [0.02, 0.1])
def test_the_optimum_is_that_of_cvxpy(coupling: float) -> None:
    """Some links fuse and some do not; models to 1e-3, and no better objective."""
    import cvxpy

    curvature, constant = six_nodes.affine(six_nodes.problem())
    x = cvxpy.Variable((NUM_NODES, six_nodes.DIMENSION))
    own = [
        cvxpy.quad_form(x[i], (h + h.T) / 2) / 2 + q @ x[i]
        for i, (h, q) in enumerate(zip(curvature, constant, strict=True))
    ]
    ties = [weights()[i, j] * cvxpy.norm(x[i] - x[j]) for i, j in LINKS]
    program = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(own) + coupling * cvxpy.sum(ties)))
    best = program.solve(solver="CLARABEL")
    ours = np.asarray(solved(coupling).params, np.float64)
    np.testing.assert_allclose(ours, x.value, atol=1e-3)
    x.value = ours
    assert program.objective.value <= best + 1e-4 * abs(best)
    apart = [np.linalg.norm(ours[i] - ours[j]) for i, j in LINKS]
    assert max(apart) > 0.05, "nothing is apart: choose a smaller coupling"


@pytest.mark.parametrize("coupling", [0.02, 0.1])
def test_what_holds_at_the_optimum(coupling: float) -> None:
    """u_ij + u_ji = 0; rho |u_ij| <= lambda a_ij, with equality on links that are not fused; z_ij = x_i."""
    state, network = solved(coupling), six_nodes.network()
    back = networks.reverse_edges(network)
    np.testing.assert_allclose(state.duals + state.duals[back], 0, atol=1e-6)
    force = PENALTY * np.linalg.norm(state.duals, axis=1)
    limit = coupling * weights()[np.asarray(network.receivers), np.asarray(network.senders)]
    assert (force <= limit * (1 + 1e-4)).all()
    apart = np.linalg.norm(state.params[network.receivers] - state.params[network.senders], axis=1)
    np.testing.assert_allclose(force[apart > 0.01], limit[apart > 0.01], rtol=1e-3)
    np.testing.assert_allclose(state.copies, state.params[network.receivers], atol=1e-5)
    assert (force[apart < 1e-3] < limit[apart < 1e-3]).all()


def test_without_a_tie_nodes_learn_alone_and_with_a_strong_one_together() -> None:
    problem, start = six_nodes.problem(), jnp.asarray(six_nodes.start(), float)
    curvature, constant = six_nodes.affine(problem)
    alone = np.stack([np.linalg.solve(h, -q) for h, q in zip(curvature, constant, strict=True)])
    state = _last(algorithms.network_lasso(problem, 0.0), six_nodes.network, start, 200)
    np.testing.assert_allclose(state.params, alone, atol=1e-4)
    np.testing.assert_array_equal(state.duals, 0)
    state = _last(algorithms.network_lasso(problem, 50.0), six_nodes.network, start, 600)
    np.testing.assert_allclose(state.params, np.tile(problem.optimum, (NUM_NODES, 1)), atol=1e-3)


def test_twice_the_weights_are_twice_the_coupling_and_the_penalty_does_not_matter() -> None:
    problem, start = six_nodes.problem(), jnp.asarray(six_nodes.start(), float)
    doubled = algorithms.network_lasso(problem, 0.05, edge_weights=2 * weights(), penalty=PENALTY)
    np.testing.assert_allclose(_last(doubled, six_nodes.network, start, 3000).params, solved(0.1).params, atol=1e-5)
    other = algorithms.network_lasso(problem, 0.1, edge_weights=weights(), penalty=2.0)
    np.testing.assert_allclose(_last(other, six_nodes.network, -start, 3000).params, solved(0.1).params, atol=2e-3)


def test_a_squared_tie_never_fuses() -> None:
    problem, start = six_nodes.problem(), jnp.asarray(six_nodes.start(), float)
    state = _last(algorithms.network_lasso(problem, 5.0, norm="squared"), six_nodes.network, start, 2000)
    apart = np.linalg.norm(state.params[np.array(LINKS)[:, 0]] - state.params[np.array(LINKS)[:, 1]], axis=1)
    assert apart.min() > 1e-3
    curvature, constant = six_nodes.affine(problem)
    laplacian = np.zeros((NUM_NODES, NUM_NODES))
    for i, j in LINKS:
        laplacian[[i, j], [i, j]] += 5.0
        laplacian[[i, j], [j, i]] -= 5.0
    size = six_nodes.DIMENSION
    whole = np.kron(laplacian, np.eye(size))
    for i, h in enumerate(curvature):
        whole[i * size : (i + 1) * size, i * size : (i + 1) * size] += h
    np.testing.assert_allclose(state.params, np.linalg.solve(whole, -constant.ravel()).reshape(-1, size), atol=1e-3)


def test_a_lost_message_moves_no_fixed_point() -> None:
    problem = six_nodes.problem()
    algorithm = algorithms.network_lasso(problem, 0.1, edge_weights=weights(), penalty=PENALTY)
    network = six_nodes.network().with_channel(networks.loss(0.3))
    run = dlsim.simulate(
        dlsim.learn(problem, algorithm, network), seed=0, num_steps=4000, record=dlsim.Record(every=4000)
    )
    np.testing.assert_allclose(run.params[0], solved(0.1).params, atol=2e-3)


def test_components_have_nothing_to_do_with_each_other_and_a_node_may_be_alone() -> None:
    problem = six_nodes.problem()
    network = networks.connect(networks.graph(NUM_NODES, [0, 1, 3], [1, 2, 4]))  # 5 has no link
    algorithm = algorithms.network_lasso(problem, 50.0)
    process = dlsim.learn(problem, algorithm, network)
    run = dlsim.simulate(process, seed=0, num_steps=600, record=dlsim.Record(every=600))
    curvature, constant = six_nodes.affine(problem)
    for members in ([0, 1, 2], [3, 4], [5]):
        best = np.linalg.solve(curvature[members].sum(0), -constant[members].sum(0))
        np.testing.assert_allclose(np.asarray(run.params)[0][members], np.tile(best, (len(members), 1)), atol=1e-3)


def test_residuals_end_a_run() -> None:
    problem = six_nodes.problem()
    algorithm = algorithms.network_lasso(problem, 0.1, penalty=PENALTY)
    process = dlsim.learn(problem, algorithm, six_nodes.network())

    def record(state: Any, info: Any) -> Any:
        return {"residual": jnp.maximum(info["primal_residual"], info["dual_residual"])}

    stop = dlsim.stop_at("residual", at_most=1e-4)
    run = dlsim.simulate(process, seed=0, num_steps=2000, record=dlsim.Record(every=10, fn=record), stop=stop)
    assert run.results.residual.values[-1] <= 1e-4 < run.results.residual.values[-2]
    assert run.step < 2000


def test_a_model_in_several_leaves_is_tied_as_a_whole() -> None:
    """||x_i - x_j|| is over all leaves together: a model in two leaves is the model in one."""
    one = six_nodes.problem()

    def split(x: Any) -> Any:
        return {"a": x[..., :1], "b": x[..., 1:]}

    def joined(tree: Any) -> Any:
        return jnp.concatenate([tree["a"], tree["b"]], axis=-1)

    def gradient(key: Any, params: Any, ids: Any) -> Any:
        found, losses = one.full_gradient(key, joined(params), ids)
        return split(found), losses

    two: Problem = one._replace(
        init=lambda key: split(one.init(key)),
        gradient=gradient,
        full_gradient=gradient,
        proximal=lambda params, rho, ids: split(one.proximal(joined(params), rho, ids)),
    )
    start = jnp.asarray(six_nodes.start(), float)
    states = [
        _last(algorithms.network_lasso(p, COUPLING), six_nodes.network, x, 7)
        for p, x in ((one, start), (two, split(start)))
    ]
    np.testing.assert_allclose(joined(states[1].params), states[0].params, atol=1e-6)
    assert trees.num_entries(states[1].copies) == six_nodes.DIMENSION


def refused(**options: Any) -> None:
    algorithms.network_lasso(six_nodes.problem(), **{"coupling": 1.0, **options})


def test_bad_input_is_one_clear_line() -> None:
    good = weights()
    torn, loop = good.copy(), good.copy()
    torn[0, 1] += 1
    loop[2, 2] = 1
    for options, line in (
        ({"coupling": -1.0}, r"coupling must be a number in \[0, inf\), got -1"),
        ({"penalty": 0.0}, r"penalty must be a number in \(0, inf\), got 0"),
        ({"norm": "euclid"}, r"norm must be one of .*, got 'euclid'. Did you mean 'euclidean'"),
        ({"edge_weights": torn}, r"edge_weights must be symmetric, got .* at \[0, 1\] and .* at \[1, 0\]"),
        ({"edge_weights": -good}, r"edge_weights\[0, 1\] must be a number in \[0, inf\), got -"),
        ({"edge_weights": loop}, r"edge_weights must be 0 on the diagonal, got 1 at \[2, 2\]"),
        ({"edge_weights": good[:3]}, r"edge_weights must be of shape \[6, 6\], got \[3, 6\]"),
    ):
        with pytest.raises(ValueError, match=f"^network_lasso: {line}"):
            refused(**options)
    large = problems.quadratic(3000, 2)
    with pytest.raises(ValueError, match="^network_lasso: network must be one that lists its edges"):
        dlsim.learn(large, algorithms.network_lasso(large, 1.0), networks.complete(3000)).init(jax.random.key(0))
