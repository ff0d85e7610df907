"""Whom to trust, and what it is worth: reputation, games, ledgers, rewards and marks, as Processes like any other."""

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
from dlsim.trust.rewards.market import proof_of_contribution
from dlsim.trust.rewards.outliers import OutlierRule, three_sigma
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
    "Conduct",
    "Ledger",
    "OutlierRule",
    "ShapleyEstimate",
    "TrustGraph",
    "affinity",
    "bartercast",
    "coalition_utility",
    "conduct",
    "contract_game",
    "eigen_trust",
    "exact_shapley",
    "fund",
    "g_rank",
    "image_score",
    "leave_one_out",
    "lock",
    "max_flow",
    "merit_rank",
    "open_ledger",
    "pay",
    "personalized_pagerank",
    "proof_of_contribution",
    "random_walks",
    "release",
    "reputation",
    "reputation_step",
    "salsa",
    "sampled_leave_one_out",
    "sampled_shapley",
    "similarity_trust",
    "slash",
    "split_exactly",
    "staked_fedavg",
    "sybil_bound",
    "sybil_gain",
    "three_sigma",
    "total_money",
    "trust_graph",
    "trust_matrix",
    "with_sybils",
]
