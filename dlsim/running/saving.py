"""Models and states as files: `dlsim.save` and `dlsim.load`.

A file is one msgpack map that flax reads by itself (`flax.serialization.msgpack_restore`): `sha256` of every byte behind
it, `about` (what it is, of which version), and `value`, the tree as nested dicts of arrays by name.  The names are those of
flax's own state dicts: keys of dicts, fields of named tuples, positions in tuples and lists.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, files
from dlsim.core import PyTree
from dlsim.running.checkpoint import names_of, newest
from dlsim.running.meshes import is_leader, to_host
from dlsim.running.simulate import Run
from dlsim.version import __version__

KEY = "__prng_key__"  # in the dict that stands for keys of random numbers: how they are made, beside their `data`
FORMAT = 1
_CHUNKED = "__msgpack_chunked_array__"  # in the dict that stands for an array of more than a GiB, by flax
_HEAD = b"\x83\xa6sha256\xd9\x40"  # of a msgpack map of three entries, whose first is a text of 64 letters
_FIX = "Save it anew, or take a copy that is whole."


@checks.typed
def save(path: str | os.PathLike[str], what: Any) -> pathlib.Path:
    """Keep trained models, a state, a whole run, or any tree of arrays in one file, which `load` reads.

        dlsim.save("models.msgpack", run.params)  # the models
        dlsim.save("run.msgpack", run)  # models, state, step and seeds

    A trained policy, kept and used without training or compiling a run:

        learner = dlsim.marl.ippo(environment)
        run = dlsim.simulate(dlsim.marl.train(learner), seed=0, num_steps=200)
        dlsim.save("policy.msgpack", jax.tree.map(lambda leaf: leaf[0], run.params))  # of the first seed

        policy = dlsim.marl.ippo(environment).policy(dlsim.load("policy.msgpack"))  # later, elsewhere
        memory, actions, _ = policy.act(key, policy.init(environment.num_agents), observations, None, None)

    Names, shapes and dtypes are kept exactly, bfloat16 and its like and typed keys of random numbers among them.  The
    file appears whole or not at all, in place of an earlier one; missing folders are made.  It holds no code.  Flax
    alone reads it as well, into the same nested dicts of NumPy arrays:

        flax.serialization.msgpack_restore(pathlib.Path("models.msgpack").read_bytes())["value"]

    Args:
      path: of the file.
      what: a tree of arrays, numbers and texts (`run.params`, `run.state`), or a Run, which is kept as `{"params": ...,
        "state": ..., "step": ..., "seeds": ...}` (without `params` where the process names no models, without `seeds`
        where a key was given).  Over several processes all call it, and the first one writes.

    Returns:
      The file's absolute path.

    Raises:
      ValueError: `what` holds what is no array, number or text, or the path is a folder.
      OSError: the disk is full, in one line.
    """
    from flax import serialization

    target = files.given_path("save", "path", path).absolute()
    if target.is_dir():
        checks.fail("save", "path", "a file", f"the folder {target}")
    about = {"format": FORMAT, "kind": "run" if isinstance(what, Run) else "tree", "dlsim": __version__}
    value = _parts(what, nested) if isinstance(what, Run) else nested(what)
    behind = b"".join(
        serialization.msgpack_serialize(one) for one in ("about", about, "value", value)
    )  # one value after the other is how msgpack writes a map
    if is_leader():
        head = _HEAD + hashlib.sha256(behind).hexdigest().encode()
        with files.writing("save", "path", target):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                files.write_whole(target, lambda file: file.writelines((head, behind)))
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                checks.fail("save", "path", "a file that can be written", f"{target} ({error.strerror})")
    return target


@checks.typed
def load(path: str | os.PathLike[str], like: Any = None) -> Any:
    """What `save` kept: as nested dicts of arrays, or in the structure of `like`.  Nothing is compiled, and no Process
    is needed.

    Named tuples (states, optax's among them), tuples and lists come back as dicts, by the names of their fields or
    positions ("0", "1", ...), and as what they were where `like` says so:

        models = dlsim.load("models.msgpack")  # what flax's `module.apply` takes, for models of flax
        start = jax.eval_shape(process.init, jax.random.key(0))  # traced, not compiled
        state = dlsim.load("run.msgpack", like={"state": start})["state"]  # a LearnState, for `process.step`

    Arrays are JAX's, on its default device; those of 64 bits stay NumPy's where JAX does not have them (`jax_enable_x64`),
    since their dtype is kept.

    Args:
      path: a file of `dlsim.save`, or a folder that `simulate` was given as `checkpoint_dir`, also while a run writes
        there: of its newest sound checkpoint `{"state": ..., "step": ..., "key": ...}`, `key` being the words of the
        run's key (of each seed's).
      like: a tree of the structure, shapes and dtypes that were saved, or of shapes (`jax.eval_shape`).  For a run or a
        checkpoint a dict of some of its parts, of which the others stay dicts, or a Run.

    Raises ValueError, in one line, if there is no such file, if it is damaged or of another kind, or unlike `like`.
    """
    target = files.given_path("load", "path", path).absolute()
    if target.is_dir():
        kind, value = "run", newest(target, "load", "path", KEY)
    else:
        kind, value = _read(target)
    if like is None:
        return _known(value)
    if kind != "run":
        return restored(value, like)
    wanted = _parts(like, lambda part: part) if isinstance(like, Run) else like
    if not isinstance(wanted, Mapping) or not set(wanted) <= set(value):
        rule = f"a dict of some of {', '.join(value)} for this file"
        got = checks.describe(list(like)) if isinstance(like, Mapping) else type(like).__name__
        checks.fail("load", "like", rule, got)
    return {
        name: restored(part, wanted[name], name) if name in wanted else _known(part) for name, part in value.items()
    }


def nested(tree: PyTree) -> Any:
    """A tree as nested dicts of NumPy arrays, numbers and texts by name; one line if it holds anything else."""
    found: dict[str, Any] = {}
    whose: dict[tuple[str, ...], str] = {}
    pairs = _pairs("save", "what", tree)
    if len(pairs) == 1 and not pairs[0][0]:
        return _plain(pairs[0][1], "")
    for path, leaf in pairs:
        names, place = names_of(path), found
        if {KEY, _CHUNKED} & set(names):
            _refuse(jax.tree_util.keystr(path), "a name with a meaning of its own")
        for depth in range(1, len(names) + 1):
            told = jax.tree_util.keystr(path[:depth])
            if whose.setdefault(names[:depth], told) != told:
                got = f"{whose[names[:depth]]} and {told}"
                checks.fail("save", "what", "of parts with different names", got)
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = _plain(leaf, jax.tree_util.keystr(path))
    return found


def restored(value: Any, like: PyTree, part: str = "") -> PyTree:
    """What was saved, in the structure of `like`; one line where it has other names, shapes or dtypes."""
    pairs = _pairs("load", "like", like)
    used: list[tuple[str, ...]] = []
    leaves = []
    for path, leaf in pairs:
        place, names = value, names_of(path)
        shown = part + jax.tree_util.keystr(path)
        for name in names:
            if not isinstance(place, dict) or name not in place:
                if _is_bare(leaf):
                    break  # nothing is lost with what holds nothing
                held = ", ".join(place) if isinstance(place, dict) else "an array"
                checks.fail("load", "like", "of parts that the file has", f"{shown}", f"It has {held or 'none'} there.")
            place = place[name]
        if _is_bare(leaf):
            leaves.append(leaf)
            continue
        used.append(names)
        leaves.append(_as(place, leaf, shown))
    rest = [names for names in _names(value) if names not in set(used)]
    if rest:
        missing = ".".join(filter(None, (part, *rest[0]))) or "the array that it is"
        checks.fail("load", "like", "of all parts that were saved", f"none of {missing}")
    treedef = jax.tree.structure(like, is_leaf=_is_bare)
    return jax.tree.unflatten(treedef, leaves)


def _parts(run: Run, of: Callable[[Any], Any]) -> dict[str, Any]:
    """What is kept of a run."""
    out = {} if run.models is None else {"params": of(run.params)}
    out |= {"state": of(run.state), "step": run.step}
    return out if run.seeds is None else {**out, "seeds": np.asarray(run.seeds, np.uint32)}


def _pairs(where: str, argument: str, tree: PyTree) -> list[tuple[tuple[Any, ...], Any]]:
    """Leaves, and what holds none, with their paths."""
    try:
        return jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_bare)[0]
    except (TypeError, ValueError) as error:
        checks.fail(where, argument, "a tree of arrays", f"{type(tree).__name__} ({' '.join(str(error).split())[:80]})")


def _is_bare(node: Any) -> bool:
    """Whether a node of a tree holds nothing: None, (), {} or, say, optax.EmptyState()."""
    if node is None:
        return True
    if isinstance(node, tuple | list | dict):
        return not node
    structure: Any = jax.tree.structure(node)
    return structure.num_leaves == 0 and structure.num_nodes == 1


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any, shown: str) -> Any:
    """A leaf as msgpack and flax have it."""
    if isinstance(leaf, jax.core.Tracer):
        _refuse(shown, "a tracer")
    if _is_key(leaf):
        return {KEY: str(jax.random.key_impl(leaf)), "data": to_host(jax.random.key_data(leaf))}
    if isinstance(leaf, jax.Array | np.ndarray | np.generic) and not isinstance(leaf, str | bytes):
        array = to_host(leaf)
        if not _is_number_type(array.dtype):
            _refuse(shown, f"an array of {array.dtype}")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)  # flax's format says nothing of the order
        return array[()] if isinstance(leaf, np.generic) else array
    if leaf is None or _is_bare(leaf):
        return None if leaf is None else {}
    if isinstance(leaf, int) and not -(2**63) <= leaf < 2**64:
        _refuse(shown, f"the integer {leaf:.3e}" if abs(leaf) < 2**1000 else "a larger integer")
    kind: Any
    for kind in (bool, int, float, complex, str, bytes):  # not of a class of their own, which msgpack would refuse
        if isinstance(leaf, kind):
            return kind(leaf)
    _refuse(shown, f"an object of class {type(leaf).__name__}")


def _refuse(shown: str, got: str) -> NoReturn:
    got = f"{got} at {shown}" if shown else got
    checks.fail("save", "what", "a tree of arrays, numbers and texts, or a Run", got, "Pass e.g. run.params.")


def _is_number_type(dtype: np.dtype) -> bool:
    """Whether flax finds the type by its name again."""
    try:
        return np.dtype(dtype.name) == dtype.newbyteorder("=") and (
            dtype.kind == "b" or jnp.issubdtype(dtype, jnp.number)
        )
    except TypeError:
        return False


def _read(target: pathlib.Path) -> tuple[str, Any]:
    """The kind of a file and what it holds, by its digest as it was written."""
    from flax import serialization

    try:
        data = target.read_bytes()
    except OSError as error:
        checks.fail("load", "path", "a file that dlsim.save wrote", f"{target} ({error.strerror})")
    size = len(_HEAD) + 64
    if data[: len(_HEAD)] != _HEAD:
        fix = "Flax's own files are read by flax.serialization.msgpack_restore."
        checks.fail("load", "path", "a file that dlsim.save wrote", f"{target}, which is none or damaged", fix)
    if hashlib.sha256(memoryview(data)[size:]).hexdigest().encode() != data[len(_HEAD) : size]:
        rule, got = "the file that dlsim.save wrote", f"{target}, whose contents are others (SHA-256)"
        checks.fail("load", "path", rule, got, _FIX)
    whole = serialization.msgpack_restore(data)
    about = whole["about"]
    if about["format"] > FORMAT:
        got = f"{target} of format {about['format']}, by dlsim {about['dlsim']}"
        checks.fail("load", "path", f"of format {FORMAT} or earlier", got, "Use that version.")
    return about["kind"], whole["value"]


def _known(value: Any) -> Any:
    """Nested dicts with arrays as JAX has them, and keys of random numbers as keys."""
    if isinstance(value, dict):
        return _key(value) if KEY in value else {name: _known(part) for name, part in value.items()}
    return _array(value) if isinstance(value, np.ndarray) else value


def _array(value: np.ndarray) -> Any:
    """A JAX array, or the NumPy one where JAX has no such numbers."""
    is_known = hasattr(jnp, value.dtype.name) and jax.dtypes.canonicalize_dtype(value.dtype) == value.dtype
    return jnp.asarray(value) if is_known else value.copy()


def _key(value: dict[str, Any]) -> jax.Array:
    return jax.random.wrap_key_data(jnp.asarray(value["data"]), impl=value[KEY])


def _names(value: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The names of all that holds something."""
    if not isinstance(value, dict) or KEY in value:
        return [] if value is None else [above]
    return [names for name, part in value.items() for names in _names(part, (*above, name))]


def _as(value: Any, like: Any, shown: str) -> Any:
    """A saved leaf, if it is of the kind, shape and dtype of `like`."""
    made = _known(value)
    theirs, mine = _described(made), _described(like)
    if theirs != mine:
        checks.fail("load", "like", f"{theirs} at {shown or 'the top'}, as was saved", mine)
    return made


def _described(leaf: Any) -> str:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        dtype = leaf.dtype.newbyteorder("=") if isinstance(leaf.dtype, np.dtype) else leaf.dtype
        return f"{dtype}{list(leaf.shape)}"
    return "more parts" if isinstance(leaf, dict) else type(leaf).__name__
