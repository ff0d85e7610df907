"""How fast a sequence of networks mixes that takes turns (`time_varying`).  Host side, float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlsim import checks
from dlsim.networks.graphs.graph import check_graph
from dlsim.networks.graphs.spectral import DENSE_NODES, mixing_matrix
from dlsim.networks.graphs.stochastic import check_stochastic

LONGEST_PERIOD = 10_000_000  # rounds
_ROUNDING = 2.0**-23  # of a float32 weight, relative


def period_gap(networks: Sequence[Any], dwell_rounds: Sequence[int] | None = None) -> float:
    """1 - rho, rho the contraction a round over a period of networks that take turns (`time_varying`).

        rho = ||W_P^d_P ... W_1^d_1 - 1 1^T / N||_2^(1 / (d_1 + ... + d_P))

    so that after every period the distance to the mean (not squared) is at most rho^T of what it was, T the rounds of
    the period.  It is 1 where a period reaches the mean exactly, to float32 (`one_peer_exponential` of powers of two,
    `base_graph`), 0 where some disagreement never falls; for one network with symmetric weights it is its `spectral_gap`.

    Args:
      networks: one period, doubly stochastic networks of the same nodes; each alone need not be connected.
      dwell_rounds: how many rounds each is held, `[P]` integers >= 1; default one.

    Cost: a product of N^3 a network up to `DENSE_NODES` nodes; beyond, sparse products with the whole period, some
      hundreds of times.
    """
    where = "period_gap"
    networks = checks.sequence(where, "networks", networks, "one or more Networks")
    if not networks:
        checks.fail(where, "networks", "one or more Networks", "none")
    for one in networks:
        check_graph(where, one, weighted=True, argument="networks")
        if one.num_nodes != networks[0].num_nodes:
            checks.fail(where, "networks", "of one size", f"{networks[0].num_nodes} and {one.num_nodes} nodes")
        is_implicit = getattr(one, "is_implicit", False)
        if not is_implicit and not check_stochastic(one, one.edge_weights, one.self_weights)["is_doubly_stochastic"]:
            checks.fail(where, "networks", "doubly stochastic, or the mean does not stay", "one that is not")
    dwell = check_dwell(where, dwell_rounds, len(networks))
    if networks[0].num_nodes == 1 or any(getattr(one, "is_implicit", False) for one in networks):
        return 1.0
    num_rounds = int(dwell.sum())
    norm = _norm([_exact(mixing_matrix(one)) for one in networks], dwell)
    if norm <= num_rounds * _ROUNDING:  # weights were rounded to float32, so nothing below can be told from zero
        return 1.0
    return float(max(1 - norm ** (1 / num_rounds), 0.0))


def check_dwell(where: str, dwell_rounds: Any, num: int) -> np.ndarray:
    """Rounds that each of `num` networks is held, int64 `[P]`; one each where nobody says."""
    if dwell_rounds is None:
        return np.ones(num, np.int64)
    dwell = np.asarray(checks.integers(where, "dwell_rounds", dwell_rounds, num, 1), np.int64)
    if int(dwell.sum()) > LONGEST_PERIOD:
        checks.fail(where, "dwell_rounds", f"at most {LONGEST_PERIOD} rounds in all", int(dwell.sum()))
    return dwell


def _exact(matrix: Any) -> Any:
    """The matrix with a diagonal that makes rows sum to one, without float32's rounding of it."""
    from scipy.sparse import diags_array

    return (matrix + diags_array(1 - np.asarray(matrix.sum(axis=1)).ravel())).tocsr()


def _norm(matrices: list[Any], dwell: np.ndarray) -> float:
    """The largest singular value of the period's product without the mean."""
    num_nodes = matrices[0].shape[0]
    if num_nodes <= DENSE_NODES:
        product = np.eye(num_nodes)
        for matrix, rounds in zip(matrices, dwell, strict=True):
            product = np.linalg.matrix_power(matrix.toarray(), int(rounds)) @ product
        return float(np.linalg.norm(product - 1 / num_nodes, 2))
    from scipy.sparse.linalg import LinearOperator, svds

    turns = [matrix for matrix, rounds in zip(matrices, dwell, strict=True) for _ in range(rounds)]
    back = [matrix.T.tocsr() for matrix in matrices]
    back_turns = [matrix for matrix, rounds in zip(back, dwell, strict=True) for _ in range(rounds)][::-1]

    def play(rounds: list[Any]) -> Callable[[np.ndarray], np.ndarray]:
        def product(x: np.ndarray) -> np.ndarray:
            y = x.ravel() - np.mean(x)
            for matrix in rounds:
                y = matrix @ y
            return y - np.mean(y)

        return product

    operator = LinearOperator((num_nodes, num_nodes), matvec=play(turns), rmatvec=play(back_turns), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(num_nodes)
    return float(svds(operator, k=1, v0=start, tol=1e-9, return_singular_vectors=False)[0])
