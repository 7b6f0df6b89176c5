from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from inter2former_deploy.core import library

Array = NDArray[Any]
RunGraph = Callable[[onnx.ModelProto, Mapping[str, Array]], dict[str, Array]]


def run_onnx(model: onnx.ModelProto, inputs: Mapping[str, Array], *, with_library: bool) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    if with_library:
        library.register(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {value.name: np.ascontiguousarray(inputs[value.name]) for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.fixture(scope="session", params=[False, True], ids=["bodies", "library"])
def run_graph(request: pytest.FixtureRequest) -> RunGraph:
    """`run_graph(model, inputs)`: outputs by name, in plain onnxruntime and with the operator library in turn."""
    return partial(run_onnx, with_library=request.param)


@pytest.fixture(scope="session")
def run_plain() -> RunGraph:
    """The same in plain onnxruntime alone, for graphs without operators of ours."""
    return partial(run_onnx, with_library=False)
