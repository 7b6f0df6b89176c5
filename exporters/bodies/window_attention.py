# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""WindowAttention: the slots of all windows of all maps are gathered, attended to at once, and gathered back.

Where slots and tokens lie follows from the attributes, so onnxruntime computes it once, when the graph is loaded.
Padding slots are queries here, too, which costs less than to leave them out.
"""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import FLOAT, INT64, Integers, helpers, operators

# x @ TURN for a pair of channels: what the sine is multiplied with
TURN = numpy_helper.from_array(np.float32([[0, -1], [1, 0]]).reshape(1, 2, 1, 2))


@script(helpers, default_opset=op)
def Starts(sizes):
    """Where parts begin that lie one after the other, and where they all end: int64 [n] -> [n], [1]."""
    ends = op.CumSum(sizes, 0)
    return ends - sizes, op.ReduceSum(sizes)


@script(helpers, default_opset=op)
def PartOf(count, starts):
    """In which of the parts that begin at `starts` [n] each of the places 0 to `count` [1] lies, int64 [count]."""
    places = op.Unsqueeze(op.Range(0, op.Squeeze(count), 1), op.Constant(value_ints=[1]))
    begun = op.Cast(op.GreaterOrEqual(places, op.Unsqueeze(starts, op.Constant(value_ints=[0]))), to=INT64)
    return op.ReduceSum(begun, op.Constant(value_ints=[1]), keepdims=0) - 1


@script(helpers, default_opset=op)
def RotaryTables(rows, columns, head_width):
    """Cosines and sines of the rotary embedding at places [n], [n, head_width]: rows turn the first half of a head."""
    quarter = head_width / 4
    index = op.Cast(op.Range(0, op.Squeeze(quarter), 1), to=FLOAT)
    frequency = op.Pow(10000.0, op.Neg(index / op.Cast(quarter, to=FLOAT)))  # [Dh/4]
    both = op.Concat(op.Unsqueeze(rows, [1]), op.Unsqueeze(columns, [1]), axis=1)  # [n, 2]
    angle = op.Unsqueeze(op.Cast(both, to=FLOAT) * 0.5, [2]) * frequency  # [n, 2, Dh/4]
    angle = op.Unsqueeze(angle, [3])
    angle = op.Reshape(op.Concat(angle, angle, axis=3), op.Concat(op.Shape(rows), head_width, axis=0))
    return op.Cos(angle), op.Sin(angle)


@script(helpers, default_opset=op)
def Windows(heights, widths, offsets, side):
    """For all windows' slots one after the other, [slots]: row and column in the padded map, and the token there.

    The token is that of an image, or the number of tokens where there is none; then, for all tokens, their slots.
    """
    one = op.Constant(value_ints=[1])
    columns_of = (offsets + widths + side - 1) / side  # [maps], of windows
    windows_of = (offsets + heights + side - 1) / side * columns_of
    first_window, windows = Starts(windows_of)
    first_token, tokens = Starts(heights * widths)

    map_of = PartOf(windows, first_window)  # [windows]
    window = op.Range(0, op.Squeeze(windows), 1) - op.Gather(first_window, map_of)
    columns = op.Gather(columns_of, map_of)
    axis = op.Range(0, op.Squeeze(side), 1)
    row = op.Unsqueeze(op.Unsqueeze(window / columns * side, one) + axis, [2])  # [windows, side, 1]
    column = op.Unsqueeze(op.Unsqueeze(op.Mod(window, columns) * side, one) + axis, one)  # [windows, 1, side]
    offset = op.Unsqueeze(op.Gather(offsets, map_of), [1, 2])
    height = op.Unsqueeze(op.Gather(heights, map_of), [1, 2])
    width = op.Unsqueeze(op.Gather(widths, map_of), [1, 2])
    y = row - offset
    x = column - offset
    inside = op.And(
        op.And(op.GreaterOrEqual(y, 0), op.Less(y, height)), op.And(op.GreaterOrEqual(x, 0), op.Less(x, width))
    )
    token = op.Unsqueeze(op.Gather(first_token, map_of), [1, 2]) + y * width + x
    token = op.Reshape(op.Where(inside, token, tokens), op.Constant(value_ints=[-1]))
    shape = op.Concat(windows, side, side, axis=0)
    rows = op.Reshape(op.Expand(row, shape), op.Constant(value_ints=[-1]))
    all_columns = op.Reshape(op.Expand(column, shape), op.Constant(value_ints=[-1]))

    map_of = PartOf(tokens, first_token)  # [tokens]
    place = op.Range(0, op.Squeeze(tokens), 1) - op.Gather(first_token, map_of)
    width = op.Gather(widths, map_of)
    offset = op.Gather(offsets, map_of)
    y = place / width + offset
    x = op.Mod(place, width) + offset
    window = op.Gather(first_window, map_of) + y / side * op.Gather(columns_of, map_of) + x / side
    slot = (window * side + op.Mod(y, side)) * side + op.Mod(x, side)
    return rows, all_columns, token, slot, windows, tokens


@script(operators, default_opset=op)
def WindowAttention(qkv, padding, heads: int, window: int, heights: Integers, widths: Integers, offsets: Integers):
    """Attention within the windows of each map (custom_ops/OPERATORS.md)."""
    one = op.Constant(value_ints=[1])
    zero = op.Constant(value_ints=[0])
    head_count = op.Reshape(op.Constant(value_int=heads), one)
    side = op.Reshape(op.Constant(value_int=window), one)
    slots = side * side
    rows, columns, token, slot, windows, tokens = Windows(
        op.Constant(value_ints=heights), op.Constant(value_ints=widths), op.Constant(value_ints=offsets), side
    )
    all_tokens, channels = op.Split(op.Shape(qkv), num_outputs=2)
    images = all_tokens / tokens
    head_width = channels / (head_count * 3)

    # The tokens of each image, a padding slot behind them.
    by_image = op.Reshape(qkv, op.Concat(images, tokens, channels, axis=0))
    slot_of_padding = op.Expand(op.Unsqueeze(padding, zero), op.Concat(images, one, channels, axis=0))
    cut = op.Gather(op.Concat(by_image, slot_of_padding, axis=1), token, axis=1)  # [images, windows * slots, 3*D]
    cut = op.Reshape(
        cut, op.Concat(images * windows, slots, op.Constant(value_ints=[3]), head_count, head_width, axis=0)
    )
    q, k, v = op.Split(op.Transpose(cut, perm=[2, 0, 3, 1, 4]), axis=0, num_outputs=3)
    by_window = op.Concat(images, windows, head_count, slots, head_width, axis=0)
    q = op.Reshape(q, by_window)
    k = op.Reshape(k, by_window)
    v = op.Reshape(v, by_window)

    # The turned neighbours by a matrix product: onnxruntime moves single channels slowly.
    half = head_width / 2
    eye = op.EyeLike(op.ConstantOfShape(op.Concat(half, half, axis=0)))
    turn = op.Unsqueeze(eye, op.Constant(value_ints=[1, 3])) * op.Constant(value=TURN)  # [Dh/2, 2, Dh/2, 2]
    turn = op.Reshape(turn, op.Concat(head_width, head_width, axis=0))
    cos, sin = RotaryTables(rows, columns, head_width)
    each = op.Concat(windows, one, slots, head_width, axis=0)
    cos = op.Reshape(cos, each)
    sin = op.Reshape(sin, each)
    scale = op.Reciprocal(op.Sqrt(op.Cast(head_width, to=FLOAT)))
    queries = (q * cos + op.MatMul(q, turn) * sin) * scale
    keys = k * cos + op.MatMul(k, turn) * sin

    scores = op.MatMul(queries, op.Transpose(keys, perm=[0, 1, 2, 4, 3]))
    out = op.MatMul(op.Softmax(scores), v)  # [images, windows, heads, slots, Dh]
    out = op.Transpose(out, perm=[0, 1, 3, 2, 4])
    out = op.Reshape(out, op.Concat(images, windows * slots, head_count * head_width, axis=0))
    return op.Reshape(op.Gather(out, slot, axis=1), op.Concat(all_tokens, head_count * head_width, axis=0))
