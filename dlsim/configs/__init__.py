"""Experiment files and their settings, as `run`, `sweep` and `reproduce` read them."""

from dlsim.configs.experiment_file import (
    MODES,
    NEEDED,
    Experiment,
    apply_overrides,
    assign,
    cited,
    flatten,
    load_experiment,
    make_config,
    parse_items,
    split_mode,
)

__all__ = [
    "MODES",
    "NEEDED",
    "Experiment",
    "apply_overrides",
    "assign",
    "cited",
    "flatten",
    "load_experiment",
    "make_config",
    "parse_items",
    "split_mode",
]
