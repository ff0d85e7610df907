"""How a node turns what it heard into one value: one rule a file."""

from dlsim.aggregators.aligned import align, aligned
from dlsim.aggregators.assignment import linear_assignment
from dlsim.aggregators.bristle import bristle
from dlsim.aggregators.bucketing import bucketing
from dlsim.aggregators.bulyan import bulyan
from dlsim.aggregators.by_node import by_node
from dlsim.aggregators.caf import caf
from dlsim.aggregators.centered_clipping import centered_clipping
from dlsim.aggregators.cge import cge
from dlsim.aggregators.clipped import adaptive_robust_clipping, norm_clipping
from dlsim.aggregators.flag import flag, flag_qualities
from dlsim.aggregators.foolsgold import foolsgold
from dlsim.aggregators.geometric_median import geometric_median
from dlsim.aggregators.krum import krum
from dlsim.aggregators.matching import Matching, activation_matching, weight_matching
from dlsim.aggregators.mean import mean
from dlsim.aggregators.mean_around_median import mean_around_median
from dlsim.aggregators.median import median
from dlsim.aggregators.minimum_diameter import minimum_diameter
from dlsim.aggregators.mozi import mozi
from dlsim.aggregators.nearest_neighbor_mixing import nearest_neighbor_mixing
from dlsim.aggregators.self_centered_clipping import self_centered_clipping
from dlsim.aggregators.sybil_wall import sybil_wall
from dlsim.aggregators.trimmed_mean import trimmed_mean
from dlsim.aggregators.variance_corrected import variance_corrected

__all__ = [
    "Matching",
    "activation_matching",
    "adaptive_robust_clipping",
    "align",
    "aligned",
    "bristle",
    "bucketing",
    "bulyan",
    "by_node",
    "caf",
    "centered_clipping",
    "cge",
    "flag",
    "flag_qualities",
    "foolsgold",
    "geometric_median",
    "krum",
    "linear_assignment",
    "mean",
    "mean_around_median",
    "median",
    "minimum_diameter",
    "mozi",
    "nearest_neighbor_mixing",
    "norm_clipping",
    "self_centered_clipping",
    "sybil_wall",
    "trimmed_mean",
    "variance_corrected",
    "weight_matching",
]
