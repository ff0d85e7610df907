"""Deep Q-learning for many agents: alone (IQL), as a sum (VDN), through a monotone mixer (QMIX)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.optimizers import node_optimizer, server_optimizer
from dlsim.core import Algorithm, Array, Info, PyTree
from dlsim.environments.environment import Environment
from dlsim.marl import copies as side_by_side, mixers, models
from dlsim.marl.copies import Copies, with_ids
from dlsim.marl.learner import Learner, judge, met, policy_of, problem_of
from dlsim.marl.models import Model, Net
from dlsim.marl.q_values import Lived, explorer, live, num_actions_of, of_action, only_allowed, values_over, world_of
from dlsim.marl.sharing import Sharing, exchange_of, first_rows, share_parameters
from dlsim.networks.network import Network
from dlsim.running import counters

if TYPE_CHECKING:
    import optax


class QState(NamedTuple):
    params: PyTree  # [G, ...] {"agent"}
    mixer: PyTree  # the team's, one for all
    targets: tuple[PyTree, PyTree]  # params and mixer as they were
    optimizer_state: tuple[PyTree, PyTree]
    exchange: PyTree
    copies: Copies
    replay: Lived  # [C, T, ...] sequences
    num_updates: Array  # uint32 []
    environment_steps: counters.Counter


class Settings(NamedTuple):
    num_copies: int
    num_steps: int
    capacity: int
    batch_size: int
    num_epochs: int
    first_update: int
    target_period: int
    discount: Any
    exploration: tuple[Any, Any, Any]  # first, last, updates in between
    reward_scale: Any
    has_ids: bool


def iql(
    environment: Environment,
    optimizer: optax.GradientTransformation | None = None,
    *,
    sharing: Sharing | None = None,
    model: Model | None = None,
    num_copies: int = 8,
    num_steps: int = 26,
    capacity: int = 5000,
    batch_size: int = 32,
    num_epochs: int = 1,
    learning_starts: int = 10_000,
    target_period: int = 200,
    discount: Any = 0.9,
    exploration: tuple[Any, Any, Any] = (1.0, 0.05, 1000.0),
    reward_scale: Any = 1.0,
    has_ids: bool | None = None,
    num_eval_episodes: int = 32,
    eval_steps: int | None = None,
) -> Learner:
    """Independent Q-learning: each agent learns the value of its own actions, by its own reward.

    An update plays T steps in E copies, exploring; keeps the E sequences in a replay of C; and then, `num_epochs` times,
    draws `batch_size` sequences and steps along the gradient of the mean of

        (r_t + discount (1 - over_t) Q'(o_{t+1}, argmax_a Q(o_{t+1}, a)) - Q(o_t, a_t))^2      double Q-learning

    with Q' the net of the last multiple of `target_period` updates.  Memories are empty where a sequence begins.

    Args:
      environment: of one discrete action an agent, without `auto_reset`; masks are obeyed.
      optimizer: default RAdam 5e-3 after clipping the gradient's norm to 25.
      sharing: `share_parameters()` (default), `independent()` or `gossip(...)`.
      model: default `recurrent(64)`.
      num_copies, num_steps: E = 8 and T = 26.
      capacity: C = 5000 sequences, a multiple of E.
      batch_size: sequences of a gradient; default 32.
      num_epochs: gradient steps of an update; default 1.
      learning_starts: environment steps before the first gradient; default 10,000.
      target_period: updates between two copies of the net into Q'; default 200.
      discount: 0.9.
      exploration: (first, last, updates in between) of epsilon, by default (1.0, 0.05, 1000).
      reward_scale: of rewards in the targets; default 1.
      has_ids: whether agents see their one-hot number beside their observation; default where parameters are shared.
      num_eval_episodes, eval_steps: 32 episodes, of the environment's `max_steps`, as in `ippo`; agents are judged
        without exploring.
    Source: Tampuu et al., Multiagent cooperation and competition with deep reinforcement learning, PLOS ONE 2017; van
      Hasselt, Guez, Silver, Deep reinforcement learning with double Q-learning, AAAI 2016.  Defaults: JaxMARL's.
    """
    return _learner("iql", mixer=mixers.apart(), source="Tampuu et al., PLOS ONE 2017", **locals())


def vdn(
    environment: Environment,
    optimizer: optax.GradientTransformation | None = None,
    *,
    sharing: Sharing | None = None,
    model: Model | None = None,
    num_copies: int = 8,
    num_steps: int = 26,
    capacity: int = 5000,
    batch_size: int = 32,
    num_epochs: int = 1,
    learning_starts: int = 10_000,
    target_period: int = 200,
    discount: Any = 0.9,
    exploration: tuple[Any, Any, Any] = (1.0, 0.05, 1000.0),
    reward_scale: Any = 1.0,
    has_ids: bool | None = None,
    num_eval_episodes: int = 32,
    eval_steps: int | None = None,
) -> Learner:
    """Value decomposition: as `iql`, for the team's value Q_tot = sum_i Q_i and the team's reward, the agents' sum.

    Where agents have parameters of their own the sum's error is made known to all (centralised training).

    Args:
      environment, optimizer, sharing, model: as in `iql` (RAdam 5e-3 after clipping to 25; shared; `recurrent(64)`).
      num_copies, num_steps, capacity, batch_size, num_epochs: 8 copies, 26 steps, 5000 sequences kept, 32 drawn, once.
      learning_starts, target_period: 10,000 environment steps, 200 updates.
      discount, exploration, reward_scale: 0.9, (1.0, 0.05, 1000) and 1.
      has_ids, num_eval_episodes, eval_steps: where parameters are shared; 32 episodes, of `max_steps`.
    Source: Sunehag et al., Value-decomposition networks for cooperative multi-agent learning, AAMAS 2018.
    """
    return _learner("vdn", mixer=mixers.total(), source="Sunehag et al., AAMAS 2018", **locals())


@checks.typed
def qmix(
    environment: Environment,
    optimizer: optax.GradientTransformation | None = None,
    *,
    embedding: int = 32,
    hidden: int = 128,
    sharing: Sharing | None = None,
    model: Model | None = None,
    num_copies: int = 8,
    num_steps: int = 26,
    capacity: int = 5000,
    batch_size: int = 32,
    num_epochs: int = 1,
    learning_starts: int = 10_000,
    target_period: int = 200,
    discount: Any = 0.9,
    exploration: tuple[Any, Any, Any] = (1.0, 0.05, 1000.0),
    reward_scale: Any = 1.0,
    has_ids: bool | None = None,
    num_eval_episodes: int = 32,
    eval_steps: int | None = None,
) -> Learner:
    """Monotone value factorisation: as `vdn`, for Q_tot = w2(s)^T elu(W1(s)^T q + b1(s)) + b2(s), W1, w2 >= 0.

    s is `environment.global_state`, or all observations side by side.  The mixer is the team's: it does not gossip.

    Args:
      embedding, hidden: widths of the mixer and of the nets that make its weights; 32 and 128.
      environment, optimizer, sharing, model: as in `iql` (RAdam 5e-3 after clipping to 25; shared; `recurrent(64)`).
      num_copies, num_steps, capacity, batch_size, num_epochs: 8 copies, 26 steps, 5000 sequences kept, 32 drawn, once.
      learning_starts, target_period: 10,000 environment steps, 200 updates.
      discount, exploration, reward_scale: 0.9, (1.0, 0.05, 1000) and 1.
      has_ids, num_eval_episodes, eval_steps: where parameters are shared; 32 episodes, of `max_steps`.
    Source: Rashid et al., QMIX: monotonic value function factorisation, ICML 2018.
    """
    given = dict(locals())
    checks.instance("qmix", "environment", environment, Environment, "Call its factory first.")
    embedding, hidden = (checks.integer("qmix", name, given.pop(name), 1) for name in ("embedding", "hidden"))
    mixer = mixers.monotone(environment.num_agents, embedding, hidden)
    return _learner("qmix", mixer=mixer, source="Rashid et al., ICML 2018", **given)


def _learner(
    where: str,
    environment: Environment,
    optimizer: Any,
    *,
    mixer: mixers.Mixer,
    source: str,
    sharing: Sharing | None,
    model: Model | None,
    num_copies: int,
    num_steps: int,
    capacity: int,
    batch_size: int,
    num_epochs: int,
    learning_starts: int,
    target_period: int,
    discount: Any,
    exploration: tuple[Any, Any, Any],
    reward_scale: Any,
    has_ids: bool | None,
    num_eval_episodes: int,
    eval_steps: int | None,
) -> Learner:
    num_actions = num_actions_of(where, environment)
    model = models.recurrent(64) if model is None else models.checked(where, model)
    sharing = share_parameters() if sharing is None else checks.instance(where, "sharing", sharing, Sharing)
    num_copies = checks.integer(where, "num_copies", num_copies, 1)
    num_steps = checks.integer(where, "num_steps", num_steps, 2)
    capacity = checks.integer(where, "capacity", capacity, num_copies)
    if capacity % num_copies:
        checks.fail(where, "capacity", f"a multiple of num_copies = {num_copies}", capacity)
    expected = "(first, last, updates in between)"
    if len(checks.sequence(where, "exploration", exploration, expected)) != 3:
        checks.fail(where, "exploration", expected, checks.describe(exploration))
    starts = checks.integer(where, "learning_starts", learning_starts, 0)
    settings = Settings(
        num_copies,
        num_steps,
        capacity,
        checks.integer(where, "batch_size", batch_size, 1),
        checks.integer(where, "num_epochs", num_epochs, 1),
        max(-(-starts // (num_copies * num_steps)), -(-batch_size // num_copies)),
        checks.integer(where, "target_period", target_period, 1),
        checks.probability(where, "discount", discount),
        (
            checks.probability(where, "exploration[0]", exploration[0]),
            checks.probability(where, "exploration[1]", exploration[1]),
            checks.number(where, "exploration[2]", exploration[2], 0.0),
        ),
        checks.number(where, "reward_scale", reward_scale),
        sharing.kind == "parameters" if has_ids is None else checks.flag(where, "has_ids", has_ids),
    )
    eval_steps = environment.max_steps if eval_steps is None else eval_steps
    if eval_steps is None:
        checks.fail(where, "eval_steps", "given for an environment without max_steps", "None")
    net = model.build(num_actions, 1.0)
    if optimizer is None:
        import optax

        optimizer = optax.chain(optax.clip_by_global_norm(25.0), optax.radam(5e-3))

    def init(key: Array) -> PyTree:
        def seen(key: Array) -> Array:
            return with_ids(side_by_side.begin(key, environment, 1).observations, settings.has_ids)[0, 0]

        like = jax.eval_shape(seen, key)
        return {"agent": net.init(keys.stream(key, "agent"), jnp.zeros(like.shape, like.dtype))}

    def make_actor(groups: int) -> Any:
        return explorer(net, groups, environment.num_agents, 0.0)

    num_eval_episodes = checks.integer(where, "num_eval_episodes", num_eval_episodes, 1)
    eval_steps = checks.integer(where, "eval_steps", eval_steps, 1)
    evaluate = judge(environment, make_actor, settings.has_ids, num_eval_episodes, eval_steps)
    problem = problem_of(environment, init, evaluate, batch_size * (num_steps - 1), environment.source)
    algorithm = _algorithm(where, environment, optimizer, net, mixer, sharing, settings)

    def measure(state: QState) -> Info:
        return {**met(state.copies), "environment_steps": state.environment_steps}

    policy = policy_of(environment, make_actor, settings.has_ids)
    return Learner(problem, algorithm._replace(source=source), policy, measure)


def _algorithm(
    where: str,
    environment: Environment,
    optimizer: Any,
    net: Net,
    mixer: mixers.Mixer,
    sharing: Sharing,
    settings: Settings,
) -> Algorithm:
    import optax

    steps, team_steps = node_optimizer(where, optimizer), server_optimizer(where, optimizer, "optimizer")
    num_agents, groups = environment.num_agents, sharing.num_groups(environment)
    exchange = exchange_of(where, sharing, environment)
    has_team = mixer.apply is not None

    def epsilon_at(count: Array) -> Array:
        first, last, updates = settings.exploration
        return first + (last - first) * jnp.minimum(count / jnp.maximum(updates, 1.0), 1.0)

    def collect(key: Array, params: PyTree, copies: Copies, epsilon: Any) -> tuple[Copies, Lived]:
        act = explorer(net, groups, num_agents, epsilon)
        return live(key, environment, act, params, copies, settings.num_steps, groups, settings.has_ids, has_team)

    def init(key: Array, params: PyTree, network: Network) -> QState:
        del network
        mine = first_rows(params, groups)
        copies = side_by_side.begin(keys.stream(key, "begin"), environment, settings.num_copies)
        _, like = jax.eval_shape(lambda: collect(key, mine, copies, 1.0))
        shape = lambda leaf: (settings.capacity, leaf.shape[0], *leaf.shape[2:])  # noqa: E731
        replay = jax.tree.map(lambda leaf: jnp.zeros(shape(leaf), leaf.dtype), like)
        team = mixer.init(keys.stream(key, "mixer"), world_of(environment, copies)[0])
        optimizer_state = (steps.init(mine), team_steps.init(team))
        return QState(
            mine,
            team,
            (mine, team),
            optimizer_state,
            exchange.init(mine),
            copies,
            replay,
            jnp.zeros((), jnp.uint32),
            counters.counter(),
        )

    def errors(learned: tuple[PyTree, PyTree], targets: tuple[PyTree, PyTree], lived: Lived) -> tuple[Array, Array]:
        """Sum over groups of their mean squared errors, and the agents' errors `[A]`."""
        values = values_over(net, learned[0], lived, groups, settings.has_ids)
        later = values_over(net, targets[0], lived, groups, settings.has_ids)
        chosen = of_action(values, lived.actions)[:-1]
        best = jnp.argmax(only_allowed(jax.lax.stop_gradient(values), lived), axis=-1)
        after = of_action(later, best)[1:]
        goes_on = 1.0 - lived.over[:-1].astype(jnp.float32)
        rewards = settings.reward_scale * lived.rewards[:-1]
        if mixer.apply is None:
            wanted = rewards + settings.discount * goes_on[..., None] * after
            by_agent = jnp.mean(jnp.square(jax.lax.stop_gradient(wanted) - chosen), axis=(0, 1))
            # The gradient of a group's parameters is that of the mean over its own rows.
            return jnp.sum(by_agent) * groups / num_agents, by_agent
        together = mixer.apply(learned[1], chosen, lived.worlds[:-1])
        then = mixer.apply(targets[1], after, lived.worlds[1:])
        wanted = jnp.sum(rewards, axis=-1) + settings.discount * goes_on * then
        loss = jnp.mean(jnp.square(jax.lax.stop_gradient(wanted) - together))
        return loss, jnp.broadcast_to(loss, (num_agents,))

    def improve(key: Array, state: QState, filled: Array) -> tuple[tuple[PyTree, PyTree], tuple[PyTree, PyTree], Array]:
        """Gradient steps on sequences of the replay, of which `filled` are there."""

        def one(carry: tuple[Any, Any], draw: Array) -> tuple[tuple[Any, Any], Array]:
            learned, (own_state, team_state) = carry
            rows = jax.random.randint(draw, (settings.batch_size,), 0, filled)
            lived = jax.tree.map(lambda leaf: jnp.swapaxes(leaf[rows], 0, 1), state.replay)
            (loss, losses), gradients = jax.value_and_grad(errors, has_aux=True)(learned, state.targets, lived)
            all_groups = jnp.broadcast_to(loss, (groups,))
            updates, own_state = steps.update(draw, jnp.arange(groups), gradients[0], own_state, learned[0], all_groups)
            team_updates, team_state = team_steps.update(draw, gradients[1], team_state, learned[1], loss)
            learned = (optax.apply_updates(learned[0], updates), optax.apply_updates(learned[1], team_updates))
            return (learned, (own_state, team_state)), losses

        draws = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(settings.num_epochs))
        start = ((state.params, state.mixer), state.optimizer_state)
        (learned, optimizer_state), losses = jax.lax.scan(one, start, draws)
        return learned, optimizer_state, jnp.mean(losses, axis=0)

    def step(key: Array, state: QState, network: Network) -> tuple[QState, Network, Info]:
        count = state.num_updates
        copies, lived = collect(keys.stream(key, "play"), state.params, state.copies, epsilon_at(count))
        slots = settings.capacity // settings.num_copies
        place = (count % slots).astype(jnp.int32) * settings.num_copies
        replay = jax.tree.map(
            lambda kept, new: jax.lax.dynamic_update_slice_in_dim(kept, jnp.swapaxes(new, 0, 1), place, 0),
            state.replay,
            lived,
        )
        filled = jnp.minimum(count + 1, slots).astype(jnp.int32) * settings.num_copies
        stored = state._replace(replay=replay)
        learns = count + 1 >= settings.first_update
        learned, optimizer_state, losses = jax.lax.cond(
            learns,
            lambda: improve(keys.stream(key, "improve"), stored, filled),
            lambda: ((state.params, state.mixer), state.optimizer_state, jnp.zeros(num_agents)),
        )
        params, mixer_params = learned
        if groups > 1:
            params = trees.select(network.is_present, params, state.params)
            own = trees.select(network.is_present, optimizer_state[0], state.optimizer_state[0])
            optimizer_state = (own, optimizer_state[1])
        exchanged, params, network = exchange.run(
            keys.stream(key, "exchange"), state.exchange, params, copies.worlds, count, network
        )
        due = (count + 1) % settings.target_period == 0
        targets = jax.tree.map(lambda new, old: jnp.where(due, new, old), (params, mixer_params), state.targets)
        played = settings.num_copies * settings.num_steps
        after = QState(
            params,
            mixer_params,
            targets,
            optimizer_state,
            exchanged,
            copies,
            replay,
            count + 1,
            counters.add(state.environment_steps, counters.from_words(jnp.uint32(played))),
        )
        work = settings.batch_size * (settings.num_steps - 1) * settings.num_epochs
        done = jnp.where(learns, jnp.full(num_agents, work, jnp.uint32), 0)
        if groups > 1 and network.is_present is not None:
            done = jnp.where(network.is_present, done, 0)
        return after, network, {"loss": losses, "num_gradients": done}

    requires = frozenset({"connected", "row_stochastic"}) if sharing.kind == "gossip" else frozenset()
    return Algorithm(init=init, step=step, requires=requires, aggregator=sharing.aggregator)
