"""The release's arrays through exported graphs, with the operator library and without."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from graphs import click_shapes, encoded, exported, exposed
from tolerances import TOLERANCES
from torch import Tensor, nn

from inter2former_deploy.core.contract import MEAN_BGR, STD_BGR
from inter2former_deploy.exporters.graphs import export_graph
from inter2former_deploy.families.inter2former.config import OUTSIDE_LOGIT, PATCH, PROBE
from inter2former_deploy.families.inter2former.gate import paste_logits
from inter2former_deploy.families.inter2former.graphs import PrepareGraph
from inter2former_deploy.families.inter2former.interface import (
    BLANK_INPUTS,
    CLICK_OUTPUTS,
    EDGE_INPUTS,
    OUTSIDE_INPUTS,
    PICTURE,
)
from inter2former_deploy.families.inter2former.modules.attention import BSQAttention
from inter2former_deploy.families.inter2former.modules.experts import HybridExperts
from inter2former_deploy.families.inter2former.modules.model import Inter2Former
from inter2former_deploy.families.inter2former.modules.upsampling import LocalUpsampling

if TYPE_CHECKING:
    from conftest import Golden

SIZE = 256
GRID = SIZE // PATCH
NECK_CASES = (
    *("first_click", "object", "corner", "all_background", "unstable"),
    *("full_foreground", "thin", "negatives", "background_block"),
)


def rows(tokens: np.ndarray) -> np.ndarray:
    """[1, C, h, w] -> [h*w, C]."""
    return tokens[0].reshape(tokens.shape[1], -1).T


def with_rule(model: Inter2Former, rule: Any) -> Inter2Former:
    other = Inter2Former(model.config.with_decoder(edge_rule=rule))
    other.load_state_dict(model.state_dict())
    return other.eval()


@pytest.fixture(scope="module")
def decoders(probe_model: Inter2Former) -> dict[str, onnx.ModelProto]:
    return {rule: exposed(with_rule(probe_model, rule), "click", size=SIZE) for rule in ("released", "exact")}


def known_of(model: Inter2Former, embedding: Any) -> dict[str, Any]:
    """What prepare.onnx gives of an embedding; what is known before any click is left out."""
    with torch.no_grad():
        outside = PrepareGraph(model).known_outside(torch.from_numpy(np.ascontiguousarray(embedding)))
    shapes = click_shapes(model.config, SIZE)
    blank = {name: np.zeros(shapes[name], np.float32) for name in BLANK_INPUTS}
    return blank | {name: x.numpy() for name, x in zip(OUTSIDE_INPUTS, outside, strict=True)}


@pytest.mark.parametrize("case", NECK_CASES)
@pytest.mark.parametrize("rule", ["released", "exact"])
def test_neck(
    decoders: Any, probe_model: Inter2Former, golden: Golden, run_graph: Any, assert_close: Any, rule: str, case: str
) -> None:
    arrays = golden("neck")
    shapes = click_shapes(PROBE, SIZE)
    embedding = arrays["image_embedding"][0].transpose(1, 2, 0)
    others = {name: np.zeros(shapes[name], np.float32) for name in EDGE_INPUTS} | known_of(probe_model, embedding)
    inputs = {"labels": arrays[f"{case}_label"], "image_embedding": embedding, **others}
    outputs = run_graph(decoders[rule], inputs)
    np.testing.assert_array_equal(outputs["edge_tokens"], arrays[f"{case}_{rule}_edge"])
    left, top, right, bottom = outputs["box"] // PATCH
    tokens = arrays[f"{case}_{rule}_tokens"][0].transpose(1, 2, 0)
    assert_close(outputs["tokens"], tokens[top:bottom, left:right], "neck")
    with torch.no_grad():
        low_res = probe_model.decode_head.mlp(torch.from_numpy(arrays[f"{case}_{rule}_tokens"]))[0, 0]
    assert_close(outputs["low_res"], low_res, "neck")  # of all tokens


class Head(nn.Module):
    """The upsampling head alone."""

    def __init__(self, head: LocalUpsampling) -> None:
        super().__init__()
        self.decode_head = head

    def forward(self, tokens: Tensor, *edge_inputs: Tensor) -> tuple[Tensor, ...]:
        upsampled = self.decode_head.decode(tokens, edge_inputs)
        return upsampled.box_logits, upsampled.box


@pytest.fixture(scope="module")
def upsampler(probe_model: Inter2Former, golden: Golden) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The head as a graph, and its inputs."""
    head, edges = probe_model.decode_head, golden("upsampler_edges")
    with torch.no_grad():
        projected = head.project_edges([torch.from_numpy(edges[f"edge_{i}"]) for i in range(4)])
    tokens = torch.from_numpy(rows(golden("upsampler")["tokens"]).copy())
    names = ("tokens", *EDGE_INPUTS)
    graph = export_graph(Head(head), (tokens, *projected), inputs=names, outputs=CLICK_OUTPUTS)
    return graph, {name: x.numpy() for name, x in zip(names, (tokens, *projected), strict=True)}


