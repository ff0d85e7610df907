"""Signals that stop a run, so that none is lost and none does harm.

A handler that raises may do so where nobody notices (while Python collects garbage, JAX's callbacks swallow it) or where it
does harm (while a library in C is being imported).  So a signal is first of all noted, and the loop asks between two
chunks; `Signals`, of the command line, has three ways to end a command:

1. While nothing has been made yet (imports): at once.
2. Inside a loop (`Interrupts`): once the state is saved.
3. Elsewhere (planning, compiling, figures): KeyboardInterrupt, again where it was swallowed, and after some seconds at once.

A second Ctrl-C ends it at once everywhere, also in the middle of a step.  What a process was started to ignore
(`nohup`, a job in the background) it ignores.  Imports nothing that is not small.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

TYPE_CHECKING = False  # as type checkers read it; see `dlsim/__init__.py`
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
GRACE = 5.0  # seconds from a signal outside of a loop to the end at once
TWICE = 0.3  # seconds between two Ctrl-C; wrappers such as `timeout` send the first one twice
_AGAIN = 255  # among the numbers of signals, from the handler to the watcher: raise once more
_QUIT = 0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the state was saved (where there is a folder for it); `signal` says which."""

    signal: int = int(signal.SIGINT)

    @classmethod
    def by(cls, number: int | None, text: str) -> Interrupted:
        """One that says what stopped the run, where that was not Ctrl-C."""
        if number not in (None, signal.SIGINT):
            text += f" by {signal.Signals(number).name}"
        error = cls(text)
        error.signal = int(number or signal.SIGINT)
        return error


class Interrupts:
    """Notes the first Ctrl-C, or SIGTERM where the state can be saved, and lets the chunk finish.

    A second Ctrl-C stops at once.  SIGTERM is left to a handler that the user has set.

    Args:
      saves: whether there is a folder for the state; without one SIGTERM ends the process, as ever.
    """

    def __init__(self, saves: bool = True) -> None:
        self._saves = saves
        self._first: int | None = None
        self._outer: Signals | None = None
        self._old: dict[int, Any] = {}

    @property
    def first(self) -> int | None:
        """The number of the first signal; None: none yet."""
        return self._first if self._outer is None else self._outer.first

    @property
    def seen(self) -> bool:
        """Whether the run is to stop."""
        return self.first is not None

    def __enter__(self) -> Interrupts:
        self._outer = _of_command_line()
        if self._outer is not None:
            self._outer.waits += 1
        elif threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                held = signal.getsignal(number)
                wanted = held is signal.SIG_DFL and self._saves if number == signal.SIGTERM else True
                if wanted and held not in (signal.SIG_IGN, None):
                    self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._first = self._first or number

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self._outer is not None:
            self._outer.waits -= 1
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}
        if (
            self.seen and kind is None
        ):  # too late for the loop, but not to be lost: a script may go on with the next run
            raise Interrupted.by(self.first, "stopped at the end")


class Signals:
    """The signals of the command line, from its first line to its last; a context, entered in the main thread.

    Args:
      is_process: whether the process ends when the command does; it then stays in place until the end.
    """

    def __init__(self, is_process: bool = False) -> None:
        self._is_process = is_process
        self.first: int | None = None  # what stops the command
        self.waits = 0  # loops that ask for themselves
        self.words = ""  # said where the command ends at once: how to go on
        self._begun = self._retry = self._raised = self._is_over = False
        self._own = 0  # signals that the watcher has sent itself
        self._old: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._old_fd = -1
        self._watcher: threading.Thread | None = None
        self._old_hook: Any = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in STOPPING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._old[number] = signal.signal(number, self._note)
        if self._old and os.name == "posix":
            # A thread, because the handler of a signal waits for the end of whatever runs outside of Python.
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._old_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._watcher = threading.Thread(target=self._watch, name="dlsim-signals", daemon=True)
            self._watcher.start()
        self._old_hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # The watcher may still have to read a signal that the command has answered: it is not to break off what is printed.
        self._is_over, self._begun, self.words = True, False, ""
        if not self._is_process:
            sys.unraisablehook = self._old_hook or sys.unraisablehook
            for number, handler in self._old.items():
                signal.signal(number, handler)
            self._old = {}
        if self._pipe is not None and self._watcher is not None:
            signal.set_wakeup_fd(self._old_fd)
            os.write(self._pipe[1], bytes([_QUIT]))
            self._watcher.join()
            self._watcher, (reader, writer), self._pipe = None, self._pipe, None
            os.close(reader)
            os.close(writer)

    def begin(self) -> None:
        """What follows makes things: from here on they are tidied up."""
        self._begun = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The handler: in the main thread, between two instructions of Python."""
        is_due, self._retry = self._retry or not self._raised or self._watcher is None, False
        self.first = self.first or number
        if not self._begun:
            if self._watcher is None:
                self._leave()
        elif self.waits and (self._watcher is not None or not self._raised):
            self._raised = True  # by the loop
        elif is_due and self._watcher is not None and _is_importing(frame):
            self._again()
        elif is_due:
            self._raised = True
            raise KeyboardInterrupt

    def _unraisable(self, what: Any) -> None:
        """Of an exception that nobody can catch: where it is our own, it is raised once more."""
        if self.first is not None and issubclass(what.exc_type, KeyboardInterrupt):
            self._again()
        else:
            self._old_hook(what)

    def _again(self) -> None:
        if self._pipe is not None:
            os.write(self._pipe[1], bytes([_AGAIN]))

    def _watch(self) -> None:
        """The thread: what cannot wait for the main one."""
        import select

        main = threading.main_thread().ident
        assert self._pipe is not None and main is not None
        began: float | None = None
        deadline: float | None = None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = select.select([self._pipe[0]], [], [], left)[0]
            now = time.monotonic()
            for number in os.read(self._pipe[0], 64) if ready else b"":
                if number == _QUIT:
                    return
                if number == _AGAIN:
                    time.sleep(0.02)
                    self._retry = True
                    self._own += 1
                    signal.pthread_kill(main, self.first or signal.SIGINT)  # a real one, which ends a sleep
                elif number not in self._old:
                    continue
                elif self._own:
                    self._own -= 1
                elif began is None:
                    self.first = self.first or number
                    if not self._begun and not self._is_over:
                        self._leave()
                    began = now
                    deadline = None if self.waits else now + GRACE
                    self._say("stopping; the step under way is finished first, Ctrl-C again stops at once")
                elif number == signal.SIGINT and now - began > TWICE:
                    self._leave()
            if deadline is not None and now >= deadline:
                if not self.waits:
                    self._leave()
                deadline = None

    def _leave(self) -> None:
        """End the process here and now."""
        self._say("stopped")
        if self._begun and self.words:
            self._say(self.words)
        os._exit(128 + int(self.first or signal.SIGINT))

    def _say(self, text: str) -> None:
        line = f"dlsim: {text}\n"
        if os.isatty(2):  # a progress bar may have the line, and has hidden the cursor
            line = f"\r\x1b[2K\x1b[?25h{line}"
        try:
            os.write(2, line.encode(getattr(sys.stderr, "encoding", None) or "utf-8", "backslashreplace"))
        except OSError:
            return  # nobody listens any more


def _of_command_line() -> Signals | None:
    """What the command line has set up, if this process runs one."""
    for number in STOPPING:
        held = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(held, Signals):
            return held
    return None


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported, which libraries in C do not survive being broken off."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
