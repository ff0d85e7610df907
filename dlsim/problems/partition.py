"""Who holds what: partitions of a data set over the nodes.

A partitioner is `partition_fn(rng, dataset, num_nodes) -> Partition`; `partition` runs one and checks what it gave.
All of them are host code, use each training example at most once, and leave the examples where they are.
"""

from __future__ import annotations

import math

import numpy as np

from dlsim import checks
from dlsim.problems import values
from dlsim.problems.data import Dataset
from dlsim.problems.index_lists import (
    LocalTest,
    Partition as Partition,
    PartitionFn as PartitionFn,
    check_partition as check_partition,
    check_partitioner,
    from_lists as from_lists,
    partition as partition,
)
from dlsim.problems.notices import notice


def _from_owners(rng: np.random.Generator, owners: np.ndarray, num_nodes: int, ids: np.ndarray) -> Partition:
    """A Partition from the owner of each of `ids`, each node's run in random order."""
    order = rng.permutation(len(owners))
    order = order[np.argsort(owners[order], kind="stable")]
    sizes = np.bincount(owners, minlength=num_nodes).astype(np.int32)
    return Partition(ids[order].astype(np.int32), (np.cumsum(sizes) - sizes).astype(np.int32), sizes)


def _num_classes(where: str, dataset: Dataset) -> int:
    if dataset.num_classes == 0:
        checks.fail(where, "dataset", "one with class labels", "a regression", "Use iid, quantity_skew or by_column.")
    return dataset.num_classes


def _enough(where: str, num_examples: int, needed: int, what: str) -> None:
    if num_examples < needed:
        checks.fail(where, "num_nodes", f"small enough for {what}", f"{needed} > {num_examples} examples")


def iid() -> PartitionFn:
    """A random permutation cut into runs of equal length, or one more for the first nodes."""

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        _enough("iid", len(dataset.labels), num_nodes, "one example a node")
        return from_lists(np.array_split(rng.permutation(len(dataset.labels)), num_nodes))

    return partition_fn


@checks.typed
def dirichlet(alpha: float, *, balanced: bool = True, min_size: int = 1) -> PartitionFn:
    """Label skew: class shares drawn from a Dirichlet distribution; small `alpha` is strong skew.

    `balanced=True`: all nodes get floor(M/N) examples.  Node i draws its class shares q_i ~ Dir(alpha p), with p the
    classes' shares of the whole, and then its examples one by one, without replacement, of class c with probability
    q_ic among the classes not used up.  M mod N examples stay out.  Source: Hsu et al., Measuring the effects of
    non-identical data distribution for federated visual classification, 2019.  Differs: `alpha p` is scaled by the
    number of classes, so that `alpha` is the mean entry of the parameter in both forms; nodes draw in random order,
    so that those who find classes used up are not the last ids.

    `balanced=False`: class c is split over the nodes by shares p_c ~ Dir_N(alpha), where a node that already has M/N
    examples gets no more; redrawn until every node has `min_size`.  Source: Yurochkin et al., Bayesian nonparametric
    federated learning of neural networks, ICML 2019; the rule for full nodes is that of Li et al., Federated learning
    on non-IID data silos, ICDE 2022.  Differs: gives up with an error after 200 draws.
    """
    checks.known("dirichlet", "alpha", alpha)
    alpha = float(checks.number("dirichlet", "alpha", alpha, 0.0, open_minimum=True))
    min_size = checks.integer("dirichlet", "min_size", min_size, 0)
    checks.instance("dirichlet", "balanced", balanced, bool)

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        labels, num_classes = dataset.labels, _num_classes("dirichlet", dataset)
        _enough("dirichlet", len(labels), num_nodes * max(min_size, 1), f"{max(min_size, 1)} example(s) a node")
        make = _dirichlet_balanced if balanced else _dirichlet_by_class
        order = rng.permutation(len(labels))
        pools = [order[labels[order] == c] for c in range(num_classes)]
        counts = make(rng, np.array([len(pool) for pool in pools]), num_nodes, alpha, min_size)
        starts = np.cumsum(counts, axis=0) - counts
        runs = [
            np.concatenate([pool[a : a + n] for pool, a, n in zip(pools, starts[i], counts[i], strict=True)])
            for i in range(num_nodes)
        ]
        return from_lists([rng.permutation(run) for run in runs])

    return partition_fn


