# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""CannyMaps: the sums of OPERATORS.md, tap by tap, then comparisons.

The maps magnify a last bit: of a flat border the direction is 0 or 360 degrees as a sum happens to round. Convolutions
round as a runtime likes, so blur and gradient are spelled out in operators that round alike everywhere.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import BOOL, FLOAT, helpers, operators
from inter2former_deploy.operators.edge_formulas import TAN_22_5, TAN_67_5, difference_filters

DIFFERENCES = numpy_helper.from_array(difference_filters().numpy())
DOUBLE = TensorProto.DOUBLE
AXES = numpy_helper.from_array(45 * np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1))


@script(helpers, default_opset=op)
def FromZeroToOne(channels, mean, std):
    """Channels of 0-255, normalised and back again as in the release, from 0 to 1."""
    return op.Clip(((channels - mean) / std * std + mean) / 255.0, 0.0, 1.0)


@script(helpers, default_opset=op)
def FusedSum(total, values, weight):
    """`total + values * weight`, rounded once: float32 of float64, as fused multiply-add gives it."""
    return op.Cast(op.Cast(total, to=DOUBLE) + op.Cast(values, to=DOUBLE) * weight, to=FLOAT)


@script(helpers, default_opset=op)
def Blurred(planes, weights, axis):
    """Planes [1, 3, H, W], blurred along an axis, int64 [1]."""
    framed = op.Pad(planes, op.Constant(value_ints=[2, 2]), None, axis)
    first, second, third, fourth, fifth = op.Split(op.Cast(weights, to=DOUBLE), num_outputs=5)
    end = op.Constant(value_ints=[2**31])
    zero = op.Constant(value_float=0.0)
    total = FusedSum(zero, op.Slice(framed, op.Constant(value_ints=[0]), op.Constant(value_ints=[-4]), axis), first)
    total = FusedSum(total, op.Slice(framed, op.Constant(value_ints=[1]), op.Constant(value_ints=[-3]), axis), second)
    total = FusedSum(total, op.Slice(framed, op.Constant(value_ints=[2]), op.Constant(value_ints=[-2]), axis), third)
    total = FusedSum(total, op.Slice(framed, op.Constant(value_ints=[3]), op.Constant(value_ints=[-1]), axis), fourth)
    return FusedSum(total, op.Slice(framed, op.Constant(value_ints=[4]), end, axis), fifth)


@script(helpers, default_opset=op)
def Three(framed, axis):
    """What lies before, at and behind each pixel along an axis, int64 [1]."""
    before = op.Slice(framed, op.Constant(value_ints=[0]), op.Constant(value_ints=[-2]), axis)
    here = op.Slice(framed, op.Constant(value_ints=[1]), op.Constant(value_ints=[-1]), axis)
    behind = op.Slice(framed, op.Constant(value_ints=[2]), op.Constant(value_ints=[2**31]), axis)
    return before, here, behind


@script(helpers, default_opset=op)
def SobelGradient(planes, down, along):
    """Sobel's gradients of planes [1, 3, H, W] along columns and rows; `down` and `along` are the axes, int64 [1]."""
    ones = op.Constant(value_ints=[1, 1, 1, 1])
    above, level, below = Three(op.Pad(planes, ones, None, op.Concat(down, along, axis=0)), down)
    above_left, above_here, above_right = Three(above, along)
    left, _here, right = Three(level, along)
    below_left, below_here, below_right = Three(below, along)
    gx = above_left - above_right + 2.0 * left - 2.0 * right + below_left - below_right
    gy = above_left + 2.0 * above_here + above_right - below_left - 2.0 * below_here - below_right
    return gx, gy


@script(helpers, default_opset=op)
def Direction(gx, gy):
    """Direction of a gradient in degrees, a multiple of 45."""
    height = op.Abs(gy)
    width = op.Abs(gx)
    octant = op.Cast(height > width * TAN_22_5, to=FLOAT) + op.Cast(height > width * TAN_67_5, to=FLOAT)
    octant = op.Where(gx < 0.0, 4.0 - octant, octant)
    return op.Where(gy < 0.0, 4.0 - octant, 4.0 + octant) * 45.0


@script(operators, default_opset=op)
def CannyMaps(image, mean, std, blur_row, blur_column):
    """Gradient magnitude, direction, and where the magnitude is largest (custom_ops/OPERATORS.md)."""
    planes = op.Transpose(op.Gather(image, op.Constant(value_ints=[2, 1, 0]), axis=2), perm=[2, 0, 1])  # BGR
    column = op.Constant(value_ints=[3, 1, 1])
    channels = FromZeroToOne(planes, op.Reshape(mean, column), op.Reshape(std, column))
    down = op.Constant(value_ints=[2])
    along = op.Constant(value_ints=[3])
    channels = op.Unsqueeze(channels, op.Constant(value_ints=[0]))
    gx, gy = SobelGradient(Blurred(Blurred(channels, blur_row, along), blur_column, down), down, along)
    blue, green, red = op.Split(op.Sqrt(gx * gx + gy * gy), num_outputs=3, axis=1)
    blue_x, green_x, red_x = op.Split(gx, num_outputs=3, axis=1)
    blue_y, green_y, red_y = op.Split(gy, num_outputs=3, axis=1)
    magnitude = blue + green + red
    direction = Direction(blue_x + green_x + red_x, blue_y + green_y + red_y)

    # Neighbours k and k + 4 lie on one axis, and 0 and 360 degrees on the same one.
    falls = op.Conv(magnitude, op.Constant(value=DIFFERENCES), pads=[1, 1, 1, 1])
    ahead, behind = op.Split(falls, num_outputs=2, axis=1)
    is_maximum = op.And(ahead > 0.0, behind > 0.0)
    on_axis = op.Equal(op.Mod(direction, 180.0, fmod=1), op.Constant(value=AXES))
    channel = op.Constant(value_ints=[1])
    survives = op.Cast(op.ReduceMax(op.Cast(op.And(is_maximum, on_axis), to=FLOAT), channel), to=BOOL)
    thin = op.Where(survives, magnitude, 0.0)
    thresh = op.Where(thin >= 2.0, thin, 0.0)
    early = op.Where(magnitude >= 2.0, magnitude, 0.0)
    return op.Squeeze(op.Concat(magnitude, direction, thin, thresh, early, axis=1), op.Constant(value_ints=[0]))
