"""The Follower's world: lifelong pathfinding in which each agent plans for itself and is asked to follow its plan."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array, Info
from dlsim.environments import grid
from dlsim.environments.environment import Environment, box
from dlsim.environments.pathfinding import planning
from dlsim.environments.pathfinding.maps import as_maps
from dlsim.environments.pathfinding.world import PathfindingState, pathfinding
from dlsim.environments.policies import Policy
from dlsim.networks.network import Inbox

SOURCE = "Skrynnik et al., Learn to Follow, AAAI 2024"


class FollowingState(NamedTuple):
    """A pathfinding world and the plans in it."""

    world: PathfindingState
    sighted: Array  # float32 [A, H, W] how often each saw another at a cell since its goal changed
    values: Array  # float32 [A, H, W] cost-to-go of the present plan
    waypoints: Array  # int32 [A, 2] where each plans to be after this step


def following(
    obstacles: Any,
    num_agents: int | None = None,
    view: int = 11,
    max_steps: int = 512,
    rule: str = "soft",
    static_weight: Any = 1.0,
    dynamic_weight: Any = 1.0,
    reward: Any = 0.01,
    max_rounds: int | None = None,
    starts: Any = None,
    goals: Any = None,
) -> Environment:
    """Each agent plans the path of least cost to its goal at every step, and gets a reward for being where it planned.

    The cost of entering a cell is 1 + static_weight (P - 1) + dynamic_weight * sighted: P of `planning.static_penalty`
    is higher for central cells, sighted counts how often the agent saw another one there since its goal changed.  The next
    cell of the path is the waypoint; the reward is paid in the step after which the agent is at its waypoint.

    Departs from the source's code, which searches with A*: plans come from the cost-to-go of all cells, and of equally good
    neighbours the first of up, down, left and right is taken.

    Args:
        obstacles: one map, bool `[H, W]`.
        num_agents, max_steps, rule, starts, goals: as in `pathfinding`.
        view: cells of a window's side, in what a policy is shown and in which others are seen.
        static_weight, dynamic_weight: 1 with these costs, 0 without them; floats that may be tracers.
        reward: of a step that follows the plan.
        max_rounds: of sweeps a plan, as in `planning.cost_to_go`.

    Returns:
        Environment with observations float32 `[A, 2, view, view]`: obstacles (-1) and path (1), and other agents.  Its info
        holds what `pathfinding` reports, and `reached`; `follow` gives the actions that follow the plans.
    """
    where = "following"
    blocked = as_maps(where, obstacles, several=False)[0]
    checks.number(where, "static_weight", static_weight, 0)
    checks.number(where, "dynamic_weight", dynamic_weight, 0)
    checks.number(where, "reward", reward)
    if max_rounds is not None:
        checks.integer(where, "max_rounds", max_rounds, 1)
    base = pathfinding(blocked, num_agents, view, max_steps, rule, starts, goals)
    penalty = jax.jit(planning.static_penalty)(blocked)
    walls = jnp.asarray(blocked)
    shape = (blocked.shape[0], blocked.shape[1])

    def costs_of(sighted: Array) -> Array:
        return 1.0 + static_weight * (penalty - 1.0) + dynamic_weight * sighted

    def plan(world: PathfindingState, sighted: Array) -> FollowingState:
        costs = costs_of(sighted)
        values = planning.cost_to_go(walls, costs, world.goals, max_rounds)
        waypoints = planning.waypoints(values, costs, world.positions, world.goals)
        return FollowingState(world, sighted, values, waypoints)

    def look(state: FollowingState) -> Array:
        world = state.world
        paths = planning.path_windows(state.values, costs_of(state.sighted), walls, world.positions, world.goals, view)
        others = grid.windows(grid.index_plane(world.positions, shape) >= 0, world.positions, view, False)
        others = others.at[:, view // 2, view // 2].set(False)
        return jnp.stack([paths, others.astype(jnp.float32)], axis=1)

    def reset(key: Array) -> tuple[FollowingState, Array]:
        world, _ = base.reset(key)
        state = plan(world, planning.sightings(world.positions, shape, view))
        return state, look(state)

    def step(key: Array, state: FollowingState, actions: Array) -> tuple[FollowingState, Array, Array, Array, Info]:
        ended = state.world.round >= max_steps
        world, _, _, dones, info = base.step(key, state.world, actions)
        followed = jnp.all(world.positions == state.waypoints, axis=1) & ~ended
        kept = jnp.where(info["reached"][:, None, None], 0.0, state.sighted)
        new = plan(world, kept + jnp.where(ended, 0.0, planning.sightings(world.positions, shape, view)))
        return new, look(new), followed * jnp.asarray(reward, jnp.float32), dones, info

    return base._replace(
        name=where,
        observation_space=box((2, view, view), -1.0, 1.0),
        reset=reset,
        step=step,
        action_mask=lambda state: base.action_mask(state.world),
        metrics=lambda state: base.metrics(state.world),
        render=lambda state, axes: base.render(state.world, axes),
        source=SOURCE,
    )


def follow(key: Array, state: FollowingState, sidestep: Any = 0.3) -> Array:
    """Actions `[A]` that go to the waypoints; if somebody stands there, with probability `sidestep` any action instead."""
    checks.key("follow", "key", key)
    checks.instance("follow", "state", state, FollowingState, "Use what `following` returns.")
    checks.probability("follow", "sidestep", sidestep)
    world = state.world
    shape = (state.values.shape[1], state.values.shape[2])
    taken = jnp.append(grid.index_plane(world.positions, shape).reshape(-1), -1) >= 0
    blocked = taken[grid.flat(state.waypoints, shape)]
    return _go(key, planning.toward(world.positions, state.waypoints), blocked, jnp.asarray(sidestep, jnp.float32))


def follow_policy(environment: Environment, sidestep: Any = 0.3) -> Policy:
    """`follow` as a Policy: it reads the next cell of the path, and whether somebody stands there, in what agents observe.

    A path of least cost meets one neighbour of the agent alone, because cells cost something to enter: to come to a second
    neighbour by a detour costs more than to step there.

    Args:
        environment: of `following`, with a view of 3 or more.
        sidestep: probability of any action at all where somebody stands in the way; may be a tracer.
    """
    where = "follow_policy"
    checks.instance(where, "environment", environment, Environment, "Call its factory first.")
    if environment.name != "following":
        checks.fail(where, "environment", "of `following`, whose agents see a path", f"{environment.name!r}")
    view = environment.observation_space.shape[-1]
    if view < 3:
        checks.fail(where, "environment", "with a view of 3 or more, to see the next cell", f"a view of {view}")
    checks.probability(where, "sidestep", sidestep)

    def act(key: Array, memory: Any, observations: Array, allowed: Array | None, heard: Inbox | None) -> Any:
        del heard
        cells = grid.moves()[1:] + view // 2
        around = observations[:, :, cells[:, 0], cells[:, 1]]
        ahead, others = around[:, 0] > 0, around[:, 1] > 0
        actions = jnp.where(jnp.any(ahead, axis=1), jnp.argmax(ahead, axis=1) + 1, 0).astype(jnp.int32)
        actions = _go(key, actions, jnp.any(ahead & others, axis=1), sidestep)
        if allowed is not None:
            # To step aside into an obstacle is to stay; said as such, `play` has nothing to repair.
            actions = jnp.where(jnp.take_along_axis(allowed, actions[:, None], 1)[:, 0], actions, 0)
        return memory, actions, None

    return Policy(act, source=SOURCE)


def _go(key: Array, actions: Array, blocked: Array, sidestep: Any) -> Array:
    """The actions; of who is blocked, with probability `sidestep`, any action instead."""
    coin_key, action_key = jax.random.split(key)
    aside = blocked & jax.random.bernoulli(coin_key, sidestep, actions.shape)
    return jnp.where(aside, jax.random.randint(action_key, actions.shape, 0, grid.NUM_MOVES), actions)
