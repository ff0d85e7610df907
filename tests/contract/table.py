"""The contract table: one row for every algorithm, and what is special about it, as data.

A new method adds a row here and its export; the tests of this folder then try it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from contract import world
from contract.chosen_table import CHOSEN_CASES
from contract.diloco_table import DILOCO_CASES
from contract.rows import Case, Invariant, Make, Reduction, neighborhood_mean, noisy, nothing_hidden, zero_vector
from contract.server_table import SERVER_CASES

from dlsim import algorithms, networks, trees
from dlsim.problems import sharpness_aware, zeroth_order

__all__ = ["CASES", "Case", "Invariant", "Make", "Reduction"]

TRACKING = Invariant(
    "the mean tracker is the mean gradient",
    lambda s, info, net: trees.mean(s.tracker),
    lambda s, info, net: trees.mean(s.gradient),
)

CHI = 1 / networks.spectral_gap(world.uneven())

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
        lambda p, rate: algorithms.dsgd(
            sharpness_aware(p, 0.05),
            optax.sgd(rate, momentum=0.5),
            num_local_steps=2,
            num_gossip_steps=3,
            fresh_optimizer=True,
        ),
        variant="sharpness_aware",
    ),
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
    Case(
        "gradient_tracking",
        lambda p, rate: algorithms.gradient_tracking(
            p, optax.sgd(rate), tracker_order="combine_then_adapt", estimator=algorithms.svrg(0.3)
        ),
        variant="next_svrg",
        invariants=(TRACKING,),
    ),
    Case(
        "gradient_tracking",
        lambda p, rate: algorithms.gradient_tracking(p, optax.sgd(rate), estimator=algorithms.sarah(3)),
        variant="sarah",
        invariants=(TRACKING,),
    ),
    Case(
        "led",
        lambda p, rate: algorithms.led(p, rate, num_local_steps=3),
        invariants=(Invariant("duals sum to zero", lambda s, info, net: trees.mean(s.dual), zero_vector),),
        reduces_to=(
            Reduction(
                "with one local step and a whole dual it is D2",
                lambda p, rate: algorithms.led(p, rate, num_local_steps=1),
                lambda p, rate: algorithms.d2(p, optax.sgd(rate)),
                lambda: world.uneven("lazy_metropolis_hastings"),
            ),
        ),
    ),
    Case(
        "wang_elia",
        lambda p, rate: algorithms.wang_elia(p, rate),
        invariants=(Invariant("integrals sum to zero", lambda s, info, net: trees.mean(s.integral), zero_vector),),
    ),
    Case("adom_plus", lambda p, rate: algorithms.adom_plus(p, CHI, 0.25, 0.1 / rate), num_steps=200),
    Case(
        "adom_plus",
        lambda p, rate: algorithms.adom_plus(p, CHI, 0.25, 0.1 / rate, num_gossip_steps=3, use_full_gradient=True),
        variant="multi_consensus",
        is_random=False,
        num_steps=100,
    ),
    Case(
        "msda",
        lambda p, rate: algorithms.msda(p, 2 * CHI, 0.25, 0.1 / rate),
        network=lambda: world.uneven("lazy_metropolis_hastings"),
        is_random=False,
        needs_proximal=True,  # or rather the conjugates, which the same problems have
    ),
    Case(
        "pens",
        lambda p, rate: algorithms.pens(p, optax.sgd(rate), num_sampled=3, num_best=2, selection_rounds=3),
        shared=("heard", "chosen"),  # by link
    ),
    Case("cga", lambda p, rate: algorithms.cga(p, optax.sgd(rate, 0.5))),
    Case(
        "jwins",
        lambda p, rate: algorithms.jwins(p, optax.sgd(rate), cut_offs=(0.3, 0.7)),
        beside=None,
        reduces_to=(
            Reduction(
                "of which everything is sent it is adapt-then-combine D-SGD",
                lambda p, rate: algorithms.jwins(p, optax.sgd(rate), cut_offs=(1.0,)),
                lambda p, rate: algorithms.dsgd(p, optax.sgd(rate)),
            ),
        ),
    ),
    Case("lt_admm", lambda p, rate: algorithms.lt_admm(p, rate, num_local_steps=3, consensus_step_size=0.1)),
    Case(
        "lt_admm",
        lambda p, rate: algorithms.lt_admm(p, rate, consensus_step_size=0.1, estimator=algorithms.svrg(0.3)),
        variant="svrg",
    ),
    Case(
        "admm_tracking_gradient",
        lambda p, rate: algorithms.admm_tracking_gradient(p, 4 * rate, step_size=0.3),
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
        "decentralized_admm",
        lambda p, rate: algorithms.decentralized_admm(p, 0.3, num_local_steps=1, local_learning_rate=3 * rate),
        variant="dlm",
    ),
    Case(
        "decentralized_admm",
        lambda p, rate: algorithms.decentralized_admm(p, 0.3, num_local_steps=3, optimizer=optax.adam(rate)),
        variant="dinno",
    ),
    Case(
        "network_lasso",
        lambda p, rate: algorithms.network_lasso(p, 3 * rate, edge_weights=world.link_weights()),
        is_random=False,
        needs_proximal=True,
        reduces_to=(
            Reduction(
                "with ties too strong to be torn it is consensus ADMM of half the penalty",
                lambda p, rate: algorithms.network_lasso(p, 1e4, penalty=6 * rate),
                lambda p, rate: algorithms.decentralized_admm(p, 3 * rate),
            ),
        ),
    ),
    Case(
        "network_lasso",
        lambda p, rate: algorithms.network_lasso(
            p, 0.5, norm="squared", num_local_steps=3, local_learning_rate=3 * rate
        ),
        variant="squared_inexact",
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
        "spsa",
        lambda p, rate: algorithms.spsa(p, optax.sgd(rate), num_directions=4, smoothing=0.5),
        network=world.complete,
        reduces_to=(
            Reduction(
                "with numbers sent as they are it is SGD on gradients estimated from losses",
                lambda p, rate: algorithms.spsa(p, optax.sgd(rate), num_directions=4, smoothing=0.5),
                lambda p, rate: algorithms.centralized_sgd(
                    zeroth_order(p, num_directions=4, smoothing=0.5), optax.sgd(rate)
                ),
                world.complete,
            ),
        ),
        shared=("missed",),  # what a node lacks of the log grows while it is away
    ),
    Case(
        "spsa",
        lambda p, rate: algorithms.spsa(
            p,
            optax.sgd(rate, 0.5),
            num_directions=3,
            smoothing=0.5,
            distribution="rademacher",
            catch_up="replay",
            copies=True,
        ),
        variant="copies",
        network=world.complete,
        shared=("missed",),
    ),
    Case(
        "dimat",
        lambda p, rate: algorithms.dimat(p, optax.sgd(rate), matching=nothing_hidden(), num_local_steps=2),
        reduces_to=(
            Reduction(
                "without hidden units and a state of the optimiser it is D-SGD",
                lambda p, rate: algorithms.dimat(p, optax.sgd(rate), matching=nothing_hidden(), num_local_steps=2),
                lambda p, rate: algorithms.dsgd(p, optax.sgd(rate), num_local_steps=2),
            ),
        ),
    ),
    *SERVER_CASES,
    *DILOCO_CASES,
    *CHOSEN_CASES,
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
