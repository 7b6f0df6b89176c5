"""Where pictures and results lie: folders of this machine, or object stores, which are read and written with fsspec.

A place with `://` in its name, such as `s3://bucket/photos`, is one of an object store; every other is a path.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inter2former_deploy.core.errors import MissingPackageError, PictureError
from inter2former_deploy.core.files import check_new_folder, check_space, nearest_folder, write_file
from inter2former_deploy.core.packages import STORAGE_MODULES, require
from inter2former_deploy.core.pictures import SUFFIXES, Tell, read_image

MOST_BYTES = 1 << 30  # of a picture's file in an object store


class Folder(Protocol):
    """A folder of files, each of which is there whole or not at all."""

    def path(self, name: str) -> str:
        """A file as messages call it."""

    def names(self) -> list[str]:
        """Names of the files in it, none of which begins with a dot; none where there is no such folder."""

    def beginning(self, name: str, most: int) -> tuple[bytes, int] | None:
        """The first bytes of a file, at most so many, and its whole size; None where there is none."""

    def read(self, name: str) -> bytes:
        """A file. OSError: it cannot be read."""

    def write(self, name: str, *content: bytes | memoryview) -> None:
        """Write a file of these pieces, or replace it. OSError: it cannot be written; what was there stays."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def clear(self) -> None:
        """Remove the folder with all files in it, as far as that is possible."""

    def free(self) -> int | None:
        """Bytes that it has room for; None where nobody knows."""


def is_url(place: str) -> bool:
    """Whether a place is one of an object store."""
    return "://" in place


def open_folder(place: str, what: str) -> Folder:
    """A folder to write results to.

    Args:
        place: a path or a URL.
        what: the option that names it, for the message.

    Raises:
        ValueError: it is a file or cannot be written to, or the URL is none.
        MissingPackageError: a package that reaches it is not installed.
    """
    if is_url(place):
        return _RemoteFolder(place, what)
    check_new_folder(Path(place), what)
    return _LocalFolder(Path(place))


def read_picture(picture: str, *, convert_colours: bool, max_pixels: int, tell: Tell) -> NDArray[np.uint8]:
    """A picture of a path or a URL, as `core.pictures.read_image` gives it.

    Raises:
        FileNotFoundError, PictureError, OSError: as there; the message names the picture.
    """
    if not is_url(picture):
        return read_image(picture, convert_colours=convert_colours, max_pixels=max_pixels, tell=tell)
    content = read_bytes(picture, MOST_BYTES, "image")
    try:
        return read_image(content, convert_colours=convert_colours, max_pixels=max_pixels, tell=tell)
    except PictureError as error:
        raise PictureError(str(error).replace("the picture", picture, 1)) from error


def read_bytes(place: str, most: int, what: str = "file") -> bytes:
    """A file of a path or a URL.

    Args:
        place: the path or URL.
        most: bytes; a larger file is refused before it is read.
        what: it is, for messages.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is too large.
    """
    if is_url(place):
        system, path = _system(place, place)
        try:
            size = int(system.size(path) or 0)
            content = bytes(system.cat_file(path, end=most + 1)) if size <= most else b""
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no {what} {place}") from None
        except Exception as error:  # of whatever library reaches it
            raise OSError(f"{place} cannot be read: {_reason(error)}") from error
    else:
        try:
            with Path(place).open("rb") as file:
                size = Path(place).stat().st_size
                content = file.read(most + 1) if size <= most else b""
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no {what} {place}") from None
    if max(size, len(content)) > most:
        raise ValueError(f"{place} has more than {most:,} bytes: a {what} of that size is not read")
    return content


def pictures_below(url: str) -> tuple[list[str], list[str]]:
    """URLs of the pictures below one, by their suffixes, and of all other files, by name; hidden ones are left out.

    Raises:
        ValueError: there is no picture.
        OSError: it cannot be listed.
    """
    system, path = _system(url, url)
    try:
        found = sorted(system.find(path))
    except Exception as error:
        raise OSError(f"{url} cannot be listed: {_reason(error)}") from error
    shown = [name for name in found if not any(part.startswith(".") for part in name[len(path) :].split("/"))]
    pictures = [system.unstrip_protocol(name) for name in shown if name.lower().endswith(SUFFIXES)]
    others = [system.unstrip_protocol(name) for name in shown if not name.lower().endswith(SUFFIXES)]
    if not pictures:
        raise ValueError(f"there is no picture below {url}, of {', '.join(SUFFIXES)}")
    return pictures, others


class Copies:
    """What lies in object stores, copied to this machine for those who read paths.

    Pickled, it goes to other processes: on the same machine they read the same copies, on others they make their own.

    Args:
        there: paths of copies by their URLs; those that are not on this machine are forgotten.
    """

    def __init__(self, there: Mapping[str, str] | None = None) -> None:
        self._paths = {url: path for url, path in (there or {}).items() if Path(path).exists()}
        self._folders: list[tempfile.TemporaryDirectory[str]] = []  # of the copies that were made here

    def __reduce__(self) -> tuple[type[Copies], tuple[dict[str, str]]]:
        return Copies, (self._paths,)

    def close(self) -> None:
        """Remove the copies that were made here."""
        self._paths.clear()
        while self._folders:
            self._folders.pop().cleanup()

    def path(self, place: str) -> str:
        """Where to read a file or a folder: paths as they are, URLs as the path of their copy.

        Raises:
            OSError: there is nothing, it cannot be read, or the disk has no room for it.
            ValueError: it is no URL of an object store, or a name in it is none of a file.
            MissingPackageError: a package that reaches it is not installed.
        """
        if not is_url(place):
            return place
        if place not in self._paths:
            self._folders.append(tempfile.TemporaryDirectory(prefix="i2f-"))
            self._paths[place] = _copy(place, Path(self._folders[-1].name))
        return self._paths[place]

    def named(self, text: str) -> str:
        """A message with the URLs in the place of their copies' paths."""
        for url, path in self._paths.items():
            text = text.replace(path, url.rstrip("/"))
        return text


