"""Wrong graphs, made from right ones by small changes: what the parity gate must refuse.

A mutant changes one thing of an exported graph: a weight, an attribute, a node of a function
body. Those of weights and attributes are wrong with the operator library and without it, those of bodies without it.
Some change nothing after all, such as two equal sides of a shape in the other order: their results stay the same to the
last bit, and they are counted apart. So are those that onnxruntime does not run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.exporters import parity
from inter2former_deploy.exporters.bundle import load_weights
from inter2former_deploy.exporters.graphs import export_model
from inter2former_deploy.exporters.parity import PLAIN
from inter2former_deploy.families.hrsam import gate as hrsam_gate
from inter2former_deploy.families.hrsam.config import HRSAMPP_PROBE
from inter2former_deploy.families.inter2former import gate
from inter2former_deploy.families.inter2former.config import PROBE

Graphs = dict[GraphName, onnx.ModelProto]
Verdict = Literal["refused", "accepted", "without effect", "does not run"]

SIZE = 96
SEED, HRSAM_SEED = 7, 3
BOX_BIAS = (
    -2.47
)  # moves low-resolution logits, so that boxes are parts of the map in some decodes, and all of it in others

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@dataclass(frozen=True)
class Mutant:
    """One change of one of the graphs."""

    graph: GraphName
    name: str  # what is changed, and where
    change: Callable[[onnx.ModelProto], None]  # in place

    def apply(self, graphs: Graphs) -> Graphs:
        """All graphs, this one changed; the given ones stay as they are."""
        changed = onnx.ModelProto()
        changed.CopyFrom(graphs[self.graph])
        self.change(changed)
        return {**graphs, self.graph: changed}


def mutants(graphs: Graphs) -> Iterator[Mutant]:
    """All mutants of all graphs, in an order that does not change."""
    for graph_name, graph in graphs.items():
        for name, change in (*_of_weights(graph), *_of_nodes(graph), *_of_bodies(graph)):
            yield Mutant(graph_name, name, change)


class Trial:
    """The gate, set up once for many mutants of a probe model, whose graphs it runs in plain onnxruntime.

    Args:
        folder: For the graphs.
        family: Of the model.
    """

    def __init__(self, folder: Path, family: Literal["inter2former", "hrsam"] = "inter2former") -> None:
        self._decoded: dict[tuple[int, bytes], Any] = {}  # by model and inputs
        model: Any
        if family == "hrsam":  # with an anchor, so that windows of both maps and scans over both are there
            model, _ = load_weights(None, config=HRSAMPP_PROBE, seed=HRSAM_SEED)
            self._reference = mock.patch.object(hrsam_gate, "decode", self._once(hrsam_gate.decode))
        else:
            model, _ = load_weights(None, config=PROBE, seed=SEED, edge_rule="exact")
            with torch.no_grad():
                model.decode_head.mlp[-1].bias += BOX_BIAS
            self._reference = mock.patch.object(gate, "_decode", self._once(gate._decode))
        names: tuple[GraphName, ...] = ("encoder", "prepare", "click")
        self.graphs: Graphs = {name: export_model(model, name, size=SIZE) for name in names}
        self._paths = {name: folder / f"{name}.onnx" for name in names}
        with torch.inference_mode():
            self._gate = (hrsam_gate if family == "hrsam" else gate).Gate(model, SIZE)
            for name, graph in self.graphs.items():
                onnx.save(graph, self._paths[name])
            self._features = {PLAIN: self._gate.check_encoder(self._paths["encoder"], self._paths["prepare"], PLAIN, 1)}
            self._results = {name: self._digest(name, graph) for name, graph in self.graphs.items()}
        if self._gate.report().failures:
            raise RuntimeError("the right graphs fail")

    def judge(self, mutant: Mutant) -> tuple[Verdict, list[str]]:
        """What the gate says of a mutant, and in which tensors it shows."""
        graph = mutant.apply(self.graphs)[mutant.graph]
        try:
            with torch.inference_mode():
                results = self._digest(mutant.graph, graph)
        except Exception:  # onnxruntime's exceptions have no common base of their own
            return "does not run", []
        failures = list(dict.fromkeys(check.tensor for check in self._gate.checks if not check.passed))
        if failures:
            return "refused", failures
        return ("without effect" if results == self._results[mutant.graph] else "accepted"), []

    def _digest(self, name: GraphName, graph: onnx.ModelProto) -> str:
        """Run the gate; a hash of everything that the graph gave it."""
        digest = hashlib.sha256()
        run = parity.Graph.__call__

        def noted(graph: parity.Graph, feeds: Any) -> parity.Arrays:
            outputs = run(graph, feeds)
            for array in outputs.values():
                digest.update(np.ascontiguousarray(array))
            return outputs

        with mock.patch.object(parity.Graph, "__call__", noted), self._reference:
            self._run(name, graph)
        return digest.hexdigest()

    def _once(self, decode: Callable[..., Any]) -> Callable[..., Any]:
        """What the reference makes of the gate's clicks: the same for all mutants, and most of the time of each."""

        def decode_once(model: Any, *inputs: Any) -> Any:
            digest = hashlib.sha256()
            for x in inputs:
                for array in x.values() if isinstance(x, dict) else [x.numpy()] if isinstance(x, torch.Tensor) else []:
                    digest.update(np.ascontiguousarray(array))
            key = id(model), digest.digest()
            if key not in self._decoded:
                self._decoded[key] = decode(model, *inputs)
            return self._decoded[key]

        return decode_once

    def _run(self, name: GraphName, graph: onnx.ModelProto) -> None:
        onnx.save(graph, self._paths[name])
        self._gate.checks, self._gate.decodes, self._gate.worst = [], [], {}
        try:
            if name == "click":
                self._gate.check_click(self._paths[name], self._features, 1)
            else:
                self._gate.check_encoder(self._paths["encoder"], self._paths["prepare"], PLAIN, 1)
        finally:
            onnx.save(self.graphs[name], self._paths[name])


