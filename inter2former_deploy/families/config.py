"""What the configurations of all families have in common: sections of numbers, presets, and how they are read as JSON.

No torch here: the manifest of a bundle carries a configuration, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from inter2former_deploy.families import FAMILIES, part

if TYPE_CHECKING:
    from typing_extensions import Self

PATCH = 16  # side of a token, pixels


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The image encoder of Inter2Former, which is HRSAM++'s without its state-space modules."""

    depth: int = 12  # transformer blocks
    dim: int = 768  # channels of a token
    heads: int = 12  # attention heads; dim / heads must be a multiple of 4 (rotary embedding)
    window: int = 16  # side of an attention window, tokens
    pos_grid: int = 14  # side of the learned position grid, tokens
    anchor_size: int = 256  # side of the anchor map, pixels
    fusion_after: tuple[int, ...] = (2, 5, 8, 11)  # blocks whose output the multi-scale fusion takes

    def problems(self) -> Iterable[tuple[bool, str]]:
        """What makes a model impossible: whether it is so here, and how to say it."""
        return (
            (
                self.dim % (4 * self.heads) != 0,
                f"encoder.dim / encoder.heads must be a multiple of 4, got {self.dim} / {self.heads}",
            ),
            (
                self.anchor_size < 0 or self.anchor_size % PATCH != 0,
                f"encoder.anchor_size must be a multiple of {PATCH}, got {self.anchor_size}",
            ),
            (
                not {*self.fusion_after} <= {*range(self.depth)}
                or list(self.fusion_after) != sorted({*self.fusion_after}),
                f"encoder.fusion_after must be ascending block indices below {self.depth}, got {self.fusion_after}",
            ),
            (not self.fusion_after, "encoder.fusion_after must name at least one block"),
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A model of any family. Besides the name, each field of a family's configuration is a section, a dataclass.

    Raises:
        ValueError: No model can have these numbers; the message lists all problems.
    """

    family: ClassVar[str]
    name: str
    encoder: EncoderConfig
    decoder: Any

    def __post_init__(self) -> None:
        if problems := [text for bad, text in self.problems() if bad]:
            raise ValueError("; ".join(problems))

    def problems(self) -> Iterable[tuple[bool, str]]:
        """What makes a model impossible: whether it is so here, and how to say it."""
        return self.encoder.problems()

    @property
    def description(self) -> str:
        """The configuration for people, in messages."""
        return repr(self.name)

    def with_decoder(self, **changes: Any) -> Self:
        """The same model with some decoder numbers changed, e.g. `with_decoder(edge_rule="exact")`."""
        return replace(self, decoder=replace(self.decoder, **changes))

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, as the manifest and checkpoint metadata carry them."""
        result: dict[str, Any] = json.loads(json.dumps({"family": self.family, **asdict(self)}))
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; missing entries keep their defaults.

        Raises:
            ValueError: An entry is unknown or has a wrong type.
        """
        if not isinstance(data, dict):
            raise ValueError(f"a model configuration must be an object, got {type(data).__name__}")
        sections = {f.name: f.default_factory for f in fields(cls) if f.default_factory is not MISSING}
        built: dict[str, Any] = {}
        for key, value in data.items():
            if key in sections:
                built[key] = _section(sections[key](), value, key)
            elif key == "name" and isinstance(value, str):
                built[key] = value
            elif key != "family" or value != cls.family:
                raise ValueError(f"unknown or invalid entry {key!r} in the model configuration of {cls.family}")
        return cls(**built)


def _section(defaults: Any, data: Any, section: str) -> Any:
    """The section with the numbers of `data`, each of the type that it has in `defaults`."""
    if not isinstance(data, dict):
        raise ValueError(f"{section} must be an object, got {type(data).__name__}")
    values: dict[str, Any] = {}
    known = {f.name for f in fields(defaults)}
    for key, value in data.items():
        if key not in known:
            raise ValueError(f"unknown entry {section}.{key}; known: {', '.join(sorted(known))}")
        default = getattr(defaults, key)
        kind = type(default)
        if kind is tuple:
            ok = isinstance(value, list | tuple) and all(type(v) is int for v in value)
            value = tuple(value) if ok else value
        else:
            ok = type(value) is kind
        if not ok or (kind is int and value < min(1, default)) or (kind is tuple and any(v < 0 for v in value)):
            raise ValueError(f"{section}.{key}: expected a value like {default!r}, got {value!r}")
        values[key] = value
    return replace(defaults, **values)


def presets() -> dict[str, Config]:
    """The presets of all families by their names."""
    return {name: config for family in FAMILIES for name, config in part(family, "config").PRESETS.items()}


def read_config(data: Any) -> Any:
    """The configuration whose `to_dict` gave this, of the class of its family; Inter2Former where none is stated.

    Raises:
        ValueError: It is none.
    """
    family = data.get("family", "inter2former") if isinstance(data, dict) else "inter2former"
    return part(family, "config").CONFIG.from_dict(data)


def load_config(name_or_path: str | Path, *, family: str | None = None) -> Any:
    """A preset by name, or a JSON file with the entries of a configuration.

    Args:
        name_or_path: Of the preset or file.
        family: The only one that is of use; any where None.

    Raises:
        ValueError: Neither a preset nor a readable configuration file, or of another family.
    """
    known = {name: c for name, c in presets().items() if family in (None, c.family)}
    config: Any = presets().get(str(name_or_path))
    if config is None:
        path = Path(name_or_path)
        if not path.is_file():
            raise ValueError(f"{name_or_path!s} is neither a preset ({', '.join(known)}) nor a file")
        try:
            data = json.loads(path.read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a JSON configuration: {error}") from error
        config = read_config(data)
    if family not in (None, config.family):
        raise ValueError(f"{name_or_path!s} is of the family {config.family}; only {family} can be used here")
    return config
