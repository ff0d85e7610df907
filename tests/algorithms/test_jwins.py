"""JWINS against a loop over coefficients, and its transform against the filters and the documentation of PyWavelets."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import six_nodes as six

import dlsim
from dlsim import algorithms, keys, networks
from dlsim.algorithms import wavelets
from dlsim.channels.selection import largest_of_each
from dlsim.running.counters import to_float

PROBLEM, NETWORK = six.problem(), six.network()
CUT_OFFS = (0.3, 0.6, 1.0)
LOW = {
    "haar": np.full(2, np.sqrt(0.5)),
    "sym2": np.array([-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025]),
}
HIGH = {
    "haar": np.sqrt(0.5) * np.array([-1, 1]),
    "sym2": np.array([-0.48296291314469025, 0.836516303737469, -0.22414386804185735, -0.12940952255092145]),
}


def split(row: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """sum_j taps[j] row[2 k + 1 - j], where the row is mirrored at its ends."""
    num = len(row)

    def at(place: int) -> float:
        place = -1 - place if place < 0 else place
        return row[place if place < num else 2 * num - 1 - place]

    size = (num + len(taps) - 1) // 2
    return np.array([sum(tap * at(2 * k + 1 - j) for j, tap in enumerate(taps)) for k in range(size)])


def decomposed(row: np.ndarray, wavelet: str, levels: int) -> list[np.ndarray]:
    details = []
    for _ in range(levels):
        details.append(split(row, HIGH[wavelet]))
        row = split(row, LOW[wavelet])
    return [row, *reversed(details)]


def recomposed(parts: list[np.ndarray], wavelet: str, size: int) -> np.ndarray:
    """x[m] = sum_k low[1 - m + 2 k] a[k] + high[1 - m + 2 k] d[k], level by level."""
    row = parts[0]
    for detail in parts[1:]:
        row, taps = row[: len(detail)], len(LOW[wavelet])
        made = np.zeros(2 * len(row) - taps + 2)
        for m in range(len(made)):
            for k, (a, d) in enumerate(zip(row, detail, strict=True)):
                tap = 1 - m + 2 * k
                if 0 <= tap < taps:
                    made[m] += LOW[wavelet][tap] * a + HIGH[wavelet][tap] * d
        row = made
    return row[:size]


def test_what_the_documentation_of_pywavelets_shows() -> None:
    x = jnp.asarray([[3.0, 7, 1, 1, -2, 5, 4, 6]])
    cases = {
        ("sym2", 1): [[5.65685425, 7.39923721, 0.22414387, 3.33677403, 7.77817459],
                      [-2.44948974, -1.60368225, -4.44140056, -0.41361256, 1.22474487]],
        ("haar", 3): [[8.83883476], [-0.35355339], [4, -3.5], [-2.82842712, 0, -4.94974747, -1.41421356]],
    }  # fmt: skip
    for (wavelet, levels), expected in cases.items():
        made = wavelets.transform(x, wavelet, levels)
        np.testing.assert_allclose(made[0], np.concatenate(expected), atol=2e-6)
        np.testing.assert_allclose(wavelets.inverse(made, 8, wavelet, levels), x, atol=2e-6)


@pytest.mark.parametrize("wavelet", ["haar", "sym2"])
def test_the_transform_of_any_length(wavelet: str) -> None:
    draws = np.random.default_rng(0)
    for size, levels in ((4, 4), (17, 3), (33, 0)):
        row = draws.normal(size=size)
        made = wavelets.transform(jnp.asarray(row[None], jnp.float32), wavelet, levels)
        np.testing.assert_allclose(made[0], np.concatenate(decomposed(row, wavelet, levels)), atol=1e-5)
        assert made.shape[1] == wavelets.num_coefficients(size, wavelet, levels)
        np.testing.assert_allclose(wavelets.inverse(made, size, wavelet, levels)[0], row, atol=1e-5)
        other = draws.normal(size=made.shape[1])
        ends = np.cumsum([len(part) for part in decomposed(row, wavelet, levels)])[:-1]
        back = wavelets.inverse(jnp.asarray(other[None], jnp.float32), size, wavelet, levels)[0]
        np.testing.assert_allclose(back, recomposed(np.split(other, ends), wavelet, size), atol=1e-5)


def gamma(number: int) -> int:
    return 2 * (int(number).bit_length() - 1) + 1


@pytest.mark.parametrize("wavelet", ["haar", "sym2"])
def test_a_loop_over_nodes(wavelet: str) -> None:
    levels = 2
    algorithm = algorithms.jwins(PROBLEM, optax.sgd(six.RATE), cut_offs=CUT_OFFS, wavelet=wavelet, levels=levels)
    states = six.play(algorithm, NETWORK)
    x, gradient, w = six.start(), six.gradients(PROBLEM), six.matrix()
    size = six.DIMENSION
    lengths = [len(part) for part in decomposed(x[0], wavelet, levels)]

    def transform(row: np.ndarray) -> np.ndarray:
        return np.concatenate(decomposed(row, wavelet, levels))

    v = np.zeros((six.NUM_NODES, sum(lengths)))
    models, bits = [x], 0
    for t, present in enumerate(six.ROLL_CALL):
        key = keys.stream(jax.random.fold_in(jax.random.key(0), t), "cut-off")
        draws = np.asarray(keys.node_uniform(key, NETWORK.node_ids, 1))[:, 0]
        y = np.stack([x[i] - six.RATE * gradient(i, x[i]) for i in range(six.NUM_NODES)])
        c, chosen = np.stack([transform(row) for row in y]), np.zeros(v.shape, bool)
        for i in range(six.NUM_NODES):
            num = max(1, round(CUT_OFFS[int(draws[i] * len(CUT_OFFS))] * v.shape[1]))
            score = np.abs(v[i] + transform(y[i] - x[i])).astype(np.float32)
            chosen[i, np.argsort(-score, kind="stable")[:num]] = True
        new_x, new_v = x.copy(), v.copy()
        for i in np.flatnonzero(present):
            mixed = c[i].copy()
            for j in np.flatnonzero(present):
                if j != i and w[i, j] > 0:
                    mixed[chosen[j]] += w[i, j] * (c[j] - c[i])[chosen[j]]
                    places = np.flatnonzero(chosen[j])
                    bits += 32 * len(places)
                    if len(places) < v.shape[1]:
                        bits += sum(gamma(gap) for gap in np.diff(places, prepend=-1))
            new_x[i] = recomposed(np.split(mixed, np.cumsum(lengths)[:-1]), wavelet, size)
            new_v[i] = np.where(chosen[i], 0, v[i]) + transform(new_x[i] - x[i])
        x, v = new_x, new_v
        models.append(x)
    six.agree(six.models(states), np.stack(models))
    np.testing.assert_allclose(states[-1][0].importance, v, atol=1e-4)
    assert to_float(states[-1][1].traffic.bits).sum() == bits


def test_the_largest_of_each_row_by_a_number_of_its_own() -> None:
    draws = np.random.default_rng(1)
    values = draws.normal(size=(7, 300)).astype(np.float32)
    values[3] = 0
    values[4, 10:] = 0
    values[5] = np.sign(values[5])
    k = np.array([1, 300, 17, 40, 20, 123, 299])
    found = np.asarray(largest_of_each(jnp.asarray(values), jnp.asarray(k)))
    for row in range(7):
        order = np.argsort(-np.abs(values[row]), kind="stable")[: k[row]]
        np.testing.assert_array_equal(np.flatnonzero(found[row]), np.sort(order))


def test_a_message_says_how_little_it_holds() -> None:
    """Only what is sent counts, and what a node did not hear of changes nothing."""
    x = jnp.arange(12.0).reshape(6, 2) + 1
    mask = jnp.asarray([[True, False]] * 6)
    packet, after = NETWORK.send(jax.random.key(0), jnp.where(mask, x, 0), is_sent=mask, header_bits=5)
    degrees = np.asarray(NETWORK.out_degrees)
    np.testing.assert_array_equal(to_float(after.state.traffic.bits), 37 * degrees)
    np.testing.assert_array_equal(NETWORK.combine(packet, jnp.zeros_like(x))[:, 1], 0)
    with pytest.raises(ValueError, match=r"send: is_sent must be of shape \[6, 2\]"):
        NETWORK.send(jax.random.key(0), x, is_sent=mask[:, :1])


def test_what_lies_still_is_not_sent_again() -> None:
    """Two of eight numbers move: with a quarter sent, it is those, and all agree on them as D-SGD would."""
    inputs = np.zeros((6, 4, 8))
    inputs[:, :, 1:3] = np.random.default_rng(0).standard_normal((6, 4, 2))
    problem = dlsim.problems.least_squares(inputs, np.ones((6, 4)), ridge=1e-3)
    part, whole = (
        algorithms.jwins(problem, optax.sgd(0.1), cut_offs=(share,), levels=0) for share in (0.25, 1.0)
    )  # fmt: skip
    ends = [
        dlsim.simulate(
            dlsim.learn(problem, method, NETWORK, initial_params=jnp.zeros(8)), seed=0, num_steps=10, progress=False
        )
        for method in (part, whole)
    ]
    np.testing.assert_allclose(ends[0].params, ends[1].params, atol=1e-6)
    bits = [run.results.bits_sent.values[-1] for run in ends]
    assert bits[0] == 0.25 * bits[1] + 10 * 12 * (3 + 1)  # gaps of 2 and 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"cut_offs": ()}, "jwins: cut_offs must be one or more numbers in"),
        ({"cut_offs": (0.5, 0.0)}, r"jwins: cut_offs must be a number in \(0, 1\], got 0"),
        ({"cut_offs": (1.5,)}, r"jwins: cut_offs must be a number in \(0, 1\], got 1.5"),
        ({"wavelet": "sym3"}, "jwins: wavelet must be one of"),
        ({"levels": -1}, "jwins: levels must be an integer >= 0, got -1"),
    ],
)
def test_refusals(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        algorithms.jwins(PROBLEM, optax.sgd(0.1), **options)


def test_a_model_too_small_for_the_filter() -> None:
    problem = dlsim.problems.quadratic(4, 2)
    line = "jwins: wavelet must be one whose filter fits the 2 numbers of a model, got 'sym2'. Use wavelet=\"haar\""
    with pytest.raises(ValueError, match=line):
        dlsim.learn(problem, algorithms.jwins(problem, optax.sgd(0.1)), networks.ring(4)).init(jax.random.key(0))
