"""Whom to trust, and what it is worth: reputation, games, ledgers, rewards and marks, as Processes like any other."""

from dlsim.trust.games.automata import Automata, automaton, memory_one, strategies, strategy_names
from dlsim.trust.games.ecology import ecology, imitation
from dlsim.trust.games.market import (
    Reputation,
    anonymous_market,
    image_scoring,
    no_reputation,
    own_experience,
    solved_reputation,
)
from dlsim.trust.games.tournament import (
    Scores,
    discounted_scores,
    expected_scores,
    invasion_share,
    resisting_continuation,
    tournament,
    tournament_scores,
)
from dlsim.trust.overlays.blocks import catch_up, flood_seconds, proof_of_work
from dlsim.trust.overlays.broadcast import broadcast
from dlsim.trust.overlays.dht import dht
from dlsim.trust.overlays.snowball import snowball
from dlsim.trust.overlays.tangle import tangle

__all__ = [
    "Automata",
    "Reputation",
    "Scores",
    "anonymous_market",
    "automaton",
    "broadcast",
    "catch_up",
    "dht",
    "discounted_scores",
    "ecology",
    "expected_scores",
    "flood_seconds",
    "image_scoring",
    "imitation",
    "invasion_share",
    "memory_one",
    "no_reputation",
    "own_experience",
    "proof_of_work",
    "resisting_continuation",
    "snowball",
    "solved_reputation",
    "strategies",
    "strategy_names",
    "tangle",
    "tournament",
    "tournament_scores",
]
