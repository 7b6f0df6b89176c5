"""From what the click graph gives to masks: paste the box, resize, crop, threshold; work only where the box is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inter2former_deploy.core.prompts import Floats, Mask
from inter2former_deploy.families.inter2former.config import OUTSIDE_LOGIT
from inter2former_deploy.families.inter2former.pictures import Frame
from inter2former_deploy.families.pictures import Indices, bilinear_taps

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
        first = int(top[0])
        logits = _around(box_logits, y, x, first, int(top[-1]) - first + 2)
        signs = (logits > 0).view(np.uint8)
        # Cell (r, c) lies between logits (r, c) and (r + 1, c + 1): so many of the four are foreground.
        cells = signs[1:] + signs[:-1]
        cells = cells[:, 1:] + cells[:, :-1]
        pixels = cells.take(x.lower, axis=1).take(top - first, axis=0)
        np.equal(pixels, 4, out=result[rows])

        row, column = np.divmod(np.flatnonzero((pixels & 3) != 0), x.lower.size)
        at = (top - first).take(row) * x.logits + x.lower.take(column)
        right, down = x.weight.take(column), y.weight[rows].take(row)
        above, below = (logits.take(at + i) * (1 - right) + logits.take(at + i + 1) * right for i in (0, x.logits))
        result[rows][row, column] = above * (1 - down) + below * down > 0
    return mask


def _around(box_logits: Floats, y: _Axis, x: _Axis, first: int, count: int) -> Floats:
    """The logits that pixels mix, of rows [first, first + count): those of the box, and what lies next to it."""
    logits = np.full((count, x.logits), OUTSIDE_LOGIT, np.float32)
    inside = box_logits[max(first - y.before, 0) : max(first - y.before + count, 0), : x.logits - x.before]
    above = max(y.before - first, 0)
    height, width = inside.shape
    logits[above : above + height, x.before : x.before + width] = inside
    if y.ends and above + height < count:  # below the map its last row counts once more
        logits[-1] = logits[-2]
    if x.ends and x.before + width < x.logits:
        logits[:, -1] = logits[:, -2]
    return logits


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
