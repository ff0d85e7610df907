"""Channels: what can happen to a message on its way.  They compose with `chain`, and `error_feedback` wraps any of them.

Compressors work on a sender's whole message, all leaves side by side, in float32 or wider.  For sizes they compose too: a
sparsifier sets how many numbers are sent and adds their indices, a quantiser sets the bits of each number and adds its
scale.  What follows a sparsifier works on the numbers that are sent and leaves the others zero.
"""

from dlsim.channels.disturbances import gaussian_noise, loss
from dlsim.channels.error_feedback import error_feedback
from dlsim.channels.floats import e3m0
from dlsim.channels.quantizers import quantize, sign
from dlsim.channels.sparsifiers import random_k, random_sparsification, top_k

__all__ = [
    "e3m0",
    "error_feedback",
    "gaussian_noise",
    "loss",
    "quantize",
    "random_k",
    "random_sparsification",
    "sign",
    "top_k",
]
