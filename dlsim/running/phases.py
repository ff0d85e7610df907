"""Phases: what the host does with the state of a run, or of several side by side, between compiled steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dlsim import checks
from dlsim.core import Phase, PyTree
from dlsim.running.identity import of_phase
from dlsim.running.meshes import put, to_host

if TYPE_CHECKING:
    from dlsim.running.programs import Carry, PhasePrograms


class Between:
    """Plays the phases of runs that go in step; they differ in the host's work alone."""

    def __init__(self, programs: PhasePrograms | None, phases: Sequence[Phase | None], has_runs: bool) -> None:
        self._programs, self._has_runs = programs, has_runs
        self._phases = [phase for phase in phases if phase is not None]

    def after(self, step: int, num_steps: int) -> int:
        """The step whose phase is the next one, or the last step where there is none."""
        return num_steps if self._programs is None else (step // self._programs.every + 1) * self._programs.every

    def is_due(self, step: int) -> bool:
        """Whether there is a phase after this step."""
        return self._programs is not None and step % self._programs.every == 0

    def play(self, carry: Carry, step: int) -> Carry:
        """The carry after the phase of the step that it has done."""
        assert self._programs is not None
        run_keys, view = self._programs.read(carry)
        view = jax.tree.map(to_host, view)
        if self._has_runs:
            each = [
                _worked(phase, run_keys[i], step, jax.tree.map(lambda leaf, i=i: leaf[i], view))
                for i, phase in enumerate(self._phases)
            ]
            new = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
        else:
            new = _worked(self._phases[0], run_keys, step, view)
        return self._programs.write(carry, jax.tree.map(_placed, new, self._programs.view))


def phase_identity(phases: Sequence[Phase | None]) -> dict[str, Any]:
    """What tells the checkpoints of runs with this phase from others; nothing where there is none."""
    return of_phase(next((phase for phase in phases if phase is not None), None))


def _worked(phase: Phase, key: Any, step: int, view: PyTree) -> PyTree:
    """What the host makes of one run's view, NumPy; of the structure, shapes and dtypes that it had, or one line."""
    new = phase.work(key, step, view)
    made, wanted = str(jax.tree.structure(new)), str(jax.tree.structure(view))
    if made != wanted:
        checks.fail("simulate", "process.phase.work", f"one that gives a view, {wanted}", made)

    def leaf(path: Any, made: Any, old: Any) -> np.ndarray:
        made = np.asarray(made)
        if made.shape != np.shape(old) or made.dtype != old.dtype:
            rule = f"one that gives {old.dtype}{list(np.shape(old))} at view{jax.tree_util.keystr(path)}"
            checks.fail("simulate", "process.phase.work", rule, f"{made.dtype}{list(made.shape)}")
        return made

    return jax.tree_util.tree_map_with_path(leaf, new, view)


def _placed(leaf: np.ndarray, like: Any) -> Any:
    sharding = getattr(like, "sharding", None)
    return leaf if sharding is None else put(leaf, sharding)
