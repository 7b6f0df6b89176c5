"""Encoded images: what the encoder leaves of a picture, in memory, in a file, in a folder of files.

A file is of the safetensors format, so that anything may read it and nothing in it runs: eight bytes with the length
of a JSON header, the header, the tensors one after the other. These stay float32: rounded to float16,
they give masks that differ.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from io import BufferedReader
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from inter2former_deploy.core.contract import IMAGE_FEATURES
from inter2former_deploy.core.errors import EncodedImageError
from inter2former_deploy.core.files import replacing
from inter2former_deploy.runtime.preprocess import Floats, Frame, Image, check_image
from inter2former_deploy.runtime.region import Region

if TYPE_CHECKING:
    from inter2former_deploy.runtime.segmenter import Segmenter

SUFFIX = ".safetensors"

_FORMAT = "inter2former encoded image 2"
_HEADER_LIMIT = 1 << 16  # bytes; ours have about 2,000


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A picture that `Segmenter.encode` has encoded: `Segmenter.open` takes it in the picture's place.

    It does not hold the picture.
    """

    frame: Frame  # where the picture lies in the model's square
    features: Mapping[str, Floats]  # the image's inputs of the decoder; do not change them
    picture: str  # `picture_key` of the picture
    bundle: str  # `Bundle.fingerprint` of the bundle that encoded it
    region: Region | None = None  # of the picture: what was encoded; all of it where None

    @property
    def window(self) -> Region:
        """What was encoded of the picture, and the picture's size."""
        return self.region or Region.whole(self.frame.height, self.frame.width)

    @property
    def nbytes(self) -> int:
        """Size of the features in memory, bytes."""
        return sum(array.nbytes for array in self.features.values())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file; whoever reads the path meanwhile sees the old file or the new one, never half of one.

        Raises:
            OSError: it cannot be written; what was there stays.
        """
        header = _header(self, {name: array.shape for name, array in self.features.items()})
        header["__metadata__"]["sha256"] = _digest(header, self.features.values())
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # the format wants the tensors to start at a multiple of 8
        with replacing(Path(path)) as unfinished, unfinished.open("xb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in self.features.values():
                file.write(array.data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EncodedImage:
        """Read a file that `save` wrote, and compare it with the SHA-256 it states.

        Raises:
            FileNotFoundError: there is no such file.
            EncodedImageError: it is no encoded image, cut off or changed; the message says what to do.
        """
        with Path(path).open("rb") as file:
            try:
                return _read(file)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise EncodedImageError(
                    f"{path} is no encoded image, or is cut off or changed ({error}): encode the picture again"
                ) from error


class EncodedImages:
    """A folder of encoded images, each under the key of its picture, whatever that picture's file is called.

    Any number of processes may read and write it at the same time.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where the encoding of a picture lies, or would."""
        return self.folder / f"{key}{SUFFIX}"

    def find(self, key: str, bundle: str) -> EncodedImage | None:
        """The encoding that a bundle made of a picture.

        Args:
            key: `picture_key` of the picture.
            bundle: `Bundle.fingerprint`.

        Returns:
            None if there is none, it is of another bundle, or damaged: `add` then replaces it.
        """
        try:
            found = EncodedImage.load(self.path(key))
        except (FileNotFoundError, EncodedImageError):
            return None
        return found if (found.picture, found.bundle) == (key, bundle) else None

    def add(self, encoded: EncodedImage) -> None:
        """Keep an encoding. Makes the folder.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        encoded.save(self.path(encoded.picture))

    def find_or_encode(
        self, segmenter: Segmenter, image: Image, region: Region | None = None
    ) -> tuple[EncodedImage, bool]:
        """The encoding of a picture, or of a region of it, which is then in the folder.

        Args:
            segmenter: of the bundle that encodes it, if need be.
            image: uint8 RGB, `[H, W, 3]`.
            region: of this picture; all of it where None.

        Returns:
            The encoding, and whether it was there before.

        Raises:
            TypeError, ValueError: as `Segmenter.encode`.
            OSError: the encoding cannot be written.
        """
        found = self.find(picture_key(check_image(image), region), segmenter.bundle.fingerprint)
        if found is not None:
            return found, True
        encoded = segmenter.encode(image, None if region is None else region.sides)
        self.add(encoded)
        return encoded, False


