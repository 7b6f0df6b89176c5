"""Graphs as tests look at them: with inner values as outputs, and one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.exporters.graphs import export_model, expose
from inter2former_deploy.families.inter2former.config import ModelConfig
from inter2former_deploy.families.inter2former.graphs import INNER
from inter2former_deploy.families.inter2former.interface import EMBEDDING, PICTURE, graph_tensors

Array = NDArray[Any]
Run = Callable[[onnx.ModelProto, Mapping[str, Array]], dict[str, Array]]


def exposed(model: Any, graph: GraphName, *, size: int, **settings: Any) -> onnx.ModelProto:
    """A graph with the inner values that the gate looks at as outputs."""
    return expose(export_model(model, graph, size=size, **settings), INNER[graph])


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
