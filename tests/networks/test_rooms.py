"""The modules of `dlsim.networks`: imports run one way, and a Network stays one pytree class."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
from graphlib import TopologicalSorter

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import networks
from dlsim.networks.fields import NetworkFields

FOLDER = pathlib.Path(networks.__file__).parent
PREFIX = "dlsim.networks"


def imported(path):
    """The modules of the package that one of them imports while it is imported, and those its functions import."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    top, lazy = set(), set()
    for node in ast.walk(tree):
        if (
            not isinstance(node, ast.ImportFrom)
            or id(node) in typing_only
            or not (node.module or "").startswith(PREFIX)
        ):
            continue
        rest = node.module.removeprefix(PREFIX).lstrip(".")
        (top if node in tree.body else lazy).update([rest] if rest else [alias.name for alias in node.names])
    return top, lazy


def test_imports_between_the_modules_run_one_way_and_none_hides_in_a_function():
    above, hidden = {}, {}
    for path in FOLDER.glob("*.py"):
        if path.stem != "__init__":
            above[path.stem], hidden[path.stem] = imported(path)
    assert {"fields", "mixing", "messages", "network", "spectral", "weights"} <= set(above)
    assert {name: found for name, found in hidden.items() if found} == {}
    order = list(TopologicalSorter(above).static_order())  # raises CycleError where they run in a circle
    assert order.index("fields") < order.index("mixing") < order.index("messages") < order.index("network")
    assert order.index("stochastic") < order.index("spectral") < order.index("weights") < order.index("network")


def test_a_network_is_one_pytree_class():
    network = networks.ring(5)
    leaves, structure = jax.tree.flatten(network)
    back = jax.tree.unflatten(structure, leaves)
    assert type(back) is networks.Network and isinstance(back, NetworkFields)
    assert {f.name for f in dataclasses.fields(networks.Network)} == {f.name for f in dataclasses.fields(NetworkFields)}
    changed = network.replace(is_present=jnp.ones(5, bool)).with_lowering("edges").with_state(network.state)
    assert type(changed) is networks.Network

    @jax.jit
    def mix(network, x):
        mixed, network = network.mix(jax.random.key(0), x)
        return mixed, network

    mixed, after = mix(network, jnp.arange(5.0))
    assert type(after) is networks.Network
    assert jax.tree.structure(after) == structure
    np.testing.assert_allclose(
        mixed, (np.arange(5) + np.roll(np.arange(5), 1) + np.roll(np.arange(5), -1)) / 3, rtol=1e-6
    )
