# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""WindowAttention: each map padded and cut into windows by reshapes, then attention of all windows at once.

Padding slots are queries here, too, which costs less than to leave them out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import FLOAT, helpers, operators

# x @ TURN for a pair of channels: what the sine is multiplied with
TURN = numpy_helper.from_array(np.float32([[0, -1], [1, 0]]).reshape(1, 2, 1, 2))


@script(helpers, default_opset=op)
def AlongAxis(count, side, quarter):
    """Angles of the rotary embedding of one axis, [count, side, 2 * quarter]: each serves two adjacent channels."""
    position = op.Reshape(op.Range(0, op.Squeeze(count * side), 1), op.Concat(count, side, [1], axis=0))
    index = op.Cast(op.Range(0, op.Squeeze(quarter), 1), to=FLOAT)
    frequency = op.Pow(10000.0, op.Neg(index / op.Cast(quarter, to=FLOAT)))  # [quarter]
    angle = op.Unsqueeze(op.Cast(position, to=FLOAT) * 0.5 * frequency, op.Constant(value_ints=[3]))
    return op.Reshape(op.Concat(angle, angle, axis=3), op.Concat(count, side, quarter * 2, axis=0))


@script(helpers, default_opset=op)
def OverWindows(by_row, by_column):
    """[rows, side, n] and [columns, side, n] side by side for each slot of each window, [windows, 1, side*side, 2n]."""
    rows, side, half = op.Split(op.Shape(by_row), num_outputs=3)
    columns = op.Shape(by_column, start=0, end=1)
    both = op.Concat(
        op.Expand(
            op.Unsqueeze(by_row, op.Constant(value_ints=[1, 3])), op.Concat(rows, columns, side, side, half, axis=0)
        ),
        op.Expand(
            op.Unsqueeze(by_column, op.Constant(value_ints=[0, 2])), op.Concat(rows, columns, side, side, half, axis=0)
        ),
        axis=4,
    )
    return op.Reshape(both, op.Concat(rows * columns, [1], side * side, half * 2, axis=0))


@script(helpers, default_opset=op)
def AttendInWindows(qkv, padding, height, width, offset, heads, side):
    """One map: qkv [images, height * width, 3*D], padding [1, 3*D] -> [images, height * width, D]."""
    images, tokens, channels = op.Split(op.Shape(qkv), num_outputs=3)
    rows = (offset + height + side - 1) / side
    columns = (offset + width + side - 1) / side
    head_width = channels / (heads * 3)
    windows = rows * columns
    slots = side * side
    three = op.Constant(value_ints=[3])

    slot = op.Reshape(padding, op.Constant(value_ints=[1, 1, 1, -1]))
    left = op.Expand(slot, op.Concat(images, height, offset, channels, axis=0))
    right = op.Expand(slot, op.Concat(images, height, columns * side - offset - width, channels, axis=0))
    grid = op.Reshape(qkv, op.Concat(images, height, width, channels, axis=0))
    grid = op.Concat(left, grid, right, axis=2)
    top = op.Expand(slot, op.Concat(images, offset, columns * side, channels, axis=0))
    bottom = op.Expand(slot, op.Concat(images, rows * side - offset - height, columns * side, channels, axis=0))
    grid = op.Concat(top, grid, bottom, axis=1)  # [images, rows * side, columns * side, 3*D]

    cut = op.Reshape(grid, op.Concat(images * rows, side, columns, side, three, heads, head_width, axis=0))
    cut = op.Transpose(cut, perm=[4, 0, 2, 5, 1, 3, 6])  # [3, images * rows, columns, heads, side, side, Dh]
    cut = op.Reshape(cut, op.Concat(three, images, windows, heads, slots, head_width, axis=0))
    q, k, v = op.Split(cut, axis=0, num_outputs=3)  # [1, images, windows, heads, slots, Dh] each

    # The turned neighbours by a matrix product: onnxruntime moves single channels slowly.
    half = head_width / 2
    eye = op.EyeLike(op.ConstantOfShape(op.Concat(half, half, axis=0)))
    turn = op.Unsqueeze(eye, op.Constant(value_ints=[1, 3])) * op.Constant(value=TURN)  # [Dh/2, 2, Dh/2, 2]
    turn = op.Reshape(turn, op.Concat(head_width, head_width, axis=0))
    by_row = AlongAxis(rows, side, half / 2)
    by_column = AlongAxis(columns, side, half / 2)
    cos = OverWindows(op.Cos(by_row), op.Cos(by_column))
    sin = OverWindows(op.Sin(by_row), op.Sin(by_column))
    scale = op.Reciprocal(op.Sqrt(op.Cast(head_width, to=FLOAT)))
    queries = (q * cos + op.MatMul(q, turn) * sin) * scale
    keys = k * cos + op.MatMul(k, turn) * sin

    scores = op.MatMul(queries, op.Transpose(keys, perm=[0, 1, 2, 3, 5, 4]))
    out = op.MatMul(op.Softmax(scores), v)  # [1, images, windows, heads, slots, Dh]
    out = op.Reshape(out, op.Concat(images * rows, columns, heads, side, side, head_width, axis=0))
    out = op.Transpose(out, perm=[0, 3, 1, 4, 2, 5])  # [images * rows, side, columns, side, heads, Dh]
    out = op.Reshape(out, op.Concat(images, rows * side, columns * side, heads * head_width, axis=0))
    first = op.Concat(offset, offset, axis=0)
    inside = op.Slice(out, first, first + op.Concat(height, width, axis=0), op.Constant(value_ints=[1, 2]))
    return op.Reshape(inside, op.Concat(images, tokens, heads * head_width, axis=0))


@script(operators, default_opset=op)
def WindowAttention(
    qkv, padding, heads: int, window: int, heights: Sequence[int], widths: Sequence[int], offsets: Sequence[int]
):
    """Attention within the windows of each map (custom_ops/OPERATORS.md)."""
    one = op.Constant(value_ints=[1])
    head_count = op.Reshape(op.Constant(value_int=heads), one)
    side = op.Reshape(op.Constant(value_int=window), one)
    all_heights = op.Constant(value_ints=heights)
    all_widths = op.Constant(value_ints=widths)
    all_offsets = op.Constant(value_ints=offsets)
    tokens = op.ReduceSum(all_heights * all_widths)  # [1], of an image
    by_image = op.Reshape(
        qkv, op.Concat(op.Shape(qkv, start=0, end=1) / tokens, tokens, op.Shape(qkv, start=1), axis=0)
    )
    first = op.Constant(value_ints=[0])
    attended = op.SequenceEmpty(dtype=FLOAT)
    for i in range(op.Size(all_heights)):
        height = op.Gather(all_heights, op.Reshape(i, one))
        width = op.Gather(all_widths, op.Reshape(i, one))
        last = first + height * width
        out = AttendInWindows(
            op.Slice(by_image, first, last, one), padding, height, width,
            op.Gather(all_offsets, op.Reshape(i, one)), head_count, side,
        )  # fmt: skip
        attended = op.SequenceInsert(attended, out)
        first = op.Identity(last)
    flat = op.Concat(op.Shape(qkv, start=0, end=1), op.Shape(qkv, start=1) / 3, axis=0)
    return op.Reshape(op.ConcatFromSequence(attended, axis=1), flat)
