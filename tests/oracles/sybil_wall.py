"""FoolsGold and SybilWall as loops over nodes and Python dictionaries, float64."""

from __future__ import annotations

import numpy as np


def compared(histories: np.ndarray) -> np.ndarray:
    """FoolsGold's weights before they are scaled, of histories [m, D]."""
    num = len(histories)
    cosine = np.zeros((num, num))
    for a in range(num):
        for b in range(num):
            length = np.linalg.norm(histories[a]) * np.linalg.norm(histories[b])
            if a != b and length > 0:
                cosine[a, b] = histories[a] @ histories[b] / length
    most = cosine.max(axis=1) + 1e-5
    for a in range(num):
        for b in range(num):
            if most[a] < most[b]:
                cosine[a, b] *= most[a] / most[b]
    weights = np.clip(1 - cosine.max(axis=1), 0, 1)
    return np.where(weights > 1e-9, weights, 0)


def scaled(weights: np.ndarray) -> np.ndarray:
    if not len(weights) or weights.max() <= 0:
        return np.zeros_like(weights)
    weights = weights / weights.max()
    weights[weights == 1] = 0.99
    return np.clip(np.log(weights / (1 - weights) + 1e-5) + 0.5, 0, 1)


def foolsgold(candidates: np.ndarray, histories: np.ndarray | None = None) -> np.ndarray:
    """Of candidates [m, D], the own one first."""
    weights = scaled(compared(candidates if histories is None else histories))
    return weights @ candidates / weights.sum() if weights.sum() > 0 else candidates[0]


class Node:
    """A node of SybilWall: what it knows of others, by peer: (round, distance, source, model)."""

    def __init__(self, name: int, neighbors: list[int]) -> None:
        self.name, self.neighbors = name, neighbors
        self.known: dict[int, tuple[int, int, int, np.ndarray]] = {}

    def candidates(self, receiver: int) -> list[int]:
        return [p for p, (_, _, source, _) in self.known.items() if p != receiver and source != receiver]

    def odds(self, receiver: int, decay: float) -> dict[int, float]:
        """Of each record the probability of going to this receiver."""
        raw = {p: decay * np.exp(-decay * (self.known[p][1] - 1)) for p in self.candidates(receiver)}
        return {p: odd / sum(raw.values()) for p, odd in raw.items()}

    def told(self, source: int, peer: int, round: int, distance: int, model: np.ndarray) -> None:
        if peer != self.name and (peer not in self.known or self.known[peer][0] < round):
            self.known[peer] = (round, distance + 1, source, model)

    def heard(self, round: int, models: dict[int, np.ndarray]) -> None:
        for peer, model in models.items():
            self.known[peer] = (round, 1, peer, model)

    def aggregate(self, own: np.ndarray, models: dict[int, np.ndarray]) -> np.ndarray:
        peers = list(models) + [p for p in self.known if p not in models]
        weights = compared(np.array([models.get(p, self.known[p][3]) for p in peers]))[: len(models)]
        weights = scaled(weights)
        total = own + sum(w * model for w, model in zip(weights, models.values(), strict=True))
        return total / (1 + weights.sum())