def _dirichlet_balanced(
    rng: np.random.Generator, available: np.ndarray, num_nodes: int, alpha: float, min_size: int
) -> np.ndarray:
    """Examples of each class for each node, int [N, C]."""
    del min_size  # equal sizes are the largest smallest size
    prior = available / available.sum()
    counts = np.zeros((num_nodes, len(available)), np.int64)
    present = np.flatnonzero(available)
    left, size = available.copy(), available.sum() // num_nodes
    for node in rng.permutation(num_nodes):
        shares = np.zeros(len(available))
        shares[present] = rng.dirichlet(alpha * len(present) * prior[present])
        need = int(size)
        while need:
            open_shares = np.where(left > 0, shares, 0.0)
            # With a tiny alpha all of a node's classes may be used up: then it takes what there is.
            weights = open_shares if open_shares.sum() > 1e-12 else left.astype(float)
            # Draws of a class that runs out meanwhile are made again: the same law as one draw at a time.
            drawn = np.minimum(rng.multinomial(need, weights / weights.sum()), left)
            counts[node] += drawn
            left -= drawn
            need -= int(drawn.sum())
    return counts


def _dirichlet_by_class(
    rng: np.random.Generator, available: np.ndarray, num_nodes: int, alpha: float, min_size: int
) -> np.ndarray:
    """Examples of each class for each node, int [N, C]."""
    full = available.sum() / num_nodes
    for _ in range(200):
        counts = np.zeros((num_nodes, len(available)), np.int64)
        for c, num in enumerate(available):
            shares = rng.dirichlet(np.full(num_nodes, alpha)) * (counts.sum(axis=1) < full)
            if shares.sum() <= 0:  # underflow at the only nodes with room
                shares = (counts.sum(axis=1) < full).astype(float)
            cuts = np.round(np.cumsum(shares / shares.sum()) * num).astype(np.int64)
            counts[:, c] = np.diff(cuts, prepend=0)
        smallest = counts.sum(axis=1).min()
        if smallest >= min_size:
            return counts
    fix = "Use dirichlet(alpha, balanced=True), a larger alpha, or fewer nodes."
    got = f"{smallest} at node {int(counts.sum(axis=1).argmin())}, after 200 draws with alpha={alpha:g}, N={num_nodes}"
    checks.fail("dirichlet", "the smallest node", f"of min_size={min_size} examples", got, fix)


def shards(shards_per_node: int = 2) -> PartitionFn:
    """Examples sorted by label, cut into N * shards_per_node equal shards, dealt at random; the rest stays out.

    Source: McMahan et al., Communication-efficient learning of deep networks from decentralized data, AISTATS 2017.
    Differs: examples of one class are in random order; real labels are sorted as well.
    """
    shards_per_node = checks.integer("shards", "shards_per_node", shards_per_node, 1)

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        num_shards = num_nodes * shards_per_node
        _enough("shards", len(dataset.labels), num_shards, f"{shards_per_node} shards a node")
        order = rng.permutation(len(dataset.labels))
        order = order[np.argsort(dataset.labels[order], kind="stable")]
        size = len(order) // num_shards
        dealt = order[: num_shards * size].reshape(num_shards, size)[rng.permutation(num_shards)]
        return from_lists(list(dealt.reshape(num_nodes, -1)))

    return partition_fn


