"""Asynchronous and server-side methods and the aggregators with 64-bit numbers: they run, and give the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from contract.wide_clocks import NARROW, processes, row
from toys import environment

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
    found = wide[name]
    assert "error" not in found, found["error"]
    if name != "randomized_gossip":  # whose values are given as float32
        assert found["dtype"] == "float64"
    assert found["counted"][0] > 0


@pytest.mark.parametrize("name", NARROW)
def test_draws_and_counts_do_not_depend_on_the_width_of_numbers(name: str, wide: dict[str, dict[str, Any]]) -> None:
    narrow = row(PROCESSES[name]())
    assert narrow["dtype"] == "float32" and narrow["counted"] == wide[name]["counted"]
    np.testing.assert_allclose(narrow["models"], wide[name]["models"], rtol=2e-3, atol=2e-4)