Change = Callable[[onnx.ModelProto], None]
NamedChange = tuple[str, Change]


# ---- Weights.


def _of_weights(graph: onnx.ModelProto) -> Iterator[NamedChange]:
    """Each kind of weight in turn: off by 1e-3 of its size, transposed, two channels swapped, a bias' sign."""
    for position, weight in enumerate(_kinds_of_weights(graph)):
        array = numpy_helper.to_array(weight)
        yield f"1e-3 of its size added: {weight.name}", _edit_weight(weight.name, _with_noise)
        if array.ndim == 2 and array.shape[0] == array.shape[1]:
            yield f"transposed: {weight.name}", _edit_weight(weight.name, np.transpose)
        elif array.ndim >= 2 and array.shape[0] > 1 and position % 3 == 0:
            yield f"first two output channels swapped: {weight.name}", _edit_weight(weight.name, _swapped)
        elif array.ndim == 4 and array.shape[2] > 1 and position % 3 == 1:
            yield f"kernel upside down: {weight.name}", _edit_weight(weight.name, lambda x: x[:, :, ::-1])
        elif position % 3 == 2 and weight.name not in _BELOW_ROUNDING:
            yield f"rounded to float16: {weight.name}", _edit_weight(weight.name, lambda x: x.astype(np.float16))


# Rounding this to float16 moves HRSAM's logits by 0.7 to 1.9 times what float32 is off there in PyTorch: scores of one
# query for all of the image, which differ little (docs/gate.md).
_BELOW_ROUNDING = {"decode_head.transformer.final_attn_token_to_image.q_proj.bias"}


