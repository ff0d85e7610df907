"""gossipy: gossip learning with one neighbour a round, and (from its main branch) D-SGD with a mixing matrix.

Runs in the environment of `PEER.install`: python gossipy_.py --kind gossip --model mlp --nodes 100
D-SGD is not in the release; give a clone of makgyver/gossipy: --kind dsgd --checkout gossipy-main
"""

from __future__ import annotations

import driver

PEER = driver.Peer(
    name="gossipy",
    install=(
        "python3.11 -m venv gossipy",
        "gossipy/bin/pip install 'gossipy-dfl==0.0.1' 'torch==2.13.0' networkx",
        "git clone https://github.com/makgyver/gossipy gossipy-main  # for D-SGD: --checkout gossipy=gossipy-main",
    ),
    kinds={"gossip": "gossip, one neighbour", "dsgd": "D-SGD, 4-regular"},
    server=frozenset(),
    checkout=frozenset({"dsgd"}),
    unequal="gossipy: the release sends to one random neighbour a round, not to four; the main branch (for D-SGD) sends to "
    "all four, and is timed with `P2PNetwork.size(0)` corrected (as shipped, node 0's row of the mixing matrix sums "
    "to 5/(N+1)), which does not change the work.  One tick a round; with 100, as in its examples, it is slower.  Its "
    "own logistic regression has a sigmoid before the cross-entropy; its perceptron without hidden layers is timed "
    "instead.  One PyTorch thread.  It imports torchvision without asking for it: an empty stand-in takes its place.",
)


def prepare(asked: driver.Workload) -> driver.Ready:
    commit = driver.use_checkout(asked, "") if asked.kind == "dsgd" else ""
    driver.without_torchvision()
    import networkx
    import torch
    import workload
    from gossipy import set_seed
    from gossipy.core import AntiEntropyProtocol, CreateModelMode, StaticP2PNetwork
    from gossipy.data import DataDispatcher
    from gossipy.data.handler import ClassificationDataHandler
    from gossipy.model.nn import TorchMLP

    driver.torch_threads()
    set_seed(0)

    class Network(StaticP2PNetwork):
        def size(self, node: int | None = None) -> int:
            return super().size() if node is None else len(self.get_peers(node))

    held, number = asked.shards(), asked.num_nodes
    inputs = torch.from_numpy(held.inputs.reshape(-1, workload.FEATURES))
    labels = torch.from_numpy(held.labels.reshape(-1))
    dispatcher = DataDispatcher(
        ClassificationDataHandler(inputs, labels, test_size=0.0), n=number, eval_on_user=False, auto_assign=False
    )
    size = workload.EXAMPLES_PER_NODE
    dispatcher.set_assignments([list(range(i * size, (i + 1) * size)) for i in range(number)], None)
    network = Network(number, networkx.to_numpy_array(workload.graph(number), nodelist=range(number)))
    _, *hidden, classes = workload.widths(asked.model)
    settings = {
        "net": TorchMLP(workload.FEATURES, classes, tuple(hidden)),
        "optimizer": torch.optim.SGD,
        "optimizer_params": {"lr": workload.LEARNING_RATE},
        "criterion": torch.nn.CrossEntropyLoss(),
        "local_epochs": 0,  # one batch
        "batch_size": workload.BATCH,
        "create_model_mode": CreateModelMode.MERGE_UPDATE,
    }
    simulator, start = _simulator(asked.kind, settings, dispatcher, network, AntiEntropyProtocol.PUSH)
    simulator.init_nodes(seed=0)
    version = f"gossipy {commit}" if commit else driver.version("gossipy-dfl")
    return driver.Ready(f"{version}, {driver.version('torch')}", lambda rounds: start(rounds))


def _simulator(kind: str, settings: dict, dispatcher: object, network: object, push: object) -> tuple:
    """The simulator and what starts it for so many rounds."""
    if kind == "gossip":
        from gossipy.model.handler import TorchModelHandler
        from gossipy.node import GossipNode
        from gossipy.simul import GossipSimulator

        nodes = GossipNode.generate(dispatcher, network, TorchModelHandler(**settings), round_len=1, sync=True)
        simulator = GossipSimulator(nodes, dispatcher, delta=1, protocol=push)
        return simulator, lambda rounds: simulator.start(n_rounds=rounds)
    from gossipy.core import UniformMixing
    from gossipy.model.handler import WeightedTMH
    from gossipy.node import All2AllGossipNode
    from gossipy.simul import All2AllGossipSimulator

    nodes = All2AllGossipNode.generate(dispatcher, network, WeightedTMH(**settings), round_len=1, sync=True)
    simulator = All2AllGossipSimulator(nodes, dispatcher, delta=1, protocol=push)
    return simulator, lambda rounds: simulator.start(UniformMixing(network), n_rounds=rounds)


if __name__ == "__main__":
    driver.main(PEER, prepare)
