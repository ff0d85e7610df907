"""Right calls of the methods whose nodes choose in the step whom they speak to."""

from __future__ import annotations

from contract.arguments_parts import SGD, Call, just, optimized, problem, ring

from dlsim import networks


def _teleported() -> dict[str, object]:
    return {"problem": problem(), "optimizer": SGD, "topology": ring()}


def _sampled() -> dict[str, object]:
    tape = networks.sampling_tape(4, 3, sample_size=3)
    return {"problem": problem(), "optimizer": SGD, "tape": tape}


CHOSEN: dict[str, Call] = {
    "cga": optimized(),
    "jwins": optimized(),
    "model_partition": just(num_parts=2),
    "model_sample": just(fraction=0.5),
    "modest": _sampled,
    "shatter": optimized(),
    "teleportation": _teleported,
}
SAMPLING: dict[str, Call] = {
    "peer_sampling": just(out_degree=2),
    "sampling_tape": just(num_nodes=4, num_rounds=3, sample_size=3),
    "turnover": just(num_nodes=4),
}
