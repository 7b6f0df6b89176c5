"""All numbers of a model, in frozen dataclasses: presets, a JSON file, or the metadata of a checkpoint.

No torch here: the manifest of a bundle carries the same configuration.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

EdgeRule = Literal["released", "exact"]
Attention = Literal["hybrid", "full", "bsq", "vq"]
Prompt = Literal["dynamic", "dense"]
Upsampling = Literal["local", "full"]
_CHOICES = {"edge_rule": EdgeRule, "attention": Attention, "prompt": Prompt, "upsampling": Upsampling}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The HRSAM++ image encoder."""

    depth: int = 12  # transformer blocks
    dim: int = 768  # channels of a token
    heads: int = 12  # attention heads; dim / heads must be a multiple of 4 (rotary embedding)
    window: int = 16  # side of an attention window, tokens
    pos_grid: int = 14  # side of the learned position grid, tokens
    anchor_size: int = 256  # side of the anchor map, pixels
    fusion_after: tuple[int, ...] = (2, 5, 8, 11)  # blocks whose output the multi-scale fusion takes


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


PATCH = 16  # side of a token, pixels; four stride-2 stages in prompt embedding and upsampling make it so


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One Inter2Former model."""

    name: str = "vit_b"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    edges: EdgeNetworkConfig = field(default_factory=EdgeNetworkConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    def __post_init__(self) -> None:
        e, d = self.encoder, self.decoder
        problems = [
            text
            for bad, text in (
                (
                    e.dim % (4 * e.heads) != 0,
                    f"encoder.dim / encoder.heads must be a multiple of 4, got {e.dim} / {e.heads}",
                ),
                (e.anchor_size % PATCH != 0, f"encoder.anchor_size must be a multiple of {PATCH}, got {e.anchor_size}"),
                (
                    not {*e.fusion_after} <= {*range(e.depth)} or list(e.fusion_after) != sorted({*e.fusion_after}),
                    f"encoder.fusion_after must be ascending block indices below {e.depth}, got {e.fusion_after}",
                ),
                (not e.fusion_after, "encoder.fusion_after must name at least one block"),
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
            if bad
        ]
        if problems:
            raise ValueError("; ".join(problems))

    def with_decoder(self, **changes: Any) -> ModelConfig:
        """The same model with some decoder numbers changed, e.g. `with_decoder(edge_rule="exact")`."""
        return replace(self, decoder=replace(self.decoder, **changes))

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, as the manifest and checkpoint metadata carry them."""
        result: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`; missing entries keep their defaults.

        Raises:
            ValueError: an entry is unknown or has a wrong type.
        """
        sections = {"encoder": EncoderConfig, "edges": EdgeNetworkConfig, "decoder": DecoderConfig}
        if not isinstance(data, dict):
            raise ValueError(f"a model configuration must be an object, got {type(data).__name__}")
        built: dict[str, Any] = {}
        for key, value in data.items():
            if key in sections:
                built[key] = _section(sections[key], value, key)
            elif key == "name" and isinstance(value, str):
                built[key] = value
            else:
                raise ValueError(f"unknown or invalid entry {key!r} in the model configuration")
        return cls(**built)


def _section(cls: type, data: Any, section: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{section} must be an object, got {type(data).__name__}")
    defaults = cls()
    values: dict[str, Any] = {}
    known = {f.name for f in fields(cls)}
    for key, value in data.items():
        if key not in known:
            raise ValueError(f"unknown entry {section}.{key}; known: {', '.join(sorted(known))}")
        kind = type(getattr(defaults, key))
        if kind is tuple:
            ok = isinstance(value, list | tuple) and all(type(v) is int for v in value)
            value = tuple(value) if ok else value
        else:
            ok = type(value) is kind
        if not ok or (kind is int and value < 1) or (kind is tuple and any(v < 0 for v in value)):
            raise ValueError(f"{section}.{key}: expected a value like {getattr(defaults, key)!r}, got {value!r}")
        values[key] = value
    return cls(**values)


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


def load_config(name_or_path: str | Path) -> ModelConfig:
    """A preset by name, or a JSON file with the entries of `ModelConfig`.

    Raises:
        ValueError: neither a preset nor a readable configuration file.
    """
    if str(name_or_path) in PRESETS:
        return PRESETS[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(f"{name_or_path!s} is neither a preset ({', '.join(PRESETS)}) nor a file")
    try:
        data = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON configuration: {error}") from error
    return ModelConfig.from_dict(data)
