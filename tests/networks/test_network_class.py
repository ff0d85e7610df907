"""A Network is one pytree class, whatever file its fields and verbs stand in."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import networks
from dlsim.networks.fields import NetworkFields


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
