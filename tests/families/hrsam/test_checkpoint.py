"""State dicts of HRSAM: the released layouts, strict loading, the configuration that fits, and SAM's names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inter2former_deploy.core.errors import CheckpointError
from inter2former_deploy.families.hrsam.checkpoint import fitting_config, from_sam, layout, model_of
from inter2former_deploy.families.hrsam.config import (
    HRSAM_VIT_B,
    HRSAMPP_PROBE,
    HRSAMPP_VIT_B,
    PRESETS,
    HRSAMConfig,
    HRSAMDecoderConfig,
    HRSAMEncoderConfig,
)
from inter2former_deploy.families.hrsam.model import HRSAM

REFERENCE = Path(__file__).parents[2] / "reference"
State = dict[str, torch.Tensor]


def released(name: str) -> State:
    """A state dict of a released layout; nothing is allocated."""
    entries = json.loads((REFERENCE / f"layout_{name}.json").read_text())
    return {name: torch.empty(shape, device="meta", dtype=getattr(torch, dtype)) for name, shape, dtype in entries}


@pytest.mark.parametrize("name", PRESETS)
def test_released_layouts(name: str) -> None:
    """Every entry, in its order, and no other; strictly loaded."""
    state = released(name)
    assert list(layout(PRESETS[name]).items()) == [(name, tuple(t.shape)) for name, t in state.items()]
    with torch.device("meta"):
        model = HRSAM(PRESETS[name])
    model.load_state_dict(state, strict=True, assign=True)
    assert fitting_config(state) == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_released_layouts_without_state_space(name: str) -> None:
    state = {name: t for name, t in released(name).items() if "mamba_blocks" not in name}
    config = fitting_config(state)
    assert config == PRESETS[name].without_state_space()
    assert list(layout(config)) == list(state)
    assert config.encoder.plus_plus == name.startswith("hrsampp")


@pytest.mark.parametrize(("config", "millions"), [(HRSAM_VIT_B, 96), (HRSAMPP_VIT_B, 107)])
def test_parameters_of_the_released_encoders(config: HRSAMConfig, millions: int) -> None:
    with torch.device("meta"):
        encoder = HRSAM(config).backbone
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6) == millions


def test_model_of_a_state_dict() -> None:
    torch.manual_seed(0)
    state = HRSAM(HRSAMPP_PROBE).state_dict()
    model = model_of({name: t.half() for name, t in state.items()})
    assert model.config == HRSAMPP_PROBE
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].half().float())


def test_misfits_are_listed() -> None:
    state = released("hrsampp_probe")
    del state["backbone.ms_mamba_blocks.0.gamma"]
    state["backbone.ss_mamba_blocks.1.As_log"] = torch.zeros(64, 16)
    state["extra\x1b[31m"] = torch.zeros(1)
    expected = [
        "does not fit 'hrsampp_probe'",
        "1 missing: backbone.ms_mamba_blocks.0.gamma",
        "1 unexpected: 'extra\\x1b[31m'",
        "1 of another shape: backbone.ss_mamba_blocks.1.As_log ([64, 16], expected [64, 8])",
    ]
    for call in (lambda: model_of(state, HRSAMPP_PROBE), lambda: fitting_config(state)):
        with pytest.raises(CheckpointError) as error:
            call()
        for text in expected:
            assert text.removeprefix("does not fit") in str(error.value)
    with pytest.raises(CheckpointError, match="fits none of the presets hrsam_vit_b, hrsampp_vit_b"):
        model_of({})


def sam_checkpoint() -> State:
    """Prompt encoder and mask decoder as SAM names them."""
    ours = {name: t for name, t in HRSAM(HRSAMPP_PROBE).state_dict().items() if not name.startswith("backbone.")}
    longer = {
        "neck.pos_embed_layer.": "prompt_encoder.pe_layer.",
        "neck.point_embeds.": "prompt_encoder.point_embeddings.",
    }
    renamed = {}
    for name, tensor in ours.items():
        start = next((s for s in longer if name.startswith(s)), None)
        if start is None:
            sams = name.replace("neck.", "prompt_encoder.", 1).replace("decode_head.", "mask_decoder.", 1)
        else:
            sams = longer[start] + name[len(start) :]
        renamed[sams] = tensor
    return renamed


def test_sams_names() -> None:
    sams = sam_checkpoint()
    assert "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in sams
    assert "prompt_encoder.point_embeddings.3.weight" in sams
    assert "mask_decoder.transformer.layers.1.cross_attn_image_to_token.out_proj.bias" in sams
    renamed = from_sam(sams | {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 1280)})
    model = HRSAM(HRSAMPP_PROBE)
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(name.startswith("backbone.") for name in missing)
    assert renamed["neck.not_a_point_embed.weight"] is sams["prompt_encoder.not_a_point_embed.weight"]
    assert renamed["decode_head.iou_token.weight"] is sams["mask_decoder.iou_token.weight"]


def test_other_state_dicts_are_not_sams() -> None:
    sams = sam_checkpoint()
    del sams["mask_decoder.iou_token.weight"]
    with pytest.raises(CheckpointError, match=r"not a state dict of SAM's: 1 missing: decode_head\.iou_token\.weight"):
        from_sam(sams | {"image_encoder.pos_embed": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"neither of SAM's encoders nor of its decoder: backbone\.pos_embed"):
        from_sam(sam_checkpoint() | {"backbone.pos_embed": torch.zeros(1)})


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("encoder", {"heads": 7}, "encoder.dim / encoder.heads must be a multiple of 4, got 768 / 7"),
        ("encoder", {"anchor_size": 500}, "encoder.anchor_size must be 0 or a multiple of 16, got 500"),
        ("encoder", {"fusion_after": (2, 12)}, "ascending block indices below 12"),
        ("encoder", {"fusion_after": (5, 2)}, "ascending block indices below 12"),
        ("encoder", {"fusion_after": ()}, "must name at least one block"),
        ("encoder", {"repeats": 0}, "must be at least 1, got 32 and 0"),
        ("decoder", {"heads": 3}, "must be multiples of decoder.heads, got 256, 128 and 3"),
        ("decoder", {"dim": 255}, "decoder.dim must be even"),
        ("decoder", {"mask_tokens": 0}, "decoder.mask_tokens must be at least 1"),
    ],
)
def test_impossible_configurations_are_refused(section: str, changes: dict[str, Any], message: str) -> None:
    kind = {"encoder": HRSAMEncoderConfig, "decoder": HRSAMDecoderConfig}[section]
    with pytest.raises(ValueError, match=message):
        HRSAMConfig(**{section: kind(**changes)})
    assert replace(HRSAM_VIT_B, name="other") != HRSAM_VIT_B


def test_configurations_need_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, inter2former_deploy.families.hrsam.config; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
