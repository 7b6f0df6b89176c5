# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""LocalUpsample: the taps of the 3 x 3 convolution at low resolution, then bicubic x2 along one axis after the other.

conv3x3(bicubic2x(x)) = sum over the taps of shift(bicubic2x(W_tap x)). Along one axis, upsampling and the sum over its
three taps are one linear map of a few neighbouring rows, so blocks of rows are multiplied by a small constant matrix.
"""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import FLOAT, Silu, helpers, operators

ROWS = 16  # input rows a block
HALO = 2  # input rows more at either side


def _bicubic_matrix() -> np.ndarray:
    """Of input row i - HALO in bicubic row r + t - 1, which tap t of output row r takes: [2 ROWS, ROWS + 2 HALO, 3]."""

    def kernel(distance: float, a: float = -0.75) -> float:
        d = abs(distance)
        if d <= 1:
            return ((a + 2) * d - (a + 3)) * d * d + 1
        return (((d - 5) * d + 8) * d - 4) * a if d < 2 else 0.0

    matrix = [
        [[kernel((r + t - 1 + 0.5) / 2 - 0.5 - (i - HALO)) for t in range(3)] for i in range(ROWS + 2 * HALO)]
        for r in range(2 * ROWS)
    ]
    return np.array(matrix, np.float32)


BICUBIC = numpy_helper.from_array(_bicubic_matrix())
BLOCK_ROWS = numpy_helper.from_array(np.arange(-HALO, ROWS + HALO, dtype=np.int64))
BLOCK_OUTPUTS = numpy_helper.from_array(
    (np.arange(2 * ROWS)[:, None] + np.array([-1, 0, 1])).astype(np.int64).reshape(1, 2 * ROWS, 1, 3)
)


@script(helpers, default_opset=op)
def UpsampleRows(taps):
    """`sum_t bicubic2x(taps[:, t])[y + t - 1]`, rows outside counting as zero, for taps [n, 3, X] -> [2n, X]."""
    rows = op.Shape(taps, start=0, end=1)
    width = op.Shape(taps, start=2)
    blocks = (rows + (ROWS - 1)) / ROWS
    start = op.Range(0, op.Squeeze(blocks), 1) * ROWS  # [blocks]
    source = op.Unsqueeze(start, [1]) + op.Constant(value=BLOCK_ROWS)  # [blocks, ROWS + 2 HALO]
    source = op.Min(op.Max(source, 0), rows - 1)
    tiles = op.Reshape(
        op.Gather(taps, source), op.Concat(blocks, op.Constant(value_ints=[3 * (ROWS + 2 * HALO)]), width, axis=0)
    )

    target = op.Unsqueeze(start * 2, [1, 2, 3]) + op.Constant(value=BLOCK_OUTPUTS)  # [blocks, 2 ROWS, 1, 3]
    inside = op.And(op.GreaterOrEqual(target, 0), op.Less(target, rows * 2))
    matrix = op.Constant(value=BICUBIC) * op.Cast(inside, to=FLOAT)
    matrix = op.Reshape(matrix, op.Constant(value_ints=[-1, 2 * ROWS, 3 * (ROWS + 2 * HALO)]))

    raised = op.Reshape(op.MatMul(matrix, tiles), op.Concat(op.Constant(value_ints=[-1]), width, axis=0))
    return op.Slice(raised, [0], rows * 2)


@script(helpers, default_opset=op)
def MeanOfCrop(x):
    """The mean of all values of [H, W, C], [].

    onnxruntime adds up all values of one reduction in turn, which over a large crop loses digits, most of all where
    pixels are equal and rounding errors go one way. So channels come first, then rows.
    """
    rows = op.ReduceMean(op.ReduceMean(x, op.Constant(value_ints=[2])), op.Constant(value_ints=[1]))
    return op.ReduceMean(rows, keepdims=0)


@script(helpers, default_opset=op)
def UpsampleCrop(
    x, box, norm_weight, norm_bias, conv_weight, conv_bias, edge_map, edge_border, edge_corner, epsilon: float
):
    """GroupNorm, bicubic x2, edge features and 3 x 3 convolution on a crop (custom_ops/OPERATORS.md)."""
    height = op.Shape(x, start=0, end=1)
    width = op.Shape(x, start=1, end=2)
    channels = op.Shape(conv_bias)
    three = op.Constant(value_ints=[3])
    rest = op.Constant(value_ints=[-1])

    centred = x - MeanOfCrop(x)
    deviation = op.Sqrt(MeanOfCrop(centred * centred) + op.Constant(value_float=epsilon))
    row = op.Concat(width, op.Shape(norm_bias), axis=0)  # onnxruntime adds whole rows far faster than a few channels
    normed = centred * op.Expand(norm_weight / deviation, row) + op.Expand(norm_bias, row)

    weight = op.Reshape(
        op.Transpose(conv_weight, perm=[2, 1, 3, 0]), op.Concat(three, op.Shape(norm_weight), rest, axis=0)
    )  # [3 dy, Ci, 3 dx * Co]
    taps = op.MatMul(op.Unsqueeze(normed, [1]), weight)  # [Hc, 3 dy, Wc, 3 dx * Co]
    taps = UpsampleRows(op.Reshape(taps, op.Concat(height, three, rest, axis=0)))  # [2 Hc, Wc * 3 dx * Co]
    taps = op.Transpose(op.Reshape(taps, op.Concat(height * 2, width, three, channels, axis=0)), perm=[1, 2, 0, 3])
    out = UpsampleRows(op.Reshape(taps, op.Concat(width, three, rest, axis=0)))
    out = op.Reshape(out, op.Concat(width * 2, height * 2, channels, axis=0))  # columns first: [2 Wc, 2 Hc, Co]

    # conv3x3 of the cropped edge features is that of the whole map, minus what its border saw outside the crop.
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    left, top, right, bottom = op.Split(box, num_outputs=4)
    scale = height * 2 / (bottom - top)
    last_row = bottom - 1
    last_column = right - 1
    pairs = op.Constant(value_ints=[2, 2])
    columns = op.GatherND(edge_border, op.Reshape(op.Concat(one + 1, left, three, last_column, axis=0), pairs))
    columns = op.Slice(columns, top * scale, bottom * scale, one)  # [2, 2 Hc, Co]
    rows = op.GatherND(edge_border, op.Reshape(op.Concat(zero, top, one, last_row, axis=0), pairs))
    rows = op.Slice(rows, left * scale, right * scale, one)  # [2, 2 Wc, Co]
    corner = op.Concat(
        zero, top, left, one, top, last_column, one + 1, last_row, left, three, last_row, last_column, axis=0
    )
    corners = op.GatherND(edge_corner, op.Reshape(corner, op.Constant(value_ints=[4, 3])))  # [4, Co]

    end_row = height * 2 - 1
    end_column = width * 2 - 1
    ends = op.Constant(value_ints=[2, 1])
    out = op.ScatterND(out, op.Reshape(op.Concat(zero, end_column, axis=0), ends), op.Neg(columns), reduction="add")
    out = op.Transpose(out, perm=[1, 0, 2])  # [2 Hc, 2 Wc, Co]
    out = op.ScatterND(out, op.Reshape(op.Concat(zero, end_row, axis=0), ends), op.Neg(rows), reduction="add")
    spots = op.Concat(zero, zero, zero, end_column, end_row, zero, end_row, end_column, axis=0)
    out = op.ScatterND(out, op.Reshape(spots, op.Constant(value_ints=[4, 2])), corners, reduction="add")

    first = op.Concat(top * scale, left * scale, axis=0)
    features = op.Slice(edge_map, first, op.Concat(bottom * scale, right * scale, axis=0))
    return out + features + op.Expand(conv_bias, op.Concat(width * 2, channels, axis=0))


@script(operators, default_opset=op)
def LocalUpsample(
    x, box, norm_weight, norm_bias, conv_weight, conv_bias, edge_map, edge_border, edge_corner, epsilon: float = 1e-5
):
    """A stage of local upsampling that ends in a SiLU (custom_ops/OPERATORS.md)."""
    return Silu(
        UpsampleCrop(
            x, box, norm_weight, norm_bias, conv_weight, conv_bias, edge_map, edge_border, edge_corner, epsilon=epsilon
        )
    )


@script(operators, default_opset=op)
def LocalUpsampleLinear(
    x, box, norm_weight, norm_bias, conv_weight, conv_bias, edge_map, edge_border, edge_corner, epsilon: float = 1e-5
):
    """A stage of local upsampling without an activation (custom_ops/OPERATORS.md)."""
    return UpsampleCrop(
        x, box, norm_weight, norm_bias, conv_weight, conv_bias, edge_map, edge_border, edge_corner, epsilon=epsilon
    )
