"""Looks at an installation: versions, the operator library, a known answer of every operator, graphs, threads."""

from __future__ import annotations

import os
import platform
import textwrap
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from inter2former_deploy.core import library
from inter2former_deploy.core.contract import DOMAIN, DOMAIN_VERSION
from inter2former_deploy.core.errors import OperatorLibraryError
from inter2former_deploy.core.prompts import Image
from inter2former_deploy.core.threads import available_cpus, cpu_limits
from inter2former_deploy.runtime.onnx_bytes import ELEMENT, STRING, AttributeValue, one_node_model
from inter2former_deploy.runtime.segmenter import Segmenter

PACKAGES = ("inter2former-deploy", "numpy", "onnxruntime", "opencv-python-headless", "safetensors", "typer")
EXPORT_PACKAGES = ("torch", "onnx", "onnxscript")

# A small model, exported by scripts/doctor_bundle.py, and what PyTorch computes with it.
TINY_BUNDLE = Path(__file__).with_name("tiny")
EXPECTED_FILE = "expected.npz"
CLICKS = ((30, 28, True), (60, 8, False))  # on `picture`: x, y, positive
LOGIT_TOLERANCE = 1e-3
LONGEST_DETAIL = 400  # characters of a finding

PRODUCTS = ("fp32", "bf16", "int8")  # in the order of OperatorInfo
LINEAR_LAYER = (1024, 768)  # tokens and channels: a quarter of a linear layer of vit_b at 1024
LINEAR_CALLS = 8
CLEARLY = 1.15  # ratio of two times from which one is called faster


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str  # what was found
    advice: str = ""  # what to do about it


@dataclass(frozen=True)
class OperatorCase:
    """An operator on a few numbers, with answers that a glance at custom_ops/OPERATORS.md confirms."""

    operator: str
    inputs: dict[str, np.ndarray]
    expected: tuple[np.ndarray, ...]  # one for each result
    attributes: dict[str, AttributeValue]
    bfloat16: tuple[str, ...] = ()  # inputs that the operator takes in this type

    @property
    def outputs(self) -> dict[str, int]:
        """Names and element types of the results."""
        return {f"out{i}": ELEMENT[answer.dtype] for i, answer in enumerate(self.expected)}


def examine() -> list[Finding]:
    """Everything there is to look at, in order."""
    operators = _operators()
    return [*_versions(), *operators, *_graphs(operators[0].ok), _threads(), _telemetry()]


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """For JSON: whether all is well, and every finding."""
    return {"ok": all(finding.ok for finding in findings), "findings": [asdict(finding) for finding in findings]}


def _versions() -> list[Finding]:
    def installed(names: tuple[str, ...]) -> dict[str, str]:
        found = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        return found

    def listed(found: dict[str, str]) -> str:
        return ", ".join(f"{name} {number}" for name, number in found.items())

    export = installed(EXPORT_PACKAGES)
    missing = [name for name in EXPORT_PACKAGES if name not in export]
    return [
        Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("runtime", True, listed(installed(PACKAGES))),
        Finding(
            "export",
            True,
            listed(export) if not missing else f"not installed: {', '.join(missing)}",
            "only i2f export and i2f verify need them: pip install 'inter2former-deploy[export]'" if missing else "",
        ),
    ]


