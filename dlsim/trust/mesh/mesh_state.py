"""What a wireless mesh holds between rounds, and what it counts."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import keys
from dlsim.core import Array
from dlsim.networks import Network
from dlsim.running import counters
from dlsim.trust.mesh.epochs import EpochKeys
from dlsim.trust.mesh.receiving import Packets
from dlsim.trust.mesh.replay_windows import ReplayWindow

COUNTS = (
    "sent",  # packets of clients whose own router is honest and has a path to the gateway
    "delivered",
    "sent_all",  # of all clients with a path
    "delivered_all",
    "lost_links",
    "lost_stale",  # refused for their key
    "lost_window",  # refused by a window, though honest
    "dropped",
    "forged",
    "forged_accepted",
    "replayed",
    "replayed_accepted",
    "watched",  # hand-overs to routers that did forward
    "accused",  # of these, those that the watchdog missed
    "bytes_data",
    "bytes_joining",
    "bytes_keys",
)


class World(NamedTuple):
    """What does not change in a run."""

    router: Array  # int32 [C], each client's own
    is_dropper: Array  # bool [N]
    offset: Array  # float32 [N], of the clocks
    hops: Array  # int32 [N] to a gateway; a large number where there is no path
    bound: Array  # float32 []: part of honest traffic that has a path without droppers


class MeshState(NamedTuple):
    """A mesh after some rounds; links `[E]`, routers `[N]`, clients `[C]`."""

    world: World
    trust: Array  # float32 [E]
    windows: ReplayWindow  # [E]
    sequence: Array  # uint32 [E], next number
    keys: EpochKeys  # [N]
    has_joined: Array  # bool [N]
    is_client: Array  # bool [C], joined
    heard: Packets  # [delay + 1, R]: what outsiders overheard in the last rounds
    is_heard: Array  # bool [delay + 1, R]
    round: Array  # int32 []
    counts: counters.Counter  # [len(COUNTS)]


def nearest_routers(key: Array, network: Network, clients: Array) -> Array:
    """Each client's router, int32 `[C]`: the nearest to a place drawn in the routers' bounding box, or a drawn one."""
    draws = keys.node_uniform(key, clients, 2)
    if network.positions is None:
        return (draws[:, 0] * network.num_nodes).astype(jnp.int32)
    places = network.positions
    low, high = jnp.min(places, axis=0), jnp.max(places, axis=0)

    def nearest(draw: Array) -> Array:
        return jnp.argmin(jnp.sum(jnp.square(low + draw * (high - low) - places), axis=1))

    return jax.lax.map(nearest, draws, batch_size=1024).astype(jnp.int32)
