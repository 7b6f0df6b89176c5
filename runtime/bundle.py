"""A bundle on disk, checked before anything of it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inter2former_deploy.contract import DECODER_FILE, ENCODER_FILE, MANIFEST_FILE
from inter2former_deploy.errors import BundleError
from inter2former_deploy.manifest import Manifest, sha256


@dataclass(frozen=True)
class Bundle:
    """The files of one export, known to belong together."""

    folder: Path
    manifest: Manifest

    @property
    def encoder(self) -> Path:
        """The graph of the image encoder."""
        return self.folder / ENCODER_FILE

    @property
    def decoder(self) -> Path:
        """The graph of the decoder."""
        return self.folder / DECODER_FILE


def open_bundle(folder: Path) -> Bundle:
    """Check that a folder holds one whole, unchanged export that this package can run.

    Reads both graphs once to compare their SHA-256 with the manifest's.

    Raises:
        BundleError: it does not; the message names the file and what to do.
    """
    if not folder.is_dir():
        raise BundleError(f"there is no bundle {folder}: make one with i2f export -o {folder}")
    if missing := [name for name in (MANIFEST_FILE, ENCODER_FILE, DECODER_FILE) if not (folder / name).is_file()]:
        raise BundleError(f"{folder} is no whole bundle, it lacks {', '.join(missing)}: copy all of it or export again")
    manifest = Manifest.read(folder)
    for name, expected in manifest.files.items():
        if sha256(folder / name) != expected:
            raise BundleError(
                f"{folder / name} is not the file that {MANIFEST_FILE} was written for, it was changed or is "
                "from another export: copy the whole bundle again or export it again"
            )
    return Bundle(folder, manifest)
