"""The operators of our domain in standard ONNX operators, as model-local functions.

A graph that carries these functions runs wherever ONNX runs; where our library is registered, its kernels run instead
and the bodies are ignored. Every body follows custom_ops/OPERATORS.md, takes all sizes from its tensors, uses only
operators of opset 18, and creates no tensor of E x L or larger than a few feature maps.
"""

from __future__ import annotations

from typing import Any

import onnx

from inter2former_deploy.contract import DOMAIN
from inter2former_deploy.exporters.bodies.canny_maps import Blurred, CannyMaps, Direction
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
from inter2former_deploy.exporters.bodies.edge_tokens import EdgeTokens
from inter2former_deploy.exporters.bodies.hybrid_attention import (
    AttendInBlocks,
    FromBlocks,
    FullAttention,
    HybridAttention,
    InBlocks,
    Rotate,
)
from inter2former_deploy.exporters.bodies.hybrid_experts import Expert, HybridExperts
from inter2former_deploy.exporters.bodies.linear import LinearAdd, NormLinear
from inter2former_deploy.exporters.bodies.local_upsample import LocalUpsample, MeanOfRows, UpsampleRows
from inter2former_deploy.exporters.bodies.narrow_linear import Bf16Linear, Gelu, Int8Linear
from inter2former_deploy.exporters.bodies.prompt_embedding import PromptEmbedding, PromptNetwork
from inter2former_deploy.exporters.bodies.shared import (
    HELPER_DOMAIN,
    HELPER_VERSION,
    IsText,
    LabelBox,
    Logistic,
    Silu,
    TightBox,
)
from inter2former_deploy.exporters.bodies.token_box import TokenBox
from inter2former_deploy.exporters.bodies.window_attention import (
    AlongAxis,
    AttendInWindows,
    OverWindows,
    WindowAttention,
)

__all__ = ["HELPER_DOMAIN", "HELPER_VERSION", "MAX_OPSET", "MIN_OPSET", "check_opset", "function_protos"]

MIN_OPSET = 18  # torch.onnx.export(dynamo=True) starts here, and so do the operators of the bodies
MAX_OPSET = 24  # the newest that was run

_OPERATORS = (
    EdgeTokens,
    PromptEmbedding,
    HybridAttention,
    FullAttention,
    HybridExperts,
    NormLinear,
    LinearAdd,
    TokenBox,
    LocalUpsample,
    CannyMaps,
    EdgeStem,
    EdgeBlock,
    EdgeDownsample,
    EdgeProjection,
    Int8Linear,
    Bf16Linear,
    WindowAttention,
)
_HELPERS = (
    IsText,
    Logistic,
    Silu,
    TightBox,
    LabelBox,
    PromptNetwork,
    Rotate,
    InBlocks,
    FromBlocks,
    AttendInBlocks,
    Expert,
    UpsampleRows,
    MeanOfRows,
    Gelu,
    AlongAxis,
    OverWindows,
    AttendInWindows,
    Blurred,
    Direction,
    Planes,
    Pixels,
    MeanOfPlanes,
    ActivatedNorm,
)


def check_opset(opset: int) -> None:
    """Refuses a version of the standard operators that was never run.

    Raises:
        ValueError: `opset` is outside `MIN_OPSET`..`MAX_OPSET`.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ValueError(f"opset must be {MIN_OPSET} to {MAX_OPSET}, got {opset}")


def function_protos(opset: int) -> list[onnx.FunctionProto]:
    """The bodies of all operators of `DOMAIN`, and the helper functions of `HELPER_DOMAIN` that they call.

    Args:
        opset: version of the standard operators; the same as the model's.

    Raises:
        ValueError: `opset` is outside `MIN_OPSET`..`MAX_OPSET`.
    """
    check_opset(opset)
    return [_proto(function, opset) for function in (*_OPERATORS, *_HELPERS)]


def _proto(function: Any, opset: int) -> onnx.FunctionProto:
    proto: onnx.FunctionProto = function.to_function_proto()
    if all(entry.domain != HELPER_DOMAIN for entry in proto.opset_import):  # onnxscript overlooks calls inside loops
        proto.opset_import.append(onnx.helper.make_opsetid(HELPER_DOMAIN, HELPER_VERSION))
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = opset
    proto.doc_string = (function.function.__doc__ or "").split("\n")[0]
    assert proto.domain in (DOMAIN, HELPER_DOMAIN)
    return proto
