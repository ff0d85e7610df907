"""Which runs share a program: never two that compute different things, and all that differ in data alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec
from tiny_sweeps import quadratic, walk

import dlsim
from dlsim import networks
from dlsim.core import Process
from dlsim.networks.mixing import UNROLL
from dlsim.running.programs import trace
from dlsim.sweeps.groups import group_runs
from dlsim.sweeps.signature import content, signature
from dlsim.sweeps.source import from_function
from dlsim.sweeps.topologies import common_forms

HIGH, DEFAULT = jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT
EVEN, AWAY = jax.lax.RoundingMethod.TO_NEAREST_EVEN, jax.lax.RoundingMethod.AWAY_FROM_ZERO


def common_form(given):
    """The networks in the forms that they share."""
    forms = common_forms(given)
    return [one if form is None else form.of(one) for one, form in zip(given, forms, strict=True)]


def traced_step(step, init=lambda key: jnp.arange(3.0), measure=lambda state, info: {"state": state}):
    process = Process(init=init, step=lambda key, state: (step(key, state), {}), measure=measure)
    return trace(lambda _: (process, measure), {}, jax.random.key(0))


def row(value):
    return jnp.full(3, float(value))


def jitted(value):
    added = row(value)
    return jax.jit(lambda s: s + added)


def nested_jit(value):
    added = np.arange(5000) * value  # more than str() shows of an array
    inner = jax.jit(lambda s: s + jnp.asarray(added).sum())
    return jax.jit(lambda s: inner(s) + 1)


def with_jvp(value):
    @jax.custom_jvp
    def double(x):
        return 2 * x

    double.defjvp(lambda primals, tangents: (double(primals[0]), tangents[0] * value))
    return jax.grad(lambda s: double(s).sum())


def with_vjp(value):
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (double(x), None), lambda _, g: (g * value,))
    return jax.grad(lambda s: double(s).sum())


def with_vmap_rule(value):
    @jax.custom_batching.custom_vmap
    def double(x):
        return 2 * x

    double.def_vmap(lambda size, batched, x: (2 * x + value, True))
    return double


def with_callback(value):
    def host(x):
        return np.asarray(x) * np.float32(value)

    return lambda s: jax.pure_callback(host, jax.ShapeDtypeStruct((3,), jnp.float32), s, vmap_method="sequential")


def with_debug_callback(value):
    def step(s):
        jax.debug.callback(lambda x: value, s)
        return s

    return step


def on_mesh(value):
    mesh = Mesh(np.array(jax.devices()[:1]), "x")
    return jax.shard_map(lambda s: s * value, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec())


DIFFERENT = {
    "a literal in the ninth digit": (lambda v: lambda s: s * v, 0.123456712, 0.123456798),
    "an int": (lambda v: lambda s: s + v, 1, 2),
    "the sign of zero": (lambda v: lambda s: s * v, 0.0, -0.0),
    "a NumPy scalar": (lambda v: lambda s: s * v, np.float32(1), np.float32(2)),
    "an axis": (lambda v: lambda s: s + jnp.sum(jnp.outer(s, s + 1), axis=v), 0, 1),
    "a direction": (lambda v: lambda s: jax.lax.cumsum(s, reverse=v), True, False),
    "a dtype on the way": (lambda v: lambda s: s.astype(v).astype(jnp.float32), jnp.float16, jnp.bfloat16),
    "a precision": (lambda v: lambda s: jnp.dot(jnp.outer(s, s), s, precision=v), HIGH, DEFAULT),
    "a way to round": (lambda v: lambda s: jax.lax.round(s, v), EVEN, AWAY),
    "a position": (lambda v: lambda s: s.at[v].add(1.0), 0, 1),
    "a rule for what is out of bounds": (lambda v: lambda s: s.at[jnp.array([0, 9])].add(1.0, mode=v), "drop", "clip"),
    "an order": (lambda v: lambda s: jnp.sort(s, descending=v), True, False),
    "an array in an inner jit": (jitted, 1, 2),
    "a long array in two inner jits": (nested_jit, 1, 2),
    "an array in a jit in a scan": (
        lambda v: lambda s: jax.lax.scan(lambda c, _: (jitted(v)(c), 0.0), s, None, 3)[0],
        1,
        2,
    ),
    "a literal in a scan": (lambda v: lambda s: jax.lax.scan(lambda c, _: (c * v, 0.0), s, None, 3)[0], 1.5, 2.5),
    "the length of a scan": (lambda v: lambda s: jax.lax.scan(lambda c, _: (c + 1, 0.0), s, None, v)[0], 3, 4),
    "the bound of a loop": (lambda v: lambda s: jax.lax.fori_loop(0, v, lambda i, c: c * 2, s), 3, 4),
    "the end of a while": (lambda v: lambda s: jax.lax.while_loop(lambda c: c[0] < v, lambda c: c + 1, s), 3.0, 4.0),
    "a branch": (lambda v: lambda s: jax.lax.cond(s[0] > 0, lambda c: c + v, lambda c: c, s), 1.0, 2.0),
    "the order of branches": (
        lambda v: lambda s: jax.lax.switch(jnp.int32(s[0]), [jnp.sin, jnp.cos][::v], s),
        1,
        -1,
    ),
    "a rule of derivatives, forward": (with_jvp, 1.5, 2.5),
    "a rule of derivatives, backward": (with_vjp, 1.5, 2.5),
    "a rule of batching": (with_vmap_rule, 1.5, 2.5),
    "a function of the host": (with_callback, 1.5, 2.5),
    "a callback that looks on": (with_debug_callback, 1, 2),
    "a message": (lambda v: lambda s: (jax.debug.print(v, s), s)[1], "a {}", "b {}"),
    "a literal on a mesh": (on_mesh, 1.5, 2.5),
    "a function of a reduction": (
        lambda v: lambda s: s + jax.lax.reduce(s, np.float32(0), lambda a, b: a + v * b, (0,)),
        1.5,
        2.5,
    ),
    "an inner solve": (
        lambda v: lambda s: jax.lax.custom_linear_solve(lambda x: x * v, s, lambda _, b: b / v),
        1.5,
        2.5,
    ),
    "a number of draws": (lambda v: lambda s: s + jax.random.normal(jax.random.key(0), (v, 3)).sum(0), 3, 4),
    "a stream of draws": (
        lambda v: lambda s: s + jax.random.normal(jax.random.fold_in(jax.random.key(0), v), (3,)),
        3,
        4,
    ),
    "a kind of draws": (lambda v: lambda s: s + v(jax.random.key(0), (3,)), jax.random.normal, jax.random.uniform),
    "a generator": (lambda v: lambda s: s + jax.random.normal(jax.random.key(0, impl=v), (3,)), "rbg", "threefry2x32"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_computes_other_things_never_shares_a_program(name):
    make, one, other = DIFFERENT[name]
    first, second, again = (traced_step(lambda key, s, fn=make(v): fn(s)) for v in (one, other, one))
    assert signature(first) != signature(second)
    if "callback" not in name and "host" not in name and "batching" not in name:  # those cannot be compared
        assert signature(first) == signature(again)


SHARED = {
    "an array": lambda v: (lambda a: lambda key, s: s + a)(row(v)),
    "an array in a rule": lambda v: (lambda a: lambda key, s: jax.grad(lambda x: (jnp.sin(x) * a).sum())(s))(row(v)),
    "an array in a branch": lambda v: (
        lambda a: lambda key, s: jax.lax.cond(s[0] > 0, lambda c: c + a, lambda c: c, s)
    )(row(v)),
    "an array in a scan": lambda v: (
        lambda a: lambda key, s: jax.lax.scan(lambda c, _: (c * a, 0.0), s, None, length=3)[0]
    )(row(v)),
    "a table of positions": lambda v: (lambda a: lambda key, s: s[a])(np.array([0, v, 2]) % 3),
    "a key": lambda v: (lambda k: lambda key, s: s + jax.random.normal(k, (3,)))(jax.random.key(v)),
}


@pytest.mark.parametrize("name", SHARED)
def test_arrays_that_are_closed_over_are_data(name):
    """One program for both, and each gets its own array back."""

    def make(which):
        step = SHARED[name](which)
        return Process(
            init=lambda key: jnp.arange(1.0, 4.0), step=lambda key, s: (step(key, s), {}), measure=lambda s, _: {"s": s}
        )

    groups = groups_of(make, {"which": [1, 2, 3]})
    assert len(groups) == 1 and len(groups[0].members) == 3
    results = dlsim.sweep(make, which=[1, 2, 3], seed=0, num_steps=2, layout="vmap", progress=False)
    for which in (1, 2, 3):
        process, state = make(which), jnp.arange(1.0, 4.0)
        for _ in range(2):
            state, _ = process.step(jax.random.key(0), state)
        np.testing.assert_allclose(results.s.sel(which=which).values[0, -1], state, rtol=1e-6)


def test_names_and_sizes_of_results_count():
    def step(key, s):
        return s

    plain = traced_step(step)
    renamed = traced_step(step, measure=lambda state, info: {"other": state})
    longer = traced_step(step, init=lambda key: jnp.arange(4.0))
    whole = traced_step(step, init=lambda key: jnp.arange(3))
    assert len({signature(one) for one in (plain, renamed, longer, whole)}) == 4


def test_content():
    assert content(np.zeros(2, np.float32)) == content(jnp.zeros(2))
    others = [np.zeros(2), np.zeros((2, 1), np.float32), -np.zeros(2, np.float32), np.zeros(3, np.float32)]
    assert len({content(one) for one in (np.zeros(2, np.float32), *others)}) == 5
    assert content(jax.random.key(1)) != content(jax.random.key(2))


def groups_of(make, axes, num_steps=4, seeds=(0,), **more):
    return group_runs(from_function(make, axes, seeds, num_steps, dlsim.Record(every=2)), **more)


def test_floats_and_seeds_are_data_and_ints_are_structure():
    groups = groups_of(walk, {"rate": [0.1, 0.2], "size": [2, 3], "scale": [1.0]}, seeds=(1, 2, 3))
    assert [len(group.members) for group in groups] == [6, 6]
    assert [group.label for group in groups] == ["2", "3"]
    assert {tuple(run.values) for group in groups for run in group.members} == {("rate", "scale")}
    assert all(group.state_bytes == 4 * group.members[0].choice["size"] for group in groups)


def host(alpha=0.5, rate=0.9, jointly=False):
    """`alpha` is used on the host; with `jointly`, the two floats cannot be tracers at once, though each may."""
    table = jnp.asarray(np.linspace(0, float(alpha), 3), jnp.float32)
    if jointly and isinstance(rate, jax.core.Tracer):
        float(rate)
    return Process(
        init=lambda key: jnp.zeros(3), step=lambda key, s: (rate * s + table, {}), measure=lambda s, _: {"s": s}
    )


def test_a_float_of_the_host_is_structure_beside_one_that_is_data():
    groups = groups_of(host, {"alpha": [0.1, 0.3], "rate": [0.5, 0.9]})
    assert len(groups) == 1 and len(groups[0].members) == 4  # the tables it makes are data all the same
    assert {tuple(run.values) for run in groups[0].members} == {("rate",)}
    by_choice = {(run.choice["alpha"], run.choice["rate"]): run for run in groups[0].members}
    assert by_choice[0.1, 0.5].variant == by_choice[0.1, 0.9].variant != by_choice[0.3, 0.9].variant


def either(first=0.5, second=0.5):
    """Takes one of its floats on the host: whichever is no tracer."""
    if all(isinstance(value, jax.core.Tracer) for value in (first, second)):
        float(first)
    return walk(rate=first * second)


def test_floats_that_cannot_be_data_together():
    groups = groups_of(either, {"first": [0.5, 0.25], "second": [0.5, 0.25]})
    assert {tuple(run.values) for group in groups for run in group.members} == {("first",)}
    results = dlsim.sweep(either, first=[0.5, 0.25], second=[0.5, 0.25], seed=0, num_steps=4, progress=False)
    total = results.total.isel(seed=0, step=-1)
    alone = dlsim.simulate(walk(0.125), seed=0, num_steps=4, progress=False).results.total.values[-1]
    np.testing.assert_allclose(total.sel(first=0.25, second=0.5), alone, rtol=1e-5)
    np.testing.assert_allclose(total.sel(first=0.5, second=0.25), alone, rtol=1e-5)


def dense(network):
    return networks.mixing_matrix(network).toarray()


def test_common_forms_of_small_networks():
    mixed = [networks.ring(8), networks.star(8), networks.complete(8), None, networks.ring(5)]
    formed = common_form(mixed)
    assert [one.lowering for one in formed[:3]] == ["neighbors"] * 3
    assert {one.neighbors.shape for one in formed[:3]} == {(8, 7)}
    assert formed[3] is None and formed[4] is mixed[4]  # alone of its size
    for before, after in zip(mixed[:3], formed[:3], strict=True):
        np.testing.assert_allclose(dense(after), dense(before), rtol=1e-6)
        value = jax.random.normal(jax.random.key(0), (8, 2))
        ours, theirs = (one.mix(jax.random.key(1), value)[0] for one in (after, before))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_common_forms_of_wide_and_of_large_networks(monkeypatch):
    wide = [networks.ring(UNROLL + 4), networks.complete(UNROLL + 4)]
    assert [form.width for form in common_forms(wide)] == [0, 0]
    assert [one.lowering for one in common_form(wide)] == ["dense", "dense"]
    monkeypatch.setattr("dlsim.sweeps.topologies.DENSE_NODES", {jax.default_backend(): 10})
    large = [networks.ring(64), networks.torus(64), networks.hypercube(64), networks.complete(64)]
    forms = common_forms(large)
    assert [form and form.width for form in forms] == [4, 4, None, None]  # hypercube and complete: alone in their class
    assert common_forms([large[0], large[0]]) == [None, None]


def test_a_form_keeps_channel_links_and_a_network_that_is_too_wide():
    channel = networks.loss(0.5)
    formed = common_forms([networks.ring(6), networks.star(6)])[0].of(networks.ring(6).with_channel(channel))
    assert formed.channel is channel
    narrow, complete = common_forms([networks.ring(8), networks.grid(8)])[0], networks.complete(8)
    assert narrow.of(complete) is complete


def test_topologies_of_one_size_are_data():
    axes = {"topology": ["ring", "star", "complete"], "learning_rate": [0.1, 0.2], "num_nodes": [5, 6]}
    assert sorted(len(group.members) for group in groups_of(quadratic, axes)) == [6, 6]
    assert len(groups_of(quadratic, axes, common_topologies=False)) == 6


def test_records_and_axes_of_one_name():
    def make(total=0.5):
        return walk(rate=total)

    with pytest.raises(
        ValueError, match="records must be of other names than the axes, .* got 'total'. Rename"
    ) as caught:
        groups_of(make, {"total": [0.5, 0.6]})
    assert "\n" not in str(caught.value)


def test_bad_values_of_any_axis_are_told_before_anything_runs():
    def make(rate, kind="a"):
        if rate == 0.7 or kind == "c":
            raise ValueError(f"make: bad {rate} {kind}")
        return walk(rate)

    with pytest.raises(ValueError, match="make: bad 0.7 a"):
        groups_of(make, {"rate": [0.5, 0.7]})
    with pytest.raises(ValueError, match="make: bad 0.5 c"):
        groups_of(make, {"rate": [0.5, 0.6], "kind": ["a", "b", "c"]})


def test_the_rate_of_an_event_method_is_data():
    """Its tape is drawn on the host while the process is traced."""

    def make(rate=0.1):
        problem = dlsim.problems.quadratic(4, 2, seed=0)
        algorithm = dlsim.algorithms.ad_psgd(problem, optax.sgd(rate))
        return dlsim.learn(problem, algorithm, dlsim.networks.ring(4))

    groups = groups_of(make, {"rate": [0.1, 0.2, 0.3]}, seeds=(0, 1))
    assert [len(group.members) for group in groups] == [6]
