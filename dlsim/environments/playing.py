"""`play`: a policy in a world, as one Process."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Process, PyTree, Scenario
from dlsim.environments.environment import Environment
from dlsim.environments.policies import Policy, repair
from dlsim.networks.messages import both, open_channels
from dlsim.networks.network import Inbox, Network, NetworkState
from dlsim.networks.pace.seconds import by_node, end_round
from dlsim.running import counters


class PlayState(NamedTuple):
    world: PyTree
    observations: Array  # [A, ...]
    memory: PyTree  # the policy's, [A, ...]
    said: Array | None  # [A, message_size] in the last round
    has_said: Array  # bool [A]
    dones: Array  # bool [A]
    is_over: Array  # bool []: the next step begins a new episode
    returns: Array  # [A] rewards of this episode so far
    last_returns: Array  # [A] of the last episode that ended; NaN before
    num_episodes: Array  # uint32 [] ended
    num_repaired: counters.Counter  # [] actions that were none, or not allowed
    network: NetworkState | None
    scenario: PyTree


def play(
    environment: Environment, policy: Policy, network: Network | None = None, scenario: Scenario | None = None
) -> Process:
    """Agents that act: the Process of `policy` in `environment`, one step of the world a step.

    What agents say (`policy.message_size` > 0) goes through the network's `gather` and is counted there: a message of
    the last round is heard, before anyone chooses, by those whom `environment.contact` joins to its sender now and who
    are linked to it.  The network may lose, compress or delay it; the scenario may silence nodes and links.  Agents that
    are done are silent, and nobody is heard in the first round of an episode.

    An episode that is over stays for its last record and begins anew in the next step.

    The process measures `reward` (mean over agents in this step), `episode_return` (mean over agents, of the episode so
    far), `last_episode_return` (NaN before one ended), `num_episodes`, `num_repaired` (see `policies.repair`), what
    the environment's `metrics` say, and, where agents speak, `bits_sent`, `messages_sent`, `simulated_seconds`.

    Args:
      environment: without `auto_reset`.
      policy: of `dlsim.environments.policies`, or of your own.
      network: of one node an agent; None: a complete one.
      scenario: what happens to the network, round by round.

    Raises ValueError where the sizes differ or a silent policy is given a network.
    """
    checks.instance("play", "environment", environment, Environment, "Call its factory first.")
    checks.instance("play", "policy", policy, Policy, "See dlsim.environments.random_policy.")
    checks.function("play", "policy.act", policy.act)
    checks.function("play", "policy.init", policy.init)
    checks.integer("play", "policy.message_size", policy.message_size, 0)
    num_agents = environment.num_agents
    network = _checked(num_agents, policy, network, scenario)

    def begin(key: Array, state: PlayState | None = None) -> PlayState:
        world, observations = environment.reset(keys.stream(key, "reset"))
        said = jnp.zeros((num_agents, policy.message_size)) if policy.message_size else None
        nobody, zeros = jnp.zeros(num_agents, bool), jnp.zeros(num_agents)
        fresh = PlayState(
            world,
            observations,
            policy.init(num_agents),
            said,
            nobody,
            nobody,
            jnp.zeros((), bool),
            zeros,
            jnp.full(num_agents, jnp.nan),
            jnp.zeros((), jnp.uint32),
            counters.counter(),
            None if network is None else network.state,
            (),
        )
        if state is None:
            return fresh
        lasting = ("last_returns", "num_episodes", "num_repaired", "network", "scenario")
        return fresh._replace(**{name: getattr(state, name) for name in lasting})

    def listen(key: Array, state: PlayState, current: Network) -> tuple[Inbox, Network]:
        speaks = state.has_said & ~state.dones
        linked = speaks[current.senders]
        if environment.contact is not None:
            linked &= environment.contact(state.world)[current.receivers, current.senders]
        current = current.replace(is_linked=both(current.is_linked, linked))
        return current.gather(key, state.said, stream="talk")

    def talk(key: Array, state: PlayState, current: Network) -> tuple[Inbox, PyTree, Network]:
        scenario_state = state.scenario
        if scenario is not None:
            scenario_state, current = scenario.step(keys.stream(key, "scenario"), scenario_state, current)
        heard, current = listen(keys.stream(key, "talk"), state, current)
        return heard, scenario_state, end_round(current)

    def init(key: Array) -> PlayState:
        state = begin(key)
        if network is None:
            return state
        if scenario is not None:
            state = state._replace(scenario=scenario.init(keys.stream(key, "scenario"), network))
        opened = open_channels(network, lambda probed: talk(key, state, probed)[2])
        return state._replace(network=opened.state)

    def step(key: Array, state: PlayState) -> tuple[PlayState, Info]:
        state = jax.lax.cond(state.is_over, lambda: begin(key, state), lambda: state)
        heard, network_state, scenario_state = None, state.network, state.scenario
        if network is not None:
            assert network_state is not None
            heard, scenario_state, current = talk(key, state, network.with_state(network_state))
            network_state = current.state
        allowed = None if environment.action_mask is None else environment.action_mask(state.world)
        acting = keys.stream(key, "act")
        memory, actions, said = policy.act(acting, state.memory, state.observations, allowed, heard)
        if said is not None:
            checks.shape("play", "message", said, (num_agents, policy.message_size))
        actions, bad = repair(environment, actions, allowed)
        bad &= ~state.dones
        world, observations, rewards, dones, info = environment.step(keys.stream(key, "world"), state.world, actions)
        returns, over = state.returns + rewards, info["is_over"]
        after = PlayState(
            world,
            observations,
            memory,
            said,
            jnp.full(num_agents, policy.message_size > 0),
            dones.astype(bool),
            over,
            returns,
            jnp.where(over, returns, state.last_returns),
            state.num_episodes + over.astype(jnp.uint32),
            counters.add(state.num_repaired, counters.from_words(jnp.sum(bad).astype(jnp.uint32))),
            network_state,
            scenario_state,
        )
        return after, {**info, "rewards": rewards, "actions": actions}

    def measure(state: PlayState, info: Info) -> Info:
        out: dict[str, Any] = {} if environment.metrics is None else dict(environment.metrics(state.world))
        if "rewards" in info:
            out["reward"] = jnp.mean(info["rewards"])
        out["episode_return"] = jnp.mean(state.returns)
        out["last_episode_return"] = jnp.mean(state.last_returns)
        out["num_episodes"] = state.num_episodes
        out["num_repaired"] = state.num_repaired
        if state.network is not None:
            traffic = state.network.traffic
            out["bits_sent"] = counters.total(traffic.bits)
            out["messages_sent"] = counters.total(traffic.messages)
            out["simulated_seconds"] = traffic.clock
            out |= by_node(state.network, None if network is None else network.links)
        return out

    sources = (environment.source, policy.source, "" if network is None else network.channel.source)
    return Process(init, step, measure, tuple(s for s in sources if s), network=network)


def _checked(num_agents: int, policy: Policy, network: Network | None, scenario: Scenario | None) -> Network | None:
    """The network that messages go through; None for a silent policy."""
    if policy.message_size == 0:
        for name, value in (("network", network), ("scenario", scenario)):
            if value is not None:
                checks.fail("play", name, "None for a policy that says nothing", type(value).__name__)
        return None
    if network is None:
        from dlsim.networks.graphs.topologies import complete

        network = complete(num_agents)
    checks.instance("play", "network", network, Network, "Use a topology, or from_networkx, from_jraph, from_matrix.")
    if scenario is not None:
        checks.instance("play", "scenario", scenario, Scenario, "A Channel goes to network.with_channel.")
    if network.num_nodes != num_agents:
        fix = "Give it one node an agent."
        checks.fail("play", "network", f"of {num_agents} nodes", f"{network.num_nodes} nodes", fix)
    if network.neighbors is None:
        network = network.with_lowering("neighbors")
    return network