def _operators() -> list[Finding]:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures are findings, not log lines
    options.intra_op_num_threads = available_cpus()
    try:
        path = library.register(options)
    except OperatorLibraryError as error:
        return [Finding("operator library", False, str(error))]
    findings = []
    try:
        outputs = {
            "chosen": STRING,
            "versions": ELEMENT[np.dtype(np.int64)],
            "operators": STRING,
            "tiers": STRING,
            "rates": ELEMENT[np.dtype(np.float32)],
            "unused": STRING,
        }
        chosen, versions, operators, tiers, rates, unused = _run(options, "OperatorInfo", {}, outputs, {})
        domain, interface = (int(number) for number in versions)
        fits = domain == DOMAIN_VERSION
        findings.append(
            Finding(
                "operator library",
                fits,
                f"{path}, {len(operators)} operators of domain version {domain}, for onnxruntime interface {interface}",
                "" if fits else f"this package needs domain version {DOMAIN_VERSION}: reinstall it",
            )
        )
        forced = os.environ.get("INTER2FORMER_TIER")
        findings.append(
            Finding(
                "instruction set tier",
                True,
                f"{chosen[0]} (chosen by INTER2FORMER_TIER)" if forced else _choices(chosen, tiers, rates),
                "unset INTER2FORMER_TIER to let the library choose" if forced else "",
            )
        )
        findings += [_unused(tier, reason) for tier, reason in unused.reshape(-1, 2)]
        findings.append(_reduced_precision(options))
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        findings.append(Finding("operator library", False, f"{path}: {error}", "reinstall the package"))
    return findings + [_check(options, case) for case in known_answers()]


def _choices(chosen: np.ndarray, tiers: np.ndarray, rates: np.ndarray) -> str:
    """The tier that runs for each kind of product, and what the library measured when it chose."""
    words = []
    for product, tier, measured in zip(PRODUCTS, chosen, rates, strict=True):
        listed = ", ".join(f"{name} {rate:.0f}" for name, rate in zip(tiers, measured, strict=True) if rate > 0)
        words.append(f"{product} {tier} (of {listed})")
    return ", ".join(words) + "; measured, in 10^9 multiply-adds a second on one thread"


def _unused(tier: str, reason: str) -> Finding:
    """A tier that the processor has and that does not run."""
    return Finding(f"tier {tier}", True, f"not used: {reason}", "results are right, reduced precision may be slower")


def _reduced_precision(options: ort.SessionOptions) -> Finding:
    """What a linear layer of the encoder costs here in each precision, measured: no list of instructions tells it."""
    name = "reduced precision"
    rng = np.random.default_rng(0)
    rows, width = LINEAR_LAYER
    x, weight, bias = (rng.standard_normal(shape, np.float32) for shape in ((rows, width), (width, width), (width,)))
    quantized = np.clip(weight * 32, -127, 127).astype(np.int8)
    reduced = {"weight": weight, "bias": bias}
    layers: dict[str, tuple[str, dict[str, np.ndarray]]] = {
        "fp32": ("MatMul", {"x": x, "weight": weight}),
        "bf16": ("Bf16Linear", {"x": x, **reduced}),
        "int8": ("Int8Linear", {"x": x, "weight": quantized, "scale": bias, "bias": bias}),
    }
    sessions, times = {}, dict.fromkeys(layers, float("inf"))
    for precision, (operator, inputs) in layers.items():
        model = one_node_model(
            operator,
            inputs,
            {"out": ELEMENT[x.dtype]},
            {},
            ["weight"] if precision == "bf16" else [],
            constants=[constant for constant in inputs if constant != "x"],
            domain="" if operator == "MatMul" else DOMAIN,
        )
        sessions[precision] = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(1 + LINEAR_CALLS):  # in turn, so that other work on the machine touches all alike; the least counts
        for precision, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {"x": x})
            times[precision] = min(times[precision], 1e3 * (time.perf_counter() - start))
    listed = ", ".join(f"{precision} {milliseconds:.1f} ms" for precision, milliseconds in times.items())
    return Finding(name, True, f"a linear layer of {rows} x {width} x {width} took {listed}; {_compared(times)}")


def _compared(times: Mapping[str, float]) -> str:
    """What these times mean for a choice of precision; close ones mean nothing."""
    words = []
    for precision in ("bf16", "int8"):
        ratio = times[precision] / times["fp32"]
        kind = "faster" if ratio < 1 / CLEARLY else "slower" if ratio > CLEARLY else "about as fast as fp32"
        words.append(f"{precision} is {kind}" + (f" ({max(ratio, 1 / ratio):.1f}x)" if "as fast" not in kind else ""))
    return "here " + " and ".join(words)


