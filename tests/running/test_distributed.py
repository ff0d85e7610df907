"""Two real processes, each with half of the nodes: the results of one, and what only several can get wrong."""

from __future__ import annotations

import json
import pathlib
import shutil
import socket
import subprocess
import sys

import distributed_run
import numpy as np
import pytest
from patience import PATIENCE
from toys import environment


def together(what: str, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """What two processes on loopback find, each with one device."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "running.distributed_run", what, str(port), "2"]
    fast = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # to compile
    world = environment(JAX_PLATFORMS="cpu", XLA_FLAGS=fast)
    both = []
    for this in range(2):
        log = (folder / f"{what}_{this}.log").open("w")
        given = [*words, str(this), str(folder)]
        both.append(subprocess.Popen(given, env=world, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [one.wait(timeout=PATIENCE) for one in both]
    finally:
        for one in both:
            one.kill()
    assert codes == [0, 0], "\n".join((folder / f"{what}_{this}.log").read_text()[-2500:] for this in range(2))
    with np.load(folder / f"{what}.npz") as found:
        return dict(found)


def same(ours: dict[str, np.ndarray], part: str, theirs: dict[str, np.ndarray]) -> None:
    """Whole numbers, so draws and traffic, to the bit; the rest to rounding."""
    ours = {name.removeprefix(f"{part}/"): value for name, value in ours.items() if name.startswith(f"{part}/")}
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=f"{part}: {name}")
        else:
            np.testing.assert_array_equal(ours[name], value, err_msg=f"{part}: {name}")


@pytest.mark.slow
def test_two_processes_are_as_good_as_one_and_resume(tmp_path: pathlib.Path) -> None:
    found = together("first", tmp_path)
    whole = distributed_run.run(distributed_run.process(), distributed_run.STEPS)
    # Chunks of the walk are as long as half a second allows, by clocks that differ: the processes must agree on them.
    walked = distributed_run.run(distributed_run.long_walk(), distributed_run.LONG, 40)
    same(found, "whole", whole)
    same(found, "walk", walked)
    for this in range(2):
        lines = json.loads((tmp_path / f"refused_{this}.json").read_text())
        assert lines["part"].startswith(
            "simulate: mesh must be over devices of all 2 processes, got 1 devices, none of"
        )
        assert lines["alone"].startswith(
            "simulate: checkpoint_dir must be of one run, got given to a run that each of 2"
        )
        assert lines["again"].startswith("simulate: checkpoint_dir must be empty for a fresh run, got ")

    shutil.copytree(tmp_path / "half", tmp_path / "damaged")
    for path in (tmp_path / "damaged" / str(distributed_run.STEPS // 2)).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert max(int(p.name) for p in (tmp_path / "stopped").iterdir() if p.name.isdigit()) < distributed_run.LONG
    found = together("second", tmp_path)
    same(found, "whole", whole)
    same(found, "walk", walked)
    same(found, "damaged", whole)
    assert "is damaged" in (tmp_path / "second_0.log").read_text()
    assert "is damaged" not in (tmp_path / "second_1.log").read_text()


LISTENING = """
import dlsim, sys
dlsim.meshes.start_distributed(f"{sys.argv[1]}:{sys.argv[2]}", 1, 0)
tables = [open(f"/proc/net/{name}").read() for name in ("tcp", "tcp6")]
rows = [line.split() for table in tables for line in table.splitlines()[1:]]
print(sorted({row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == int(sys.argv[2])}))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/net/tcp").exists(), reason="reads what Linux listens on")
@pytest.mark.parametrize("named", [None, "0.0.0.0"])
def test_process_0_listens_on_the_address_given_and_nowhere_else(named: str | None) -> None:
    """127.0.0.1 as the kernel writes it, in IPv4 or mapped into IPv6; everywhere only for one who says so."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    said = {} if named is None else {"JAX_COORDINATOR_BIND_ADDRESS": f"{named}:{port}"}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING, "127.0.0.1", port],
        env=environment(JAX_PLATFORMS="cpu", **said),
        capture_output=True,
        text=True,
        timeout=120,
    )
    local, everywhere = (
        {"0100007F", "0000000000000000FFFF00000100007F"},
        {"00000000", "0" * 32, "0" * 16 + "FFFF" + "0" * 12},
    )
    listened = set(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))
    assert listened and listened <= (local if named is None else everywhere), done.stderr[-1000:]
