"""What compressors have in common: how much of a message is on the air, how much of it is kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlsim import checks
from dlsim.core import Array, Packet, PyTree


def stateless(message: PyTree, num_senders: int) -> tuple[()]:
    """The state of a channel without memory."""
    del message, num_senders
    return ()


def is_sent(flat: Array, packet: Packet) -> Array:
    """Which numbers are on the air, bool `[n, D]`: all, or after a sparsifier those that are not zero."""
    return (flat != 0) | (packet.num_entries >= flat.shape[1])[:, None]


def num_kept(fraction: float | int, dimension: int) -> int:
    """How many of D numbers a fraction, or count, keeps."""
    return min(fraction if isinstance(fraction, int) else max(1, round(float(fraction) * dimension)), dimension)


def check_fraction(where: str, fraction: Any) -> Any:
    """A float in (0, 1], or a count of at least one as an int."""
    if isinstance(fraction, int | np.integer) and not isinstance(fraction, bool):
        return checks.integer(where, "fraction", fraction, 1)
    checks.known(where, "fraction", fraction, "known while tracing (it sets shapes)", "Sweep it as structure.")
    return checks.number(where, "fraction", fraction, 0.0, 1.0, open_minimum=True)
