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

__all__ = [
    "Affinity",
    "TrustGraph",
    "affinity",
    "bartercast",
    "eigen_trust",
    "g_rank",
    "image_score",
    "max_flow",
    "merit_rank",
    "personalized_pagerank",
    "random_walks",
    "reputation",
    "salsa",
    "similarity_trust",
    "sybil_bound",
    "sybil_gain",
    "trust_graph",
    "trust_matrix",
    "with_sybils",
]
