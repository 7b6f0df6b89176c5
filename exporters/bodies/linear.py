# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""NormLinear, NormLinearGelu, LinearAdd: a linear layer after a LayerNorm, and one before a residual addition."""

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.reduced_precision_linear import Gelu
from inter2former_deploy.exporters.bodies.shared import operators


@script(operators, default_opset=op)
def NormLinear(x, norm_weight, norm_bias, weight, bias, epsilon: float = 1e-5):
    """Linear layer of normalised tokens (custom_ops/OPERATORS.md)."""
    normed = op.LayerNormalization(x, norm_weight, norm_bias, axis=-1, epsilon=epsilon)
    return op.Gemm(normed, weight, bias, transB=1)


@script(operators, default_opset=op)
def NormLinearGelu(x, norm_weight, norm_bias, weight, bias, epsilon: float = 1e-5):
    """Linear layer of normalised tokens, and a GELU (custom_ops/OPERATORS.md)."""
    normed = op.LayerNormalization(x, norm_weight, norm_bias, axis=-1, epsilon=epsilon)
    return Gelu(op.Gemm(normed, weight, bias, transB=1))


@script(operators, default_opset=op)
def LinearAdd(x, residual, weight, bias):
    """Linear layer added to a residual (custom_ops/OPERATORS.md)."""
    return residual + op.Gemm(x, weight, bias, transB=1)
