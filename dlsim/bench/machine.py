"""What the machine can do by itself: the ceilings that workloads are measured against."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import sys
from typing import Any

import jax

from dlsim.sweeps.estimate import host_memory, machine_rates, memory_limit
from dlsim.version import __version__


def describe() -> dict[str, Any]:
    """Device, versions, load and date."""
    import importlib.metadata

    device = jax.devices()[0]
    return {
        "device": f"{device.platform} {device.device_kind}",
        "num_devices": len(jax.devices()),
        "num_cores": os.cpu_count(),
        "machine": platform.machine(),
        "dlsim": __version__,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "python": platform.python_version(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def ceilings(seconds: float) -> dict[str, float]:
    """Float32 product rate (flop/s), copy rate (bytes/s read and written), and free memory (bytes) of one device."""
    rates = machine_rates(seconds)
    return {
        "flops": rates.flops,
        "copy_bytes": rates.bytes,
        "memory_bytes": float(memory_limit()),
        "host_memory_bytes": float(host_memory()),
    }


def peak_bytes() -> int:
    """Most memory used so far: of the device, or of this process where the device is the CPU."""
    device = jax.devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
