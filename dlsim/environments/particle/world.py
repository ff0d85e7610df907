"""Particle worlds: discs in the plane that accelerate, bump into one another and say symbols; the tasks are elsewhere.

Entities are A agents and L landmarks.  With F the push an agent chose plus its contacts, every step of dt seconds is

    x <- x + v dt                                 with the velocity before the step
    v <- v (1 - damping) + (F / mass) dt          scaled down to the agent's greatest speed
    contact of a and b:  force * margin * log(1 + exp((r_a + r_b - |x_a - x_b|) / margin))  along x_a - x_b

Source: the rules of Lowe et al., Multi-Agent Actor-Critic for Mixed Cooperative-Competitive Environments, NeurIPS 2017,
and Mordatch, Abbeel, Emergence of Grounded Compositional Language in Multi-Agent Populations, AAAI 2018, as Rutherford et
al., JaxMARL, NeurIPS 2024 have them.  Differs: two discs in the very same place do not push each other (there: NaN), and
a symbol that an agent does not have is silence (there: undefined).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info
from dlsim.environments.environment import Environment, box, check_actions, discrete
from dlsim.environments.geometry import length, offsets

SOURCE = "Lowe et al., NeurIPS 2017; Rutherford et al., JaxMARL, NeurIPS 2024"
NUM_MOVES = 5  # nothing, -x, +x, -y, +y


class World(NamedTuple):
    """What never changes.  Arrays of NumPy are structure; floats may be tracers."""

    radii: np.ndarray  # [A + L]
    accelerations: np.ndarray  # [A] force of a full push
    max_speeds: np.ndarray  # [A] inf where there is no limit
    can_move: np.ndarray  # bool [A]
    can_speak: np.ndarray  # bool [A]
    num_symbols: int = 0  # C
    agents_collide: bool = False
    num_obstacles: int = 0  # the first landmarks, which agents bump into
    dt: float = 0.1
    damping: float = 0.25
    mass: float = 1.0
    contact_force: float = 100.0
    contact_margin: float = 0.001

    @property
    def num_agents(self) -> int:
        return len(self.accelerations)

    @property
    def num_landmarks(self) -> int:
        return len(self.radii) - len(self.accelerations)

    @property
    def num_actions(self) -> np.ndarray:
        """How many actions each agent has, `[A]`: moves, symbols, or pairs of both."""
        moves = np.where(self.can_move, NUM_MOVES, 1)
        return moves * np.where(self.can_speak, self.num_symbols, 1)


class ParticleState(NamedTuple):
    """Where everything is."""

    positions: Array  # [A, 2]
    velocities: Array  # [A, 2]
    landmarks: Array  # [L, 2]
    messages: Array  # [A, C] what each agent said in the last step
    goals: Array  # int32 [K] landmarks drawn for the episode, by the rules of the task
    step: Array  # int32 []


class ReadFn(Protocol):
    def __call__(self, state: ParticleState, /) -> Array: ...


class Task(NamedTuple):
    """What agents see and are paid for; `rewards` and `observe` read the state after the step."""

    name: str
    world: World
    observe: ReadFn  # -> [A, O], padded with zeros where agents see less
    rewards: ReadFn  # -> [A]
    num_goals: int = 0
    agent_names: tuple[str, ...] = ()
    adversaries: int = 0  # how many of the first agents are drawn in red
    metrics: Any = None


def world_of(groups: list[tuple[int, float, float, float]], landmarks: list[tuple[int, float]], **others: Any) -> World:
    """A world of groups of (agents, radius, acceleration, greatest speed) and (landmarks, radius), all moving mutely."""
    count = [group[0] for group in groups]
    num_agents = sum(count)
    columns = [np.repeat([group[k] for group in groups], count).astype(np.float32) for k in (1, 2, 3)]
    ground = np.repeat([radius for _, radius in landmarks], [number for number, _ in landmarks]).astype(np.float32)
    values = {"can_move": np.ones(num_agents, bool), "can_speak": np.zeros(num_agents, bool), **others}
    return World(np.concatenate([columns[0], ground]), columns[1], columns[2], **values)


def contact_forces(world: World, positions: Array, landmarks: Array) -> Array:
    """What contacts do to each agent, `[A, 2]`."""
    num_agents, count = world.num_agents, world.num_obstacles
    if not world.agents_collide and count == 0:
        return jnp.zeros_like(positions)
    radii, ground = world.radii[:num_agents], world.radii[num_agents : num_agents + count]
    if world.agents_collide:
        bodies, sizes = jnp.concatenate([positions, landmarks[:count]]), np.concatenate([radii, ground])
    else:
        bodies, sizes = landmarks[:count], ground
    away = -offsets(positions, bodies)
    distance = length(away)
    overlap = (radii[:, None] + sizes - distance) / world.contact_margin
    size = world.contact_force * world.contact_margin * jax.nn.softplus(overlap)
    return jnp.sum(away * (size / jnp.where(distance > 0, distance, 1.0))[..., None], axis=1)


def advance(world: World, positions: Array, velocities: Array, forces: Array) -> tuple[Array, Array]:
    """Positions and velocities `[A, 2]` after one step."""
    moved = positions + velocities * world.dt
    pushed = velocities * (1 - world.damping) + forces / world.mass * world.dt * world.can_move[:, None]
    if np.isfinite(world.max_speeds).any():
        speed = length(pushed)
        pushed = pushed * jnp.minimum(1.0, world.max_speeds / jnp.where(speed > 0, speed, 1.0))[:, None]
    return moved, pushed


def decode(world: World, actions: Array) -> tuple[Array, Array]:
    """Pushes `[A, 2]` in units of an agent's acceleration, and messages `[A, C]`.

    Discrete actions `[A]`: a move (nothing, -x, +x, -y, +y), a symbol, or move + 5 * symbol, by what the agent can do.
    Others `[A, 5 + C]`: values for the five moves, where any agent can move, and then the message, where any can speak.
    """
    can_move, can_speak = world.can_move, world.can_speak
    if actions.ndim == 1:
        both = can_move & can_speak
        move = jnp.where(both, actions % NUM_MOVES, jnp.where(can_move, actions, 0))
        symbol = jnp.where(both, actions // NUM_MOVES, jnp.where(can_speak, actions, -1))
        along = (move == 2) * 1.0 - (move == 1)
        across = (move == 4) * 1.0 - (move == 3)
        messages = (symbol[:, None] == jnp.arange(world.num_symbols)) * 1.0
    else:
        along, across = jnp.zeros(len(can_move)), jnp.zeros(len(can_move))
        if can_move.any():
            along = jnp.where(can_move, actions[:, 2] - actions[:, 1], 0.0)
            across = jnp.where(can_move, actions[:, 4] - actions[:, 3], 0.0)
        messages = jnp.zeros((len(can_move), world.num_symbols))
        if can_speak.any():
            said = actions[:, actions.shape[1] - world.num_symbols :]
            messages = jnp.where(can_speak[:, None], said, 0.0)
    return jnp.stack([along, across], axis=-1), messages


def act(world: World, state: ParticleState, actions: Array) -> ParticleState:
    """The world one step later."""
    pushes, messages = decode(world, actions)
    forces = pushes * world.accelerations[:, None] + contact_forces(world, state.positions, state.landmarks)
    positions, velocities = advance(world, state.positions, state.velocities, forces)
    return state._replace(positions=positions, velocities=velocities, messages=messages, step=state.step + 1)


def make(task: Task, max_steps: int, continuous: bool) -> Environment:
    """The environment of a task.

    Args:
        task: its rules.
        max_steps: steps of an episode T; 26 is what JaxMARL's 25 amounts to, as it asks before it counts the step.
        continuous: whether actions are floats `[A, 5 + C]` (see `decode`) in place of integers `[A]`.
    """
    checks.integer(task.name, "max_steps", max_steps, 1)
    checks.flag(task.name, "continuous", continuous)
    world = task.world
    num_agents, num_actions = world.num_agents, int(world.num_actions.max())
    width = NUM_MOVES * bool(world.can_move.any()) + world.num_symbols
    mask = np.arange(num_actions) < world.num_actions[:, None]

    def reset(key: Array) -> tuple[ParticleState, Array]:
        shape = (num_agents + world.num_landmarks, 2)
        positions = jax.random.uniform(keys.stream(key, "positions"), shape, minval=-1.0, maxval=1.0)
        goals = jax.random.randint(keys.stream(key, "goals"), (task.num_goals,), 0, max(1, world.num_landmarks))
        state = ParticleState(
            positions=positions[:num_agents],
            velocities=jnp.zeros((num_agents, 2)),
            landmarks=positions[num_agents:],
            messages=jnp.zeros((num_agents, world.num_symbols)),
            goals=goals,
            step=jnp.int32(0),
        )
        return state, task.observe(state)

    def step(key: Array, state: ParticleState, actions: Array) -> tuple[ParticleState, Array, Array, Array, Info]:
        if continuous:
            checks.shape(task.name, "actions", actions, (num_agents, width))
        else:
            actions = check_actions(task.name, actions, num_actions, num_agents)
        ended = state.step >= max_steps
        after = act(world, state, jnp.asarray(actions))
        after = jax.tree.map(lambda old, new: jnp.where(ended, old, new), state, after)
        over = after.step >= max_steps
        rewards = jnp.where(ended, 0.0, task.rewards(after))
        info = {"is_over": over, "is_truncated": over}
        return after, task.observe(after), rewards, jnp.broadcast_to(over, (num_agents,)), info

    return Environment(
        name=task.name,
        num_agents=num_agents,
        observation_space=box((_width(task),)),
        action_space=box((width,), 0.0, 1.0) if continuous else discrete(num_actions),
        reset=reset,
        step=step,
        action_mask=None if continuous or mask.all() else lambda state: jnp.asarray(mask),
        agent_names=task.agent_names,
        max_steps=max_steps,
        render=lambda state, axes: render(task, state, axes),
        metrics=task.metrics,
        source=SOURCE,
    )


def _width(task: Task) -> int:
    """Length of an observation."""
    world = task.world

    def blank() -> Array:
        state = ParticleState(
            positions=jnp.zeros((world.num_agents, 2)),
            velocities=jnp.zeros((world.num_agents, 2)),
            landmarks=jnp.zeros((world.num_landmarks, 2)),
            messages=jnp.zeros((world.num_agents, world.num_symbols)),
            goals=jnp.zeros(task.num_goals, jnp.int32),
            step=jnp.int32(0),
        )
        return task.observe(state)

    return jax.eval_shape(blank).shape[1]


def render(task: Task, state: ParticleState, axes: Any) -> None:
    """Discs: landmarks grey, adversaries red, other agents green; an agent that spoke shows its symbol."""
    from matplotlib.patches import Circle

    world = task.world
    places = np.concatenate([np.asarray(state.landmarks), np.asarray(state.positions)])
    radii = np.roll(world.radii, world.num_landmarks)
    adversaries = world.num_landmarks + task.adversaries
    for number, (place, radius) in enumerate(zip(places, radii, strict=True)):
        is_landmark = number < world.num_landmarks
        colour = "0.6" if is_landmark else "tab:red" if number < adversaries else "tab:green"
        axes.add_patch(Circle((float(place[0]), float(place[1])), float(radius), color=colour, alpha=0.8))
    for place, message in zip(np.asarray(state.positions), np.asarray(state.messages), strict=True):
        if message.any():
            axes.text(place[0], place[1], str(int(message.argmax())), ha="center", va="center", fontsize=8)
    reach = max(1.2, float(np.abs(places).max()) + 0.2)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal")
