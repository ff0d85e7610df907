"""Run folders: what a finished run keeps on disk, written whole or not at all, and read back."""

from dlsim.results.run_folder import (
    FILES,
    FORMAT_VERSION,
    PARTIAL,
    SWEEP,
    Claim,
    SavedRun,
    check_folder,
    describe,
    difference,
    identify,
    load,
    plain,
    read_json,
    save,
    write_json,
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
    "identify",
    "load",
    "plain",
    "read_json",
    "save",
    "write_json",
]
