"""Users, their tastes and what they play; Sybils among them; and what a root is recommended: the world of 18.

Everything is drawn from one key, so that seeds are different worlds; the number of Sybils is data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import keys, trust
from dlsim.core import Array
from dlsim.trust.graphs.merit_rank import merit_rank
from dlsim.trust.graphs.salsa import Heard, item_tally, salsa_steps, walk_items


class World(NamedTuple):
    """What is drawn once; a row of users' pairs is of the same length for all."""

    plays: Array  # [N, S]; the song hidden from each root is taken out
    roots: Array  # int32 [r]
    hidden: Array  # int32 [r], each root's most played song
    attackers: Array  # int32 [r], one of those whom each root trusts
    friends: trust.TrustGraph  # whom each user trusts, before any attack


class Sizes(NamedTuple):
    """Structure."""

    users: int
    songs: int
    tastes: int
    each: int  # songs of a user
    trusts: int  # edges of a user
    roots: int
    room: int  # Sybils
    fakes: int  # songs that Sybils like


def draw_world(key: Array, sizes: Sizes) -> World:
    """Songs by popularity (exponent 0.8), twelve times as likely where they are of one's own taste."""
    users, songs = jnp.arange(sizes.users), jnp.arange(sizes.songs)
    key = keys.stream(key, "world")
    song_taste = jnp.floor(keys.node_uniform(keys.stream(key, "song taste"), songs, 1)[:, 0] * sizes.tastes)
    user_taste = jnp.floor(keys.node_uniform(keys.stream(key, "user taste"), users, 1)[:, 0] * sizes.tastes)
    worth = -0.8 * jnp.log1p(songs) + jnp.log(12.0) * (song_taste[None, :] == user_taste[:, None])
    draws = keys.node_uniform(keys.stream(key, "songs"), users, sizes.songs)
    gumbel = -jnp.log(-jnp.log(jnp.clip(draws, 1e-7, 1 - 1e-7)))
    _, liked = jax.lax.top_k(worth + gumbel, sizes.each)  # without replacement
    counts = keys.node_uniform(keys.stream(key, "plays"), users, sizes.each)
    counts = jnp.ceil(-5 * jnp.log1p(-counts) + 1e-6)
    plays = jnp.zeros((sizes.users, sizes.songs)).at[users[:, None], liked].set(counts)
    order = jnp.argsort(keys.node_uniform(keys.stream(key, "roots"), users, 1)[:, 0])
    roots = order[: sizes.roots].astype(jnp.int32)
    hidden = jnp.argmax(plays[roots], axis=1).astype(jnp.int32)
    plays = plays.at[roots, hidden].set(0)
    friends = trust.similarity_trust(plays, num_best=sizes.trusts)
    places = friends.starts[roots][:, None] + jnp.arange(sizes.trusts)
    chance = keys.node_uniform(keys.stream(key, "attackers"), roots, sizes.trusts)
    chosen = jnp.argmax(jnp.where(friends.weights[places] > 0, chance, -1), axis=1)
    attackers = friends.targets[places[jnp.arange(sizes.roots), chosen]]
    return World(plays, roots, hidden, attackers, friends)


def attacked(
    world: World, sizes: Sizes, place: Array, shape: str, num: Array
) -> tuple[trust.Affinity, trust.TrustGraph]:
    """Affinities and trust as one root sees them: its attacker has `num` Sybils (0: none); all like three songs of theirs.

    The attacker's affinity to each is 0.2, a Sybil's 0.33.
    """
    attacker = world.attackers[place]
    graph = trust.with_sybils(world.friends, attacker[None], num, shape, room=sizes.room)
    own = world.plays / jnp.maximum(jnp.sum(world.plays, axis=1), 1)[:, None]
    _, liked = jax.lax.top_k(own, sizes.each)
    users = jnp.arange(sizes.users, dtype=jnp.int32)
    sybils = sizes.users + jnp.arange(sizes.room, dtype=jnp.int32)
    fakes = sizes.songs + jnp.arange(sizes.fakes, dtype=jnp.int32)
    weights = jnp.take_along_axis(own, liked, axis=1)
    kept = jnp.where((users == attacker)[:, None] & (num > 0), 1 - 0.2 * sizes.fakes, 1.0)
    shown = jnp.full(sizes.fakes, 0.2) * (num > 0)
    pushed = jnp.broadcast_to((jnp.arange(sizes.room) < num)[:, None] * 0.33, (sizes.room, sizes.fakes))
    pairs = (
        jnp.concatenate(
            [jnp.repeat(users, sizes.each), jnp.full(sizes.fakes, attacker), jnp.repeat(sybils, sizes.fakes)]
        ),
        jnp.concatenate([liked.ravel().astype(jnp.int32), fakes, jnp.tile(fakes, sizes.room)]),
        jnp.concatenate([(weights * kept).ravel(), shown, pushed.ravel()]),
    )
    whole = (sizes.users + sizes.room, sizes.songs + sizes.fakes)
    return trust.affinity(*whole, *pairs, most=(sizes.each + sizes.fakes, whole[0])), graph


