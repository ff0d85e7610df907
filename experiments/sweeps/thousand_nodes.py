"""A thousand nodes: does the spectrum of the mixing matrix say what a topology costs?

Command: `dlsim run experiments/sweeps/thousand_nodes.py:small` (minutes on 2 cores); without `:small` for a GPU.

Every node holds f_i(x) = 1/2 ||x - b_i||^2 (heterogeneity zeta^2 = 1) and draws gradients with noise sigma^2.  Six
topologies x three methods x five rates x four seeds.  The nodes start apart along the slowest mode of their topology,
the worst case of the theory, a hundred times further than their optima are.  Then everything is linear, and splits into
the modes of W = sum_k lambda_k v_k v_k': with s the state of one mode, s <- A(lambda) s + u (bias + noise),

    D-SGD              x <- lambda ((1 - eta) x - eta n)                               n: zeta v_k + noise
    gradient tracking  x <- lambda x - eta y,  y <- lambda y + g(x new) - g(x),  g(x) = x + n
    exact diffusion    psi new = x - eta g(x),  x <- (1 + lambda)/2 (psi new + x - psi),  psi <- psi new

so the theory is exact, not a bound (with equal curvature; Koloskova et al., ICML 2020, bound the general case):

1. Rounds.  D-SGD's disagreement falls by lambda_2 (1 - eta) a round: rounds to a tenth of it = ln 10 / -ln(lambda_2
   (1 - eta)), which is ln 10 / gap where the gap decides, a line of slope -1 against the gap.
2. Where it stays.  The stationary consensus distance is the sum over modes of the squared fixed point (bias) and of the
   solution P = A P A' + sigma^2 u u' (noise).
3. Heterogeneity.  The bias is eta lambda/(1 - (1 - eta) lambda) zeta v_k for D-SGD and zero for the other two.
4. Divergence.  A method diverges where the spectral radius of some A is above 1, which for gradient tracking happens at
   smaller rates the smaller the gap.

Expected (small mode, 64 nodes, 12,000 rounds): all claims hold; the fitted slope is -1.0.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import dlsim
from dlsim import checks
from dlsim.experiment import Claim

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MODES = ("default", "small", "tiny", "paper")
TWO_CORES = "small"  # the mode for 2 cores; the others are for a GPU
MINUTES = {"tiny": 0.1, "small": 2}  # on 2 cores
TOPOLOGIES = ("ring", "torus", "watts_strogatz", "random_regular", "hypercube", "complete")
METHODS = {"dsgd": "D-SGD", "gradient_tracking": "gradient tracking", "exact_diffusion": "exact diffusion"}
APART = 100.0  # how far nodes start from each other, in units of zeta
SHRUNK = 0.1  # of the starting distance (not squared): what rounds are counted to
SETTLED = 12.0  # time constants after which a run is stationary
TOLERANCE = 0.1  # relative, for rounds and for stationary distances (mean over seeds)
SLOPE_TOLERANCE = 0.15
BIASED = 2.0  # times what noise explains, from which heterogeneity keeps nodes apart
RESOLVED = 1e-9  # squared distance that float32 still resolves next to models of size one
DECIDES = 5.0  # the gap decides the pace where it is this many times the rate


def get_config(mode: str = "default") -> ConfigDict:
    """Settings of a mode; a tuple is an axis of the sweep."""
    checks.one_of("thousand_nodes", "mode", mode, MODES)
    sizes = {
        "default": (1024, 40_000, 4),
        "small": (64, 12_000, 4),
        "tiny": (16, 1_500, 2),
        "paper": (4096, 100_000, 10),
    }
    config = ConfigDict()
    config.num_nodes, config.num_steps, config.num_seeds = sizes[mode]
    config.dimension = 16
    config.gradient_noise = 0.1
    config.topology = TOPOLOGIES if mode != "tiny" else ("ring", "hypercube", "complete")
    config.algorithm = tuple(METHODS)
    config.learning_rate = (0.0003, 0.003, 0.03, 0.1, 0.3) if mode != "tiny" else (0.003, 0.1)
    config.lowering = "dense"  # matrices of one size are data of one program, a small part of a GPU's second
    config.record_every = {"default": 4, "small": 2, "tiny": 2, "paper": 10}[mode]
    return config


def axes(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """Every topology with every method at every rate."""
    return {name: config[name] for name in ("topology", "algorithm", "learning_rate")}


@functools.cache
def make_network(topology: str, num_nodes: int, lowering: str = "dense") -> dlsim.networks.Network:
    """The graph with Metropolis-Hastings weights."""
    checks.one_of("thousand_nodes", "topology", topology, TOPOLOGIES)
    given: dict[str, dict[str, Any]] = {
        "watts_strogatz": {"degree": 4, "probability": 0.1, "seed": 0},
        "random_regular": {"degree": 4, "seed": 0},
    }
    return getattr(dlsim.networks, topology)(num_nodes, lowering=lowering, **given.get(topology, {}))


@functools.cache
def modes(topology: str, num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of W, the largest first, and its eigenvectors in columns."""
    network = make_network(topology, num_nodes)
    full = dlsim.networks.mixing_matrix(network).toarray()
    values, vectors = np.linalg.eigh((full + full.T) / 2)
    return values[::-1], vectors[:, ::-1]


