"""How a node turns what it heard into one value: one rule a file."""

from dlsim.aggregators.aligned import align, aligned
from dlsim.aggregators.assignment import linear_assignment
from dlsim.aggregators.geometric_median import geometric_median
from dlsim.aggregators.krum import krum
from dlsim.aggregators.matching import Matching, activation_matching, weight_matching
from dlsim.aggregators.mean import mean
from dlsim.aggregators.median import median
from dlsim.aggregators.self_centered_clipping import self_centered_clipping
from dlsim.aggregators.trimmed_mean import trimmed_mean

__all__ = [
    "Matching",
    "activation_matching",
    "align",
    "aligned",
    "geometric_median",
    "krum",
    "linear_assignment",
    "mean",
    "median",
    "self_centered_clipping",
    "trimmed_mean",
    "weight_matching",
]
