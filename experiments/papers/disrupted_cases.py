"""The cases of paper 04 (`04_disrupted_p2p.py`): who is lost when, as numbers, and what a case costs its survivors."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import dlsim
from dlsim import checks

if TYPE_CHECKING:
    import xarray

KINDS = ("hubs", "random", "none")
CASES = {
    "A0": "A0, relays stay",
    "A": "A, links lost",
    "B0": "B0, nothing happens",
    "B": "B, links and data lost",
    "C": "C, data lost",
    "isolated": "survivors alone",
    "everyone": "survivors, complete graph",
}
NEVER = np.inf


class Setting(NamedTuple):
    """A case as it is written: `hubs m=2 f=0.2 t=10 A`."""

    kind: str  # whom it hits
    m: int  # links of a new node
    f: float  # share of nodes
    t: float  # round
    case: str

    def __str__(self) -> str:
        return f"{self.kind} m={self.m} f={self.f:g} t={self.t:g} {self.case}"


def parse(text: str) -> Setting:
    """The setting of a case's name."""
    kind, m, f, t, case = text.split()
    checks.one_of("04_disrupted_p2p", "case", kind, KINDS)
    checks.one_of("04_disrupted_p2p", "case", case, CASES)
    return Setting(kind, int(m.removeprefix("m=")), float(f.removeprefix("f=")), float(t.removeprefix("t=")), case)


@functools.lru_cache(maxsize=64)
def network_of(num_nodes: int, m: int, draw: int) -> dlsim.networks.Network:
    """The graph of a draw, with equal weights for all that a node hears and its own."""
    return dlsim.networks.barabasi_albert(num_nodes, m, seed=draw, weights="uniform_neighbor", lowering="dense")


@functools.lru_cache(maxsize=1024)
def lost(setting: Setting, num_nodes: int, draw: int) -> np.ndarray:
    """Who is lost, bool `[N]`."""
    if setting.kind == "none" or setting.f == 0:
        return np.zeros(num_nodes, bool)
    by = {"hubs": "degree", "random": "random"}[setting.kind]
    return dlsim.networks.victims(network_of(num_nodes, setting.m, draw), setting.f, by, seed=draw)


def times(setting: Setting, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """From which round on each node is away, holds no data, and all are apart."""
    away = {"A": setting.t, "B": setting.t, "isolated": 0, "everyone": 0}.get(setting.case, NEVER)
    dataless = {"A0": 0, "A": 0, "C": setting.t}.get(setting.case, NEVER)
    apart = 0 if setting.case == "isolated" else NEVER
    return np.where(hit, away, NEVER), np.where(hit, dataless, NEVER), apart


def scenario_of(network: dlsim.networks.Network, away: Any, dataless: Any, apart: Any) -> dlsim.Scenario:
    """All cases are one program: who is away, without data or apart from all others, and when, are numbers."""
    everyone = np.arange(network.num_nodes)
    return dlsim.networks.chain(
        dlsim.networks.outages(everyone, away),
        dlsim.networks.relays(everyone, dataless),
        dlsim.networks.split(everyone, apart),
        dlsim.networks.reweigh(network),
    )


def config_of(results: xarray.Dataset) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(results.attrs["config"])
    return found


def draws(results: xarray.Dataset) -> list[int]:
    return [int(draw) for draw in results.draw.values]


def survivors(results: xarray.Dataset, setting: Setting, of: Setting | None = None, step: int = -1) -> np.ndarray:
    """Mean accuracy of the survivors of a disaster (`of`, by default the case's own) in a case, by draw."""
    num = config_of(results)["num_nodes"]
    rows = results.accuracy.sel(case=str(setting)).isel(step=step).mean("seed")
    hit = [lost(of or setting, num, draw) for draw in draws(results)]
    return np.array([rows.sel(draw=d).values[~h].mean() for d, h in zip(draws(results), hit, strict=True)])


def cost(results: xarray.Dataset, kind: str, m: int, f: float, t: float, case: str) -> np.ndarray | None:
    """Accuracy that a case costs its survivors, against its reference, by draw; None: a run of it is missing."""
    one = Setting(kind, m, f, t, case)
    reference = Setting("none", m, 0, 0, "B0")
    if case == "A":  # A0 knows no round
        found = [other for other in settings_of(results) if other._replace(t=t) == one._replace(case="A0")]
        reference = found[0] if found else one._replace(case="A0")
    if not has(results, one, reference):
        return None
    return survivors(results, reference, one) - survivors(results, one)


def settings_of(results: xarray.Dataset) -> list[Setting]:
    """Those that were run."""
    return [parse(case) for case in results.case.values.tolist()]


def has(results: xarray.Dataset, *settings: Setting) -> bool:
    have = set(results.case.values.tolist())
    return all(str(setting) in have for setting in settings)


def groups(results: xarray.Dataset, setting: Setting) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each draw: accuracy of every survivor at the end, and the size of the part of the network it is in."""
    num, found = config_of(results)["num_nodes"], []
    for draw in draws(results):
        there = ~lost(setting, num, draw)
        part = dlsim.networks.components(network_of(num, setting.m, draw), there)[there]
        accuracy = results.accuracy.sel(case=str(setting), draw=draw).isel(step=-1).mean("seed").values[there]
        found.append((accuracy, np.bincount(part)[part]))
    return found


def pooled(results: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and size of part of every survivor of the cases that lose links, at t_d = 10."""
    pairs = [
        pair
        for one in settings_of(results)
        if one.case in "AB" and one.t > 0 and one.t < 30
        for pair in groups(results, one)
    ]
    return np.concatenate([a for a, _ in pairs]), np.concatenate([s for _, s in pairs])
