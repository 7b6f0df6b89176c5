# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""PromptEmbedding: convolutions on the crop around the object, one vector elsewhere.

The look-up of `label_table` is linear in the one-hot labels, so it moves into the first convolution: five planes of
zeros and ones come from comparisons, where a Gather would move every value on its own. Padding stays the same:
a zero border of one-hot planes is a zero border of embedded ones.
"""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.edge_tokens import CropToBox
from inter2former_deploy.exporters.bodies.shared import BOOL, FLOAT, BoxOfLabels, helpers, operators

LABELS = numpy_helper.from_array(np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1))
ONES_48 = numpy_helper.from_array(np.ones((1, 1, 48, 48), np.float32))


@script(helpers, default_opset=op)
def PromptNetwork(labels, label_table, w0, b0, w1, b1, w2, b2, w3, b3):
    """Four stride-2 convolutions with ReLU on the embedded float labels [1, 1, H, W] -> [1, C, H/16, W/16]."""
    one_hot = op.Cast(op.Equal(labels, op.Constant(value=LABELS)), to=FLOAT)  # [1, 5, H, W]
    by_label = op.MatMul(label_table, op.Transpose(w0, perm=[2, 3, 1, 0]))  # [3, 3, 5, C0]
    x = op.Relu(op.Conv(one_hot, op.Transpose(by_label, perm=[3, 2, 0, 1]), b0, pads=[1, 1, 1, 1], strides=[2, 2]))
    x = op.Relu(op.Conv(x, w1, b1, pads=[1, 1, 1, 1], strides=[2, 2]))
    x = op.Relu(op.Conv(x, w2, b2, pads=[1, 1, 1, 1], strides=[2, 2]))
    return op.Relu(op.Conv(x, w3, b3, pads=[1, 1, 1, 1], strides=[2, 2]))


@script(operators, default_opset=op)
def PromptEmbedding(labels, embedding, label_table, w0, b0, w1, b1, w2, b2, w3, b3, dense: int = 0):
    """Labels added to the image embedding, of four convolutions (custom_ops/OPERATORS.md)."""
    pixels = op.Cast(labels, to=FLOAT)
    height = op.Shape(embedding, start=0, end=1)
    width = op.Shape(embedding, start=1, end=2)
    zero = op.Constant(value_ints=[0])
    whole = op.Concat(zero, zero, width, height, axis=0)
    box = op.Where(op.Cast(op.Constant(value_int=dense), to=BOOL), whole, BoxOfLabels(pixels))
    left, top, right, bottom = op.Split(box, num_outputs=4)
    prompt = PromptNetwork(CropToBox(pixels, box), label_table, w0, b0, w1, b1, w2, b2, w3, b3)
    prompt = op.Transpose(op.Squeeze(prompt, zero), perm=[1, 2, 0])  # [hb, wb, C]

    # Constant inputs only: onnxruntime folds the background into one vector when the graph is loaded.
    background = PromptNetwork(op.Constant(value=ONES_48), label_table, w0, b0, w1, b1, w2, b2, w3, b3)
    centre = op.Slice(background, [1, 1], [2, 2], [2, 3])  # [1, C, 1, 1]
    centre = op.Reshape(centre, op.Constant(value_ints=[-1]))  # [C]

    rest = op.Constant(value_ints=[-1])
    flat = op.Concat(rest, op.Shape(embedding, start=2), axis=0)
    rows = op.Range(op.Squeeze(top), op.Squeeze(bottom), 1)
    columns = op.Range(op.Squeeze(left), op.Squeeze(right), 1)
    places = op.Reshape(op.Unsqueeze(rows, [1]) * width + columns, op.Constant(value_ints=[-1, 1]))  # token indices
    inside = op.Slice(embedding, op.Concat(top, left, axis=0), op.Concat(bottom, right, axis=0)) + prompt
    return op.ScatterND(op.Reshape(embedding + centre, flat), places, op.Reshape(inside, flat))
