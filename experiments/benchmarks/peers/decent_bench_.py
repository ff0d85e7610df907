"""decent-bench: distributed gradient descent over a 4-regular graph, with its PyTorch costs.

Runs in the environment of `PEER.install`: python decent_bench_.py --model mlp --nodes 100
"""

from __future__ import annotations

import driver

PEER = driver.Peer(
    name="decent_bench",
    install=(
        "python3.13 -m venv decent_bench  # it needs Python 3.13",
        "decent_bench/bin/pip install 'decent-bench==0.3.0' 'torch==2.13.0'",
    ),
    kinds={"dsgd": "DGD, 4-regular"},
    server=frozenset(),
    unequal="decent-bench: its algorithm's `run` is called directly, with one snapshot at its end and without the metric "
    "passes of `benchmark()`, which is slower.  It combines, then adapts; the work is the same.  Its mixing weights "
    "are a dense matrix that is read entry by entry.  One PyTorch thread.  Its NumPy costs know only binary classes "
    "(a tenth of the parameters) and are not timed.",
)


def prepare(asked: driver.Workload) -> driver.Ready:
    import logging

    import torch
    import workload
    from decent_array import Array
    from decent_array.types import Devices, Frameworks
    from decent_bench.agents import Agent
    from decent_bench.algorithms.p2p import DGD
    from decent_bench.benchmark import configure
    from decent_bench.costs import PyTorchCost
    from decent_bench.networks import P2PNetwork

    driver.torch_threads()
    configure(Frameworks.PYTORCH, Devices.CPU, seed=0, log_level=logging.WARNING)
    torch.manual_seed(0)
    held = asked.shards()
    inputs, labels = torch.from_numpy(held.inputs), torch.from_numpy(held.labels)
    agents = [
        Agent(
            PyTorchCost(
                list(zip(inputs[i], labels[i], strict=True)),
                driver.torch_layers(asked.model),
                torch.nn.CrossEntropyLoss(),
                batch_size=workload.BATCH,
            ),
            state_snapshot_period=2**31,
        )
        for i in range(asked.num_nodes)
    ]
    network = P2PNetwork(workload.graph(asked.num_nodes), agents)
    start = torch.nn.utils.parameters_to_vector(driver.torch_layers(asked.model).parameters()).detach()
    algorithm, done = DGD(step_size=workload.LEARNING_RATE, x0=Array(start)), 0

    def advance(rounds: int) -> None:
        nonlocal done
        algorithm.run(network, done + rounds, start_iteration=done)
        done += rounds

    return driver.Ready(driver.version("decent-bench", "torch"), advance)


if __name__ == "__main__":
    driver.main(PEER, prepare)
