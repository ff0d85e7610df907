"""Right calls of wireless meshes and marks of ownership in `dlsim.trust`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from contract.arguments_parts import KEY, SGD, Call, data, just, parts, ring

import dlsim
from dlsim import core, problems, trust

HALF = np.array([0.1, 0.2, 0.3])


@functools.cache
def _net() -> core.Problem:
    return problems.supervised(problems.mlp((3,)), data(), parts(), batch_size=2)


@functools.cache
def _images() -> problems.Dataset:
    return problems.dataset(np.arange(144.0).reshape(9, 4, 4), np.arange(9) % 3)


@functools.cache
def _one() -> object:
    return _net().init(jax.random.key(0))


@functools.cache
def _models() -> object:
    return jax.tree.map(lambda leaf: leaf[None], _one())


@functools.cache
def _marks() -> trust.FeatureMarks:
    return trust.feature_marks(_net(), 1, "Dense_0/bias")


@functools.cache
def _lock() -> trust.ModelLock:
    return trust.model_lock(_net(), "Dense_0/bias")


@functools.cache
def _points() -> np.ndarray:
    return problems.shared_inputs(data(), 5, part="test")


@functools.cache
def _print() -> trust.Fingerprint:
    return trust.Fingerprint(jnp.asarray(_points()), jnp.zeros(5, jnp.int32))


@functools.cache
def _triggers() -> trust.Triggers:
    return trust.noise_triggers(_net(), 2)


@functools.cache
def _keys() -> trust.Ring:
    return trust.toy_keys(np.array([[47, 59], [53, 71]]))


@functools.cache
def _signature() -> trust.RingSignature:
    return trust.ring_sign(KEY, 7, _keys(), 0)


MARKS: dict[str, Call] = {
    "bit_detection": just(marks=_marks, params=_models),
    "boundary_fingerprint": just(problem=_net, params=_one, inputs=_points, num_pairs=2),
    "cheapest_routes": just(
        senders=jnp.array([1, 2, 3]), receivers=jnp.array([0, 1, 2]), costs=jnp.ones(3), is_gateway=jnp.arange(4) == 0
    ),
    "check_sequences": lambda: {"window": trust.replay_windows(3), "sequence": jnp.arange(3, dtype=jnp.uint32)},
    "commitment": just(marks=_marks),
    "feature_marks": just(problem=_net, num_bits=1, carrier="Dense_0/bias"),
    "feature_watermark": just(problem=_net, marks=_marks),
    "forged_marks": just(marks=_marks, params=_one),
    "free_riding": just(problem=_net, riders=np.array([True, False, False, False])),
    "handshake_success": just(loss=0.1, retries=3, hops=2),
    "joint_capacity": just(num_bits=3, dimension=2),
    "labelled_by": just(dataset=data, problem=_net, params=_one),
    "lock_weights": just(lock=_lock, params=_one),
    "locked_problem": just(problem=_net, lock=_lock),
    "log10_p_value": just(matches=3, num=4),
    "match_rate": just(problem=_net, fingerprint=_print, params=_models),
    "model_lock": just(problem=_net, carrier="Dense_0/bias"),
    "noise_triggers": just(problem=_net, num=2),
    "ownership_test": just(before=HALF, after=HALF),
    "pattern_triggers": just(problem=_net, num_per_class=1),
    "proves_ownership": just(matches=3, num=4),
    "prune_weights": just(params=_one, fraction=0.5),
    "quantize_weights": just(params=_one, bits=4),
    "replay_windows": just(num=3),
    "ring_sign": just(key=KEY, message=7, ring=_keys, signer=0),
    "ring_verify": just(message=7, signature=_signature, ring=_keys),
    "server_watermark": lambda: {
        "algorithm": dlsim.algorithms.fedavg(_net(), SGD),
        "problem": _net(),
        "triggers": trust.pattern_triggers(_net(), 1),
        "optimizer": SGD,
    },
    "stamped": lambda: {"images": np.ones((2, 4, 4)), "stamp": trust.Stamp(1, 2.0, 0)},
    "toy_keys": just(primes=np.array([[47, 59], [53, 71]])),
    "trigger_accuracy": just(problem=_net, triggers=_triggers, params=_models),
    "trigger_watermark": just(problem=_net, triggers=_triggers),
    "watermark_dataset": just(dataset=_images, fraction=0.5),
    "wireless_mesh": just(network=ring),
}
