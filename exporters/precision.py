"""The encoder in reduced precision: its large linear layers become Int8Linear or Bf16Linear, an MLP's two one operator.

The exported float32 graph is rewritten. Attention in windows becomes Bf16WindowAttention in either precision. Patches,
norms and the multi-scale sum stay as they are, and so do layers that are too small to matter. The first layer of all is
in bfloat16 whatever the precision: on smooth surfaces its inputs differ by little more than int8 tells apart. Of demo
weights at 512 it alone made nearly all of the error on drawn pictures of the gate in int8, 0.025 of 0.029 of the
embedding's deviation; in bf16 it makes 0.004. Attention in all blocks makes 0.0005 to 0.0008.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from inter2former_deploy.core.contract import DOMAIN
from inter2former_deploy.core.manifest import Precision
from inter2former_deploy.exporters.bodies import add_bodies
from inter2former_deploy.operators.registry import OPERATORS, operator_name

MIN_WEIGHTS = 1 << 12  # of a layer that is rewritten
BF16_LAYERS = 1  # the first ones, in bfloat16 whatever the precision
EDGES = ("EdgeBlock", "EdgeDownsample", "EdgeProjection")  # of the edge network, that have a form in bfloat16


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


@dataclass(frozen=True)
class _Mlp:
    """The two layers of a transformer block's MLP: a LayerNorm before the first, its input added to the second."""

    first: _Layer
    second: _Layer


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
    for first in layers[:BF16_LAYERS]:
        _rewrite(model.graph, first, "bf16")
    for layer in _joined(layers[BF16_LAYERS:]):
        if isinstance(layer, _Mlp):
            _rewrite_mlp(model.graph, layer, precision)
        else:
            _rewrite(model.graph, layer, precision)
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type == "WindowAttention":
            node.op_type = "Bf16WindowAttention"
    _drop_unused(model.graph)
    proto: onnx.ModelProto = ir.to_proto(model)
    add_bodies(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def reduce_preparation(graph: onnx.ModelProto) -> onnx.ModelProto:
    """prepare.onnx with the edge network in bfloat16 but for its first layer, for either reduced precision.

    Args:
        graph: prepare.onnx in float32, of any family; it is left as it is.
    """
    return _in_bfloat16(graph, EDGES)


def has_edges_in_bf16(prepare: Path) -> bool:
    """Whether a prepare.onnx has a part of its edge network in bfloat16."""
    nodes = onnx.load(prepare, load_external_data=False).graph.node
    return not {f"Bf16{name}" for name in EDGES}.isdisjoint(node.op_type for node in nodes)


def reduce_click(graph: onnx.ModelProto) -> onnx.ModelProto:
    """click.onnx with attention, experts and upsampling in bfloat16; decisions stay in float32.

    Args:
        graph: click.onnx in float32; it is left as it is.

    Raises:
        ValueError: There is none of these in it, as in HRSAM's.
    """
    reduced = _in_bfloat16(graph, ("HybridAttention", "HybridExperts", "LocalUpsample"))
    if not any(node.op_type.startswith("Bf16") for node in reduced.graph.node):
        raise ValueError("this decoder has no form in bfloat16: leave --decoder-precision out")
    return reduced


def _in_bfloat16(graph: onnx.ModelProto, formulas: Collection[str]) -> onnx.ModelProto:
    """The graph with the operators of some formulas in their forms in bfloat16, which take the same."""
    there = {name for operator in OPERATORS.values() for name in operator.operators}
    renamed = {name: f"Bf16{name}" for formula in formulas for name in OPERATORS[formula].operators}
    reduced = onnx.ModelProto()
    reduced.CopyFrom(graph)
    for node in reduced.graph.node:
        if node.domain == DOMAIN and renamed.get(node.op_type) in there:
            node.op_type = renamed[node.op_type]
    add_bodies(reduced)
    return reduced


def count_layers(graph: onnx.ModelProto) -> int:
    """How many layers of a graph are in reduced precision."""
    names = [node.op_type for node in graph.graph.node if node.domain == DOMAIN]
    single = [name for name in names if name.startswith(("Int8Linear", "Bf16Linear"))]
    return len(single) + 2 * len([name for name in names if name in ("Int8Mlp", "Bf16Mlp")])


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


def _joined(layers: list[_Layer]) -> list[_Layer | _Mlp]:
    """The layers, those of an MLP in one."""
    by_node = {layer.node: layer for layer in layers}
    taken: set[ir.Node] = set()
    joined: list[_Layer | _Mlp] = []
    for layer in layers:
        if layer.node in taken:
            continue
        node = _only_user(layer.node, DOMAIN)
        second = None if node is None else by_node.get(node)
        if second is None or not _is_mlp(layer, second):
            joined.append(layer)
            continue
        taken.add(second.node)
        joined.append(_Mlp(layer, second))
    return joined


def _is_mlp(first: _Layer, second: _Layer) -> bool:
    if first.epsilon is None or not first.gelu or not second.residual:
        return False
    hidden, x = second.node.inputs[:2]
    return hidden is first.output and x is first.node.inputs[0]


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


def _only_user(node: ir.Node, domain: str = "") -> ir.Node | None:
    """The one node that takes the result of a node, one of `domain`, unless the graph's caller does, too."""
    (result,) = node.outputs
    users = [user for user, _ in result.uses()]
    return users[0] if len(users) == 1 and not result.is_graph_output() and users[0].domain == domain else None


class _Rewriting:
    """Nodes that take the place of one or two layers."""

    def __init__(self, graph: ir.Graph, precision: Precision) -> None:
        self.graph, self.precision = graph, precision
        self.nodes: list[ir.Node] = []

    def add(self, op_type: str, *values: ir.Value | None, domain: str = "", **attributes: int | float) -> ir.Value:
        """The result of a new node."""
        node = ir.node(op_type, values, attributes, domain=domain)
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """A new initializer."""
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype  # type: ignore[union-attr]
        self.graph.register_initializer(value)
        return value

    def parameters(self, layer: _Layer) -> list[ir.Value]:
        """A layer's weight, its scale in int8, and its bias."""
        name = layer.output.name
        bias = self.constant(f"{name}.bias", np.ascontiguousarray(layer.bias))
        if self.precision == "int8":
            codes, scale = quantize_weight(layer.weight)
            return [self.constant(f"{name}.int8", codes), self.constant(f"{name}.scale", scale), bias]
        weight = np.ascontiguousarray(layer.weight.astype(ml_dtypes.bfloat16))
        return [self.constant(f"{name}.bf16", weight), bias]

    def finish(self, y: ir.Value, layer: _Layer, shape: tuple[int, ...], nodes: tuple[ir.Node, ...]) -> None:
        """Lets `y` stand where the output of `layer` stood, and the new nodes where `nodes` did."""
        y.shape, y.dtype = ir.Shape(shape), ir.DataType.FLOAT
        old = layer.output
        self.graph.insert_before(nodes[-1], self.nodes)
        old.replace_all_uses_with(y, replace_graph_outputs=True)
        for node in reversed(nodes):
            self.graph.remove(node, safe=True)
        y.name = old.name


def _rewrite(graph: ir.Graph, layer: _Layer, precision: Precision) -> None:
    rows, lead = layer.node.inputs[0], _lead(layer)
    new = _Rewriting(graph, precision)
    if layer.epsilon is not None:
        rows = new.add("LayerNormalization", rows, *layer.node.inputs[1:3], axis=-1, epsilon=layer.epsilon)
    if len(lead) != 1:
        rows = new.add(
            "Reshape", rows, new.constant(f"{layer.output.name}.rows", np.array([-1, layer.weight.shape[1]]))
        )
    formula = "Int8Linear" if precision == "int8" else "Bf16Linear"
    operator = operator_name(formula, {"activation": "gelu" if layer.gelu else "none"})
    y = new.add(operator, rows, *new.parameters(layer), domain=DOMAIN)
    if len(lead) != 1:
        y = new.add("Reshape", y, new.constant(f"{layer.output.name}.shape", np.array([*lead, len(layer.weight)])))
    if layer.residual:
        y = new.add("Add", y, layer.node.inputs[1])
    new.finish(y, layer, (*lead, len(layer.weight)), (layer.node, *layer.rest))


def _rewrite_mlp(graph: ir.Graph, mlp: _Mlp, precision: Precision) -> None:
    first, second = mlp.first, mlp.second
    new = _Rewriting(graph, precision)
    parameters = *first.node.inputs[:3], *new.parameters(first), *new.parameters(second)
    assert first.epsilon is not None  # of an MLP
    operator = "Int8Mlp" if precision == "int8" else "Bf16Mlp"
    y = new.add(operator, *parameters, domain=DOMAIN, epsilon=first.epsilon)
    new.finish(y, second, (*_lead(first), len(second.weight)), (first.node, second.node))


def _lead(layer: _Layer) -> tuple[int, ...]:
    """Of the shape of a layer's input all but the last dimension."""
    rows = layer.node.inputs[0]
    lead = () if rows is None or rows.shape is None else tuple(rows.shape[:-1])
    if not lead or not all(isinstance(dim, int) for dim in lead):
        raise ValueError(f"the input of {layer.node} has no known shape")
    return lead  # type: ignore[return-value]


def _drop_unused(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
