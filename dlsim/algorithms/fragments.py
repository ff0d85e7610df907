"""A model cut into fragments: groups of layers that are synchronised each at its own time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, PyTree

PATTERNS = ("strided", "sequential")
BLOCKS = 3  # layers of a fragment, where nobody says how many fragments there are


class Fragments(NamedTuple):
    """Which entries of a model belong to which fragment; all of it known before anything is traced."""

    num: int
    # by fragment: (number of the leaf, rows of it or None: all)
    parts: tuple[tuple[tuple[int, np.ndarray | None], ...], ...]
    treedef: Any

    def take(self, tree: PyTree, p: int, lead: int) -> list[Array]:
        """Fragment p of a tree whose leaves have `lead` axes before the model's own."""
        leaves = jax.tree.leaves(tree)
        return [_rows(leaves[at], rows, lead) for at, rows in self.parts[p]]

    def put(self, tree: PyTree, p: int, values: list[Array], lead: int) -> PyTree:
        """The tree with other values of fragment p."""
        leaves = jax.tree.leaves(tree)
        for (at, rows), value in zip(self.parts[p], values, strict=True):
            place = (slice(None),) * lead
            leaves[at] = value if rows is None else leaves[at].at[(*place, rows)].set(value, unique_indices=True)
        return jax.tree.unflatten(self.treedef, leaves)

    def join(self, fragments: list[list[Array]], lead: int) -> PyTree:
        """The model that these fragments are of."""
        pieces: dict[int, list[tuple[np.ndarray | None, Array]]] = {}
        for p, values in enumerate(fragments):
            for (at, rows), value in zip(self.parts[p], values, strict=True):
                pieces.setdefault(at, []).append((rows, value))
        leaves = []
        for at in range(len(pieces)):
            if pieces[at][0][0] is None:
                leaves.append(pieces[at][0][1])
                continue
            order = np.argsort(np.concatenate([np.asarray(rows) for rows, _ in pieces[at]]))
            whole = jnp.concatenate([value for _, value in pieces[at]], axis=lead)
            leaves.append(_rows(whole, order, lead))
        return jax.tree.unflatten(self.treedef, leaves)

    def sizes(self, model: PyTree) -> tuple[int, ...]:
        """Numbers in each fragment of a model `[...]`."""
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(model)]
        return tuple(
            sum(int(np.prod(shapes[at] if rows is None else (len(rows), *shapes[at][1:]))) for at, rows in part)
            for part in self.parts
        )


def _rows(leaf: Array, rows: np.ndarray | None, lead: int) -> Array:
    return leaf if rows is None else jnp.take(leaf, rows, axis=lead, unique_indices=True, mode="clip")


def cut(where: str, fragments: Any, pattern: str, model: PyTree) -> Fragments:
    """The fragments of a model `[...]` (arrays or their shapes), see `streaming_diloco`."""
    checks.one_of(where, "pattern", pattern, PATTERNS)
    if callable(fragments):
        return _labelled(where, fragments, model)
    names = _layers(model)
    blocks, others = _blocks(list(dict.fromkeys(names)))
    if fragments is None:
        num = -(-len(blocks) // BLOCKS)
    else:
        num = checks.integer(where, "fragments", fragments, 1)
        if num > len(blocks):
            fix = "Each holds a layer at least; give a function that labels the leaves for finer ones."
            layers = f"{len(blocks)} layer{'s' if len(blocks) > 1 else ''}"
            checks.fail(where, "fragments", f"at most the {layers} of the model", num, fix)
    if pattern == "strided":
        of = {name: at % num for at, name in enumerate(blocks)}
    elif fragments is None:
        of = {name: at // BLOCKS for at, name in enumerate(blocks)}
    else:
        of = {name: at * num // len(blocks) for at, name in enumerate(blocks)}
    of |= dict.fromkeys(others, num)
    return _of_labels([of[name] for name in names], jax.tree.structure(model))


def _layers(model: PyTree) -> list[Any]:
    """The layer of every leaf: its name at the first level of the tree where there is more than one."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(model)]
    depth = 0
    while all(len(path) > depth + 1 for path in paths) and len({_name(path[depth]) for path in paths}) == 1:
        depth += 1
    return [_name(path[depth]) if len(path) > depth else "" for path in paths]


def _name(entry: Any) -> str:
    return str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))


def _blocks(names: list[str]) -> tuple[list[str], list[str]]:
    """Layers in order, and what stands beside them: names with a number of which there are several, and the others.

    Where no name is numbered so, all are layers.
    """
    split = {name: re.fullmatch(r"(.*?)_?(\d+)", name) for name in names}
    stems = Counter(found[1] for found in split.values() if found)
    numbered = {name: found for name, found in split.items() if found and stems[found[1]] > 1}
    if not numbered:
        return names, []
    blocks = sorted(numbered, key=lambda name: (int(numbered[name][2]), numbered[name][1]))
    return blocks, [name for name in names if name not in numbered]


def _labelled(where: str, fragments: Callable[[PyTree], PyTree], model: PyTree) -> Fragments:
    """By a function of the model that gives a tree like it, of whole numbers: one a leaf, or one a row of a leaf."""
    labels = fragments(model)
    if jax.tree.structure(labels) != jax.tree.structure(model):
        rule = "a function that gives a tree like the model, a number a leaf (or a row of it)"
        checks.fail(where, "fragments", rule, str(jax.tree.structure(labels)))
    shapes = [leaf.shape for leaf in jax.tree.leaves(model)]
    found = [np.asarray(label) for label in jax.tree.leaves(labels)]
    for label, shape in zip(found, shapes, strict=True):
        if not np.issubdtype(label.dtype, np.integer) or label.shape not in ((), shape[:1]):
            rule = f"whole numbers, one a leaf or one for each of its rows {list(shape[:1])}"
            checks.fail(where, "fragments", rule, f"{label.dtype} {list(label.shape)}")
    used = sorted({int(one) for label in found for one in label.ravel()})
    if used != list(range(len(used))):
        checks.fail(where, "fragments", "labels 0, 1, ... without gaps", used)
    made = [int(label) if label.ndim == 0 else label for label in found]
    return _of_labels(made, jax.tree.structure(model))


def _of_labels(labels: list[Any], treedef: Any) -> Fragments:
    num = 1 + max(int(np.max(label)) for label in labels)
    parts: list[list[tuple[int, np.ndarray | None]]] = [[] for _ in range(num)]
    for at, label in enumerate(labels):
        if isinstance(label, int) or len(set(label.tolist())) == 1:
            parts[int(np.max(label))].append((at, None))
            continue
        for p in sorted(set(label.tolist())):
            parts[p].append((at, np.flatnonzero(label == p)))
    return Fragments(num, tuple(tuple(part) for part in parts), treedef)
