"""manifest.json: what a bundle is, written last by the exporter and checked first by the runtime.

It states the whole interface: the graphs with their tensors, and what callers do before, between and after them. No
torch and no onnxruntime here: both sides read it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from inter2former_deploy.core.contract import DOMAIN, DOMAIN_VERSION, MANIFEST_FILE, SCHEMA_VERSION
from inter2former_deploy.core.errors import BundleError
from inter2former_deploy.core.files import replacing

Json = dict[str, Any]
Precision = Literal["fp32", "bf16", "int8"]  # of the encoder's linear layers
DecoderPrecision = Literal["fp32", "bf16"]
TENSOR_TYPES = ("float32", "uint8", "int64")

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


@dataclass(frozen=True, kw_only=True)
class GraphEntry:
    """A graph of a bundle."""

    file: str  # in the bundle's folder
    sha256: str  # of the file, hexadecimal
    inputs: dict[str, Json]  # by name: type, shape, sizes (of this bundle; a name where one differs), meaning
    outputs: dict[str, Json]
    opset: int | None = None  # of the standard operators
    inline_file: str | None = None  # the same graph without functions, if any
    inline_sha256: str | None = None
    weights_file: str | None = None  # beside the graph, of both forms; None where the weights are inside
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        for file, digest in self.files.items():
            ending = "weights" if file == self.weights_file else "onnx"
            if not isinstance(file, str) or not re.fullmatch(rf"({_NAME}/)?{_NAME}\.{ending}", file):
                raise ValueError(f"{file!r} is no name of a graph")
            if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(f"{file} must have a SHA-256 digest, 64 hexadecimal digits")
        for name, tensor in (self.inputs | self.outputs).items():
            sizes = tensor["sizes"]
            if tensor["type"] not in TENSOR_TYPES or not all(isinstance(size, int | str) for size in sizes):
                raise ValueError(f"tensor {name} of {self.file} has the type {tensor['type']!r} and sizes {sizes!r}")

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of each file by name."""
        inline = {} if self.inline_file is None else {self.inline_file: self.inline_sha256 or ""}
        weights = {} if self.weights_file is None else {self.weights_file: self.weights_sha256 or ""}
        return {self.file: self.sha256} | inline | weights

    @property
    def identity(self) -> list[str]:
        """SHA-256 of all that its results depend on."""
        return [self.sha256] if self.weights_sha256 is None else [self.sha256, self.weights_sha256]


@dataclass(frozen=True, kw_only=True)
class EncoderEntry:
    """The encoder of a bundle, which all decoders share."""

    graph: GraphEntry
    weights_sha256: str  # of its entries of the state dict and its configuration
    kept: list[str]  # the inputs and outputs that a saved encoding holds: what decoders may take
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}")
        if unknown := [name for name in self.kept if name not in self.graph.inputs | self.graph.outputs]:
            raise ValueError(f"kept names {', '.join(unknown)}, which the encoder neither takes nor gives")


