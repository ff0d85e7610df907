"""Run folders: what a finished run keeps on disk, written whole or not at all, and read back."""

from dlsim.results.digests import is_sealed
from dlsim.results.json_files import plain, read_json, write_json
from dlsim.results.provenance import FORMAT_VERSION, describe
from dlsim.results.run_folder import (
    FILES,
    PARTIAL,
    SWEEP,
    Claim,
    SavedRun,
    check_folder,
    difference,
    folder_of,
    identify,
    load,
    locked,
    save,
)

__all__ = [
    "FILES",
    "FORMAT_VERSION",
    "PARTIAL",
    "SWEEP",
    "Claim",
    "SavedRun",
    "check_folder",
    "describe",
    "difference",
    "folder_of",
    "identify",
    "is_sealed",
    "load",
    "locked",
    "plain",
    "read_json",
    "save",
    "write_json",
]
