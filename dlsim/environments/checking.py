"""`check`: whether a world keeps the protocol, told before anybody learns in it, all faults at once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from dlsim import checks
from dlsim.core import PyTree
from dlsim.environments import traces
from dlsim.environments.environment import FLOATS, Environment, Space
from dlsim.environments.trial import COPIES, Trial, action_dtype, try_out

INTEGERS = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
MOST_LEAVES = 5  # of a state that lines name
OPTIONAL = ("action_mask", "contact", "global_state", "metrics", "render")
BRANCH = "Use jnp.where, jax.lax.cond or jax.lax.scan in place of `if`, `while` and `for` on values."
HOST = "Use jax.numpy in place of what runs on the host."


class Faults(list[str]):
    """Lines of the project's one form, as they are found."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.where = f"check {name!r}"

    def add(self, argument: str, rule: str, got: Any, fix: str = "") -> None:
        try:
            checks.fail(self.where, argument, rule, got, fix)
        except ValueError as error:
            if str(error) not in self:
                self.append(str(error))


def check(
    environment: Environment, *, num_steps: int | None = None, is_deterministic: bool = False, seed: int = 0
) -> Environment:
    """The environment, if it keeps the protocol; else a ValueError with all its faults, one line each.

    What is read off the traced functions: what is missing; observations, rewards, dones and masks of other shapes or types
    than the spaces and the number of agents say; a state that `step` gives back with another structure, shape or type;
    branches on values and callbacks to the host, which cannot be one program; numbers of the host's that differ from trace
    to trace; keys made inside, and given keys that nobody uses.

    What shows in random play, in a few copies side by side: results that differ for the same key; rewards and observations
    that are not finite; observations outside their space; agents that may do nothing, that come back after they were done
    or earn then; episodes that are not over at `max_steps`, and worlds that begin anew by themselves.

    Args:
      environment: of a factory, without `auto_reset`.
      num_steps: how long it is played; default its `max_steps`, or 100 where it has none; 0: not at all, which compiles
        nothing; structural.
      is_deterministic: a world without chance, which uses no keys.
      seed: of the random play.

    Returns:
      the environment as it was given: `world = check(my_world())`.
    """
    if not isinstance(environment, Environment):
        missing = [name for name in Environment._fields[:6] if not hasattr(environment, name)]
        has_some = not isinstance(environment, type) and len(missing) < 6
        got = f"{checks.describe(environment)} without {', '.join(missing)}" if has_some and missing else environment
        fix = "Call its factory first." if callable(environment) else "Make one: Environment(name=..., reset=..., ...)."
        checks.fail("check", "environment", "an Environment", checks.describe(got) if got is environment else got, fix)
    if num_steps is not None:
        num_steps = checks.integer("check", "num_steps", num_steps, 0)
    checks.flag("check", "is_deterministic", is_deterministic)
    seed = checks.seed("check", seed)
    faults = Faults(environment.name if isinstance(environment.name, str) else "environment")
    if _has_fields(environment, faults):
        steps = (environment.max_steps or 100) if num_steps is None else num_steps
        played = _read(environment, faults, is_deterministic)
        if played is not None and steps:
            _play(environment, faults, jax.random.key(seed), steps, played)
    if faults:
        raise ValueError("\n".join(faults))
    return environment


