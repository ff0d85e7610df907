"""The contract table of asynchronous methods, and the worlds that they are played in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contract import world

from dlsim import algorithms, clocks, keys, networks, problems
from dlsim.core import Channel, EventAlgorithm, Feed, Problem, Process, PyTree, Scenario
from dlsim.learning.learn import learn
from dlsim.networks.network import Network

Make = Callable[[Problem, Any], EventAlgorithm]  # (problem, rate) -> algorithm; the rate may be a tracer


class EventCase(NamedTuple):
    """A way to build one asynchronous method, and what the tests need to know of it."""

    name: str  # the public name in `dlsim.algorithms`
    make: Make
    variant: str = ""
    num_windows: int = 40  # until the mean model is clearly better than the start

    @property
    def id(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name


def spread_out() -> jax.Array:
    """Values to average, [N, D]."""
    return jnp.arange(world.NUM_NODES * world.DIMENSION, dtype=jnp.float32).reshape(world.NUM_NODES, -1) ** 1.5


def problem_of(algorithm: EventAlgorithm) -> Problem:
    """What it learns, or averages."""
    return world.problem() if algorithm.trains else problems.consensus(spread_out())


def constants() -> algorithms.A2CiD2Constants:
    """Of the ring, which serve elsewhere too."""
    return algorithms.a2cid2_constants(networks.ring(world.NUM_NODES))


def account() -> algorithms.TokenAccount:
    return algorithms.token_account("randomized", capacity=4, reactivity=2, slots=3)


EVENT_CASES = (
    EventCase(
        "randomized_gossip",
        lambda p, rate: algorithms.randomized_gossip(step_size=3 * rate),
    ),
    EventCase("ad_psgd", lambda p, rate: algorithms.ad_psgd(p, optax.sgd(rate, momentum=0.5))),
    EventCase("ad_psgd", lambda p, rate: algorithms.ad_psgd(p, optax.sgd(rate), read="now"), variant="now"),
    EventCase("a2cid2", lambda p, rate: algorithms.a2cid2(p, optax.sgd(rate), constants())),
    EventCase("dadao", lambda p, rate: algorithms.dadao(p, 0.25, 0.1 / rate)),
    EventCase("continuized", lambda p, rate: algorithms.continuized(p, 0.25, 0.1 / rate)),
    EventCase("swarm_sgd", lambda p, rate: algorithms.swarm_sgd(p, optax.sgd(rate, momentum=0.5))),
    EventCase(
        "swarm_sgd",
        lambda p, rate: algorithms.swarm_sgd(p, optax.sgd(rate), num_local_steps=3, blocking=False),
        variant="non_blocking",
    ),
    EventCase(
        "swarm_sgd",
        lambda p, rate: algorithms.swarm_sgd(p, optax.sgd(rate), num_local_steps=3, steps="geometric"),
        variant="geometric",
    ),
    EventCase("gossip_learning", lambda p, rate: algorithms.gossip_learning(p, optax.sgd(rate))),
    EventCase(
        "gossip_learning",
        lambda p, rate: algorithms.gossip_learning(p, optax.sgd(rate), merge="average", order="update_merge"),
        variant="update_merge",
    ),
    EventCase(
        "gossip_learning",
        lambda p, rate: algorithms.gossip_learning(p, optax.sgd(rate, momentum=0.5), merge="none", num_local_steps=2),
        variant="random_walk",
    ),
    EventCase(
        "gossip_learning",
        lambda p, rate: algorithms.gossip_learning(p, optax.sgd(rate), exchange="pull", pass_through=True),
        variant="pull_pass_through",
    ),
    EventCase(
        "gossip_learning",
        lambda p, rate: algorithms.gossip_learning(p, optax.sgd(rate), exchange="push_pull", merge="average"),
        variant="push_pull",
    ),
    EventCase(
        "gossip_learning",
        lambda p, rate: algorithms.gossip_learning(p, optax.sgd(rate), tokens=account()),
        variant="tokens",
        num_windows=80,
    ),
    EventCase(
        "gossip_learning",
        lambda p, rate: algorithms.gossip_learning(p, optax.sgd(rate), parts=algorithms.model_partition(2)),
        variant="parts",
    ),
    EventCase(
        "gossip_learning",
        lambda p, rate: algorithms.gossip_learning(
            p, optax.sgd(rate), exchange="push_pull", merge="average", parts=algorithms.model_sample(0.4)
        ),
        variant="sample",
    ),
)


class World(NamedTuple):
    """Where a method is played: a topology, what happens to messages, and to nodes and links."""

    name: str
    network: Callable[[], Network]
    channel: Callable[[], Channel] | None = None
    scenario: Callable[[], Scenario] | None = None

    def process(self, algorithm: EventAlgorithm, problem: Problem | None = None, **timing: Any) -> Process:
        network = self.network() if self.channel is None else self.network().with_channel(self.channel())
        scenario = None if self.scenario is None else self.scenario()
        problem = problem_of(algorithm) if problem is None else problem
        return learn(problem, algorithm, network, scenario, timing=clocks.timing(**{"window": 1.0, **timing}))


def ring() -> Network:
    return networks.ring(world.NUM_NODES)


def star() -> Network:
    return networks.star(world.NUM_NODES)


def regular() -> Network:
    return networks.random_regular(world.NUM_NODES, degree=3, seed=0)


def complete() -> Network:
    return networks.complete(world.NUM_NODES)


def sparse_and_lossy() -> Channel:
    return networks.chain(networks.top_k(0.5, error_feedback=True), networks.loss(0.3))


def churn_and_failures() -> Scenario:
    return networks.chain(networks.churn(0.2, 0.8), networks.link_failure(0.3, is_symmetric=False))


WORLDS = (
    World("ring", ring),
    World("star", star, lambda: networks.loss(0.4)),
    World("regular", regular, sparse_and_lossy, churn_and_failures),
    World("complete", complete, lambda: networks.quantize(6), lambda: networks.churn(0.3, 0.5)),
)


def played(process: Process, num_windows: int, feeds: tuple[Feed | None, ...] = (None,)) -> list[PyTree]:
    """The state after some windows, by single steps with the keys and the feed that `simulate` uses.

    One for each of the feeds, in one program: those of processes whose tapes take no more room; None: its own.
    """
    key, states = jax.random.key(0), []
    step, first = jax.jit(process.step), jax.jit(process.init)(keys.stream(key, "init"))
    for feed in feeds:
        state, until = first, 0
        for t in range(num_windows):
            if t >= until:
                part, until = (feed or process.feed).fill(key, t)
                state = process.feed.put(state, jax.tree.map(_with_room, part, state.buffer))
            state, _ = step(jax.random.fold_in(keys.stream(key, "steps"), t), state)
        states.append(state)
    return states


def _with_room(leaf: Any, like: jax.Array) -> jax.Array:
    room = [(0, full - used) for full, used in zip(like.shape, np.shape(leaf), strict=True)]
    return jnp.asarray(np.pad(leaf, room) if room else leaf)


def rows_of(state: PyTree) -> PyTree:
    """What the nodes of a run hold."""
    return state.nodes
