"""What sets checkpoints of Inter2Former apart; families/checkpoint.py reads them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from inter2former_deploy.families.inter2former.config import PRESETS, ModelConfig
from inter2former_deploy.families.inter2former.modules.edges import Canny
from inter2former_deploy.families.inter2former.modules.model import Inter2Former
from inter2former_deploy.operators.rotary import rotary_frequencies

MODEL = Inter2Former
CONFIGS = tuple(PRESETS.values())
FOREIGN: dict[str, Any] = {}
# The blur of Canny's filters is a constant as well, but one that the operators take as an input.
BUILT_IN = frozenset(
    ("backbone.rope.freqs", *(f"edge_detector.canny.{name}.weight" for name in ("sobh", "sobv", "dirf")))
)
SCALES = {"codebook": 0.7, "ref_embeds": 0.7, "pos_embed": 0.2, "attn.padding": 0.2, "select_ffn_b": 0.1}


def constants(config: ModelConfig) -> dict[str, Tensor]:
    """Canny's filters and the rotary frequencies, exact."""
    fixed = {f"edge_detector.canny.{name}": weight for name, weight in Canny().state_dict().items()}
    return fixed | {"backbone.rope.freqs": rotary_frequencies(config.encoder.dim // config.encoder.heads)}


def synthetic(name: str, x: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """Normal random numbers brought to the scale that suits an entry's role."""
    if x.ndim == 1:
        return np.float32(0.1) * x + np.float32(name.endswith(".weight"))  # of a norm
    for part, scale in SCALES.items():
        if part in name:
            return np.float32(scale) * x
    # 1 / sqrt(fan in); twice that for decisions, so that they differ clearly from token to token.
    gain = 2 if any(part in name for part in ("expert_gate", "shared_gate", "code_proj")) else 1
    fan_in = x.shape[-1] if "select_ffn_w" in name else math.prod(x.shape[1:])
    return gain * x.astype(np.float64) / math.sqrt(fan_in)
