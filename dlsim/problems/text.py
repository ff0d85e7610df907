"""Text, character by character: data sets of windows, and a Problem of models that say what comes next."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks
from dlsim.core import Array, Info, Problem, PyTree
from dlsim.problems.data import Dataset, load, of_windows
from dlsim.problems.index_lists import Partition, PartitionFn, partition as make_partition
from dlsim.problems.language_models import resolve_language
from dlsim.problems.models import Model
from dlsim.problems.partition import by_column, iid
from dlsim.problems.sampling import WITHOUT_REPLACEMENT
from dlsim.problems.supervised import supervised
from dlsim.problems.windows import CONTEXT, make_windows


@checks.typed
def text_dataset(
    texts: Mapping[str, str],
    context: int = CONTEXT,
    *,
    test_fraction: float = 0.2,
    alphabet: str | None = None,
    name: str = "text",
) -> Dataset:
    """Texts of several clients as a Dataset: windows of L characters, each labelled with the character after it.

    A text is cut into windows of L + 1 characters of which each begins with the last one of the window before, so that
    every character but the first is to be said once; what is left over at its end is dropped, and a client with fewer
    than L + 1 characters has none.  The last windows of each text are the test.  The column `client` says whose they are.

    Args:
      texts: by client.
      context: L, structural.
      test_fraction: share of each client's windows held out, rounded, but never all of them.
      alphabet: all characters; the place of one is its number (at most 256).  Default: those of the texts, sorted.
      name: of the data set.

    `language_model` learns to say every character of a window; as labels the last ones alone serve `classification`,
    and partitioners by label.
    """
    checks.instance("text_dataset", "name", name, str)
    made = make_windows("text_dataset", texts, context, test_fraction, alphabet)
    clients = np.array([str(client) for client in texts])
    return of_windows(name, made, {"client": clients}, "client")


@checks.typed
def language_model(
    dataset: str | Any = "shakespeare",
    num_nodes: int | None = None,
    *,
    partition: PartitionFn | Partition | None = None,
    model: str | Any = "transformer",
    context: int | None = None,
    batch_size: int | None = None,
    sampling: str = WITHOUT_REPLACEMENT,
    regularization: Any = 0.0,
    seed: int = 0,
    num_test: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    node_block: int | str | None = "auto",
    dtype: str = "float32",
) -> Problem:
    """Next characters of real text, spread over the nodes: load, partition, a causal model.

        f_i(x) = (1/m_i) sum_{windows w of node i} (1/L) sum_{t = 1..L} -log p_x(w_(t+1) | w_1, ..., w_t)

    `evaluate` gives `loss`, this mean over the test windows in nats a character, and `perplexity` = exp(loss); with test
    windows of the nodes' own `loss_local` and `perplexity_local` as well.  Guessing by how often each character occurs
    has the loss of its entropy, 3.1 nats for Shakespeare.

    Args:
      dataset: `"shakespeare"` (what each role says, see `load`), or a Dataset of `text_dataset`.
      num_nodes: N; by default as many as the partition has nodes, or the data have clients.  With fewer than there are
        clients, each node has the text of several.
      partition: who holds what; by default every client its own text (`by_column`), or `iid()` where nobody knows whose
        it is.
      model: `"transformer"`, `"lstm"`, what makes a Model (`transformer(width=128)`), a flax module or a Model: tokens
        `[B, L]` to logits `[B, L, V]`, of which those at t see tokens up to t alone.
      context: L, for a data set by name; default 80.
      seed: of the partition; structural.
      batch_size: windows, see `supervised`; sampling, regularization, num_test, node_block, dtype: as there.
      data_dir: where to look for the files first.

    Source: the task of Caldas et al., LEAF: a benchmark for federated settings, 2018 (next characters, roles as clients).
      Differs: a loss at every character of a window and not at the last alone; other files and splits.
    """
    where = "language_model"
    data = load(dataset, data_dir=data_dir, context=context)
    _check_text(where, data)
    if partition is None:
        partition = by_column(data.clients) if data.clients else iid()
        if num_nodes is None and data.clients:
            num_nodes = len(np.unique(data.columns[data.clients]))
    if num_nodes is None:
        if not isinstance(partition, Partition):
            checks.fail(where, "num_nodes", "given where the data have no clients", "None", "Such as num_nodes=100.")
        num_nodes = np.size(partition.sizes)
    parts = make_partition(data, num_nodes, partition, seed)
    if any(getattr(parts, name) is not None for name in ("noise", "rotation", "label_permutation")):
        rule = "one that leaves the text as it is"
        checks.fail(where, "partition", rule, "one that shifts features or labels", "Use by_column, iid or dirichlet.")
    length, num_characters = int(data.inputs.shape[1]), data.num_classes
    made = supervised(
        _scored(resolve_language(model, length, num_characters), length, num_characters),
        _whole_windows(data),
        parts,
        loss=lambda outputs, labels: outputs,
        batch_size=batch_size,
        sampling=sampling,
        regularization=regularization,
        num_test=num_test,
        node_block=node_block,
        dtype=dtype,
    )

    def evaluate(params: PyTree, node_ids: Array | None = None) -> Info:
        found = made.evaluate(params, node_ids)
        return found | {name.replace("loss", "perplexity"): jnp.exp(value) for name, value in found.items()}

    return made._replace(evaluate=evaluate)


def _check_text(where: str, data: Dataset) -> None:
    """Windows of characters, as `text_dataset` makes them."""
    is_text = data.inputs.ndim == 2 and data.inputs.dtype == np.uint8 and data.num_classes > 0
    if not is_text or int(data.inputs.max(initial=0)) >= data.num_classes:
        rule, fix = "text, as load or text_dataset makes it", 'Use "shakespeare", or text_dataset({"me": "..."}).'
        checks.fail(where, "dataset", rule, repr(data)[:120], fix)


def _whole_windows(data: Dataset) -> Dataset:
    """Windows [M, L + 1] with what comes after them; the loss is all that is asked of a model, so labels mean nothing."""

    def joined(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.concatenate([inputs, labels.astype(np.uint8)[:, None]], axis=1)

    return data._replace(
        inputs=joined(data.inputs, data.labels),
        labels=np.zeros(len(data.labels), np.float32),
        test_inputs=joined(data.test_inputs, data.test_labels),
        test_labels=np.zeros(len(data.test_labels), np.float32),
        num_classes=0,
    )


def _scored(model: Model, length: int, num_characters: int) -> Model:
    """A model of windows `[B, L + 1]` whose output is its mean loss on each, `[B]`."""

    def score(logits: Array, windows: Array) -> Array:
        # A one-hot product: picking an entry per row would be a scatter in the backward pass, slow under vmap.
        following = jax.nn.one_hot(windows[:, 1:].astype(jnp.int32), num_characters, dtype=logits.dtype)
        losses = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(logits * following, axis=-1)
        return jnp.mean(losses, axis=1)

    def apply(params: PyTree, windows: Array) -> Array:
        return score(model.apply(params, windows[:, :length]), windows)

    def train(key: Array, params: PyTree, windows: Array) -> tuple[Array, PyTree]:
        assert model.train is not None
        logits, statistics = model.train(key, params, windows[:, :length])
        return score(logits, windows), statistics

    return Model(init=model.init, apply=apply, train=None if model.train is None else train)
