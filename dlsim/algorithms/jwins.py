"""JWINS: of the wavelet coefficients of a model those are sent that changed most since they were sent last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.aggregators.linear import reduced
from dlsim.algorithms import wavelets
from dlsim.algorithms.local import local_updates
from dlsim.channels.codes import gamma_bits_of_gaps
from dlsim.channels.rows import how_many
from dlsim.channels.selection import largest_of_each
from dlsim.core import Algorithm, Array, Info, Problem, PyTree
from dlsim.networks.network import Network

if TYPE_CHECKING:
    import optax

CUT_OFFS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 1.0)


class JWINSState(NamedTuple):
    params: PyTree  # [N, ...]
    optimizer_state: PyTree  # [N, ...]
    importance: Array  # float [N, M] v_i


def jwins(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    cut_offs: Sequence[Any] = CUT_OFFS,
    wavelet: str = "sym2",
    levels: int = 4,
    num_local_steps: int = 1,
) -> Algorithm:
    """D-SGD that sends a part of the model, chosen among its wavelet coefficients, as large as is drawn anew each round.

    With T the wavelet transform of the model's numbers side by side, into M coefficients:

        y_i <- x_i + u(g_i(x_i))                                     K local steps
        I_i <- the a_i M coefficients with the largest |v_i + T(y_i - x_i)|,   a_i drawn among `cut_offs`
        c_i <- T y_i + sum_j W_ij [in I_j] (T y_j - T y_i)           who was not sent a coefficient has its own in its place
        v_i <- v_i, zero on I_i, + T(x_i' - x_i),   x_i' = T^-1 c_i the new model

    so that what keeps changing and was never sent comes to its turn.  A wavelet coefficient stands for several numbers that
    are neighbours in the model: leaving it out costs less than leaving out a number.

    Args:
      problem: what the nodes learn.
      optimizer: the local optimiser; floats may be traced.
      cut_offs: the shares a, each as likely, in (0, 1]; their number is structural, they may be traced.
      wavelet: `"sym2"` or `"haar"`, structural.
      levels: of the transform, structural; 0: the numbers themselves are ranked.
      num_local_steps: K, structural.

    Returns:
      Algorithm whose state holds models, optimiser states, and the accumulated changes v, M numbers a node.
    Assumes: connected network with row-stochastic weights.  A coefficient that is zero itself counts as not sent.
    Cost per round: K gradients; a message of a_i M numbers, and of their places as Elias gamma codes of the gaps between them
      (none where a_i = 1).  Transforms, the choice and two products, of values and of places, in place of one:
      on the standard workload (100 nodes, a CPU) a round takes 5 times one of D-SGD that sends all.
    Source: Dhasade, Kermarrec, Pires, Sharma, Vujasinovic, Wigger, Get more for less in decentralized learning systems,
      ICDCS 2023; cut-offs, wavelet, levels and what is accumulated as in the authors' configurations for CIFAR-10.  Differs:
      numbers are counted as they are (the authors compress them without loss, by fpzip).
    """
    where = "jwins"
    shares = checks.sequence(where, "cut_offs", cut_offs, "one or more numbers in (0, 1]")
    if not shares:
        checks.fail(where, "cut_offs", "one or more numbers in (0, 1]", "none")
    for share in shares:
        checks.number(where, "cut_offs", share, 0.0, 1.0, open_minimum=True)
    checks.one_of(where, "wavelet", wavelet, tuple(wavelets.FILTERS))
    levels = checks.integer(where, "levels", levels, 0)
    local = local_updates(problem, optimizer, num_local_steps, where=where)

    def transform(tree: PyTree) -> Array:
        return wavelets.transform(trees.ravel(tree)[0], wavelet, levels)

    def init(key: Array, params: PyTree, network: Network) -> JWINSState:
        del key, network
        size = trees.num_entries(params)
        if levels and size < wavelets.smallest(wavelet):
            fix = 'Use wavelet="haar".'
            checks.fail(where, "wavelet", f"one whose filter fits the {size} numbers of a model", repr(wavelet), fix)
        return JWINSState(params, local.init(params), trees.zeros_like(transform(params)))

    def step(key: Array, state: JWINSState, network: Network) -> tuple[JWINSState, Network, Info]:
        ids, here = network.node_ids, network.is_present
        y, optimizer_state, info = local.run(key, state.params, state.optimizer_state, ids, here)
        flat, unravel = trees.ravel(y)
        own = wavelets.transform(flat, wavelet, levels)
        score = state.importance + transform(trees.subtract(y, state.params))
        chosen = _chosen(keys.stream(key, "cut-off"), ids, score, shares)
        said = jnp.where(chosen, own, 0).astype(jnp.result_type(*jax.tree.leaves(y)))
        packet, network = network.send(
            key, said, stream="coefficients", is_sent=chosen, header_bits=_places_bits(chosen)
        )
        nothing = jnp.zeros_like(said)
        heard = network.combine(packet, nothing).astype(own.dtype)
        places = reduced(packet, lambda values: (values != 0).astype(values.dtype))
        mixed = own + heard - own * network.combine(places, nothing).astype(own.dtype)
        params = unravel(wavelets.inverse(mixed, flat.shape[1], wavelet, levels))
        importance = jnp.where(chosen, 0, state.importance) + transform(trees.subtract(params, state.params))
        new = JWINSState(params, optimizer_state, importance)
        return trees.select(here, new, state), network, info

    return Algorithm(
        init=init,
        step=step,
        requires=frozenset({"connected", "row_stochastic"}),
        source="Dhasade et al., ICDCS 2023",
    )


def _chosen(key: Array, ids: Array, score: Array, shares: Sequence[Any]) -> Array:
    """Which coefficients each node sends, bool `[N, M]`."""
    drawn = jnp.floor(keys.node_uniform(key, ids, 1)[:, 0] * len(shares)).astype(jnp.int32)
    size = score.shape[1]
    count = jnp.round(jnp.stack([jnp.asarray(share, jnp.float32) for share in shares])[drawn] * size)
    return largest_of_each(score, jnp.clip(count.astype(jnp.int32), 1, size))


def _places_bits(chosen: Array) -> Array:
    """Bits that say which were chosen, uint32 `[N]`: none where all were."""
    return jnp.where(how_many(chosen) < chosen.shape[1], gamma_bits_of_gaps(chosen), 0).astype(jnp.uint32)
