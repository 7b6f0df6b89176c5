"""The operators of our domain in standard ONNX operators, as model-local functions.

A graph that carries these functions runs wherever ONNX runs; where our library is registered, its kernels run instead
and the bodies are ignored. Every body follows custom_ops/OPERATORS.md, takes all sizes from its tensors, uses only
operators of opset 18, and creates no tensor of E x L or larger than a few feature maps.
"""

from __future__ import annotations

from typing import Any

import onnx

from inter2former_deploy.contract import DOMAIN

from .edge_tokens import EdgeTokens
from .hybrid_attention import AttendBlock, AttendBlockFused, HybridAttention, Rotate
from .hybrid_experts import Expert, HybridExperts
from .local_upsample import LocalUpsample, UpsampleRows
from .prompt_embedding import PromptEmbedding, PromptNetwork
from .shared import HELPER_DOMAIN, IsText, LabelBox, Logistic, Silu, TightBox
from .token_box import TokenBox

__all__ = ["HELPER_DOMAIN", "MAX_OPSET", "MIN_OPSET", "function_protos"]

MIN_OPSET = 18  # torch.onnx.export(dynamo=True) starts here, and so do the operators of the bodies
MAX_OPSET = 24  # the newest that was run
FUSED_ATTENTION_OPSET = 23  # ai.onnx.Attention appears

_OPERATORS = (EdgeTokens, PromptEmbedding, HybridAttention, HybridExperts, TokenBox, LocalUpsample)
_HELPERS = (IsText, Logistic, Silu, TightBox, LabelBox, PromptNetwork, Rotate, AttendBlock, Expert, UpsampleRows)


def function_protos(opset: int) -> list[onnx.FunctionProto]:
    """The bodies of all operators of `DOMAIN`, and the helper functions of `HELPER_DOMAIN` that they call.

    Args:
        opset: version of the standard operators; the same as the model's.

    Raises:
        ValueError: `opset` is outside `MIN_OPSET`..`MAX_OPSET`.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ValueError(f"opset must be {MIN_OPSET} to {MAX_OPSET}, got {opset}")
    protos = [_proto(function, opset) for function in (*_OPERATORS, *_HELPERS)]
    if opset >= FUSED_ATTENTION_OPSET:
        fused = _proto(AttendBlockFused, opset)
        fused.name = AttendBlock.name
        protos = [fused if proto.name == fused.name else proto for proto in protos]
    return protos


def _proto(function: Any, opset: int) -> onnx.FunctionProto:
    proto: onnx.FunctionProto = function.to_function_proto()
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = opset
    proto.doc_string = (function.function.__doc__ or "").split("\n")[0]
    assert proto.domain in (DOMAIN, HELPER_DOMAIN)
    return proto
