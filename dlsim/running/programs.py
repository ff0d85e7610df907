"""A Process as two compiled programs, for one run or for many runs of one structure.

A chunk is one program for any number of steps: the counts are data, so a loop on the host adapts the length of a chunk
without compiling twice.  The state is donated.  Arrays that the process closes over (a data set, a topology) are passed
to the program as arguments, not baked into it, and so are the floats of a sweep: runs that differ in data alone share
their programs, side by side (`vmap`), one after the other inside the program (`map`), or both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dlsim import checks, keys, trees
from dlsim.core import Array, Info, MeasureFn, Phase, Process, PyTree
from dlsim.running import identity as identities, status
from dlsim.running.identity import PARTS
from dlsim.running.meshes import Placement, laid_over, place
from dlsim.running.side_by_side import for_runs

CHUNK_RECORDS = 256  # records a chunk can hold
READ, WRITE = PARTS.index("read"), PARTS.index("write")

Values = dict[str, Any]  # floats by name, data of the program
Make = Callable[[Values], tuple[Process, MeasureFn]]


class Carry(NamedTuple):
    """What a chunk hands to the next."""

    state: PyTree
    info: Info
    log: status.StatusLog
    step: Array  # int32 []


class Programs(NamedTuple):
    """The compiled programs of a run, or of several, with their data."""

    start: Callable[[], Carry]
    advance: Callable[[Carry, int, int], tuple[Carry, Info]]  # (carry, records, steps a record) -> records [C, ...]
    shapes: tuple[Carry, Info]  # abstract, with the axes of runs leading
    compile_seconds: float
    bytes_needed: int = 0  # of the device, by the compiler's account; 0 if it gives none
    identity: Callable[[], dict[str, Any]] | None = None  # of the process, to tell its checkpoints from others
    phase: PhasePrograms | None = None  # what happens around the host's part of a phase


class PhasePrograms(NamedTuple):
    """The compiled halves of a `Phase`, with their data."""

    every: int
    read: Callable[[Carry], tuple[Array, PyTree]]  # (keys for the host's work, view), with the axes of runs
    write: Callable[[Carry, PyTree], Carry]
    view: PyTree  # abstract; with shardings where the nodes are laid over devices


class Hoisted(NamedTuple):
    """A function, and what it closes over as an argument."""

    fn: Callable[..., Any]  # (constants, *args)
    closed: Any  # ClosedJaxpr
    shapes: PyTree  # of its output


class Traced(NamedTuple):
    """A process as functions of its data; each function of it is traced once."""

    init: Hoisted  # (constants, values, key) -> state
    step: Hoisted  # (constants, values, key, state) -> (state, info)
    measure: Hoisted  # (constants, values, state, info) -> row
    sources: tuple[str, ...]
    read: Hoisted | None = None  # (constants, values, state) -> view: of its phase, both or neither
    write: Hoisted | None = None  # (constants, values, key, state, view) -> state
    every: int = 0  # steps from phase to phase

    @property
    def parts(self) -> tuple[Hoisted, ...]:
        return tuple(part for part in (self.init, self.step, self.measure, self.read, self.write) if part is not None)

    @property
    def names(self) -> tuple[str, ...]:
        return PARTS[: len(self.parts)]

    @property
    def constants(self) -> list[list[Array]]:
        """What each part closes over."""
        return [list(part.closed.consts) for part in self.parts]


class Data(NamedTuple):
    """What the programs are given.  `own` leads with the axes of runs; a constant is in one of the two lists."""

    shared: list[list[Array | None]]  # constants that all runs have in common, else None
    own: tuple[list[list[Array | None]], Values, Array]  # constants of each run, floats, keys


def hoist(fn: Callable[..., Any], *example: Any) -> Hoisted:
    """`fn` as a function of `(constants, *args)`, the arrays it closes over, and the shapes of its output.

    jit bakes closed-over arrays into the program as literals, which for a data set means gigabytes of text to compile
    and a second copy in memory.  (A jitted function inside keeps what it closes over: jit nothing inside a process.)
    """
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*example)
    treedef = jax.tree.structure(shapes)

    def hoisted(constants: list[Array], *args: Any) -> Any:
        return jax.tree.unflatten(treedef, jax.core.eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(args)))

    return Hoisted(fn=hoisted, closed=closed, shapes=shapes)


def trace(make: Make, values: Values, key: Array) -> Traced:
    """Trace `make(values) -> (process, measure)` with the floats `values` as data.

    Each of the three functions is traced on its own, and `make` is called for each, unless there are no values.
    """
    built = make(values) if not values else None
    noted: list[tuple[str, ...]] = []

    def process(traced: Values) -> tuple[Process, MeasureFn]:
        made = built if built is not None else make(traced)
        noted.append(made[0].sources)
        return made

    def init(values: Values, key: Array) -> PyTree:
        return process(values)[0].init(keys.stream(key, "init"))

    def step(values: Values, key: Array, state: PyTree) -> tuple[PyTree, Info]:
        return process(values)[0].step(key, state)

    def measure(values: Values, state: PyTree, info: Info) -> Info:
        return process(values)[1](state, info)

    floats = {name: float(value) for name, value in values.items()}
    first = hoist(init, floats, key)
    second = hoist(step, floats, key, first.shapes)
    after = second.shapes
    if not (isinstance(after, tuple) and len(after) == 2 and isinstance(after[1], dict)):
        checks.fail("simulate", "process", "one whose step gives (state, info), info a dict", type(after).__name__)
    _check_fixed_point(first.shapes, after[0])
    third = hoist(measure, floats, first.shapes, after[1])
    if not isinstance(third.shapes, dict):
        rule = "a function that gives a dict of arrays"
        checks.fail("simulate", "record.fn", rule, type(third.shapes).__name__)
    traced = Traced(first, second, third, noted[0])
    phase = process(values)[0].phase
    return traced if phase is None else _with_phase(traced, phase, lambda values: process(values)[0].phase, floats, key)


def _with_phase(traced: Traced, phase: Phase, of: Callable[[Values], Any], floats: Values, key: Array) -> Traced:
    """The two halves of a phase that are compiled, traced as the other functions are."""
    every = checks.count("simulate", "process.phase.every", phase.every, checks.MOST_STEPS)
    state = traced.init.shapes
    read = hoist(lambda values, state: of(values).read(state), floats, state)

    def write(values: Values, key: Array, state: PyTree, view: PyTree) -> PyTree:
        return of(values).write(key, state, view)

    written = hoist(write, floats, key, state, read.shapes)
    _check_fixed_point(state, written.shapes)
    return traced._replace(read=read, write=written, every=every)


def single(traced: Traced, key: Array) -> Data:
    """The data of one run (`key []`), or of runs that differ in their keys `[R]` alone."""
    nothing: list[list[Array | None]] = [[None] * len(part) for part in traced.constants]
    return Data(shared=traced.constants, own=(nothing, {}, key))  # type: ignore[arg-type]


class Executable(NamedTuple):
    """Compiled programs for data of certain shapes."""

    start: Any
    advance: Any
    shapes: tuple[Carry, Info]
    compile_seconds: float
    bytes_needed: int
    traced: Traced
    phase: tuple[Any, Any, PyTree] | None = None  # read, write, and the view's shapes

    def bind(self, data: Data) -> Programs:
        """The programs with the data of their runs."""

        def advance(carry: Carry, num_records: int, every: int) -> tuple[Carry, Info]:
            return self.advance(*data, carry, np.asarray(num_records, np.int32), np.asarray(every, np.int32))

        return Programs(
            start=lambda: self.start(*data),
            advance=advance,
            shapes=self.shapes,
            compile_seconds=self.compile_seconds,
            bytes_needed=self.bytes_needed,
            identity=lambda: _identity(self.traced, data),
            phase=None if self.phase is None else self._phase(data),
        )

    def _phase(self, data: Data) -> PhasePrograms:
        assert self.phase is not None
        read, write, view = self.phase
        return PhasePrograms(
            every=self.traced.every,
            read=lambda carry: read(*data, carry),
            write=lambda carry, view: write(*data, carry, view),
            view=view,
        )


def compile_traced(
    traced: Traced, data: Data, at_once: int | None = None, placement: Placement | None = None
) -> Executable:
    """Compile for data of these shapes, on the device where they lie.

    Args:
      traced: from `trace`.
      data: the runs' data, one run's without and R runs' with a leading axis; their values do not matter.
      at_once: of R runs, how many go side by side (`vmap`); the others follow inside the program.  None: all of them.
      placement: of the node axis over several devices; `data` are where it `put` them.
    """
    began = time.perf_counter()
    start, advance, around = _functions(traced)
    if data.own[2].ndim:
        start, advance, *both = for_runs(start, advance, *around, num_runs=data.own[2].shape[0], at_once=at_once)
        around = tuple(both)
    carry = jax.eval_shape(start, *data)
    lead = data.own[2].shape
    row = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype), traced.measure.shapes)
    first: dict[str, Any] = {}
    then: dict[str, Any] = {}
    if placement is not None:
        laid, rows = placement.carry(carry, len(lead)), placement.everywhere(row)
        laid = laid._replace(log=placement.everywhere(carry.log), step=placement.everywhere(carry.step))
        first, then = {"out_shardings": laid}, {"out_shardings": (laid, rows)}
        carry = jax.tree.map(lambda s, h: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=h), carry, laid)
    count = np.zeros((), np.int32)
    start_program = jax.jit(start, **first).lower(*data).compile()
    program = jax.jit(advance, donate_argnums=(2,), **then).lower(*data, carry, count, count).compile()
    phase = None if not around else _compiled_phase(around[0], around[1], data, carry, placement)
    seconds = time.perf_counter() - began
    return Executable(start_program, program, (carry, row), seconds, _bytes_needed(program), traced, phase)


def _compiled_phase(read: Any, write: Any, data: Data, carry: Carry, placement: Placement | None) -> Any:
    """The two programs around the host's work, and the shapes of what it is given."""
    first: dict[str, Any] = {}
    then: dict[str, Any] = {}
    seen = jax.eval_shape(read, *data, carry)
    view = seen[1]
    if placement is not None:
        everywhere = placement.everywhere(seen)
        first, then = {"out_shardings": everywhere}, {"out_shardings": jax.tree.map(lambda s: s.sharding, carry)}
        view = jax.tree.map(lambda s, h: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=h), view, everywhere[1])
    read_program = jax.jit(read, **first).lower(*data, carry).compile()
    return read_program, jax.jit(write, donate_argnums=(2,), **then).lower(*data, carry, view).compile(), view


