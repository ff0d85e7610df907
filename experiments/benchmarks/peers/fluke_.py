"""fluke: federated averaging, and gossip with one neighbour a round.

Runs in the environment of `PEER.install`: python fluke_.py --kind gossip --model mlp --nodes 100
"""

from __future__ import annotations

import time

import driver

PEER = driver.Peer(
    name="fluke",
    install=("python3.11 -m venv fluke", "fluke/bin/pip install 'fluke-fl==0.8.1' 'torch==2.13.0'"),
    kinds={"fedavg": "FedAvg", "gossip": "gossip, one neighbour"},
    server=frozenset({"fedavg"}),
    unequal="fluke: FedAvg keeps one global model at a server, not N models; its gossip sends to one random neighbour, "
    "not to four, and a node that got no message does not train in that round: only the steps really done are counted.  One "
    "PyTorch thread.  Evaluation and the finalising pass over all nodes are outside the timed part.",
)


def prepare(asked: driver.Workload) -> driver.Ready:
    driver.without_torchvision()
    import torch
    import workload
    from fluke import DDict, FlukeENV
    from fluke.algorithms.decentralized import GossipDFL, Topology
    from fluke.algorithms.fedavg import FedAVG
    from fluke.data import DataSplitter, FastDataLoader
    from fluke.utils import ClientObserver, FederationObserver, ServerObserver

    driver.torch_threads()
    environment = FlukeENV()
    environment.set_seed(0)
    environment.set_device("cpu")
    environment.set_eval_cfg(pre_fit=False, post_fit=False, server=False, locals=False)
    held = asked.shards()

    class Shards(DataSplitter):
        """Who holds what is settled; one batch of a shuffled pass is one step."""

        def __init__(self) -> None:
            pass

        def assign(self, n_clients: int, batch_size: int) -> tuple:
            loaders = [
                FastDataLoader(
                    torch.from_numpy(held.inputs[i]),
                    torch.from_numpy(held.labels[i]),
                    num_labels=workload.CLASSES,
                    batch_size=batch_size,
                    shuffle=True,
                    single_batch=True,
                )
                for i in range(n_clients)
            ]
            return (loaders, [None] * n_clients), None

    class Clock(ClientObserver, ServerObserver, FederationObserver):
        """When rounds begin and end, and how many steps were done."""

        began = ended = 0.0
        steps = 0

        def start_round(self, *args: object, **kwargs: object) -> None:
            self.began = self.began or time.perf_counter()

        def end_round(self, *args: object, **kwargs: object) -> None:
            self.ended = time.perf_counter()

        def end_fit(self, *args: object, **kwargs: object) -> None:
            self.steps += 1

    settings = DDict(
        client=DDict(
            batch_size=workload.BATCH,
            local_epochs=1,
            loss="CrossEntropyLoss",
            optimizer=DDict(name="SGD", lr=workload.LEARNING_RATE),
            scheduler=DDict(name="StepLR", step_size=1, gamma=1.0),
        ),
        server=DDict(weighted=True),
        model=driver.torch_layers(asked.model),
    )
    if asked.kind == "gossip":
        settings.client.update(policy="aggregate")
        algorithm = GossipDFL(asked.num_nodes, Shards(), settings, topology=Topology(workload.graph(asked.num_nodes)))
    else:
        algorithm = FedAVG(asked.num_nodes, Shards(), settings)
    clock = Clock()
    algorithm.set_callbacks([clock])

    def advance(rounds: int) -> float:
        clock.began = 0.0
        algorithm.run(rounds, 1.0, finalize=False)
        return clock.ended - clock.began

    return driver.Ready(driver.version("fluke-fl", "torch"), advance, updates=lambda: clock.steps)


if __name__ == "__main__":
    driver.main(PEER, prepare)
