"""JaxMARL (50): what do six learners reach on simple spread, and what does it cost to share, keep apart or gossip?

Rutherford et al., JaxMARL, NeurIPS D&B 2024.  Command: `dlsim run experiments/papers/50_jaxmarl.py`

Three agents are to cover three landmarks without touching.  IPPO and MAPPO (feed-forward, JaxMARL's settings), IQL, VDN
and QMIX (GRU of 64, JaxMARL's settings), PQN-VDN; and IPPO with one network an agent, kept apart or gossiping over the
complete graph.  Returns are summed over agents and steps of fixed evaluation episodes of 26 steps; random play has about
-83, a scripted optimal assignment -24.  The paper's figures (repository documentation) show VDN near -33, IQL near -40, QMIX
near -50.

Every native world is stepped as well: steps per second of 1, 16, 256 and 4,096 copies under random actions, in a compiled
scan; and 32 runs of IPPO in one `vmap` are timed against one.  Runs go one at a time for that.  JaxMARL's own steps per
second are measured by `experiments/benchmarks/environments_marl.py`.

Measured (default mode, 3 seeds, 0.51 million steps, 0.44 for PQN-VDN; 11 minutes on 2 cores): VDN -53.6 +- 0.7, IQL -59.0
+- 1.7, QMIX -60.9 +- 7.3, PQN-VDN -65.9, MAPPO -65.9 +- 4.4, IPPO -66.3 +- 2.2, IPPO apart -68.5 +- 1.7, IPPO with gossip
-65.8 +- 1.6; untrained IPPO -79.9.  The order of VDN, IQL and QMIX is the paper's.  The claim on IPPO does not hold, and
steps are not the reason: with two million of them and 5 seeds it ends at -65.5 +- 1.6, where it was after 0.2 million.
JaxMARL's own script with the same settings stands at about -67 after half a million, so that the number expected of it
(from no table of the paper) is what does not fit.  Gossip over the complete graph is as good as sharing.

4,096 copies make 47 (`matrix_game`), 67 (`simple`), 22, 21 and 21 times (`simple_speaker_listener`, `coin_game`,
`switch_riddle`) the steps of one; the other nine worlds miss the 20 times, from 19.9 (`simple_crypto`) down to 6.1
(simple_spread) and 2.5 (3m).  One copy makes 23,000 to 310,000 steps a second already, there being little to start on a CPU,
and two cores are soon full: it is the one copy that is fast, not the many that are slow (simple_spread makes 0.83 million
steps a second).  32 runs of IPPO side by side take 37 times the time of one on this CPU, which the claim leaves open: it is
about a GPU.

Scaled down: fewer environment steps than the paper's two million in the default mode (`paper` has them all); rates fall
linearly and exploration ends after a tenth of the run, as in the paper.  Scans are of up to 1,000 steps, of many copies
fewer (`WORK`); the runs side by side play 16 steps an update in place of 128 (`paper` has 128).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import checks, marl
from dlsim.experiment import Claim
from dlsim.learning.measures import only, several

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODES = ("default", "tiny", "paper")
MINUTES = {"tiny": 0.7, "default": 11}  # on 2 cores
TIMED = True  # runs go one at a time, and not side by side
CITATION = "Rutherford et al., JaxMARL, NeurIPS D&B 2024."
SOURCE = "Rutherford et al., NeurIPS D&B 2024"
REACHED, GAIN = -60.0, 20.0  # summed return of IPPO, and what it gains over random play
MARGIN = 3.0  # VDN is at most this much below IQL
SHARED = ("ippo", "mappo", "iql", "vdn", "qmix", "pqn_vdn")
APART = ("ippo independent", "ippo gossip")
NUM_AGENTS = 3
STEP = 20_480  # environment steps of one step of the run, about
COPIES = (1, 16, 256, 4096)
FASTER, FASTER_ACCELERATED = 20.0, 500.0  # steps per second of the most copies over those of one, at least
LEAST_STEPS = 1_000  # of one copy, for a rate that a claim may rest on
NUM_RUNS, SLOWER = 32, 8.0  # runs side by side take less than this times the time of one, on an accelerator
PARTICLES = {  # steps of all copies in one run, so that a run takes some tenths of a second on 2 cores
    "simple": 1_000_000, "simple_spread": 400_000, "simple_tag": 250_000, "simple_speaker_listener": 500_000,
    "simple_reference": 400_000, "simple_adversary": 400_000, "simple_push": 500_000, "simple_crypto": 400_000,
    "simple_world_comm": 100_000,
}  # fmt: skip
OTHERS = {"switch_riddle": 1_000_000, "coin_game": 300_000, "matrix_game": 3_000_000, "3m": 60_000, "2s3z": 30_000}
WORK = PARTICLES | OTHERS
SKIRMISHES = ("3m", "2s3z")


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("50_jaxmarl", "mode", mode, MODES)
    config = ConfigDict()
    if mode == "tiny":
        config.case = ("ippo", "iql", "vdn", "steps simple_spread 1", f"steps simple_spread {COPIES[-1]}")
    else:
        steps = (f"steps {name} {copies}" for name in WORK for copies in COPIES)
        config.case = (*SHARED, *APART, *steps, "runs 1", f"runs {NUM_RUNS}")
    config.num_seeds = {"tiny": 1, "default": 3, "paper": 5}[mode]
    config.num_steps = {"tiny": 2, "default": 25, "paper": 98}[mode]
    config.steps_each = 1_024 if mode == "tiny" else STEP  # environment steps
    config.most_scanned = {"tiny": 10, "default": 1_000, "paper": 11}[mode]  # steps of a world in a step of the run
    config.work = {"tiny": 0.01, "default": 1.0, "paper": 1_000.0}[mode]  # times that of WORK
    config.rollout = 128 if mode == "paper" else 16  # steps of an update of the runs side by side
    config.record_every = 1
    return config


def axes(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """Every learner, every world in every number of copies, and runs side by side."""
    return {"case": config.case}


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One learner, the copies of one world, or several runs of a learner as one."""
    name, *rest = config.case.split()
    if name == "steps" and len(rest) == 2:
        world = checks.one_of("50_jaxmarl", "case", rest[0], WORK)
        copies = checks.integer("50_jaxmarl", "copies", int(rest[1]), 1)
        each = int(config.work * WORK[world] / (copies * config.num_steps))
        process = stepping(_world(world), copies, min(max(each, 1), config.most_scanned))
        return process, dlsim.Record(every=config.num_steps)  # one call of the program, which is what is timed
    if name == "runs" and len(rest) == 1:
        process = training(int(rest[0]), config.rollout, config.num_steps)
        return process, dlsim.Record(every=config.num_steps)
    checks.one_of("50_jaxmarl", "case", config.case, (*SHARED, *APART))
    sharing = {
        (): marl.share_parameters(),
        ("independent",): marl.independent(),
        ("gossip",): marl.gossip(),
    }[tuple(rest)]
    learner, updates = _learner(name, sharing, config.steps_each, config.num_steps)
    process = several(marl.train(learner), updates)
    kept = ("episode_return", "episode_return_of_mean", "training_return", "environment_steps", "bits_sent")
    return process, dlsim.Record(every=config.record_every, fn=only(process, kept))


