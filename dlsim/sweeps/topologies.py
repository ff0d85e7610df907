"""Topologies of one size in one form, so that they are data of one program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dlsim.networks.graphs.padding import lengthen, widen
from dlsim.networks.mixing import UNROLL
from dlsim.networks.network import Network, lower

# Up to this many nodes a dense product costs little more than the sparse ones, and always less than another program.
DENSE_NODES = {"cpu": 256, "gpu": 2048, "tpu": 2048}
WIDTHS = (4, UNROLL)  # neighbours to which larger networks are padded
LONGER, SHORT = 8, 4096  # lists of edges are padded to so many times their length, and up to so many edges in any case


class Form(NamedTuple):
    """How to write a network; what it says of channels, links and the rest stays."""

    width: int  # of its table of neighbours; 0: a dense matrix
    num_edges: int = 0  # in its list; 0: as many as it has

    def of(self, network: Network) -> Network:
        """The network in this form; as it is if it has more neighbours or edges than the form holds."""
        if network.num_edges > self.num_edges > 0 or _width(network) > self.width > 0:
            return network
        # Where the network is made inside of another program too, topologies are arrays and not tracers.
        with jax.ensure_compile_time_eval():
            if self.width == 0:
                formed = lower(network, "dense").replace(grid=None, offsets=None)
            else:
                formed = widen(network, self.width)
            return lengthen(formed, self.num_edges) if self.num_edges else formed


def common_forms(networks: Sequence[Network | None]) -> list[Form | None]:
    """For each network the form in which it shares a program with others; None: as it is.

    Small networks become dense matrices if one of them has more than `UNROLL` neighbours a node, else tables of as many
    neighbours as the widest has.  Larger ones become tables of 4 or of 16 neighbours; wider ones stay as they are.
    Lists of edges of like lengths become one length: only what is said by edge (losses, failing links, absent nodes,
    messages an edge) reads them, and those programs are shared where the lists are.
    The mean over the neighbours is the same to rounding.
    """
    out: list[Form | None] = [None] * len(networks)
    by_size: dict[int, list[int]] = {}
    for i, network in enumerate(networks):
        if network is not None and not network.is_implicit and network.is_linked is None and network.is_edge is None:
            by_size.setdefault(network.num_nodes, []).append(i)
    for size, places in by_size.items():
        if len({_form(networks[i]) for i in places}) > 1:
            widths = [_width(networks[j]) for j in places]
            shared = {i: _shared(own, widths, size) for i, own in zip(places, widths, strict=True)}
            forms = {i: form for i, form in shared.items() if form is not None}
            _share_lengths(forms, [_num_edges(network) for network in networks])
            for i, form in forms.items():
                out[i] = form
    return out


def _share_lengths(forms: dict[int, Form], lengths: Sequence[int]) -> None:
    """Give those of one width whose lists of edges are of like lengths that of the longest."""
    for width in {form.width for form in forms.values()}:
        left = sorted((i for i in forms if forms[i].width == width), key=lambda i: -lengths[i])
        while left:
            longest = lengths[left[0]]
            alike = [i for i in left if longest <= max(LONGER * lengths[i], SHORT)]
            left = left[len(alike) :]
            if len({lengths[i] for i in alike}) > 1:
                forms.update({i: Form(width, longest) for i in alike})


def _form(network: Any) -> tuple[Any, ...]:
    """What two networks must share to be data of one program."""
    width = None if network.neighbors is None else network.neighbors.shape[1]
    return network.lowering, width, network.num_edges, network.grid, network.offsets


def _num_edges(network: Network | None) -> int:
    return 0 if network is None else network.num_edges


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
