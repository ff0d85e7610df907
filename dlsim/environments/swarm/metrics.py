"""How a group moved in one round: order, spread, neighbours kept, pushes, at a cost linear in the agents; what it said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Info
from dlsim.environments import grid
from dlsim.environments.environment import as_array
from dlsim.environments.swarm import sparse_physics


def group_metrics(before: Any, after: Any, actions: Array) -> Info:
    """The group in one round, each `[]`; agents that had left before are not counted.

    - `directional_entropy`: entropy in bits of the four moves among those chosen;
    - `stillness`: share of agents that stay;
    - `dominant_action`: share of the most common of the five moves (staying included) among those that chose one;
    - `polarisation`: length of the mean of their unit vectors (staying is 0);
    - `displacement`: mean L1 distance covered;
    - `cells_visited`: cells on which anybody has been so far;
    - `pairs_kept`: pairs that were next to each other (L1 distance 1) before and are after;
    - `pushes`: agents A that moved onto the cell of B by their own action, while B moved on in that direction.

    Args:
        before, after: states with positions int32 `[A, 2]`, inside bool `[A]`, terrain and visited `[H, W]`.
        actions: int32 `[A]`, 0 stay, 1 to 4 moves, anything else none of them.

    Source: the analysis code of SwarmBench (Ruan et al., 2025), definitions only.
    """
    where, parts = "group_metrics", ("positions", "inside", "terrain", "visited")
    for argument, state in (("before", before), ("after", after)):
        if not all(hasattr(state, part) for part in parts):
            checks.fail(where, argument, f"a state with {', '.join(parts)}", checks.describe(state))
    actions = as_array(where, "actions", actions, (before.positions.shape[0],), "integers")
    present = before.inside
    num = jnp.maximum(jnp.sum(present), 1)
    chosen = (actions[:, None] == jnp.arange(grid.NUM_MOVES)) & present[:, None]
    counts = jnp.sum(chosen, axis=0).astype(jnp.float32)
    moved = jnp.sum(counts[1:])
    share = counts[1:] / jnp.maximum(moved, 1)
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log2(jnp.where(share > 0, share, 1)), 0))
    coordinating = jnp.maximum(jnp.sum(counts), 1)
    heading = counts @ grid.moves().astype(jnp.float32)
    step = after.positions - before.positions
    covered = jnp.sum(jnp.where(present, jnp.sum(jnp.abs(step), axis=1), 0))
    who = _finder(before)
    return {
        "directional_entropy": entropy,
        "stillness": counts[0] / num,
        "dominant_action": jnp.max(counts) / coordinating,
        "polarisation": jnp.linalg.norm(heading) / coordinating,
        "displacement": covered / num,
        "cells_visited": jnp.sum(after.visited),
        "pairs_kept": _pairs_kept(before, after, who),
        "pushes": _pushes(before, after, actions, who),
    }


def _pairs_kept(before: Any, after: Any, who: Callable[[Array], Array]) -> Array:
    """Each pair is seen from the one that stands above or to the left before the round."""
    kept = jnp.zeros((), jnp.int32)
    for step in ((1, 0), (0, 1)):
        other = jnp.where(before.inside, who(before.positions + jnp.asarray(step)), -1)
        distance = jnp.sum(jnp.abs(after.positions - after.positions[jnp.maximum(other, 0)]), axis=1)
        kept = kept + jnp.sum((other >= 0) & (distance == 1), dtype=jnp.int32)
    return kept


def _pushes(before: Any, after: Any, actions: Array, who: Callable[[Array], Array]) -> Array:
    moves = jnp.where((actions >= 1) & (actions <= 4), actions, 0)
    step = grid.moves()[moves]
    other = jnp.where(before.inside & (moves > 0), who(before.positions + step), -1)
    rows = jnp.maximum(other, 0)
    followed = jnp.all(after.positions == before.positions[rows], axis=1)
    went = jnp.all(after.positions[rows] == before.positions[rows] + step, axis=1)
    return jnp.sum((other >= 0) & followed & went, dtype=jnp.int32)


def _finder(state: Any) -> Callable[[Array], Array]:
    """A function from positions `[A, 2]` to who stands there, -1 for nobody."""
    shape = (state.terrain.shape[0], state.terrain.shape[1])
    if sparse_physics.is_wide(shape, state.positions.shape[0]):
        return sparse_physics.finder(state.positions, shape, state.inside)
    plane = jnp.append(grid.index_plane(state.positions, shape, state.inside).reshape(-1), -1)
    return lambda places: plane[grid.flat(places, shape)]


def message_metrics(texts: Sequence[str], embeddings: Any = None) -> dict[str, float]:
    """What was said in one round, of the messages that are not empty: for populations that talk in words.

    `mean_length` and `std_length` in characters, `questions` (share of messages with a question mark), `digits` (share of
    all characters that are digits), and, given `embeddings` float `[M, D]` of the M texts, `similarity`: the mean cosine of
    the pairs of them.  NaN where nothing was said, or no pair.

    Source: the analysis code of SwarmBench (Ruan et al., 2025), definitions only.
    """
    where = "message_metrics"
    texts = checks.sequence(where, "texts", texts, "a sequence of strings")
    for place, text in enumerate(texts):
        checks.text(where, f"texts[{place}]", text)
    said = [place for place, text in enumerate(texts) if text]
    lengths = np.asarray([len(texts[place]) for place in said], float)
    nothing = not said
    out = {
        "mean_length": np.nan if nothing else float(lengths.mean()),
        "std_length": np.nan if nothing else float(lengths.std()),
        "questions": np.nan if nothing else float(np.mean(["?" in texts[place] for place in said])),
        "digits": np.nan
        if nothing
        else sum(c.isdigit() for place in said for c in texts[place]) / float(lengths.sum()),
    }
    if embeddings is None:
        return out
    rows = checks.array(where, "embeddings", embeddings).astype(float)
    if rows.ndim != 2 or len(rows) != len(texts):
        checks.fail(where, "embeddings", f"of shape [{len(texts)}, D]", list(rows.shape))
    rows = rows[said]
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    pairs = np.triu_indices(len(said), 1)
    out["similarity"] = float((unit @ unit.T)[pairs].mean()) if len(said) > 1 else np.nan
    return out
