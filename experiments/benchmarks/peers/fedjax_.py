"""FedJAX: federated averaging with its default backend, one jitted call a client after the other.

Runs in the environment of `PEER.install`: python fedjax_.py --model mlp --nodes 100
"""

from __future__ import annotations

import driver

PEER = driver.Peer(
    name="fedjax",
    install=(
        "python3.11 -m venv fedjax",
        "fedjax/bin/pip install 'fedjax==0.0.17' 'jax==0.4.25' 'jaxlib==0.4.25' 'dm-haiku==0.0.12' 'numpy<2' 'scipy<1.13'",
    ),
    kinds={"fedavg": "FedAvg, jit backend"},
    server=frozenset({"fedavg"}),
    unequal="FedJAX: one global model at a server, not N models; XLA may use every core.  The release of 2023 does not "
    "import with a newer jax than 0.4.25 (jax.tree_map is gone), nor with a newer dm-haiku than 0.0.12.",
)


def prepare(asked: driver.Workload) -> driver.Ready:
    import fedjax
    import haiku
    import jax
    import numpy as np
    import workload

    held = asked.shards()
    sizes = workload.widths(asked.model)[1:]
    examples = {str(i): {"x": held.inputs[i], "y": held.labels[i].astype(np.int32)} for i in range(asked.num_nodes)}
    clients = fedjax.InMemoryFederatedData(examples)
    model = fedjax.create_model_from_haiku(
        haiku.transform(lambda batch: haiku.nets.MLP(sizes)(batch["x"])),
        {"x": held.inputs[0, :1], "y": held.labels[0, :1].astype(np.int32)},
        lambda batch, logits: fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], logits),
    )
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        fedjax.optimizers.sgd(workload.LEARNING_RATE),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(workload.BATCH, num_epochs=None, num_steps=1),
    )
    state, key = algorithm.init(model.init(jax.random.PRNGKey(0))), jax.random.PRNGKey(1)

    def advance(rounds: int) -> None:
        nonlocal state, key
        for _ in range(rounds):
            key, use = jax.random.split(key)
            keys = np.asarray(jax.random.split(use, asked.num_nodes))  # rows of a device array would cost a call each
            round_clients = [(name, data, keys[i]) for i, (name, data) in enumerate(clients.clients())]
            state, _ = algorithm.apply(state, round_clients)
        jax.block_until_ready(state.params)

    return driver.Ready(driver.version("fedjax", "jax"), advance)


if __name__ == "__main__":
    driver.main(PEER, prepare)
