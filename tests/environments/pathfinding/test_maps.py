"""Drawn maps and MovingAI files."""

import numpy as np
import pytest

from dlsim.environments.pathfinding import maps


def test_random_maps_have_their_share_of_obstacles():
    blocked = maps.random_map(20, 30, 0.2, seed=1)
    assert blocked.shape == (20, 30) and blocked.sum() == 120
    assert (blocked == maps.random_map(20, 30, 0.2, seed=1)).all()
    assert (blocked != maps.random_map(20, 30, 0.2, seed=2)).any()
    assert not maps.random_map(5, 5, 0.0).any()


def test_mazes_have_one_way_between_any_two_cells_unless_opened():
    maze = maps.maze_map(21, 31, seed=3)
    free = ~maze
    links = (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum()
    assert maps.components(maze).max() == 0  # all connected
    assert links == free.sum() - 1  # a tree
    opened = maps.maze_map(21, 31, seed=3, open_walls=0.3)
    assert (free <= ~opened).all() and (~opened).sum() > free.sum()
    assert maze[0].all() and maze[:, -1].all()


def test_the_warehouse_is_that_of_the_studies():
    blocked, starts, goals = maps.warehouse_map()
    assert blocked.shape == (33, 46)
    letters = np.where(blocked, "#", np.where(starts, "@", np.where(goals, "$", "!")))
    rows = ["".join(row) for row in letters]
    assert rows[0] == "!" * 46 == rows[32]
    assert rows[1] == rows[31] == "!@@!@@!$$$$$$$$$$!$$$$$$$$$$!$$$$$$$$$$!@@!@@!"
    assert rows[2] == rows[30] == "!@@!@@!##########!##########!##########!@@!@@!"
    assert starts.sum() == 192 and goals.sum() == 480 and blocked.sum() == 240
    assert maps.components(blocked).max() == 0


def test_rooms_are_joined_by_one_door_a_wall():
    blocked = maps.room_map(3, 4, 5, seed=0)
    assert blocked.shape == (19, 25)
    assert maps.components(blocked).max() == 0
    assert (~blocked).sum() == 12 * 25 + 2 * 4 + 3 * 3  # cells of rooms and doors


def test_components_are_numbered_in_order():
    blocked = np.asarray([[0, 1, 0], [0, 1, 0], [1, 0, 1]], bool)
    assert maps.components(blocked).tolist() == [[0, -1, 1], [0, -1, 1], [-1, 2, -1]]


def test_files_are_read_as_written(tmp_path):
    blocked = maps.room_map(2, 2, 3)
    path = tmp_path / "rooms.map"
    path.write_text(maps.write_map(blocked))
    assert (maps.read_map(path) == blocked).all()
    text = "type octile\nheight 2\nwidth 7\nmap\n.GS@OTW\n.......\n"
    assert maps.parse_map(text).tolist() == [[False] * 3 + [True] * 4, [False] * 7]
    padded = maps.pad_map(maps.parse_map(text), 3, 8)
    assert padded.shape == (3, 8) and padded[2].all() and padded[:, 7].all()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: maps.read_map("/no/such.map"), r"read_map: path must be a readable text file, got '/no/such.map'"),
        (
            lambda: maps.parse_map("height 1\nwidth 1\n."),
            r"parse_map: text must be a header that ends with a line `map`",
        ),
        (lambda: maps.parse_map("height 2\nmap\n.\n."), r"parse_map: width must be a positive integer in the header"),
        (
            lambda: maps.parse_map("height 2\nwidth 1\nmap\n."),
            r"parse_map: text must be 2 rows, as its header says, got 1",
        ),
        (lambda: maps.parse_map("height 1\nwidth 2\nmap\n."), r"parse_map: row 0 must be 2 cells wide.*got 1"),
        (lambda: maps.parse_map("height 1\nwidth 2\nmap\n.x"), r"parse_map: row 0 must be of the letters .*got 'x'"),
        (lambda: maps.maze_map(8, 9), r"maze_map: height must be odd, for corridors between walls, got 8\. Use 9\."),
        (lambda: maps.random_map(5, 5, 1.0), r"random_map: density must be a number in \[0, 1\), got 1"),
        (lambda: maps.room_map(0, 2, 3), r"room_map: rooms_down must be an integer >= 1, got 0"),
        (lambda: maps.warehouse_map(shelf_length=0), r"warehouse_map: shelf_length must be an integer >= 1, got 0"),
        (lambda: maps.pad_map(np.zeros((3, 3), bool), 2, 3), r"pad_map: height must be an integer >= 3, got 2"),
    ],
)
def test_bad_maps_are_refused_in_one_line(make, line):
    with pytest.raises(ValueError, match=line):
        make()
