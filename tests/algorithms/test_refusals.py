"""What the methods refuse, each in one line that names the method and the argument."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest
import six_nodes
from contract.rows import nothing_hidden
from six_nodes import NUM_NODES

import dlsim
from dlsim import aggregators, algorithms, networks
from dlsim.core import Algorithm, Problem
from dlsim.networks.network import Network

SGD = optax.sgd(0.1)
WITH_OPTIMIZER = {
    "centralized_sgd": "optimizer",
    "cga": "optimizer",
    "choco_sgd": "optimizer",
    "async_diloco": "inner_optimizer",
    "d2": "optimizer",
    "diloco": "inner_optimizer",
    "dimat": "optimizer",
    "dsgd": "optimizer",
    "exact_diffusion": "optimizer",
    "fedadagrad": "client_optimizer",
    "fedadam": "client_optimizer",
    "fedavg": "client_optimizer",
    "fedprox": "client_optimizer",
    "fedyogi": "client_optimizer",
    "gradient_tracking": "optimizer",
    "isolated_training": "optimizer",
    "jwins": "optimizer",
    "pens": "optimizer",
    "power_sgd": "optimizer",
    "relay_sgd": "optimizer",
    "shatter": "optimizer",
    "spsa": "optimizer",
    "stochastic_gradient_push": "optimizer",
    "streaming_diloco": "inner_optimizer",
    "modest": "optimizer",
    "teleportation": "optimizer",
}
ALSO = {name: {"server_learning_rate": 0.1} for name in ("fedadagrad", "fedadam", "fedyogi")}  # has no default
ALSO |= {"teleportation": {"topology": networks.ring(3)}}
ALSO |= {"modest": {"tape": networks.sampling_tape(NUM_NODES, 4, sample_size=4)}}
ALSO["dimat"] = {"matching": nothing_hidden()}
WITH_RATE = {
    "admm_tracking_gradient": "learning_rate",
    "decentralized_admm": "penalty",
    "extra": "learning_rate",
    "k_gt": "local_learning_rate",
    "led": "learning_rate",
    "lt_admm": "learning_rate",
    "network_lasso": "coupling",
    "nids": "learning_rate",
    "proxskip": "learning_rate",
    "quasi_global_momentum": "learning_rate",
    "scaffold": "local_learning_rate",
    "wang_elia": "learning_rate",
}
MAY_BE_ZERO = {"network_lasso"}  # of these rates
# Asynchronous methods, and what they are called with beside the problem and the optimiser or the rate.
PACE = {"pace": dlsim.arrivals.pace(NUM_NODES, 0.1), "num_local_steps": 1}
WITHOUT_ROUNDS: dict[str, dict[str, Any]] = {
    "a2cid2": {"constants": algorithms.a2cid2_constants(networks.ring(NUM_NODES))},
    "ad_psgd": {},
    "afa_cd": {"buffer_size": 2, **PACE},
    "afa_cs": {"buffer_size": 2, **PACE},
    "fedasync": PACE,
    "fedbuff": {"buffer_size": 2, **PACE},
    "fedcompass": {"pace": PACE["pace"]},
    "federated_arrivals": {"schedule": dlsim.arrivals.next_arrival(PACE["pace"], 1)},
    "fedfix": {"window": 0.1, **PACE},
    "gossip_learning": {},
    "swarm_sgd": {},
    "synchronous_fedavg": PACE,
}
RATE_WITHOUT_ROUNDS = {"afa_cd": "client_rate", "afa_cs": "client_rate"}
# By how curved the objectives are; what they refuse is tried in test_dadao and test_accelerated.
CURVED = {"adom_plus", "continuized", "dadao", "msda"}
NO_TRAINING = {"gossip", "push_sum", "randomized_gossip"}
PARTS = {
    "A2CiD2Constants",
    "LocalUpdates",
    "ModelParts",
    "SPSALog",
    "TokenAccount",
    "a2cid2_constants",
    "dadao_rates",
    "local_events",
    "local_updates",
    "model_partition",
    "model_sample",
    "saga",
    "sarah",
    "spsa_replay",
    "svrg",
    "token_account",
}
# (method, argument, largest allowed or None, whether 0 is allowed)
OTHER_NUMBERS = (
    ("admm_tracking_gradient", "penalty", None, False),
    ("admm_tracking_gradient", "step_size", 1.0, False),
    ("choco_sgd", "consensus_step_size", 1.0, False),
    ("decentralized_admm", "local_learning_rate", None, False),
    ("fedprox", "proximal_weight", None, True),
    ("extra", "theta", 1.0, False),
    ("led", "dual_step_size", 1.0, False),
    ("lt_admm", "consensus_step_size", None, False),
    ("lt_admm", "penalty", None, False),
    ("k_gt", "communication_step_size", None, False),
    ("network_lasso", "local_learning_rate", None, False),
    ("network_lasso", "penalty", None, False),
    ("nids", "consensus_step_size", 1.0, False),
    ("proxskip", "consensus_step_size", 1.0, False),
    ("proxskip", "probability", 1.0, False),
    ("quasi_global_momentum", "momentum", 0.999, True),
    ("quasi_global_momentum", "smoothing", 1.0, True),
    ("scaffold", "server_learning_rate", None, False),
)


def made(name: str, **options: Any) -> Algorithm:
    problem = six_nodes.problem()
    return getattr(algorithms, name)(problem, SGD if name in WITH_OPTIMIZER else 0.1, **ALSO.get(name, {}), **options)


def takes_local_steps(name: str) -> bool:
    return "num_local_steps" in inspect.signature(getattr(algorithms, name)).parameters


def test_every_method_is_tried() -> None:
    factories = set(algorithms.__all__) - PARTS
    assert factories == {*WITH_OPTIMIZER, *WITH_RATE, *WITHOUT_ROUNDS, *NO_TRAINING, *CURVED}


@pytest.mark.parametrize("name", sorted(set(WITHOUT_ROUNDS) - set(RATE_WITHOUT_ROUNDS)))
@pytest.mark.parametrize("wrong", [0.1, optax.sgd, None], ids=["rate", "function", "nothing"])
def test_what_is_no_optimiser_of_an_asynchronous_method(name: str, wrong: Any) -> None:
    line = f"^{name}: (optimizer|client_optimizer) must be an optax.GradientTransformation, got .*Pass e.g. optax.sgd"
    with pytest.raises(ValueError, match=line):
        getattr(algorithms, name)(six_nodes.problem(), wrong, **WITHOUT_ROUNDS[name])


@pytest.mark.parametrize("name", RATE_WITHOUT_ROUNDS)
@pytest.mark.parametrize("wrong", [-0.1, 0.0, float("nan"), float("inf"), "0.1", None, True])
def test_what_is_no_rate_of_an_asynchronous_method(name: str, wrong: Any) -> None:
    line = rf"^{name}: {RATE_WITHOUT_ROUNDS[name]} must be a number in \(0, inf\), got "
    with pytest.raises(ValueError, match=line):
        getattr(algorithms, name)(six_nodes.problem(), wrong, **WITHOUT_ROUNDS[name])


@pytest.mark.parametrize("wrong", [-0.1, 0.0, 1.01, float("nan"), "0.1", None, True])
def test_what_is_no_step_of_averaging(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^randomized_gossip: step_size must be a number in \(0, 1\], got "):
        algorithms.randomized_gossip(step_size=wrong)


def whole_steps(value: Any) -> str:
    """The rule for a number of steps; what is no integer at all may be told before its bounds."""
    bounds = r" (>= 1|in \[1, .*\])"
    return f"an integer{bounds}" if type(value) is int else f"an integer(?: or None)?(?:{bounds})?"


@pytest.mark.parametrize("name", sorted(name for name in WITHOUT_ROUNDS if takes_local_steps(name)))
def test_counts_of_local_steps_of_an_asynchronous_method(name: str) -> None:
    for value in (0, -1, 1.5, True):
        options = {**WITHOUT_ROUNDS[name], "num_local_steps": value}
        rate = 0.1 if name in RATE_WITHOUT_ROUNDS else SGD
        with pytest.raises(ValueError, match=rf"^{name}: num_local_steps must be {whole_steps(value)}, got {value}"):
            getattr(algorithms, name)(six_nodes.problem(), rate, **options)


@pytest.mark.parametrize("name", WITH_OPTIMIZER)
@pytest.mark.parametrize("wrong", [0.1, optax.sgd, None], ids=["rate", "function", "nothing"])
def test_what_is_no_optimiser(name: str, wrong: Any) -> None:
    line = f"^{name}: {WITH_OPTIMIZER[name]} must be an optax.GradientTransformation, got .*Pass e.g. optax.sgd"
    with pytest.raises(ValueError, match=line):
        getattr(algorithms, name)(six_nodes.problem(), wrong, **ALSO.get(name, {}))


@pytest.mark.parametrize("name", WITH_RATE)
@pytest.mark.parametrize("wrong", [-0.1, 0.0, float("nan"), float("inf"), "0.1", None, True])
def test_what_is_no_rate(name: str, wrong: Any) -> None:
    if name in MAY_BE_ZERO and wrong == 0:
        assert isinstance(made(name), Algorithm)
        return
    line = rf"^{name}: {WITH_RATE[name]} must be a number in [\(\[]0, inf\), got "
    with pytest.raises(ValueError, match=line):
        getattr(algorithms, name)(six_nodes.problem(), wrong)


@pytest.mark.parametrize(("name", "argument", "largest", "may_be_zero"), OTHER_NUMBERS)
def test_numbers_out_of_their_range(name: str, argument: str, largest: float | None, may_be_zero: bool) -> None:
    line = rf"^{name}: {argument} must be a number in .*, got "
    wrong = [-0.1, float("nan"), "1"] + ([] if largest is None else [largest + 0.01]) + ([] if may_be_zero else [0.0])
    for value in wrong:
        with pytest.raises(ValueError, match=line):
            made(name, **{argument: value})
    for value in [0.5] + ([] if largest is None else [largest]) + ([0.0] if may_be_zero else []):
        assert isinstance(made(name, **{argument: value}), Algorithm)


@pytest.mark.parametrize("name", list(filter(takes_local_steps, [*WITH_OPTIMIZER, *WITH_RATE])))
def test_counts_of_local_steps(name: str) -> None:
    for value in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"^{name}: num_local_steps must be {whole_steps(value)}, got {value}"):
            made(name, num_local_steps=value)


@pytest.mark.parametrize(
    ("name", "option", "nearest"),
    [
        ("dsgd", {"order": "adapt_then_combin"}, "adapt_then_combine"),
        ("gradient_tracking", {"order": "combine-then-adapt"}, "combine_then_adapt"),
        ("fedavg", {"weighting": "example"}, "examples"),
        ("fedprox", {"weighting": "uniforms"}, "uniform"),
        ("centralized_sgd", {"weighting": "Uniform"}, "uniform"),
        ("scaffold", {"option": "IIa"}, "II"),
    ],
)
def test_the_nearest_name_is_suggested(name: str, option: dict[str, str], nearest: str) -> None:
    ((argument, value),) = option.items()
    line = f"^{name}: {argument} must be one of .*, got {value!r}. Did you mean {nearest!r}?"
    with pytest.raises(ValueError, match=line):
        made(name, **option)


def ring_of_arrows() -> Network:
    arrows = np.array([(i, (i + 1) % NUM_NODES) for i in range(NUM_NODES)])
    return networks.connect(networks.graph(NUM_NODES, *arrows.T, is_directed=True), "column_stochastic")


def two_halves() -> Network:
    return networks.connect(networks.graph(NUM_NODES, [0, 1, 3, 4], [1, 2, 4, 5]))


UNDIRECTED = ("choco_sgd", "d2", "decentralized_admm", "exact_diffusion", "extra", "nids", "proxskip", "relay_sgd")
UNDIRECTED = (*UNDIRECTED, "admm_tracking_gradient", "cga", "led", "lt_admm", "network_lasso", "wang_elia")
SERVED = ("fedadagrad", "fedadam", "fedavg", "fedprox", "fedyogi", "power_sgd", "scaffold")
REDUCED = ("async_diloco", "diloco", "streaming_diloco")
ALONE = ("centralized_sgd", *REDUCED, *SERVED, "isolated_training", "network_lasso")  # need no links
ALONE = (*ALONE, "modest", "shatter", "teleportation")  # any two of their nodes reach each other


@pytest.mark.parametrize("name", sorted({**WITH_OPTIMIZER, **WITH_RATE}))
def test_networks_on_which_the_method_is_not_defined(name: str) -> None:
    algorithm = made(name)

    def learn(network: Network) -> str | None:
        try:
            dlsim.learn(six_nodes.problem(), algorithm, network)
        except ValueError as error:
            return str(error)
        return None

    directed, halves = learn(ring_of_arrows()), learn(two_halves())
    assert (directed is not None) == (name in UNDIRECTED)
    assert (halves is not None) == (name not in ALONE)
    assert directed is None or re.match("learn: network must be undirected for this algorithm, got ", directed)
    assert halves is None or re.match("learn: network must be connected for this algorithm, got ", halves)


def started(network: Network, make: Callable[[Problem], Algorithm], num_nodes: int = NUM_NODES) -> None:
    problem = dlsim.problems.quadratic(num_nodes, 2)
    dlsim.learn(problem, make(problem), network).init(jax.random.key(0))


@pytest.mark.parametrize("network", [networks.ring, networks.complete, networks.torus])
def test_relayed_sums_need_a_tree(network: Callable[[int], Network]) -> None:
    line = "relay_sgd: network must be an undirected tree, got 6 nodes and .* links. Use path, star or binary_tree."
    with pytest.raises(ValueError, match=line):
        started(network(NUM_NODES), lambda p: algorithms.relay_sgd(p, SGD))


def test_methods_by_link_need_a_list_of_links() -> None:
    large = networks.complete(3000)
    for make, line in (
        (lambda p: algorithms.relay_sgd(p, SGD), "relay_sgd: network must be an undirected tree"),
        (lambda p: algorithms.decentralized_admm(p), "decentralized_admm: network must be one that lists its edges"),
    ):
        with pytest.raises(ValueError, match=line):
            started(large, make, 3000)


def test_admm_without_a_closed_proximal_map() -> None:
    problem = six_nodes.problem()._replace(proximal=None)
    line = "decentralized_admm: problem must be one with a closed proximal map, got one without. Pass num_local_steps=5"
    with pytest.raises(ValueError, match=line):
        algorithms.decentralized_admm(problem)
    assert isinstance(algorithms.decentralized_admm(problem, num_local_steps=5), Algorithm)


def test_an_aggregator_goes_with_one_order() -> None:
    with pytest.raises(ValueError, match="dsgd: order must be 'adapt_then_combine' where an aggregator is given"):
        made("dsgd", order="combine_then_adapt", aggregator=aggregators.mean())


def test_a_rate_a_node_must_be_one_a_node() -> None:
    problem = six_nodes.problem()
    with pytest.raises(ValueError, match=r"nids: learning_rate must be of shape \[6\], got \[5\]"):
        algorithms.nids(problem, np.full(5, 0.1))
    with pytest.raises(ValueError, match="nids: learning_rate must be above 0 at every node, got 0"):
        algorithms.nids(problem, np.array([0.1, 0.1, 0.0, 0.1, 0.1, 0.1]))
