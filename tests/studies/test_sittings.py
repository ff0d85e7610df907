"""The time of a run over all that worked at it: resumed, extended, interrupted, of earlier versions."""

from __future__ import annotations

import json

import pytest

from dlsim.studies import sittings
from dlsim.studies.sittings import JOURNAL, Sitting


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""
    now = [1000.0]
    monkeypatch.setattr(sittings.time, "monotonic", lambda: now[0])
    return now


def test_seconds_of_all_sittings_add_up(tmp_path, clock):
    with pytest.raises(KeyboardInterrupt), Sitting(tmp_path, False, began=990.0):
        clock[0] += 20  # stopped after 30 seconds, ten of which went by before
        raise KeyboardInterrupt
    clock[0] += 3600  # nobody works
    with Sitting(tmp_path, True) as second:
        clock[0] += 5
        assert second.timing == {"all_seconds": 35.0, "num_sittings": 2}
    with Sitting(tmp_path, True) as third:
        assert third.timing == {"all_seconds": 35.0, "num_sittings": 3}
    assert json.loads((tmp_path / JOURNAL).read_text()) == [30.0, 5.0, 0.0]


def test_what_nobody_wrote_down_is_not_guessed(tmp_path, clock):
    """Work of a version without a journal, or a damaged one."""
    unknown = {"all_seconds": None, "num_sittings": None}
    with Sitting(tmp_path, True) as one:
        assert one.timing == unknown
    assert not (tmp_path / JOURNAL).exists()
    for text in ("{", "[1, -1]", '["a"]', "{}"):
        (tmp_path / JOURNAL).write_text(text)
        assert Sitting(tmp_path, True).timing == unknown


def test_a_folder_that_is_gone_is_no_error(tmp_path, clock):
    with Sitting(tmp_path / "gone", False) as one:
        clock[0] += 2
        assert one.timing == {"all_seconds": 2.0, "num_sittings": 1}
    assert not (tmp_path / "gone").exists()
