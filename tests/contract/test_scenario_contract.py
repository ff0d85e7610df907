"""The contract every scenario holds, tried on every row of the table."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world
from contract.parts import SCENARIOS, ScenarioCase

from dlsim import algorithms, keys, networks, trees
from dlsim.core import Scenario
from dlsim.learning.learn import learn
from dlsim.networks.network import Network
from dlsim.running import counters, status

every_scenario = pytest.mark.parametrize("case", SCENARIOS, ids=lambda case: case.id)
KEY = jax.random.key(5)
COMBINATORS = {"chain"}


def rounds(scenario: Scenario, network: Network, num: int = 5, part: str | None = None) -> list[dict[str, Any]]:
    """What each round's network looks like; `part` names the stream of a part of a chain."""

    def keyed(key: jax.Array) -> jax.Array:
        return key if part is None else keys.stream(key, part)

    state = scenario.init(keyed(KEY), network)
    seen = []
    for t in range(num):
        state, current = scenario.step(keyed(jax.random.fold_in(KEY, t)), state, network)
        seen.append(looks(current))
    return seen


def looks(network: Network) -> dict[str, Any]:
    """Who is there and who hears whom with what weight, by position; the same for every way of storing it."""
    size = network.num_nodes
    linked = jnp.ones(network.num_edges, bool) if network.is_linked is None else network.is_linked
    weights = (
        jnp.zeros((size, size)).at[network.receivers, network.senders].add(jnp.where(linked, network.edge_weights, 0))
    )
    chosen = jnp.ones(size, bool) if network.cohort is None else jnp.zeros(size, bool).at[network.cohort].set(True)
    there = jnp.ones(size, bool) if network.is_present is None else network.is_present
    data = jnp.ones(size, bool) if network.has_data is None else network.has_data
    return {"weights": weights, "own": network.self_weights, "there": there, "data": data, "chosen": chosen}


def test_every_scenario_has_a_row() -> None:
    makers = {
        name
        for name in networks.__all__
        if inspect.isfunction(getattr(networks, name))
        and inspect.signature(getattr(networks, name)).return_annotation == "Scenario"
    }
    assert {case.name for case in SCENARIOS} == makers | COMBINATORS


@every_scenario
def test_states_are_a_fixed_point(case: ScenarioCase) -> None:
    scenario, network = case.make(), case.network()
    before = scenario.init(KEY, network)
    after, _ = jax.eval_shape(scenario.step, KEY, before, network)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@every_scenario
def test_it_leaves_the_rest_of_the_network_alone(case: ScenarioCase) -> None:
    scenario = case.make()
    network = case.network().with_channel(world.halving())
    network = network if case.has_links else network.with_links(networks.links(world.NUM_NODES))
    before = jax.tree.map(np.array, network)
    _, current = scenario.step(KEY, scenario.init(KEY, network), network)
    world.same(jax.tree.map(np.array, network), before)
    assert current.channel is network.channel
    if case.speaks:
        assert counters.to_float(current.state.traffic.bits).sum() > 0
        current = current.with_state(current.state._replace(traffic=network.state.traffic))
    world.same((current.node_ids, current.state), (network.node_ids, network.state))
    if not case.has_links:
        world.same(current.links, network.links)
    if case.only_restricts:
        masks = ("is_present", "has_data", "is_linked", "cohort", "membership")
        restored = current.replace(**dict.fromkeys(masks), links=network.links)
        world.same(restored, network)


@every_scenario
def test_rows_or_columns_still_sum_to_one(case: ScenarioCase) -> None:
    """By mixing a constant: whatever is missing, a node that hears constants keeps the constant."""
    scenario, network = case.make(), case.network()
    state = scenario.init(KEY, network)
    for t in range(4):
        state, current = scenario.step(jax.random.fold_in(KEY, t), state, network)
        mixed, _ = current.mix(KEY, jnp.ones((world.NUM_NODES, 3)))
        np.testing.assert_allclose(mixed, 1.0, rtol=1e-6)


