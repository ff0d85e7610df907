"""dlsim itself on the same workloads, through its public functions: what the others are compared with.

Runs where dlsim is installed: python dlsim_.py --kind fedavg --model mlp --nodes 100
"""

from __future__ import annotations

import driver

PEER = driver.Peer(
    name="dlsim",
    install=("pip install -e .  # the environment that the runner itself runs in",),
    kinds={"dsgd": "D-SGD, 4-regular", "fedavg": "FedAvg"},
    server=frozenset({"fedavg"}),
    unequal="dlsim: `simulate` with the loss of all nodes recorded at the end, and with its status, traffic and clock, which "
    "are always kept.  XLA may use every core.  Tracing and compiling are outside the timed part, like the first round "
    "of the others; FedAvg takes every node's step and averages at a server.",
)


def prepare(asked: driver.Workload) -> driver.Ready:
    import jax
    import numpy as np
    import optax
    import workload

    import dlsim

    held, number = asked.shards(), asked.num_nodes
    owners = np.repeat(np.arange(number), workload.EXAMPLES_PER_NODE)
    data = dlsim.problems.dataset(
        held.inputs.reshape(-1, workload.FEATURES),
        held.labels.reshape(-1),
        test_inputs=held.inputs[0],  # nothing is evaluated
        test_labels=held.labels[0],
        num_classes=workload.CLASSES,
        columns={"node": owners},
        name="fashion_mnist",
    )
    hidden = workload.widths(asked.model)[1:-1]
    problem = dlsim.problems.classification(
        data,
        num_nodes=number,
        partition=dlsim.problems.by_column("node"),
        model=dlsim.problems.mlp(hidden=hidden) if hidden else "softmax",
        batch_size=workload.BATCH,
    )
    optimizer = optax.sgd(workload.LEARNING_RATE)
    if asked.kind == "fedavg":
        algorithm, network = dlsim.algorithms.fedavg(problem, optimizer), dlsim.networks.star(number)
    else:
        algorithm = dlsim.algorithms.dsgd(problem, optimizer)
        network = dlsim.networks.from_networkx(workload.graph(number))
    process = dlsim.learn(problem, algorithm, network)

    def advance(rounds: int) -> float:
        record = dlsim.Record(every=rounds, fn=lambda state, info: {"loss": jax.numpy.mean(info["loss"])})
        run = dlsim.simulate(process, seed=0, num_steps=rounds, record=record, progress=False)
        return run.timing["run_seconds"]

    return driver.Ready(f"dlsim {dlsim.__version__}, jax {jax.__version__}", advance)


if __name__ == "__main__":
    driver.main(PEER, prepare)
