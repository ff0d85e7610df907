"""Named status bits: what went wrong inside a compiled run, when first, and at which node."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim.running.meshes import gathered

Array = jax.Array

NOT_FINITE = 1 << 0  # a node's loss or parameters are NaN or infinite
BUFFER_OVERFLOW = 1 << 1  # a fixed-capacity buffer was full
ISOLATED_NODE = 1 << 2  # a present node had no working link
EMPTY_COHORT = 1 << 3  # the server asked nodes and none was there
WEIGHTS_NOT_STOCHASTIC = 1 << 4  # mixing weights made in the step do not sum to one
NOBODY_PRESENT = 1 << 5  # every node was away

NAMES = {
    NOT_FINITE: "NOT_FINITE",
    BUFFER_OVERFLOW: "BUFFER_OVERFLOW",
    ISOLATED_NODE: "ISOLATED_NODE",
    EMPTY_COHORT: "EMPTY_COHORT",
    WEIGHTS_NOT_STOCHASTIC: "WEIGHTS_NOT_STOCHASTIC",
    NOBODY_PRESENT: "NOBODY_PRESENT",
}
MEANINGS = {
    NOT_FINITE: "a node diverged (lower the learning rate)",
    BUFFER_OVERFLOW: "a buffer was full and entries were dropped (raise its capacity)",
    ISOLATED_NODE: "a present node heard nobody in that round",
    EMPTY_COHORT: "nobody of the cohort was there and the server kept its model",
    WEIGHTS_NOT_STOCHASTIC: "mixing weights did not sum to one",
    NOBODY_PRESENT: "nobody was there in that round",
}
ERRORS = NOT_FINITE | BUFFER_OVERFLOW | WEIGHTS_NOT_STOCHASTIC  # the rest are remarks
_BITS = tuple(NAMES)


class StatusLog(NamedTuple):
    """All bits seen so far, and the first step and node of each (-1: not seen, or of no node)."""

    bits: Array  # uint32 []
    first_step: Array  # int32 [number of bits]
    first_node: Array  # int32 [number of bits]


def empty_log() -> StatusLog:
    """The log of a run in which nothing has happened."""
    nothing = jnp.full(len(_BITS), -1, jnp.int32)
    return StatusLog(bits=jnp.zeros((), jnp.uint32), first_step=nothing, first_node=nothing)


def flag(condition: Array, bit: int) -> Array:
    """`bit` where the condition holds, uint32 of the condition's shape."""
    return jnp.where(condition, jnp.uint32(bit), jnp.uint32(0))


def update(log: StatusLog, status: Array, step: Array) -> StatusLog:
    """The log after a step whose status is uint32 `[]` or `[n]` (by node)."""
    rows = gathered(jnp.atleast_1d(status))  # not every engine can reduce by "or" across devices
    seen = jax.lax.reduce(rows, jnp.uint32(0), jax.lax.bitwise_or, (0,))

    def note(log: StatusLog) -> StatusLog:
        bits = jnp.asarray(_BITS, jnp.uint32)
        is_new = ((seen & bits) > 0) & (log.first_step < 0)
        node = jnp.argmax((rows[:, None] & bits) > 0, axis=0).astype(jnp.int32)
        node = node if status.ndim else jnp.full_like(node, -1)
        return StatusLog(
            bits=log.bits | seen,
            first_step=jnp.where(is_new, step.astype(jnp.int32), log.first_step),
            first_node=jnp.where(is_new, node, log.first_node),
        )

    # New bits are rare: the common round pays for one reduction.
    return jax.lax.cond((seen & ~log.bits) > 0, note, lambda log: log, log)


class Status:
    """The log on the host: `ok`, `bits`, `report()`, `first(bit) -> (step, node)`; one row a seed.

    `stopped` says why a run with `stop` ended, and is empty for any other.
    """

    def __init__(self, log: StatusLog, seeds: list[Any] | None = None, stopped: str = "") -> None:
        self.bits = np.atleast_1d(np.asarray(log.bits))
        self.first_step = np.asarray(log.first_step).reshape(len(self.bits), -1)
        self.first_node = np.asarray(log.first_node).reshape(len(self.bits), -1)
        self.seeds = seeds
        self.stopped = stopped  # why the run ended, where `stop` was given

    @property
    def ok(self) -> bool:
        """Whether every run is free of errors (remarks aside)."""
        return not bool((self.bits & np.uint32(ERRORS)).any())

    def first(self, bit: int, run: int = 0) -> tuple[int, int] | None:
        """First step and node (-1: none) at which the bit was set, or None if it never was."""
        index = _BITS.index(bit)
        step = int(self.first_step[run, index])
        return None if step < 0 else (step, int(self.first_node[run, index]))

    def report(self) -> list[str]:
        """One line a bit and run."""
        lines = []
        for run in range(len(self.bits)):
            for bit in _BITS:
                found = self.first(bit, run)
                if found is None:
                    continue
                where = f"step {found[0]}" + (f", node {found[1]}" if found[1] >= 0 else "")
                who = "" if self.seeds is None else f" (seed {self.seeds[run]})"
                lines.append(f"{NAMES[bit]} first at {where}{who}: {MEANINGS[bit]}")
        return lines

    def __repr__(self) -> str:
        return "Status(ok)" if not self.report() else "Status(" + "; ".join(self.report()) + ")"
