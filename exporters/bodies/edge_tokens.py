# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""LabelBox: where labels say anything; EdgeTokens, EdgeTokensExact: which tokens get full attention, by max-poolings.

The 7 x 7 windows around the 16 x 16 pixels of a token cover 22 x 22 pixels. `released` asks whether any of those labels
is not 0: a maximum. `exact` asks whether one of the windows holds two different labels. Neighbouring windows overlap,
so if each held a single label they would all hold the same one: some window is mixed exactly when the 22 x 22 pixels
are. An unknown pixel (2) among unmixed labels makes all of them 2, so the maximum tells it. Reflected pixels repeat
pixels of the same 22 x 22, so padding with nothing is the same.

Labels are compared as floats: that takes no longer than bytes, and runs where there are no operators for bytes.
"""

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import FLOAT, BoxOfLabels, helpers, operators


@script(helpers, default_opset=op)
def CropToBox(labels, box):
    """The pixels [1, 1, H, W] of float labels [S, S] in a box of tokens of 16 x 16 pixels."""
    left, top, right, bottom = op.Split(box, num_outputs=4)
    side = op.Constant(value_ints=[16])
    crop = op.Slice(labels, op.Concat(top, left, axis=0) * side, op.Concat(bottom, right, axis=0) * side)
    return op.Unsqueeze(crop, op.Constant(value_ints=[0, 1]))


@script(helpers, default_opset=op)
def TokensOfBox(edge, box, labels):
    """Ascending indices among all tokens of those tokens of a box for which a bool [1, 1, h, w] is true."""
    left, top, right, bottom = op.Split(box, num_outputs=4)
    height, width = op.Split(op.Shape(labels) / 16, num_outputs=2)
    zero = op.Constant(value_ints=[0])
    pads = op.Concat(zero, zero, top, left, zero, zero, height - bottom, width - right, axis=0)
    whole = op.Pad(op.Cast(edge, to=FLOAT), pads)
    return op.Squeeze(op.NonZero(op.Reshape(whole, op.Constant(value_ints=[-1]))), zero)


@script(operators, default_opset=op)
def LabelBox(labels):
    """The box around all that labels say, in tokens (custom_ops/OPERATORS.md)."""
    return BoxOfLabels(op.Cast(labels, to=FLOAT))


@script(operators, default_opset=op)
def EdgeTokens(labels):
    """Ascending indices of the edge tokens by the release's rule (custom_ops/OPERATORS.md)."""
    pixels = op.Cast(labels, to=FLOAT)
    box = BoxOfLabels(pixels)
    high = op.MaxPool(CropToBox(pixels, box), kernel_shape=[22, 22], strides=[16, 16], pads=[3, 3, 3, 3])
    return TokensOfBox(op.Greater(high, 0.0), box, labels)


@script(operators, default_opset=op)
def EdgeTokensExact(labels):
    """Ascending indices of the edge tokens by the exact rule (custom_ops/OPERATORS.md)."""
    pixels = op.Cast(labels, to=FLOAT)
    box = BoxOfLabels(pixels)
    crop = CropToBox(pixels, box)
    high = op.MaxPool(crop, kernel_shape=[22, 22], strides=[16, 16], pads=[3, 3, 3, 3])
    low = op.Neg(op.MaxPool(op.Neg(crop), kernel_shape=[22, 22], strides=[16, 16], pads=[3, 3, 3, 3]))
    return TokensOfBox(op.Or(op.Greater(high, low), op.Equal(high, 2.0)), box, labels)
