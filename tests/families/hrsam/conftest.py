"""The weights behind HRSAM's golden arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from make_weights import state_dict

from inter2former_deploy.families.hrsam.config import PRESETS
from inter2former_deploy.families.hrsam.model import HRSAM

SEED = 7
DRIVEN = ("neck.point_embeds", "neck.not_a_point", "neck.no_mask", "decode_head.iou_token", "decode_head.mask_tokens")
NORMS = (
    "neck.mask_downscaling.1.weight",
    "neck.mask_downscaling.4.weight",
    "decode_head.output_upscaling.1.weight",
)


def _weights(layout: str) -> dict[str, torch.Tensor]:
    """The synthetic state dict of a layout, changed as tests/golden/README.md says so that every part has a say."""
    weights = state_dict(layout, SEED)
    for name, value in weights.items():
        if name.endswith(".As_log"):
            value = value + np.log(np.arange(1, value.shape[1] + 1, dtype=np.float32))
        elif name.endswith(".ssm_proj_bias"):
            value = value - np.float32(4)
        elif name.endswith("gaussian_matrix"):
            value = value * np.float32(5)
        elif name.startswith(DRIVEN):
            value = value * np.float32(16)
        elif name in NORMS:
            value = value + np.float32(1)
        weights[name] = value
    return {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}


@pytest.fixture(scope="session")
def hrsam_models() -> Callable[[str], HRSAM]:
    """`hrsam_models("hrsam_probe")`: the model behind the golden arrays, in evaluation mode; do not change it."""
    made: dict[str, Any] = {}

    def model(name: str) -> HRSAM:
        if name not in made:
            with torch.inference_mode(False):  # whatever mode the first test that asks for it is in
                made[name] = HRSAM(PRESETS[name]).eval()
                made[name].load_state_dict(_weights(name))
        return made[name]

    return model


@pytest.fixture(scope="session")
def hrsam_weights() -> Callable[[str], dict[str, torch.Tensor]]:
    """The state dict behind the golden arrays."""
    return _weights
