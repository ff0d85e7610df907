"""Set before jax is imported, here and in every process a test starts: eight fake devices, a lasting compile cache."""

import os
import pathlib

cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "dlsim" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

import pytest  # noqa: E402
from extras import need  # noqa: E402
from hypothesis import settings  # noqa: E402

# The same examples in every run, so that a failure comes back; compiling makes any deadline meaningless.
settings.register_profile("dlsim", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("dlsim")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.needs("package")`: what the extra `test` does not bring."""
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            need(name)


@pytest.fixture(autouse=True)
def no_lines_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over within seconds shows no progress; on a busy machine it would, between the lines that a test reads."""
    from dlsim.running import progress_bar

    monkeypatch.setattr(progress_bar, "FIRST_SECONDS", 3600.0)
    monkeypatch.setattr(progress_bar, "MOST_SECONDS", 3600.0)
