"""Channels: what can happen to a message on its way.  They compose with `chain`, and `error_feedback` wraps any of them.

Compressors work on a sender's whole message, all leaves side by side, in float32 or wider.  For sizes they compose too: a
sparsifier sets how many numbers are sent and adds their indices, a quantiser sets the bits of each number and adds its
scale.  What follows a sparsifier works on the numbers that are sent and leaves the others zero.
"""

from dlsim.channels.direction import to_server
from dlsim.channels.disturbances import gaussian_noise, loss
from dlsim.channels.encoding import decode, encode
from dlsim.channels.error_feedback import ef21, error_feedback
from dlsim.channels.floats import e3m0
from dlsim.channels.integers import integers, min_max
from dlsim.channels.kmeans import fedzip, kmeans
from dlsim.channels.log_quantizer import log_quantize
from dlsim.channels.low_rank import low_rank
from dlsim.channels.privacy import dp_gaussian
from dlsim.channels.quantizers import quantize, sign
from dlsim.channels.rqm import clipped_rounding, poisson_binomial, rqm
from dlsim.channels.secure_aggregation import secure_aggregation
from dlsim.channels.sparsifiers import random_k, random_sparsification, top_k

__all__ = [
    "clipped_rounding",
    "decode",
    "dp_gaussian",
    "e3m0",
    "ef21",
    "encode",
    "error_feedback",
    "fedzip",
    "gaussian_noise",
    "integers",
    "kmeans",
    "log_quantize",
    "loss",
    "low_rank",
    "min_max",
    "poisson_binomial",
    "quantize",
    "random_k",
    "random_sparsification",
    "rqm",
    "secure_aggregation",
    "sign",
    "to_server",
    "top_k",
]
