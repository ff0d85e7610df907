"""What returned work counts: the clients' weights, and how staleness damps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dlsim import checks

STRUCTURE = "The schedule is structure: build outside jit."
Damping = Callable[[int], float]  # of the versions made since the job began


def client_weights(where: str, weights: Any, num_clients: int) -> np.ndarray:
    """p_i, float64 `[M]`, sum 1; None means equal."""
    if weights is None:
        return np.full(num_clients, 1 / num_clients)
    array = known_numbers(where, "weights", weights)
    if array.shape != (num_clients,):
        checks.fail(where, "weights", f"one for each of {num_clients} clients", f"shape {list(array.shape)}")
    with np.errstate(over="ignore"):
        total = array.sum()
    if not (array >= 0).all() or not 0 < total < np.inf:
        checks.fail(where, "weights", "finite, at least 0, and not all 0", np.array2string(array, threshold=6))
    return array / total


def known_numbers(where: str, name: str, value: Any) -> np.ndarray:
    """Real numbers of any shape, float64."""
    checks.known(where, name, value, "known numbers", STRUCTURE)
    array = checks.host(where, name, value, "numbers")
    if array.dtype.kind not in "iuf":
        checks.fail(where, name, "numbers", f"{type(value).__name__} of {array.dtype}")
    return array.astype(np.float64)


def constant() -> Damping:
    """s(tau) = 1."""
    return lambda staleness: 1.0


def polynomial(exponent: float = 0.5) -> Damping:
    """s(tau) = (1 + tau)^-a.

    Args:
      exponent: a, at least 0.
    Source: Xie, Koyejo, Gupta, Asynchronous federated optimization, OPT 2020.
    """
    checks.known("polynomial", "exponent", exponent, fix=STRUCTURE)
    checks.number("polynomial", "exponent", exponent, 0.0)
    return lambda staleness: (1.0 + staleness) ** -exponent


def hinge(slope: float = 10.0, grace: float = 4.0) -> Damping:
    """s(tau) = 1 up to tau = b, then 1 / (a (tau - b) + 1).

    Args:
      slope: a, above 0.
      grace: b, at least 0.
    Source: Xie, Koyejo, Gupta, Asynchronous federated optimization, OPT 2020.
    """
    checks.known("hinge", "slope", slope, fix=STRUCTURE)
    checks.known("hinge", "grace", grace, fix=STRUCTURE)
    checks.number("hinge", "slope", slope, 0.0, open_minimum=True)
    checks.number("hinge", "grace", grace, 0.0)
    return lambda staleness: 1.0 if staleness <= grace else 1 / (slope * (staleness - grace) + 1)


def check_damping(where: str, staleness: Any) -> Damping:
    """A function of staleness, or constant() for None."""
    if staleness is None:
        return constant()
    if not callable(staleness):
        checks.fail(where, "staleness", "constant(), polynomial(a), hinge(a, b) or a function", repr(staleness))
    return staleness
