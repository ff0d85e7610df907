"""PENS against a plain loop, and whom its nodes find."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
import six_nodes as six

import dlsim
from dlsim import algorithms, keys, networks, problems
from dlsim.algorithms.pens import own_neighbors

PROBLEM, NETWORK = six.problem(), six.network()
SAMPLED, BEST, SELECTING, ROUNDS = 2, 1, 4, 9


def test_a_plain_loop() -> None:
    algorithm = algorithms.pens(
        PROBLEM, optax.sgd(six.RATE), num_sampled=SAMPLED, num_best=BEST, selection_rounds=SELECTING
    )
    key, start = jax.random.key(3), np.random.default_rng(0).standard_normal((six.NUM_NODES, six.DIMENSION))
    state = algorithm.init(key, np.float32(start), NETWORK)
    step = jax.jit(lambda key, state: algorithm.step(key, state, NETWORK)[::2])
    links = list(zip(np.asarray(NETWORK.receivers).tolist(), np.asarray(NETWORK.senders).tolist(), strict=True))
    gradient, (curvature, linear) = six.gradients(PROBLEM), six.affine(PROBLEM)
    x = start.copy()
    heard, chosen = dict.fromkeys(links, 0), dict.fromkeys(links, 0)

    def loss(i: int, model: np.ndarray) -> float:
        return float(model @ curvature[i] @ model / 2 + linear[i] @ model)  # up to a constant of the node

    for t in range(ROUNDS):
        now = jax.random.fold_in(key, t)
        draws = {
            link: float(jax.random.uniform(keys.fold_in(keys.stream(now, "peers"), np.uint32(link[0]), np.uint32(link[1]))))
            for link in links
        }  # fmt: skip
        new = x.copy()
        for i in range(six.NUM_NODES):
            around = [j for r, j in links if r == i]
            if t >= SELECTING:
                own = [j for j in around if chosen[i, j] * SAMPLED > heard[i, j] * BEST]
                around = own or around
            asked = sorted(around, key=lambda j: draws[i, j])[: SAMPLED if t < SELECTING else 1]
            best = asked
            if t < SELECTING:
                best = sorted(asked, key=lambda j: (loss(i, x[j]), draws[i, j]))[:BEST]
                for j in asked:
                    heard[i, j] += 1
                for j in best:
                    chosen[i, j] += 1
            mean = (x[i] + sum(x[j] for j in best)) / (1 + len(best))
            new[i] = mean - six.RATE * gradient(i, mean)
        x = new
        state, info = step(now, state)
        np.testing.assert_allclose(state.params, x, rtol=1e-4, atol=1e-5, err_msg=f"round {t}")
    np.testing.assert_array_equal(state.heard, list(heard.values()))
    np.testing.assert_array_equal(state.chosen, list(chosen.values()))
    np.testing.assert_array_equal(info["num_gradients"], 1)


def test_nodes_of_one_kind_find_each_other() -> None:
    """Two kinds of data at opposite optima: after the selection own neighbours are of one's own kind."""
    num, draws = 12, np.random.default_rng(0)
    inputs = draws.standard_normal((num, 20, 3))
    kind = np.arange(num) % 2
    targets = np.einsum("nmd,d->nm", inputs, np.ones(3)) * np.where(kind, 1, -1)[:, None]
    problem = problems.least_squares(inputs, targets)
    network = networks.random_regular(num, num - 1, seed=0)
    algorithm = algorithms.pens(problem, optax.sgd(0.05), num_sampled=6, num_best=2, selection_rounds=40)
    process = dlsim.learn(problem, algorithm, network)
    run = dlsim.simulate(process, seed=0, num_steps=80, record=dlsim.Record(every=40), progress=False)
    state = run.state.algorithm
    mine = np.asarray(own_neighbors(state, 6, 2))
    same = kind[np.asarray(network.senders)] == kind[np.asarray(network.receivers)]
    assert mine.sum() >= num and same[mine].mean() == 1.0
    # Six messages a node while selecting, one afterwards.
    sent = run.results.messages_sent.values
    assert sent[1] == 40 * 6 * num and sent[2] - sent[1] == 40 * num
    np.testing.assert_allclose(state.params, np.where(kind, 1, -1)[:, None] * np.ones(3), atol=0.1)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"num_sampled": 0}, "pens: num_sampled must be an integer"),
        ({"num_sampled": 3, "num_best": 4}, r"pens: num_best must be an integer in \[1, 3\], got 4"),
        ({"selection_rounds": 0}, "pens: selection_rounds must be an integer"),
        ({"num_partners": 0}, "pens: num_partners must be an integer"),
    ],
)
def test_refusals(options: dict[str, int], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        algorithms.pens(PROBLEM, optax.sgd(0.1), **options)


def test_a_network_without_a_table() -> None:
    problem = problems.quadratic(4096, 1)
    process = dlsim.learn(problem, algorithms.pens(problem, optax.sgd(0.1)), networks.complete(4096))
    with pytest.raises(ValueError, match="^pens: network must be one with a table of neighbours"):
        process.init(jax.random.key(0))