def slowest(topology: str, num_nodes: int) -> int:
    """Which mode falls slowest of all but the mean."""
    return 1 + int(np.argmax(np.abs(modes(topology, num_nodes)[0][1:])))


def make_problem(config: Any) -> dlsim.Problem:
    """Quadratics of equal curvature."""
    return dlsim.problems.quadratic(
        config["num_nodes"],
        config["dimension"],
        heterogeneity=1.0,
        gradient_noise=config["gradient_noise"],
        condition_number=1.0,
        seed=0,
    )


def build(config: ConfigDict) -> tuple[dlsim.Process, dlsim.Record]:
    """One topology, one method, one rate; nodes start apart along the slowest mode."""
    checks.one_of("thousand_nodes", "algorithm", config.algorithm, METHODS)
    problem = make_problem(config)
    network = make_network(config.topology, config.num_nodes, config.lowering)
    options = {"order": "combine_then_adapt"} if config.algorithm == "gradient_tracking" else {}
    inner = getattr(dlsim.algorithms, config.algorithm)(problem, optax.sgd(config.learning_rate), **options)
    mode = modes(config.topology, config.num_nodes)[1][:, slowest(config.topology, config.num_nodes)]
    with jax.ensure_compile_time_eval():
        pattern = jnp.asarray(mode * np.sqrt(config.num_nodes), jnp.float32)

    def init(key: jax.Array, params: jax.Array, network: dlsim.networks.Network) -> Any:
        direction = jax.random.normal(jax.random.fold_in(key, 1), params.shape[1:])
        apart = APART * pattern[:, None] * direction / jnp.linalg.norm(direction)
        return inner.init(key, params + apart, network)

    def measure(state: Any, info: dict[str, Any]) -> dict[str, Any]:
        return {"consensus_distance": dlsim.metrics.consensus_distance(inner.params(state.algorithm))}

    process = dlsim.learn(problem, inner._replace(init=init), network)
    return process, dlsim.Record(every=config.record_every, fn=measure)


