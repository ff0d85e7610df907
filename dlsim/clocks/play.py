"""Play: what the events do, wave after wave, inside one compiled loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.clocks.waves import NOTHING, Blocks
from dlsim.core import Array, PyTree


class Events(NamedTuple):
    """C events of one kind that share no node.  Where `is_event` is false the rest is filler, and so is b of one node."""

    a: Array  # int32 [C] positions, always of nodes that exist
    b: Array  # int32 [C]
    kind: int
    number: Array  # uint32 [C] of the event at its clock
    position: Array  # uint32 [C] in the tape
    seconds: Array  # float32 [C] time
    since_a: Array  # float32 [C] seconds since the last event of a
    since_b: Array  # float32 [C]
    is_event: Array  # bool [C]
    columns: dict[str, Array]  # [C, ...] of the tape


class Pooled(NamedTuple):
    """A carry of nodes, and of slots that the nodes beyond N on the tape stand for: what messages under way say."""

    nodes: PyTree  # [N, ...]
    slots: PyTree  # [P, ...]; the b of every event of two nodes is one of these


class EventFn(Protocol):
    """What events of a kind do: `(events, rows_a [C, ...], rows_b [C, ...]) -> (rows_a, rows_b)`, or with one node
    `(events, rows_a) -> rows_a`; with `collect` followed by what to collect, `[C, ...]`."""

    def __call__(self, events: Events, /, *rows: PyTree) -> Any: ...


@checks.typed
def play(
    carry: PyTree,
    blocks: Blocks,
    event_fns: EventFn | Mapping[int, EventFn],
    *,
    start: Any = None,
    num: int | None = None,
    collect: bool = False,
) -> Any:
    """The carry after the blocks' events: what one event at a time gives, bit for bit.

    One event at a time is `play` of `pack(one_by_one(tape), tape, width=blocks.width)`: the same program, a block an
    event.  For equal bits the function must treat every event by itself (row k of what it returns depends on row k of
    what it is given) and draw its random numbers from `event_keys`.  At another width the bits are the same wherever
    the compiler rounds a row alike: always for sums and products by powers of two, and for widths that are multiples
    of 8 in all that was tried; exp, tanh and the like may differ in the last bit at odd widths.

    Donate the carry to the compiled function around this one to update it in place.

    Args:
      carry: what the nodes hold, leaves `[N, ...]`; or `Pooled`.
      blocks: see `pack`.
      event_fns: see `EventFn`; one, or one for each kind on the tape.
      start: first block to play, may be traced; default 0.
      num: blocks to play from there; default: all.
      collect: also return what the functions say of each event.
    Returns: the carry; with `collect` also what was collected, leaves `[B, C, ...]` (see `in_tape_order`).
    """
    functions = _functions(blocks, event_fns)
    _check_rows("play", carry, blocks)
    places = jnp.arange(blocks.num_blocks)
    if num is not None:
        checks.integer("play", "num", num, 1, blocks.num_blocks)
        places = (0 if start is None else start) + jnp.arange(num)
    elif start is not None:
        checks.fail("play", "num", "given with start", "None", "Say how many blocks to play from there.")
    on_device = jax.tree.map(jnp.asarray, blocks)

    def one(carry: PyTree, place: Array) -> tuple[PyTree, Any]:
        return _play_block(carry, on_device, place, functions, None, collect)

    carry, collected = jax.lax.scan(one, jax.tree.map(jnp.asarray, carry), places)
    return (carry, collected) if collect else carry


@checks.typed
def play_between(
    carry: PyTree, blocks: Blocks, event_fns: EventFn | Mapping[int, EventFn], begin: Array, end: Array, totals: PyTree
) -> tuple[PyTree, PyTree]:
    """Like `play` for the blocks `begin` to `end - 1`, both traced; a program serves any number of blocks.

    Args:
      carry, blocks, event_fns: see `play`.
      begin, end: blocks, int32 `[]`.
      totals: what is summed up over events: after the rows a function returns what its events add, a tree like this one.
        Integers, so that a sum does not depend on how events are grouped.
    Returns: the carry and the totals.
    """
    functions = _functions(blocks, event_fns)
    _check_rows("play_between", carry, blocks)
    for name, value in (("begin", begin), ("end", end)):
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.integer):
            checks.fail("play_between", name, "an integer, int32 []", checks.describe(value))
        if isinstance(value, int):
            checks.integer("play_between", name, value)
    for leaf in jax.tree.leaves(totals):
        if isinstance(leaf, int):
            checks.integer("play_between", "totals", leaf)
        if not jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.integer):
            checks.fail("play_between", "totals", "integers", checks.describe(leaf), "Sums of floats depend on order.")

    def one(i: Array, both: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        place = begin + i
        carry, added = _play_block(both[0], blocks, place, functions, place < end, True)
        form: Any = jax.tree.structure(added)
        if form != jax.tree.structure(totals):
            expected = f"of the structure of what the functions add, {form}"
            checks.fail("play_between", "totals", expected, str(jax.tree.structure(totals)))
        return carry, jax.tree.map(jnp.add, both[1], added)

    return jax.lax.fori_loop(0, _longest(end - begin), one, (carry, totals))


@jax.custom_batching.custom_vmap
def _longest(count: Array) -> Array:
    """The count `[]`; of runs side by side the greatest, the same for all.

    A loop whose length differs from run to run would copy everything that it changes at every turn.
    """
    return count


@_longest.def_vmap
def _longest_of_all(axis_size: int, in_batched: list[bool], count: Array) -> tuple[Array, bool]:
    del axis_size
    return (_longest(jnp.max(count)) if in_batched[0] else _longest(count)), False


@jax.custom_batching.custom_vmap
def _if_mine(is_mine: Array, value: Array, other: Array) -> Array:
    """The value, of a loop of one turn that is taken where `is_mine` holds; of runs side by side, where one of them may
    take it for the others, `where(is_mine, value, other)`.

    A choice is not free: fused into the gather of rows, it is made for every number of a row.
    """
    del is_mine, other
    return value


@_if_mine.def_vmap
def _if_mine_of_all(
    axis_size: int, in_batched: list[bool], is_mine: Array, value: Array, other: Array
) -> tuple[Array, bool]:
    if not in_batched[0]:
        value = value if in_batched[1] else jnp.broadcast_to(value, (axis_size, *value.shape))
        other = other if in_batched[2] else jnp.broadcast_to(other, (axis_size, *other.shape))
        return jax.vmap(_if_mine, in_axes=(None, 0, 0))(is_mine, value, other), True
    return jax.vmap(jnp.where, in_axes=tuple(0 if b else None for b in in_batched))(is_mine, value, other), True


def _play_block(
    carry: PyTree, blocks: Blocks, place: Array, functions: list[EventFn], is_on: Array | None, collect: bool
) -> tuple[PyTree, Any]:
    """The carry after the block at `place`, if it `is_on`, and what its function says of its events (zeros for one
    that is not)."""
    kinds: list[tuple[EventFn, int, bool]] = list(zip(functions, blocks.kinds, blocks.is_pair, strict=True))
    if len(kinds) == 1 and is_on is None:
        return _turn(carry, _block(blocks, place), kinds[0], None, collect)
    shape = jax.eval_shape(lambda carry: _turn(carry, _block(blocks, place), kinds[0], None, collect)[1], carry)
    collected = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
    number = jax.lax.dynamic_index_in_dim(blocks.kind, place, keepdims=False)
    for index, kind in enumerate(kinds):
        is_mine = number == index
        is_mine = is_mine if is_on is None else is_mine & is_on

        def once(
            turn: Array, both: tuple[PyTree, Any], kind: Any = kind, is_mine: Array = is_mine
        ) -> tuple[PyTree, Any]:
            # Tied to the turn, or draws and data of this kind's events would be computed before the loop, in every block.
            _, here = jax.lax.optimization_barrier((turn, place))
            carry, new = _turn(both[0], _block(blocks, here), kind, is_mine, collect)
            return carry, jax.tree.map(lambda a, b: _if_mine(is_mine, a, b), new, both[1])

        # A loop of one turn or none: a conditional would copy its operands, here all that the nodes hold.
        carry, collected = jax.lax.fori_loop(0, _longest(is_mine.astype(jnp.int32)), once, (carry, collected))
    return carry, collected


def _block(blocks: Blocks, place: Array) -> Blocks:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, place, keepdims=False), blocks)


@checks.typed
def event_keys(key: Array, events: Events, node_ids: Array | None = None) -> Array:
    """One key an event, `[C]`: it depends on (key, kind, ids of a and b, number) alone.

    Args:
      key: of the run.
      events: given to the function.
      node_ids: ids of the nodes, `[N]`, where they are not their positions.
    """
    a, b = events.a, events.b
    if node_ids is not None:
        node_ids = node_ids if isinstance(node_ids, jax.Array) else checks.host("event_keys", "node_ids", node_ids)
        if node_ids.ndim != 1 or not jnp.issubdtype(node_ids.dtype, jnp.integer):
            checks.fail("event_keys", "node_ids", "integers of shape [N]", f"{node_ids.dtype} {list(node_ids.shape)}")
        # -1, for no other node, is no position
        node_ids = jnp.asarray(node_ids)
        a, b = node_ids[a], jnp.where(b < 0, b, node_ids[b])

    return keys.fold_in(key, events.kind, a, b, events.number)


def _check_rows(where: str, carry: PyTree, blocks: Blocks) -> None:
    """A row a node in every leaf, and at least one leaf."""
    num = blocks.num_nodes
    parts: list[tuple[PyTree, int]] = [(carry, num)]
    if isinstance(carry, Pooled):
        num_slots = _num_rows(carry.slots)
        parts = [(carry.nodes, num - num_slots), (carry.slots, num_slots)]
    for part, size in parts:
        for leaf in jax.tree.leaves(part) or [part]:
            shape = getattr(leaf, "shape", ())
            if not shape or shape[0] != size:
                got = f"one of shape {list(shape)}" if shape else checks.describe(leaf)
                checks.fail(where, "carry", f"of leaves [{size}, ...]", got)


def _num_rows(tree: PyTree) -> int:
    shape = jnp.shape(jax.tree.leaves(tree)[0])
    return shape[0] if shape else 0


def _functions(blocks: Blocks, event_fns: EventFn | Mapping[int, EventFn]) -> list[EventFn]:
    checks.instance("play", "blocks", blocks, Blocks, "Make them with dlsim.clocks.pack.")
    if not isinstance(event_fns, Mapping):
        if len(blocks.kinds) > 1:
            fix = "Give a mapping {kind: function}."
            checks.fail("play", "event_fns", f"one for each of the kinds {list(blocks.kinds)}", "one function", fix)
        return [checks.function("play", "event_fns", event_fns)]
    missing = [kind for kind in blocks.kinds if kind not in event_fns]
    if missing:
        checks.fail("play", "event_fns", f"one for each of the kinds {list(blocks.kinds)}", f"none for {missing[0]}")
    return [checks.function("play", f"event_fns[{kind}]", event_fns[kind]) for kind in blocks.kinds]


def _turn(
    carry: PyTree, block: Blocks, kind: tuple[EventFn, int, bool], is_mine: Array | None, collect: bool
) -> tuple[PyTree, Any]:
    """The carry after a block of this kind; untouched where the block is not of this kind (`is_mine`)."""
    function, number, is_pair = kind
    is_event, index_a, index_b = block.position != NOTHING, block.a, block.b
    slots = _num_rows(carry.slots) if isinstance(carry, Pooled) else 0
    last = block.num_nodes - slots - 1
    if is_mine is not None:
        nobody = block.num_nodes + jnp.arange(block.width, dtype=block.a.dtype)
        is_event = _if_mine(is_mine, is_event, jnp.zeros_like(is_event))
        index_a, index_b = _if_mine(is_mine, index_a, nobody), _if_mine(is_mine, index_b, nobody)
    if slots:
        index_b = index_b - (last + 1)  # what is left of those of no events is beyond the slots still
    last_b = slots - 1 if slots else last
    events = Events(
        a=jnp.minimum(index_a, last),
        b=jnp.minimum(index_b, last_b) if is_pair else jnp.full_like(index_b, -1),
        kind=number,
        number=block.number,
        position=block.position,
        seconds=block.seconds,
        since_a=block.since_a,
        since_b=block.since_b,
        is_event=is_event,
        columns=block.columns,
    )
    first, second = (carry.nodes, carry.slots) if isinstance(carry, Pooled) else (carry, carry)
    rows = [("rows_a", index_a, _gather(first, index_a))]
    if is_pair:
        rows.append(("rows_b", index_b, _gather(second, index_b)))
    result = function(events, *(old for _, _, old in rows))
    *changed, collected = result if collect else ((*result, None) if is_pair else (result, None))
    if isinstance(carry, Pooled):
        kept = [
            _scatter(held, index, _like(name, new, old), old)
            for held, (name, index, old), new in zip(carry, rows, changed, strict=False)
        ]
        return Pooled(kept[0], kept[1] if is_pair else carry.slots), collected
    for (name, index, old), new in zip(rows, changed, strict=True):
        carry = _scatter(carry, index, _like(name, new, old), old)
    return carry, collected


def _like(name: str, new: PyTree, old: PyTree) -> PyTree:
    """Rows as the carry holds them, or one clear line."""
    got: Any = jax.tree.structure(new)
    if got != jax.tree.structure(old):
        checks.fail("play", f"{name} from the function", "of the carry's structure", str(got))

    def cast(value: Array, like: Array) -> Array:
        if value is like:
            return like
        if jnp.shape(value) != like.shape:
            checks.fail(
                "play", f"{name} from the function", f"of shape {list(like.shape)}", str(list(jnp.shape(value)))
            )
        return jnp.asarray(value, like.dtype)

    return jax.tree.map(cast, new, old)


def _gather(carry: PyTree, index: Array) -> PyTree:
    # Unsigned, or JAX would look for indices that count from the end, once for every number of a row.
    rows = index.astype(jnp.uint32)
    return jax.tree.map(lambda leaf: leaf.at[rows].get(mode="clip"), carry)


def _scatter(carry: PyTree, index: Array, rows: PyTree, old: PyTree) -> PyTree:
    # In place inside a loop: the rows were read before, and no two slots name one node.
    def put(leaf: Array, row: Array, was: Array) -> Array:
        return leaf if row is was else leaf.at[index].set(row, mode="drop", unique_indices=True)

    return jax.tree.map(put, carry, rows, old)
