#!/usr/bin/env python3
"""Fetches the onnxruntime C/C++ headers into a cache folder and prints the folder that holds them.

CMake runs this when neither ONNXRUNTIME_INCLUDE_DIR nor the system has them. It needs no root and changes nothing
outside its cache folder. Sources, in order:

1. Debian trixie's `libonnxruntime-dev`, through apt with a configuration of its own; apt checks the signature.
2. The official release archive from GitHub, over https. Nothing but the connection vouches for it: no hash is published
   beside the archive.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

SUITE = "trixie"
PACKAGE = "libonnxruntime-dev"
DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RELEASE = "1.21.0"
ARCHIVE = f"https://github.com/microsoft/onnxruntime/releases/download/v{RELEASE}/onnxruntime-linux-x64-{RELEASE}.tgz"
HEADER = "onnxruntime_cxx_api.h"
TIMEOUT = 300  # seconds for one command or connection


def cache_folder() -> Path:
    """Where downloaded headers are kept between builds."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "inter2former-deploy" / "onnxruntime-headers"


def header_folder(root: Path) -> Path | None:
    """The folder below `root` that holds the C++ header, None if there is none."""
    return next((path.parent for path in sorted(root.rglob(HEADER))), None)


def debian_mirror() -> str:
    """The Debian mirror the system's apt uses, else the public one."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for source in sources:
        if source.is_file():
            for line in source.read_text(errors="replace").splitlines():
                found = re.search(r"https?://\S+/debian/?(?=\s|$)", line)
                if found and not line.lstrip().startswith("#"):
                    return found[0].rstrip("/")
    return DEFAULT_MIRROR


def run(command: list[str], folder: Path) -> None:
    """Runs a command quietly; its output is the text of the error when it fails."""
    result = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {result.stdout.strip()[-500:]}")


def from_debian(into: Path) -> None:
    """Unpacks Debian's header package below `into`."""
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        raise RuntimeError(f"{' and '.join(missing)} not found")
    if not KEYRING.is_file():
        raise RuntimeError(f"{KEYRING} not found (package debian-archive-keyring)")
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        for folder in ("lists/partial", "cache/archives/partial", "download"):
            (scratch / folder).mkdir(parents=True)
        (scratch / "sources.list").write_text(f"deb [signed-by={KEYRING}] {debian_mirror()} {SUITE} main\n")
        (scratch / "status").touch()
        options = {
            "Dir::Etc::sourcelist": scratch / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": scratch / "lists",
            "Dir::State::status": scratch / "status",
            "Dir::Cache": scratch / "cache",
            "APT::Sandbox::User": "",
            "APT::Update::Error-Mode": "any",  # a mirror out of reach fails here
            "Acquire::Languages": "none",
            "Acquire::Retries": 2,
        }
        apt = ["apt-get", "-q", "-y", *(text for key, value in options.items() for text in ("-o", f"{key}={value}"))]
        run([*apt, "update"], scratch)
        run([*apt, "download", PACKAGE], scratch / "download")
        for package in (scratch / "download").glob("*.deb"):
            run(["dpkg-deb", "-x", str(package), str(into)], scratch)


def from_release(into: Path) -> None:
    """Unpacks the headers of the official release archive below `into`."""
    with tempfile.TemporaryFile() as archive:
        with urllib.request.urlopen(ARCHIVE, timeout=TIMEOUT) as response:
            shutil.copyfileobj(response, archive)
        archive.seek(0)
        with tarfile.open(fileobj=archive, mode="r:gz") as members:
            for member in members:
                content = members.extractfile(member) if member.name.endswith(".h") and member.isfile() else None
                if content is not None:  # flat, by the last name only: no path of the archive is trusted
                    (into / Path(member.name).name).write_bytes(content.read())


def fetch(cache: Path) -> Path:
    """Fetches the headers unless `cache` has them.

    Returns:
        The folder that holds onnxruntime_cxx_api.h.

    Raises:
        RuntimeError: no source had them; the message names each source with its reason.
    """
    sources: dict[str, Callable[[Path], None]] = {f"debian-{SUITE}": from_debian, f"release-{RELEASE}": from_release}
    for name in sources:
        if cached := header_folder(cache / name):
            return cached
    reasons = []
    cache.mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        # Unpacked beside its final place and renamed: an interrupted or parallel build never leaves half a folder.
        with tempfile.TemporaryDirectory(dir=cache) as staging_name:
            staging = Path(staging_name) / name
            staging.mkdir()
            try:
                source(staging)
                if header_folder(staging) is None:
                    raise RuntimeError(f"{HEADER} is not in the package")
            except (OSError, RuntimeError, subprocess.TimeoutExpired, tarfile.TarError) as error:
                reasons.append(f"{name}: {error}")
                continue
            try:
                staging.rename(cache / name)
            except OSError:
                if header_folder(cache / name) is None:
                    raise
        found = header_folder(cache / name)
        assert found is not None
        return found
    raise RuntimeError("\n".join(reasons))


def main() -> int:
    """Prints the header folder; the reasons go to stderr when there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=None, help="folder to keep the headers in")
    arguments = parser.parse_args()
    try:
        print(fetch(arguments.cache or cache_folder()))
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