def compile_process(process: Process, key: Array, measure: MeasureFn, mesh: Mesh | None = None) -> Programs:
    """Compile the two programs of a run; `key [R]` makes R runs side by side, `mesh` lays the nodes over devices."""
    began = time.perf_counter()
    placement = None if mesh is None else place(process.num_nodes, mesh, network=process.network)
    with laid_over(mesh):
        traced = trace(lambda _: (process, measure), {}, key.reshape(-1)[0])
        whole = single(traced, key)
        data = whole if placement is None else placement.put(whole)
        programs = compile_traced(traced, data, placement=placement).bind(data)

    def identity() -> dict[str, Any]:
        if mesh is None:
            return _identity(traced, whole, process.network)
        try:  # as one device traces it: a run may go on over another number of them
            alone = trace(lambda _: (process, measure), {}, key.reshape(-1)[0])
        except Exception:  # whatever a process that is written for a mesh raises without one
            alone = traced
        return _identity(alone, single(alone, key), process.network)

    return programs._replace(compile_seconds=time.perf_counter() - began, identity=identity)


def _identity(traced: Traced, data: Data, network: Any = None) -> dict[str, Any]:
    """What the process is whose programs these are, with the data of its runs."""
    held = jax.tree_util.tree_leaves_with_path(network)
    names = {id(leaf): f"network{jax.tree_util.keystr(path)}" for path, leaf in held}
    arrays = [
        identities.Named(part, leaf, names.get(id(leaf), ""))
        for part, leaves in zip(traced.names, _merge(data.shared, data.own[0]), strict=True)
        for leaf in leaves
    ]
    arrays += [identities.Named("step", value, name) for name, value in sorted(data.own[1].items())]
    closed = {name: part.closed for name, part in zip(traced.names, traced.parts, strict=True)}
    return identities.identity(closed, arrays)


