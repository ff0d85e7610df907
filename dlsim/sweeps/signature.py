"""The signature of a program: equal for runs that differ in data alone.

Two traced processes share their programs when the same primitives are applied in the same order to arrays of the same
shapes, with the same literals.  What a process closes over is data and counts by shape; what a jitted function inside
it has baked in is part of the program and counts by content.  A function of the host, or any other object that cannot
be read, is the same only as itself: rather a program too many than two programs taken for one.
"""

from __future__ import annotations

import hashlib
import sys

import jax
import numpy as np

from dlsim.running.jaxpr_text import Walk, content
from dlsim.running.programs import Traced

__all__ = ["content", "signature"]


def signature(traced: Traced) -> str:
    """Digest of the functions of a process; to compare while the processes are alive."""
    digest = hashlib.sha256(f"{traced.every}".encode() if traced.every else b"")
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):  # arrays inside of other objects, in full
        for part in traced.parts:
            digest.update(Walk(opaque=lambda value: str(id(value))).jaxpr(part.closed.jaxpr).encode())
            digest.update(str(jax.tree.structure(part.shapes)).encode())
    return digest.hexdigest()
