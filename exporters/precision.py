"""The encoder in reduced precision: its large linear layers become Int8Linear or Bf16Linear.

The exported float32 graph is rewritten. Attention in windows becomes Bf16WindowAttention in either precision. Patches,
norms and the multi-scale sum stay as they are, and so do layers that are too small to matter. The first layer of all is
in bfloat16 whatever the precision: on smooth surfaces its inputs differ by little more than int8 tells apart. Of demo
weights at 512 it alone made nearly all of the error on drawn pictures of the gate in int8, 0.025 of 0.029 of the
embedding's deviation; in bf16 it makes 0.004. Attention in all blocks makes 0.0005 to 0.0008.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from inter2former_deploy.core.contract import DOMAIN
from inter2former_deploy.core.manifest import Precision
from inter2former_deploy.exporters.bodies import add_bodies
from inter2former_deploy.operators.registry import operator_name

MIN_WEIGHTS = 1 << 12  # of a layer that is rewritten
BF16_LAYERS = 1  # the first ones, in bfloat16 whatever the precision


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A linear layer of the graph: `output = activation(x weight' + bias)`, perhaps with more around it."""

    node: ir.Node  # what computes it; others follow in `rest`. Its first input is x
    weight: NDArray[np.float32]  # [N, K]
    bias: NDArray[np.float32]
    rest: tuple[ir.Node, ...] = ()  # the bias and the activation
    gelu: bool = False
    residual: bool = False  # input 1 is added at the end
    epsilon: float | None = None  # of a LayerNorm before it, whose scale and shift are inputs 1 and 2

    @property
    def output(self) -> ir.Value:
        return (self.node, *self.rest)[-1].outputs[0]


