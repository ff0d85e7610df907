"""Topologies of one size, rates and seeds are data of one program, whatever model or learner is swept."""

from __future__ import annotations

import jax
import optax
import pytest
from contract import world
from contract.parts import CHANNELS, SCENARIOS
from flax import linen
from tiny_sweeps import classification

import dlsim
from dlsim import marl, networks
from dlsim.running.batching import one_at_a_time
from dlsim.running.programs import trace
from dlsim.sweeps.groups import group_runs
from dlsim.sweeps.signature import signature
from dlsim.sweeps.source import from_function
from dlsim.sweeps.topologies import common_forms

TOPOLOGIES = ["ring", "star", "complete"]
TREES_AND_RINGS = {"uneven": world.uneven, "tree": world.tree, "ring": lambda: networks.ring(world.NUM_NODES)}


def groups_of(make, **axes):
    return group_runs(from_function(make, axes, (0, 1), 4, dlsim.Record(every=2)))


def of_a_user():
    return dlsim.problems.from_flax(linen.Dense(3), (5,))


@pytest.mark.parametrize("model", ["softmax", "mlp", of_a_user], ids=["softmax", "mlp", "flax"])
def test_any_model(model):
    def make(topology, learning_rate):
        return classification(topology, learning_rate, model=model if isinstance(model, str) else model())

    assert [len(group.members) for group in groups_of(make, topology=TOPOLOGIES, learning_rate=[0.1, 0.2])] == [12]


@pytest.mark.parametrize("case", [*CHANNELS, *SCENARIOS], ids=lambda case: case.id)
def test_under_any_channel_and_scenario(case):
    """Also where something is drawn by edge, and the topologies have unequal numbers of edges."""

    def make(topology, learning_rate):
        problem = world.problem()
        network, scenario = TREES_AND_RINGS[topology](), None
        if case in CHANNELS:
            network = network.with_channel(case.make())
        else:
            network, scenario = case.on(network), case.make()
        return dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(learning_rate)), network, scenario)

    assert [len(group.members) for group in groups_of(make, topology=[*TREES_AND_RINGS], learning_rate=[0.1, 0.2])] == [
        12
    ]


def test_lists_of_edges_of_unlike_lengths_stay_apart():
    """A ring is not made to draw as often as a complete graph where that is a hundred times as often."""
    rings = [networks.ring(200), networks.torus(200), networks.complete(200)]
    assert [form.num_edges for form in common_forms(rings)] == [800, 800, 0]
    assert len({form.width for form in common_forms(rings)}) == 1


def test_learners():
    """Learners of a network each, which speak with their neighbours."""

    def make(topology, rate):
        learner = marl.ippo(
            dlsim.environments.simple_spread(), optax.adam(rate), num_copies=2, num_steps=4, sharing=marl.gossip()
        )
        return marl.train(learner, getattr(networks, topology)(3))

    assert [len(group.members) for group in groups_of(make, topology=["path", "complete"], rate=[0.1, 0.2])] == [8]


def test_functions_computed_one_at_a_time_count_by_what_they_do():
    """Only their rule for batches, which is made anew with every one of them, adds nothing to them."""

    def traced(scale):
        init = one_at_a_time(lambda key: scale * jax.random.normal(key, (3,)))
        process = dlsim.core.Process(init=init, step=lambda key, s: (s, {}), measure=lambda s, _: {"s": s})
        return trace(lambda _: (process, process.measure), {}, jax.random.key(0))

    kept = [traced(scale) for scale in (2.0, 2.0, 3.0)]
    first, same, other = (signature(one) for one in kept)
    assert first == same != other
