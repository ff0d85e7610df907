"""What a Network holds, below the modules that work on it: its fields, and the few changes that need no more than them.

`mixing` and `messages` are written for `NetworkFields`; `Network`, in `network`, is these fields with the verbs.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Self

import numpy as np

from dlsim import checks
from dlsim.core import Array, Channel, Packet, PyTree, Route
from dlsim.networks.flight.delays import Delays, check_delays
from dlsim.networks.graphs.graph import Graph, check_graph
from dlsim.networks.graphs.labels import Labels
from dlsim.networks.pace.links import BARRIERS, Ledger, Links, ledger
from dlsim.running import counters


class Traffic(NamedTuple):
    """Sent so far, counted once, at the sender."""

    messages: counters.Counter  # [N]
    bits: counters.Counter  # [N]
    server_messages: counters.Counter  # []
    server_bits: counters.Counter  # []
    clock: counters.Clock  # []


class NetworkState(NamedTuple):
    """What of a network changes from round to round and belongs to the run."""

    traffic: Traffic
    channels: dict[str, PyTree]  # the channel's state, one a stream of messages
    ledger: Ledger | tuple[()] = ()  # how each node spends its simulated seconds, where that is kept
    in_flight: Any = ()  # where messages take time: what is under way, one `Flight` a stream


class Membership(NamedTuple):
    """Who came into this round, and who dies in the middle of what peers do together in it."""

    # In durations of an operation that nobody interrupts, 0 as it begins; infinite: not in this round.
    dies_at: Array  # float32 [N]
    is_new: Array  # bool [N], a peer that was not there before and brings nothing: its slot's state is another's


class Inbox(NamedTuple):
    """What each node heard from its neighbours."""

    values: PyTree  # [N, K, ...]
    weights: Array  # [N, K] mixing weights, zero where nothing was heard
    mask: Array  # bool [N, K]
    senders: Array  # int32 [N, K] positions of the senders
    node_ids: Array | None = None  # int32 [N] whose data a rule may judge by; None where it runs at a server
    # int32 [N, K + 1] whose values these are, the receiver's first; None: nobody said.
    candidate_ids: Array | None = None


class Edges(NamedTuple):
    """The links that messages to all neighbours go over, by rows of the message."""

    senders: Array  # int32 [L]
    receivers: Array  # int32 [L], in ascending order
    weights: Array  # float [L] mixing weights
    is_up: Array | None = None  # bool [L] which work in this round; None: all


class Told(NamedTuple):
    """What receivers hear in place of the messages of some, each something else."""

    values: PyTree  # [N, ...] by receiver
    is_told: Array  # bool [L] over which links they hear it


class Arrival(NamedTuple):
    """What arrived of one message a node: at the server, from it, or from a partner."""

    values: PyTree  # [n, ...]
    mask: Array  # bool [n]


class Sent(NamedTuple):
    """Messages to receivers that were chosen in the step: what is on the air, and who of them hears it."""

    values: PyTree  # [n, ...] one message a sender
    own: PyTree | None  # [n, ...] what the senders have, which they hear where they chose themselves; None: the same
    senders: Array  # int32 [n] positions
    receivers: Array  # int32 [n, k] positions, any where the mask is false
    mask: Array  # bool [n, k] which arrived


def _identity_send(key: Array, state: PyTree, packet: Packet, route: Route) -> tuple[PyTree, Packet]:
    del key, route
    return state, packet


def _identity_init(message: PyTree, num_senders: int) -> tuple[()]:
    del message, num_senders
    return ()


PERFECT = Channel(init=_identity_init, send=_identity_send, codec=())


@dataclasses.dataclass(frozen=True)
class NetworkFields:
    """The fields of a Network, which is the one class of them that is a pytree; see there for what they mean together."""

    node_ids: Array  # int32 [N]; draws belong to ids, so a relabelled network gives relabelled results
    senders: Array  # int32 [E] positions
    receivers: Array  # int32 [E] positions
    edge_weights: Array  # float [E]
    self_weights: Array  # float [N]
    out_degrees: Array  # uint32 [N]
    in_degrees: Array  # uint32 [N]
    neighbors: Array | None  # int32 [N, K] positions of the senders, padded with the receiver itself
    neighbor_edges: Array | None  # int32 [N, K] edge ids, padded with E
    neighbor_weights: Array | None  # float [N, K], zero in the padding
    matrix: Array | None  # float [N, N] off-diagonal weights, for the dense lowering
    positions: Array | None  # float32 [N, 2]
    links: Links | None
    state: NetworkState
    is_present: Array | None = None  # bool [N]: takes part in this round
    has_data: Array | None = None  # bool [N]: has data to train on in this round; False: it relays what others know
    is_linked: Array | None = None  # bool [E]: up in this round
    is_edge: Array | None = None  # bool [E]: False in the padding of the list of edges
    cohort: Array | None = None  # int32 [C] positions of the nodes asked in this round
    membership: Membership | None = None  # None: nobody is new, nobody dies on the way
    delays: Delays | None = None  # None: what is sent is heard at once, or never
    status: Array | None = None  # uint32 [N]: what a scenario found wrong in this round (`dlsim.running.status`)
    lowering: str = dataclasses.field(default="neighbors", metadata={"static": True})
    grid: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"static": True})
    offsets: tuple[tuple[int, ...], ...] | None = dataclasses.field(default=None, metadata={"static": True})
    properties: frozenset[str] = dataclasses.field(default=frozenset(), metadata={"static": True})
    labels: Labels | None = dataclasses.field(default=None, metadata={"static": True})  # names and attributes
    channel: Channel = dataclasses.field(default=PERFECT, metadata={"static": True})
    barrier: str = dataclasses.field(
        default="exchange", metadata={"static": True}
    )  # at which ends all wait for the last
    probe: Any = dataclasses.field(default=None, metadata={"static": True})  # notes the streams while tracing

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.node_ids.shape[0]

    @property
    def num_edges(self) -> int:
        """Directed edges, the padding of their list among them; 0 where a large complete graph keeps no list."""
        return self.senders.shape[0]

    @property
    def trainers(self) -> Array | None:
        """Who trains in this round, bool `[N]`: those present that have data; None: all.  Others change by mixing alone."""
        if self.is_present is None or self.has_data is None:
            return self.has_data if self.is_present is None else self.is_present
        return self.is_present & self.has_data

    @property
    def is_implicit(self) -> bool:
        """Whether this is a complete graph too large to list its edges."""
        return self.lowering == "average" and self.num_edges == 0 and self.num_nodes > 1

    def replace(self, **changes: Any) -> Self:
        """The network with other fields."""
        return dataclasses.replace(self, **changes)

    def with_channel(self, channel: Channel) -> Self:
        """Every message goes through `channel` (see `dlsim.networks.chain` for several)."""
        if not isinstance(channel, Channel):
            checks.fail("with_channel", "channel", "a Channel", type(channel).__name__, "A Scenario goes to `learn`.")
        return self.replace(channel=channel)

    def with_links(self, links: Links, *, by_node: bool = False, barrier: str = "exchange") -> Self:
        """Messages and gradients take simulated time (see `dlsim.networks.links`).

        Args:
          links: rates and times.
          by_node: keep how each node spends its seconds: computing, sending, receiving, waiting for others (structural).
            With `links.watts` or a barrier of rounds it is always kept.
          barrier: where all wait for the last (structural).  `"exchange"`: after each exchange of messages and after
            computing.  `"round"`: a node goes on when its own part is done, and all wait once, at the end of the round:
            round = max_i (seconds of node i's own messages and gradients) + seconds of the server alone.
        """
        checks.instance("with_links", "links", links, Links, "Pass dlsim.networks.links(num_nodes, ...).")
        checks.shape("with_links", "links.upload", links.upload, (self.num_nodes,))
        checks.one_of("with_links", "barrier", barrier, BARRIERS)
        is_kept = checks.flag("with_links", "by_node", by_node) or links.watts is not None or barrier == "round"
        state = self.state._replace(ledger=ledger(self.num_nodes) if is_kept else ())
        return self.replace(links=links, barrier=barrier, state=state)

    def with_delays(self, delays: Delays) -> Self:
        """Messages are under way for some rounds (see `dlsim.networks.fixed_delay`), or, for methods by clocks, seconds
        (`dlsim.networks.fixed_seconds`); delays of zero are none."""
        check_delays("with_delays", delays, self)
        return self.replace(delays=None if delays.are_none else delays)

    @property
    def may_miss(self) -> bool:
        """Whether a message that is sent may not be heard in its round, whoever is present."""
        return self.channel is not PERFECT or self.delays is not None

    def with_state(self, state: NetworkState) -> Self:
        """The network with the traffic, the clock, the channel states and the messages under way of `state`."""
        return self.replace(state=state)


def check_single(where: str, network: NetworkFields) -> None:
    """The channel lets a receiver know what each sender said, or ValueError."""
    if network.channel.is_sum:
        fix = "Use a method with a server and rounds, such as fedavg."
        rule = "one that says what each sender sent"
        checks.fail(where, "network.channel", rule, "secure_aggregation, which sums at a server", fix)


def no_traffic(num_nodes: int) -> Traffic:
    """Nothing sent and no time passed."""
    return Traffic(
        messages=counters.counter((num_nodes,)),
        bits=counters.counter((num_nodes,)),
        server_messages=counters.counter(),
        server_bits=counters.counter(),
        clock=counters.clock(),
    )


def host_graph(network: NetworkFields) -> Graph:
    """The graph under a network, back on the host."""
    check_graph("host_graph", network, weighted=True)
    edges = slice(None) if network.is_edge is None else np.asarray(network.is_edge)
    return Graph(
        num_nodes=network.num_nodes,
        senders=np.asarray(network.senders)[edges],
        receivers=np.asarray(network.receivers)[edges],
        is_directed="undirected" not in network.properties,
        grid=network.grid,
        offsets=network.offsets,
        positions=None if network.positions is None else np.asarray(network.positions),
        labels=network.labels,
    )