def pathological(classes_per_node: int = 2) -> PartitionFn:
    """Every node has exactly `classes_per_node` classes; a class is shared equally by the nodes that have it.

    Node i has class i mod C and others at random, of the C classes that have training examples.  With fewer nodes than
    classes, classes that nobody has stay out.
    Source: Li et al., Federated learning on non-IID data silos, ICDE 2022 (#C = k).
    """
    classes_per_node = checks.integer("pathological", "classes_per_node", classes_per_node, 1)

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        _num_classes("pathological", dataset)
        labels, num = dataset.labels, len(dataset.labels)
        _enough("pathological", num, num_nodes, "one example a node")
        known = np.unique(labels)  # numbers of classes may have gaps: labels 1 to 26 make 27 classes, the first empty
        checks.integer("pathological", "classes_per_node", classes_per_node, 1, len(known))
        # Random keys sorted within a node; the class it must have comes first.
        draws = rng.random((num_nodes, len(known)))
        draws[np.arange(num_nodes), np.arange(num_nodes) % len(known)] = -1.0
        chosen = np.argsort(draws, axis=1)[:, :classes_per_node]
        order = rng.permutation(num)
        lists: list[list[np.ndarray]] = [[] for _ in range(num_nodes)]
        for c, label in enumerate(known):
            holders = np.flatnonzero((chosen == c).any(axis=1))
            pool = order[labels[order] == label]
            if len(pool) < len(holders):
                got = f"{len(pool)} for {len(holders)} nodes"
                fewer = " or fewer classes_per_node" if classes_per_node > 1 else ""
                fix = f"Use fewer nodes{fewer}, or leave rare classes out of the data."
                checks.fail("pathological", f"class {label}", "of one example for each of its nodes", got, fix)
            for node, part in zip(rng.permutation(holders), np.array_split(pool, max(len(holders), 1)), strict=False):
                lists[node].append(part)
        return from_lists([rng.permutation(np.concatenate(parts)) for parts in lists])

    return partition_fn


@checks.typed
def quantity_skew(alpha: float = 0.5, *, min_size: int = 1) -> PartitionFn:
    """Uneven sizes, all of the data: `min_size` examples each, the rest by shares drawn from Dir_N(alpha).

    Source: Li et al., Federated learning on non-IID data silos, ICDE 2022.  Differs: `min_size` is given beforehand,
    where the source draws until no node has less, which may never end for many nodes.
    """
    checks.known("quantity_skew", "alpha", alpha)
    alpha = float(checks.number("quantity_skew", "alpha", alpha, 0.0, open_minimum=True))
    min_size = checks.integer("quantity_skew", "min_size", min_size, 1)

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        num = len(dataset.labels)
        _enough("quantity_skew", num, num_nodes * min_size, f"{min_size} example(s) a node")
        shares = rng.dirichlet(np.full(num_nodes, alpha))
        cuts = np.round(np.cumsum(shares) / shares.sum() * (num - num_nodes * min_size)).astype(np.int64)
        ends = cuts + min_size * np.arange(1, num_nodes + 1)
        return from_lists(np.split(rng.permutation(num), ends[:-1]))

    return partition_fn


def by_column(name: str) -> PartitionFn:
    """Natural nodes: all examples with one value of `dataset.columns[name]` (a user, a site) go to one node.

    With as many nodes as values, node i has the i-th value in sorted order (numbers by value, also where they came as
    text).  With fewer, values are dealt in random order, so that every node has the same number of them or one more.
    Where the test examples have this column too and every node has some, they are its `local_test`.
    """
    checks.instance("by_column", "name", name, str)

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        if name not in dataset.columns:
            known = ", ".join(dataset.columns) or "none"
            fix = f"Keep it when loading: load(path, columns=[{name!r}])."
            checks.fail("by_column", "name", f"a column of the data set ({known})", repr(name), fix)
        column = values.keys("by_column", name, dataset.columns[name])
        if column.dtype.kind not in "biu":
            place = "at training example {}".format
            values.refuse_gaps("by_column", f"column {name!r}", column.tolist(), place)
        users, group = np.unique(column, return_inverse=True)
        if len(users) < num_nodes:
            rule = f"at most the {len(users)} values of {name!r}"
            checks.fail("by_column", "num_nodes", rule, num_nodes, f"Use num_nodes={len(users)}.")
        owner = np.arange(num_nodes)
        if len(users) > num_nodes:
            owner = rng.permutation(np.arange(len(users)) % num_nodes)
        made = _from_owners(rng, owner[group], num_nodes, np.arange(len(group)))
        if name not in dataset.test_columns:
            return made
        return made._replace(local_test=_own_tests(name, users, owner, dataset.test_columns[name], num_nodes))

    return partition_fn


