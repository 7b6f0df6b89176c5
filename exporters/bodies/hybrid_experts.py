# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""HybridExperts: the shared expert for all tokens, then a loop over experts, each on the edge tokens routed to it.

Sequences collect what the loop yields: onnxruntime inserts a tensor without copying it, while a loop-carried tensor of
all edge tokens would be copied once an expert.
"""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import FLOAT, INT64, Logistic, Silu, helpers, operators

NEVER = numpy_helper.from_array(np.float32(-np.inf))


@script(helpers, default_opset=op)
def Expert(x, w1, b1, w2, b2, norm_weight, norm_bias, w3, b3, epsilon: float):
    """`w3 LN(silu(w1 x) * (w2 x))` with biases for tokens [n, C]."""
    hidden = Silu(op.Gemm(x, w1, b1, transB=1)) * op.Gemm(x, w2, b2, transB=1)  # [n, H]
    hidden = op.LayerNormalization(hidden, norm_weight, norm_bias, axis=-1, epsilon=epsilon)
    return op.Gemm(hidden, w3, b3, transB=1)


@script(operators, default_opset=op)
def HybridExperts(
    x, edge, input_norm_weight, input_norm_bias, gate_weight, gate_bias, expert_bias,
    w1, b1, w2, b2, norm_weight, norm_bias, w3, b3, epsilon: float = 1e-5,
):  # fmt: skip
    """Shared expert for all tokens, routed experts for edge tokens (custom_ops/OPERATORS.md)."""
    normed = op.LayerNormalization(x, input_norm_weight, input_norm_bias, axis=-1, epsilon=epsilon)
    shared = Expert(
        normed, op.Gather(w1, 0), op.Gather(b1, 0), op.Gather(w2, 0), op.Gather(b2, 0),
        op.Gather(norm_weight, 0), op.Gather(norm_bias, 0), op.Gather(w3, 0), op.Gather(b3, 0), epsilon=epsilon,
    )  # fmt: skip

    tokens = op.Gather(normed, edge)  # [E, C]
    gates = Logistic(op.Gemm(tokens, gate_weight, gate_bias, transB=1))  # [E, 1 + R]
    rest = op.Constant(value_ints=[1])
    end = op.Shape(gate_bias)
    routed_gates = op.Slice(gates, rest, end, rest)  # [E, R]
    scores = routed_gates + expert_bias
    chosen = op.ArgMax(op.Where(op.IsNaN(scores), op.Constant(value=NEVER), scores), axis=1)  # [E, 1], 0-based
    pair = op.Concat(
        op.Slice(gates, op.Constant(value_ints=[0]), rest, rest),
        op.GatherElements(routed_gates, chosen, axis=1),
        axis=1,
    )
    mix = op.Softmax(pair)  # [E, 2]: shared, routed

    chosen = op.Squeeze(chosen, rest)  # [E]
    rows = op.SequenceEmpty(dtype=INT64)
    outputs = op.SequenceEmpty(dtype=FLOAT)
    for i in range(op.Squeeze(op.Shape(expert_bias))):
        mine = op.Squeeze(op.NonZero(op.Equal(chosen, i)), [0])  # [n]
        index = i + 1
        output = Expert(
            op.Gather(tokens, mine),
            op.Gather(w1, index), op.Gather(b1, index), op.Gather(w2, index), op.Gather(b2, index),
            op.Gather(norm_weight, 1), op.Gather(norm_bias, 1), op.Gather(w3, index), op.Gather(b3, index),
            epsilon=epsilon,
        )  # fmt: skip
        rows = op.SequenceInsert(rows, mine)
        outputs = op.SequenceInsert(outputs, output)
    order = op.ConcatFromSequence(rows, axis=0)  # [E], tokens sorted by expert
    routed = op.ConcatFromSequence(outputs, axis=0)  # [E, C]

    place = op.Gather(edge, order)
    mix = op.Gather(mix, order)
    weights_shared, weights_routed = op.Split(mix, axis=1, num_outputs=2)
    mixed = weights_shared * op.Gather(shared, place) + weights_routed * routed
    return x + op.ScatterND(shared, op.Unsqueeze(place, rest), mixed)
