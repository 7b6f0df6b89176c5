"""The operators of our domain in standard ONNX operators, as model-local functions.

A graph that carries these functions runs wherever ONNX runs; where our library is registered, its kernels run instead
and the bodies are ignored. Every body follows custom_ops/OPERATORS.md, uses only operators of opset 18, and creates no
tensor of E x L or larger than a few feature maps. For runtimes that know less than onnxruntime, bodies have no
subgraphs (loops, branches), no sequences and no strings, and use all of their inputs. So some are made for a graph:
for its number of experts, and for its number of tokens. All else they take from their tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import helper, numpy_helper

from inter2former_deploy.core.contract import DOMAIN, DOMAIN_VERSION
from inter2former_deploy.exporters.bodies.canny_maps import Blurred, CannyMaps, Direction, FromZeroToOne
from inter2former_deploy.exporters.bodies.cycle_scan import (
    Advance,
    Chunks,
    CycleScan,
    Passed,
    StepWidths,
    over_chunks,
    through_chunk,
)
from inter2former_deploy.exporters.bodies.edge_network import (
    ActivatedNorm,
    EdgeBlock,
    EdgeDownsample,
    EdgeProjection,
    EdgeStem,
    MeanOfPlanes,
    Pixels,
    Planes,
)
from inter2former_deploy.exporters.bodies.edge_tokens import CropToBox, EdgeTokens, EdgeTokensExact, TokensOfBox
from inter2former_deploy.exporters.bodies.hybrid_attention import (
    Attend,
    CodesOfBits,
    CodesOfScores,
    FullAttention,
    Hybrid,
    HybridAttention,
    HybridAttentionKnown,
    HybridAttentionVq,
    HybridAttentionVqKnown,
    OfKnownSize,
    Rotate,
    ToCodes,
    WeighedSums,
    in_blocks,
)
from inter2former_deploy.exporters.bodies.hybrid_experts import (
    Choose,
    Expert,
    HybridExperts,
    Mixed,
    RoutedExpert,
    SharedExpert,
    routed_experts,
)
from inter2former_deploy.exporters.bodies.linear import LinearAdd, NormLinear, NormLinearGelu
from inter2former_deploy.exporters.bodies.local_upsample import (
    LocalUpsample,
    LocalUpsampleLinear,
    MeanOfRows,
    UpsampleCrop,
    UpsampleRows,
)
from inter2former_deploy.exporters.bodies.narrow_linear import (
    Bf16Linear,
    Bf16LinearGelu,
    ByBf16,
    ByInt8,
    Gelu,
    Int8Linear,
    Int8LinearGelu,
)
from inter2former_deploy.exporters.bodies.prompt_embedding import PromptEmbedding, PromptNetwork
from inter2former_deploy.exporters.bodies.shared import (
    HELPER_DOMAIN,
    HELPER_VERSION,
    LabelBox,
    Logistic,
    Silu,
    TightBox,
)
from inter2former_deploy.exporters.bodies.token_box import TokenBox
from inter2former_deploy.exporters.bodies.window_attention import PartOf, Starts, Turns, WindowAttention, Windows

__all__ = [
    "HELPER_DOMAIN",
    "HELPER_VERSION",
    "MAX_OPSET",
    "MIN_OPSET",
    "add_bodies",
    "check_opset",
    "function_protos",
    "inline_bodies",
]

MIN_OPSET = 18  # torch.onnx.export(dynamo=True) starts here, and so do the operators of the bodies
MAX_OPSET = 24  # the newest that was run

_OPERATORS = (
    EdgeTokens,
    EdgeTokensExact,
    PromptEmbedding,
    HybridAttention,
    HybridAttentionKnown,
    HybridAttentionVq,
    HybridAttentionVqKnown,
    FullAttention,
    HybridExperts,
    NormLinear,
    NormLinearGelu,
    LinearAdd,
    TokenBox,
    LocalUpsample,
    LocalUpsampleLinear,
    CannyMaps,
    EdgeStem,
    EdgeBlock,
    EdgeDownsample,
    EdgeProjection,
    Int8Linear,
    Int8LinearGelu,
    Bf16Linear,
    Bf16LinearGelu,
    WindowAttention,
    CycleScan,
)
_HELPERS = (
    Logistic,
    Silu,
    TightBox,
    LabelBox,
    CropToBox,
    TokensOfBox,
    PromptNetwork,
    Rotate,
    Attend,
    WeighedSums,
    CodesOfBits,
    CodesOfScores,
    ToCodes,
    Hybrid,
    OfKnownSize,
    Expert,
    Choose,
    SharedExpert,
    RoutedExpert,
    Mixed,
    UpsampleRows,
    MeanOfRows,
    UpsampleCrop,
    Gelu,
    ByInt8,
    ByBf16,
    Starts,
    PartOf,
    Turns,
    Windows,
    StepWidths,
    Advance,
    Passed,
    Chunks,
    FromZeroToOne,
    Blurred,
    Direction,
    Planes,
    Pixels,
    MeanOfPlanes,
    ActivatedNorm,
)
_ATTENTION = ("FullAttention", *(f"HybridAttention{kind}" for kind in ("", "Known", "Vq", "VqKnown")))


def check_opset(opset: int) -> None:
    """Refuses a version of the standard operators that was never run.

    Raises:
        ValueError: `opset` is outside `MIN_OPSET`..`MAX_OPSET`.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ValueError(f"opset must be {MIN_OPSET} to {MAX_OPSET}, got {opset}")


