"""Waves against a loop over events, and wave play against one event at a time, bit for bit."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlsim import clocks, networks

KEY = jax.random.key(3)
GRAPHS = {
    "4-regular": lambda: networks.random_regular(40, degree=4, seed=1),
    "erdos-renyi": lambda: networks.erdos_renyi(40, probability=0.15, seed=2),
    "star": lambda: networks.star(12),
    "pair": lambda: networks.complete(2),
}


@functools.cache
def tape_of(name, communication="edges"):
    network = GRAPHS[name]()
    return clocks.make_tape(
        network, clocks.log_normal(1.0, 0.8), clocks.poisson(0.8), KEY, 5.0, communication=communication
    )


def waves_by_loop(tape):
    standing, waves = np.zeros(tape.num_nodes, int), []
    for a, b in zip(tape.a, tape.b, strict=True):
        nodes = [a] if b < 0 else [a, b]
        waves.append(int(standing[nodes].max()))
        standing[nodes] = waves[-1] + 1
    return np.array(waves)


@pytest.mark.parametrize("name", GRAPHS)
def test_waves_are_the_earliest_that_dependencies_allow(name):
    tape = tape_of(name)
    waves, expected = clocks.make_waves(tape), waves_by_loop(tape)
    np.testing.assert_array_equal(np.repeat(np.arange(waves.num_waves), waves.widths), expected[waves.order])
    np.testing.assert_array_equal(waves.order, np.argsort(expected, kind="stable"))
    for begin, end in zip(waves.starts[:-1], waves.starts[1:], strict=True):
        events = waves.order[begin:end]
        nodes = np.concatenate([tape.a[events], tape.b[events]])
        nodes = nodes[nodes >= 0]
        assert len(np.unique(nodes)) == len(nodes)


def test_waves_of_a_tape_found_in_several_calls(monkeypatch):
    tape = tape_of("4-regular")
    monkeypatch.setattr("dlsim.clocks.waves.PIECE", 100)
    np.testing.assert_array_equal(clocks.make_waves(tape).order, np.argsort(waves_by_loop(tape), kind="stable"))


@pytest.mark.parametrize("width", [None, 1, 3, 64])
@pytest.mark.parametrize("name", GRAPHS)
def test_blocks_hold_every_event_once_in_an_order_that_respects_dependencies(name, width):
    tape = tape_of(name)
    blocks = clocks.pack(clocks.make_waves(tape), tape, width=width, multiple=7)
    assert blocks.num_blocks % 7 == 0 and (width is None or blocks.width == width)
    is_event = blocks.position != clocks.waves.NOTHING
    played = blocks.position[is_event].astype(np.int64)
    np.testing.assert_array_equal(np.sort(played), np.arange(len(tape)))
    assert (np.diff(waves_by_loop(tape)[played]) >= 0).all()
    kinds = np.asarray(blocks.kinds)[np.broadcast_to(blocks.kind[:, None], blocks.a.shape)]
    np.testing.assert_array_equal(kinds[is_event], tape.kind[played])
    np.testing.assert_array_equal(blocks.a[is_event], tape.a[played])
    has_b = tape.b[played] >= 0
    np.testing.assert_array_equal(blocks.b[is_event][has_b], tape.b[played][has_b])
    np.testing.assert_array_equal(blocks.number[is_event], tape.number[played])
    np.testing.assert_allclose(blocks.seconds[is_event], tape.seconds[played], rtol=1e-6)
    np.testing.assert_allclose(blocks.since_b[is_event], clocks.to_seconds(tape.since_b[played]), rtol=1e-6)
    for row in np.concatenate([blocks.a, blocks.b], axis=1):
        assert len(np.unique(row)) == len(row)  # what scatters may rely on
    assert (np.concatenate([blocks.a[~is_event], blocks.b[~is_event]]) >= tape.num_nodes).all()


def test_the_width_is_the_cheapest():
    sizes = np.array([10, 100, 100, 3])
    for overhead in (0, 5, 1000):
        widths = (8, 16, 24, 32, 48, 64, 96, 104)
        cost = {width: sum(-(-int(size) // width) for size in sizes) * (width + overhead) for width in widths}
        assert cost[clocks.choose_width(sizes, overhead)] == min(cost.values())
    assert clocks.choose_width(sizes, 10**6) == 104 and clocks.choose_width(np.zeros(0, int)) == 8


# What events may do: rows of several leaves, both rows, the event's own key, the time since the node's last event.
def average(events, a, b):
    middle = jax.tree.map(lambda x, y: (x + y) * jnp.asarray(0.5, x.dtype), a, b)
    return middle, middle


def shrink(events, a):
    del events
    return jax.tree.map(lambda x: x * jnp.asarray(0.875, x.dtype), a)


def noisy_exchange(events, a, b):
    """Each row flows since its node's last event, takes a random share of the other, which is not symmetric."""

    def noise(key):
        return jax.random.normal(key, (5,)), jax.random.uniform(key)

    draws, share = jax.vmap(noise)(clocks.event_keys(KEY, events))
    flow_a, flow_b = jnp.exp(-events.since_a)[:, None], jnp.exp(-2 * events.since_b)[:, None]
    x, y = a["x"] * flow_a, b["x"] * flow_b
    new_x = x + share[:, None] * (y - x) + draws * 0.1
    return (
        {"x": new_x, "age": jnp.maximum(a["age"], b["age"]) + 1},
        {"x": jnp.tanh(y - 0.5 * new_x + draws), "age": b["age"] + 2},
    )


