"""Right calls of `dlsim.trust`: games, overlays, ledgers."""

from __future__ import annotations

import numpy as np
from contract.arguments_parts import IN_NETWORK, LATER, Call, just, ring

from dlsim import networks, trust

DILEMMA = ((3.0, 0.0), (5.0, 1.0))

GAMES: dict[str, Call] = {
    "anonymous_market": lambda: {"network": ring(), "reputation": trust.image_scoring()},
    "automaton": just(cooperates=[1.0, 0.0], goes=[[0, 1], [1, 1]]),
    "broadcast": IN_NETWORK,
    "catch_up": just(share=0.1, depth=6),
    "dht": lambda: {"network": ring(), "num_lookups": 2},
    "discounted_scores": lambda: {"automata": trust.strategies("grim"), "continuation": 0.5},
    "ecology": just(scores=np.array(DILEMMA)),
    "expected_scores": lambda: {"automata": trust.strategies("grim"), "num_rounds": 2},
    "flood_seconds": lambda: {"network": ring().with_links(networks.links(4)), "num_bytes": 1.0},
    "imitation": lambda: {"network": ring(), "scores": np.array(DILEMMA)},
    "invasion_share": just(num_rounds=5),
    "memory_one": just(p_cc=1.0, p_cd=0.0, p_dc=1.0, p_dd=0.0),
    "proof_of_work": just(hash_power=[1.0, 2.0]),
    "snowball": lambda: {"network": ring(), "sample_size": 2, "majority": 2},
    "solved_reputation": lambda: {"solve": lambda good, bad, before: before},
    "strategies": lambda: {LATER: ("grim",)},
    "tournament": lambda: {"automata": trust.strategies("grim", "tit_for_tat")},
    "tournament_scores": lambda: {"state": trust.tournament(trust.strategies("grim")).init(None)},
}
