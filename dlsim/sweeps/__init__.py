"""Many runs as few programs."""

from dlsim.sweeps.api import sweep

__all__ = ["sweep"]
