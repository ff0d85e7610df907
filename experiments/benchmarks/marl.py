"""How many environment steps a second does IPPO train on, against JaxMARL's own script with the same settings?

Command: `python experiments/benchmarks/marl.py [--script ippo_ff_mpe.py]`

Simple spread, feed-forward IPPO, shared parameters: 16 copies, 128 steps, 4 epochs of 4 minibatches, two layers of 64, a
rate that falls to 0 over the run.  The whole run of 40 updates is one compiled program; compiling is not counted.  The
script is `baselines/IPPO/ippo_ff_mpe.py` of github.com/FLAIROx/JaxMARL (its package holds environments only), which needs
`pip install jaxmarl==0.2.0 distrax`; its logging is switched off.  The two take turns, five times each after a warm-up, in
one process; medians are given.

Measured 2026-11-28, 2 cores (x86_64), jax 0.10.2, nothing else on them: shared parameters 63,100 steps/s (60,800 to 63,900),
one network an agent with gossip 50,600, the script 56,600 (55,500 to 56,900): 1.11 times its rate with the same settings.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import machine

import dlsim
from dlsim import marl

NUM_UPDATES, NUM_REPEATS = 40, 5
NUM_STEPS = NUM_UPDATES * 16 * 128


def ours(sharing: marl.Sharing) -> Callable[[jax.Array], jax.Array]:
    """A run of ours, as a function of its key."""
    rate = optax.linear_schedule(2.5e-4, 0.0, NUM_UPDATES * 16)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, eps=1e-5))
    learner = marl.ippo(dlsim.environments.simple_spread(), optimizer, sharing=sharing)
    process = marl.train(learner)

    def run(key: jax.Array) -> jax.Array:
        state = process.init(key)
        step = lambda state, t: (process.step(jax.random.fold_in(key, t), state)[0], None)  # noqa: E731
        return jax.lax.scan(step, state, jnp.arange(NUM_UPDATES))[0].algorithm.params

    return jax.jit(run)


def theirs(path: str) -> Callable[[jax.Array], jax.Array]:
    """A run of JaxMARL's script."""
    for name in ("wandb", "hydra", "omegaconf"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["wandb"].log = lambda metric: None
    sys.modules["hydra"].main = lambda **options: lambda function: function
    sys.modules["omegaconf"].OmegaConf = object
    spec = importlib.util.spec_from_file_location("jaxmarl_script", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    config = {
        "LR": 2.5e-4,
        "NUM_ENVS": 16,
        "NUM_STEPS": 128,
        "TOTAL_TIMESTEPS": NUM_STEPS,
        "UPDATE_EPOCHS": 4,
        "NUM_MINIBATCHES": 4,
        "GAMMA": 0.99,
        "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2,
        "ENT_COEF": 0.01,
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": "tanh",
        "ENV_NAME": "MPE_simple_spread_v3",
        "ENV_KWARGS": {},
        "ANNEAL_LR": True,
    }
    return jax.jit(script.make_train(config))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", help="JaxMARL's baselines/IPPO/ippo_ff_mpe.py")
    arguments = parser.parse_args()
    print(machine())
    runs = {
        "shared parameters": ours(marl.share_parameters()),
        "one network an agent, gossip": ours(marl.gossip()),
    }
    if arguments.script:
        runs["JaxMARL's script"] = theirs(arguments.script)
    seconds = {name: [] for name in runs}
    for repeat in range(NUM_REPEATS + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run(jax.random.PRNGKey(repeat)))
            seconds[name].append(time.perf_counter() - began)
    for name, times in seconds.items():
        rates = NUM_STEPS / np.array(times[1:])
        print(f"{name:30s} {np.median(rates):9,.0f} steps/s ({rates.min():,.0f} to {rates.max():,.0f})")


if __name__ == "__main__":
    main()
