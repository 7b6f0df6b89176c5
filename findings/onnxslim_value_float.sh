#!/usr/bin/env bash
# onnxslim 0.1.98 makes float64 of the attribute value_float of a Constant, which the standard says is float32, where
# another node takes it: Add(float32, Constant(value_float)) becomes Add(float32, float64), and the model, valid before,
# is refused by onnxruntime. value_int and a Constant with a tensor are read rightly. Such
# constants come from functions with attributes: onnx.inliner writes the attribute of a call as value_float.
#
# Versions: onnxslim 0.1.98, onnx 1.23.2, onnxruntime 1.31.1, numpy 2.4.6, Python 3.11. Seen on 2026-11-29:
#   before: 5.5
#   after: constants of type DOUBLE - onnxruntime: ... Type Error: Type parameter (T) of Optype (Add) bound to different
#     types (tensor(float) and tensor(double) in node ().
#   with a tensor instead of value_float: 5.5
# Exits with 1 if it is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cat > "$work/see.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
import onnxslim
from onnx import TensorProto, helper


def model(**value):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Constant", [], ["c"], **value),
        helper.make_node("Add", ["mean", "c"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(made):
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.float32([4, 5, 6])})[0]


print("before:", run(model(value_float=0.5)))
slim = onnxslim.slim(model(value_float=0.5))
types = [TensorProto.DataType.Name(x.data_type) for x in slim.graph.initializer]
types += [TensorProto.DataType.Name(a.t.data_type) for n in slim.graph.node for a in n.attribute if a.name == "value"]
try:
    run(slim)
    refused = False
except Exception as error:
    refused = True
    print("after: constants of type", *types, "- onnxruntime:", str(error).splitlines()[0])
tensor = helper.make_tensor("t", TensorProto.FLOAT, [], [0.5])
right = run(onnxslim.slim(model(value=tensor)))
print("with a tensor instead of value_float:", right)
sys.exit(0 if refused and "DOUBLE" in types and right == 5.5 else 1)
PYTHON
"$work/venv/bin/python" -W ignore "$work/see.py"