def noisy_gradient(events, a):
    draws = jax.vmap(lambda key: jax.random.normal(key, (5,)))(clocks.event_keys(KEY, events))
    x = a["x"] * jnp.exp(-events.since_a)[:, None]
    return {"x": x - 0.1 * (jnp.cos(x) + draws), "age": a["age"] + 1}


def carry_of(num_nodes):
    x = jax.random.normal(jax.random.key(9), (num_nodes, 5))
    return {"x": x, "age": jnp.arange(num_nodes, dtype=jnp.int32)}


EVENT_FNS = {
    "averaging": {clocks.GRADIENT: shrink, clocks.COMMUNICATION: average},
    "own keys": {clocks.GRADIENT: noisy_gradient, clocks.COMMUNICATION: noisy_exchange},
}


def by_one(carry, tape, functions):
    """One event at a time in order of the tape, a loop of its own that shares nothing with `play`."""

    def events_at(k, kind):
        as_one = lambda value, dtype: jnp.asarray([value], dtype)  # noqa: E731
        return clocks.Events(
            a=as_one(tape.a[k], jnp.int32),
            b=as_one(tape.b[k], jnp.int32),
            kind=kind,
            number=as_one(tape.number[k], jnp.uint32),
            position=as_one(k, jnp.uint32),
            seconds=as_one(tape.seconds[k], jnp.float32),
            since_a=as_one(clocks.to_seconds(tape.since_a[k]), jnp.float32),
            since_b=as_one(clocks.to_seconds(tape.since_b[k]), jnp.float32),
            is_event=jnp.array([True]),
            columns={},
        )

    programs = {
        kind: jax.jit(lambda events, *rows, kind=kind, fn=fn: fn(events._replace(kind=kind), *rows))
        for kind, fn in functions.items()
    }
    state = jax.tree.map(np.array, carry)
    for k in range(len(tape)):
        kind = int(tape.kind[k])
        nodes = [tape.a[k]] if tape.b[k] < 0 else [tape.a[k], tape.b[k]]
        rows = [jax.tree.map(lambda leaf, node=node: leaf[node : node + 1], state) for node in nodes]
        new = programs[kind](events_at(k, kind), *rows)
        for node, row in zip(nodes, (new,) if len(nodes) == 1 else new, strict=True):
            for leaf, value in zip(jax.tree.leaves(state), jax.tree.leaves(row), strict=True):
                leaf[node] = np.asarray(value)[0]
    return state


def same_bits(first, second):
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(x).view(np.int32), np.asarray(y).view(np.int32))


@pytest.mark.parametrize(
    ("name", "what", "communication"),
    [
        ("4-regular", "averaging", "edges"),
        ("erdos-renyi", "averaging", "nodes"),
        ("star", "averaging", "links"),
        ("4-regular", "own keys", "edges"),
        ("star", "own keys", "nodes"),
    ],
)
def test_waves_give_the_bits_of_one_event_at_a_time(name, what, communication):
    tape = tape_of(name, communication)
    carry, functions = carry_of(tape.num_nodes), EVENT_FNS[what]
    expected = by_one(carry, tape, functions)
    traces = []

    @jax.jit
    def program(carry, blocks):
        traces.append(blocks)
        return clocks.play(carry, blocks, functions)

    waves, one = clocks.make_waves(tape), clocks.one_by_one(tape)
    for width in (5, 16):
        found = program(carry, clocks.pack(waves, tape, width=width, multiple=4))
        same_bits(found, program(carry, clocks.pack(one, tape, width=width)))
        if what == "averaging":  # what every compiler rounds alike
            same_bits(found, expected)
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(expected["x"], carry["x"])


