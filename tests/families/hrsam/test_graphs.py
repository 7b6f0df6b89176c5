"""The graphs against the golden arrays, with the operator library and without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch

from inter2former_deploy.core.contract import DOMAIN
from inter2former_deploy.exporters.graphs import export_graph
from inter2former_deploy.families.hrsam import interface
from inter2former_deploy.families.hrsam.graphs import ClickGraph, PrepareGraph
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.families.hrsam.pictures import Frame
from inter2former_deploy.families.hrsam.session import model_input

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


def export_click(model: HRSAM, grid: tuple[int, int], embedding: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The click graph for a map of image tokens, and what `prepare` gives for an embedding [C, h, w], by name."""
    height, width = grid
    tensors = interface.graph_tensors(model.config, 16)
    example = torch.from_numpy(np.ascontiguousarray(embedding.transpose(1, 2, 0), np.float32))
    with torch.inference_mode():
        prepared = PrepareGraph(model)(example)
    arguments = {
        "point_coords": torch.zeros(3, 2),
        "point_labels": torch.zeros(3, dtype=torch.int64),
        "mask_input": torch.zeros(4 * height, 4 * width),
        "has_mask_input": torch.zeros(1),
        "image_embedding": example,
        **dict(zip(tensors["prepare"]["outputs"], prepared, strict=True)),
    }
    assert list(arguments) == list(tensors["click"]["inputs"])
    sizes = {name: list(x.shape) for name, x in arguments.items()}
    sizes |= {"point_coords": ["points", 2], "point_labels": ["points"]}
    graph = export_graph(ClickGraph(model), tuple(arguments.values()), inputs=sizes, outputs=["logits"])
    return graph, {name: x.numpy() for name, x in arguments.items()}


def prompts(points: Any, labels: Any, previous: Any = None, box: Any = None) -> dict[str, Any]:
    """Prompts as the click graph takes them: a point that is none, or the corners of a box, follow the clicks."""
    added = np.zeros((1, 2)) if box is None else box.reshape(2, 2)
    given = {
        "point_coords": np.concatenate((points, added)).astype(np.float32),
        "point_labels": np.array([*labels, *([-1] if box is None else [2, 3])], np.int64),
        "has_mask_input": np.array([previous is not None], np.float32),
    }
    return given if previous is None else given | {"mask_input": previous.astype(np.float32)}


@pytest.fixture(scope="module")
def small_click(hrsam_models: Models, golden: Golden) -> tuple[onnx.ModelProto, dict[str, Any]]:
    return export_click(hrsam_models("hrsam_probe"), (10, 12), golden("hrsam_decoder")["embedding"])


def test_golden_click(small_click: Any, golden: Golden, run_graph: RunGraph, assert_close: Any) -> None:
    """Any number of points, padding points among them, with a previous mask and without."""
    graph, inputs = small_click
    arrays = golden("hrsam_decoder")
    assert [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == ["points", 2]
    for case, (points, masked) in {
        "one": (1, 0),
        "four": (4, 0),
        "pad": (5, 0),
        "mask": (4, 1),
        "onemask": (1, 1),
    }.items():
        given = prompts(arrays["points_xy"][:points], arrays["labels"][:points], arrays["mask"] if masked else None)
        logits = run_graph(graph, inputs | given)["logits"]
        assert_close(logits, arrays[f"{case}_masks"][0], "hrsam decoder")


def test_box_and_mask_that_does_not_count(
    small_click: Any, hrsam_models: Models, golden: Golden, run_plain: RunGraph, assert_close: Any
) -> None:
    """A box is two points, with or without clicks; a mask_input that is not to count may be anything."""
    graph, inputs = small_click
    arrays, model = golden("hrsam_decoder"), hrsam_models("hrsam_probe")
    embedding = torch.from_numpy(arrays["embedding"])[None].float()
    for count in (0, 2):
        points, labels, box = arrays["points_xy"][:count], arrays["labels"][:count], arrays["box_xyxy"]
        given = prompts(points, labels, box=box) | {"mask_input": np.full((40, 48), np.nan, np.float32)}
        with torch.inference_mode():
            of_reference = [torch.from_numpy(x.astype(kind))[None] for x, kind in ((points, "f4"), (labels, "i8"))]
            expected = model.decode(embedding, *of_reference, box=torch.from_numpy(box)[None].float())
        assert_close(run_plain(graph, inputs | given)["logits"], expected[0, 0], "hrsam decoder")


@pytest.fixture(scope="module")
def session_click(hrsam_models: Models, golden: Golden) -> tuple[onnx.ModelProto, dict[str, Any]]:
    model = copy.deepcopy(hrsam_models("hrsampp_probe"))
    model.decode_head.get_parameter("output_hypernetworks_mlps.0.layers.2.bias").data += 0.15
    return export_click(model, (20, 20), golden("hrsam_session_pp")["embedding"])


def test_golden_session_of_clicks(session_click: Any, golden: Golden, run_graph: RunGraph, assert_close: Any) -> None:
    """Each click from the release's own embedding and logits, at another size and with the weights of HRSAM++."""
    graph, inputs = session_click
    arrays = golden("hrsam_session_pp")
    for i in range(len(arrays["low_res"])):
        previous = arrays["low_res"][i - 1] if i else None
        given = prompts(arrays["xy"][: i + 1], arrays["clicks_yxp"][: i + 1, 2], previous)
        assert_close(run_graph(graph, inputs | given)["logits"], arrays["low_res"][i], "hrsam logits")
