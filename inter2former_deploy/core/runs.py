"""Masks as COCO's uncompressed run lengths: down the columns, column after column, pixels of the background first.

Runs are made of a window of a picture and read in a window of it, so that nobody touches all pixels of a large picture
for the sake of a small object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Sides = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive
Mask = npt.NDArray[np.bool_]

_PIXELS = 1 << 20  # that are looked at at a time: what they need stays in the processor's caches


@dataclass(frozen=True)
class Runs:
    """A mask of a whole picture. Two are equal where their masks are: no run but the first is empty."""

    height: int  # of the picture, pixels
    width: int
    counts: tuple[int, ...]  # pixels of background, of object, and so on, by turns; they add up to the picture's

    @classmethod
    def of(cls, mask: Mask, corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None) -> Runs:
        """The runs of a mask.

        Args:
            mask: bool `[h, w]`: a window of the picture, outside which there is no object.
            corner: column and row of the window's upper left pixel.
            size: height and width of the picture; those of the mask if not given.

        Raises:
            ValueError: the window reaches beyond the picture.
        """
        (left, top), (height, width) = corner, size or mask.shape
        if left < 0 or top < 0 or top + mask.shape[0] > height or left + mask.shape[1] > width:
            raise ValueError(
                f"a window of {mask.shape[1]} x {mask.shape[0]} pixels at {corner} reaches beyond a picture of "
                f"{width} x {height}"
            )
        step = max(1, _PIXELS // max(1, mask.shape[1]))
        above = np.zeros((1, mask.shape[1]), bool)
        borders = []  # numbers of the pixels that differ from the one above them
        for first in range(0, mask.shape[0], step):
            rows = mask[first : first + step]
            differs = np.empty(rows.shape, bool)
            np.not_equal(rows[:1], above, out=differs[:1])
            np.not_equal(rows[1:], rows[:-1], out=differs[1:])
            row, column = np.divmod(np.flatnonzero(differs), mask.shape[1])
            borders.append((left + column) * height + (top + first + row))
            above = rows[-1:]
        borders.append((left + np.flatnonzero(above)) * height + (top + mask.shape[0]))
        sides = np.sort(np.concatenate(borders))  # in each column object begins and ends by turns
        if not len(sides):
            return cls(height, width, (height * width,))
        return cls._of_intervals(sides[0::2], sides[1::2], height, width)

    @classmethod
    def _of_intervals(cls, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], height: int, width: int) -> Runs:
        """Of intervals `[begin, end)` of the pixels' numbers, in order; those that touch become one."""
        apart = np.flatnonzero(begins[1:] != ends[:-1])
        begins, ends = begins[np.r_[0, apart + 1]], ends[np.r_[apart, len(ends) - 1]]
        borders = np.stack([begins, ends], 1).ravel()
        counts = np.diff(borders, prepend=0, append=height * width).tolist()
        return cls(height, width, tuple(counts if counts[-1] else counts[:-1]))

    @classmethod
    def of_counts(cls, counts: Sequence[object], height: int, width: int) -> Runs:
        """Runs from anywhere; empty ones are joined with their neighbours.

        Raises:
            ValueError: a run is no whole number of 0 or more, or they do not add up to the picture's pixels.
        """
        if not all(type(count) is int and 0 <= count <= height * width for count in counts):
            raise ValueError(f"counts must be whole numbers from 0 to {height * width}")
        numbers = np.array(counts, np.int64)
        if (total := int(numbers.sum())) != height * width:
            raise ValueError(f"counts must add up to {height * width} pixels, they give {total}")
        ends = np.cumsum(numbers)
        begins = (ends - numbers)[1::2]
        ends = ends[1::2]
        filled = ends > begins
        if not filled.any():
            return cls(height, width, (height * width,))
        return cls._of_intervals(begins[filled], ends[filled], height, width)

    @classmethod
    def from_json(cls, value: object, height: int, width: int) -> Runs:
        """Runs from `{"size": [height, width], "counts": [...]}`.

        Args:
            value: what a client sent or a file held.
            height: of the picture that they must be of, pixels.
            width: likewise.

        Raises:
            ValueError: they are not, or are no runs.
        """
        if not isinstance(value, dict) or not {"size", "counts"} <= value.keys():
            raise ValueError("run lengths must be a JSON object with size and counts")
        if value["size"] != [height, width]:
            raise ValueError(f"size must be that of the image, {[height, width]}, got {value['size']!r:.80}")
        if not isinstance(value["counts"], list):
            raise ValueError(f"counts must be a list, got {type(value['counts']).__name__}")
        return cls.of_counts(value["counts"], height, width)

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes them."""
        return {"size": [self.height, self.width], "counts": list(self.counts)}

    @cached_property
    def _intervals(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where runs of the object begin and end, as numbers of pixels."""
        borders = np.cumsum(np.array(self.counts, np.int64))
        ends = borders[1::2]
        return borders[0::2][: len(ends)], ends

    @property
    def area(self) -> int:
        """Pixels of the object."""
        return sum(self.counts[1::2])

    @cached_property
    def box(self) -> Sides | None:
        """The least window that holds the object; None where there is none."""
        begins, ends = self._intervals
        if not len(begins):
            return None
        first, last = begins // self.height, (ends - 1) // self.height  # columns
        top, bottom = (begins % self.height).min(), ((ends - 1) % self.height).max()
        if (last > first).any():  # a run that goes on in the next column reaches the picture's lower and upper side
            top, bottom = 0, self.height - 1
        return int(first[0]), int(top), int(last[-1]) + 1, int(bottom) + 1

    def mask(self, window: Sides | None = None) -> Mask:
        """The mask, bool `[height, width]`, or of a window of the picture `[bottom - top, right - left]`."""
        left, top, right, bottom = window or (0, 0, self.width, self.height)
        begins, ends = self._intervals
        low, high = left * self.height, right * self.height
        chosen = (ends > low) & (begins < high)
        borders = np.stack([begins[chosen].clip(low) - low, ends[chosen].clip(max=high) - low], 1).ravel()
        runs = np.diff(borders, prepend=0, append=high - low)
        columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(right - left, self.height)
        return np.ascontiguousarray(columns[:, top:bottom].T)
