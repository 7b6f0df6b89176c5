# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""CannyMaps: plain convolutions of each channel, then comparisons."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import BOOL, FLOAT, helpers, operators
from inter2former_deploy.operators.edge_formulas import SOBEL, TAN_22_5, TAN_67_5, difference_filters

SOBEL_X = numpy_helper.from_array(np.float32(SOBEL)[None, None])
SOBEL_Y = numpy_helper.from_array(np.ascontiguousarray(np.float32(SOBEL).T)[None, None])
DIFFERENCES = numpy_helper.from_array(difference_filters().numpy())
AXES = numpy_helper.from_array(45 * np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1))


@script(helpers, default_opset=op)
def FromZeroToOne(channel, mean, std):
    """A channel of 0-255, normalised and back again as in the release, from 0 to 1."""
    return op.Clip(((channel - mean) / std * std + mean) / 255.0, 0.0, 1.0)


@script(helpers, default_opset=op)
def Blurred(channel, blur_row, blur_column):
    """A channel [1, 1, H, W], blurred along the rows, then along the columns."""
    row = op.Reshape(blur_row, op.Constant(value_ints=[1, 1, 1, 5]))
    column = op.Reshape(blur_column, op.Constant(value_ints=[1, 1, 5, 1]))
    return op.Conv(op.Conv(channel, row, pads=[0, 2, 0, 2]), column, pads=[2, 0, 2, 0])


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
    planes = op.Unsqueeze(op.Transpose(image, perm=[2, 0, 1]), op.Constant(value_ints=[0]))
    # Channel by channel, so that the convolutions round as in the release.
    red, green, blue = op.Split(planes, num_outputs=3, axis=1)
    blue_mean, green_mean, red_mean = op.Split(mean, num_outputs=3)
    blue_std, green_std, red_std = op.Split(std, num_outputs=3)
    blue = Blurred(FromZeroToOne(blue, blue_mean, blue_std), blur_row, blur_column)
    green = Blurred(FromZeroToOne(green, green_mean, green_std), blur_row, blur_column)
    red = Blurred(FromZeroToOne(red, red_mean, red_std), blur_row, blur_column)
    sobel_x = op.Constant(value=SOBEL_X)
    sobel_y = op.Constant(value=SOBEL_Y)
    blue_x = op.Conv(blue, sobel_x, pads=[1, 1, 1, 1])
    green_x = op.Conv(green, sobel_x, pads=[1, 1, 1, 1])
    red_x = op.Conv(red, sobel_x, pads=[1, 1, 1, 1])
    blue_y = op.Conv(blue, sobel_y, pads=[1, 1, 1, 1])
    green_y = op.Conv(green, sobel_y, pads=[1, 1, 1, 1])
    red_y = op.Conv(red, sobel_y, pads=[1, 1, 1, 1])
    magnitude = op.Sqrt(blue_x * blue_x + blue_y * blue_y) + op.Sqrt(green_x * green_x + green_y * green_y)
    magnitude = magnitude + op.Sqrt(red_x * red_x + red_y * red_y)
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