def _check(options: ort.SessionOptions, case: OperatorCase) -> Finding:
    name = f"operator {case.operator}"
    try:
        actual = _run(options, case.operator, case.inputs, case.outputs, case.attributes, case.bfloat16)
    except Exception as error:  # as above
        return Finding(name, False, _shortened(error), "reinstall the package")
    for answer, expected in zip(actual, case.expected, strict=True):
        if answer.shape != expected.shape or not np.allclose(answer, expected, rtol=1e-6, atol=1e-6):
            return Finding(
                name,
                False,
                f"expected {expected.tolist()}, got {answer.tolist()}",
                "run with custom_ops=False and report this; INTER2FORMER_TIER=portable may help until it is mended",
            )
    return Finding(name, True, "gives its known answer")


def _run(
    options: ort.SessionOptions,
    operator: str,
    inputs: dict[str, np.ndarray],
    outputs: dict[str, int],
    attributes: dict[str, AttributeValue],
    bfloat16: tuple[str, ...] = (),
) -> list[Any]:
    model = one_node_model(operator, inputs, outputs, attributes, bfloat16)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def known_answers() -> list[OperatorCase]:
    """One case for every operator."""

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    def full(value: float, *shape: int) -> np.ndarray:
        return np.full(shape, value, np.float32)

    centre_tap = zeros(1, 1, 3, 3)
    centre_tap[0, 0, 1, 1] = 1
    centre_taps = zeros(3, 3, 3, 3)
    centre_taps[:, :, 1, 1] = 1
    signs = np.tile(np.array([1, -1], np.float32), 16)
    labels = np.ones((32, 32), np.uint8)
    labels[20, 5] = 4
    tall_labels = np.ones((96, 48), np.uint8)
    tall_labels[50, 5] = 0
    prompt_labels = np.ones((8, 8), np.uint8)
    prompt_labels[2, 2] = 4
    prompt = full(1 + 1 + 0.5, 16, 1)  # embedding, table entry of label 1, bias
    prompt[5] = 1 + 4 + 0.5
    low_res = full(-5, 3, 4)
    low_res[1, 2] = 0
    return [
        OperatorCase("EdgeTokensExact", {"labels": labels}, (np.array([2]),), {}),
        OperatorCase("LabelBox", {"labels": tall_labels}, (np.array([0, 2, 2, 5]),), {}),
        OperatorCase(
            "PromptEmbedding",
            {
                "labels": prompt_labels,
                "embedding": full(1, 4, 4, 1),
                "label_table": np.arange(5, dtype=np.float32)[:, None],
                "w0": centre_tap,
                "b0": full(0.5, 1),
            },
            (prompt,),
            {"dense": 0},
        ),
        OperatorCase(  # all keys are equal, so both branches give the mean of the values
            "HybridAttention",
            {
                "qkv": np.array([[0] * 8 + [1] * 4, [0] * 8 + [3] * 4], np.float32),
                "edge_tokens": np.array([0]),
                "code_weight": zeros(1, 4),
                "code_bias": zeros(1),
                "codewords": zeros(2, 4),
            },
            (full(2, 2, 4),),
            {"heads": 1, "grid_width": 2},
        ),
        OperatorCase(  # the same in numbers that bfloat16 holds, in a head of a width that is served
            "Bf16HybridAttention",
            {
                "qkv": np.array([[0] * 64 + [1] * 32, [0] * 64 + [3] * 32], np.float32),
                "edge_tokens": np.array([0]),
                "code_weight": zeros(1, 32),
                "code_bias": zeros(1),
                "codewords": zeros(2, 32),
            },
            (full(2, 2, 32),),
            {"heads": 1, "grid_width": 2},
        ),
        OperatorCase(  # the same, for both tokens; two exponentials of 0 add up to 2
            "FullAttention",
            {"qkv": np.array([[0] * 8 + [1] * 4, [0] * 8 + [3] * 4], np.float32)},
            (full(2, 2, 4), full(np.log(2), 2, 1)),
            {"heads": 1, "grid_width": 2},
        ),
        OperatorCase(  # both tokens normalise to (-1, 1)
            "NormLinear",
            {
                "x": np.array([[2, 4], [-3, -1]], np.float32),
                "norm_weight": np.array([3, 1], np.float32),
                "norm_bias": np.array([0, 1], np.float32),
                "weight": np.array([[1, 0], [0, 1], [1, 1]], np.float32),
                "bias": np.array([0, 0, 5], np.float32),
            },
            (np.array([[-3, 2, 4], [-3, 2, 4]], np.float32),),
            {"epsilon": 0.0},
        ),
        OperatorCase(
            "LinearAdd",
            {
                "x": np.array([[1, 2]], np.float32),
                "residual": full(7, 1, 1),
                "weight": np.array([[3, 4]], np.float32),
                "bias": full(1, 1),
            },
            (full(19, 1, 1),),
            {},
        ),
        OperatorCase(  # (2 + 3 * 2) / sqrt((5 + 2 * 1.75 * 2 + 2 * 2) / 4) + 1; the other token is inside
            "LowRankLinear",
            {
                "known": np.array([[9, 2, 1.75, 5], [9, 9, 9, 9]], np.float32),
                "state": np.array([[2], [9]], np.float32),
                "inside": np.array([1]),
                "weight": full(3, 1, 1),
                "root": full(1, 1, 1),
                "bias": full(1, 1),
            },
            (np.array([[5], [0]], np.float32),),
            {"column": 1, "channels": 4, "epsilon": 0.0},
        ),
        OperatorCase(  # a row that is given, and 3 + 2 * 2 + 1
            "LowRankAdd",
            {
                "known": np.array([[1], [2], [3]], np.float32),
                "state": np.array([[1], [1], [2]], np.float32),
                "inside": np.array([1]),
                "rows": full(7, 1, 1),
                "wanted": np.array([1, 2]),
                "weight": full(2, 1, 1),
                "bias": full(1, 1),
            },
            (np.array([[7], [8]], np.float32),),
            {"column": 0},
        ),
        OperatorCase(  # after the norm, 0 in both channels: a norm's bias of 6 passes GELU whole, and so does 12
            "MaskUpscaling",
            {
                "x": full(1, 1, 1, 2),
                "first_weight": full(3, 8, 2),
                "first_bias": full(1, 2),
                "norm_weight": full(1, 2),
                "norm_bias": full(6, 2),
                "second_weight": full(1, 4, 2) * np.arange(1, 5, dtype=np.float32)[:, None],
                "second_bias": zeros(1),
                "mask": full(2, 1),
            },
            (np.tile(np.array([[24, 48], [72, 96]], np.float32), (2, 2)),),
            {},
        ),
        OperatorCase(  # scores 0 and ln 3: weights 1/4 and 3/4; then 0 and 4 in the channels before the norm
            "ImageToTokenAttention",
            {
                "query": full(0.5, 1, 1),
                "query_input": full(0.25, 1, 1),
                "query_weight": full(1, 1, 1),
                "query_bias": full(0.25, 1),
                "key": np.array([[0], [np.log(3)]], np.float32),
                "value": np.array([[1], [5]], np.float32),
                "image": np.array([[0, -1]], np.float32),
                "out_weight": np.array([[0], [1]], np.float32),
                "out_bias": np.array([0, 1], np.float32),
                "norm_weight": full(3, 2),
                "norm_bias": full(1, 2),
            },
            (np.array([[-2, 4]], np.float32),),
            {"heads": 1, "epsilon": 0.0},
        ),
        OperatorCase(  # keys 0 and ln 3, values 3 and 7
            "TokenToImageAttention",
            {
                "query": full(1, 1, 1),
                "image": np.array([[1], [3]], np.float32),
                "key": np.array([[-1], [np.log(3) - 3]], np.float32),
                "key_weight": full(1, 1, 1),
                "value_weight": full(2, 1, 1),
                "value": full(1, 1, 1),
            },
            (full(6, 1, 1),),
            {"heads": 1},
        ),
        OperatorCase(  # experts are their last bias; gates are equal, so the edge token gets the mean of both
            "HybridExperts",
            {
                "x": full(5, 2, 2),
                "edge_tokens": np.array([1]),
                "input_norm_weight": full(1, 2),
                "input_norm_bias": zeros(2),
                "gate_weight": zeros(2, 2),
                "gate_bias": zeros(2),
                "expert_bias": zeros(1),
                "w1": zeros(2, 2, 2),
                "b1": zeros(2, 2),
                "w2": zeros(2, 2, 2),
                "b2": zeros(2, 2),
                "norm_weight": full(1, 2, 2),
                "norm_bias": zeros(2, 2),
                "w3": zeros(2, 2, 2),
                "b3": np.array([[1, 1], [3, 3]], np.float32),
            },
            (np.array([[6, 6], [7, 7]], np.float32),),
            {"epsilon": 1e-5},
        ),
        OperatorCase(  # hidden values are 20 silu(20) and its negative, normalised 1 and -1; their sums 1 and 3
            "Bf16HybridExperts",
            {
                "x": full(5, 2, 32),
                "edge_tokens": np.array([1]),
                "input_norm_weight": full(1, 32),
                "input_norm_bias": zeros(32),
                "gate_weight": zeros(2, 32),
                "gate_bias": zeros(2),
                "expert_bias": zeros(1),
                "w1": zeros(2, 32, 32),
                "b1": full(20, 2, 32),
                "w2": zeros(2, 32, 32),
                "b2": 20 * signs + zeros(2, 32),
                "norm_weight": full(1, 2, 32),
                "norm_bias": zeros(2, 32),
                "w3": np.array([1 / 32, 3 / 32], np.float32)[:, None, None] * signs + zeros(2, 32, 32),
                "b3": zeros(2, 32),
            },
            (np.stack([full(6, 32), full(7, 32)]),),
            {"epsilon": 1e-5},
        ),
        OperatorCase(  # 127 is the largest of its row, so that the row's scale is 1
            "Int8Linear",
            {
                "x": np.array([[127, -2]], np.float32),
                "weight": np.array([[1, 0], [-2, 3]], np.int8),
                "scale": np.array([1, 0.5], np.float32),
                "bias": np.array([0, 1], np.float32),
            },
            (np.array([[127, -129]], np.float32),),
            {},
        ),
        OperatorCase(  # 1 + 2**-9 rounds to 1
            "Bf16Linear",
            {
                "x": np.array([[1 + 2**-9, 2]], np.float32),
                "weight": np.array([[1, 0], [-2, 3]], np.float32),
                "bias": np.array([0, 1], np.float32),
            },
            (np.array([[1, 5]], np.float32),),
            {},
            bfloat16=("weight",),
        ),
        OperatorCase(  # the norm makes it its bias, whose largest is 127
            "Int8NormLinear",
            {
                "x": np.array([[5, 5]], np.float32),
                "norm_weight": full(1, 2),
                "norm_bias": np.array([127, -2], np.float32),
                "weight": np.array([[1, 0], [-2, 3]], np.int8),
                "scale": np.array([1, 0.5], np.float32),
                "bias": np.array([0, 1], np.float32),
            },
            (np.array([[127, -129]], np.float32),),
            {"epsilon": 1e-5},
        ),
        OperatorCase(
            "Int8LinearAdd",
            {
                "x": np.array([[127, -2]], np.float32),
                "residual": np.array([[3, 20]], np.float32),
                "weight": np.array([[1, 0], [-2, 3]], np.int8),
                "scale": np.array([1, 0.5], np.float32),
                "bias": np.array([0, 1], np.float32),
            },
            (np.array([[130, -109]], np.float32),),
            {},
        ),
        OperatorCase(  # 1 + 2**-9 rounds to 1
            "Bf16NormLinear",
            {
                "x": np.array([[5, 5]], np.float32),
                "norm_weight": full(1, 2),
                "norm_bias": np.array([1 + 2**-9, 2], np.float32),
                "weight": np.array([[1, 0], [-2, 3]], np.float32),
                "bias": np.array([0, 1], np.float32),
            },
            (np.array([[1, 5]], np.float32),),
            {"epsilon": 1e-5},
            bfloat16=("weight",),
        ),
        OperatorCase(
            "Bf16LinearAdd",
            {
                "x": np.array([[1 + 2**-9, 2]], np.float32),
                "residual": np.array([[3, 20]], np.float32),
                "weight": np.array([[1, 0], [-2, 3]], np.float32),
                "bias": np.array([0, 1], np.float32),
            },
            (np.array([[4, 25]], np.float32),),
            {},
            bfloat16=("weight",),
        ),
        OperatorCase(  # the norm makes it its bias; 127 is the largest of each row, and GELU takes no more than -0.17
            "Int8Mlp",
            {
                "x": np.array([[5, 5]], np.float32),
                "norm_weight": full(1, 2),
                "norm_bias": np.array([127, -2], np.float32),
                "weight1": np.array([[1, 0], [0, 3], [0, -3]], np.int8),
                "scale1": full(1, 3),
                "bias1": np.array([0, -20, 0], np.float32),
                "weight2": np.array([[1, 3, 0], [0, 0, -2]], np.int8),
                "scale2": np.array([1, 0.5], np.float32),
                "bias2": np.array([0, 1], np.float32),
            },
            (np.array([[132, 0]], np.float32),),
            {"epsilon": 1e-5},
        ),
        OperatorCase(  # 1 + 2**-9 rounds to 1, and 40 is its own GELU
            "Bf16Mlp",
            {
                "x": np.array([[5, 5]], np.float32),
                "norm_weight": full(1, 2),
                "norm_bias": np.array([1 + 2**-9, 2], np.float32),
                "weight1": np.array([[8, 16], [0, -20]], np.float32),
                "bias1": zeros(2),
                "weight2": np.array([[1, 7], [-2, 7]], np.float32),
                "bias2": np.array([0, 1], np.float32),
            },
            (np.array([[45, -74]], np.float32),),
            {"epsilon": 1e-5},
            bfloat16=("weight1", "weight2"),
        ),
        OperatorCase(  # all keys are equal: the mean of the values 1 and 3 and of two padding slots' 4
            "WindowAttention",
            {
                "qkv": np.array([[0] * 8 + [1] * 4, [0] * 8 + [3] * 4], np.float32),
                "padding": np.array([[0] * 8 + [4] * 4], np.float32),
            },
            (full(3, 2, 4),),
            {"heads": 1, "window": 2, "heights": [1], "widths": [2], "offsets": [0]},
        ),
        OperatorCase(  # the same: all of these numbers are bfloat16 ones, too
            "Bf16WindowAttention",
            {
                "qkv": np.array([[0] * 8 + [1] * 4, [0] * 8 + [3] * 4], np.float32),
                "padding": np.array([[0] * 8 + [4] * 4], np.float32),
            },
            (full(3, 2, 4),),
            {"heads": 1, "window": 2, "heights": [1], "widths": [2], "offsets": [0]},
        ),
        OperatorCase(  # steps of log 2: a state that adds them up over two passes, one that forgets at once, and u
            "CycleScan",
            {
                "u": full(1, 2, 1),
                "projected": np.array([[0, 1, 1, 1, 1]] * 2, np.float32),
                "rate": np.array([[0, -1e9]], np.float32),
                "skip": full(1, 1),
                "bias": zeros(1),
                "gamma": full(1, 1, 2),
            },
            (np.array([[6 * np.log(2) + 2], [8 * np.log(2) + 2]], np.float32),),
            {"lengths": [2]},
        ),
        OperatorCase(  # a white pixel and a black one: gx = 2 in each of 3 channels at the black one
            "CannyMaps",
            {
                "image": np.array([[[255] * 3, [0] * 3]], np.float32),
                "mean": zeros(3),
                "std": full(1, 3),
                "blur_row": np.array([0, 0, 1, 0, 0], np.float32),
                "blur_column": np.array([0, 0, 1, 0, 0], np.float32),
            },
            (np.array([[[0, 6]], [[180, 180]], [[0, 6]], [[0, 6]], [[0, 6]]], np.float32),),
            {},
        ),
        OperatorCase(
            "EdgeStem",
            {"maps": full(7, 1, 1, 1), "weight": centre_tap, "bias": full(0.5, 1)},
            (full(1.5, 1, 1, 1),),
            {},
        ),
        OperatorCase(  # one pixel of equal channels normalises to its bias, and 40 is its own SiLU: 9 + 3 * 40 + 0.5
            "EdgeBlock",
            {
                "x": full(9, 1, 1, 3),
                "norm1_weight": full(1, 3),
                "norm1_bias": full(2, 3),
                "conv1_weight": centre_taps,
                "conv1_bias": zeros(3),
                "norm2_weight": full(1, 3),
                "norm2_bias": full(40, 3),
                "conv2_weight": centre_taps,
                "conv2_bias": full(0.5, 3),
            },
            (full(129.5, 1, 1, 3),),
            {"epsilon": 1e-5},
        ),
        OperatorCase(  # the same of two channels, in numbers that bfloat16 holds: 9 + 2 * 40 + 0.5
            "Bf16EdgeBlock",
            {
                "x": full(9, 1, 1, 2),
                "norm1_weight": full(1, 2),
                "norm1_bias": full(2, 2),
                "conv1_weight": centre_taps[:2, :2],
                "conv1_bias": zeros(2),
                "norm2_weight": full(1, 2),
                "norm2_bias": full(40, 2),
                "conv2_weight": centre_taps[:2, :2],
                "conv2_bias": full(0.5, 2),
            },
            (full(89.5, 1, 1, 2),),
            {"epsilon": 1e-5},
        ),
        OperatorCase(
            "EdgeDownsample",
            {"x": np.arange(9, dtype=np.float32).reshape(3, 3, 1), "weight": centre_tap, "bias": full(0.5, 1)},
            (np.array([[[0.5], [2.5]], [[6.5], [8.5]]], np.float32),),
            {},
        ),
        OperatorCase(  # the same of the first of two channels, in numbers that bfloat16 holds
            "Bf16EdgeDownsample",
            {
                "x": np.arange(18, dtype=np.float32).reshape(3, 3, 2),
                "weight": np.concatenate([centre_tap, np.zeros_like(centre_tap)], axis=1),
                "bias": full(0.5, 1),
            },
            (np.array([[[0.5], [4.5]], [[12.5], [16.5]]], np.float32),),
            {},
        ),
        OperatorCase(  # the centre tap of 3 x + 1; the one token of the map has nothing around it
            "EdgeProjection",
            {
                "x": np.arange(4, dtype=np.float32).reshape(2, 2, 1),
                "lateral_weight": full(3, 1, 1),
                "lateral_bias": full(1, 1),
                "conv_weight": centre_tap,
            },
            (np.array([[[1], [4]], [[7], [10]]], np.float32), zeros(4, 1, 2, 1), zeros(4, 1, 1, 1)),
            {"pixels": 2},
        ),
        OperatorCase(  # the same of the sum of two channels
            "Bf16EdgeProjection",
            {
                "x": np.arange(8, dtype=np.float32).reshape(2, 2, 2),
                "lateral_weight": full(3, 1, 2),
                "lateral_bias": full(1, 1),
                "conv_weight": centre_tap,
            },
            (np.array([[[4], [16]], [[28], [40]]], np.float32), zeros(4, 1, 2, 1), zeros(4, 1, 1, 1)),
            {"pixels": 2},
        ),
        OperatorCase("TokenBox", {"low_res": low_res}, (np.array([2, 1, 3, 2]),), {"threshold": -2.0}),
        OperatorCase(  # one pixel normalises to its bias, 2; the centre tap keeps it; edge 1 and bias 0.5 are added
            "LocalUpsampleLinear",
            {
                "x": full(9, 1, 1, 1),
                "box": np.array([0, 0, 1, 1]),
                "norm_weight": full(1, 1),
                "norm_bias": full(2, 1),
                "conv_weight": centre_tap,
                "conv_bias": full(0.5, 1),
                "edge_map": full(1, 2, 2, 1),
                "edge_border": zeros(4, 1, 2, 1),
                "edge_corner": zeros(4, 1, 1, 1),
            },
            (full(3.5, 2, 2, 1),),
            {"epsilon": 1e-5},
        ),
        OperatorCase(  # the same of 32 channels, all of them in each of 16: 32 * 2
            "Bf16LocalUpsampleLinear",
            {
                "x": full(9, 1, 1, 32),
                "box": np.array([0, 0, 1, 1]),
                "norm_weight": full(1, 32),
                "norm_bias": full(2, 32),
                "conv_weight": np.broadcast_to(centre_tap, (16, 32, 3, 3)).copy(),
                "conv_bias": full(0.5, 16),
                "edge_map": full(1, 2, 2, 16),
                "edge_border": zeros(4, 1, 2, 16),
                "edge_corner": zeros(4, 1, 1, 16),
            },
            (full(65.5, 2, 2, 16),),
            {"epsilon": 1e-5},
        ),
    ]


