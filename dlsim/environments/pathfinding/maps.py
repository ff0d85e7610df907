"""Maps of obstacles for grid worlds: drawn ones, and files in the MovingAI format.  Host-side NumPy, from a seed.

A map is bool `[H, W]`, True where nobody can stand.
"""

from __future__ import annotations

import pathlib
from collections import deque
from typing import Any

import numpy as np

from dlsim import checks, files

PASSABLE, BLOCKED = ".GS", "@OTW"
MOST_CELLS = 2**28  # of a map that is drawn on the host: some 2 GB on the way


def random_map(height: int, width: int, density: float, seed: int = 0) -> np.ndarray:
    """Obstacles on round(density * H * W) cells, uniformly.

    Args:
        height, width: of the map.
        density: share of cells that are obstacles, in [0, 1).
        seed: of the draw.
    """
    where = "random_map"
    _check_size(where, height, width, 1)
    checks.known(where, "density", density)
    checks.number(where, "density", density, 0, 1, open_maximum=True)
    rng = np.random.default_rng(checks.seed(where, seed))
    cells = np.zeros(height * width, bool)
    cells[rng.permutation(cells.size)[: round(float(density) * cells.size)]] = True
    return cells.reshape(height, width)


def maze_map(height: int, width: int, seed: int = 0, open_walls: float = 0.0) -> np.ndarray:
    """A maze of corridors one cell wide, by a depth-first walk that knocks through to cells it has not seen.

    Args:
        height, width: of the map, odd, at least 3; its rim is wall.
        seed: of the draw.
        open_walls: share of the remaining inner walls between two corridors that are opened too, in [0, 1]; 0 leaves one
            way between any two cells.
    """
    where = "maze_map"
    _check_size(where, height, width, 3)
    for name, size in (("height", height), ("width", width)):
        if size % 2 == 0:
            checks.fail(where, name, "odd, for corridors between walls", size, f"Use {size + 1}.")
    checks.known(where, "open_walls", open_walls)
    checks.probability(where, "open_walls", open_walls)
    rng = np.random.default_rng(checks.seed(where, seed))
    walls = np.ones((height, width), bool)
    walls[1, 1] = False
    stack = [(1, 1)]
    while stack:
        i, j = stack[-1]
        fresh = [
            (i + a, j + b)
            for a, b in ((-2, 0), (2, 0), (0, -2), (0, 2))
            if 0 < i + a < height and 0 < j + b < width and walls[i + a, j + b]
        ]
        if not fresh:
            stack.pop()
            continue
        k, m = fresh[int(rng.integers(len(fresh)))]
        walls[(i + k) // 2, (j + m) // 2] = walls[k, m] = False
        stack.append((k, m))
    rows, columns = np.indices((height, width))
    inner = (rows > 0) & (rows < height - 1) & (columns > 0) & (columns < width - 1)
    between = np.argwhere(walls & inner & ((rows + columns) % 2 == 1))
    for i, j in between[rng.permutation(len(between))[: round(float(open_walls) * len(between))]]:
        walls[i, j] = False
    return walls


def warehouse_map(
    shelf_rows: int = 8, shelf_columns: int = 3, shelf_length: int = 10, station_columns: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shelves to pick from, between two fields of stations: obstacles, cells to begin on, and goals, bool `[H, W]` each.

    A shelf is one row of obstacles with goals above and below it, and an aisle before the next.  Left and right are
    blocks of 3 x 2 cells to begin on, with aisles between.  H = 4 shelf_rows + 1 and W = shelf_columns (shelf_length + 1) + 1
    + 6 station_columns; 33 x 46 by default, the layout of the studies of lifelong pathfinding.

    Args:
        shelf_rows, shelf_columns: shelves down and across.
        shelf_length: cells of a shelf.
        station_columns: blocks to begin on, across, on either side.
    """
    where = "warehouse_map"
    for name, value in (("shelf_rows", shelf_rows), ("shelf_columns", shelf_columns), ("shelf_length", shelf_length)):
        checks.integer(where, name, value, 1)
    checks.integer(where, "station_columns", station_columns, 1)
    side, pitch = 3 * station_columns, shelf_length + 1
    height, width = 4 * shelf_rows + 1, shelf_columns * pitch + 1 + 2 * side
    _check_size(where, height, width, 1)
    rows, columns = np.indices((height, width))
    among_shelves = (columns > side) & (columns < width - 1 - side) & ((columns - side) % pitch != 0)
    outside = np.minimum(columns, width - 1 - columns)  # columns to the nearer side
    stations = (outside < side) & (outside % 3 != 0) & (rows % 4 != 0)
    return among_shelves & (rows % 4 == 2), stations, among_shelves & (rows % 2 == 1)


def room_map(rooms_down: int, rooms_across: int, room_size: int, seed: int = 0) -> np.ndarray:
    """Square rooms with walls between them and one door, at a random place, in every wall that two rooms share.

    Args:
        rooms_down, rooms_across: numbers of rooms.
        room_size: free cells of a room's side.
        seed: of the places of the doors.
    """
    where = "room_map"
    for name, value in (("rooms_down", rooms_down), ("rooms_across", rooms_across), ("room_size", room_size)):
        checks.integer(where, name, value, 1)
    rng = np.random.default_rng(checks.seed(where, seed))
    pitch = room_size + 1
    _check_size(where, rooms_down * pitch + 1, rooms_across * pitch + 1, 1)
    walls = np.zeros((rooms_down * pitch + 1, rooms_across * pitch + 1), bool)
    walls[::pitch, :] = walls[:, ::pitch] = True
    for row in range(rooms_down):
        for column in range(rooms_across):
            if row > 0:
                walls[row * pitch, column * pitch + 1 + int(rng.integers(room_size))] = False
            if column > 0:
                walls[row * pitch + 1 + int(rng.integers(room_size)), column * pitch] = False
    return walls


def read_map(path: str | pathlib.Path) -> np.ndarray:
    """A map of a MovingAI file: `type`, `height`, `width` and `map` lines, then the rows.

    `.`, `G` and `S` can be stood on; `@`, `O`, `T` and `W` cannot.
    """
    where = "read_map"
    file = files.given_path(where, "path", path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        checks.fail(where, "path", "a readable text file", f"{str(path)!r} ({type(error).__name__})", "Check the path.")
    return parse_map(text, where=f"read_map {str(path)!r}")


def parse_map(text: str, where: str = "parse_map") -> np.ndarray:
    """A map of the text of a MovingAI file."""
    checks.text("parse_map", "where", where)
    checks.text(where, "text", text, "the text of a map")
    lines = text.splitlines()
    header: dict[str, str] = {}
    start = next((number for number, line in enumerate(lines) if line.strip() == "map"), None)
    if start is None:
        checks.fail(where, "text", "a header that ends with a line `map`", f"{len(lines)} lines without one")
    for line in lines[:start]:
        name, _, value = line.strip().partition(" ")
        header[name] = value.strip()
    sizes = []
    for name in ("height", "width"):
        if not header.get(name, "").isdigit() or int(header[name]) < 1:
            checks.fail(where, name, "a positive integer in the header", repr(header.get(name)))
        sizes.append(int(header[name]))
    rows = [line.rstrip("\r\n") for line in lines[start + 1 :]]
    while rows and not rows[-1].strip():
        rows.pop()
    if len(rows) != sizes[0]:
        checks.fail(where, "text", f"{sizes[0]} rows, as its header says", len(rows))
    for number, row in enumerate(rows):
        if len(row) != sizes[1]:
            checks.fail(where, f"row {number}", f"{sizes[1]} cells wide, as the header says", len(row))
        unknown = set(row) - set(PASSABLE + BLOCKED)
        if unknown:
            letters = " ".join(PASSABLE + BLOCKED)
            checks.fail(where, f"row {number}", f"of the letters {letters}", repr(min(unknown)))
    return np.asarray([[cell in BLOCKED for cell in row] for row in rows])


def write_map(obstacles: np.ndarray) -> str:
    """The text of a MovingAI file for a map."""
    where, rule = "write_map", "bool of shape [H, W]"
    array = read_array(where, "obstacles", obstacles, rule)
    if array.ndim != 2 or array.size == 0 or not (array.dtype == bool or np.isin(array, (0, 1)).all()):
        checks.fail(where, "obstacles", rule, kind_of(obstacles, array))
    rows = ["".join("@" if cell else "." for cell in row) for row in array]
    return "\n".join(["type octile", f"height {len(rows)}", f"width {len(rows[0])}", "map", *rows, ""])


def parse_pogema(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Obstacles, bool `[H, W]`, starts and goals of a map in POGEMA's letters, as `pathfinding` takes them.

    `.` free and `#` obstacle.  Then either

    - `@` free, to begin on only; `$` free, as a goal only; `!` free only; and `.` both: starts and goals are the cells,
      bool `[H, W]`; or
    - `a` to `z`, where an agent begins, and `A` to `Z`, its first goal, all free: starts and goals are int32 `[A, 2]`, the
      agents in the order of the alphabet, from whichever letters there are.

    Lines may be indented, and empty ones do not count.

    Source: the maps of POGEMA's GridConfig (Skrynnik et al., ICLR 2025), rules only.  Differs: a letter that is there twice
    is an error (there the last one counts), and so is one without its partner (there only the numbers must agree).
    """
    where = "parse_pogema"
    checks.text(where, "text", text, "rows of cells")
    rows = [line.strip() for line in text.splitlines() if line.strip()]
    if not rows:
        checks.fail(where, "text", "rows of cells", "nothing")
    places: dict[str, tuple[int, int]] = {}
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            checks.fail(where, f"row {number}", f"{len(rows[0])} cells wide, as the first", len(row))
        for column, cell in enumerate(row):
            if cell in ".#@$!":
                continue
            if not (cell.isascii() and cell.isalpha()):
                checks.fail(where, f"row {number}", "of . # @ $ ! and letters", repr(cell))
            if cell in places:
                got = f"it at {places[cell]} and {(number, column)}"
                checks.fail(where, f"letter {cell!r}", "in one place", got)
            places[cell] = (number, column)
    cells = np.asarray([list(row) for row in rows])
    obstacles = cells == "#"
    if not places:
        return obstacles, np.isin(cells, list(".@")), np.isin(cells, list(".$"))
    marks = sorted({*text} & {*"@$!"})
    if marks:
        rule = "of letters, or of @ $ !"
        checks.fail(
            where, "text", rule, f"both {min(places)!r} and {marks[0]!r}", "Mark places, or cells to draw from."
        )
    for letter in sorted(places):
        other = letter.swapcase()
        if other not in places:
            what = ("start", "goal") if letter.islower() else ("goal", "start")
            checks.fail(where, f"{what[0]} {letter!r}", f"there with its {what[1]} {other!r}", "it alone")
    agents = sorted(letter for letter in places if letter.islower())
    starts, goals = (
        np.asarray([places[name] for name in names], np.int32) for names in (agents, map(str.upper, agents))
    )
    return obstacles, starts, goals


def as_maps(where: str, obstacles: Any, several: bool = True) -> np.ndarray:
    """One map `[H, W]`, or several `[K, H, W]`, as bool `[K, H, W]`."""
    checks.known(where, "obstacles", obstacles, "a known array", "Pass several maps [K, H, W] instead.")
    rule = "bool [H, W] or [K, H, W]" if several else "bool of shape [H, W]"
    array = read_array(where, "obstacles", obstacles, rule)
    if array.ndim not in ((2, 3) if several else (2,)) or array.dtype != bool:
        checks.fail(where, "obstacles", rule, kind_of(obstacles, array))
    if array.size == 0 or (not several and array.all()):
        checks.fail(where, "obstacles", "a map with a free cell", "none" if array.size else str(list(array.shape)))
    return array[None] if array.ndim == 2 else array


def read_array(where: str, name: str, value: Any, rule: str) -> np.ndarray:
    """What NumPy makes of a value, or one line."""
    try:
        return np.asarray(value)
    except Exception:  # ragged rows, or an object that fails when it is taken for an array
        checks.fail(where, name, rule, "ragged rows" if isinstance(value, list | tuple) else checks.describe(value))


def kind_of(value: Any, array: np.ndarray) -> str:
    """What an array is, briefly; of what is none, what was given."""
    return checks.describe(value) if array.dtype == object else f"{array.dtype} {list(array.shape)}"


def components(obstacles: np.ndarray) -> np.ndarray:
    """Which cells can reach each other: numbers from 0 in order of appearance, -1 for obstacles, int32 `[H, W]`."""
    obstacles = np.asarray(obstacles, bool)
    labels = np.full(obstacles.shape, -1, np.int32)
    number = 0
    for start in np.argwhere(~obstacles):
        if labels[tuple(start)] >= 0:
            continue
        labels[tuple(start)] = number
        queue = deque([(int(start[0]), int(start[1]))])
        while queue:
            i, j = queue.popleft()
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                inside = 0 <= k < obstacles.shape[0] and 0 <= m < obstacles.shape[1]
                if inside and not obstacles[k, m] and labels[k, m] < 0:
                    labels[k, m] = number
                    queue.append((k, m))
        number += 1
    return labels


def pad_map(obstacles: np.ndarray, height: int, width: int) -> np.ndarray:
    """The map with obstacles below and to the right, `[height, width]`, so that maps of several sizes make one batch."""
    rows, columns = np.shape(obstacles)
    checks.integer("pad_map", "height", height, rows)
    checks.integer("pad_map", "width", width, columns)
    return np.pad(obstacles, ((0, height - rows), (0, width - columns)), constant_values=True)


def _check_size(where: str, height: int, width: int, smallest: int) -> None:
    checks.integer(where, "height", height, smallest)
    checks.integer(where, "width", width, smallest)
    if height * width > MOST_CELLS:
        checks.fail(where, "height * width", f"at most {MOST_CELLS}, cells of a map that is drawn here", height * width)
