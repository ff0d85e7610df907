"""Partitions: each example at most once, the skew that was asked for, and no node left empty."""

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dlsim.problems.data import dataset, load
from dlsim.problems.index_lists import partition_from_lists
from dlsim.problems.partition import (
    Partition,
    by_column,
    concept_shift,
    dirichlet,
    feature_shift,
    iid,
    partition,
    pathological,
    quantity_skew,
    rotation_shift,
    shards,
)
from dlsim.problems.partition_plot import describe, plot_partition

matplotlib.use("Agg")


def make_dataset(num=400, num_classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num) % num_classes)
    columns = {"user": rng.integers(0, 23, num), "site": np.char.add("s", (np.arange(num) % 4).astype(str))}
    x = np.arange(num, dtype=np.float32)[:, None]
    return dataset(x, labels, test_inputs=x[:5], test_labels=labels[:5], num_classes=num_classes, columns=columns)


DATA = make_dataset()
REGRESSION = dataset(np.arange(50)[:, None], np.linspace(0, 1, 50) ** 2)
PARTITIONERS = {
    "iid": iid(),
    "dirichlet": dirichlet(0.1),
    "dirichlet_tiny": dirichlet(1e-4),
    "dirichlet_unbalanced": dirichlet(1.0, balanced=False),
    "shards": shards(2),
    "pathological": pathological(2),
    "quantity_skew": quantity_skew(0.3),
    "by_column": by_column("user"),
    "feature_shift": feature_shift(0.5, base=dirichlet(1.0)),
    "rotation_shift": rotation_shift(3),
    "concept_shift": concept_shift(4, base=quantity_skew(1.0)),
}
IMAGES = load("digits")


@pytest.mark.parametrize("name", PARTITIONERS)
@settings(max_examples=15, deadline=None)
@given(num_nodes=st.integers(1, 20), seed=st.integers(0, 2**31 - 1))
def test_disjoint_and_complete_runs(name, num_nodes, seed):
    data = IMAGES if name == "rotation_shift" else DATA
    made = partition(data, num_nodes, PARTITIONERS[name], seed)
    assert made.indices.dtype == made.offsets.dtype == made.sizes.dtype == np.int32
    assert len(np.unique(made.indices)) == len(made.indices) == made.sizes.sum()
    assert made.indices.min() >= 0 and made.indices.max() < len(data.labels)
    assert made.sizes.min() >= 1
    np.testing.assert_array_equal(made.offsets, np.cumsum(made.sizes) - made.sizes)
    counts = describe(made, data)
    np.testing.assert_array_equal(counts.sum(axis=1), made.sizes)
    by_hand = [np.bincount(data.labels[made.of_node(i)], minlength=data.num_classes) for i in range(num_nodes)]
    np.testing.assert_array_equal(counts, by_hand)
    for mine, again in zip(made, partition(data, num_nodes, PARTITIONERS[name], seed), strict=True):
        np.testing.assert_array_equal(mine, again)


