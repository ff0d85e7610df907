"""Peer sampling: an exchange against the paper's lists, what views keep, and that they become random and forget the dead."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import world

from dlsim import networks
from dlsim.networks.scenes.peer_sampling import Views, _merged, _oldest_last
from dlsim.running.counters import to_float

NUM, SIZE = 60, 6


@functools.cache
def compiled(**kinds: Any) -> tuple[Any, Any]:
    made = networks.peer_sampling(2, **{"view_size": SIZE, "healer": 1, "swapper": 2, **kinds})
    return made, jax.jit(lambda key, state, network: made.step(key, state, network))


def rolled(num_rounds: int, scenario: Any = None, network: Any = None, **kinds: Any) -> tuple[list[Views], Any]:
    network = networks.ring(NUM) if network is None else network
    made, step = compiled(**kinds)
    views = [made.init(jax.random.key(0), network)]
    current = network
    for t in range(num_rounds):
        current = network.with_state(current.state)
        if scenario is not None:
            current = current.replace(is_present=scenario(t))
        state, current = step(jax.random.fold_in(jax.random.key(1), t), views[-1], current)
        views.append(state)
    return views, current


def test_merge_by_hand() -> None:
    """Node 0 has 1 2 3 4 of ages 5 1 2 9, got 2 7 0 of ages 0 3 4: 2 is younger now, 4 is the oldest, 1 was sent."""
    views = Views(jnp.array([[1, 2, 3, 4]]), jnp.array([[5, 1, 2, 9]]))
    sent = Views(jnp.array([[2, 7, 0]]), jnp.array([[0, 3, 4]]))
    given = (jnp.zeros(1, jnp.int32), jnp.ones(1, bool), jnp.zeros(1, jnp.int32))
    made = _merged(jax.random.key(0), views, sent, *given, 1, 1)
    # Left: 1:5, 3:2, 4:9, 2:0, 7:3, five for four places; H takes 4.
    assert made.ids.tolist() == [[1, 3, 2, 7]] and made.ages.tolist() == [[6, 3, 1, 4]]
    made = _merged(jax.random.key(0), views, sent, *given, 0, 1)
    assert made.ids.tolist() == [[3, 4, 2, 7]]  # S takes the head
    kept = {_merged(jax.random.key(k), views, sent, *given, 0, 0).ids[0].tolist()[0] for k in range(20)}
    assert len(kept) > 1  # any goes
    same = _merged(jax.random.key(0), views, sent, given[0], jnp.zeros(1, bool), given[2], 1, 1)
    assert same.ids.tolist() == views.ids.tolist() and same.ages.tolist() == views.ages.tolist()


def test_the_oldest_stand_last() -> None:
    views = Views(jnp.arange(6)[None], jnp.array([[3, 9, 1, 8, 2, 2]]))
    made = _oldest_last(views, jnp.array([[0.5, 0.1, 0.9, 0.2, 0.3, 0.4]]), 2)
    assert made.ids.tolist() == [[4, 5, 0, 2, 1, 3]]


def test_views_hold_others_once_each() -> None:
    views, network = rolled(12)
    for one in views:
        assert all(len(set(row)) == SIZE and i not in row for i, row in enumerate(one.ids.tolist()))
    assert network.num_edges == 2 * NUM and (np.asarray(network.out_degrees) == 2).all()
    linked = set(zip(network.senders.tolist(), network.receivers.tolist(), strict=True))
    assert all(j in views[-1].ids[i].tolist() for i, j in linked)
    sums = np.asarray(network.self_weights) + np.bincount(network.receivers, network.edge_weights, NUM)
    np.testing.assert_allclose(sums, 1, rtol=1e-6)


def test_an_exchange_is_two_messages_of_half_a_view() -> None:
    _, network = rolled(3)
    traffic = network.state.traffic
    assert to_float(traffic.messages).sum() == 3 * 2 * NUM
    assert to_float(traffic.bits).sum() == 3 * 2 * NUM * 64 * SIZE / 2


def clustering(ids: np.ndarray) -> float:
    """Mean share of pairs of a node's neighbours that are neighbours."""
    linked = np.zeros((len(ids), len(ids)), bool)
    linked[np.arange(len(ids))[:, None], ids] = True
    linked |= linked.T
    shares = []
    for row in linked:
        known = np.flatnonzero(row)
        shares.append(linked[np.ix_(known, known)].sum() / (known.size * (known.size - 1)))
    return float(np.mean(shares))


def test_a_ring_becomes_random() -> None:
    """A ring lattice of this degree clusters at 0.69, a random graph at about 2 c / N = 0.2."""
    views, _ = rolled(30, start="ring")
    first, last = (clustering(np.asarray(one.ids)) for one in (views[0], views[-1]))
    assert first > 0.6 and last < 0.33


def spread(healer: int, swapper: int) -> float:
    """Standard deviation of how many views a node is in, over rounds 21 to 30; 200 nodes, views of 10."""
    views, _ = rolled(30, network=networks.ring(200), view_size=10, healer=healer, swapper=swapper, start="ring")
    counts = [np.bincount(np.asarray(one.ids).ravel(), minlength=200) for one in views[21:]]
    return float(np.mean(np.std(counts, axis=1)))


def test_swapping_lets_every_node_be_known_to_about_as_many() -> None:
    """The paper's finding: swappers less uneven than a random graph (sqrt(c (1 - c / N)) = 3.08), blind selection more."""
    assert spread(0, 5) < np.sqrt(10 * (1 - 10 / 200)) < spread(0, 0)


def test_the_dead_are_forgotten() -> None:
    alive = jnp.arange(NUM) < NUM // 2
    views, _ = rolled(40, lambda t: alive, healer=3, swapper=0)
    there = np.asarray(views[-1].ids)[: NUM // 2]
    assert (there >= NUM // 2).mean() < 0.02 < 0.4 < (np.asarray(views[0].ids)[: NUM // 2] >= NUM // 2).mean()
    assert np.array_equal(views[-1].ids[NUM // 2 :], views[0].ids[NUM // 2 :])  # those that are away rest


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"view_size": 5}, "view_size must be even, got 5"),
        ({"out_degree": 7}, "out_degree must be"),
        ({"healer": 4}, "healer must be"),
        ({"swapper": 3}, "swapper must be at most view_size / 2 - healer = 2, got 3"),
        ({"peer": "youngest"}, "peer must be"),
        ({"start": "star"}, "start must be"),
    ],
)
def test_bad_settings(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"peer_sampling: {line}"):
        networks.peer_sampling(**{"out_degree": 2, "view_size": 6, "healer": 1, "swapper": 2, **change})


def test_a_view_of_everybody_is_refused() -> None:
    with pytest.raises(ValueError, match=r"peer_sampling: view_size must be below the number of nodes, 8, got 8"):
        networks.peer_sampling(2, view_size=8, healer=1, swapper=2).init(jax.random.key(0), world.uneven())
