"""Tests that need packages beyond the extra `test`: skipped without them, unless everything must be there."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def need(name: str) -> Any:
    """The module `name`; without it a skip, or an error where `DLSIM_REQUIRE_EXTRAS` is set."""
    if os.environ.get("DLSIM_REQUIRE_EXTRAS"):
        return importlib.import_module(name)
    return pytest.importorskip(name)
