"""Token accounts: nodes that answer what they hear at once, and yet send no more than so many messages a period."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.core import Array

STRATEGIES = ("proactive", "simple", "generalized", "randomized", "reactive")
USEFUL = ("always", "newer")


class TokenAccount(NamedTuple):
    """When a node sends of its own accord and how often it answers; `token_account` makes it.

    Source: Danner, Jelasity, Token account algorithms: the best of the proactive and reactive worlds, ICDCS 2018.
    """

    proactive: Any  # (tokens [n]) -> float32 [n], the chance to send when a period is over
    reactive: Any  # (draws [n], tokens [n], useful bool [n]) -> uint32 [n], messages that an arrival sets off
    useful: str
    slots: int
    starts_with: int


class Tokens(NamedTuple):
    """Of each node, uint32 `[N]`."""

    held: Array
    pending: Array  # answers that are to be sent
    periods: Array  # so far: each gave a token, or a message of the node's own accord


@checks.typed
def token_account(
    strategy: str,
    *,
    capacity: int = 20,
    reactivity: int = 10,
    useful: str = "always",
    slots: int = 10,
) -> TokenAccount:
    """Flow control of `gossip_learning(tokens=...)`, with C = `capacity`, A = `reactivity` and a tokens at a node:

        when a period of the node is over:   it sends with probability proactive(a), else a <- a + 1
        when a message arrives:              x = reactive(a, u) answers are sent to neighbours drawn at random, a <- a - x

        strategy        proactive(a)                          reactive(a, useful)            reactive(a, not useful)
        "proactive"     1                                     0                              0
        "simple"        1 if a >= C else 0                    1 if a > 0 else 0              the same
        "generalized"   1 if a >= C else 0                    floor((A - 1 + a) / A)         floor((A - 1 + a) / (2 A))
        "randomized"    0 if a < A - 1, 1 if a > C,           a / A, rounded up or down      0
                        else (a - A + 1) / (C - A + 1)        at random
        "reactive"      0                                     A, without tokens              0

    But for "reactive", messages sent + tokens + answers to be sent = periods over, at every node: of t periods no more than t
    messages come, and no burst is larger than C + 1.  "reactive" has no limit; each node begins with one message, and they
    go on for ever, or die out as they are lost.

    Args:
      strategy: see above; structural.
      capacity: C >= 1; structural.
      reactivity: A >= 1, at most C where both count; of "reactive" the answers an arrival; structural.
      useful: which arrivals are: "always" all of them, "newer" those of a model at least as old (as much trained) as the
        receiver's; structural.
      slots: how often a period a node may send, on average: an answer waits 1 / slots of a period, in which messages are
        taken to travel.  The paper's is 100, with ten times as many events to play; structural.

    Source: Danner, Jelasity, Token account algorithms: the best of the proactive and reactive worlds, ICDCS 2018; for gossip
      learning Hegedus, Danner, Jelasity, Journal of Parallel and Distributed Computing 2021.
    """
    where = "token_account"
    checks.one_of(where, "strategy", strategy, STRATEGIES)
    checks.one_of(where, "useful", useful, USEFUL)
    capacity = checks.integer(where, "capacity", capacity, 1)
    has_both = strategy in ("generalized", "randomized")
    reactivity = checks.integer(where, "reactivity", reactivity, 1, capacity if has_both else None)
    slots = checks.integer(where, "slots", slots, 1)

    def proactive(tokens: Array) -> Array:
        if strategy in ("proactive", "reactive"):
            return jnp.full(tokens.shape, float(strategy == "proactive"), jnp.float32)
        if strategy != "randomized":
            return (tokens >= capacity).astype(jnp.float32)
        above = tokens.astype(jnp.float32) - (reactivity - 1)
        return jnp.clip(above / (capacity - reactivity + 1), 0.0, 1.0)

    def reactive(draws: Array, tokens: Array, useful: Array) -> Array:
        if strategy == "proactive":
            return jnp.zeros(tokens.shape, jnp.uint32)
        if strategy == "simple":
            return (tokens > 0).astype(jnp.uint32)
        if strategy == "reactive":
            return jnp.where(useful, jnp.uint32(reactivity), 0)
        if strategy == "generalized":
            most = tokens + jnp.uint32(reactivity - 1)
            return jnp.where(useful, most // jnp.uint32(reactivity), most // jnp.uint32(2 * reactivity))
        whole, rest = tokens // jnp.uint32(reactivity), tokens % jnp.uint32(reactivity)
        up = uniform(draws) * reactivity < rest.astype(jnp.float32)
        return jnp.where(useful, whole + up.astype(jnp.uint32), 0)

    return TokenAccount(proactive, reactive, useful, slots, int(strategy == "reactive"))


def opened(account: TokenAccount, num_nodes: int) -> Tokens:
    """Accounts without a token."""
    nothing = jnp.zeros(num_nodes, jnp.uint32)
    return Tokens(nothing, jnp.full(num_nodes, account.starts_with, jnp.uint32), nothing)


def at_slot(account: TokenAccount, keys: Array, tokens: Tokens) -> tuple[Tokens, Array]:
    """The accounts `[n]` of nodes that may send now, and whether they do."""
    from dlsim.keys import fold_in

    is_over = uniform(fold_in(keys, 0)) * account.slots < 1
    acts = is_over & (uniform(fold_in(keys, 1)) < account.proactive(tokens.held))
    answers = ~is_over & (tokens.pending > 0)
    one = jnp.uint32(1)
    held = tokens.held + jnp.where(is_over & ~acts, one, 0)
    new = Tokens(held, tokens.pending - jnp.where(answers, one, 0), tokens.periods + is_over.astype(jnp.uint32))
    return new, acts | answers


def at_arrival(account: TokenAccount, keys: Array, tokens: Tokens, own_age: Array, age: Array) -> Tokens:
    """The accounts `[n]` of nodes that hear a model of this age."""
    useful = age >= own_age if account.useful == "newer" else jnp.ones(age.shape, bool)
    answers = account.reactive(keys, tokens.held, useful)
    return tokens._replace(held=tokens.held - jnp.minimum(answers, tokens.held), pending=tokens.pending + answers)


def uniform(keys: Array) -> Array:
    """One float in [0, 1) a key, float32 `[n]`."""
    return jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)
