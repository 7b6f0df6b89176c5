"""Exported graphs against the modules they come from: sizes, opsets, and what the configuration can change."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graphs import encoded, exported, exposed, some_prepared

from inter2former_deploy.core.contract import DOMAIN
from inter2former_deploy.exporters.graphs import export_graph, expose
from inter2former_deploy.families.checkpoint import synthetic_state_dict
from inter2former_deploy.families.encoder_graph import EncoderGraph
from inter2former_deploy.families.inter2former.config import PROBE, ModelConfig
from inter2former_deploy.families.inter2former.graphs import INNER, ClickGraph, PrepareGraph
from inter2former_deploy.families.inter2former.interface import BLANK_INPUTS, CLICK_INPUTS, CLICK_OUTPUTS, PREPARED
from inter2former_deploy.families.inter2former.modules.model import Inter2Former

GRID, SIZE = 5, 80


def model_of(config: ModelConfig) -> Inter2Former:
    model = Inter2Former(config)
    model.load_state_dict(synthetic_state_dict(config))
    return model.eval()


def some_labels(size: int) -> dict[str, np.ndarray]:
    """A first click, an object, and nothing."""
    first, object_ = np.full((2, size, size), (2), np.uint8)
    first[size // 2 - 5 : size // 2 + 5, size // 2 - 5 : size // 2 + 5] = 4
    object_[:] = 1
    object_[size // 4 : size // 2, size // 3 : size // 2] = 3
    object_[size // 3, size // 3] = 4
    return {"first click": first, "object": object_, "nothing": np.ones((size, size), np.uint8)}


def assert_like_pytorch(
    model: Inter2Former, graph: onnx.ModelProto, size: int, run_graph: Any, assert_close: Any
) -> None:
    for labels in some_labels(size).values():
        inputs = {"labels": labels} | some_prepared(model.config, size)
        with torch.inference_mode():
            expected = ClickGraph(model)(*(torch.from_numpy(inputs[name]) for name in CLICK_INPUTS))
        outputs = run_graph(graph, inputs)
        for name, tensor in zip((*CLICK_OUTPUTS, *INNER["click"]), expected, strict=True):
            if tensor.dtype == torch.int64:
                np.testing.assert_array_equal(outputs[name], tensor, err_msg=name)
            else:
                assert_close(outputs[name], tensor, "upsampling" if name == "box_logits" else "neck")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"edge_rule": "exact"},
        {"attention": "full"},
        {"attention": "bsq"},
        {"attention": "vq", "heads": 2, "code_bits": 4},
        {"prompt": "dense"},
        {"upsampling": "full"},
        {"layers": 1, "experts": 3, "expert_hidden": 24, "attention_dim": 16},
        {"pyramid": (32, 8, 4, 2), "prompt_channels": (4, 8, 16, 32)},
    ],
    ids=str,
)
def test_every_configuration(changes: dict[str, Any], run_graph: Any, assert_close: Any) -> None:
    model = model_of(PROBE.with_decoder(**changes))
    assert_like_pytorch(model, exposed(model, "click", size=SIZE), SIZE, run_graph, assert_close)


@pytest.mark.parametrize("opset", [18, 19, 21, 23, 24])
def test_every_opset(opset: int, run_plain: Any, assert_close: Any) -> None:
    model = model_of(PROBE)
    decoder = exposed(model, "click", size=48, opset=opset)
    versions = {entry.domain: entry.version for entry in decoder.opset_import}
    assert versions[""] == opset
    assert all(entry.version == opset for f in decoder.functions for entry in f.opset_import if entry.domain == "")
    assert_like_pytorch(model, decoder, 48, run_plain, assert_close)


@pytest.mark.parametrize("opset", [18, 23])
def test_encoder_opsets(opset: int, run_plain: Any, assert_close: Any) -> None:
    model = model_of(PROBE)
    picture = np.random.default_rng(0).uniform(0, 255, (48, 48, 3)).astype(np.float32)
    graphs = exported(model, "encoder", size=48, opset=opset), exposed(model, "prepare", size=48, opset=opset)
    outputs = encoded(run_plain, *graphs, picture)
    with torch.inference_mode():
        embedding = EncoderGraph(model)(torch.from_numpy(picture))
        prepared = PrepareGraph(model)(torch.from_numpy(picture), embedding)
    assert_close(outputs["image_embedding"], embedding, "encoder")
    expected = dict(zip((*PREPARED, "canny_maps"), prepared, strict=True))
    assert {name: x.shape for name, x in outputs.items()} == {
        "image_embedding": tuple(embedding.shape),
        **{name: tuple(x.shape) for name, x in expected.items()},
    }


class Distances(torch.nn.Module):
    """Of clicks from the middle, and a picture's mean: inputs of a size that differs, and of one that does not."""

    def forward(self, xy: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        return xy.square().sum(1).sqrt() + picture.mean()


def test_sizes_may_differ_from_call_to_call(run_plain: Any) -> None:
    inputs = {"xy": ["clicks", 2], "picture": [4, 4]}
    graph = export_graph(Distances(), (torch.zeros(3, 2), torch.zeros(4, 4)), inputs=inputs, outputs=("far",))
    assert [d.dim_param or d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == ["clicks", 2]
    for clicks in (1, 2, 7):
        xy = np.random.default_rng(clicks).standard_normal((clicks, 2)).astype(np.float32)
        far = run_plain(graph, {"xy": xy, "picture": np.ones((4, 4), np.float32)})["far"]
        np.testing.assert_allclose(far, np.hypot(*xy.T) + 1, rtol=1e-6)


def test_inner_values_are_outputs_only_where_they_are_asked_for(run_plain: Any) -> None:
    """What a click returns does not change with them."""
    model = model_of(PROBE)
    graph = exported(model, "click", size=SIZE)
    assert tuple(value.name for value in graph.graph.output) == CLICK_OUTPUTS
    inputs = {"labels": some_labels(SIZE)["object"]} | some_prepared(PROBE, SIZE)
    shipped = run_plain(graph, inputs)
    checked = run_plain(expose(graph, INNER["click"]), inputs)
    assert tuple(checked) == (*CLICK_OUTPUTS, *INNER["click"])
    for name in CLICK_OUTPUTS:
        np.testing.assert_array_equal(shipped[name], checked[name])
    with pytest.raises(ValueError, match="has no inner value attention"):
        expose(graph, ["attention"])


def test_each_graph_holds_the_weights_of_its_part_alone() -> None:
    model, parts = model_of(PROBE), {}
    names = {name: tensor for name, tensor in model.state_dict().items() if tensor.ndim > 1}
    for graph in ("encoder", "prepare", "click"):
        stored = {x.name for x in exported(model, graph, size=SIZE).graph.initializer}  # type: ignore[arg-type]
        parts[graph] = {name.split(".")[0] for name in stored & names.keys()}
    assert parts == {
        "encoder": {"backbone"},
        "prepare": {"edge_detector", "neck", "decode_head"},
        "click": {"neck", "decode_head"},
    }


def test_operators_of_the_decoder() -> None:
    """Each operator as one node of our domain, with its body in the same file."""
    decoder = exported(model_of(PROBE), "click", size=SIZE)
    ours = [node.op_type for node in decoder.graph.node if node.domain == DOMAIN]
    expected = {"LabelBox": 1, "EdgeTokens": 1, "PromptEmbedding": 1, "HybridAttentionKnown": 1, "HybridAttention": 1}
    expected |= {"LowRankLinear": 1, "LowRankLinearGated": 2, "LowRankAdd": 2}
    expected |= {"HybridExperts": 2, "TokenBox": 1, "NormLinear": 2, "LinearAdd": 2}
    expected |= {"LocalUpsample": 3, "LocalUpsampleLinear": 1}
    assert {name: ours.count(name) for name in set(ours)} == expected
    assert set(ours) <= {function.name for function in decoder.functions if function.domain == DOMAIN}
    weights = {x.name for x in decoder.graph.initializer}
    for node in decoder.graph.node:  # packed weights are constants, so that kernels can prepare them once
        if node.op_type == "HybridExperts":
            assert set(node.input[2:]) <= weights
        if node.op_type == "LinearAdd":
            assert set(node.input[2:]) <= weights
        if node.op_type.startswith("HybridAttention"):
            assert set(node.input[2:5]) <= weights
        if node.op_type == "NormLinear":
            assert set(node.input[1:]) <= weights
        if node.op_type.startswith("LowRankLinear"):
            assert set(node.input[3:]) <= weights
        if node.op_type == "LowRankAdd":
            assert set(node.input[5:]) <= weights
    known = [tuple(node.input[5:]) for node in decoder.graph.node if node.op_type.startswith("HybridAttention")]
    assert known == [BLANK_INPUTS, ()]  # of the first layer's attention


def test_operators_of_the_encoder() -> None:
    """Five to a block: attention, and linear layers with what surrounds them; and what is prepared of an image."""
    encoder = exported(model_of(PROBE), "encoder", size=SIZE)
    ours = [node.op_type for node in encoder.graph.node if node.domain == DOMAIN]
    assert ours.count("WindowAttention") == PROBE.encoder.depth
    assert set(ours) <= {function.name for function in encoder.functions if function.domain == DOMAIN}
    weights = {x.name for x in encoder.graph.initializer}
    for node in encoder.graph.node:
        if node.op_type == "WindowAttention":
            assert node.input[1] in weights
        if node.op_type in ("NormLinear", "NormLinearGelu", "LinearAdd"):
            assert set(node.input[2:]) <= weights
    assert ours.count("NormLinearGelu") == PROBE.encoder.depth
    assert ours.count("NormLinear") == PROBE.encoder.depth
    assert ours.count("LinearAdd") == 2 * PROBE.encoder.depth
    prepare = exported(model_of(PROBE), "prepare", size=SIZE)
    ours = [node.op_type for node in prepare.graph.node if node.domain == DOMAIN]
    blank = {"PromptEmbedding": 1, "NormLinear": 1, "FullAttention": 1}  # of the decoder's first layer
    stages = 4
    edges = {"CannyMaps": 1, "EdgeStem": 1, "EdgeBlock": stages * PROBE.edges.blocks}
    edges |= {"EdgeDownsample": stages - 1, "EdgeProjection": stages}
    assert {kind: ours.count(kind) for kind in set(ours)} == blank | edges


def test_an_encoder_is_no_larger_than_its_weights() -> None:
    """Position grids, rotations and the like are computed when a session starts."""
    backbone = model_of(PROBE).backbone
    graph = export_graph(backbone, (torch.zeros(1, 3, 768, 768),), inputs=("image",), outputs=("embedding",))
    stored = sum(np.prod(x.dims) for x in graph.graph.initializer)
    assert stored < sum(x.numel() for x in backbone.parameters()) + 20_000
