"""Runs one operator as a one-node model, on any tier of the kernels, and judges its accuracy."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors
from tolerances import TOLERANCES

from inter2former_deploy.core.contract import DOMAIN, DOMAIN_VERSION
from inter2former_deploy.operators.registry import OPERATORS, operator_name

Array = NDArray[Any]

ROOT = Path(__file__).parents[2]


def _tier_table() -> tuple[dict[str, set[str]], tuple[str, ...]]:
    """Of each tier in custom_ops/tiers.txt for this machine what it asks; those that have all kernels of their own."""
    features: dict[str, set[str]] = {}
    own = []
    so_far: set[str] = set()
    of_bases: set[str] = set()
    for row in filter(None, (ROOT / "custom_ops" / "tiers.txt").read_text().splitlines()):
        machine, *fields = row.split()
        if machine == platform.machine():
            tier, _, _, base, *added = fields
            if base == "-":
                of_bases |= set(added)
                so_far = set(of_bases)
            else:
                so_far |= set(added)
            features[tier] = set(so_far)
            own += [tier] if base == "-" else []
    return features, tuple(own)


FEATURES, TIERS = _tier_table()
ALL_TIERS = tuple(FEATURES)  # also those that have kernels of their own for reduced precision only
# How many shapes a test of random ones draws: fewer under scripts/sanitize, where each takes ten times as long.
EXAMPLES = 5 if os.environ.get("INTER2FORMER_OPS_EMULATED") else 25
random_shapes = settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
# Features that /proc/cpuinfo names otherwise than the compiler.
CPUINFO = {
    "bmi": "bmi1",
    "avxvnni": "avx_vnni",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
    "dotprod": "asimddp",
}
THREADS = (1, 2, 8)  # results must be the same for all of these
FAILURES = (onnxruntime_errors.Fail, onnxruntime_errors.RuntimeException, onnxruntime_errors.InvalidArgument)


def library_path() -> Path:
    """The library under test: INTER2FORMER_OPS_LIBRARY, else the installed package's."""
    named = os.environ.get("INTER2FORMER_OPS_LIBRARY")
    return Path(named or str(resources.files("inter2former_deploy") / "lib" / "libinter2former_ops.so"))


def cpu_flags() -> set[str]:
    """What the processor has, in the words of the kernel: AMX only where it grants this process its tiles."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = set(next(line for line in lines if line.startswith(("flags", "Features"))).split())
    # arch_prctl: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    if "amx_tile" in flags and ctypes.CDLL(None).syscall(158, 0x1023, 18) != 0:
        flags -= {"amx_tile", "amx_int8", "amx_bf16"}
    return flags


def machine_tiers() -> tuple[str, ...]:
    """The tiers that this machine has, read from the kernel and not from the library."""
    flags = cpu_flags()
    return tuple(tier for tier in ALL_TIERS if {CPUINFO.get(name, name) for name in FEATURES[tier]} <= flags)


def expected_tiers() -> tuple[str, ...]:
    """The tiers that the library under test must run: this machine's; all where it was built with I2F_EMULATE.

    scripts/sanitize sets INTER2FORMER_OPS_EMULATED for such a library.
    """
    emulated = bool(os.environ.get("INTER2FORMER_OPS_EMULATED")) and platform.machine() == "x86_64"
    return ALL_TIERS if emulated else machine_tiers()


@dataclass(frozen=True)
class Library:
    """The operator library, fixed to one tier."""

    tier: str
    path: Path

    def options(self, threads: int = 1) -> onnxruntime.SessionOptions:
        """Session options with the library registered."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors are asserted on, not printed
        options.enable_cpu_mem_arena = False  # each tensor its own allocation: sanitizers see what lies beside it
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The library reads the variable when it is first registered; the `library` fixture asserts that it took.
        previous = os.environ.get("INTER2FORMER_TIER")
        os.environ["INTER2FORMER_TIER"] = self.tier
        try:
            options.register_custom_ops_library(str(self.path))
        finally:
            if previous is None:
                del os.environ["INTER2FORMER_TIER"]
            else:
                os.environ["INTER2FORMER_TIER"] = previous
        return options

    @functools.lru_cache(maxsize=64)  # noqa: B019 - libraries live as long as the test session
    def session(self, model: bytes, threads: int) -> onnxruntime.InferenceSession:
        """A session on the library; the same for the same model."""
        return onnxruntime.InferenceSession(model, self.options(threads), providers=["CPUExecutionProvider"])

    def run(
        self,
        operator: str,
        inputs: Mapping[str, Array],
        *,
        constant: Collection[str] = (),
        threads: int = 1,
        **attributes: object,
    ) -> list[Array]:
        """Runs `operator` once.

        Args:
            operator: Its name in custom_ops/OPERATORS.md.
            inputs: All inputs, in order.
            constant: Names of inputs that the model holds as initializers, so that the kernel can pack them once.
            threads: Threads of the session.
            **attributes: The node's attributes.
        """
        model = one_node_model(operator, inputs, constant, attributes)
        outputs: list[Array] = self.session(model, threads).run(
            None, {name: fed(x) for name, x in inputs.items() if name not in constant}
        )
        return outputs

    def run_all_ways(
        self, operator: str, inputs: Mapping[str, Array], *, constant: Collection[str] = (), **attributes: object
    ) -> Array:
        """The first output; asserts that 1, 2 and 8 threads, and constant or fed weights, give the same bits."""
        expected = self.run(operator, inputs, constant=constant, threads=THREADS[0], **attributes)[0]
        others = {f"{threads} threads": (threads, constant) for threads in THREADS[1:]}
        if constant:
            others["no constants"] = (THREADS[0], ())
        for what, (threads, known) in others.items():
            actual = self.run(operator, inputs, constant=known, threads=threads, **attributes)[0]
            assert actual.tobytes() == expected.tobytes(), f"{operator} differs with {what}"
        return expected

    def fails(self, message: str, operator: str, inputs: Mapping[str, Array], **options: Any) -> None:
        """Asserts that the operator fails with `message`, a regular expression that `[operator] ` precedes."""
        name, _ = named(operator, inputs, {x: y for x, y in options.items() if x not in ("constant", "threads")})
        with pytest.raises(FAILURES, match=rf"\[{name}\] {message}"):
            self.run(operator, inputs, **options)


