# ruff: noqa: F821, N802, UP037 - functions are named like operators, dimensions are strings
# mypy: ignore-errors
"""HybridAttention, FullAttention: full attention in blocks of queries, codebook attention in time linear in the tokens.

What HybridAttention is told to be known of another attention it does not use. Memory is linear in the tokens, too.
The Attention operator of opset 23 keeps the scores of all its queries, 1 GB for 16384 of them and as many keys; and
inside the blocks it was hardly faster than the three operators here, which opset 18 has.
"""

from __future__ import annotations

import numpy as np
import onnxscript
from onnx import numpy_helper
from onnxscript import graph, script
from onnxscript import opset18 as op

from inter2former_deploy.exporters.bodies.shared import FLOAT, IsText, helpers, operators

NEVER = numpy_helper.from_array(np.float32(-np.inf))
BLOCK = 128  # queries at a time: 8 MB of scores at 16384 keys


@script(helpers, default_opset=op)
def Rotate(x, heads, grid_width):
    """Rotary embedding, [L, D] -> [L, heads, D / heads]: rows turn the first half of a head, columns the second."""
    length, width = op.Split(op.Shape(x), num_outputs=2)
    quarter = width / (heads * 4)  # frequencies
    index = op.Cast(op.Range(0, op.Squeeze(quarter), 1), to=FLOAT)
    frequency = op.Pow(10000.0, op.Neg(index / op.Cast(quarter, to=FLOAT)))  # [n]
    token = op.Range(0, op.Squeeze(length), 1)
    position = op.Unsqueeze(
        op.Concat(op.Unsqueeze(token / grid_width, [1]), op.Unsqueeze(op.Mod(token, grid_width), [1]), axis=1), [2]
    )
    angle = op.Cast(position, to=FLOAT) * 0.5 * frequency  # [L, 2, n]
    angle = op.Reshape(angle, op.Concat(length, op.Constant(value_ints=[1, -1, 1]), axis=0))  # [L, 1, 2n, 1]
    cos = op.Cos(angle)
    sin = op.Sin(angle)
    pairs = op.Reshape(x, op.Concat(length, heads, quarter * 2, op.Constant(value_ints=[2]), axis=0))
    even, odd = op.Split(pairs, axis=3, num_outputs=2)  # [L, heads, 2n, 1]
    turned = op.Concat(even * cos + odd * sin, odd * cos - even * sin, axis=3)
    return op.Reshape(turned, op.Concat(length, heads, quarter * 4, axis=0))


@script(helpers, default_opset=op)
def InBlocks(queries):
    """Queries [E, heads, Dh] in blocks of nearly equal size, zeros behind the last: [blocks, heads, block, Dh].

    A block of zeros when there are none.
    """
    one = op.Constant(value_ints=[1])
    zero = op.Constant(value_ints=[0])
    count = op.Shape(queries, start=0, end=1)
    blocks = op.Max((count + (BLOCK - 1)) / BLOCK, one)
    block = op.Max((count + blocks - one) / blocks, one)
    padding = op.Concat(zero, zero, zero, blocks * block - count, zero, zero, axis=0)
    stacked = op.Reshape(op.Pad(queries, padding), op.Concat(blocks, block, op.Shape(queries, start=1), axis=0))
    return op.Transpose(stacked, perm=[0, 2, 1, 3])


@script(helpers, default_opset=op)
def FromBlocks(blocks, count):
    """The first `count` rows [E, heads * n] of [blocks, heads, block, n]."""
    rows = op.Transpose(blocks, perm=[0, 2, 1, 3])
    width = op.ReduceProd(op.Shape(rows, start=2))
    flat = op.Reshape(rows, op.Concat(op.Constant(value_ints=[-1]), width, axis=0))
    return op.Slice(flat, op.Constant(value_ints=[0]), count)


@script(helpers, default_opset=op)
def AttendInBlocks(queries, keys, values):
    """Weighted sums of the values, with the logarithm of what they lack to be sums of exponentials behind them.

    queries [blocks, heads, block, Dh], keys [heads, Dh, L], values [heads, L, n] -> [blocks, heads, block, n + 1].
    """

    @graph()
    def attend(rows: onnxscript.FLOAT["heads", "block", "width"]) -> onnxscript.FLOAT["heads", "block", "width"]:
        scores = op.MatMul(rows, keys)
        top = op.ReduceMax(scores, op.Constant(value_ints=[-1]))  # [heads, block, 1]
        return op.Concat(op.MatMul(op.Exp(scores - top), values), top, axis=2)

    return op.Scan(queries, body=attend, num_scan_inputs=1)


