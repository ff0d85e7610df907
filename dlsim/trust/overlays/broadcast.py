"""Rumours: who knows tells others, or everybody asks others, until all know."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Process, Scenario
from dlsim.networks.network import Network
from dlsim.trust.draws import peers, ranks
from dlsim.trust.rounds import check_world, in_rounds, reply

MANNERS = ("push", "pull", "push_pull")
MOST_PEERS = 64  # k^2 comparisons make k distinct ones
QUESTION_BITS = 320  # 40 bytes


class Rumour(NamedTuple):
    """Who knows it."""

    is_informed: Array  # bool [N]
    rounds: Array  # int32 [] done
    rounds_to_all: Array  # int32 [] after which all knew; -1: not yet


@checks.typed
def broadcast(
    network: Network,
    *,
    fanout: int = 1,
    manner: str = "push",
    num_sources: int = 1,
    rumour_bits: int = 2048,
    scenario: Scenario | None = None,
) -> Process:
    """Rumour spreading: in every round nodes call f others at random, in rounds that all keep.

    push: who knew before the round tells those that it calls.  pull: everybody that does not know asks those it calls, and
    who knew before the round answers.  push_pull: both.  Of N nodes with f = 1, push informs all in about log2 N + ln N
    rounds.

    Calls and answers go over the network's channel and links and are counted; who is away neither calls nor answers.  An
    answer goes the way of its question: it arrives where that did.  The process measures `num_informed`,
    `share_informed` and `rounds_to_all` (-1 until all N know, those away among them).

    Args:
      network: others are all others where it is complete (of a million nodes too), else neighbours.
      fanout: f, 1 to 64 distinct others a call, or N - 1; structural.
      manner: "push", "pull" or "push_pull"; structural.
      num_sources: how many know it first, drawn at random; structural.
      rumour_bits: of one telling, 8 or more; a question has 320.
      scenario: what happens to nodes and links.

    Cost a round: O(N f) time and memory.
    Source: Demers, Greene, Hauser, Irish, Larson, Shenker, Sturgis, Swinehart, Terry, Epidemic algorithms for replicated
      database maintenance, PODC 1987; Pittel, On spreading a rumor, SIAM J. Appl. Math. 1987.
    """
    where = "broadcast"
    check_world(where, network, scenario, 2)
    num = network.num_nodes
    checks.one_of(where, "manner", manner, MANNERS)
    checks.integer(where, "num_sources", num_sources, 1, num)
    checks.integer(where, "rumour_bits", rumour_bits, 8, 2**31)
    checks.integer(where, "fanout", fanout, 1, num - 1)
    if fanout > MOST_PEERS and fanout != num - 1:
        checks.fail(where, "fanout", f"at most {MOST_PEERS}, or {num - 1} for all", fanout)
    marks = jnp.zeros((num, 1), jnp.uint8)

    def start(key: Array) -> Rumour:
        is_informed = ranks(key, network.node_ids) < num_sources
        return Rumour(is_informed, jnp.zeros((), jnp.int32), jnp.where(num_sources == num, 0, -1).astype(jnp.int32))

    def one_round(key: Array, own: Rumour, current: Network) -> tuple[Rumour, Network, Info]:
        before = own.is_informed
        after = before
        if manner != "pull":
            called = peers(keys.stream(key, "tell"), current, fanout)
            called = jnp.where(before[:, None], called, -1)
            told, current = current.send_to(key, marks, called, header_bits=rumour_bits - 8, stream="tell")
            after = after.at[told.receivers].max(told.mask)
        if manner != "push":
            called = peers(keys.stream(key, "ask"), current, fanout)
            called = jnp.where(before[:, None], -1, called)
            asked, current = current.send_to(key, marks, called, header_bits=QUESTION_BITS - 8, stream="ask")
            answers = asked.mask & before[asked.receivers]
            current = reply(current, key, asked.receivers, answers, rumour_bits)
            after = after | jnp.any(answers, axis=1)
        rounds = own.rounds + 1
        is_new = (own.rounds_to_all < 0) & jnp.all(after)
        return Rumour(after, rounds, jnp.where(is_new, rounds, own.rounds_to_all)), current, {}

    def measure(own: Rumour, info: Info) -> Info:
        del info
        count = jnp.sum(own.is_informed, dtype=jnp.int32)
        return {"num_informed": count, "share_informed": count / num, "rounds_to_all": own.rounds_to_all}

    return in_rounds(where, network, scenario, start, one_round, measure, "Demers et al., PODC 1987")
