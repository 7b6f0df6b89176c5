"""Our rules for graphs: they apply where they may, and results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from graphs import exported
from onnxscript.rewriter import RewritePass

from inter2former_deploy.exporters.graphs import export_graph
from inter2former_deploy.exporters.rewrites import RULES
from inter2former_deploy.families.checkpoint import build_model, synthetic_state_dict
from inter2former_deploy.families.inter2former.config import PROBE

HEADER = '<ir_version: 8, opset_import: ["" : 20]>\n'
SLICES = """
g (float[6, 7, 2] x, int64[1] b0, int64[1] e0, int64[1] b1, int64[1] e1) => (float[a, b, c] y)
<int64[1] axes0 = {%d}, int64[1] axes1 = {%d}, int64[1] steps = {%d}>
{ inner = Slice(x, b0, e0, axes0, steps)
  y = Slice(inner, b1, e1, axes1, steps) }
"""
FIRST = """
g (int64%s x) => (int64 y) <int64[1] row = {-1}, int64 index = {%d}>
{ reshaped = Reshape(x, row)
  y = Gather(reshaped, index) }
"""


def rewritten(text: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A graph as it is and by our rules."""
    before = onnx.parser.parse_model(HEADER + text)
    model = onnx_ir.from_proto(before)
    RewritePass(RULES)(model)
    return before, onnx_ir.to_proto(model)


def kinds(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node if node.op_type not in ("Constant", "Identity")]


@pytest.mark.parametrize(
    ("axes", "step", "slices"),
    [((0, 1), 1, 1), ((1, 0), 2, 1), ((0, 2), 1, 1), ((1, 1), 1, 2), ((1, -2), 1, 2)],
    ids=["rows, columns", "columns, rows, each second", "the last axis", "an axis twice", "an axis from behind"],
)
def test_slices_along_two_axes_become_one(axes: tuple[int, int], step: int, slices: int, run_plain: Any) -> None:
    before, after = rewritten(SLICES % (*axes, step))
    assert kinds(after).count("Slice") == slices
    inputs = {"x": np.arange(84, dtype=np.float32).reshape(6, 7, 2)}
    inputs |= {name: np.array([n]) for name, n in (("b0", 1), ("e0", 6), ("b1", 1), ("e1", 3))}
    np.testing.assert_array_equal(run_plain(after, inputs)["y"], run_plain(before, inputs)["y"])


@pytest.mark.parametrize(
    ("shape", "index", "left"),
    [("", 0, []), ("[3]", 0, ["Reshape", "Gather"]), ("[3]", 2, ["Reshape", "Gather"])],
    ids=["a number", "the first of a row", "the last of a row"],
)
def test_a_single_number_is_not_looked_up(shape: str, index: int, left: list[str], run_plain: Any) -> None:
    before, after = rewritten(FIRST % (shape, index))
    assert kinds(after) == left
    x = np.array([4, 5, 6]) if shape else np.array(7)
    np.testing.assert_array_equal(run_plain(after, {"x": x})["y"], run_plain(before, {"x": x})["y"])


def test_a_click_copies_no_tokens_in_vain() -> None:
    """Tokens and labels are cut out at once, and rows that are put among others stay as they are."""
    click = exported(build_model(PROBE, synthetic_state_dict(PROBE)), "click", size=80)
    by_result = {name: node for node in click.graph.node for name in node.output}
    for node in click.graph.node:
        assert node.op_type != "Expand"
        if node.op_type == "Slice":
            before = by_result.get(node.input[0])
            assert before is None or before.op_type != "Slice"
    assert kinds(click).count("ScatterND") == PROBE.decoder.layers


class PutRows(torch.nn.Module):
    """Rows put among others."""

    def __init__(self, accumulate: bool) -> None:
        super().__init__()
        self.accumulate = accumulate

    def forward(self, x: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return x.index_put((rows,), values, self.accumulate)


def test_rows_are_put_among_others(run_plain: Any) -> None:
    x, rows, values = torch.arange(12.0).view(4, 3), torch.tensor([2, 0]), torch.tensor([[-1.0, -2, -3], [-4, -5, -6]])
    graph = export_graph(PutRows(False), (x, rows, values), inputs=("x", "rows", "values"), outputs=("y",))
    result = run_plain(graph, {"x": x.numpy(), "rows": rows.numpy(), "values": values.numpy()})["y"]
    np.testing.assert_array_equal(result, [[-4, -5, -6], [3, 4, 5], [-1, -2, -3], [9, 10, 11]])


@pytest.mark.parametrize(("accumulate", "columns"), [(True, 3), (False, 1)], ids=["sums", "a column for all"])
def test_other_ways_to_put_rows_are_refused(accumulate: bool, columns: int) -> None:
    examples = torch.zeros(4, 3), torch.tensor([2, 0]), torch.zeros(2, columns)
    with pytest.raises(torch.onnx.OnnxExporterError) as error:
        export_graph(PutRows(accumulate), examples, inputs=("x", "rows", "values"), outputs=("y",))
    assert "expected whole rows by one list of indices" in str(error.value) + str(error.value.__cause__)
