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
from dlsim.networks.flight.server_messages import asked
from dlsim.networks.network import Network
from dlsim.problems.variables import without_statistics

if TYPE_CHECKING:
    import optax


class PowerSGDState(NamedTuple):
    params: PyTree  # [...] x, which all that have heard the last update hold
    optimizer_state: PyTree
    momentum: PyTree  # [...] m, or () without
    factors: tuple[Array, ...]  # [r, b] Q^T of each matrix, from the last round
    error: tuple[Array, ...]  # [N, a, b] e_i of each matrix, what node i has not said yet
    version: Array  # int32 [] updates so far
    heard: Array  # int32 [N] the last of them that node i has heard: it holds that x and Q


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

    checks.instance("power_sgd", "problem", problem, Problem, "See dlsim.problems.")
    without_statistics("power_sgd", problem)
    rank = checks.integer("power_sgd", "rank", rank, 1)
    check_weighting("power_sgd", weighting)
    if momentum is not None:
        checks.number("power_sgd", "momentum", momentum, 0.0, 1.0, open_maximum=True)
    one = server_optimizer("power_sgd", optimizer, "optimizer")

    def init(key: Array, params: PyTree, network: Network) -> PowerSGDState:
        del key
        model, shapes = first(params), matrix_shapes(params, rank)
        factors = tuple(start for start in starts(shapes) if start is not None)
        error = tuple(
            jnp.zeros_like(as_matrix(leaf, shape))
            for leaf, shape in zip(jax.tree.leaves(params), shapes, strict=True)
            if shape.rank
        )
        held = () if momentum is None else trees.zeros_like(model)
        return PowerSGDState(
            params=model,
            optimizer_state=one.init(model),
            momentum=held,
            factors=factors,
            error=error,
            version=jnp.zeros((), jnp.int32),
            heard=jnp.zeros(network.num_nodes, jnp.int32),
        )

    def step(key: Array, state: PowerSGDState, network: Network) -> tuple[PowerSGDState, Network, Info]:
        has_model, network = _caught_up(key, state, network)
        rows, _ = asked(network)
        ids = network.node_ids if rows is None else network.node_ids[rows]
        copies = trees.replicate(state.params, ids.shape[0])
        gradients, losses = problem.gradient(keys.stream(key, "batch"), copies, ids)
        shapes = matrix_shapes(copies, rank)
        error = state.error if rows is None else trees.take(state.error, rows)
        kept, unsaid = iter(state.factors), iter(error)
        factors = [None if start is None else revived(next(kept), start) for start in starts(shapes)]
        wanted = [
            as_matrix(leaf, shape) + (next(unsaid) if shape.rank else 0)
            for leaf, shape in zip(jax.tree.leaves(gradients), shapes, strict=True)
        ]

        def mean(arrival: Any) -> tuple[list[Array], Array]:
            weights = aggregation_weights(problem, weighting, network, rows, arrival.mask)
            return trees.mean(arrival.values, weights), weights

        # First pass: what is sent whole comes with it.
        said = [m if q is None else left(m, q) for m, q in zip(wanted, factors, strict=True)]
        arrival, network = collect(network, key, said, has_model, stream="first")
        bases = [value if q is None else orthonormal(value) for value, q in zip(mean(arrival)[0], factors, strict=True)]
        down, network = network.downlink(key, bases, stream="first down")
        answers_from = has_model & down.mask
        # Second pass, of those that heard: what they answer belongs to the basis as it came down.
        bases = [values[0] for values in down.values]
        answers = [right(m, p) if q is not None else None for m, p, q in zip(wanted, bases, factors, strict=True)]
        thin = [answer for answer in answers if answer is not None]
        weights = aggregation_weights(problem, weighting, network, rows, answers_from)
        new_factors: list[Array] = []
        updated = answers_from
        if thin:
            arrival, network = collect(network, key, thin, answers_from, stream="second")
            new_factors, weights = mean(arrival)
            down, network = network.downlink(key, new_factors, stream="second down")
            new_factors, updated = [values[0] for values in down.values], answers_from & down.mask
        arrived = iter(new_factors)
        moved = [p if q is None else product(p, next(arrived)) for p, q in zip(bases, factors, strict=True)]
        like = jax.tree.leaves(state.params)
        leaves = [g.reshape(leaf.shape).astype(leaf.dtype) for g, leaf in zip(moved, like, strict=True)]
        gradient = jax.tree.unflatten(jax.tree.structure(state.params), leaves)
        triples = zip(wanted, bases, answers, strict=True)
        left_over = tuple(m - product(p, answer) for m, p, answer in triples if answer is not None)
        left_over = trees.select(answers_from, left_over, error)
        loss = trees.mean(jnp.where(answers_from, losses, 0), weights)
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
        model, optimizer_state, held, kept_factors = shared
        version = state.version + someone
        before = state.heard if rows is None else state.heard[rows]
        heard = jnp.where(someone & updated, version, jnp.where(has_model, state.version, before))
        if rows is not None:
            heard = state.heard.at[rows].set(heard, unique_indices=True)
            left_over = trees.put(state.error, rows, left_over)
        info = {"loss": losses, "num_gradients": jnp.where(has_model, jnp.uint32(problem.evaluations), jnp.uint32(0))}
        new = PowerSGDState(model, optimizer_state, held, kept_factors, left_over, version, heard)
        return new, network, info

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: as_one(state.params),
        requires=frozenset({"common_start", "server", "prompt"}),
        source="Vogels, Karimireddy and Jaggi, PowerSGD, NeurIPS 2019",
    )


def _caught_up(key: Array, state: PowerSGDState, network: Network) -> tuple[Array, Network]:
    """Who of the cohort holds x and Q, bool `[C]`, when those that did not and are there have been sent them."""
    rows, present = asked(network)
    is_current = state.heard == state.version
    current = is_current if rows is None else is_current[rows]
    if rows is None and network.is_present is None and not network.may_miss:
        return current, network  # nobody ever misses anything
    there = network.is_present
    behind = ~is_current if there is None else there & ~is_current
    arrival, after = network.replace(is_present=behind).downlink(key, (state.params, state.factors), stream="model")
    return present & (current | arrival.mask), after.replace(is_present=there)
