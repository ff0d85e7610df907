"""Lifelong pathfinding, agent by agent, from the rules of POGEMA (ICLR 2025) as Learn to Follow (AAAI 2024) uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
Cell = tuple[int, int]


class PathfindingWorld:
    """One world, changed in place.  `draw(agent, number, cell)` gives the goal `number` of an agent that is at a cell."""

    def __init__(
        self, obstacles: list[list[bool]], positions: list[Cell], draw: Callable[[int, int, Cell], Cell]
    ) -> None:
        self.obstacles = obstacles
        self.positions = list(positions)
        self.draw = draw
        self.reached = [0] * len(positions)
        self.goals = [draw(i, 0, p) for i, p in enumerate(positions)]

    def is_free(self, cell: Cell) -> bool:
        i, j = cell
        return 0 <= i < len(self.obstacles) and 0 <= j < len(self.obstacles[0]) and not self.obstacles[i][j]

    def step(self, actions: list[int], rule: str = "soft") -> list[int]:
        """Goals reached by each in this step."""
        wanted = []
        for (i, j), action in zip(self.positions, actions, strict=True):
            target = (i + STEPS[action][0], j + STEPS[action][1])
            wanted.append(target if self.is_free(target) else (i, j))
        self.positions = getattr(self, f"_{rule}")(wanted)
        gained = []
        for i, cell in enumerate(self.positions):
            gained.append(int(cell == self.goals[i]))
            if gained[-1]:
                self.reached[i] += 1
                self.goals[i] = self.draw(i, self.reached[i], cell)
        return gained

    def _soft(self, wanted: list[Cell]) -> list[Cell]:
        here = self.positions
        who = {cell: i for i, cell in enumerate(here)}
        wanted = list(wanted)
        for i, target in enumerate(list(wanted)):
            j = who.get(target, i)
            if j != i and wanted[j] == here[i] and wanted[i] == here[j]:
                wanted[i], wanted[j] = here[i], here[j]
        while True:
            stop = set()
            first: dict[Cell, int] = {}
            for i, target in enumerate(wanted):
                if target == here[i]:
                    continue
                j = who.get(target)
                if (j is not None and wanted[j] == here[j]) or target in first:
                    stop.add(i)
                else:
                    first[target] = i
            if not stop:
                return wanted
            for i in stop:
                wanted[i] = here[i]

    def _priority(self, wanted: list[Cell]) -> list[Cell]:
        cells = list(self.positions)
        taken = set(cells)
        for i, target in enumerate(wanted):
            if target not in taken:
                taken.remove(cells[i])
                taken.add(target)
                cells[i] = target
        return cells

    def _block_both(self, wanted: list[Cell]) -> list[Cell]:
        here = self.positions
        taken = set(here)
        count: dict[Cell, int] = {}
        for i, target in enumerate(wanted):
            if target != here[i]:
                count[target] = count.get(target, 0) + 1
        return [t if t not in taken and count[t] == 1 else here[i] for i, t in enumerate(wanted)]

    def observe(self, half: int) -> list[list[list[list[float]]]]:
        """Obstacles, other agents and the direction of the goal around each agent."""
        taken = set(self.positions)
        seen = []
        for (i, j), goal in zip(self.positions, self.goals, strict=True):
            span = range(-half, half + 1)
            walls = [[0.0 if self.is_free((i + a, j + b)) else 1.0 for b in span] for a in span]
            others = [[float((a, b) != (0, 0) and (i + a, j + b) in taken) for b in span] for a in span]
            aim = (max(-half, min(half, goal[0] - i)), max(-half, min(half, goal[1] - j)))
            seen.append([walls, others, [[float((a, b) == aim) for b in span] for a in span]])
        return seen


def distances(obstacles: list[list[bool]], start: Cell) -> dict[Cell, int]:
    """Breadth-first distances to every cell that can be reached."""
    found = {start: 0}
    queue = deque([start])
    while queue:
        i, j = queue.popleft()
        for a, b in STEPS[1:]:
            k, m = i + a, j + b
            inside = 0 <= k < len(obstacles) and 0 <= m < len(obstacles[0])
            if inside and not obstacles[k][m] and (k, m) not in found:
                found[k, m] = found[i, j] + 1
                queue.append((k, m))
    return found
