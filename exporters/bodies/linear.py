# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""NormLinear and LinearAdd: a linear layer after a LayerNorm, and one before a residual addition."""

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.narrow_linear import Gelu
from inter2former_deploy.exporters.bodies.shared import IsText, operators


@script(operators, default_opset=op)
def NormLinear(x, norm_weight, norm_bias, weight, bias, activation: str = "none", epsilon: float = 1e-5):
    """Linear layer of normalised tokens, and its activation (custom_ops/OPERATORS.md)."""
    normed = op.LayerNormalization(x, norm_weight, norm_bias, axis=-1, epsilon=epsilon)
    linear = op.Gemm(normed, weight, bias, transB=1)
    if IsText(op.Constant(value_string=activation), op.Constant(value_string="gelu")):
        y = Gelu(linear)
    else:
        y = op.Identity(linear)
    return y


@script(operators, default_opset=op)
def LinearAdd(x, residual, weight, bias):
    """Linear layer added to a residual (custom_ops/OPERATORS.md)."""
    return residual + op.Gemm(x, weight, bias, transB=1)
