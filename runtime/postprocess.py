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
    if not (y.count and x.count):
        return mask

    # The box with the -100 around it that its border pixels mix with.
    logits = np.full((y.source, x.source), OUTSIDE_LOGIT, np.float32)
    logits[box.top - y.start :, box.left - x.start :][: box.bottom - box.top, : box.right - box.left] = box_logits

    signs = logits > 0
    result = mask[y.target : y.target + y.count, x.target : x.target + x.count]
    result[...] = signs.take(x.lower, axis=1).take(y.lower, axis=0)

    # Cell (r, c) lies between logits (r, c) and (r + 1, c + 1); in the last row (column) of the map it is a line.
    differ = np.zeros_like(signs)
    differ[:-1] = signs[:-1] != signs[1:]
    differ[:, :-1] |= signs[:, :-1] != signs[:, 1:]
    differ[:-1, :-1] |= signs[:-1, :-1] != signs[1:, 1:]
    r, c = np.divmod(np.flatnonzero(differ), x.source)
    r_next, c_next = np.minimum(r + 1, y.source - 1), np.minimum(c + 1, x.source - 1)
    corners = logits[r, c], logits[r, c_next], logits[r_next, c], logits[r_next, c_next]
    for i in range(y.most):
        for j in range(x.most):
            here = (i < y.pixels[r]) & (
                j < x.pixels[c]
            )  # cells that hold an (i + 1)-th row and (j + 1)-th column of the result
            row, column = y.first[r[here]] + i, x.first[c[here]] + j
            a, b, p, q = (corner[here] for corner in corners)
            down, right = y.weight[row], x.weight[column]
            above = a * (1 - right) + b * right
            below = p * (1 - right) + q * right
            result[row, column] = above * (1 - down) + below * down > 0
    return mask


class _Axis:
    """One axis of the resize: pixels of the result that mix a logit of [start, stop) of the box."""

    def __init__(self, start: int, stop: int, frame: Frame, length: int) -> None:
        lower, _, weight = bilinear_taps(frame.size, frame.side)
        self.start = max(start - 1, 0)  # logits taken: the box and one more at each side
        self.source = min(stop + 1, frame.size) - self.start
        self.target = int(np.searchsorted(lower, self.start))  # first pixel of the result
        end = min(int(np.searchsorted(lower, stop)), length)
        self.count = max(end - self.target, 0)
        self.lower: Indices = lower[self.target : end] - self.start
        self.weight: Floats = weight[self.target : end]
        self.first: Indices = np.searchsorted(self.lower, np.arange(self.source))  # pixels of the result between
        self.pixels: Indices = (
            np.searchsorted(self.lower, np.arange(self.source), side="right") - self.first
        )  # logits i and i + 1
        self.most = int(self.pixels.max(initial=0))
