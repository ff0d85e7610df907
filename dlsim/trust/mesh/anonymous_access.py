"""Anonymous access to a mesh: requests signed for a ring, and an eavesdropper who guesses and intersects."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Process
from dlsim.trust.mesh.ring_signatures import (
    ID_BYTES,
    Ring,
    all_toy_primes,
    ring_bytes,
    ring_sign,
    ring_verify,
    toy_keys,
)

RINGS = ("fresh", "fixed", "pseudonym")


class AccessState(NamedTuple):
    """What an eavesdropper knows of U users after some requests of each."""

    rings: Array  # int32 [U, n], each user's fixed ring
    candidates: Array  # bool [U, U]: who may be the user, after all of its requests
    exposed_at: Array  # int32 [U], requests until one candidate was left; 0: not yet
    num_right: Array  # uint32 [], guesses from one request alone that were right
    num_verified: Array  # uint32 []
    num_forged: Array  # uint32 []: signatures that passed for another message
    round: Array  # int32 []


@checks.typed
def anonymous_access(num_users: int = 64, ring_size: int = 8, *, rings: str = "fresh") -> Process:
    """Users ask for access, a request each a round, signed for a ring of users; who was it?

    A behavioural model, not cryptography to be used.  Requests are signed with `ring_sign` and verified with `ring_verify`,
    all users at once.  The eavesdropper sees rings and links the requests of one (unknown) user with each other, as
    by the place that they come from:

        guess       a member of the ring, uniformly:  right with probability 1/n
        intersect   candidates of a user <- candidates and ring:  one is left after about log U / log(U/n) fresh rings

    Args:
      num_users: U, structural; each has toy keys of its own.
      ring_size: n, 2 to U, structural.
      rings: "fresh", drawn anew for each request; "fixed", drawn once a user: the intersection stays at n; "pseudonym": one
        public key and no ring, so that every guess is right.
    Measures: `guess_rate`, `num_candidates` (mean left), `exposed` (share of users known), `requests_to_expose` (mean of
      those known, NaN before), `verified` (share of signatures), `forged` (of signatures held against another message),
      `signature_bytes`, and `sign_cost`, `verify_cost`: modular powers a signature.
    Source: Sen 2012; Rivest, Shamir and Tauman, ASIACRYPT 2001.  Differs: `toy_keys`.
    """
    where = "anonymous_access"
    pairs = all_toy_primes()
    users = checks.integer(where, "num_users", num_users, 2, len(pairs))
    size = checks.integer(where, "ring_size", ring_size)
    if size < 2:
        checks.fail(where, "ring_size", "2 or more", size, 'A ring of one is rings="pseudonym".')
    size = checks.integer(where, "ring_size", size, 2, users)
    checks.one_of(where, "rings", rings, RINGS)
    if rings == "pseudonym":
        size = 1
    every = toy_keys(pairs[:users])
    ids = jnp.arange(users)

    def members(key: Array) -> Array:
        """Each user's ring with itself in it, in an order that says nothing, int32 `[U, n]`."""
        draws = keys.node_uniform(key, ids, users)
        first = jnp.argsort(jnp.where(ids[:, None] == ids, -1.0, draws), axis=1)[:, :size]
        return jnp.sort(first, axis=1)

    def init(key: Array) -> AccessState:
        zero = jnp.zeros((), jnp.uint32)
        return AccessState(
            rings=members(keys.stream(key, "rings")),
            candidates=jnp.ones((users, users), bool),
            exposed_at=jnp.zeros(users, jnp.int32),
            num_right=zero,
            num_verified=zero,
            num_forged=zero,
            round=jnp.zeros((), jnp.int32),
        )

    def signed(key: Array, ring_of: Array) -> tuple[Array, Array]:
        """How many signatures verify, and how many pass for another message."""
        message = keys.node_bits(keys.stream(key, "messages"), ids, 1)[:, 0]
        place = jnp.argmax(ring_of == ids[:, None], axis=1)
        rings_ = Ring(every.moduli[ring_of], every.exponents[ring_of])
        made = jax.vmap(ring_sign)(keys.at_nodes(keys.stream(key, "signing"), ids), message, rings_, place)
        right = jax.vmap(ring_verify)(message, made, rings_)
        wrong = jax.vmap(ring_verify)(message ^ jnp.uint32(1), made, rings_)
        return jnp.sum(right).astype(jnp.uint32), jnp.sum(wrong).astype(jnp.uint32)

    def step(key: Array, state: AccessState) -> tuple[AccessState, Info]:
        ring_of = members(keys.stream(key, "rings")) if rings == "fresh" else state.rings
        guess = (keys.node_uniform(keys.stream(key, "guesses"), ids, 1)[:, 0] * size).astype(jnp.int32)
        right = jnp.take_along_axis(ring_of, guess[:, None], axis=1)[:, 0] == ids
        in_ring = jnp.zeros((users, users), bool).at[ids[:, None], ring_of].set(True)
        candidates = state.candidates & in_ring
        is_known = jnp.sum(candidates, axis=1) == 1
        request = state.round + 1
        verified, forged = (jnp.uint32(users), jnp.uint32(0)) if size < 2 else signed(key, ring_of)
        return state._replace(
            candidates=candidates,
            exposed_at=jnp.where(is_known & (state.exposed_at == 0), request, state.exposed_at),
            num_right=state.num_right + jnp.sum(right).astype(jnp.uint32),
            num_verified=state.num_verified + verified,
            num_forged=state.num_forged + forged,
            round=request,
        ), {}

    def measure(state: AccessState, info: Info) -> Info:
        del info
        total = jnp.maximum(state.round * users, 1).astype(jnp.float32)
        is_known = state.exposed_at > 0
        after = jnp.sum(jnp.where(is_known, state.exposed_at, 0)) / jnp.maximum(jnp.sum(is_known), 1)
        exact = {
            "signature_bytes": float(ring_bytes(size) if size > 1 else ID_BYTES + 128),
            "sign_cost": size + 1.0 if size > 1 else 1.0,
            "verify_cost": float(size),
        }
        return {
            "guess_rate": state.num_right.astype(jnp.float32) / total,
            "num_candidates": jnp.mean(jnp.sum(state.candidates, axis=1).astype(jnp.float32)),
            "exposed": jnp.mean(is_known.astype(jnp.float32)),
            "requests_to_expose": jnp.where(jnp.any(is_known), after, jnp.nan).astype(jnp.float32),
            "verified": state.num_verified.astype(jnp.float32) / total,
            "forged": state.num_forged.astype(jnp.float32) / total,
            **{name: jnp.float32(value) for name, value in exact.items()},
        }

    return Process(init, step, measure, sources=("Sen 2012", "Rivest, Shamir, Tauman 2001"), num_nodes=users)
