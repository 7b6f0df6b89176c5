"""Weights that half precision holds exactly are stored in half precision: the same values in half the bytes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MIN_VALUES = 1 << 10  # of a tensor that is worth a node of its own


def store_half(graph: onnx.ModelProto) -> None:
    """Store float32 initializers as float16 with a Cast behind each, where every value comes back as it was.

    The weights of a checkpoint in half precision are like that, those of a checkpoint in float32 hardly ever.
    onnxruntime computes the Cast once, while it loads the graph, so that operators still see constants.

    Args:
        graph: It is changed in place. Results do not change.
    """
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < MIN_VALUES:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and differs
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
