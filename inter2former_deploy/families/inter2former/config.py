"""All numbers of an Inter2Former model, in frozen dataclasses, and the presets. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from inter2former_deploy.families.config import PATCH as PATCH
from inter2former_deploy.families.config import Config
from inter2former_deploy.families.config import EncoderConfig as EncoderConfig

EdgeRule = Literal["released", "exact"]
Attention = Literal["hybrid", "full", "bsq", "vq"]
Prompt = Literal["dynamic", "dense"]
Upsampling = Literal["local", "full"]
_CHOICES = {"edge_rule": EdgeRule, "attention": Attention, "prompt": Prompt, "upsampling": Upsampling}


@dataclass(frozen=True, kw_only=True)
class EdgeNetworkConfig:
    """The edge network on Canny maps. Its channels are the decoder's `pyramid`, reversed."""

    blocks: int = 4  # residual blocks a stage


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The dense-token decoder: prompt embedding, hybrid layers, local upsampling."""

    layers: int = 2  # hybrid layers
    attention_dim: int = 32  # width of q, k and v over all heads
    heads: int = 1  # attention heads; attention_dim / heads must be a multiple of 4
    code_bits: int = 8  # bits of a BSQ code: 2**code_bits codewords
    experts: int = 8  # routed experts
    expert_hidden: int = 64  # hidden width of every expert
    prompt_channels: tuple[int, ...] = (32, 64, 128, 256)  # prompt convolutions of stride 2; the last is pyramid[0]
    pyramid: tuple[int, ...] = (256, 64, 16, 4)  # channels of tokens, then of upsampling stages, coarse to fine
    edge_rule: EdgeRule = "released"  # which tokens are edge tokens: as the release computes it, or the paper's Eq. 4
    attention: Attention = "hybrid"  # the paper's ablations: all full, all BSQ, all VQ (Eq. 7-9)
    prompt: Prompt = "dynamic"  # prompt convolutions around the object, or on the whole map
    upsampling: Upsampling = "local"  # upsampling around the object, or of the whole map

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.pyramid[0]


STAGES = 4  # of stride 2 in prompt embedding and in upsampling: PATCH is 2 to the power of it
PAD_MULTIPLE = 256  # images are padded to multiples of this before they are made square, pixels
OUTSIDE_LOGIT = -100.0  # of pixels outside the upsampled box


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """One Inter2Former model."""

    family: ClassVar[str] = "inter2former"
    name: str = "vit_b"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    edges: EdgeNetworkConfig = field(default_factory=EdgeNetworkConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def problems(self) -> Iterable[tuple[bool, str]]:
        """What makes a model impossible: whether it is so here, and how to say it."""
        d = self.decoder
        return (
            *self.encoder.problems(),
            (self.encoder.anchor_size == 0, "encoder.anchor_size must be at least 16, got 0"),
            (
                d.attention_dim % (4 * d.heads) != 0,
                f"decoder.attention_dim / decoder.heads must be a multiple of 4, got {d.attention_dim} / {d.heads}",
            ),
            (d.attention_dim > 256 * d.heads, "decoder.attention_dim / heads must be at most 256"),
            (not 1 <= d.code_bits <= 12, f"decoder.code_bits must be 1 to 12, got {d.code_bits}"),
            (len(d.pyramid) != 4, f"decoder.pyramid must have 4 entries, got {d.pyramid}"),
            (len(d.prompt_channels) != 4, f"decoder.prompt_channels must have 4 entries, got {d.prompt_channels}"),
            (
                d.prompt_channels[-1] != d.pyramid[0],
                f"decoder.prompt_channels must end with decoder.pyramid[0], got {d.prompt_channels}, {d.pyramid}",
            ),
            *(
                (
                    getattr(d, name) not in get_args(choices),
                    f"decoder.{name} must be one of {get_args(choices)}, got {getattr(d, name)!r}",
                )
                for name, choices in _CHOICES.items()
            ),
        )


CONFIG = ModelConfig  # the class of this family's configurations
VIT_B = ModelConfig()
PROBE = ModelConfig(
    name="probe",
    encoder=EncoderConfig(depth=4, dim=64, heads=2, window=4, pos_grid=4, anchor_size=64, fusion_after=(0, 1, 2, 3)),
    edges=EdgeNetworkConfig(blocks=1),
)
DEMO = ModelConfig(  # the bundled weights: trains on two CPU cores, and still uses every part
    name="demo",
    encoder=EncoderConfig(depth=6, dim=192, heads=6, window=8, pos_grid=16, anchor_size=128, fusion_after=(1, 3, 5)),
    edges=EdgeNetworkConfig(blocks=1),
    decoder=DecoderConfig(
        attention_dim=64,
        heads=2,
        expert_hidden=64,
        prompt_channels=(16, 32, 64, 128),
        pyramid=(128, 32, 16, 8),
        edge_rule="exact",
    ),
)
PRESETS = {config.name: config for config in (VIT_B, PROBE, DEMO)}

_WHOLE = {"attention": "hybrid", "prompt": "dynamic", "upsampling": "local", "edge_rule": "exact"}


def _variant(**changes: str) -> Callable[[ModelConfig], ModelConfig]:
    return lambda config: config.with_decoder(**{**_WHOLE, **changes})


VARIANTS: dict[str, Callable[[ModelConfig], ModelConfig]] = {  # for `i2f ablate`: the paper's Table 2
    "hybrid, dynamic prompt, local upsampling, exact edges": _variant(),
    "all full attention": _variant(attention="full"),
    "all BSQ attention": _variant(attention="bsq"),
    "all VQ attention": _variant(attention="vq"),
    "dense prompt": _variant(prompt="dense"),
    "full upsampling": _variant(upsampling="full"),
    "edge rule as released": _variant(edge_rule="released"),
}
TRAINED_AS_FIRST = ("full upsampling",)  # training upsamples the whole map anyway
