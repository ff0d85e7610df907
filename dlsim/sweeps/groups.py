"""Runs grouped by signature: what is structure, what is data, and which programs a sweep needs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dlsim import checks
from dlsim.core import Feed, MeasureFn, Phase, Process
from dlsim.running.history import Axes, axes_of, shapes_of
from dlsim.running.programs import Traced, Values, trace
from dlsim.sweeps.signature import content, signature
from dlsim.sweeps.source import RESERVED, Built, Choice, Source
from dlsim.sweeps.topologies import Form, common_forms


class Member(NamedTuple):
    """One run of a group."""

    choice: Choice
    seed: int
    identity: str
    variant: int  # which of the group's constants
    values: Values  # floats, data of the program


class Group(NamedTuple):
    """Runs that share their programs."""

    label: str
    traced: Traced
    constants: list[list[list[Any]]]  # [variant][part][position]; None where all variants share the traced one's
    members: list[Member]
    num_steps: int
    every: int
    sources: tuple[str, ...]
    num_nodes: int  # 0 where the process does not say
    record_axes: Axes  # of what is recorded
    state_bytes: int  # of one run
    feeds: list[Feed | None]  # by variant
    phases: list[Phase | None]  # by variant

    def shared(self) -> list[list[Any]]:
        """The constants that all runs have in common; None in the place of the others."""
        return [
            [None if mine is not None else leaf for leaf, mine in zip(*both, strict=True)]
            for both in zip(self.traced.constants, self.constants[0], strict=True)
        ]

    def own(self, runs: Sequence[Member]) -> tuple[list[list[Any]], Values, Any]:
        """Constants, floats and keys of these runs, leading with them."""
        constants = [
            [self._stack(runs, p, i) if leaf is not None else None for i, leaf in enumerate(part)]
            for p, part in enumerate(self.constants[0])
        ]
        dtype = jax.dtypes.canonicalize_dtype(float)
        values = {name: np.asarray([run.values[name] for run in runs], dtype) for name in runs[0].values}
        return constants, values, jax.numpy.stack([jax.random.key(run.seed) for run in runs])

    def _stack(self, runs: Sequence[Member], part: int, position: int) -> Any:
        leaves = [self.constants[run.variant][part][position] for run in runs]
        if jax.dtypes.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            return jax.numpy.stack(leaves)
        return np.stack([np.asarray(leaf) for leaf in leaves])


class _Variant(NamedTuple):
    """Runs of one structure: what is left of a choice when its traced floats are taken out."""

    choice: Choice  # a value for every axis; those of `floats` are the first ones
    floats: tuple[str, ...]
    built: Built
    form: Form | None  # of its network, which it shares with others; None: as built


def group_runs(
    source: Source,
    *,
    common_topologies: bool = True,
    wanted: frozenset[str] | None = None,
) -> list[Group]:
    """Build, trace and group the runs of a sweep; bad values are told before anything runs.

    `wanted` are the identities of the runs to group, where others are left to other machines; None: all.
    """
    variants = _variants(source)
    if wanted is not None:
        variants = [one for one in variants if any(run.identity in wanted for run in _members(source, one, 0))]
    if common_topologies:
        forms = common_forms([_movable(variant.built.process) for variant in variants])
        variants = [variant._replace(form=form) for variant, form in zip(variants, forms, strict=True)]
    found: dict[tuple[Any, ...], list[tuple[_Variant, Traced]]] = {}
    for variant in variants:
        for traced_variant, traced in _trace(source, variant):
            built = traced_variant.built
            _check_names(source, traced, built)
            key = (signature(traced), traced_variant.floats, built.num_steps, built.record.every)
            found.setdefault(key, []).append((traced_variant, traced))
    groups = [_group(source, members) for members in found.values()]
    if wanted is None:
        return groups
    kept = [group._replace(members=[run for run in group.members if run.identity in wanted]) for group in groups]
    return [group for group in kept if group.members]


def _movable(process: Process) -> Any:
    """The network of a process that can be made over another one."""
    return None if process.network is None or process.over(process.network) is None else process.network


def _variants(source: Source) -> list[_Variant]:
    """Every structure built with concrete values, and every value of every float axis built at least once."""
    structural = [name for name in source.axes if name not in source.floats]
    first = {name: source.axes[name][0] for name in source.floats}
    out = []
    for values in itertools.product(*(source.axes[name] for name in structural)):
        choice = {**first, **dict(zip(structural, values, strict=True))}
        ordered = {name: choice[name] for name in source.axes}
        out.append(_Variant(ordered, tuple(sorted(source.floats)), _checked(source, ordered), None))
    for name in source.floats:
        for value in source.axes[name][1:]:
            _checked(source, {**out[0].choice, name: value})
    return out


def _check_names(source: Source, traced: Traced, built: Built) -> None:
    """One array cannot hold an axis and a record, or an axis of a record, of one name."""
    rows = axes_of(source.name, built.process, built.record)
    shapes = shapes_of(source.name, traced.measure.shapes)
    rows.check(source.name, shapes)
    own = {dim for name, shape in shapes.items() for dim in rows.of(name, shape)}
    for name in (*traced.measure.shapes, *sorted(own)):
        if name in source.axes or name in RESERVED:
            rule = "of other names than the axes, seed, step, diverged_step and seconds_per_step"
            checks.fail(source.name, "records", rule, repr(name), "Rename the axis or the record.")


def _checked(source: Source, choice: Choice) -> Built:
    built = source.build(choice)
    checks.count(source.name, "num_steps", built.num_steps, checks.MOST_STEPS)
    checks.count(source.name, "record.every", built.record.every, checks.MOST_STEPS)
    if built.record.fn is None and built.process.measure is None:
        checks.fail(source.name, "record.fn", "given for a process that measures nothing", "None")
    return built


def _trace(source: Source, variant: _Variant) -> list[tuple[_Variant, Traced]]:
    """The variant with as many of its floats as possible as data; those that are used on the host are structure."""
    key = jax.random.key(0)
    traceable = variant.floats
    if traceable:
        try:
            return [(variant, trace(_maker(source, variant), {name: variant.choice[name] for name in traceable}, key))]
        except Exception:  # whatever host code raises when it meets a tracer
            traceable = _traceable(source, variant)
    structural = [name for name in variant.floats if name not in traceable]
    out = []
    for values_ in itertools.product(*(source.axes[name] for name in structural)):
        choice = {**variant.choice, **dict(zip(structural, values_, strict=True))}
        one = _Variant(choice, traceable, _checked(source, choice) if structural else variant.built, variant.form)
        out.append((one, trace(_maker(source, one), {name: choice[name] for name in traceable}, key)))
    return out


def _traceable(source: Source, variant: _Variant) -> tuple[str, ...]:
    """As many floats as can be data together, in their order, where all cannot."""
    found: tuple[str, ...] = ()
    for name in variant.floats if len(variant.floats) > 1 else ():
        with contextlib.suppress(Exception):  # as above
            values = {one: variant.choice[one] for one in (*found, name)}
            trace(_maker(source, variant), values, jax.random.key(0))
            found = (*found, name)
    return found


def _maker(source: Source, variant: _Variant) -> Callable[[Values], tuple[Process, MeasureFn]]:
    def make(values: Values) -> tuple[Process, MeasureFn]:
        built = variant.built if not values else source.build({**variant.choice, **values})
        process, record = built.process, built.record
        if variant.form is not None and process.network is not None:
            moved = process.over(variant.form.of(process.network))
            process = process if moved is None else moved
        measure = record.fn if record.fn is not None else process.measure
        assert measure is not None  # _checked has seen to it
        return process, measure

    return make


def _group(source: Source, found: list[tuple[_Variant, Traced]]) -> Group:
    traced = found[0][1]
    constants = _differing([one.constants for _, one in found])
    members = [run for index, (variant, _) in enumerate(found) for run in _members(source, variant, index)]
    built = found[0][0].built
    state = traced.init.shapes
    return Group(
        label=_group_label(source, [variant for variant, _ in found]),
        traced=traced,
        constants=constants,
        members=members,
        num_steps=built.num_steps,
        every=built.record.every,
        sources=tuple(dict.fromkeys(name for variant, _ in found for name in variant.built.process.sources)),
        num_nodes=built.process.num_nodes or 0,
        record_axes=axes_of(source.name, built.process, built.record),
        state_bytes=sum(bytes_of(leaf) for leaf in jax.tree.leaves(state)),
        feeds=[variant.built.process.feed for variant, _ in found],
        phases=[variant.built.process.phase for variant, _ in found],
    )


def _members(source: Source, variant: _Variant, index: int) -> list[Member]:
    """The runs of a variant: every value of its floats with every seed."""
    out: list[Member] = []
    for values in itertools.product(*(source.axes[name] for name in variant.floats)):
        floats = dict(zip(variant.floats, values, strict=True))
        choice = {**variant.choice, **floats}
        out.extend(Member(choice, seed, source.identity(choice, seed), index, floats) for seed in source.seeds)
    return out


def bytes_of(leaf: Any) -> int:
    """Of an array or a shape."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 8 * int(np.prod(leaf.shape))
    return int(np.prod(leaf.shape)) * leaf.dtype.itemsize


def _differing(constants: list[list[list[Any]]]) -> list[list[list[Any]]]:
    """By variant, the constants in which the variants differ; None for those they share."""
    out: list[list[list[Any]]] = [[[None] * len(part) for part in one] for one in constants]
    for p, part in enumerate(constants[0]):
        for i, leaf in enumerate(part):
            others = [one[p][i] for one in constants]
            if all(other is leaf for other in others) or len({content(other) for other in others}) == 1:
                continue
            for variant, other in enumerate(others):
                out[variant][p][i] = other
    return out


def _group_label(source: Source, variants: list[_Variant]) -> str:
    """What the members have in common, by name; axes along which they differ as a count."""
    parts = []
    for name in source.axes:
        held = list(dict.fromkeys(str(variant.choice[name]) for variant in variants))
        if name in variants[0].floats:
            continue
        parts.append(held[0] if len(held) == 1 else f"{len(held)} x {name}")
    return ", ".join(parts) or source.name
