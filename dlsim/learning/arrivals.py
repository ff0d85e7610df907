"""`learn` for servers that do not wait: a step is a window of simulated time, and what came back in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys, trees
from dlsim.arrivals.executor import JobBlocks, job_windows
from dlsim.arrivals.pace import job_parts
from dlsim.clocks.windows import Timing, timing
from dlsim.core import SERVER, Array, ArrivalAlgorithm, Drawn, Info, InitFn, Job, Problem, Process, PyTree, Route
from dlsim.learning.measures import STALENESS_BINS, STALENESS_DIMS, measured, measured_staleness
from dlsim.networks.messages import message_bits, whole_packet
from dlsim.networks.network import PERFECT, Network, NetworkState
from dlsim.networks.pace.links import Ledger
from dlsim.networks.pace.seconds import by_node
from dlsim.running import counters, status
from dlsim.running.stretches import Stretch


class ArrivalState(NamedTuple):
    params: PyTree  # [...] the server's model
    server: PyTree  # what else it keeps
    versions: PyTree  # [V, ...] models that jobs start from
    network: NetworkState
    losses: Array  # float32 [M] of each client's last job
    gradient_evaluations: counters.Counter  # []
    num_versions: Array  # uint32 [] made so far
    num_jobs: Array  # uint32 [] used so far
    staleness: Array  # uint32 [STALENESS_BINS] how often each staleness was met so far
    window: Array  # int32 [] the next one
    buffer: Stretch  # of jobs
    draws: Array  # uint32, the key of the jobs' draws


def learn_arrivals(
    problem: Problem, algorithm: ArrivalAlgorithm, network: Network, when: Timing | None, start: InitFn
) -> Process:
    """The Process of a server and clients that come and go in time; see `dlsim.learn`.

    A step uses what a window of simulated time brings: jobs side by side where their versions exist, their messages taken
    in one by one in the order of the schedule.  Uploads pass through the network's channel, one transmission a job;
    downloads are whole (a channel with a memory for the way down would make every job wait for the one before).

    Of a network with a ledger every client's seconds are kept: of each job when it is used, its length as the schedule has
    it, shared among computing and the ways there and back as the links' times are, of whole messages; and what it waited.
    """
    when = timing() if when is None else checks.instance("learn", "timing", when, Timing, "Use dlsim.clocks.timing().")
    for name in ("gradient", "communication"):
        if getattr(when, name) is not None:
            fix = "Pass timing(window=...), and the clients' pace to the algorithm."
            checks.fail("learn", f"timing.{name}", "None for a method with a schedule", "a clock", fix)
    schedule = algorithm.schedule(network)
    if schedule.num_clients != network.num_nodes:
        fix = "Give the pace one value, or one a node."
        checks.fail("learn", "schedule", f"of {network.num_nodes} clients", f"one of {schedule.num_clients}", fix)
    num = network.num_nodes
    books = isinstance(network.state.ledger, Ledger)
    parts = None
    if books:
        model = jax.eval_shape(lambda key: trees.replicate(start(key), 1), jax.random.key(0))
        bits_of_model = float(trees.num_bits(model))
        links: Any = network.links
        parts = job_parts(links, problem.batch_size, bits_of_model, bits_of_model)
    jobs = job_windows(schedule, when.window, one_by_one=when.serial, parts=parts)

    def work(network: Network, draws: Array, versions: PyTree, channel: PyTree, block: JobBlocks) -> tuple[Any, ...]:
        """What the clients of a block send, whether it arrives, what they say, and what it costs, `[C]` each."""
        client = jnp.minimum(block.client, num - 1)
        ids = network.node_ids[client]

        own = keys.fold_in(draws, ids, block.number)
        messages, info = algorithm.work(own, trees.take(versions, block.source), ids, block.num_steps, block.version)
        if network.channel is PERFECT:
            return messages, block.is_job, info, message_bits(whole_packet(messages)), channel

        def send(key: Array, message: PyTree, state: PyTree, node_id: Array) -> tuple[Any, ...]:
            one = jax.tree.map(lambda leaf: leaf[None], (message, state))
            route = Route(node_id[None], node_id[None], jnp.full((1,), SERVER, node_id.dtype))
            state, packet = network.channel.send(keys.stream(key, "uplink"), one[1], whole_packet(one[0]), route)
            delivered = jnp.ones(1, bool) if packet.delivered is None else packet.delivered
            return jax.tree.map(lambda leaf: leaf[0], (packet.values, delivered, state, message_bits(packet)))

        # A client may stand twice in a block, its later message after the earlier one: a memory is kept in order.
        def in_order(channel: PyTree, job: tuple[Any, ...]) -> tuple[PyTree, tuple[Any, ...]]:
            key, message, row, node_id, is_job = job
            old = jax.tree.map(lambda leaf: leaf[row], channel)
            values, delivered, state, bits = send(key, message, old, node_id)
            kept = jax.tree.map(lambda new, was: jnp.where(is_job, new, was), state, old)
            channel = jax.tree.map(lambda leaf, one: leaf.at[row].set(one), channel, kept)
            return channel, (values, delivered & is_job, bits)

        channel, (values, arrived, bits) = jax.lax.scan(in_order, channel, (own, messages, client, ids, block.is_job))
        return trees.select(arrived, values, trees.zeros_like(values)), arrived, info, bits, channel

    def absorb(carry: tuple[Any, ...], slot: tuple[Any, ...]) -> tuple[tuple[Any, ...], None]:
        params, server, versions, losses = carry
        message, arrived, loss, block = slot
        job = Job(
            client=jnp.minimum(block.client, num - 1),
            coefficient=block.coefficient,
            staleness=block.staleness,
            arrived=arrived,
            is_direct=block.is_direct,
            is_last=block.is_last,
        )
        new = algorithm.absorb(server, params, message, job)
        server, params = jax.tree.map(lambda a, b: jnp.where(block.is_job, a, b), new, (server, params))
        versions = jax.tree.map(
            lambda leaf, value: leaf.at[block.target].set(value.astype(leaf.dtype), mode="drop"), versions, params
        )
        return (params, server, versions, losses.at[block.client].set(loss, mode="drop")), None

    def init(key: Array) -> ArrivalState:
        params = start(key)
        opened = network.state
        if network.channel is not PERFECT:
            like = _message_like(algorithm, params, network)
            opened = opened._replace(channels={"jobs": network.channel.init(like, num)})
        return ArrivalState(
            params=params,
            server=jax.tree.map(jnp.asarray, algorithm.init(keys.stream(key, "algorithm"), params, num)),
            versions=jax.tree.map(jnp.array, trees.replicate(params, jobs.num_versions)),
            network=opened,
            losses=jnp.full(num, jnp.nan, jnp.float32),
            gradient_evaluations=counters.counter(),
            num_versions=jnp.zeros((), jnp.uint32),
            num_jobs=jnp.zeros((), jnp.uint32),
            staleness=jnp.zeros(STALENESS_BINS, jnp.uint32),
            window=jnp.zeros((), jnp.int32),
            buffer=jax.tree.map(jnp.asarray, jobs.empty),
            draws=jax.random.key_data(keys.stream(key, "jobs")),
        )

    def step(key: Array, state: ArrivalState) -> tuple[ArrivalState, Info]:
        current = network.with_state(state.network)
        draws = jax.random.wrap_key_data(state.draws, impl=jax.random.key_impl(key))
        traffic = state.network.traffic
        _, begin, end = state.buffer.find(state.window)

        def one(i: Array, both: tuple[ArrivalState, Array, Any, Any]) -> tuple[ArrivalState, Array, Any, Any]:
            now, count, spent, seconds = both
            block = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False), now.buffer.blocks)
            channel = now.network.channels.get("jobs", ())
            messages, arrived, info, bits, channel = work(current, draws, now.versions, channel, block)
            slots = (messages, arrived, info["loss"].astype(jnp.float32), block)
            carry = (now.params, now.server, now.versions, now.losses)
            (params, server, versions, losses), _ = jax.lax.scan(absorb, carry, slots)
            ones = block.is_job.astype(jnp.uint32)
            done = jnp.where(block.is_job, info["num_gradients"], 0)
            stale = jnp.minimum(block.staleness, STALENESS_BINS - 1)
            now = now._replace(
                params=params,
                server=server,
                versions=versions,
                losses=losses,
                network=now.network._replace(channels={"jobs": channel} if now.network.channels else {}),
                num_versions=now.num_versions + jnp.sum(block.is_last & block.is_job, dtype=jnp.uint32),
                num_jobs=now.num_jobs + jnp.sum(ones, dtype=jnp.uint32),
                staleness=now.staleness.at[stale].add(ones),
            )
            seconds = {name: s.at[block.client].add(block.seconds[name], mode="drop") for name, s in seconds.items()}
            return now, count.at[block.client].add(done, mode="drop"), _count(spent, block.client, ones, bits), seconds

        count = jnp.zeros(num, jnp.uint32)
        seconds = {name: jnp.zeros(num, jnp.float32) for name in state.buffer.blocks.seconds}
        first = (state, count, (traffic.messages, traffic.bits), seconds)
        state, count, spent, seconds = jax.lax.fori_loop(begin, end, one, first)
        down = counters.product(state.num_jobs, jnp.uint32(trees.num_bits(trees.replicate(state.params, 1))))
        traffic = traffic._replace(
            messages=spent[0],
            bits=spent[1],
            server_messages=counters.from_words(state.num_jobs),
            server_bits=down,
            clock=counters.advance(traffic.clock, jnp.float32(jobs.seconds)),
        )
        evaluations = counters.add(state.gradient_evaluations, counters.total(counters.from_words(count)))
        bad = ~jnp.isfinite(state.losses) & (count > 0)
        info = {"loss": state.losses, "num_gradients": count, "status": status.flag(bad, status.NOT_FINITE)}
        after = state.network._replace(traffic=traffic)
        if books:
            ledger: Any = after.ledger
            clocks = {name: counters.advance(getattr(ledger, name), each) for name, each in seconds.items()}
            after = after._replace(ledger=ledger._replace(**clocks))
        return state._replace(
            network=after,
            gradient_evaluations=evaluations,
            window=state.window + 1,
        ), info

    def params(state: ArrivalState) -> PyTree:
        return trees.replicate(state.params, 1)

    def measure(state: ArrivalState, info: Info) -> Info:
        out = measured(problem, params(state), network.node_ids, state.network, state.gradient_evaluations, info)
        made = {"num_aggregations": state.num_versions, "num_jobs": state.num_jobs}
        return {**out, **made, **measured_staleness(state.staleness), **by_node(state.network, network.links)}

    sources = (problem.source, algorithm.source, schedule.source, network.channel.source)
    return Process(
        init=init,
        step=step,
        measure=measure,
        sources=tuple(dict.fromkeys(s for s in sources if s)),
        num_nodes=num,
        feed=jobs.feed,
        drawn=Drawn(network, has_server=True),
        params=params,
        dims=STALENESS_DIMS,
    )


def _count(spent: Any, client: Array, ones: Array, bits: counters.Counter) -> Any:
    """Messages and bits by client; one that stands twice in a block is counted twice."""
    messages, total = spent

    def add(i: Array, both: Any) -> Any:
        messages, total = both
        row, one = client[i], ones[i]

        def plus(counter: counters.Counter, low: Array, high: Array) -> counters.Counter:
            old = counters.Counter(*(word.at[row].get(mode="clip") for word in counter))
            new = counters.add(old, counters.Counter(low=low, high=high))
            return counters.Counter(*(w.at[row].set(v, mode="drop") for w, v in zip(counter, new, strict=True)))

        zero = jnp.zeros((), jnp.uint32)
        return plus(messages, one, zero), plus(total, bits.low[i] * one, bits.high[i] * one)

    return jax.lax.fori_loop(0, client.shape[0], add, (messages, total))


def _message_like(algorithm: ArrivalAlgorithm, params: PyTree, network: Network) -> PyTree:
    """Zeros of the shape of all clients' messages."""
    draws = jax.random.split(jax.random.key(0), 1)
    one = jnp.ones(1, jnp.int32)
    said, _ = jax.eval_shape(algorithm.work, draws, trees.replicate(params, 1), network.node_ids[:1], one, one)
    return jax.tree.map(lambda leaf: jnp.zeros((network.num_nodes, *leaf.shape[1:]), leaf.dtype), said)
