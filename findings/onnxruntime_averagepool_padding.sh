#!/usr/bin/env bash
# onnxruntime up to 1.24.1 does not count padding in AveragePool with count_include_pad=1 in graphs of opset 19 and
# later: a window with 12 ones and 52 zeros of padding has the mean 1 instead of 12/64. The same graph of opset 18 is
# computed rightly. A Pad before the pooling changes nothing, as onnxruntime makes it the pooling's padding; zeros that
# a Concat brings are counted everywhere.
#
# Versions: onnxruntime 1.22.0, 1.24.1 and 1.26.0, onnx 1.23.2, numpy 2.4.6, Python 3.11. Seen on 2026-11-30:
#   1.22.0 opset 18 [1, 0.1875], opset 20 [1, 1], Concat and opset 20 [1, 0.1875]
#   1.24.1 opset 18 [1, 0.1875], opset 20 [1, 1], Concat and opset 20 [1, 0.1875]
#   1.26.0 opset 18 [1, 0.1875], opset 20 [1, 0.1875], Concat and opset 20 [1, 0.1875]
# Exits with 1 if it is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install onnx==1.23.2 numpy==2.4.6
cat > "$work/see.py" <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def run(opset, pads):
    pool = helper.make_node(
        "AveragePool", ["p"], ["y"], kernel_shape=[64, 1], strides=[64, 1], pads=pads, count_include_pad=1
    )
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, [1, 1, 52, 1], [0] * 52)
    before = ("Identity", ["x"], {}) if any(pads) else ("Concat", ["x", "zeros"], {"axis": 2})
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 76, 1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    nodes = [helper.make_node(*before[:2], ["p"], **before[2]), pool]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [] if any(pads) else [zeros])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((1, 1, 76, 1), np.float32)})[0].ravel().tolist()


own, right = [0, 0, 52, 0], [1, 12 / 64]
old, new, filled = run(18, own), run(20, own), run(20, [0, 0, 0, 0])
print(f"{onnxruntime.__version__} opset 18 {old}, opset 20 {new}, Concat and opset 20 {filled}")
sys.exit(not (old == filled == right and new == ([1, 1] if sys.argv[1] == "wrong" else right)))
PYTHON
for version in 1.22.0 1.24.1 1.26.0; do
  install onnxruntime==$version
  [ $version = 1.26.0 ] && expected=right || expected=wrong
  "$work/venv/bin/python" -W ignore "$work/see.py" $expected
done
