"""The contract table: one row for every algorithm, and what is special about it, as data.

A new method adds a row here and its export; the tests of this folder then try it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from contract import world

from dlsim import aggregators, algorithms, trees
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


def noisy(rate: Any) -> optax.GradientTransformation:
    """SGD on gradients with noise of its own."""
    return optax.chain(optax.add_noise(1e-3, 0.55, key=0), optax.sgd(rate))


def zero_vector(state: PyTree, info: dict[str, Any], network: Network) -> Array:
    del state, info, network
    return jnp.zeros(world.DIMENSION)


TRACKING = Invariant(
    "the mean tracker is the mean gradient",
    lambda s, info, net: trees.mean(s.tracker),
    lambda s, info, net: trees.mean(s.gradient),
)

CASES = (
    Case(
        "dsgd",
        lambda p, rate: algorithms.dsgd(p, optax.sgd(rate)),
        reduces_to=(
            Reduction(
                "on the complete graph it is centralised SGD",
                lambda p, rate: algorithms.dsgd(p, optax.sgd(rate)),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
                world.complete,
            ),
        ),
    ),
    Case(
        "dsgd",
        lambda p, rate: algorithms.dsgd(p, optax.sgd(rate), order="combine_then_adapt"),
        variant="combine_then_adapt",
    ),
    Case(
        "dsgd",
        lambda p, rate: algorithms.dsgd(p, optax.sgd(rate, momentum=0.5), num_local_steps=3),
        variant="local_steps",
    ),
    Case("dsgd", lambda p, rate: algorithms.dsgd(p, optax.adam(rate)), variant="adam"),
    Case("dsgd", lambda p, rate: algorithms.dsgd(p, noisy(rate)), variant="noise"),
    Case(
        "dsgd",
        lambda p, rate: algorithms.dsgd(p, optax.sgd(rate), aggregator=neighborhood_mean()),
        variant="aggregator",
        reduces_to=(
            Reduction(
                "the mean of the neighbourhood is the mix with uniform weights",
                lambda p, rate: algorithms.dsgd(p, optax.sgd(rate), aggregator=neighborhood_mean()),
                lambda p, rate: algorithms.dsgd(p, optax.sgd(rate)),
                lambda: world.uneven("uniform_neighbor"),
            ),
        ),
    ),
    Case(
        "gradient_tracking",
        lambda p, rate: algorithms.gradient_tracking(p, optax.sgd(rate), order="combine_then_adapt"),
        variant="combine_then_adapt",
        invariants=(TRACKING,),
    ),
    Case(
        "gradient_tracking",
        lambda p, rate: algorithms.gradient_tracking(p, optax.sgd(rate)),
        invariants=(TRACKING,),
        reduces_to=(
            Reduction(
                "on the complete graph every tracker is the mean gradient: gradient descent",
                lambda p, rate: algorithms.gradient_tracking(p, optax.sgd(rate)),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
                world.complete,
            ),
        ),
    ),
    Case(
        "k_gt",
        lambda p, rate: algorithms.k_gt(p, rate, num_local_steps=3),
        invariants=(Invariant("corrections sum to zero", lambda s, info, net: trees.mean(s.correction), zero_vector),),
    ),
    Case("extra", lambda p, rate: algorithms.extra(p, rate)),
    Case("nids", lambda p, rate: algorithms.nids(p, rate)),
    Case(
        "nids",
        lambda p, rate: algorithms.nids(p, rate * jnp.linspace(0.5, 1.0, p.num_nodes), consensus_step_size=0.4),
        variant="a_rate_a_node",
    ),
    Case("exact_diffusion", lambda p, rate: algorithms.exact_diffusion(p, optax.sgd(rate))),
    Case(
        "d2",
        lambda p, rate: algorithms.d2(p, optax.sgd(rate)),
        network=lambda: world.uneven("lazy_metropolis_hastings"),
        reduces_to=(
            Reduction(
                "on lazy weights it is exact diffusion on the plain ones",
                lambda p, rate: algorithms.d2(p, optax.sgd(rate)),
                lambda p, rate: algorithms.exact_diffusion(p, optax.sgd(rate)),
                lambda: world.uneven("lazy_metropolis_hastings"),
                world.uneven,
            ),
        ),
    ),
    Case(
        "proxskip",
        lambda p, rate: algorithms.proxskip(p, rate, 0.5),
        invariants=(
            Invariant("control variates sum to zero", lambda s, info, net: trees.mean(s.control_variate), zero_vector),
        ),
        reduces_to=(
            Reduction(
                "communicating in every step, it is exact diffusion",
                lambda p, rate: algorithms.proxskip(p, rate, 1.0, consensus_step_size=0.5),
                lambda p, rate: algorithms.exact_diffusion(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "decentralized_admm",
        lambda p, rate: algorithms.decentralized_admm(p, 3 * rate),
        is_random=False,
        needs_proximal=True,
    ),
    Case(
        "decentralized_admm",
        lambda p, rate: algorithms.decentralized_admm(p, 0.3, num_local_steps=3, local_learning_rate=3 * rate),
        variant="inexact",
    ),
    Case(
        "stochastic_gradient_push",
        lambda p, rate: algorithms.stochastic_gradient_push(p, optax.sgd(rate)),
        network=world.directed,
        invariants=(
            Invariant(
                "the mass stays N",
                lambda s, info, net: jnp.sum(s.push_weight),
                lambda s, info, net: jnp.float32(net.num_nodes),
            ),
        ),
        reduces_to=(
            Reduction(
                "with doubly stochastic weights it is adapt-then-combine D-SGD",
                lambda p, rate: algorithms.stochastic_gradient_push(p, optax.sgd(rate)),
                lambda p, rate: algorithms.dsgd(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "choco_sgd",
        lambda p, rate: algorithms.choco_sgd(p, optax.sgd(rate), consensus_step_size=0.8),
        reduces_to=(
            Reduction(
                "without compression and with unit consensus step it is adapt-then-combine D-SGD",
                lambda p, rate: algorithms.choco_sgd(p, optax.sgd(rate)),
                lambda p, rate: algorithms.dsgd(p, optax.sgd(rate)),
            ),
        ),
        invariants=(
            Invariant(
                "s is the mix of the public copies",
                lambda s, info, net: s.mixed_public,
                lambda s, info, net: net.mix(jax.random.key(0), s.public)[0],
            ),
        ),
    ),
    Case(
        "quasi_global_momentum",
        lambda p, rate: algorithms.quasi_global_momentum(p, rate, momentum=0.5),
        reduces_to=(
            Reduction(
                "without momentum it is adapt-then-combine D-SGD",
                lambda p, rate: algorithms.quasi_global_momentum(p, rate, momentum=0.0),
                lambda p, rate: algorithms.dsgd(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "quasi_global_momentum",
        lambda p, rate: algorithms.quasi_global_momentum(p, rate, momentum=0.5, smoothing=0.8, nesterov=True),
        variant="nesterov",
    ),
    Case("relay_sgd", lambda p, rate: algorithms.relay_sgd(p, optax.sgd(rate)), network=world.tree),
    Case(
        "fedavg",
        lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), num_local_steps=2),
        reduces_to=(
            Reduction(
                "with one local step and everyone there it is mini-batch SGD",
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), weighting="uniform"),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedavg",
        lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), server_optimizer=optax.adam(rate)),
        variant="adam_at_the_server",
    ),
    Case(
        "fedavg",
        lambda p, rate: algorithms.fedavg(
            p, optax.sgd(rate), num_local_steps=2, aggregator=aggregators.trimmed_mean(1)
        ),
        variant="aggregator",
        reduces_to=(
            Reduction(
                "the mean of what the clients sent is their uniform mean",
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), aggregator=neighborhood_mean()),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), weighting="uniform"),
            ),
        ),
    ),
    Case(
        "fedavg",
        lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), num_local_steps=2, clip_norm=2 * rate),
        variant="clip",
        reduces_to=(
            Reduction(
                "with a bound that nobody reaches it is FedAvg",
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), clip_norm=1e6),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedavg",
        lambda p, rate: algorithms.fedavg(p, noisy(lambda count: 2 * rate / (1 + count)), num_local_steps=2),
        variant="schedule_and_noise",
        reduces_to=(
            Reduction(
                "at a rate that stays it is FedAvg at that rate",
                lambda p, rate: algorithms.fedavg(p, optax.sgd(lambda count: rate)),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedadam",
        lambda p, rate: algorithms.fedadam(p, optax.sgd(rate), rate / 2, num_local_steps=2),
        reduces_to=(
            Reduction(
                "without moments and with tau beyond all movements it is FedAvg",
                lambda p, rate: algorithms.fedadam(p, optax.sgd(rate), 1e4, beta_1=0.0, beta_2=0.0, tau=1e4),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedyogi",
        lambda p, rate: algorithms.fedyogi(p, optax.sgd(rate), rate / 2, num_local_steps=2),
        reduces_to=(
            Reduction(
                "with tau beyond all movements v stays tau^2, and at eta = 2 tau it is FedAvg",
                lambda p, rate: algorithms.fedyogi(p, optax.sgd(rate), 2e4, beta_1=0.0, tau=1e4),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedadagrad",
        lambda p, rate: algorithms.fedadagrad(p, optax.sgd(rate), rate, num_local_steps=2),
        reduces_to=(
            Reduction(
                "with tau beyond all movements v stays tau^2, and at eta = 2 tau it is FedAvg",
                lambda p, rate: algorithms.fedadagrad(p, optax.sgd(rate), 2e4, tau=1e4),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "fedprox",
        lambda p, rate: algorithms.fedprox(p, optax.sgd(rate), proximal_weight=0.5, num_local_steps=2),
        reduces_to=(
            Reduction(
                "with proximal weight 0 it is FedAvg",
                lambda p, rate: algorithms.fedprox(p, optax.sgd(rate), proximal_weight=0.0, num_local_steps=3),
                lambda p, rate: algorithms.fedavg(p, optax.sgd(rate), num_local_steps=3),
            ),
        ),
    ),
    Case(
        "scaffold",
        lambda p, rate: algorithms.scaffold(p, rate, num_local_steps=3),
        invariants=(
            Invariant(
                "the server's control variate is the mean of the clients'",
                lambda s, info, net: s.control_variate,
                lambda s, info, net: trees.mean(s.client_control_variates),
            ),
        ),
        reduces_to=(
            Reduction(
                "with one local step and everyone there it is mini-batch SGD",
                lambda p, rate: algorithms.scaffold(p, rate, num_local_steps=1),
                lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case(
        "scaffold",
        lambda p, rate: algorithms.scaffold(p, rate, num_local_steps=3, option="I"),
        variant="option_one",
    ),
    Case(
        "scaffold",
        lambda p, rate: algorithms.scaffold(
            p, lambda count: 2 * rate / (1 + count), num_local_steps=3, weighting="examples"
        ),
        variant="schedule",
        reduces_to=(
            Reduction(
                "at a rate that stays, with as many examples at each, it is SCAFFOLD",
                lambda p, rate: algorithms.scaffold(p, lambda count: rate, weighting="examples"),
                lambda p, rate: algorithms.scaffold(p, rate),
            ),
        ),
    ),
    Case(
        "isolated_training",
        lambda p, rate: algorithms.isolated_training(p, optax.sgd(rate)),
        communicates=False,
        is_reference=True,
    ),
    Case(
        "centralized_sgd",
        lambda p, rate: algorithms.centralized_sgd(p, optax.sgd(rate, momentum=0.5)),
        communicates=False,
        is_reference=True,
    ),
)