@settings(max_examples=25, deadline=None)
@given(
    num=st.integers(20, 300),
    num_classes=st.integers(2, 7),
    num_nodes=st.integers(1, 20),
    alpha=st.floats(1e-4, 1e3),
    seed=st.integers(0, 1000),
)
def test_dirichlet_sizes_are_equal(num, num_classes, num_nodes, alpha, seed):
    data = make_dataset(num, num_classes, seed)
    made = partition(data, num_nodes, dirichlet(alpha), seed)
    assert (made.sizes == num // num_nodes).all()
    assert len(np.unique(made.indices)) == len(made.indices)


def total_variation(made, data):
    """Mean distance between the nodes' class shares and the whole's, in [0, 1)."""
    counts = describe(made, data)
    shares = counts / counts.sum(axis=1, keepdims=True)
    return np.abs(shares - np.bincount(data.labels) / len(data.labels)).sum(axis=1).mean() / 2


@pytest.mark.parametrize("balanced", [True, False])
def test_dirichlet_skew_falls_with_alpha(balanced):
    data = make_dataset(8000, 10)
    distances = [
        np.mean([total_variation(partition(data, 20, dirichlet(a, balanced=balanced), s), data) for s in range(4)])
        for a in (0.05, 0.3, 2.0, 1000.0)
    ]
    assert (np.diff(distances) < -0.05).all()
    assert distances[-1] < 0.12 and distances[0] > 0.6
    assert abs(distances[-1] - total_variation(partition(data, 20, iid()), data)) < 0.05


def test_dirichlet_shares_have_the_moments_of_the_distribution():
    """With plenty of every class, a node's shares are Dir(alpha 1): mean 1/C, variance (C-1) / (C^2 (C alpha + 1))."""
    num_classes, alpha = 4, 0.7
    data = make_dataset(400_000, num_classes)
    first = []
    for seed in range(60):
        made = dirichlet(alpha)(np.random.default_rng(seed), data, 40)
        counts = describe(made, data)
        first.append(counts[:2] / made.sizes[0])  # few enough of 40 that no class is used up when most are drawn
    shares = np.concatenate(first)
    expected = (num_classes - 1) / (num_classes**2 * (num_classes * alpha + 1))
    assert abs(shares.var() / expected - 1) < 0.15


def test_unbalanced_dirichlet_keeps_all_and_respects_min_size():
    made = partition(DATA, 10, dirichlet(0.5, balanced=False, min_size=8), 3)
    assert made.sizes.sum() == 400 and made.sizes.min() >= 8 and made.sizes.max() > made.sizes.min()


def test_iid_uses_every_example():
    made = partition(DATA, 7, iid())
    assert set(made.sizes) == {57, 58} and len(made.indices) == 400


@settings(max_examples=20, deadline=None)
@given(num_nodes=st.integers(1, 20), shards_per_node=st.integers(1, 4), seed=st.integers(0, 99))
def test_shards_hold_few_classes(num_nodes, shards_per_node, seed):
    made = partition(DATA, num_nodes, shards(shards_per_node), seed)
    size = 400 // (num_nodes * shards_per_node)
    assert (made.sizes == shards_per_node * size).all()
    if size <= 80:  # a shard then meets two classes at most
        assert ((describe(made, DATA) > 0).sum(axis=1) <= 2 * shards_per_node).all()
    for node in range(num_nodes):  # each shard is a run of the sorted labels
        labels = DATA.labels[made.of_node(node)].reshape(shards_per_node, size)
        assert (np.diff(labels, axis=1) >= 0).all()


@settings(max_examples=20, deadline=None)
@given(num_nodes=st.integers(1, 25), classes=st.integers(1, 5), seed=st.integers(0, 99))
def test_pathological_nodes_have_exactly_that_many_classes(num_nodes, classes, seed):
    counts = describe(partition(DATA, num_nodes, pathological(classes), seed), DATA)
    assert ((counts > 0).sum(axis=1) == classes).all()
    if num_nodes >= 5:
        assert (counts.sum(axis=0) == 80).all()
    for c in range(5):
        held = counts[counts[:, c] > 0, c]
        assert len(held) == 0 or held.max() - held.min() <= 1


@pytest.mark.parametrize("first", [0, 1, 7])
@pytest.mark.parametrize("num_nodes", [5, 26, 60])
def test_pathological_takes_any_labels(first, num_nodes):
    """Letters are 1 to 26: 27 classes, of which the first has no example."""
    data = dataset(np.arange(2600)[:, None], np.arange(2600) % 26 + first)
    counts = describe(partition(data, num_nodes, pathological(2)), data)
    assert ((counts > 0).sum(axis=1) == 2).all() and counts[:, :first].sum() == 0
    if num_nodes >= 26:
        assert (counts.sum(axis=0)[first:] == np.bincount(data.labels)[first:]).all()


def test_pathological_advises_what_helps():
    letters = dataset(np.arange(130)[:, None], np.arange(130) % 26 + 1)
    with pytest.raises(
        ValueError, match=r"class \d+ must be .*, got 4 for \d+ nodes\. Use fewer nodes or fewer classes_per"
    ):
        partition(letters, 104, pathological(2))
    with pytest.raises(ValueError, match=r"pathological: classes_per_node must be an integer in \[1, 26\], got 27"):
        partition(letters, 4, pathological(27))
    rare = dataset(np.arange(100)[:, None], np.repeat([1, 2], [3, 97]))
    with pytest.raises(
        ValueError, match=r"class 1 must be .*, got 2 for 3 nodes\. Use fewer nodes, or leave rare classes"
    ):
        partition(rare, 6, pathological(1))


def test_partition_from_lists():
    made = partition_from_lists([[3, 1], (4,), np.array([0, 2, 9])])
    assert made.indices.tolist() == [3, 1, 4, 0, 2, 9] and made.sizes.tolist() == [2, 1, 3]
    assert made.offsets.tolist() == [0, 2, 3] and made.of_node(2).tolist() == [0, 2, 9]
    assert partition(DATA, 3, made) is made
    shifted = partition(DATA, 3, feature_shift(0.3, base=made))
    np.testing.assert_array_equal(shifted.indices, made.indices)
    tested = partition_from_lists([[0], [1]], test_lists=[[4, 3], [0]])
    assert tested.local_test.indices.tolist() == [4, 3, 0] and not tested.local_test.of_training
    assert partition(DATA, 2, tested) is tested


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: partition_from_lists("ab"), "lists must be one list of example ids a node, got str"),
        (lambda: partition_from_lists([]), "lists must be of 1 to"),
        (lambda: partition_from_lists([[1], []]), "lists[1] must be one or more example ids"),
        (lambda: partition_from_lists([1, 2]), "lists[0] must be one or more example ids, whole numbers from 0, got 1"),
        (lambda: partition_from_lists([[0.5]]), "got [0.5]"),
        (lambda: partition_from_lists([[-1]]), "got [-1]"),
        (lambda: partition_from_lists([[7, 3, 7]]), "of different ids, got 7 2 times"),
        (lambda: partition_from_lists([[0], [1]], test_lists=[[0]]), "test_lists must be 2, as many as lists, got 1"),
        (lambda: partition(DATA, 1, partition_from_lists([[400]])), "training examples 0 to 399, got 400"),
        (lambda: partition(DATA, 1, partition_from_lists([[0]], test_lists=[[5]])), "test examples 0 to 4, got 5"),
        (lambda: partition(DATA, 2, partition_from_lists([[0]])), "of shape [2], got [1]"),
        (lambda: partition(DATA, 2, [[0], [1]]), "got list. Of lists of example ids: partition_from_lists(lists)"),
        (lambda: partition("digits", 2, iid()), "dataset must be a Dataset, got 'digits'. Make one: load"),
        (lambda: partition(DATA, 2, iid(), seed="a"), "seed must be an integer >= 0, got 'a'"),
        (lambda: partition(DATA, 2, iid(), seed=None), "seed must be an integer >= 0, got None"),
        (lambda: partition(DATA, 10**12, iid()), "num_nodes must be an integer in [1, 2147483647], got 1000000000000"),
        (
            lambda: feature_shift(0.1, base="iid"),
            "feature_shift: base must be a function of (rng, dataset",
        ),
        (lambda: rotation_shift(2, base=[[0]]), "rotation_shift: base must be"),
        (lambda: concept_shift(2, base=iid), "concept_shift: base must be"),
        (lambda: dirichlet(0.1, balanced="no"), "dirichlet: balanced must be True or False, got 'no'"),
        (lambda: by_column(3), "by_column: name must be a str, got 3"),
        (lambda: describe([[0]], DATA), "describe: made must be a Partition, got [[0]]"),
        (lambda: describe(partition(DATA, 2, iid()), "digits"), "describe: dataset must be a Dataset, got 'digits'"),
        (lambda: plot_partition(DATA, DATA), "plot_partition: made must be a Partition, got Dataset"),
    ],
)
def test_what_is_no_partition_is_one_line(make, reason):
    with pytest.raises(ValueError) as error:
        make()
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_quantity_skew():
    sizes = {a: partition(DATA, 20, quantity_skew(a, min_size=3)).sizes for a in (0.1, 100.0)}
    assert all(s.sum() == 400 and s.min() >= 3 for s in sizes.values())
    assert sizes[0.1].std() > 4 * sizes[100.0].std()


