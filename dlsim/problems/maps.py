"""What a problem knows beside its gradients, and what of it no longer holds where gradients are changed."""

from __future__ import annotations

from typing import Any

from dlsim.core import Problem

MAPS = ("proximal", "warm_proximal", "conjugate")  # of f_i itself: they would pass the change by


def without_maps(problem: Problem) -> Problem:
    """The problem without the maps of its f_i, for one whose gradients are no longer plain ones of f_i."""
    changed: dict[str, Any] = dict.fromkeys(MAPS)
    return problem._replace(**changed)