def fed(x: Array) -> Any:
    """An input as onnxruntime takes it: its Python interface knows no arrays of bfloat16."""
    if x.dtype != ml_dtypes.bfloat16:
        return x
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(x.view(np.uint16), onnx.TensorProto.BFLOAT16)


def named(formula: str, inputs: Collection[str], settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The operator that computes a formula of `twins` with some settings, and those that are its attributes."""
    attributes = dict(settings)
    return operator_name(formula, attributes, known="known_qkv" in inputs), attributes


def one_node_model(
    operator: str, inputs: Mapping[str, Array], constant: Collection[str], attributes: Mapping[str, object]
) -> bytes:
    """A model of one node. No shapes are declared: the operator is the one that checks them."""
    operator_type, attributes = named(operator, inputs, attributes)
    elements = {name: onnx.helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in inputs.items()}
    outputs = [f"out_{i}" for i in range(6 if operator == "OperatorInfo" else OPERATORS[operator].outputs)]
    node = onnx.helper.make_node(operator_type, list(inputs), outputs, domain=DOMAIN, **attributes)
    graph = onnx.helper.make_graph(
        [node],
        operator,
        [onnx.helper.make_tensor_value_info(name, e, None) for name, e in elements.items() if name not in constant],
        [onnx.ValueInfoProto(name=name) for name in outputs],  # their types, too, are the operator's
        [onnx.numpy_helper.from_array(np.ascontiguousarray(inputs[name]), name) for name in constant],
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    serialized: bytes = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return serialized


def assert_accurate(
    actual: Array, twin: Callable[..., Array], *inputs: Array, extra: float = 0.0, **attributes: Any
) -> None:
    """Asserts that `actual` is at most twice as far from the truth as the plain float32 formula.

    Args:
        actual: The operator's output, float32.
        twin: A function of `twins` with a `dtype`: float64 is the truth, float32 the plain formula.
        *inputs: The operator's inputs.
        extra: Added to the error allowed, relative to the largest value.
        **attributes: The operator's attributes.
    """
    truth, allowed = _truth(twin, inputs, attributes)
    allowed += extra * np.abs(truth[np.isfinite(truth)]).max(initial=0)
    assert actual.dtype == np.float32
    assert actual.shape == truth.shape
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(actual[~finite], truth[~finite].astype(np.float32))
    error = np.abs(actual[finite] - truth[finite]).max(initial=0)
    assert error <= allowed, f"error {error:.3g}, at most {allowed:.3g} allowed"


_truths: dict[str, tuple[Array, float]] = {}  # the same for every tier


def _truth(twin: Callable[..., Array], inputs: Sequence[Array], attributes: Mapping[str, Any]) -> tuple[Array, float]:
    """The float64 result and how far from it a float32 result may be."""
    digest = hashlib.sha256(repr((twin.__name__, attributes, [(x.dtype, x.shape) for x in inputs])).encode())
    for x in inputs:
        digest.update(np.ascontiguousarray(x).tobytes())
    key = digest.hexdigest()
    if key not in _truths:
        with np.errstate(invalid="ignore"):  # NaN and Inf go where the formula takes them
            truth = twin(*inputs, **attributes, dtype=np.float64)
            plain = twin(*inputs, **attributes, dtype=np.float32)
            finite = np.isfinite(truth)
            rounding = np.abs(plain - truth)[finite].max(initial=0)
        floor = TOLERANCES["operator", "float32"]
        largest = np.abs(truth[finite]).max(initial=0)
        _truths[key] = truth, float(2 * rounding + floor.atol + floor.rtol * largest)
    return _truths[key]