def _has_fields(environment: Environment, faults: Faults) -> bool:
    """Whether there is enough of it to be tried."""
    if not isinstance(environment.name, str) or not environment.name:
        faults.add("name", "a name", checks.describe(environment.name))
    before = len(faults)
    for name in ("reset", "step"):
        if not callable(getattr(environment, name)):
            faults.add(name, "a function", checks.describe(getattr(environment, name)))
    for name in OPTIONAL:
        value = getattr(environment, name)
        if value is not None and not callable(value):
            faults.add(name, "a function or None", checks.describe(value))
    if not _is_count(environment.num_agents):
        faults.add("num_agents", "an integer >= 1", checks.describe(environment.num_agents))
    if environment.max_steps is not None and not _is_count(environment.max_steps):
        faults.add("max_steps", "an integer >= 1 or None", checks.describe(environment.max_steps))
    for name in ("observation_space", "action_space"):
        _check_space(name, getattr(environment, name), faults)
    can_be_tried = len(faults) == before
    names = environment.agent_names
    if _is_count(environment.num_agents) and names and len(names) != environment.num_agents:
        faults.add("agent_names", f"one for each of {environment.num_agents} agents", f"{len(names)} of them")
    return can_be_tried


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _check_space(name: str, space: Any, faults: Faults) -> None:
    fix = "Use dlsim.environments.discrete(num) or box(shape)."
    if not isinstance(space, Space):
        faults.add(name, "a Space", checks.describe(space), fix)
    elif not isinstance(space.shape, tuple) or not all(map(_is_count, space.shape)):
        faults.add(f"{name}.shape", "a tuple of integers >= 1", checks.describe(space.shape), fix)
    elif space.num is not None and not _is_count(space.num):
        faults.add(f"{name}.num", "an integer >= 1 or None", checks.describe(space.num), fix)
    elif not space.low <= space.high:
        faults.add(f"{name}.low", f"at most high, {space.high:g}", f"{space.low:g}", fix)
    elif not isinstance(space.dtype, str) or space.dtype not in (*FLOATS, *INTEGERS):
        faults.add(f"{name}.dtype", "one of " + ", ".join((*FLOATS, *INTEGERS)), checks.describe(space.dtype), fix)


# What is read off the traced functions.


def _read(environment: Environment, faults: Faults, is_deterministic: bool) -> Trial | None:
    """What of the environment can be played, by what it gives: None where that is nothing."""
    key = jax.random.key(0)
    begun = _traced(faults, "reset", environment.reset, key)
    if begun is None:
        return None
    if not isinstance(begun[1], tuple) or len(begun[1]) != 2:
        faults.add("reset", "a function that returns (state, observations)", _parts(begun[1]))
        return None
    state, observations = begun[1]
    sees = _check_array("reset's observations", observations, *_wanted(environment), faults)
    _read_views(environment, state, faults)
    space, dtype = environment.action_space, action_dtype(environment.action_space)
    shape = (environment.num_agents, *space.shape)
    stepped = _traced(faults, "step", environment.step, key, state, jax.ShapeDtypeStruct(shape, dtype))
    if stepped is None:
        return None
    uses = [traces.uses_first(one[0].jaxpr) for one in (begun, stepped)]
    if not any(uses) and not is_deterministic:
        fix = "Where the world has no chance in it, say is_deterministic=True."
        faults.add("reset and step", "functions of their key", "neither uses it: every episode is the same", fix)
    if not isinstance(stepped[1], tuple) or len(stepped[1]) != 5:
        rule = "a function that returns (state, observations, rewards, dones, info)"
        faults.add("step", rule, _parts(stepped[1]))
        return None
    after, seen, rewards, dones, info = stepped[1]
    _take_all_actions(environment, key, state, faults)
    can_go_on = _check_drift(state, after, faults)
    sees &= _check_array("step's observations", seen, *_wanted(environment), faults)
    counts = (environment.num_agents,)
    floats = {"float32", str(jnp.result_type(float))}
    earns = _check_array("rewards", rewards, counts, floats, faults, "Use rewards.astype(float).")
    ends = _check_array("dones", dones, counts, {"bool"}, faults)
    if not isinstance(info, dict):
        faults.add("info", "a dict with is_over and is_truncated", _parts(info))
        return None
    for name in ("is_over", "is_truncated"):
        if name not in info:
            faults.add(f"info[{name!r}]", "there, bool []", "nothing of that name")
            can_go_on = False
        else:
            can_go_on &= _check_array(f"info[{name!r}]", info[name], (), {"bool"}, faults)
    if "last_observations" in info:
        faults.add("environment", "one without auto_reset", "one with `last_observations` in its info")
        return None
    return Trial(sees=sees, earns=earns, ends=ends) if can_go_on else None


def _wanted(environment: Environment) -> tuple[tuple[int, ...], set[str]]:
    space = environment.observation_space
    return (environment.num_agents, *space.shape), {str(jnp.dtype(space.dtype))}


