"""What paper 02's runs keep: detection by region, and who has fused with whom."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from lasso_freeway import Freeway
from ml_collections import ConfigDict

METRICS = ("auc", "detection_rate", "false_alarm_rate", "false_alarm_rate_at_90")
FUSED = 1e-2  # ||x_i - x_j|| below


def recorder(
    config: ConfigDict, worlds: list[Freeway], problem: Any, network: Any, ties: np.ndarray, params: Any
) -> Any:
    types = jnp.asarray(np.concatenate([world.types for world in worlds]))
    ids, num_worlds = network.node_ids, config.num_worlds
    senders, receivers = network.senders, network.receivers
    weights = jnp.asarray(ties, float)[receivers, senders]
    is_alike = types[senders] == types[receivers]
    of_world = receivers // config.num_regions
    sketch = np.random.default_rng(0).normal(size=(101, 8)).astype(np.float32) / np.sqrt(8)

    def by_world(values: Any) -> Any:
        return jax.ops.segment_sum(jnp.asarray(values, jnp.float32), of_world, num_worlds)

    def record(coupling: float, is_squared: bool, state: Any, info: Any) -> dict[str, Any]:
        x = params(state)
        apart = jnp.linalg.norm(x[receivers] - x[senders], axis=1)
        tie = jnp.square(apart) / 2 if is_squared else apart
        own = problem.full_gradient(jax.random.key(0), x, ids)[1].reshape(num_worlds, -1).sum(1)
        fused = apart < FUSED
        found = problem.evaluate(x, ids)
        bits = state.network.traffic.bits
        return {
            **{name: found[name] for name in METRICS},
            "objective": own + coupling * by_world(weights * tie) / 2,  # a link is two edges
            "share_fused": by_world(fused) / by_world(jnp.ones_like(apart)),
            "share_alike": by_world(fused & is_alike) / jnp.maximum(by_world(fused), 1),
            "cluster": clusters(network, fused),
            "sketch": x @ sketch,
            "primal_residual": info["primal_residual"],
            "dual_residual": info["dual_residual"],
            "bits_a_node": jnp.mean(bits.low.astype(jnp.float32) + bits.high.astype(jnp.float32) * 2.0**32),
        }

    return record


def clusters(network: Any, fused: Any) -> Any:
    """The smallest node that each is fused with by a path, int32 [N]."""

    def spread(_: Any, label: Any) -> Any:
        heard = jnp.where(fused, label[network.senders], network.num_nodes)
        return jnp.minimum(label, jax.ops.segment_min(heard, network.receivers, network.num_nodes))

    return jax.lax.fori_loop(0, 30, spread, network.node_ids)


def blank(config: ConfigDict, found: dict[str, Any]) -> dict[str, Any]:
    """What has no ties to speak of."""
    num = config.num_worlds * config.num_regions
    nothing = jnp.full(config.num_worlds, jnp.nan)
    names = ("primal_residual", "dual_residual", "bits_a_node")
    return {
        **{name: found[name] for name in METRICS},
        **dict.fromkeys(("objective", "share_fused", "share_alike"), nothing),
        "cluster": jnp.zeros(num, jnp.int32),
        "sketch": jnp.full((num, 8), jnp.nan),
        **dict.fromkeys(names, jnp.asarray(jnp.nan)),
    }
