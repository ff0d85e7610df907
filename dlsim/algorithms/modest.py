"""MoDeST: federated averaging without a server, over samples that nodes draw from their own views."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.algorithms.local import local_updates
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.membership.tape import SMALL_BITS, VIEW_BITS, SamplingTape
from dlsim.networks.messages import count
from dlsim.networks.network import Network
from dlsim.networks.pace.seconds import elapse
from dlsim.running import counters, status

if TYPE_CHECKING:
    import optax

SAID = (
    "seconds",
    "pings",
    "failures",
    "candidates",
    "known",
    "overlap",
    "present",
    "models",
)  # of a round, in its info


class ModestState(NamedTuple):
    params: PyTree  # [A, ...] the aggregates that the next round starts from
    output: Array  # int32 [] the place of the one that was done first
    round: Array  # int32 []


def modest(
    problem: Problem, optimizer: optax.GradientTransformation, tape: SamplingTape, *, num_local_steps: int = 5
) -> Algorithm:
    """MoDeST: a sample of nodes trains, a few others average, and no node is special.

    In round k, with S^k the nodes that train and A^k those that average, as the protocol's play has them (`tape`),

        x_i  = y_q for the first q in A^k whose mean comes to i in S^k, then K local optimiser steps on f_i
        y_q' = mean of x_i over the first models that come to q' in A^(k+1)

    Where all views agree, a = 1 and all models count, this is FedAvg with uniform weights and the sample as its cohort.
    What is judged is the aggregate of the first aggregator to be done.  Where a round has none the system has stalled: the
    model stays to the end, and `info` says so (`EMPTY_COHORT`).

    Args:
      problem: what the nodes learn.
      optimizer: the trainers' optimiser, fresh each round: a schedule counts rounds; floats may be traced.
      tape: who asks whom and when, of the problem's N nodes: `dlsim.networks.sampling_tape`.  A run longer than its tape
        keeps its model and raises `BUFFER_OVERFLOW`.
      num_local_steps: K, structural.

    Models, with the view beside them that no channel touches (16 bytes a node), go over the run's network between any two
    nodes, with its channel: who does not hear an aggregate does not train, and an aggregator averages what it hears.  Small
    messages (32 bytes: pings, answers, acknowledgements, joins) are counted too.  Seconds are those of the play; links, which
    would count others, are refused.  A scenario that sends nodes away does so behind the protocol's back; those that it is to
    notice belong to the tape.  `info` has of each round `pings`, `failures`, `candidates`, `known`, `overlap`, `present`,
    `models` and `seconds`, each with `round_` before it, see `SamplingTape`.
    Cost per round: s K gradients; 2 a s messages of D numbers, less those to oneself; the state is A models.
    Source: de Vos, Dhasade, Kermarrec, Lavoie, Pouwelse, MoDeST: bridging the gap between federated and decentralized
      learning with decentralized sampling, 2023.  Differs: see `sampling_tape`.
    """
    where = "modest"
    local = local_updates(problem, optimizer, num_local_steps, restarts=True, where=where)
    checks.instance(where, "tape", tape, SamplingTape, "Use dlsim.networks.sampling_tape(num_nodes, num_rounds).")
    if tape.num_nodes != problem.num_nodes:
        fix = "Give both the same num_nodes."
        checks.fail(where, "tape", f"of the problem's {problem.num_nodes} nodes", f"one of {tape.num_nodes}", fix)
    num_rounds, num_places = tape.num_rounds, tape.aggregators.shape[1]
    with jax.ensure_compile_time_eval():
        rows = jax.tree.map(jnp.asarray, {**tape._asdict(), "models": tape.models.astype("int32")})

    def init(key: Array, params: PyTree, network: Network) -> ModestState:
        del key
        if network.links is not None:
            fix = "Say how long messages and training take with sampling_tape(transfer=..., training_seconds=...)."
            checks.fail(where, "network", "one without links: the tape has the seconds", "one with links", fix)
        first = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], (num_places, *leaf.shape[1:])), params)
        return ModestState(first, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def step(key: Array, state: ModestState, network: Network) -> tuple[ModestState, Network, Info]:
        ids, num = network.node_ids, network.num_nodes
        position = jnp.zeros(num, jnp.int32).at[ids].set(jnp.arange(num, dtype=jnp.int32), unique_indices=True)
        is_over = state.round >= num_rounds
        row = {name: leaf[jnp.minimum(state.round, num_rounds - 1)] for name, leaf in rows.items()}
        speakers = position[rows["aggregators"][jnp.clip(state.round - 1, 0, num_rounds - 1)]]
        trainers, aggregators = position[row["trainers"]], position[row["aggregators"]]
        view = VIEW_BITS * num

        to = jnp.where(row["down"] & ~is_over, trainers, -1)
        sent, network = network.send_to(key, state.params, to, senders=speakers, header_bits=view, stream="aggregate")
        chosen = row["start"] == jnp.arange(num_places)[:, None]
        heard = network.combine_sent(sent._replace(mask=sent.mask & chosen), at=trainers)
        # All have the first model, nobody sends it.
        is_first = state.round == 0
        start = jax.tree.map(lambda model, x: jnp.where(is_first, model[:1], x), state.params, heard)
        trains = row["trains"] & (is_first | jnp.any(sent.mask & chosen, axis=0)) & ~is_over
        if network.is_present is not None:
            trains = trains & network.is_present[trainers]
        trained, _, info = local.run(key, start, local.init(start), ids[trainers], trains, round=state.round)

        to = jnp.where(row["up"] & trains[:, None], aggregators, -1)
        sent, network = network.send_to(key, trained, to, senders=trainers, header_bits=view, stream="model")
        counts = sent.mask & row["used"]
        made = jnp.any(counts, axis=0)
        mean = network.combine_sent(sent._replace(mask=counts), at=aggregators)
        output = jnp.where(made[0] | ~jnp.any(made), 0, jnp.argmax(made)).astype(jnp.int32)
        output = jnp.where(jnp.any(made), output, state.output)
        state = ModestState(trees.select(made, mean, state.params), output, state.round + 1)

        small = jnp.where(is_over, 0, row["small"])[ids]
        small = small if network.is_present is None else jnp.where(network.is_present, small, 0)
        network = count(network, small, counters.from_words(jnp.full(num, SMALL_BITS, jnp.uint32)))
        network = elapse(network, jnp.where(is_over, 0.0, row["seconds"]))
        nothing = jnp.zeros(num, jnp.uint32)
        flags = status.flag(~jnp.any(made), status.EMPTY_COHORT) | status.flag(is_over, status.BUFFER_OVERFLOW)
        out = {f"round_{name}": row[name] for name in SAID}
        out["loss"] = nothing.astype(info["loss"].dtype).at[trainers].set(jnp.where(trains, info["loss"], 0))
        out["num_gradients"] = nothing.at[trainers].set(info["num_gradients"])
        return state, network, {**out, "status": flags}

    return Algorithm(
        init=init,
        step=step,
        params=lambda state: trees.replicate(jax.tree.map(lambda leaf: leaf[state.output], state.params), 1),
        requires=frozenset({"common_start", "prompt"}),
        source="de Vos et al., MoDeST, 2023",
    )
