"""Every algorithm of rounds runs where messages take time, whatever else is wrong with the network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world
from contract.table import CASES, Case

import dlsim
from dlsim import algorithms, networks, problems
from dlsim.networks.flight.delays import Delays

LATE: dict[str, Delays] = {
    "fixed": networks.fixed_delay(2),
    "random": networks.random_delay([0.4, 0.3, 0.2, 0.1]),
}
EACH = {case.name: case for case in reversed(CASES) if case.communicates}
PROMPT = {name for name, case in EACH.items() if "prompt" in case.make(world.problem(), 0.1).requires}
ONE_OF_EACH = tuple(case for name, case in EACH.items() if name not in PROMPT)


def process_of(case: Case, network: networks.Network, scenario: Any = None, rate: Any = world.RATE) -> Any:
    problem = world.problem()
    return dlsim.learn(problem, case.make(problem, rate), network, scenario)


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.id)
def test_state_in_is_state_out(case: Case) -> None:
    difficult = networks.chain(networks.churn(0.2, 0.5), networks.link_failure(0.1))
    for late, scenario in (("fixed", None), ("random", difficult)):
        process = process_of(case, case.network().with_channel(networks.loss(0.1)).with_delays(LATE[late]), scenario)
        before = jax.eval_shape(process.init, jax.random.key(0))
        after, _ = jax.eval_shape(process.step, jax.random.key(0), before)
        assert jax.tree.structure(before) == jax.tree.structure(after)
        assert [(x.shape, x.dtype) for x in jax.tree.leaves(before)] == [
            (x.shape, x.dtype) for x in jax.tree.leaves(after)
        ]
        kept = [x for x in jax.tree.leaves(before.network.in_flight) if x.ndim > 1]
        if "server" not in case.make(world.problem(), 0.1).requires:
            assert kept
            assert all(x.shape[0] in (world.NUM_NODES, world_edges(case)) for x in kept)


@pytest.mark.parametrize("name", sorted(PROMPT))
def test_what_is_void_after_its_round_may_not_be_late(name: str) -> None:
    late = EACH[name].network().with_delays(LATE["fixed"])
    with pytest.raises(ValueError, match=r"learn: network must be one without delays for this algorithm and channel"):
        process_of(EACH[name], late)


def test_sums_under_masks_may_not_be_late() -> None:
    hidden = networks.secure_aggregation(clip=1.0, weights=None)
    network = networks.complete(world.NUM_NODES).with_channel(hidden).with_delays(LATE["fixed"])
    with pytest.raises(ValueError, match=r"learn: network must be one without delays for this algorithm and channel"):
        process_of(EACH["fedavg"], network)


def world_edges(case: Case) -> int:
    return case.network().num_edges


@pytest.mark.parametrize("name", ["choco_sgd", "fedavg", "k_gt"])
def test_it_learns_all_the_same(name: str) -> None:
    """Late by up to two rounds, the mean model still comes closer to the optimum."""
    case = next(case for case in CASES if case.name == name)
    process = process_of(case, case.network().with_delays(networks.fixed_delay(1)), rate=0.05)
    optimum = np.asarray(world.problem().optimum)
    states = [jax.jit(world.final(process, steps))(jax.random.key(1)) for steps in (0, 80)]
    gaps = [np.linalg.norm(np.asarray(process.params(state)).mean(0) - optimum) for state in states]
    assert gaps[1] < 0.5 * gaps[0]


def exact(make: Any, network: networks.Network, steps: int) -> float:
    """Distance of the nodes from the optimum after that many rounds without gradient noise."""
    problem = world.problem(0.0)
    process = dlsim.learn(problem, make(problem), network)
    state = jax.jit(world.final(process, steps))(jax.random.key(0))
    return float(np.abs(np.asarray(process.params(state)) - np.asarray(problem.optimum)).max())


def test_tracking_stays_exact_under_random_delays_as_every_increment_counts_once() -> None:
    late = world.uneven().with_delays(LATE["random"])

    def tracking(problem: Any) -> Any:
        sgd = optax.sgd(0.05)
        return algorithms.gradient_tracking(problem, sgd, order="combine_then_adapt", use_full_gradient=True)

    assert exact(tracking, late, 1200) < 1e-3
    assert exact(lambda p: algorithms.dsgd(p, optax.sgd(0.05)), late, 1200) > 1e-2


def test_push_sum_finds_the_mean_though_messages_overtake_each_other() -> None:
    values = np.random.default_rng(0).normal(size=(world.NUM_NODES, 2)).astype(np.float32)
    late = world.directed().with_delays(LATE["random"])
    process = dlsim.average(values, late, algorithms.push_sum())
    state = jax.jit(world.final(process, 150))(jax.random.key(2))
    np.testing.assert_allclose(process.params(state), np.broadcast_to(values.mean(0), values.shape), atol=1e-4)


def test_a_run_that_is_resumed_finds_what_was_under_way(tmp_path: Any) -> None:
    case = CASES[0]
    process = process_of(case, world.uneven().with_delays(LATE["random"]), networks.churn(0.2, 0.5))
    whole = dlsim.simulate(process, seed=0, num_steps=12)
    dlsim.simulate(process, seed=0, num_steps=7, checkpoint_dir=tmp_path)
    again = dlsim.simulate(process, seed=0, num_steps=12, checkpoint_dir=tmp_path, resume=True)
    np.testing.assert_array_equal(whole.params, again.params)
    np.testing.assert_array_equal(whole.results.staleness.values[-1], again.results.staleness.values[-1])
    assert whole.results.staleness.values[-1].sum() > 0


def test_the_delay_is_data() -> None:
    def run(rounds: Any) -> Any:
        late = networks.fixed_delay(rounds, max_rounds=3)
        process = process_of(CASES[0], world.uneven().with_delays(late))
        return process.params(world.final(process, 6)(jax.random.key(0)))

    swept = jax.jit(jax.vmap(run))(jnp.arange(4))
    assert len({np.asarray(row).tobytes() for row in swept}) == 4
    process = process_of(CASES[0], world.uneven().with_delays(networks.fixed_delay(2)))
    alone = process.params(jax.jit(world.final(process, 6))(jax.random.key(0)))
    np.testing.assert_allclose(swept[2], alone, atol=1e-6)


def test_relabelled_nodes_get_relabelled_results() -> None:
    network = world.uneven()
    order = np.asarray(world.ORDER)
    per_link = np.random.default_rng(0).integers(0, 3, network.num_edges)
    for late in (networks.fixed_delay(per_link, per="link"), networks.fixed_delay(np.arange(8) % 3, per="node")):
        x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 2)), jnp.float32)
        first, second, y = network.with_delays(late), network.with_delays(late).relabel(order), x[order]

        @jax.jit
        def three(network: Any, x: Any) -> Any:
            for _ in range(3):
                x, network = network.mix(jax.random.key(0), x)
            return x

        np.testing.assert_allclose(three(first, x)[order], three(second, y), atol=1e-6)


def test_topologies_that_change_keep_the_links_a_message_was_sent_over() -> None:
    delay, cycle = 2, (world.uneven(), world.tree())
    process = dlsim.average(
        np.eye(8, 2, dtype=np.float32),
        cycle[0].with_delays(networks.fixed_delay(delay)),
        scenario=networks.time_varying(cycle),
    )
    matrices = [networks.mixing_matrix(network).toarray() for network in cycle]
    said = [np.eye(8, 2)]
    for t in range(8):
        x = said[-1].copy()
        if t >= delay:
            then = matrices[(t - delay) % 2]
            heard = then - np.diag(np.diag(then))
            x = x * np.diag(then)[:, None] + heard @ said[t - delay]
        said.append(x)
    state = jax.jit(world.final(process, 8))(jax.random.key(0))
    np.testing.assert_allclose(process.params(state), said[-1], atol=1e-6)


def test_push_sum_over_topologies_that_change_loses_no_mass() -> None:
    cycle = networks.one_peer_exponential(8)
    process = dlsim.average(
        np.random.default_rng(0).normal(size=(8, 2)),
        cycle[0].with_delays(LATE["random"]),
        algorithms.push_sum(),
        networks.time_varying(cycle),
    )
    state = jax.jit(world.final(process, 60))(jax.random.key(2))
    held = process.params(state)
    np.testing.assert_allclose(
        held, np.broadcast_to(np.random.default_rng(0).normal(size=(8, 2)).mean(0), (8, 2)), atol=1e-4
    )


def test_what_cannot_be_is_refused_in_one_line() -> None:
    problem = problems.quadratic(8, 3)
    sgd = optax.sgd(0.1)
    late = networks.ring(8).with_delays(networks.random_delay([0.5, 0.5]))
    cycle = networks.time_varying(networks.one_peer_exponential(8))

    def started(network: Any, algorithm: Any, scenario: Any = None) -> Any:
        return jax.eval_shape(dlsim.learn(problem, algorithm, network, scenario).init, jax.random.key(0))

    fedavg = algorithms.fedavg(problem, sgd)
    per_link = networks.fixed_delay(np.ones(16), per="link")
    linked = networks.ring(8).with_delays(per_link)
    large, two = networks.network.complete_network(8), np.ones((8, 2))
    one_way = world.directed().with_delays(networks.fixed_delay(1))
    fedbuff = algorithms.fedbuff(problem, sgd, buffer_size=2)
    refused = (
        (
            lambda: networks.fixed_delay(5, max_rounds=3),
            "rounds must be at most max_rounds=3, the length of the buffer, got 5",
        ),
        (lambda: networks.fixed_delay(-1), r"rounds must be a number in \[0, inf\), got -1"),
        (lambda: networks.fixed_delay(0.5), "rounds must be whole numbers of rounds"),
        (lambda: networks.fixed_delay([1, 2]), "fixed_delay: rounds must be a number"),
        (lambda: networks.fixed_delay([1, -2], per="link"), r"rounds\[1\] must be a number in \[0, inf\), got -2"),
        (lambda: networks.fixed_delay(1, per="edge"), "per must be one of"),
        (lambda: networks.fixed_delay(9999), "max_rounds must be an integer"),
        (lambda: networks.trace_delay([]), "rounds must be whole numbers of rounds, one or more"),
        (lambda: networks.trace_delay([[1, 2], [1]], per="link"), "trace_delay: rounds must be"),
        (lambda: networks.trace_delay([[1, 2]]), r"rounds must be of shape \[None\]|rounds must be of shape"),
        (lambda: networks.random_delay([0.5, 0.2]), "probabilities must be of sum 1, got 0.7"),
        (lambda: networks.random_delay([1.5, -0.5]), r"probabilities\[1\] must be a number in \[0, inf\)"),
        (lambda: networks.geometric_delay(-1.0, 3), "mean_rounds must be a number"),
        (lambda: networks.link_delay(0.0, 3), "round_seconds must be a number in"),
        (lambda: networks.ring(8).with_delays(2), "delays must be"),
        (
            lambda: networks.ring(8).with_delays(networks.fixed_delay(np.ones(8), per="link")),
            "of the network's 16 edges",
        ),
        (lambda: networks.ring(8).with_delays(networks.link_delay(1.0, 3)), "network must be one with links"),
        (
            lambda: large.with_delays(networks.random_delay([0.5, 0.5])),
            "lists its edges",
        ),
        (
            lambda: jax.jit(lambda d: networks.fixed_delay(d).values)(1),
            "max_rounds must be given where rounds are traced",
        ),
        (
            lambda: one_way.mix(jax.random.key(0), two),
            "'all' where",
        ),
        (lambda: late.mix(jax.random.key(0), two, hear="none"), "hear must be one of"),
        (lambda: started(late, algorithms.dsgd(problem, sgd), cycle), "delays must be the same for all"),
        (
            lambda: started(linked, algorithms.dsgd(problem, sgd), cycle),
            "delays must be of no links",
        ),
        (lambda: started(linked, fedavg), "where messages do not follow links"),
        (
            lambda: started(late, fedavg, networks.participation(3)),
            "must be all nodes where reports take rounds, got 3",
        ),
        (lambda: started(late, algorithms.ad_psgd(problem, sgd)), "delays must be in seconds for a method by clocks"),
        (lambda: started(late, fedbuff), "network must be one without delays for a method with a schedule"),
    )
    for call, line in refused:
        with pytest.raises(ValueError, match=line):
            call()
