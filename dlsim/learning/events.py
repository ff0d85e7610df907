"""`learn` for methods whose nodes act when their clocks say so: a step is a window of simulated time."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys, trees
from dlsim.clocks.play import Pooled, play_between
from dlsim.clocks.windows import Needs, Timing, timing, windows
from dlsim.core import Array, Drawn, EventAlgorithm, Info, InitFn, Problem, Process, PyTree, Scenario
from dlsim.learning.event_handlers import Carry, booked, compressible, event_fns
from dlsim.learning.late_handlers import Slot, empty_slots, late_event_fns
from dlsim.learning.measures import STALENESS_BINS, STALENESS_DIMS, measured, measured_staleness
from dlsim.networks.network import PERFECT, Network, NetworkState, host_graph
from dlsim.networks.pace.links import Ledger
from dlsim.networks.pace.seconds import by_node, settled
from dlsim.running import counters, status
from dlsim.running.stretches import Stretch


class EventState(NamedTuple):
    nodes: PyTree  # the method's rows, every leaf [N, ...]
    losses: Array  # float32 [N] of each node's last batch
    network: NetworkState
    scenario: PyTree
    gradient_evaluations: counters.Counter  # []
    staleness: Array  # uint32 [STALENESS_BINS] how often each staleness was met so far
    window: Array  # int32 [] the next one
    idle: Array | tuple[()]  # float32 [N] seconds since each node's last event, for methods that flow
    buffer: Stretch  # of a tape
    draws: Array  # uint32, the key of the events' draws
    under_way: Slot | tuple[()] = ()  # messages, where they take time
    heard: Array | tuple[()] = ()  # uint32 [STALENESS_BINS] how stale those were that were heard so far
    newest: Array | tuple[()] = ()  # uint32 [N, K] of each link's messages the newest heard, where order counts


def learn_events(
    problem: Problem,
    algorithm: EventAlgorithm,
    network: Network,
    scenario: Scenario | None,
    when: Timing | None,
    start: InitFn,
) -> Process:
    """The Process of an asynchronous method; see `dlsim.learn`.

    A step plays the events of one window of simulated time, wave after wave: what one event at a time gives, bit for
    bit.  Every message passes through the network's channel, as a transmission of its own.  The scenario acts once a
    window: an event with an absent node, or over a link that is down, does not happen; what evolves between events does
    so in nodes that are away as well.  Links' rates do not change when something is done, which the clocks say.  Integers in
    a message (ages, counters) are headers: they count and get lost with it, but channels touch floating numbers alone.

    Where messages take time (`dlsim.networks.fixed_seconds` and others), each arrives at an event of its own: a meeting is
    two messages.  Of a network with a ledger the books of every node's seconds are kept
    (`dlsim.networks.pace.seconds.booked_at`).
    """
    when = timing() if when is None else checks.instance("learn", "timing", when, Timing, "Use dlsim.clocks.timing().")
    when = when if algorithm.clocks is None else algorithm.clocks(network, when)
    books = isinstance(network.state.ledger, Ledger)
    counts_here = network.channel is not PERFECT or scenario is not None or books or algorithm.may_be_silent
    has_messages = algorithm.on_message is not None
    is_late = network.delays is not None and has_messages
    if is_late and algorithm.may_be_silent:
        fix = "Its accounts say when a message goes out: an answer waits for a slot instead."
        checks.fail("learn", "network", "one without delays for a method with token accounts", "delays", fix)

    def first_nodes(key: Array) -> PyTree:
        return algorithm.init(keys.stream(key, "algorithm"), start(key), network)

    needs = Needs(
        communication=algorithm.communication,
        has_gradients=algorithm.on_gradient is not None,
        has_messages=has_messages,
        messages=has_messages and not counts_here,
        idle=algorithm.flow is not None,
        changes_sender=algorithm.before_message is not None,
        hears_all=algorithm.hear == "all",
        bits=_message_bits(algorithm, first_nodes) if is_late else 0.0,
        books=books,
    )
    tape = windows(network, when, needs)
    if scenario is not None and not network.is_implicit and network.neighbor_edges is None:
        fix = 'Use network.with_lowering("neighbors").'
        checks.fail("learn", "network", "one with a table of neighbours, for a scenario", "none", fix)

    def init(key: Array) -> EventState:
        nodes = first_nodes(key)
        scenario_state = () if scenario is None else scenario.init(keys.stream(key, "scenario"), network)
        opened = network.state
        if network.channel is not PERFECT and has_messages:
            said = jax.eval_shape(algorithm.message, nodes)
            like = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in compressible(said)[0]]
            opened = opened._replace(channels={"events": network.channel.init(like, network.num_nodes)})
        num = network.num_nodes
        return EventState(
            nodes=jax.tree.map(jnp.asarray, nodes),
            losses=jnp.full(num, jnp.nan, jnp.float32),
            network=opened,
            scenario=scenario_state,
            gradient_evaluations=counters.counter(),
            staleness=jnp.zeros(STALENESS_BINS, jnp.uint32),
            window=jnp.zeros((), jnp.int32),
            idle=jnp.zeros(num, jnp.float32) if needs.idle else (),
            buffer=jax.tree.map(jnp.asarray, tape.empty),
            draws=jax.random.key_data(keys.stream(key, "events")),
            under_way=empty_slots(algorithm, network, nodes, tape.slots, scenario is not None, books)
            if is_late
            else (),
            heard=jnp.zeros(STALENESS_BINS, jnp.uint32) if is_late else (),
            newest=_none_heard(network) if is_late and "place" in tape.empty.blocks.columns else (),
        )

    def step(key: Array, state: EventState) -> tuple[EventState, Info]:
        current, scenario_state = network.with_state(state.network), state.scenario
        if scenario is not None:
            scenario_state, current = scenario.step(keys.stream(key, "scenario"), scenario_state, current)
        traffic, ledger = current.state.traffic, cast(Any, current.state.ledger)
        carry = Carry(
            nodes=state.nodes,
            losses=state.losses,
            num_gradients=jnp.zeros(network.num_nodes, jnp.uint32),
            channel=current.state.channels.get("events", ()),
            counts=(traffic.messages, traffic.bits) if counts_here else (),
            heard=counters.counter((network.num_nodes,)) if books else (),
            books=ledger._replace(elapsed=()) if books else (),
            newest=state.newest,
        )
        place, begin, end = state.buffer.find(state.window)
        # Not the step's key: what an event draws does not depend on how time is cut into windows.
        draws = jax.random.wrap_key_data(state.draws, impl=jax.random.key_impl(key))
        fns = (late_event_fns if is_late else event_fns)(algorithm, current, draws, tape.kinds)
        if books:
            fns = {kind: booked(function, current) for kind, function in fns.items()}
        under_way, heard = state.under_way, state.heard
        if is_late:
            (carry, under_way), (staleness, heard) = play_between(
                Pooled(carry, under_way), state.buffer.blocks, fns, begin, end, (state.staleness, heard)
            )
        else:
            carry, staleness = play_between(carry, state.buffer.blocks, fns, begin, end, state.staleness)
        if counts_here:
            traffic = traffic._replace(messages=carry.counts[0], bits=carry.counts[1])
        elif has_messages:
            sent = state.buffer.rows["messages"][place]
            said = jax.eval_shape(algorithm.message, state.nodes)
            bits = counters.product(sent, jnp.uint32(trees.num_bits(said)))
            traffic = traffic._replace(
                messages=counters.add(traffic.messages, counters.from_words(sent)),
                bits=counters.add(traffic.bits, bits),
            )
        traffic = traffic._replace(clock=counters.advance(traffic.clock, jnp.float32(tape.seconds)))
        after = current.state._replace(
            traffic=traffic,
            channels={"events": carry.channel} if current.state.channels else current.state.channels,
        )
        if books:
            gap = jnp.minimum(state.buffer.rows["idle"][place], jnp.float32(tape.seconds))
            gap = gap if current.is_present is None else jnp.where(current.is_present, gap, 0)
            after = after._replace(ledger=settled(carry.books, gap)._replace(elapsed=ledger.elapsed))
        spent = counters.total(counters.from_words(carry.num_gradients))
        info: Info = {}
        if algorithm.trains:
            bad = ~jnp.isfinite(carry.losses) & (carry.num_gradients > 0)
            info = {
                "loss": carry.losses,
                "num_gradients": carry.num_gradients,
                "status": status.flag(bad, status.NOT_FINITE),
            }
        if is_late:
            lost = status.flag(state.buffer.rows["dropped"][place] > 0, status.BUFFER_OVERFLOW)
            info["status"] = (info["status"] if "status" in info else jnp.zeros((), jnp.uint32)) | lost
        if current.is_present is not None:
            info["num_present"] = jnp.sum(current.is_present)
        return EventState(
            nodes=carry.nodes,
            losses=carry.losses,
            network=after,
            scenario=scenario_state,
            gradient_evaluations=counters.add(state.gradient_evaluations, spent),
            staleness=staleness,
            window=state.window + 1,
            idle=state.buffer.rows["idle"][place] if needs.idle else (),
            buffer=state.buffer,
            draws=state.draws,
            under_way=under_way,
            heard=heard,
            newest=carry.newest,
        ), info

    def params(state: EventState) -> PyTree:
        return algorithm.params(state.nodes if algorithm.flow is None else algorithm.flow(state.nodes, state.idle))

    def measure(state: EventState, info: Info) -> Info:
        out = measured(problem, params(state), network.node_ids, state.network, state.gradient_evaluations, info)
        out |= measured_staleness(state.staleness) | by_node(state.network, network.links)
        if is_late:
            late = measured_staleness(cast(Array, state.heard))
            out |= {"message_staleness": late["staleness"], "mean_message_staleness": late["mean_staleness"]}
        return out

    sources = (problem.source, algorithm.source, network.channel.source, "" if scenario is None else scenario.source)
    return Process(
        init=init,
        step=step,
        measure=measure,
        sources=tuple(s for s in sources if s),
        num_nodes=problem.num_nodes,
        feed=tape.feed,
        drawn=Drawn(network),
        params=params,
        dims=STALENESS_DIMS if not is_late else {**STALENESS_DIMS, "message_staleness": STALENESS_DIMS["staleness"]},
    )


def _message_bits(algorithm: EventAlgorithm, first_nodes: InitFn) -> float:
    """Bits of a message as it is, its header included."""
    said = jax.eval_shape(lambda key: algorithm.message(first_nodes(key)), jax.random.key(0))
    return float(trees.num_bits(said))


def _none_heard(network: Network) -> Array:
    """Of every link no message yet, uint32 `[N, K]`."""
    most = int(np.bincount(np.asarray(host_graph(network).receivers), minlength=network.num_nodes).max())
    return jnp.zeros((network.num_nodes, most), jnp.uint32)