class RecentImages:
    """The encoded images that were used last, as many as fit into a number of bytes. For several threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._images: OrderedDict[str, EncodedImage] = OrderedDict()  # the last used at the end
        self._nbytes = 0
        self._lock = Lock()

    def __bool__(self) -> bool:
        return self._limit > 0

    def get(self, key: str) -> EncodedImage | None:
        """The encoding of the picture with this key, if it is still there."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def add(self, encoded: EncodedImage) -> None:
        """Keep an encoding, in place of those that were not used for longest. One larger than the limit is not kept."""
        with self._lock:
            if (replaced := self._images.pop(encoded.picture, None)) is not None:
                self._nbytes -= replaced.nbytes
            if encoded.nbytes > self._limit:
                return
            self._images[encoded.picture] = encoded
            self._nbytes += encoded.nbytes
            while self._nbytes > self._limit:
                self._nbytes -= self._images.popitem(last=False)[1].nbytes


def picture_key(image: Image, region: Region | None = None) -> str:
    """What tells pictures, and regions of them, apart: 32 hexadecimal digits of a SHA-256.

    It is that of the shape and the pixels; of a region that of the picture's shape, the region and the pixels in it.

    Args:
        image: uint8 RGB, `[H, W, 3]`.
        region: of this picture; all of it where None.
    """
    part = image if region is None else region.crop(image)
    told = image.shape if region is None or region.is_whole else (image.shape, region.sides)
    digest = hashlib.sha256(repr(told).encode())
    digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:32]


def empty_features(shapes: Mapping[str, Sequence[int]]) -> dict[str, Floats]:
    """Arrays of these shapes, to be filled."""
    return {name: np.empty(shape, np.float32) for name, shape in shapes.items()}


def _header(encoded: EncodedImage, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """What a file says before its tensors, but for the digest."""
    frame = encoded.frame
    header: dict[str, Any] = {
        "__metadata__": {
            "format": _FORMAT,
            "picture": encoded.picture,
            "bundle": encoded.bundle,
            "height": str(frame.height),
            "width": str(frame.width),
            "size": str(frame.size),
        }
    }
    if encoded.region is not None:
        header["__metadata__"]["region"] = json.dumps(astuple(encoded.region))
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    return header


def _read(file: BufferedReader) -> EncodedImage:
    """An encoded image from a file of any content.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RecursionError: it is none.
    """
    rest = os.fstat(file.fileno()).st_size - 8
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(_HEADER_LIMIT, rest):
        raise ValueError("it has no header")
    header = json.loads(file.read(length))
    metadata = header["__metadata__"]
    if metadata["format"] != _FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}, not {_FORMAT!r}")
    stated = metadata.pop("sha256")
    shapes = {name: tuple(map(_whole, header[name]["shape"])) for name in IMAGE_FEATURES}
    if (found := rest - length) != (expected := 4 * sum(map(math.prod, shapes.values()))):
        raise ValueError(f"it has {found} bytes of tensors, not {expected}")
    frame = Frame(*(_whole(int(metadata[name])) for name in ("height", "width", "size")))
    region = _region(metadata["region"], frame) if "region" in metadata else None
    encoded = EncodedImage(frame, empty_features(shapes), str(metadata["picture"]), str(metadata["bundle"]), region)
    for array in encoded.features.values():
        file.readinto(array.data.cast("B"))
    if header != _header(encoded, shapes) or _digest(header, encoded.features.values()) != stated:
        raise ValueError("its SHA-256 is not the one it states")
    return encoded


def _region(text: str, frame: Frame) -> Region:
    """The region that a file states."""
    *sides, height, width = json.loads(text)
    region = Region.of(sides, height, width)
    if (region.bottom - region.top, region.right - region.left) != (frame.height, frame.width) or region.is_whole:
        raise ValueError(f"its region {sides} is not what was encoded")
    return region


def _digest(header: dict[str, Any], arrays: Iterable[Floats]) -> str:
    """SHA-256 of what a file holds: the header without the digest, then the tensors."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for array in arrays:
        digest.update(array.data)
    return digest.hexdigest()


def _whole(number: object) -> int:
    if type(number) is not int or number < 1:
        raise ValueError(f"it states {number!r} where a positive whole number belongs")
    return number
