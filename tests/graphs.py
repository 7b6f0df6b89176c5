"""Graphs as tests look at them: with inner values as outputs, and one after the other."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch.onnx._internal._lazy_import import onnxscript_apis

from inter2former_deploy.core.contract import DOMAIN, GraphName
from inter2former_deploy.core.manifest import GraphEntry
from inter2former_deploy.exporters.graphs import DEFAULT_OPSET, export_model, expose
from inter2former_deploy.families.inter2former.config import ModelConfig
from inter2former_deploy.families.inter2former.graphs import INNER
from inter2former_deploy.families.inter2former.interface import EMBEDDING, PICTURE, graph_tensors
from inter2former_deploy.runtime.bundle import open_bundle

Array = NDArray[Any]
Run = Callable[[onnx.ModelProto, Mapping[str, Array]], dict[str, Array]]


# Each export reads the sources of all functions of onnxscript anew, a quarter of its time.
onnxscript_apis.get_torchlib_ops = functools.cache(onnxscript_apis.get_torchlib_ops)

_exported: dict[tuple[Any, ...], onnx.ModelProto] = {}


def exported(model: Any, graph: GraphName, *, size: int, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """What `export_model` makes, made once in each process of the tests; the copy may be changed."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    key = (type(model), repr(model.config), digest.digest(), graph, size, opset)
    if key not in _exported:
        _exported[key] = export_model(model, graph, size=size, opset=opset)
    copy = onnx.ModelProto()
    copy.CopyFrom(_exported[key])
    return copy


def exposed(model: Any, graph: GraphName, *, size: int, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """A graph with the inner values that the gate looks at as outputs."""
    return expose(exported(model, graph, size=size, opset=opset), INNER[graph])


def assert_as_exported_now(folder: Path, model: Any, size: int) -> set[str]:
    """Whether a bundle that is kept has the tensors and the functions that the exporter makes now.

    Args:
        folder: The bundle, at any size.
        model: That it was made of.
        size: At which to export it now; at the bundle's own, nodes and functions that depend on it are compared, too.

    Returns:
        The operators in the bundle's graphs.
    """
    bundle = open_bundle(folder)  # compares what the manifest says of a caller with what the runtime does
    manifest, decoder = bundle.manifest, bundle.manifest.decoder()
    stated = bundle.family.graph_tensors(model.config, manifest.size)
    operators: set[str] = set()

    def functions(graph: onnx.ModelProto) -> dict[str, onnx.FunctionProto | None]:
        of_size = size != manifest.size
        return {f.name: None if of_size and f.name.endswith("InBlocks") else f for f in graph.functions}

    graphs: dict[GraphName, GraphEntry] = {
        "encoder": manifest.encoder.graph,
        "prepare": decoder.prepare,
        "click": decoder.click,
    }
    for name, entry in graphs.items():
        assert {"inputs": entry.inputs, "outputs": entry.outputs} == stated[name]
        made, kept = exported(model, name, size=size), onnx.load(folder / entry.file)
        assert functions(kept) == functions(made)
        if size == manifest.size:
            kinds = [Counter(node.op_type for node in graph.graph.node) for graph in (kept, made)]
            assert kinds[0] == kinds[1]
        operators |= {node.op_type for node in kept.graph.node if node.domain == DOMAIN}
    return operators


def encoded(run: Run, encoder: onnx.ModelProto, prepare: onnx.ModelProto, picture: Array) -> dict[str, Array]:
    """All that encoder.onnx and prepare.onnx give of a picture."""
    embedding = run(encoder, {PICTURE: picture})
    return embedding | run(prepare, {PICTURE: picture, EMBEDDING: embedding[EMBEDDING]})


def click_shapes(config: ModelConfig, size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the click graph's inputs by name."""
    return {name: tuple(x["sizes"]) for name, x in graph_tensors(config, size)["click"]["inputs"].items()}


def some_prepared(config: ModelConfig, size: int) -> dict[str, Array]:
    """Random numbers for all of these but the labels."""
    rng = np.random.default_rng(size)
    shapes = {name: shape for name, shape in click_shapes(config, size).items() if name != "labels"}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
