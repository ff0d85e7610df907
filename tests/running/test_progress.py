"""Progress: what a narrow terminal keeps, when lines come where there is no terminal, and what they say."""

from __future__ import annotations

import io
import re
import threading
import types

import pytest
from rich.console import Console

from dlsim.running import progress_bar, terminal_bar

FIRST_SECONDS, MOST_SECONDS = progress_bar.FIRST_SECONDS, progress_bar.MOST_SECONDS  # tests set them out of reach
LABEL = "a study with a name of some length, mode paper: 3600 runs"
TEXT = "loss 0.1235  accuracy 0.9877  consensus distance 1.235e-07  3.2 k node-updates/s"


def drawn(width: int, done: int = 7200, total: int = 180_000, label: str = LABEL, text: str = TEXT) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    display = terminal_bar.display(console)
    display.add_task(label, total=total, completed=done, text=text)
    console.print(display.get_renderable())
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 80, 100, 132, 200])
def test_bar_count_and_time_left_are_kept(width: int) -> None:
    line = drawn(width).rstrip("\n")
    assert "\n" not in line and len(line) <= width
    assert len(re.findall("[━╸╺]", line)) >= 10 and "  7200/180000 " in line and "-:--:--" in line
    assert line.startswith("a study wit")
    shown = line.partition("-:--:--")[2].strip()
    assert f"{TEXT}  ".startswith(f"{shown}  " if shown else "")  # whole parts: no number is cut


def test_a_line_with_room_shows_everything() -> None:
    line = drawn(160, label="walk", total=100, done=7)
    assert len(re.findall("[━╸╺]", line)) == 24 and line.startswith("walk ") and TEXT in line and "  7/100 " in line
    assert "loss" not in drawn(45) and "7200/180000" in drawn(45)  # too narrow for any text
    assert "stopped at step 6:…" in drawn(60, total=10, done=6, label="x", text="stopped at step 6: accuracy >= 0.9")


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self, waits: int) -> None:
        self.now, self.times, self._left = 100.0, list[float](), waits

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.times.append(self.now - 100.0)
        self._left -= 1
        return self._left < 0


def test_lines_come_after_5_10_20_40_and_80_seconds_then_every_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(7)
    monkeypatch.setattr(progress_bar.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(progress_bar, "FIRST_SECONDS", FIRST_SECONDS)
    monkeypatch.setattr(progress_bar, "MOST_SECONDS", MOST_SECONDS)
    lines = progress_bar._Lines("walk", 400, 0, False)
    lines._end.wait = clock.wait  # type: ignore[method-assign,assignment]
    lines._tell()
    assert clock.times == [5, 10, 20, 40, 80, 140, 200, 260]


def test_a_line_says_steps_percent_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(0)
    monkeypatch.setattr(progress_bar.time, "monotonic", clock.monotonic)
    lines = progress_bar._Lines("walk", 1_400, 0, False)
    lines.say(1_000, "")  # what was done before, as a run that is resumed says first
    clock.now += 10
    lines.say(1_100, "loss 0.5  3.2 k node-updates/s")
    lines._print()
    lines._print(is_last=True)
    # 100 steps in ten seconds, so 300 in thirty; what was there before is no pace.
    assert capsys.readouterr().err.splitlines() == [
        "walk: 1,100 of 1,400 steps (79 %), 0:00:10 gone, 0:00:30 left, loss 0.5, 3.2 k node-updates/s",
        "walk: 1,100 of 1,400 steps (79 %), 0:00:10 gone, loss 0.5, 3.2 k node-updates/s",
    ]


def test_what_the_values_show(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def shown(progress: str | bool) -> str:
        with progress_bar.bar(4, 0, progress, "walk") as bar:
            bar.update(4, {"loss": 0.5}, 850.0)
        with progress_bar.working("counting", progress):
            pass
        captured = capfd.readouterr()
        assert captured.out == ""
        return captured.err

    assert shown("auto") == shown(False) == shown("off") == ""
    for progress in ("lines", True):
        first, last, work = shown(progress).splitlines()
        assert (first, work) == ("walk: 0 of 4 steps (0 %)", "counting")
        assert last == "walk: 4 of 4 steps (100 %), 0:00:00 gone, loss 0.5, 850 node-updates/s"
    assert "4/4" in (bar := shown("bar")) and "\x1b[" in bar and "850 node-updates/s" in bar


@pytest.mark.parametrize("value", [0, None, 1.5, [True]])
def test_other_values_are_one_line(value: object) -> None:
    with pytest.raises(ValueError, match="f: progress must be True, False or one of auto, bar, lines, off, got"):
        progress_bar.check("f", value)


def test_a_stream_that_is_closed_ends_no_run() -> None:
    lines = progress_bar._Lines("walk", 4, 0, True)
    lines._stream = io.StringIO()  # type: ignore[assignment]
    lines._stream.close()
    with lines:
        lines.say(4, "")


def test_notebooks_get_no_sign_that_moves(monkeypatch):
    """Nothing is drawn, and no thread runs, beside a cell that says itself that it is at work."""
    monkeypatch.setattr(progress_bar, "_kind", lambda progress: ("bar", types.SimpleNamespace(is_jupyter=True), True))
    monkeypatch.setattr(terminal_bar, "spinner", None)
    before = threading.enumerate()
    with progress_bar.working("compiling", "auto"):
        assert threading.enumerate() == before
