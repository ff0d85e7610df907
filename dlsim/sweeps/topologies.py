"""Topologies of one size in one form, so that they are data of one program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim.networks.mixing import UNROLL
from dlsim.networks.network import Network, lower

# Up to this many nodes a dense product costs little more than the sparse ones, and always less than another program.
DENSE_NODES = {"cpu": 256, "gpu": 2048, "tpu": 2048}
WIDTHS = (4, UNROLL)  # neighbours to which larger networks are padded


class Form(NamedTuple):
    """How to write a network; what it says of channels, links and the rest stays."""

    width: int  # of its table of neighbours; 0: a dense matrix

    def of(self, network: Network) -> Network:
        """The network in this form; as it is if it has more neighbours than the table holds."""
        # Where the network is made inside of another program too, topologies are arrays and not tracers.
        with jax.ensure_compile_time_eval():
            if self.width == 0:
                return lower(network, "dense").replace(grid=None, offsets=None)
            return network if _width(network) > self.width else _table(network, self.width)


def common_forms(networks: Sequence[Network | None]) -> list[Form | None]:
    """For each network the form in which it shares a program with others; None: as it is.

    Small networks become dense matrices if one of them has more than `UNROLL` neighbours a node, else tables of as many
    neighbours as the widest has.  Larger ones become tables of 4 or of 16 neighbours; wider ones stay as they are.
    The mean over the neighbours is the same to rounding.
    """
    out: list[Form | None] = [None] * len(networks)
    by_size: dict[int, list[int]] = {}
    for i, network in enumerate(networks):
        if network is not None and not network.is_implicit and network.is_linked is None:
            by_size.setdefault(network.num_nodes, []).append(i)
    for size, places in by_size.items():
        if len({_form(networks[i]) for i in places}) > 1:
            widths = [_width(networks[j]) for j in places]
            for i, own in zip(places, widths, strict=True):
                out[i] = _shared(own, widths, size)
    return out


def _form(network: Any) -> tuple[Any, ...]:
    """What two networks must share to be data of one program."""
    width = None if network.neighbors is None else network.neighbors.shape[1]
    return network.lowering, width, network.grid, network.offsets


def _width(network: Any) -> int:
    return int(np.asarray(network.in_degrees).max()) if network.num_edges else 0


def _shared(own: int, widths: list[int], size: int) -> Form | None:
    """The form of a network with `own` neighbours a node at most, among others of its size."""
    widest = max(widths)
    if size <= DENSE_NODES.get(jax.default_backend(), 2048):
        return Form(0 if widest > UNROLL else widest)
    for least, most in zip((0, *WIDTHS), WIDTHS, strict=False):
        alike = [width for width in widths if least < width <= most]
        if least < own <= most and len(alike) > 1:
            return Form(max(alike))
    return None  # wide, or alone in its class


def _table(network: Network, width: int) -> Network:
    """The network as a table of `width` neighbours, padded with the node itself at weight zero."""
    network = lower(network, "neighbors")
    neighbors, edges, weights = (
        np.asarray(leaf) for leaf in (network.neighbors, network.neighbor_edges, network.neighbor_weights)
    )
    missing = width - neighbors.shape[1]
    own = np.arange(network.num_nodes, dtype=np.int32)[:, None]

    def widen(table: np.ndarray, filling: Any) -> jax.Array:
        extra = np.broadcast_to(filling, (network.num_nodes, missing)).astype(table.dtype)
        return jnp.asarray(np.concatenate([table, extra], axis=1))

    return network.replace(
        neighbors=widen(neighbors, own),
        neighbor_edges=widen(edges, network.num_edges),
        neighbor_weights=widen(weights, 0),
        grid=None,
        offsets=None,
    )