def add_bodies(model: onnx.ModelProto) -> None:
    """Gives a model the bodies of those operators of our domain that its nodes are, made for its sizes.

    Functions that it has are replaced.

    Args:
        model: Shapes of qkv and expert_bias (custom_ops/OPERATORS.md) must be known in it, those of one operator equal.

    Raises:
        ValueError: A shape that is needed is not known or not the same everywhere, or the opset is out of range.
    """
    versions = {entry.domain: entry for entry in model.opset_import}
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    del model.functions[:]
    if not used:
        return
    bodies = function_protos(
        versions[""].version,
        used,
        tokens=_dimension(model.graph, _ATTENTION, 0),
        experts=_dimension(model.graph, ("HybridExperts",), 6),
        scanned=_dimension(model.graph, ("CycleScan",), 0),
    )
    model.functions.extend(bodies)
    for domain, version in ((DOMAIN, DOMAIN_VERSION), (HELPER_DOMAIN, HELPER_VERSION)):
        if domain not in versions:
            model.opset_import.append(helper.make_opsetid(domain, version))


def inline_bodies(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without functions: their bodies stand where they were called, all operators are the standard's.

    Args:
        model: With the bodies of its operators; it is left as it is.
    """
    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    for node in inlined.graph.node:
        if node.op_type == "Constant":  # attributes of a call, as onnxslim 0.1.98 reads a float as float64 otherwise
            _as_tensor(node.attribute[0])
    standard = [entry for entry in inlined.opset_import if entry.domain not in (DOMAIN, HELPER_DOMAIN)]
    del inlined.opset_import[:]
    inlined.opset_import.extend(standard)
    onnx.checker.check_model(inlined, full_check=True)
    return inlined


def function_protos(
    opset: int, operators: Collection[str], *, tokens: int = 0, experts: int = 0, scanned: int = 0
) -> list[onnx.FunctionProto]:
    """The bodies of operators of `DOMAIN`, after the functions of `HELPER_DOMAIN` that they call.

    Args:
        opset: version of the standard operators; the same as the model's.
        operators: names of operators.
        tokens: L, of FullAttention and HybridAttention, or more.
        experts: R, of HybridExperts.
        scanned: T, of CycleScan, or more.

    Raises:
        ValueError: `opset` is outside `MIN_OPSET`..`MAX_OPSET`.
    """
    check_opset(opset)
    bodies = {(f.opset.domain, f.name): f for f in (*_OPERATORS, *_HELPERS)}
    made = {
        "AttendInBlocks": lambda: in_blocks("AttendInBlocks", Attend.name, tokens),
        "WeighedSumsInBlocks": lambda: in_blocks("WeighedSumsInBlocks", WeighedSums.name, tokens),
        "RoutedExperts": lambda: routed_experts(experts),
        "StatesOfChunks": lambda: through_chunk("StatesOfChunks", outputs=False),
        "OutputsOfChunks": lambda: through_chunk("OutputsOfChunks", outputs=True),
        "OverChunks": lambda: over_chunks("OverChunks", scanned),
    }
    found: dict[tuple[str, str], onnx.FunctionProto] = {}  # callees first

    def visit(domain: str, name: str) -> None:
        if (domain, name) in found:
            return
        proto = made[name]() if domain == HELPER_DOMAIN and name in made else _proto(bodies[domain, name])
        for entry in proto.opset_import:
            if entry.domain == "":
                entry.version = opset
        for node in proto.node:
            if node.domain in (DOMAIN, HELPER_DOMAIN):
                visit(node.domain, node.op_type)
        found[domain, name] = proto

    for name in sorted(operators):
        visit(DOMAIN, name)
    return list(found.values())


def _proto(function: Any) -> onnx.FunctionProto:
    proto: onnx.FunctionProto = function.to_function_proto()
    _settle_literals(proto)
    for node in proto.node:
        if node.op_type == "Constant":
            _as_tensor(node.attribute[0])
    proto.doc_string = (function.function.__doc__ or "").split("\n")[0]
    return proto


def _settle_literals(proto: onnx.FunctionProto) -> None:
    """Drops what onnxscript casts a literal with: bodies write literals in the type of what they meet."""
    constants = {node.output[0] for node in proto.node if node.op_type == "Constant"}
    literals = {}
    for node in list(proto.node):
        if node.op_type == "CastLike" and node.input[0] in constants:
            literals[node.output[0]] = node.input[0]
            proto.node.remove(node)
        else:
            node.input[:] = [literals.get(name, name) for name in node.input]


def _as_tensor(value: onnx.AttributeProto) -> None:
    """Make the value of a Constant a tensor: onnxruntime before 1.25 infers no shape for lists within functions."""
    if value.ref_attr_name or value.name not in ("value_int", "value_ints", "value_float", "value_floats"):
        return
    array = helper.get_attribute_value(value)
    element = onnx.TensorProto.INT64 if "int" in value.name else onnx.TensorProto.FLOAT
    tensor = numpy_helper.from_array(np.asarray(array, helper.tensor_dtype_to_np_dtype(element)))
    value.CopyFrom(helper.make_attribute("value", tensor))


def _dimension(graph: onnx.GraphProto, operators: Iterable[str], index: int) -> int:
    """The first dimension of input `index` of all nodes of some operators; 0 if there are none."""
    names = {node.input[index] for node in graph.node if node.domain == DOMAIN and node.op_type in operators}
    if not names:
        return 0
    shapes = {x.name: list(x.dims) for x in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    sizes = {shapes[name][0] if shapes.get(name) else 0 for name in names}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"input {index} of {' and '.join(operators)} has no known shape, or not one: {sorted(names)}")
    return sizes.pop()
