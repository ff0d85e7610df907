"""Right calls of ledgers, contracts and rewards in `dlsim.trust`."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from contract.arguments_parts import KEY, SGD, Call, data, examples, just

from dlsim import core, problems, trust

ACCOUNTS = np.array([4, 5, 6])
SOME = np.array([True, False, True])


@functools.cache
def _books() -> trust.Ledger:
    return trust.open_ledger(ACCOUNTS, pool=9)


@functools.cache
def _scored() -> core.Problem:
    parts = problems.partition(data(), 4, problems.local_test())
    return problems.supervised("softmax", data(), parts, batch_size=2)


def _utility() -> object:
    return lambda masks: jnp.sum(masks, axis=1)


def _played(**more: object) -> Call:
    return lambda: {"utility": _utility(), "num_players": 3, **more}


VALUE: dict[str, Call] = {
    "coalition_utility": lambda: {
        "evaluate": lambda models: jnp.sum(models, axis=1),
        "models": np.ones((3, 2), np.float32),
        "weights": np.ones(3),
        "without": np.zeros(2, np.float32),
    },
    "conduct": just(num_nodes=4),
    "contract_game": just(num_trainers=3),
    "exact_shapley": _played(),
    "fund": lambda: {"ledger": _books(), "who": SOME, "amount": 3},
    "krum_outliers": just(num_removed=1),
    "leave_one_out": _played(),
    "lock": lambda: {"ledger": _books(), "who": SOME, "amount": 3},
    "open_ledger": just(balances=ACCOUNTS),
    "pay": lambda: {"ledger": _books(), "amount": 3, "shares": np.ones(3)},
    "proof_of_contribution": lambda: {"problem": examples(), "client_optimizer": SGD, "judge": examples()},
    "release": lambda: {"ledger": _books(), "who": SOME},
    "reputation_step": just(reputation=np.array([0.5, 1.0, 0.0]), has_passed=SOME),
    "sampled_leave_one_out": _played(key=KEY),
    "sampled_shapley": _played(key=KEY, num_permutations=6),
    "slash": lambda: {"ledger": _books(), "who": SOME, "amount": 3},
    "split_exactly": just(amount=7, shares=np.ones(3)),
    "staked_fedavg": lambda: {"problem": _scored(), "client_optimizer": SGD},
    "total_money": lambda: {"ledger": _books()},
}
