"""dlsim: massive-scale, JAX-vectorised simulation of decentralised learning.

All nodes' parameters live in one stacked pytree and the whole population runs as one compiled program:

    problem = dlsim.problems.classification("digits", num_nodes=100, model="mlp")
    network = dlsim.networks.torus(100)
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.1))
    run = dlsim.simulate(dlsim.learn(problem, algorithm, network), seed=0, num_steps=500)
"""

# Nothing is imported before it is asked for: the command line is ready for Ctrl-C before JAX is there.
TYPE_CHECKING = False  # type checkers read it as True; `typing` itself would be the largest import here
if TYPE_CHECKING:
    from dlsim import (
        aggregators,
        algorithms,
        analysis,
        arrivals,
        clocks,
        environments,
        experiment,
        marl,
        networks,
        plotting,
        privacy,
        problems,
        trust,
    )
    from dlsim.core import (
        Aggregator,
        Algorithm,
        ArrivalAlgorithm,
        Channel,
        EventAlgorithm,
        Phase,
        Problem,
        Process,
        Record,
        Scenario,
    )
    from dlsim.learning import metrics
    from dlsim.learning.average import average
    from dlsim.learning.learn import learn
    from dlsim.running import meshes
    from dlsim.running.early import stop_at, stop_on_plateau
    from dlsim.running.saving import load, save
    from dlsim.running.simulate import Interrupted, Run, simulate
    from dlsim.sweeps import sweep
    from dlsim.version import __version__ as __version__

__all__ = [
    "Aggregator",
    "Algorithm",
    "ArrivalAlgorithm",
    "Channel",
    "EventAlgorithm",
    "Interrupted",
    "Phase",
    "Problem",
    "Process",
    "Record",
    "Run",
    "Scenario",
    "aggregators",
    "algorithms",
    "analysis",
    "arrivals",
    "average",
    "clocks",
    "environments",
    "experiment",
    "learn",
    "load",
    "marl",
    "meshes",
    "metrics",
    "networks",
    "plotting",
    "privacy",
    "problems",
    "save",
    "simulate",
    "stop_at",
    "stop_on_plateau",
    "sweep",
    "trust",
]

_HOMES = {
    "core": (
        "Aggregator", "Algorithm", "ArrivalAlgorithm", "Channel", "EventAlgorithm", "Phase", "Problem", "Process",
        "Record", "Scenario",
    ),
    "learning": ("metrics",),
    "learning.average": ("average",),
    "learning.learn": ("learn",),
    "running": ("meshes",),
    "running.early": ("stop_at", "stop_on_plateau"),
    "running.saving": ("load", "save"),
    "running.simulate": ("Interrupted", "Run", "simulate"),
    "sweeps": ("sweep",),
    "version": ("__version__",),
}  # where the names above are from; any other is a package or module of its own  # fmt: skip


def __getattr__(name: str) -> object:
    """A public name, or a room of the house, when it is first asked for."""
    import importlib
    import importlib.util

    home = next((place for place, names in _HOMES.items() if name in names), None)
    if home is not None:
        module = importlib.import_module(f"{__name__}.{home}")
        try:
            value: object = getattr(module, name)
        except AttributeError:  # a module that nobody has imported yet
            value = importlib.import_module(f"{module.__name__}.{name}")
    elif not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        import sys

        here = sys.modules[__name__]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=here)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
