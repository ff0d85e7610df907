"""What a row of the contract table says, and the parts that rows share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from contract import world

from dlsim.aggregators import Matching
from dlsim.core import Aggregator, Algorithm, Array, Problem, PyTree
from dlsim.networks.network import Network

Make = Callable[[Problem, Any], Algorithm]  # (problem, rate) -> algorithm; the rate may be a tracer


class Reduction(NamedTuple):
    """`special`, a limit of the method, is the method `other`: their models agree (to `rtol`)."""

    claim: str
    special: Make
    other: Make
    network: Callable[[], Network] = world.uneven
    other_network: Callable[[], Network] | None = None  # of `other`, where it is another one
    rtol: float = 1e-4


class Invariant(NamedTuple):
    """`left(state, info, network) == right(state, info, network)` after every step, to rounding."""

    claim: str
    left: Callable[[PyTree, dict[str, Any], Network], PyTree]
    right: Callable[[PyTree, dict[str, Any], Network], PyTree]
    gradient_noise: float = 0.1
    atol: float = 1e-5


class Case(NamedTuple):
    """A way to build one algorithm, and what the tests need to know of it."""

    name: str  # the public name in `dlsim.algorithms`
    make: Make
    variant: str = ""
    network: Callable[[], Network] = world.uneven
    reduces_to: tuple[Reduction, ...] = ()
    invariants: tuple[Invariant, ...] = ()
    communicates: bool = True
    is_reference: bool = False  # no paper behind it
    is_random: bool = True  # the key matters
    needs_proximal: bool = False  # of the problem, in closed form
    follows_rate: bool = True  # another learning rate gives other models
    shared: tuple[str, ...] = ()  # state fields that lead with N but belong to no node; say why beside the row
    # Bits of so many steps that no channel touches; None: they depend on what is said.
    beside: Callable[[int], float] | None = lambda num_steps: 0.0
    num_steps: int = 60  # until the mean model is clearly better than the start

    @property
    def id(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name


def neighborhood_mean() -> Aggregator:
    """An aggregator with a state, for the tests: the plain mean of what was heard and one's own."""

    def init(params: PyTree) -> Array:
        return jnp.zeros(jax.tree.leaves(params)[0].shape[0], jnp.uint32)  # calls so far, a node

    def apply(key: Array, state: Array, own: PyTree, inbox: Any) -> tuple[Array, PyTree]:
        del key
        heard = jnp.sum(inbox.mask, axis=1)

        def leaf(mine: Array, theirs: Array) -> Array:
            mask = inbox.mask.reshape(inbox.mask.shape + (1,) * (theirs.ndim - 2))
            count = heard.reshape(heard.shape + (1,) * (mine.ndim - 1)).astype(mine.dtype)
            return (mine + jnp.sum(jnp.where(mask, theirs, 0), axis=1)) / (1 + count)

        return state + jnp.uint32(1), jax.tree.map(leaf, own, inbox.values)

    return Aggregator(init=init, apply=apply, source="a toy")


def nothing_hidden() -> Matching:
    """For models without hidden units: nothing is re-ordered."""
    return Matching(
        (), lambda key, own, inbox: (inbox, ()), lambda own, inbox, orders: inbox, lambda key, params, node_ids: params
    )


def judged_alike() -> Problem:
    """For values of any shapes: every model loses the same on every node's data."""
    return world.problem()._replace(loss=lambda params, batch: jnp.zeros(()))


def noisy(rate: Any) -> optax.GradientTransformation:
    """SGD on gradients with noise of its own."""
    return optax.chain(optax.add_noise(1e-3, 0.55, key=0), optax.sgd(rate))


def zero_vector(state: PyTree, info: dict[str, Any], network: Network) -> Array:
    del state, info, network
    return jnp.zeros(world.DIMENSION)
