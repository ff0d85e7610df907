"""FedAdam, FedYogi and FedAdagrad: adaptive servers as their paper has them, without bias correction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks
from dlsim.algorithms.fedavg import Options, _federated
from dlsim.core import Algorithm, Array, Problem, PyTree

if TYPE_CHECKING:
    import optax

SOURCE = "Reddi et al., ICLR 2021"


class Moments(NamedTuple):
    first: PyTree  # [...] m
    second: PyTree  # [...] v


def fedadam(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    server_learning_rate: Any,
    *,
    beta_1: Any = 0.9,
    beta_2: Any = 0.99,
    tau: Any = 1e-3,
    **options: Any,
) -> Algorithm:
    """FedAdam: FedAvg with Adam at the server, as its paper writes it.

        Delta = sum_i p_i (x_i - x)
        m    <- beta_1 m + (1 - beta_1) Delta
        v    <- beta_2 v + (1 - beta_2) Delta^2
        x    <- x + eta m / (sqrt(v) + tau)               from m = 0, v = tau^2

    `fedavg` with `server_optimizer=optax.adam(eta, beta_1, beta_2, tau)` is another method: it divides m and v by
    1 - beta^t and starts from v = 0.

    Args:
      problem: what the nodes learn.
      client_optimizer: fresh each round (momentum starts anew), schedules count rounds; floats may be traced.
      server_learning_rate: eta above 0, may be traced, or a schedule of the round; the paper tunes it by task.
      beta_1, beta_2: in [0, 1), may be traced.
      tau: degree of adaptivity, above 0, may be traced; the paper's default.
      **options: num_local_steps, num_local_epochs, weighting, aggregator, clip_norm, as in `fedavg`; the default weights
        are by examples, as in the paper's experiments; its listing has `weighting="uniform"`.

    Source: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan, Adaptive federated optimization, ICLR 2021,
      Algorithm 2.
    """
    return _adaptive("fedadam", problem, client_optimizer, server_learning_rate, beta_1, beta_2, tau, options)


def fedyogi(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    server_learning_rate: Any,
    *,
    beta_1: Any = 0.9,
    beta_2: Any = 0.99,
    tau: Any = 1e-3,
    **options: Any,
) -> Algorithm:
    """FedYogi: `fedadam` whose second moment moves by steps that do not depend on its own size.

        v <- v - (1 - beta_2) Delta^2 sign(v - Delta^2)

    `fedavg` with `server_optimizer=optax.yogi(...)` corrects for a bias, and starts from other moments.

    Args:
      problem, client_optimizer, server_learning_rate, beta_1, beta_2, tau, **options: as in `fedadam`.

    Source: Reddi et al., Adaptive federated optimization, ICLR 2021, Algorithm 2.
    """
    return _adaptive("fedyogi", problem, client_optimizer, server_learning_rate, beta_1, beta_2, tau, options)


def fedadagrad(
    problem: Problem,
    client_optimizer: optax.GradientTransformation,
    server_learning_rate: Any,
    *,
    beta_1: Any = 0.0,
    tau: Any = 1e-3,
    **options: Any,
) -> Algorithm:
    """FedAdagrad: `fedadam` whose second moment is a sum, so that its steps shrink.

        v <- v + Delta^2

    Args:
      problem, client_optimizer, server_learning_rate, tau, **options: as in `fedadam`.
      beta_1: momentum, in [0, 1); none by default, as in the paper.

    Source: Reddi et al., Adaptive federated optimization, ICLR 2021, Algorithm 2.
    """
    return _adaptive("fedadagrad", problem, client_optimizer, server_learning_rate, beta_1, None, tau, options)


def _adaptive(
    where: str,
    problem: Problem,
    client_optimizer: Any,
    server_learning_rate: Any,
    beta_1: Any,
    beta_2: Any,
    tau: Any,
    options: dict[str, Any],
) -> Algorithm:
    import optax

    if not callable(server_learning_rate):
        checks.number(where, "server_learning_rate", server_learning_rate, 0.0, open_minimum=True)
    checks.number(where, "beta_1", beta_1, 0.0, 1.0, open_maximum=True)
    if where != "fedadagrad":
        checks.number(where, "beta_2", beta_2, 0.0, 1.0, open_maximum=True)
    checks.number(where, "tau", tau, 0.0, open_minimum=True)

    def init(params: PyTree) -> Moments:
        first = jax.tree.map(jnp.zeros_like, params)
        return Moments(first, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.asarray(tau, leaf.dtype) ** 2), params))

    def second(v: Array, g: Array) -> Array:
        square = jnp.square(g)
        if where == "fedadagrad":
            return v + square
        if where == "fedyogi":
            return v - (1 - beta_2) * square * jnp.sign(v - square)
        return beta_2 * v + (1 - beta_2) * square

    def update(gradient: PyTree, state: Moments, params: PyTree = None) -> tuple[PyTree, Moments]:
        del params
        m = jax.tree.map(lambda m, g: beta_1 * m + (1 - beta_1) * g, state.first, gradient)
        v = jax.tree.map(second, state.second, gradient)
        moved = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + tau), m, v)
        return moved, Moments(m, v)

    server = optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(server_learning_rate))
    for name in options:
        checks.one_of(where, "options", name, Options._fields)
    algorithm = _federated(problem, client_optimizer, server, Options(**options), None, where)
    return algorithm._replace(source=SOURCE)