def _read_views(environment: Environment, state: PyTree, faults: Faults) -> None:
    """What is optional, where it is there."""
    num = environment.num_agents
    shapes = {"contact": (num, num)}
    if environment.action_space.is_discrete:
        shapes["action_mask"] = (num, int(environment.action_space.num or 1))
    elif environment.action_mask is not None:
        faults.add("action_mask", "None where actions are numbers", "a function")
    for name, shape in shapes.items():
        if getattr(environment, name) is not None:
            made = _traced(faults, name, getattr(environment, name), state)
            if made is not None:
                _check_array(f"{name}(state)", made[1], shape, {"bool"}, faults)
    if environment.global_state is not None:
        made = _traced(faults, "global_state", environment.global_state, state)
        if made is not None and len(getattr(made[1], "shape", ())) != 1:
            faults.add("global_state(state)", "of shape [G]", _parts(made[1]))
    if environment.metrics is not None:
        made = _traced(faults, "metrics", environment.metrics, state)
        if made is not None and not isinstance(made[1], dict):
            faults.add("metrics(state)", "a dict of arrays", _parts(made[1]))


def _traced(faults: Faults, name: str, fn: Any, *args: Any) -> tuple[ClosedJaxpr, Any] | None:
    """The function as JAX sees it, and the shapes of what it gives; None where it cannot be traced."""
    try:
        # A new function each time: the traces of one are kept.
        (jaxpr, made), (again, _) = (
            jax.make_jaxpr(lambda *given: fn(*given), return_shape=True)(*args) for _ in range(2)
        )
    except Exception as error:
        _say_why(faults, name, error)
        return None
    for callback in sorted({found for found in traces.primitives(jaxpr.jaxpr) if "callback" in found}):
        faults.add(name, "free of calls to the host", callback, HOST)
    if traces.draws_alone(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.invars)):
        fix = "Derive all keys from the one that is given: jax.random.split(key)."
        faults.add(name, "random by its key alone", "a key made inside", fix)
    if traces.text(jaxpr) != traces.text(again):
        fix = "Draw by the key, with jax.random; read no clock and change nothing outside."
        faults.add(name, "the same function each time it is traced", "constants that differ", fix)
    return jaxpr, made


def _say_why(faults: Faults, name: str, error: Exception) -> None:
    said = (str(error).strip().splitlines() or [""])[0][:90]
    kind = type(error)
    branches = ("ConcretizationTypeError", "TracerBoolConversionError", "TracerIntegerConversionError")
    fix = HOST if kind.__name__ == "TracerArrayConversionError" else BRANCH if kind.__name__ in branches else ""
    faults.add(name, "a function that JAX can trace (jit, vmap)", f"{kind.__name__}: {said}", fix)


def _take_all_actions(environment: Environment, key: Any, state: PyTree, faults: Faults) -> None:
    """A step looks at the values of actions where it knows them: those at the bounds of the space are right."""
    space = environment.action_space
    shape = (environment.num_agents, *space.shape)
    for bound in {space.low, space.high}:
        if np.isfinite(bound):
            actions = jnp.full(shape, bound, action_dtype(space))
            try:
                jax.eval_shape(lambda key, state, actions=actions: environment.step(key, state, actions), key, state)
            except jax.errors.JAXTypeError:
                return  # it looks at them in a way that a trace does not allow, which is no fault where they are traced
            except Exception as error:
                said = (str(error).strip().splitlines() or [""])[0][:110]
                kinds = f"{type(error).__name__}: {said}"
                faults.add("step", f"a function that takes every action of its space, {bound:g} among them", kinds)


def _check_array(name: str, made: Any, shape: tuple[int, ...], dtypes: set[str], faults: Faults, fix: str = "") -> bool:
    """Whether it is one array of this shape, and of one of these types."""
    if not hasattr(made, "shape") or not hasattr(made, "dtype"):
        faults.add(name, "one array", _parts(made), "Agents lead the axes of one array; there are no dicts of agents.")
        return False
    if tuple(made.shape) != shape:
        faults.add(name, f"of shape {list(shape)}", str(list(made.shape)))
    if str(made.dtype) not in dtypes:
        faults.add(name, f"of type {' or '.join(sorted(dtypes))}", str(made.dtype), fix)
    return tuple(made.shape) == shape