@script(operators, default_opset=op)
def FullAttention(qkv, heads: int, grid_width: int):
    """Full attention for all tokens, and the logarithms of its denominators (custom_ops/OPERATORS.md)."""
    one = op.Constant(value_ints=[1])
    head_count = op.Reshape(op.Constant(value_int=heads), one)
    side = op.Constant(value_int=grid_width)
    q, k, v = op.Split(qkv, axis=1, num_outputs=3)  # [L, D] each
    tokens, width = op.Split(op.Shape(q), num_outputs=2)
    head_width = width / head_count
    scale = op.Reciprocal(op.Sqrt(op.Cast(head_width, to=FLOAT)))
    keys = op.Transpose(Rotate(k, head_count, side), perm=[1, 2, 0])  # [heads, Dh, L]
    values = op.Reshape(v, op.Concat(tokens, head_count, head_width, axis=0))
    ones = op.Expand(op.Constant(value_float=1.0), op.Concat(tokens, head_count, one, axis=0))
    # The product with ones adds the weights up as exactly as that with the values does.
    values = op.Transpose(op.Concat(values, ones, axis=2), perm=[1, 0, 2])  # [heads, L, Dh + 1]
    blocks = AttendInBlocks(InBlocks(Rotate(q, head_count, side) * scale), keys, values)
    sums, weight, top = op.Split(blocks, op.Concat(head_width, one, one, axis=0), axis=3)
    return FromBlocks(sums / weight, tokens), FromBlocks(top + op.Log(weight), tokens)


@script(operators, default_opset=op)
def HybridAttention(
    qkv, edge, code_weight, code_bias, codewords, known_qkv, known_out, known_logsum,
    heads: int, grid_width: int, quantizer: str = "bsq",
):  # fmt: skip
    """Full attention for edge tokens, codebook attention for the others (custom_ops/OPERATORS.md)."""
    one = op.Constant(value_ints=[1])
    zero = op.Constant(value_ints=[0])
    head_count = op.Reshape(op.Constant(value_int=heads), one)
    q, k, v = op.Split(qkv, axis=1, num_outputs=3)  # [L, D] each
    width = op.Shape(q, start=1)
    head_width = width / head_count
    scale = op.Reciprocal(op.Sqrt(op.Cast(head_width, to=FLOAT)))
    split_heads = op.Concat(op.Constant(value_ints=[-1]), head_count, head_width, axis=0)

    # Codes of the keys, as floats: exact below 2^24.
    projected = op.Gemm(k, code_weight, code_bias, transB=1)  # [L, B]
    if IsText(op.Constant(value_string=quantizer), op.Constant(value_string="bsq")):
        bits = op.Cast(op.GreaterOrEqual(projected, 0.0), to=FLOAT)
        exponent = op.Range(op.Squeeze(op.Shape(code_bias)) - 1, -1, -1)
        code = op.MatMul(bits, op.Cast(op.Pow(2, exponent), to=FLOAT))  # [L]
    else:
        scores = op.Where(op.IsNaN(projected), op.Constant(value=NEVER), projected)
        code = op.Cast(op.ArgMax(scores, axis=1, keepdims=0), to=FLOAT)

    # Number of keys and mean value of every code: one-hot x MatMul.
    codes = op.Cast(op.Range(0, op.Squeeze(op.Shape(codewords, start=0, end=1)), 1), to=FLOAT)
    member = op.Cast(op.Equal(op.Unsqueeze(codes, one), op.Unsqueeze(code, zero)), to=FLOAT)  # [K, L]
    count = op.ReduceSum(member, one)  # [K, 1]
    occurs = op.Greater(count, 0.0)
    mean = op.MatMul(member, v) / op.Max(count, 1.0)  # [K, D]

    # sum_c exp(q.c) V_c / sum_c exp(q.c) n_c is a softmax over q.c + log n_c, applied to mean values.
    words = op.Where(occurs, codewords, 0.0) * scale
    words = op.Transpose(op.Reshape(words, split_heads), perm=[1, 2, 0])  # [heads, Dh, K]
    queries = op.Transpose(op.Reshape(q, split_heads), perm=[1, 0, 2])  # [heads, L, Dh]
    weights = op.Softmax(op.MatMul(queries, words) + op.Reshape(op.Log(count), op.Constant(value_ints=[1, 1, -1])))
    means = op.Transpose(op.Reshape(mean, split_heads), perm=[1, 0, 2])  # [heads, K, Dh]
    by_codes = op.Reshape(op.Transpose(op.MatMul(weights, means), perm=[1, 0, 2]), op.Shape(q))  # [L, D]

    # Full attention of the edge tokens.
    side = op.Constant(value_int=grid_width)
    keys = op.Transpose(Rotate(k, head_count, side), perm=[1, 2, 0])  # [heads, Dh, L]
    values = op.Transpose(op.Reshape(v, split_heads), perm=[1, 0, 2])  # [heads, L, Dh]
    edge_queries = op.Gather(Rotate(q, head_count, side), edge) * scale  # [E, heads, Dh]

    @graph()
    def attend(rows: onnxscript.FLOAT["heads", "block", "width"]) -> onnxscript.FLOAT["heads", "block", "width"]:
        return op.MatMul(op.Softmax(op.MatMul(rows, keys)), values)

    full = op.Scan(InBlocks(edge_queries), body=attend, num_scan_inputs=1)  # [blocks, heads, block, Dh]
    return op.ScatterND(by_codes, op.Unsqueeze(edge, one), FromBlocks(full, op.Shape(edge)))
