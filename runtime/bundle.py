"""A bundle on disk, checked before anything of it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from inter2former_deploy import families
from inter2former_deploy.core.contract import ENCODER_FILE, MANIFEST_FILE
from inter2former_deploy.core.errors import BundleError
from inter2former_deploy.core.manifest import DecoderEntry, Manifest, sha256
from inter2former_deploy.families.config import read_config


@dataclass(frozen=True)
class Bundle:
    """The files of a bundle, known to belong together."""

    folder: Path
    manifest: Manifest

    @property
    def family(self) -> families.Interface:
        """What is known of its family of models."""
        return families.interface(self.manifest.family)

    @property
    def kept(self) -> dict[str, Any]:
        """The tensors of an encoded image, as the manifest states them."""
        encoder = self.manifest.encoder
        return {name: (encoder.graph.inputs | encoder.graph.outputs)[name] for name in encoder.kept}

    @property
    def encoded_nbytes(self) -> int:
        """Size of any image's encoding, in memory and, but for a header, in a file, bytes."""
        return sum(4 * math.prod(tensor["sizes"]) for tensor in self.kept.values())

    def check_files(self, decoder: DecoderEntry | None = None) -> None:
        """Read graphs, those of the encoder and of one decoder or all, and compare their SHA-256 with the manifest's.

        Raises:
            BundleError: They differ; the message names the file and what to do.
        """
        for name, expected in self.manifest.files(decoder).items():
            if sha256(self.folder / name) != expected:
                raise BundleError(
                    f"{self.folder / name} is not the file that {MANIFEST_FILE} was written for, it was changed or is "
                    "from another export: copy the whole bundle again or export it again"
                )


def ready_bundle() -> Path:
    """The bundle that comes with this package: the small `demo` model at 1024 (weights/README.md)."""
    return Path(str(files("inter2former_deploy") / "weights" / "demo"))


def open_bundle(folder: Path, *, failed: bool = False) -> Bundle:
    """Check that a folder holds one whole, unchanged bundle that this package can run.

    Args:
        folder: The bundle.
        failed: Take a bundle that failed its comparison with PyTorch, too, to look at it.

    Raises:
        BundleError: It does not; the message names the file and what to do.
    """
    bundle = read_bundle(folder, failed=failed)
    bundle.check_files()
    return bundle


def read_bundle(folder: Path, decoder: str | None = None, *, failed: bool = False) -> Bundle:
    """The same, but for the graphs themselves: `Bundle.check_files` is left to do.

    Args:
        folder: The bundle.
        decoder: The one that is going to be used; the first when None.
        failed: As of `open_bundle`.

    Raises:
        BundleError: A file is missing, or the manifest is not for this package; the message says what to do.
        ValueError: There is no such decoder.
    """
    if not folder.is_dir():
        raise BundleError(f"there is no bundle {folder}: make one with i2f export -o {folder}")
    if missing := [name for name in (MANIFEST_FILE, ENCODER_FILE) if not (folder / name).is_file()]:
        raise _not_whole(folder, missing)
    bundle = Bundle(folder, Manifest.read(folder))
    if missing := [name for name in bundle.manifest.files() if not (folder / name).is_file()]:
        raise _not_whole(folder, missing)
    _check_interface(bundle)
    if bundle.manifest.decoder(decoder).failed and not failed:
        raise BundleError(
            f"{folder} failed its comparison with PyTorch when it was exported, its masks may be wrong: look at it "
            f"with i2f verify {folder}, and export again"
        )
    return bundle


def _not_whole(folder: Path, missing: list[str]) -> BundleError:
    return BundleError(f"{folder} is no whole bundle, it lacks {', '.join(missing)}: copy all of it or export again")


def _check_interface(bundle: Bundle) -> None:
    """Whether the runtime does what the manifest asks of a caller, and the graphs fit together.

    Raises:
        BundleError: It does not, or they do not.
    """
    manifest, path = bundle.manifest, bundle.folder / MANIFEST_FILE
    again = "export it again with this version"
    try:
        family = bundle.family
        configs = {name: read_config(decoder.config) for name, decoder in manifest.decoders.items()}
        if others := [name for name, config in configs.items() if config.family != manifest.family]:
            raise ValueError(f"decoder {others[0]} is not of the family {manifest.family}")
        stated = {name: family.graph_tensors(config, manifest.size) for name, config in configs.items()}
    except ValueError as error:
        raise BundleError(f"{path} is not for this package ({error}): update inter2former-deploy or {again}") from error
    for entry, ours, what in (
        ("preprocessing", family.preprocessing(), "preprocessing"),
        ("prompts", family.prompts(), "handling of prompts"),
        ("postprocessing", family.postprocessing(), "postprocessing"),
    ):
        if getattr(manifest, entry) != ours:
            raise BundleError(f"{path} asks for another {what} than this package does: {again}")
    encoder = manifest.encoder
    nothing: dict[str, Any] = {}
    kept = {name: (encoder.graph.inputs | encoder.graph.outputs)[name] for name in encoder.kept}
    for name, decoder in manifest.decoders.items():
        tensors = stated[name]
        prompts = {x: tensors["click"]["inputs"][x] for x in family.PROMPTS}
        for graph, given, wanted in (
            (encoder.graph, tensors["encoder"]["inputs"], nothing),
            (decoder.prepare, kept, nothing),
            (decoder.click, kept | decoder.prepare.outputs | prompts, tensors["click"]["outputs"]),
        ):
            problems = [f"takes {_told(x, graph.inputs[x])}, which nobody gives" for x in _differ(graph.inputs, given)]
            problems += [f"does not give {_told(x, wanted[x])}" for x in _differ(wanted, graph.outputs)]
            if problems:
                raise BundleError(f"{path} states that {graph.file} {'; '.join(problems)}: {again}")


def _differ(tensors: dict[str, Any], others: dict[str, Any]) -> list[str]:
    """Names of tensors that the others lack or have with another type or size."""
    return [x for x, tensor in tensors.items() if x not in others or _key(tensor) != _key(others[x])]


def _key(tensor: dict[str, Any]) -> tuple[str, list[int | str]]:
    return tensor["type"], list(tensor["sizes"])


def _told(name: str, tensor: dict[str, Any]) -> str:
    return f"{name}, {tensor['type']} {tensor['sizes']}"