def _check_drift(before: PyTree, after: PyTree, faults: Faults) -> bool:
    """Whether the state has its form still, so that it can go on being stepped; other types are told, and go on."""
    wanted, got = (_leaves(tree) for tree in (before, after))
    form: Any = jax.tree.structure(before)
    if form != jax.tree.structure(after):
        lost, new = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
        said = [f"without {', '.join(lost)}"] * bool(lost) + [f"with {', '.join(new)} besides"] * bool(new)
        got_kind = " and ".join(said) or f"a {type(after).__name__} in place of a {type(before).__name__}"
        faults.add("step's state", "of the structure that reset gives it", got_kind)
        return False
    changed = [name for name in wanted if wanted[name] != got[name]]
    for name in changed[:MOST_LEAVES]:
        rule = f"{wanted[name]} after a step, as reset makes it"
        faults.add(f"state{name}", rule, got[name], "Keep each leaf's shape and dtype, say by .astype.")
    if len(changed) > MOST_LEAVES:
        faults.add("step's state", "of the shapes and types that reset gives it", f"{len(changed)} leaves of others")
    return all(wanted[name].split()[1:] == got[name].split()[1:] for name in changed)


def _leaves(tree: PyTree) -> dict[str, str]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype} {list(leaf.shape)}" for path, leaf in found}


def _parts(made: Any) -> str:
    """What was made, by its shapes."""
    if hasattr(made, "shape"):
        return f"{made.dtype} {list(made.shape)}"
    size = f" of {len(made)}" if isinstance(made, tuple | list | dict) else ""
    return f"a {type(made).__name__}{size}"


# What shows in play.


def _play(environment: Environment, faults: Faults, key: Any, num_steps: int, trial: Trial) -> None:
    try:
        found, differs = try_out(environment, key, num_steps, trial)
    except Exception as error:
        _say_why(faults, "reset, step and action_mask, for several worlds at once,", error)
        return
    given = environment.agent_names
    names = given if len(given) == environment.num_agents else environment._replace(agent_names=()).names
    for name, rule, fix in RULES:
        agents = np.asarray(found.agents[name])
        if not agents.any():
            continue
        first = int(found.first[name])
        when = "at reset" if first < 0 else f"in step {first}"
        bad = [names[i] for i in np.flatnonzero(agents)] if agents.ndim else []
        who = f" of {', '.join(bad[:4])}{', ...' if len(bad) > 4 else ''}" if bad and len(bad) < len(names) else ""
        value = found.values.get(name)
        shown = f"{float(value):g} {when}{who}" if value is not None else f"others {when}{who}"
        faults.add(name, rule(environment), shown, fix)
    late = int(np.sum(found.ended > (environment.max_steps or num_steps)))
    if environment.max_steps is not None and num_steps >= environment.max_steps and late:
        rule = f"True by step {environment.max_steps}, which is max_steps"
        faults.add("info['is_over']", rule, f"False until then in {late} of {COPIES} episodes")
    if differs:
        fix = "A world is a pure function of its key, state and actions."
        faults.add("a second play by the same key", "the same as the first", f"another {', '.join(differs)}", fix)
    if environment.render is not None:
        _draw(environment, found.state, faults)


def _bounds(space: Space) -> str:
    kind = "integers" if space.is_discrete else "numbers"
    return f"{kind} in [{space.low:g}, {space.high:g}], as their space says"


# What is counted in `trial`: what it is called, what it must be, and what to do.
RULES: tuple[tuple[str, Any, str], ...] = (
    ("observations", lambda environment: _bounds(environment.observation_space), ""),
    ("observations (as numbers)", lambda environment: "finite", "Look for 0 / 0 and logarithms of 0."),
    ("rewards", lambda environment: "finite", "Look for 0 / 0 and logarithms of 0."),
    ("rewards of agents that are done", lambda environment: "0", "Multiply by ~done."),
    ("dones", lambda environment: "True until the episode is over, once they are", "Keep them in the state."),
    (
        "info['is_truncated']",
        lambda environment: "True only where info['is_over'] is",
        "An episode that its time limit ends is over.",
    ),
    (
        "action_mask(state)",
        lambda environment: "True somewhere, for every agent that is not done",
        "Allow one to wait.",
    ),
    (
        "step",
        lambda environment: "a function that leaves a state that is over as it ended",
        "Do not reset by yourself: play, the learners and auto_reset do.",
    ),
)


def _draw(environment: Environment, state: PyTree, faults: Faults) -> None:
    from matplotlib.figure import Figure

    try:
        environment.render(jax.device_get(state), Figure(figsize=(2, 2)).add_axes((0, 0, 1, 1)))
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0][:90]
        faults.add("render", "a function of (state, axes)", f"{type(error).__name__}: {said}")
