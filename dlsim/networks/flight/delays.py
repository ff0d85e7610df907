"""How long messages are under way: a value of the Network, beside its channel and its links.

Methods of rounds count in rounds, which is what this module is about; methods by clocks in simulated seconds (`timed`).

A message that is sent in exchange s with a delay of d is there in exchange s + d; d = 0 is the exchange itself.  Every
stream of messages counts its own exchanges, which are rounds where a method talks once a round.  What becomes of a message
under way, and what a receiver makes of it, is said in `dlsim.networks.in_flight`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import SERVER, Array
from dlsim.networks.pace.links import check_alone

OWNERS = ("all", "link", "node")
LONGEST = 4096  # rounds; a buffer of more is a mistake
HEAR = ("newest", "all")  # what a receiver makes of what has arrived


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Delays:
    """Delays of messages, in whole rounds (`fixed_delay`, `random_delay`, `trace_delay`, `link_delay`) or in simulated
    seconds (`fixed_seconds`, `random_seconds`, `log_normal_seconds`, `trace_seconds`, `link_seconds`)."""

    # fixed: [], [E] or [N]; trace: [T, ...] of these; random: [max_rounds] P[d <= k]; links: [] seconds.  In seconds they are
    # NumPy's, random: [S] of which one is drawn; log_normal: [2] median and sigma; links: [] bits, 0: a whole message's.
    values: Array
    kind: str = dataclasses.field(metadata={"static": True})
    max_rounds: int = dataclasses.field(metadata={"static": True})
    per: str = dataclasses.field(default="all", metadata={"static": True})  # whose the values are, see OWNERS
    # Whether a scenario replaces the topology from round to round: the links of each round are then kept with its messages.
    is_changing: bool = dataclasses.field(default=False, metadata={"static": True})
    unit: str = dataclasses.field(default="rounds", metadata={"static": True})  # or "seconds"
    # In seconds: how many messages there is room for at a time; None: as many as trial tapes need, and some more.
    room: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def is_constant(self) -> bool:
        """Whether a link has one delay for good, so that of what it carries one message arrives a round, in order."""
        return self.kind == "fixed"

    @property
    def is_one(self) -> bool:
        """Whether all links have one delay for good."""
        return self.is_constant and self.per == "all"

    @property
    def are_none(self) -> bool:
        """Whether every message is known to be heard in the exchange, or at the instant, in which it is sent."""
        if self.unit == "seconds":
            return self.kind in ("fixed", "trace", "random") and not np.any(self.values)
        return self.max_rounds == 0 and self.kind != "links" and checks.is_concrete(self.values)

    @property
    def has_rounds_of_fixed_length(self) -> bool:
        """Whether a round lasts as long as it is said to, however slow a message is."""
        return self.kind == "links" and self.unit == "rounds"

    @property
    def may_overtake(self) -> bool:
        """Whether of two messages over one link the later may arrive first."""
        return self.kind in ("random", "log_normal", "trace")

    def replace(self, **changes: Any) -> Delays:
        """The delays with other fields."""
        return dataclasses.replace(self, **changes)

    def on_changing_links(self, where: str) -> Delays:
        """The delays where a scenario replaces the topology from round to round."""
        if self.per == "link":
            fix = 'Use one delay for all, random ones, or per="node".'
            checks.fail(where, "delays", "of no links where a scenario replaces them", 'per="link"', fix)
        return self.replace(is_changing=True)

    def reordered(self, nodes: Any, edges: Any) -> Delays:
        """The delays of a network whose nodes and edges are stored in another order."""
        if self.per == "all":
            return self
        order = nodes if self.per == "node" else edges
        if self.unit == "seconds":
            return self.replace(values=self.values[..., np.asarray(order)])
        return self.replace(values=jnp.asarray(self.values)[..., jnp.asarray(order)])


class Transmissions(NamedTuple):
    """The messages of one exchange, L of them, as delays see them; positions are None at the server's end."""

    round: Array  # int32 [] exchanges of this stream before this one
    node_ids: Array  # [N]
    senders: Array | None  # int32 [L] positions
    receivers: Array | None  # int32 [L] positions
    bits: Array | None  # float32 [L]; None where no delay depends on them
    num: int  # L
    are_links: bool  # whether they are the edges of the network, in its order


def fixed_delay(rounds: Any, *, max_rounds: int | None = None, per: str = "all") -> Delays:
    """Every message takes the same number of rounds, or each link, or each node, has a number of its own.

    Args:
      rounds: whole numbers >= 0, traced: one for all `[]`; `[E]` with `per="link"`, in the network's order of edges; or
        `[N]` with `per="node"`: of what that node sends (of what it gets, where the sender is a server).
      max_rounds: the longest delay there may be, which is the length of the buffer; structural.  Default: the largest of
        `rounds`, where that is known.
      per: `"all"`, `"link"` or `"node"`; structural.
    """
    where = "fixed_delay"
    checks.one_of(where, "per", per, OWNERS)
    shape = () if per == "all" else (None,)
    values, longest = _rounds(where, rounds, shape, max_rounds)
    return Delays(values=values, kind="fixed", max_rounds=longest, per=per)


