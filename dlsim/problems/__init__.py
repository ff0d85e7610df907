"""What the nodes want: data sets, who holds what, models, objectives."""

from dlsim.problems.blocks import auto_block, map_nodes
from dlsim.problems.bootstrap import bootstrap
from dlsim.problems.classification import classification
from dlsim.problems.consensus import consensus
from dlsim.problems.convolution import avg_pool, conv_general_dilated, max_pool
from dlsim.problems.data import Dataset, dataset, load, synthetic_classification
from dlsim.problems.hidden_units import HiddenUnits, batch_statistics, hidden_units
from dlsim.problems.index_lists import Partition, partition, partition_from_lists
from dlsim.problems.language_models import lstm, transformer
from dlsim.problems.least_squares import least_squares
from dlsim.problems.local_test import local_test
from dlsim.problems.logistic import logistic_regression
from dlsim.problems.models import Model, from_flax, lenet, mlp, softmax_regression
from dlsim.problems.one_class_svm import one_class_svm
from dlsim.problems.own_classes import own_classes
from dlsim.problems.own_data import own_losses, own_outputs
from dlsim.problems.partition import (
    by_column,
    concept_shift,
    dirichlet,
    feature_shift,
    iid,
    pathological,
    quantity_skew,
    rotation_shift,
    shards,
)
from dlsim.problems.partition_plot import describe, plot_partition
from dlsim.problems.poisoning import (
    Trigger,
    backdoor,
    free_riders,
    label_flip,
    pixel_trigger,
    with_backdoor_rate,
    with_flip_rate,
)
from dlsim.problems.quadratic import quadratic
from dlsim.problems.sampling import batch_positions
from dlsim.problems.shared_inputs import shared_inputs
from dlsim.problems.sharpness import sharpness_aware
from dlsim.problems.supervised import supervised
from dlsim.problems.text import language_model, text_dataset
from dlsim.problems.variables import Variables
from dlsim.problems.zeroth_order import zeroth_order

__all__ = [
    "Dataset",
    "HiddenUnits",
    "Model",
    "Partition",
    "Trigger",
    "Variables",
    "auto_block",
    "avg_pool",
    "backdoor",
    "batch_positions",
    "batch_statistics",
    "bootstrap",
    "by_column",
    "classification",
    "concept_shift",
    "consensus",
    "conv_general_dilated",
    "dataset",
    "describe",
    "dirichlet",
    "feature_shift",
    "free_riders",
    "from_flax",
    "hidden_units",
    "iid",
    "label_flip",
    "language_model",
    "least_squares",
    "lenet",
    "load",
    "local_test",
    "logistic_regression",
    "lstm",
    "map_nodes",
    "max_pool",
    "mlp",
    "one_class_svm",
    "own_classes",
    "own_losses",
    "own_outputs",
    "partition",
    "partition_from_lists",
    "pathological",
    "pixel_trigger",
    "plot_partition",
    "quadratic",
    "quantity_skew",
    "rotation_shift",
    "shards",
    "shared_inputs",
    "sharpness_aware",
    "softmax_regression",
    "supervised",
    "synthetic_classification",
    "text_dataset",
    "transformer",
    "with_backdoor_rate",
    "with_flip_rate",
    "zeroth_order",
]
