"""Right calls of the methods whose nodes choose in the step whom they speak to."""

from __future__ import annotations

from contract.arguments_parts import SGD, Call, problem, ring


def _teleported() -> dict[str, object]:
    return {"problem": problem(), "optimizer": SGD, "topology": ring()}


CHOSEN: dict[str, Call] = {"teleportation": _teleported}
