"""Matching: the hidden units of heard models are brought into the order of one's own before anything is averaged."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.aggregators.assignment import linear_assignment
from dlsim.core import Array, Problem, PyTree
from dlsim.networks.network import Inbox
from dlsim.problems.hidden_units import HiddenUnits, batch_statistics, hidden_units
from dlsim.problems.own_data import check_models
from dlsim.problems.variables import trained

SMALLEST_PRODUCT = 1e-7  # of two standard deviations, so that dead units correlate with none
_SWEEPS = 100  # of weight matching over the layers; it has stopped by itself long before


class Matching(NamedTuple):
    """How a node compares what it heard with its own model, and re-orders it.

    `compare(key, own [n, ...], inbox) -> (inbox, scores)`: for every hidden space a leaf `[n, K, H, H]`, how much unit u of
    one's own is like unit v of the k-th heard; what cannot be compared is taken out of the inbox.
    `reorder(own, inbox, orders) -> inbox`: unit u is then where unit `orders[n, k, u]` was, a leaf `[n, K, H]` a space.
    `finish(key, params [n, ...], node_ids [n] | None) -> params`: what is done to the merged models, of whose nodes.
    `search`, in place of `compare`, gives inbox and orders in one go, for rules whose assignments need one another.
    """

    sizes: tuple[int, ...]  # H of every hidden space
    compare: Any
    reorder: Any
    finish: Any
    search: Any = None
    source: str = ""
    like: PyTree = None  # a model of the problem, `[...]`, as shapes


def activation_matching(problem: Problem, inputs: Any | None = None, *, units: HiddenUnits | None = None) -> Matching:
    """Unit u of one's own and unit q(u) of a heard model fire alike:  q = argmax over permutations of sum_u C[u, q(u)],

        C[u, v] = cov(A_own[:, u], A_heard[:, v]) / max(std_u std_v, 1e-7)

    A `[S, H]` the activations of a hidden layer on the same inputs, all moments biased.  Layers are matched apart from one
    another.  Nothing but the models is sent: a node runs what it heard on inputs of its own.  BatchNorm's statistics of heard
    and merged models are computed on the same inputs, never averaged (`dlsim.problems.batch_statistics`).  A heard model
    whose correlations are not finite is left out, and its weight stays with the node.

    Args:
      problem: one whose model has layers one after the other (`dlsim.problems.hidden_units`).
      inputs: `[m, ...]`, the same at all nodes, as the model sees them (`dlsim.problems.shared_inputs`); None: each node
        takes a batch of its own, drawn anew each round.  Labels are not used.
      units: the table of hidden units where `hidden_units` cannot find it.
    Cost a round and node: K + 1 forward passes of the inputs (two more with BatchNorm), K assignments a layer.
    Source: Saadati et al., DIMAT, CVPR 2024; Li, Yosinski, Clune, Lipson and Hopcroft, Convergent learning, ICLR 2016.
      Differs: activations are taken as the next layer sees them, after pooling; inputs are shared or a node's own, where
      the authors' code has the whole training set at every node.
    """
    where = "activation_matching"
    model, shape, data = _data(where, problem, inputs)
    units = _units(where, model, shape, units)
    example = jax.eval_shape(problem.init, jax.random.key(0))

    def renewed(params: PyTree, data: Array) -> PyTree:
        return batch_statistics(model, params, data)

    def compare(key: Array, own: PyTree, inbox: Inbox) -> tuple[Inbox, tuple[Array, ...]]:
        _check_heard(where, example, inbox)
        drawn = data(key, inbox.node_ids)

        def at_node(own: PyTree, heard: PyTree, data: Array) -> tuple[PyTree, tuple[Array, ...]]:
            mine = units.activations(renewed(own, data), data)
            # One after the other in memory: the activations of one heard model are as large as those of one's own.
            return jax.lax.map(lambda one: _compared(units, mine, renewed(one, data), data), heard)

        values, scores = jax.vmap(at_node, in_axes=(0, 0, None if drawn.ndim == len(shape) + 1 else 0))(
            own, inbox.values, drawn
        )
        sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(s), axis=(2, 3)) for s in scores]), axis=0)
        return without(inbox._replace(values=values), sound), scores

    return Matching(
        sizes=tuple(space.size for space in units.spaces),
        compare=compare,
        reorder=_reorder(units),
        finish=_renewal(model, shape, data),
        source="Saadati et al., CVPR 2024",
        like=example,
    )


def weight_matching(problem: Problem, inputs: Any | None = None, *, units: HiddenUnits | None = None) -> Matching:
    """Heard models one after the other are brought into the order in which their weights are most like the sum so far.

    In the order of the inbox, with r the node's own share of itself plus w_k times each aligned model before, layer after
    layer until no order changes any more:

        q_l = argmax over permutations of sum_u S[u, q(u)],    S = sum over arrays that touch layer l of  r (P_-l heard)^T

    with the other layers' orders in place.  Needs no data for it; `inputs` are for BatchNorm's statistics, as in
    `activation_matching`, and None otherwise.
    Source: Ainsworth, Hayase and Srinivasa, Git Re-Basin, ICLR 2023; as a baseline in Saadati et al., DIMAT, CVPR 2024.
      Differs: layers in their order, not in a random one.
    """
    where = "weight_matching"
    model, shape, data = _data(where, problem, inputs)
    units = _units(where, model, shape, units)
    example = jax.eval_shape(problem.init, jax.random.key(0))
    identity = tuple(np.arange(space.size, dtype=np.int32) for space in units.spaces)

    def aligned(reference: PyTree, heard: PyTree) -> tuple[Array, ...]:
        heard = trees.widen(heard)
        against = [units.touching(place, trained(reference)) for place in range(len(units.spaces))]

        def layer(place: int, orders: tuple[Array, ...]) -> tuple[Array, ...]:
            others = tuple(jnp.asarray(identity[i]) if i == place else order for i, order in enumerate(orders))
            mine = units.touching(place, units.permute(trained(heard), others))
            scores: Array = functools.reduce(jnp.add, [r @ h.T for r, h in zip(against[place], mine, strict=True)])
            new = linear_assignment(scores)
            index = jnp.arange(new.shape[0])
            # An order that is as good stays, or rounding would go round in circles.
            is_better = jnp.sum(scores[index, new]) > jnp.sum(scores[index, orders[place]]) + 1e-12
            return tuple(jnp.where(is_better, new, order) if i == place else order for i, order in enumerate(orders))

        def sweep(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            orders, _, count = carry
            new = orders
            for place in range(len(units.spaces)):
                new = layer(place, new)
            moved = jnp.any(jnp.stack([jnp.any(a != b) for a, b in zip(new, orders, strict=True)]))
            return new, moved, count + 1

        start = (tuple(map(jnp.asarray, identity)), jnp.ones((), bool), jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < _SWEEPS), sweep, start)[0]

    def search(key: Array, own: PyTree, inbox: Inbox) -> tuple[Inbox, tuple[Array, ...]]:
        del key
        _check_heard(where, example, inbox)

        def at_node(own: PyTree, heard: PyTree, weights: Array) -> tuple[Array, ...]:
            def one(total: PyTree, each: tuple[PyTree, Array]) -> tuple[PyTree, tuple[Array, ...]]:
                model, weight = each
                orders = aligned(total, model)
                put = units.permute(trees.widen(model), orders)
                return jax.tree.map(lambda t, p: jnp.where(weight == 0, t, t + weight * p), total, put), orders

            share = jax.tree.map(lambda leaf: (1 - jnp.sum(weights)) * leaf, trees.widen(own))
            return jax.lax.scan(one, share, (heard, weights))[1]

        sound = _finite(inbox.values)
        inbox = without(inbox, sound)
        return inbox, jax.vmap(at_node)(own, inbox.values, inbox.weights)

    return Matching(
        sizes=tuple(space.size for space in units.spaces),
        compare=None,
        reorder=_reorder(units),
        finish=_renewal(model, shape, data),
        search=search,
        source="Ainsworth, Hayase and Srinivasa, ICLR 2023",
        like=example,
    )


def _renewal(model: Any, shape: tuple[int, ...], data: Any) -> Any:
    """`finish` of a Matching: BatchNorm's statistics of the merged models, on the inputs that `data` gives."""

    def finish(key: Array, params: PyTree, node_ids: Array | None) -> PyTree:
        drawn = data(key, node_ids)
        axes = (0, None if drawn.ndim == len(shape) + 1 else 0)
        return jax.vmap(lambda params, data: batch_statistics(model, params, data), in_axes=axes)(params, drawn)

    return finish


