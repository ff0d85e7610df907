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
from dlsim.trust.graphs.g_rank import g_rank
from dlsim.trust.graphs.graph import TrustGraph, trust_graph, trust_matrix
from dlsim.trust.graphs.merit_rank import merit_rank, personalized_pagerank, sybil_bound
from dlsim.trust.graphs.reputation import reputation
from dlsim.trust.graphs.salsa import Affinity, affinity, salsa
from dlsim.trust.graphs.scores import bartercast, eigen_trust, image_score, max_flow
from dlsim.trust.graphs.similarity import similarity_trust
from dlsim.trust.graphs.sybils import sybil_gain, with_sybils
from dlsim.trust.graphs.walks import random_walks
from dlsim.trust.ledger.accounts import (
    Ledger,
    fund,
    lock,
    open_ledger,
    pay,
    release,
    reputation_step,
    slash,
    split_exactly,
    total_money,
)
from dlsim.trust.ledger.conduct import Conduct, conduct
from dlsim.trust.ledger.contract import contract_game
from dlsim.trust.ledger.staking import staked_fedavg
from dlsim.trust.marks.evidence import OwnershipTest, joint_capacity, log10_p_value, ownership_test, proves_ownership
from dlsim.trust.marks.features import (
    FeatureMarks,
    bit_detection,
    commitment,
    feature_marks,
    feature_watermark,
    forged_marks,
)
from dlsim.trust.marks.fingerprints import Fingerprint, boundary_fingerprint, match_rate
from dlsim.trust.marks.locking import ModelLock, lock_weights, locked_problem, model_lock
from dlsim.trust.marks.owned_data import Stamp, stamped, watermark_dataset
from dlsim.trust.marks.removal import free_riding, labelled_by, prune_weights, quantize_weights
from dlsim.trust.marks.triggers import (
    Triggers,
    noise_triggers,
    pattern_triggers,
    server_watermark,
    trigger_accuracy,
    trigger_watermark,
)
from dlsim.trust.mesh.anonymous_access import anonymous_access
from dlsim.trust.mesh.joining import handshake_success
from dlsim.trust.mesh.replay_windows import ReplayWindow, check_sequences, replay_windows
from dlsim.trust.mesh.ring_signatures import Ring, RingSignature, ring_sign, ring_verify, toy_keys
from dlsim.trust.mesh.routes import Routes, cheapest_routes
from dlsim.trust.mesh.wireless_mesh import wireless_mesh
from dlsim.trust.overlays.blocks import catch_up, flood_seconds, proof_of_work
from dlsim.trust.overlays.broadcast import broadcast
from dlsim.trust.overlays.dht import dht
from dlsim.trust.overlays.snowball import snowball
from dlsim.trust.overlays.tangle import tangle
from dlsim.trust.rewards.market import proof_of_contribution
from dlsim.trust.rewards.outliers import OutlierRule, krum_outliers, three_sigma
from dlsim.trust.rewards.shapley import (
    ShapleyEstimate,
    coalition_utility,
    exact_shapley,
    leave_one_out,
    sampled_leave_one_out,
    sampled_shapley,
)

__all__ = [
    "Affinity",
    "Automata",
    "Conduct",
    "FeatureMarks",
    "Fingerprint",
    "Ledger",
    "ModelLock",
    "OutlierRule",
    "OwnershipTest",
    "ReplayWindow",
    "Reputation",
    "Ring",
    "RingSignature",
    "Routes",
    "Scores",
    "ShapleyEstimate",
    "Stamp",
    "Triggers",
    "TrustGraph",
    "affinity",
    "anonymous_access",
    "anonymous_market",
    "automaton",
    "bartercast",
    "bit_detection",
    "boundary_fingerprint",
    "broadcast",
    "catch_up",
    "cheapest_routes",
    "check_sequences",
    "coalition_utility",
    "commitment",
    "conduct",
    "contract_game",
    "dht",
    "discounted_scores",
    "ecology",
    "eigen_trust",
    "exact_shapley",
    "expected_scores",
    "feature_marks",
    "feature_watermark",
    "flood_seconds",
    "forged_marks",
    "free_riding",
    "fund",
    "g_rank",
    "handshake_success",
    "image_score",
    "image_scoring",
    "imitation",
    "invasion_share",
    "joint_capacity",
    "krum_outliers",
    "labelled_by",
    "leave_one_out",
    "lock",
    "lock_weights",
    "locked_problem",
    "log10_p_value",
    "match_rate",
    "max_flow",
    "memory_one",
    "merit_rank",
    "model_lock",
    "no_reputation",
    "noise_triggers",
    "open_ledger",
    "own_experience",
    "ownership_test",
    "pattern_triggers",
    "pay",
    "personalized_pagerank",
    "proof_of_contribution",
    "proof_of_work",
    "proves_ownership",
    "prune_weights",
    "quantize_weights",
    "random_walks",
    "release",
    "replay_windows",
    "reputation",
    "reputation_step",
    "resisting_continuation",
    "ring_sign",
    "ring_verify",
    "salsa",
    "sampled_leave_one_out",
    "sampled_shapley",
    "server_watermark",
    "similarity_trust",
    "slash",
    "snowball",
    "solved_reputation",
    "split_exactly",
    "staked_fedavg",
    "stamped",
    "strategies",
    "strategy_names",
    "sybil_bound",
    "sybil_gain",
    "tangle",
    "three_sigma",
    "total_money",
    "tournament",
    "tournament_scores",
    "toy_keys",
    "trigger_accuracy",
    "trigger_watermark",
    "trust_graph",
    "trust_matrix",
    "watermark_dataset",
    "wireless_mesh",
    "with_sybils",
]
