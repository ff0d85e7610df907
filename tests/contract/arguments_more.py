"""Right calls that `arguments_table` has no room for, by room."""

from __future__ import annotations

import numpy as np
from contract import arguments_matching as matching, arguments_sybils as sybils
from contract.arguments_chosen import CHOSEN, SAMPLING
from contract.arguments_collectives import COLLECTIVES
from contract.arguments_edges import CONVEX, EDGES, TIED
from contract.arguments_games import GAMES
from contract.arguments_judges import JUDGES, OWN_DATA
from contract.arguments_marks import MARKS
from contract.arguments_parts import SGD, Call, just, optimized, problem, ring
from contract.arguments_poison import POISONED
from contract.arguments_scenes import SCENES
from contract.arguments_trust import TRUST_GRAPHS
from contract.arguments_value import VALUE

from dlsim import aggregators, problems

TEXTS = {"me": "to be or not to be, " * 4, "you": "that is the question: " * 4}


def _inner() -> dict[str, object]:
    return {"problem": problem(), "inner_optimizer": SGD}


def _spoken() -> dict[str, object]:
    return {"dataset": problems.text_dataset(TEXTS, 8), "model": problems.lstm(2)}


_AROUND = {"inner": aggregators.mean()}

MORE_ROWS: dict[str, dict[str, Call]] = {
    "aggregators": {
        **matching.AGGREGATORS,
        **sybils.AGGREGATORS,
        **dict.fromkeys(("mean_around_median", "minimum_diameter", "bulyan", "cge", "caf"), just(num_byzantine=1)),
        **dict.fromkeys(("nearest_neighbor_mixing", "adaptive_robust_clipping"), just(**_AROUND, num_byzantine=1)),
        "bucketing": just(**_AROUND),
        "norm_clipping": just(**_AROUND, radius=1.0),
        "centered_clipping": just(radius=1.0),
        **JUDGES,
    },
    "metrics": matching.METRICS,
    "networks": {
        **COLLECTIVES,
        **SAMPLING,
        **EDGES,
        **SCENES,
        **sybils.NETWORKS,
        "given_rounds": just(num_rounds=5, rounds=[1, 3]),
        "periodic_rounds": just(num_rounds=5, period=2),
        "ramp_rounds": just(num_rounds=5, first=0.0, last=1.0),
        "random_neighbors": just(degree=0.2),
        "scheduled_links": just(share=0.5),
        "window_rounds": just(num_rounds=5, start=1),
    },
    "algorithms": {
        **CHOSEN,
        **matching.ALGORITHMS,
        **TIED,
        **dict.fromkeys(("async_diloco", "diloco", "streaming_diloco"), _inner),
        **{name: just(problem=problem, chi=2.0) for name in ("adom_plus", "msda")},
        **{name: just(problem=problem) for name in ("continuized", "dadao")},
        "dadao_rates": just(network=ring),
        "pens": optimized(),
        "token_account": just(strategy="simple"),
    },
    "problems": {
        **sybils.PROBLEMS,
        **CONVEX,
        **matching.PROBLEMS,
        **OWN_DATA,
        **POISONED,
        "least_squares": just(inputs=np.random.default_rng(0).standard_normal((4, 5, 2)), targets=np.ones((4, 5))),
        "language_model": _spoken,
        "sharpness_aware": just(problem=problem),
        "text_dataset": just(texts=TEXTS, context=8),
    },
    "trust": {**TRUST_GRAPHS, **VALUE, **MARKS, **GAMES},
}
