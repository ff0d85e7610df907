"""Swarm tasks object by object, from the rules of SwarmBench (Ruan et al., 2025); pushes by their integer program."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, milp

UP, DOWN, LEFT, RIGHT = (-1, 0), (1, 0), (0, -1), (0, 1)
DIRECTIONS = {1: UP, 2: DOWN, 3: LEFT, 4: RIGHT}
LARGE = 1000.0


def integer_program(
    weights: list[int], forces: list[int], static: list[bool], touches: list[tuple[int, int]]
) -> list[bool]:
    """Which objects move: as many as can.  `touches` holds (u, v) for v directly ahead of u.

    Variables: moves x, inflow plus own force F, and a force on every touching pair.
    """
    num, num_links = len(weights), len(touches)
    size = 2 * num + num_links
    rows, low, high = [], [], []

    def constrain(coefficients: dict[int, float], least: float, most: float) -> None:
        row = np.zeros(size)
        for place, value in coefficients.items():
            row[place] += value
        rows.append(row)
        low.append(least)
        high.append(most)

    for v in range(num):
        inflow = {2 * num + k: -1.0 for k, (_, b) in enumerate(touches) if b == v}
        constrain({num + v: 1.0, **inflow}, forces[v], forces[v])
        constrain({num + v: 1.0, v: -weights[v]}, 0, np.inf)  # a moved object has its weight in force
        outflow = {2 * num + k: 1.0 for k, (a, _) in enumerate(touches) if a == v}
        constrain({**outflow, v: -LARGE}, -np.inf, 0)
        constrain({**outflow, num + v: -1.0, v: LARGE}, -np.inf, LARGE - weights[v])  # a moved one hands on the rest
    for k, (a, b) in enumerate(touches):
        constrain({b: 1.0, a: -1.0}, 0, np.inf)
        constrain({2 * num + k: 1.0, b: -LARGE}, -np.inf, 0)
    upper = np.concatenate([1.0 - np.asarray(static, float), np.full(num + num_links, np.inf)])
    result = milp(
        np.concatenate([-np.ones(num), np.zeros(num + num_links)]),
        constraints=LinearConstraint(np.asarray(rows), low, high),
        integrality=np.concatenate([np.ones(num), np.zeros(num + num_links)]),
        bounds=Bounds(np.zeros(size), upper),
    )
    return [bool(x > 0.5) for x in result.x[:num]]


class SwarmWorld:
    """One world, changed in place; what is drawn at random is given by the caller."""

    def __init__(self, task: str, terrain: Any, positions: Any, max_rounds: int, **extra: Any) -> None:
        self.task, self.max_rounds, self.round = task, max_rounds, 0
        self.terrain = [[int(x) for x in row] for row in np.asarray(terrain)]  # 0 free, 1 wall, 2 nest, 3 food
        self.height, self.width = len(self.terrain), len(self.terrain[0])
        self.positions = [tuple(int(x) for x in p) for p in np.asarray(positions)]
        self.score = 0.0
        self.flags = [bool(x) for x in extra.get("flags", [True] * len(self.positions))]
        self.prey = extra.get("prey")
        self.prey_is_static = False
        self.box: set[tuple[int, int]] = set(extra.get("box", ()))
        self.last_count = -1
        if task == "flocking":
            self.first = self.now = self.shape_distance()

    def on_map(self, cell: tuple[int, int]) -> bool:
        return 0 <= cell[0] < self.height and 0 <= cell[1] < self.width

    def symbol(self, cell: tuple[int, int]) -> str:
        """What is on a cell: * off the map, A or a for an agent, P, B, W, N, F, or a point."""
        if not self.on_map(cell):
            return "*"
        if cell in self.positions:
            return "A" if self.flags[self.positions.index(cell)] else "a"
        if cell == self.prey:
            return "P"
        if cell in self.box:
            return "B"
        return ".WNF"[self.terrain[cell[0]][cell[1]]]

    def step(self, actions: list[int], respawn_draws: Any = None) -> None:
        inside = [self.on_map(p) for p in self.positions]
        actions = [a if there else 0 for a, there in zip(actions, inside, strict=True)]
        self.push(actions)
        getattr(self, f"_{self.task}")(actions, inside, respawn_draws)
        self.round += 1

    def push(self, actions: list[int]) -> None:
        for number, direction in DIRECTIONS.items():
            self._pass(direction, number, number - 1 if number % 2 == 0 else number + 1, actions)

    def _pass(self, direction: tuple[int, int], forward: int, backward: int, actions: list[int]) -> None:
        if forward not in actions:
            return  # nobody has any force
        objects: dict[Any, list[tuple[int, int]]] = {}
        for i, p in enumerate(self.positions):
            if self.on_map(p):
                objects["agent", i] = [p]
        if self.prey is not None:
            objects["prey", 0] = [self.prey]
        if any(self.on_map(c) for c in self.box):
            objects["box", 0] = sorted(self.box)
        for i, j in itertools.product(range(self.height), range(self.width)):
            if self.terrain[i][j]:
                objects["static", i * self.width + j] = [(i, j)]
        names = list(objects)
        owner = {cell: k for k, name in enumerate(names) for cell in objects[name]}
        touches = set()
        for cell, k in owner.items():
            ahead = owner.get((cell[0] + direction[0], cell[1] + direction[1]))
            if ahead is not None and ahead != k:
                touches.add((k, ahead))
        weights, forces, static = [], [], []
        for kind, i in names:
            action = actions[i] if kind == "agent" else 0
            weights.append({"box": 5}.get(kind, 1) + 2 * (action == backward))
            forces.append(2 * (action == forward))
            static.append(kind == "static" or (kind == "prey" and self.prey_is_static))
        for (kind, i), moves in zip(names, integer_program(weights, forces, static, sorted(touches)), strict=True):
            if not moves:
                continue
            if kind == "agent":
                self.positions[i] = (self.positions[i][0] + direction[0], self.positions[i][1] + direction[1])
            elif kind == "prey":
                self.prey = (self.prey[0] + direction[0], self.prey[1] + direction[1])
            else:
                self.box = {(a + direction[0], b + direction[1]) for a, b in self.box}

    def _synchronization(self, actions: list[int], inside: list[bool], draws: Any) -> None:
        self.flags = [light != (a == 5) for light, a in zip(self.flags, actions, strict=True)]
        count = sum(self.flags)
        if count in (0, len(self.flags)) and count != self.last_count:
            self.last_count = count
            self.score += 1

    def _foraging(self, actions: list[int], inside: list[bool], draws: Any) -> None:
        for k, (i, j) in enumerate(self.positions):
            around = [self.symbol((i + di, j + dj)) for di, dj in DIRECTIONS.values()]
            if "F" in around:
                self.flags[k] = True
            if "N" in around:
                self.score += self.flags[k]
                self.flags[k] = False

    def _transport(self, actions: list[int], inside: list[bool], draws: Any) -> None:
        for was, p in zip(inside, self.positions, strict=True):
            if was and not self.on_map(p):
                self.score += (self.max_rounds - self.round) / self.max_rounds

    def _flocking(self, actions: list[int], inside: list[bool], draws: Any) -> None:
        self.now = self.shape_distance()
        self.score = max(self.score, self.first - self.now)

    def shape_distance(self) -> int:
        """Least cost of an assignment over all translations that bring a cell onto an agent."""
        side = len(self.positions) // 4 + 1
        ring = [(i, j) for i in range(side) for j in range(side) if i in (0, side - 1) or j in (0, side - 1)]
        agents = np.asarray(self.positions)
        best = None
        for t in {(p[0] - q[0], p[1] - q[1]) for p in self.positions for q in ring}:
            cells = np.asarray(ring) + np.asarray(t)
            costs = np.abs(agents[:, None] - cells[None]).sum(axis=2)
            total = int(costs[linear_sum_assignment(costs)].sum())
            best = total if best is None else min(best, total)
        assert best is not None
        return best

    def danger(self, i: int, j: int) -> float:
        total = 0.0
        for a in range(max(i - 4, 0), min(i + 4, self.height)):
            for b in range(max(j - 4, 0), min(j + 4, self.width)):
                total += {"A": 1.0, "W": 0.9}.get(self.symbol((a, b)), 0.0)
        return round(total, 6)

    def _pursuit(self, actions: list[int], inside: list[bool], draws: Any) -> None:
        i, j = self.prey
        if all(self.symbol((i + di, j + dj)) != "." for di, dj in DIRECTIONS.values()):
            self.score += 1
            self.prey, bound = None, 1e6
            best = None
            free = [[self.symbol((a, b)) == "." for b in range(self.width)] for a in range(self.height)]
            for a, b in np.asarray(draws(np.asarray(free))):
                assert self.symbol((a, b)) == "."
                if self.danger(a, b) < bound:
                    best, bound = (int(a), int(b)), self.danger(a, b)
            self.prey, self.prey_is_static = best, True
            return
        bound, target = self.danger(i, j - 1), None
        for one, two in itertools.product((RIGHT, LEFT, DOWN, UP), repeat=2):
            end = (i + one[0] + two[0], j + one[1] + two[1])
            cells = (end, (i + one[0], j + one[1]), (i + two[0], j + two[1]))
            if any(self.symbol(cell) != "." for cell in cells):
                continue
            if self.danger(*end) < bound:
                bound, target = self.danger(*end), end
        if target is not None:
            self.prey = target

    def view(self, k: int, size: int) -> list[list[str]]:
        """What agent k sees, itself as Y."""
        half = size // 2
        i, j = self.positions[k]
        seen = [[self.symbol((i + a, j + b)) for b in range(-half, half + 1)] for a in range(-half, half + 1)]
        seen[half][half] = "Y"
        return seen
