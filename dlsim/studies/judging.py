"""What an experiment file says of its runs: claims and a figure, also where its settings were changed under it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlsim.configs import Experiment
from dlsim.results import Claim, plain

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def judge(
    experiment: Experiment, mode: str, config: dict[str, Any], dataset: xarray.Dataset, is_own: bool
) -> tuple[list[Claim], Figure | None]:
    """The file's claims and figure, which are about the file's axes; of other axes an overview is drawn.

    A file is written for its own settings.  Where the user has changed them (one seed, one value of an axis, few steps)
    and its claims cannot be computed, they are undecided, and the reason is said in their place; its figure is then the
    overview.  With its own settings what fails is a mistake in the file, and is raised.

    Args:
      experiment: the file.
      mode: the mode that was run.
      config: the settings of the run.
      dataset: its results.
      is_own: whether the axes are those of the file.
    """
    module = experiment.module
    if not is_own:
        return [], _overview(dataset)
    is_changed = plain(module.get_config(mode).to_dict()) != plain(config)
    made: list[Claim] = []
    try:
        made = module.claims(dataset) if hasattr(module, "claims") else []
    except Exception as error:
        if not is_changed:
            raise
        made = [_undecided(experiment, dataset, error)]
    try:
        return made, module.figure(dataset) if hasattr(module, "figure") else None
    except Exception:
        if not is_changed:
            raise
        return made, _overview(dataset)


def _overview(dataset: xarray.Dataset) -> Figure:
    from dlsim.plotting.overview import overview

    return overview(dataset)


def _undecided(experiment: Experiment, dataset: xarray.Dataset, error: Exception) -> Claim:
    """One claim in place of all."""
    sizes = ", ".join(f"{size} {name}" for name, size in dataset.sizes.items() if name in dataset.coords)
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Claim(
        text=f"The claims of {experiment.name}, with settings that are not its own",
        source="the experiment file",
        reported="decided with the file's own settings",
        measured=f"not decided: {reason[:200]} ({sizes})",
        holds=None,
    )
