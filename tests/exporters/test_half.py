"""What is stored in half precision: exactly what loses nothing by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from inter2former_deploy.exporters.half import MIN_VALUES, store_half

SHAPE = (32, 64)


def stored(tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A graph with an output per tensor: `x + tensor`."""
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])]
    outputs = [
        helper.make_tensor_value_info(f"{name}+", onnx.TensorProto.FLOAT, a.shape) for name, a in tensors.items()
    ]
    nodes = [helper.make_node("Add", ["x", name], [f"{name}+"]) for name in tensors]
    constants = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    store_half(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_only_what_comes_back_as_it_was() -> None:
    rng = np.random.default_rng(0)
    exact = rng.standard_normal(SHAPE).astype(np.float16).astype(np.float32)
    exact[0, :3] = [np.float32(2.0**-24), -65504.0, -0.0]  # the least above 0, the largest, and a sign
    changed = {
        "one bit more": (1, np.nextafter(exact[1, 1], np.float32(9))),
        "too large": (2, np.float32(65536)),
        "too small": (3, np.float32(2.0**-25)),
    }
    tensors = {"exact": exact, "few": exact.ravel()[: MIN_VALUES - 1]}
    for name, (row, value) in changed.items():
        tensors[name] = exact.copy()
        tensors[name][row, 1] = value
    model = stored(tensors)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types.pop("exact.half") == onnx.TensorProto.FLOAT16
    assert types == dict.fromkeys(tensors.keys() - {"exact"}, onnx.TensorProto.FLOAT)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"x": np.zeros(1, np.float32)})
    for array, output in zip(tensors.values(), outputs, strict=True):
        np.testing.assert_array_equal(output, array + np.float32(0))


def test_operators_still_see_constants(tmp_path: Path) -> None:
    """The Cast is computed while onnxruntime loads the graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = stored({"exact": np.ones(SHAPE, np.float32)}).SerializeToString()
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx").graph
    assert [node.op_type for node in optimised.node] == ["Add"]
    assert [(tensor.name, tensor.data_type) for tensor in optimised.initializer] == [("exact", onnx.TensorProto.FLOAT)]