@every_scenario
def test_jit_equals_no_jit(case: ScenarioCase) -> None:
    scenario, network = case.make(), case.network()
    compiled = rounds(scenario._replace(step=jax.jit(scenario.step)), network, 3)
    with jax.disable_jit():
        plain = rounds(scenario, network, 3)
    world.close(compiled, plain)


@every_scenario
def test_draws_belong_to_node_ids(case: ScenarioCase) -> None:
    if not case.relabels:
        pytest.skip("holds topologies of its own")
    order = np.asarray(world.ORDER)
    plain = rounds(case.make(), case.network())
    moved = rounds(case.make(), case.network().relabel(order))
    for before, after in zip(plain, moved, strict=True):
        expected = {
            name: value[order][:, order] if name == "weights" else value[order] for name, value in before.items()
        }
        world.close(expected, after)


@every_scenario
def test_the_unit_changes_nothing(case: ScenarioCase) -> None:
    network = case.network()
    for place, parts in ((0, (case.make(), networks.no_scenario())), (1, (networks.no_scenario(), case.make()))):
        world.same(rounds(case.make(), network, part=f"part {place}"), rounds(networks.chain(*parts), network))


@every_scenario
def test_a_chain_takes_away_what_either_takes_away(case: ScenarioCase) -> None:
    network, away = case.network(), ~np.isin(np.arange(world.NUM_NODES), world.ABSENT)
    alone = rounds(case.make(), network, part="part 0")
    chained = rounds(networks.chain(case.make(), restricting()), network)
    for a, b in zip(alone, chained, strict=True):
        np.testing.assert_array_equal(np.asarray(a["there"]) & away, b["there"])
        np.testing.assert_array_equal(a["weights"], b["weights"])


def restricting() -> Scenario:
    """The nodes of world.ABSENT are away, whoever else is."""

    def step(key: jax.Array, state: tuple[()], network: Network) -> tuple[tuple[()], Network]:
        del key
        there = ~jnp.isin(network.node_ids, jnp.asarray(world.ABSENT))
        there = there if network.is_present is None else there & network.is_present
        return state, network.replace(is_present=there)

    return Scenario(init=lambda key, network: (), step=step)


@every_scenario
def test_chains_are_associative(case: ScenarioCase) -> None:
    """Of parts of which one draws, so that the keys of places do not matter where it draws nothing."""
    network = case.network()
    left = networks.chain(networks.chain(case.make(), restricting()), world_unit())
    right = networks.chain(case.make(), networks.chain(restricting(), world_unit()))
    nested = rounds(networks.chain(case.make(), restricting()), network, part="part 0")
    world.same(rounds(left, network), nested)
    plain = rounds(case.make(), network, part="part 0")
    for a, b in zip(rounds(right, network), plain, strict=True):
        away = ~np.isin(np.arange(world.NUM_NODES), world.ABSENT)
        np.testing.assert_array_equal(a["there"], np.asarray(b["there"]) & away)
        np.testing.assert_array_equal(a["weights"], b["weights"])


def world_unit() -> Scenario:
    return networks.no_scenario()


@every_scenario
def test_vectorised_runs_equal_single_runs(case: ScenarioCase) -> None:
    scenario, network = case.make(), case.network()

    def third_round(seed: jax.Array) -> dict[str, Any]:
        key = jax.random.key(seed)
        state = scenario.init(key, network)
        for t in range(3):
            state, current = scenario.step(jax.random.fold_in(key, t), state, network)
        return looks(current)

    together = jax.jit(jax.vmap(third_round))(jnp.arange(2))
    for row in range(2):
        world.close(jax.tree.map(lambda leaf, row=row: leaf[row], together), third_round(jnp.asarray(row)))


@every_scenario
def test_learning_goes_on_under_it(case: ScenarioCase) -> None:
    problem = world.problem()
    process = learn(problem, algorithms.dsgd(problem, optax.sgd(world.RATE)), case.network(), case.make())
    trajectory = world.roll(process, 40)
    first, last = trajectory.states[0], trajectory.last
    for info in trajectory.infos:
        assert not (np.asarray(info["status"]) & status.ERRORS).any()
    start, end = (problem.evaluate(trees.mean(s.algorithm.params)[None])["suboptimality"][0] for s in (first, last))
    assert end < 0.6 * start
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
