# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""ImageToTokenAttention, TokenToImageAttention: attention between an image's tokens and a few others, both ways."""

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import FLOAT, helpers, operators


@script(helpers, default_opset=op)
def AttendWith(query, key, value, heads):
    """Softmax attention of [n, D] to keys and values [m, D], heads int64 [1] -> [n, D]."""
    split = op.Concat(op.Constant(value_ints=[-1]), heads, op.Shape(query, start=1) / heads, axis=0)
    queries = op.Transpose(op.Reshape(query, split), perm=[1, 0, 2])  # [heads, n, D / heads]
    keys = op.Transpose(op.Reshape(key, split), perm=[1, 2, 0])  # [heads, D / heads, m]
    values = op.Transpose(op.Reshape(value, split), perm=[1, 0, 2])
    scale = op.Sqrt(op.Cast(op.Shape(query, start=1) / heads, to=FLOAT))
    out = op.MatMul(op.Softmax(op.MatMul(queries, keys / scale)), values)
    return op.Reshape(op.Transpose(out, perm=[1, 0, 2]), op.Shape(query), allowzero=1)


@script(operators, default_opset=op)
def ImageToTokenAttention(
    query,
    query_input,
    query_weight,
    query_bias,
    key,
    value,
    image,
    out_weight,
    out_bias,
    norm_weight,
    norm_bias,
    heads: int,
    epsilon: float = 1e-5,
):
    """Image tokens after their attention to a few others (custom_ops/OPERATORS.md)."""
    queries = query + op.Gemm(query_input, query_weight, query_bias, transB=1)
    count = op.Reshape(op.Constant(value_int=heads), op.Constant(value_ints=[1]))
    attended = AttendWith(queries, key, value, count)
    joined = image + op.Gemm(attended, out_weight, out_bias, transB=1)
    return op.LayerNormalization(joined, norm_weight, norm_bias, axis=-1, epsilon=epsilon)


@script(operators, default_opset=op)
def TokenToImageAttention(query, image, key, key_weight, value_weight, value, heads: int):
    """What a few tokens get from an image's (custom_ops/OPERATORS.md)."""
    keys = key + op.Gemm(image, key_weight, transB=1)
    values = op.Gemm(image, value_weight, value, transB=1)
    count = op.Reshape(op.Constant(value_int=heads), op.Constant(value_ints=[1]))
    return AttendWith(query, keys, values, count)