def _copy(url: str, into: Path) -> str:
    """The path below a folder to which a file or all files below a URL are copied."""
    system, path = _system(url, url)
    try:
        sizes = {name: int(entry.get("size") or 0) for name, entry in system.find(path, detail=True).items()}
    except Exception as error:
        raise OSError(f"{url} cannot be listed: {_reason(error)}") from error
    if not sizes:
        raise FileNotFoundError(f"there is nothing at {url}")
    check_space(into, sum(sizes.values()), f"copying {url} to this machine")
    root = path.rstrip("/")
    top = into / PurePosixPath(root).name
    places = {}
    for name in sizes:
        inside = name[len(root) :].strip("/")
        if {"..", "."}.intersection(inside.split("/")) or "\0" in inside:
            raise ValueError(f"{url} has a file that is called {inside!r:.200}, which is no path below it")
        places[name] = top / inside
        places[name].parent.mkdir(parents=True, exist_ok=True)
    try:
        system.get(list(places), list(map(str, places.values())))
    except Exception as error:
        raise OSError(f"{url} cannot be copied to this machine: {_reason(error)}") from error
    return str(top)


def below(folder: str, name: str) -> str:
    """A file that a list names, once it is known to lie in the folder that lists may speak of.

    Args:
        folder: a path or a URL.
        name: relative to it, or a URL or path that begins with it.

    Raises:
        ValueError: it leads elsewhere, or is no name of a file.
    """
    refused = ValueError(f"{name!r:.200} does not lie in {folder}: name the folder of all pictures with --images")
    if not name or "\0" in name:
        raise refused
    if is_url(folder):
        root = folder.rstrip("/") + "/"
        inside = name.removeprefix(root)
        if is_url(inside) or inside.startswith("/") or {"", ".", ".."}.intersection(inside.split("/")):
            raise refused
        return root + inside
    if is_url(name):
        raise refused
    top = Path(folder).resolve()
    try:
        file = (top / name).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise refused from error
    if not file.is_relative_to(top) or file == top:
        raise refused
    return str(Path(folder) / name)


class _LocalFolder:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> str:
        return str(self._folder / name)

    def names(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if not path.name.startswith("."))

    def beginning(self, name: str, most: int) -> tuple[bytes, int] | None:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                return file.read(most), path.stat().st_size
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def write(self, name: str, *content: bytes | memoryview) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_file(self._folder / name, content)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def free(self) -> int | None:
        return shutil.disk_usage(nearest_folder(self._folder)).free


class _RemoteFolder:
    """A folder of an object store, whose files appear when all of them has come."""

    def __init__(self, url: str, what: str) -> None:
        self._url = url.rstrip("/")
        self._system, self._path = _system(self._url, f"{what} {url}")

    def path(self, name: str) -> str:
        return f"{self._url}/{name}"

    def names(self) -> list[str]:
        try:
            self._system.invalidate_cache()
            found = self._system.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise OSError(f"{self._url} cannot be listed: {_reason(error)}") from error
        names = (entry.rstrip("/").rpartition("/")[2] for entry in found)
        return sorted(name for name in names if not name.startswith("."))

    def beginning(self, name: str, most: int) -> tuple[bytes, int] | None:
        path = f"{self._path}/{name}"
        try:
            self._system.invalidate_cache(self._path)
            size = int(self._system.size(path) or 0)
            return bytes(self._system.cat_file(path, start=0, end=min(size, most))), size
        except FileNotFoundError:
            return None
        except Exception as error:
            raise OSError(f"{self.path(name)} cannot be read: {_reason(error)}") from error

    def read(self, name: str) -> bytes:
        try:
            return bytes(self._system.cat_file(f"{self._path}/{name}"))
        except Exception as error:
            raise OSError(f"{self.path(name)} cannot be read: {_reason(error)}") from error

    def write(self, name: str, *content: bytes | memoryview) -> None:
        try:
            self._system.pipe_file(f"{self._path}/{name}", b"".join(content))
        except Exception as error:
            raise OSError(f"{self.path(name)} cannot be written: {_reason(error)}") from error

    def remove(self, name: str) -> None:
        try:
            self._system.rm_file(f"{self._path}/{name}")
        except FileNotFoundError:
            return
        except Exception as error:
            raise OSError(f"{self.path(name)} cannot be removed: {_reason(error)}") from error

    def clear(self) -> None:
        try:
            self._system.rm(self._path, recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:
            raise OSError(f"{self._url} cannot be removed: {_reason(error)}") from error

    def free(self) -> int | None:
        return None


def _system(url: str, what: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        ValueError: it is no plain URL of a known kind, or leads to files of this machine.
        MissingPackageError: a package that reaches it is not installed.
    """
    require(*STORAGE_MODULES, extra="storage", needed_by=what)
    import fsspec

    scheme = url.partition("://")[0]
    if "::" in url or scheme in ("file", "local"):
        raise ValueError(f"{what} must be a path, or a URL such as s3://bucket/folder")
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingPackageError(f"{what} needs a package: {error}") from error
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    return system, str(path)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
