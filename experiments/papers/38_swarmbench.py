"""SwarmBench (38): what do a small view and silence cost scripted swarms in five coordination games?

Ruan, Huang, Wen, Sun, Benchmarking LLMs' Swarm Intelligence, 2025.  Command: `dlsim run experiments/papers/38_swarmbench.py`

Ten agents on a grid of 10 x 10 that see k x k cells and push each other: pursuit, synchronization, foraging, flocking,
transport, 100 rounds each.  The paper lets language models play them; here agents are random, or follow the scripts of
`dlsim.environments.swarm.scripts`, with messages to those in their window or without (the lights of synchronization need
none), or act as independent PPO with shared parameters trained them to by the tasks' shaped rewards (silent, k = 5).  The
paper's best models have with k = 5: pursuit 9.6, synchronization 12.6, foraging 5.8, transport 0.7 (11 of 13 models: 0);
they are about other players, so no claim is made of them.

The paper says: scores depend strongly on the task, and local information is what makes the tasks hard.

Measured (default mode, 100 seeds; ten minutes on 2 cores, four of them training; errors are of means): synchronization
1.08, 4.23, 15.7, 37.7, 49.9 with k = 3, 5, 7, 9, 19: the view decides.  Random agents: transport 0 in all runs,
flocking above 0 in 96 %.  With k = 5, silent and with messages: pursuit 14.2, 15.1 (by run +0.83 ± 0.63), foraging
13.5, 14.1 (+0.59 ± 0.28), flocking 1.1, 10.0 (random agents: 6.5; silent flocks settle in rings of their own),
transport 5.1, 5.7.  All four claims hold.  That of pursuit is the weakest: of the first 40 seeds alone, the number
that was planned, it fails (-0.23 ± 1.08), over 400 seeds it is +0.40 ± 0.34 (foraging +0.46 ± 0.15).  Messages help
pursuit at k = 3 (4.6, 6.2) and harm it at k = 7 (18.7, 16.6), where they crowd the hunters.  Flocks of 40 runs that
lose 0, 50, 90, 100 % of messages score 10.6, 10.0, 9.9, 0.6 (`dlsim sweep`, axis `message_loss`).  Constants of the
scripts were chosen on other runs.

IPPO is reported, and nothing is claimed of it.  After 160,000 steps of a world (half a minute), two policies a task,
each played by about half of the runs (bands hold the spread of runs, and that of trainings only through these two):
pursuit 8.4 ± 0.3 (7.3 and 9.7 by policy), synchronization 1.0, foraging 0, flocking 12.9 ± 0.3 (12.9 and 13.0),
transport 0.  Flocking is thus better than by the script with messages, pursuit between random and script.  In
synchronization there is one point and never a second.  The shaped reward of foraging also pays for
being near what is needed (0.03 a round two cells away, against 0.5 for a delivery): in a run looked at while settings were
tried, the score fell to 0 while the return rose, up to 208,000 steps; transport stayed at 0 as long.

Departures: no language models; a message is 2 to 10 numbers, not text; 100 seeds in place of 40 for all means.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import checks, environments, keys, marl, networks
from dlsim.core import Feed
from dlsim.environments.environment import Environment
from dlsim.environments.policies import Policy, random_policy
from dlsim.environments.swarm import scripts
from dlsim.experiment import Claim
from dlsim.learning.measures import only

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 1, "default": 10}  # on 2 cores
CITATION = "Ruan, Huang, Wen, Sun, Benchmarking LLMs' Swarm Intelligence, 2025."
SOURCE = "Ruan et al., 2025"
TASKS = ("pursuit", "synchronization", "foraging", "flocking", "transport")
PLAYERS = {"random": "random", "silent": "script, silent", "messages": "script, messages", "ippo": "IPPO"}
SCRIPTS = ("silent", "messages")
VIEWS = (3, 5, 7, 9, 19)
VIEW = 5  # the paper's
FULL, LOCAL = 5.0, 1.5  # synchronization: S(19) >= 5 S(5), S(5) >= 1.5 S(3)
NONE, SOME = 0.95, 0.90  # shares of random runs: transport without a point, flocking with one
ENOUGH, MANY = 40, 100  # seeds, for claims on means and on shares
ROUNDS = 100
COPIES = 16  # worlds side by side in training; an update plays an episode in each
NAME = "38_swarmbench"


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of(NAME, "mode", mode, MODES)
    config = ConfigDict()
    is_tiny = mode == "tiny"
    if is_tiny:
        heard = tuple(f"{task} {player} {VIEW}" for task in ("foraging", "pursuit") for player in SCRIPTS)
        lights = ("synchronization silent 3", f"synchronization silent {VIEW}")
        learned = f"synchronization ippo {VIEW}"
        config.case = (f"flocking random {VIEW}", f"transport random {VIEW}", *lights, *heard, learned)
    else:
        random = tuple(f"{task} random {VIEW}" for task in TASKS)
        silent = tuple(f"{task} silent {view}" for task in TASKS for view in VIEWS)
        spoken = tuple(f"{task} messages {view}" for task in TASKS if task != "synchronization" for view in VIEWS)
        learned = tuple(f"{task} ippo {VIEW}" for task in TASKS)
        config.case = (*random, *silent, *spoken, *learned)
    config.num_agents = 10
    config.size = 10
    config.patience = 2.0  # of the script of synchronization, m
    config.message_loss = 0.0  # probability
    config.num_policies = {"tiny": 1, "default": 2, "paper": 5}[mode]  # that IPPO trains for a task
    config.training_steps = {"tiny": 1_600, "default": 160_000, "paper": 2_000_000}[mode]  # of the world, a policy
    config.num_steps = 12 if is_tiny else ROUNDS
    config.num_seeds = {"tiny": 2, "default": 100, "paper": 400}[mode]
    config.record_every = 1
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Every case: a task, who plays it, and the side of its view."""
    return {"case": config.case}


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One case, from its first episode on."""
    task, player, view = config.case.split()
    checks.one_of(NAME, "case", task, TASKS)
    checks.one_of(NAME, "case", player, PLAYERS)
    world = _world(task, config, int(view))
    if player == "ippo":
        process = _learned(world, _world(task, config, int(view), "shaped"), config)
    else:
        policy = random_policy(world) if player == "random" else _script(task, config, int(view), player == "messages")
        network = None
        if policy.message_size:
            network = networks.complete(config.num_agents).with_channel(networks.loss(config.message_loss))
        process = environments.play(world, policy, network)
    names = ("score", "num_episodes", "bits_sent", "messages_sent")
    return process, dlsim.Record(every=config.record_every, fn=only(process, names, missing=0.0))


def _world(task: str, config: ConfigDict, view: int, reward: str = "score") -> Environment:
    sizes = {"size": config.size} if task == "foraging" else {"height": config.size, "width": config.size}
    make: Any = getattr(environments, task)
    made: Environment = make(num_agents=config.num_agents, view=view, max_rounds=ROUNDS, reward=reward, **sizes)
    return made


class Learned(NamedTuple):
    """Agents at play, and the policy that they act by."""

    params: Any  # of the actor, [1, ...]
    play: Any


def _learned(world: Environment, school: Environment, config: ConfigDict) -> dlsim.Process:
    """Agents that play in `world` as IPPO with shared parameters trained them in `school`.

    A run draws which of the policies it plays.  The host trains one when a run first asks for it (a feed), so that all runs
    of a case share a few trainings.
    """
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3, eps=1e-5))
    learner = marl.ippo(school, optimizer, num_copies=COPIES, num_steps=ROUNDS)
    num_updates, num_policies = max(1, config.training_steps // (COPIES * ROUNDS)), config.num_policies
    num_steps, lock, trained = config.num_steps, threading.Lock(), dict[int, Any]()

    def train(number: int) -> Any:
        def fn(state: Any, info: Any) -> dict[str, Any]:
            del info
            return {"training_return": learner.measure(state.algorithm)["training_return"]}

        record = dlsim.Record(every=num_updates, fn=fn)
        run = dlsim.simulate(marl.train(learner), seed=number, num_steps=num_updates, record=record, progress=False)
        return jax.tree.map(np.asarray, run.state.algorithm.params["actor"])

    def fill(key: jax.Array, step: int) -> tuple[Any, int]:
        number = int(jax.random.randint(keys.stream(key, "policy"), (), 0, num_policies))
        with lock:  # runs may be played in several lanes
            if number not in trained:
                trained[number] = train(number)
        return trained[number], max(num_steps, step + 1)

    def played(params: Any) -> dlsim.Process:
        return environments.play(world, learner.policy({"actor": params}))

    def init(key: jax.Array) -> Learned:
        shapes = jax.eval_shape(learner.problem.init, key)["actor"]
        room = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape), leaf.dtype), shapes)
        return Learned(room, played(room).init(key))

    def step(key: jax.Array, state: Learned) -> tuple[Learned, Any]:
        after, info = played(state.params).step(key, state.play)
        return state._replace(play=after), info

    def measure(state: Learned, info: Any) -> Any:
        made: Any = played(state.params).measure
        return made(state.play, info)

    feed = Feed(fill=fill, put=lambda state, part: state._replace(params=part))
    return dlsim.Process(init, step, measure, (world.source, learner.algorithm.source), feed=feed)


def _script(task: str, config: ConfigDict, view: int, messages: bool) -> Policy:
    sizes = {"size": config.size} if task == "foraging" else {"height": config.size, "width": config.size}
    first = config.patience if task == "synchronization" else messages
    made: Policy = getattr(scripts, f"script_{task}")(first, view=view, **sizes)
    return made


def _curves(results: xarray.Dataset, case: str) -> np.ndarray:
    """Score of the first episode over the rounds, `[seeds, rounds + 1]`; it stays as it was when the episode ended."""
    one = results.sel(case=case).transpose("seed", "step")
    score, ended = one.score.values.astype(float), one.num_episodes.values > 0
    last = np.where(ended.any(axis=1), ended.argmax(axis=1), score.shape[1] - 1)
    return score[np.arange(len(score))[:, None], np.minimum(np.arange(score.shape[1]), last[:, None])]


def _final(results: xarray.Dataset, case: str) -> np.ndarray:
    return _curves(results, case)[:, -1]


def _text(values: np.ndarray) -> str:
    error = f" ± {values.std(ddof=1) / np.sqrt(values.size):.2f}" if values.size > 1 else ""
    return f"{values.mean():.2f}{error}"


def claims(results: xarray.Dataset) -> list[Claim]:
    """Locality, tasks and messages, of the cases that were run; thresholds are the constants above, errors of means."""
    num_rounds, num_seeds = int(results.step.values[-1]), results.sizes["seed"]
    is_whole, is_many = num_rounds >= ROUNDS and num_seeds >= ENOUGH, num_rounds >= ROUNDS and num_seeds >= MANY
    finals = {case: _final(results, case) for case in results.case.values.tolist()}
    out = []
    views = tuple(view for view in VIEWS if f"synchronization silent {view}" in finals)
    if views:
        found = {view: finals[f"synchronization silent {view}"] for view in views}
        out.append(_locality(found, is_whole and views == VIEWS))
    random = [f"{task} random {VIEW}" for task in ("transport", "flocking")]
    if all(case in finals for case in random):
        zero, some = float(np.mean(finals[random[0]] == 0)), float(np.mean(finals[random[1]] > 0))
        out.append(
            Claim(
                text=f"Random agents: no point in transport in >= {100 * NONE:g} % of runs, some in flocking in >= "
                f"{100 * SOME:g} %",
                source=f"{SOURCE}: scores depend strongly on the task",
                reported="transport 0 for 11 of 13 models; flocking above 0 for all",
                measured=f"transport 0 in {100 * zero:.0f} %, flocking > 0 in {100 * some:.0f} % of {num_seeds} runs",
                holds=zero >= NONE and some >= SOME if is_many else None,
            )
        )
    for task in ("foraging", "pursuit"):
        spoken, silent = (f"{task} {player} {VIEW}" for player in ("messages", "silent"))
        if spoken in finals and silent in finals:
            gain = finals[spoken] - finals[silent]
            out.append(
                Claim(
                    text=f"{task.capitalize()}, scripted, k = {VIEW}: the mean score with messages is at least that without",
                    source=f"{SOURCE}: agents may talk to those in their window",
                    reported="no number",
                    measured=f"{_text(finals[spoken])} with, {_text(finals[silent])} without: {_text(gain)} by run",
                    holds=bool(gain.mean() >= 0) if is_whole else None,
                )
            )
    return out


def _locality(found: dict[int, np.ndarray], is_whole: bool) -> Claim:
    means = {view: float(values.mean()) for view, values in found.items()}
    holds = None
    if is_whole:
        grows = all(means[a] < means[b] for a, b in itertools.pairwise(VIEWS))
        holds = grows and means[19] >= FULL * means[5] and means[5] >= LOCAL * means[3]
    return Claim(
        text=f"Synchronization, scripted: the score grows strictly with k, S(19) >= {FULL:g} S(5), S(5) >= {LOCAL:g} S(3)",
        source=f"{SOURCE}: local information limits coordination",
        reported="local constraints cause the difficulty; 12.6 by the best model with k = 5",
        measured=", ".join(f"k = {view}: {_text(values)}" for view, values in found.items()),
        holds=holds,
    )


def figure(results: xarray.Dataset) -> Figure:
    """Above: score against the round, by task; below: final score against k.  Bands and bars: 95 % of the means."""
    from dlsim import plotting

    with plotting.style():
        made, panels = plotting.panels(2, 5, width=1.5 * plotting.PAGE, height=4.6)
        for column, task in enumerate(TASKS):
            _draw_rounds(panels[0, column], results, task)
            _draw_views(panels[1, column], results, task)
        panels[0, 0].set_ylabel("score")
        panels[1, 0].set_ylabel("final score")
        plotting.letters(panels, [task.capitalize() for task in TASKS] + ["against the view"] * 5)
        plotting.share_legend(made, panels[0])
    return made


def _draw_rounds(panel: Axes, results: xarray.Dataset, task: str) -> None:
    from dlsim import plotting

    for place, (player, label) in enumerate(PLAYERS.items()):
        case = f"{task} {player} {VIEW}"
        if case not in results.case.values:
            continue
        rows = _curves(results, case)
        middle, half = rows.mean(axis=0), _half(rows)
        color = plotting.COLORS[place]
        rounds = results.step.values
        panel.plot(rounds, middle, plotting.LINES[place], color=color, label=label)
        panel.fill_between(rounds, middle - half, middle + half, color=color, alpha=0.2, linewidth=0)
    panel.set_xlabel("round")


def _draw_views(panel: Axes, results: xarray.Dataset, task: str) -> None:
    from dlsim import plotting

    for place, player in enumerate(PLAYERS):
        views = [view for view in VIEWS if f"{task} {player} {view}" in results.case.values]
        if views:
            finals = [_final(results, f"{task} {player} {view}") for view in views]
            middle, half = [rows.mean() for rows in finals], [float(_half(rows)) for rows in finals]
            panel.errorbar(views, middle, half, fmt="o-", color=plotting.COLORS[place], markersize=3, capsize=2)
    panel.set_xticks(VIEWS)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("side of the view, k")


def _half(rows: np.ndarray) -> np.ndarray:
    """Half of a 95 % interval of the mean over the first axis."""
    if len(rows) < 2:
        return np.zeros(rows.shape[1:])
    return np.asarray(1.96 * rows.std(axis=0, ddof=1) / np.sqrt(len(rows)))
