"""A wireless mesh: clients send to a gateway over routers, some of which drop, while outsiders forge and replay."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Process, Relink
from dlsim.networks import Network
from dlsim.running import counters
from dlsim.trust.mesh import epochs, joining, receiving, watchdogs
from dlsim.trust.mesh.mesh_state import COUNTS, MeshState, World, nearest_routers
from dlsim.trust.mesh.receiving import ACCEPTED, REPLAYED, TOO_OLD, Packets, Security, ranks, received
from dlsim.trust.mesh.replay_windows import WIDEST, replay_windows
from dlsim.trust.mesh.routes import Routes, cheapest_routes
from dlsim.trust.mesh.toy_ciphers import tag

DATA_BYTES, TAG_BYTES, HEADER_BYTES = 512, 16, 8
REKEYING = ("client", "server")


class _Rates(NamedTuple):
    """Floats, which may be traced."""

    droppers: Any
    drop: Any
    loss: Any
    forgeries: Any
    replays: Any
    period: Any
    grace: Any
    clock_spread: Any
    reorder: Any


@checks.typed
def wireless_mesh(
    network: Network,
    num_clients: int = 100,
    *,
    num_gateways: int = 1,
    tags: bool = True,
    window: int | None = WIDEST,
    watchdog: bool = True,
    rekeying: str | None = "client",
    joins: bool = True,
    dropper_fraction: float | Array = 0.0,
    drop_probability: float | Array = 0.8,
    loss: float | Array = 0.0,
    retries: int = 3,
    forgeries: float | Array = 0.0,
    replays: float | Array = 0.0,
    replay_delay: int = 2,
    attack_slots: int = 8,
    reorder: float | Array = 0.0,
    key_period: float | Array = 10.0,
    grace: float | Array = 1.0,
    clock_spread: float | Array = 0.0,
    list_length: int = 4,
) -> Process:
    """Packets over a mesh of routers, hop by hop, under attack; a behavioural model, not cryptography to be used.

    A step is a round of one second.  Every client that has joined sends one packet over its router to a gateway (nodes 0 to
    `num_gateways` - 1), along the cheapest path of that round.  At each hop the receiver checks the key's epoch, the tag and
    the window of the link, and forwards what passes, unless it is a dropper:

        cost of a link = 1 / max(trust, 0.02);  trust <- 0.9 trust + 0.1 [seen to forward], after every hand-over
        tag = mix(mix(mix(k_e ^ mix(link)) ^ sequence) ^ payload),  k_{e+1} = mix(k_e ^ mix(e + const))
        epoch of node i at time t = floor((t + offset_i) / key_period);  a receiver takes the epochs that lie within `grace`
        of its own time

    A transmission is tried up to `retries` + 1 times; each try is lost with probability `loss`.  The watchdog misses that a
    router forwarded with probability `loss`, which is its rate of false accusation.  A gateway counts as forwarding.

    Routers join one after the other: two exchanges of 8 messages with the server at the gateway, over h hops, and a client
    one (over its router): an attempt a round, which succeeds with `handshake_success(loss, retries, h)` an exchange.  Only
    joined routers forward.  Droppers are insiders: they join, route and send like others.

    Outsiders forge packets on random links, with a sequence number ahead of the link's and a random tag, and replay, some
    `replay_delay` rounds later, packets that they overheard and that had arrived.  Accepted ones are counted where they are
    accepted, and travel no further.

    Args:
      network: links between routers, by `dlsim.networks` (as a rule `random_geometric`); its positions place the clients,
        each at its nearest router, else routers are drawn.  Channels, links and scenarios of the network are not used.
      num_clients: C, structural.  Those whose router has no path to a gateway are counted as `unreachable`.
      tags, window, watchdog, rekeying, joins: what protects, structural.  `window`: how many of the last sequence numbers are
        remembered, 1 to 64; None: no window.  `rekeying`: "client", all step their own hash chain; "server": lists of
        `list_length` keys are fetched from the server, over 2 h hops, when 0.8 of a list is used up; a router without keys is
        cut off until it gets some; None: one key for ever.
      dropper_fraction: probability of each router (not of gateways) to be a dropper, in [0, 1].
      drop_probability: with which a dropper drops what it should forward, in [0, 1].
      loss: of a try, in [0, 1).
      forgeries, replays: how many a round, in the mean, at most `attack_slots` (structural) each.
      reorder: packets of a link may be overtaken by so many others of the round at most, >= 0.
      key_period, grace, clock_spread: seconds, rounds; >= 1, >= 0, and the standard deviation of clocks' offsets, >= 0.
        A router whose clock is off by more than a key period is out of the backbone.
      list_length: keys in a list; structural.
    Measures: counts so far (`COUNTS`), `delivery` (of the round's honest traffic: of clients with a path whose own router
      is no dropper), `bound`: the part of it that has a path without droppers, `unreachable`, `num_joined`, `mean_trust`.
    Sequence numbers are of 32 bits: a run of more than 2^32 packets a link would have to be rekeyed from anew.
    Source: Sen, Secure and privacy-preserving authentication protocols for wireless mesh networks, 2012 (threats, two-step
      join, keys); Martignon, Paris and Capone, 2009.  The defence against droppers and all sizes are ours; so are hop-by-hop
      windows.  Droppers do not lie about others, and all routers know all links' trust.
    """
    options = {name: value for name, value in locals().items() if name != "network"}
    where = "wireless_mesh"
    num, C = network.num_nodes, checks.integer(where, "num_clients", num_clients, 1)
    if network.is_implicit:
        checks.fail(
            where, "network", "one with a list of links", "one that links all", "Use a smaller one, or a graph."
        )
    num_gateways = checks.integer(where, "num_gateways", num_gateways, 1, num - 1)
    if window is not None:
        window = checks.integer(where, "window", window, 1, WIDEST)
    if rekeying is not None:
        checks.one_of(where, "rekeying", rekeying, REKEYING)
    retries = checks.integer(where, "retries", retries, 0, 30)
    delay = checks.integer(where, "replay_delay", replay_delay, 1, 10_000)
    slots = checks.integer(where, "attack_slots", attack_slots, 1, 100_000)
    length = checks.integer(where, "list_length", list_length, 1, 1_000_000)
    for name, value in (("dropper_fraction", dropper_fraction), ("drop_probability", drop_probability)):
        checks.probability(where, name, value)
    checks.number(where, "loss", loss, 0.0, 1.0, open_maximum=True)
    for name, value in (("forgeries", forgeries), ("replays", replays)):
        checks.number(where, name, value, 0.0, float(slots))
    checks.number(where, "key_period", key_period, 1.0)
    for name, value in (("grace", grace), ("clock_spread", clock_spread), ("reorder", reorder)):
        checks.number(where, name, value, 0.0)
    rates = _Rates(
        dropper_fraction,
        drop_probability,
        loss,
        forgeries,
        replays,
        key_period,
        grace,
        clock_spread,
        reorder,
    )
    security = Security(tags, window, rekeying is not None, key_period, grace)
    senders, receivers = network.senders, network.receivers
    is_edge = jnp.ones(senders.shape, bool) if network.is_edge is None else network.is_edge
    num_links = jnp.sum(is_edge)
    clients, ids = jnp.arange(C), network.node_ids
    is_gateway = ids < num_gateways
    packet_bytes = DATA_BYTES + (TAG_BYTES + HEADER_BYTES if tags or window is not None else 0)
    units = {"bytes_data": packet_bytes, "bytes_joining": joining.MESSAGE_BYTES, "bytes_keys": epochs.KEY_BYTES}
    unit = jnp.asarray([units.get(name, 1) for name in COUNTS], jnp.uint32)

    def init(key: Array) -> MeshState:
        router = nearest_routers(keys.stream(key, "clients"), network, clients)
        is_dropper = (keys.node_uniform(keys.stream(key, "droppers"), ids, 1)[:, 0] < rates.droppers) & ~is_gateway
        offset = keys.node_normal(keys.stream(key, "clocks"), ids, 1)[:, 0] * rates.clock_spread
        plain = jnp.where(is_edge, 1.0, jnp.inf)
        hops = cheapest_routes(senders, receivers, plain, is_gateway).costs
        honest = jnp.where(is_edge & ~is_dropper[senders] & ~is_dropper[receivers], 1.0, jnp.inf)
        has_honest = jnp.isfinite(cheapest_routes(senders, receivers, honest, is_gateway).costs)
        counted = jnp.isfinite(hops)[router] & ~is_dropper[router]
        bound = jnp.sum(counted & has_honest[router]) / jnp.maximum(jnp.sum(counted), 1)
        whole_hops = jnp.where(jnp.isfinite(hops), hops, joining.NO_PATH).astype(jnp.int32)
        empty = jnp.zeros((delay + 1, slots), jnp.uint32)
        seed = jax.random.bits(keys.stream(key, "seed"), (), jnp.uint32)
        return MeshState(
            world=World(router, is_dropper, offset, whole_hops, bound.astype(jnp.float32)),
            trust=jnp.ones(senders.shape, jnp.float32),
            windows=replay_windows(senders.shape[0]),
            sequence=jnp.zeros(senders.shape, jnp.uint32),
            keys=epochs.first_keys(seed, num, length if rekeying == "server" else None),
            has_joined=is_gateway | (not joins),
            is_client=jnp.full(C, not joins),
            heard=Packets(empty.astype(jnp.int32), empty, empty, empty, empty.astype(jnp.int32)),
            is_heard=jnp.zeros((delay + 1, slots), bool),
            round=jnp.zeros((), jnp.int32),
            counts=counters.counter((len(COUNTS),)),
        )

    def step(key: Array, state: MeshState) -> tuple[MeshState, Info]:
        count: dict[str, Array] = {}
        now = state.round.astype(jnp.float32)
        if joins:
            state, count["bytes_joining"] = _join(keys.stream(key, "join"), state)
        if rekeying is not None:
            state, count["bytes_keys"] = _rekey(keys.stream(key, "rekey"), state, now)
        state, found = _deliver(keys.stream(key, "packets"), state, now)
        count |= found
        state, found = _attack(keys.stream(key, "outsiders"), state, now)
        count |= found
        words = jnp.stack([count.get(name, jnp.zeros((), jnp.uint32)).astype(jnp.uint32) for name in COUNTS])
        counts = counters.add(state.counts, counters.product(words, unit))
        return state._replace(round=state.round + 1, counts=counts), {
            "sent": count["sent"].astype(jnp.uint32),
            "delivered": count["delivered"].astype(jnp.uint32),
        }

    def _join(key: Array, state: MeshState) -> tuple[MeshState, Array]:
        hops = state.world.hops
        near = jnp.where(is_edge & state.has_joined[receivers], hops[receivers], joining.NO_PATH)
        led = jax.ops.segment_min(near, senders, num) < hops
        asking = ~state.has_joined & led & (hops < joining.NO_PATH)
        attempt = joining.attempts(keys.stream(key, "routers"), ids, asking, hops, 2, rates.loss, retries)
        own = state.has_joined[state.world.router] & ~state.is_client
        far = jnp.minimum(hops[state.world.router] + 1, joining.NO_PATH)
        client = joining.attempts(keys.stream(key, "clients"), clients, own, far, 1, rates.loss, retries)
        joined = state._replace(
            has_joined=state.has_joined | attempt.succeeds, is_client=state.is_client | client.succeeds
        )
        return joined, attempt.num_messages + client.num_messages

    def _rekey(key: Array, state: MeshState, now: Array) -> tuple[MeshState, Array]:
        current = epochs.epoch_of(now + state.world.offset, rates.period)
        held = epochs.advanced(epochs.advanced(state.keys, current), current)
        if rekeying == "client":
            return state._replace(keys=held), jnp.zeros((), jnp.uint32)
        left = held.until.astype(jnp.float32) - (now + state.world.offset) / rates.period
        asks = state.has_joined & (left <= length * epochs.LEFT)
        hops = state.world.hops
        draw = keys.node_uniform(key, ids, 1)[:, 0]
        gets = asks & (draw < joining.passes(rates.loss, retries, 2 * hops))
        until = jnp.where(gets, jnp.maximum(held.until, held.epoch) + length, held.until)
        spent = jnp.sum(jnp.where(gets, length * hops, 0))
        return state._replace(keys=held._replace(until=until)), spent.astype(jnp.uint32)

    def _routes(state: MeshState) -> Routes:
        is_open = is_edge & state.has_joined[senders] & state.has_joined[receivers]
        cost = watchdogs.link_costs(state.trust) if watchdog else jnp.ones_like(state.trust)
        return cheapest_routes(senders, receivers, jnp.where(is_open, cost, jnp.inf), is_gateway)

    def _deliver(key: Array, state: MeshState, now: Array) -> tuple[MeshState, dict[str, Array]]:
        """All packets of a round, hop after hop, until none is on its way."""
        world, routes = state.world, _routes(state)
        payload, fraction = keys.node_words(keys.stream(key, "payload"), clients, 1)
        payload, time = payload[:, 0], now + (fraction[:, 0] >> 8).astype(jnp.float32) * jnp.float32(2**-24)
        starts = state.is_client & (world.hops[world.router] < joining.NO_PATH)
        is_honest = starts & ~world.is_dropper[world.router]
        zero = jnp.zeros((), jnp.uint32)
        # Each outsider listens to one packet, on its way up to some hop.
        chosen = keys.node_bits(keys.stream(key, "overheard"), jnp.arange(slots), 2)
        which, until = (chosen[:, 0] % jnp.uint32(C)).astype(jnp.int32), (chosen[:, 1] % 4).astype(jnp.int32)
        names = ("lost_links", "lost_stale", "lost_window", "dropped", "watched", "accused", "bytes_data")

        def hop(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            turn, at, moves, arrived, state, count, heard, is_heard = carry
            draws = keys.node_uniform(keys.fold_in(key, turn), clients, 4)
            routed = moves & (routes.links[at] >= 0)
            link = jnp.where(routed, routes.links[at], 0)
            epoch = epochs.epoch_of(time + world.offset[at], rates.period) if rekeying else jnp.zeros_like(at)
            secret, has_key = epochs.key_at(state.keys, at, epoch)
            goes = routed & has_key if rekeying else routed
            place = ranks(link, jnp.zeros_like(time), goes)
            sequence = state.sequence[link] + place.astype(jnp.uint32)
            packets = Packets(link, sequence, payload, tag(secret, link, sequence, payload), epoch)
            tries, is_lost = joining.transmission(draws[:, 0], rates.loss, retries)
            comes, to = goes & ~is_lost, receivers[link]
            arrival = ranks(link, place.astype(jnp.float32) + draws[:, 1] * rates.reorder, comes)
            windows, verdict = received(
                security, state.keys, state.windows, packets, to, time + world.offset[to], arrival, comes
            )
            accepted = comes & (verdict == ACCEPTED)
            is_home = accepted & is_gateway[to]
            is_dropped = accepted & ~is_home & world.is_dropper[to] & (draws[:, 2] < rates.drop)
            forwards = accepted & ~is_dropped
            seen = forwards & ~(draws[:, 3] < rates.loss)
            sequences = state.sequence.at[link].add(goes.astype(jnp.uint32))
            trust = watchdogs.watched(state.trust, link, arrival, comes, seen) if watchdog else state.trust
            new = {
                "lost_links": jnp.sum(goes & is_lost),
                "lost_stale": jnp.sum(routed & ~goes) + jnp.sum(comes & (verdict == receiving.STALE_KEY)),
                "lost_window": jnp.sum(comes & ((verdict == REPLAYED) | (verdict == TOO_OLD))),
                "dropped": jnp.sum(is_dropped),
                "watched": jnp.sum(forwards),
                "accused": jnp.sum(forwards & ~seen),
                "bytes_data": jnp.sum(jnp.where(goes, tries, 0)),
            }
            count = {name: count[name] + new[name].astype(jnp.uint32) for name in names}
            takes = accepted[which] & (turn <= until)
            heard = jax.tree.map(lambda new, old: jnp.where(takes, new[which], old), packets, heard)
            state = state._replace(windows=windows, sequence=sequences, trust=trust)
            moves, at = forwards & ~is_home, jnp.where(forwards, to, at)
            return turn + 1, at, moves, arrived | is_home, state, count, heard, is_heard | takes

        nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), state.heard)
        carry = (
            jnp.zeros((), jnp.int32),
            world.router,
            starts & ~is_gateway[world.router],
            starts & is_gateway[world.router],
            state,
            dict.fromkeys(names, zero),
            nothing,
            jnp.zeros(slots, bool),
        )
        _, _, _, arrived, state, count, heard, is_heard = jax.lax.while_loop(lambda c: jnp.any(c[2]), hop, carry)
        place = state.round % (delay + 1)
        state = state._replace(
            heard=jax.tree.map(lambda all_, new: all_.at[place].set(new), state.heard, heard),
            is_heard=state.is_heard.at[place].set(is_heard),
        )
        return state, {
            **count,
            "sent": jnp.sum(is_honest),
            "delivered": jnp.sum(is_honest & arrived),
            "sent_all": jnp.sum(starts),
            "delivered_all": jnp.sum(arrived),
        }

    def _attack(key: Array, state: MeshState, now: Array) -> tuple[MeshState, dict[str, Array]]:
        """Forgeries, and replays of what was overheard longest ago."""
        slot = jnp.arange(slots)
        place = (state.round + 1) % (delay + 1)  # the round `delay` before this one
        old = jax.tree.map(lambda part: part[place], state.heard)
        draws = keys.node_bits(key, slot, 6)
        link = (draws[:, 0] % num_links.astype(jnp.uint32)).astype(jnp.int32)
        epoch = epochs.epoch_of(now + state.world.offset[senders[link]], rates.period)
        ahead = state.sequence[link] + draws[:, 1] % jnp.uint32(8)
        made = Packets(link, ahead, draws[:, 2], draws[:, 3], epoch if rekeying else jnp.zeros_like(link))
        chance = (draws[:, 4:] >> 8).astype(jnp.float32) * jnp.float32(2**-24)
        forges = chance[:, 0] * slots < rates.forgeries
        replays = (chance[:, 1] * slots < rates.replays) & state.is_heard[place]
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), made, old)
        is_there = jnp.concatenate([forges, replays])
        to = receivers[both.link]
        order = jnp.zeros(both.link.shape, jnp.float32)
        windows, verdict = received(
            security,
            state.keys,
            state.windows,
            both,
            to,
            now + state.world.offset[to],
            ranks(both.link, order, is_there),
            is_there,
        )
        accepted = is_there & (verdict == ACCEPTED)
        return state._replace(windows=windows), {
            "forged": jnp.sum(forges),
            "forged_accepted": jnp.sum(accepted[:slots]),
            "replayed": jnp.sum(replays),
            "replayed_accepted": jnp.sum(accepted[slots:]),
        }

    def measure(state: MeshState, info: Info) -> Info:
        each = {name: jax.tree.map(lambda part, i=i: part[i], state.counts) for i, name in enumerate(COUNTS)}
        world = state.world
        sent = info["sent"].astype(jnp.float32)
        rate = info["delivered"].astype(jnp.float32) / jnp.maximum(sent, 1)
        return {
            **each,
            "delivery": jnp.where(sent > 0, rate, jnp.nan),
            "bound": world.bound,
            "unreachable": jnp.sum(world.hops[world.router] >= joining.NO_PATH),
            "num_joined": jnp.sum(state.has_joined),
            "num_droppers": jnp.sum(world.is_dropper),
            "mean_trust": jnp.sum(jnp.where(is_edge, state.trust, 0.0)) / num_links.astype(jnp.float32),
        }

    def over(other: Network) -> Process:
        return wireless_mesh(other, **options)

    return Process(
        init,
        step,
        measure,
        sources=("Sen 2012",),
        num_nodes=num,
        network=network,
        on=Relink(over, (init, step, measure)),
    )
