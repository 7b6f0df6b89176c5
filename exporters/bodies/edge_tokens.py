# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""EdgeTokens: which tokens get full attention, as one or two max-poolings of bytes.

The 7 x 7 windows around the 16 x 16 pixels of a token cover 22 x 22 pixels. `released` asks whether any of those labels
is not 0: a maximum. `exact` asks whether one of the windows holds two different labels. Neighbouring windows overlap,
so if each held a single label they would all hold the same one: some window is mixed exactly when the 22 x 22 pixels
are. An unknown pixel (2) among unmixed labels makes all of them 2, so the maximum tells it. Reflected pixels repeat
pixels of the same 22 x 22, so padding with nothing is the same.
"""

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import BOOL, UINT8, IsText, LabelBox, operators


@script(operators, default_opset=op)
def EdgeTokens(labels, rule: str, patch: int = 16):
    """Ascending indices of the edge tokens; this body serves `patch` 16 only (custom_ops/OPERATORS.md)."""
    left, top, right, bottom = op.Split(LabelBox(labels), num_outputs=4)
    side = op.Constant(value_ints=[16])
    crop = op.Slice(labels, op.Concat(top, left, axis=0) * side, op.Concat(bottom, right, axis=0) * side)
    plane = op.Constant(value_ints=[0, 1])
    image = op.Unsqueeze(crop, plane)
    high = op.Squeeze(op.MaxPool(image, kernel_shape=[22, 22], strides=[16, 16], pads=[3, 3, 3, 3]), plane)
    if IsText(op.Constant(value_string=rule), op.Constant(value_string="exact")):
        flipped = op.MaxPool(op.BitwiseNot(image), kernel_shape=[22, 22], strides=[16, 16], pads=[3, 3, 3, 3])
        low = op.BitwiseNot(op.Squeeze(flipped, plane))
        edge = op.Or(op.Greater(high, low), op.Equal(op.Cast(high, to=6), 2))
    else:
        edge = op.Cast(high, to=BOOL)
    height, width = op.Split(op.Shape(labels) / 16, num_outputs=2)
    pads = op.Concat(top, left, height - bottom, width - right, axis=0)
    whole = op.Pad(op.Cast(edge, to=UINT8), pads)
    flat = op.Reshape(whole, op.Constant(value_ints=[-1]))
    return op.Squeeze(op.NonZero(flat), op.Constant(value_ints=[0]))
