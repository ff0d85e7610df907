"""Asynchronous and server-side methods and the aggregators with 64-bit numbers: they run, and give the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import environment
from contract.wide_clocks import processes, row

# What is made of words of random bits, and not of numbers, is the same at both widths.
PROCESSES = processes()


@pytest.fixture(scope="module")
def wide() -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "contract.wide_clocks"],
        capture_output=True,
        text=True,
        timeout=1200,
        env=environment(JAX_ENABLE_X64="1"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", PROCESSES)
def test_64_bit_numbers(name: str, wide: dict[str, dict[str, Any]]) -> None:
    found, narrow = wide[name], row(PROCESSES[name]())
    assert "error" not in found, found["error"]
    if not name.startswith("randomized_gossip"):  # whose values are given as float32
        assert found["dtype"] == "float64"
    assert found["counted"] == narrow["counted"]
    np.testing.assert_allclose(narrow["models"], found["models"], rtol=2e-3, atol=2e-4)