def reduce_precision(graph: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """The graph with its large linear layers in another precision, and attention in windows in bfloat16.

    Args:
        graph: encoder.onnx in float32; it is left as it is.
        precision: "bf16" or "int8".

    Raises:
        ValueError: `precision` is neither, there is no layer to rewrite, or a layer's input has no known shape.
    """
    if precision not in ("bf16", "int8"):
        raise ValueError(f"precision must be bf16 or int8, got {precision!r}")
    model = ir.from_proto(graph)
    layers = list(_layers(model.graph))
    if not layers:
        raise ValueError("the graph has no linear layer that could be reduced: extend " + __name__)
    for number, layer in enumerate(layers):
        _rewrite(model.graph, layer, "bf16" if number < BF16_LAYERS else precision)
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type == "WindowAttention":
            node.op_type = "Bf16WindowAttention"
    _drop_unused(model.graph)
    proto: onnx.ModelProto = ir.to_proto(model)
    add_bodies(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def reduce_preparation(graph: onnx.ModelProto) -> onnx.ModelProto:
    """prepare.onnx with the residual blocks of its edge network in bfloat16, for either reduced precision.

    Args:
        graph: prepare.onnx in float32, of any family; it is left as it is.
    """
    reduced = onnx.ModelProto()
    reduced.CopyFrom(graph)
    for node in reduced.graph.node:
        if node.domain == DOMAIN and node.op_type == "EdgeBlock":
            node.op_type = "Bf16EdgeBlock"
    add_bodies(reduced)
    return reduced


def count_layers(graph: onnx.ModelProto) -> int:
    """How many layers of a graph are in reduced precision."""
    return sum(node.op_type.startswith(("Int8Linear", "Bf16Linear")) for node in graph.graph.node)


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight [N, K] as whole numbers -127..127 and the scale of each row [N]; a row of zeros has scale 1."""
    peak = np.abs(weight).max(1)
    scale = np.where(peak > 0, peak / np.float32(127), np.float32(1))
    return np.rint(weight / scale[:, None]).astype(np.int8), scale


def _layers(graph: ir.Graph) -> Iterator[_Layer]:
    """Linear layers with constant weights, as PyTorch's exporter, its optimisers and our own operators write them."""
    for node in graph:
        if node.domain == DOMAIN and node.op_type in ("NormLinear", "NormLinearGelu", "LinearAdd"):
            layer = _own_layer(node)
        elif node.domain == "" and node.op_type in ("MatMul", "Gemm"):
            layer = _standard_layer(node)
        else:
            continue
        if layer is not None and layer.weight.size >= MIN_WEIGHTS:
            yield layer


def _own_layer(node: ir.Node) -> _Layer | None:
    norm = node.op_type != "LinearAdd"
    weight, bias = (_constant(value) for value in node.inputs[-2:])
    if weight is None or bias is None:
        return None
    return _Layer(
        node=node,
        weight=weight,
        bias=bias,
        gelu=node.op_type == "NormLinearGelu",
        residual=not norm,
        epsilon=node.attributes.get_float("epsilon", 1e-5) if norm else None,
    )


def _standard_layer(node: ir.Node) -> _Layer | None:
    weight = _constant(node.inputs[1])
    if weight is None or weight.ndim != 2:
        return None
    rest: list[ir.Node] = []
    if node.op_type == "Gemm":
        attributes = node.attributes
        if attributes.get_int("transA", 0) or {attributes.get_float(a, 1.0) for a in ("alpha", "beta")} != {1.0}:
            return None
        weight = weight if attributes.get_int("transB", 0) else weight.T
        bias = np.zeros(len(weight), np.float32)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            given = _constant(node.inputs[2])
            if given is None:
                return None
            bias = np.broadcast_to(given.reshape(-1), weight.shape[:1])
    else:
        weight = weight.T
        bias = np.zeros(len(weight), np.float32)
        following = _only_user(node)
        if following is not None and following.op_type == "Add":
            added = [_constant(value) for value in following.inputs if value is not node.outputs[0]]
            if len(added) == 1 and added[0] is not None and added[0].shape == weight.shape[:1]:
                bias = added[0]
                rest.append(following)
    following = _only_user((node, *rest)[-1])
    gelu = following is not None and following.op_type == "Gelu" and _is_exact(following)
    if following is not None and gelu:
        rest.append(following)
    return _Layer(node=node, weight=weight, bias=bias, rest=tuple(rest), gelu=gelu)


def _is_exact(gelu: ir.Node) -> bool:
    return gelu.attributes.get_string("approximate", "none") == "none"


def _constant(value: ir.Value | None) -> NDArray[np.float32] | None:
    if value is None or value.const_value is None or value.dtype != ir.DataType.FLOAT:
        return None
    return value.const_value.numpy()


def _only_user(node: ir.Node) -> ir.Node | None:
    """The one node that takes the result of a node, unless the graph's caller does, too."""
    (result,) = node.outputs
    users = [user for user, _ in result.uses()]
    return users[0] if len(users) == 1 and not result.is_graph_output() and users[0].domain == "" else None


def _rewrite(graph: ir.Graph, layer: _Layer, precision: Precision) -> None:
    rows, inputs = layer.node.inputs[0], layer.weight.shape[1]
    lead = () if rows is None or rows.shape is None else rows.shape[:-1]
    if rows is None or not lead or not all(isinstance(dim, int) for dim in lead):
        raise ValueError(f"the input of {layer.node} has no known shape")
    nodes: list[ir.Node] = []

    def add(op_type: str, *values: ir.Value | None, domain: str = "", **attributes: int | float | str) -> ir.Value:
        node = ir.node(op_type, values, attributes, domain=domain)
        nodes.append(node)
        return node.outputs[0]

    def constant(kind: str, array: NDArray[np.generic]) -> ir.Value:
        name = f"{layer.output.name}.{kind}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype  # type: ignore[union-attr]
        graph.register_initializer(value)
        return value

    if layer.epsilon is not None:
        rows = add("LayerNormalization", rows, *layer.node.inputs[1:3], axis=-1, epsilon=layer.epsilon)
    if len(lead) != 1:
        rows = add("Reshape", rows, constant("rows", np.array([-1, inputs])))
    bias = constant("bias", np.ascontiguousarray(layer.bias))
    activation = {"activation": "gelu" if layer.gelu else "none"}
    if precision == "int8":
        codes, scale = quantize_weight(layer.weight)
        parameters = constant("int8", codes), constant("scale", scale), bias
        y = add(operator_name("Int8Linear", activation), rows, *parameters, domain=DOMAIN)
    else:
        weight = np.ascontiguousarray(layer.weight.astype(ml_dtypes.bfloat16))
        y = add(operator_name("Bf16Linear", activation), rows, constant("bf16", weight), bias, domain=DOMAIN)
    if len(lead) != 1:
        y = add("Reshape", y, constant("shape", np.array([*lead, len(layer.weight)])))
    if layer.residual:
        y = add("Add", y, layer.node.inputs[1])
    y.shape, y.dtype = ir.Shape((*lead, len(layer.weight))), ir.DataType.FLOAT

    old = layer.output
    graph.insert_before(layer.node, nodes)
    old.replace_all_uses_with(y, replace_graph_outputs=True)
    for node in reversed((layer.node, *layer.rest)):
        graph.remove(node, safe=True)
    y.name = old.name


def _drop_unused(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
