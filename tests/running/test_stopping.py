"""Signals to a run in Python: SIGTERM where there is a folder, other handlers left alone, none lost."""

from __future__ import annotations

import pathlib
import signal
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from toys import walk

import dlsim
from dlsim import Record, simulate
from dlsim.core import Array, Process, PyTree
from dlsim.running import loop
from dlsim.running.stopping import Interrupts

NAMES = ("SIGINT", "SIGTERM")


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    held = {name: signal.getsignal(getattr(signal, name)) for name in NAMES}
    yield
    for name, handler in held.items():
        signal.signal(getattr(signal, name), handler)


def signalled(number: int, at: int, times: int = 1) -> Process:
    """A walk in whose step `at` the process gets a signal."""
    process, seen = walk(), []

    def told(step: object) -> None:
        if int(step) == at and not seen:  # type: ignore[call-overload]
            seen.append(1)
            for _ in range(times):
                signal.pthread_kill(signal_thread, number)

    import threading

    signal_thread = threading.main_thread().ident or 0

    def step(key: Array, state: PyTree) -> tuple[PyTree, dict[str, Array]]:
        jax.debug.callback(told, state.spent.low, ordered=True)
        return process.step(key, state)

    return process._replace(step=step)


def test_sigterm_saves_where_there_is_a_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    folder = str(tmp_path / "run")
    first = int(simulate(walk(), seed=3, num_steps=1, record=Record(every=1)).results.spent[1])
    with pytest.raises(dlsim.Interrupted, match="stopped at step .* of 30 by SIGTERM") as stopped:
        simulate(signalled(signal.SIGTERM, first), seed=3, num_steps=30, record=Record(every=7), checkpoint_dir=folder)
    assert stopped.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    whole = simulate(walk(), seed=3, num_steps=30, record=Record(every=7))
    again = signalled(signal.SIGTERM, first)  # the same process: the signal came in a step that is done
    resumed = simulate(again, seed=3, num_steps=30, record=Record(every=7), checkpoint_dir=folder, resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
    assert 0 < resumed.timing["steps_per_second"]


@pytest.mark.parametrize("saves", [True, False])
def test_what_is_not_ours_is_left_alone(saves: bool) -> None:
    """A handler of the user's for SIGTERM, a process that ignores SIGINT, and SIGTERM where nothing can be saved."""

    def mine(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, mine)
    with Interrupts(saves) as interrupts:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN and signal.getsignal(signal.SIGTERM) is mine
        signal.raise_signal(signal.SIGINT)
        assert not interrupts.seen
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Interrupts(saves):
        assert (signal.getsignal(signal.SIGTERM) is signal.SIG_DFL) is not saves


def test_ctrl_c_in_the_last_chunk_is_not_lost() -> None:
    """A script of many short runs must not go on with the next one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(dlsim.Interrupted, match="stopped at the end") as stopped:
        simulate(signalled(signal.SIGINT, 0), seed=3, num_steps=1)
    assert stopped.value.signal == signal.SIGINT


def test_a_second_ctrl_c_does_not_wait_for_the_chunk() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt) as stopped, Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.seen
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(stopped.value, dlsim.Interrupted)