@pytest.mark.parametrize("case", ["whole", "crop", "small", "none"])
def test_upsampler(upsampler: Any, golden: Golden, run_graph: Any, assert_close: Any, case: str) -> None:
    arrays, graph = golden("upsampler"), copy.deepcopy(upsampler[0])
    (bias,) = [x for x in graph.graph.initializer if x.name == "decode_head.mlp.6.bias"]
    bias.CopyFrom(onnx.numpy_helper.from_array(arrays[f"{case}_bias"], bias.name))
    outputs = run_graph(graph, upsampler[1])
    left, top, right, bottom = PATCH * arrays[f"{case}_box_ltrb"]
    assert outputs["box"].tolist() == [left, top, right, bottom]
    expected = arrays[f"{case}_logits"][0, 0]
    assert_close(outputs["box_logits"], expected[top:bottom, left:right], "upsampling")
    pasted = np.full_like(expected, OUTSIDE_LOGIT)
    pasted[top:bottom, left:right] = outputs["box_logits"]
    np.testing.assert_array_equal(paste_logits(outputs["box_logits"], outputs["box"], SIZE), pasted)
    assert (expected[pasted == OUTSIDE_LOGIT] == OUTSIDE_LOGIT).all()


@pytest.mark.parametrize(("heads", "dim"), [(1, 32), (2, 64)])
def test_attention(golden: Golden, run_graph: Any, assert_close: Any, heads: int, dim: int) -> None:
    case = {name[3:]: torch.from_numpy(x) for name, x in golden("blocks").items() if name.startswith(f"h{heads}_")}
    attention = BSQAttention(dim=dim, heads=heads, code_bits=8)
    entries = ("codebook", "code_proj_weight", "code_proj_bias")
    attention.load_state_dict({name.replace("proj_", "proj."): case[name] for name in entries})

    class OnGrid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, qkv: Tensor, edge: Tensor) -> Tensor:
            out: Tensor = self.attention(qkv, edge, 16)
            return out

    qkv, edge = torch.cat((case["q"], case["k"], case["v"]), dim=1), case["edge"]
    graph = export_graph(OnGrid(), (qkv, edge), inputs=("qkv", "edge"), outputs=("out",))
    out = run_graph(graph, {"qkv": qkv.numpy(), "edge": edge.numpy()})["out"]
    assert_close(out[edge], case["full_out"], "blocks")
    assert_close(np.delete(out, edge, axis=0), case["bsq_out"], "blocks")


class NormedExperts(nn.Module):
    """Experts behind a norm that ends in `token` [C] whatever comes in, for the release's experts have no norm."""

    def __init__(self, ffn: HybridExperts, token: Tensor) -> None:
        super().__init__()
        self.ffn, self.norm = ffn, nn.LayerNorm(len(token))
        self.norm.load_state_dict({"weight": torch.zeros_like(token), "bias": token})

    def forward(self, x: Tensor, edge: Tensor) -> Tensor:
        out: Tensor = self.ffn(x, edge, self.norm)
        return out


