"""CAF: the covariance filter that needs no bound."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.bounds import bound
from dlsim.aggregators.candidates import distances, no_state, squared_distances, weighted_sum, with_own
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox

NOTHING = 1e-5  # a weight below it is none: of two that are as far, rounding would keep one


def caf(num_byzantine: int) -> Aggregator:
    """Covariance bound-agnostic filter: candidates lose weight along the direction in which they differ most.

    From weights u_k = 1 for the c candidates, and while sum u > c - 2 f,

        mu        = sum_k u_k v_k / sum u
        lambda, e = the largest eigenvalue, and its vector, of sum_k u_k (v_k - mu)(v_k - mu)^T / sum u
        u_k <- u_k (1 - t_k / max t),  t_k = <e, v_k - mu>^2,  the maximum over those with a weight

    The result is the mu of least lambda.  All is done with the distances between candidates: the eigenvectors are those of a
    matrix of c x c numbers.  What is not finite has no weight.  The network's weights are not used.

    Args:
      num_byzantine: f >= 0, structural.  With f = 0 it is the plain mean.  `learn` refuses one that c >= 2 f + 1 does not
        hold for at some node.
    Source: Allouah, Guerraoui and Stephan, Towards trustworthy federated learning with untrusted participants, ICML 2025.
    """
    checks.integer("caf", "num_byzantine", num_byzantine, 0)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        del key
        values, mask = with_own(own, inbox)
        is_pair = mask[:, :, None] & mask[:, None, :]
        lengths = distances(values, squared_distances(values), is_pair)
        mask &= jnp.isfinite(lengths[:, 0])  # as far as the own value, which is sound
        lengths = jnp.where(mask[:, :, None] & mask[:, None, :], lengths, 0)
        longest = jnp.max(lengths, axis=(1, 2), keepdims=True)
        squares = jnp.square(lengths / jnp.where(longest > 0, longest, 1))  # in units of the longest
        count = jnp.sum(mask, axis=1)
        least_weight = jnp.maximum(count - 2 * num_byzantine, 0)

        def filtered(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            weights, best, best_weights = carry
            total = jnp.sum(weights, axis=1, keepdims=True)
            share = weights / jnp.maximum(total, jnp.finfo(weights.dtype).tiny)
            # <v_k - mu, v_l - mu> from squared distances: both sides centred at mu.
            rows = squares - jnp.sum(squares * share[:, None, :], axis=2, keepdims=True)
            gram = -0.5 * (rows - jnp.sum(rows * share[:, :, None], axis=1, keepdims=True))
            root = jnp.sqrt(share)
            spectrum, vectors = jnp.linalg.eigh(root[:, :, None] * gram * root[:, None, :])
            along = jnp.square(jnp.sum(gram * (root * vectors[:, :, -1])[:, None, :], axis=2))
            farthest = jnp.max(jnp.where(weights > 0, along, 0), axis=1, keepdims=True)
            is_on = total[:, 0] > least_weight
            is_better = is_on & (spectrum[:, -1] < best)
            lighter = weights * jnp.clip(1 - along / jnp.where(farthest > 0, farthest, 1), 0, 1)
            lighter = jnp.where(lighter > NOTHING, lighter, 0)
            return (
                jnp.where(is_on[:, None] & (farthest > 0), lighter, weights),
                jnp.where(is_better, spectrum[:, -1], best),
                jnp.where(is_better[:, None], share, best_weights),
            )

        start = mask.astype(squares.dtype)
        carry = (start, jnp.full(count.shape, jnp.inf, squares.dtype), start / count[:, None])
        _, _, chosen = jax.lax.fori_loop(0, mask.shape[1], filtered, carry)
        return state, weighted_sum(chosen, values)

    asked = bound("caf", "num_byzantine", num_byzantine, 2, 1)
    return Aggregator(init=no_state, apply=apply, source="Allouah, Guerraoui and Stephan, ICML 2025", bound=asked)
