"""Anonymous access: guesses are right once in n, fresh rings intersect, fixed ones do not."""

from __future__ import annotations

import math

import pytest

import dlsim
from dlsim import trust


def ran(num_users, size, rings, num_steps):
    process = trust.anonymous_access(num_users, size, rings=rings)
    return dlsim.simulate(process, seed=0, num_steps=num_steps, record=dlsim.Record(every=1), progress=False).results


@pytest.mark.parametrize("size", [2, 8])
def test_a_guess_is_right_once_in_n(size):
    found = ran(40, size, "fresh", 15).isel(step=-1)
    assert float(found.guess_rate) == pytest.approx(1 / size, abs=3 * math.sqrt((1 - 1 / size) / size / 600))
    assert float(found.verified) == 1.0 and float(found.forged) == 0.0
    assert float(found.signature_bytes) == (size + 1) * 128 + 4 * size


def test_fresh_rings_intersect_as_soon_as_the_formula_says_and_fixed_ones_never():
    fresh, fixed = ran(64, 8, "fresh", 10), ran(64, 8, "fixed", 10)
    # After r requests each of U-1 others is left with probability ((n-1)/(U-1))^r.
    for r in (1, 2, 3):
        left = 63 * (7 / 63) ** r
        assert float(fresh.num_candidates[r]) - 1 == pytest.approx(left, abs=3 * math.sqrt(left / 64) + 1e-6)
    assert float(fresh.exposed[-1]) == 1.0
    about = math.log(64) / math.log(64 / 8)
    assert about - 1 < float(fresh.requests_to_expose[-1]) < about + 1
    assert (fixed.num_candidates[1:] == 8).all() and (fixed.exposed == 0).all()


def test_a_pseudonym_is_known_at_once():
    found = ran(20, 8, "pseudonym", 2)
    assert float(found.guess_rate[-1]) == 1.0 and float(found.exposed[1]) == 1.0


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ((10, 1), "ring_size must be 2 or more, got 1"),
        ((10, 11), r"ring_size must be an integer in \[2, 10\], got 11"),
        ((86, 4), r"num_users must be an integer in \[2, 85\], got 86"),
    ],
)
def test_bad_rings_are_refused(given, line):
    with pytest.raises(ValueError, match=f"anonymous_access: {line}"):
        trust.anonymous_access(*given)