@pytest.mark.parametrize("edges", ["moe_out", "moe_out_no_edge"])
def test_experts(golden: Golden, probe_weights: dict[str, Any], run_graph: Any, assert_close: Any, edges: str) -> None:
    arrays = golden("blocks")
    ffn = HybridExperts(dim=256, hidden=64, experts=8)
    prefix = "neck.blocks.0.ffn."
    ffn.load_state_dict({k.removeprefix(prefix): v for k, v in probe_weights.items() if k.startswith(prefix)})
    x, edge = torch.ones(1, 256), torch.arange(edges == "moe_out")
    experts = NormedExperts(ffn, torch.from_numpy(arrays["moe_x"][0]))
    graph = export_graph(experts, (x, edge), inputs=("x", "edge"), outputs=("out",))
    (bias,) = [x for x in graph.graph.initializer if x.name == "norm.bias"]
    for token in arrays["moe_edge"][:4]:
        bias.CopyFrom(onnx.numpy_helper.from_array(arrays["moe_x"][token], bias.name))
        out = run_graph(graph, {"x": x.numpy(), "edge": edge.numpy()})["out"]
        assert_close(out - 1, arrays[edges][token][None], "blocks")


@pytest.fixture(scope="module")
def session_model(probe_model: Inter2Former) -> Inter2Former:
    """The model of the release's session (golden/README.md)."""
    model = copy.deepcopy(probe_model)
    with torch.no_grad():
        model.decode_head.upsamplers[3].conv.bias += 0.42
    return model


@pytest.fixture(scope="module")
def session_decoder(session_model: Inter2Former) -> onnx.ModelProto:
    return exported(session_model, "click", size=SIZE)


@pytest.mark.parametrize("step", range(5))
def test_session(
    session_model: Inter2Former, session_decoder: Any, golden: Golden, run_graph: Any, assert_close: Any, step: int
) -> None:
    """Every decode of the release's session, from its label maps and image features."""
    arrays = golden("session")
    with torch.no_grad():
        edges = session_model.decode_head.project_edges([torch.from_numpy(arrays[f"edge_{i}"]) for i in range(4)])
    inputs = known_of(session_model, arrays["image_embedding"][0].transpose(1, 2, 0))
    inputs |= {name: edge.numpy() for name, edge in zip(EDGE_INPUTS, edges, strict=True)}
    inputs |= {"labels": arrays[f"label_{step}"], "image_embedding": arrays["image_embedding"][0].transpose(1, 2, 0)}
    outputs = run_graph(session_decoder, inputs)
    logits = paste_logits(outputs["box_logits"], outputs["box"], SIZE)
    assert_close(logits, arrays[f"logits_{step}"], "session logits of a bundle")


def to_picture(normalized: np.ndarray) -> np.ndarray:
    """[1, 3, S, S] normalised BGR -> what the graphs take."""
    bgr = normalized[0].transpose(1, 2, 0) * np.float32(STD_BGR) + np.float32(MEAN_BGR)
    return bgr[..., ::-1]


@pytest.mark.parametrize("size", [128, 176, 192])
def test_encoder(probe_model: Inter2Former, golden: Golden, run_graph: Any, assert_close: Any, size: int) -> None:
    arrays = golden("encoder")
    picture = to_picture(arrays[f"in_{size}"])
    outputs = run_graph(exported(probe_model, "encoder", size=size), {PICTURE: picture})
    assert_close(outputs["image_embedding"], arrays[f"out_{size}"][0].transpose(1, 2, 0), "encoder")


def test_edges(probe_model: Inter2Former, golden: Golden, run_graph: Any, assert_close: Any) -> None:
    """The release's Canny maps, but for pixels that rounding decides; and its edge features, of the same maps."""
    arrays = golden("cannynet")
    picture = arrays["image"][..., ::-1].astype(np.float32)  # stored as BGR
    graphs = exported(probe_model, "encoder", size=96), exposed(probe_model, "prepare", size=96)
    outputs = encoded(run_graph, *graphs, picture)
    for i, name in enumerate(("grad_mag", "grad_ori", "thin", "thresh", "early")):
        expected = arrays[name][0, 0]
        differs = np.abs(outputs["canny_maps"][i] - expected) > 1e-5 * expected.max()
        tolerance = TOLERANCES["canny pixels of a bundle", name]
        assert differs.mean() <= tolerance.atol, f"{name}: {differs.sum()} pixels differ ({tolerance.reason})"
    with torch.no_grad():
        features = probe_model.edge_detector.features(torch.from_numpy(outputs["canny_maps"])[None])
        projected = probe_model.decode_head.project_edges(features)
    for name, expected in zip(EDGE_INPUTS, projected, strict=True):
        assert_close(outputs[name], expected, "edge features")