def trace_delay(rounds: Any, *, max_rounds: int | None = None, per: str = "all") -> Delays:
    """Delays that were recorded: exchange t takes row t mod T of a table.

    Args:
      rounds: whole numbers >= 0, traced: `[T]` for all; `[T, E]` with `per="link"`; `[T, N]` with `per="node"`.
      max_rounds, per: as in `fixed_delay`.
    """
    where = "trace_delay"
    checks.one_of(where, "per", per, OWNERS)
    shape = (None,) if per == "all" else (None, None)
    values, longest = _rounds(where, rounds, shape, max_rounds)
    return Delays(values=values, kind="trace", max_rounds=longest, per=per)


def random_delay(probabilities: Any) -> Delays:
    """Every message takes a random number of rounds, drawn anew for each transmission: P[d = k] = probabilities[k].

    So later messages may overtake earlier ones.  `geometric_delay` makes the probabilities of a geometric law.

    Args:
      probabilities: `[max_rounds + 1]`, >= 0, of sum one; the values may be traced.
    """
    where = "random_delay"
    if checks.is_concrete(probabilities):
        table = checks.array(where, "probabilities", probabilities, (None,), 0.0).astype(np.float64)
        if not len(table) or abs(table.sum() - 1) > 1e-4:
            fix = "Pass e.g. [0.5, 0.3, 0.2]: half of the messages at once, the slowest two rounds later."
            checks.fail(where, "probabilities", "of sum 1", f"{table.sum():.6g}", fix)
        below: Any = np.cumsum(table)[:-1].astype(np.float32)
    else:
        below = jnp.cumsum(jnp.asarray(probabilities, jnp.float32))[:-1]
    longest = checks.integer(where, "max_rounds", below.shape[0], 0, LONGEST)
    return Delays(values=_constant(below, jnp.float32), kind="random", max_rounds=longest)


def geometric_delay(mean_rounds: Any, max_rounds: int) -> Delays:
    """Random delays of a geometric law, P[d >= k] = (m / (1 + m))^k with mean m, cut off at `max_rounds`.

    A message is under way for one round more with the same probability each round, as where it is sent until it gets
    through.  What would take longer than `max_rounds` takes `max_rounds`, so the mean is a little below m.

    Args:
      mean_rounds: m >= 0, traced.
      max_rounds: structural.
    """
    where = "geometric_delay"
    checks.number(where, "mean_rounds", mean_rounds, 0.0)
    longest = checks.integer(where, "max_rounds", max_rounds, 0, LONGEST)
    with jax.ensure_compile_time_eval():
        mean = jnp.asarray(mean_rounds, jnp.float32)
        below = 1 - (mean / (1 + mean)) ** jnp.arange(1, longest + 1)
    return Delays(values=below, kind="random", max_rounds=longest)


def link_delay(round_seconds: Any, max_rounds: int) -> Delays:
    """Delays that follow from the network's links, in rounds of a fixed length: nobody waits for a slow message.

    A message that takes s seconds (`message_seconds`: its latency, and its bits over the slower of both ends' rates) is
    there after ceil(s / R) - 1 rounds of R seconds; one that takes at most R is heard in its own round.  A round then lasts
    R seconds, or as long as the slowest node's gradients where that is more.  A message that would take more than
    `max_rounds` is never heard, and the run's status says BUFFER_OVERFLOW.

    Args:
      round_seconds: R > 0, traced.
      max_rounds: structural.
    """
    where = "link_delay"
    checks.number(where, "round_seconds", round_seconds, 0.0, open_minimum=True)
    longest = checks.integer(where, "max_rounds", max_rounds, 0, LONGEST)
    return Delays(values=_constant(round_seconds, jnp.float32), kind="links", max_rounds=longest)


def message_seconds(links: Any, senders: Array | None, receivers: Array | None, bits: Array) -> Array:
    """Seconds that messages of `bits` `[L]` take from sender to receiver (positions; None: the server), `[L]`."""
    upload = links.server_upload if senders is None else links.upload[senders]
    download = links.server_download if receivers is None else links.download[receivers]
    latency = links.latency
    if latency.ndim:  # a node's own: the later end of both
        ends = [latency[place] for place in (senders, receivers) if place is not None]
        latency = ends[0] if len(ends) == 1 else jnp.maximum(*ends)
    seconds: Array = latency + bits / jnp.minimum(upload, download)
    return seconds


