"""FoolsGold: who says too nearly the same as somebody else counts for nothing."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.aggregators.candidates import weighted_sum, with_own
from dlsim.aggregators.similarity import confident, cosines, foolsgold_weights, is_finite
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox


class FoolsGoldState(NamedTuple):
    sums: PyTree  # [n, C, ...] of all that each client has said so far; (): nothing is kept


def foolsgold(num_clients: int | None = None) -> Aggregator:
    """The mean of the candidates with weights that are small for those whose histories point the same way (Sybils).

        C_ab = cos(H_a, H_b), C_aa = 0;   M_a = max_b C_ab + 1e-5
        C_ab <- C_ab M_a / M_b   where M_a < M_b                   who is less suspect than its twin is pardoned
        w_a = 1 - max_b C_ab, in [0, 1];   w <- w / max w          (1 becomes 0.99)
        w_a <- ln(w_a / (1 - w_a) + 1e-5) + 0.5, in [0, 1]
        x = sum_a w_a v_a / sum_a w_a

    The candidates are the own value and what was heard; the own one is trusted no more than another.  H_a is the sum of a's
    updates so far.  Between nodes that send models, updates are their changes and sum up to the newest model: H_a = v_a, and
    nothing is kept.  A server's clients send updates: `num_clients` keeps their sums.  Where all have a twin no weight is
    above 0, and the node keeps its own value (a server takes that of the client in the middle).

    Not translation equivariant: cosines are taken of the values themselves, about zero.

    Args:
      num_clients: C, all nodes there are, structural: what is heard are updates, whose sums are kept by sender
        (`fedavg(..., aggregator=foolsgold(num_clients=N))`), `[n, C, D]`: for servers.  None: they are models.

    Cost: one Gram matrix a receiver, 2 K^2 D flops.
    Source: Fung, Yoon and Beschastnikh, Mitigating Sybils in federated learning poisoning, 2018; The limitations of
      federated learning in Sybil settings, RAID 2020.  Differs: the weighted mean and not the weighted sum, whose length
      falls with every Sybil; all entries count alike, those of the output layer no more than others.
    """
    if num_clients is not None:
        checks.integer("foolsgold", "num_clients", num_clients, 1)

    def init(params: PyTree) -> FoolsGoldState:
        if num_clients is None:
            return FoolsGoldState(())

        def nothing(leaf: Array) -> Array:
            return jnp.zeros((leaf.shape[0], num_clients, *leaf.shape[1:]), jnp.promote_types(jnp.float32, leaf.dtype))

        return FoolsGoldState(jax.tree.map(nothing, params))

    def apply(key: Array, state: FoolsGoldState, own: PyTree, inbox: Inbox) -> tuple[FoolsGoldState, PyTree]:
        del key
        values, mask = with_own(own, inbox)
        mask = mask & is_finite(values)
        histories = values
        if num_clients is not None:
            state, histories = _summed(state, values, mask, inbox.candidate_ids, num_clients)
        weights = confident(foolsgold_weights(cosines(histories, mask), mask))
        total = jnp.sum(weights, axis=1)
        mixed = weighted_sum(weights / jnp.where(total > 0, total, 1)[:, None], values)
        return state, trees.select(total > 0, mixed, own)

    return Aggregator(init=init, apply=apply, source="Fung, Yoon and Beschastnikh, RAID 2020")


def _summed(
    state: FoolsGoldState, values: PyTree, mask: Array, ids: Array | None, num_clients: int
) -> tuple[FoolsGoldState, PyTree]:
    """The sums with what the candidates `[n, K + 1]` said now, and those of the candidates, `[n, K + 1, ...]`."""
    if ids is None:
        checks.fail("foolsgold", "num_clients", "None where nobody says who sent what", num_clients)
    rows = jnp.arange(mask.shape[0])[:, None]
    is_known = ids < num_clients  # of others nothing is kept
    at = jnp.where(mask & is_known, ids, num_clients)

    def leaf(total: Array, value: Array) -> Array:
        return total.at[rows, at].add(value.astype(total.dtype), mode="drop")

    def of_senders(total: Array, value: Array) -> Array:
        kept = total[rows, jnp.where(is_known, ids, 0)]
        return jnp.where(is_known.reshape(is_known.shape + (1,) * (kept.ndim - 2)), kept, value)

    sums = jax.tree.map(leaf, state.sums, values)
    return FoolsGoldState(sums), jax.tree.map(of_senders, sums, values)
