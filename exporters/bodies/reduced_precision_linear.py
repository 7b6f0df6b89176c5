# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""Linear layers in int8 and bfloat16: onnxruntime multiplies int8 matrices itself, bfloat16 ones as float32."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import FLOAT, helpers, operators

INT8, BFLOAT16 = TensorProto.INT8, TensorProto.BFLOAT16
NAN = numpy_helper.from_array(np.float32(np.nan))
SMALLEST = numpy_helper.from_array(np.float32(2.0**-100))  # peak of a row that is not all zeros
SQRT_TWO = numpy_helper.from_array(np.float32(2**0.5))


@script(helpers, default_opset=op)
def Gelu(y):
    """The exact GELU; the operator of this name comes with opset 20. In the form that onnxruntime makes one of."""
    return (y * (op.Erf(y / op.Constant(value=SQRT_TWO)) + 1.0)) * 0.5


@script(helpers, default_opset=op)
def ByInt8(x, weight, scale, bias):
    """Int8Linear (custom_ops/OPERATORS.md)."""
    last = op.Constant(value_ints=[1])
    magnitude = op.Abs(x)
    peak = op.ReduceMax(magnitude, last)  # [T, 1]; onnxruntime's loses a NaN, a sum does not
    broken = op.Or(op.IsNaN(op.ReduceSum(magnitude, last)), op.IsInf(peak))
    counts = op.And(op.Not(broken), op.GreaterOrEqual(peak, op.Constant(value=SMALLEST)))
    inverse = op.Where(counts, 127.0 / peak, 0.0)
    codes = op.Cast(op.Round(op.Where(broken, 0.0, x) * inverse), to=INT8)
    sums = op.Cast(op.MatMulInteger(codes, op.Transpose(weight, perm=[1, 0])), to=FLOAT)
    row_scale = op.Where(broken, op.Constant(value=NAN), peak / 127.0)
    return sums * scale * row_scale + bias


@script(helpers, default_opset=op)
def ByBf16(x, weight, bias):
    """Bf16Linear (custom_ops/OPERATORS.md)."""
    rounded = op.Cast(op.Cast(x, to=BFLOAT16), to=FLOAT)
    return op.Gemm(rounded, op.Cast(weight, to=FLOAT), bias, transB=1)


@script(operators, default_opset=op)
def Int8Linear(x, weight, scale, bias):
    """A linear layer of int8 weights and rows quantised one by one (custom_ops/OPERATORS.md)."""
    return ByInt8(x, weight, scale, bias)


@script(operators, default_opset=op)
def Int8LinearGelu(x, weight, scale, bias):
    """The same, and a GELU (custom_ops/OPERATORS.md)."""
    return Gelu(ByInt8(x, weight, scale, bias))


@script(operators, default_opset=op)
def Bf16Linear(x, weight, bias):
    """A linear layer of bfloat16 weights and rows rounded to bfloat16 (custom_ops/OPERATORS.md)."""
    return ByBf16(x, weight, bias)


@script(operators, default_opset=op)
def Bf16LinearGelu(x, weight, bias):
    """The same, and a GELU (custom_ops/OPERATORS.md)."""
    return Gelu(ByBf16(x, weight, bias))


@script(operators, default_opset=op)
def Int8NormLinear(x, norm_weight, norm_bias, weight, scale, bias, epsilon: float = 1e-5):
    """An int8 layer of normalised rows (custom_ops/OPERATORS.md)."""
    return ByInt8(op.LayerNormalization(x, norm_weight, norm_bias, axis=-1, epsilon=epsilon), weight, scale, bias)


@script(operators, default_opset=op)
def Int8NormLinearGelu(x, norm_weight, norm_bias, weight, scale, bias, epsilon: float = 1e-5):
    """The same, and a GELU (custom_ops/OPERATORS.md)."""
    normed = op.LayerNormalization(x, norm_weight, norm_bias, axis=-1, epsilon=epsilon)
    return Gelu(ByInt8(normed, weight, scale, bias))


@script(operators, default_opset=op)
def Int8LinearAdd(x, residual, weight, scale, bias):
    """An int8 layer added to a residual (custom_ops/OPERATORS.md)."""
    return residual + ByInt8(x, weight, scale, bias)


@script(operators, default_opset=op)
def Bf16NormLinear(x, norm_weight, norm_bias, weight, bias, epsilon: float = 1e-5):
    """A bfloat16 layer of normalised rows (custom_ops/OPERATORS.md)."""
    return ByBf16(op.LayerNormalization(x, norm_weight, norm_bias, axis=-1, epsilon=epsilon), weight, bias)


@script(operators, default_opset=op)
def Bf16NormLinearGelu(x, norm_weight, norm_bias, weight, bias, epsilon: float = 1e-5):
    """The same, and a GELU (custom_ops/OPERATORS.md)."""
    return Gelu(ByBf16(op.LayerNormalization(x, norm_weight, norm_bias, axis=-1, epsilon=epsilon), weight, bias))


@script(operators, default_opset=op)
def Bf16LinearAdd(x, residual, weight, bias):
    """A bfloat16 layer added to a residual (custom_ops/OPERATORS.md)."""
    return residual + ByBf16(x, weight, bias)


@script(operators, default_opset=op)
def Int8Mlp(x, norm_weight, norm_bias, weight1, scale1, bias1, weight2, scale2, bias2, epsilon: float = 1e-5):
    """The MLP of a transformer block in int8 (custom_ops/OPERATORS.md)."""
    normed = op.LayerNormalization(x, norm_weight, norm_bias, axis=-1, epsilon=epsilon)
    return x + ByInt8(Gelu(ByInt8(normed, weight1, scale1, bias1)), weight2, scale2, bias2)


@script(operators, default_opset=op)
def Bf16Mlp(x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, epsilon: float = 1e-5):
    """The MLP of a transformer block in bfloat16 (custom_ops/OPERATORS.md)."""
    normed = op.LayerNormalization(x, norm_weight, norm_bias, axis=-1, epsilon=epsilon)
    return x + ByBf16(Gelu(ByBf16(normed, weight1, bias1)), weight2, bias2)
