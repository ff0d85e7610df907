"""SPSA with shared randomness: nodes that train one model by numbers of a byte, and regenerate each other's directions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.algorithms.optimizers import NodeOptimizer, node_optimizer
from dlsim.core import SERVER, Algorithm, Array, Info, Packet, Problem, PyTree
from dlsim.networks.flight.server_messages import asked
from dlsim.networks.messages import active_edges, both, message_bits
from dlsim.networks.network import Network
from dlsim.networks.pace.downloads import count_downloads
from dlsim.problems.blocks import map_nodes
from dlsim.problems.zeroth_order import DISTRIBUTIONS, along, check_estimator, directions, seed_of
from dlsim.running import counters

if TYPE_CHECKING:
    import optax

NORMALIZATIONS = {"mean": 1.0, "sqrt": 0.5}  # the power of the number of directions that their sum is divided by
CATCH_UPS = ("download", "replay")
_TOGETHER = 8  # directions that are added up at a time


class SPSAState(NamedTuple):
    params: PyTree  # [1, ...], or [N, ...] with copies
    optimizer_state: PyTree  # likewise
    missed: counters.Counter  # [N] bits of the log that a node has not seen
    round: Array  # int32 [], rounds done


class SPSALog(NamedTuple):
    """What was said in T rounds: all that somebody needs who has the model they began with.

    Source: Zelikman, Huang, Liang, Haber and Goodman, Just one byte (per gradient), 2023.
    """

    seed: Array  # uint32 [T, 2], of the round's directions
    projections: Array  # [T, N, S], as they went on the air
    reported: Array  # bool [T, N], whose projections were applied


def spsa(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    num_directions: int = 1,
    smoothing: Any = 1e-3,
    normalization: str = "mean",
    distribution: str = "normal",
    catch_up: str = "download",
    copies: bool = False,
    refresh_rounds: int | None = None,
) -> Algorithm:
    """All nodes train one model and send each other nothing but S numbers a round.

        g_is = (f_i(x + mu z_is; b_is) - f_i(x - mu z_is; b_is)) / (2 mu)     at node i, s = 1..S
        q_is = what the network's channel makes of g_is                       sent to everyone
        x   <- x + u(n^-p sum_i sum_s q_is z_is)                              at every node, n numbers that were heard

    z_is is drawn from (round, node, sample), so everyone draws everyone's anew, adds them up in one order, and holds the
    same x without ever sending it.  With the channel `dlsim.networks.log_quantize()` a number is a byte.  Directions are
    never kept: they are drawn when they are measured along, and once more when they are applied.

    Who comes back after rounds of absence fetches the model, or the log of what it missed and replays it
    (`spsa_replay`): both give the same bits, so what differs is the traffic.  It does so before it takes part, from a node
    that knows, drawn anew each round, and otherwise from a server that keeps what was said; neither passes the channel.

    Messages that are lost, or links that fail, would pull the copies apart.  So nodes apply a message only where everybody
    present has it (a barrier), and one copy stands for all.  With `copies` there is no barrier: each applies what it heard.

    Args:
      problem: what the nodes learn, with `loss` and `sample`; of models without Dropout and BatchNorm.
      optimizer: receives the estimate; SGD at rate eta: x <- x - eta n^-p sum q z.  Its state is part of the model.
      num_directions: S a node and round; structural.
      smoothing: mu > 0; may be traced.
      normalization: `"mean"` (p = 1), or `"sqrt"` (p = 1/2, of the authors' code: the rate grows with sqrt(n)); structural.
      distribution: `"normal"` or `"rademacher"`, see `dlsim.problems.zeroth_order`; structural.
      catch_up: `"download"` (model and optimiser state) or `"replay"` (the messages of the rounds missed, and N bits a
        round that say who reported); structural.
      copies: hold all N models, to see them come apart; memory N D; structural.
      refresh_rounds: with `copies`, every so many rounds all take the model of one node, as after an absence; structural.

    A node whose loss is not finite reports nothing in that round.  Where nobody reports nothing moves.
    `num_gradients` counts the 2 S B losses of a round, one as much as a gradient of an example (which costs about three).
    Infos hold a round's part of the log: `seed`, `projections`, `reported` (see `SPSALog`).

    Cost per round: 2 S forward passes a node, and 2 S D random numbers for each of them that is heard, by whom it is heard
    alike; S numbers to each of the N - 1 others.
    Assumes: a complete network, and one start.
    Source: Zelikman, Huang, Liang, Haber and Goodman, Just one byte (per gradient), 2023; Spall, IEEE TAC 1992; Malladi et
      al., MeZO, NeurIPS 2023.  Differs: p = 1 by default; the perturbed model is a temporary, so no rounding is left in x
      (their code restores a saved copy every 16 rounds); sums go by position in place of the time of joining; epsilon is
      not learnt.
    """
    where = "spsa"
    check_estimator(where, problem, num_directions, smoothing, distribution)
    steps = node_optimizer(where, optimizer)
    applied = _applying(where, steps, normalization, distribution)
    checks.one_of(where, "catch_up", catch_up, CATCH_UPS)
    checks.flag(where, "copies", copies)
    if refresh_rounds is not None:
        checks.integer(where, "refresh_rounds", refresh_rounds, 1)
        if not copies:
            checks.fail(
                where, "refresh_rounds", "None where one copy stands for all", refresh_rounds, "Pass copies=True."
            )

    def init(key: Array, params: PyTree, network: Network) -> SPSAState:
        del key
        _check_complete(where, network)
        model = params if copies else jax.tree.map(lambda leaf: leaf[:1], params)
        missed = counters.counter((network.num_nodes,))
        return SPSAState(model, steps.init(model), missed, jnp.zeros((), jnp.int32))

    def step(key: Array, state: SPSAState, network: Network) -> tuple[SPSAState, Network, Info]:
        num, present = network.num_nodes, network.is_present
        state, network = caught_up(keys.stream(key, "source"), state, network)
        own = keys.stream(key, "batch")
        g, losses, there = measured(own, state.params, network)
        rows, _ = asked(network)
        # Who has nothing finite to say is away as far as messages go; the others are present as they were.
        says = there & jnp.all(jnp.isfinite(g), axis=1)
        g = jnp.where(says[:, None], g, 0)
        if rows is not None:
            g = jnp.zeros((num, num_directions), g.dtype).at[rows].set(g, unique_indices=True)
            says = jnp.zeros(num, bool).at[rows].set(says, unique_indices=True)
        packet, network = network.replace(is_present=says).send(key, g, stream="projections")
        heard, reported = _heard(network.replace(is_present=present), says, packet, copies)
        network = network.replace(is_present=present)
        q = jnp.where(reported[:, None], packet.values, 0)

        seed, shown = seed_of(own), None if present is None and packet.delivered is None else reported
        if copies and present is not None:
            heard = heard & present[:, None]
        params, optimizer_state = applied(
            keys.stream(key, "update"), seed, state.params, state.optimizer_state, q, heard, shown, network.node_ids
        )
        missed = _still_missed(state.missed, packet, says, present)
        count = jnp.where(there, jnp.uint32(2 * num_directions * problem.batch_size), jnp.uint32(0))
        info = {"loss": losses, "num_gradients": count, "seed": seed, "projections": q, "reported": reported}
        return SPSAState(params, optimizer_state, missed, state.round + 1), network, info

    def measured(key: Array, params: PyTree, network: Network) -> tuple[Array, Array, Array]:
        """Projections `[C, S]` and mean losses `[C]` of those asked, and who of them is there."""
        rows, there = asked(network)
        ids = network.node_ids if rows is None else network.node_ids[rows]
        models = (params if rows is None else trees.take(params, rows),) if copies else ()

        def of_block(ids: Array, *models: PyTree) -> tuple[Array, Array]:
            def one(sample: Array) -> tuple[Array, Array]:
                return along(problem, key, models[0] if models else params, ids, sample, smoothing, distribution)[:2]

            g, losses = jax.lax.map(one, jnp.arange(num_directions))
            return g.T, jnp.mean(losses, axis=0)

        g, losses = map_nodes(of_block, problem.node_block)(ids, *models)
        return g, losses, there

    def caught_up(key: Array, state: SPSAState, network: Network) -> tuple[SPSAState, Network]:
        """Those who come back know what the others do, and have paid for it."""
        present = network.is_present
        if present is None and refresh_rounds is None:
            return state, network
        there = jnp.ones(network.num_nodes, bool) if present is None else present
        behind = (state.missed.low | state.missed.high) > 0
        score = keys.node_bits(key, network.node_ids, 1)[:, 0] >> 2
        source = jnp.argmax(
            score + jnp.where(behind, jnp.uint32(0), jnp.where(there, jnp.uint32(2**31), jnp.uint32(2**30)))
        )
        joins = there & behind
        size = _size(state.params, state.optimizer_state)
        bits = state.missed if catch_up == "replay" else size
        if refresh_rounds is not None:
            fresh = (state.round % refresh_rounds == 0) & (state.round > 0)
            fresh = fresh & there & ~joins & (jnp.arange(network.num_nodes) != source)
            bits = jax.tree.map(lambda all_, log: jnp.where(fresh, all_, log), size, bits)
            joins = joins | fresh
        bits = jax.tree.map(lambda word: jnp.broadcast_to(word, joins.shape), bits)
        network = count_downloads(network, key, joins, bits, source, ~there[source])
        missed = jax.tree.map(lambda word: jnp.where(joins, jnp.uint32(0), word), state.missed)
        if copies:
            model = jax.tree.map(lambda leaf: leaf[source][None], (state.params, state.optimizer_state))
            params, optimizer_state = trees.select(joins, model, (state.params, state.optimizer_state))
            state = state._replace(params=params, optimizer_state=optimizer_state)
        return state._replace(missed=missed), network

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"common_start", "connected", "fixed_topology", "prompt"}),  # and complete, see `init`
        source="Zelikman et al., Just one byte (per gradient), 2023",
    )


def spsa_replay(
    params: PyTree,
    log: SPSALog,
    optimizer: optax.GradientTransformation,
    *,
    normalization: str = "mean",
    distribution: str = "normal",
    node_ids: Array | None = None,
) -> PyTree:
    """The model `[...]` after the rounds of a log, from that before them and nothing else: what a joiner does.

    `dlsim.Record(fn=lambda state, info: {name: info[name] for name in dlsim.algorithms.SPSALog._fields})`, every round,
    keeps the log of a run.

    Args:
      params: the model `[...]` before the first round of the log.
      log: what was said.
      optimizer, normalization, distribution: those of the `spsa` that wrote it.  The optimiser begins anew, so with one
        that has a state the log must begin with the run; one that draws cannot be replayed.
      node_ids: of the N nodes; None: 0..N-1.

    Source: Zelikman, Huang, Liang, Haber and Goodman, Just one byte (per gradient), 2023.
    """
    where = "spsa_replay"
    checks.instance(where, "log", log, SPSALog, "Pass SPSALog(seed=..., projections=..., reported=...).")
    num = jnp.shape(log.reported)[-1] if jnp.ndim(log.reported) else 0
    checks.shape(where, "log.seed", log.seed, (None, 2))
    checks.shape(where, "log.reported", log.reported, (log.seed.shape[0], num))
    checks.shape(where, "log.projections", log.projections, (log.seed.shape[0], num, None))
    leaves = jax.tree.leaves(params)
    if not leaves or not all(jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating) for leaf in leaves):
        checks.fail(where, "params", "a model, whose leaves are arrays of floats", checks.describe(params))
    steps = node_optimizer(where, optimizer)
    applied = _applying(where, steps, normalization, distribution)
    ids = jnp.arange(num, dtype=jnp.int32)
    if node_ids is not None:
        ids = jnp.asarray(checks.array(where, "node_ids", node_ids, (num,)), jnp.int32)
    no_draws = jax.random.key(0)

    def step(state: tuple[PyTree, PyTree], said: SPSALog) -> tuple[tuple[PyTree, PyTree], None]:
        reported = said.reported
        return applied(no_draws, said.seed, *state, said.projections, reported[None], reported, ids), None

    model = trees.replicate(jax.tree.map(jnp.asarray, params), 1)
    log = SPSALog(*(jnp.asarray(field) for field in log))
    (model, _), _ = jax.lax.scan(step, (model, steps.init(model)), log)
    return jax.tree.map(lambda leaf: leaf[0], model)


def _applying(where: str, steps: NodeOptimizer, normalization: str, distribution: str) -> Any:
    """What a round makes of its numbers: a pure function of them and the model, which is why a log can be replayed."""
    power = NORMALIZATIONS[checks.one_of(where, "normalization", normalization, NORMALIZATIONS)]
    checks.one_of(where, "distribution", distribution, DISTRIBUTIONS)

    def applied(
        key: Array,
        seed: Array,
        params: PyTree,
        optimizer_state: PyTree,
        q: Array,
        heard: Array,
        shown: Array | None,
        ids: Array,
    ) -> tuple[PyTree, PyTree]:
        """Models and optimiser states `[R, ...]` after `q [N, S]`, of which each applies what it `heard [R, N]`."""
        import optax

        count = jnp.sum(heard, axis=1) * q.shape[1]  # n, [R]
        share = jnp.where(heard, 1 / jnp.maximum(count, 1).astype(q.dtype)[:, None] ** power, 0)
        estimate = _summed(seed, ids, share[:, :, None] * q, shown, trees.widen(params), distribution)
        estimate = trees.cast_like(estimate, params)
        everyone = jnp.full(heard.shape[0], SERVER, jnp.int32)  # copies draw alike where the optimiser draws
        updates, state = steps.update(key, everyone, estimate, optimizer_state, params)
        new = (optax.apply_updates(params, updates), state)
        return trees.select(count > 0, new, (params, optimizer_state))

    return applied


def _summed(seed: Array, ids: Array, weights: Array, shown: Array | None, like: PyTree, distribution: str) -> PyTree:
    """sum_is weights[r, i, s] z_is, every leaf `[R, ...]`, added in the order of (i, s), which no block changes.

    Where `shown` `[N]` is given, only directions of the nodes in it are drawn: the others' weights are zero.
    """
    num_rows, num_nodes, num_samples = weights.shape
    order: Array = jnp.arange(num_nodes)
    count: Any = num_nodes
    if shown is not None:
        order, count = jnp.argsort(~shown, stable=True), jnp.sum(shown)
    # What is drawn in vain is nothing where the number of directions is known, and one in sixteen of all at most elsewhere.
    together = math.gcd(num_nodes * num_samples, _TOGETHER)
    if shown is not None:
        together = max(math.gcd(num_samples, _TOGETHER), min(_TOGETHER, num_nodes * num_samples // 16))

    def add(block: Array, total: PyTree) -> PyTree:
        place = block * together + jnp.arange(together)
        node, sample = order[jnp.minimum(place // num_samples, num_nodes - 1)], place % num_samples
        weight = jnp.where(place < count * num_samples, weights[:, node, sample], 0)
        drawn = jax.vmap(lambda i, s: directions(seed, ids[i][None], s, like, distribution))(node, sample)
        if num_rows > 1:  # else fused into the sums, and drawn for each row
            drawn = jax.lax.optimization_barrier(drawn)
        for k in range(together):
            total = jax.tree.map(
                lambda t, z, k=k: t + trees.expand(weight[:, k].astype(t.dtype), t) * z[k], total, drawn
            )
        return total

    num_blocks = -(-count * num_samples // together)
    return jax.lax.fori_loop(0, num_blocks, add, trees.zeros_like(like))


def _heard(network: Network, says: Array, packet: Packet, copies: bool) -> tuple[Array, Array]:
    """Whose numbers are applied: bool `[1, N]` by all, or `[N, N]` by each; and whose by anybody, `[N]`."""
    num, present = network.num_nodes, network.is_present
    if packet.delivered is None and network.is_linked is None:
        return jnp.broadcast_to(says, (num if copies else 1, num)), says
    mask = active_edges(network)
    arrives = both(mask, packet.delivered)
    if copies:
        arrived = jnp.eye(num, dtype=bool).at[network.receivers, network.senders].max(arrives) & says
        return arrived, says
    listens = jnp.ones(network.num_edges, bool) if network.is_edge is None else network.is_edge
    listens = listens if present is None else listens & present[network.receivers]
    lacking = jax.ops.segment_max((listens & ~arrives).astype(jnp.int32), network.senders, num) > 0
    return (says & ~lacking)[None], says & ~lacking


def _still_missed(missed: counters.Counter, packet: Packet, says: Array, present: Array | None) -> counters.Counter:
    """The bits of the log that nodes lack after a round: its messages, and who sent them, for those who were away."""
    if present is None:
        return missed
    sent = jax.tree.map(lambda word: jnp.where(says, word, jnp.uint32(0)), message_bits(packet))
    said = counters.add(counters.total(sent), counters.from_words(jnp.uint32(says.shape[0])))
    new = jax.tree.map(lambda word: jnp.where(~present & jnp.any(says), word, jnp.uint32(0)), said)
    return counters.add(missed, new)


def _size(*parts: PyTree) -> counters.Counter:
    """Bits of one row of the parts."""
    num = sum(trees.num_bits(part) for part in parts if jax.tree.leaves(part))
    return counters.Counter(low=jnp.uint32(num % 2**32), high=jnp.uint32(num // 2**32))


def _check_complete(where: str, network: Network) -> None:
    """Everyone hears everyone, as far as that is known while it is built."""
    if network.num_nodes == 1 or not checks.is_concrete(network.in_degrees):
        return
    heard, others = np.asarray(network.in_degrees), network.num_nodes - 1  # NumPy: something else may be traced
    if heard.min() < others:
        got = f"one whose node {heard.argmin()} hears {heard.min()} of {others} others"
        fix = "Use dlsim.networks.complete, or dsgd on dlsim.problems.zeroth_order over a sparse graph."
        checks.fail(where, "network", "complete, so that everyone hears everyone", got, fix)
