"""Disasters: who is hit, what is lost with them, what is left, and what relays pass on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dlsim
from dlsim import networks
from dlsim.running import status

KEY = jax.random.key(4)
PATH = np.array([[0.0], [3.0], [6.0]], np.float32)


def averaged(scenario: dlsim.Scenario | None, values: np.ndarray, network: networks.Network, num_steps: int):
    record = dlsim.Record(every=1, fn=lambda state, info: {"x": state.algorithm.params, "status": info["status"]})
    process = dlsim.average(values, network, None, scenario)
    return dlsim.simulate(process, seed=0, num_steps=num_steps, record=record)


def line(weights: str = "uniform_neighbor") -> networks.Network:
    return networks.path(3, weights=weights)


def values_of(run: dlsim.Run, node: slice | int = slice(None)) -> np.ndarray:
    return run.results.x.values[..., node, 0].squeeze()


# Who is hit.


def test_victims_are_whom_they_should_be() -> None:
    hub = networks.star(6)
    np.testing.assert_array_equal(np.flatnonzero(networks.victims(hub, 0.4, "degree")), [0, 1])  # ties: the smaller id
    middle = networks.victims(networks.path(7), 1 / 7, "betweenness")
    np.testing.assert_array_equal(np.flatnonzero(middle), [3])
    base = networks.random_geometric(20, seed=1)
    place = np.array([0.2, 0.8])
    hit = networks.victims(base, 0.25, "place", centre=place)
    apart = np.linalg.norm(np.asarray(base.positions) - place, axis=1)
    assert hit.sum() == 5 and apart[hit].max() < apart[~hit].min()
    small, large = (networks.victims(base, f, seed=3) for f in (0.2, 0.5))
    assert small.sum() == 4 and large.sum() == 10 and (large | ~small).all()
    assert (networks.victims(base, 0.5, seed=4) != large).any()
    assert networks.victims(networks.ring(100), 0.29).sum() == 29
    with pytest.warns(UserWarning, match="victims: a fraction of 0.1 of 6 nodes is nobody"):
        assert not networks.victims(hub, 0.1).any()


@pytest.mark.parametrize("by", ["random", "degree", "betweenness", "place"])
def test_victims_belong_to_node_ids(by: str) -> None:
    base, order = networks.random_geometric(12, seed=2, radius=0.5), np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(
        networks.victims(base, 0.4, by, seed=1), networks.victims(base.relabel(order), 0.4, by, seed=1)
    )


def test_components_by_hand_and_against_networkx() -> None:
    import networkx

    parts = networks.components(networks.path(7), np.array([1, 1, 0, 1, 1, 1, 0], bool))
    np.testing.assert_array_equal(parts, [1, 1, -1, 0, 0, 0, -1])
    base = networks.barabasi_albert(50, 2, seed=3)
    there = ~networks.victims(base, 0.3, "degree")
    found = networks.components(base, there)
    graph = networks.to_networkx(base).to_undirected().subgraph(np.flatnonzero(there).tolist())
    wanted = sorted((sorted(part) for part in networkx.connected_components(graph)), key=lambda p: (-len(p), p[0]))
    assert [np.flatnonzero(found == k).tolist() for k in range(len(wanted))] == wanted
    assert (found[~there] == -1).all() and found.max() == len(wanted) - 1
    assert (networks.components(networks.complete(5000)) == 0).all()
    cut = networks.split([0, 0, 1, 1], 0)
    _, now = cut.step(KEY, cut.init(KEY, networks.path(4)), networks.path(4))
    np.testing.assert_array_equal(networks.components(now), [0, 0, 1, 1])


# What a disaster does: the path 0 - 1 - 2 by hand.


def test_the_path_by_hand() -> None:
    """(0, 3, 6) becomes (1.5, 3, 4.5) and then (2.25, 3, 3.75); without node 1 nothing moves."""
    hit = np.array([False, True, False])
    # Weights of the links that work: alone, a node keeps what it has.
    anew = networks.reweigh(line())
    gone = averaged(networks.chain(networks.disaster(hit, 1), anew), PATH, line(), 3)
    np.testing.assert_allclose(values_of(gone), [[0, 3, 6], [1.5, 3, 4.5], [1.5, 3, 4.5], [1.5, 3, 4.5]])
    healed = averaged(networks.chain(networks.disaster(hit, 0, 2), anew), PATH, line(), 3)
    np.testing.assert_allclose(values_of(healed), [[0, 3, 6], [0, 3, 6], [0, 3, 6], [1.5, 3, 4.5]])
    kept = averaged(networks.disaster(hit, 1, loses="data"), PATH, line(), 1)
    np.testing.assert_allclose(values_of(kept)[-1], [1.5, 3, 4.5])
    # A relay without a size hears and is not heard.
    deaf = averaged(networks.reweigh(line(), sizes=np.array([2, 0, 2])), PATH, line(), 2)
    np.testing.assert_allclose(values_of(deaf), [[0, 3, 6], [0, 3, 6], [0, 3, 6]])
    lone = averaged(networks.reweigh(line(), sizes=np.array([0, 0, 0])), PATH, line(), 1)
    np.testing.assert_allclose(values_of(lone)[-1], [0, 3, 6])


def test_the_limit_is_weighed_by_degrees() -> None:
    run = averaged(networks.reweigh(line()), PATH, line(), 60)
    np.testing.assert_allclose(values_of(run)[-1], 3.0, rtol=1e-5)  # (2 * 0 + 3 * 3 + 2 * 6) / 7
    base = networks.barabasi_albert(20, 2, seed=1, weights="uniform_neighbor")
    hit = np.arange(20) >= 18  # late nodes carry nobody
    values = np.random.default_rng(0).normal(size=(20, 1)).astype(np.float32)
    scenario = networks.chain(networks.disaster(hit, 0), networks.reweigh(base))
    last = values_of(averaged(scenario, values, base, 200))[-1]
    survivors = networks.to_networkx(base).to_undirected().subgraph(range(18))
    shares = np.array([1 + survivors.degree(node) for node in range(18)])
    np.testing.assert_allclose(last[:18], (shares * values[:18, 0]).sum() / shares.sum(), rtol=1e-4)
    np.testing.assert_array_equal(last[18:], values[18:, 0])


@pytest.mark.parametrize("lowering", ["neighbors", "edges", "dense"])
@pytest.mark.parametrize("rule", ["uniform_neighbor", "metropolis_hastings"])
def test_weights_made_anew_are_those_of_the_graph_that_is_left(rule: str, lowering: str) -> None:
    full = networks.barabasi_albert(16, 2, seed=2, weights=rule, lowering=lowering)
    hit = networks.victims(full, 0.25, "degree")
    left = networks.to_networkx(full).to_undirected().subgraph(np.flatnonzero(~hit).tolist())
    size = int((~hit).sum())
    place = {node: k for k, node in enumerate(np.flatnonzero(~hit).tolist())}
    ends = np.array([(place[a], place[b]) for a, b in left.edges])
    small = networks.connect(networks.graph(size, ends[:, 0], ends[:, 1]), rule)
    scenario = networks.chain(networks.disaster(hit, 0), networks.reweigh(full, rule))
    _, now = scenario.step(KEY, scenario.init(KEY, full), full)
    x = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    mixed, after = now.mix(KEY, jnp.asarray(x))
    wanted, _ = small.mix(KEY, jnp.asarray(x[~hit]))
    np.testing.assert_allclose(np.asarray(mixed)[~hit], wanted, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(mixed)[hit], x[hit])
    np.testing.assert_allclose(np.asarray(now.self_weights)[~hit], np.asarray(small.self_weights), atol=1e-6)
    assert int(after.state.traffic.messages.low.sum()) == 2 * len(left.edges)


def test_parts_never_influence_each_other_and_heal() -> None:
    base, groups = networks.ring(6), np.array([0, 0, 0, 1, 1, 1])
    values = np.arange(6.0, dtype=np.float32)[:, None]
    other = np.where(groups[:, None] == 1, 100.0, values).astype(np.float32)
    runs = [values_of(averaged(networks.split(groups, 0, 30), x, base, 60)) for x in (values, other)]
    np.testing.assert_array_equal(runs[0][:31, :3], runs[1][:31, :3])
    np.testing.assert_allclose(runs[0][30], [1, 1, 1, 4, 4, 4], atol=0.02)
    np.testing.assert_allclose(runs[0][60], 2.5, atol=0.02)


# Relays: nodes without data.


def learnt(scenario: dlsim.Scenario | None, make=None, num_steps: int = 4, network: networks.Network | None = None):
    problem = dlsim.problems.quadratic(6, 3, heterogeneity=1.0, gradient_noise=0.1, seed=1)
    network = networks.ring(6) if network is None else network
    algorithm = (make or dlsim.algorithms.dsgd)(problem, optax.sgd(0.2, momentum=0.5))
    process = dlsim.learn(problem, algorithm, network, scenario)

    def record(state, info):
        out = {"x": process.params(state), "gradients": state.gradient_evaluations}
        return {**out, "status": info["status"]}

    return dlsim.simulate(process, seed=0, num_steps=num_steps, record=dlsim.Record(every=1, fn=record)).results


@pytest.mark.parametrize("name", ["dsgd", "choco_sgd", "stochastic_gradient_push", "isolated_training"])
def test_a_relay_is_a_node_whose_gradient_is_zero(name: str) -> None:
    """Its parameters change by mixing alone, and it costs no gradient."""

    def without(problem, optimizer):
        holds = jnp.array([1, 0, 1, 1, 0, 1.0])[:, None]
        inner = problem.gradient

        def gradient(key, params, node_ids):
            gradients, losses = inner(key, params, node_ids)
            return gradients * holds[node_ids], losses

        return getattr(dlsim.algorithms, name)(problem._replace(gradient=gradient), optax.sgd(0.2))

    def plain(problem, optimizer):
        return getattr(dlsim.algorithms, name)(problem, optax.sgd(0.2))

    relayed, silent = learnt(networks.relays([1, 4]), plain), learnt(None, without)
    np.testing.assert_allclose(relayed.x, silent.x, atol=1e-6)
    np.testing.assert_array_equal(relayed.gradients, silent.gradients * 4 / 6)


def test_relays_of_trees_and_of_diloco_do_not_train() -> None:
    from dlsim.algorithms import diloco, relay_sgd

    tree = learnt(networks.relays([0, 1, 2, 3, 4]), relay_sgd, 1, networks.path(6))
    np.testing.assert_array_equal(tree.x[1, :4], tree.x[0, :4])
    assert (tree.x[1, 4:] != tree.x[0, 4:]).any()
    inner = learnt(networks.relays(range(5)), lambda p, o: diloco(p, o, num_local_steps=2), 3)
    np.testing.assert_array_equal(inner.gradients, 2 * np.arange(4) * inner.gradients.values[1] / 2)
    assert float(inner.gradients[1]) == 2.0


def test_events_of_relays_do_nothing() -> None:
    problem = dlsim.problems.quadratic(6, 3, heterogeneity=1.0, seed=1)
    algorithm = dlsim.algorithms.ad_psgd(problem, optax.sgd(0.2))
    timing = dlsim.clocks.timing(
        gradient=dlsim.clocks.poisson(2.0), communication=dlsim.clocks.poisson(1.0), window=1.0
    )
    counts = []
    for scenario in (None, networks.relays([1, 4], 0, 3), networks.relays(range(6))):
        process = dlsim.learn(problem, algorithm, networks.ring(6), scenario, timing=timing)
        record = dlsim.Record(every=1, fn=lambda state, info: {"spent": info["num_gradients"], "x": state.nodes.params})
        counts.append(dlsim.simulate(process, seed=0, num_steps=6, record=record).results)
    everyone, some, nobody = counts
    assert (some.spent[1:4].values[:, [1, 4]] == 0).all()
    np.testing.assert_array_equal(some.spent[1:4].values[:, [0, 2, 3, 5]], everyone.spent[1:4].values[:, [0, 2, 3, 5]])
    np.testing.assert_array_equal(some.spent[4:], everyone.spent[4:])
    assert (nobody.spent == 0).all()
    np.testing.assert_array_equal(nobody.x[-1], nobody.x[0])
    swarm = dlsim.algorithms.swarm_sgd(problem, optax.sgd(0.2))  # trains as it meets
    with pytest.raises(ValueError, match="scenario must be one in which all train for this algorithm"):
        dlsim.learn(problem, swarm, networks.ring(6), networks.relays([1]), timing=timing)


def test_the_four_disasters_in_one_program() -> None:
    """What is lost, and whom it hits, is data: outages and relays of all nodes at times of their own."""
    hit, when = np.array([False, True, True, False, False, False]), 2
    never, ids = np.inf, range(6)
    tables = {
        "all": (when, never),
        "links": (when, 0),
        "data": (never, when),
    }

    traces = []

    @jax.jit
    def last(away, without):
        traces.append(away)
        problem = dlsim.problems.quadratic(6, 3, heterogeneity=1.0, gradient_noise=0.1, seed=1)
        scenario = networks.chain(networks.outages(ids, away), networks.relays(ids, without))
        process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.2)), networks.ring(6), scenario)
        state = process.init(KEY)
        return jax.lax.fori_loop(
            0, 4, lambda t, s: process.step(jax.random.fold_in(KEY, t), s)[0], state
        ).algorithm.params

    for loses, (away, without) in tables.items():
        problem = dlsim.problems.quadratic(6, 3, heterogeneity=1.0, gradient_noise=0.1, seed=1)
        scenario = networks.disaster(hit, when, loses=loses)
        process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(0.2)), networks.ring(6), scenario)
        state = process.init(KEY)
        for t in range(4):
            state, _ = process.step(jax.random.fold_in(KEY, t), state)
        rows = [jnp.where(hit, float(one), never) for one in (away, without)]
        np.testing.assert_allclose(state.algorithm.params, last(*rows), rtol=1e-5, atol=1e-5)
    assert len(traces) == 1


def test_rounds_without_anyone_are_remarked() -> None:
    run = averaged(networks.outages(range(3), 2, 3), PATH, line(), 4)
    assert run.status.ok and run.status.first(status.NOBODY_PRESENT)[0] == 2
    assert any("nobody was there" in row for row in run.status.report())
    traced = jax.jit(lambda hit: networks.disaster(hit, 0).step(KEY, jnp.zeros((), jnp.int32), line())[1].is_present)
    assert not np.asarray(traced(jnp.ones(3, bool))).any()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: networks.victims(networks.ring(4), 1.0), "fraction must be such that somebody is left, got 1: all 4"),
        (lambda: networks.victims(networks.ring(4), 1.5), "victims: fraction must be"),
        (lambda: networks.victims(networks.ring(4), 0.5, "size"), "victims: by must be one of random, degree"),
        (lambda: networks.victims(networks.ring(4), 0.5, "place"), "network must be one with positions"),
        (lambda: networks.victims(networks.ring(4), 0.5, centre=(0, 0)), "centre must be left out"),
        (
            lambda: networks.disaster(np.ones(4, bool), 1),
            "is_hit must be such that somebody is left to survive, got all 4",
        ),
        (lambda: networks.disaster(np.ones(4, bool), 1, loses="data"), "somebody is left to hold data"),
        (lambda: networks.disaster(np.array([1, 0]), 1), r"is_hit must be bool \[N\]"),
        (lambda: networks.disaster(np.array([True, False]), 5, 2), "heals_at must be no earlier than at_step, got 2"),
        (lambda: networks.disaster(np.array([True, False]), 5, loses="hope"), "loses must be one of links, data, all"),
        (
            lambda: averaged(networks.disaster(np.array([True, False]), 5), PATH, line(), 1),
            r"is_hit must be bool \[3\]",
        ),
        (
            lambda: averaged(networks.relays([3]), PATH, line(), 1),
            "relays: node_ids must be below the number of nodes, 3",
        ),
        (lambda: networks.relays([-1]), "relays: node_ids must be integers"),
        (lambda: networks.split([0.5, 1]), r"split: groups must be integers \[N\]"),
        (lambda: averaged(networks.split([0, 1]), PATH, line(), 1), r"split: groups must be integers \[3\]"),
        (lambda: networks.reweigh(line(), "uniform"), "reweigh: rule must be one of"),
        (lambda: networks.reweigh(line(), sizes=[1, 2]), "reweigh: sizes must"),
        (lambda: networks.reweigh(line(), "metropolis_hastings", sizes=[1, 2, 3]), "sizes must be None for"),
        (lambda: networks.reweigh(networks.complete(5000)), "one that lists its edges"),
        (lambda: networks.components(networks.ring(4), np.ones(3)), r"components: is_present must be bool \[4\]"),
        (
            lambda: learnt(networks.relays([1]), lambda p, o: dlsim.algorithms.gradient_tracking(p, optax.sgd(0.1))),
            "scenario must be one in which all train for this algorithm, got nodes without data",
        ),
        (
            lambda: learnt(networks.reweigh(networks.ring(6), "metropolis_hastings"), dlsim.algorithms.choco_sgd),
            "scenario must be one that keeps the topology",
        ),
        (
            lambda: learnt(None, network=networks.connect(networks.graph(6, [0, 3], [1, 4]))),
            "network must be connected for this algorithm",
        ),
    ],
)
def test_bad_disasters(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
