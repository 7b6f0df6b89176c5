"""manifest.json: what a bundle is, written last by the exporter and checked first by the runtime.

No torch and no onnxruntime here: both sides read it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from inter2former_deploy.core.contract import (
    DECODER_FILE,
    DOMAIN,
    DOMAIN_VERSION,
    ENCODER_FILE,
    INLINE_FILES,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    graph_tensors,
    interaction,
    preprocessing,
)
from inter2former_deploy.core.errors import BundleError
from inter2former_deploy.core.files import replacing
from inter2former_deploy.families.inter2former.config import PATCH, ModelConfig

Precision = Literal["fp32", "bf16", "int8"]  # of the encoder's linear layers
BUNDLE_ID_KEY = "inter2former.bundle_id"  # metadata of both graphs


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known about one export."""

    size: int  # S, the model resolution: side of the square that images are scaled into, pixels
    config: dict[str, Any]  # `ModelConfig.to_dict()`
    files: dict[str, str]  # SHA-256 of both graphs by name, hexadecimal
    inline_files: dict[str, str] = field(default_factory=dict)  # the same of their forms without functions, if any
    schema_version: int = SCHEMA_VERSION
    bundle_id: str = ""  # also in the metadata of both graphs, under `BUNDLE_ID_KEY`
    opset: int | None = None  # of the standard operators
    precision: Precision = "fp32"  # of the encoder
    operator_domain: dict[str, Any] = field(default_factory=lambda: {"name": DOMAIN, "version": DOMAIN_VERSION})
    preprocessing: dict[str, Any] = field(default_factory=preprocessing)  # from an image to the encoder's input
    interaction: dict[str, Any] = field(default_factory=interaction)  # label maps, clicks, masks
    weights: dict[str, Any] = field(default_factory=dict)  # where they come from
    tools: dict[str, str] = field(default_factory=dict)  # versions of what exported them
    differences: list[str] = field(default_factory=list)  # deliberate ones from the release, and how large
    parity: dict[str, Any] | None = None  # the report of the parity gate
    agreement: dict[str, Any] | None = None  # of masks with those of the float32 encoder, in another precision

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size <= 0 or self.size % PATCH:
            raise ValueError(f"size must be a positive multiple of {PATCH}, got {self.size!r}")
        if sorted(self.files) != sorted((ENCODER_FILE, DECODER_FILE)):
            raise ValueError(f"files must be {ENCODER_FILE} and {DECODER_FILE}, got {', '.join(self.files)}")
        if self.inline_files and sorted(self.inline_files) != sorted(INLINE_FILES.values()):
            raise ValueError(f"inline_files must be {' and '.join(INLINE_FILES.values())}, got {self.inline_files!r}")
        digests = (*self.files.values(), *self.inline_files.values())
        if not all(isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in digests):
            raise ValueError("files must have SHA-256 digests, 64 hexadecimal digits")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}")
        ModelConfig.from_dict(self.config)  # raises ValueError

    @property
    def model_config(self) -> ModelConfig:
        """The configuration of the model."""
        return ModelConfig.from_dict(self.config)

    @property
    def failed(self) -> bool:
        """Whether the graphs were found to differ from PyTorch: a bundle that was kept to be examined."""
        return not all(report.get("passed", True) for report in (self.parity or {}, self.agreement or {}))

    @property
    def edge_rule(self) -> str:
        """Which tokens get full attention: "released" or "exact"."""
        return self.model_config.decoder.edge_rule

    @property
    def tensors(self) -> dict[str, Any]:
        """All inputs and outputs of both graphs: `contract.graph_tensors`."""
        return graph_tensors(self.model_config, self.size)

    def to_dict(self) -> dict[str, Any]:
        """What manifest.json holds: edge rule and tensors besides, which follow from the rest, for who reads it."""
        stated = {"schema_version": self.schema_version, "edge_rule": self.edge_rule}
        return stated | asdict(self) | {"tensors": self.tensors}

    def write(self, folder: Path) -> None:
        """Write manifest.json into a folder; a reader never sees half of it."""
        with replacing(folder / MANIFEST_FILE) as unfinished:
            unfinished.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check manifest.json of a folder.

        Raises:
            BundleError: it is missing, damaged, of another schema, or asks for what this package does not do; the
                message says what to do.
        """
        path = folder / MANIFEST_FILE
        again = "copy the whole bundle again or export it again"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be read ({error}): {again}") from error
        if not isinstance(data, dict) or type(data.get("schema_version")) is not int:
            raise BundleError(f"{path} is no manifest, it states no schema_version: {again}")
        if (schema := data["schema_version"]) != SCHEMA_VERSION:
            advice = "update inter2former-deploy" if schema > SCHEMA_VERSION else "export it again with this version"
            raise BundleError(f"{path} has schema {schema}, this package knows {SCHEMA_VERSION}: {advice}")
        try:
            manifest = cls(**{entry.name: data[entry.name] for entry in fields(cls) if entry.name in data})
        except (TypeError, AttributeError, ValueError) as error:
            raise BundleError(f"{path} is damaged ({error}): {again}") from error
        domain = manifest.operator_domain
        if domain != {"name": DOMAIN, "version": DOMAIN_VERSION}:
            raise BundleError(
                f"{path} needs the operators {domain}, this package has version {DOMAIN_VERSION}: "
                "update inter2former-deploy or export again with this version"
            )
        for entry, ours, what in (
            ("preprocessing", preprocessing(), "preprocessing"),
            ("interaction", interaction(), "handling of clicks and label maps"),
            ("tensors", manifest.tensors, "set of graph tensors"),
        ):
            if data.get(entry) != ours:
                raise BundleError(
                    f"{path} asks for another {what} than this package does: export it again with this version"
                )
        return manifest


def sha256(path: Path) -> str:
    """Hash of a file's bytes, hexadecimal, as `Manifest.files` has it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
