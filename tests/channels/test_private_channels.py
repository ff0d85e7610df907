"""Clipping and noise, and private rounding: their distributions, what they send, what goes wrong."""

import jax
import numpy as np
import optax
import pytest

import dlsim
from dlsim import networks, privacy
from dlsim.core import SERVER, Packet, Route
from dlsim.networks.messages import message_bits

KEY = jax.random.key(3)
SETTINGS = ((2, 0.3, 0.5), (3, 0.6, 0.2), (5, 0.4, 0.8), (16, 0.42, 1.0))  # m, q, Delta
INPUTS = np.array([-1.0, -0.3, 0.0, 0.37, 1.0], np.float32)


def put(channel, values, key=KEY, ids=None):
    num, dimension = values.shape
    ids = np.arange(num) if ids is None else np.asarray(ids)
    full = [np.full(num, size, np.uint32) for size in (dimension, 32, 0)]
    return jax.jit(channel.send)(key, channel.init(values, num), Packet(values, *full), Route(ids, ids, ids))


def chi_square(codes: np.ndarray, pmf: np.ndarray) -> float:
    """Over its degrees of freedom, cells of fewer than ten expected put together."""
    expected = pmf * codes.size
    counts = np.bincount(codes.astype(int).ravel(), minlength=len(pmf)).astype(float)
    rare = expected < 10
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        counts = np.append(counts[~rare], counts[rare].sum())
    kept = expected > 0
    assert counts[~kept].sum() == 0
    return float((np.square(counts - expected)[kept] / expected[kept]).sum() / max(kept.sum() - 1, 1))


@pytest.mark.parametrize(("num_levels", "keep", "extension"), SETTINGS)
def test_rqm_draws_from_its_distribution(num_levels: int, keep: float, extension: float) -> None:
    clip, num = 0.5, 100_000  # scale-free: everything in clips
    values = np.repeat(clip * INPUTS[:, None], num, axis=1)
    arguments = {"clip": clip, "extension": clip * extension, "num_levels": num_levels, "keep_probability": keep}
    sent = np.asarray(put(networks.rqm(**arguments), values)[1].values, np.float64)
    span = clip * (1 + extension)
    codes = (sent / span + 1) * (num_levels - 1) / 2
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
    pmf = privacy.rqm_pmf(clip * INPUTS, **arguments)
    for row, expected in zip(np.rint(codes), pmf, strict=True):
        # 1 is expected; the 1e-6 quantile for up to 15 degrees of freedom is 3.6, for one 24.
        assert chi_square(row, expected) < (24 if num_levels == 2 else 12 if num_levels == 3 else 6)


@pytest.mark.parametrize("theta", [0.15, 0.35])
def test_poisson_binomial_draws_from_its_distribution(theta: float) -> None:
    clip, num = 2.0, 100_000
    values = np.repeat(clip * INPUTS[:, None], num, axis=1)
    channel = networks.poisson_binomial(clip=clip, theta=theta)
    sent = np.asarray(put(channel, values)[1].values, np.float64)
    codes = (sent * theta / clip + 0.5) * 15
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    for row, expected in zip(np.rint(codes), privacy.poisson_binomial_pmf(INPUTS, theta=theta), strict=True):
        assert chi_square(row, expected) < 6
    variance = clip**2 * (0.25 - theta**2 * INPUTS**2) / (15 * theta**2)
    np.testing.assert_allclose(sent.var(axis=1), variance, rtol=0.02)
    np.testing.assert_allclose(sent.mean(axis=1), clip * INPUTS, atol=5 * np.sqrt(variance.max() / num))


ROUNDING = (
    (networks.rqm(clip=1.0, extension=0.66), 1.66, 16),
    (networks.rqm(clip=1.0, extension=1.0, num_levels=5), 2.0, 5),
    (networks.poisson_binomial(clip=1.0, theta=0.25), 0.5 / 0.25, 16),
    (networks.clipped_rounding(clip=1.0, num_levels=7), 1.0, 7),
)


@pytest.mark.parametrize(
    ("channel", "span", "num_levels"), [*ROUNDING, (networks.dp_gaussian(clip=1.0, noise_multiplier=1.0), None, 2**32)]
)
def test_codes_servers_and_numbers_that_are_not(channel: dlsim.Channel, span: float | None, num_levels: int) -> None:
    """What is sent is as long as the channel counts; a server's message goes as it is; nothing is hidden by a clip."""
    values = 2 * np.random.default_rng(0).normal(size=(4, 37)).astype(np.float32)
    values[1, 3], values[2, 4] = np.nan, np.inf
    _, packet = put(channel, values, ids=[0, 1, 2, SERVER])
    np.testing.assert_array_equal(packet.values[3], values[3])
    np.testing.assert_array_equal(np.isfinite(packet.values).all(axis=1), [True, False, False, True])
    bits = np.asarray(message_bits(packet).low)
    assert bits[3] == 37 * 32 and (bits[:3] == 37 * np.ceil(np.log2(num_levels))).all()
    if span is not None:
        codes = (np.asarray(packet.values, np.float64)[0] / span + 1) * (num_levels - 1) / 2
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
        sent_bits, width = networks.encode(channel, packet, 0), int(bits[0]) // 37
        words = sent_bits.reshape(37, width) @ (1 << np.arange(width)[::-1])
        np.testing.assert_array_equal(words, np.rint(codes))