def test_by_column_keeps_values_whole():
    made = partition(DATA, 4, by_column("site"))
    for i in range(4):
        assert set(DATA.columns["site"][made.of_node(i)]) == {f"s{i}"}
    made = partition(DATA, 5, by_column("user"), seed=1)
    owners = [set(DATA.columns["user"][made.of_node(i)]) for i in range(5)]
    assert sum(map(len, owners)) == 23 == len(set().union(*owners))
    assert {len(owner) for owner in owners} == {4, 5} and made.sizes.sum() == 400


def test_shifts():
    made = partition(DATA, 8, feature_shift(0.4))
    np.testing.assert_allclose(made.noise, 0.4 * np.arange(8) / 8, rtol=1e-6)
    made = partition(IMAGES, 8, rotation_shift(4))
    assert made.rotation.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    made = partition(DATA, 8, concept_shift(3))
    np.testing.assert_array_equal(made.label_permutation[0], np.arange(5))
    assert len(np.unique(made.label_permutation, axis=0)) == 3
    np.testing.assert_array_equal(made.label_permutation[:5], made.label_permutation[3:])
    all_of_two = partition(make_dataset(20, 2), 4, concept_shift(2))
    np.testing.assert_array_equal(all_of_two.label_permutation, [[0, 1], [1, 0], [0, 1], [1, 0]])