def _learner(name: str, sharing: marl.Sharing, steps_each: int, num_steps: int) -> tuple[marl.Learner, int]:
    """A learner with JaxMARL's settings, and its updates in a step of the run."""
    environment = dlsim.environments.simple_spread()
    if name in ("ippo", "mappo"):
        each = 16 * 128
        updates = max(1, steps_each // each)
        optimizer = _adam(updates * num_steps)
        return getattr(marl, name)(environment, optimizer, sharing=sharing, num_eval_episodes=64), updates
    if name == "pqn_vdn":
        updates = max(1, steps_each // (256 * 17))
        rate = optax.linear_schedule(5e-4, 0.0, updates * num_steps * 64)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.radam(rate))
        explores = (1.0, 0.05, 0.1 * updates * num_steps)
        return marl.pqn_vdn(environment, optimizer, exploration=explores, num_eval_episodes=64), updates
    updates = max(1, steps_each // (8 * 26))
    rate = optax.linear_schedule(5e-3, 0.0, updates * num_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(25.0), optax.radam(rate))
    explores = (1.0, 0.05, 0.1 * updates * num_steps)
    starts = min(10_000, steps_each // 2)
    learner = getattr(marl, name)(
        environment, optimizer, exploration=explores, learning_starts=starts, num_eval_episodes=64
    )
    return learner, updates


def _adam(num_updates: int) -> optax.GradientTransformation:
    """JaxMARL's optimiser of PPO: 4 epochs of 4 minibatches an update."""
    rate = optax.linear_schedule(2.5e-4, 0.0, num_updates * 16)
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, eps=1e-5))


def _world(name: str) -> dlsim.environments.Environment:
    """A world by the name it has in WORK."""
    environments = dlsim.environments
    return environments.skirmish(name) if name in SKIRMISHES else getattr(environments, name)()


class Stepped(NamedTuple):
    """Copies of a world that were stepped."""

    worlds: Any  # [E, ...]
    seen: jax.Array  # [] all rewards and observations summed, so that no compiler leaves them out
    steps: jax.Array  # uint32 [] of all copies


def stepping(environment: dlsim.environments.Environment, copies: int, num: int) -> dlsim.Process:
    """The process whose step is `num` steps of all copies of a world under random actions; what ends begins anew."""
    world = dlsim.environments.auto_reset(environment)
    shape = (copies, world.num_agents, *world.action_space.shape)

    def init(key: jax.Array) -> Stepped:
        worlds, _ = jax.vmap(world.reset)(jax.random.split(key, copies))
        return Stepped(worlds, seen=jnp.zeros(()), steps=jnp.uint32(0))

    def step(key: jax.Array, state: Stepped) -> tuple[Stepped, dict[str, Any]]:
        def one(state: Stepped, key: jax.Array) -> tuple[Stepped, None]:
            act_key, step_key = jax.random.split(key)
            actions = jax.random.randint(act_key, shape, 0, world.action_space.num)
            step_keys = jax.random.split(step_key, copies)
            worlds, observations, rewards, _, _ = jax.vmap(world.step)(step_keys, state.worlds, actions)
            seen = state.seen + jnp.sum(rewards) + jnp.sum(observations)
            return Stepped(worlds, seen, state.steps + jnp.uint32(copies)), None

        return jax.lax.scan(one, state, jax.random.split(key, num))[0], {}

    def measure(state: Stepped, info: dict[str, Any]) -> dict[str, Any]:
        del info
        return {"environment_steps": state.steps, "is_accelerated": _is_accelerated()}

    return dlsim.Process(init, step, measure)


def training(num_runs: int, rollout: int, num_updates: int) -> dlsim.Process:
    """Whole runs of IPPO as one process, side by side in one `vmap`; a step is an update of each, nothing is judged."""
    learner = marl.ippo(dlsim.environments.simple_spread(), _adam(num_updates), num_steps=rollout)
    process = marl.train(learner)

    def init(key: jax.Array) -> Any:
        return jax.vmap(process.init)(jax.random.split(key, num_runs))

    def step(key: jax.Array, states: Any) -> tuple[Any, dict[str, Any]]:
        states, info = jax.vmap(process.step)(jax.random.split(key, num_runs), states)
        return states, {"status": info["status"].ravel()}

    def measure(states: Any, info: dict[str, Any]) -> dict[str, Any]:
        del info
        met = learner.measure(states.algorithm) if num_runs == 1 else jax.vmap(learner.measure)(states.algorithm)
        steps = met["environment_steps"]
        first = steps if num_runs == 1 else jax.tree.map(lambda leaf: leaf[0], steps)  # as many in every run
        found = {"training_return": jnp.mean(met["training_return"]), "environment_steps": first}
        return {**found, "is_accelerated": _is_accelerated()}

    if num_runs == 1:  # a run as it is: without an axis that could cost something
        return process._replace(measure=measure, on=None)
    return dlsim.Process(init, step, measure, sources=process.sources)


def _is_accelerated() -> jax.Array:
    """Whether this runs on something other than a CPU, for the results: claims are decided from them alone."""
    return jnp.asarray(jax.default_backend() != "cpu")


def _final(results: xarray.Dataset, case: str) -> np.ndarray:
    """Summed return at the end, by seed: the mean of the last three records."""
    values = NUM_AGENTS * results.episode_return.sel(case=case).isel(step=slice(-3, None)).mean("step")
    return np.atleast_1d(values.values)


def _text(values: np.ndarray) -> str:
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if values.size > 1 else "")


