"""What runs need, before they run: bytes from their shapes, seconds from their operations and the machine's rates."""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.running.programs import CHUNK_RECORDS
from dlsim.sweeps.groups import Group, bytes_of

STATE_COPIES = 3.5  # the state, its copy in the loop, gradients with their batches: the most a run is meant to take
EFFICIENCY = 0.25  # of the product rate; `dlsim bench` has 0.1 to 0.3 on 2 cores
STATE_PASSES = 4  # times a step reads or writes the state
SECONDS_AN_OPERATION = {"cpu": 1e-6, "gpu": 4e-6, "tpu": 4e-6}
HEADROOM = 0.9  # of the memory there is


class Rates(NamedTuple):
    """What the machine can do, per device."""

    flops: float  # float32 products, 1/s
    bytes: float  # copied, 1/s: read and written each count


class Need(NamedTuple):
    """What a group needs."""

    shared_bytes: int  # once a device
    run_bytes: int  # for each run that is held at a time
    step_seconds: float  # of one run; a rough estimate, within a factor of about three

    def over(self, num_devices: int) -> Need:
        """The need of each of several devices that share the nodes of a run."""
        return self._replace(run_bytes=self.run_bytes // num_devices, step_seconds=self.step_seconds / num_devices)

    def bytes(self, runs: int) -> int:
        return self.shared_bytes + runs * self.run_bytes


def need(group: Group, rates: Rates) -> Need:
    """The need of one run of `group`, from shapes and from XLA's count of operations; nothing is compiled."""
    own = [leaf for part in group.constants[0] for leaf in part if leaf is not None]
    every = [leaf for part in group.traced.constants for leaf in part]
    own_bytes = sum(bytes_of(leaf) for leaf in own)
    state = group.state_bytes
    row = sum(bytes_of(leaf) for leaf in jax.tree.leaves(group.traced.measure.shapes))
    flops, operations = _work(group)
    platform = jax.default_backend()
    seconds = (
        operations * SECONDS_AN_OPERATION.get(platform, 4e-6)
        + flops / (EFFICIENCY * rates.flops)
        + STATE_PASSES * state / rates.bytes
    )
    return Need(
        shared_bytes=sum(bytes_of(leaf) for leaf in every) - own_bytes,
        run_bytes=int(STATE_COPIES * state) + own_bytes + CHUNK_RECORDS * row,
        step_seconds=seconds,
    )


def _work(group: Group) -> tuple[float, int]:
    """Floating-point operations and array operations of one step, loops counted once."""
    step = group.traced.step
    values = dict.fromkeys(group.members[0].values, 0.0)
    arguments = (list(step.closed.consts), values, jax.random.key(0), group.traced.init.shapes)
    found = jax.jit(step.fn).lower(*arguments).cost_analysis() or {}
    return float(found.get("flops", 0.0)), len(step.closed.jaxpr.eqns)


def machine_rates(seconds: float = 0.05) -> Rates:
    """The product and copy rates of one device, the best of a few tries of `seconds` in all, each."""
    n = 1024 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), jnp.float32)
    flops = 2 * n**3 / _best(jax.jit(lambda x: x @ x), a, seconds)
    b = jnp.ones(2**24 if jax.default_backend() == "cpu" else 2**28, jnp.float32)
    moved = 2 * b.nbytes / _best(jax.jit(lambda x: x + 1), b, seconds)
    return Rates(flops=flops, bytes=moved)


def _best(fn: Any, argument: Any, seconds: float) -> float:
    jax.block_until_ready(fn(argument))
    best, began = np.inf, time.perf_counter()
    while time.perf_counter() - began < seconds:
        before = time.perf_counter()
        jax.block_until_ready(fn(argument))
        best = min(best, time.perf_counter() - before)
    return best


def memory_limit(device: Any = None) -> int:
    """Bytes that a device has left; on a CPU, that the machine has."""
    device = jax.devices()[0] if device is None else device
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return host_memory()


def host_memory() -> int:
    """Bytes of main memory that are free for use, also under a limit of a container."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        group = pathlib.Path("/sys/fs/cgroup")
        free = min(
            free,
            int((group / "memory.max").read_text(encoding="utf-8"))
            - int((group / "memory.current").read_text(encoding="utf-8")),
        )
    except (OSError, ValueError, StopIteration):
        pass
    return free


def parse_memory(value: Any) -> int:
    """Bytes of `8e9`, `"8GiB"`, `"500MB"`."""
    units = {"": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
    text = str(value).strip().lower().replace(" ", "")
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(number) :]
    try:
        size = float(number) * units[unit.rstrip("b") + "b" if unit else ""]
    except (ValueError, KeyError):
        checks.fail("sweep", "memory", "a size such as 8GiB or 500MB", repr(value))
    if not size >= 1 or not np.isfinite(size):
        checks.fail("sweep", "memory", "a size such as 8GiB or 500MB", repr(value))
    return int(size)


def readable(size: float) -> str:
    """Bytes with a unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit in ("B", "KiB") else f"{size:.1f} {unit}"
        size /= 1024
    return ""


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
