"""Right calls that `arguments_table` has no room for, by room."""

from __future__ import annotations

from contract import arguments_matching as matching
from contract.arguments_collectives import COLLECTIVES
from contract.arguments_parts import SGD, Call, just, problem

from dlsim import problems

TEXTS = {"me": "to be or not to be, " * 4, "you": "that is the question: " * 4}


def _inner() -> dict[str, object]:
    return {"problem": problem(), "inner_optimizer": SGD}


def _spoken() -> dict[str, object]:
    return {"dataset": problems.text_dataset(TEXTS, 8), "model": problems.lstm(2)}


MORE_ROWS: dict[str, dict[str, Call]] = {
    "aggregators": matching.AGGREGATORS,
    "metrics": matching.METRICS,
    "networks": COLLECTIVES,
    "algorithms": dict.fromkeys(("async_diloco", "diloco", "streaming_diloco"), _inner) | matching.ALGORITHMS,
    "problems": {
        **matching.PROBLEMS,
        "language_model": _spoken,
        "text_dataset": just(texts=TEXTS, context=8),
    },
}