def claims(results: xarray.Dataset) -> list[Claim]:
    """What was expected, against what the runs measured; thresholds are the constants above."""
    return [*learning_claims(results), *stepping_claims(results), *training_claims(results)]


def learning_claims(results: xarray.Dataset) -> list[Claim]:
    """What the paper's figures say, against the end of the runs."""
    have = results.case.values.tolist()
    is_long = results.sizes["step"] >= 20
    out = []
    if "ippo" in have:
        random = NUM_AGENTS * float(results.episode_return.sel(case="ippo").isel(step=0).mean())
        ippo = _final(results, "ippo")
        out.append(
            Claim(
                text=f"IPPO on simple spread ends at {REACHED:g} or more, and {GAIN:g} above random play",
                source=f"{SOURCE}, learning curves of the particle environments",
                reported="a gain over random play; no number of the paper could be read",
                measured=f"{_text(ippo)}; untrained {random:.1f}",
                holds=bool(ippo.mean() >= REACHED and ippo.mean() >= random + GAIN) if is_long else None,
            )
        )
    if {"vdn", "iql"} <= set(have):
        vdn, iql = _final(results, "vdn"), _final(results, "iql")
        names = [name for name in ("vdn", "iql", "qmix") if name in have]
        out.append(
            Claim(
                text=f"VDN ends at most {MARGIN:g} below IQL",
                source=f"{SOURCE}, Q-learning on simple spread",
                reported="VDN about -33, IQL -40, QMIX -50",
                measured="; ".join(f"{name.upper()} {_text(_final(results, name))}" for name in names),
                holds=bool(vdn.mean() >= iql.mean() - MARGIN) if is_long else None,
            )
        )
    return out


