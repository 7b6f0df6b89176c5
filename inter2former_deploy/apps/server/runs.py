"""Masks of a region as run lengths of the whole picture, and back, at the cost of the region alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Mask
from inter2former_deploy.runtime.region import Region


@dataclass(frozen=True)
class Runs:
    """A mask as COCO's uncompressed run lengths: down the columns, background first."""

    height: int  # of the picture, pixels
    width: int
    counts: tuple[int, ...]

    def to_json(self) -> dict[str, list[int]]:
        """As it is sent."""
        return {"size": [self.height, self.width], "counts": list(self.counts)}


@dataclass(frozen=True)
class Measured:
    """A mask as it is answered."""

    runs: Runs
    box: tuple[int, int, int, int]  # left, top, right, bottom of the object, exclusive; all 0 without any
    area: int  # pixels


def measure(mask: Mask, region: Region) -> Measured:
    """The run lengths, box and area of a mask.

    Args:
        mask: of the region, `[bottom - top, right - left]`.
        region: of the picture; nothing outside it belongs to the object.
    """
    height, width = region.picture_height, region.picture_width
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return Measured(Runs(height, width, (height * width,)), (0, 0, 0, 0), 0)
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    padded = np.zeros((right - left, bottom - top + 2), np.uint8)  # column after column, background around each
    padded[:, 1:-1] = mask[top:bottom, left:right].T
    column, row = np.nonzero(padded[:, 1:] != padded[:, :-1])  # begin and end of each run, in turn
    changes = (column + (region.left + left)) * height + row + (region.top + top)
    joined = np.flatnonzero(changes[1:-1:2] == changes[2::2])  # a run that goes on at the top of the next column
    changes = np.delete(changes, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(changes, prepend=0, append=height * width)
    if counts[-1] == 0:
        counts = counts[:-1]
    area = int(counts[1::2].sum())
    box = (region.left + left, region.top + top, region.left + right, region.top + bottom)
    return Measured(Runs(height, width, tuple(counts.tolist())), box, area)


def check_runs(size: Sequence[int], counts: Sequence[int], height: int, width: int) -> Runs:
    """Run lengths that a client sent, of a picture of this size.

    Raises:
        ValueError: they are of another size, negative, or do not add up to it.
    """
    if list(size) != [height, width]:
        raise ValueError(f"size must be that of the picture, [{height}, {width}], got {list(size)}")
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"counts must be 0 or more and add up to {height * width} pixels")
    return Runs(height, width, tuple(counts))


def mask_of(runs: Runs, region: Region) -> Mask:
    """The mask in a region, `[bottom - top, right - left]`.

    Raises:
        ValueError: a part of the object lies outside the region.
    """
    ends = np.cumsum(np.array((0, *runs.counts), np.int64))  # begin of each run, and the end of the last
    first, last = region.left * runs.height, region.right * runs.height  # the columns of the region lie together
    inside = np.diff(np.clip(ends, first, last))
    columns: npt.NDArray[np.bool_] = np.repeat(np.arange(len(inside)) % 2 == 1, inside)
    mask = columns.reshape(region.right - region.left, runs.height).T[region.top : region.bottom]
    outside = sum(runs.counts[1::2]) - int(np.count_nonzero(mask))
    if outside:
        raise ValueError(f"the mask has {outside} pixels outside the region {list(region.sides)}")
    return np.ascontiguousarray(mask)
