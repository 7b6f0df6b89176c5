"""The encoder in reduced precision: its large linear layers become operators in int8 or bfloat16, an MLP's two one.

The exported float32 graph is rewritten. A layer takes the LayerNorm before it and the residual behind it along.
Attention in windows becomes Bf16WindowAttention in either precision. Patches, the last norms and the multi-scale sum
stay as they are, and so do layers that are too small to matter. The first layer of all is
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

    node: ir.Node  # what computes it
    weight: NDArray[np.float32]  # [N, K]
    bias: NDArray[np.float32]
    before: tuple[ir.Node, ...] = ()  # a LayerNorm, and a change of shape
    rest: tuple[ir.Node, ...] = ()  # the bias and the activation
    gelu: bool = False
    norm: bool = False  # whether there is a LayerNorm, whose scale and shift are inputs 1 and 2 of the first node
    residual: bool = False  # whether input 1 of `node` is added at the end

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        return (*self.before, self.node, *self.rest)

    @property
    def x(self) -> ir.Value | None:
        return self.nodes[0].inputs[0]

    @property
    def epsilon(self) -> float:
        """Of the LayerNorm."""
        return self.nodes[0].attributes.get_float("epsilon", 1e-5)

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]

    @property
    def lead(self) -> tuple[int, ...]:
        """Of the shape of its input and its output all but the last dimension."""
        return _shape(self.node.inputs[0], self.node)[:-1]


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
    single = [f"{kind}{form}" for kind in ("Int8", "Bf16") for form in ("Linear", "NormLinear", "LinearAdd")]
    layers = {operator: 1 for formula in single for operator in OPERATORS[formula].operators}
    layers |= {"Int8Mlp": 2, "Bf16Mlp": 2}
    return sum(layers.get(name, 0) for name in names)


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
    if not first.norm or not first.gelu or not second.residual:
        return False
    return second.x is first.output and second.node.inputs[1] is first.x


def _own_layer(node: ir.Node) -> _Layer | None:
    norm = node.op_type != "LinearAdd"
    weight, bias = (_constant(value) for value in node.inputs[-2:])
    if weight is None or bias is None:
        return None
    gelu = node.op_type == "NormLinearGelu"
    return _Layer(node=node, weight=weight, bias=bias, gelu=gelu, norm=norm, residual=not norm)


def _norm_before(layer: ir.Node) -> tuple[ir.Node, ...]:
    """The LayerNorm whose result a standard layer alone takes, and the change of shape between them if there is one.

    Neither where the norm is not over the layer's inputs, or has no shift.
    """
    between: list[ir.Node] = []
    norm = _producer(layer)
    if norm is not None and norm.op_type == "Reshape":
        between.append(norm)
        norm = _producer(norm)
    if norm is None or norm.op_type != "LayerNormalization" or len(norm.inputs) != 3:
        return ()
    shape = _shape(norm.inputs[0], norm)
    last = norm.attributes.get_int("axis", -1) in (-1, len(shape) - 1)
    return (norm, *between) if last and shape[-1] == _shape(layer.inputs[0], layer)[-1] else ()


def _producer(node: ir.Node) -> ir.Node | None:
    """The standard node whose one result a node takes first, unless others take it, too."""
    made = None if node.inputs[0] is None else node.inputs[0].producer()
    return None if made is None or made.domain != "" or len(made.outputs) > 1 or _only_user(made) is None else made


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
    before = _norm_before(node)
    return _Layer(node=node, weight=weight, bias=bias, before=before, rest=tuple(rest), gelu=gelu, norm=before != ())


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

    def finish(self, y: ir.Value, *layers: _Layer) -> None:
        """Lets `y` stand where the last one's output stood, and the new nodes where those of all layers did."""
        nodes, layer = [node for layer in layers for node in layer.nodes], layers[-1]
        y.shape, y.dtype = ir.Shape((*layers[0].lead, len(layer.weight))), ir.DataType.FLOAT
        old = layer.output
        self.graph.insert_before(nodes[-1], self.nodes)
        old.replace_all_uses_with(y, replace_graph_outputs=True)
        for node in reversed(nodes):
            self.graph.remove(node, safe=True)
        y.name = old.name


def _rewrite(graph: ir.Graph, layer: _Layer, precision: Precision) -> None:
    new, (outputs, inputs) = _Rewriting(graph, precision), layer.weight.shape
    x = layer.x
    if len(_shape(x, layer.node)) != 2:
        x = new.add("Reshape", x, new.constant(f"{layer.output.name}.rows", np.array([-1, inputs])))
    prefix = "Int8" if precision == "int8" else "Bf16"
    if layer.residual:  # an operator of ours, of two dimensions
        y = new.add(f"{prefix}LinearAdd", x, layer.node.inputs[1], *new.parameters(layer), domain=DOMAIN)
    else:
        activation = {"activation": "gelu" if layer.gelu else "none"}
        if layer.norm:
            operator = operator_name(f"{prefix}NormLinear", activation)
            parameters = *layer.nodes[0].inputs[1:3], *new.parameters(layer)
            y = new.add(operator, x, *parameters, domain=DOMAIN, epsilon=layer.epsilon)
        else:
            operator = operator_name(f"{prefix}Linear", activation)
            y = new.add(operator, x, *new.parameters(layer), domain=DOMAIN)
    if len(layer.lead) != 1:
        y = new.add("Reshape", y, new.constant(f"{layer.output.name}.shape", np.array([*layer.lead, outputs])))
    new.finish(y, layer)


def _rewrite_mlp(graph: ir.Graph, mlp: _Mlp, precision: Precision) -> None:
    first, second = mlp.first, mlp.second
    new = _Rewriting(graph, precision)
    parameters = *first.nodes[0].inputs[1:3], *new.parameters(first), *new.parameters(second)
    operator = "Int8Mlp" if precision == "int8" else "Bf16Mlp"
    y = new.add(operator, first.x, *parameters, domain=DOMAIN, epsilon=first.epsilon)
    new.finish(y, first, second)


def _shape(value: ir.Value | None, node: ir.Node) -> tuple[int, ...]:
    """Of an input of a node."""
    shape = () if value is None or value.shape is None else tuple(value.shape)
    if not shape or not all(isinstance(dim, int) for dim in shape):
        raise ValueError(f"the input of {node} has no known shape")
    return shape  # type: ignore[return-value]


def _drop_unused(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
