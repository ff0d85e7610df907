"""Flower: its Message API and FedAvg in the Simulation Runtime, on Ray workers of one core each.

Runs in the environment of `PEER.install`: python flower_.py --model mlp --nodes 100
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import driver

PEER = driver.Peer(
    name="flower",
    install=(
        "python3.11 -m venv flower",
        "flower/bin/pip install 'flwr[simulation]==1.41.0' 'ray==2.55.1' 'torch==2.13.0'",
    ),
    kinds={"fedavg": "FedAvg, Ray"},
    server=frozenset({"fedavg"}),
    unequal="Flower: one global model at a server, not N models; the clients run in Ray workers, one a core, and every model "
    "travels as a message.  Its client reads its examples from a memory-mapped file.  Ray's start, and the first "
    "round, are outside the timed part; its workers keep the load up for a while after the run.",
)


def prepare(asked: driver.Workload) -> driver.Ready:
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0")
    import logging

    import numpy as np
    import torch
    import workload
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    logging.getLogger("flwr").setLevel(logging.ERROR)
    held = asked.shards()
    folder = Path(tempfile.mkdtemp(prefix="peers-flower-"))
    np.save(folder / "inputs.npy", held.inputs)
    np.save(folder / "labels.npy", held.labels)
    sizes, batch, rate = workload.widths(asked.model), workload.BATCH, workload.LEARNING_RATE
    client = ClientApp()

    # The workers do not import this file, so what they need is named here and nothing else.
    @client.train()
    def train(message: Message, context: Context) -> Message:
        import itertools

        import numpy as np
        import torch

        torch.set_num_threads(1)
        node = int(context.node_config["partition-id"])
        inputs = np.load(folder / "inputs.npy", mmap_mode="r")[node]
        labels = np.load(folder / "labels.npy", mmap_mode="r")[node]
        rows = np.random.default_rng().permutation(len(labels))[:batch]
        parts = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            parts += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
        net = torch.nn.Sequential(*parts[:-1])
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(net.parameters(), lr=rate)
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(inputs[rows])), torch.from_numpy(labels[rows]))
        loss.backward()
        optimizer.step()
        sent = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(labels)})}
        return Message(content=RecordDict(sent), reply_to=message)

    torch.manual_seed(0)
    start = ArrayRecord(driver.torch_layers(asked.model).state_dict())
    advance, updates, stop = _serve(client, start, ConfigRecord(), asked.num_nodes)

    def close() -> None:
        stop()
        shutil.rmtree(folder, ignore_errors=True)

    return driver.Ready(driver.version("flwr", "ray", "torch"), advance, updates, close)


def _serve(client: Any, arrays: Any, config: Any, num_nodes: int) -> tuple[Any, Any, Any]:
    """A simulation in a thread that plays as many rounds as it is told, the steps its clients did, and what stops it."""
    import queue
    import threading

    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    todo: queue.Queue[int] = queue.Queue()
    done: queue.Queue[BaseException | None] = queue.Queue()
    server, replied = ServerApp(), 0

    class Counting(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            nonlocal replied
            replies = list(replies)
            replied += sum(not reply.has_error() for reply in replies)
            return super().aggregate_train(server_round, replies)

    @server.main()
    def main(grid: Any, context: Any) -> None:
        latest = arrays
        strategy = Counting(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=num_nodes,
            min_available_nodes=num_nodes,
        )
        while rounds := todo.get():
            latest = strategy.start(grid, latest, num_rounds=rounds, train_config=config).arrays
            done.put(None)

    def simulate() -> None:
        resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
        backend = {
            **resources,
            "init_args": {"num_cpus": os.cpu_count() or 1, "include_dashboard": False, "_node_ip_address": "127.0.0.1"},
        }
        try:
            run_simulation(server, client, num_supernodes=num_nodes, backend_config=backend)
            done.put(RuntimeError("the simulation ended"))
        except BaseException as error:
            done.put(error)

    thread = threading.Thread(target=simulate, daemon=True)
    thread.start()

    def advance(rounds: int) -> None:
        todo.put(rounds)
        if (error := done.get()) is not None:
            raise error

    def stop() -> None:
        todo.put(0)
        thread.join(timeout=60)

    return advance, lambda: replied, stop


if __name__ == "__main__":
    driver.main(PEER, prepare)