def rate(results: xarray.Dataset, case: str) -> np.ndarray:
    """Steps per second of all copies, by seed; compiling apart."""
    one = results.sel(case=case)
    steps = one.environment_steps.isel(step=-1) / float(results.step[-1])  # in a step of the run
    return np.atleast_1d((steps / one.seconds_per_step).values)


def stepping_claims(results: xarray.Dataset) -> list[Claim]:
    """Of every world: many copies against one."""
    have, out = results.case.values.tolist(), []
    for name in WORK:
        cases = [f"steps {name} {copies}" for copies in (COPIES[0], COPIES[-1])]
        if not set(cases) <= set(have):
            continue
        one, many = (rate(results, case) for case in cases)
        last = results.sel(case=cases[0]).isel(step=-1)
        bound = FASTER_ACCELERATED if bool(last.is_accelerated.max()) else FASTER
        # All seeds run one program, so that the fastest is the one that was disturbed least.
        ratio, by_seed = many.max() / one.max(), many / one
        out.append(
            Claim(
                text=f"{name}: {COPIES[-1]:,} copies make {bound:g} times the steps per second of one",
                source=f"{SOURCE}, vectorised environments; random actions",
                reported=f"{FASTER:g} times on a CPU, {FASTER_ACCELERATED:g} on an accelerator, expected before the run",
                measured=f"{ratio:.1f} times (seeds {by_seed.min():.1f} to {by_seed.max():.1f}): {many.max():,.0f}/s, "
                f"one copy {one.max():,.0f}/s",
                holds=bool(ratio >= bound) if float(last.environment_steps.min()) >= LEAST_STEPS else None,
            )
        )
    return out


def training_claims(results: xarray.Dataset) -> list[Claim]:
    """Many runs in one program against one."""
    cases = ["runs 1", f"runs {NUM_RUNS}"]
    if not set(cases) <= set(results.case.values.tolist()):
        return []
    one, many = (np.atleast_1d(results.seconds_per_step.sel(case=case).values) for case in cases)
    ratio, by_seed = many.min() / one.min(), many / one
    is_accelerated = bool(results.is_accelerated.sel(case=cases[0]).isel(step=-1).max())
    return [
        Claim(
            text=f"{NUM_RUNS} runs of IPPO in one program take less than {SLOWER:g} times the time of one (on a GPU)",
            source=f"{SOURCE}, training with vectorised seeds",
            reported=f"less than {SLOWER:g} times on a GPU, expected before the run; no bound on a CPU",
            measured=f"{ratio:.1f} times (seeds {by_seed.min():.1f} to {by_seed.max():.1f}) on "
            f"{'an accelerator' if is_accelerated else 'a CPU'}: {1e3 * many.min():,.1f} ms an update of all, "
            f"{1e3 * one.min():,.1f} ms of one",
            holds=bool(ratio < SLOWER) if is_accelerated and results.step[-1] >= 20 else None,
        )
    ]


