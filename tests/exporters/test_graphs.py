"""Exported graphs against the modules they come from: sizes, opsets, and what the configuration can change."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from inter2former_deploy.core.contract import (
    BLANK_INPUTS,
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    DOMAIN,
    ENCODER_INPUT,
    ENCODER_OUTPUTS,
)
from inter2former_deploy.exporters.graphs import (
    DecoderGraph,
    EncoderGraph,
    decoder_shapes,
    export_decoder,
    export_encoder,
    export_graph,
)
from inter2former_deploy.families.checkpoint import synthetic_state_dict
from inter2former_deploy.families.inter2former.config import PROBE, ModelConfig
from inter2former_deploy.families.inter2former.modules.model import Inter2Former

GRID, SIZE = 5, 80


def model_of(config: ModelConfig) -> Inter2Former:
    model = Inter2Former(config)
    model.load_state_dict(synthetic_state_dict(config))
    return model.eval()


def decoder_inputs(config: ModelConfig, size: int, labels: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(size)
    shapes = decoder_shapes(config, size)
    inputs = {name: rng.standard_normal(shapes[name]).astype(np.float32) for name in DECODER_INPUTS[1:]}
    return {"labels": labels, **inputs}


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
        inputs = decoder_inputs(model.config, size, labels)
        with torch.inference_mode():
            expected = DecoderGraph(model)(*(torch.from_numpy(inputs[name]) for name in DECODER_INPUTS))
        outputs = run_graph(graph, inputs)
        for name, tensor in zip(DECODER_OUTPUTS, expected, strict=True):
            if tensor.dtype == torch.int64:
                np.testing.assert_array_equal(outputs[name], tensor, err_msg=name)
            else:
                assert_close(outputs[name], tensor, "neck" if name == "tokens" else "upsampling")


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
    assert_like_pytorch(model, export_decoder(model, size=SIZE), SIZE, run_graph, assert_close)


@pytest.mark.parametrize("opset", [18, 19, 21, 23, 24])
def test_every_opset(opset: int, run_plain: Any, assert_close: Any) -> None:
    model = model_of(PROBE)
    decoder = export_decoder(model, size=48, opset=opset)
    versions = {entry.domain: entry.version for entry in decoder.opset_import}
    assert versions[""] == opset
    assert all(entry.version == opset for f in decoder.functions for entry in f.opset_import if entry.domain == "")
    assert_like_pytorch(model, decoder, 48, run_plain, assert_close)


@pytest.mark.parametrize("opset", [18, 23])
def test_encoder_opsets(opset: int, run_plain: Any, assert_close: Any) -> None:
    model = model_of(PROBE)
    picture = np.random.default_rng(0).uniform(0, 255, (48, 48, 3)).astype(np.float32)
    outputs = run_plain(export_encoder(model, size=48, opset=opset), {ENCODER_INPUT: picture})
    with torch.inference_mode():
        expected = dict(zip(ENCODER_OUTPUTS, EncoderGraph(model)(torch.from_numpy(picture)), strict=True))
    assert_close(outputs["image_embedding"], expected["image_embedding"], "encoder")
    assert {name: x.shape for name, x in outputs.items()} == {name: tuple(x.shape) for name, x in expected.items()}


def test_group_norm_of_a_large_map(run_plain: Any, assert_close: Any) -> None:
    """Onnxruntime's own InstanceNormalization fails here."""
    norm = torch.nn.GroupNorm(1, 4)
    x = torch.randn(1, 4, 1024, 1024, generator=torch.Generator().manual_seed(0)) + 0.5
    graph = export_graph(norm, (x,), inputs=("x",), outputs=("y",))
    expected = norm.double()(x.double()).detach().float()
    assert_close(run_plain(graph, {"x": x.numpy()})["y"], expected, "edge features")


def test_operators_of_the_decoder() -> None:
    """Each operator as one node of our domain, with its body in the same file."""
    decoder = export_decoder(model_of(PROBE), size=SIZE)
    ours = [node.op_type for node in decoder.graph.node if node.domain == DOMAIN]
    expected = {"EdgeTokens": 1, "PromptEmbedding": 1, "HybridAttentionKnown": 1, "HybridAttention": 1}
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
    known = [tuple(node.input[5:]) for node in decoder.graph.node if node.op_type.startswith("HybridAttention")]
    assert known == [BLANK_INPUTS, ()]  # of the first layer's attention


def test_operators_of_the_encoder() -> None:
    """Five to a block: attention, and linear layers with what surrounds them; and the edge network."""
    encoder = export_encoder(model_of(PROBE), size=SIZE)
    ours = [node.op_type for node in encoder.graph.node if node.domain == DOMAIN]
    assert ours.count("WindowAttention") == PROBE.encoder.depth
    assert set(ours) <= {function.name for function in encoder.functions if function.domain == DOMAIN}
    weights = {x.name for x in encoder.graph.initializer}
    for node in encoder.graph.node:
        if node.op_type == "WindowAttention":
            assert node.input[1] in weights
        if node.op_type in ("NormLinear", "NormLinearGelu", "LinearAdd"):
            assert set(node.input[2:]) <= weights
    blank = {"PromptEmbedding": 1, "NormLinear": 1, "FullAttention": 1}  # of the decoder's first layer
    assert ours.count("NormLinearGelu") == PROBE.encoder.depth
    assert ours.count("NormLinear") == PROBE.encoder.depth + blank.pop("NormLinear")
    assert ours.count("LinearAdd") == 2 * PROBE.encoder.depth
    assert {kind: ours.count(kind) for kind in blank} == blank
    stages = 4
    edges = {"CannyMaps": 1, "EdgeStem": 1, "EdgeBlock": stages * PROBE.edges.blocks}
    edges |= {"EdgeDownsample": stages - 1, "EdgeProjection": stages}
    assert {kind: ours.count(kind) for kind in edges} == edges


def test_an_encoder_is_no_larger_than_its_weights() -> None:
    """Position grids, rotations and the like are computed when a session starts."""
    backbone = model_of(PROBE).backbone
    graph = export_graph(backbone, (torch.zeros(1, 3, 768, 768),), inputs=("image",), outputs=("embedding",))
    stored = sum(np.prod(x.dims) for x in graph.graph.initializer)
    assert stored < sum(x.numel() for x in backbone.parameters()) + 20_000
