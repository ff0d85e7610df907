"""Packages that only a part of the project needs: the same line wherever one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType


def package(where: str, module: str, extra: str) -> ModuleType:
    """The module, or an ImportError that says how to get it: by the extra of ours that brings its package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        fix = f"Run: pip install 'dlsim[{extra}]'"
        raise ImportError(f"{where}: {name} must be installed, got {error}. {fix}", name=error.name) from None
