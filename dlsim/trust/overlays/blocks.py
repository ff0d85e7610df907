"""A chain of blocks by proof of work, which take time to spread: forks, stale blocks, and who catches up."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info, Process
from dlsim.networks.network import Network
from dlsim.running import counters, status

LONG_AGO = 1e9  # seconds: the age of the first block


class Chain(NamedTuple):
    """The last W blocks that were found, in a ring; a block is a slot of it."""

    ages: Array  # float32 [W] seconds since it was found; below 0: none yet
    heights: Array  # int32 [W] blocks before it on its chain
    miners: Array  # int32 [W]
    num_blocks: Array  # int32 [] found so far, the first one not counted
    height: Array  # int32 [] of the highest
    num_forks: Array  # int32 [] heights at which two or more were found
    clock: counters.Clock  # []


@checks.typed
def proof_of_work(
    hash_power: Any,
    *,
    block_seconds: float = 600.0,
    delay: Any = 0.0,
    block_bytes: float = 1e6,
    transaction_bytes: float = 250.0,
    confirmations: int = 6,
    window: int = 64,
    blocks_per_step: int = 100,
) -> Process:
    """Miners find blocks on the longest chain that they have seen, and tell the others, which takes time.

    Blocks are found as a Poisson process of rate 1 / tau, by miner i with probability p_i.  A block found by i is seen by j
    d_ij seconds later.  A miner works on the highest block that it has seen, of those as high on the one it saw first.

    With many small miners and one delay D, another block is found before the first of a height is seen with probability
    1 - exp(-D / tau), and a share D / (D + tau) of all blocks is stale: of their height only one stays.  The process measures
    `stale_rate` (1 - height / blocks), `fork_rate` (share of the heights at which two or more blocks were found),
    `num_blocks`, `height`, `transactions_per_second`, `bytes_per_node` (the whole chain), `confirmation_seconds` (z
    heights at the rate so far) and `simulated_seconds`; rates are 0 before the first block.

    Args:
      hash_power: `[N]`, 0 or more, in any unit; a number stands for as many equal miners.
      block_seconds: tau, above 0; traced, as are the sizes.
      delay: seconds, D or d `[N, N]` from row to column (`flood_seconds`), 0 or more; traced.
      block_bytes: size of a block.
      transaction_bytes: size of a transaction in it, above 0.
      confirmations: z, 1 or more; structural.
      window: W, blocks kept, 2 or more; structural.  A miner that has seen none of them sets the status bit of a full buffer.
      blocks_per_step: 1 or more; structural.

    Cost a block: O(W + log N); memory O(W), and O(N^2) for a matrix of delays.
    Source: Nakamoto, Bitcoin, 2008; Decker, Wattenhofer, Information propagation in the Bitcoin network, IEEE P2P 2013.
    """
    where = "proof_of_work"
    checks.number(where, "block_seconds", block_seconds, 0.0, open_minimum=True)
    checks.number(where, "block_bytes", block_bytes, 0.0)
    checks.number(where, "transaction_bytes", transaction_bytes, 0.0, open_minimum=True)
    checks.integer(where, "confirmations", confirmations, 1)
    window = checks.integer(where, "window", window, 2, 2**20)
    blocks_per_step = checks.integer(where, "blocks_per_step", blocks_per_step, 1)
    power = _power(where, hash_power)
    num = power.shape[0]
    seconds = checks.array(where, "delay", delay, None, 0.0)
    if seconds.shape not in ((), (num, num)):
        checks.fail(where, "delay", f"a number or of shape [{num}, {num}]", f"shape {list(seconds.shape)}")
    seconds = jnp.asarray(seconds, jnp.float32)
    up_to = jnp.cumsum(power)

    def init(key: Array) -> Chain:
        del key
        zero = jnp.zeros((), jnp.int32)
        return Chain(
            ages=jnp.full(window, -1.0, jnp.float32).at[0].set(LONG_AGO),
            heights=jnp.zeros(window, jnp.int32),
            miners=jnp.full(window, -1, jnp.int32),
            num_blocks=zero,
            height=zero,
            num_forks=zero,
            clock=counters.clock(),
        )

    def find(key: Array, state: Chain, turn: Array) -> tuple[Chain, Array]:
        gap_draw, who = keys.node_uniform(key, turn[None], 2)[0]
        gap = (-jnp.log1p(-gap_draw) * block_seconds).astype(jnp.float32)
        ages = jnp.where(state.ages < 0, state.ages, jnp.minimum(state.ages + gap, LONG_AGO))
        miner = jnp.minimum(jnp.searchsorted(up_to, who * up_to[-1], side="right"), num - 1).astype(jnp.int32)
        late = seconds if seconds.ndim == 0 else seconds[jnp.maximum(state.miners, 0), miner]
        seen_for = jnp.where((state.miners == miner) | (state.miners < 0), ages, ages - late)
        is_seen = (ages >= 0) & (seen_for >= 0)
        best = jnp.max(jnp.where(is_seen, state.heights, -1))
        height = jnp.maximum(best, 0) + 1
        beside = jnp.sum((ages >= 0) & (state.heights == height))
        slot = (state.num_blocks + 1) % window
        state = Chain(
            ages=ages.at[slot].set(0.0),
            heights=state.heights.at[slot].set(height),
            miners=state.miners.at[slot].set(miner),
            num_blocks=state.num_blocks + 1,
            height=jnp.maximum(state.height, height),
            num_forks=state.num_forks + (beside == 1),
            clock=counters.advance(state.clock, gap),
        )
        return state, best < 0

    def step(key: Array, state: Chain) -> tuple[Chain, Info]:
        state, is_lost = jax.lax.scan(lambda s, turn: find(key, s, turn), state, jnp.arange(blocks_per_step))
        return state, {"status": status.flag(jnp.any(is_lost), status.BUFFER_OVERFLOW)}

    def measure(state: Chain, info: Info) -> Info:
        del info
        passed = state.clock.seconds.astype(jnp.float32) + state.clock.nanoseconds * jnp.float32(1e-9)
        growth = state.height / jnp.maximum(passed, 1e-9)
        return {
            "stale_rate": (state.num_blocks - state.height) / jnp.maximum(state.num_blocks, 1),
            "fork_rate": state.num_forks / jnp.maximum(state.height, 1),
            "num_blocks": state.num_blocks,
            "height": state.height,
            "transactions_per_second": growth * jnp.asarray(block_bytes / transaction_bytes, jnp.float32),
            "bytes_per_node": state.height * jnp.asarray(block_bytes, jnp.float32),
            "confirmation_seconds": jnp.where(state.height > 0, confirmations / jnp.maximum(growth, 1e-30), 0.0),
            "simulated_seconds": state.clock,
        }

    return Process(init, step, measure, ("Nakamoto, 2008", "Decker, Wattenhofer, IEEE P2P 2013"))


def _power(where: str, given: Any) -> Array:
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        num = checks.integer(where, "hash_power", given, 1, 2**24)
        return jnp.full(num, 1 / num, jnp.float32)
    power = checks.array(where, "hash_power", given, (None,), 0.0)
    if power.shape[0] < 1 or (checks.is_concrete(power) and not np.sum(power) > 0):
        checks.fail(where, "hash_power", "above 0 for some miner", checks.describe(given))
    power = jnp.asarray(power, jnp.float32)
    return power / jnp.sum(power)


@checks.typed
def catch_up(share: float, depth: int, form: str = "walk") -> float:
    """The probability that an attacker with this share q of the hash power overtakes a chain that is `depth` z ahead.

        walk:      (q / p)^z,   1 where q >= p = 1 - q
        nakamoto:  1 - sum_(k <= z) e^-m m^k / k! (1 - (q / p)^(z - k)),   m = z q / p

    The second is for one that has worked in secret since the first of the z blocks, whose progress is taken as Poisson.
    Host arithmetic.  Source: Nakamoto, Bitcoin: a peer-to-peer electronic cash system, 2008, section 11.
    """
    where = "catch_up"
    checks.known(where, "share", share)
    q = float(checks.probability(where, "share", share))
    depth = checks.integer(where, "depth", depth, 0, 10_000)
    checks.one_of(where, "form", form, ("walk", "nakamoto"))
    if q >= 0.5:
        return 1.0
    ratio = q / (1 - q)
    if form == "walk" or q == 0:
        return ratio**depth
    mean = depth * ratio
    terms = (
        (math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) * (1 - ratio ** (depth - k)) for k in range(depth))
        if depth
        else ()
    )
    return 1.0 - math.fsum(terms)


@checks.typed
def flood_seconds(network: Network, num_bytes: float) -> np.ndarray:
    """Seconds until what i says has reached j, relayed whole from node to node along the quickest way, `[N, N]`.

    A hop from u to v takes latency + 8 num_bytes / min(upload_u, download_v), of the network's links; nodes pass it on at
    once, to all neighbours side by side.  Host arithmetic, O(N (E + N log N)); infinite where no way leads.
    """
    where = "flood_seconds"
    checks.instance(where, "network", network, Network, "Pass e.g. dlsim.networks.ring(8).")
    checks.known(where, "num_bytes", num_bytes)
    checks.number(where, "num_bytes", num_bytes, 0.0)
    links = network.links
    if links is None:
        fix = "Use network.with_links(dlsim.networks.ethernet(num_nodes))."
        checks.fail(where, "network", "one with links", "one without", fix)
    if network.is_implicit:
        checks.fail(where, "network", "one that lists its edges", "a large complete graph")
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    kept = slice(None) if network.is_edge is None else np.asarray(network.is_edge)
    by, to = (np.asarray(ends)[kept] for ends in (network.senders, network.receivers))
    rate = np.minimum(np.asarray(links.upload, np.float64)[by], np.asarray(links.download, np.float64)[to])
    late = np.broadcast_to(np.asarray(links.latency, np.float64), (network.num_nodes,))[to]
    # A hop of no time at all would be none to scipy.
    hops = np.maximum(late + 8 * float(num_bytes) / rate, 1e-300)
    found = shortest_path(csr_array((hops, (by, to)), shape=(network.num_nodes,) * 2), method="D")
    return np.where(found < 1e-200, 0.0, found)
