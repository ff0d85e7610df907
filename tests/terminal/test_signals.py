"""Signals to real processes: each ends with the status that shells and Slurm know, no traceback, and no signal is lost."""

from __future__ import annotations

import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import time

import pytest
import xarray

from dlsim import results
from dlsim.terminal import cli

ROOT = pathlib.Path(__file__).parents[2]
SMALL = str(pathlib.Path(__file__).parents[1] / "small_experiment.py")
BOTH = (signal.SIGINT, signal.SIGTERM)
LINUX = pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads what Linux says of a process")


def start(*words, ignored=(), **extra):
    """A process of Python; `ignored` are signals that whoever starts it has it ignore."""

    prepared = [f"signal.signal({int(n)}, signal.SIG_{'IGN' if n in ignored else 'DFL'})" for n in BOTH]
    became = f"import os, signal, sys; {'; '.join(prepared)}; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return subprocess.Popen(
        [sys.executable, "-c", became, *map(str, words)],
        env={**os.environ, **extra},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listens(child):
    """Whether the process has a handler for SIGTERM, which Python by itself has none for."""
    status = pathlib.Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def wait_for(what, child, seconds=120):
    began = time.monotonic()
    while not what():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() - began < seconds
        time.sleep(0.005)


def ended(child, seconds=60):
    """Status, stdout and stderr; a process that was killed by SIGINT has what shells say of it."""
    try:
        out, err = child.communicate(timeout=seconds)
    finally:
        child.kill()
    return (128 - child.returncode if child.returncode < 0 else child.returncode), out, err


@LINUX
@pytest.mark.parametrize("number", BOTH)
def test_while_modules_are_imported_a_command_ends_at_once(number, tmp_path):
    moments = random.Random(0)
    for _ in range(4):
        child = start("-m", "dlsim", "run", f"{SMALL}:tiny", "--out", tmp_path / "run")
        wait_for(lambda child=child: listens(child), child)
        time.sleep(moments.uniform(0.0, 0.6))
        child.send_signal(number)
        sent = time.monotonic()
        assert ended(child) == (128 + number, "", "dlsim: stopped\n")
        assert time.monotonic() - sent < 5  # importing the rest would take longer on a busy machine
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@LINUX
def test_whenever_it_comes_a_run_ends_with_130_or_is_complete(tmp_path):
    moments, whole = random.Random(1), time.monotonic()
    assert ended(start("-m", "dlsim", "run", f"{SMALL}:tiny", "--out", tmp_path / "whole"))[0] == 0
    whole = time.monotonic() - whole
    for i in range(5):
        child = start("-m", "dlsim", "run", f"{SMALL}:tiny", "--out", tmp_path / str(i))
        wait_for(lambda child=child: listens(child), child)
        time.sleep(moments.uniform(0, whole))
        was_running = child.poll() is None
        child.send_signal(signal.SIGINT)
        status, _, err = ended(child)
        assert status == (130 if was_running else 0), err
        assert "Traceback" not in err and "ignored" not in err


def started_run(out, **options):
    """A slow run that has finished its first block."""
    words = ["run", f"{SMALL}:tiny", "--out", str(out), "--config.learning_rate=0.05"]
    child = start("-m", "dlsim", *words, DLSIM_TEST_SLOW="0.3", **options)
    wait_for(lambda: any((out / results.PARTIAL / "blocks").glob("*.npz")), child)
    return child, words


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    """As Slurm stops a job; its second one, seconds later, is no harder."""
    child, words = started_run(tmp_path / "run")
    child.send_signal(signal.SIGTERM)
    time.sleep(0.4)
    child.send_signal(signal.SIGTERM)
    status, _, err = ended(child)
    assert status == 143 and "Traceback" not in err and "by SIGTERM" in err
    command = shlex.split(next(line for line in err.splitlines() if "go on with: " in line).partition("with: ")[2])
    assert command == ["dlsim", *words, "--resume"]
    assert cli.main(command[1:]) == 0
    assert cli.main([*words[:2], "--out", str(tmp_path / "whole"), *words[4:]]) == 0
    ours, whole = (results.load(tmp_path / name).results.drop_vars("seconds_per_step") for name in ("run", "whole"))
    xarray.testing.assert_allclose(ours, whole, rtol=1e-6)