def test_averaging_keeps_the_sum_and_meets_a_numpy_loop():
    network = networks.random_regular(50, degree=4, seed=0)
    tape = clocks.make_tape(network, None, clocks.poisson(1.0), KEY, 10.0)
    x = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    expected = x.copy()
    for a, b in zip(tape.a, tape.b, strict=True):
        expected[a] = expected[b] = (expected[a] + expected[b]) * np.float32(0.5)
    found = clocks.play(x, clocks.pack(clocks.make_waves(tape), tape), average)
    same_bits(found, expected)
    np.testing.assert_allclose(found.sum(0), x.sum(0), atol=1e-4)
    assert (found.std(axis=0) < 0.1 * x.std(axis=0)).all()


def test_a_run_may_take_some_blocks_a_step_and_go_through_a_stream():
    tape = tape_of("4-regular")
    functions, carry = EVENT_FNS["own keys"], carry_of(40)
    blocks = clocks.pack(clocks.make_waves(tape), tape, multiple=10)
    whole = clocks.play(carry, blocks, functions)
    step = jax.jit(lambda carry, start: clocks.play(carry, blocks, functions, start=start, num=10))
    stepped = carry
    for start in range(0, blocks.num_blocks, 10):
        stepped = step(stepped, start)
    same_bits(stepped, whole)
    streamed = carry
    traces = []

    @jax.jit
    def program(carry, blocks):
        traces.append(blocks)
        return clocks.play(carry, blocks, functions)

    for piece in clocks.stream_tape(
        GRAPHS["4-regular"](), clocks.log_normal(1.0, 0.8), clocks.poisson(0.8), KEY, 5.0, block=0.37
    ):
        streamed = program(streamed, clocks.pack(clocks.make_waves(piece), piece, width=16, multiple=64))
    same_bits(streamed, whole)
    assert len(traces) == 1  # the pieces share a program


def test_an_empty_piece_changes_nothing():
    first = next(clocks.stream_tape(GRAPHS["star"](), clocks.poisson(0.01), None, KEY, 10.0, block=1e-6))
    assert len(first) == 0
    blocks = clocks.pack(clocks.make_waves(first), first, width=8, multiple=2)
    assert blocks.num_blocks == 2
    same_bits(clocks.play(carry_of(12), blocks, noisy_gradient), carry_of(12))


def test_what_is_collected_comes_in_the_order_of_the_tape():
    tape = clocks.tape(
        6, [5, 2, 5, 5], [0, 1, 0, 2], [3, -1, 4, 5], [1, 2, 3, 4], columns={"weight": np.float32([1, 2, 3, 4])}
    )

    def pair(events, a, b):
        return a + b, b, {"weight": events.columns["weight"], "before": a}

    def node(events, a):
        return a * 10, {"weight": events.columns["weight"], "before": a}

    x = jnp.arange(6.0)
    blocks = clocks.pack(clocks.make_waves(tape), tape, width=2)
    found, collected = clocks.play(x, blocks, {5: pair, 2: node}, collect=True)
    assert found.tolist() == [0 + 3 + 4, 10, 2 + 5, 3, 4, 5]
    ordered = clocks.in_tape_order(collected, blocks)
    assert ordered["weight"].tolist() == [1, 2, 3, 4] and ordered["before"].tolist() == [0, 1, 3, 2]


def test_many_runs_as_one_program():
    tape = tape_of("4-regular")
    blocks = clocks.pack(clocks.make_waves(tape), tape)
    carries = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1]), carry_of(40))
    found = jax.vmap(lambda carry: clocks.play(carry, blocks, EVENT_FNS["own keys"]))(carries)
    for run in range(2):
        one = clocks.play(jax.tree.map(lambda leaf, run=run: leaf[run], carries), blocks, EVENT_FNS["own keys"])
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(x[run], y, rtol=1e-4, atol=1e-5)


def test_nodes_are_updated_in_place():
    """The compiled loop holds the nodes once: no copy of [N, D] inside."""
    tape = tape_of("4-regular")
    blocks = clocks.pack(clocks.make_waves(tape), tape, width=8)
    x = jnp.zeros((40, 50_000))
    for functions in (EVENT_FNS["averaging"], {0: shrink, 1: lambda events, a, b: (a + b, b)}):
        program = jax.jit(lambda x, blocks, fns=functions: clocks.play(x, blocks, fns), donate_argnums=0)
        compiled = program.lower(x, blocks).compile()
        copies = [line for line in compiled.as_text().splitlines() if " copy(" in line and "f32[40,50000]" in line]
        assert copies == [] and compiled.memory_analysis().temp_size_in_bytes < 2 * x.nbytes