def _kinds_of_weights(graph: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """One weight of each kind: the last of those whose names differ in numbers alone, and every unnamed large one."""
    kinds: dict[str, onnx.TensorProto] = {}
    # Canny maps undo the normalisation that they are given, so that mean and deviation cancel but for rounding. So do
    # biases of keys: each adds the same to all scores of a query.
    cancel = {name for node in graph.graph.node if node.op_type == "CannyMaps" for name in node.input[1:3]}
    for weight in graph.graph.initializer:
        if (
            weight.data_type == FLOAT
            and np.prod(weight.dims) > 1
            and not weight.name.endswith((*cancel, "k_proj.bias"))
        ):
            kind = "".join(c for c in weight.name if not c.isdigit())
            if kind in ("val_", "scalar_tensor_default"):
                kind = f"{kind} {list(weight.dims)}"
            kinds[kind] = weight
    yield from kinds.values()


def _with_noise(x: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(x.shape)
    return x + 1e-3 * np.abs(x).mean() * noise


def _swapped(x: np.ndarray) -> np.ndarray:
    return x[[1, 0, *range(2, len(x))]]


def _edit_weight(name: str, edit: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(graph: onnx.ModelProto) -> None:
        (weight,) = (x for x in graph.graph.initializer if x.name == name)
        array = np.ascontiguousarray(edit(numpy_helper.to_array(weight)), np.float32)
        weight.CopyFrom(numpy_helper.from_array(array, name))

    return change


# ---- Nodes of the graph.


def _of_nodes(graph: onnx.ModelProto) -> Iterator[NamedChange]:
    """The last node of each kind with each of its attributes changed; and a detour through float16.

    Not of the last mean: what it is off by cancels in the linear layer behind it; in the variance its square counts.
    """
    last = {node.op_type: i for i, node in enumerate(graph.graph.node)}
    for op_type, i in last.items():
        for attribute in graph.graph.node[i].attribute:
            for what, edit in _edits_of_attribute(attribute.name, attribute):
                yield f"{op_type}: {what}", _edit_attribute(None, i, attribute.name, edit)
        if op_type != "ReduceMean" and graph.graph.node[i].output[0] not in {x.name for x in graph.graph.output}:
            yield f"{op_type}: result through float16", _detour(None, i)


def _edits_of_attribute(
    name: str, attribute: onnx.AttributeProto
) -> Iterator[tuple[str, Callable[[onnx.AttributeProto], None]]]:
    def set_float(value: float) -> Callable[[onnx.AttributeProto], None]:
        return lambda x: setattr(x, "f", value)

    def set_text(value: bytes) -> Callable[[onnx.AttributeProto], None]:
        return lambda x: setattr(x, "s", value)

    def set_int(value: int) -> Callable[[onnx.AttributeProto], None]:
        return lambda x: setattr(x, "i", value)

    def rotate(x: onnx.AttributeProto) -> None:
        x.ints[:] = [*x.ints[1:], x.ints[0]]

    def shift(x: onnx.AttributeProto) -> None:
        half = len(x.ints) // 2
        x.ints[:] = [n + 1 for n in x.ints[:half]] + [n - 1 for n in x.ints[half:]]

    if attribute.ref_attr_name:  # the caller's
        return
    if name == "epsilon":
        yield "epsilon ten times larger", set_float(attribute.f * 10)
    elif name == "threshold":
        yield "threshold lower by a tenth", set_float(attribute.f - 0.1)
    elif name == "heads":
        yield "one head", set_int(1) if attribute.i != 1 else set_int(2)
    elif name == "mode" and attribute.s == b"linear":
        yield "nearest for linear", set_text(b"nearest")
    elif name == "coordinate_transformation_mode":
        yield "corners aligned", set_text(b"align_corners")
    elif name == "activation":
        yield "no activation", set_text(b"none")
    elif name == "approximate":
        yield "GELU by tanh", set_text(b"tanh")
    elif name == "offsets":
        yield "windows shifted otherwise", lambda x: x.ints.__setitem__(0, 0 if x.ints[0] else 1)
    elif name == "pads" and attribute.ints and min(attribute.ints) == max(attribute.ints) > 0:
        yield "a pad of the other side", shift
    elif name == "transB":
        yield "weight not transposed", set_int(1 - attribute.i)
    elif name == "perm" and len(attribute.ints) > 1:
        yield "permuted otherwise", rotate
    elif name in ("dense", "keepdims", "grid_width", "patch", "axis", "window", "heights", "widths", "pixels"):
        return  # other shapes: such graphs do not run


def _edit_attribute(function: str | None, node: int, name: str, edit: Callable[[onnx.AttributeProto], None]) -> Change:
    def change(graph: onnx.ModelProto) -> None:
        (attribute,) = (x for x in _nodes(graph, function)[node].attribute if x.name == name)
        edit(attribute)

    return change


def _detour(function: str | None, node: int) -> Change:
    """The first result of a node rounded to float16 on its way."""

    def change(graph: onnx.ModelProto) -> None:
        nodes = _nodes(graph, function)
        name = nodes[node].output[0]
        nodes[node].output[0] = f"{name}_exact"
        casts = [
            onnx.helper.make_node("Cast", [f"{name}_exact"], [f"{name}_half"], to=FLOAT16),
            onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=FLOAT),
        ]
        rest = list(nodes[node + 1 :])
        del nodes[node + 1 :]
        nodes.extend([*casts, *rest])

    return change


def _nodes(graph: onnx.ModelProto, function: str | None) -> list[onnx.NodeProto]:
    if function is None:
        return graph.graph.node
    (body,) = (x for x in graph.functions if x.name == function)
    return body.node


# ---- Function bodies.

_OTHER_OPERATOR = {
    "Sin": "Cos",
    "Cos": "Sin",
    "Add": "Sub",
    "ReduceMax": "ReduceMin",
    "ReduceMean": "ReduceMax",
    "Greater": "Less",
    "GreaterOrEqual": "Less",
    "Less": "Greater",
    "Max": "Min",
    "Min": "Max",
    "And": "Or",
    "Or": "And",
    "Sqrt": "Identity",
    "Neg": "Identity",
    "Exp": "Identity",
    "Log": "Identity",
    "Relu": "Identity",
    "Abs": "Identity",
    "Sigmoid": "Tanh",
    "Round": "Floor",
    "Reciprocal": "Neg",
    "Erf": "Tanh",
    "ArgMax": "ArgMin",
}


# Changes that are none: queries and keys with their channels in the same other order have equal products, what is
# subtracted before exponentials cancels, and a quotient that makes up for rounding is 1 but for that.
_NOTHING_CHANGES = {("Rotate", "Concat"), ("WeighedSums", "ReduceMax"), ("StepWidths", "Div")}


def _of_bodies(graph: onnx.ModelProto) -> Iterator[NamedChange]:
    """Each node of each function that the graph uses: another operator, inputs in another order, another constant."""
    for function in _used(graph):
        for i, node in enumerate(function.node):
            where = f"{function.name}, node {i}, {node.op_type}"
            if (function.name, node.op_type) in _NOTHING_CHANGES:
                continue
            if other := _OTHER_OPERATOR.get(node.op_type):
                yield f"{where}: {other} instead", _rename(function.name, i, other)
            elif node.op_type in ("Sub", "Div", "Concat") and len(node.input) > 1:
                yield f"{where}: inputs in the other order", _reverse_inputs(function.name, i)
            elif node.op_type == "Constant":
                yield from ((f"{where}: {what}", change) for what, change in _of_constant(function.name, i, node))
            elif node.op_type in ("MatMul", "Conv", "Softmax", "Gemm"):
                yield f"{where}: result through float16", _detour(function.name, i)
            for attribute in node.attribute:
                for what, edit in _edits_of_attribute(attribute.name, attribute):
                    yield f"{where}: {what}", _edit_attribute(function.name, i, attribute.name, edit)


def _used(graph: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """The functions that a graph calls, and those that they call."""
    by_name = {(x.domain, x.name): x for x in graph.functions}
    found: dict[tuple[str, str], onnx.FunctionProto] = {}

    def visit(nodes: list[onnx.NodeProto]) -> None:
        for node in nodes:
            key = node.domain, node.op_type
            if key in by_name and key not in found:
                found[key] = by_name[key]
                visit(by_name[key].node)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    visit(attribute.g.node)

    visit(graph.graph.node)
    return list(found.values())


def _of_constant(function: str, node: int, constant: onnx.NodeProto) -> Iterator[NamedChange]:
    """A number of a constant changed: a float by 1e-3 of it, a zero to 1e-2; whole numbers are shapes and axes."""
    for attribute in constant.attribute:
        if attribute.name == "value_float":
            yield "1e-3 off", _edit_attribute(function, node, attribute.name, lambda x: setattr(x, "f", _off(x.f)))
        elif attribute.name == "value" and attribute.t.data_type == FLOAT:

            def edit(x: onnx.AttributeProto) -> None:
                array = numpy_helper.to_array(x.t).copy()
                array.reshape(-1)[-1] = _off(float(array.reshape(-1)[-1]))
                x.t.CopyFrom(numpy_helper.from_array(array, x.t.name))

            yield "its last number 1e-3 off", _edit_attribute(function, node, attribute.name, edit)


def _off(value: float) -> float:
    return value * 1.001 if value else 1e-2


def _rename(function: str, node: int, op_type: str) -> Change:
    def change(graph: onnx.ModelProto) -> None:
        it = _nodes(graph, function)[node]
        it.op_type = op_type
        if op_type == "Identity":
            del it.attribute[:]

    return change


def _reverse_inputs(function: str, node: int) -> Change:
    def change(graph: onnx.ModelProto) -> None:
        it = _nodes(graph, function)[node]
        it.input[:] = it.input[::-1]

    return change
