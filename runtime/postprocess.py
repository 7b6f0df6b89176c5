"""From the decoder's output to masks: paste the box, resize, crop, threshold; work only where the box is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inter2former_deploy.contract import OUTSIDE_LOGIT
from inter2former_deploy.runtime.preprocess import Floats, Frame, Indices, bilinear_taps

Mask = npt.NDArray[np.bool_]


class Box(NamedTuple):
    """A part of the model's square in pixels, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int


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

    # The box, with what its border pixels mix with: the -100 around it, or themselves where the map ends.
    logits = np.full((y.logits, x.logits), OUTSIDE_LOGIT, np.float32)
    logits[box.top - y.start : -1, box.left - x.start : -1] = box_logits
    if box.bottom == frame.size:
        logits[-1] = logits[-2]
    if box.right == frame.size:
        logits[:, -1] = logits[:, -2]

    # Cell (r, c) lies between logits (r, c) and (r + 1, c + 1): 0 background, 1 foreground, 2 and more both.
    signs = logits > 0
    corner = signs[:-1, :-1]
    differ = corner != signs[1:, 1:]
    differ |= corner != signs[1:, :-1]
    differ |= corner != signs[:-1, 1:]
    cells = corner.view(np.uint8) + np.uint8(2) * differ

    result = cells.take(x.lower, axis=1).take(y.lower, axis=0)
    both = np.flatnonzero(result > 1)
    row, column = np.divmod(both, x.lower.size)
    at = y.lower.take(row) * x.logits + x.lower.take(column)  # of the cell's upper left logit
    down, right = y.weight.take(row), x.weight.take(column)
    flat, left = logits.reshape(-1), 1 - right
    above = flat.take(at) * left + flat.take(at + 1) * right
    below = flat.take(at + x.logits) * left + flat.take(at + x.logits + 1) * right
    result.reshape(-1)[both] = above * (1 - down) + below * down > 0
    mask[y.pixels, x.pixels] = result
    return mask


class _Axis:
    """One axis of the resize: the pixels of the result that mix a logit of [start, stop)."""

    def __init__(self, start: int, stop: int, frame: Frame, length: int) -> None:
        lower, _, weight = bilinear_taps(frame.size, frame.side)
        self.start = max(start - 1, 0)  # the first logit that they mix
        self.logits = stop + 1 - self.start  # how many
        first = int(np.searchsorted(lower, self.start))
        end = min(int(np.searchsorted(lower, stop)), length)
        self.pixels = slice(first, max(first, end))
        self.lower: Indices = lower[self.pixels] - self.start
        self.weight: Floats = weight[self.pixels]
