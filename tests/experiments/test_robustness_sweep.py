"""The tiny mode of the sweep over rules and attacks, who lies in it, and what its claims rest on."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from dlsim import networks
from dlsim.studies.experiment import load_experiment, make_config, run_experiment

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "sweeps" / "robustness.py"


def test_the_tiny_mode_gives_claims_and_a_figure(tmp_path: pathlib.Path) -> None:
    saved = run_experiment(FILE, "tiny", out=tmp_path / "run", progress=False)
    assert (saved.folder / "figure.png").exists()
    assert len(saved.claims) == 2 and all(claim.holds is None for claim in saved.claims)  # too short to decide
    last = load_experiment(FILE).module.ends(saved.results).isel(share=0, topology=0)
    assert float(last.sel(rule="mean", attack="none")) > 0.3, "they learn"
    assert float(last.sel(rule="mean", attack="sign flip")) < float(last.sel(rule="trimmed mean", attack="sign flip"))
    assert (saved.results.least_accuracy <= saved.results.accuracy + 1e-6).all()


def test_liars_are_spread() -> None:
    module = load_experiment(FILE).module
    network = module.make_network("random_regular", 24)
    who, most = module.liars(network, 0.25)
    linked = np.zeros((24, 24), int)
    linked[np.asarray(network.receivers), np.asarray(network.senders)] = 1
    assert len(who) == 6 and len(set(who.tolist())) == 6
    honest = np.setdiff1d(np.arange(24), who)
    assert most == linked[honest][:, who].sum(axis=1).max() and 2 <= most <= 3  # 6 of 23 others: 2.1 of 8 on average
    assert module.liars(networks.complete(24), 0.125)[1] == 3


def test_one_number_says_which_attack() -> None:
    """As the channel of that name alone, but for draws."""
    module = load_experiment(FILE).module
    network, who = networks.random_regular(16, 8, seed=0), np.array([1, 5])
    said = [networks.byzantine(who, name, strength) for name, strength in module.ATTACKS.values()]
    values = jnp.asarray(np.random.default_rng(0).standard_normal((16, 4)), jnp.float32)
    key = jax.random.key(0)

    @jax.jit
    def mixed(which: jax.Array) -> jax.Array:
        return network.with_channel(module.one_of(said, which)).mix(key, values)[0]

    for place, name in enumerate(module.ATTACKS):
        if name == "noise":
            continue
        wanted = network.with_channel(said[place]).mix(key, values)[0]
        np.testing.assert_allclose(mixed(jnp.float32(place)), wanted, atol=1e-5, err_msg=name)


def made(worst: dict[str, float], clean: float = 0.95, price: float = 0.02) -> xarray.Dataset:
    """Results in which each rule has one bad attack."""
    module = load_experiment(FILE).module
    rules, attacks = list(worst), np.arange(len(module.ATTACKS), dtype=float)
    accuracy = np.full((len(rules), len(attacks), 2, 1, 1, 2), clean)
    for place, rule in enumerate(rules):
        accuracy[place, 3] = worst[rule]
        accuracy[place, 0] = clean - (price if rule == "Krum" else 0)
    dims = ("rule", "attack", "share", "topology", "seed", "step")
    names = {"rule": rules, "attack": attacks, "share": [0.125, 0.25], "topology": ["complete"], "seed": [0]}
    return xarray.Dataset({"accuracy": (dims, accuracy)}, {**names, "step": [0, 150]})


def test_claims_are_decided_by_the_worst_attack() -> None:
    module = load_experiment(FILE).module
    good = {"mean": 0.1, "trimmed mean": 0.8, "NNM, trimmed": 0.93, "Krum": 0.7}
    held = module.claims(made(good))
    assert [claim.holds for claim in held] == [True, True, True, True]
    assert "2.0 points (NNM, trimmed, ALIE)" in held[1].measured
    bad = {"mean": 0.6, "trimmed mean": 0.8, "NNM, trimmed": 0.7, "Krum": 0.7}
    assert [claim.holds for claim in module.claims(made(bad, price=0.0))] == [False] * 4
    lost = module.claims(made({**good, "mean": float("nan")}))
    assert lost[0].holds and lost[0].measured.startswith("0.0 %")


def test_unknown_rules_are_named() -> None:
    experiment = load_experiment(FILE)
    config = make_config(experiment, "tiny")
    with config.ignore_type():
        config.rule, config.attack, config.share, config.topology = "hope", 0.0, 0.125, "random_regular"
    with pytest.raises(ValueError, match="robustness: rule must be one of mean"):
        experiment.module.build(config)