class Seen(NamedTuple):
    """What one root is recommended, by connectivity decay."""

    sybil_score: Array  # [betas], summed over the Sybils' songs
    is_hit: Array  # [betas] whether the hidden song is among the first tenth of those that the root has not
    best_fake: Array  # [betas] the best place of a Sybil's song, from 0


def recommended(
    key: Array, world: World, sizes: Sizes, place: Array, shape: str, num: Array, betas: Array, settings: dict[str, Any]
) -> Seen:
    """Walks of one root through its world, and what comes of them."""
    liked, graph = attacked(world, sizes, place, shape, num)
    root = world.roots[place]
    users = merit_rank(graph, root, transitivity_decay=settings["user_decay"], connectivity_decay=settings["user_beta"])
    modifiers = 1 + settings["balance"] * (liked.items.num_nodes * users - 1)
    steps = salsa_steps(liked, graph if settings["is_trusted"] else None)
    walks = walk_items(key, steps, root, settings["num_walks"], settings["item_decay"], settings["max_hops"])
    heard = item_tally(walks, root, modifiers, sizes.songs + sizes.fakes)
    return jax.vmap(lambda beta: _judged(heard, world, sizes, place, beta, settings["min_visits"]))(betas)


def _judged(heard: Heard, world: World, sizes: Sizes, place: Array, beta: Array, min_visits: int) -> Seen:
    scores = heard.decayed(beta, 0.99, min_visits)
    is_fake = jnp.arange(scores.shape[0]) >= sizes.songs
    is_new = is_fake | (jnp.pad(world.plays[world.roots[place]], (0, sizes.fakes)) <= 0)
    order = jnp.argsort(jnp.where(is_new, -scores, jnp.inf), stable=True)
    places = jnp.argsort(order)
    hidden = world.hidden[place]
    is_hit = (places[hidden] < sizes.songs // 10) & (scores[hidden] > 0)
    best = jnp.min(jnp.where(is_fake & (scores > 0), places, scores.shape[0]))
    return Seen(jnp.sum(jnp.where(is_fake, scores, 0)), is_hit.astype(jnp.float32), best.astype(jnp.float32))


class Gain(NamedTuple):
    """What walks say of one attacker alone with its Sybils: visits to all Sybils of a walk that has met the attacker."""

    mean: Array
    error: Array  # standard error


def gain_of(key: Array, shape: str, num: Array, room: int, decay: Array, num_walks: int, max_hops: int) -> Gain:
    """Walks of a root that trusts nobody but the attacker, who has all his trust in his Sybils."""
    graph = trust.with_sybils(trust.trust_graph(2, [0], [1]), [1], num, shape, room=room)
    walks = trust.random_walks(key, graph, 0, num_walks, transitivity_decay=decay, max_hops=max_hops)
    visits = jnp.sum(walks > 1, axis=0)
    is_met = jnp.any(walks == 1, axis=0)
    count = jnp.maximum(jnp.sum(is_met), 2)
    mean = jnp.sum(visits) / count
    spread = jnp.sqrt(jnp.sum(jnp.where(is_met, (visits - mean) ** 2, 0)) / (count - 1))
    return Gain(mean, spread / jnp.sqrt(count))


def closed_gain(shape: str, num: float, decay: float) -> float:
    """The same in closed form: what a visit of the attacker leads to."""
    if num == 0:
        return 0.0
    goes = 1 - decay
    return {
        "line": goes * (1 - goes**num) / decay,
        "cycle": goes / (decay * (2 - decay)),
        "parallel": goes,
    }[shape]
