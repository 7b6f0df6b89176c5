"""Local upsampling against the golden arrays, and its operators against the release's form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inter2former_deploy.core.contract import DOMAIN
from inter2former_deploy.families.inter2former.config import OUTSIDE_LOGIT, PROBE
from inter2former_deploy.families.inter2former.interface import EDGE_INPUTS
from inter2former_deploy.families.inter2former.modules.neck import DecoderNeck
from inter2former_deploy.families.inter2former.modules.upsampling import LocalUpsampling

CASES = ("whole", "crop", "small", "none")


@pytest.fixture
def head(probe_weights: dict[str, Any]) -> LocalUpsampling:
    head = LocalUpsampling(pyramid=PROBE.decoder.pyramid)
    prefix = "decode_head."
    head.load_state_dict({k.removeprefix(prefix): v for k, v in probe_weights.items() if k.startswith(prefix)})
    return head.eval()


@pytest.fixture(scope="module")
def arrays(golden: Any) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in golden("upsampler").items()}


@pytest.fixture(scope="module")
def edges(golden: Any) -> list[Tensor]:
    arrays = golden("upsampler_edges")
    return [torch.from_numpy(arrays[f"edge_{i}"]) for i in range(4)]


def as_rows(tokens: Tensor) -> Tensor:
    return tokens[0].flatten(1).T.contiguous()  # [1, C, h, w] -> [h*w, C]


def test_entries_are_those_of_the_release_in_their_order(head: LocalUpsampling, probe_weights: dict[str, Any]) -> None:
    names = [name for name in probe_weights if name.startswith("decode_head.")]
    assert [f"decode_head.{name}" for name in head.state_dict()] == names


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_golden(
    head: LocalUpsampling, arrays: dict[str, Any], edges: list[Tensor], assert_close: Any, case: str
) -> None:
    head.get_parameter("mlp.6.bias")[:] = arrays[f"{case}_bias"]
    whole = head(arrays["tokens"], edges)
    assert whole.boxes.tolist() == [arrays[f"{case}_box_ltrb"].tolist()]
    assert_close(whole.low_res, arrays["low_res"] + arrays[f"{case}_bias"] - arrays["whole_bias"], "upsampling")

    decoded = head.decode(as_rows(arrays["tokens"]), head.project_edges(edges))
    left, top, right, bottom = decoded.box.tolist()
    assert decoded.box.tolist() == (16 * arrays[f"{case}_box_ltrb"]).tolist()
    expected = arrays[f"{case}_logits"]
    inside = expected[0, 0, top:bottom, left:right]  # where the largest value is not that of the outside
    for logits in (whole.logits[0, 0], decoded.logits):
        assert_close(logits[top:bottom, left:right], inside, "upsampling")
        outside = logits.clone()
        outside[top:bottom, left:right] = OUTSIDE_LOGIT
        assert (outside == OUTSIDE_LOGIT).all()
    assert torch.equal(decoded.box_logits, decoded.logits[top:bottom, left:right])


@torch.inference_mode()
def test_samples_of_a_batch_are_independent(
    head: LocalUpsampling, arrays: dict[str, Any], edges: list[Tensor], assert_close: Any
) -> None:
    head.get_parameter("mlp.6.bias")[:] = arrays["crop_bias"]
    tokens = torch.cat((arrays["tokens"], arrays["tokens"].flip(3)))
    pairs = [torch.cat((edge, edge.roll(1, 3))) for edge in edges]
    together = head(tokens, pairs)
    assert together.boxes[0].tolist() != together.boxes[1].tolist()
    for i in range(2):
        alone = head(tokens[i : i + 1], [edge[i : i + 1] for edge in pairs])
        assert torch.equal(together.boxes[i], alone.boxes[0])
        assert_close(together.logits[i : i + 1], alone.logits, "upsampling")


@torch.no_grad()
def box_by_first_channel(head: LocalUpsampling) -> None:
    """Make the low-resolution logit of a token about its first channel, minus 7."""
    for i in (0, 2, 4, 6):
        weight, bias = head.get_parameter(f"mlp.{i}.weight"), head.get_parameter(f"mlp.{i}.bias")
        nn.init.zeros_(weight)[0, 0] = 1
        nn.init.constant_(bias, -7 if i == 6 else 0)


@pytest.mark.parametrize(
    "box",
    [(0, 0, 6, 6), (0, 0, 2, 3), (3, 0, 6, 1), (0, 4, 1, 6), (5, 5, 6, 6), (2, 1, 5, 4), (3, 3, 4, 4), (0, 2, 6, 4)],
)
@torch.inference_mode()
def test_decoding_by_operators_equals_the_release_at_any_crop(
    head: LocalUpsampling, assert_close: Any, box: tuple[int, int, int, int]
) -> None:
    box_by_first_channel(head)
    rng, grid = torch.Generator().manual_seed(1), 6
    left, top, right, bottom = box
    tokens = torch.randn(1, 256, grid, grid, generator=rng)
    tokens[0, 0] = -10
    tokens[0, 0, top:bottom, left:right] = 10
    sides = [grid << i + 1 for i in range(4)]
    edges = [
        torch.randn(1, channels, side, side, generator=rng)
        for channels, side in zip(PROBE.decoder.pyramid, sides, strict=True)
    ]
    projected = head.project_edges(edges)
    outputs = (*PROBE.decoder.pyramid[1:], 1)
    assert len(projected) == len(EDGE_INPUTS)
    for i, (side, channels) in enumerate(zip(sides, outputs, strict=True)):
        assert projected[i].shape == (side, side, channels)
        assert projected[4 + i].shape == (4, grid, side, channels)
        assert projected[8 + i].shape == (4, grid, grid, channels)

    expected, decoded = head(tokens, edges), head.decode(as_rows(tokens), projected)

    assert expected.boxes.tolist() == [list(box)]
    inside = slice(16 * top, 16 * bottom), slice(16 * left, 16 * right)
    assert_close(decoded.box_logits, expected.logits[0, 0][inside], "upsampling")
    assert_close(decoded.logits, expected.logits[0, 0], "upsampling")


@torch.inference_mode()
def test_full_upsampling_takes_the_whole_map(
    head: LocalUpsampling, arrays: dict[str, Any], edges: list[Tensor], assert_close: Any
) -> None:
    head.get_parameter("mlp.6.bias")[:] = arrays["small_bias"]
    head.upsampling = "full"
    batch = head(arrays["tokens"], edges)
    decoded = head.decode(as_rows(arrays["tokens"]), head.project_edges(edges))
    assert batch.boxes.tolist() == [[0, 0, 16, 16]]
    assert decoded.box.tolist() == [0, 0, 256, 256]
    assert_close(batch.logits, arrays["whole_logits"], "upsampling")
    assert_close(decoded.box_logits, arrays["whole_logits"][0, 0], "upsampling")


def test_training_upsamples_the_whole_map_and_keeps_the_low_resolution_from_the_tokens(
    head: LocalUpsampling, arrays: dict[str, Any], edges: list[Tensor], assert_close: Any
) -> None:
    head.get_parameter("mlp.6.bias").data[:] = arrays["small_bias"]
    tokens = arrays["tokens"].clone().requires_grad_()
    logits, low_res = head.training_forward(tokens, edges)
    assert_close(logits, arrays["whole_logits"], "upsampling")
    (low,) = torch.autograd.grad(low_res.sum(), tokens, allow_unused=True, retain_graph=True)
    assert low is None
    (full,) = torch.autograd.grad(logits.sum(), tokens, retain_graph=True)
    assert full.abs().max() > 0
    (logits.sum() + low_res.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())


class Decoder(nn.Module):
    """click.onnx as a module."""

    def __init__(self, neck: DecoderNeck, head: LocalUpsampling) -> None:
        super().__init__()
        self.neck, self.head = neck, head

    def forward(self, labels: Tensor, image_embedding: Tensor, *edge_inputs: Tensor) -> tuple[Tensor, ...]:
        tokens, edge = self.neck.decode(labels, image_embedding)
        return *self.head.decode(tokens, edge_inputs), tokens, edge


@pytest.mark.parametrize(
    "changes", [{}, {"attention": "vq"}, {"prompt": "dense"}, {"upsampling": "full"}, {"edge_rule": "exact"}], ids=str
)
def test_decoder_exports_as_operators(head: LocalUpsampling, changes: dict[str, Any]) -> None:
    """Traced once, the graph takes other boxes and other numbers of edge tokens."""
    torch.manual_seed(0)
    config = PROBE.with_decoder(**changes).decoder
    box_by_first_channel(head)
    head.upsampling = config.upsampling
    decoder = Decoder(DecoderNeck(config=config), head).eval().requires_grad_(False)
    grid = 4
    edges = [torch.randn(1, c, grid << i + 1, grid << i + 1) for i, c in enumerate(config.pyramid)]
    edge_inputs = head.project_edges(edges)
    unknown = torch.full((64, 64), 2, dtype=torch.uint8)
    exported = torch.export.export(decoder, (unknown, torch.zeros(grid, grid, 256), *edge_inputs), strict=False)

    names = [str(node.target) for node in exported.graph.nodes if str(node.target).startswith(DOMAIN)]
    counts = {name: names.count(f"{DOMAIN}.{name}.default") for name in ("edge_tokens", "prompt_embedding")}
    assert counts == {"edge_tokens": 1, "prompt_embedding": 1}
    assert names.count(f"{DOMAIN}.hybrid_attention.default") == config.layers
    for name in ("hybrid_experts", "norm_linear", "linear_add"):
        assert names.count(f"{DOMAIN}.{name}.default") == config.layers
    assert names.count(f"{DOMAIN}.local_upsample.default") == 4
    assert names.count(f"{DOMAIN}.token_box.default") == (config.upsampling == "local")

    labels = torch.ones_like(unknown)
    labels[16:30, 40:60] = 4
    embedding = torch.randn(grid, grid, 256)
    embedding[..., 0] = -100
    embedding[2, 1:3, 0] = 100
    outputs, expected = (run(labels, embedding, *edge_inputs) for run in (exported.module(), decoder))
    for output, truth in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, truth)
    assert outputs[2].tolist() == ([16, 32, 48, 48] if config.upsampling == "local" else [0, 0, 64, 64])
