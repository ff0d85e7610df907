"""MoDeST's protocol, played on the host event by event: who trains and who aggregates depends on times, never on models.

A play is deterministic by its seed.  Times are whole microseconds; what happens at one time happens in the order in which
it was brought about.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dlsim.networks.membership.turnover import CRASH, JOIN, LEAVE, Turnover
from dlsim.networks.membership.views import View, candidates, first_views, merge

TICKS_PER_SECOND = 10**6
BEYOND = 2  # rounds that are played after the last, so that what is late in it is there
TOLD = 10  # nodes that are told of a coming or going, in samples
ORDER, TRAINING, TURNOVER, FIRST, TELLING = range(5)  # purposes of draws


class Settings(NamedTuple):
    """What `sampling_tape` is given, checked."""

    num_nodes: int
    num_rounds: int
    sample_size: int  # s
    num_aggregators: int  # a
    success_fraction: float  # sf
    window_rounds: int  # Delta k
    ping_timeout: float  # Delta t, seconds
    training_seconds: np.ndarray  # [N], medians
    training_sigma: float
    latency: float  # seconds, of a ping and its answer
    transfer: float  # seconds, of a model
    aggregation_timeout: float  # seconds
    least_models: int  # that are averaged at a timeout
    turnover: Turnover
    seed: int


class RoundLog:
    """What happened in round k, from the training on the aggregates of k to the aggregates of k + 1."""

    def __init__(self, num_nodes: int) -> None:
        self.aggregates: list[int] = []  # nodes that made one of round k, the first first
        self.downs: list[tuple[int, int]] = []  # (aggregator, trainer): an aggregate was sent
        self.starts: dict[int, int] = {}  # trainer -> the aggregator whose model it starts from
        self.ups: list[tuple[int, int]] = []  # (trainer, aggregator of k + 1): a model was sent
        self.used: dict[int, list[int]] = {}  # aggregator of k + 1 -> trainers whose models it averaged
        self.small = np.zeros(num_nodes, np.uint32)  # pings, answers, acknowledgements, membership, by sender
        self.num_sent = 0  # trainers that have sent their model
        self.pings = self.failures = 0
        self.candidates: list[int] = []  # in the views of those that selected
        self.known: list[float] = []  # share of those present that trainers know
        self.samples: list[frozenset[int]] = []  # S^k of each aggregator
        self.present = 0
        self.is_short = False  # fewer answered than were wanted
        self.began = -1  # ticks, when the first trainer began; -1: nobody did
        self.ended = -1  # when the first aggregate of round k + 1 was made


class Play:
    """The state of all nodes and of what is under way; `run()` plays until all rounds are over or nothing happens."""

    def __init__(self, settings: Settings) -> None:
        self.set = settings
        num = settings.num_nodes
        self.now = 0
        self.rounds: defaultdict[int, RoundLog] = defaultdict(lambda: RoundLog(num))
        self.is_online = settings.turnover.is_present(num)
        self.views: View = first_views(self.is_online)
        self._life = np.zeros(num, np.int64)  # raised by each crash and leave: what was begun before is void
        self._training = np.zeros(num, np.int64)  # the newest round each node has trained in
        self._sent: defaultdict[tuple[int, int], set[int]] = defaultdict(set)  # (trainer, k): aggregators it told
        self._heard: defaultdict[tuple[int, int], list[int]] = defaultdict(list)  # (aggregator, k): whom it heard
        self._closed: set[tuple[int, int]] = set()
        self._pending: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)  # newcomers to be taken up
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._orders: dict[int, np.ndarray] = {}
        self._times: dict[int, np.ndarray] = {}
        self._coming = settings.turnover.events(num, self.draws(TURNOVER))
        self._newest = 0
        self._is_over = False

    def draws(self, purpose: int, *place: int) -> np.random.Generator:
        """A generator for one purpose and place."""
        return np.random.default_rng([self.set.seed, purpose, *place])

    def priorities(self, round: int) -> np.ndarray:
        """The numbers by which all nodes sort in a round, the same at every node, `[N]`."""
        return self.draws(ORDER, round).random(self.set.num_nodes)

    def order(self, round: int) -> np.ndarray:
        """All nodes by their priorities; equal ones by id."""
        if round not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k > round - 8}
            self._orders[round] = np.argsort(self.priorities(round), kind="stable")
        return self._orders[round]

    # Time.

    def after(self, seconds: float, what: Callable[..., None], *args: Any) -> None:
        """Have `what(*args)` happen later."""
        self._count += 1
        ticks = self.now + round(seconds * TICKS_PER_SECOND)
        heapq.heappush(self._heap, (ticks, self._count, what, args))

    def run(self) -> None:
        """Play from the first sample on."""
        if self.set.turnover.clock == "seconds":
            for time, node, kind in self._coming:
                self.after(time, self._turn, node, kind)
            self._coming = []
        present = np.flatnonzero(self.is_online)
        size = min(self.set.sample_size, present.size)
        for node in self.draws(FIRST).permutation(present)[:size].tolist():
            self._on_aggregate(node, self._life[node], 1, -1, size, None)
        while self._heap and not self._is_over:
            self.now, _, what, args = heapq.heappop(self._heap)
            what(*args)

    def _milestone(self, time: float) -> None:
        """Let happen what is to happen by this time in rounds."""
        while self._coming and self._coming[0][0] <= time:
            _, node, kind = self._coming.pop(0)
            self._turn(node, kind)

    # Select.

    def select(self, node: int, round: int, num: int, is_valid: Callable[[], bool], then: Callable[..., None]) -> None:
        """Ping the first `num` candidates at once and replace who is silent, until `num` have answered: `then(sample)`."""
        here = candidates(self.views.row(node), node, round, self.set.window_rounds)
        order = self.order(round)
        ranked = order[here[order]].tolist()
        self.rounds[round - 1].candidates.append(len(ranked))
        self._ping(node, round, num, ranked, [], 0, is_valid, then)

    def _ping(
        self,
        node: int,
        round: int,
        num: int,
        ranked: list[int],
        sample: list[int],
        at: int,
        is_valid: Callable[[], bool],
        then: Callable[..., None],
    ) -> None:
        """Ping those that are still wanted; all silent ones of a batch are given up at one time."""
        if not is_valid():
            return
        log, (heard, _, _) = self.rounds[round - 1], self.views
        asked = ranked[at : at + num - len(sample)]
        others = [j for j in asked if j != node]
        answering = [j for j in others if self.is_online[j]]
        log.pings += len(others)
        log.failures += len(others) - len(answering)
        log.small[node] += len(others)
        log.small[answering] += 1
        heard[node, answering] = np.maximum(heard[node, answering], round)
        heard[answering, node] = np.maximum(heard[answering, node], round)
        sample = sample + [j for j in asked if j == node or self.is_online[j]]
        at += len(asked)
        is_done = len(sample) == num or at == len(ranked)
        is_silent = len(others) > len(answering)
        if is_done and (len(sample) == num or not is_silent):
            self.after(self.set.latency if answering else 0.0, self._selected, sample, num, log, is_valid, then)
        elif is_done:
            self.after(self.set.ping_timeout, self._selected, sample, num, log, is_valid, then)
        else:
            self.after(self.set.ping_timeout, self._ping, node, round, num, ranked, sample, at, is_valid, then)

    def _selected(
        self, sample: list[int], num: int, log: RoundLog, is_valid: Callable[[], bool], then: Callable[..., None]
    ) -> None:
        if is_valid():
            log.is_short |= len(sample) < num
            then(sample)

    # Train.

    def _on_aggregate(self, node: int, life: int, k: int, source: int, size: int, view: View | None) -> None:
        """An aggregate of round k arrives, from a sample of `size`."""
        if not self.is_online[node] or self._life[node] != life:
            return
        if view is not None:
            merge(self.views.row(node), view)
            self._note(node, source, k)
        if k <= self._training[node]:
            return
        log = self.rounds[k]
        if k > self._newest:
            self._newest, log.began = k, self.now
            self._milestone(k)
            log.present = int(self.is_online.sum())
            if not self.is_online[node]:
                return
        self._training[node] = k
        log.starts[node] = source
        if k not in self._times:
            self._times = {r: t for r, t in self._times.items() if r > k - 8}
            normal = self.draws(TRAINING, k).standard_normal(self.set.num_nodes)
            self._times[k] = self.set.training_seconds * np.exp(self.set.training_sigma * normal)
        self.after(float(self._times[k][node]), self._on_trained, node, life, k, size)

    def _trains(self, node: int, life: int, k: int) -> Callable[[], bool]:
        return lambda: bool(self.is_online[node] and self._life[node] == life and self._training[node] == k)

    def _on_trained(self, node: int, life: int, k: int, size: int) -> None:
        is_valid = self._trains(node, life, k)
        if not is_valid():
            return
        members = self.views.is_member[node] & (self.views.heard[node] >= k - self.set.window_rounds)
        self.rounds[k].known.append(float((members & self.is_online).sum() / max(self.is_online.sum(), 1)))

        def send(sample: list[int]) -> None:
            self._send_model(node, life, k, size, sample)

        self.select(node, k + 1, self.set.num_aggregators, is_valid, send)

    def _send_model(self, node: int, life: int, k: int, size: int, sample: list[int]) -> None:
        self._note(node, node, k)
        view = self.views.row(node).copy()
        told = self._sent[node, k]
        for other in sample:
            if other not in told:
                told.add(other)
                self.rounds[k].ups.append((node, other))
                delay = 0.0 if other == node else self.set.transfer
                self.after(delay, self._on_model, other, self._life[other], k, node, life, size, view)
        self._take_up(node, k)
        log = self.rounds[k]
        log.num_sent += 1
        if k == self._newest and log.num_sent >= self._enough(size):
            self._milestone(k + 0.5)

    def _enough(self, size: int) -> int:
        """How many models of a sample of `size` an aggregator waits for."""
        return max(1, math.floor(self.set.success_fraction * size + 1e-9))

    # Aggregate.

    def _on_model(self, node: int, life: int, k: int, trainer: int, trainer_life: int, size: int, view: View) -> None:
        """A model of round k arrives at one that aggregates for round k + 1."""
        if not self.is_online[node] or self._life[node] != life:
            return
        merge(self.views.row(node), view)
        self._note(node, trainer, k)
        place = (node, k + 1)
        if place in self._closed:
            return
        heard = self._heard[place]
        if not heard:
            self.after(self.set.aggregation_timeout, self._on_timeout, node, life, k)
        heard.append(trainer)
        if len(heard) >= self._enough(size):
            self._close(node, life, k)

    def _on_timeout(self, node: int, life: int, k: int) -> None:
        place = (node, k + 1)
        if place not in self._closed and self.is_online[node] and self._life[node] == life:
            if len(self._heard[place]) >= self.set.least_models:
                self._close(node, life, k)
            else:
                self._closed.add(place)  # gives up

    def _close(self, node: int, life: int, k: int) -> None:
        self._closed.add((node, k + 1))
        log = self.rounds[k]
        log.used[node] = list(self._heard[node, k + 1])
        log.small[node] += sum(trainer != node for trainer in log.used[node])  # acknowledgements

        def is_valid() -> bool:
            return bool(self.is_online[node] and self._life[node] == life)

        def send(sample: list[int]) -> None:
            self._send_aggregate(node, k + 1, sample)

        self.rounds[k + 1].aggregates.append(node)
        if log.ended < 0:
            log.ended = self.now
            if k == self.set.num_rounds + BEYOND:
                self._is_over = True
                return
        self.select(node, k + 1, self.set.sample_size, is_valid, send)

    def _send_aggregate(self, node: int, k: int, sample: list[int]) -> None:
        self._note(node, node, k)
        view = self.views.row(node).copy()
        log = self.rounds[k]
        log.samples.append(frozenset(sample))
        for other in sample:
            log.downs.append((node, other))
            delay = 0.0 if other == node else self.set.transfer
            self.after(delay, self._on_aggregate, other, self._life[other], k, node, len(sample), view)
        self._take_up(node, k)

    def _note(self, node: int, other: int, k: int) -> None:
        """`node` has heard of `other` in round k."""
        self.views.heard[node, other] = max(self.views.heard[node, other], k)

    # Come and go.

    def _turn(self, node: int, kind: str) -> None:
        if kind == JOIN and not self.is_online[node]:
            self._join(node)
        elif kind == LEAVE and self.is_online[node]:
            self._leave(node)
        elif kind == CRASH and self.is_online[node]:
            self.is_online[node] = False
            self._life[node] += 1

    def _tell(self, node: int) -> list[int]:
        """Those that are told of a coming or going: random ones that are there, ten times as many as a sample has."""
        others = np.flatnonzero(self.is_online)
        others = others[others != node]
        draws = self.draws(TELLING, node, int(self.views.events[node, node]))
        told: list[int] = draws.permutation(others)[: TOLD * self.set.sample_size].tolist()
        self.rounds[max(self._newest, 1)].small[node] += len(told)
        return told

    def _join(self, node: int) -> None:
        self.is_online[node] = True
        mine = self.views.row(node)
        mine.events[node] += 1
        mine.is_member[node] = True
        told = self._tell(node)
        for place, other in enumerate(told):
            if not place:
                merge(mine, self.views.row(other))
                self.rounds[max(self._newest, 1)].small[other] += 1
            self._pending[other].append((node, int(mine.events[node])))

    def _take_up(self, node: int, k: int) -> None:
        """Newcomers are candidates once a model was sent since they came."""
        mine = self.views.row(node)
        for other, events in self._pending.pop(node, ()):
            if events >= mine.events[other]:
                mine.events[other], mine.is_member[other] = events, True
                mine.heard[other] = max(mine.heard[other], k)

    def _leave(self, node: int) -> None:
        mine = self.views.row(node)
        mine.events[node] += 1
        mine.is_member[node] = False
        events = int(mine.events[node])
        told = self._tell(node)
        self.is_online[node] = False
        self._life[node] += 1
        for other in told:
            self._mark_left(other, node, events)
        for (aggregator, k), heard in list(self._heard.items()):
            if aggregator == node and (aggregator, k) not in self._closed:
                for trainer in heard:
                    self._select_again(trainer, node, events, k - 1)

    def _mark_left(self, node: int, other: int, events: int) -> None:
        view = self.views.row(node)
        if events > view.events[other]:
            view.events[other], view.is_member[other] = events, False

    def _select_again(self, trainer: int, gone: int, events: int, k: int) -> None:
        """An aggregator left in good order: who had sent it a model sends it to the next ones."""
        life = int(self._life[trainer])
        is_valid = self._trains(trainer, life, k)
        if not is_valid():
            return
        self.rounds[k].small[gone] += 1
        self._mark_left(trainer, gone, events)
        size = self.set.sample_size

        def send(sample: list[int]) -> None:
            self._send_model(trainer, life, k, size, sample)

        self.select(trainer, k + 1, self.set.num_aggregators, is_valid, send)
