# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""HybridAttention, FullAttention: full attention in blocks of queries, codebook attention in time linear in the tokens.

What HybridAttention is told to be known of another attention it only takes sizes from. Memory is linear in the tokens,
too: full attention goes block by block of queries. The blocks stand one behind the other in the graph, as many as the
model resolution can need, those behind the last query being empty: a loop would have to hand keys and values on from
turn to turn, or to read them from outside, which some runtimes do not do. The Attention operator of opset 23 keeps the
scores of all its queries, 1 GB for 16384 of them and as many keys; and inside the blocks it was hardly faster than the
three operators here, which opset 18 has.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import (
    FLOAT,
    HELPER_DOMAIN,
    HELPER_VERSION,
    MadeForSize,
    helpers,
    operators,
)

NEVER = numpy_helper.from_array(np.float32(-np.inf))
SCORES = 1 << 23  # of a block, 32 MB of them: smaller blocks are hardly faster, and every block takes time to load
FEWEST = 128  # queries of a block


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
def Attend(queries, keys, values):
    """Softmax attention: queries [heads, n, Dh], keys [heads, Dh, L], values [heads, L, Dh] -> [heads, n, Dh]."""
    return op.MatMul(op.Softmax(op.MatMul(queries, keys)), values)


@script(helpers, default_opset=op)
def WeighedSums(queries, keys, values):
    """Weighted sums of the values, with the logarithm of what they lack to be sums of exponentials behind them.

    queries [heads, n, Dh], keys [heads, Dh, L], values [heads, L, m] -> [heads, n, m + 1].
    """
    scores = op.MatMul(queries, keys)
    top = op.ReduceMax(scores, op.Constant(value_ints=[-1]))  # [heads, n, 1]
    return op.Concat(op.MatMul(op.Exp(scores - top), values), top, axis=2)


