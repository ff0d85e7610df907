"""How a node turns what it heard into one value: one rule a file."""

from dlsim.aggregators.geometric_median import geometric_median
from dlsim.aggregators.krum import krum
from dlsim.aggregators.mean import mean
from dlsim.aggregators.median import median
from dlsim.aggregators.self_centered_clipping import self_centered_clipping
from dlsim.aggregators.trimmed_mean import trimmed_mean
from dlsim.aggregators.variance_corrected import variance_corrected

__all__ = [
    "geometric_median",
    "krum",
    "mean",
    "median",
    "self_centered_clipping",
    "trimmed_mean",
    "variance_corrected",
]
