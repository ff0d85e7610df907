"""The command line: `dlsim run | sweep | reproduce | report | bench | list | info`.

A mistake of the user is one line on stderr and exit status 2.  Ctrl-C is exit status 130, SIGTERM (which Slurm sends
before a job's time is up) 143, both with the command that goes on.  Little is imported before signals are listened to.
"""

from __future__ import annotations

import sys

from dlsim.running.stopping import Signals

TYPE_CHECKING = False  # as type checkers read it; see `dlsim/__init__.py`
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

# OSError: no file, no permission, no space left.  A TypeError is a mistake in the program and keeps its traceback.
USER_ERRORS = (ValueError, OSError, ImportError)
EXTRAS = {"cvxpy": "opt", "ray": "ray", "submitit": "slurm", "pytest": "test", "hypothesis": "test"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    with Signals(is_process=arguments is None) as signals:
        return _main(list(sys.argv[1:] if arguments is None else arguments), signals)


def _main(given: list[str], signals: Signals) -> int:
    from dlsim.terminal import commands, options as words

    _never_fail_to_print()
    options, overrides = words.parse(given)
    try:
        commands.load(options.command)
        signals.words = _go_on(options, given)
        signals.begin()
        status = commands.run(options, overrides)
        return status if signals.first is None else _stopped(signals, None)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or signals.first is not None:  # which libraries may turn into others
            return _stopped(signals, error)
        line = _line(error)
        if options.debug or line is None:
            raise
        print(f"dlsim: error: {line}", file=sys.stderr)
        return 2


def _never_fail_to_print() -> None:
    """A character that the terminal's encoding lacks is written as its number, and does not end the run."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _stopped(signals: Signals, error: BaseException | None) -> int:
    """Says so, and how to go on; gives the exit status by which shells and Slurm know what it was."""
    said = f" ({error})" if isinstance(error, KeyboardInterrupt) and str(error) else ""
    print(f"dlsim: stopped{said}", file=sys.stderr)
    if signals.words:
        print(f"dlsim: {signals.words}", file=sys.stderr)
    return 128 + int(signals.first or 2)


def _go_on(options: argparse.Namespace, given: list[str]) -> str:
    """The command that goes on with what this one leaves behind."""
    import shlex

    from dlsim.terminal.options import MAKING

    if options.command not in MAKING:
        return ""
    words = given if "--resume" in given or given[0] != "run" else [*given, "--resume"]
    return f"go on with: dlsim {shlex.join(words)}"


def _line(error: BaseException) -> str | None:
    """A mistake of the user in one line; None for any other error."""
    if isinstance(error, AttributeError):
        return _unknown_name(error)
    return _one_line(error) if isinstance(error, USER_ERRORS) else None


def _unknown_name(error: AttributeError) -> str | None:
    """The line for a name that a public module lacks (`getattr(dlsim.networks, "tours")`); None for any other error."""
    import types

    from dlsim import checks

    module = error.obj
    if not isinstance(module, types.ModuleType) or not module.__name__.startswith("dlsim"):
        return None
    try:
        checks.one_of(module.__name__, "name", error.name, getattr(module, "__all__", ()))
    except ValueError as line:
        return str(line)
    return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.strerror}: {error.filename}"
    if isinstance(error, ImportError):
        text += _how_to_get(error)
    return text or type(error).__name__


def _how_to_get(error: ImportError) -> str:
    """What to do about a module that is not there: only a package that is meant can be installed by its name."""
    name = error.name or ""
    if isinstance(error, ModuleNotFoundError) and name in EXTRAS:
        return f". Install it: pip install 'dlsim[{EXTRAS[name]}]'"
    if isinstance(error, ModuleNotFoundError) and name and "." not in name:
        return f". If it is a package, install it (pip install {name}); if it is a file, put it beside the experiment's"
    if "relative import" in str(error):
        return ". An experiment is no package: import what lies beside it by its name alone (from helpers import RATE)"
    return ""


if __name__ == "__main__":
    sys.exit(main())
