"""What every dataset of this package is, a sequence of named pairs of image and mask, and how it is checked."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from inter2former_deploy.clicks import IGNORED
from inter2former_deploy.threads import available_cpus


class DataError(ValueError):
    """Files of a dataset are missing, unreadable or do not fit together; the message names them."""


@dataclass(frozen=True)
class Sample:
    """One picture and the one object in it that is to be segmented."""

    name: str  # unique in its dataset: file and object, or kind and index of a synthetic scene
    image: NDArray[np.uint8]  # [H, W, 3] RGB
    mask: NDArray[np.uint8]  # [H, W], 1 object, 0 background, `IGNORED` neither
    group: str = ""  # scores are also given for every group of a dataset

    def __post_init__(self) -> None:
        if self.image.shape[:2] != self.mask.shape:
            raise DataError(f"{self.name}: the image is {_size(self.image)} but the mask {_size(self.mask)}")
        if not (self.mask == 1).any():
            raise DataError(f"{self.name}: the mask is empty")


class Dataset(Protocol):
    """Random access to samples."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """The sample, read or drawn anew on every access.

        Raises:
            DataError: this sample is broken.
        """


def check(dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Reads every sample once, several at a time, and returns one line for each broken one.

    Args:
        dataset: what to read.
        progress: told the number of samples read and their total.
    """
    problems: list[str] = []

    def read(index: int) -> str | None:
        try:
            dataset[index]
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(available_cpus()) as pool:
        for done, problem in enumerate(pool.map(read, range(len(dataset))), start=1):
            problems += [problem] if problem else []
            if progress:
                progress(done, len(dataset))
    return problems


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 RGB `[H, W, 3]`.

    Raises:
        DataError: the file is missing or no image.
    """
    image = _read(path, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image[..., ::-1])


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask file as 0, 1 and `IGNORED`, uint8 `[H, W]`.

    Grey masks that reach 128 or more are cut at 128 (0/255 masks with soft borders), others at 1; of a mask with the
    values 0, 1 and 255 alone, 255 is `IGNORED`. In coloured masks all that is not black is object.

    Raises:
        DataError: the file is missing or no image.
    """
    mask = _read(path, cv2.IMREAD_UNCHANGED)
    if mask.ndim == 3:
        colours = mask[..., :3]
        if (colours != colours[..., :1]).any():
            return np.asarray(colours.any(-1), np.uint8)
        mask = colours[..., 0]
    if mask.dtype != np.uint8:
        return (mask > 0).astype(np.uint8)
    present = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    if 1 in present and set(present.tolist()) <= {0, 1, IGNORED}:
        return np.asarray(mask, np.uint8)
    return (mask >= (128 if present[-1] >= 128 else 1)).astype(np.uint8)


def _read(path: Path, flags: int) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    image = cv2.imread(str(path), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DataError(f"{path}: not a readable image")
    return np.asarray(image)


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
