"""Right calls of what is said of trust graphs."""

from __future__ import annotations

import functools

import jax
import numpy as np
from contract.arguments_parts import KEY, Call, just

from dlsim import trust


@functools.cache
def trusting() -> trust.TrustGraph:
    return trust.trust_graph(4, np.array([0, 0, 1, 2]), np.array([1, 2, 2, 3]), 1.0)


@functools.cache
def liked() -> trust.Affinity:
    return trust.affinity(3, 4, np.array([0, 1, 1]), np.array([0, 0, 1]))


def score(key: jax.Array, graph: trust.TrustGraph) -> jax.Array:
    return trust.eigen_trust(graph, num_iterations=2)


PEOPLE = {"graph": trusting}
SEEN = {**PEOPLE, "roots": 0}
TRUST_GRAPHS: dict[str, Call] = {
    "affinity": just(num_users=3, num_items=4, users=np.array([0, 1]), items=np.array([0, 0])),
    "bartercast": just(**SEEN),
    "eigen_trust": just(**PEOPLE),
    "g_rank": just(num_nodes=4, num_ticks=8, num_items=12, num_terms=3),
    "image_score": just(scores=np.zeros(3), acts=np.ones(3)),
    "max_flow": just(**SEEN),
    "merit_rank": just(**SEEN),
    "personalized_pagerank": just(**SEEN, num_products=3),
    "random_walks": just(key=KEY, graph=trusting, root=0, num_walks=5, max_hops=3),
    "reputation": lambda: {"graph": trusting(), "score": score},
    "salsa": just(key=KEY, liked=liked, roots=0, num_walks=5, max_hops=3),
    "similarity_trust": just(ratings=np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 1.0]]), num_best=1),
    "sybil_bound": just(transitivity_decay=0.1),
    "sybil_gain": just(scores=np.ones(3), attackers=np.array([1]), is_sybil=np.array([False, False, True])),
    "trust_graph": just(num_nodes=3, trusters=np.array([0, 1]), trusted=np.array([1, 2])),
    "trust_matrix": just(matrix=np.array([[0.0, 1.0], [2.0, 0.0]])),
    "with_sybils": just(graph=trusting, attackers=np.array([1]), num_sybils=2),
}
