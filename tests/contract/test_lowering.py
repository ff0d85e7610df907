"""Every method lowers for CUDA and TPU: no call of the host, no 64-bit floats, nothing that the device does not have.

Lowered by `jax.export`, which needs neither the device nor its compiler; what XLA then makes of it is not seen here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract.lowering_table import ELSEWHERE, SCRIPTS, every_process, is_measured, makers, round_of
from jax import export

from dlsim import environments, marl
from dlsim.networks import mixing

PLATFORMS = ("cuda", "tpu")
ROWS = every_process()
KEY = jax.ShapeDtypeStruct((2,), np.uint32)

# Custom calls by what they are named in JAX's lowering rules.
ANYWHERE = (
    "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape",  # notes for the partitioner, gone before code is made
    "annotate_device_placement",  # the same, of memory kinds
    "ApproxTopK",  # XLA expands it itself
)  # fmt: skip
THERE = {
    "cuda": (
        "cu_", "cusolver_", "cusparse_", "cublas",  # jaxlib's own kernels, and NVIDIA's libraries that it brings
    ),
    "tpu": (
        "Eigh", "Qr", "LuDecomposition", "ProductOfElementaryHouseholderReflectors",  # the TPU compiler expands these
        "tpu_custom_call",  # a Pallas kernel
    ),
}  # fmt: skip
CALLBACK = re.compile(r"\b(\w*callback|debug_print)\[")  # io_callback, pure_callback, debug_callback
CUSTOM_CALL = re.compile(r"custom_call @\"?([\w.$]+)")
WIDE = re.compile(r"[<x]f64>")


def lowered(function: Callable[..., Any], shapes: Sequence[Any], platforms: Sequence[str]) -> str:
    """The program for these platforms, as text."""
    allowed = [export.DisabledSafetyCheck.custom_call(name) for name in ("ApproxTopK", "annotate_device_placement")]
    return export.export(function, platforms=platforms, disabled_checks=allowed)(*shapes).mlir_module()


def faults(function: Callable[..., Any], *shapes: Any) -> list[str]:
    """What would fail, or be slow, on a device; none: an empty list."""
    jitted = jax.jit(function)
    asked = sorted(set(CALLBACK.findall(str(jitted.trace(*shapes).jaxpr))))
    if asked:
        return [f"asks the host by {name}" for name in asked]
    found: list[str] = []
    try:
        text = lowered(jitted, shapes, PLATFORMS)
        if WIDE.search(text):
            found.append("has 64-bit floats")
        if set(CUSTOM_CALL.findall(text)) <= set(ANYWHERE):
            return found
        for platform in PLATFORMS:  # which of them calls what
            calls = set(CUSTOM_CALL.findall(lowered(jitted, shapes, (platform,))))
            missing = sorted(name for name in calls if not name.startswith((*ANYWHERE, *THERE[platform])))
            found += [f"calls {name}, which {platform} lacks" for name in missing]
    except (NotImplementedError, ValueError) as error:  # no rule, or a call without a promise to be there tomorrow
        found.append(f"cannot be lowered: {str(error).strip()}")
    return found


@pytest.mark.parametrize("name", ROWS)
def test_it_lowers_for_cuda_and_tpu(name: str) -> None:
    found = faults(round_of(ROWS[name](), is_measured(name, list(ROWS))), KEY)
    assert not found, f"{name}: {'; '.join(found)}"


def test_every_environment_policy_learner_and_way_to_mix_has_a_row() -> None:
    names = {name.split(" ", 1)[1] for name in ROWS}
    made = {*makers(environments, "Environment", "Process", "Policy"), *makers(marl, "Learner")}
    assert made - names == set(ELSEWHERE)
    assert set(makers(environments, "Policy")) - set(ELSEWHERE) == set(SCRIPTS)
    assert {name.removeprefix("mixing ") for name in ROWS if name.startswith("mixing ")} == set(mixing.LOWERINGS)


# The test itself.

SQUARE = jax.ShapeDtypeStruct((4, 4), np.float32)


def in_a_loop(body: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Where a step would have it: in a scan, under vmap, behind a condition."""

    def run(x: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            return jax.lax.cond(carry[0, 0] > 0, jax.vmap(lambda m: body(m)), lambda c: c, carry[None])[0], None

        return jax.lax.scan(step, x, None, length=2)[0]

    return run


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda x: jax.pure_callback(np.array, SQUARE, x, vmap_method="sequential"), "asks the host by pure_callback"),
        (lambda x: jax.experimental.io_callback(np.array, SQUARE, x), "asks the host by io_callback"),
        (lambda x: (jax.debug.callback(print, x), x)[1], "asks the host by debug_callback"),
        (lambda x: (jax.debug.print("{}", x), x)[1], "asks the host by debug_(print|callback)"),
        (lambda x: jax.ffi.ffi_call("lapack_sgetrf_ffi", SQUARE, vmap_method="sequential")(x), "lapack.*, which cuda"),
        (lambda x: jnp.linalg.eig(x)[1].real, "cannot be lowered: .*eig"),
        (lambda x: jax.scipy.linalg.schur(x)[0], "cannot be lowered: .*schur"),
    ],
    ids=["pure_callback", "io_callback", "debug_callback", "print", "lapack", "eig", "schur"],
)
def test_what_a_device_lacks_is_found(body: Callable[[Any], Any], says: str) -> None:
    assert re.search(says, " ".join(faults(in_a_loop(body), SQUARE)))


def test_a_call_that_one_platform_has_is_missed_on_the_other() -> None:
    call = jax.ffi.ffi_call("cusolver_getrf_ffi", SQUARE)
    assert faults(lambda x: call(x), SQUARE) == ["calls cusolver_getrf_ffi, which tpu lacks"]


@pytest.mark.parametrize("name", ["cholesky", "qr", "eigh", "svd", "solve"])
def test_what_each_device_has_in_its_own_way_passes(name: str) -> None:
    function = (lambda x: jnp.linalg.solve(x, x)) if name == "solve" else getattr(jnp.linalg, name)
    assert faults(function, SQUARE) == []


def test_wide_floats_are_found() -> None:
    with jax.enable_x64(True):
        assert faults(in_a_loop(lambda x: (x.astype(jnp.float64) + 1e-12).astype(jnp.float32)), SQUARE) == [
            "has 64-bit floats"
        ]


def test_a_policy_that_asks_the_host_is_found() -> None:
    environment = environments.matrix_game("chicken", 5)
    process = environments.play(environment, environments.host_policy(lambda situation: [0, 0], environment))
    assert faults(round_of(process), KEY) == ["asks the host by io_callback"]
