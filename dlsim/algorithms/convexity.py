"""How curved the nodes' objectives are: what methods with a proven rate are set by."""

from __future__ import annotations

from typing import Any

from dlsim import checks
from dlsim.core import Problem


def convexity_of(where: str, problem: Problem, strong_convexity: Any, smoothness: Any) -> tuple[Any, Any]:
    """mu and L with 0 < mu <= L, as far as they are known; None: those that the problem knows of."""
    checks.instance(where, "problem", problem, Problem, "See dlsim.problems.")
    values = []
    for name, given in (("strong_convexity", strong_convexity), ("smoothness", smoothness)):
        known = getattr(problem, name)
        if given is None and known is None:
            checks.fail(where, name, "given for a problem that does not know it", "None", f"Pass {name}=1.0, say.")
        value = known() if given is None else given
        checks.number(where, name, value, 0.0, open_minimum=True)
        values.append(value)
    mu, smooth = values
    # A number that only float32 knows may be off in the last place.
    if checks.is_concrete(mu) and checks.is_concrete(smooth) and float(smooth) < float(mu) * (1 - 1e-6):
        fix = "L is never below mu."
        checks.fail(where, "smoothness", f"at least strong_convexity, {float(mu):g}", float(smooth), fix)
    return mu, smooth
