"""Gossip learning in all its forms, one event after the other in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from oracles.asynchronous import Gradient

from dlsim.clocks import Tape


class Told(NamedTuple):
    """What there is after the tape, by node."""

    params: np.ndarray
    age: np.ndarray
    tokens: np.ndarray  # [N, 3] held, pending, periods
    sent: np.ndarray


def proactive(strategy: str, capacity: int, reactivity: int, tokens: int) -> float:
    if strategy == "proactive":
        return 1.0
    if strategy == "reactive":
        return 0.0
    if strategy in ("simple", "generalized"):
        return 1.0 if tokens >= capacity else 0.0
    if tokens < reactivity - 1:
        return 0.0
    if tokens > capacity:
        return 1.0
    return (tokens - reactivity + 1) / (capacity - reactivity + 1)


def reactive(strategy: str, reactivity: int, tokens: int, useful: bool, draw: float) -> int:
    if strategy == "proactive":
        return 0
    if strategy == "simple":
        return int(tokens > 0)
    if strategy == "generalized":
        return (reactivity - 1 + tokens) // (reactivity if useful else 2 * reactivity)
    if not useful:
        return 0
    if strategy == "reactive":
        return reactivity
    share = tokens / reactivity
    return int(share) + int(draw < share - int(share))


def gossip_learning(
    gradient: Gradient,
    x: np.ndarray,
    tape: Tape,
    rate: float,
    *,
    exchange: str = "push",
    degree: np.ndarray | None = None,
    account: tuple[str, int, int, str, int] | None = None,
    draw: Callable[..., float] | None = None,
) -> Told:
    """Age-weighted merges, then one step; `degree`: with pass-through; `account`: strategy, C, A, useful, slots.

    `draw(k, name)` is a uniform number of event k: "over", "acts", "round", "merges".
    """
    x, age, num = x.copy(), np.zeros(len(x), int), len(x)
    tokens, sent = np.zeros((num, 3), int), np.zeros(num, int)
    if account is not None and account[0] == "reactive":
        tokens[:, 1] = 1

    def taken(k: int, node: int, heard: np.ndarray, heard_age: int, own: np.ndarray, own_age: int, other: int) -> None:
        if degree is not None and not draw(k, "merges") < degree[other] / degree[node]:  # type: ignore[misc]
            x[node], age[node] = heard, heard_age
            return
        share = heard_age / (heard_age + own_age) if heard_age + own_age else 0.5
        merged = own + share * (heard - own)
        x[node], age[node] = merged - rate * gradient(node, merged), max(heard_age, own_age) + 1

    for k, (i, j) in enumerate(zip(tape.a.tolist(), tape.b.tolist(), strict=True)):
        if account is not None:
            strategy, capacity, reactivity, usefulness, slots = account
            if draw(k, "over") * slots < 1:  # type: ignore[misc]
                tokens[i, 2] += 1
                if not draw(k, "acts") < proactive(strategy, capacity, reactivity, tokens[i, 0]):  # type: ignore[misc]
                    tokens[i, 0] += 1
                    continue
            elif tokens[i, 1] > 0:
                tokens[i, 1] -= 1
            else:
                continue
        before = [(x[node].copy(), int(age[node])) for node in (i, j)]
        sent[i] += 1
        taken(k, j, *before[0], *before[1], i)
        if exchange == "push_pull":
            sent[j] += 1
            taken(k, i, *before[1], *before[0], j)
        if account is not None:
            useful = usefulness == "always" or before[0][1] >= before[1][1]
            answers = reactive(strategy, reactivity, tokens[j, 0], useful, draw(k, "round"))  # type: ignore[misc]
            tokens[j, 0] -= min(answers, tokens[j, 0])
            tokens[j, 1] += answers
    return Told(x, age, tokens, sent)