def _threads() -> Finding:
    limits = cpu_limits()
    reasons = [f"{limits.cores} logical cores"]
    if limits.affinity != limits.cores:
        reasons.append(f"{limits.affinity} of them for this process (CPU affinity)")
    if limits.quota is not None:
        reasons.append(f"{limits.quota:g} cores' worth of time ({limits.quota_file})")
    return Finding("threads", True, f"{limits.threads} if no number is given: {', '.join(reasons)}")


def _telemetry() -> Finding:
    value = os.environ.get("ORT_DISABLE_TELEMETRY", "")
    off = value.lower() not in ("", "0", "false")
    return Finding("telemetry of onnxruntime", True, f"{'off' if off else 'on'}: ORT_DISABLE_TELEMETRY={value}")


def picture() -> Image:
    """The picture that `scripts/doctor_bundle.py` let PyTorch segment: a bright ellipse on noise."""
    pixels = np.random.default_rng(1).integers(0, 120, (64, 64, 3), np.uint8)
    y, x = np.ogrid[:64, :64]
    pixels[(x - 30) ** 2 / 400 + (y - 28) ** 2 / 144 < 1] += np.uint8(120)
    return pixels


def _graphs(library_loads: bool) -> list[Finding]:
    """A tiny exported model, run in the two ways that any exported model may be run."""
    findings = []
    for custom_ops in (True, False) if library_loads else (False,):
        name = f"graphs {'with' if custom_ops else 'without'} the library"
        try:
            findings.append(_try_graphs(name, custom_ops))
        except Exception as error:  # whatever onnxruntime raises; it has no base class of its own
            findings.append(Finding(name, False, _shortened(error), _GRAPH_ADVICE[custom_ops]))
    return findings


