"""Kernels and bytes of a round, read off the optimised program: hand-worked programs, and rounds that must not grow."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import world

import dlsim
from dlsim import algorithms
from dlsim.bench import programs, rounds

RECORDED = json.loads((pathlib.Path(__file__).parent / "kernels.json").read_text())
MORE = 1.5  # times the recorded kernels: other versions of XLA fuse a little more or less

# Four turns over blocks of 2 of 8 rows of 100 numbers: two kernels read the same block, one writes it back in place; then
# one of two branches (the second moves more), a gather of 3 rows, and a copy.
PROGRAM = """\
HloModule jit_round, is_scheduled=true

%slices (p.0: f32[8,100], p.1: s32[]) -> f32[2,100] {
  %p.0 = f32[8,100]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero.0 = s32[] constant(0)
  ROOT %slice.0 = f32[2,100]{1,0} dynamic-slice(%p.0, %p.1, %zero.0), dynamic_slice_sizes={2,100}
}

%updates (q.0: f32[8,100], q.1: f32[2,100], q.2: s32[]) -> f32[8,100] {
  %q.1 = f32[2,100]{1,0} parameter(1)
  %q.0 = f32[8,100]{1,0} parameter(0)
  %q.2 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %slice.1 = f32[2,100]{1,0} dynamic-slice(%q.0, %q.2, %zero.1), dynamic_slice_sizes={2,100}
  %sum.0 = f32[2,100]{1,0} add(%slice.1, %q.1)
  ROOT %update.0 = f32[8,100]{1,0} dynamic-update-slice(%q.0, %sum.0, %q.2, %zero.1)
}

%body (arg: (s32[], f32[8,100])) -> (s32[], f32[8,100]) {
  %arg = (s32[], f32[8,100]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = f32[8,100]{1,0} get-tuple-element(%arg), index=1
  %block = f32[2,100]{1,0} fusion(%x, %i), kind=kLoop, calls=%slices
  %x.1 = f32[8,100]{1,0} fusion(%x, %block, %i), kind=kLoop, calls=%updates
  %one = s32[] constant(1)
  %i.1 = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[8,100]{1,0}) tuple(%i.1, %x.1)
}

