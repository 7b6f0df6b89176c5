# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""EdgeStem, EdgeBlock, EdgeDownsample and EdgeProjection: onnxruntime's own convolutions, planes first.

Where one follows the other, its transposes cancel those of the other.
"""

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import FLOAT, helpers, operators


@script(helpers, default_opset=op)
def Planes(x):
    """[H, W, C] -> [1, C, H, W]."""
    return op.Unsqueeze(op.Transpose(x, perm=[2, 0, 1]), op.Constant(value_ints=[0]))


@script(helpers, default_opset=op)
def Pixels(x):
    """[1, C, H, W] -> [H, W, C]."""
    return op.Transpose(op.Squeeze(x, op.Constant(value_ints=[0])), perm=[1, 2, 0])


@script(helpers, default_opset=op)
def MeanOfPlanes(x):
    """The mean of all values of [1, C, H, W], [].

    onnxruntime adds up all values of one reduction in turn, and where the picture is padded all of them are equal: in
    thousands of such steps rounding errors do not cancel. So rows come first, then 64 of them at a time. The last ones
    are filled up with zeros, not by padding: older versions of onnxruntime leave that out of the mean.
    """
    rows = op.Reshape(op.ReduceMean(x, op.Constant(value_ints=[3])), op.Constant(value_ints=[1, 1, -1, 1]))
    zeros = op.Expand(op.Constant(value_floats=[0.0]), op.Constant(value_ints=[1, 1, 63, 1]))
    means = op.AveragePool(op.Concat(rows, zeros, axis=2), kernel_shape=[64, 1], strides=[64, 1])
    return op.ReduceSum(means, keepdims=0) * (64.0 / op.Cast(op.Size(rows), to=FLOAT))


@script(helpers, default_opset=op)
def ActivatedNorm(x, weight, bias, epsilon):
    """SiLU of the GroupNorm with one group of [1, C, H, W]."""
    shape = op.Constant(value_ints=[-1, 1, 1])
    centred = x - MeanOfPlanes(x)
    deviation = op.Sqrt(MeanOfPlanes(centred * centred) + epsilon)
    y = centred * (op.Reshape(weight, shape) / deviation) + op.Reshape(bias, shape)
    return y * op.Sigmoid(y)


@script(operators, default_opset=op)
def EdgeStem(maps, weight, bias):
    """Maps of unit norm through a 3 x 3 convolution (custom_ops/OPERATORS.md)."""
    squares = op.ReduceSum(maps * maps, op.Constant(value_ints=[2]))
    norm = op.Sqrt(op.ReduceSum(squares, op.Constant(value_ints=[1])))
    planes = op.Unsqueeze(maps / op.Max(norm, 1e-12), op.Constant(value_ints=[0]))
    return Pixels(op.Conv(planes, weight, bias, pads=[1, 1, 1, 1]))


@script(operators, default_opset=op)
def EdgeBlock(
    x, norm1_weight, norm1_bias, conv1_weight, conv1_bias, norm2_weight, norm2_bias, conv2_weight, conv2_bias,
    epsilon: float = 1e-5,
):  # fmt: skip
    """A residual block of two convolutions, each behind norm and SiLU (custom_ops/OPERATORS.md)."""
    least = op.Constant(value_float=epsilon)
    planes = Planes(x)
    hidden = ActivatedNorm(planes, norm1_weight, norm1_bias, least)
    hidden = op.Conv(hidden, conv1_weight, conv1_bias, pads=[1, 1, 1, 1])
    hidden = ActivatedNorm(hidden, norm2_weight, norm2_bias, least)
    return Pixels(planes + op.Conv(hidden, conv2_weight, conv2_bias, pads=[1, 1, 1, 1]))


@script(operators, default_opset=op)
def EdgeDownsample(x, weight, bias):
    """A 3 x 3 convolution of stride 2 (custom_ops/OPERATORS.md)."""
    return Pixels(op.Conv(Planes(x), weight, bias, pads=[1, 1, 1, 1], strides=[2, 2]))


@script(operators, default_opset=op)
def EdgeProjection(x, lateral_weight, lateral_bias, conv_weight, pixels: int = 2):
    """Edge features convolved, and their border and corner terms (custom_ops/OPERATORS.md)."""
    features = op.Conv(Planes(x), op.Unsqueeze(lateral_weight, op.Constant(value_ints=[2, 3])), lateral_bias)
    padded = op.Pad(features, op.Constant(value_ints=[0, 0, 1, 1, 0, 0, 1, 1]))
    step = op.Reshape(op.Constant(value_int=pixels), op.Constant(value_ints=[1]))
    rows = op.Constant(value_ints=[2])
    columns = op.Constant(value_ints=[3])
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    three = op.Constant(value_ints=[3])
    end = op.Constant(value_ints=[-2])
    last = op.Constant(value_ints=[1000000000])
    # Of the rows of `padded`, the first of `step` lies above a token's, and the one behind its last below them.
    above = op.Slice(padded, zero, end, rows, step)
    below = op.Slice(padded, step + 1, last, rows, step)
    before = op.Slice(padded, zero, end, columns, step)
    behind = op.Slice(padded, step + 1, last, columns, step)
    upper = op.Slice(conv_weight, zero, one, rows)
    lower = op.Slice(conv_weight, two, three, rows)
    border = op.Concat(
        op.Unsqueeze(Pixels(op.Conv(above, upper)), zero),
        op.Unsqueeze(Pixels(op.Conv(below, lower)), zero),
        op.Unsqueeze(
            op.Transpose(Pixels(op.Conv(before, op.Slice(conv_weight, zero, one, columns))), perm=[1, 0, 2]), zero
        ),
        op.Unsqueeze(
            op.Transpose(Pixels(op.Conv(behind, op.Slice(conv_weight, two, three, columns))), perm=[1, 0, 2]), zero
        ),
        axis=0,
    )
    above_before = op.Slice(above, zero, end, columns, step)
    above_behind = op.Slice(above, step + 1, last, columns, step)
    below_before = op.Slice(below, zero, end, columns, step)
    below_behind = op.Slice(below, step + 1, last, columns, step)
    corner = op.Concat(
        op.Unsqueeze(Pixels(op.Conv(above_before, op.Slice(upper, zero, one, columns))), zero),
        op.Unsqueeze(Pixels(op.Conv(above_behind, op.Slice(upper, two, three, columns))), zero),
        op.Unsqueeze(Pixels(op.Conv(below_before, op.Slice(lower, zero, one, columns))), zero),
        op.Unsqueeze(Pixels(op.Conv(below_behind, op.Slice(lower, two, three, columns))), zero),
        axis=0,
    )
    edge_map = Pixels(op.Conv(padded, conv_weight))
    return edge_map, border, corner
