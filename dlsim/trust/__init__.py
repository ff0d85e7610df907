"""Whom to trust, and what it is worth: reputation, games, ledgers, rewards and marks, as Processes like any other."""

from dlsim.trust.marks.evidence import OwnershipTest, joint_capacity, log10_p_value, ownership_test, proves_ownership
from dlsim.trust.marks.features import (
    FeatureMarks,
    bit_detection,
    commitment,
    feature_marks,
    feature_watermark,
    forged_marks,
)
from dlsim.trust.marks.fingerprints import Fingerprint, boundary_fingerprint, match_rate
from dlsim.trust.marks.owned_data import Stamp, stamped, watermark_dataset
from dlsim.trust.marks.removal import free_riding, labelled_by, prune_weights, quantize_weights
from dlsim.trust.marks.triggers import (
    Triggers,
    noise_triggers,
    pattern_triggers,
    server_watermark,
    trigger_accuracy,
    trigger_watermark,
)
from dlsim.trust.mesh.anonymous_access import anonymous_access
from dlsim.trust.mesh.joining import handshake_success
from dlsim.trust.mesh.replay_windows import ReplayWindow, check_sequences, replay_windows
from dlsim.trust.mesh.ring_signatures import Ring, RingSignature, ring_sign, ring_verify, toy_keys
from dlsim.trust.mesh.routes import Routes, cheapest_routes
from dlsim.trust.mesh.wireless_mesh import wireless_mesh

__all__ = [
    "FeatureMarks",
    "Fingerprint",
    "OwnershipTest",
    "ReplayWindow",
    "Ring",
    "RingSignature",
    "Routes",
    "Stamp",
    "Triggers",
    "anonymous_access",
    "bit_detection",
    "boundary_fingerprint",
    "cheapest_routes",
    "check_sequences",
    "commitment",
    "feature_marks",
    "feature_watermark",
    "forged_marks",
    "free_riding",
    "handshake_success",
    "joint_capacity",
    "labelled_by",
    "log10_p_value",
    "match_rate",
    "noise_triggers",
    "ownership_test",
    "pattern_triggers",
    "proves_ownership",
    "prune_weights",
    "quantize_weights",
    "replay_windows",
    "ring_sign",
    "ring_verify",
    "server_watermark",
    "stamped",
    "toy_keys",
    "trigger_accuracy",
    "trigger_watermark",
    "watermark_dataset",
    "wireless_mesh",
]