%condition (arg.1: (s32[], f32[8,100])) -> pred[] {
  %arg.1 = (s32[], f32[8,100]{1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%arg.1), index=0
  %four = s32[] constant(4)
  ROOT %less = pred[] compare(%i.2, %four), direction=LT
}

%light (l.0: f32[8,100]) -> f32[8,100] {
  ROOT %l.0 = f32[8,100]{1,0} parameter(0)
}

%heavy (h.0: f32[8,100]) -> f32[8,100] {
  %h.0 = f32[8,100]{1,0} parameter(0)
  ROOT %square = f32[8,100]{1,0} multiply(%h.0, %h.0)
}

ENTRY %main (a: f32[8,100], b: s32[], rows: s32[3,1]) -> (f32[8,100], f32[3,100]) {
  %a = f32[8,100]{1,0} parameter(0)
  %b = s32[] parameter(1)
  %rows = s32[3,1]{1,0} parameter(2)
  %start = (s32[], f32[8,100]{1,0}) tuple(%b, %a)
  %loop = (s32[], f32[8,100]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"4"}}
  %y = f32[8,100]{1,0} get-tuple-element(%loop), index=1
  %z = f32[8,100]{1,0} conditional(%b, %y, %y), branch_computations={%light, %heavy}
  %g = f32[3,100]{1,0} gather(%z, %rows), offset_dims={1}, slice_sizes={1,100}
  %c = f32[8,100]{1,0} copy(%z)
  ROOT %result = (f32[8,100]{1,0}, f32[3,100]{1,0}) tuple(%c, %g)
}
"""
WHOLE, BLOCK, ROWS = 4 * 800, 4 * 200, 4 * 300


def test_a_program_is_read_as_counted_by_hand() -> None:
    one = programs.read(PROGRAM, smallest=WHOLE)
    in_a_turn = 2 * BLOCK  # read once, though by two kernels; written once, in place
    heavier, gathered, copied = 2 * WHOLE, ROWS, 2 * WHOLE  # what the gather makes is too small to count
    assert one.traffic_bytes == 4 * in_a_turn + heavier + gathered + copied
    # In the loop two fusions and the count; then the square, the gather and the copy.
    assert (one.fusions, one.products, one.loops, one.others, one.kernels) == (2, 0, 1, 4, 6)


def test_a_loop_of_unknown_length_counts_once() -> None:
    unknown = PROGRAM.replace(', backend_config={"known_trip_count":{"n":"4"}}', "")
    difference = programs.read(PROGRAM, WHOLE).traffic_bytes - programs.read(unknown, WHOLE).traffic_bytes
    assert difference == 3 * 2 * BLOCK


def compiled(function: Any, *shapes: Any, **options: Any) -> Any:
    return jax.jit(function, **options).lower(*shapes).compile()


def test_what_is_not_a_loop_is_what_xla_counts() -> None:
    x, w = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((32, 48), jnp.float32)
    program = compiled(lambda x, w: jnp.tanh(x @ w) * 2 + 1, x, w)
    found = program.cost_analysis()
    found = found[0] if isinstance(found, list) else found
    assert programs.read(program.as_text()).traffic_bytes == found["bytes accessed"]
    assert programs.read(program.as_text()).products == 1


def test_blocks_that_are_updated_in_place_are_read_and_written_once() -> None:
    """XLA's own count has one block."""

    def step(x: Any) -> Any:
        def block(i: Any, x: Any) -> Any:
            rows = jax.lax.dynamic_slice_in_dim(x, 10 * i, 10)
            return jax.lax.dynamic_update_slice_in_dim(x, jnp.sin(rows) * 0.5, 10 * i, 0)

        return jax.lax.fori_loop(0, 50, block, x)

    x = jax.ShapeDtypeStruct((500, 100), jnp.float32)
    one = programs.read(compiled(step, x, donate_argnums=0).as_text(), smallest=25_000)
    assert one.traffic_bytes == 2 * 200_000 and one.loops == 1


def test_a_round_moves_at_least_the_least_unless_it_stays_in_the_cache() -> None:
    problem = world.problem()
    process = dlsim.learn(problem, algorithms.dsgd(problem, optax.sgd(0.1)), world.uneven())
    one = programs.round_of(process, cached=0.0)
    assert one.traffic_bytes > one.least_bytes == 4 * 4 * world.NUM_NODES * world.DIMENSION
    assert programs.round_of(process).traffic_bytes == 0


def test_the_least_that_a_round_moves_is_four_times_the_models_and_twice_the_states() -> None:
    problem = world.problem()
    models = 4 * world.NUM_NODES * world.DIMENSION
    for optimizer, states in ((optax.sgd(0.1), 0), (optax.sgd(0.1, momentum=0.9), models)):
        process = dlsim.learn(problem, algorithms.dsgd(problem, optimizer), world.uneven())
        state = jax.eval_shape(process.init, jax.random.key(0))
        assert programs.least(state) == 4 * models + 2 * states
    assert programs.least(np.zeros(3)) == 0


@pytest.mark.parametrize("name", RECORDED)
def test_rounds_have_the_kernels_that_were_recorded(name: str) -> None:
    """A change that makes half as many more is seen; where it is meant, or they have become half, record the new number."""
    found = rounds.counted(name).kernels
    assert RECORDED[name] / 2 <= found <= MORE * RECORDED[name], f"{found} kernels a round, {RECORDED[name]} recorded"


def test_every_round_has_a_name() -> None:
    assert tuple(rounds.makers()) == rounds.NAMES and set(RECORDED) <= set(rounds.NAMES)
