"""Small saved runs for the tests of reports."""

from __future__ import annotations

import numpy as np
import xarray

from dlsim import networks, results
from dlsim.plotting.networks import drawing_of
from dlsim.results import Claim

# Of three of the twelve runs, as the status log words it, and one line that is none of errors.
FAULTS = [
    "star 1.0: NOT_FINITE first at step 13, node 4 (seed 0): a node diverged (lower the learning rate)",
    "star 1.0: NOT_FINITE first at step 17, node 0 (seed 1): a node diverged (lower the learning rate)",
    "ring 1.0: NOT_FINITE first at step 31, node 2 (seed 0): a node diverged (lower the learning rate)",
]
REMARK = "ring 0.1: ISOLATED_NODE first at step 2, node 5 (seed 1): a present node heard nobody in that round"
EVIL = "<script>alert(1)</script> & \"quotes\" 'x'"


def dataset(num_nodes=6):
    """Two topologies, three rates, two seeds, five steps; a metric a run, one a node, and one of other shape."""
    steps = np.arange(0, 50, 10)
    shape = (2, 3, 2, 5)
    rate = np.arange(1.0, 4.0)[None, :, None, None]
    accuracy = np.broadcast_to(steps / 50 * rate / 3 + np.arange(2.0)[None, None, :, None] / 100, shape).copy()
    accuracy[1, 2, 0, 3] = np.nan
    nodes = np.broadcast_to(np.arange(num_nodes) * 1.0, (*shape, num_nodes)) * steps[:, None]
    dims = ("topology", "learning_rate", "seed", "step")
    return xarray.Dataset(
        {
            "accuracy": (dims, accuracy),
            "bits_sent": (dims, np.broadcast_to(1e6 * steps, shape)),
            "distance": ((*dims, "distance_dim"), nodes),
            "table": ((*dims, "a", "b"), np.zeros((*shape, 2, 2))),
        },
        coords={"topology": ["ring", "star"], "learning_rate": [0.01, 0.1, 1.0], "seed": [0, 1], "step": steps},
    )


def diverged():
    """The same with three runs that diverged, as `FAULTS` says."""
    steps = np.full((2, 3, 2), -1)
    steps[1, 2], steps[0, 2, 0] = (13, 17), 31
    data = dataset().assign(diverged_step=(("topology", "learning_rate", "seed"), steps))
    return data.assign(accuracy=data.accuracy.where((data.diverged_step < 0) | (data.step <= data.diverged_step)))


def save(
    folder,
    name="07_small",
    holds=(True, False, None),
    title="A small paper (07): what is it?",
    server="",
    data=None,
    **more,
):
    """A finished run on disk."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2))
    figure.add_subplot().plot([0, 1])
    claims = [Claim(f"claim {i} of {name}", "somewhere", "1 < 2", f"{i}", held) for i, held in enumerate(holds)]
    provenance = {
        "experiment": name,
        "mode": "default",
        "about": f"{title}\n\nSomebody, 2020.  Command: `dlsim run`\n\n    a  table\n    of it\n\nDepartures: less of it.",
        "command": f"dlsim run {name}.py",
        "finished": "2026-01-01T00:00:00+00:00",
        "file": f"{name}.py",
        "file_sha256": "0" * 64,
        "sources": ["A source"],
        "ok": True,
        "timing": {"compile_seconds": 1.0, "run_seconds": 2.0},
        "runs": [{"seeds": [0, 1], "label": "ring"}],
        **results.describe(),
        **more,
    }
    drawings = {
        "ring of 6": drawing_of(networks.ring(6), {"topology": "ring"}),
        "star of 6": drawing_of(networks.star(6), {"topology": "star"}),
    }
    if server:
        drawings[server] = drawing_of(networks.complete(5), has_server=True)
    config = {"learning_rate": [0.01, 0.1, 1.0], "note": EVIL}
    return results.save(folder, dataset() if data is None else data, config, provenance, claims, figure, drawings)
