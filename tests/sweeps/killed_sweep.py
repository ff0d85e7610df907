"""A sweep in a process of its own, to be killed: `python -m killed_sweep OUT [MOST]`; each block takes a moment, and after
MOST of them it waits for the end, so that a busy machine does not let it come through."""

from __future__ import annotations

import itertools
import sys
import time

import jax
from tiny_sweeps import walk

import dlsim
from dlsim.sweeps import engine

AXES = {"rate": [0.5, 0.6, 0.7, 0.8], "size": [2, 3]}
SETTINGS = {"seed": range(3), "num_steps": 60, "record": dlsim.Record(every=20), "progress": False, "layout": 2}


def run(out):
    devices = jax.devices()[:1]
    jax.local_devices = lambda: devices
    return dlsim.sweep(walk, AXES, out=out, lanes=2, **SETTINGS)


if __name__ == "__main__":
    play, turns = engine.play, itertools.count()
    most = int(sys.argv[2]) if len(sys.argv) > 2 else sys.maxsize

    def slow(*args, **more):
        time.sleep(0.15 if next(turns) < most else 1e6)
        return play(*args, **more)

    engine.play = slow
    engine.CHECKPOINT_SECONDS = 0.0
    try:
        run(sys.argv[1])
    except dlsim.Interrupted as stop:
        print(f"Interrupted: {stop}")
        sys.exit(130)
