"""A play of the sampling protocol as arrays for the device: who trains, who aggregates, and what it costs, round by round."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dlsim import checks
from dlsim.networks.membership.protocol import TICKS_PER_SECOND, Play, RoundLog, Settings
from dlsim.networks.membership.turnover import Turnover

SMALL_BITS = 8 * 32  # of a ping, an answer, an acknowledgement, a message of membership
VIEW_BITS = 8 * 16  # of a view, for each node in it
MISSED = 0.01  # share of nodes that may fall out of the views for having been silent by chance


class SamplingTape(NamedTuple):
    """T rounds of a protocol, NumPy: what `dlsim.algorithms.modest` plays.  `sampling_tape` makes one.

    In row t, round k = t + 1, the aggregators of k send their models to its trainers, which train and send theirs to the
    aggregators of k + 1.  S trainers and A aggregators at most; places that nobody takes hold ids of idle nodes.
    """

    trainers: np.ndarray  # int32 [T, S] ids
    aggregators: np.ndarray  # int32 [T, A] ids, of round k + 1
    down: np.ndarray  # bool [T, A, S] an aggregate was sent (row 0: none, all have the first model)
    start: np.ndarray  # int32 [T, S] the place of the aggregate that a trainer starts from
    trains: np.ndarray  # bool [T, S] it did, and sent the result to somebody
    up: np.ndarray  # bool [T, S, A] a model was sent
    used: np.ndarray  # bool [T, S, A] and is in the aggregator's mean
    first: np.ndarray  # int32 [T] the place of the first aggregator to be done; -1: none was, the system has stalled
    small: np.ndarray  # uint32 [T, N] small messages sent by each node
    seconds: np.ndarray  # float32 [T] from the first aggregate of k to that of k + 1
    pings: np.ndarray  # int32 [T]
    failures: np.ndarray  # int32 [T] pings without an answer
    candidates: np.ndarray  # float32 [T] mean number in the views of those that selected; NaN: nobody did
    known: np.ndarray  # float32 [T] mean share of those present whom a trainer takes to be there; NaN
    overlap: np.ndarray  # float32 [T] of the samples of round k of its aggregators: common to all / in any; NaN
    present: np.ndarray  # int32 [T] nodes that are there as the round begins
    is_short: np.ndarray  # bool [T] somebody found fewer than it wanted

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.small.shape[1]

    @property
    def num_rounds(self) -> int:
        """T."""
        return self.trainers.shape[0]

    @property
    def models(self) -> np.ndarray:
        """Models sent in each round, those to oneself not among them, int64 `[T]`."""
        before = np.concatenate([self.aggregators[:1], self.aggregators[:-1]])
        down = self.down & (before[:, :, None] != self.trainers[:, None, :])
        up = self.up & (self.trainers[:, :, None] != self.aggregators[:, None, :])
        return down.sum((1, 2)) + up.sum((1, 2))

    @property
    def num_played(self) -> int:
        """Rounds until it stalled; T: it did not."""
        over = np.flatnonzero(self.first < 0)
        return int(over[0]) if over.size else self.num_rounds

    def __repr__(self) -> str:
        played = "" if self.num_played == self.num_rounds else f", stalled after {self.num_played}"
        return (
            f"SamplingTape({self.num_nodes} nodes, {self.num_rounds} rounds{played}, at most {self.trainers.shape[1]} "
            f"trainers and {self.aggregators.shape[1]} aggregators)"
        )


@checks.typed
def sampling_tape(
    num_nodes: int,
    num_rounds: int,
    *,
    sample_size: int = 10,
    num_aggregators: int = 1,
    success_fraction: float = 1.0,
    window_rounds: int = 50,
    ping_timeout: float = 5.0,
    training_seconds: Any = 1.0,
    training_sigma: float = 0.3,
    latency: float = 0.1,
    transfer: float = 0.2,
    aggregation_timeout: float = 300.0,
    least_models: int = 3,
    turnover: Turnover | None = None,
    seed: int = 0,
) -> SamplingTape:
    """MoDeST's decentralised sampling, played for `num_rounds` rounds: no server, and nobody is special.

    Every node has a view of all others: the last round in which it heard of each, and whether it is a member.  In round k the
    candidates of a node are the members it has heard of in the last `window_rounds`, in an order drawn for k that is the
    same at every node.  It pings the first n, replaces who is silent for `ping_timeout`, and stops at n answers: a sample.
    Trainers of round k draw so the `num_aggregators` of k + 1 and send them their models; each of these averages the first
    floor(success_fraction sample_size) that come, draws the sample of k + 1 and sends it the mean.  Views travel with models
    and are merged: the later round, and membership at the node's later event.  A newcomer tells some that it has come, and
    is a candidate of those that have sent a model since.  A node that has trained in a round ignores aggregates of it and of
    older ones; one of a newer round ends what it does.

    Args:
      num_nodes: N.
      num_rounds: T.
      sample_size: s, trainers of a round.
      num_aggregators: a, at most s; more than can fail at once.
      success_fraction: sf in (0, 1], with floor(sf s) >= 1; of a sample smaller than s it is the share of that.
      window_rounds: Delta k.  Who is not in a sample for so long is forgotten, though it is there: a warning where that
        befalls more than one in a hundred.
      ping_timeout: Delta t, seconds, above 0.
      training_seconds: median of a training, a number or one a node `[N]`.
      training_sigma: standard deviation of its logarithm, drawn for each node and round.
      latency: seconds from a ping to its answer.
      transfer: seconds that a model is under way.
      aggregation_timeout: seconds after its first model at which an aggregator makes do with `least_models`, or gives up.
      turnover: who comes and goes (`dlsim.networks.turnover`); default nobody.
      seed: of the play.  Runs over one tape vary what is learned and not who is asked, as runs over one random graph do.

    Source: de Vos, Dhasade, Kermarrec, Lavoie, Pouwelse, MoDeST: bridging the gap between federated and decentralized
      learning with decentralized sampling, 2023, and its code.  Differs: the order is drawn and no MD5 of "id-round"; one
      ping, not two, before a node is given up; a threshold in proportion where fewer answer than were wanted; a suspicion
      of one that failed is never written as its own word; pings are answered by who is there when they are sent.
    """
    where = "sampling_tape"
    checks.integer(where, "num_nodes", num_nodes, 1)
    checks.integer(where, "num_rounds", num_rounds, 1)
    host = {"success_fraction": success_fraction, "ping_timeout": ping_timeout, "training_seconds": training_seconds}
    host |= {"training_sigma": training_sigma, "latency": latency, "transfer": transfer}
    for name, value in {**host, "aggregation_timeout": aggregation_timeout}.items():
        checks.known(where, name, value, "known while tracing: the tape is made on the host")
    checks.integer(where, "sample_size", sample_size, 1)
    fix = "Ask for fewer, or have more nodes."
    if sample_size > num_nodes:
        checks.fail(where, "sample_size", f"at most the {num_nodes} nodes", sample_size, fix)
    checks.integer(where, "num_aggregators", num_aggregators, 1, sample_size)
    checks.number(where, "success_fraction", success_fraction, 0.0, 1.0, open_minimum=True)
    if success_fraction * sample_size < 1 - 1e-9:
        checks.fail(where, "success_fraction", f"at least 1 / sample_size = {1 / sample_size:g}", success_fraction)
    checks.integer(where, "window_rounds", window_rounds, 1)
    checks.number(where, "ping_timeout", ping_timeout, 0.0, open_minimum=True)
    checks.number(where, "training_sigma", training_sigma, 0.0, 5.0)
    for name, value in (("latency", latency), ("transfer", transfer), ("aggregation_timeout", aggregation_timeout)):
        checks.number(where, name, value, 0.0)
    checks.integer(where, "least_models", least_models, 1)
    checks.seed(where, seed)
    medians = checks.host(where, "training_seconds", training_seconds)
    is_real = medians.dtype.kind in "iuf" and medians.shape in ((), (num_nodes,))
    if not is_real or not (np.isfinite(medians) & (medians > 0)).all():
        rule = f"above 0, one number or one a node [{num_nodes}]"
        checks.fail(where, "training_seconds", rule, checks.describe(training_seconds))
    coming = Turnover(num_nodes) if turnover is None else turnover
    if coming.num_nodes != num_nodes:
        checks.fail(where, "turnover", f"of {num_nodes} nodes", f"one of {coming.num_nodes}")
    present = int(coming.is_present(num_nodes).sum())
    if not present:
        checks.fail(where, "turnover", "such that somebody is there from the start", "nobody")
    if sample_size > present:
        checks.fail(
            where, "sample_size", f"at most the {present} nodes that are there from the start", sample_size, fix
        )
    missed = (1 - sample_size / num_nodes) ** window_rounds
    if missed > MISSED:
        warnings.warn(
            f"{where}: about {100 * missed:.2g} % of the nodes are silent for {window_rounds} rounds by chance and fall out "
            f"of the views. Use window_rounds={_enough(sample_size / num_nodes)} or more.",
            stacklevel=2,
        )
    play = Play(
        Settings(
            num_nodes=num_nodes,
            num_rounds=num_rounds,
            sample_size=sample_size,
            num_aggregators=num_aggregators,
            success_fraction=success_fraction,
            window_rounds=window_rounds,
            ping_timeout=ping_timeout,
            training_seconds=np.broadcast_to(medians, (num_nodes,)).astype(float),
            training_sigma=training_sigma,
            latency=latency,
            transfer=transfer,
            aggregation_timeout=aggregation_timeout,
            least_models=least_models,
            turnover=coming,
            seed=seed,
        )
    )
    play.run()
    return tape_of([play.rounds[k] for k in range(1, num_rounds + 1)], num_nodes)


def _enough(share: float) -> int:
    """The shortest window in which all but `MISSED` are asked."""
    return int(np.ceil(np.log(MISSED) / np.log1p(-share)))


def tape_of(rounds: Sequence[RoundLog], num_nodes: int) -> SamplingTape:
    """What happened in rounds 1, 2, ..., as a tape."""
    # An aggregator has a place where it made a mean or was sent a model; the first to be done comes first.
    bases = [list(dict.fromkeys([*log.used, *(to for _, to in log.ups)])) for log in rounds]
    cohorts = [list(dict.fromkeys([*log.starts, *(to for _, to in log.downs)])) for log in rounds]
    num = len(rounds)
    width = max(map(len, cohorts), default=0) or 1
    breadth = max(map(len, bases), default=0) or 1
    trainers, aggregators = (np.zeros((num, size), np.int32) for size in (width, breadth))
    down = np.zeros((num, breadth, width), bool)
    up, used = (np.zeros((num, width, breadth), bool) for _ in range(2))
    start, trains = np.zeros((num, width), np.int32), np.zeros((num, width), bool)
    for t, (log, cohort, base) in enumerate(zip(rounds, cohorts, bases, strict=True)):
        trainers[t], aggregators[t] = _filled(cohort, width, num_nodes), _filled(base, breadth, num_nodes)
        place, at = ({node: i for i, node in enumerate(one)} for one in (cohort, base))
        before = {node: i for i, node in enumerate(bases[t - 1])} if t else {-1: 0}
        for sender, receiver in log.downs:
            down[t, before[sender], place[receiver]] = True
        for node, source in log.starts.items():
            start[t, place[node]] = before[source]
        for sender, receiver in log.ups:
            trains[t, place[sender]] = True
            up[t, place[sender], at[receiver]] = True
        for receiver, senders in log.used.items():
            used[t, [place[i] for i in senders], at[receiver]] = True
    firsts = np.array([0 if log.used else -1 for log in rounds], np.int32)
    began = [0, *(log.ended for log in rounds)]
    ticks = [max(end - begin, 0) if end >= 0 else 0 for begin, end in itertools.pairwise(began)]
    return SamplingTape(
        trainers=trainers,
        aggregators=aggregators,
        down=down,
        start=start,
        trains=trains,
        up=up,
        used=used,
        first=firsts,
        small=np.stack([log.small for log in rounds]),
        seconds=np.asarray(ticks, np.float32) / np.float32(TICKS_PER_SECOND),
        pings=np.array([log.pings for log in rounds], np.int32),
        failures=np.array([log.failures for log in rounds], np.int32),
        candidates=_means([log.candidates for log in rounds]),
        known=_means([log.known for log in rounds]),
        overlap=np.array([_overlap(log.samples) for log in rounds], np.float32),
        present=np.array([log.present for log in rounds], np.int32),
        is_short=np.array([log.is_short for log in rounds]),
    )


def _filled(nodes: list[int], size: int, num_nodes: int) -> np.ndarray:
    """`nodes`, and other nodes up to `size`: places that nobody takes must not name one twice."""
    if len(nodes) == size:
        return np.asarray(nodes, np.int32)
    free = np.setdiff1d(np.arange(min(num_nodes, 2 * size)), nodes)
    return np.asarray([*nodes, *free[: size - len(nodes)].tolist()], np.int32)


def _means(values: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array([np.mean(one) if one else np.nan for one in values], np.float32)


def _overlap(samples: Sequence[frozenset[int]]) -> float:
    if not samples:
        return float("nan")
    union = frozenset.union(*samples)
    return len(frozenset.intersection(*samples)) / max(len(union), 1)
