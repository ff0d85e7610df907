"""Ends of the spectra of large sparse matrices: Lanczos first, shift and invert where that does not converge.

A wide gap is what Lanczos finds in few products; a narrow one belongs to a graph with small separators, which a sparse
Cholesky-like factorisation keeps sparse.  So one of the two is always cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_NARROW = 3e-3  # of the norm: below, Lanczos needs thousands of products and loses digits
_RESTARTS = 500
_VECTORS = 40
_SHIFT = 1e-10


def symmetric_gap(matrix: Any) -> float:
    """1 - rho of a symmetric, doubly stochastic, non-negative, connected CSR matrix W."""
    from scipy.sparse import diags_array

    off = matrix - diags_array(matrix.diagonal())
    given = np.asarray(off.sum(axis=1)).ravel()
    # I - W as the Laplacian of its own edges: the rows sum to zero whatever float32 made of the diagonal.
    top = smallest_positive((diags_array(given) - off).tocsr())
    lowest_bound = 1 - 2 * float(given.max())  # Gershgorin: no eigenvalue of W lies below
    if -lowest_bound <= 1 - top:
        return top
    bottom = _smallest((diags_array(2 - given) + off).tocsr(), skip_constant=False)
    return min(top, 1 - abs(bottom - 1))


def second_modulus(matrix: Any) -> float:
    """The second largest modulus among the eigenvalues of a row-stochastic CSR matrix, not symmetric."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

    size = matrix.shape[0]
    # Brauer: taking 1 v^T from W, with v^T 1 = 1, moves the eigenvalue 1 to 0 and no other.
    operator = LinearOperator(matrix.shape, matvec=lambda x: matrix @ x - np.mean(x), dtype=np.float64)
    try:
        settings = {"tol": 1e-9, "ncv": _VECTORS, "maxiter": _RESTARTS, "return_eigenvectors": False}
        values = eigs(operator, k=2, which="LM", v0=_start(size), **settings)
    except ArpackNoConvergence as error:
        message = f"second_eigenvalue: the sparse solver did not converge on {size} nodes (a very narrow gap)."
        raise RuntimeError(message) from error
    return float(np.abs(values).max())


def squared_norm_off_mean(matrix: Any) -> float:
    """||W - 1 1^T / N||_2^2 of a row-stochastic CSR matrix."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    transposed = matrix.T.tocsr()

    def product(x: np.ndarray) -> np.ndarray:
        y = matrix @ x - np.mean(x)
        return transposed @ y - np.mean(y)

    operator = LinearOperator(matrix.shape, matvec=product, dtype=np.float64)
    return float(eigsh(operator, k=1, which="LA", v0=_start(matrix.shape[0]), tol=1e-9, return_eigenvectors=False)[0])


def smallest_positive(matrix: Any) -> float:
    """The second smallest eigenvalue of the Laplacian (CSR) of a connected graph."""
    return _smallest(matrix, skip_constant=True)


def largest(matrix: Any) -> float:
    """The largest eigenvalue of a Laplacian (CSR)."""
    from scipy.sparse.linalg import eigsh

    return float(eigsh(matrix, k=1, which="LA", v0=_start(matrix.shape[0]), tol=1e-6, return_eigenvectors=False)[0])


def factorise(matrix: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The solver of a symmetric positive definite sparse matrix."""
    from scipy.sparse.linalg import splu

    options = {"SymmetricMode": True}
    factor = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    return factor.solve


def _smallest(matrix: Any, skip_constant: bool) -> float:
    """The smallest eigenvalue of a positive semidefinite matrix; `skip_constant` leaves out its kernel, span(1)."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    size = matrix.shape[0]
    norm = float(abs(matrix).sum(axis=1).max())

    def flipped(x: np.ndarray) -> np.ndarray:
        x = x.ravel()
        return norm * (x - np.mean(x) if skip_constant else x) - matrix @ x

    operator = LinearOperator(matrix.shape, matvec=flipped, dtype=np.float64)
    # A rough vector tells a wide gap from a narrow one; to the last digits, Lanczos is for the wide.
    rough, vector = eigsh(operator, k=1, which="LA", v0=_start(size), ncv=_VECTORS, tol=1e-3)
    if norm - rough[0] > _NARROW * norm:
        try:
            settings = {"ncv": _VECTORS, "tol": 1e-8, "maxiter": _RESTARTS, "return_eigenvectors": False}
            return float(norm - eigsh(operator, k=1, which="LA", v0=vector[:, 0], **settings)[0])
        except ArpackNoConvergence:
            pass
    inverse = _pseudo_inverse(matrix) if skip_constant else factorise(_shifted(matrix, norm))
    operator = LinearOperator(matrix.shape, matvec=lambda x: inverse(x.ravel()), dtype=np.float64)
    try:
        settings = {"tol": 1e-9, "maxiter": 1000, "return_eigenvectors": False}
        value = 1 / eigsh(operator, k=1, which="LM", v0=_start(size), **settings)[0]
    except ArpackNoConvergence as error:
        raise RuntimeError(f"spectral_gap: the sparse solver did not converge on {size} nodes.") from error
    return float(value if skip_constant else max(value - _SHIFT * norm, 0.0))  # float32 may leave a zero just below


def _shifted(matrix: Any, norm: float) -> Any:
    from scipy.sparse import eye_array

    return matrix + _SHIFT * norm * eye_array(matrix.shape[0])


def _pseudo_inverse(matrix: Any) -> Callable[[np.ndarray], np.ndarray]:
    """x -> L^+ x of a connected graph's Laplacian: one node grounded, both ends freed of their mean."""
    solve = factorise(matrix[:-1, :-1])

    def apply(x: np.ndarray) -> np.ndarray:
        y = np.append(solve((x - np.mean(x))[:-1]), 0.0)
        return y - np.mean(y)

    return apply


def _start(size: int) -> np.ndarray:
    """A start without symmetry, the same in every run."""
    return np.random.default_rng(0).standard_normal(size)
