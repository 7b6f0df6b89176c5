# ruff: noqa: N802 - functions are named like the operators they become
# mypy: ignore-errors
"""HybridExperts: the shared expert for all tokens, then one expert after the other on the edge tokens routed to it.

The experts stand one behind the other in the graph, as many as the model has: a loop would have to collect parts of
unequal length, which takes a sequence, and some runtimes have none.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import opset18 as op
from onnxscript import script

from inter2former_deploy.exporters.bodies.shared import (
    HELPER_DOMAIN,
    HELPER_VERSION,
    Logistic,
    MadeForSize,
    Silu,
    helpers,
    operators,
)

NEVER = numpy_helper.from_array(np.float32(-np.inf))


@script(helpers, default_opset=op)
def Expert(x, w1, b1, w2, b2, norm_weight, norm_bias, w3, b3, epsilon: float):
    """`w3 LN(silu(w1 x) * (w2 x))` with biases for tokens [n, C]."""
    hidden = Silu(op.Gemm(x, w1, b1, transB=1)) * op.Gemm(x, w2, b2, transB=1)  # [n, H]
    hidden = op.LayerNormalization(hidden, norm_weight, norm_bias, axis=-1, epsilon=epsilon)
    return op.Gemm(hidden, w3, b3, transB=1)


@script(helpers, default_opset=op)
def Choose(tokens, gate_weight, gate_bias, expert_bias):
    """For edge tokens [E, C] the experts chosen, int64 [E] from 0, and the weights of shared and routed one, [E, 2]."""
    gates = Logistic(op.Gemm(tokens, gate_weight, gate_bias, transB=1))  # [E, 1 + R]
    rest = op.Constant(value_ints=[1])
    routed_gates = op.Slice(gates, rest, op.Shape(gate_bias), rest)  # [E, R]
    scores = routed_gates + expert_bias
    chosen = op.ArgMax(op.Where(op.IsNaN(scores), op.Constant(value=NEVER), scores), axis=1)  # [E, 1]
    pair = op.Concat(
        op.Slice(gates, op.Constant(value_ints=[0]), rest, rest),
        op.GatherElements(routed_gates, chosen, axis=1),
        axis=1,
    )
    return op.Squeeze(chosen, rest), op.Softmax(pair)


@script(helpers, default_opset=op)
def SharedExpert(tokens, w1, b1, w2, b2, norm_weight, norm_bias, w3, b3, epsilon: float):
    """Expert 0 for all tokens [L, C]."""
    return Expert(
        tokens, op.Gather(w1, 0), op.Gather(b1, 0), op.Gather(w2, 0), op.Gather(b2, 0),
        op.Gather(norm_weight, 0), op.Gather(norm_bias, 0), op.Gather(w3, 0), op.Gather(b3, 0), epsilon=epsilon,
    )  # fmt: skip


@script(helpers, default_opset=op)
def RoutedExpert(tokens, chosen, index, w1, b1, w2, b2, norm_weight, norm_bias, w3, b3, epsilon: float):
    """Which of the edge tokens [E, C] chose expert `index` (from 1), int64 [n], and what it gives for them, [n, C]."""
    mine = op.Squeeze(op.NonZero(op.Equal(chosen, index - 1)), op.Constant(value_ints=[0]))
    output = Expert(
        op.Gather(tokens, mine),
        op.Gather(w1, index), op.Gather(b1, index), op.Gather(w2, index), op.Gather(b2, index),
        op.Gather(norm_weight, 1), op.Gather(norm_bias, 1), op.Gather(w3, index), op.Gather(b3, index),
        epsilon=epsilon,
    )  # fmt: skip
    return mine, output


@script(helpers, default_opset=op)
def RoutedExperts(tokens, chosen, w1, b1, w2, b2, norm_weight, norm_bias, w3, b3, epsilon: float):
    """Edge tokens sorted by the expert they chose, int64 [E], and what those give for them, [E, C].

    A stand-in for scripts: `routed_experts` makes the function.
    """
    index = op.Constant(value_int=1)
    order, routed = RoutedExpert(tokens, chosen, index, w1, b1, w2, b2, norm_weight, norm_bias, w3, b3, epsilon=epsilon)
    return order, routed


def routed_experts(experts: int) -> onnx.FunctionProto:
    """The function RoutedExperts of so many experts, a RoutedExpert each."""
    weights = ("w1", "b1", "w2", "b2", "norm_weight", "norm_bias", "w3", "b3")
    nodes = []
    for i in range(1, experts + 1):
        index = numpy_helper.from_array(np.int64(i))
        call = helper.make_node(
            "RoutedExpert",
            ["tokens", "chosen", f"index_{i}", *weights],
            [f"mine_{i}", f"out_{i}"],
            domain=HELPER_DOMAIN,
        )
        call.attribute.add(name="epsilon", ref_attr_name="epsilon", type=onnx.AttributeProto.FLOAT)
        nodes += [helper.make_node("Constant", [], [f"index_{i}"], value=index), call]
    for kind, result in (("mine", "order"), ("out", "routed")):
        nodes.append(helper.make_node("Concat", [f"{kind}_{i}" for i in range(1, experts + 1)], [result], axis=0))
    return helper.make_function(
        HELPER_DOMAIN,
        "RoutedExperts",
        ["tokens", "chosen", *weights],
        ["order", "routed"],
        nodes,
        [helper.make_opsetid("", op.version), helper.make_opsetid(HELPER_DOMAIN, HELPER_VERSION)],
        attributes=["epsilon"],
    )


MADE = MadeForSize(("HybridExperts",), "expert_bias", {"RoutedExperts": routed_experts})


@script(helpers, default_opset=op)
def Mixed(x, shared, edge_tokens, order, routed, mix):
    """Add the shared expert's results [L, C] to x, for edge tokens mixed with the routed ones [E, C] in their order."""
    order = op.Reshape(order, op.Shape(edge_tokens))  # fails where a token has no expert
    place = op.Gather(edge_tokens, order)
    weights_shared, weights_routed = op.Split(op.Gather(mix, order), axis=1, num_outputs=2)
    mixed = weights_shared * op.Gather(shared, place) + weights_routed * routed
    return x + op.ScatterND(shared, op.Unsqueeze(place, op.Constant(value_ints=[1])), mixed)


@script(operators, default_opset=op)
def HybridExperts(
    x, edge_tokens, input_norm_weight, input_norm_bias, gate_weight, gate_bias, expert_bias,
    w1, b1, w2, b2, norm_weight, norm_bias, w3, b3, epsilon: float = 1e-5,
):  # fmt: skip
    """Shared expert for all tokens, routed experts for edge tokens (custom_ops/OPERATORS.md)."""
    normed = op.LayerNormalization(x, input_norm_weight, input_norm_bias, axis=-1, epsilon=epsilon)
    shared = SharedExpert(normed, w1, b1, w2, b2, norm_weight, norm_bias, w3, b3, epsilon=epsilon)
    tokens = op.Gather(normed, edge_tokens)  # [E, C]
    chosen, mix = Choose(tokens, gate_weight, gate_bias, expert_bias)
    order, routed = RoutedExperts(tokens, chosen, w1, b1, w2, b2, norm_weight, norm_bias, w3, b3, epsilon=epsilon)
    return Mixed(x, shared, edge_tokens, order, routed, mix)