def figure(results: xarray.Dataset) -> Figure:
    """Return against environment steps, of six learners and of IPPO three ways; steps per second against copies."""
    from dlsim import plotting

    have = {" ".join(case.split()[:2]) if case.startswith("steps") else case for case in results.case.values.tolist()}
    shown = [
        (draw, group, title)
        for draw, group, title in (
            (_draw_returns, SHARED, "Six learners"),
            (_draw_returns, ("ippo", *APART), "IPPO: whose parameters"),
            (_draw_rates, PARTICLES, "Particle tasks"),
            (_draw_rates, OTHERS, "Other worlds"),
        )
        if have & {f"steps {name}" if draw is _draw_rates else name for name in group}
    ]
    with plotting.style():
        num_rows = max(1, -(-len(shown) // 2))
        made, panels = plotting.panels(num_rows, 2, height=2.9 * num_rows)
        for ax in panels.ravel()[len(shown) :]:
            ax.set_axis_off()
        used = panels.ravel()[: len(shown)]
        for ax, (draw, group, _) in zip(used, shown, strict=True):
            draw(ax, results, group)
        plotting.letters(used, [title for _, _, title in shown])
    return made


def _draw_returns(ax: Axes, results: xarray.Dataset, cases: Sequence[str]) -> None:
    """Mean over seeds in a band of their spread."""
    from dlsim import plotting

    have = results.case.values.tolist()
    for place, case in enumerate(case for case in cases if case in have):
        one = results.sel(case=case)
        steps = one.environment_steps.mean("seed") / 1e6
        returns = NUM_AGENTS * one.episode_return
        mean, spread = returns.mean("seed"), returns.std("seed")
        label = case.upper() if case in SHARED and "mappo" in cases else "IPPO " + (case.partition(" ")[2] or "shared")
        ax.plot(steps, mean, color=plotting.COLORS[place], label=label.replace("_", "-"))
        ax.fill_between(steps, mean - spread, mean + spread, color=plotting.COLORS[place], alpha=0.2, linewidth=0)
    ax.set_xlabel("environment steps (millions)")
    ax.set_ylabel("return, summed over agents")
    ax.legend(fontsize=6)


def _draw_rates(ax: Axes, results: xarray.Dataset, names: Sequence[str]) -> None:
    """Steps per second of each world, and what would be in proportion to the copies."""
    from dlsim import plotting

    found: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    for case in results.case.values.tolist():
        kind, *rest = case.split()
        if kind == "steps" and rest[0] in found:
            found[rest[0]].append((int(rest[1]), float(rate(results, case).max())))
    shown = {name: np.array(sorted(points)).T for name, points in found.items() if points}
    for place, (name, (copies, rates)) in enumerate(shown.items()):
        turn, color = divmod(place, len(plotting.COLORS))
        mark, line, label = "os"[turn], plotting.LINES[turn], name.removeprefix("simple_").replace("_", " ")
        ax.loglog(copies, rates, mark, linestyle=line, color=plotting.COLORS[color], markersize=3, label=label)
    copies = np.unique(np.concatenate([copies for copies, _ in shown.values()]))
    least = min(rates[0] / copies[0] for copies, rates in shown.values())
    low, high = ax.get_ylim()
    ax.loglog(copies, least * copies, ":", color="0.5", linewidth=0.8, label="in proportion")
    ax.set_ylim(low, 8 * high)  # room for the legend, and not for the whole line
    ax.set_xticks(copies, [f"{int(count):,}" for count in copies], minor=False)
    ax.set_xticks([], minor=True)
    ax.set(xlabel="copies of the world", ylabel="steps per second, of all copies")
    ax.legend(fontsize=6, ncols=2, loc="upper left")