def test_clipped_rounding_is_unbiased_and_near() -> None:
    values = np.repeat(np.array([[-2.0], [-0.31], [0.4], [1.0]], np.float32), 100_000, axis=1)
    sent = np.asarray(put(networks.clipped_rounding(clip=1.0, num_levels=5), values)[1].values)
    wanted = np.clip(values[:, :1], -1, 1)
    assert np.abs(sent - wanted).max() <= 0.5
    np.testing.assert_allclose(sent.mean(axis=1), wanted[:, 0], atol=5 * 0.25 / np.sqrt(1e5))


def test_gaussian_clips_each_message_and_adds_its_noise() -> None:
    values = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [3e30, 4e30]], np.float32)
    np.testing.assert_allclose(
        put(networks.dp_gaussian(clip=1.0, noise_multiplier=0.0), values)[1].values,
        [[0.6, 0.8], [0.3, 0.4], [0, 0], [0.6, 0.8]],
        rtol=1e-6,
    )
    many = np.zeros((4, 100_000), np.float32)
    many[:, 0] = 50.0
    noise = np.asarray(put(networks.dp_gaussian(clip=2.0, noise_multiplier=1.5), many)[1].values)[:, 1:]
    np.testing.assert_allclose(noise.std(axis=1), 3.0, rtol=0.01)
    np.testing.assert_allclose(noise.mean(axis=1), 0.0, atol=0.05)
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.02


def test_floats_may_be_traced() -> None:
    values = np.asarray(jax.random.normal(KEY, (3, 5)))

    def make(x):
        return (
            networks.dp_gaussian(clip=x, noise_multiplier=x),
            networks.rqm(clip=x, extension=x, keep_probability=x),
            networks.poisson_binomial(clip=x, theta=x),
            networks.clipped_rounding(clip=x),
        )

    both = jax.jit(lambda x: [[put(one, values)[1].values for one in make(y)] for y in (x, 0.4)])(0.4)
    for traced, known in zip(*both, strict=True):
        np.testing.assert_allclose(traced, known, rtol=1e-5)


def test_releases_are_counted_by_node_and_the_budget_is_recorded() -> None:
    problem = dlsim.problems.quadratic(6, 3, seed=0)
    channel = networks.chain(networks.dp_gaussian(clip=1.0, noise_multiplier=2.0), networks.quantize(8))
    network = networks.complete(6).with_channel(channel)
    scenario = networks.participation(2)
    algorithm = dlsim.algorithms.fedavg(problem, optax.sgd(0.1))
    process = dlsim.learn(problem, algorithm, network, scenario)
    curve = privacy.gaussian(2.0, neighbors="replace")
    record = dlsim.Record(every=5, fn=privacy.spent(process, curve, delta=1e-5, by_node=True))
    run = dlsim.simulate(process, seed=[0, 1], num_steps=20, record=record)
    count = np.asarray(run.state.network.channels["uplink"][0].num_sent)
    assert count.shape == (2, 6) and (count.sum(axis=1) == 2 * 20).all() and count.min() < count.max()
    assert int(run.state.network.channels["downlink"][0].num_sent.max()) == 0
    by_node = run.results.epsilon_by_node.isel(step=-1).values
    np.testing.assert_array_equal(run.results.epsilon.isel(step=-1), by_node.max(axis=1))
    orders = np.asarray(curve.orders)
    spent = count[..., None] * np.asarray(curve.values)
    formula = spent + np.log1p(-1 / orders) - np.log(1e-5 * orders) / (orders - 1)
    np.testing.assert_allclose(by_node, formula.min(axis=-1), rtol=1e-4)
    assert (run.results.epsilon.isel(step=0) == 0).all() and "accuracy" not in run.results


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: networks.dp_gaussian(clip=0.0, noise_multiplier=1.0), "dp_gaussian: clip must be "),
        (lambda: networks.dp_gaussian(clip=1.0, noise_multiplier=-1.0), "dp_gaussian: noise_multiplier must be "),
        (lambda: networks.rqm(clip=-1.0, extension=1.0), "rqm: clip must be "),
        (
            lambda: networks.rqm(clip=1.0, extension=0.0),
            r"rqm: extension must be greater than 0, got 0\.0\. Without it there is no privacy: use clipped_rounding",
        ),
        (lambda: networks.rqm(clip=1.0, extension=1.0, keep_probability=1.0), "rqm: keep_probability must be .*1"),
        (lambda: networks.rqm(clip=1.0, extension=1.0, num_levels=1), "rqm: num_levels must be "),
        (lambda: networks.poisson_binomial(clip=1.0, theta=0.5), "poisson_binomial: theta must be .*0.5"),
        (lambda: networks.poisson_binomial(clip=1.0, theta=0.2, num_trials=0), "poisson_binomial: num_trials must be "),
    ],
)
def test_bad_input_gets_a_line(make, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
