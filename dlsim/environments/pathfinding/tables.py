"""What is known of maps before anything moves: cells to begin on, goals by component, and places that were given.

All of it is found on the host, once; a draw inside `jit` then looks things up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.environments.pathfinding import maps

TWO_GOALS = "cells from which two goals or more can be reached"


class Maps(NamedTuple):
    """Tables of K maps of one size."""

    obstacles: np.ndarray  # bool [K, H, W]
    starts: np.ndarray  # bool [K, H, W] where an agent may begin
    goals: np.ndarray  # int32 [K, F] goal cells, those of a component side by side, the rest 0
    of_cell: (
        np.ndarray
    )  # int32 [K, H, W, 3] of each cell: where the goals of its component begin in that list, how many
    # they are, and its own place among them (their number if it is none)


class Places(NamedTuple):
    """Where each agent begins and is to go first, in E kinds of episode; None: drawn."""

    starts: np.ndarray | None  # int32 [E, A, 2]
    goals: np.ndarray | None  # int32 [E, A, 2]


def map_tables(where: str, obstacles: Any, starts: Any = None, goals: Any = None) -> tuple[Maps, Places]:
    """The tables of one map `[H, W]` or several `[K, H, W]`, and the places that were given in place of cells."""
    stack = maps.as_maps(where, obstacles)
    start_cells, start_places = _cells_or_places(where, "starts", starts, stack)
    goal_cells, goal_places = _cells_or_places(where, "goals", goals, stack)
    places = Places(start_places, goal_places)
    free_goals = ~stack if goal_cells is None else ~stack & goal_cells
    tables = [_tables_of(one, mask) for one, mask in zip(stack, free_goals, strict=True)]
    of_cell = np.stack([table[1] for table in tables])
    longest = max(len(table[0]) for table in tables)
    cells = np.stack([np.pad(table[0], (0, longest - len(table[0]))) for table in tables])
    begins = _cells_to_begin_on(where, stack, start_cells, of_cell[..., 1])
    if start_places is not None or goal_places is not None:
        begins = _check_episodes(where, stack, begins, places)
    if goal_cells is not None:
        _check_reached(where, free_goals, begins, of_cell[..., 0])
    return Maps(stack, begins, cells.astype(np.int32), of_cell), places


def count_agents(where: str, num_agents: Any, tables: Maps, places: Places) -> int:
    """How many agents there are: as many as places were given, or as `num_agents` says."""
    for name, given in (("starts", places.starts), ("goals", places.goals)):
        if given is None:
            continue
        most = given.shape[1]
        num_agents = most if num_agents is None else checks.integer(where, "num_agents", num_agents, 1)
        if num_agents > most:
            checks.fail(where, "num_agents", f"at most {most}, the agents whose {name} are given", num_agents)
        if num_agents < most:
            checks.fail(where, name, f"of {num_agents} agents, as num_agents is", most)
    if num_agents is None:
        checks.fail(where, "num_agents", "given where neither starts nor goals are, agent by agent", "None")
    num_agents = checks.integer(where, "num_agents", num_agents, 1)
    room = int(tables.starts.sum(axis=(1, 2)).min())
    if places.starts is None and num_agents > room:
        checks.fail(where, "num_agents", f"at most {room}, the cells to begin on", num_agents, "Use a larger map.")
    return num_agents


def _cells_or_places(
    where: str, name: str, value: Any, stack: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What was given as bool, cells of the maps `[K, H, W]`, and what as integers, places by agent `[E, A, 2]`."""
    if value is None:
        return None, None
    checks.known(where, name, value, "a known array")
    shape = list(stack.shape if stack.shape[0] > 1 else stack.shape[1:])
    rule = f"bool of the shape of obstacles, {shape}"
    array = maps.read_array(where, name, value, f"{rule}, or integers [A, 2] or [E, A, 2]")
    if array.dtype == bool:
        mask = array[None] if array.ndim == 2 else array
        if mask.shape != stack.shape:
            checks.fail(where, name, rule, f"bool {list(array.shape)}")
        return mask, None
    is_list = array.ndim in (2, 3) and array.shape[-1] == 2 and array.size > 0
    if not is_list or not np.issubdtype(array.dtype, np.integer):
        checks.fail(where, name, f"{rule}, or integers [A, 2] or [E, A, 2]", maps.kind_of(value, array))
    outside = (array < 0) | (array >= stack.shape[1:])
    if outside.any():
        place = tuple(array[tuple(np.argwhere(outside)[0][:-1])].tolist())
        checks.fail(where, name, f"cells of a map of {stack.shape[1]} x {stack.shape[2]}", f"{place} among them")
    return None, (array[None] if array.ndim == 2 else array).astype(np.int32)


