"""What the nodes do: one learning method a file, named as the field names it."""

from dlsim.algorithms.a2cid2 import A2CiD2Constants, a2cid2, a2cid2_constants
from dlsim.algorithms.ad_psgd import ad_psgd
from dlsim.algorithms.admm_tracking_gradient import admm_tracking_gradient
from dlsim.algorithms.adom_plus import adom_plus
from dlsim.algorithms.anarchic import afa_cd, afa_cs
from dlsim.algorithms.centralized_sgd import centralized_sgd
from dlsim.algorithms.cga import cga
from dlsim.algorithms.choco_sgd import choco_sgd
from dlsim.algorithms.continuized import continuized
from dlsim.algorithms.dadao import dadao
from dlsim.algorithms.decentralized_admm import decentralized_admm
from dlsim.algorithms.diloco import async_diloco, diloco
from dlsim.algorithms.dimat import dimat
from dlsim.algorithms.dsgd import dsgd
from dlsim.algorithms.edge_rates import dadao_rates
from dlsim.algorithms.estimators import saga, sarah, svrg
from dlsim.algorithms.exact_diffusion import d2, exact_diffusion
from dlsim.algorithms.extra import extra
from dlsim.algorithms.fedasync import fedasync
from dlsim.algorithms.fedavg import fedavg
from dlsim.algorithms.fedbuff import fedbuff
from dlsim.algorithms.fedcompass import fedcompass
from dlsim.algorithms.federated_arrivals import federated_arrivals
from dlsim.algorithms.fedfix import fedfix, synchronous_fedavg
from dlsim.algorithms.fedopt import fedadagrad, fedadam, fedyogi
from dlsim.algorithms.fedprox import fedprox
from dlsim.algorithms.gossip import gossip
from dlsim.algorithms.gossip_learning import gossip_learning
from dlsim.algorithms.gradient_tracking import gradient_tracking
from dlsim.algorithms.isolated_training import isolated_training
from dlsim.algorithms.jwins import jwins
from dlsim.algorithms.k_gt import k_gt
from dlsim.algorithms.led import led
from dlsim.algorithms.local import LocalUpdates, local_events, local_updates
from dlsim.algorithms.lt_admm import lt_admm
from dlsim.algorithms.model_parts import ModelParts, model_partition, model_sample
from dlsim.algorithms.modest import modest
from dlsim.algorithms.msda import msda
from dlsim.algorithms.network_lasso import network_lasso
from dlsim.algorithms.nids import nids
from dlsim.algorithms.pens import pens
from dlsim.algorithms.power_sgd import power_sgd
from dlsim.algorithms.proxskip import proxskip
from dlsim.algorithms.push_sum import push_sum
from dlsim.algorithms.quasi_global_momentum import quasi_global_momentum
from dlsim.algorithms.randomized_gossip import randomized_gossip
from dlsim.algorithms.relay_sgd import relay_sgd
from dlsim.algorithms.scaffold import scaffold
from dlsim.algorithms.shatter import shatter
from dlsim.algorithms.spsa import SPSALog, spsa, spsa_replay
from dlsim.algorithms.stochastic_gradient_push import stochastic_gradient_push
from dlsim.algorithms.streaming_diloco import streaming_diloco
from dlsim.algorithms.swarm_sgd import swarm_sgd
from dlsim.algorithms.teleportation import teleportation
from dlsim.algorithms.token_account import TokenAccount, token_account
from dlsim.algorithms.wang_elia import wang_elia

__all__ = [
    "A2CiD2Constants",
    "LocalUpdates",
    "ModelParts",
    "SPSALog",
    "TokenAccount",
    "a2cid2",
    "a2cid2_constants",
    "ad_psgd",
    "admm_tracking_gradient",
    "adom_plus",
    "afa_cd",
    "afa_cs",
    "async_diloco",
    "centralized_sgd",
    "cga",
    "choco_sgd",
    "continuized",
    "d2",
    "dadao",
    "dadao_rates",
    "decentralized_admm",
    "diloco",
    "dimat",
    "dsgd",
    "exact_diffusion",
    "extra",
    "fedadagrad",
    "fedadam",
    "fedasync",
    "fedavg",
    "fedbuff",
    "fedcompass",
    "federated_arrivals",
    "fedfix",
    "fedprox",
    "fedyogi",
    "gossip",
    "gossip_learning",
    "gradient_tracking",
    "isolated_training",
    "jwins",
    "k_gt",
    "led",
    "local_events",
    "local_updates",
    "lt_admm",
    "model_partition",
    "model_sample",
    "modest",
    "msda",
    "network_lasso",
    "nids",
    "pens",
    "power_sgd",
    "proxskip",
    "push_sum",
    "quasi_global_momentum",
    "randomized_gossip",
    "relay_sgd",
    "saga",
    "sarah",
    "scaffold",
    "shatter",
    "spsa",
    "spsa_replay",
    "stochastic_gradient_push",
    "streaming_diloco",
    "svrg",
    "swarm_sgd",
    "synchronous_fedavg",
    "teleportation",
    "token_account",
    "wang_elia",
]