def test_events_of_nodes_that_do_not_exist_are_never_shown():
    tape = tape_of("erdos-renyi")
    blocks = clocks.pack(clocks.make_waves(tape), tape, width=32)

    def pair(events, a, b):
        return a, b, (events.a, events.b, events.is_event)

    _, (a, b, is_event) = clocks.play(
        jnp.zeros(40), blocks, {0: lambda e, a: (a, (e.a, e.b, e.is_event)), 1: pair}, collect=True
    )
    assert 0 <= int(a.min()) and int(a.max()) < 40 and int(b.max()) < 40
    assert int(is_event.sum()) == len(tape)


def test_summary_and_plot(tmp_path):
    tape = tape_of("4-regular")
    waves, levels = clocks.make_waves(tape), waves_by_loop(tape)
    summary, widths = clocks.wave_summary(waves), np.bincount(levels)
    nodes = np.concatenate([tape.a, tape.b[tape.b >= 0]])
    assert summary == (
        len(tape),
        len(widths),
        widths.mean(),
        np.median(widths),
        widths.max(),
        np.bincount(nodes).max(),
        len(tape) / np.bincount(nodes).max(),
    )
    assert summary.least_waves <= summary.num_waves and f"{len(tape):,} events in {len(widths):,} waves" in str(summary)
    star = clocks.make_waves(clocks.make_tape(networks.star(12), None, clocks.poisson(1.0), KEY, 9.0))
    assert clocks.wave_summary(star).mean_width == clocks.wave_summary(star).largest_mean_width == 1
    figure = clocks.plot_waves({"4-regular": waves, "star": star})
    along = figure.axes[0].lines
    assert [line.get_label() for line in along] == ["4-regular", "star"] and (along[1].get_ydata() == 1 / 12).all()
    assert along[0].get_ydata().mean() == pytest.approx(widths.mean() / 40)
    figure.savefig(tmp_path / "waves.png")


TAPE = tape_of("4-regular")
WAVES = clocks.make_waves(TAPE)
BLOCKS = clocks.pack(WAVES, TAPE)
FNS = EVENT_FNS["averaging"]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: clocks.make_waves("tape"), r"make_waves: tape must be a Tape, got 'tape'\."),
        (
            lambda: clocks.pack(WAVES, tape_of("star")),
            r"pack: tape must be that of the waves: \d+ events on 40 nodes, got",
        ),
        (lambda: clocks.pack(WAVES, TAPE, width=0), r"pack: width must be an integer >= 1, got 0\."),
        (lambda: clocks.pack(WAVES, TAPE, multiple=0), r"pack: multiple must be an integer >= 1, got 0\."),
        (lambda: clocks.pack(TAPE, TAPE), r"pack: waves must be a Waves, got Tape\."),
        (
            lambda: clocks.play(jnp.zeros(39), BLOCKS, FNS),
            r"play: carry must be of leaves \[40, \.\.\.\], got one of shape \[39\]\.",
        ),
        (lambda: clocks.play(jnp.zeros(40), BLOCKS, average), r"event_fns must be one for each of the kinds \[0, 1\]"),
        (lambda: clocks.play(jnp.zeros(40), BLOCKS, {0: shrink}), r"event_fns must be one for .*, got none for 1\."),
        (lambda: clocks.play(jnp.zeros(40), WAVES, FNS), r"play: blocks must be a Blocks, got Waves\."),
        (lambda: clocks.play(jnp.zeros(40), BLOCKS, FNS, start=0), r"play: num must be given with start, got None\."),
        (lambda: clocks.play(jnp.zeros(40), BLOCKS, FNS, num=10**6), r"play: num must be an integer in \[1, "),
        (
            lambda: clocks.play(jnp.zeros(40), BLOCKS, FNS | {0: lambda e, a: a[:, None]}),
            r"play: rows_a from the function must be of shape \[\d+\], got \[\d+, 1\]\.",
        ),
        (
            lambda: clocks.play(jnp.zeros(40), BLOCKS, FNS | {1: lambda e, a, b: (a, {"x": b})}),
            r"play: rows_b from the function must be of the carry's structure, got PyTreeDef",
        ),
        (
            lambda: clocks.plot_waves({}),
            r"plot_waves: waves must be a mapping \{label: waves\} with an entry, got dict\.",
        ),
        (lambda: clocks.wave_summary(TAPE), r"wave_summary: waves must be a Waves, got Tape\."),
    ],
)
def test_bad_input_is_one_clear_line(make, line):
    with pytest.raises(ValueError, match=line) as caught:
        make()
    assert "\n" not in str(caught.value)
