"""The Tangle and the chain of blocks: their books recomputed plainly, their formulas, bad input."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import dlsim
import dlsim.running.status
from dlsim import keys, networks, trust
from dlsim.trust.overlays.tangle import confidence


def run(process, num_steps, seed=0, record=None):
    made = dlsim.Record(every=1, fn=record)
    return dlsim.simulate(process, seed=seed, num_steps=num_steps, record=made, progress=False)


def books(state, info):
    return {name: getattr(state, name) for name in ("ages", "approved", "parents", "weights")} | {
        "confidence": confidence(state, 1.0)
    }


@pytest.mark.parametrize("options", [{}, {"selection": "walk", "bias": 0.05}], ids=["uniform", "walk"])
def test_the_books_of_a_tangle_are_those_of_its_parents(options) -> None:
    process = trust.tangle(rate=10.0, delay=1.0, window=96, arrivals_per_step=80, **options)
    found = run(process, 1, record=books).results.isel(step=-1)
    total = 81
    age, parents = found.ages.values, found.parents.values.astype(int)
    assert (age[:total] >= 0).all() and (age[total:] < 0).all() and (np.diff(age[:total]) <= 0).all()
    below = {0: set()}
    for x in range(1, total):
        chosen = set(parents[x].tolist())
        # Issued earlier, and seen when x was issued.
        assert all(p < x and (p == 0 or age[p] - age[x] >= 1.0 - 1e-4) for p in chosen)
        # Tips then: nobody that was seen by x approves them.
        for p in chosen:
            assert not any(p in parents[y] and age[y] - age[x] >= 1.0 + 1e-4 for y in range(1, x))
        below[x] = chosen.union(*(below[p] for p in chosen))
    weights = [1 + sum(x in below[y] for y in range(total)) for x in range(total)]
    np.testing.assert_array_equal(found.weights.values[:total], weights)
    assert weights[0] == total  # the genesis: all
    seen = [x for x in range(total) if age[x] >= 1.0]
    tips = [x for x in seen if not any(x in parents[y] for y in seen if y)]
    sure = [np.mean([x == tip or x in below[tip] for tip in tips]) for x in range(total)]
    np.testing.assert_allclose(found.confidence.values[:total], sure, atol=1e-5)


def test_tips_follow_the_formula_and_without_delay_there_is_one() -> None:
    process = trust.tangle(rate=20.0, delay=1.0, window=256, arrivals_per_step=200)
    found = run(process, 15).results
    # 2 lambda h = 40; the mean over 2,400 arrivals (120 s, correlated over about 2 s) has a spread of about 1.
    assert float(found.num_tips[3:].mean()) == pytest.approx(40, rel=0.1)
    assert float(found.throughput[-1]) == pytest.approx(20, rel=4 / np.sqrt(3000))
    chain = run(trust.tangle(rate=5.0, delay=0.0, window=32, arrivals_per_step=50), 1).results
    assert float(chain.num_tips[-1]) == 1


def test_a_tip_that_falls_out_of_the_ring_is_reported() -> None:
    def play(rate):
        process = trust.tangle(rate=rate, window=32, arrivals_per_step=100)  # a tracer cannot be refused
        return process.step(jax.random.key(0), process.init(jax.random.key(0)))[1]["status"]

    played = jax.jit(play)
    assert (int(played(50.0)), int(played(1.0))) == (dlsim.running.status.BUFFER_OVERFLOW, 0)


def plain_chain(power, block_seconds, delay, num_blocks, key):
    """Blocks one after the other, from the same draws, all of them kept."""
    found = [(0.0, -1, 0)]  # time, miner, height
    now, up_to = 0.0, np.cumsum(power / power.sum())
    for turn in range(num_blocks):
        gap, who = (float(x) for x in keys.node_uniform(key, np.array([turn]), 2)[0])
        now += -np.log1p(-gap) * block_seconds
        miner = int(np.searchsorted(up_to, who, side="right"))
        arrivals = [t + (0 if m in (-1, miner) else delay[m, miner]) for t, m, _ in found]
        best = max(h for a, (_, _, h) in zip(arrivals, found, strict=True) if a <= now)
        found.append((now, miner, best + 1))
    heights = [h for _, _, h in found[1:]]
    forks = sum(heights.count(h) > 1 for h in set(heights))
    return max(heights), forks, now


def test_a_chain_is_a_plain_loop() -> None:
    draw = np.random.default_rng(0)
    power, delay = np.array([1.0, 2.0, 3.0, 4.0]), draw.uniform(0, 1.5, (4, 4))
    process = trust.proof_of_work(power, block_seconds=1.0, delay=delay, blocks_per_step=60)
    key = jax.random.key(4)
    state, _ = jax.jit(process.step)(key, process.init(key))
    height, forks, seconds = plain_chain(power, 1.0, delay, 60, key)
    assert (int(state.height), int(state.num_forks), int(state.num_blocks)) == (height, forks, 60)
    found = process.measure(state, {})
    assert float(found["transactions_per_second"]) == pytest.approx(height * 4000 / seconds, rel=1e-4)
    assert forks > 3


def test_forks_and_stale_blocks_follow_their_formulas() -> None:
    def last(delay):
        process = trust.proof_of_work(200, block_seconds=1.0, delay=delay, blocks_per_step=5000)
        measured = process.measure(process.step(jax.random.key(1), process.init(jax.random.key(1)))[0], {})
        return measured["stale_rate"], measured["fork_rate"]

    played = jax.jit(last)
    for ratio in (0.1, 0.3):
        stale, fork = (float(x) for x in played(ratio))
        # Shares of 5,000 blocks: a standard deviation of at most 0.0065; own blocks are seen at once by 1 miner of 200.
        assert stale == pytest.approx(ratio / (1 + ratio), abs=4 * 0.0065)
        assert fork == pytest.approx(1 - np.exp(-ratio), abs=4 * 0.0065)
    assert [float(x) for x in played(0.0)] == [0, 0]


def test_a_ring_that_is_too_small_is_reported_and_rates_of_nothing_are_zero() -> None:
    process = trust.proof_of_work(50, block_seconds=1.0, delay=100.0, window=4, blocks_per_step=50)
    done = run(process, 1)
    assert "BUFFER_OVERFLOW" in repr(done.status)
    first = process.measure(process.init(jax.random.key(0)), {})
    assert all(float(first[name]) == 0 for name in ("stale_rate", "fork_rate", "transactions_per_second"))


def test_who_catches_up() -> None:
    assert trust.catch_up(0.1, 6) == pytest.approx((1 / 9) ** 6)
    assert trust.catch_up(0.1, 6, "nakamoto") == pytest.approx(2.428e-4, rel=1e-3)  # Nakamoto's table: 0.0002428
    assert trust.catch_up(0.3, 5, "nakamoto") == pytest.approx(0.1773523, rel=1e-5)  # his table
    assert trust.catch_up(0.5, 100) == 1 == trust.catch_up(0.2, 0)
    assert trust.catch_up(0.0, 3, "nakamoto") == 0


def test_floods_take_the_quickest_way() -> None:
    network = networks.path(4).with_links(networks.links(4, upload=[8e6, 8e6, 4e6, 8e6], download=8e6, latency=0.5))
    seconds = trust.flood_seconds(network, 1e6)
    assert np.diagonal(seconds).tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(seconds[0], [0, 1.5, 3.0, 5.5])
    np.testing.assert_allclose(seconds[3], [5.5, 4.0, 1.5, 0])
    free = networks.path(3).with_links(networks.links(3))
    assert trust.flood_seconds(free, 0.0).max() == 0


CASES = [
    (lambda: trust.tangle(rate=0.0), r"tangle: rate must be a number in \(0, inf\), got 0"),
    (lambda: trust.tangle(rate=100.0, window=64), "tangle: window must be at least 800 for rate . delay = 100, got 64"),
    (lambda: trust.tangle(window=100), "tangle: window must be a multiple of 32, got 100. Use window=128."),
    (lambda: trust.tangle(num_parents=0), "tangle: num_parents must be an integer .*, got 0"),
    (lambda: trust.tangle(selection="best"), "tangle: selection must be one of"),
    (lambda: trust.proof_of_work(0), "proof_of_work: hash_power must be an integer .*, got 0"),
    (lambda: trust.proof_of_work([0.0, 0.0]), "proof_of_work: hash_power must be above 0 for some miner"),
    (lambda: trust.proof_of_work(3, block_seconds=0), r"block_seconds must be a number in \(0, inf\), got 0"),
    (
        lambda: trust.proof_of_work(3, delay=np.ones((2, 2))),
        r"delay must be a number or of shape \[3, 3\], got shape \[2, 2\]",
    ),
    (lambda: trust.proof_of_work(3, delay=-1.0), "proof_of_work: delay must be a number in"),
    (lambda: trust.catch_up(1.5, 2), r"catch_up: share must be a number in \[0, 1\], got 1.5"),
    (
        lambda: trust.flood_seconds(networks.ring(4), 1.0),
        "flood_seconds: network must be one with links, got one without",
    ),
]


@pytest.mark.parametrize(("make", "line"), CASES, ids=[line[:40] for _, line in CASES])
def test_bad_input_is_one_line(make, line) -> None:
    with pytest.raises(ValueError, match=line):
        make()
