"""dlsim: massive-scale, JAX-vectorised simulation of decentralised learning.

All nodes' parameters live in one stacked pytree and the whole population runs as one compiled program:

    problem = dlsim.problems.classification("digits", num_nodes=100, model="mlp")
    network = dlsim.networks.torus(100)
    algorithm = dlsim.algorithms.dsgd(problem, optax.sgd(0.1))
    run = dlsim.simulate(dlsim.learn(problem, algorithm, network), seed=0, num_steps=500)
"""

from dlsim import aggregators, algorithms, analysis, arrivals, clocks, environments, marl, networks, problems
from dlsim.core import (
    Aggregator,
    Algorithm,
    ArrivalAlgorithm,
    Channel,
    EventAlgorithm,
    Problem,
    Process,
    Record,
    Scenario,
)
from dlsim.learning import metrics
from dlsim.learning.learn import learn
from dlsim.running import meshes
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
    "Problem",
    "Process",
    "Record",
    "Run",
    "Scenario",
    "aggregators",
    "algorithms",
    "analysis",
    "arrivals",
    "clocks",
    "environments",
    "learn",
    "marl",
    "meshes",
    "metrics",
    "networks",
    "problems",
    "simulate",
    "sweep",
]
