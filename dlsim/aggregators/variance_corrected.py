"""Averages that keep the variance of what they average."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlsim import checks, trees
from dlsim.aggregators.linear import linear_rule
from dlsim.aggregators.mean import mean, towards
from dlsim.core import Aggregator, Array, PyTree
from dlsim.networks.network import Inbox
from dlsim.problems.variables import trained, with_trained

FOLLOW = ("others", "self", "rule")
SOURCE = "Tian, Al-Ars, Kitsak and Hofstee, 2024"


def variance_corrected(rule: Aggregator | None = None, *, follow: str = "others", epsilon: Any = 0.0) -> Aggregator:
    """What `rule` makes of a tensor, spread about its mean entry until its variance is that of the senders' tensors.

        a = rule(own, heard),  m = mean entry of a
        w = m + (a - m) sqrt((v + eps) / (var(a) + eps)),   tensor by tensor

    var is over all entries of one tensor of one node, with divisor (entries - 1).  The target v is

        follow="others"  sum_k w_k var(heard_k) / sum_k w_k, the mean of those that were heard (FollowOthers)
        follow="self"    var(own) (FollowSelf)
        follow="rule"    what the rule makes of the variances, for the mean c var(own) + (1 - c) mean_k var(heard_k)
                         (FollowConservative)

    Averaging n uncorrelated tensors divides their variance by n, and a deep network whose layers have all shrunk hardly
    learns; where nodes start from models of their own this is what delays gossip.  Models that are equal stay as they are,
    so where all start alike there is nothing to correct.

    A tensor is a leaf of one node's model: layers stacked into one leaf count as one tensor, and so does a fused kernel.
    Left alone: tensors of one entry, running statistics (`dlsim.problems.Variables`), a tensor whose average has no
    variance and that nothing can restore (biases that are all zero; w and -w averaged), where eps = 0, and whoever heard
    nobody.

    Args:
      rule: the average to correct; default `mean()`, the network's weights.  The paper's own share of one half is
        `mean(self_weight=0.5)`.  Beside a robust rule use `follow="rule"`: a liar's variance may be anything.
      follow: structural.
      epsilon: eps >= 0, traced.

    Cost: with `mean` that of the mix, two reductions and a pass over the parameters: variances are taken of what is on
      the air, compressed or not, and cost no bits.  A round of D-SGD takes 1.2 times as long (256 nodes, two cores, one local
      step of a small perceptron); with messages gathered it took 4.9 times.
    Source: Tian, Al-Ars, Kitsak and Hofstee, Vanishing variance problem in fully decentralized neural-network systems, 2024;
      the authors' later code has eps = 1e-4.  Differs: a tensor without variance is left alone; a model that is not finite
      is averaged like any other, as `mix` does (the status bit says so).
    """
    where = "variance_corrected"
    rule = mean() if rule is None else rule
    checks.instance(where, "rule", rule, Aggregator, "Pass e.g. dlsim.aggregators.mean(self_weight=0.5).")
    checks.one_of(where, "follow", follow, FOLLOW)
    checks.number(where, "epsilon", epsilon, 0.0)
    sources = "; ".join(source for source in (rule.source, SOURCE) if source)

    def spread(average: PyTree, target: PyTree, own: PyTree, share: Array) -> PyTree:
        made = jax.tree.map(lambda a, v: _spread(a, v, epsilon), trained(average), target)
        return with_trained(average, trees.select(share > 0, made, trained(own)))

    if rule.linear is not None:
        inner = rule.linear

        def reduce(values: PyTree) -> tuple[PyTree, PyTree]:
            return inner.reduce(values), variances(values)

        def finish(own: tuple[PyTree, Any], mixed: tuple[PyTree, Any], share: Array) -> PyTree:
            (mine, (my_numbers, my_variance)), (average, (numbers, variance)) = own, mixed
            average = inner.finish((mine, my_numbers), (average, numbers), share)
            target = my_variance
            if follow == "others":
                target = towards(my_variance, variance, share)
            elif follow == "rule":
                target = inner.finish((my_variance, my_numbers), (variance, numbers), share)
            return spread(average, target, mine, share)

        return linear_rule(reduce, finish, sources)

    def apply(key: Array, state: PyTree, own: PyTree, inbox: Inbox) -> tuple[PyTree, PyTree]:
        state, average = rule.apply(key, state, own, inbox)
        heard = inbox._replace(values=jax.vmap(variances, 1, 1)(inbox.values))
        if follow == "rule":
            target = rule.apply(key, state, variances(own), heard)[1]
        elif follow == "self":
            target = variances(own)
        else:
            target = _mean_heard(variances(own), heard)
        return state, spread(average, target, own, jnp.sum(inbox.mask, axis=1))

    return Aggregator(init=rule.init, apply=apply, source=sources)


def variances(params: PyTree) -> PyTree:
    """Of every tensor of every node its variance, float32 `[n]`, divisor (entries - 1); 0 of a tensor of one entry."""

    def leaf(values: Array) -> Array:
        flat = values.reshape(values.shape[0], -1)
        centred = flat - jnp.mean(flat, axis=1, keepdims=True)
        return jnp.sum(jnp.square(centred), axis=1) / max(flat.shape[1] - 1, 1)

    return jax.tree.map(leaf, trees.widen(trained(params)))


def _spread(average: Array, target: Array, epsilon: Any) -> Array:
    """One tensor about its mean entry, scaled to the variance `target [n]`."""
    flat = trees.widen(average).reshape(average.shape[0], -1)
    if flat.shape[1] == 1:
        return average
    middle = jnp.mean(flat, axis=1, keepdims=True)
    centred = flat - middle
    now = jnp.sum(jnp.square(centred), axis=1) / (flat.shape[1] - 1) + epsilon
    factor = jnp.where(now > 0, jnp.sqrt((target + epsilon) / jnp.where(now > 0, now, 1)), 1)
    return (middle + factor[:, None] * centred).reshape(average.shape).astype(average.dtype)


def _mean_heard(own: PyTree, heard: Inbox) -> PyTree:
    """Weighted mean of what was heard, own where nothing was."""
    rule = mean(self_weight=0.0)
    return rule.apply(jax.random.key(0), (), own, heard)[1]
