"""Encoded images: what the encoder leaves of a picture, in memory, in a file, in a folder of files.

They belong to an encoder, whatever decoders there are. Files are of the safetensors format, so that anything may read
them and nothing in them runs. Tensors stay float32: rounded to float16, they give masks that differ.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from inter2former_deploy.core.errors import EncodedImageError
from inter2former_deploy.core.files import write_file
from inter2former_deploy.core.prompts import Floats, Image
from inter2former_deploy.runtime.checks import check_image
from inter2former_deploy.runtime.region import Region

if TYPE_CHECKING:
    from inter2former_deploy.runtime.segmenter import Segmenter

SUFFIX = ".safetensors"
MOST_HEADER = 1 << 16  # bytes at the beginning of an encoding's file that say all but the numbers

_FORMAT = "inter2former encoded image 3"


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A picture that `Segmenter.encode` has encoded: `Segmenter.open` takes it in the picture's place.

    It does not hold the picture itself, but in some families the model's input that was made of it.
    """

    height: int  # of what was encoded, pixels
    width: int
    size: int  # S, side of the model's square, pixels
    tensors: Mapping[str, Floats]  # what the manifest says that the encoder keeps; do not change them
    picture: str  # `picture_key` of the picture
    encoder: str  # `Manifest.encoder_id` of the bundle whose encoder encoded it
    region: Region | None = None  # of the picture: what was encoded; all of it where None

    @property
    def window(self) -> Region:
        """What was encoded of the picture, and the picture's size."""
        return self.region or Region.whole(self.height, self.width)

    @property
    def nbytes(self) -> int:
        """Size of the tensors in memory, bytes."""
        return sum(array.nbytes for array in self.tensors.values())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file; whoever reads the path meanwhile sees the old file or the new one, never half of one.

        Raises:
            OSError: It cannot be written; what was there stays.
        """
        write_file(Path(path), self.pieces())

    def pieces(self) -> list[bytes | memoryview]:
        """The content of the file that `save` writes, in pieces: the same for the same encoding.

        Put together here, since the library of safetensors copies all numbers twice, and orders the header differently
        from run to run.

        Returns:
            The header, then the tensors themselves.
        """
        arrays = self._arrays()
        header: dict[str, object] = {"__metadata__": self._metadata() | {"sha256": self._digest()}}
        end = 0
        for name, array in arrays.items():
            begin, end = end, end + array.nbytes
            header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": (begin, end)}
        told = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        told = told.ljust(-(-len(told) // 8) * 8)  # so that the numbers begin at a multiple of 8 bytes
        return [len(told).to_bytes(8, "little"), told, *(array.data.cast("B") for array in arrays.values())]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EncodedImage:
        """Read a file that `save` wrote, and compare it with the SHA-256 it states.

        Raises:
            FileNotFoundError: There is no such file.
            EncodedImageError: It is no encoded image, cut off or changed; the message says what to do.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if (found := metadata.get("format")) != _FORMAT:
                    raise ValueError(f"its format is {found!r}, not {_FORMAT!r}")
                height, width, size = (int(metadata[name]) for name in ("height", "width", "size"))
                region = _region(metadata["region"], height, width) if "region" in metadata else None
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            encoded = cls(height, width, size, tensors, metadata["picture"], metadata["encoder"], region)
            if min(height, width, size) < 1 or metadata != encoded._metadata() | {"sha256": encoded._digest()}:
                raise ValueError("its SHA-256 is not the one it states")
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise EncodedImageError(
                f"{path} is no encoded image, or is cut off or changed ({error}): encode the picture again"
            ) from error
        return encoded

    def _metadata(self) -> dict[str, str]:
        """What a file says beside its tensors, but for the digest."""
        told = {"format": _FORMAT, "picture": self.picture, "encoder": self.encoder}
        told |= {name: str(getattr(self, name)) for name in ("height", "width", "size")}
        return told if self.region is None else told | {"region": json.dumps(astuple(self.region))}

    def _arrays(self) -> dict[str, Floats]:
        """The tensors as a file holds them, in its order."""
        return {name: np.ascontiguousarray(array, np.float32) for name, array in sorted(self.tensors.items())}

    def _digest(self) -> str:
        """SHA-256 of what a file holds: what it says, then the tensors."""
        arrays = self._arrays()
        told = [self._metadata(), [(name, str(array.dtype), array.shape) for name, array in arrays.items()]]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for array in arrays.values():
            digest.update(array.data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ScaledImage:
    """A picture as the encoder takes it, which `Segmenter.scale` has made: `Segmenter.encode` takes it in its place."""

    input: Floats  # of the encoder
    key: str  # `picture_key` of the picture
    window: Region  # of the picture: what is encoded
    size: int  # S, side of the model's square, pixels


class EncodedImages:
    """A folder of encoded images, each under the key of its picture, whatever that picture's file is called.

    Any number of processes may read and write it at the same time.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where the encoding of a picture lies, or would."""
        return self.folder / f"{key}{SUFFIX}"

    def find(self, key: str, encoder: str) -> EncodedImage | None:
        """The encoding that an encoder made of a picture.

        Args:
            key: `picture_key` of the picture.
            encoder: `Manifest.encoder_id`.

        Returns:
            None if there is none, it is of another encoder, or damaged: `add` then replaces it.
        """
        try:
            found = EncodedImage.load(self.path(key))
        except (FileNotFoundError, EncodedImageError):
            return None
        return found if (found.picture, found.encoder) == (key, encoder) else None

    def add(self, encoded: EncodedImage) -> None:
        """Keep an encoding. Makes the folder.

        Raises:
            OSError: It cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        encoded.save(self.path(encoded.picture))

    def find_or_encode(
        self, segmenter: Segmenter, image: Image, region: Region | None = None
    ) -> tuple[EncodedImage, bool]:
        """The encoding of a picture, or of a region of it, which is then in the folder.

        Args:
            segmenter: Of the bundle that encodes it, if need be.
            image: uint8 RGB, `[H, W, 3]`.
            region: of this picture; all of it where None.

        Returns:
            The encoding, and whether it was there before.

        Raises:
            TypeError, ValueError: As `Segmenter.encode`.
            OSError: The encoding cannot be written.
        """
        key = picture_key(check_image(image), region)
        found = self.find(key, segmenter.bundle.manifest.encoder_id)
        if found is not None:
            return found, True
        encoded = segmenter.encode(image, None if region is None else region.sides)
        self.add(encoded)
        return encoded, False


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An encoded image, and what a decoder wants of it besides; this is not saved, as it differs between decoders."""

    encoded: EncodedImage
    tensors: Mapping[str, Floats]  # outputs of the prepare graph

    @property
    def nbytes(self) -> int:
        """Size of all tensors in memory, bytes."""
        return self.encoded.nbytes + sum(array.nbytes for array in self.tensors.values())


class RecentImages:
    """The images that were used last, encoded or prepared, as many as fit into a number of bytes.

    For several threads.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._images: OrderedDict[str, EncodedImage | PreparedImage] = OrderedDict()  # the last used at the end
        self._nbytes = 0
        self._lock = Lock()

    def get(self, key: str) -> EncodedImage | PreparedImage | None:
        """The picture with this key, if it is still there."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def add(self, key: str, image: EncodedImage | PreparedImage) -> None:
        """Keep an image, in place of those that were not used for longest. One larger than the limit is not kept."""
        with self._lock:
            if image.nbytes > self._limit:
                return
            if (replaced := self._images.pop(key, None)) is not None:
                self._nbytes -= replaced.nbytes
            self._images[key] = image
            self._nbytes += image.nbytes
            while self._nbytes > self._limit:
                self._nbytes -= self._images.popitem(last=False)[1].nbytes


def states_encoding(beginning: bytes, nbytes: int, key: str, encoder: str) -> bool:
    """Whether a file says that it is the encoding of a picture, and is as long as it says; its numbers are not read.

    Args:
        beginning: of the file: `MOST_HEADER` bytes, or all of it.
        nbytes: of the file.
        key: `picture_key` of the picture.
        encoder: `Manifest.encoder_id` of the bundle.
    """
    try:
        length = 8 + int.from_bytes(beginning[:8], "little")
        header = json.loads(beginning[8:length])
        stated = header.pop("__metadata__")
        end = max(tensor["data_offsets"][1] for tensor in header.values())
        return nbytes == length + end and (stated["format"], stated["picture"], stated["encoder"]) == (
            _FORMAT,
            key,
            encoder,
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return False


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


def _region(text: str, height: int, width: int) -> Region:
    """The region that a file states."""
    *sides, picture_height, picture_width = json.loads(text)
    region = Region.of(sides, picture_height, picture_width)
    if (region.bottom - region.top, region.right - region.left) != (height, width) or region.is_whole:
        raise ValueError(f"its region {sides} is not what was encoded")
    return region