def test_regression():
    for partitioner in (iid(), quantity_skew(), shards(2), feature_shift()):
        made = partition(REGRESSION, 4, partitioner)
        np.testing.assert_array_equal(describe(made, REGRESSION)[:, 0], made.sizes)
    for partitioner in (dirichlet(0.1), pathological(), concept_shift()):
        with pytest.raises(ValueError, match="with class labels, got a regression"):
            partition(REGRESSION, 4, partitioner)

    permuted = partition(REGRESSION, 4, iid())._replace(label_permutation=np.zeros((4, 2), np.int32))
    with pytest.raises(ValueError, match="None for a regression"):
        partition(REGRESSION, 4, lambda rng, data, num_nodes: permuted)


def test_described_runs_may_share_a_list():
    shared = Partition(np.arange(10, dtype=np.int32), np.array([0, 0]), np.array([10, 10]))
    made = partition(DATA, 2, lambda rng, data, num_nodes: shared)
    np.testing.assert_array_equal(describe(made, DATA)[0], describe(made, DATA)[1])


def bad(**changes):
    made = partition(DATA, 4, iid())
    return lambda rng, data, num_nodes: made._replace(**changes)


@pytest.mark.parametrize(
    ("num_nodes", "make", "reason"),
    [
        (
            4,
            lambda: bad(sizes=np.array([100, 0, 100, 100])),
            "node 1 must be given at least one example, got none (1 of",
        ),
        (4, lambda: bad(indices=np.full(400, 400)), "0 to 399, got 400 at position 0"),
        (4, lambda: bad(offsets=np.array([0, 100, 200, 301])), "at node 3"),
        (4, lambda: bad(sizes=np.ones(4)), "float64"),
        (3, lambda: bad(), "offsets must be of shape [3], got [4]"),
        (4, lambda: bad(noise=np.array([0.0, np.nan, 0.0, 0.0])), "nan at index (1,)"),
        (4, lambda: bad(noise=-np.ones(4)), "noise must be a standard deviation >= 0"),
        (4, lambda: bad(label_permutation=np.zeros((4, 5), np.int32)), "none at node 0"),
        (4, lambda: bad(label_permutation=np.zeros((4, 3), np.int32)), "[4, 5]"),
        (4, lambda: iid, "got iid. Pass e.g. iid()"),
        (4, lambda: lambda rng, data, num_nodes: None, "NoneType"),
        (401, iid, "401 > 400"),
        (0, iid, "num_nodes"),
        (2.5, iid, "num_nodes"),
        (300, lambda: dirichlet(0.01, balanced=False), "balanced=True"),
        (20, lambda: dirichlet(1.0, balanced=False, min_size=21), "420 > 400"),
        (201, lambda: shards(2), "402 > 400"),
        (300, lambda: pathological(2), "class 0"),
        (4, lambda: pathological(6), "[1, 5]"),
        (4, lambda: by_column("place"), "(user, site), got 'place'"),
        (24, lambda: by_column("user"), "Use num_nodes=23"),
        (4, lambda: rotation_shift(2), "square images"),
        (4, lambda: concept_shift(121), "[1, 120]"),
        (4, lambda: dirichlet(0.0), "alpha"),
        (4, lambda: dirichlet(float("nan")), "alpha"),
        (4, lambda: shards(0), "shards_per_node"),
        (4, lambda: quantity_skew(-1.0), "alpha"),
        (4, lambda: feature_shift(-0.1), "noise"),
    ],
)
def test_one_line_for_bad_input(num_nodes, make, reason):
    with pytest.raises(ValueError) as error:
        partition(DATA, num_nodes, make())
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_empty_node_of_our_own_making():
    with pytest.raises(ValueError, match=r"node \d+ must be given at least one example.*a min_size"):
        partition(DATA, 300, dirichlet(0.01, balanced=False, min_size=0))


@pytest.mark.parametrize("num_nodes", [6, 60])
def test_plot_shows_the_counts(num_nodes):
    import matplotlib.pyplot as plt

    made = partition(DATA, num_nodes, dirichlet(0.3))
    counts = describe(made, DATA)
    ax = plot_partition(made, DATA)
    if num_nodes == 6:
        drawn = ax.collections[0]
        offsets = np.asarray(drawn.get_offsets()).astype(int)
        np.testing.assert_array_equal(offsets, np.argwhere(counts))
        np.testing.assert_allclose(drawn.get_sizes() / drawn.get_sizes().max(), counts[counts > 0] / counts.max())
    else:
        heights = [np.asarray(p.get_data().values) - np.asarray(p.get_data().baseline) for p in ax.patches]
        np.testing.assert_array_equal(np.array(heights).T, counts)
    assert plot_partition(made, DATA, ax) is ax
    plt.close(ax.figure)
