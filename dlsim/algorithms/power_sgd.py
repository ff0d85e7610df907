"""PowerSGD: gradients averaged as products of two thin matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.optimizers import server_optimizer
from dlsim.algorithms.server_round import aggregation_weights, as_one, check_weighting, collect, first
from dlsim.channels.low_rank import as_matrix, left, matrix_shapes, orthonormal, product, revived, right, starts
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.messages import asked
from dlsim.networks.network import PERFECT, Network

if TYPE_CHECKING:
    import optax


class PowerSGDState(NamedTuple):
    params: PyTree  # [...] x, which all that have heard the last update hold
    optimizer_state: PyTree
    momentum: PyTree  # [...] m, or () without
    factors: tuple[Array, ...]  # [b, r] Q of each matrix, from the last round
    error: PyTree  # [N, ...] e_i, what node i has not said yet
    is_current: Array  # bool [N] who holds x and Q


def power_sgd(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    rank: int = 2,
    momentum: Any = None,
    weighting: str = "uniform",
) -> Algorithm:
    """PowerSGD: mini-batch SGD whose gradients are averaged in two passes of thin matrices, with error feedback.

    Of each matrix of parameters, with Q from the round before (warm start), and mean over the nodes,

        M_i   = g_i(x) + e_i
        P     = orthonormal(mean_i M_i Q)                  first pass
        Q    <- mean_i M_i^T P                             second pass
        e_i  <- M_i - P (M_i^T P)^T
        G     = P Q^T                                      of vectors, G = mean_i g_i(x)
        m    <- lambda m + G;   x <- x + U(G + m)          with `momentum` lambda; else x <- x + U(G)

    U is the optimiser's update.  Leaves are matrices as in `dlsim.networks.low_rank`; vectors go whole, in the first pass.
    With matrices that are all sent whole (of rank too small to gain by it) this is mini-batch SGD.

    The two all-reduces go through a server: up, averaged, and down again.  A node that has missed an update (it was away,
    or a message to it was lost) is sent x and Q when it is there again; that is counted.  It keeps e_i meanwhile.

    Args:
      problem: what the nodes learn.
      optimizer: of the averaged gradient, one for all; its floats may be traced.  The paper's is `optax.sgd(rate)`.
      rank: r, the paper's 1 to 4; structural.
      momentum: lambda in [0, 1), traced; None: without, which is another method than 0 (its step is then 2 G).
      weighting: `"uniform"`, or `"examples"`; structural.

    Cost per round: one gradient, and for a matrix of a rows and b columns r (a + b) numbers up and as many down, in two
      messages each way; state D a node.
    Departs from the paper in where the sum is made, see above, and from its authors' code in the error, which there is
      against the mean, M_i - G: both have the same mean.
    Source: Vogels, Karimireddy and Jaggi, PowerSGD: practical low-rank gradient compression for distributed optimization,
      NeurIPS 2019, Algorithms 1 and 2.
    """
    import optax

    rank = checks.integer("power_sgd", "rank", rank, 1)
    check_weighting("power_sgd", weighting)
    if momentum is not None:
        checks.number("power_sgd", "momentum", momentum, 0.0, 1.0, open_maximum=True)
    one = server_optimizer("power_sgd", optimizer)

    def init(key: Array, params: PyTree, network: Network) -> PowerSGDState:
        del key
        model, error = first(params), trees.zeros_like(params)
        factors = tuple(start for start in starts(matrix_shapes(params, rank)) if start is not None)
        held = () if momentum is None else trees.zeros_like(model)
        return PowerSGDState(model, one.init(model), held, factors, error, jnp.ones(network.num_nodes, bool))

    def step(key: Array, state: PowerSGDState, network: Network) -> tuple[PowerSGDState, Network, Info]:
        shapes = matrix_shapes(state.error, rank)
        has_model, network = _caught_up(key, state, network)
        rows, _ = asked(network)
        ids = network.node_ids if rows is None else network.node_ids[rows]
        gradients, losses = problem.gradient(
            keys.stream(key, "batch"), trees.replicate(state.params, ids.shape[0]), ids
        )
        error = state.error if rows is None else trees.take(state.error, rows)
        treedef = jax.tree.structure(gradients)
        wanted = [
            as_matrix(leaf, shape)
            for leaf, shape in zip(jax.tree.leaves(trees.add(gradients, error)), shapes, strict=True)
        ]
        kept = iter(state.factors)
        factors = [None if start is None else revived(next(kept), start) for start in starts(shapes)]

        def mean(arrival: Any) -> tuple[list[Array], Array]:
            weights = aggregation_weights(problem, weighting, network, rows, arrival.mask)
            return trees.mean(arrival.values, weights), weights

        # First pass: what is sent whole comes with it.
        said = [m if q is None else left(m, q) for m, q in zip(wanted, factors, strict=True)]
        arrival, network = collect(network, key, said, has_model, stream="first")
        bases = [value if q is None else orthonormal(value) for value, q in zip(mean(arrival)[0], factors, strict=True)]
        down, network = network.downlink(key, bases, stream="first down")
        heard = has_model & down.mask
        # Second pass, of those that heard: what they answer belongs to the basis as it came down.
        bases = [values[0] for values in down.values]
        answers = [right(m, p) if q is not None else None for m, p, q in zip(wanted, bases, factors, strict=True)]
        thin = [answer for answer in answers if answer is not None]
        weights = aggregation_weights(problem, weighting, network, rows, heard)
        new_factors: list[Array] = []
        updated = heard
        if thin:
            arrival, network = collect(network, key, thin, heard, stream="second")
            new_factors, weights = mean(arrival)
            down, network = network.downlink(key, new_factors, stream="second down")
            new_factors, updated = [values[0] for values in down.values], heard & down.mask
        arrived = iter(new_factors)
        moved = [p if q is None else product(p, next(arrived)) for p, q in zip(bases, factors, strict=True)]
        like = jax.tree.leaves(state.params)
        gradient = treedef.unflatten(
            [g.reshape(leaf.shape).astype(leaf.dtype) for g, leaf in zip(moved, like, strict=True)]
        )

        left_over = [
            jnp.zeros_like(m) if answer is None else m - product(p, answer)
            for m, p, answer in zip(wanted, bases, answers, strict=True)
        ]
        residual = treedef.unflatten(
            [
                e.reshape(leaf.shape).astype(leaf.dtype)
                for e, leaf in zip(left_over, jax.tree.leaves(error), strict=True)
            ]
        )
        residual = trees.select(heard, residual, error)
        loss = trees.mean(jnp.where(heard, losses, 0), weights)
        held: PyTree = ()
        if momentum is not None:
            held = jax.tree.map(lambda m, g: momentum * m + g, state.momentum, gradient)
            gradient = trees.add(gradient, held)
        updates, optimizer_state = one.update(key, gradient, state.optimizer_state, state.params, loss)
        model = optax.apply_updates(state.params, updates)
        someone = jnp.any(weights > 0)
        new_factors = [q.astype(old.dtype) for q, old in zip(new_factors, state.factors, strict=True)]
        shared = (model, optimizer_state, held, tuple(new_factors))
        shared = jax.tree.map(lambda new, old: jnp.where(someone, new, old), shared, tuple(state[:4]))
        # Who has not heard an update no longer holds x; where there was none, all hold what they held.
        if rows is None:
            is_current = jnp.where(someone, updated, has_model)
        else:
            residual = trees.put(state.error, rows, residual)
            away = jnp.where(someone, False, state.is_current)
            is_current = away.at[rows].set(jnp.where(someone, updated, has_model), unique_indices=True)
        info = {"loss": losses, "num_gradients": jnp.where(has_model, jnp.uint32(problem.batch_size), jnp.uint32(0))}
        return PowerSGDState(*shared, residual, is_current), network, info

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: as_one(state.params),
        requires=frozenset({"common_start", "server"}),
        source="Vogels, Karimireddy and Jaggi, PowerSGD, NeurIPS 2019",
    )


def _caught_up(key: Array, state: PowerSGDState, network: Network) -> tuple[Array, Network]:
    """Who of the cohort holds x and Q, bool `[C]`, when those that did not and are there have been sent them."""
    rows, present = asked(network)
    current = state.is_current if rows is None else state.is_current[rows]
    if rows is None and network.is_present is None and network.channel is PERFECT:
        return current, network  # nobody ever misses anything
    there = network.is_present
    behind = ~state.is_current if there is None else there & ~state.is_current
    arrival, after = network.replace(is_present=behind).downlink(key, (state.params, state.factors), stream="model")
    return present & (current | arrival.mask), after.replace(is_present=there)
