"""Any optax optimiser at every node: noise of its own, schedules by the round, and the loss where it asks for it."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.core import SERVER, Array, PyTree
from dlsim.problems.variables import Variables, moved, trained

if TYPE_CHECKING:
    import optax

EXTRAS = ("value", "grad", "value_fn")  # what an update may ask for beside gradients, state and parameters
# What these hold is void where the state starts anew before it has come to anything.
_ACCUMULATORS = ("ApplyEvery", "MultiStepsState", "ReduceLROnPlateauState")
_CLOCKED = ("ConditionallyMaskState", "ConditionallyTransformState")  # beside a counter they hold another's state
_MISSING = re.compile(r"missing \d+ required keyword-only arguments?: (.*)")


class NodeOptimizer(NamedTuple):
    """An optimiser at n nodes, each with a state of its own; see `node_optimizer`."""

    init: Any  # (params [n, ...]) -> state [n, ...]
    update: Any  # (key, node_ids [n], gradients, state, params, losses=None, loss_of=None, round=None) -> both
    evaluations: Any  # (state) -> int32 [n], what the last update evaluated on its own, or None: nothing


def node_optimizer(
    where: str, optimizer: optax.GradientTransformation, argument: str = "optimizer", *, restarts: bool = False
) -> NodeOptimizer:
    """`optimizer` for n nodes at a time, every leaf of its state `[n, ...]`.

    `update(key, node_ids, gradients, state, params)` gives `(updates, state)`.  Random keys are no part of the state:
    where the optimiser draws (`optax.add_noise`, `noisy_sgd`), it does by a key made of `key`, the node's id and the
    key that the user gave it, so that a draw depends on (seed, step, node id, purpose) alone.

    Parameters stored in half precision are float32 for the optimiser, and so is its state, unless it is told otherwise
    (`optax.sgd(..., accumulator_dtype=)`, `optax.adam(..., mu_dtype=)`); the updates have the dtype of the parameters.

    With `losses [n]`, and `loss_of(params [...], row) -> (loss, gradient)` of one node, they are handed to optimisers
    that take `value`, `grad` or `value_fn` (`optax.lbfgs`, `polyak_sgd`, `contrib.reduce_on_plateau`).

    With `round` (`[]` or `[n]`) schedules count rounds: the counters in the state that stand for nothing but time
    (`schedule_counts`) are set to it before every update.  Those of moments (Adam's bias correction) are left alone.

    Args:
      where, argument: names for the error lines.
      optimizer: an optax.GradientTransformation; floats may be traced.
      restarts: whether the state starts anew each round; then what must outlive a round is refused; structural.
    """
    checks.optimizer(where, argument, optimizer)
    accepted = _accepted(optimizer.update)

    def init(params: PyTree) -> PyTree:
        state = jax.vmap(optimizer.init)(trees.widen(trained(params)))
        if restarts:
            _refuse_accumulators(where, argument, state)
        return _without_keys(state)

    def update(
        key: Array,
        node_ids: Array,
        gradients: PyTree,
        state: PyTree,
        params: PyTree,
        losses: Array | None = None,
        loss_of: Any = None,
        round: Array | None = None,
    ) -> tuple[PyTree, PyTree]:
        if isinstance(params, Variables):  # running statistics move by themselves
            statistics, loss = params.batch_stats, loss_of

            def loss_of_trained(at: PyTree, row: Array) -> tuple[Array, PyTree]:
                value, gradient = loss(Variables(at, jax.tree.map(lambda leaf: leaf[row], statistics)), row)
                return value, gradient.params

            of = None if loss is None else loss_of_trained
            updates, state = update(key, node_ids, gradients.params, state, params.params, losses, of, round)
            return Variables(updates, moved(gradients)), state
        stored, gradients, params = params, trees.widen(gradients), trees.widen(params)
        if round is not None:
            state = at_round(state, round)
        drawing = _with_keys(optimizer, key, node_ids, state, params)
        extras: dict[str, Any] = {}
        if losses is not None:
            extras = {name: given for name, given in (("value", losses), ("grad", gradients)) if name in accepted}
        needs_fn = loss_of is not None and "value_fn" in accepted

        def one(row: Array, gradient: PyTree, state: PyTree, params: PyTree, extras: dict[str, Any]) -> Any:
            if needs_fn:
                extras = {**extras, "value_fn": lambda at: _differentiable(loss_of, at, row)}
            return _updated(where, argument, optimizer, gradient, state, params, extras)

        rows = jnp.arange(node_ids.shape[0])
        updates, after = jax.vmap(one)(rows, gradients, drawing, params, extras)
        return trees.cast_like(updates, stored), _without_keys(after)

    return NodeOptimizer(init=init, update=update, evaluations=_line_search_steps)


class ServerOptimizer(NamedTuple):
    """An optimiser of one model; see `server_optimizer`."""

    init: Any  # (params [...]) -> state
    update: Any  # (key, gradient, state, params, loss=None) -> (updates, state)


def server_optimizer(
    where: str, optimizer: optax.GradientTransformation, argument: str = "server_optimizer"
) -> ServerOptimizer:
    """`optimizer` for one model at the server: its draws are those of the node `SERVER`, its `value` the clients' loss."""
    nodes = node_optimizer(where, optimizer, argument)

    def rows(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[None], tree)

    def first(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[0], tree)

    def init(params: PyTree) -> PyTree:
        return _without_keys(optimizer.init(trees.widen(trained(params))))

    def update(
        key: Array, gradient: PyTree, state: PyTree, params: PyTree, loss: Array | None = None
    ) -> tuple[PyTree, PyTree]:
        me = jnp.full((1,), SERVER, jnp.int32)
        losses = None if loss is None else loss[None]
        return first(nodes.update(key, me, rows(gradient), rows(state), rows(params), losses))

    return ServerOptimizer(init=init, update=update)


def rate_by_round(where: str, argument: str, rate: Any, *, least: float = 0.0) -> Any:
    """`(round) -> rate` of a number above `least`, or of a schedule, which is a function of the round already."""
    if callable(rate):
        return rate
    checks.number(where, argument, rate, least, open_minimum=True)
    return lambda round: rate


def at_round(state: PyTree, round: Array) -> PyTree:
    """The state with `schedule_counts` set to the round, `[]` or one a node."""

    def leaf(node: Any) -> Any:
        name = _clock(node)
        if name is None:
            return node
        count = getattr(node, name)
        node = node._replace(**{name: jnp.broadcast_to(round, count.shape).astype(count.dtype)})
        if type(node).__name__ in _CLOCKED:
            node = node._replace(inner_state=at_round(node.inner_state, round))
        return node

    return jax.tree.map(leaf, state, is_leaf=lambda node: _clock(node) is not None)


def _clock(node: Any) -> str | None:
    """The field of a state that counts steps and nothing else: a tuple whose one number is an integer."""
    fields = getattr(node, "_fields", ())
    if type(node).__name__ in _CLOCKED:
        return "step"
    numbers = [name for name in fields if jax.tree.leaves(getattr(node, name))]
    numbers = [name for name in numbers if not _is_key((name,), getattr(node, name))]
    if len(numbers) != 1:
        return None
    count = getattr(node, numbers[0])
    is_integer = hasattr(count, "dtype") and jnp.issubdtype(count.dtype, jnp.integer)
    return numbers[0] if is_integer else None


def _differentiable(loss_of: Any, at: PyTree, row: Array) -> Array:
    """A node's loss as a function that can be differentiated, of a loss that comes with its gradient."""
    here = jax.lax.stop_gradient(at)
    loss, gradient = jax.lax.stop_gradient(loss_of(here, row))
    moved = jax.tree.map(lambda a, b, g: jnp.sum((a - b) * g), at, here, gradient)
    return loss + sum(jax.tree.leaves(moved))


def _accepted(update: Any) -> frozenset[str]:
    """Which of EXTRAS an update may be given."""
    try:
        parameters = inspect.signature(update).parameters
    except (TypeError, ValueError):
        return frozenset()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return frozenset(EXTRAS)
    return frozenset(EXTRAS) & frozenset(parameters)


def _updated(
    where: str, argument: str, optimizer: Any, gradient: PyTree, state: PyTree, params: PyTree, extras: dict[str, Any]
) -> tuple[PyTree, PyTree]:
    try:
        updates, after = optimizer.update(gradient, state, params, **extras)
    except TypeError as error:
        found = _MISSING.search(str(error))
        if found is None:
            raise
        given = ", ".join(sorted(extras)) or "nothing beside gradients and parameters"
        checks.fail(where, argument, f"one whose update needs no more than {given}", f"one that needs {found[1]}")
    made, wanted = ([jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (updates, params))
    if made != wanted:
        rule = "one whose updates have the shapes of the parameters (and not one of gradients by example)"
        checks.fail(where, argument, rule, f"updates of shapes {made} for {wanted}")
    return updates, after


def _refuse_accumulators(where: str, argument: str, state: PyTree) -> None:
    def is_one(node: Any) -> bool:
        return type(node).__name__ in _ACCUMULATORS

    for node in jax.tree.leaves(state, is_leaf=is_one):
        if is_one(node):
            rule = "one whose state may start anew each round"
            fix = "Accumulate by a larger batch; let the rate follow the round by a schedule, or act at the server."
            checks.fail(where, argument, rule, f"one that accumulates over steps ({type(node).__name__})", fix)


def _line_search_steps(state: PyTree) -> Array | None:
    """Losses that the last update's line search took on its own, int32 `[n]`."""
    found = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if _name(path) == "num_linesearch_steps"]
    return sum(found[1:], start=found[0].astype(jnp.int32)) if found else None


# Keys.


def _name(path: tuple[Any, ...]) -> str:
    last = path[-1] if path else ""
    return str(getattr(last, "name", getattr(last, "key", last)))


def _is_key(path: tuple[Any, ...], leaf: Any) -> bool:
    """Whether a leaf is a random key: a typed one, or words in a field that is named so."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return False
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return True
    is_named = re.search(r"key|rng|seed", _name(path)) is not None
    return dtype == jnp.uint32 and leaf.ndim > 0 and leaf.shape[-1] in (2, 4) and is_named


def _without_keys(state: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: None if _is_key(path, leaf) else leaf, state)


def _with_keys(optimizer: Any, key: Array, node_ids: Array, state: PyTree, params: PyTree) -> PyTree:
    """The state with keys of this step and node where the optimiser keeps its own."""
    leaves = jax.tree.leaves(state)
    model = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
    if len(jax.tree.leaves(jax.eval_shape(optimizer.init, model))) == len(leaves):
        return state
    fresh, treedef = jax.tree_util.tree_flatten_with_path(
        jax.vmap(lambda _, params: optimizer.init(params))(node_ids, params)
    )
    own = keys.at_nodes(keys.stream(key, "optimizer"), node_ids)
    rest = iter(leaves)
    whole = [_drawn(own, i, leaf) if _is_key(path, leaf) else next(rest) for i, (path, leaf) in enumerate(fresh)]
    return jax.tree.unflatten(treedef, whole)


def _drawn(own: Array, place: int, given: Array) -> Array:
    """Keys like `given`, which is the user's `[n]`: of the node's own and it."""
    is_typed = jnp.issubdtype(given.dtype, jax.dtypes.prng_key)
    words = jax.random.key_data(given) if is_typed else given
    # The user's key tells purposes apart; a function of the draws' own key makes them differ by seed, step and node.
    mixed = keys.fold_in(own, place, *(words[..., j] for j in range(words.shape[-1])))
    size = words.shape[-1]
    if str(jax.random.key_impl(mixed)) == keys.THREEFRY and size == 2:
        data = jax.random.key_data(mixed)
    else:
        data = jax.vmap(lambda one: jax.random.bits(one, (size,), jnp.uint32))(mixed)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(given)) if is_typed else data
