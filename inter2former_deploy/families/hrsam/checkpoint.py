"""What sets checkpoints of HRSAM and HRSAM++ apart, and the names that SAM uses; families/checkpoint.py reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from inter2former_deploy.core.errors import CheckpointError
from inter2former_deploy.families.checkpoint import Entry, layout, misfits, shorten
from inter2former_deploy.families.hrsam.config import PRESETS, HRSAMConfig
from inter2former_deploy.families.hrsam.model import HRSAM
from inter2former_deploy.operators.rotary import rotary_frequencies

MODEL = HRSAM
# Window, anchor size and the fused blocks are in no entry, so only a preset tells them.
CONFIGS = tuple(c for preset in PRESETS.values() for c in (preset, preset.without_state_space()))
BUILT_IN = frozenset(("backbone.rope.freqs",))
STRONG = ("neck.point_embeds", "neck.not_a_point", "neck.no_mask", "decode_head.iou_token", "decode_head.mask_tokens")

SAM_NAMES = {  # beginnings of names in SAM's checkpoints -> in ours; the first that fits counts
    "prompt_encoder.pe_layer.": "neck.pos_embed_layer.",
    "prompt_encoder.point_embeddings.": "neck.point_embeds.",
    "prompt_encoder.": "neck.",
    "mask_decoder.": "decode_head.",
}
SAM_ENCODER = "image_encoder."  # SAM's own, which HRSAM replaces


def constants(config: HRSAMConfig) -> dict[str, Tensor]:
    """The rotary frequencies, exact."""
    return {"backbone.rope.freqs": rotary_frequencies(config.encoder.dim // config.encoder.heads)}


def synthetic(name: str, x: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """Normal random numbers brought to the scale that suits an entry's role: with these, every part has a say."""
    if x.ndim == 1:
        slow = np.float32(4 * name.endswith(".ssm_proj_bias"))  # small steps of the scan, so that it remembers
        return np.float32(0.1) * x + np.float32(name.endswith(".weight")) - slow
    if "pos_embed" in name or name.endswith("attn.padding"):
        x = np.float32(0.2) * x
    else:
        x = (x / np.sqrt(math.prod(x.shape[1:]))).astype(np.float32)
    if name.endswith(".As_log"):  # states of different speed
        return x + np.log(np.arange(1, x.shape[1] + 1, dtype=np.float32))
    if name.endswith("gaussian_matrix"):  # clicks beside each other differ
        return x * np.float32(5)
    return x * np.float32(16 if name.startswith(STRONG) else 1)


def from_sam(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a SAM checkpoint that HRSAM takes over, under HRSAM's names: prompt encoder and mask decoder.

    Args:
        state: A state dict of SAM's, of any size; its image encoder may be missing. `load_tensors` reads one.

    Returns:
        All `neck.` and `decode_head.` entries.

    Raises:
        CheckpointError: The state dict is not SAM's, or its decoder is incomplete.
    """
    renamed: dict[str, Tensor] = {}
    foreign = []
    for name, tensor in state.items():
        beginning = next((b for b in SAM_NAMES if name.startswith(b)), None)
        if beginning is not None:
            renamed[SAM_NAMES[beginning] + name.removeprefix(beginning)] = tensor
        elif not name.startswith(SAM_ENCODER):
            foreign.append(name)
    entries = {name: Entry(tuple(t.shape), t.is_floating_point()) for name, t in renamed.items()}
    expected = {name: entry for name, entry in layout(HRSAMConfig()).items() if not name.startswith("backbone.")}
    problems = misfits(entries, expected)
    if foreign:
        problems.append(f"{len(foreign)} neither of SAM's encoders nor of its decoder: {shorten(foreign)}")
    if problems:
        raise CheckpointError(f"this is not a state dict of SAM's: {'; '.join(problems)}")
    return renamed


FOREIGN = {"mask_decoder.": from_sam}