def in_blocks(name: str, attend: str, tokens: int) -> onnx.FunctionProto:
    """The function `name`: what the function `attend` gives for queries [heads, n, Dh], `n` up to `tokens`.

    It calls `attend` for one block of queries after the other. Of more queries it loses the last; its callers reshape
    what it gives, and so fail.
    """
    size = max(FEWEST, SCORES // max(tokens, 1))
    starts = range(0, max(tokens, 1), size)
    nodes = [helper.make_node("Constant", [], ["axis"], value=numpy_helper.from_array(np.array([1])))]
    for at in (*starts, starts[-1] + size):
        nodes.append(helper.make_node("Constant", [], [f"at_{at}"], value=numpy_helper.from_array(np.array([at]))))
    for at in starts:
        nodes += (
            helper.make_node("Slice", ["queries", f"at_{at}", f"at_{at + size}", "axis"], [f"queries_{at}"]),
            helper.make_node(attend, [f"queries_{at}", "keys", "values"], [f"out_{at}"], domain=HELPER_DOMAIN),
        )
    nodes.append(helper.make_node("Concat", [f"out_{at}" for at in starts], ["out"], axis=1))
    opsets = [helper.make_opsetid("", op.version), helper.make_opsetid(HELPER_DOMAIN, HELPER_VERSION)]
    return helper.make_function(HELPER_DOMAIN, name, ["queries", "keys", "values"], ["out"], nodes, opsets)


# Stand-ins for scripts: `in_blocks` makes the functions.
@script(helpers, default_opset=op)
def AttendInBlocks(queries, keys, values):
    """Attend in blocks of queries."""
    return Attend(queries, keys, values)


@script(helpers, default_opset=op)
def WeighedSumsInBlocks(queries, keys, values):
    """WeighedSums in blocks of queries."""
    return WeighedSums(queries, keys, values)


MADE = MadeForSize(
    ("FullAttention", "HybridAttention", "HybridAttentionKnown", "HybridAttentionVq", "HybridAttentionVqKnown"),
    "qkv",
    {
        "AttendInBlocks": partial(in_blocks, "AttendInBlocks", "Attend"),
        "WeighedSumsInBlocks": partial(in_blocks, "WeighedSumsInBlocks", "WeighedSums"),
    },
)


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
    queries = op.Transpose(Rotate(q, head_count, side) * scale, perm=[1, 0, 2])  # [heads, L, Dh]
    keys = op.Transpose(Rotate(k, head_count, side), perm=[1, 2, 0])  # [heads, Dh, L]
    values = op.Reshape(v, op.Concat(tokens, head_count, head_width, axis=0))
    ones = op.Expand(op.Constant(value_float=1.0), op.Concat(tokens, head_count, one, axis=0))
    # The product with ones adds the weights up as exactly as that with the values does.
    values = op.Transpose(op.Concat(values, ones, axis=2), perm=[1, 0, 2])  # [heads, L, Dh + 1]
    attended = WeighedSumsInBlocks(queries, keys, values)  # [heads, L, Dh + 2]
    sums, weight, top = op.Split(attended, op.Concat(head_width, one, one, axis=0), axis=2)
    out = op.Reshape(op.Transpose(sums / weight, perm=[1, 0, 2]), op.Shape(q))
    logsum = op.Reshape(op.Transpose(top + op.Log(weight), perm=[1, 0, 2]), op.Concat(tokens, head_count, axis=0))
    return out, logsum


@script(helpers, default_opset=op)
def CodesOfBits(key, code_weight, code_bias):
    """Codes of keys [L, D] by the signs of their scores, as floats [L]: exact below 2^24."""
    bits = op.Cast(op.GreaterOrEqual(op.Gemm(key, code_weight, code_bias, transB=1), 0.0), to=FLOAT)  # [L, B]
    exponent = op.Range(op.Squeeze(op.Shape(code_bias)) - 1, -1, -1)
    return op.MatMul(bits, op.Cast(op.Pow(2, exponent), to=FLOAT))


@script(helpers, default_opset=op)
def CodesOfScores(key, code_weight, code_bias):
    """Codes of keys [L, D] by their highest score, as floats [L]."""
    projected = op.Gemm(key, code_weight, code_bias, transB=1)  # [L, B]
    scores = op.Where(op.IsNaN(projected), op.Constant(value=NEVER), projected)
    return op.Cast(op.ArgMax(scores, axis=1, keepdims=0), to=FLOAT)


@script(helpers, default_opset=op)
def ToCodes(q, v, code, codewords, split_heads, scale):
    """Codebook attention of all queries [L, D] over the values [L, D], whose keys have codes [L] -> [L, D]."""
    one = op.Constant(value_ints=[1])
    zero = op.Constant(value_ints=[0])
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
    return op.Reshape(op.Transpose(op.MatMul(weights, means), perm=[1, 0, 2]), op.Shape(q))


@script(helpers, default_opset=op)
def Hybrid(q, k, v, edge_tokens, code, codewords, heads, side):
    """Attention of tokens [L, D] whose keys have codes [L] as floats; heads and side (of the grid) int64 [1]."""
    one = op.Constant(value_ints=[1])
    width = op.Shape(q, start=1)
    head_width = width / heads
    scale = op.Reciprocal(op.Sqrt(op.Cast(head_width, to=FLOAT)))
    split_heads = op.Concat(op.Constant(value_ints=[-1]), heads, head_width, axis=0)
    by_codes = ToCodes(q, v, code, codewords, split_heads, scale)  # [L, D]
    keys = op.Transpose(Rotate(k, heads, side), perm=[1, 2, 0])  # [heads, Dh, L]
    values = op.Transpose(op.Reshape(v, split_heads), perm=[1, 0, 2])  # [heads, L, Dh]
    edge_queries = op.Gather(Rotate(q, heads, side), edge_tokens) * scale  # [E, heads, Dh]
    full = AttendInBlocks(op.Transpose(edge_queries, perm=[1, 0, 2]), keys, values)  # [heads, E, Dh]
    full = op.Reshape(op.Transpose(full, perm=[1, 0, 2]), op.Concat(op.Shape(edge_tokens), width, axis=0))
    return op.ScatterND(by_codes, op.Unsqueeze(edge_tokens, one), full)


@script(operators, default_opset=op)
def HybridAttention(qkv, edge_tokens, code_weight, code_bias, codewords, heads: int, grid_width: int):
    """Full attention for edge tokens, attention to codes of bits for the others (custom_ops/OPERATORS.md)."""
    one = op.Constant(value_ints=[1])
    q, k, v = op.Split(qkv, axis=1, num_outputs=3)  # [L, D] each
    code = CodesOfBits(k, code_weight, code_bias)
    head_count = op.Reshape(op.Constant(value_int=heads), one)
    return Hybrid(q, k, v, edge_tokens, code, codewords, head_count, op.Constant(value_int=grid_width))


@script(operators, default_opset=op)
def HybridAttentionVq(qkv, edge_tokens, code_weight, code_bias, codewords, heads: int, grid_width: int):
    """Full attention for edge tokens, attention to codes of scores for the others (custom_ops/OPERATORS.md)."""
    one = op.Constant(value_ints=[1])
    q, k, v = op.Split(qkv, axis=1, num_outputs=3)  # [L, D] each
    code = CodesOfScores(k, code_weight, code_bias)
    head_count = op.Reshape(op.Constant(value_int=heads), one)
    return Hybrid(q, k, v, edge_tokens, code, codewords, head_count, op.Constant(value_int=grid_width))


@script(helpers, default_opset=op)
def OfKnownSize(qkv, known_qkv, known_out, known_logsum, heads):
    """A qkv [L, 3*D], which must have the sizes of what is known of another one."""
    tokens = op.Shape(known_out, start=0, end=1)
    channels = op.Shape(known_out, start=1) * 3
    logsums = op.Shape(known_logsum, start=0, end=1) * op.Shape(known_logsum, start=1) / heads
    same = op.Reshape(qkv, op.Concat(tokens, channels, axis=0))
    same = op.Reshape(same, op.Shape(known_qkv))
    return op.Reshape(same, op.Concat(logsums, op.Constant(value_ints=[-1]), axis=0))


@script(operators, default_opset=op)
def HybridAttentionKnown(
    qkv, edge_tokens, code_weight, code_bias, codewords, known_qkv, known_out, known_logsum, heads: int, grid_width: int
):
    """HybridAttention (custom_ops/OPERATORS.md)."""
    same = OfKnownSize(qkv, known_qkv, known_out, known_logsum, op.Constant(value_int=heads))
    return HybridAttention(same, edge_tokens, code_weight, code_bias, codewords, heads=heads, grid_width=grid_width)


@script(operators, default_opset=op)
def HybridAttentionVqKnown(
    qkv, edge_tokens, code_weight, code_bias, codewords, known_qkv, known_out, known_logsum, heads: int, grid_width: int
):
    """HybridAttentionVq (custom_ops/OPERATORS.md)."""
    same = OfKnownSize(qkv, known_qkv, known_out, known_logsum, op.Constant(value_int=heads))
    return HybridAttentionVq(same, edge_tokens, code_weight, code_bias, codewords, heads=heads, grid_width=grid_width)