@pytest.mark.slow
def test_a_process_that_ignores_sigint_goes_on(tmp_path):
    child, _ = started_run(tmp_path / "run", ignored=(signal.SIGINT,))
    child.send_signal(signal.SIGINT)
    status, out, err = ended(child)
    rest = [line for line in err.splitlines() if not line.startswith("small_experiment: ")]  # lines of progress
    assert (status, rest) == (0, []) and "results:" in out


def program(body):
    """A command of three phases, in a process of its own: `signals` have begun, and the body follows."""
    head = "import gc, hashlib, os, signal, sys, time\nfrom dlsim.running.stopping import Interrupts, Signals\n"
    lines = "\n".join(f"            {line}" for line in body.strip().splitlines())
    tail = f"""
def main():
    with Signals(is_process=True) as signals:
        signals.words = "go on"
        signals.begin()
        try:
{lines}
        except KeyboardInterrupt:
            print("caught")
            return 128 + signals.first
        return 1
sys.exit(main())
"""
    return head + tail


def test_what_the_garbage_collector_swallows_is_raised_again():
    child = start("-c", program("""
def collected(phase, info):
    if phase == "start" and not seen:
        seen.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
seen = []
gc.callbacks.append(collected)
gc.collect()
time.sleep(60)
"""))  # fmt: skip
    assert ended(child, 30) == (130, "caught\n", "dlsim: stopping; the step under way is finished first, "
                                "Ctrl-C again stops at once\n")  # fmt: skip


def test_what_is_swallowed_for_good_ends_the_process():
    child = start("-c", program("""
while True:
    try:
        if signals.first is None:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except BaseException:
        pass
"""))  # fmt: skip
    status, out, err = ended(child, 30)
    assert (status, out) == (130, "") and err.endswith("dlsim: stopped\ndlsim: go on\n")


def test_an_import_is_not_broken_off(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.5)\n"
        "except BaseException:\n    print('harm')\nprint('whole')\n"
    )
    child = start("-c", program(f"sys.path.insert(0, {str(tmp_path)!r})\nimport slow\ntime.sleep(60)"))
    status, out, _ = ended(child, 30)
    assert (status, out) == (130, "whole\ncaught\n")


def test_a_loop_saves_after_the_first_and_a_second_ends_it_in_the_middle_of_a_step():
    """The hash takes minutes outside of Python, where no handler of Python's is called."""
    child = start("-c", program("""
with Interrupts() as interrupts:
    print("looping", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 200_000_000)
"""))  # fmt: skip
    assert child.stdout.readline() == "looping\n"
    for _ in range(2):
        child.send_signal(signal.SIGINT)  # some wrappers send the first one twice
        time.sleep(0.02)
    time.sleep(1)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    status, out, err = ended(child, 30)
    assert (status, out) == (130, "") and "Ctrl-C again stops at once" in err
    assert err.endswith("dlsim: stopped\ndlsim: go on\n")


def test_a_signal_that_comes_too_late_for_the_loop_is_not_lost():
    child = start("-c", program("""
with Interrupts() as interrupts:
    os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.seen and interrupts.first == signal.SIGTERM
print("never here")
"""))  # fmt: skip
    status, out, _ = ended(child, 30)
    assert (status, out) == (143, "caught\n")


def test_in_this_process_all_handlers_are_put_back(capsys):
    held = [signal.getsignal(number) for number in BOTH], sys.unraisablehook
    assert cli.main(["run", "nowhere.py"]) == 2
    assert ([signal.getsignal(number) for number in BOTH], sys.unraisablehook) == held
    capsys.readouterr()


def test_what_a_library_makes_of_it_is_still_a_stop(monkeypatch, capsys):
    from dlsim.terminal import commands

    def run(options, overrides):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy could not be imported") from None

    monkeypatch.setattr(commands, "run", run)
    assert cli.main(["run", SMALL]) == 130
    assert f"dlsim: go on with: dlsim run {SMALL} --resume" in capsys.readouterr().err
