"""Gossip learning of parts of models, against a loop over events."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes as six

import dlsim
from dlsim import algorithms, clocks, keys
from dlsim.running import counters

PROBLEM, NETWORK = six.problem(), six.network()
GRADIENT, START = six.gradients(PROBLEM), np.zeros((six.NUM_NODES, six.DIMENSION))
SGD = optax.sgd(six.RATE)
SECONDS, SEED = 12, 4


def played(parts: Any, **options: Any) -> Any:
    algorithm = algorithms.gossip_learning(PROBLEM, SGD, parts=parts, **options)
    process = dlsim.learn(PROBLEM, algorithm, NETWORK, timing=clocks.timing())
    record = dlsim.Record(every=SECONDS)
    return dlsim.simulate(process, seed=SEED, num_steps=SECONDS, record=record, progress=False).state


def tape() -> clocks.Tape:
    key = keys.stream(jax.random.key(SEED), "tape")
    return clocks.make_tape(NETWORK, None, clocks.poisson(1.0), key, SECONDS, communication="nodes")


def draw_keys(events: clocks.Tape) -> jax.Array:
    """The key of each event's part."""
    key = keys.stream(keys.stream(jax.random.key(SEED), "init"), "events")
    each = keys.fold_in(key, clocks.COMMUNICATION, events.a, events.b, events.number.astype(np.uint32))
    return keys.fold_in(keys.fold_in(each, 0), 2)


def loop(events: clocks.Tape, num_ages: int, part: Callable[[int], tuple[np.ndarray, int]], average: bool) -> Any:
    """Models and ages [N, S]; `part(k)` is what event k sends: which numbers, and whose age it is."""
    x, age = START.copy(), np.zeros((six.NUM_NODES, num_ages), int)
    for k, (i, j) in enumerate(zip(events.a.tolist(), events.b.tolist(), strict=True)):
        places, which = part(k)
        theirs, own = age[i, which], age[j, which]
        share = 0.5 if average or theirs + own == 0 else theirs / (theirs + own)
        merged = x[j].copy()
        merged[places] += share * (x[i, places] - x[j, places])
        x[j] = merged - six.RATE * GRADIENT(j, merged)
        age[j, which] = max(theirs, own)
        age[j] += 1
    return x, age


@pytest.mark.parametrize("num_parts", [1, 3])
def test_a_partition(num_parts: int) -> None:
    parts, events = algorithms.model_partition(num_parts), tape()
    width = math.ceil(six.DIMENSION / num_parts)
    draws = np.asarray(jax.vmap(jax.random.uniform)(draw_keys(events)))

    def part(k: int) -> tuple[np.ndarray, int]:
        p = int(draws[k] * num_parts)
        return np.arange(p * width, min((p + 1) * width, six.DIMENSION)), p

    x, age = loop(events, num_parts, part, average=False)
    state = played(parts)
    np.testing.assert_allclose(state.nodes.params, x, rtol=2e-4, atol=1e-5)
    np.testing.assert_array_equal(state.nodes.age, age)
    bits, messages = (counters.to_float(count).sum() for count in state.network.traffic[1::-1])
    assert bits == messages * (32 * width + 64) and messages == len(events.a)
    if num_parts == 1:
        whole = played(None)
        np.testing.assert_array_equal(state.nodes.params, whole.nodes.params)
        np.testing.assert_array_equal(state.nodes.age[:, 0], whole.nodes.age)
    else:
        assert (age.max(axis=1) > age.min(axis=1)).any()


def test_a_sample() -> None:
    parts, events, num = algorithms.model_sample(0.5), tape(), 2
    drawn = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(draw_keys(events))
    places = np.asarray(parts.places(drawn, six.DIMENSION))
    assert places.shape == (len(events.a), num) and all(len(set(row)) == num for row in places.tolist())
    assert np.bincount(places.ravel(), minlength=six.DIMENSION).min() > 0
    x, age = loop(events, 1, lambda k: (places[k], 0), average=True)
    state = played(parts, merge="average")
    np.testing.assert_allclose(state.nodes.params, x, rtol=2e-4, atol=1e-5)
    np.testing.assert_array_equal(state.nodes.age, age)
    bits, messages = (counters.to_float(count).sum() for count in state.network.traffic[1::-1])
    assert bits == messages * (32 * num + 32 + 64)


def test_parts_with_token_accounts_and_swaps() -> None:
    """Options that go together: ages grow by the updates that came, and no number is lost."""
    account = algorithms.token_account("randomized", capacity=4, reactivity=2, slots=3)
    for options in ({"tokens": account}, {"exchange": "push_pull"}):
        state = played(algorithms.model_partition(2), **options)
        assert np.isfinite(state.nodes.params).all() and state.nodes.age.min() > 0
        done = counters.to_float(state.gradient_evaluations)
        assert state.nodes.age.max() <= done


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: algorithms.model_partition(0), "model_partition: num_parts must be an integer >= 1, got 0"),
        (lambda: algorithms.model_sample(0.0), r"model_sample: fraction must be a number in \(0, 1\], got 0"),
        (lambda: algorithms.gossip_learning(PROBLEM, SGD, parts=3), "gossip_learning: parts must be a ModelParts, got 3"),
        *(
            (lambda options=options: algorithms.gossip_learning(PROBLEM, SGD, parts=algorithms.model_sample(0.5), **options),
             "gossip_learning: parts must be None where whole models move")
            for options in ({"merge": "none"}, {"order": "update_merge"}, {"pass_through": True})
        ),
    ],
)  # fmt: skip
def test_refusals(call: Any, line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        call()
