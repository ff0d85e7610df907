"""Frames to files: GIF, MP4 (by ffmpeg, where it is found) and a page of HTML that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

import numpy as np

from dlsim import checks, files

ENDINGS = (".gif", ".html", ".mp4")

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px sans-serif; margin: 1em; color: #222; background: #fff; }}
img {{ display: block; max-width: 100%; }}
input {{ width: 280px; vertical-align: middle; }}
button {{ width: 5em; }}
</style></head><body>
<img id="frame" alt="{title}" width="{width}" height="{height}">
<p><button id="play" type="button">Pause</button>
<input id="step" type="range" min="0" max="{last}" value="0" aria-label="frame"> <output id="number">0</output> of {last}</p>
<script>
"use strict";
const frames = [{frames}];
const frame = document.getElementById("frame"), step = document.getElementById("step");
const play = document.getElementById("play"), number = document.getElementById("number");
let now = 0, timer = null;
function show(place) {{
  now = place;
  frame.src = "data:image/png;base64," + frames[now];
  step.value = now;
  number.value = now;
}}
function run(on) {{
  clearInterval(timer);
  timer = on ? setInterval(() => show((now + 1) % frames.length), {milliseconds}) : null;
  play.textContent = on ? "Pause" : "Play";
}}
step.addEventListener("input", () => {{ run(false); show(Number(step.value)); }});
play.addEventListener("click", () => run(timer === null));
show(0);
run(true);
</script></body></html>
"""


def check_path(where: str, path: str | pathlib.Path) -> pathlib.Path:
    """A path whose ending says what to write, and for .mp4 that there is an ffmpeg to write it."""
    path = files.given_path(where, "path", path)
    if path.suffix.lower() not in ENDINGS:
        checks.fail(where, "path", f"a file that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}", repr(str(path)))
    if path.suffix.lower() == ".mp4" and _ffmpeg() is None:
        rule = "a file that ends in .gif or .html, since ffmpeg is not found"
        checks.fail(where, "path", rule, repr(str(path)), "Install ffmpeg, or use .html.")
    return path


def write(frames: Sequence[np.ndarray], path: pathlib.Path, frames_per_second: float, title: str) -> None:
    """Write frames, each uint8 `[H, W, 3]`, as the ending of the path says."""
    ending = path.suffix.lower()
    with files.writing("animate", "path", path), files.staged(path) as staging:
        if ending == ".mp4":
            _write_mp4(frames, staging, frames_per_second, path)
        elif ending == ".html":
            staging.write_text(_page(frames, frames_per_second, title), encoding="utf-8")
        else:
            _write_gif(frames, staging, frames_per_second)


def _write_gif(frames: Sequence[np.ndarray], path: pathlib.Path, frames_per_second: float) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    milliseconds = max(20, round(1000 / float(frames_per_second)))  # viewers slow down what is faster
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, loop=0)


def _page(frames: Sequence[np.ndarray], frames_per_second: float, title: str) -> str:
    """A page that plays the frames, which it holds as PNG."""
    from PIL import Image

    pictures = []
    for frame in frames:
        held = io.BytesIO()
        Image.fromarray(frame).save(held, format="PNG", optimize=True)
        pictures.append(f'"{base64.b64encode(held.getvalue()).decode()}"')
    return PAGE.format(
        title=html.escape(title),
        width=frames[0].shape[1],
        height=frames[0].shape[0],
        last=len(frames) - 1,
        frames=",\n".join(pictures),
        milliseconds=max(10, round(1000 / float(frames_per_second))),
    )


def _ffmpeg() -> str | None:
    """Where ffmpeg is: as matplotlib is told (`animation.ffmpeg_path`), which is on the PATH unless one says otherwise."""
    import matplotlib

    return shutil.which(matplotlib.rcParams["animation.ffmpeg_path"])


def _write_mp4(frames: Sequence[np.ndarray], path: pathlib.Path, frames_per_second: float, shown: pathlib.Path) -> None:
    height, width = (
        frames[0].shape[0] // 2 * 2,
        frames[0].shape[1] // 2 * 2,
    )  # the common colour format wants even sizes
    command = [str(_ffmpeg()), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(float(frames_per_second)), "-i", "-"]
    command += ["-an", "-pix_fmt", "yuv420p", str(path)]
    pixels = b"".join(np.ascontiguousarray(frame[:height, :width]).tobytes() for frame in frames)
    done = subprocess.run(command, input=pixels, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing said"]
        raise RuntimeError(f"animate: ffmpeg did not write {str(shown)!r}: {said[-1]}. Use .gif or .html.")
