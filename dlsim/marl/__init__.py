"""Learners for the environments, whose parameters are shared, kept apart, or go through any Network."""

from dlsim.marl.learner import Learner, train
from dlsim.marl.models import Model, feedforward, from_flax, recurrent
from dlsim.marl.ppo import ippo, mappo
from dlsim.marl.pqn import pqn_vdn
from dlsim.marl.q_learning import iql, qmix, vdn
from dlsim.marl.sharing import Sharing, gossip, independent, share_parameters

__all__ = [
    "Learner",
    "Model",
    "Sharing",
    "feedforward",
    "from_flax",
    "gossip",
    "independent",
    "ippo",
    "iql",
    "mappo",
    "pqn_vdn",
    "qmix",
    "recurrent",
    "share_parameters",
    "train",
    "vdn",
]
