"""State dicts of HRSAM and HRSAM++: what they hold, which configuration they fit, and the names that SAM uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor

from inter2former_deploy.core.errors import CheckpointError
from inter2former_deploy.families.hrsam.config import PRESETS, HRSAMConfig
from inter2former_deploy.families.hrsam.model import HRSAM

SAM_NAMES = {  # beginnings of names in SAM's checkpoints -> in ours; the first that fits counts
    "prompt_encoder.pe_layer.": "neck.pos_embed_layer.",
    "prompt_encoder.point_embeddings.": "neck.point_embeds.",
    "prompt_encoder.": "neck.",
    "mask_decoder.": "decode_head.",
}
SAM_ENCODER = "image_encoder."  # SAM's own, which HRSAM replaces
SHOWN = 8  # names listed of each kind of problem


@lru_cache
def layout(config: HRSAMConfig) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of a model's state dict, in the order of a released checkpoint; nothing is allocated."""
    with torch.device("meta"):
        state = HRSAM(config).state_dict()
    return MappingProxyType({name: tuple(t.shape) for name, t in state.items()})


def fitting_config(state: Mapping[str, Tensor]) -> HRSAMConfig:
    """The preset that a state dict fits, with or without state-space modules.

    Window, anchor size and the fused blocks are in no entry, so only a preset tells them.

    Raises:
        CheckpointError: It fits none; the message lists what keeps it from the nearest.
    """
    candidates = [c for preset in PRESETS.values() for c in (preset, preset.without_state_space())]
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    for config in candidates:
        if shapes == layout(config):
            return config
    nearest = max(candidates, key=lambda config: len(shapes.items() & layout(config).items()))
    raise CheckpointError(
        f"the state dict fits none of the presets {', '.join(PRESETS)}. "
        f"What does not fit {_describe(nearest)}: {'; '.join(_misfits(shapes, layout(nearest)))}"
    )


def model_of(state: Mapping[str, Tensor], config: HRSAMConfig | None = None) -> HRSAM:
    """The model of a state dict, in evaluation mode.

    Args:
        state: All entries, and no others; of any floating-point type, they become float32.
        config: The configuration that it must fit; by default the preset that fits.

    Raises:
        CheckpointError: The entries do not fit; the message lists all kinds of problems.
    """
    config = config or fitting_config(state)
    if problems := _misfits({name: tuple(t.shape) for name, t in state.items()}, layout(config)):
        raise CheckpointError(f"the state dict does not fit {_describe(config)}: {'; '.join(problems)}")
    model = HRSAM(config)
    model.load_state_dict(dict(state))
    return model.eval()


def from_sam(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a SAM checkpoint that HRSAM takes over, under HRSAM's names: prompt encoder and mask decoder.

    Args:
        state: A state dict of SAM's, of any size; its image encoder may be missing.

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
    expected = {n: s for n, s in layout(HRSAMConfig()).items() if not n.startswith("backbone.")}
    problems = _misfits({name: tuple(t.shape) for name, t in renamed.items()}, expected)
    if foreign:
        problems.append(f"{len(foreign)} neither of SAM's encoders nor of its decoder: {_some(foreign)}")
    if problems:
        raise CheckpointError(f"this is not a state dict of SAM's: {'; '.join(problems)}")
    return renamed


def _misfits(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """All that keeps entries from being the expected ones, one text for each kind."""
    wrong = [
        f"{name} ({list(shape)}, expected {list(expected[name])})"
        for name, shape in shapes.items()
        if name in expected and shape != expected[name]
    ]
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    return [f"{len(found)} {kind}: {_some(found)}" for kind, found in kinds.items() if found]


def _describe(config: HRSAMConfig) -> str:
    return f"{config.name!r}{'' if config.encoder.state_space else ' without state-space modules'}"


def _some(names: Iterable[str]) -> str:
    """The first names of a list that comes from a file: not too many, not too long, without control characters."""
    names = list(names)
    shown = [name[:120] if name.isprintable() else repr(name[:120]) for name in names[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
