"""The privacy budget beside the accuracy, and the noise that a budget allows."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.channels.privacy import Releases
from dlsim.core import Array, Info, MeasureFn, Process, PyTree
from dlsim.privacy import renyi
from dlsim.privacy.mechanisms import gaussian
from dlsim.privacy.renyi import Renyi, check_delta, traced_epsilon


@checks.typed
def spent(process: Process, mechanism: Renyi | np.ndarray, delta: Any = None, *, by_node: bool = False) -> MeasureFn:
    """What the process measures and `epsilon`, the budget spent so far: for `Record(fn=...)`.

    The private channel (`dp_gaussian`, `rqm`, `poisson_binomial`) counts the messages that each node has let out, absent
    nodes none; `epsilon` is that of the node that has let out most, `epsilon_by_node` `[N]` that of each.  All of it is
    inside the compiled program, and a mechanism that depends on a swept float may be given.

        curve = dlsim.privacy.gaussian(1.0)
        record = dlsim.Record(every=10, fn=dlsim.privacy.spent(process, curve, delta=1e-5))

    Args:
      process: of `dlsim.learn`, over a network whose channel is private.
      mechanism: divergences of one message (of all its numbers), turned into epsilon as dp-accounting does; or a table of
        epsilons after 0, 1, .. messages, from `epsilons` or any other accountant, beyond which epsilon is infinite.
      delta: in (0, 1), may be traced; None with a table, which has its own.
      by_node: whether `epsilon_by_node` is kept as well.

    With chained private channels the messages of all are counted.
    """
    measure = process.measure
    if measure is None:
        checks.fail("spent", "process", "one that measures", "one that does not", "Pass what dlsim.learn returned.")
    if isinstance(mechanism, Renyi):
        fix = "The probability by which more may be told, e.g. delta=1e-5."
        if delta is None:
            checks.fail("spent", "delta", "greater than 0 and less than 1", "None", fix)
        check_delta("spent", delta)
    else:
        given = checks.array("spent", "mechanism", mechanism, (None,))
        if delta is not None:
            checks.fail("spent", "delta", "None with a table of epsilons", checks.describe(delta))
        if given.size == 0 or not np.isfinite(given[0]) or not (np.diff(given) >= 0).all() or given[0] < 0:
            checks.fail("spent", "mechanism", "epsilons after 0, 1, .. messages, rising", checks.describe(mechanism))
        table = jnp.asarray(given, float)
    num_nodes = process.num_nodes

    def of(count: Array) -> Array:
        if isinstance(mechanism, Renyi):
            return traced_epsilon(mechanism, delta, count)
        return table.at[count].get(mode="fill", fill_value=jnp.inf)

    def record(state: PyTree, info: Info) -> Info:
        count = num_released(state, num_nodes)
        out = {**measure(state, info), "epsilon": of(jnp.max(count))}
        return {**out, "epsilon_by_node": of(count)} if by_node else out

    return record


def num_released(state: PyTree, num_nodes: int | None) -> Array:
    """How many messages each node has let out through private channels, over all its streams, uint32 `[N]`."""
    found = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Releases))
    counts = [one.num_sent for one in found if isinstance(one, Releases)]
    if not counts:
        fix = "Pass network.with_channel(dlsim.networks.dp_gaussian(clip=1.0, noise_multiplier=1.0)) to learn."
        checks.fail("spent", "process", "over a network whose channel is private", "one without such a channel", fix)
    own = [
        count for count in counts if count.shape != (1,) or num_nodes == 1
    ]  # one is a server's, which lets out nothing
    for count in own:
        if count.shape != (num_nodes,):
            got = f"{count.shape[0]} streams of messages"
            checks.fail("spent", "process", f"one in which each of {num_nodes} nodes has one message at a time", got)
    if not own:
        checks.fail("spent", "process", "one whose nodes send", "one whose server alone sends")
    return sum(own[1:], start=own[0])


@checks.typed
def noise_multiplier(
    epsilon: float, delta: float, *, num_releases: int, neighbors: str = "add_or_remove", num_senders: int = 1
) -> float:
    """The least noise of `dp_gaussian` with which `num_releases` messages are (epsilon, delta)-private; needs dp-accounting.

    By bisection over the budget of `gaussian`, to a millionth.

    Args:
      epsilon: greater than 0.
      delta: in (0, 1).
      num_releases: messages of a node, at least 1.
      neighbors, num_senders: as in `gaussian`.
    """
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        checks.known("noise_multiplier", name, value, "known on the host")
    wanted = float(checks.number("noise_multiplier", "epsilon", epsilon, 0.0, open_minimum=True))
    num_releases = checks.integer("noise_multiplier", "num_releases", num_releases, 1)

    def budget(z: float) -> float:
        curve = gaussian(z, neighbors=neighbors, num_senders=num_senders)
        return renyi.epsilon(curve, delta, num_releases=num_releases)

    low, high = 1e-3, 1.0
    while budget(high) > wanted:
        low, high = high, 2 * high
        if high > 1e9:
            checks.fail("noise_multiplier", "epsilon", "one that noise of 1e9 clips can keep", checks.describe(epsilon))
    while high - low > 1e-6 * high:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if budget(middle) > wanted else (low, middle)
    return high
