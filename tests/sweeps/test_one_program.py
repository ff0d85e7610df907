"""Topologies of one size, rates and seeds are data of one program, whatever model or learner is swept."""

from __future__ import annotations

import jax
import optax
import pytest
from flax import linen
from tiny_sweeps import classification

import dlsim
from dlsim import marl, networks
from dlsim.batching import one_at_a_time
from dlsim.programs import trace
from dlsim.sweeps.groups import group_runs
from dlsim.sweeps.signature import signature
from dlsim.sweeps.source import from_function

TOPOLOGIES = ["ring", "star", "complete"]


def groups_of(make, **axes):
    return group_runs(from_function(make, axes, (0, 1), 4, dlsim.Record(every=2)))


def of_a_user():
    return dlsim.problems.from_flax(linen.Dense(3), (5,))


@pytest.mark.parametrize("model", ["softmax", "mlp", of_a_user], ids=str)
def test_any_model(model):
    def make(topology, learning_rate):
        return classification(topology, learning_rate, model=model if isinstance(model, str) else model())

    assert [len(group.members) for group in groups_of(make, topology=TOPOLOGIES, learning_rate=[0.1, 0.2])] == [12]


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
