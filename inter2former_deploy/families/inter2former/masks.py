"""From what the click graph gives to masks: paste the box, resize, crop, threshold; work only where the box is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Floats, Mask
from inter2former_deploy.families.inter2former.config import OUTSIDE_LOGIT
from inter2former_deploy.families.inter2former.pictures import Frame
from inter2former_deploy.families.pictures import Indices, bilinear_taps

Found = npt.NDArray[np.bool_]

_PIXELS = 1 << 20  # of the result at a time: what they need stays in memory that is not given back in between


class Box(NamedTuple):
    """A part of the model's square in pixels, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int


class BoxLogits(NamedTuple):
    """What the decoder of Inter2Former predicts: logits inside a box; outside all are `OUTSIDE_LOGIT`."""

    box: Box
    box_logits: Floats  # [bottom - top, right - left]

    def mask(self, frame: Frame) -> Mask:
        """The object in the image, bool `[H, W]`."""
        return foreground_mask(self.box_logits, self.box, frame)

    def logits(self, frame: Frame) -> Floats:
        """The whole map of logits, `[S, S]`."""
        return paste_logits(self.box_logits, self.box, frame.size)

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        return self.box_logits.nbytes


def paste_logits(box_logits: Floats, box: Box, size: int) -> Floats:
    """The whole map of logits: -100 outside the box.

    Args:
        box_logits: `[bottom - top, right - left]`.
        box: where they lie.
        size: S.

    Returns:
        `[S, S]`.
    """
    logits = np.full((size, size), OUTSIDE_LOGIT, np.float32)
    logits[box.top : box.bottom, box.left : box.right] = box_logits
    return logits


def foreground_mask(box_logits: Floats, box: Box, frame: Frame) -> Mask:
    """What `resize(paste_logits(...), side)[:H, :W] > 0` gives, bilinear, at the cost of the object's boundary.

    A pixel of the result mixes four neighbouring logits. Where all four have one sign, so has the mixture;
    only where they differ is it computed. Outside the box all are -100.

    Args:
        box_logits: finite, `[bottom - top, right - left]`.
        box: where they lie in the model's square.
        frame: of the image.

    Returns:
        Foreground, `[H, W]`.
    """
    mask = np.zeros((frame.height, frame.width), bool)
    y = _Axis(box.top, box.bottom, frame, frame.height)
    x = _Axis(box.left, box.right, frame, frame.width)
    if not (y.lower.size and x.lower.size):
        return mask

    result = mask[y.pixels, x.pixels]
    step = max(1, _PIXELS // x.lower.size)
    for start in range(0, y.lower.size, step):
        rows = slice(start, start + step)
        top = y.lower[rows]
        first, count = int(top[0]), int(top[-1] - top[0]) + 2
        # Cell (r, c) lies between logits (r, c) and (r + 1, c + 1): so many of the four are foreground.
        signs = _signs(box_logits, y, x, first, count)
        cells = signs[1:] + signs[:-1]
        cells = cells[:, 1:] + cells[:, :-1]
        pixels = cells.take(x.lower, axis=1).take(top - first, axis=0)
        np.equal(pixels, 4, out=result[rows])

        row, column = np.divmod(np.flatnonzero((pixels & 3) != 0), x.lower.size)
        upper, left = top.take(row), x.lower.take(column)
        above, below = (_mixed(box_logits, y.of_box(upper + i), x, left, x.weight.take(column)) for i in range(2))
        down = y.weight[rows].take(row)
        result[rows][row, column] = above * (1 - down) + below * down > 0
    return mask


def _signs(box_logits: Floats, y: _Axis, x: _Axis, first: int, count: int) -> npt.NDArray[np.uint8]:
    """Whether the logits are foreground that the pixels mix, 0 or 1, of rows [first, first + count)."""
    signs = np.zeros((count, x.logits), np.uint8)
    inside = box_logits[max(first - y.before, 0) : max(first - y.before + count, 0), : x.logits - x.before]
    above = max(y.before - first, 0)
    place = slice(above, above + inside.shape[0]), slice(x.before, x.before + inside.shape[1])
    np.greater(inside, 0, out=signs[place].view(bool))
    if y.ends and place[0].stop < count:  # below the map its last row counts once more
        signs[-1] = signs[-2]
    if x.ends and place[1].stop < x.logits:
        signs[:, -1] = signs[:, -2]
    return signs


def _mixed(box_logits: Floats, rows: tuple[Indices, Found], x: _Axis, left: Indices, right_weight: Floats) -> Floats:
    """Two neighbours of each row, mixed."""
    row, in_rows = rows

    def logit(column: Indices, in_columns: Found) -> Floats:
        values: Floats = box_logits.take(row * box_logits.shape[1] + column)
        values[~(in_rows & in_columns)] = OUTSIDE_LOGIT
        return values

    mixed: Floats = logit(*x.of_box(left)) * (1 - right_weight) + logit(*x.of_box(left + 1)) * right_weight
    return mixed


class _Axis:
    """One axis of the resize: the pixels of the result that mix a logit of [start, stop)."""

    def __init__(self, start: int, stop: int, frame: Frame, length: int) -> None:
        lower, _, weight = bilinear_taps(frame.size, frame.side)
        origin = max(start - 1, 0)  # the first logit that they may mix
        first = int(np.searchsorted(lower, origin))
        end = min(int(np.searchsorted(lower, stop)), length)
        self.pixels = slice(first, max(first, end))
        self.lower: Indices = lower[self.pixels] - origin
        self.weight: Floats = weight[self.pixels]
        self.logits = int(self.lower[-1]) + 2 if self.lower.size else 0  # how many they mix, from `origin` on
        self.before = start - origin  # of these, how many lie before the box
        self.ends = stop == frame.size  # whether the box ends where the map does
        self._last = stop - start - 1

    def of_box(self, index: Indices) -> tuple[Indices, Found]:
        """Which of the box's logits these are, and which lie in it; behind the map its last one counts once more."""
        place = index - self.before
        clipped = np.clip(place, 0, self._last)
        return clipped, (place >= 0) & ((place <= self._last) | self.ends)
