"""pfl-research: federated averaging in one process, users one after the other.

Runs in the environment of `PEER.install`: python pfl_.py --model mlp --nodes 100
"""

from __future__ import annotations

import driver

PEER = driver.Peer(
    name="pfl",
    install=("python3.11 -m venv pfl", "pfl/bin/pip install 'pfl==0.6.0' 'torch==2.13.0'"),
    kinds={"fedavg": "FedAvg"},
    server=frozenset({"fedavg"}),
    unequal="pfl: one global model at a server, not N models; one PyTorch thread (two are slower on small models).  It "
    "cuts a user's data into batches once and takes the first one in every round, so no batch is drawn.",
)


def prepare(asked: driver.Workload) -> driver.Ready:
    import numpy as np
    import torch
    import workload
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Weighted
    from pfl.model.pytorch import PyTorchModel

    driver.torch_threads()
    np.random.seed(0)  # noqa: NPY002 - what pfl draws from
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = driver.torch_layers(asked.model)

        def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.layers(inputs), labels)

        @torch.no_grad()
        def metrics(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict:
            return {"loss": Weighted(self.loss(inputs, labels).item() * len(labels), len(labels))}

    held = asked.shards()
    inputs, labels = torch.from_numpy(held.inputs), torch.from_numpy(held.labels)
    users = [PyTorchTensorDataset((inputs[i], labels[i]), user_id=i) for i in range(asked.num_nodes)]
    sampler = get_user_sampler("minimize_reuse", list(range(asked.num_nodes)))  # everyone, once a round
    data = FederatedDataset(users.__getitem__, sampler)
    net = Net()
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    train = NNTrainHyperParams(
        local_batch_size=workload.BATCH,
        local_num_epochs=None,
        local_learning_rate=workload.LEARNING_RATE,
        local_num_steps=1,
    )
    algorithm, backend, done = FederatedAveraging(), SimulatedBackend(data, data), 0

    def advance(rounds: int) -> None:
        nonlocal model, done
        done += rounds
        # It evaluates where the round's number is divisible: in round 0, which is the warm-up, and then no more.
        asked_rounds = NNAlgorithmParams(done, 2**31, asked.num_nodes, 0)
        model = algorithm.run(asked_rounds, backend, model, train, send_metrics_to_platform=False)

    return driver.Ready(driver.version("pfl", "torch"), advance)


if __name__ == "__main__":
    driver.main(PEER, prepare)
