"""What was chosen for the user is said where the user sees it: a warning of one line, at the user's own line of code."""

from __future__ import annotations

import sys
import warnings


def notice(where: str, message: str) -> None:
    """Warn in one line, `<where>: <message>`, from the first caller that is not dlsim itself."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("dlsim."):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{where}: {message}", stacklevel=level)