def _functions(traced: Traced) -> tuple[Callable[..., Any], Callable[..., Any], tuple[Callable[..., Any], ...]]:
    """`start(shared, own)` and `advance(shared, own, carry, records, every)` of one run; of its phase, if it has one,
    `read(shared, own, carry)` and `write(shared, own, carry, view)`.
    """

    def start(shared: Any, own: Any) -> Carry:
        constants, values, key = _merge(shared, own[0]), own[1], own[2]
        state = traced.init.fn(constants[0], values, key)
        info = jax.tree.map(_blank, traced.step.shapes[1])
        return Carry(state=state, info=info, log=status.empty_log(), step=jnp.zeros((), jnp.int32))

    def advance(shared: Any, own: Any, carry: Carry, num_records: Array, every: Array) -> tuple[Carry, Info]:
        constants, values, key = _merge(shared, own[0]), own[1], own[2]
        steps_key = keys.stream(key, "steps")

        def step(_: Array, held: Carry) -> Carry:
            carry = trees.from_bits(held, like)
            draw = jax.random.fold_in(steps_key, carry.step)
            state, info = traced.step.fn(constants[1], values, draw, carry.state)
            log = status.update(carry.log, info["status"], carry.step) if "status" in info else carry.log
            return trees.as_bits(Carry(state=state, info=info, log=log, step=carry.step + 1))

        def one(i: Array, both: tuple[Carry, Info]) -> tuple[Carry, Info]:
            held, buffer = both
            held = jax.lax.fori_loop(0, every, step, held)
            carry = trees.from_bits(held, like)
            row = traced.measure.fn(constants[2], values, carry.state, carry.info)
            return held, jax.tree.map(lambda b, r: jax.lax.dynamic_update_index_in_dim(b, r, i, 0), buffer, row)

        buffer = jax.tree.map(lambda r: jnp.zeros((CHUNK_RECORDS, *r.shape), r.dtype), traced.measure.shapes)
        # Half precision goes through the loops as the integers of its bits, which a step can write where they lie.
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), carry)
        held, buffer = jax.lax.fori_loop(0, num_records, one, (trees.as_bits(carry), buffer))
        return trees.from_bits(held, like), buffer

    def phase_key(own: Any, carry: Carry) -> Array:
        return jax.random.fold_in(keys.stream(own[2], "phase"), carry.step)

    def read(shared: Any, own: Any, carry: Carry) -> tuple[Array, PyTree]:
        assert traced.read is not None
        constants = _merge(shared, own[0])[READ]
        return phase_key(own, carry), traced.read.fn(constants, own[1], carry.state)

    def write(shared: Any, own: Any, carry: Carry, view: PyTree) -> Carry:
        assert traced.write is not None
        constants = _merge(shared, own[0])[WRITE]
        return carry._replace(state=traced.write.fn(constants, own[1], phase_key(own, carry), carry.state, view))

    return start, advance, () if traced.read is None else (read, write)


