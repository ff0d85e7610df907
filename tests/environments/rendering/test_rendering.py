"""Pictures and animations of grid worlds."""

import base64
import io
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.environments.pathfinding.maps import room_map
from dlsim.environments.pathfinding.world import pathfinding
from dlsim.environments.rendering.animation import animate, figure_of
from dlsim.environments.rendering.grid import COLORS, render_text
from dlsim.environments.swarm import world as swarm
from dlsim.environments.swarm.pursuit import pursuit
from dlsim.environments.swarm.synchronization import synchronization
from dlsim.environments.swarm.transport import transport


def test_states_are_drawn():
    from matplotlib.colors import to_rgb

    for environment in (transport(), pursuit(), pathfinding(room_map(2, 2, 4), 6)):
        state, _ = environment.reset(jax.random.key(0))
        axes = figure_of(environment, state).axes[0]
        discs = sum(len(collection.get_offsets()) for collection in axes.collections)
        assert axes.get_title() == environment.name
        # Agents, and the prey or the goals.
        assert discs == {"transport": 10, "pursuit": 11}.get(environment.name, 2 * 6)
    plane = swarm.symbols(transport().reset(jax.random.key(1))[0], False, True)
    state, _ = transport().reset(jax.random.key(1))
    image = figure_of(transport(), state).axes[0].images[0]
    drawn = image.cmap(image.norm(image.get_array()))[..., :3]
    for symbol in (swarm.SEEN_WALL, swarm.SEEN_BOX):
        wanted = np.isclose(drawn, to_rgb(COLORS[symbol])).all(axis=-1)
        assert np.array_equal(wanted, np.asarray(plane) == symbol)


def hunt():
    """Three states of a pursuit, in which an agent walks."""
    environment = pursuit(num_agents=2)
    state, _ = environment.reset(jax.random.key(0))
    states = [
        state._replace(positions=jnp.asarray([[1, place], [2, 2]]), round=jnp.asarray(place)) for place in (1, 3, 5)
    ]
    return environment, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def test_episodes_become_animations(tmp_path):
    from PIL import Image

    path = animate(*hunt(), tmp_path / "hunt.gif", 10)
    with Image.open(path) as picture:
        assert picture.n_frames == 3 and picture.size == (400, 400) and picture.info["duration"] == 100


def test_pages_hold_their_frames_and_fetch_nothing(tmp_path):
    from PIL import Image

    environment, states = hunt()
    page = animate(environment._replace(name="<hunt>"), states, tmp_path / "hunt.HTML", 4).read_text()
    frames = re.findall(r'^(?:const frames = \[)?"([A-Za-z0-9+/=]+)"', page, re.MULTILINE)
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(frame))).convert("RGB")) for frame in frames]
    assert len(pictures) == 3 and all(picture.shape == (400, 400, 3) for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1]) and (pictures[0] == np.asarray([31, 119, 180])).all(-1).any()
    rest = re.sub(r'"[A-Za-z0-9+/=]{100,}"', "", page)
    assert not re.search(r"http|//|src=|href=|@import|url\(", rest.replace('frame.src = "data:', ""))
    assert "&lt;hunt&gt;" in rest and "<hunt>" not in rest and "% frames.length), 250)" in rest


def test_films_are_handed_to_ffmpeg(tmp_path, monkeypatch):
    """A stand-in keeps what it is given: its arguments, and the pixels of the frames."""
    import matplotlib

    stand_in = tmp_path / "ffmpeg"
    stand_in.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" > "$(dirname "$0")/arguments"\ncat > "$last"\n')
    stand_in.chmod(0o755)
    monkeypatch.setitem(matplotlib.rcParams, "animation.ffmpeg_path", str(stand_in))
    path = animate(*hunt(), tmp_path / "hunt.mp4", 10, size=4.01)
    pixels = np.frombuffer(path.read_bytes(), np.uint8).reshape(3, 400, 400, 3)
    assert not np.array_equal(pixels[0], pixels[1]) and (pixels == np.asarray([31, 119, 180])).all(-1).any()
    told = (tmp_path / "arguments").read_text()
    assert "-s 400x400 -r 10.0" in told and "-pix_fmt yuv420p" in told
    stand_in.write_text("#!/bin/sh\necho no such codec >&2\nexit 1\n")
    with pytest.raises(
        RuntimeError, match=r"animate: ffmpeg did not write '.*hunt.mp4': no such codec. Use .gif or .html."
    ):
        animate(*hunt(), path)
    assert path.stat().st_size == 3 * 400 * 400 * 3, "the earlier film stays"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["arguments", "ffmpeg", "hunt.mp4"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None, reason="needs ffmpeg")
def test_films_can_be_played(tmp_path):
    path = animate(*hunt(), tmp_path / "hunt.mp4", 10)
    ask = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=width,height,nb_read_frames"]
    told = subprocess.run([*ask, "-of", "csv=p=0", path], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "400,400,3"


def test_planes_are_written_in_letters():
    environment = synchronization(num_agents=2, height=3, width=4)
    state, _ = environment.reset(jax.random.key(0))
    state = state._replace(positions=jnp.asarray([[1, 1], [1, 2]]), flags=jnp.asarray([True, False]))
    assert render_text(swarm.symbols(state, False, False)) == "WWWW\nWAaW\nWWWW"


def test_what_cannot_be_drawn_is_refused_in_one_line(monkeypatch):
    environment = synchronization(num_agents=2, height=3, width=4)
    state, _ = environment.reset(jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"animate: path must be a file that ends in .gif, .html or .mp4, got 'film.avi'"
    ):
        animate(environment, state, "film.avi")
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "animation.ffmpeg_path", "no-such-ffmpeg")
    with pytest.raises(
        ValueError, match=r"path must be a file that ends in .gif or .html, since ffmpeg is not found, got"
    ):
        animate(environment, state, "film.mp4")
    with pytest.raises(ValueError, match=r"animate: titles must be one a frame, 3, got 1"):
        states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), state)
        animate(environment, states, "film.gif", titles=["first"])
    with pytest.raises(ValueError, match=r"figure_of: environment must be one that can draw its states"):
        figure_of(environment._replace(render=None), state)
