"""Right calls of what belongs to edges, and of methods and problems that tie along them."""

from __future__ import annotations

import numpy as np
from contract.arguments_parts import Call, just, problem, ring


def _on_edges() -> dict[str, object]:
    return {"network": ring(), "tree": np.ones((ring().num_edges, 2), np.float32)}


EDGES: dict[str, Call] = {"sum_at_receivers": _on_edges}
TIED: dict[str, Call] = {"network_lasso": just(problem=problem, coupling=1.0)}
CONVEX: dict[str, Call] = {"one_class_svm": just(examples=np.arange(12.0).reshape(2, 3, 2))}