def _merge(shared: list[list[Any]], own: list[list[Any]]) -> list[list[Any]]:
    return [
        [mine if mine is not None else all_ for all_, mine in zip(*both, strict=True)]
        for both in zip(shared, own, strict=True)
    ]


def _blank(shape: jax.ShapeDtypeStruct) -> Array:
    """What an info holds before the first step: NaN for floats, else zero."""
    return jnp.full(shape.shape, jnp.nan if jnp.issubdtype(shape.dtype, jnp.floating) else 0, shape.dtype)


def _bytes_needed(program: Any) -> int:
    """Arguments, results and temporaries of a compiled program, what is donated counted once."""
    found = program.memory_analysis()
    if found is None:
        return 0
    sizes = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return int(sizes - found.alias_size_in_bytes)


def _check_fixed_point(before: PyTree, after: PyTree) -> None:
    """State in = State out in structure, shape and dtype, or one line that names the first leaf that differs."""
    before_leaves, before_tree = jax.tree_util.tree_flatten_with_path(before)
    after_leaves, after_tree = jax.tree_util.tree_flatten_with_path(after)
    if str(before_tree) != str(after_tree):
        checks.fail("simulate", "process", "one whose step keeps the structure of its state", f"{after_tree}")
    for (path, old), (_, new) in zip(before_leaves, after_leaves, strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            got = f"{old.dtype}{list(old.shape)} that became {new.dtype}{list(new.shape)}"
            where = jax.tree_util.keystr(path)
            checks.fail("simulate", "process", f"one whose step keeps shapes and dtypes (state{where})", got)
