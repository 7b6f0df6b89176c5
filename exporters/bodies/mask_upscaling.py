# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""MaskUpscaling: a transposed convolution of side and stride 2 is a linear layer whose results go to their places."""

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.reduced_precision_linear import Gelu
from inter2former_deploy.exporters.bodies.shared import helpers, operators


@script(helpers, default_opset=op)
def FourPixels(x, weight, bias):
    """The four pixels that each one becomes, rows, then columns: [n, C], [4*D, C], [D] -> [4*n, D]."""
    four = op.Gemm(x, weight, op.Tile(bias, op.Constant(value_ints=[4])), transB=1)
    return op.Reshape(four, op.Concat(op.Constant(value_ints=[-1]), op.Shape(bias), axis=0), allowzero=1)


@script(operators, default_opset=op)
def MaskUpscaling(
    x, first_weight, first_bias, norm_weight, norm_bias, second_weight, second_bias, mask, epsilon: float = 1e-6
):
    """Logits of a mask from image tokens (custom_ops/OPERATORS.md)."""
    grid = op.Shape(x, end=2)
    tokens = op.Reshape(x, op.Concat(op.Constant(value_ints=[-1]), op.Shape(x, start=2), axis=0), allowzero=1)
    pixels = FourPixels(tokens, first_weight, first_bias)
    pixels = Gelu(op.LayerNormalization(pixels, norm_weight, norm_bias, axis=-1, epsilon=epsilon))
    pixels = Gelu(FourPixels(pixels, second_weight, second_bias))
    parts = op.Concat(grid, op.Constant(value_ints=[2, 2, 2, 2]), axis=0)
    logits = op.Reshape(op.MatMul(pixels, op.Unsqueeze(mask, op.Constant(value_ints=[1]))), parts, allowzero=1)
    placed = op.Transpose(logits, perm=[0, 2, 4, 1, 3, 5])
    return op.Reshape(placed, grid * op.Constant(value_ints=[4, 4]), allowzero=1)
