"""PQN-VDN: values of a team, learned on the way, without a replay and without a second net."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.optimizers import NodeOptimizer, node_optimizer
from dlsim.core import Algorithm, Array, Info, PyTree
from dlsim.environments.environment import Environment
from dlsim.marl import copies as side_by_side, models
from dlsim.marl.copies import Copies, with_ids
from dlsim.marl.learner import Learner, judge, met, policy_of, problem_of
from dlsim.marl.models import Model, Net
from dlsim.marl.q_values import Lived, explorer, live, num_actions_of, of_action, only_allowed, values_over
from dlsim.marl.sharing import Sharing, exchange_of, first_rows, share_parameters
from dlsim.networks.network import Network
from dlsim.running import counters

if TYPE_CHECKING:
    import optax

SOURCE = "Gallici et al., Simplifying deep temporal difference learning, ICLR 2025"


class PQNState(NamedTuple):
    params: PyTree  # [G, ...] {"agent"}
    optimizer_state: PyTree  # [G, ...]
    exchange: PyTree
    copies: Copies
    num_updates: Array  # uint32 []
    environment_steps: counters.Counter


class Settings(NamedTuple):
    num_copies: int
    num_steps: int
    num_epochs: int
    num_minibatches: int
    discount: Any
    trace: Any
    exploration: tuple[Any, Any, Any]
    has_ids: bool


@checks.typed
def pqn_vdn(
    environment: Environment,
    optimizer: optax.GradientTransformation | None = None,
    *,
    sharing: Sharing | None = None,
    model: Model | None = None,
    num_copies: int = 256,
    num_steps: int = 16,
    num_epochs: int = 4,
    num_minibatches: int = 16,
    discount: Any = 0.9,
    trace: Any = 0.3,
    exploration: tuple[Any, Any, Any] = (1.0, 0.05, 100.0),
    has_ids: bool | None = None,
    num_eval_episodes: int = 32,
    eval_steps: int | None = None,
) -> Learner:
    """Parallelised Q-networks with value decomposition: what was just played is learned from, and forgotten.

    An update plays T steps in E copies, exploring, and then, `num_epochs` times over `num_minibatches` minibatches of
    copies, steps along the gradient of the mean of 1/2 (G_t - sum_i Q_i(o_t, a_t))^2, with

        G_t = r_t + discount (1 - over_t) ((1 - trace) max_a Q_tot(t + 1) + trace G_{t+1})      r the agents' sum

    and G_T = max_a Q_tot(T) by the parameters that played.  Normalised layers stand in for a second net.

    Args:
      environment: of one discrete action an agent, without `auto_reset`; masks are obeyed.
      optimizer: default RAdam 5e-4 after clipping the gradient's norm to 1.
      sharing: `share_parameters()` (default), `independent()` or `gossip(...)`.
      model: default `feedforward((128, 128), activation="relu", layer_norm=True)`; recurrent ones begin each T steps with
        an empty memory.
      num_copies, num_steps, num_epochs, num_minibatches: E = 256, T = 16, 4 and 16.
      discount, trace: 0.9 and lambda = 0.3.
      exploration: (first, last, updates in between) of epsilon.
      has_ids: whether agents see their one-hot number; default where parameters are shared.
      num_eval_episodes, eval_steps: as in `ippo`; agents are judged without exploring.
    Source: Gallici, Fellows, Ellis, Pou, Masmitja, Foerster, Martin, Simplifying deep temporal difference learning, ICLR
      2025; Sunehag et al., AAMAS 2018.  Defaults: JaxMARL's.
    """
    where = "pqn_vdn"
    num_actions = num_actions_of(where, environment)
    usual = models.feedforward((128, 128), activation="relu", layer_norm=True)
    model = usual if model is None else models.checked(where, model)
    sharing = share_parameters() if sharing is None else checks.instance(where, "sharing", sharing, Sharing)
    expected = "(first, last, updates in between)"
    if len(checks.sequence(where, "exploration", exploration, expected)) != 3:
        checks.fail(where, "exploration", expected, checks.describe(exploration))
    settings = Settings(
        checks.integer(where, "num_copies", num_copies, 1),
        checks.integer(where, "num_steps", num_steps, 1),
        checks.integer(where, "num_epochs", num_epochs, 1),
        checks.integer(where, "num_minibatches", num_minibatches, 1),
        checks.probability(where, "discount", discount),
        checks.probability(where, "trace", trace),
        (
            checks.probability(where, "exploration[0]", exploration[0]),
            checks.probability(where, "exploration[1]", exploration[1]),
            checks.number(where, "exploration[2]", exploration[2], 0.0),
        ),
        sharing.kind == "parameters" if has_ids is None else checks.flag(where, "has_ids", has_ids),
    )
    if num_copies % num_minibatches:
        checks.fail(where, "num_minibatches", f"a divisor of num_copies = {num_copies}", num_minibatches)
    eval_steps = environment.max_steps if eval_steps is None else eval_steps
    if eval_steps is None:
        checks.fail(where, "eval_steps", "given for an environment without max_steps", "None")
    net = model.build(num_actions, 1.0)
    if optimizer is None:
        import optax

        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.radam(5e-4))
    steps = node_optimizer(where, optimizer)

    def init(key: Array) -> PyTree:
        def seen(key: Array) -> Array:
            return with_ids(side_by_side.begin(key, environment, 1).observations, settings.has_ids)[0, 0]

        like = jax.eval_shape(seen, key)
        return {"agent": net.init(keys.stream(key, "agent"), jnp.zeros(like.shape, like.dtype))}

    def make_actor(groups: int) -> Any:
        return explorer(net, groups, environment.num_agents, 0.0)

    evaluate = judge(
        environment,
        make_actor,
        settings.has_ids,
        checks.integer(where, "num_eval_episodes", num_eval_episodes, 1),
        checks.integer(where, "eval_steps", eval_steps, 1),
    )
    problem = problem_of(environment, init, evaluate, num_copies * num_steps, environment.source)
    algorithm = _algorithm(where, environment, steps, net, sharing, settings)

    def measure(state: PQNState) -> Info:
        return {**met(state.copies), "environment_steps": state.environment_steps}

    return Learner(problem, algorithm, policy_of(environment, make_actor, settings.has_ids), measure)


def lambda_returns(rewards: Array, after: Array, over: Array, discount: Any, trace: Any) -> Array:
    """G_t, `[T, ...]`, from team rewards, values `after[t]` of what comes next, and ends; see `pqn_vdn`."""
    goes_on = 1.0 - over.astype(jnp.float32)

    def back(carry: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, value, on = step
        carry = reward + discount * on * ((1 - trace) * value + trace * carry)
        return carry, carry

    return jax.lax.scan(back, after[-1], (rewards, after, goes_on), reverse=True)[1]


def _algorithm(
    where: str, environment: Environment, steps: NodeOptimizer, net: Net, sharing: Sharing, settings: Settings
) -> Algorithm:
    import optax

    num_agents, groups = environment.num_agents, sharing.num_groups(environment)
    exchange = exchange_of(where, sharing, environment)

    def init(key: Array, params: PyTree, network: Network) -> PQNState:
        del network
        mine = first_rows(params, groups)
        copies = side_by_side.begin(keys.stream(key, "begin"), environment, settings.num_copies)
        none = jnp.zeros((), jnp.uint32)
        state = steps.init(mine)
        return PQNState(mine, state, exchange.init(mine), copies, none, counters.counter())

    def values_of(params: PyTree, lived: Lived) -> Array:
        return values_over(net, params, lived, groups, settings.has_ids)

    def error(params: PyTree, lived: Lived, wanted: Array) -> Array:
        together = jnp.sum(of_action(values_of(params, lived), lived.actions), axis=-1)
        return 0.5 * jnp.mean(jnp.square(wanted - together))

    def improve(key: Array, state: PQNState, lived: Lived, wanted: Array) -> tuple[PyTree, PyTree, Array]:
        def minibatch(carry: tuple[PyTree, PyTree], part: tuple[Array, Array]) -> tuple[tuple[PyTree, PyTree], Array]:
            (params, optimizer_state), (draw, rows) = carry, part
            mine, then = jax.tree.map(lambda leaf: leaf[:, rows], (lived, wanted))
            loss, gradients = jax.value_and_grad(error)(params, mine, then)
            losses = jnp.broadcast_to(loss, (groups,))
            updates, optimizer_state = steps.update(
                draw, jnp.arange(groups), gradients, optimizer_state, params, losses
            )
            return (optax.apply_updates(params, updates), optimizer_state), loss

        def epoch(carry: tuple[PyTree, PyTree], draw: Array) -> tuple[tuple[PyTree, PyTree], Array]:
            order = jnp.argsort(jax.random.bits(draw, (settings.num_copies,)))
            draws = keys.fold_in(draw, jnp.arange(settings.num_minibatches))
            return jax.lax.scan(minibatch, carry, (draws, order.reshape(settings.num_minibatches, -1)))

        draws = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(settings.num_epochs))
        (params, optimizer_state), losses = jax.lax.scan(epoch, (state.params, state.optimizer_state), draws)
        return params, optimizer_state, jnp.mean(losses)

    def step(key: Array, state: PQNState, network: Network) -> tuple[PQNState, Network, Info]:
        count, (first, last, updates) = state.num_updates, settings.exploration
        epsilon = first + (last - first) * jnp.minimum(count / jnp.maximum(updates, 1.0), 1.0)
        act = explorer(net, groups, num_agents, epsilon)
        # One step more than is learned from: its values are those that come after the last.
        copies, lived = live(
            keys.stream(key, "play"),
            environment,
            act,
            state.params,
            state.copies,
            settings.num_steps + 1,
            groups,
            settings.has_ids,
            False,
        )
        best = jnp.sum(jnp.max(only_allowed(values_of(state.params, lived), lived), axis=-1), axis=-1)
        learned = jax.tree.map(lambda leaf: leaf[:-1], lived)
        wanted = lambda_returns(
            jnp.sum(learned.rewards, axis=-1), best[1:], learned.over, settings.discount, settings.trace
        )
        params, optimizer_state, loss = improve(keys.stream(key, "improve"), state, learned, wanted)
        if groups > 1:
            params = trees.select(network.is_present, params, state.params)
            optimizer_state = trees.select(network.is_present, optimizer_state, state.optimizer_state)
        exchanged, params, network = exchange.run(
            keys.stream(key, "exchange"), state.exchange, params, copies.worlds, count, network
        )
        played = counters.from_words(jnp.uint32(settings.num_copies * (settings.num_steps + 1)))
        spent = counters.add(state.environment_steps, played)
        after = PQNState(params, optimizer_state, exchanged, copies, count + 1, spent)
        work = settings.num_copies * settings.num_steps * settings.num_epochs
        done = jnp.full(num_agents, work, jnp.uint32)
        if groups > 1 and network.is_present is not None:
            done = jnp.where(network.is_present, done, 0)
        return after, network, {"loss": jnp.broadcast_to(loss, (num_agents,)), "num_gradients": done}

    requires = frozenset({"connected", "row_stochastic"}) if sharing.kind == "gossip" else frozenset()
    return Algorithm(init=init, step=step, requires=requires, source=SOURCE, aggregator=sharing.aggregator)
