"""Files that appear whole or not at all, and what can be known about an output before the work begins."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from inter2former_deploy.core.contract import DECODER_FILES, ENCODER_FILE, MANIFEST_FILE, inline_file, weights_file

# Bytes handed to the system at once. For a larger write Linux wants large contiguous pieces of memory, which it may
# have to look for: 15 MB in one write took 65 ms of a processor of a virtual machine, in parts 6 ms.
_PART = 256 * 1024


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write instead of `path`, whose place it takes when the block ends well.

    Nobody meets half of a file; when the block fails, what was there stays and the unfinished file goes.

    Args:
        path: in a folder that exists.
    """
    unfinished = path.with_name(f".{uuid.uuid4().hex}.part")  # of this call alone, and short whatever the path's name
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file of these pieces, or replace it; nobody meets half of one.

    Args:
        path: in a folder that exists.
        pieces: what it will hold, one behind the other.

    Raises:
        OSError: it cannot be written; the message names it, and what was there stays.
    """
    try:
        with replacing(path) as unfinished, unfinished.open("wb", buffering=0) as file:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest[:_PART]) :]
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `folder` when the block ends well, and goes when it fails.

    Args:
        folder: not there, or empty; folders above it are made.
    """
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{uuid.uuid4().hex}.part")
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def check_new_file(path: Path, what: str) -> None:
    """Refuse, before the work begins, a file that could not be written after it.

    Args:
        path: to be written, perhaps over an old file.
        what: the option that names it, for the message.

    Raises:
        ValueError: its folder is not there or may not be written to, or the path is a folder itself.
    """
    if not path.parent.is_dir():
        raise ValueError(f"{what} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"{what} {path} is a folder: name a file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{what} {path}: the folder {path.parent} may not be written to")


def check_new_folder(path: Path, what: str) -> None:
    """Refuse, before the work begins, a folder that could not be made or filled after it.

    Args:
        path: a folder that is there, or is to be made with those above it.
        what: the option that names it, for the message.

    Raises:
        ValueError: it is a file, or the folder may not be made or written to.
    """
    there = nearest_folder(path)
    if not there.is_dir():
        raise ValueError(f"{what} {path}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{what} {path}: the folder {there} may not be written to")


def check_new_bundle(folder: Path, *, force: bool, keep_failed: bool = False) -> None:
    """Refuse, before the work begins, a place where a bundle cannot be put after it.

    Args:
        folder: to be made, in a folder that is there.
        force: replace a bundle that is there.
        keep_failed: a failed export will go to `<folder>.failed`, and replace another one there.

    Raises:
        FileNotFoundError: the folder's parent is not there.
        FileExistsError: there is something that may not be replaced.
        PermissionError: the folder's parent may not be written to.
    """
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}: the folder {folder.parent} may not be written to")
    for place in [folder] + [failed_folder(folder)] * keep_failed:
        if not place.exists():
            continue
        if not _may_be_bundle(place):
            raise FileExistsError(f"{place} exists and is no bundle: name another folder")
    if not force and folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} exists: replace it with --force or name another folder")


def _may_be_bundle(folder: Path) -> bool:
    """Whether there is nothing in a folder but files of a bundle; old ones had decoder.onnx in place of folders."""

    def forms(*names: str) -> set[str]:
        return {form for name in names for form in (name, inline_file(name), weights_file(name))}

    names, of_decoders = {MANIFEST_FILE, *forms(ENCODER_FILE, "decoder.onnx")}, forms(*DECODER_FILES.values())
    return folder.is_dir() and all(
        (path.is_dir() and {file.name for file in path.iterdir()} <= of_decoders) or path.name in names
        for path in folder.iterdir()
    )


def failed_folder(folder: Path) -> Path:
    """Where `i2f export --keep-failed` leaves what differs from PyTorch."""
    return folder.with_name(f"{folder.name}.failed")


def check_apart(files: Mapping[str, Path]) -> None:
    """Refuse outputs that would overwrite an input or each other.

    Args:
        files: by the name or option that a message calls them by; links count as what they lead to.

    Raises:
        ValueError: two are the same file.
    """
    seen: dict[Path, str] = {}
    for what, path in files.items():
        real = path.resolve()
        for other, name in seen.items():
            if other == real or (real.exists() and other.exists() and real.samefile(other)):
                raise ValueError(f"{what} {path} is the same file as {name}: name another")
        seen[real] = what


def check_space(path: Path, needed: int, what: str) -> None:
    """Refuse, before the work begins, what the disk has no room for.

    Args:
        path: where it is to lie, there or not.
        needed: bytes.
        what: will need them, for the message.

    Raises:
        OSError: there is less.
    """
    free = shutil.disk_usage(nearest_folder(path)).free
    if free < needed:
        raise OSError(
            f"{what} needs about {needed / 1e9:.2f} GB in {path}, {free / 1e9:.2f} GB are free: make room or name "
            "another folder"
        )


def nearest_folder(path: Path) -> Path:
    """The path itself if it is there, or else the lowest of those above it that is."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
