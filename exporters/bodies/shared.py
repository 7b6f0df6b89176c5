# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""What several bodies use: domains, string attributes, boxes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper
from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset

from inter2former_deploy.contract import DOMAIN, DOMAIN_VERSION

HELPER_DOMAIN = f"{DOMAIN}.body"
HELPER_VERSION = 1
operators = Opset(DOMAIN, DOMAIN_VERSION)
helpers = Opset(HELPER_DOMAIN, HELPER_VERSION)

BOOL, FLOAT, INT64, UINT8 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
ONE = numpy_helper.from_array(np.uint8(1))


@script(helpers, default_opset=op)
def IsText(text, expected):
    """Whether two strings [] are equal, bool []. Equal itself takes strings only from opset 19 on."""
    one = op.Constant(value_ints=[1])
    pair = op.Concat(op.Reshape(text, one), op.Reshape(expected, one), axis=0)
    return op.Equal(op.Size(op.Unique(pair)), 1)


@script(helpers, default_opset=op)
def TightBox(occupied):
    """Left, top, right, bottom (exclusive) of the true values of a bool [h, w], int64 [4]; of all if there are none."""
    none = op.Not(op.Cast(op.ReduceMax(op.Cast(occupied, to=UINT8), keepdims=0), to=BOOL))
    inside = op.Cast(op.Or(occupied, none), to=UINT8)
    columns = op.ReduceMax(inside, op.Constant(value_ints=[0]), keepdims=0)
    rows = op.ReduceMax(inside, op.Constant(value_ints=[1]), keepdims=0)
    right = op.ArgMax(columns, axis=0, select_last_index=1) + 1
    bottom = op.ArgMax(rows, axis=0, select_last_index=1) + 1
    return op.Concat(op.ArgMax(columns, axis=0), op.ArgMax(rows, axis=0), right, bottom, axis=0)


@script(helpers, default_opset=op)
def LabelBox(labels):
    """The box of EdgeTokens and PromptEmbedding, in tokens of 16 x 16 pixels, int64 [4], for uint8 labels [S, S]."""
    plane = op.Constant(value_ints=[0, 1])
    other = op.Cast(op.Not(op.Equal(labels, op.Constant(value=ONE))), to=UINT8)
    tokens = op.MaxPool(op.Unsqueeze(other, plane), kernel_shape=[16, 16], strides=[16, 16])
    tight = TightBox(op.Cast(op.Squeeze(tokens, plane), to=BOOL))
    height = op.Shape(tokens, start=2, end=3)
    width = op.Shape(tokens, start=3)
    expanded = op.Max(tight + op.Constant(value_ints=[-1, -1, 1, 1]), 0)
    return op.Min(expanded, op.Concat(width, height, width, height, axis=0))


@script(helpers, default_opset=op)
def Logistic(x):
    """Sigmoid with a small relative error; onnxruntime's own bounds the absolute one, and ends in zeros."""
    return op.Reciprocal(op.Exp(op.Neg(x)) + 1.0)


@script(helpers, default_opset=op)
def Silu(x):
    """`x * sigmoid(x)`, accurate like Logistic."""
    return x / (op.Exp(op.Neg(x)) + 1.0)