def without(inbox: Inbox, sound: Array) -> Inbox:
    """The inbox without the messages that are not sound `[n, K]`: zero, of weight zero, not heard."""
    values = jax.tree.map(lambda leaf: jnp.where(trees.expand(sound, leaf), leaf, 0), inbox.values)
    return inbox._replace(values=values, weights=jnp.where(sound, inbox.weights, 0), mask=inbox.mask & sound)


def _compared(units: HiddenUnits, mine: tuple[Array, ...], heard: PyTree, data: Array) -> tuple[PyTree, Any]:
    return heard, tuple(map(correlations, mine, units.activations(heard, data)))


def correlations(own: Array, heard: Array) -> Array:
    """C[u, v] of activations `[S, H]` of two models on the same inputs, `[H, H]`; biased moments."""
    num = own.shape[0]
    a, b = own - jnp.mean(own, axis=0), heard - jnp.mean(heard, axis=0)
    scale = jnp.sqrt(jnp.mean(a * a, axis=0))[:, None] * jnp.sqrt(jnp.mean(b * b, axis=0))[None, :]
    return (a.T @ b) / num / jnp.maximum(scale, SMALLEST_PRODUCT)


def _reorder(units: HiddenUnits) -> Any:
    def reorder(own: PyTree, inbox: Inbox, orders: tuple[Array, ...]) -> Inbox:
        del own
        permute = jax.vmap(jax.vmap(units.permute))
        return inbox._replace(values=permute(inbox.values, orders))

    return reorder


