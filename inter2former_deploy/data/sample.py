"""What every dataset of this package is: a sequence of named pairs of image and mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IGNORE = 255  # mask value of pixels that neither loss nor score counts


@dataclass(frozen=True)
class Sample:
    """One picture and the one object in it that is to be segmented."""

    name: str  # unique in its dataset; file name and object, or kind and index of a synthetic scene
    image: NDArray[np.uint8]  # [H, W, 3] RGB
    mask: NDArray[np.uint8]  # [H, W], 1 object, 0 background, `IGNORE` neither


class Dataset(Protocol):
    """Random access to samples. `dataset[i]` raises `DataError` when that sample is broken."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """The sample, read or drawn anew on every access."""


class DataError(ValueError):
    """Files of a dataset are missing, unreadable or do not fit together; the message names each of them."""
