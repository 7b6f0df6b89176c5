"""A bundle on disk, checked before anything of it runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from inter2former_deploy.core.contract import DECODER_FILE, ENCODER_FILE, MANIFEST_FILE
from inter2former_deploy.core.errors import BundleError
from inter2former_deploy.core.manifest import Manifest, sha256


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

    @property
    def fingerprint(self) -> str:
        """What tells encoded images of this bundle from another's: 32 hexadecimal digits.

        Of the SHA-256 of both graphs and of the preprocessing.
        """
        told = json.dumps([self.manifest.files, self.manifest.preprocessing], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def check_files(self) -> None:
        """Read both graphs and compare their SHA-256 with the manifest's.

        Raises:
            BundleError: they differ; the message names the file and what to do.
        """
        for name, expected in self.manifest.files.items():
            if sha256(self.folder / name) != expected:
                raise BundleError(
                    f"{self.folder / name} is not the file that {MANIFEST_FILE} was written for, it was changed or is "
                    "from another export: copy the whole bundle again or export it again"
                )


def open_bundle(folder: Path, *, failed: bool = False) -> Bundle:
    """Check that a folder holds one whole, unchanged export that this package can run.

    Args:
        folder: The bundle.
        failed: Take a bundle that failed its comparison with PyTorch, too, to look at it.

    Raises:
        BundleError: it does not; the message names the file and what to do.
    """
    bundle = read_bundle(folder, failed=failed)
    bundle.check_files()
    return bundle


def read_bundle(folder: Path, *, failed: bool = False) -> Bundle:
    """The same, but for the graphs themselves: `Bundle.check_files` is left to do.

    Args:
        folder: The bundle.
        failed: As of `open_bundle`.

    Raises:
        BundleError: a file is missing, or the manifest is not for this package; the message says what to do.
    """
    if not folder.is_dir():
        raise BundleError(f"there is no bundle {folder}: make one with i2f export -o {folder}")
    if missing := [name for name in (MANIFEST_FILE, ENCODER_FILE, DECODER_FILE) if not (folder / name).is_file()]:
        raise BundleError(f"{folder} is no whole bundle, it lacks {', '.join(missing)}: copy all of it or export again")
    bundle = Bundle(folder, Manifest.read(folder))
    if bundle.manifest.failed and not failed:
        raise BundleError(
            f"{folder} failed its comparison with PyTorch when it was exported, its masks may be wrong: look at it "
            f"with i2f verify {folder}, and export again"
        )
    return bundle
