"""Snowball: agreement of many by asking few, again and again."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Process, Scenario
from dlsim.networks.network import Network
from dlsim.trust.draws import peers, ranks, share_of
from dlsim.trust.overlays.broadcast import MOST_PEERS
from dlsim.trust.rounds import check_world, in_rounds, reply

MESSAGE_BITS = 264  # 33 bytes: a question, and an answer


class Colours(NamedTuple):
    """What the nodes think of two colours, 0 and 1."""

    preference: Array  # int32 [N]
    confidence: Array  # int32 [N, 2] majorities seen for each colour
    last: Array  # int32 [N] the colour of the last majority; -1: none in the last round
    streak: Array  # int32 [N] majorities for it in a row
    is_decided: Array  # bool [N]
    is_byzantine: Array  # bool [N]
    rounds: Array  # int32 [] done
    rounds_to_all: Array  # int32 [] after which all honest nodes had decided; -1: not yet


@checks.typed
def snowball(
    network: Network,
    *,
    sample_size: int = 10,
    majority: int = 7,
    decide_after: int = 15,
    share_of_ones: float = 0.5,
    byzantine: float = 0.0,
    scenario: Scenario | None = None,
) -> Process:
    """Consensus by repeated sampling: every undecided node asks K others for their colour, in rounds that all keep.

        at least a of K say c:  confidence_c += 1;  preference = the colour with more confidence (ties: as before)
                                count = count + 1 if c was the last majority too, else 1
        no colour has a:        count = 0
        count = beta:           decide the preference, for good; go on answering

    Byzantine nodes answer the opposite of the asker's preference, and never decide.  Who is away neither asks nor answers.
    The process measures `share_of_ones` and `share_decided` (of honest nodes), `agreement` (1: all honest nodes that have
    decided did so alike) and `rounds_to_all` (-1 until all honest ones have decided).

    Args:
      network: peers are all others where it is complete (of a million nodes too), else neighbours.
      sample_size: K, 1 to 64, less than N; structural.
      majority: a, above K / 2 and at most K; structural.
      decide_after: beta, 1 or more; structural.
      share_of_ones: of the nodes that start with colour 1, drawn at random; traced.
      byzantine: share of the nodes, drawn at random; traced.  From 1/3 on agreement may fail.
      scenario: what happens to nodes and links.

    Cost a round: O(N K) time and memory; 33 bytes a question and an answer.
    Source: Team Rocket, Yin, Sekniqi, van Renesse, Sirer, Scalable and probabilistic leaderless BFT consensus through
      metastability (Snowflake to Avalanche), 2019.  Differs: all ask in the same round.
    """
    where = "snowball"
    check_world(where, network, scenario, 2)
    checks.integer(where, "sample_size", sample_size, 1, min(MOST_PEERS, network.num_nodes - 1))
    checks.integer(where, "majority", majority, 1)
    if not sample_size < 2 * majority <= 2 * sample_size:
        checks.fail(where, "majority", f"above half of sample_size={sample_size} and at most all of it", majority)
    checks.integer(where, "decide_after", decide_after, 1)
    checks.probability(where, "share_of_ones", share_of_ones)
    checks.probability(where, "byzantine", byzantine)
    num, ids = network.num_nodes, network.node_ids
    marks = jnp.zeros((num, 1), jnp.uint8)

    def start(key: Array) -> Colours:
        nothing = jnp.zeros(num, jnp.int32)
        place = ranks(keys.stream(key, "colour"), ids)
        preference = (place.astype(jnp.float32) + 0.5 < share_of_ones * num).astype(jnp.int32)
        is_byzantine = share_of(keys.stream(key, "byzantine"), ids, byzantine)
        zero = jnp.zeros((), jnp.int32)
        return Colours(
            preference=preference,
            confidence=jnp.zeros((num, 2), jnp.int32),
            last=nothing - 1,
            streak=nothing,
            is_decided=jnp.zeros(num, bool),
            is_byzantine=is_byzantine,
            rounds=zero,
            rounds_to_all=zero - 1,
        )

    def one_round(key: Array, own: Colours, current: Network) -> tuple[Colours, Network, Info]:
        asks = ~own.is_decided & ~own.is_byzantine
        called = jnp.where(asks[:, None], peers(key, current, sample_size), -1)
        asked, current = current.send_to(key, marks, called, header_bits=MESSAGE_BITS - 8, stream="ask")
        current = reply(current, key, asked.receivers, asked.mask, MESSAGE_BITS)
        said = jnp.where(
            own.is_byzantine[asked.receivers], 1 - own.preference[:, None], own.preference[asked.receivers]
        )
        ones = jnp.sum(asked.mask & (said == 1), axis=1)
        zeros = jnp.sum(asked.mask & (said == 0), axis=1)
        winner = jnp.where(ones >= majority, 1, jnp.where(zeros >= majority, 0, -1)).astype(jnp.int32)
        if current.is_present is not None:
            asks = asks & current.is_present
        wins = asks[:, None] & (winner[:, None] == jnp.arange(2))
        confidence = own.confidence + wins
        lead = confidence[:, 1] - confidence[:, 0]
        changed = jnp.where(lead > 0, 1, jnp.where(lead < 0, 0, own.preference))
        preference = jnp.where(asks & (winner >= 0), changed, own.preference)
        counted = jnp.where(winner < 0, 0, jnp.where(winner == own.last, own.streak + 1, 1))
        streak = jnp.where(asks, counted, own.streak)
        is_decided = own.is_decided | (asks & (streak >= decide_after))
        rounds = own.rounds + 1
        is_new = (own.rounds_to_all < 0) & jnp.all(is_decided | own.is_byzantine)
        own = own._replace(
            preference=preference,
            confidence=confidence,
            last=jnp.where(asks, winner, own.last),
            streak=streak,
            is_decided=is_decided,
            rounds=rounds,
            rounds_to_all=jnp.where(is_new, rounds, own.rounds_to_all),
        )
        return own, current, {}

    def measure(own: Colours, info: Info) -> Info:
        del info
        honest = ~own.is_byzantine
        most = jnp.maximum(jnp.sum(honest), 1)
        decided = [jnp.any(own.is_decided & (own.preference == colour)) for colour in (0, 1)]
        return {
            "share_of_ones": jnp.sum(honest & (own.preference == 1)) / most,
            "share_decided": jnp.sum(own.is_decided) / most,
            "agreement": 1.0 - (decided[0] & decided[1]).astype(jnp.float32),
            "rounds_to_all": own.rounds_to_all,
        }

    return in_rounds(where, network, scenario, start, one_round, measure, "Team Rocket et al., 2019")
