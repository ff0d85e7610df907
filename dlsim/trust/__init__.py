"""Whom to trust, and what it is worth: reputation, games, ledgers, rewards and marks, as Processes like any other."""

from dlsim.trust.ledger.accounts import (
    Ledger,
    fund,
    lock,
    open_ledger,
    pay,
    release,
    reputation_step,
    slash,
    split_exactly,
    total_money,
)
from dlsim.trust.ledger.conduct import Conduct, conduct
from dlsim.trust.ledger.contract import contract_game
from dlsim.trust.ledger.staking import staked_fedavg
from dlsim.trust.rewards.market import proof_of_contribution
from dlsim.trust.rewards.outliers import OutlierRule, three_sigma
from dlsim.trust.rewards.shapley import (
    ShapleyEstimate,
    coalition_utility,
    exact_shapley,
    leave_one_out,
    sampled_leave_one_out,
    sampled_shapley,
)

__all__ = [
    "Conduct",
    "Ledger",
    "OutlierRule",
    "ShapleyEstimate",
    "coalition_utility",
    "conduct",
    "contract_game",
    "exact_shapley",
    "fund",
    "leave_one_out",
    "lock",
    "open_ledger",
    "pay",
    "proof_of_contribution",
    "release",
    "reputation_step",
    "sampled_leave_one_out",
    "sampled_shapley",
    "slash",
    "split_exactly",
    "staked_fedavg",
    "three_sigma",
    "total_money",
]
