"""Proximal policy optimisation for many agents: independent critics (IPPO) or critics that see the world (MAPPO)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.optimizers import NodeOptimizer, node_optimizer
from dlsim.core import Algorithm, Array, Info, PyTree
from dlsim.environments.environment import Environment
from dlsim.marl import copies as side_by_side, models
from dlsim.marl.copies import Copies, by_group, from_groups, to_groups, with_ids
from dlsim.marl.distributions import Distribution, distribution_of
from dlsim.marl.learner import (
    Learner,
    actor,
    first_rows_of,
    groups_of_masks,
    judge,
    met,
    policy_of,
    problem_of,
    start_memory,
)
from dlsim.marl.models import Model, Net
from dlsim.marl.ppo_update import Batch, Clipping, Sample, advantages, update
from dlsim.marl.sharing import Sharing, exchange_of, first_rows, share_parameters
from dlsim.networks.network import Network
from dlsim.running import counters

if TYPE_CHECKING:
    import optax

IPPO_SOURCE = "de Witt et al., Is independent learning all you need in the StarCraft multi-agent challenge? 2020"
MAPPO_SOURCE = "Yu et al., The surprising effectiveness of PPO in cooperative multi-agent games, NeurIPS D&B 2022"


class PPOState(NamedTuple):
    params: PyTree  # [G, ...] {"actor", "critic"}
    optimizer_state: PyTree  # [G, ...]
    exchange: PyTree
    copies: Copies  # [E, ...]
    memory: PyTree  # (actor's, critic's), [G, B, ...]
    num_updates: Array  # uint32 []
    environment_steps: counters.Counter  # []


class Settings(NamedTuple):
    """Numbers of PPO; floats may be traced."""

    num_copies: int
    num_steps: int
    num_epochs: int
    num_minibatches: int
    discount: Any
    trace: Any
    clipping: Clipping
    is_central: bool
    has_ids: bool


def ippo(
    environment: Environment,
    optimizer: optax.GradientTransformation | None = None,
    *,
    sharing: Sharing | None = None,
    model: Model | None = None,
    critic_model: Model | None = None,
    num_copies: int = 16,
    num_steps: int = 128,
    num_epochs: int = 4,
    num_minibatches: int = 4,
    discount: Any = 0.99,
    trace: Any = 0.95,
    clip: Any = 0.2,
    entropy_weight: Any = 0.01,
    value_weight: Any = 0.5,
    normalize: bool = True,
    has_ids: bool = False,
    num_eval_episodes: int = 32,
    eval_steps: int | None = None,
) -> Learner:
    """Independent PPO: each agent's actor and critic see what the agent sees.

    An update plays T = `num_steps` steps in E = `num_copies` copies of the world and then, `num_epochs` times over
    `num_minibatches` minibatches, steps along the gradient of

        L = -min(r A, clip(r, 1 - c, 1 + c) A) + v 1/2 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2) - h H
        A = sum_l (discount trace)^l delta_{t+l},   delta = reward + discount V(next) - V,   R = A + V_old

    with r the ratio of the new to the old chance of the action, H the entropy, A normalised over the minibatch.  An
    episode ends for all at once; agents that are out of it before are learned from like others, as what the team earns
    then is theirs too.  The end of an episode by its time limit counts as its end.  Both as in JaxMARL.

    Args:
      environment: without `auto_reset`; discrete actions (masks are obeyed) or boxes of numbers.
      optimizer: default Adam 2.5e-4 (eps 1e-5) after clipping the gradient's norm to 0.5; for a rate that falls give it a
        schedule of `num_updates * num_epochs * num_minibatches` steps.
      sharing: `share_parameters()` (default), `independent()` or `gossip(...)`.
      model, critic_model: `feedforward()` (default), `recurrent()`, or `from_flax`; the critic's is the model's if None.
      num_copies: E, copies of the world that are played side by side; default 16.
      num_steps: T, steps of each between two updates; default 128.
      num_epochs: how often an update goes through what was played; default 4.
      num_minibatches: of each time; default 4; recurrent models split whole sequences, others single steps.
      discount, trace: 0.99 and 0.95; may be traced, as may the next three.
      clip: c = 0.2.
      entropy_weight: h = 0.01.
      value_weight: v = 0.5.
      normalize: whether A is normalised; default True.
      has_ids: whether agents see their own one-hot number beside their (flattened) observation; default False.
      num_eval_episodes: episodes behind every measured `episode_return`; default 32.
      eval_steps: steps of such an episode; default the environment's `max_steps`.

    Returns:
      Learner, for `train`.
    Cost per update: E T environment steps, E T num_epochs gradients a node, one message of D numbers a neighbour where
      the parameters gossip.
    Source: de Witt et al., Is independent learning all you need in the StarCraft multi-agent challenge? 2020; Schulman
      et al., Proximal policy optimization algorithms, 2017.  Defaults: JaxMARL's for its particle environments.
    """
    return _ppo("ippo", is_central=False, source=IPPO_SOURCE, **locals())


def mappo(
    environment: Environment,
    optimizer: optax.GradientTransformation | None = None,
    *,
    sharing: Sharing | None = None,
    model: Model | None = None,
    critic_model: Model | None = None,
    num_copies: int = 16,
    num_steps: int = 128,
    num_epochs: int = 4,
    num_minibatches: int = 4,
    discount: Any = 0.99,
    trace: Any = 0.95,
    clip: Any = 0.2,
    entropy_weight: Any = 0.01,
    value_weight: Any = 0.5,
    normalize: bool = True,
    has_ids: bool = False,
    num_eval_episodes: int = 32,
    eval_steps: int | None = None,
) -> Learner:
    """PPO with critics that see the world: as `ippo`, but V is a function of `environment.global_state` and the agent.

    Where the environment knows no global state it is all observations side by side; each agent's one-hot number follows.
    JaxMARL trains the two nets by optimisers of their own; here one optimiser holds both, so a clipped norm is the norm
    of both gradients.

    Args:
      environment, optimizer, sharing, model, critic_model: as in `ippo`; JaxMARL's recurrent setting is
        `model=recurrent(128)` with Adam at 2e-3.
      num_copies, num_steps, num_epochs, num_minibatches: 16 copies, 128 steps, 4 epochs of 4 minibatches.
      discount, trace: 0.99 and 0.95.
      clip, entropy_weight, value_weight, normalize: c = 0.2, h = 0.01, v = 0.5, and whether A is normalised (True).
      has_ids: whether actors see their own one-hot number (False); critics do in any case.
      num_eval_episodes, eval_steps: 32 episodes, of the environment's `max_steps`.
    Source: Yu et al., The surprising effectiveness of PPO in cooperative multi-agent games, NeurIPS D&B 2022.
    """
    return _ppo("mappo", is_central=True, source=MAPPO_SOURCE, **locals())


def _ppo(
    where: str,
    environment: Environment,
    optimizer: Any,
    *,
    is_central: bool,
    source: str,
    sharing: Sharing | None,
    model: Model | None,
    critic_model: Model | None,
    num_copies: int,
    num_steps: int,
    num_epochs: int,
    num_minibatches: int,
    discount: Any,
    trace: Any,
    clip: Any,
    entropy_weight: Any,
    value_weight: Any,
    normalize: bool,
    has_ids: bool,
    num_eval_episodes: int,
    eval_steps: int | None,
) -> Learner:
    checks.instance(where, "environment", environment, Environment, "Call its factory first.")
    if optimizer is not None:
        checks.optimizer(where, "optimizer", optimizer)
    model = models.feedforward() if model is None else models.checked(where, model)
    critic_model = model if critic_model is None else models.checked(where, critic_model)
    sharing = share_parameters() if sharing is None else checks.instance(where, "sharing", sharing, Sharing)
    settings = Settings(
        checks.integer(where, "num_copies", num_copies, 1),
        checks.integer(where, "num_steps", num_steps, 1),
        checks.integer(where, "num_epochs", num_epochs, 1),
        checks.integer(where, "num_minibatches", num_minibatches, 1),
        checks.probability(where, "discount", discount),
        checks.probability(where, "trace", trace),
        Clipping(
            checks.number(where, "clip", clip, 0.0, open_minimum=True),
            checks.number(where, "entropy_weight", entropy_weight, 0.0),
            checks.number(where, "value_weight", value_weight, 0.0),
            checks.flag(where, "normalize", normalize),
        ),
        is_central,
        checks.flag(where, "has_ids", has_ids),
    )
    if model.is_recurrent != critic_model.is_recurrent:
        checks.fail(where, "critic_model", "recurrent where the model is, and only there", "one of each")
    rows = environment.num_agents * num_copies // sharing.num_groups(environment)
    rows *= 1 if model.is_recurrent else num_steps
    if rows % num_minibatches:
        checks.fail(where, "num_minibatches", f"a divisor of the {rows} rows of an update", num_minibatches)
    num_eval_episodes = checks.integer(where, "num_eval_episodes", num_eval_episodes, 1)
    eval_steps = environment.max_steps if eval_steps is None else eval_steps
    if eval_steps is None:
        checks.fail(where, "eval_steps", "given for an environment without max_steps", "None")
    eval_steps = checks.integer(where, "eval_steps", eval_steps, 1)
    chances = distribution_of(where, environment)
    nets = (model.build(chances.num_outputs, 0.01), critic_model.build(1, 1.0))

    def init(key: Array) -> PyTree:
        first = jax.eval_shape(lambda key: begin_seen(key), jax.random.key(0))
        zeros = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in first]
        return {
            "actor": nets[0].init(keys.stream(key, "actor"), zeros[0]),
            "critic": nets[1].init(keys.stream(key, "critic"), zeros[1]),
        }

    def begin_seen(key: Array) -> tuple[Array, Array]:
        copies = side_by_side.begin(key, environment, 1)
        seen = with_ids(copies.observations, has_ids)
        return seen[0, 0], seen_by_critics(environment, settings, copies)[0, 0]

    def make_actor(groups: int, decide: Any = chances.sample) -> Any:
        return actor(nets[0], lambda params: params["actor"], decide, groups, environment.num_agents)

    def make_greedy(groups: int) -> Any:
        return make_actor(groups, lambda key, outputs, allowed: chances.best(outputs, allowed))

    evaluate = judge(environment, make_actor, has_ids, num_eval_episodes, eval_steps)
    problem = problem_of(environment, init, evaluate, num_copies * num_steps, environment.source)
    if optimizer is None:
        import optax

        optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(2.5e-4, eps=1e-5))
    steps = node_optimizer(where, optimizer)
    algorithm = _algorithm(where, environment, steps, nets, chances, sharing, settings, make_actor)

    def measure(state: PPOState) -> Info:
        return {**met(state.copies), "environment_steps": state.environment_steps}

    return Learner(
        problem, algorithm._replace(source=source), policy_of(environment, make_actor, has_ids, make_greedy), measure
    )


def seen_by_critics(environment: Environment, settings: Settings, copies: Copies) -> Array:
    """What the critics look at, `[E, A, ...]`."""
    if not settings.is_central:
        return with_ids(copies.observations, settings.has_ids)
    num_copies, num_agents = copies.observations.shape[:2]
    if environment.global_state is None:
        world = copies.observations.reshape(num_copies, -1)
    else:
        world = jax.vmap(environment.global_state)(copies.worlds).reshape(num_copies, -1)
    everyone = jnp.broadcast_to(world[:, None], (num_copies, num_agents, world.shape[1]))
    return with_ids(everyone, True)


def _algorithm(
    where: str,
    environment: Environment,
    steps: NodeOptimizer,
    nets: tuple[Net, Net],
    chances: Distribution,
    sharing: Sharing,
    settings: Settings,
    make_actor: Any,
) -> Algorithm:
    num_agents, groups = environment.num_agents, sharing.num_groups(environment)
    exchange = exchange_of(where, sharing, environment)
    act = make_actor(groups)

    def init(key: Array, params: PyTree, network: Network) -> PPOState:
        del network
        mine = first_rows(params, groups)
        memory = tuple(start_memory(net, settings.num_copies, groups, num_agents) for net in nets)
        return PPOState(
            mine,
            steps.init(mine),
            exchange.init(mine),
            side_by_side.begin(keys.stream(key, "begin"), environment, settings.num_copies),
            memory,
            jnp.zeros((), jnp.uint32),
            counters.counter(),
        )

    def by_rows(leaf: Array) -> Array:
        """`[T, G, B, ...]` as `[G, T, B, ...]`."""
        return jnp.swapaxes(leaf, 0, 1)

    def play(key: Array, state: PPOState) -> tuple[Copies, PyTree, Batch, tuple[Array, Array]]:
        """T steps of all copies: the copies after them, the actors' memories, what happened, rewards and ends."""

        def one(carry: tuple[Copies, PyTree], t: Array) -> tuple[tuple[Copies, PyTree], Any]:
            copies, memory = carry
            draw = jax.random.fold_in(key, t)
            seen = to_groups(with_ids(copies.observations, settings.has_ids), groups)
            resets = first_rows_of(copies.is_first, groups, num_agents)
            allowed = groups_of_masks(environment, copies.worlds, groups)
            memory, outputs, actions = act.choose(keys.stream(draw, "act"), state.params, memory, seen, resets, allowed)
            critics = to_groups(seen_by_critics(environment, settings, copies), groups) if settings.is_central else ()
            # The chance of a step is taken here, from the outputs that the action was drawn by.
            log_probs = chances.log_prob(outputs, actions, allowed)
            after, rewards, over = side_by_side.advance(
                keys.stream(draw, "world"), environment, copies, from_groups(actions, num_agents)
            )
            step = Batch(
                seen=seen,
                critics=critics,
                resets=resets,
                allowed=() if allowed is None else allowed,
                actions=actions,
                log_probs=log_probs,
            )
            return (after, memory), (step, to_groups(rewards, groups), first_rows_of(over, groups, num_agents))

        (copies, memory), (batch, rewards, ends) = jax.lax.scan(
            one, (state.copies, state.memory[0]), jnp.arange(settings.num_steps)
        )
        return copies, memory, batch, (rewards, ends)

    def step(key: Array, state: PPOState, network: Network) -> tuple[PPOState, Network, Info]:
        copies, actor_memory, collected, (rewards, ends) = play(keys.stream(key, "play"), state)
        batch = jax.tree.map(by_rows, collected)
        critics = batch.critics if settings.is_central else batch.seen

        def values_of(params: PyTree, memory: PyTree, seen: Array, resets: Array) -> tuple[PyTree, Array]:
            memory, out = nets[1].apply(params["critic"], memory, seen, resets)
            return memory, out[..., 0]

        # All values at once, when the play is over: one product in place of T.
        over_groups = by_group(values_of, groups)
        critic_memory, values = over_groups(state.params, state.memory[1], critics, batch.resets)
        last_seen = to_groups(seen_by_critics(environment, settings, copies), groups)[:, None]
        last_resets = first_rows_of(copies.is_first, groups, num_agents)[:, None]
        _, last = over_groups(state.params, critic_memory, last_seen, last_resets)
        found = advantages(by_rows(rewards), values, last[:, 0], by_rows(ends), settings.discount, settings.trace)
        params, optimizer_state, losses = update(
            keys.stream(key, "update"),
            steps,
            nets,
            chances,
            settings.clipping,
            (settings.num_epochs, settings.num_minibatches),
            (state.params, state.optimizer_state, state.memory),
            Sample(batch, values, found),
        )
        if groups > 1:
            params = trees.select(network.is_present, params, state.params)
            optimizer_state = trees.select(network.is_present, optimizer_state, state.optimizer_state)
        memory = (actor_memory, critic_memory)
        exchanged, params, network = exchange.run(
            keys.stream(key, "exchange"), state.exchange, params, copies.worlds, state.num_updates, network
        )
        played = settings.num_copies * settings.num_steps
        after = PPOState(
            params,
            optimizer_state,
            exchanged,
            copies,
            memory,
            state.num_updates + 1,
            counters.add(state.environment_steps, counters.from_words(jnp.uint32(played))),
        )
        count = jnp.full(num_agents, played * settings.num_epochs, jnp.uint32)
        if groups > 1 and network.is_present is not None:
            count = jnp.where(network.is_present, count, 0)
        return after, network, {"loss": jnp.broadcast_to(losses, (num_agents,)), "num_gradients": count}

    requires = frozenset({"connected", "row_stochastic"}) if sharing.kind == "gossip" else frozenset()
    return Algorithm(init=init, step=step, requires=requires, aggregator=sharing.aggregator)
