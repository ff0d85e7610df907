"""DiLoCo, asynchronous and streaming, against step-by-step oracles, their limits, and what they refuse."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes
from contract import world
from oracles import diloco as oracle
from six_nodes import DIMENSION, EVERYONE, NUM_NODES, RATE, ROLL_CALL

import dlsim
from dlsim import algorithms, networks
from dlsim.algorithms.diloco import invariant_outer_gradient
from dlsim.algorithms.fragments import cut
from dlsim.algorithms.streaming_diloco import timetable
from dlsim.core import Algorithm, Problem
from dlsim.running import counters

ETA, MU = 0.6, 0.8
LABELS = np.array([0, 1, 2, 0])
INNER = optax.sgd(RATE, momentum=oracle.INNER_MOMENTUM)
NESTEROV = optax.sgd(ETA, momentum=MU, nesterov=True)
# Everybody away for a round, too.
DESERTED = ROLL_CALL.copy()
DESERTED[5] = False
roll_calls = pytest.mark.parametrize("present", [EVERYONE, DESERTED], ids=["everyone", "roll_call"])


def of_rows(model: Any) -> Any:
    return jax.tree.map(lambda leaf: LABELS[: leaf.shape[0]], model)


def streaming(problem: Problem, **options: Any) -> Algorithm:
    settings = {"fragments": of_rows, "num_local_steps": 7, "outer_optimizer": NESTEROV, **options}
    return algorithms.streaming_diloco(problem, INNER, **settings)


def played(algorithm: Algorithm, network: networks.Network, present: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """The models that are judged after every round, and the states."""
    states = six_nodes.play(algorithm, network, present)
    return np.stack([np.asarray(algorithm.params(state)) for state, _ in states]), states


@roll_calls
@pytest.mark.parametrize("rounds_late", [0, 1])
def test_diloco_and_its_late_form_are_their_oracle(rounds_late: int, present: np.ndarray) -> None:
    with jax.enable_x64(True):
        problem, make = six_nodes.problem(), (algorithms.diloco, algorithms.async_diloco)[rounds_late]
        algorithm = make(problem, INNER, outer_optimizer=NESTEROV, num_local_steps=4)
        models, _ = played(algorithm, networks.complete(NUM_NODES), present)
        gradient, start = six_nodes.gradients(problem), six_nodes.start()
        expected = oracle.diloco(gradient, start, RATE, 4, ETA, MU, present, rounds_late)
    six_nodes.agree(models[:, 0], expected, rtol=1e-9, atol=1e-11)


@roll_calls
@pytest.mark.parametrize("over", ["all_reduce", "gossip"])
@pytest.mark.parametrize(("delay", "first"), [(0, "early"), (4, "paper")])
def test_streaming_is_its_oracle(over: str, delay: int, first: str, present: np.ndarray) -> None:
    with jax.enable_x64(True):
        problem = six_nodes.problem()
        algorithm = streaming(
            problem, num_overlap_steps=delay, merge=0.3, first_sync=first, over=over, consensus_step_size=0.9
        )
        models, states = played(algorithm, six_nodes.network(), present)
        matrix = six_nodes.matrix() if over == "gossip" else None
        gradient, start = six_nodes.gradients(problem), six_nodes.start()
        phi, theta, counts = oracle.streaming(
            gradient, start, RATE, 7, LABELS, delay, 0.3, ETA, MU, present, first, matrix, 0.9
        )
    expected = phi if over == "gossip" else phi[:, :1]
    six_nodes.agree(models, expected, rtol=1e-9, atol=1e-11)
    six_nodes.agree(np.stack([state.params for state, _ in states]), theta, rtol=1e-9, atol=1e-11)
    if over == "all_reduce" and present is EVERYONE:
        # Each fragment is sent floor((T - t_p) / H) times by each, and the bits are those of its entries.
        sizes = np.bincount(LABELS)
        bits = counters.to_float(states[-1][1].traffic.bits)
        np.testing.assert_array_equal(bits, np.full(NUM_NODES, 64 * float(counts @ sizes)))
        if first == "paper":
            steps = 7 * len(present)
            np.testing.assert_array_equal(counts, [(steps - p * (7 // 3)) // 7 for p in range(3)])


def final(process: dlsim.Process, num_steps: int = 5) -> Any:
    return jax.tree.map(np.asarray, world.roll(process, num_steps).last.algorithm)


def test_one_fragment_without_delay_is_diloco_to_the_bit() -> None:
    problem, network = world.classification(), world.complete()
    kinds = {"num_local_steps": 6, "outer_optimizer": NESTEROV}
    whole = final(dlsim.learn(problem, algorithms.diloco(problem, optax.adam(0.01), **kinds), network))
    cutting = algorithms.streaming_diloco(problem, optax.adam(0.01), fragments=1, num_overlap_steps=0, **kinds)
    parted = final(dlsim.learn(problem, cutting, network))
    for a, b in zip(jax.tree.leaves(whole.shared), jax.tree.leaves(parted.shared[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(whole.optimizer_state), jax.tree.leaves(parted.optimizer_state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_with_alpha_one_replicas_train_alone_and_phi_still_moves() -> None:
    quiet, network = world.problem(gradient_noise=0.0), world.complete()
    alone = algorithms.isolated_training(quiet, optax.sgd(0.1))
    kinds = {"fragments": of_one_leaf, "num_local_steps": 4, "num_overlap_steps": 2, "merge": 1.0}
    together = algorithms.streaming_diloco(quiet, optax.sgd(0.1), **kinds)
    shared = final(dlsim.learn(quiet, together, network))
    apart = final(dlsim.learn(quiet, alone, network), 20)
    np.testing.assert_allclose(shared.params, apart.params, rtol=1e-5, atol=1e-6)
    start = world.roll(dlsim.learn(quiet, together, network), 0).last.algorithm
    assert all(not np.array_equal(a.params[0], b.params[0]) for a, b in zip(shared.shared, start.shared, strict=True))


def of_one_leaf(model: Any) -> Any:
    return jax.tree.map(lambda leaf: np.arange(leaf.shape[0]) % 2, model)


def test_with_alpha_zero_and_no_delay_replicas_hold_what_was_sent_last() -> None:
    """The first fragment is sent at the end of the round, so after it all replicas hold phi there, and elsewhere not."""
    problem = world.problem()
    made = algorithms.streaming_diloco(
        problem, optax.sgd(0.1), fragments=of_one_leaf, num_local_steps=4, num_overlap_steps=0
    )
    state = final(dlsim.learn(problem, made, world.complete()))
    np.testing.assert_array_equal(
        state.params[:, ::2], np.broadcast_to(state.shared[0].params[0], (world.NUM_NODES, 3))
    )
    assert np.ptp(state.params[:, 1::2], axis=0).min() > 0


def test_a_single_replica_with_outer_rate_one_trains_as_if_alone() -> None:
    data = dlsim.problems.synthetic_classification(60, 4, 3)
    problem = dlsim.problems.supervised("softmax", data, dlsim.problems.partition(data, 1, dlsim.problems.iid()))
    network, adam = networks.complete(1), optax.adam(0.05)
    alone = final(dlsim.learn(problem, algorithms.dsgd(problem, adam, num_local_steps=6), network))
    kinds = {"num_local_steps": 6, "outer_optimizer": optax.sgd(1.0), "num_overlap_steps": 0, "fragments": of_one_leaf}
    cut_up = algorithms.streaming_diloco(problem, adam, **kinds)
    world.close(final(dlsim.learn(problem, cut_up, network)).params, alone.params, rtol=1e-4, atol=1e-5)


def test_the_late_form_in_a_constant_field_is_one_round_behind() -> None:
    num = world.NUM_NODES

    def gradient(key: Any, params: Any, node_ids: Any) -> Any:
        del key
        return jnp.ones_like(params) * (1.0 + node_ids[:, None]), jnp.zeros(node_ids.shape)

    field = world.problem()._replace(gradient=gradient)
    kinds = {"num_local_steps": 3, "outer_optimizer": NESTEROV}
    made = [make(field, optax.sgd(0.1), **kinds) for make in (algorithms.diloco, algorithms.async_diloco)]
    prompt, late = (
        [
            np.asarray(s.algorithm.shared.params)
            for s in world.roll(dlsim.learn(field, a, networks.complete(num)), 5).states
        ]
        for a in made
    )
    np.testing.assert_allclose(late[1:], prompt[:-1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(prompt[1], prompt[0])


def test_the_outer_step_by_hand() -> None:
    """phi = 1, v = 0, G = 0.5, eta 0.4, mu 0.9: phi = 0.62, and with G = 0.5 again 0.078."""

    def gradient(key: Any, params: Any, node_ids: Any) -> Any:
        del key
        return jnp.full_like(params, 0.5), jnp.zeros(node_ids.shape)

    field = world.problem()._replace(gradient=gradient)
    algorithm = algorithms.diloco(
        field, optax.sgd(1.0), num_local_steps=1, outer_optimizer=optax.sgd(0.4, momentum=0.9, nesterov=True)
    )
    process = dlsim.learn(field, algorithm, world.complete(), initial_params=jnp.ones(world.DIMENSION))
    phi = [float(state.algorithm.shared.params[0]) for state in world.roll(process, 2).states]
    np.testing.assert_allclose(phi, [1.0, 0.62, 0.078], rtol=1e-5)


@pytest.mark.parametrize("make", [algorithms.diloco, algorithms.async_diloco])
def test_gossip_keeps_the_mean_outer_gradient_whatever_is_compressed(make: Any) -> None:
    problem = world.problem()
    network = world.uneven().with_channel(networks.top_k(2))
    algorithm = make(problem, optax.sgd(0.1), num_local_steps=3, over="gossip", consensus_step_size=0.5)
    state = final(dlsim.learn(problem, algorithm, network), 12)
    np.testing.assert_allclose(invariant_outer_gradient(state), 0, atol=1e-5)
    assert np.ptp(state.shared.public, axis=0).max() > 1e-3  # they do not agree, so this says something


# Fragments.


def shaped(**sizes: tuple[int, ...]) -> dict[str, Any]:
    return {name: {"w": jax.ShapeDtypeStruct(size, jnp.float32)} for name, size in sizes.items()}


def test_layers_are_cut_as_the_paper_has_them() -> None:
    names = {f"block_{i}": (2, 3) for i in (10, 2, 0, 1, 3, 4, 5)} | {"embedding": (5, 2), "head": (2, 5)}
    model = {"params": shaped(**names)}
    order = [path[1].key for path, _ in jax.tree_util.tree_leaves_with_path(model)]

    def held(**options: Any) -> list[list[str]]:
        made = cut("here", options.pop("fragments"), options.pop("pattern"), model)
        return [sorted((order[at] for at, _ in part), key=lambda n: (len(n), n)) for part in made.parts]

    beside = ["head", "embedding"]
    blocks = ["block_0", "block_1", "block_2", "block_3", "block_4", "block_5", "block_10"]
    assert held(fragments=None, pattern="strided") == [blocks[0::3], blocks[1::3], blocks[2::3], beside]
    assert held(fragments=None, pattern="sequential") == [blocks[:3], blocks[3:6], blocks[6:], beside]
    assert held(fragments=7, pattern="sequential") == [[block] for block in blocks] + [beside]
    assert cut("here", 2, "strided", model).sizes(model) == (4 * 6, 3 * 6, 20)
    # Without numbers all entries are layers; of a single array there is one.
    assert cut("here", 2, "strided", shaped(a=(1,), b=(2,), c=(3,))).sizes(shaped(a=(1,), b=(2,), c=(3,))) == (4, 2)
    assert cut("here", None, "strided", jax.ShapeDtypeStruct((3,), jnp.float32)).num == 1


def test_fragments_of_rows_are_taken_and_joined() -> None:
    tree = {"stack": jnp.arange(24.0).reshape(2, 4, 3), "one": jnp.arange(4.0).reshape(2, 2)}
    model = jax.tree.map(lambda leaf: leaf[0], tree)
    parts = cut("here", lambda _: {"stack": np.array([1, 0, 1, 0]), "one": 1}, "strided", model)
    taken = [parts.take(tree, p, 1) for p in range(2)]
    assert [leaf.shape for leaf in taken[1]] == [(2, 2), (2, 2, 3)]
    world.same(parts.join(taken, 1), tree)
    zeros = jax.tree.map(jnp.zeros_like, tree)
    filled = parts.put(parts.put(zeros, 0, taken[0], 1), 1, taken[1], 1)
    world.same(filled, tree)
    assert parts.sizes(model) == (6, 8)


def test_the_timetable_of_a_round() -> None:
    made = timetable(2, 100, 1, "paper")
    assert [tuple(moment) for moment in made.moments] == [
        (1, (), (0,)),
        (50, (1,), ()),
        (51, (), (1,)),
        (100, (0,), ()),
    ]
    assert made.skips_first == (False, True)
    assert made.outlasts == (True, False)
    # Fewer steps than fragments: all at the end of the round.
    assert [tuple(moment) for moment in timetable(3, 2, 0, "paper").moments] == [(2, (0, 1, 2), (0, 1, 2))]


# Bad input.


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"fragments": 2}, "fragments must be at most the 1 layer of the model, got 2. Each holds"),
        ({"fragments": 0}, "fragments must be an integer >= 1, got 0"),
        ({"fragments": lambda model: 0.5}, "fragments must be whole numbers, one a leaf or one for each"),
        ({"fragments": lambda model: np.array([0, 1, 3, 3])}, "fragments must be labels 0, 1, ... without gaps, got"),
        ({"fragments": lambda model: {"a": 1}}, "fragments must be a function that gives a tree like the model"),
        (
            {"num_overlap_steps": 30, "num_local_steps": 30},
            "num_overlap_steps must be below num_local_steps, 30, got 30",
        ),
        ({"num_overlap_steps": -1}, "num_overlap_steps must be an integer >= 0, got -1"),
        ({"merge": 1.5}, r"merge must be a number in \[0, 1\], got 1.5"),
        ({"pattern": "stride"}, "pattern must be one of strided, sequential, got 'stride'"),
        ({"first_sync": "late"}, "first_sync must be one of"),
        ({"over": "ring"}, "over must be one of"),
        ({"consensus_step_size": 0.0}, r"consensus_step_size must be a number in \(0, 1\], got 0"),
        ({"num_local_steps": 0}, "num_local_steps must be an integer >= 1, got 0"),
        ({"outer_optimizer": 0.7}, "outer_optimizer must be an optax.GradientTransformation, got 0.7"),
    ],
)
def test_bad_input_of_streaming_gets_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^streaming_diloco: {line}") as error:
        algorithms.streaming_diloco(six_nodes.problem(), INNER, **options)
    assert "\n" not in str(error.value) and re.match(r"[^:]+: .+ must .+, got .+", str(error.value))


def test_gossip_needs_a_graph_that_stays_and_an_all_reduce_does_not() -> None:
    problem = world.problem()
    gossiping = algorithms.diloco(problem, INNER, over="gossip")
    with pytest.raises(ValueError, match="learn: network must be symmetric"):
        dlsim.learn(problem, gossiping, world.uneven("uniform_neighbor"))
    dlsim.learn(problem, algorithms.diloco(problem, INNER), world.uneven("uniform_neighbor"))
    assert DIMENSION == len(LABELS)


@pytest.mark.parametrize("make", [algorithms.diloco, algorithms.async_diloco])
def test_a_ring_gives_what_a_server_gives_and_counts_its_hops(make: Any) -> None:
    problem, network = six_nodes.problem(), networks.complete(NUM_NODES)
    options = {"outer_optimizer": NESTEROV, "num_local_steps": 4}
    served, _ = played(make(problem, INNER, **options), network, ROLL_CALL)
    ring = make(problem, INNER, over=networks.collective(), **options)
    models, states = played(ring, network, ROLL_CALL)
    six_nodes.agree(models, served, rtol=1e-5, atol=1e-6)
    present = ROLL_CALL.sum(1)
    assert counters.to_float(states[-1][1].traffic.bits).sum() == np.sum(2 * (present - 1) * DIMENSION * 32)
    with pytest.raises(ValueError, match="over must be a collective that leaves all peers equal"):
        make(problem, INNER, over=networks.collective(quantization="min_max", owner_replaces=False))
