"""Scripts for the five swarm tasks: what agents can do who remember what they saw and, if they may, tell it to each other.

A script knows the rules and the size of the grid.  Of a round it knows what its agent observes (its window, its own place,
the time, its light or what it carries) and what it hears; nothing else.  Agents walk along shortest ways over what they
know, around those in their way, and now and then take a step at random, which frees two who block each other.
`messages=False` makes the same agents silent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array
from dlsim.environments import grid
from dlsim.environments.policies import Policy
from dlsim.environments.swarm import world
from dlsim.environments.swarm.sight import (
    SOURCE,
    UNSEEN,
    Sight,
    check_sizes,
    is_agent,
    look,
    next_waypoint,
    walk,
    wander,
)
from dlsim.environments.swarm.transport_script import script_transport
from dlsim.networks.network import Inbox

__all__ = ["script_flocking", "script_foraging", "script_pursuit", "script_synchronization", "script_transport"]

NEVER = -1.0  # the time of what was never seen
DETOUR = 2  # steps that foragers rather walk than push another


def script_synchronization(patience: Any = 2, *, height: int = 10, width: int = 10, view: int = 5) -> Policy:
    """Lights that wait until all around are alike, and then change.

    c counts the rounds in which every light in the window was like one's own (an empty window breaks nothing), and begins
    anew when one was not.  Who has c >= `patience` and somebody in its window switches, and c = 0; else it takes the light
    of most of those in the window and itself, by the toss of a coin where they are even.  Who does not switch walks at
    random.  Lights are all that is said.

    Args:
        patience: m, in rounds; may be a tracer.
        height, width, view: of the task.
    """
    check_sizes("script_synchronization", view, (height, width))
    checks.number("script_synchronization", "patience", patience, 0)

    def act(key: Array, calm: Array, observations: Array, allowed: Array | None, heard: Inbox | None) -> Any:
        del allowed, heard
        sight = look(observations, view, (height, width))
        num = observations.shape[0]
        on = jnp.sum(sight.window == world.AGENT, axis=(1, 2))
        off = jnp.sum(sight.window == world.AGENT_DARK, axis=(1, 2))
        calm = jnp.where(jnp.where(sight.light, off, on) == 0, calm + 1, 0)
        somebody = on + off > 0
        changes = somebody & (calm >= patience)
        lead = on - off + jnp.where(sight.light, 1, -1)
        coin = keys.node_uniform(keys.stream(key, "coin"), jnp.arange(num), 1)[:, 0] < 0.5
        follows = somebody & jnp.where(lead == 0, coin, (lead > 0) != sight.light)
        actions = jnp.where(changes | follows, world.SWITCH, wander(keys.stream(key, "wander"), num))
        return jnp.where(changes, 0, calm), actions, None

    return Policy(act, lambda num: jnp.zeros(num, jnp.int32), source=SOURCE)


class Hunt(NamedTuple):
    prey: Array  # int32 [A, 2] where it was
    time: Array  # float32 [A] when; NEVER for who does not know
    missed: Array  # float32 [A] when it was last not where it was thought to be, or was caught
    score: Array  # float32 [A] as last told
    waypoint: Array  # int32 [A, 2] where to look for it


def script_pursuit(
    messages: bool = True, *, height: int = 10, width: int = 10, view: int = 5, reach: int = 6
) -> Policy:
    """Hunters that go to different sides of the prey, no more of them than it has free sides.

    Where the prey was last is known from one's window or from the newest message, which is (row, column, time).  Let n
    hunters in the window be nearer to it (of equal ones the first from the upper left) and not yet beside it: then one goes
    to the nearest of its free sides but n; who is beside it waits.  The score tells everyone when it was caught, and
    then nobody knows where it is.  Who does not know, is not needed (n sides or fewer are free) or is farther away than
    `reach` walks to random cells out of sight: a prey that comes back does so far from where most hunters are.

    Hunters see no ids in their windows, so distance and place rank them.

    Args:
        messages: whether hunters speak.
        height, width, view: of the task.
        reach: steps from which a hunter comes.
    """
    check_sizes("script_pursuit", view, (height, width))
    checks.flag("script_pursuit", "messages", messages)
    checks.integer("script_pursuit", "reach", reach, 1)
    shape = (height, width)
    cells = grid.unflat(jnp.arange(height * width), width)

    def act(key: Array, memory: Hunt, observations: Array, allowed: Array | None, heard: Inbox | None) -> Any:
        del allowed
        sight = look(observations, view, shape)
        plane = sight.on_map(shape)
        taken = is_agent(plane)
        prey, time, missed = _trace(memory, sight, plane, heard)
        knows = time > NEVER
        waypoint = next_waypoint(keys.stream(key, "waypoint"), memory.waypoint, plane)
        towards = jnp.all(cells == waypoint[:, None], axis=2)
        goals, needed = _side(sight, taken, prey, reach)
        goals = jnp.where((knows & needed)[:, None, None], goals, towards.reshape(-1, *shape))
        blocked = jnp.all(cells == prey[:, None], axis=2).reshape(-1, *shape) & knows[:, None, None]
        steps = grid.steps_to(goals, (world.walled(height, width) == world.FREE) & ~blocked & ~taken)
        steps = jnp.where(blocked, grid.FAR, steps)
        actions = walk(keys.stream(key, "walk"), steps, sight.positions, taken)
        waits = knows & (jnp.sum(jnp.abs(sight.positions - prey), axis=1) == 1)
        said = jnp.concatenate([prey.astype(jnp.float32), time[:, None]], axis=1) if messages else None
        return Hunt(prey, time, missed, sight.score, waypoint), jnp.where(waits, 0, actions), said

    def init(num: int) -> Hunt:
        never = jnp.full(num, NEVER)
        return Hunt(jnp.zeros((num, 2), jnp.int32), never, never, jnp.zeros(num), jnp.zeros((num, 2), jnp.int32))

    return Policy(act, init, 3 if messages else 0, SOURCE)


def _trace(memory: Hunt, sight: Sight, plane: Array, heard: Inbox | None) -> tuple[Array, Array, Array]:
    """Where the prey was last, when, and when a thought of it was last wrong."""
    shape, width = plane.shape[1:], plane.shape[2]
    caught = sight.score > memory.score
    prey, time = memory.prey, jnp.where(caught, NEVER, memory.time)
    missed = jnp.where(caught, sight.time, memory.missed)
    if heard is not None:
        times = jnp.where(heard.mask, heard.values[..., 2], NEVER)
        best = jnp.argmax(times, axis=1)
        said = jnp.take_along_axis(heard.values, best[:, None, None], axis=1)[:, 0]
        newer = jnp.max(times, axis=1) > jnp.maximum(time, missed)
        prey = jnp.where(newer[:, None], jnp.round(said[:, :2]).astype(jnp.int32), prey)
        time = jnp.where(newer, said[:, 2], time)
    prey = jnp.clip(prey, 0, jnp.asarray(shape) - 1)
    here = (plane == world.SEEN_PREY).reshape(plane.shape[0], -1)
    seen = jnp.any(here, axis=1)
    thought = jnp.take_along_axis(plane.reshape(plane.shape[0], -1), (prey @ jnp.asarray([width, 1]))[:, None], 1)
    wrong = ~seen & (time > NEVER) & (thought[:, 0] != UNSEEN)
    prey = jnp.where(seen[:, None], grid.unflat(jnp.argmax(here, axis=1), width), prey)
    time = jnp.where(seen, sight.time, jnp.where(wrong, NEVER, time))
    return prey, time, jnp.where(wrong, sight.time, missed)


def _side(sight: Sight, taken: Array, prey: Array, reach: int) -> tuple[Array, Array]:
    """The cell to go to, as a plane, bool `[A, H, W]`, and who is needed there, bool `[A]`."""
    num, height, width = taken.shape
    numbered = jnp.arange(height * width)
    cells = grid.unflat(numbered, width)
    hunters = taken.reshape(num, -1)
    own = jnp.sum(jnp.abs(sight.positions - prey), axis=1)
    apart = jnp.sum(jnp.abs(cells - prey[:, None]), axis=2)  # [A, HW]
    place = sight.positions @ jnp.asarray([width, 1])
    before = (apart < own[:, None]) | ((apart == own[:, None]) & (numbered < place[:, None]))
    rank = jnp.sum(hunters & before & (apart > 1), axis=1)
    sides = prey[:, None] + grid.moves()[1:]  # [A, 4, 2]
    numbers = jnp.clip(sides, 0, jnp.asarray(taken.shape[1:]) - 1) @ jnp.asarray([width, 1])
    inner = jnp.all((sides > 0) & (sides < jnp.asarray(taken.shape[1:]) - 1), axis=2)
    free = inner & ~jnp.take_along_axis(hunters, numbers, axis=1)
    ways = jnp.sum(jnp.abs(sides - sight.positions[:, None]), axis=2)
    order = jnp.argsort(jnp.where(free, ways, grid.FAR), axis=1)
    num_free = jnp.maximum(jnp.sum(free, axis=1), 1)
    chosen = jnp.take_along_axis(numbers, jnp.take_along_axis(order, (rank % num_free)[:, None], 1), 1)
    chosen = jnp.where((own == 1)[:, None], place[:, None], chosen)
    needed = ((rank < num_free) & jnp.any(free, axis=1) & (own <= reach)) | (own == 1)
    return (numbered == chosen[:, :1]).reshape(taken.shape), needed


class Larder(NamedTuple):
    """What is known of the map: symbols of `swarm`, 0 for a free cell, UNSEEN."""

    plane: Array  # int32 [A, H, W]


def script_foraging(messages: bool = True, *, size: int = 10, view: int = 5) -> Policy:
    """Foragers that remember the map and walk along shortest ways to food and nest, or to what nobody has seen.

    A message is (row, column) of a cell of food and of one of the nest, -1 for what is not known.  Unknown cells are taken
    to be free.  One walks around others if that costs at most two steps, and else pushes.
    """
    checks.integer("script_foraging", "size", size, 8)
    shape = (size, size)
    check_sizes("script_foraging", view, shape)
    checks.flag("script_foraging", "messages", messages)

    def learned(plane: Array, sight: Sight, heard: Inbox | None) -> Array:
        seen = sight.on_map(shape)
        plane = jnp.where(seen == UNSEEN, plane, jnp.where(is_agent(seen), 0, seen))
        if heard is None:
            return plane
        for first, what in ((0, world.SEEN_FOOD), (2, world.SEEN_NEST)):
            cells = jnp.round(heard.values[..., first : first + 2]).astype(jnp.int32)
            known = heard.mask & grid.is_inside(cells, shape)
            number = jnp.where(known, cells @ jnp.asarray([size, 1]), size * size)
            marked = jnp.any(number[..., None] == jnp.arange(size * size), axis=1).reshape(-1, *shape)
            plane = jnp.where(marked, what, plane)
        return plane

    def where_is(plane: Array, what: int) -> Array:
        """The first known cell of a kind, float32 `[A, 2]`; -1 for none."""
        cells = (plane == what).reshape(plane.shape[0], -1)
        place = grid.unflat(jnp.argmax(cells, axis=1), size)
        return jnp.where(jnp.any(cells, axis=1)[:, None], place, -1).astype(jnp.float32)

    def act(key: Array, memory: Larder, observations: Array, allowed: Array | None, heard: Inbox | None) -> Any:
        del allowed
        sight = look(observations, view, shape)
        plane = learned(memory.plane, sight, heard)
        wanted = jnp.where(sight.carries, world.SEEN_NEST, world.SEEN_FOOD)[:, None, None]
        goals = plane == wanted
        unknown = plane == UNSEEN
        goals = jnp.where(jnp.any(goals, axis=(1, 2), keepdims=True), goals, unknown)
        steps = grid.steps_to(goals, (plane == 0) | unknown)
        taken = is_agent(sight.on_map(shape))
        actions = walk(keys.stream(key, "walk"), steps, sight.positions, taken, DETOUR)
        said = None
        if messages:
            said = jnp.concatenate([where_is(plane, world.SEEN_FOOD), where_is(plane, world.SEEN_NEST)], axis=1)
        return Larder(plane), actions, said

    return Policy(act, lambda num: Larder(jnp.full((num, *shape), UNSEEN, jnp.int32)), 4 if messages else 0, SOURCE)


class Flock(NamedTuple):
    centre: Array  # float32 [A, 2] of the shape; -1 for who knows of none
    waypoint: Array  # int32 [A, 2] where to look for others


def script_flocking(messages: bool = True, *, height: int = 10, width: int = 10, view: int = 5) -> Policy:
    """Agents that gather to a ring around their centroid.

    The silent take the centroid of those in their window and themselves.  With messages, an agent's centre begins as that
    centroid, and becomes the mean of its own and of those it hears.  One walks to the nearest cell of the ring around
    its centre on which nobody is seen, and stays there.  Who is alone walks to random cells out of sight.
    """
    check_sizes("script_flocking", view, (height, width))
    checks.flag("script_flocking", "messages", messages)
    shape = (height, width)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)

    def act(key: Array, memory: Flock, observations: Array, allowed: Array | None, heard: Inbox | None) -> Any:
        del allowed
        sight = look(observations, view, shape)
        plane = sight.on_map(shape)
        taken = is_agent(plane)
        centre = _centre(memory, sight, taken, messages, heard)
        waypoint = next_waypoint(keys.stream(key, "waypoint"), memory.waypoint, plane)
        place = jnp.stack([rows + 0 * columns, columns + 0 * rows], axis=-1)
        towards = jnp.all(place == waypoint[:, None, None], axis=-1)
        goals = _ring(centre, observations.shape[0] // 4 + 1, shape) & ~taken
        goals = jnp.where((centre[:, 0] < 0)[:, None, None], towards, goals)
        steps = grid.steps_to(goals, (world.walled(height, width) == world.FREE) & ~taken)
        actions = walk(keys.stream(key, "walk"), steps, sight.positions, taken)
        there = jnp.any(goals & jnp.all(place == sight.positions[:, None, None], axis=-1), axis=(1, 2))
        return Flock(centre, waypoint), jnp.where(there, 0, actions), centre if messages else None

    def init(num: int) -> Flock:
        return Flock(jnp.full((num, 2), -1.0), jnp.zeros((num, 2), jnp.int32))

    return Policy(act, init, 2 if messages else 0, SOURCE)


def _ring(centre: Array, side: int, shape: tuple[int, int]) -> Array:
    """The cells of the ring of a square around a centre, bool `[A, H, W]`."""
    rows, columns = jnp.arange(shape[0])[:, None], jnp.arange(shape[1])
    first = jnp.round(centre - (side - 1) / 2).astype(jnp.int32)
    first = jnp.clip(first, 1, jnp.maximum(jnp.asarray(shape) - 1 - side, 1))[:, :, None, None]
    i, j = rows - first[:, 0], columns - first[:, 1]
    within = (i >= 0) & (i < side) & (j >= 0) & (j < side)
    return within & ((i == 0) | (i == side - 1) | (j == 0) | (j == side - 1))


def _centre(memory: Flock, sight: Sight, taken: Array, messages: bool, heard: Inbox | None) -> Array:
    """What each takes for the centre, float32 `[A, 2]`; -1 for who knows of none."""
    rows, columns = jnp.arange(taken.shape[1])[:, None], jnp.arange(taken.shape[2])
    num = jnp.sum(taken, axis=(1, 2))
    total = jnp.stack([jnp.sum(taken * rows, axis=(1, 2)), jnp.sum(taken * columns, axis=(1, 2))], axis=1)
    seen = (total + sight.positions) / (num + 1)[:, None]
    alone = (num == 0)[:, None]
    if not messages:
        return jnp.where(alone, -1.0, seen)
    own = jnp.where(memory.centre < 0, jnp.where(alone, -1.0, seen), memory.centre)
    if heard is None:
        return own
    count = heard.mask & (heard.values[..., 0] >= 0)
    have = (own[:, :1] >= 0).astype(jnp.float32)
    total = jnp.sum(jnp.where(count[..., None], heard.values, 0), axis=1) + have * own
    known = jnp.sum(count, axis=1)[:, None] + have
    return jnp.where(known > 0, total / jnp.maximum(known, 1), -1.0)
