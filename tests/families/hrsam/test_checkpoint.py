"""State dicts of HRSAM: the released layouts, strict loading, the configuration that fits, and SAM's names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inter2former_deploy.core.errors import CheckpointError
from inter2former_deploy.families.checkpoint import layout, load_initial, load_tensors, synthetic_state_dict
from inter2former_deploy.families.config import load_config, read_config
from inter2former_deploy.families.hrsam.checkpoint import from_sam
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


@pytest.mark.parametrize("name", PRESETS)
def test_released_layouts_without_state_space(name: str) -> None:
    entries = json.loads((REFERENCE / f"layout_{name}.json").read_text())
    config = PRESETS[name].without_state_space()
    assert list(layout(config)) == [entry for entry, _, _ in entries if "mamba_blocks" not in entry]
    assert config.encoder.plus_plus == name.startswith("hrsampp")


@pytest.mark.parametrize("name", ["hrsam_probe", "hrsampp_probe"])
def test_synthetic_weights_are_those_of_the_golden_arrays(name: str, hrsam_weights: Callable[[str], State]) -> None:
    made, expected = synthetic_state_dict(PRESETS[name]), hrsam_weights(name)
    assert list(made) == list(expected)
    for entry, tensor in expected.items():
        assert torch.equal(made[entry], tensor), entry


@pytest.mark.parametrize(("config", "millions"), [(HRSAM_VIT_B, 96), (HRSAMPP_VIT_B, 107)])
def test_parameters_of_the_released_encoders(config: HRSAMConfig, millions: int) -> None:
    with torch.device("meta"):
        encoder = HRSAM(config).backbone
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6) == millions


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


def test_sams_names(tmp_path: Path) -> None:
    torch.save(sam_checkpoint() | {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 1280)}, tmp_path / "sam.pth")
    sams = load_tensors(tmp_path / "sam.pth")
    assert "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in sams
    assert "prompt_encoder.point_embeddings.3.weight" in sams
    assert "mask_decoder.transformer.layers.1.cross_attn_image_to_token.out_proj.bias" in sams
    renamed = from_sam(sams)
    model = HRSAM(HRSAMPP_PROBE)
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(name.startswith("backbone.") for name in missing)
    assert renamed["neck.not_a_point_embed.weight"] is sams["prompt_encoder.not_a_point_embed.weight"]
    assert renamed["decode_head.iou_token.weight"] is sams["mask_decoder.iou_token.weight"]


def test_a_training_starts_from_sams_prompt_encoder_and_decoder(tmp_path: Path) -> None:
    sams = sam_checkpoint()
    torch.save(sams | {"image_encoder.pos_embed": torch.zeros(1)}, tmp_path / "sam.pth")
    state, notes = load_initial(tmp_path / "sam.pth", "hrsam")
    assert state.keys() == from_sam(sams).keys()
    assert all(torch.equal(tensor, from_sam(sams)[name]) for name, tensor in state.items())
    assert notes == ("another model's file: neck, decode_head are taken from it, everything else begins anew",)
    with pytest.raises(CheckpointError, match="fit"):
        load_initial(tmp_path / "sam.pth", "inter2former")
    del sams["mask_decoder.iou_token.weight"]
    torch.save(sams, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part\.pth: this is not a state dict of SAM's: 1 missing"):
        load_initial(tmp_path / "part.pth", "hrsam")


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
        ("encoder", {"anchor_size": 500}, "encoder.anchor_size must be a multiple of 16, got 500"),
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


@pytest.mark.parametrize("config", [*PRESETS.values(), HRSAMPP_PROBE.without_state_space()])
def test_dict_round_trip(config: HRSAMConfig) -> None:
    plain = json.loads(json.dumps(config.to_dict()))
    assert plain["family"] == "hrsam"
    assert HRSAMConfig.from_dict(plain) == read_config(plain) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "must be an object, got list"),
        ({"family": "inter2former"}, "unknown or invalid entry 'family' in the model configuration of hrsam"),
        ({"edges": {}}, "unknown or invalid entry 'edges' in the model configuration of hrsam"),
        ({"encoder": {"states": 0}}, r"encoder\.states: expected a value like 32, got 0"),
        ({"encoder": {"state_space": 1}}, r"encoder\.state_space: expected a value like True, got 1"),
        ({"encoder": {"anchor_size": -16}}, r"encoder\.anchor_size: expected a value like 0, got -16"),
        ({"decoder": {"upscaling": [64]}}, r"decoder\.upscaling must have 2 entries, got \(64,\)"),
        ({"decoder": {"edge_rule": "exact"}}, r"unknown entry decoder\.edge_rule; known: cross_dim, dim"),
    ],
)
def test_invalid_configurations_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HRSAMConfig.from_dict(data)


def test_the_family_of_a_configuration() -> None:
    assert load_config("hrsampp_probe") == HRSAMPP_PROBE
    assert read_config({"encoder": {"window": 8}}).family == "inter2former"  # as files from before there were two
    with pytest.raises(ValueError, match="the family must be one of inter2former, hrsam, got 'sam'"):
        read_config({"family": "sam"})
    with pytest.raises(ValueError, match="hrsam_probe is of the family hrsam; only inter2former can be used here"):
        load_config("hrsam_probe", family="inter2former")
    with pytest.raises(ValueError, match=r"neither a preset \(hrsam_vit_b, hrsampp_vit_b, .*\) nor a file"):
        load_config("vit_x", family="hrsam")


def test_configurations_need_no_torch() -> None:
    code = "import sys, inter2former_deploy.families.config as c; c.presets(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