def _finite(values: PyTree) -> Array:
    """Of which messages every number is finite, bool `[n, K]`."""
    each = [jnp.all(jnp.isfinite(leaf.reshape(*leaf.shape[:2], -1)), axis=2) for leaf in jax.tree.leaves(values)]
    return jnp.all(jnp.stack(each), axis=0)


def _data(where: str, problem: Problem, inputs: Any | None) -> tuple[Any, tuple[int, ...], Any]:
    """The model, the shape of one example, and `(key, node_ids [n]) -> inputs [m, ...] or [n, m, ...]`."""
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    if problem.model is None:
        fix = "Use dlsim.problems.classification or supervised, or problem._replace(model=...)."
        checks.fail(where, "problem", "one with a model of layers", "one without", fix)
    if inputs is None:
        drawn = jax.eval_shape(problem.sample, jax.random.key(0), np.zeros(1, np.int32))

        def own(key: Array, node_ids: Array | None) -> Array:
            if node_ids is None:
                fix = "Pass inputs that all share: dlsim.problems.shared_inputs(data, 500)."
                checks.fail(where, "inputs", "given where a server merges", "None", fix)
            found: Array = problem.sample(keys.stream(key, "matching"), node_ids).inputs
            return found

        return problem.model, tuple(drawn.inputs.shape[2:]), own
    with jax.ensure_compile_time_eval():  # an array, no tracer, also where this is called while something is traced
        checks.known(where, "inputs", inputs, "known while tracing")
        shared = jnp.asarray(checks.array(where, "inputs", inputs).astype(np.float32))
    drawn = jax.eval_shape(problem.sample, jax.random.key(0), np.zeros(1, np.int32))
    shape = tuple(drawn.inputs.shape[2:])
    if shared.ndim != len(shape) + 1 or shared.shape[1:] != shape or not shared.shape[0]:
        got = list(shared.shape)
        fix = "Make them with dlsim.problems.shared_inputs(data, 500)."
        checks.fail(where, "inputs", f"of shape [m, {', '.join(map(str, shape))}] with m >= 1", got, fix)
    return problem.model, shape, lambda key, node_ids: shared


def _units(where: str, model: Any, shape: tuple[int, ...], units: HiddenUnits | None) -> HiddenUnits:
    if units is None:
        return hidden_units(model, shape)
    return checks.instance(where, "units", units, HiddenUnits, "Leave it out for layers one after the other.")


def _check_heard(where: str, example: PyTree, inbox: Inbox) -> None:
    """Models of other shapes than the problem's cannot be merged with them."""
    check_models(where, "models", example, inbox.values, 2)