def _shortened(error: Exception) -> str:
    """An error in one line: onnxruntime names every node that it could not infer, all for one reason."""
    return textwrap.shorten(str(error), LONGEST_DETAIL, placeholder=" ...")


_GRAPH_ADVICE = {
    True: "reinstall the package; until then, custom_ops=False (i2f segment --no-custom-ops)",
    False: "install a newer onnxruntime; until then, graphs run with the operator library only",
}


def _try_graphs(name: str, custom_ops: bool) -> Finding:
    with np.load(TINY_BUNDLE / EXPECTED_FILE, allow_pickle=False) as file:
        expected = dict(file)
    session = Segmenter(TINY_BUNDLE, num_threads=1, custom_ops=custom_ops).open(picture())
    masks = np.array([session.click(*click) for click in CLICKS])
    error = float(np.abs(session.logits - expected["logits"]).max())
    if not error < LOGIT_TOLERANCE:  # NaN, too
        advice = "report this: the logits are wrong" + ("; until then, custom_ops=False" if custom_ops else "")
        return Finding(name, False, f"logits are {error:.3g} off from PyTorch's (limit {LOGIT_TOLERANCE:g})", advice)
    if not np.array_equal(masks, expected["masks"]):
        return Finding(name, False, f"masks differ from PyTorch's in {(masks != expected['masks']).sum()} pixel(s)")
    return Finding(name, True, f"a tiny model gives PyTorch's masks (logits within {error:.1g})")
