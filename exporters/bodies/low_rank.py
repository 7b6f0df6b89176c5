# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""LowRankLinear, LowRankAdd: layers of tokens that are known but for a part of low rank."""

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import Silu, helpers, operators


@script(helpers, default_opset=op)
def Outside(known, inside):
    """Ascending indices of the rows of `known` that are not listed in `inside`."""
    one = op.Constant(value_ints=[1])
    all_of_them = op.Expand(op.Constant(value_float=1.0), op.Shape(known, start=0, end=1))
    none = op.Expand(op.Constant(value_float=0.0), op.Shape(inside))
    return op.Squeeze(
        op.NonZero(op.ScatterND(all_of_them, op.Unsqueeze(inside, one), none)), op.Constant(value_ints=[0])
    )


@script(helpers, default_opset=op)
def LowRankLayer(known, state, outside, weight, root, bias, column, channels, epsilon):
    """The layer for the tokens `outside`, [n, N]; column int64 [1], channels and epsilon floats []."""
    one = op.Constant(value_ints=[1])
    outputs, rank = op.Split(op.Shape(weight), num_outputs=2)
    s = op.Gather(state, outside)
    whole = op.Gather(known, outside)
    product = op.Slice(whole, column, column + outputs, one)
    cross = op.Slice(whole, column + outputs, column + outputs + rank, one)
    square = op.Slice(whole, column + outputs + rank, column + outputs + rank + one, one)
    squares = square + op.ReduceSum(cross * s, one) * 2.0 + op.ReduceSumSquare(op.MatMul(s, op.Transpose(root)), one)
    deviation = op.Sqrt(op.Relu(squares) / channels + epsilon)
    return (product + op.MatMul(s, op.Transpose(weight))) / deviation + bias


@script(helpers, default_opset=op)
def Spread(known, outside, rows):
    """Rows for the tokens `outside`, and zeros for the others, [L, N]."""
    shape = op.Concat(op.Shape(known, start=0, end=1), op.Shape(rows, start=1), axis=0)
    return op.ScatterND(op.Expand(op.Constant(value_float=0.0), shape), op.Unsqueeze(outside, [1]), rows)


@script(operators, default_opset=op)
def LowRankLinear(
    known, state, inside, weight, root, bias, column: int = 0, channels: int = 1, epsilon: float = 1e-5
):  # fmt: skip
    """Linear layer of normalised tokens of which a part of low rank is new (custom_ops/OPERATORS.md)."""
    outside = Outside(known, inside)
    at = op.Reshape(op.Constant(value_int=column), op.Constant(value_ints=[1]))
    count = op.Cast(op.Constant(value_int=channels), to=1)
    y = LowRankLayer(known, state, outside, weight, root, bias, at, count, op.Constant(value_float=epsilon))
    return Spread(known, outside, y)


@script(operators, default_opset=op)
def LowRankLinearGated(
    known, state, inside, weight, root, bias, column: int = 0, channels: int = 1, epsilon: float = 1e-5
):  # fmt: skip
    """The same, its second half gated by the first, and normalised (custom_ops/OPERATORS.md)."""
    outside = Outside(known, inside)
    at = op.Reshape(op.Constant(value_int=column), op.Constant(value_ints=[1]))
    count = op.Cast(op.Constant(value_int=channels), to=1)
    y = LowRankLayer(known, state, outside, weight, root, bias, at, count, op.Constant(value_float=epsilon))
    gate, hidden = op.Split(y, axis=1, num_outputs=2)
    hidden = Silu(gate) * hidden
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(hidden, start=1))
    normed = op.LayerNormalization(hidden, ones, axis=-1, epsilon=epsilon)
    return Spread(known, outside, normed)


@script(operators, default_opset=op)
def LowRankAdd(known, state, inside, rows, wanted, weight, bias, column: int = 0):
    """Linear layer of states added to what is known, or rows that are given (custom_ops/OPERATORS.md)."""
    one = op.Constant(value_ints=[1])
    at = op.Reshape(op.Constant(value_int=column), one)
    given, outputs = op.Split(op.Shape(rows), num_outputs=2)
    length = op.Shape(known, start=0, end=1)
    # Where each token's row lies among those given and those computed behind them.
    order = op.Range(0, op.Squeeze(given), 1)
    place = op.ScatterND(op.Expand(op.Constant(value_ints=[-1]), length), op.Unsqueeze(inside, one), order)
    place = op.Gather(place, wanted)
    behind = op.Range(0, op.Squeeze(op.Shape(wanted)), 1) + given
    part = op.Slice(op.Gather(known, wanted), at, at + outputs, one)
    added = part + op.Gemm(op.Gather(state, wanted), weight, bias, transB=1)
    return op.Gather(op.Concat(rows, added, axis=0), op.Where(op.Less(place, 0), behind, place))
