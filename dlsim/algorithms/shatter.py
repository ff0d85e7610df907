"""Shatter: every node speaks through several virtual ones, none of which holds more than a chunk of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.algorithms.local import local_updates
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network
from dlsim.networks.scenes.dynamics import drawn_regular

if TYPE_CHECKING:
    import optax


class ShatterState(NamedTuple):
    params: PyTree  # [N, ...]
    optimizer_state: PyTree  # [N, ...]


def shatter(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    num_virtual_nodes: int = 16,
    degree: int = 4,
    num_local_steps: int = 1,
) -> Algorithm:
    """D-SGD of chunks: the v = `num_virtual_nodes` virtual nodes of a node send each its own, on a graph of all N v of them.

    In every round a random graph is drawn in which each of the N v virtual nodes sends to `degree` = r others and hears r:

        x_i         <- x_i + u(g_i(x_i))                                 K local steps
        virtual node p of i sends chunk p of x_i to r virtual nodes, which hand on to their own nodes what they hear
        x_i[chunk p] <- (x_i[chunk p] + sum of the chunks p that i heard) / (1 + how many)

    Number e of the model, all its leaves side by side, is in chunk e mod v.  On average a node hears r nodes' word on each
    chunk, but no two chunks need come from one node, nobody hears a whole model, and who it was that spoke is not said.
    With v = 1 it is D-SGD under `dlsim.networks.epidemic(r)`.

    Args:
      problem: what the nodes learn.
      optimizer: each node's own; floats may be traced.
      num_virtual_nodes: v, structural, at most the numbers of a model.
      degree: r, structural, below N v.
      num_local_steps: K, structural.

    Any two nodes reach each other; the network's links count where they have failed (see `Network.send_to`).  What a virtual
    node sends to another one of its own node counts in the mean, is exact, and costs nothing.  Nodes that are away keep
    their models, and chunks for them are not sent.  Where messages take time chunks go out one after the other.
    Cost per round: K gradients; v r messages of D / v numbers a node, so the bits of D-SGD with r neighbours.
      On the standard workload (100 nodes, r = 4, a CPU) a round takes 1.8 to 2 times one of D-SGD on a random graph with
      v = 4 and 2.9 to 3.5 times with 16: v graphs, and numbers that do not lie side by side.
    Source: Biswas, Even, Kermarrec, Massoulie, Pires, Sharma, de Vos, Noiseless privacy-preserving decentralized learning,
      PETS 2025.  Differs: the graph is the one of `epidemic`, directed, drawn as said there; numbers are dealt out in turn
      (the authors deal out those of each tensor in an order drawn once, which all know).
    """
    where = "shatter"
    num_virtual = checks.integer(where, "num_virtual_nodes", num_virtual_nodes, 1)
    degree = checks.integer(where, "degree", degree, 1)
    num_all = problem.num_nodes * num_virtual if isinstance(problem, Problem) else degree + 1
    if degree >= num_all:
        checks.fail(where, "degree", f"below the {num_all} virtual nodes there are", degree)
    local = local_updates(problem, optimizer, num_local_steps, where=where)

    def init(key: Array, params: PyTree, network: Network) -> ShatterState:
        del key, network
        size = trees.num_entries(params)
        if num_virtual > size:
            checks.fail(where, "num_virtual_nodes", f"at most the {size} numbers of a model", num_virtual)
        return ShatterState(params, local.init(params))

    def step(key: Array, state: ShatterState, network: Network) -> tuple[ShatterState, Network, Info]:
        ids, here = network.node_ids, network.is_present
        x, optimizer_state, info = local.run(key, state.params, state.optimizer_state, ids, here)
        virtual = (ids[:, None] * num_virtual + jnp.arange(num_virtual)).reshape(-1)
        to = drawn_regular(keys.stream(key, "virtual nodes"), virtual, degree) // num_virtual
        to = to.reshape(-1, num_virtual, degree)
        flat, unravel = trees.ravel_as_held(x)
        chunks = []
        for p in range(num_virtual):
            own = flat[:, p::num_virtual]
            # Two virtual nodes of one node may hear the same one, and both hand it on.
            sent, network = network.send_to(key, own, to[:, p], may_repeat=True, stream=f"chunk {p}")
            chunks.append(network.combine_sent(sent, own))
        params = trees.select(here, unravel(_dealt_back(chunks, flat.shape[1])), state.params)
        return ShatterState(params, optimizer_state), network, info

    return Algorithm(init=init, step=step, requires=frozenset({"prompt"}), source="Biswas et al., PETS 2025")


def _dealt_back(chunks: list[Array], size: int) -> Array:
    """The numbers `[N, D]` of which chunk p has p, p + v, ..."""
    width = chunks[0].shape[1]
    alike = [jnp.pad(chunk, ((0, 0), (0, width - chunk.shape[1]))) for chunk in chunks]
    return jnp.stack(alike, axis=2).reshape(chunks[0].shape[0], -1)[:, :size]
