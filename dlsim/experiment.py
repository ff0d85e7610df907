"""What an experiment file imports, and what runs one: the public face of `dlsim.studies`."""

from dlsim.results import Claim, SavedRun
from dlsim.studies.experiment import default_folder, run_experiment, sweep_experiment

__all__ = ["Claim", "SavedRun", "default_folder", "run_experiment", "sweep_experiment"]
