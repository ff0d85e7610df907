"""DecentralizePy: D-PSGD with one operating-system process a node and models sent over loopback TCP.

It is not on a package registry: give its source tree.  Runs in the environment of `PEER.install`:
python decentralizepy_.py --model mlp --nodes 16 --checkout decentralizepy-main
"""

from __future__ import annotations

import importlib
import json
import logging
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import driver
import workload

SETTING = "PEERS_DECENTRALIZEPY"  # the workload, for the processes of the nodes
ROUNDS_WARM = 1

PEER = driver.Peer(
    name="decentralizepy",
    install=(
        "python3.11 -m venv decentralizepy",
        "decentralizepy/bin/pip install 'torch==2.13.0' matplotlib networkx pyzmq jsonlines localconfig pandas scikit-learn "
        "lz4 smallworld PyWavelets crudini fpzip pillow",
        "git clone https://github.com/sacs-epfl/decentralizepy dpy-main  # --checkout decentralizepy=dpy-main",
    ),
    kinds={"dsgd": "D-PSGD, 4-regular, process a node"},
    server=frozenset(),
    checkout=frozenset({"dsgd"}),
    most_nodes=200,
    unequal="DecentralizePy: a process a node (so at most 200 nodes here) on all cores, forks that share what was imported "
    "before; models are pickled and sent over loopback TCP, and every node writes its results to disk every round, as it "
    "always does.  Rounds are timed inside one run, from the last node's second round to the last node's last.  Its "
    "processes keep the load up for a while after the run.",
)


def prepare(asked: driver.Workload) -> driver.Ready:
    commit = driver.use_checkout(asked, "src")
    import numpy as np
    import torch
    from decentralizepy.graphs.Graph import Graph
    from decentralizepy.mappings.Linear import Linear

    folder = tempfile.TemporaryDirectory(prefix="peers-decentralizepy-")
    root, number = Path(folder.name), asked.num_nodes
    (root / "addresses.json").write_text(json.dumps({"0": "127.0.0.1"}))
    edges = "".join(f"{a} {b}\n" for a, b in workload.graph(number).edges)
    (root / "graph.edges").write_text(f"{number}\n{edges}")
    graph = Graph()
    graph.read_graph_from_file(str(root / "graph.edges"), "edges")
    held = asked.shards()
    np.save(root / "inputs.npy", held.inputs)
    np.save(root / "labels.npy", held.labels)
    os.environ[SETTING] = json.dumps({"model": asked.model, "folder": str(root)})
    config = _config(root)

    # What the nodes import is imported here, once: their processes are forks, as its own scripts make them.
    for module in ("node.DPSGDNode", "training.Training", "sharing.Sharing", "communication.TCP", "models.Model"):
        importlib.import_module(f"decentralizepy.{module}")
    torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], lr=1.0
    ).step()  # PyTorch imports much at an optimiser's making

    def advance(rounds: int) -> float:
        iterations = ROUNDS_WARM + rounds + 1  # the start of the one after the last says when the last was done
        context = multiprocessing.get_context("fork")
        arguments = [(rank, 0, Linear(1, number), graph, config, iterations, str(root)) for rank in range(number)]
        processes = [context.Process(target=_node, args=each) for each in arguments]
        for process in processes:
            process.start()
        while any(process.exitcode is None for process in processes):
            if failed := [process.exitcode for process in processes if process.exitcode]:
                for process in processes:  # the others would wait for its messages for ever
                    process.terminate()
                raise RuntimeError(f"a node ended with {failed[0]}; its log ends with: {_logs(root)}")
            time.sleep(0.2)
        starts = [json.loads((root / f"{rank}_starts.json").read_text()) for rank in range(number)]
        return max(each[ROUNDS_WARM + rounds] for each in starts) - max(each[ROUNDS_WARM] for each in starts)

    version = f"decentralizepy {commit}, {driver.version('torch')}"
    return driver.Ready(version, advance, close=folder.cleanup, fresh=True)


def _config(root: Path) -> dict[str, dict[str, Any]]:
    """What its configuration files say, with this file's data set, model and trainer."""
    here = Path(__file__).stem
    return {
        "DATASET": {"dataset_package": here, "dataset_class": "Shards", "model_class": "make_model"},
        "OPTIMIZER_PARAMS": {
            "optimizer_package": "torch.optim",
            "optimizer_class": "SGD",
            "lr": workload.LEARNING_RATE,
        },
        "TRAIN_PARAMS": {
            "training_package": here,
            "training_class": "make_trainer",
            "rounds": 1,
            "full_epochs": False,
            "batch_size": workload.BATCH,
            "shuffle": True,
            "loss_package": "torch.nn",
            "loss_class": "CrossEntropyLoss",
        },
        "COMMUNICATION": {
            "comm_package": "decentralizepy.communication.TCP",
            "comm_class": "TCP",
            "addresses_filepath": str(root / "addresses.json"),
            "offset": 20_000 + os.getpid() % 100 * 2 * PEER.most_nodes,  # ports of two runs shall not meet
        },
        "SHARING": {"sharing_package": "decentralizepy.sharing.Sharing", "sharing_class": "Sharing"},
    }


def _logs(root: Path) -> str:
    """The last line of a node's log that says something."""
    lines = [line for path in root.glob("*.log") for line in path.read_text().splitlines()[-1:]]
    return lines[0] if lines else "nothing"


def _node(rank: int, machine: int, mapping: Any, graph: Any, config: dict, iterations: int, root: str) -> None:
    """One node's process: its constructor runs all rounds."""
    from decentralizepy.node.DPSGDNode import DPSGDNode

    never = iterations + 1  # no evaluation
    DPSGDNode(rank, machine, mapping, graph, config, iterations, root, root, logging.WARNING, never, never, 0)


class Shards:
    """The part of its Dataset that a node uses: loaders of its own examples, and no tests."""

    __testing__ = __validating__ = False

    def __init__(self, rank: int, machine: int, mapping: Any, **_: Any) -> None:
        import numpy as np
        import torch

        folder, node = Path(json.loads(os.environ[SETTING])["folder"]), mapping.get_uid(rank, machine)
        held = [np.load(folder / f"{name}.npy", mmap_mode="r")[node].copy() for name in ("inputs", "labels")]
        self.held = torch.utils.data.TensorDataset(*map(torch.from_numpy, held))

    def get_trainset(self, batch_size: int = 1, shuffle: bool = False) -> Any:
        import torch

        return torch.utils.data.DataLoader(self.held, batch_size=batch_size, shuffle=shuffle)

    def get_testset(self) -> None:
        return None


def make_model() -> Any:
    """The workload's model as one of its Models."""
    from decentralizepy.models.Model import Model

    class Net(Model):
        def __init__(self) -> None:
            super().__init__()
            self.layers = driver.torch_layers(json.loads(os.environ[SETTING])["model"])

        def forward(self, inputs: Any) -> Any:
            return self.layers(inputs)

    return Net()


def make_trainer(rank: int, *arguments: Any, **options: Any) -> Any:
    """Its trainer, which also notes when each round began (on a clock that processes share)."""
    from decentralizepy.training.Training import Training

    class Timed(Training):
        def __init__(self) -> None:
            super().__init__(rank, *arguments, **options)
            self.starts: list[float] = []

        def train(self, dataset: Any) -> None:
            self.starts.append(time.monotonic())
            (Path(self.log_dir) / f"{rank}_starts.json").write_text(json.dumps(self.starts))
            super().train(dataset)

    return Timed()


if __name__ == "__main__":
    driver.main(PEER, prepare)
