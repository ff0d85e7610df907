"""Asynchronous methods whose messages take time, an event at a time from a heap, in plain NumPy.

A delay is `(sender, receiver, number) -> ticks`; a message is read when it is sent, and heard when it arrives.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dlsim.clocks import GRADIENT, TICKS_PER_SECOND, Tape

Gradient = Callable[[int, np.ndarray], np.ndarray]
DelayFn = Callable[[int, int, int], int]
TRAINS, SPEAKS, HEARS = range(3)


class Happening(NamedTuple):
    what: int
    node: int  # who trains, speaks or hears
    message: int  # the number of the message among all
    other: int
    seconds: float


def happenings(tape: Tape, delay: DelayFn, is_pair: bool) -> Iterator[Happening]:
    """What happens, in order of time, up to the end of the tape."""
    heap: list[tuple[int, int, int, int, int]] = []
    rows = zip(tape.kind, tape.a, tape.b, tape.ticks, tape.number, strict=True)
    message = 0
    for place, (kind, a, b, tick, number) in enumerate(rows):
        tick = int(tick)
        if kind == GRADIENT:
            heapq.heappush(heap, (tick, TRAINS, place, int(a), -1))
            continue
        for sender, receiver in ((a, b), (b, a))[: 1 + is_pair]:
            heapq.heappush(heap, (tick, SPEAKS, message, int(sender), int(receiver)))
            arrives = tick + delay(int(sender), int(receiver), int(number))
            if arrives < tape.stop:
                heapq.heappush(heap, (arrives, HEARS, message, int(receiver), int(sender)))
            message += 1
    while heap:
        tick, what, which, node, other = heapq.heappop(heap)
        yield Happening(what, node, which, other, tick / TICKS_PER_SECOND)


class Run(NamedTuple):
    rows: Any
    staleness: list[int]  # of the messages heard
    most_under_way: int


def play(
    events: Iterator[Happening],
    rows: list[dict[str, Any]],
    *,
    train: Any = None,
    before: Any = None,
    say: Any,
    hear: Any,
    in_order: bool = False,
    flow: Any = None,
) -> Run:
    """`train(node, row)`, `before(node, row)` and `hear(node, row, said)` change a row; `say(row)` gives what is sent."""
    air: dict[int, tuple[Any, int, int]] = {}
    happened, staleness, most = [0] * len(rows), [], 0
    newest: dict[tuple[int, int], int] = {}
    instant: tuple[float, list[int]] = (-1.0, [])  # who hears at this one
    for event in events:
        row = rows[event.node]
        if event.what != HEARS or event.seconds != instant[0]:
            for node in instant[1]:
                happened[node] += 1
            instant = (event.seconds, [])
        if flow is not None:
            flow(row, event.seconds)
        if event.what == TRAINS:
            train(event.node, row)
            happened[event.node] += 1
        elif event.what == SPEAKS:
            if before is not None:
                before(event.node, row)
                happened[event.node] += 1
            air[event.message] = (say(row), happened[event.node], event.message)
            most = max(most, len(air))
        else:
            said, then, number = air.pop(event.message)
            link = (event.other, event.node)
            if not in_order or number > newest.get(link, -1):
                newest[link] = number
                hear(event.node, row, said)
                staleness.append(happened[event.other] - then)
            instant[1].append(event.node)
    return Run(rows, staleness, most)


def stacked(run: Run, name: str) -> np.ndarray:
    return np.stack([row[name] for row in run.rows])


def _models(x: np.ndarray, **more: Any) -> list[dict[str, Any]]:
    return [
        {"x": one.copy(), **{k: (v.copy() if isinstance(v, np.ndarray) else v) for k, v in more.items()}} for one in x
    ]


def randomized_gossip(x: np.ndarray, events: Iterator[Happening], step_size: float, in_order: bool = False) -> Run:
    def hear(_: int, row: dict[str, Any], said: np.ndarray) -> None:
        row["x"] = row["x"] + step_size * (said - row["x"])

    return play(events, _models(x), say=lambda row: row["x"].copy(), hear=hear, in_order=in_order)


def ad_psgd(gradient: Gradient, x: np.ndarray, events: Iterator[Happening], rate: float) -> tuple[Run, list[int]]:
    rows, ages = _models(x, age=0), []
    for row in rows:
        row["seen"] = row["x"].copy()

    def train(node: int, row: dict[str, Any]) -> None:
        row["x"] = row["x"] - rate * gradient(node, row["seen"])
        ages.append(row["age"])
        row["seen"], row["age"] = row["x"].copy(), 0

    def hear(_: int, row: dict[str, Any], said: np.ndarray) -> None:
        row["x"], row["age"] = (row["x"] + said) / 2, row["age"] + 1

    return play(events, rows, train=train, say=lambda row: row["x"].copy(), hear=hear), ages


def a2cid2(gradient: Gradient, x: np.ndarray, events: Iterator[Happening], rate: float, constants: Any) -> Run:
    eta, alpha, alpha_tilde = constants
    rows = _models(x, since=0.0)
    for row in rows:
        row["tilde"] = row["x"].copy()

    def flow(row: dict[str, Any], now: float) -> None:
        mean, half = (row["x"] + row["tilde"]) / 2, (row["x"] - row["tilde"]) / 2
        half = half * np.exp(-2 * eta * (now - row["since"]))
        row["x"], row["tilde"], row["since"] = mean + half, mean - half, now

    def train(node: int, row: dict[str, Any]) -> None:
        step = rate * gradient(node, row["x"])
        row["x"], row["tilde"] = row["x"] - step, row["tilde"] - step

    def hear(_: int, row: dict[str, Any], said: np.ndarray) -> None:
        gap = row["x"] - said
        row["x"], row["tilde"] = row["x"] - alpha * gap, row["tilde"] - alpha_tilde * gap

    return play(events, rows, train=train, say=lambda row: row["x"].copy(), hear=hear, flow=flow)


def swarm_sgd(
    gradient: Gradient, x: np.ndarray, events: Iterator[Happening], rate: float, num_local_steps: int, blocking: bool
) -> Run:
    """Non-blocking, x = y + u: `y` is the model without the latest steps u, `copy` what others read."""
    rows = _models(x)
    for row in rows:
        row["y"], row["copy"] = row["x"].copy(), row["x"].copy()

    def before(node: int, row: dict[str, Any]) -> None:
        row["y"] = row["x"].copy()
        for _ in range(num_local_steps):
            row["x"] = row["x"] - rate * gradient(node, row["x"])

    def hear(_: int, row: dict[str, Any], said: np.ndarray) -> None:
        if blocking:
            row["x"] = (row["x"] + said) / 2
            return
        steps = row["x"] - row["y"]
        row["y"] = (row["y"] + said) / 2
        row["copy"], row["x"] = row["y"].copy(), row["y"] + steps

    say = (lambda row: row["x"].copy()) if blocking else (lambda row: row["copy"].copy())
    return play(events, rows, before=before, say=say, hear=hear)


def gossip_learning(
    gradient: Gradient, x: np.ndarray, events: Iterator[Happening], rate: float
) -> tuple[Run, list[int]]:
    rows, behind = _models(x, age=0), []

    def hear(node: int, row: dict[str, Any], said: tuple[np.ndarray, int]) -> None:
        model, age = said
        behind.append(max(row["age"] - age, 0))
        share = age / (age + row["age"]) if age + row["age"] else 0.5
        merged = row["x"] + share * (model - row["x"])
        row["x"], row["age"] = merged - rate * gradient(node, merged), max(age, row["age"]) + 1

    return play(events, rows, say=lambda row: (row["x"].copy(), row["age"]), hear=hear), behind
