# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""What several bodies use: domains, boxes, activations."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import NamedTuple

import onnx
from onnx import TensorProto
from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset

from inter2former_deploy.core.contract import DOMAIN, DOMAIN_VERSION

HELPER_DOMAIN = f"{DOMAIN}.body"
HELPER_VERSION = 1
operators = Opset(DOMAIN, DOMAIN_VERSION)
helpers = Opset(HELPER_DOMAIN, HELPER_VERSION)

# Of attributes. Of collections.abc it would be a class in Python 3.10, of which onnxscript asks what it derives from.
Integers = typing.Sequence[int]

BOOL, FLOAT, INT64 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64


class MadeForSize(NamedTuple):
    """Functions that are made anew for each graph, instead of a loop within them."""

    operators: tuple[str, ...]  # whose bodies call them
    input: str  # of those operators, whose first dimension is the size
    functions: Mapping[str, Callable[[int], onnx.FunctionProto]]  # by the name of a script that stands in for it


@script(helpers, default_opset=op)
def TightBox(occupied):
    """Left, top, right, bottom (exclusive) of the true values of a bool [h, w], int64 [4]; of all if there are none."""
    some = op.ReduceMax(op.Cast(occupied, to=FLOAT), keepdims=0)
    inside = op.Cast(op.Or(occupied, op.Less(some, 1.0)), to=FLOAT)
    columns = op.ReduceMax(inside, op.Constant(value_ints=[0]), keepdims=0)
    rows = op.ReduceMax(inside, op.Constant(value_ints=[1]), keepdims=0)
    right = op.ArgMax(columns, axis=0, select_last_index=1) + 1
    bottom = op.ArgMax(rows, axis=0, select_last_index=1) + 1
    return op.Concat(op.ArgMax(columns, axis=0), op.ArgMax(rows, axis=0), right, bottom, axis=0)


@script(helpers, default_opset=op)
def BoxOfLabels(labels):
    """The box of EdgeTokens and PromptEmbedding, in tokens of 16 x 16 pixels, int64 [4], for float labels [S, S]."""
    plane = op.Constant(value_ints=[0, 1])
    other = op.Abs(labels - 1.0)
    tokens = op.MaxPool(op.Unsqueeze(other, plane), kernel_shape=[16, 16], strides=[16, 16])
    tight = TightBox(op.Greater(op.Squeeze(tokens, plane), 0.0))
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