def _own_tests(name: str, users: np.ndarray, owner: np.ndarray, column: np.ndarray, num_nodes: int) -> LocalTest | None:
    """The test examples of every node's values, in their order; None if a node has none, which is said."""
    names = users.astype(str)
    order = np.argsort(names)
    tests = values.keys("by_column", name, column).astype(str)
    place = np.minimum(np.searchsorted(names, tests, sorter=order), len(names) - 1)
    ids = np.flatnonzero(
        names[order[place]] == tests
    )  # the others are of nobody here, and in the common test set alone
    nodes = owner[order[place[ids]]]
    sizes = np.bincount(nodes, minlength=num_nodes).astype(np.int32)
    if (sizes < 1).any():
        some = f"{int((sizes < 1).sum())} of {num_nodes} nodes (node {int(np.argmax(sizes < 1))} is one)"
        notice(
            "by_column", f"{some} have no test examples of their own, so nothing is measured on the nodes' own tests."
        )
        return None
    indices = ids[np.argsort(nodes, kind="stable")].astype(np.int32)
    return LocalTest(indices, (np.cumsum(sizes) - sizes).astype(np.int32), sizes, of_training=False)


@checks.typed
def feature_shift(noise: float = 0.1, *, base: PartitionFn | None = None) -> PartitionFn:
    """Noise-based feature skew: node i adds Gaussian noise of standard deviation `noise * i/N` to what its model sees.

    Examples are dealt by `base` (default `iid()`); the noise is drawn anew each time an example is.  Source: Li et
    al., Federated learning on non-IID data silos, ICDE 2022 (there nodes count from 1).
    """
    checks.known("feature_shift", "noise", noise)
    noise = float(checks.number("feature_shift", "noise", noise, 0.0))
    dealt = check_partitioner("feature_shift", "base", iid() if base is None else base)

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        made = dealt(rng, dataset, num_nodes)
        return made._replace(noise=(noise * np.arange(num_nodes) / num_nodes).astype(np.float32))

    return partition_fn


def rotation_shift(num_groups: int = 4, *, base: PartitionFn | None = None) -> PartitionFn:
    """Rotated images: node i sees its images turned by (i mod num_groups) quarter turns, counter-clockwise.

    Examples are dealt by `base` (default `iid()`); images must be square, `[M, side, side, ...]`.  Source: Ghosh et
    al., An efficient framework for clustered federated learning, NeurIPS 2020 (rotated MNIST).
    """
    num_groups = checks.integer("rotation_shift", "num_groups", num_groups, 1, 4)
    dealt = check_partitioner("rotation_shift", "base", iid() if base is None else base)

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        shape = dataset.inputs.shape
        if len(shape) < 3 or shape[1] != shape[2]:
            checks.fail("rotation_shift", "inputs", "square images [M, side, side, ...]", list(shape))
        made = dealt(rng, dataset, num_nodes)
        return made._replace(rotation=(np.arange(num_nodes) % num_groups).astype(np.int32))

    return partition_fn


def concept_shift(num_groups: int = 2, *, base: PartitionFn | None = None) -> PartitionFn:
    """The same inputs mean other things: nodes i with one value of i mod num_groups share a permutation of the labels.

    Group 0 keeps the labels as they are; the others have random permutations, all different.  Examples are dealt by
    `base` (default `iid()`).  Source: Sattler et al., Clustered federated learning, IEEE TNNLS 2021.
    """
    num_groups = checks.integer("concept_shift", "num_groups", num_groups, 1)
    dealt = check_partitioner("concept_shift", "base", iid() if base is None else base)

    def partition_fn(rng: np.random.Generator, dataset: Dataset, num_nodes: int) -> Partition:
        num_classes = _num_classes("concept_shift", dataset)
        checks.integer("concept_shift", "num_groups", num_groups, 1, math.factorial(num_classes))
        made = dealt(rng, dataset, num_nodes)
        permutations = [tuple(range(num_classes))]
        while len(permutations) < num_groups:
            drawn = tuple(int(c) for c in rng.permutation(num_classes))
            if drawn not in permutations:
                permutations.append(drawn)
        table = np.array(permutations, np.int32)
        return made._replace(label_permutation=table[np.arange(num_nodes) % num_groups])

    return partition_fn
