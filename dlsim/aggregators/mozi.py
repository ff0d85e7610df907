"""MOZI: whoever is near, and does no worse on one's own data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.candidates import distances_to, no_state, ranks, weighted_sum
from dlsim.core import Aggregator, Array, Problem, PyTree
from dlsim.networks.network import Inbox
from dlsim.problems.own_data import own_losses

OTHERWISE = ("best", "own")


def mozi(
    problem: Problem,
    benign_share: Any = 0.5,
    *,
    self_weight: Any = 0.5,
    otherwise: str = "best",
) -> Aggregator:
    """Two stages (MOZI, also called UBAR): a node takes in those near it that lose no more than itself on its own data.

        S = the ceil(rho d) nearest of the d models heard                        distance stage
        R = those of S whose loss on a batch of i's own is at most that of x_i   performance stage
        x_i <- alpha x_i + (1 - alpha) mean over R of x_j

    Where R is empty the one of S that loses least stands for it (`otherwise="best"`), or the node keeps its own ("own").
    With rho = 1 any number of liars may be around, as long as one neighbour is honest.

    Args:
      problem: what the nodes learn; the batch is one of its size, drawn anew each time.
      benign_share: rho in (0, 1], the share of a node's neighbours taken for honest; known while tracing.
      self_weight: alpha in [0, 1], traced.
      otherwise: structural.

    Models that are not finite are far from everything, and losses that are not finite worse than any.  Weights are not used.
    Cost: K + 1 forward passes of a batch a node, see `dlsim.problems.own_losses`.
    Source: Guo, Zhang, Yu, Xie, Ma, Xiang and Liu, Byzantine-resilient decentralized stochastic gradient descent, IEEE TCSVT
      2021 ("own" as in the code of Bristle, which also takes 1/2 for both shares).  Differs: the own model is that after
      the gradient step, where the paper steps after mixing; all d count, the own one not among them.
    """
    where = "mozi"
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    checks.known(where, "benign_share", benign_share)
    checks.number(where, "benign_share", benign_share, 0.0, 1.0, open_minimum=True)
    checks.probability(where, "self_weight", self_weight)
    checks.one_of(where, "otherwise", otherwise, OTHERWISE)
    share = float(benign_share)

    def apply(key: Array, state: tuple[()], own: PyTree, inbox: Inbox) -> tuple[tuple[()], PyTree]:
        losses = own_losses(problem, key, inbox.values, inbox.node_ids)
        mine = own_losses(problem, key, jax.tree.map(lambda leaf: leaf[:, None], own), inbox.node_ids)
        lengths = distances_to(inbox.values, own).value
        is_sound = inbox.mask & jnp.isfinite(lengths)
        kept = jnp.ceil(share * jnp.sum(inbox.mask, axis=1, keepdims=True) - 1e-6)
        near = is_sound & (ranks(jnp.where(is_sound, lengths, jnp.inf)) < kept)
        good = near & (losses <= mine)
        if otherwise == "best":
            is_best = ranks(jnp.where(near & jnp.isfinite(losses), losses, jnp.inf)) == 0
            good |= near & jnp.isfinite(losses) & is_best & ~jnp.any(good, axis=1, keepdims=True)
        count = jnp.sum(good, axis=1, keepdims=True)
        theirs = weighted_sum(good / jnp.maximum(count, 1), inbox.values)
        step = jnp.where(count[:, 0] > 0, 1 - self_weight, 0)

        def leaf(o: Array, t: Array) -> Array:
            return o + step.reshape(-1, *(1,) * (o.ndim - 1)).astype(o.dtype) * (t - o)

        return state, jax.tree.map(leaf, own, theirs)

    return Aggregator(init=no_state, apply=apply, source="Guo et al., IEEE TCSVT 2021")
