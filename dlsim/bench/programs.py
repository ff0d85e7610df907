"""What one round is on the device: how many kernels, and how many bytes they move, read off XLA's optimised program.

*Kernels* are what the program runs one after the other: fusions, products, copies, reductions; those in a loop once.

*Traffic* is counted from the kernels' operands and results, and not taken from XLA's `cost_analysis`, which counts the body
of a loop once: a round whose nodes go block by block would look as if it touched one block.

- A kernel reads each of its operands once and writes its result once.  Of an operand that it only slices or gathers from,
  it reads what it takes, at most the whole; into a result that it updates in place, it writes the update.
- A part of an array that several kernels of one turn of a loop read (forward, then update) is read once.
- What is in a loop counts as often as the loop runs.  One whose count the program does not say counts once.
- Arrays of less than 8 MiB are left out: counters, and those of a block of nodes, which `problems.auto_block` cuts so that
  what it makes is used while it is in the cache.  So nothing but data counts of a population whose models fit there.

So the count is from below: a gather that finds a row no longer in the cache reads it again.

The *least* that a round of adapt and combine can move in two passes, P the bytes of the parameters and S those of the
optimiser's states: the update reads and writes P and S, mixing reads and writes P: 4 P + 2 S.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, NamedTuple

import jax

from dlsim.core import Process
from dlsim.running.programs import trace

WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5, "c64": 8, "c128": 16, "token": 0}  # bytes; of the others the name says it
FREE = frozenset(  # run nothing
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id")
    + ("replica-id", "optimization-barrier", "domain")
)
PRODUCTS = frozenset(("dot", "convolution", "custom-call"))  # and fusions that a library runs
CACHED = 2.0**23  # bytes; an array of fewer is taken to stay in the cache between the kernels

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_SHAPE = re.compile(r"\b(pred|token|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Instruction(NamedTuple):
    """A line of a program."""

    name: str
    shapes: tuple[float, ...]  # bytes of the result, or of each of its parts
    opcode: str
    operands: tuple[str, ...]
    line: str
    is_root: bool

    @property
    def bytes(self) -> float:
        return sum(self.shapes)

    def called(self, word: str) -> list[str]:
        """Computations that it names as its `word`."""
        found = re.search(rf"\b{word}=\{{?((?:%[\w.\-]+(?:, )?)+)", self.line)
        return _NAME.findall(found.group(1)) if found else []


Computation = dict[str, Instruction]


class Round(NamedTuple):
    """One round of a process, as the device runs it."""

    fusions: int  # that XLA makes code of
    products: int  # of matrices, convolutions, and calls of libraries
    loops: int
    others: int  # copies, reductions, sorts, ...
    traffic_bytes: float
    least_bytes: float

    @property
    def kernels(self) -> int:
        """All that is run, loops aside."""
        return self.fusions + self.products + self.others


def round_of(process: Process, cached: float = CACHED) -> Round:
    """Compile the step alone, its state donated as in the loop of a run, and read it.

    Nothing is run.  See `least` for its `least_bytes`.
    """
    key = jax.random.key(0)
    traced = trace(lambda _: (process, lambda state, info: {}), {}, key)
    state = traced.init.shapes
    arguments: tuple[Any, ...] = (list(traced.step.closed.consts), {}, key, state)
    program = jax.jit(traced.step.fn, donate_argnums=3).lower(*arguments).compile()
    return read(program.as_text() or "", cached, least(state))


def least(state: Any) -> float:
    """4 P + 2 S of a state with `algorithm.params` P and further arrays S of nodes beside them; else 0."""
    held = getattr(state, "algorithm", None)
    models = sum(_bytes(leaf) for leaf in jax.tree.leaves(getattr(held, "params", None)))
    everything = sum(_bytes(leaf) for leaf in jax.tree.leaves(held) if leaf.ndim)
    return 4.0 * models + 2.0 * (everything - models) if models else 0.0


def read(text: str, smallest: float = 0.0, least_bytes: float = 0.0) -> Round:
    """The round whose optimised program is `text`; arrays of fewer bytes than `smallest` are taken to move nothing."""
    entry, computations = parse(text)
    kinds = kernels(computations, entry)
    others = sum(kinds.values()) - kinds["fusion"] - kinds["product"] - kinds["loop"]
    moved = traffic(computations, entry, smallest)
    return Round(kinds["fusion"], kinds["product"], kinds["loop"], others, moved, least_bytes)


def parse(text: str) -> tuple[str, dict[str, Computation]]:
    """The name of the entry, and every computation's instructions by name."""
    computations: dict[str, Computation] = {}
    entry, inside = "", None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            inside = computations.setdefault(head.group(2), {})
            entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            inside = None
        elif inside is not None and (found := _LINE.match(line)):
            root, name, shape, opcode, rest = found.groups()
            operands = tuple(_NAME.findall(_until_closed(rest)))
            inside[name] = Instruction(name, _sizes(shape), opcode, operands, line, bool(root))
    return entry, computations