@dataclass(frozen=True, kw_only=True)
class DecoderEntry:
    """A decoder of a bundle."""

    config: Json  # of the whole model, `to_dict()` of its family's configuration
    prepare: GraphEntry  # once an image
    click: GraphEntry  # once a click
    weights: Json = field(default_factory=dict)  # where they come from
    tools: dict[str, str] = field(default_factory=dict)  # versions of what exported it
    differences: list[str] = field(default_factory=list)  # deliberate ones from the release
    precision: DecoderPrecision = "fp32"  # of the click graph
    parity: Json | None = None  # the report of the parity gate
    agreement: Json | None = None  # of masks with those in float32, in another precision

    def __post_init__(self) -> None:
        if self.precision not in get_args(DecoderPrecision):
            stated = ", ".join(get_args(DecoderPrecision))
            raise ValueError(f"a decoder's precision must be one of {stated}, got {self.precision!r}")

    @property
    def failed(self) -> bool:
        """Whether the graphs were found to differ from PyTorch: a bundle that was kept to be examined."""
        return not all(report.get("passed", True) for report in (self.parity or {}, self.agreement or {}))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known about a bundle."""

    family: str  # of models, see `families`
    size: int  # S, the model resolution: side of the square that images are scaled into, pixels
    encoder: EncoderEntry
    decoders: dict[str, DecoderEntry]  # by name; the first is the default
    preprocessing: Json  # from an image to the encoder's input
    prompts: Json  # from clicks to what the click graph takes
    postprocessing: Json  # from what it gives to masks
    schema_version: int = SCHEMA_VERSION
    operator_domain: Json = field(default_factory=lambda: {"name": DOMAIN, "version": DOMAIN_VERSION})

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size <= 0:
            raise ValueError(f"size must be a positive whole number, got {self.size!r}")
        if not self.decoders:
            raise ValueError("there is no decoder")
        for name in self.decoders:
            check_name(name)

    @property
    def encoder_id(self) -> str:
        """What ties saved encodings to an encoder, whatever decoders there are: 32 hexadecimal digits.

        Of the SHA-256 of its graph, with its weights, and of the preprocessing.
        """
        told = json.dumps([*self.encoder.graph.identity, self.size, self.preprocessing], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def model_id(self, decoder: DecoderEntry) -> str:
        """What ties states of sessions to the encoder and a decoder, on which masks depend: 32 hexadecimal digits."""
        told = [self.encoder_id, *decoder.prepare.identity, *decoder.click.identity]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]

    def decoder(self, name: str | None = None) -> DecoderEntry:
        """A decoder by name, or the default one.

        Raises:
            ValueError: There is none of this name.
        """
        if name is not None and name not in self.decoders:
            raise ValueError(f"the bundle has no decoder {name!r}; it has {', '.join(self.decoders)}")
        return self.decoders[name or next(iter(self.decoders))]

    def files(self, decoder: DecoderEntry | None = None) -> dict[str, str]:
        """SHA-256 of each file by name: of the encoder and one decoder, or of all."""
        chosen = self.decoders.values() if decoder is None else [decoder]
        graphs = [self.encoder.graph, *(graph for entry in chosen for graph in (entry.prepare, entry.click))]
        return {file: digest for graph in graphs for file, digest in graph.files.items()}

    def to_dict(self) -> Json:
        """What manifest.json holds."""
        return {"schema_version": self.schema_version} | asdict(self)

    def write(self, folder: Path) -> None:
        """Write manifest.json into a folder; a reader never sees half of it."""
        with replacing(folder / MANIFEST_FILE) as unfinished:
            unfinished.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check manifest.json of a folder.

        Raises:
            BundleError: It is missing, damaged, of another schema, or needs other operators; the message says what to
                do.
        """
        path = folder / MANIFEST_FILE
        again = "copy the whole bundle again or export it again"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path} cannot be read ({error}): {again}") from error
        if not isinstance(data, dict) or type(data.get("schema_version")) is not int:
            raise BundleError(f"{path} is no manifest, it states no schema_version: {again}")
        if (schema := data["schema_version"]) != SCHEMA_VERSION:
            advice = (
                "update inter2former-deploy"
                if schema > SCHEMA_VERSION
                else f"an older version wrote this bundle; export it again: i2f export CHECKPOINT -o {folder} --force"
            )
            raise BundleError(f"{path} has schema {schema}, this package knows {SCHEMA_VERSION}: {advice}")
        try:
            manifest = _manifest(data)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            raise BundleError(f"{path} is damaged ({type(error).__name__}: {error}): {again}") from error
        domain = manifest.operator_domain
        if domain != {"name": DOMAIN, "version": DOMAIN_VERSION}:
            raise BundleError(
                f"{path} needs the operators {domain}, this package has version {DOMAIN_VERSION}: "
                "update inter2former-deploy or export again with this version"
            )
        return manifest


def _manifest(data: Json) -> Manifest:
    def build(cls: Any, entries: Json, **built: Any) -> Any:
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in entries.items() if name in known} | built)

    def decoder(entries: Json) -> DecoderEntry:
        graphs = {name: build(GraphEntry, entries[name]) for name in ("prepare", "click")}
        found: DecoderEntry = build(DecoderEntry, entries, **graphs)
        return found

    encoder = build(EncoderEntry, data["encoder"], graph=build(GraphEntry, data["encoder"]["graph"]))
    decoders = {name: decoder(entries) for name, entries in data["decoders"].items()}
    manifest: Manifest = build(Manifest, data, encoder=encoder, decoders=decoders)
    return manifest


def check_name(name: str) -> None:
    """Refuse what cannot name a decoder, which is also its folder.

    Raises:
        ValueError: It is no word of letters, digits, ".", "_" and "-".
    """
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise ValueError(f"a decoder's name must be 1 to 64 letters, digits, '.', '_' or '-', got {name!r}")


def sha256(path: Path) -> str:
    """Hash of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
