"""How the agents' parameters have to do with each other: one set, one each, or one each that gossip."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.aggregators.linear import aggregate, initial_state
from dlsim.core import Aggregator, Array, PyTree
from dlsim.environments.environment import Environment
from dlsim.networks.messages import both
from dlsim.networks.network import Network

KINDS = ("parameters", "nothing", "gossip")


class Sharing(NamedTuple):
    """See `share_parameters`, `independent`, `gossip`."""

    kind: str
    period: int = 1
    aggregator: Aggregator | None = None
    parts: tuple[str, ...] | None = None
    by_contact: bool = False

    def num_groups(self, environment: Environment) -> int:
        """How many sets of parameters there are."""
        return 1 if self.kind == "parameters" else environment.num_agents


def share_parameters() -> Sharing:
    """All agents act by, and learn, one set of parameters; nothing is sent (centralised training)."""
    return Sharing("parameters")


def independent() -> Sharing:
    """Each agent has parameters of its own, learns from what it saw alone, and sends nothing."""
    return Sharing("nothing")


@checks.typed
def gossip(
    *,
    period: int = 1,
    aggregator: Aggregator | None = None,
    parts: tuple[str, ...] | None = None,
    by_contact: bool = False,
) -> Sharing:
    """Each agent is a node with parameters of its own, which it mixes with its neighbours' after an update:

        theta_i <- theta_i + u_i(what i saw)              the learner's update
        theta_i <- sum_j W_ij theta_j                     every `period` updates, W the network's weights of the round

    On the complete graph, from equal starts, with updates that are linear in the gradient, this is parameter sharing;
    with W = I it is `independent`.  Optimiser states stay where they are.

    Args:
      period: updates between two exchanges.
      aggregator: a rule for what a node hears, in place of the linear mix (`dlsim.aggregators`), e.g. a robust one.
      parts: which parts of the parameters are sent, e.g. `("critic",)`; None: all.
      by_contact: a link works only while the environment says that its ends are in contact (`environment.contact`), in
        the first copy of the world, at the end of what was played: a graph of who is near whom.
    """
    where = "gossip"
    period = checks.integer(where, "period", period, 1)
    if aggregator is not None:
        checks.instance(where, "aggregator", aggregator, Aggregator, "Pass e.g. dlsim.aggregators.trimmed_mean(1).")
    if parts is not None:
        wanted = ("a tuple of names", 'Pass e.g. ("critic",).')
        names = checks.sequence(where, "parts", parts, *wanted)
        if not names or not all(isinstance(name, str) for name in names):
            checks.fail(where, "parts", wanted[0], checks.describe(parts), wanted[1])
    checks.flag(where, "by_contact", by_contact)
    return Sharing("gossip", period, aggregator, None if parts is None else tuple(parts), by_contact)


class Exchange(NamedTuple):
    """`init(params [G, ...]) -> state`; `run(key, state, params, worlds, count, network) -> (state, params, network)`."""

    init: Any
    run: Any


def exchange_of(where: str, sharing: Sharing, environment: Environment) -> Exchange:
    """What happens to the parameters `[G, ...]` after an update; `worlds` are the copies `[E, ...]`, `count` the update."""
    checks.instance(where, "sharing", sharing, Sharing, "Use share_parameters(), independent() or gossip().")
    if sharing.by_contact and environment.contact is None:
        checks.fail(where, "sharing", "without by_contact where the environment knows no contact", environment.name)
    if sharing.kind != "gossip":
        return Exchange(lambda params: (), lambda key, state, params, worlds, count, network: (state, params, network))

    def chosen(params: PyTree) -> tuple[PyTree, PyTree]:
        if sharing.parts is None:
            return params, {}
        unknown = set(sharing.parts) - set(params)
        if unknown:
            checks.fail(where, "sharing.parts", "of " + ", ".join(sorted(params)), ", ".join(sorted(unknown)))
        kept = {name: part for name, part in params.items() if name not in sharing.parts}
        return {name: params[name] for name in sharing.parts}, kept

    def init(params: PyTree) -> PyTree:
        return initial_state(sharing.aggregator, chosen(params)[0])

    def talk(key: Array, state: PyTree, params: PyTree, network: Network) -> tuple[PyTree, PyTree, Network]:
        sent, kept = chosen(params)
        state, mixed, network = aggregate(network, key, sharing.aggregator, state, sent, stream="gossip")
        return state, mixed if sharing.parts is None else {**mixed, **kept}, network

    def run(
        key: Array, state: PyTree, params: PyTree, worlds: PyTree, count: Array, network: Network
    ) -> tuple[PyTree, PyTree, Network]:
        around = network
        if sharing.by_contact:
            near = environment.contact(jax.tree.map(lambda leaf: leaf[0], worlds))
            linked = near[network.receivers, network.senders]
            around = network.replace(is_linked=both(network.is_linked, linked))

        def after(network: Network) -> tuple[PyTree, PyTree, Any]:
            new, mixed, then = talk(key, state, params, network)
            return new, mixed, then.state

        if sharing.period == 1 or network.probe is not None:
            new, mixed, spent = after(around)
        else:
            due = count % sharing.period == sharing.period - 1
            new, mixed, spent = jax.lax.cond(due, after, lambda there: (state, params, there.state), around)
        return new, mixed, network.with_state(spent)

    return Exchange(init, run)


def first_rows(params: PyTree, num_groups: int) -> PyTree:
    """The parameters of as many groups as there are: all nodes start alike."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[:num_groups]), params)
