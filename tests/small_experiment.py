"""An experiment that runs in a second: quadratics on two graphs.  The tests run it; DLSIM_TEST_SLOW slows it down."""

from __future__ import annotations

import os
import time

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim.studies.experiment import Claim

MODES = ("default", "tiny")


def get_config(mode="default"):
    config = ConfigDict()
    config.num_seeds = 2
    config.num_steps = 6 if mode == "tiny" else 40
    config.learning_rate = 0.1
    config.topology = ("ring", "complete")
    config.is_heavy = False
    config.problem = ConfigDict({"num_nodes": 5, "name": "quadratic"})
    config.weights = (1.0, 2.0)
    return config


def axes(config):
    return {"topology": config.topology}


def build(config):
    if config.topology not in ("ring", "complete"):
        raise ValueError(f"small: topology must be one of ring, complete, got {config.topology!r}.")
    problem = dlsim.problems.quadratic(config.problem.num_nodes, 3, seed=0)
    network = getattr(dlsim.networks, config.topology)(config.problem.num_nodes)
    process = dlsim.learn(problem, dlsim.algorithms.dsgd(problem, optax.sgd(config.learning_rate)), network)
    return _slowed(process), dlsim.Record(every=2)


def _slowed(process):
    """The same process, each step of which takes as long as DLSIM_TEST_SLOW says."""
    seconds = float(os.environ.get("DLSIM_TEST_SLOW", "0"))
    if not seconds:
        return process

    def step(key, state):
        jax.debug.callback(lambda: time.sleep(seconds))
        return process.step(key, state)

    return process._replace(step=step)


def claims(results):
    last = results.consensus_distance.isel(step=-1)
    held = bool((last.sel(topology="complete") < 1e-6).all()) if "complete" in results.topology else None
    return [Claim("the complete graph agrees", "arithmetic", "0", f"{float(np.max(last)):.1e}", held)]


def figure(results):
    from dlsim import plotting

    with plotting.style():
        made, panels = plotting.panels(1, 1, width=plotting.COLUMN)
        plotting.curves(panels[0, 0], results.consensus_distance, "topology", log=True)
    return made
