"""What a learner in an environment is, how its policies are judged, and `train`, which makes a Process of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.core import Algorithm, Array, Info, Problem, Process, PyTree, Relink, Scenario
from dlsim.environments.environment import Environment
from dlsim.environments.policies import Policy
from dlsim.learning.learn import LearnState, learn
from dlsim.marl import copies as side_by_side
from dlsim.marl.copies import Copies, by_group, from_groups, masks, to_groups, with_ids
from dlsim.marl.models import Net
from dlsim.networks.network import Inbox, Network


class Learner(NamedTuple):
    """A learner in an environment: what its agents want, what they do, and how they act with what they learned.

    `policy(params [G, ...], greedy=False) -> Policy` acts as trained agents do; G is 1 for shared parameters, else A.  Greedy
    agents do what is likeliest, or the mean of numbers, in place of drawing; those who learn values are greedy always.  The
    parameters are one seed's of `run.params` (`[num_seeds, G, ...]`, for `qmix` too without its mixer), or what `dlsim.save`
    kept of them: a policy needs a learner made with the same environment and model, and no run.
    """

    problem: Problem
    algorithm: Algorithm
    policy: Any
    measure: Any  # (algorithm state) -> dict of []: what was met in training


class Actor(NamedTuple):
    """How G groups of B agents choose.

    `choose(key, params [G, ...], memory [G, B, ...], seen [G, B, ...], resets bool [G, B], allowed bool [G, B, num] | None)
    -> (memory, outputs [G, B, num_outputs], actions [G, B, ...])`; `memory(num_copies) -> [G, B, ...]`.
    """

    choose: Any
    memory: Any


class Judged(NamedTuple):
    worlds: PyTree  # [E, ...]
    observations: Array  # [E, A, ...]
    memory: PyTree
    returns: Array  # [E, A]
    over: Array  # bool [E]


def actor(net: Net, part: Any, decide: Any, num_groups: int, num_agents: int) -> Actor:
    """Agents that apply `net` to `part(params)`, and `decide(key, outputs, allowed) -> actions` by its outputs."""

    def forward(params: PyTree, memory: PyTree, seen: Array, resets: Array) -> tuple[PyTree, Array]:
        memory, outputs = net.apply(part(params), memory, seen[None], resets[None])
        return memory, outputs[0]

    def choose(
        key: Array, params: PyTree, memory: PyTree, seen: Array, resets: Array, allowed: Array | None
    ) -> tuple[PyTree, Array, Array]:
        memory, outputs = by_group(forward, num_groups)(params, memory, seen, resets)
        return memory, outputs, decide(key, outputs, allowed)

    def memory(num_copies: int) -> PyTree:
        return start_memory(net, num_copies, num_groups, num_agents)

    return Actor(choose, memory)


def start_memory(net: Net, num_copies: int, num_groups: int, num_agents: int) -> PyTree:
    """What agents remember before they saw anything, `[G, B, ...]`."""
    fresh = net.memory(num_agents * num_copies // num_groups)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_groups, *leaf.shape)), fresh)


def first_rows_of(is_first: Array, num_groups: int, num_agents: int) -> Array:
    """Whether what is remembered is of an episode that is over, from `[E]` to bool `[G, B]`."""
    return to_groups(jnp.broadcast_to(is_first[:, None], (is_first.shape[0], num_agents)), num_groups)


def groups_of_masks(environment: Environment, worlds: PyTree, num_groups: int) -> Array | None:
    """What may be done now, bool `[G, B, num]`; None: everything."""
    allowed = masks(environment, worlds)
    return None if allowed is None else to_groups(allowed, num_groups)


def judge(
    environment: Environment, make_actor: Any, has_ids: bool, num_episodes: int, num_steps: int, seed: int = 0
) -> Any:
    """`Problem.evaluate`: what agents with these parameters `[G, ...]` earn in fixed episodes.

    The episodes are the same whenever and for whomever they are asked (common random numbers).  Metrics: `episode_return`
    `[G]` (of each agent, summed over an episode, mean over episodes; over all agents where one set of parameters acts for
    all), and what the environment's `metrics` say at the end of an episode.
    """
    num_agents, ids = environment.num_agents, jnp.arange(num_episodes)

    def evaluate(params: PyTree, node_ids: Array | None) -> Info:
        del node_ids
        groups = jax.tree.leaves(params)[0].shape[0]
        if groups not in (1, num_agents):
            checks.fail("evaluate", "params", f"of 1 or all {num_agents} agents", f"{groups} of them")
        act = make_actor(groups)
        key = keys.stream(jax.random.key(seed), "judge")

        def step(state: Judged, t: Array) -> tuple[Judged, None]:
            draw = jax.random.fold_in(key, t)
            memory, _, actions = act.choose(
                keys.stream(draw, "act"),
                params,
                state.memory,
                to_groups(with_ids(state.observations, has_ids), groups),
                jnp.zeros((groups, num_agents * num_episodes // groups), bool),
                groups_of_masks(environment, state.worlds, groups),
            )
            draws = keys.at_nodes(keys.stream(draw, "step"), ids)
            worlds, observations, rewards, _, info = jax.vmap(environment.step)(
                draws, state.worlds, from_groups(actions, num_agents)
            )
            # What is over stays as it ended.
            worlds, observations = trees.select(~state.over, (worlds, observations), (state.worlds, state.observations))
            returns = state.returns + jnp.where(state.over[:, None], 0.0, rewards)
            return Judged(worlds, observations, memory, returns, state.over | info["is_over"]), None

        worlds, observations = jax.vmap(environment.reset)(keys.at_nodes(keys.stream(key, "reset"), ids))
        nothing = jnp.zeros((num_episodes, num_agents))
        start = Judged(worlds, observations, act.memory(num_episodes), nothing, jnp.zeros(num_episodes, bool))
        end, _ = jax.lax.scan(step, start, jnp.arange(num_steps))
        by_agent = jnp.mean(end.returns, axis=0)
        out = {"episode_return": by_agent if groups > 1 else jnp.mean(by_agent)[None]}
        if environment.metrics is not None:
            last = jax.vmap(environment.metrics)(end.worlds)
            means = {name: jnp.mean(value.astype(jnp.float32)) for name, value in last.items() if value.ndim == 1}
            out |= {name: jnp.broadcast_to(mean, (groups,)) for name, mean in means.items()}
        return out

    return evaluate


def problem_of(environment: Environment, init: Any, evaluate: Any, batch_size: int, source: str) -> Problem:
    """What agents want: parameters of one node to begin with, and how they are judged.  Its data are made by playing."""

    def nothing(*args: Any) -> Any:
        del args
        checks.fail(environment.name, "problem", "one with data of its own for this algorithm", "a world to act in")

    return Problem(
        num_nodes=environment.num_agents,
        init=init,
        loss=nothing,
        sample=nothing,
        gradient=nothing,
        full_gradient=nothing,
        evaluate=evaluate,
        num_examples=None,
        batch_size=batch_size,
        source=source,
    )


def policy_of(environment: Environment, make_actor: Any, has_ids: bool, make_greedy: Any = None) -> Any:
    """`(params [G, ...], greedy=False) -> Policy` of agents that act by what they learned; see `Learner`."""

    def policy(params: PyTree, greedy: bool = False) -> Policy:
        checks.flag("policy", "greedy", greedy)
        groups = jax.tree.leaves(params)[0].shape[0]
        act_by = make_greedy(groups) if greedy and make_greedy is not None else make_actor(groups)

        def act(key: Array, memory: PyTree, observations: Array, allowed: Array | None, heard: Inbox | None) -> Any:
            del heard
            seen = to_groups(with_ids(observations[None], has_ids), groups)
            may = None if allowed is None else to_groups(allowed[None], groups)
            inner = jax.tree.map(lambda leaf: leaf.reshape(groups, -1, *leaf.shape[1:]), memory)
            inner, _, actions = act_by.choose(key, params, inner, seen, jnp.zeros(seen.shape[:2], bool), may)
            rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), inner)
            return rows, from_groups(actions, environment.num_agents)[0], None

        def init(num_agents: int) -> PyTree:
            del num_agents
            return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), act_by.memory(1))

        return Policy(act, init)

    return policy


def met(copies: Copies) -> Info:
    """What was met in training, for `Learner.measure`."""
    return {"training_return": side_by_side.finished(copies)}


@checks.typed
def train(learner: Learner, network: Network | None = None, scenario: Scenario | None = None) -> Process:
    """Agents that learn while they act: the Process of a learner, one update a step.

    As `dlsim.learn` of its problem and its algorithm, with what the learner measures beside: `episode_return` (mean over
    agents, in fixed episodes, each acting by its own parameters) and `episode_return_of_mean` (all acting by the mean),
    the environment's metrics at the end of those episodes, `consensus_distance`, `train_loss`, the traffic of gossip,
    `gradient_evaluations`, and `training_return` (per agent, of the last episodes met in training) and
    `environment_steps`.

    Args:
      learner: `dlsim.marl.ippo(...)` and the like.
      network: what gossiping agents are connected by, one node an agent; None: a complete one.
      scenario: what happens to nodes and links.  A node that is absent acts, but does not learn, send or hear.
    """
    checks.instance("train", "learner", learner, Learner, "Use dlsim.marl.ippo(environment) or another learner.")
    if network is None:
        from dlsim.networks.graphs.topologies import complete

        network = complete(learner.problem.num_nodes)
    process = learn(learner.problem, learner.algorithm, network, scenario)
    inner: Any = process.measure

    def measure(state: LearnState, info: Info) -> Info:
        return {**inner(state, info), **learner.measure(state.algorithm)}

    relink = Relink(lambda other: train(learner, other, scenario), (process.init, process.step, measure))
    return process._replace(measure=measure, on=relink)
