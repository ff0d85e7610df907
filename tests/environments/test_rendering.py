"""Pictures and animations of grid worlds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim.environments import swarm
from dlsim.environments.maps import room_map
from dlsim.environments.pathfinding import pathfinding
from dlsim.environments.rendering_grid import COLORS, animate, figure_of, render_text
from dlsim.environments.swarm_pursuit import pursuit
from dlsim.environments.swarm_synchronization import synchronization
from dlsim.environments.swarm_transport import transport


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


def test_episodes_become_animations(tmp_path):
    from PIL import Image

    environment = pursuit(num_agents=2)
    state, _ = environment.reset(jax.random.key(0))
    states = [
        state._replace(positions=jnp.asarray([[1, place], [2, 2]]), round=jnp.asarray(place)) for place in (1, 3, 5)
    ]
    path = animate(environment, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), tmp_path / "hunt.gif", 10)
    with Image.open(path) as picture:
        assert picture.n_frames == 3 and picture.size == (400, 400) and picture.info["duration"] == 100


def test_planes_are_written_in_letters():
    environment = synchronization(num_agents=2, height=3, width=4)
    state, _ = environment.reset(jax.random.key(0))
    state = state._replace(positions=jnp.asarray([[1, 1], [1, 2]]), flags=jnp.asarray([True, False]))
    assert render_text(swarm.symbols(state, False, False)) == "WWWW\nWAaW\nWWWW"


def test_what_cannot_be_drawn_is_refused_in_one_line():
    environment = synchronization(num_agents=2, height=3, width=4)
    state, _ = environment.reset(jax.random.key(0))
    with pytest.raises(ValueError, match=r"animate: path must be a file that ends in .gif"):
        animate(environment, state, "film.mp4")
    with pytest.raises(ValueError, match=r"animate: titles must be one a frame, 3, got 1"):
        states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), state)
        animate(environment, states, "film.gif", titles=["first"])
    with pytest.raises(ValueError, match=r"figure_of: environment must be one that can draw its states"):
        figure_of(environment._replace(render=None), state)
