"""Reference modules as ONNX graphs.

The graphs are exported from the modules themselves. Operators of our domain are `torch.library` custom operators there
and become bare nodes here; their function bodies are appended afterwards, as the exporter inlines functions it knows.
"""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir
import onnx_ir.passes.common as onnx_passes
import onnxscript.optimizer
import torch
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules
from torch import Tensor, nn

from inter2former_deploy import families
from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.exporters.bodies import add_bodies, check_opset
from inter2former_deploy.exporters.rewrites import RULES
from inter2former_deploy.exporters.translations import translation_table

DEFAULT_OPSET = 20  # the first with GELU as one operator; onnxruntime 1.17 and later run it

_REWRITES = (
    *RULES,
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.slice_split_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
)
_ENLARGING = ("ConstantOfShape", "Expand", "Tile")  # left to onnxruntime: their results would bloat the file
_EXAMPLE_SIZE = 3  # where a size differs from call to call; torch.export takes 0 and 1 for sizes that never do
_LARGE = 1 << 16  # elements; so would a larger result that has more of them than what it is computed from


def export_model(model: Any, graph: GraphName, *, size: int, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """A graph of a model for pictures of size x size pixels, with the function bodies of its operators.

    Args:
        model: A model of any family; it is left as it is, but for being in evaluation mode.
        graph: Which.
        size: Side of the picture, pixels, as the family allows it.
        opset: Version of the standard operators.

    Raises:
        ValueError: `size` or `opset` is out of range.
    """
    family = model.config.family
    stated = families.interface(family).graph_tensors(model.config, size)[graph]
    inner = families.graphs(family).INNER[graph]
    proto = export_graph(
        families.graphs(family).MODULES[graph](model),
        tuple(_example(tensor) for tensor in stated["inputs"].values()),
        inputs={name: tensor["sizes"] for name, tensor in stated["inputs"].items()},
        outputs=tuple(stated["outputs"]),
        inner=tuple(inner),
        opset=opset,
    )
    named = {name: tensor["sizes"] for name, tensor in stated["outputs"].items()} | dict(inner)
    for value in (*proto.graph.output, *proto.graph.value_info):  # dimensions that depend on the prompts
        for dimension, size_ in zip(value.type.tensor_type.shape.dim, named.get(value.name, ()), strict=False):
            if isinstance(size_, str):
                dimension.dim_param = size_
    return proto


def _example(tensor: dict[str, Any]) -> Tensor:
    sizes = [size if isinstance(size, int) else _EXAMPLE_SIZE for size in tensor["sizes"]]
    return torch.zeros(sizes, dtype=getattr(torch, tensor["type"]))


def expose(graph: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The graph with inner values as outputs besides, in place; their names are those of the family's `INNER`.

    Raises:
        ValueError: It has no such value.
    """
    known = {value.name: value for value in graph.graph.value_info}
    for name in names:
        if name not in known:
            raise ValueError(f"the graph has no inner value {name}: export it again with this version")
        graph.graph.output.append(known[name])
    return graph


def export_graph(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    *,
    inputs: Sequence[str] | Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    inner: Sequence[str] = (),
    opset: int = DEFAULT_OPSET,
) -> onnx.ModelProto:
    """Any module made of ours as an ONNX graph, with the function bodies of its operators.

    Args:
        module: The module; it is put into evaluation mode.
        examples: Its arguments; their shapes become the graph's.
        inputs: Names of the arguments, perhaps with their sizes: those that are names differ from call to call.
        outputs: Names of the results.
        inner: Names of further results, which become inner values of these names; `expose` makes them outputs.
        opset: Version of the standard operators.

    Raises:
        ValueError: `opset` is out of range.
    """
    check_opset(opset)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            input_names=tuple(inputs),
            dynamic_shapes=_dynamic_shapes(module, inputs),
            output_names=(*outputs, *inner),
            opset_version=opset,
            custom_translation_table=translation_table(),
            optimize=False,  # most of its rules do not apply here, yet trying them takes two thirds of the time
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export returned no program")
        graph = program.model
        _tidy(graph)
    for value in (*graph.graph.inputs, *graph.graph.outputs, *graph.graph.initializers.values()):
        value.metadata_props.clear()
    proto = onnx_ir.to_proto(graph)
    add_bodies(proto)
    if inner:
        proto.graph.value_info.extend(proto.graph.output[len(outputs) :])
        del proto.graph.output[len(outputs) :]
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _dynamic_shapes(module: nn.Module, inputs: Sequence[str] | Mapping[str, Sequence[int | str]]) -> Any:
    """For torch.export: which sizes of which arguments differ from call to call; None where none does."""
    if not isinstance(inputs, Mapping):
        return None
    names = {size for of_input in inputs.values() for size in of_input if isinstance(size, str)}
    sizes = {name: torch.export.Dim(name, min=1) for name in sorted(names)}
    shapes = [
        {axis: sizes[size] for axis, size in enumerate(of_input) if isinstance(size, str)}
        for of_input in inputs.values()
    ]
    return dict(inspect.signature(module.forward).bind(*shapes).arguments) if sizes else None


def _tidy(graph: onnx_ir.Model) -> None:
    """Computes what follows from weights alone, whatever its size: stacked experts, codewords, rotations."""
    onnx_passes.InlinePass()(graph)
    onnxscript.optimizer.fold_constants(graph)
    onnxscript.optimizer.fold_constants(
        graph,
        output_size_limit=1 << 40,
        should_fold=lambda node: node.op_type not in ("Constant", *_ENLARGING) and not _bloats(node),
    )
    for tidy in (
        RewritePass(_REWRITES),
        onnx_passes.IdentityEliminationPass(),
        onnx_passes.RemoveUnusedNodesPass(),
        onnx_passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        onnx_passes.RemoveUnusedOpsetsPass(),
        onnx_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        onnx_passes.DeduplicateInitializersPass(),
        onnx_passes.CommonSubexpressionEliminationPass(),
        onnx_passes.ClearMetadataAndDocStringPass(),  # they hold paths of this machine
    ):
        tidy(graph)


def _bloats(node: onnx_ir.Node) -> bool:
    """Whether a node's result is large, and larger than its inputs: a position grid, say, resized to many tokens."""
    result, *inputs = (
        math.prod(value.shape.numpy()) if value is not None and value.shape is not None else 0
        for value in (node.outputs[0], *node.inputs)
    )
    return result > max(_LARGE, sum(inputs))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says about itself; its errors still come."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