def recursion(algorithm: str, values: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """A(lambda) `[K, m, m]` and u(lambda) `[K, m]` of the modes; the first entry of a state is x."""
    one, zero = np.ones_like(values), np.zeros_like(values)
    if algorithm == "dsgd":
        return (values * (1 - rate))[:, None, None], (-rate * values)[:, None]
    if algorithm == "gradient_tracking":  # state (x, y, g); what is new in g is x new + n
        rows = [[values, -rate * one, zero], [values, values - rate, -one], [values, -rate * one, zero]]
        return np.moveaxis(np.asarray(rows), 2, 0), np.stack([zero, one, one], axis=1)
    half = (1 + values) / 2  # state (x, psi)
    rows = [[half * (2 - rate), -half], [(1 - rate) * one, zero]]
    return np.moveaxis(np.asarray(rows), 2, 0), -rate * np.stack([half, one], axis=1)


def predict(config: dict[str, Any], topology: str, algorithm: str, rate: float) -> tuple[float, float, float]:
    """Spectral radius over the modes but the mean, stationary bias and stationary noise (squared, mean over nodes)."""
    num_nodes = config["num_nodes"]
    values, vectors = (part[..., 1:] for part in modes(topology, num_nodes))
    matrix, drive = recursion(algorithm, values, rate)
    radius = float(np.abs(np.linalg.eigvals(matrix)).max())
    if radius >= 1:
        return radius, np.inf, np.inf
    size = matrix.shape[1]
    fixed = np.linalg.solve(np.eye(size) - matrix, drive[..., None])[:, 0, 0]
    pulls = vectors.T @ _pulls(num_nodes, config["dimension"])  # gradients at the optimum, by mode
    squares = np.einsum("kij,klm->kiljm", matrix, matrix).reshape(len(matrix), size**2, size**2)
    outer = np.einsum("ki,kj->kij", drive, drive).reshape(len(matrix), size**2, 1)
    spread = np.linalg.solve(np.eye(size**2) - squares, outer)[:, 0, 0]
    bias = np.sum(fixed**2 * np.sum(pulls**2, axis=1)) / num_nodes
    return radius, float(bias), float(config["gradient_noise"] * np.sum(spread) / num_nodes)


@functools.cache
def _pulls(num_nodes: int, dimension: int) -> np.ndarray:
    """The nodes' gradients at the common optimum, `[N, D]`."""
    problem = make_problem({"num_nodes": num_nodes, "dimension": dimension, "gradient_noise": 0.0})
    assert problem.optimum is not None
    everywhere = jnp.broadcast_to(problem.optimum, (num_nodes, dimension))
    return np.asarray(problem.full_gradient(jax.random.key(0), everywhere, jnp.arange(num_nodes))[0], np.float64)


def gap(topology: str, num_nodes: int) -> float:
    """One less the second largest modulus of an eigenvalue."""
    return 1 - abs(float(modes(topology, num_nodes)[0][slowest(topology, num_nodes)]))


def rounds(results: xarray.Dataset) -> xarray.DataArray:
    """Rounds until the distance is a tenth of that at the start; NaN where it never is.

    Between two records the distance falls exponentially: its logarithm is interpolated.
    """
    from dlsim.analysis import first_reaching

    relative = results.consensus_distance / results.consensus_distance.isel(step=0)
    logarithm = np.log(np.maximum(relative, np.finfo(np.float32).tiny))  # nodes that agree are at distance zero
    return first_reaching(
        results.assign(logarithm=logarithm), "logarithm", 2 * np.log(SHRUNK), mode="min", interpolate=True
    )


def predicted_rounds(topology: str, num_nodes: int, rate: float) -> float:
    """ln 10 / -ln(lambda_2 (1 - eta))."""
    pace = (1 - gap(topology, num_nodes)) * (1 - rate)
    return float(np.log(SHRUNK) / np.log(pace)) if pace > 1e-9 else 0.0


def timed(results: xarray.Dataset, config: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(topology, rate, D-SGD's rounds, mean over seeds) of the settings that are neither too fast nor too slow to tell."""
    taken = rounds(results.sel(algorithm="dsgd")).mean("seed", skipna=False)
    out = []
    for topology in results.topology.values.tolist():
        for rate in results.learning_rate.values.tolist():
            expected = predicted_rounds(topology, config["num_nodes"], rate)
            if 2 * config["record_every"] < expected < config["num_steps"]:
                out.append((topology, rate, float(taken.sel(topology=topology, learning_rate=rate))))
    return out


def fitted_slope(taken: list[tuple[str, float, float]], config: dict[str, Any]) -> tuple[float, int]:
    """Of rounds against the gap in log-log at the smallest rate, where the gap decides; and the number of points."""
    from dlsim.analysis import power_law

    lowest = min((rate for _, rate, _ in taken), default=0.0)
    gaps = {name: gap(name, config["num_nodes"]) for name, _, _ in taken}
    points = [(gaps[name], found) for name, rate, found in taken if rate == lowest and gaps[name] > DECIDES * rate]
    return (power_law(*np.asarray(points).T).slope if len(points) >= 3 else np.nan), len(points)


def claims(results: xarray.Dataset) -> list[Claim]:
    """Numbers of the run against the theory above; thresholds are the constants above."""
    config = json.loads(results.attrs["config"])
    out = []
    if "dsgd" in results.algorithm.values:
        out.extend(_claims_on_rounds(results, config))
    out.extend(_claims_on_stationary(results, config))
    out.append(_claim_on_divergence(results, config))
    return out


def _claims_on_rounds(results: xarray.Dataset, config: dict[str, Any]) -> list[Claim]:
    taken = timed(results, config)
    errors = [abs(found / predicted_rounds(name, config["num_nodes"], rate) - 1) for name, rate, found in taken]
    worst = _worst(errors)
    made = [
        Claim(
            text="D-SGD: rounds to a tenth of the worst disagreement are ln 10 / -ln(lambda_2 (1 - eta))",
            source="linear recursion of the slowest mode",
            reported=f"exactly, here to {TOLERANCE:.0%}",
            measured=f"off by {worst:.1%} at most in {len(errors)} settings",
            holds=bool(worst < TOLERANCE) if errors else None,
        )
    ]
    slope, count = fitted_slope(taken, config)
    if count >= 3:
        made.append(
            Claim(
                text="Where the gap decides the pace, rounds fall as 1/gap",
                source="ln 10 / gap for small gaps",
                reported=f"slope -1 (here to {SLOPE_TOLERANCE})",
                measured=f"slope {slope:.2f} over {count} topologies",
                holds=bool(abs(slope + 1) < SLOPE_TOLERANCE),
            )
        )
    return made


def _worst(errors: list[float]) -> float:
    """The largest; NaN, which holds no claim, if one of them is or if there are none."""
    return float(np.max(errors)) if errors else np.nan


def settled(results: xarray.Dataset, config: dict[str, Any]) -> list[tuple[str, str, float, float, float, float]]:
    """(topology, method, rate, bias, noise, measured) of the settings that are stationary in the last quarter."""
    late = results.consensus_distance.isel(step=slice(-max(1, results.sizes["step"] // 4), None)).mean(("step", "seed"))
    out = []
    for topology in results.topology.values.tolist():
        for method in results.algorithm.values.tolist():
            for rate in results.learning_rate.values.tolist():
                radius, bias, noise = predict(config, topology, method, rate)
                if radius < 1 and -np.log(max(radius, 1e-12)) * 0.75 * config["num_steps"] > SETTLED:
                    found = float(late.sel(topology=topology, algorithm=method, learning_rate=rate))
                    out.append((topology, method, rate, bias, noise, found))
    return out


def _claims_on_stationary(results: xarray.Dataset, config: dict[str, Any]) -> list[Claim]:
    rows = [row for row in settled(results, config) if row[3] + row[4] > RESOLVED]
    out = []
    for method in (name for name in METHODS if name in results.algorithm.values):
        errors = [abs(found / (bias + noise) - 1) for _, name, _, bias, noise, found in rows if name == method]
        out.append(
            Claim(
                text=f"{METHODS[method]}: the stationary consensus distance is that of the modes' linear recursion",
                source="fixed point and discrete Lyapunov equation of every mode of W",
                reported=f"exactly, here to {TOLERANCE:.0%}",
                measured=f"off by {_worst(errors):.1%} at most in {len(errors)} settings",
                holds=bool(_worst(errors) < TOLERANCE) if errors else None,
            )
        )
    # What is measured, over what noise alone explains.
    excess = {name: [row[5] / row[4] for row in rows if row[1] == name and row[4] > RESOLVED] for name in METHODS}
    if all(excess.values()):
        unbiased = [value for name in ("gradient_tracking", "exact_diffusion") for value in excess[name]]
        out.append(
            Claim(
                text="Heterogeneity keeps D-SGD's nodes apart, and not those of tracking and exact diffusion",
                source="Koloskova, Lin and Stich, NeurIPS 2021; Yuan et al., IEEE TSP 2019",
                reported=f"noise alone explains the distance for both (to {TOLERANCE:.0%}), and not for D-SGD",
                measured=f"over noise alone: {min(unbiased):.3f} to {max(unbiased):.3f} times for both, "
                f"up to {max(excess['dsgd']):.3g} times for D-SGD",
                holds=bool(_worst([abs(value - 1) for value in unbiased]) < TOLERANCE and max(excess["dsgd"]) > BIASED),
            )
        )
    return out


def _claim_on_divergence(results: xarray.Dataset, config: dict[str, Any]) -> Claim:
    wrong, count, expected_count = [], 0, 0
    last = results.consensus_distance.isel(step=-1)
    for topology in results.topology.values.tolist():
        for method in results.algorithm.values.tolist():
            for rate in results.learning_rate.values.tolist():
                radius = predict(config, topology, method, rate)[0]
                if abs(np.log(radius)) * config["num_steps"] < SETTLED:
                    continue  # too close to the border to tell within the run
                found = last.sel(topology=topology, algorithm=method, learning_rate=rate).values
                diverged = ~(found < 2 * APART**2)
                count, expected_count = count + 1, expected_count + (radius > 1)
                if not (diverged == (radius > 1)).all():
                    wrong.append(f"{topology} {method} {rate:g}")
    return Claim(
        text="Runs diverge where a mode's spectral radius is above 1, and nowhere else",
        source="eigenvalues of A(lambda)",
        reported=f"{expected_count} of {count} settings diverge",
        measured=f"{count - len(wrong)} of {count} as predicted" + (f"; not {', '.join(wrong[:3])}" if wrong else ""),
        holds=not wrong if count else None,
    )


def figure(results: xarray.Dataset) -> Figure:
    """Rounds against the gap with the predicted slope; measured against predicted stationary distance."""
    from dlsim import plotting

    config = json.loads(results.attrs["config"])
    with plotting.style():
        made, panels = plotting.panels(1, 2, height=3.2)
        left, right = panels[0]
        if "dsgd" in results.algorithm.values:
            _draw_pace(left, results, config)
        rows = [row for row in settled(results, config) if row[3] + row[4] > RESOLVED]
        for i, method in enumerate(METHODS):
            mine = [row for row in rows if row[1] == method]
            right.loglog(
                [row[3] + row[4] for row in mine], [row[5] for row in mine], "os^"[i], color=plotting.COLORS[i],
                markersize=4, label=METHODS[method],
            )  # fmt: skip
        ends = np.asarray([min((row[3] + row[4] for row in rows), default=1e-6), 1.0])
        right.loglog(ends, ends, "k--", linewidth=1, label="theory")
        right.set(xlabel="predicted stationary distance", ylabel="measured")
        right.legend()
        plotting.letters(panels, ["pace of D-SGD (lines: theory)", "where the methods stay"])
    return made


def _draw_pace(panel: Any, results: xarray.Dataset, config: dict[str, Any]) -> None:
    """Rounds against the gap: measured (points), the exact theory of each rate (lines), slope -1 (dashed)."""
    from dlsim import plotting

    taken = timed(results, config)
    gaps = {name: gap(name, config["num_nodes"]) for name, _, _ in taken}
    smallest = max(min(gaps.values(), default=1e-3) / 2, 1e-6)
    grid = np.geomspace(smallest, 0.9, 200)
    for i, rate in enumerate(results.learning_rate.values.tolist()):
        mine = [(gaps[name], found) for name, other, found in taken if other == rate]
        panel.loglog(*np.reshape(mine, (-1, 2)).T, "o", color=plotting.COLORS[i], markersize=4, label=f"rate {rate:g}")
        panel.loglog(grid, np.log(SHRUNK) / np.log((1 - grid) * (1 - rate)), color=plotting.COLORS[i], linewidth=0.8)
    slope, _ = fitted_slope(taken, config)
    fitted = "" if np.isnan(slope) else f" (fitted {slope:.2f})"
    panel.loglog(grid, np.log(1 / SHRUNK) / grid, "k--", linewidth=1, label=f"slope -1: ln 10 / gap{fitted}")
    for i, name in enumerate(sorted(gaps, key=lambda name: gaps[name])):
        # Below all points, neighbours at different heights.
        place = (gaps[name], 0.04 if i % 2 else 0.3)
        panel.annotate(name.replace("_", " "), place, fontsize=5.5, rotation=90, ha="center", va="bottom")
    panel.set(xlabel="spectral gap", ylabel="rounds to a tenth of the disagreement", ylim=(0.03, None))
    panel.legend(fontsize=6, loc="upper right")
