"""All numbers of an HRSAM or HRSAM++ model, in frozen dataclasses, and the presets. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from inter2former_deploy.families.config import Config, EncoderConfig

PAD_MULTIPLE = 32  # images are padded to multiples of this before they are resized
MASK_STRIDE = 4  # model pixels a pixel of the mask logits


@dataclass(frozen=True, kw_only=True)
class HRSAMEncoderConfig(EncoderConfig):
    """The image encoder, with state-space modules and an anchor map or without either."""

    anchor_size: int = 0  # side of the anchor map of HRSAM++, pixels; 0: no anchor map (HRSAM)
    state_space: bool = True  # state-space modules around these blocks; without them: the paper's baseline
    states: int = 32  # states of a channel in the selective scan
    repeats: int = 3  # passes of the cycle scan over its sequence

    @property
    def plus_plus(self) -> bool:
        """Whether this is HRSAM++: a second, small map of the image goes through the encoder as well."""
        return self.anchor_size > 0


@dataclass(frozen=True, kw_only=True)
class HRSAMDecoderConfig:
    """Prompt encoder and mask decoder, both as in SAM."""

    dim: int = 256  # channels of image embedding and tokens
    layers: int = 2  # two-way transformer layers
    heads: int = 8  # attention heads
    cross_dim: int = 128  # width of q, k and v between tokens and image, over all heads
    mlp_hidden: int = 2048  # hidden width of the MLP of a layer
    mask_tokens: int = 4  # masks that are decoded at once; sessions use the first
    upscaling: tuple[int, int] = (64, 32)  # channels of the image tokens after each doubling of their side
    mask_prompt: tuple[int, int] = (4, 16)  # channels of the previous mask after each halving of its side
    position_grid: int = 64  # side of the grid on which the position map is made, tokens


@dataclass(frozen=True, kw_only=True)
class HRSAMConfig(Config):
    """One HRSAM or HRSAM++ model."""

    family: ClassVar[str] = "hrsam"
    name: str = "hrsam_vit_b"
    encoder: HRSAMEncoderConfig = field(default_factory=HRSAMEncoderConfig)
    decoder: HRSAMDecoderConfig = field(default_factory=HRSAMDecoderConfig)

    def problems(self) -> Iterable[tuple[bool, str]]:
        """What makes a model impossible: whether it is so here, and how to say it."""
        e, d = self.encoder, self.decoder
        return (
            *e.problems(),
            (
                min(e.states, e.repeats) < 1,
                f"encoder.states and encoder.repeats must be at least 1, got {e.states} and {e.repeats}",
            ),
            (d.dim % 2 != 0, f"decoder.dim must be even (sine and cosine of a position), got {d.dim}"),
            (
                d.dim % d.heads != 0 or d.cross_dim % d.heads != 0,
                f"decoder.dim and decoder.cross_dim must be multiples of decoder.heads, "
                f"got {d.dim}, {d.cross_dim} and {d.heads}",
            ),
            (d.mask_tokens < 1, f"decoder.mask_tokens must be at least 1, got {d.mask_tokens}"),
            *(
                (len(getattr(d, name)) != 2, f"decoder.{name} must have 2 entries, got {getattr(d, name)}")
                for name in ("upscaling", "mask_prompt")
            ),
        )

    @property
    def description(self) -> str:
        """The configuration for people, in messages."""
        return f"{self.name!r}{'' if self.encoder.state_space else ' without state-space modules'}"

    def without_state_space(self) -> HRSAMConfig:
        """The same model without its state-space modules."""
        return replace(self, encoder=replace(self.encoder, state_space=False))


CONFIG = HRSAMConfig  # the class of this family's configurations
HRSAM_VIT_B = HRSAMConfig()
HRSAMPP_VIT_B = HRSAMConfig(name="hrsampp_vit_b", encoder=HRSAMEncoderConfig(anchor_size=512))
_PROBE = HRSAMEncoderConfig(depth=5, dim=64, heads=2, window=4, pos_grid=4, fusion_after=(1, 2, 4), states=8)
HRSAM_PROBE = HRSAMConfig(name="hrsam_probe", encoder=_PROBE)
HRSAMPP_PROBE = HRSAMConfig(name="hrsampp_probe", encoder=replace(_PROBE, anchor_size=64))
PRESETS = {config.name: config for config in (HRSAM_VIT_B, HRSAMPP_VIT_B, HRSAM_PROBE, HRSAMPP_PROBE)}

VARIANTS: dict[str, Callable[[HRSAMConfig], HRSAMConfig]] = {  # for `i2f ablate`: the paper's baseline beside the model
    "with state-space modules": lambda config: config,
    "without state-space modules": HRSAMConfig.without_state_space,
}
TRAINED_AS_FIRST: tuple[str, ...] = ()
