"""Configurations: presets, files, and what is refused."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from inter2former_deploy.families.config import load_config
from inter2former_deploy.families.inter2former.config import PRESETS, PROBE, VIT_B, ModelConfig


@pytest.mark.parametrize("config", [*PRESETS.values(), PROBE.with_decoder(edge_rule="exact", attention="vq")])
def test_dict_round_trip(config: ModelConfig) -> None:
    plain = json.loads(json.dumps(config.to_dict()))
    assert ModelConfig.from_dict(plain) == config


def test_missing_entries_keep_their_defaults() -> None:
    config = ModelConfig.from_dict({"name": "mine", "decoder": {"edge_rule": "exact"}})
    assert config == replace(VIT_B.with_decoder(edge_rule="exact"), name="mine")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "must be an object, got list"),
        ({"name": 1}, "unknown or invalid entry 'name'"),
        ({"sizes": 1}, "unknown or invalid entry 'sizes'"),
        ({"encoder": 3}, "encoder must be an object"),
        ({"encoder": {"layers": 3}}, r"unknown entry encoder\.layers; known: anchor_size, depth"),
        ({"encoder": {"depth": "12"}}, r"encoder\.depth: expected a value like 12, got '12'"),
        ({"encoder": {"depth": True}}, r"encoder\.depth"),
        ({"encoder": {"depth": 12.0}}, r"encoder\.depth"),
        ({"encoder": {"depth": 0}}, r"encoder\.depth"),
        ({"encoder": {"fusion_after": [0, -1]}}, r"encoder\.fusion_after"),
        ({"encoder": {"fusion_after": [0, "1"]}}, r"encoder\.fusion_after"),
        ({"encoder": {"fusion_after": 3}}, r"encoder\.fusion_after"),
        ({"encoder": {"fusion_after": []}}, "at least one block"),
        ({"encoder": {"fusion_after": [3, 2]}}, "must be ascending"),
        ({"encoder": {"fusion_after": [2, 12]}}, "must be ascending block indices below 12"),
        ({"encoder": {"dim": 100}}, r"encoder\.dim / encoder\.heads must be a multiple of 4"),
        ({"encoder": {"anchor_size": 100}}, "multiple of 16"),
        ({"decoder": {"attention_dim": 30}}, r"decoder\.attention_dim / decoder\.heads"),
        ({"decoder": {"code_bits": 13}}, "must be 1 to 12"),
        ({"decoder": {"pyramid": [256, 64, 16]}}, "must have 4 entries"),
        ({"decoder": {"prompt_channels": [1, 2, 3, 4]}}, r"must end with decoder\.pyramid\[0\]"),
        ({"decoder": {"edge_rule": "paper"}}, r"edge_rule must be one of \('released', 'exact'\)"),
        ({"decoder": {"attention": "sparse"}}, "attention must be one of"),
        ({"decoder": {"prompt": "none"}}, "prompt must be one of"),
        ({"decoder": {"upsampling": "half"}}, "upsampling must be one of"),
        ({"decoder": {"upsampling": 1}}, r"decoder\.upsampling: expected a value like 'local'"),
    ],
)
def test_invalid_configurations_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict(data)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"code_bits.*edge_rule"):
        PROBE.with_decoder(code_bits=20, edge_rule="paper")


def test_configurations_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        VIT_B.decoder.layers = 3  # type: ignore[misc]


def test_load_config(tmp_path: Path) -> None:
    assert load_config("probe") is PROBE
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(PROBE.to_dict()))
    assert load_config(path) == PROBE
    with pytest.raises(ValueError, match=r"neither a preset .*vit_b.* nor a file"):
        load_config("vit_x")
    for content in (b"{", b"\xff\xfe", b"[1]"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"not a JSON configuration|must be an object"):
            load_config(path)
