"""Right calls that `arguments_table` has no room for, by room."""

from __future__ import annotations

import numpy as np
from contract.arguments_collectives import COLLECTIVES
from contract.arguments_parts import SGD, Call, just, problem, ring

from dlsim import aggregators, problems

TEXTS = {"me": "to be or not to be, " * 4, "you": "that is the question: " * 4}


def _inner() -> dict[str, object]:
    return {"problem": problem(), "inner_optimizer": SGD}


def _spoken() -> dict[str, object]:
    return {"dataset": problems.text_dataset(TEXTS, 8), "model": problems.lstm(2)}


_AROUND = {"inner": aggregators.mean()}


def _on_edges() -> dict[str, object]:
    return {"network": ring(), "tree": np.ones((ring().num_edges, 2), np.float32)}


MORE_ROWS: dict[str, dict[str, Call]] = {
    "aggregators": {
        **dict.fromkeys(("mean_around_median", "minimum_diameter", "bulyan", "cge", "caf"), just(num_byzantine=1)),
        **dict.fromkeys(("nearest_neighbor_mixing", "adaptive_robust_clipping"), just(**_AROUND, num_byzantine=1)),
        "norm_clipping": just(**_AROUND, radius=1.0),
        "centered_clipping": just(radius=1.0),
    },
    "networks": {**COLLECTIVES, "sum_at_receivers": _on_edges},
    "algorithms": {
        **dict.fromkeys(("async_diloco", "diloco", "streaming_diloco"), _inner),
        "network_lasso": just(problem=problem, coupling=1.0),
    },
    "problems": {
        "language_model": _spoken,
        "one_class_svm": just(examples=np.arange(12.0).reshape(2, 3, 2)),
        "text_dataset": just(texts=TEXTS, context=8),
    },
}