def _cells_to_begin_on(where: str, stack: np.ndarray, cells: np.ndarray | None, num_goals: np.ndarray) -> np.ndarray:
    """Where an agent may begin, bool `[K, H, W]`: two goals or more are in reach, one of which it may stand on."""
    enough = ~stack & (num_goals >= 2)
    if cells is not None:
        wanted = cells & ~stack
        if (wanted & ~enough).any():
            cell = tuple(int(x) for x in np.argwhere(wanted & ~enough)[0][1:])
            checks.fail(where, "starts", TWO_GOALS, f"{cell} among them")
        enough = wanted
    if not enough.any(axis=(1, 2)).all():
        checks.fail(where, "obstacles", "a map with cells from which two goals can be reached", "none")
    return enough


def _check_episodes(where: str, stack: np.ndarray, may_begin: np.ndarray, places: Places) -> np.ndarray:
    """Looks at each kind of episode, a map with the places on it; gives the cells on which anybody may begin."""
    lengths = {"obstacles": len(stack)}
    lengths.update({name: len(given) for name, given in places._asdict().items() if given is not None})
    kinds = max(lengths.values())
    for name, length in lengths.items():
        if length not in (1, kinds):
            longest = max(lengths, key=lambda key: lengths[key])
            checks.fail(where, name, f"one, or {kinds}, as {longest} are", length)
    begins = may_begin.copy() if places.starts is None else np.zeros_like(may_begin)
    for kind in range(kinds):
        which = kind % len(stack)
        tail = f" of episode {kind}" if kinds > 1 else ""
        starts, goals = (
            None if given is None else [tuple(cell) for cell in given[kind % len(given)].tolist()] for given in places
        )
        if starts is not None:
            _check_starts(where, starts, stack[which], may_begin[which], tail)
            begins[which][tuple(np.transpose(starts))] = True
        if goals is not None:
            _check_goals(where, goals, starts, stack[which], may_begin[which], tail)
            if starts is None:  # nobody begins where it, or another, is to go
                begins[which][tuple(np.transpose(goals))] = False
    return begins


def _check_starts(where: str, starts: list[Any], obstacles: np.ndarray, may_begin: np.ndarray, tail: str) -> None:
    """Free cells, a different one for each agent, from which one can go somewhere."""
    for agent, cell in enumerate(starts):
        if obstacles[cell]:
            checks.fail(where, "starts", "free cells", f"an obstacle at {cell}, of agent {agent}{tail}")
        first = starts.index(cell)
        if first < agent:
            checks.fail(
                where, "starts", "a different cell for each agent", f"{cell} for agents {first} and {agent}{tail}"
            )
        if not may_begin[cell]:
            checks.fail(where, "starts", TWO_GOALS, f"{cell}, of agent {agent}{tail}")


def _check_goals(
    where: str, goals: list[Any], starts: list[Any] | None, obstacles: np.ndarray, may_begin: np.ndarray, tail: str
) -> None:
    """Free cells that their agents can reach, from their own starts or from wherever one may begin."""
    labels = maps.components(obstacles)
    if starts is not None and len(starts) != len(goals):
        checks.fail(where, "goals", f"of {len(starts)} agents, as starts are", len(goals))
    for agent, cell in enumerate(goals):
        who = f"{cell}, of agent {agent}{tail}"
        if obstacles[cell]:
            checks.fail(where, "goals", "free cells", f"an obstacle at {who}")
        if starts is None:
            if (labels[may_begin] != labels[cell]).any():
                fix = "Give starts agent by agent too."
                checks.fail(where, "goals", "cells that can be reached from wherever agents may begin", who, fix)
            continue
        if cell == starts[agent]:
            checks.fail(where, "goals", "another cell than where the agent begins", who)
        if labels[cell] != labels[starts[agent]]:
            got, fix = f"{who}, who begins at {starts[agent]}", "Open a way, or give another cell."
            checks.fail(where, "goals", "cells that their agents can reach", got, fix)


def _check_reached(where: str, goals: np.ndarray, starts: np.ndarray, first: np.ndarray) -> None:
    """Every goal that was asked for is in the component of a cell to begin on; `first` tells components with goals apart."""
    for wanted, begins, begin in zip(goals, starts, first, strict=True):
        lost = wanted & ~np.isin(begin, begin[begins])
        if lost.any():
            cell = tuple(int(x) for x in np.argwhere(lost)[0])
            fix = "Open a way, or leave it out."
            checks.fail(where, "goals", "cells that can be reached from where agents begin", f"{cell} among them", fix)


def _tables_of(obstacles: np.ndarray, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one map: goal cells sorted by component, and the three numbers of every cell."""
    labels = maps.components(obstacles).reshape(-1)
    cells = np.flatnonzero(goals.reshape(-1))
    cells = cells[np.argsort(labels[cells], kind="stable")]
    counts = np.bincount(labels[cells], minlength=max(int(labels.max()) + 1, 1))
    begins = np.concatenate([[0], np.cumsum(counts)[:-1]])
    count = np.where(labels >= 0, counts[labels], 0)
    first = np.where(labels >= 0, begins[labels], 0)
    rank = count.copy()
    rank[cells] = np.arange(len(cells)) - begins[labels[cells]]
    of_cell = np.stack([first, count, rank], axis=-1).astype(np.int32)
    return cells, of_cell.reshape(*obstacles.shape, 3)
