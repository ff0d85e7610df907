"""Gossip-based peer sampling: every node keeps a small view of others, and views are shuffled by exchanges in pairs."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Scenario
from dlsim.networks.messages import count
from dlsim.networks.network import Network
from dlsim.networks.scenes.dynamics import sending_to
from dlsim.problems.sampling import batch_positions
from dlsim.running import counters

STARTS = ("random", "ring")
SELECTIONS = ("random", "oldest")
ENTRY_BITS = 64  # an id and an age


class Views(NamedTuple):
    """What each node knows of others: c entries, all of other nodes, no two of one."""

    ids: Array  # int32 [N, c]
    ages: Array  # int32 [N, c] exchanges since the entry was made


def peer_sampling(
    out_degree: int,
    *,
    view_size: int = 30,
    healer: int = 1,
    swapper: int = 14,
    peer: str = "oldest",
    start: str = "random",
) -> Scenario:
    """A topology a round: each node sends to `out_degree` random others out of its view, and views are gossiped.

    In a cycle, once a round, each node i picks a peer p of its view and both send each other h = c/2 entries, their own with
    age 0 among them, and merge what they get with what they have:

        B_i  = (i, 0) and c/2 - 1 random entries of i that are not among its H oldest
        V_i <- V_i + B_p, of each node the youngest entry; then, as far as more than c are left, without
               the H oldest, without S of those that were sent, without random ones

    then entries are older by one.  So H heals: entries of nodes that are gone grow old and go; and S swaps: entries move
    rather than spread, so that every node is known to about as many.  Models go to k random entries of the new view; a node
    averages what it hears with its own, weights 1 / (1 + heard), as under `epidemic(k, "local")`, which draws from all nodes
    and is the ideal that this service comes near to.

    Args:
      out_degree: k, structural, at most c.
      view_size: c, structural, even and below N.
      healer, swapper: H and S, structural, with H + S at most c/2.
      peer: the `"oldest"` entry of one that is there (the paper: tail) or a `"random"` one.
      start: views at first: `"random"` others, or the next c ids on a `"ring"`, from which they become random.

    Nodes that are away take part in nothing; who is there picks one that is, as in the paper.  Entries count as 64 bits at
    their sender, an exchange as two messages.  Put it first in `chain`, or after scenarios that send nodes away.
    Source: Jelasity, Voulgaris, Guerraoui, Kermarrec, van Steen, Gossip-based peer sampling, ACM TOCS 2007, figure 1, push
      and pull.  Differs: in a cycle every node picks once, in random order.
    """
    where = "peer_sampling"
    checks.integer(where, "view_size", view_size, 2)
    if view_size % 2:
        checks.fail(where, "view_size", "even", view_size)
    half = view_size // 2
    checks.integer(where, "out_degree", out_degree, 1, view_size)
    checks.integer(where, "healer", healer, 0, half)
    if checks.integer(where, "swapper", swapper, 0) + healer > half:
        checks.fail(where, "swapper", f"at most view_size / 2 - healer = {half - healer}", swapper)
    checks.one_of(where, "peer", peer, SELECTIONS)
    checks.one_of(where, "start", start, STARTS)
    properties = frozenset({"connected", "row_stochastic"})

    def init(key: Array, network: Network) -> Views:
        num, ids = network.num_nodes, network.node_ids
        if view_size >= num:
            fix = 'Use epidemic(out_degree, mode="local"), which knows everybody.'
            checks.fail(where, "view_size", f"below the number of nodes, {num}", view_size, fix)
        if start == "ring":
            known = (ids[:, None] + 1 + jnp.arange(view_size)[None, :]) % num
        else:
            others = batch_positions(keys.stream(key, "views"), ids, jnp.full(num, num - 1), view_size)
            known = others + (others >= ids[:, None])
        return Views(known.astype(jnp.int32), jnp.zeros((num, view_size), jnp.int32))

    def step(key: Array, state: Views, network: Network) -> tuple[Views, Network]:
        if network.is_linked is not None:
            checks.fail(where, "place", "before scenarios that take links away", "after one", "Put it first.")
        ids, num = network.node_ids, network.num_nodes
        position = jnp.zeros(num, jnp.int32).at[ids].set(jnp.arange(num, dtype=jnp.int32), unique_indices=True)
        state, network = _cycle(keys.stream(key, "cycle"), state, network, position, (healer, swapper, peer))
        draws = keys.node_bits(keys.stream(key, "fanout"), ids, view_size)
        _, places = jax.lax.top_k(draws, out_degree)
        chosen = position[jnp.take_along_axis(state.ids, places, axis=1)]
        fresh = network.replace(is_edge=None, matrix=None, grid=None, offsets=None, labels=None, properties=properties)
        return state, sending_to(fresh, chosen)

    return Scenario(init=init, step=step, source="Jelasity et al., ACM TOCS 2007", properties=properties)


def _cycle(
    key: Array, views: Views, network: Network, position: Array, how: tuple[int, int, str]
) -> tuple[Views, Network]:
    """Every node picks a peer and meets it, one after the other in random order; those that share no node at once.

    In a wave all that are still to come pick; of those whose pairs share a node the first in order meets, the others pick
    again in the next wave, from the view that they then have.
    """
    ids = network.node_ids
    num, size = views.ids.shape
    here = jnp.ones(num, bool) if network.is_present is None else network.is_present
    places = jnp.arange(num, dtype=jnp.int32)
    turn = jnp.argsort(jnp.argsort(keys.node_bits(keys.stream(key, "turns"), ids, 1)[:, 0])).astype(jnp.int32)

    def wave(carry: tuple[Views, Array, Array, Array]) -> tuple[Views, Array, Array, Array]:
        views, waits, met, number = carry
        now = keys.fold_in(key, number)
        ready, sent, picked, finds = _prepared(now, views, ids, position, here, how)
        waits = waits & finds
        mine = jnp.where(waits, turn, num)
        first = jnp.full(num, num, jnp.int32).at[places].min(mine).at[picked].min(mine)
        goes = waits & (first == turn) & (first[picked] == turn)
        other = jnp.where(goes, picked, num)
        partner = jnp.where(goes, picked, num).at[other].set(places, mode="drop")
        meets = partner < num
        merged = _merged(now, ready, sent, jnp.where(meets, partner, places), meets, ids, how[0], how[1])
        views = Views(*(jnp.where(meets[:, None], a, b) for a, b in zip(merged, views, strict=True)))
        return views, waits & ~goes, met + meets.astype(jnp.uint32), number + 1

    start = (views, here, jnp.zeros(num, jnp.uint32), jnp.zeros((), jnp.int32))
    views, _, met, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1]), wave, start)
    bits = jnp.full(num, ENTRY_BITS * (size // 2), jnp.uint32)
    return views, count(network, met, counters.from_words(bits))


def _prepared(
    key: Array, views: Views, ids: Array, position: Array, here: Array, how: tuple[int, int, str]
) -> tuple[Views, Views, Array, Array]:
    """Views as they stand before an exchange, what each would send, whom it would pick, and whether there is anybody."""
    healer, _, peer = how
    num, size = views.ids.shape
    views = _oldest_last(views, keys.node_uniform(keys.stream(key, "order"), ids, size), healer)
    half = size // 2
    sent = Views(
        jnp.concatenate([ids[:, None], views.ids[:, : half - 1]], axis=1),
        jnp.concatenate([jnp.zeros((num, 1), jnp.int32), views.ages[:, : half - 1]], axis=1),
    )
    known = position[views.ids]
    # Views stand in random order, so the first of those that are alike is any of them.
    priority = keys.node_uniform(keys.stream(key, "peer"), ids, size) if peer == "random" else views.ages
    alive = here[known]
    best = jnp.argmax(jnp.where(alive, priority, -1), axis=1)
    return views, sent, jnp.take_along_axis(known, best[:, None], axis=1)[:, 0], jnp.any(alive, axis=1)


def _oldest_last(views: Views, draws: Array, healer: int) -> Views:
    """Each view in random order, but for its `healer` oldest entries, which stand last."""
    order = jnp.argsort(draws, axis=1)
    views = Views(*(jnp.take_along_axis(leaf, order, axis=1) for leaf in views))
    if not healer:
        return views
    size = views.ages.shape[1]
    rank = jnp.argsort(jnp.argsort(-views.ages, axis=1, stable=True), axis=1)  # 0: the oldest
    order = jnp.argsort(jnp.where(rank < healer, size, jnp.arange(size)), axis=1, stable=True)
    return Views(*(jnp.take_along_axis(leaf, order, axis=1) for leaf in views))


def _merged(
    key: Array, views: Views, sent: Views, sender: Array, meets: Array, ids: Array, healer: int, swapper: int
) -> Views:
    """The views of those that meet somebody, after what they got from `sender` `[N]`; one exchange older."""
    size = views.ids.shape[1]
    known = jnp.concatenate([views.ids, sent.ids[sender]], axis=1)  # [N, m]
    ages = jnp.concatenate([views.ages, sent.ages[sender]], axis=1)
    num = known.shape[1]
    earlier = jnp.arange(num)[None, :] < jnp.arange(num)[:, None]
    is_better = (ages[:, None, :] < ages[:, :, None]) | ((ages[:, None, :] == ages[:, :, None]) & earlier)
    is_same = known[:, None, :] == known[:, :, None]
    kept = (known != ids[:, None]) & ~jnp.any(is_same & is_better, axis=2)

    def without(kept: Array, most: int | None, priority: Array) -> Array:
        """Without the entries of least priority, at most so many, as long as more than c are left."""
        spare = jnp.sum(kept, axis=1) - size
        number = spare if most is None else jnp.minimum(spare, most)
        rank = jnp.argsort(jnp.argsort(jnp.where(kept, priority, jnp.inf), axis=1, stable=True), axis=1)
        return kept & (rank >= number[:, None])

    kept = without(kept, healer, -ages.astype(jnp.float32))
    kept = without(kept, swapper, jnp.broadcast_to(jnp.arange(num, dtype=jnp.float32), kept.shape))
    kept = without(kept, None, keys.node_uniform(key, ids, num))
    order = jnp.argsort(~kept, axis=1, stable=True)[:, :size]
    new = Views(jnp.take_along_axis(known, order, axis=1), jnp.take_along_axis(ages, order, axis=1) + 1)
    return Views(*(jnp.where(meets[:, None], a, b) for a, b in zip(new, views, strict=True)))