def check_delays(where: str, delays: Any, network: Any) -> Delays:
    """Delays that fit a network, or one line."""
    fix = "Pass e.g. dlsim.networks.fixed_delay(1)."
    checks.instance(where, "delays", delays, Delays, fix)
    wanted = {"link": ("edges", network.num_edges), "node": ("nodes", network.num_nodes)}.get(delays.per)
    if wanted is not None and jnp.shape(delays.values)[-1] != wanted[1]:
        rule = f"of the network's {wanted[1]} {wanted[0]} (per={delays.per!r})"
        checks.fail(where, "delays", rule, f"{jnp.shape(delays.values)[-1]} values")
    if delays.kind == "links" and network.links is None:
        fix = "Pass them first: network.with_links(dlsim.networks.links(num_nodes, ...))."
        checks.fail(where, "network", "one with links where delays follow from them", "none", fix)
    if delays.kind == "links":
        check_alone(where, network.links)
    if network.is_implicit and delays.unit == "rounds" and not delays.is_one:
        checks.fail(where, "network", "one that lists its edges where links differ", "a large complete graph")
    return delays


def check_unit(where: str, delays: Delays, unit: str) -> None:
    """Delays of what counts in rounds, or in seconds, or one line."""
    if delays.unit != unit:
        makes = "fixed_delay(1)" if unit == "rounds" else "fixed_seconds(0.1)"
        whose = "a method of rounds" if unit == "rounds" else "a method by clocks"
        checks.fail(where, "delays", f"in {unit} for {whose}", f"in {delays.unit}", f"Use e.g. dlsim.networks.{makes}.")


def draw(where: str, delays: Delays, key: Array, sent: Transmissions, links: Any) -> tuple[Array, Array | None]:
    """Rounds that each message takes, int32 `[]` (the same for all) or `[L]`, and where they are too many for the buffer.

    Those that are out of range come as `max_rounds`; None where that cannot be.
    """
    check_unit(where, delays, "rounds")
    if delays.kind == "random":
        ids = sent.node_ids
        server = jnp.full(sent.num, SERVER, ids.dtype)
        first, second = (server if place is None else ids[place] for place in (sent.senders, sent.receivers))
        uniform = keys.edge_uniform(keys.stream(key, "delay"), first, second)
        return jnp.sum(uniform[:, None] >= delays.values, axis=1, dtype=jnp.int32), None
    if delays.kind == "links":
        bits: Any = sent.bits
        seconds = message_seconds(links, sent.senders, sent.receivers, bits)
        rounds = jnp.maximum(jnp.ceil(seconds / delays.values) - 1, 0)
    else:
        rounds = delays.values if delays.kind == "fixed" else delays.values[sent.round % delays.values.shape[0]]
        if delays.per == "link" and not sent.are_links:
            fix = 'Use one delay for all, or per="node".'
            checks.fail(where, "delays", "of all or of nodes, where messages do not follow links", "one a link", fix)
        if delays.per == "node":
            owner: Any = sent.receivers if sent.senders is None else sent.senders
            rounds = rounds[owner]
    if not isinstance(delays.values, jax.core.Tracer) and delays.kind != "links":
        return rounds, None
    is_out = (rounds < 0) | (rounds > delays.max_rounds)
    return jnp.where(is_out, delays.max_rounds, rounds).astype(jnp.int32), is_out


def _rounds(where: str, given: Any, shape: tuple[Any, ...], max_rounds: int | None) -> tuple[Array, int]:
    """Whole numbers of rounds as int32 of that shape, and the largest there may be."""
    longest = None if max_rounds is None else checks.integer(where, "max_rounds", max_rounds, 0, LONGEST)
    if not checks.is_concrete(given):
        traced = jnp.asarray(given)
        if traced.ndim != len(shape):
            checks.fail(where, "rounds", f"of {len(shape)} axes", list(traced.shape), 'Say whose they are: per="link".')
        if longest is None:
            checks.fail(where, "max_rounds", "given where rounds are traced", "None", "Pass the longest, e.g. 8.")
        return jnp.round(traced).astype(jnp.int32), int(longest)
    if not shape:
        values = np.asarray(checks.number(where, "rounds", given, 0.0))
    else:
        values = checks.array(where, "rounds", given, shape, 0.0)
    if values.size == 0 or (values != np.round(values)).any():
        checks.fail(where, "rounds", "whole numbers of rounds, one or more", checks.describe(given))
    largest = int(values.max())
    if longest is None:
        longest = checks.integer(where, "max_rounds", largest, 0, LONGEST)
    elif largest > longest:
        fix = f"Pass max_rounds={largest}, which takes memory in proportion."
        checks.fail(where, "rounds", f"at most max_rounds={longest}, the length of the buffer", largest, fix)
    return _constant(values, jnp.int32), longest


def _constant(value: Any, dtype: Any) -> Array:
    with (
        jax.ensure_compile_time_eval()
    ):  # arrays, not tracers, also where an experiment is built inside a traced function
        return jnp.asarray(value, dtype)
