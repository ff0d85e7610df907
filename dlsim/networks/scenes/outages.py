"""What happens at given times to given nodes: they are away, they hold no data, they are cut off from the others.

Whom it hits and when are numbers in a table, so that a sweep over disasters is one program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Scenario
from dlsim.networks.network import Network
from dlsim.networks.scenes.presence import restrict

LOSSES = ("links", "data", "all")


class _Table(NamedTuple):
    """Rows k: something is so at node ids[k] in every round t with first[k] <= t < last[k]."""

    where: str
    ids: Any  # integers [K]
    first: Any  # float32, [] or [K]
    last: Any  # float32, [] or [K]

    def start(self, key: Array, network: Network) -> Array:
        """Rounds so far: none."""
        del key
        ids = self.ids
        if checks.is_concrete(ids) and ids.size and int(ids.max()) >= network.num_nodes:
            checks.fail(self.where, "node_ids", f"below the number of nodes, {network.num_nodes}", int(ids.max()))
        return jnp.zeros((), jnp.int32)

    def holds(self, rounds: Array, network: Network) -> Array:
        """Of which nodes it is so, bool `[N]`."""
        now = jnp.broadcast_to((self.first <= rounds) & (rounds < self.last), self.ids.shape)
        rows = jnp.where(self.ids < 0, network.num_nodes, self.ids)  # below zero would count from the end
        hits = jnp.zeros(network.num_nodes, jnp.int32).at[rows].add(now.astype(jnp.int32), mode="drop")
        return hits[network.node_ids] > 0


def outages(node_ids: Any, start: Any, end: Any | None = None) -> Scenario:
    """Given nodes are away at given times: node `node_ids[k]` in every round t with `start[k] <= t < end[k]`, k = 0..K-1.

    Rounds count from 0; of methods with clocks they are the windows of simulated time.  A node may stand in the table
    more than once, and is away while any of its outages lasts.  Whoever is away keeps its state and neither sends nor
    hears, as in `churn`.  Everything in the table is data and may be traced, so that a sweep over when a disaster comes,
    how long it lasts and whom it hits is one program: a table of all nodes, `start=jnp.where(is_hit, begin, jnp.inf)`,
    says who is hit.

    Args:
      node_ids: integers `[K]`, positions in the network as it was built; a traced one that no node has hits nobody.
      start: the first round of each outage, a number for all or `[K]`; infinity: never.
      end: the first round after it, likewise; infinity, or None: for good.
    """
    table = _table("outages", node_ids, start, end)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        del key
        return state + 1, restrict(network, ~table.holds(state, network))

    return Scenario(init=table.start, step=step)


def relays(node_ids: Any, start: Any = 0, end: Any | None = None) -> Scenario:
    """Given nodes hold no data at given times: they send, hear and average, and do not train; a table as in `outages`.

    Parameters of a node without data change by mixing alone, its optimiser's state not at all.  What it passes on is weighed
    as `network` and `reweigh` say; weights by numbers of examples give it none.  Where methods have clocks, its gradient
    events do nothing.

    Args:
      node_ids: integers `[K]`, positions in the network as it was built.
      start: the first round without data, a number for all or `[K]`; 0: it never had any.
      end: the first round in which it has data (again), likewise; None: it never has.

    Raises ValueError (from `learn`) for methods that do not ask who trains.
    """
    table = _table("relays", node_ids, start, end)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        del key
        return state + 1, _with_data(network, ~table.holds(state, network))

    return Scenario(init=table.start, step=step)


def _with_data(network: Network, has_data: Array) -> Network:
    """The network in which only those hold data that did and that `has_data` [N] admits."""
    return network.replace(has_data=has_data if network.has_data is None else network.has_data & has_data)


def disaster(is_hit: Any, at_step: Any, heals_at: Any | None = None, *, loses: str = "all") -> Scenario:
    """The nodes hit are lost at once, in round `at_step`, with all they know, or with their links alone.

    | `loses` | before | from round `at_step` on |
    |---|---|---|
    | `"all"` | like everyone | away, and their data with them |
    | `"links"` | they relay and hold no data | away: what is missed are the ways over them |
    | `"data"` | like everyone | they relay and hold no data |

    From round `heals_at` on all is as it was before; who was away comes back with the model it left with.  Whom to hit is
    `victims`' affair, or the user's.  Under `"links"` weights must let relays be heard: see `reweigh`.

    Args:
      is_hit: bool `[N]`, by node id; may be traced.
      at_step, heals_at: rounds, numbers for all or `[N]`, traced; infinity, or None for `heals_at`: never.
      loses: `"all"`, `"links"` or `"data"`; structural.

    Raises ValueError if everybody is hit.  Where that is known in the run alone, rounds without anyone have the remark
    NOBODY_PRESENT.
    Source: Palmieri, Boldrini, Valerio, Passarella and Conti, Exploring the impact of disrupted peer-to-peer communications
      on fully decentralized learning in disaster scenarios, ICT-DM 2023.  Differs: healing is ours.
    """
    where = "disaster"
    checks.one_of(where, "loses", loses, LOSSES)
    hit = is_hit if isinstance(is_hit, jax.core.Tracer) else checks.host(where, "is_hit", is_hit)
    if hit.dtype != bool or hit.ndim != 1:
        checks.fail(where, "is_hit", "bool [N]", checks.describe(is_hit), "Pass victims(network, fraction).")
    if checks.is_concrete(hit) and hit.all():
        what = "hold data" if loses == "data" else "survive"
        fix = "Hit fewer: victims(network, fraction)."
        checks.fail(where, "is_hit", f"such that somebody is left to {what}", f"all {hit.size} nodes", fix)
    everyone = np.arange(hit.shape[0])
    both_ways = _table(where, everyone, at_step, heals_at, ("at_step", "heals_at"))
    struck = both_ways._replace(first=jnp.where(hit, both_ways.first, jnp.inf))

    def init(key: Array, network: Network) -> Array:
        if network.num_nodes != hit.shape[0]:
            checks.fail(where, "is_hit", f"bool [{network.num_nodes}], one for each node", f"{hit.shape[0]} of them")
        return struck.start(key, network)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        del key
        is_lost = struck.holds(state, network)
        if loses == "data":
            return state + 1, _with_data(network, ~is_lost)
        if loses == "links":
            network = _with_data(network, ~jnp.asarray(hit)[network.node_ids])
        return state + 1, restrict(network, ~is_lost)

    return Scenario(init=init, step=step, source="Palmieri et al., ICT-DM 2023")


def split(groups: Any, start: Any = 0, end: Any | None = None) -> Scenario:
    """The network falls into parts: links between nodes of different groups are down in rounds t, `start <= t < end`.

    Both ends know, and send nothing over them; within a group all goes on.  At `end` the parts heal.

    Args:
      groups: integers `[N]`, by position in the network as it was built; may be traced.
      start, end: rounds, numbers; infinity, or None for `end`: for good; traced.
    """
    where = "split"
    labels = checks.array(where, "groups", groups, (None,))
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        checks.fail(where, "groups", "integers [N]", checks.describe(groups))
    table = _table(where, np.zeros(1, int), start, end)

    def init(key: Array, network: Network) -> Array:
        if network.num_nodes != labels.shape[0]:
            checks.fail(where, "groups", f"integers [{network.num_nodes}], one a node", f"{labels.shape[0]} of them")
        if network.is_implicit:
            checks.fail(where, "network", "one that lists its edges", "a large complete graph")
        return table.start(key, network)

    def step(key: Array, state: Array, network: Network) -> tuple[Array, Network]:
        del key
        group = jnp.asarray(labels)[network.node_ids]
        is_whole = ~((table.first <= state) & (state < table.last)).reshape(())
        up = is_whole | (group[network.senders] == group[network.receivers])
        return state + 1, network.replace(is_linked=up if network.is_linked is None else network.is_linked & up)

    return Scenario(init=init, step=step)


def _table(where: str, node_ids: Any, start: Any, end: Any, names: tuple[str, str] = ("start", "end")) -> _Table:
    ids = checks.array(where, "node_ids", node_ids, (None,))
    if not jnp.issubdtype(ids.dtype, jnp.integer) or (checks.is_concrete(ids) and ids.size and ids.min() < 0):
        checks.fail(where, "node_ids", "integers >= 0, [K]", checks.describe(node_ids))
    first = _times(where, names[0], start, ids.shape[0])
    last = np.float32(np.inf) if end is None else _times(where, names[1], end, ids.shape[0])
    if checks.is_concrete((first, last)):
        backward = np.flatnonzero(np.broadcast_to((last < first) & np.isfinite(first), ids.shape))
        if len(backward):
            k = int(backward[0])
            rows = [np.broadcast_to(table, ids.shape)[k] for table in (first, last)]
            checks.fail(where, names[1], f"no earlier than {names[0]}", f"{rows[1]:g} after {rows[0]:g} in row {k}")
    return _Table(where, ids, first, last)


def _times(where: str, name: str, given: Any, num: int) -> Any:
    """Rounds as numbers `[]` or `[K]`, which may be infinite; tracers stay as they are."""
    rule = f"a number of rounds, or one for each of the {num} outages"
    times = given if isinstance(given, jax.core.Tracer) else checks.host(where, name, given, rule)
    if not checks.is_real_type(times.dtype) or times.shape not in ((), (num,)):
        checks.fail(where, name, rule, checks.describe(given))
    if isinstance(times, jax.core.Tracer):
        return times
    if np.isnan(times).any():
        checks.fail(where, name, rule, checks.describe(given))
    return times.astype(np.float32)
