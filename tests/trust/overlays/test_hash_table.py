"""Kademlia: the metric, its tables, lookups against a plain loop, records under failures, bad input."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlsim
from dlsim import networks, trust
from dlsim.trust.overlays import kademlia

NUM, BITS, K, ALPHA = 48, 12, 4, 2


@functools.cache
def ring(bits=BITS):
    return jax.jit(lambda key: kademlia.make_ring(key, jnp.arange(NUM), bits))(jax.random.key(2))


@functools.cache
def tables():
    made = jax.jit(lambda r: kademlia.contacts(r, jnp.arange(NUM), jnp.arange(NUM), BITS, K))(ring())
    return np.asarray(made)


def looked_up(ring_, is_there, askers, targets):
    options = {"bits": BITS, "bucket_size": K, "parallelism": ALPHA}
    return kademlia.lookup(ring_, jnp.arange(NUM), is_there, askers, targets, **options)


search = jax.jit(looked_up)


def test_ids_are_distinct_where_few_are_left() -> None:
    tight = ring(7)
    ids = np.asarray(tight.ids)
    assert len(set(ids.tolist())) == NUM and ids.max() < 128 and (np.diff(ids) > 0).all()
    assert sorted(np.asarray(tight.nodes).tolist()) == list(range(NUM))


def test_the_metric() -> None:
    assert (0b0011 ^ 0b0101, (0b0011 ^ 0b0101).bit_length() - 1) == (6, 2)
    ids = np.asarray(ring().ids).astype(int)
    for key in (0, 77, 4095):
        assert len(set((ids ^ key).tolist())) == NUM  # exactly one node at each distance


def test_buckets_hold_k_of_those_at_their_distance_or_all() -> None:
    ids = np.asarray(ring().ids).astype(int)
    for i in range(NUM):
        for level in range(BITS):
            all_there = {j for j in range(NUM) if j != i and int(ids[i] ^ ids[j]).bit_length() - 1 == level}
            held = [j for j in tables()[i, level].tolist() if j >= 0]
            assert len(held) == len(set(held)) == min(K, len(all_there)) and set(held) <= all_there


def plain_lookup(asker, target, there):
    """(closest, rounds, messages, timeouts) in places of the sorted ids."""
    ids = np.asarray(ring().ids).astype(int)

    def far(j):
        return ids[j] ^ target

    def known(i):
        return sorted((j for j in tables()[i].ravel().tolist() if j >= 0), key=far)[:K]

    state = {asker: "answered"} | dict.fromkeys(known(asker), "unasked")
    rounds = messages = timeouts = 0
    while True:
        kept = sorted(state, key=far)[: kademlia.REMEMBERED * K]
        state = {j: state[j] for j in kept}
        closest = [j for j in kept if state[j] != "timed out"][:K]
        asked = [j for j in closest if state[j] == "unasked"][:ALPHA]
        if not asked:
            return [j for j in closest if state[j] == "answered"], rounds, messages, timeouts
        rounds, messages = rounds + 1, messages + len(asked)
        for j in asked:
            state[j] = "answered" if there[j] else "timed out"
            timeouts += not there[j]
        for j in asked:
            if there[j]:
                state = dict.fromkeys(known(j), "unasked") | state


@pytest.mark.parametrize("share_away", [0.0, 0.4])
def test_lookups_are_those_of_a_plain_loop(share_away: float) -> None:
    draw = np.random.default_rng(0)
    there = draw.random(NUM) >= share_away  # by place
    nodes = np.asarray(ring().nodes)
    is_there = np.zeros(NUM, bool)
    is_there[nodes] = there
    places = draw.choice(np.flatnonzero(there), 40)
    targets = draw.integers(0, 2**BITS, 40)
    found = search(ring(), jnp.asarray(is_there), jnp.asarray(nodes[places]), jnp.asarray(targets, jnp.uint32))
    ids = np.asarray(ring().ids).astype(int)
    answered = 0
    for q in range(40):
        closest, rounds, messages, timeouts = plain_lookup(int(places[q]), int(targets[q]), there)
        assert [nodes[j] for j in closest] == [n for n in np.asarray(found.nodes[q]).tolist() if n >= 0]
        assert (found.rounds[q], found.messages[q], found.timeouts[q]) == (rounds, messages, timeouts)
        answered += messages - timeouts
    assert int(found.answered.sum()) == answered
    nearest = kademlia.nearest(ring(), jnp.asarray(is_there), jnp.asarray(targets, jnp.uint32), BITS)
    live = np.flatnonzero(there)
    truth = [nodes[live[np.argmin(ids[live] ^ target)]] for target in targets]
    np.testing.assert_array_equal(nearest, truth)
    if not share_away:
        np.testing.assert_array_equal(found.nodes[:, 0], truth)


def test_nobody_is_nearest_where_nobody_is() -> None:
    none = kademlia.nearest(ring(), jnp.zeros(NUM, bool), jnp.array([5], jnp.uint32), BITS)
    assert none.tolist() == [-1]


def run(process, num_steps, seed=0):
    return dlsim.simulate(process, seed=seed, num_steps=num_steps, record=dlsim.Record(every=1), progress=False).results


def test_full_buckets_end_after_one_productive_round_and_an_audit_passes_where_a_holder_alters_nothing() -> None:
    """One record, three holders, six of the eight nodes alter: what lookups say is what the holders are."""
    options = {"bucket_size": 8, "parallelism": 8, "num_lookups": 50, "num_records": 1, "altering": 0.75}
    process = trust.dht(networks.complete(8), **options)

    def record(state, info):
        return process.measure(state, info) | {"altered": state.own.is_altering[state.own.holders[0]]}

    results = dlsim.simulate(
        process, seed=list(range(12)), num_steps=1, record=dlsim.Record(fn=record), progress=False
    ).results.isel(step=-1)
    for name, value in {"rounds": 1, "messages": 7, "success": 1, "found": 1, "kept": 1}.items():
        assert (results[name] == value).all()
    np.testing.assert_allclose(results.records_per_node, 3 / 8)
    # Each lookup asks 7 nodes; all answer with k contacts.
    assert (results.messages_sent == 50 * 14).all() and (results.bits_sent == 50 * 7 * (320 + 8 * 304)).all()
    np.testing.assert_array_equal(results.audited, ~results.altered.values.all(axis=1))
    assert 0 < float(results.audited.mean()) < 1


def test_records_are_lost_with_all_copies_unless_they_are_published_again() -> None:
    scenario, every = networks.churn(rate=0.1, return_rate=0.0), 6
    options = {"num_lookups": 10, "num_records": 500, "bits": 16}
    results = run(trust.dht(networks.complete(512), republish_every=every, scenario=scenario, **options), 2 * every - 1)
    present, kept, sent = (results[name].values.astype(float) for name in ("num_present", "kept", "messages_sent"))
    present = present / 512
    # Neighbouring records share holders: about 512 / 3 independent ones, a spread of 0.037 at most.
    expected = 1 - (1 - present[1:every]) ** 3
    np.testing.assert_allclose(kept[1:every], expected, atol=4 * 0.037)
    assert kept[every - 1] < 0.97
    # What is left is held by three that are there, and lost anew.
    again = kept[every] * (1 - (1 - present[every:] / present[every]) ** 3)
    np.testing.assert_allclose(kept[every:], again, atol=4 * 0.037)
    unpublished = 1 - (1 - present[-1]) ** 3
    assert kept[-1] > unpublished + 0.1
    # 500 lookups besides the ten of every step, and those that answer.
    steps = np.diff(sent)
    assert steps[every - 1] > 10 * np.delete(steps, every - 1).max()


NINE = networks.complete(9)
CASES = [
    ({"bits": 33}, r"dht: bits must be an integer in \[1, 32\], got 33"),
    ({"bits": 4}, "dht: bits must be enough for twice as many ids as the 9 nodes, got 4. Use bits=5 or more."),
    ({"bucket_size": 0}, "dht: bucket_size must be an integer .*, got 0"),
    ({"copies": 9}, r"dht: copies must be an integer in \[1, 8\], got 9"),
    ({"num_lookups": 0}, "dht: num_lookups must be an integer .*, got 0"),
    ({"republish_every": 0}, "dht: republish_every must be an integer >= 1, got 0"),
    ({"altering": 1.5}, r"dht: altering must be .*, got 1.5"),
    ({"parallelism": 0}, "dht: parallelism must be an integer >= 1, got 0"),
]


@pytest.mark.parametrize(("options", "line"), CASES, ids=[line[:40] for _, line in CASES])
def test_bad_input_is_one_line(options, line) -> None:
    with pytest.raises(ValueError, match=line):
        trust.dht(NINE, **options)