def kernels(computations: dict[str, Computation], name: str) -> Counter[str]:
    """How many instructions of each kind a computation runs, with those of its loops, branches and calls, each once."""
    found: Counter[str] = Counter()
    for one in computations[name].values():
        if one.opcode in FREE:
            continue
        inner = [body for word in ("body", "branch_computations", "true_computation") for body in one.called(word)]
        inner += one.called("false_computation") + (one.called("to_apply") if one.opcode == "call" else [])
        if one.opcode == "while":
            found["loop"] += 1
        elif not inner:
            found["product" if one.opcode in PRODUCTS or "kind=kCustom" in one.line else one.opcode] += 1
        for body in inner:
            found += kernels(computations, body)
    return found


def traffic(computations: dict[str, Computation], name: str, smallest: float) -> float:
    """Bytes that a computation reads and writes of arrays of at least `smallest` bytes."""
    total, lines = 0.0, computations[name]
    parts: dict[str, float] = {}  # of larger arrays, which are still in the cache when they are asked for again
    for one in lines.values():
        if one.opcode in FREE:
            continue
        if one.opcode == "while":
            trips = int(found.group(1)) if (found := _TRIPS.search(one.line)) else 1
            total += trips * sum(traffic(computations, body, smallest) for body in one.called("body"))
        elif one.opcode == "conditional":
            branches = one.called("branch_computations") or one.called("true_computation")
            branches = branches + one.called("false_computation")
            total += max(traffic(computations, branch, smallest) for branch in branches)
        elif one.opcode == "call":
            total += sum(traffic(computations, body, smallest) for body in one.called("to_apply"))
        else:
            reads, written = _kernel(computations, lines, one, smallest)
            total += written
            for operand, size in reads.items():
                if size < smallest:
                    parts[operand] = max(size, parts.get(operand, 0.0))
                else:
                    total += size
    return total + sum(parts.values())


def _kernel(
    computations: dict[str, Computation], lines: Computation, one: Instruction, smallest: float
) -> tuple[dict[str, float], float]:
    """What one kernel reads of its operands, and writes: a fusion is read inside, another instruction is one of one."""
    fused = computations[one.called("calls")[0]] if one.opcode == "fusion" else None
    if fused is None:
        inputs = {operand: operand for operand in one.operands}
        body: Computation = {operand: lines[operand] for operand in one.operands if operand in lines}
        body[one.name] = one._replace(is_root=True)
    else:
        body = fused
        numbered = {
            int(_until_closed(i.line.split("parameter(")[1])): n for n, i in body.items() if i.opcode == "parameter"
        }
        inputs = {numbered[i]: operand for i, operand in enumerate(one.operands) if i in numbered}
    roots = [line for line in body.values() if line.is_root]
    if roots and roots[0].opcode == "tuple":
        roots = [body[part] for part in roots[0].operands if part in body]
    roots = [_behind(body, root) for root in roots]
    in_place = {_behind(body, body[root.operands[0]]).name: root for root in roots if _is_update(root)}
    reads: dict[str, float] = {}
    for inside, operand in inputs.items():
        whole = body[inside].bytes if inside in body else 0.0
        if whole >= smallest:
            reads[operand] = max(reads.get(operand, 0.0), min(whole, _read(body, inside, in_place)))
    written = 0.0
    for root in roots:
        if root.bytes >= smallest:
            written += body[root.operands[_update(root)]].bytes if _is_update(root) else root.bytes
    return reads, written


def _read(body: Computation, name: str, in_place: dict[str, Instruction]) -> float:
    """Bytes that the users of `name` take of it, not more than is asked for once each."""
    total = 0.0
    for user in body.values():
        if name not in user.operands:
            continue
        if user.opcode == "bitcast":
            total += _read(body, user.name, in_place) if user.name in body and not user.is_root else user.bytes
        elif _is_update(user) and user.operands[0] == name and name in in_place:
            pass  # what is not updated stays where it is
        elif user.opcode in ("dynamic-slice", "gather", "slice") and user.operands[0] == name:
            total += user.bytes
        else:
            return body[name].bytes
    return total


def _behind(body: Computation, one: Instruction) -> Instruction:
    """What a bitcast is of."""
    while one.opcode == "bitcast" and one.operands[0] in body:
        one = body[one.operands[0]]
    return one


def _is_update(one: Instruction) -> bool:
    return one.opcode in ("dynamic-update-slice", "scatter")


def _update(one: Instruction) -> int:
    """The operand of an update that holds what is written."""
    return 1 if one.opcode == "dynamic-update-slice" else 2


def _until_closed(rest: str) -> str:
    """A list of operands, without what follows its bracket."""
    depth = 1
    for i, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return rest[:i]
    return rest


def _sizes(shape: str) -> tuple[float, ...]:
    return tuple(
        _width(kind) * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes in _SHAPE.findall(shape)
    )


def _width(kind: str) -> float:
    if kind in WIDTHS:
        return WIDTHS[kind]
    found = re.match(r"[a-z]+(\d+)", kind)
    return int(found.group(1)) / 8 if found else 0.0


def _bytes(leaf: Any) -> int:
    return int(leaf.size) * leaf.dtype.itemsize if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else 0
