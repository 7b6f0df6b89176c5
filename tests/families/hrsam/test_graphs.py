"""The image encoder as an ONNX graph against the golden arrays, with the operator library and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import onnx
import pytest
import torch

from inter2former_deploy.core.contract import DOMAIN
from inter2former_deploy.exporters.graphs import export_graph
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.session import Frame, model_input

if TYPE_CHECKING:
    from conftest import Golden, RunGraph

Models = Callable[[str], HRSAM]
# A square model input of 256, and one that is not square, whose maps are no multiples of window and chunk.
CASES = {"hrsam": (256, 256), "hrsampp": (96, 160)}


@pytest.fixture(scope="module")
def graphs(hrsam_models: Models) -> dict[str, onnx.ModelProto]:
    return {
        name: export_graph(
            hrsam_models(f"{name}_probe").backbone,
            (torch.zeros(1, 3, *size),),
            inputs=("image",),
            outputs=("embedding",),
        )
        for name, size in CASES.items()
    }


def test_golden_session(graphs: Any, golden: Golden, run_graph: RunGraph, assert_close: Any) -> None:
    arrays = golden("hrsam_session")
    frame = Frame(*arrays["image_bgr"].shape[:2], size=int(arrays["size"]))
    image = model_input(arrays["image_bgr"], frame).numpy()
    assert_close(run_graph(graphs["hrsam"], {"image": image})["embedding"][0], arrays["embedding"], "hrsam encoder")


def test_golden_encoder(graphs: Any, golden: Golden, run_graph: RunGraph, assert_close: Any) -> None:
    arrays = golden("hrsam_encoder")
    embedding = run_graph(graphs["hrsampp"], {"image": arrays["in_96x160"][None]})["embedding"]
    assert_close(embedding[0], arrays["hrsampp_out_96x160"], "hrsam encoder")


def test_operators(graphs: Any) -> None:
    """Scans and windows are one node each; so are the linear layers around them."""
    counts = {}
    for name, graph in graphs.items():
        ours = [node.op_type for node in graph.graph.node if node.domain == DOMAIN]
        counts[name] = {operator: ours.count(operator) for operator in ("CycleScan", "WindowAttention", "LinearAdd")}
    blocks = 5
    assert counts["hrsam"] == {"CycleScan": 3, "WindowAttention": blocks, "LinearAdd": 2 * blocks + 3}
    assert counts["hrsampp"] == {"CycleScan": 6, "WindowAttention": blocks, "LinearAdd": 2 * blocks + 6}
    lengths = [list(node.attribute[0].ints) for node in graphs["hrsampp"].graph.node if node.op_type == "CycleScan"]
    assert lengths == 3 * [[60, 16], [76]]
