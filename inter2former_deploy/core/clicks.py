"""Simulated clicks and the scores of click sessions, as papers of interactive segmentation report them.

Masks are [H, W]: a prediction is true where foreground; a target is 0 background, `IGNORED` neither, foreground else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inter2former_deploy.core.masks import (
    IGNORED as IGNORED,  # target value of pixels that are neither clicked nor scored
)
from inter2former_deploy.core.prompts import Click

TRAINING_FACTOR = 1.7  # `next_click` factor of corrective clicks while training
MAX_CLICKS = 20  # of a session; NoC counts it where a session never reaches the threshold
_EPSILON = 1.19e-7  # keeps the pixels of the largest distance candidates
# Errors of OpenCV's distances, as shares: with a mask of 3 x 3 (0.045 is the largest), and of its exact transform.
_ROUGH, _ROUNDING = 0.06, 1e-5
_SURE = 512  # pixels; squares of such distances in single precision round to the right whole number
_FAR = 1 << 30  # rows that no image has

Mask = NDArray[np.bool_]


def next_click(
    prediction: NDArray[Any],
    target: NDArray[Any],
    clicks: Iterable[Click] = (),
    *,
    factor: float = 1.0,
    rng: np.random.Generator | None = None,
) -> Click | None:
    """The click a user would add: amid the largest error, as the distance to its border measures it.

    Args:
        prediction: bool [H, W].
        target: [H, W].
        clicks: Earlier clicks in pixels of the masks, whole numbers; their pixels are not clicked again.
        factor: Candidates lie farther from the border than the largest distance divided by this; 1 in evaluation,
            `TRAINING_FACTOR` while training.
        rng: Draws among the candidates; without it the first in row-major order is taken.

    Returns:
        The click, or None where prediction and target agree.

    Raises:
        ValueError: The masks differ in shape, an earlier click lies outside them, or `factor` is below 1.
    """
    foreground, prediction, valid = _masks(prediction, target)
    if not factor >= 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    free = valid.copy()
    for click in clicks:
        if not (0 <= click.x < free.shape[1] and 0 <= click.y < free.shape[0]):
            raise ValueError(f"click ({click.x}, {click.y}) lies outside the {free.shape[1]} x {free.shape[0]} mask")
        free[int(click.y), int(click.x)] = False
    wrong = (foreground != prediction) & free
    misses, false_alarms = (_Depth(wrong & sign, factor + _EPSILON) for sign in (foreground, prediction))
    positive = misses.largest > false_alarms.largest  # a tie is a negative click
    depth = misses if positive else false_alarms
    if depth.largest == 0:
        return None
    candidates = depth.candidates()
    y, x = divmod(int(candidates[0] if rng is None else rng.choice(candidates)), target.shape[1])
    return Click(x, y, positive)


def deep_inside(region: Mask, factor: float) -> Mask:
    """The part of a region that is farthest from its border.

    Args:
        region: bool [H, W].
        factor: 1 or more: pixels count whose distance to the nearest pixel outside the region, or outside the image, is
            larger than the largest one divided by this.

    Returns:
        bool [H, W].
    """
    depth = _Depth(region, factor)
    found = np.zeros(region.shape, bool)
    if depth.largest:
        found.ravel()[depth.candidates()] = True
    return found


def number_of_clicks(ious: ArrayLike, threshold: float) -> float:
    """NoC@threshold: the mean number of clicks until the IoU reaches the threshold.

    Args:
        ious: IoU of every sample after each of its clicks, [N, clicks].
        threshold: E.g. 0.9.

    Returns:
        Mean over samples; `MAX_CLICKS` counts where a sample never gets there within as many.
    """
    reached = np.asarray(ious)[:, :MAX_CLICKS] >= threshold
    return float(np.where(reached.any(1), reached.argmax(1) + 1, MAX_CLICKS).mean())


def mean_iou(ious: ArrayLike, clicks: int) -> float:
    """n-mIoU: the mean IoU after n clicks.

    Args:
        ious: IoU of every sample after each of its clicks, [N, clicks].
        clicks: n, 1 or more.
    """
    return float(np.asarray(ious)[:, clicks - 1].mean())


def _masks(prediction: NDArray[Any], target: NDArray[Any]) -> tuple[Mask, Mask, Mask]:
    """Target foreground where valid, prediction, and valid pixels, as booleans."""
    if prediction.shape != target.shape or target.ndim != 2:
        raise ValueError(f"expected two masks [H, W], got {prediction.shape} and {target.shape}")
    valid = target != IGNORED
    return (target != 0) & valid, prediction.astype(bool, copy=False), valid


class _Depth:
    """The deepest pixels of a region, by their distance to the nearest pixel outside it or outside the image.

    Compared are squared distances, whole numbers, so that the same pixels are found on every machine. OpenCV's exact
    transform differs by rounding from call to call and from machine to machine, which would decide between pixels of
    one depth. It is applied around the pixels that count by a quick, approximate one.

    Args:
        region: bool [H, W].
        factor: pixels count whose distance is larger than the largest one over this.
    """

    def __init__(self, region: Mask, factor: float) -> None:
        self.factor, self.width, self.largest = factor, region.shape[1], 0  # largest: squared distance
        top, bottom = _span(region.any(1))
        left, right = _span(region.any(0))
        if bottom == 0:
            return
        import cv2  # here, since every start of `i2f` loads this module for its numbers

        # framed by one pixel outside: beyond the bounding box of the region, or beyond the image
        framed = np.pad(region[top:bottom, left:right], 1)
        rough = cv2.distanceTransform(framed.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3)
        peak = float(rough.max())
        counts = rough >= peak / factor * (1 - _ROUGH) / (1 + _ROUGH)
        reach = math.ceil(peak / (1 - _ROUGH)) + 1  # what decides about these pixels lies as near
        (y0, y1), (x0, x1) = _span(counts.any(1)), _span(counts.any(0))
        y0, x0 = max(0, y0 - reach), max(0, x0 - reach)
        part = np.s_[y0 : y1 + reach, x0 : x1 + reach]
        inside, counts = framed[part], counts[part]
        near = cv2.distanceTransform(np.ascontiguousarray(inside, np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        y, x = np.nonzero(counts)
        distance = near[y, x].astype(np.float64)
        self._squared = np.rint(distance**2).astype(np.int64)
        # Farther than this, rounding errors of single precision make more than half a square: count anew what is close
        far = np.flatnonzero(distance > max(_SURE, (1 - _ROUNDING) * distance.max() / factor))
        if far.size:
            sure = np.flatnonzero(distance > (1 + _ROUNDING) * distance.max() / factor)
            unsure_largest = np.flatnonzero(distance > (1 - _ROUNDING) * distance.max())
            anew = np.union1d(np.setdiff1d(far, sure, assume_unique=True), unsure_largest)
            self._squared[anew] = _squared_distances(inside, y[anew], x[anew])
        self.largest = int(self._squared.max())
        self._pixels = (y + (y0 + top - 1)) * self.width + x + (x0 + left - 1)

    def candidates(self) -> NDArray[np.intp]:
        """The pixels that count: indices into the flat image, in row-major order."""
        return np.asarray(self._pixels[self._squared * self.factor**2 > self.largest])


def _squared_distances(region: Mask, y: NDArray[np.intp], x: NDArray[np.intp]) -> NDArray[np.int64]:
    """Squared distances of some pixels of a region to the nearest pixel outside it, exactly."""
    rows = np.arange(len(region), dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(region, np.int32(-_FAR), rows), 0)
    below = np.minimum.accumulate(np.where(region, np.int32(_FAR), rows)[::-1], 0)[::-1]
    in_column = np.minimum(rows - above, below - rows)
    nearest = in_column[y, x].astype(np.int64) ** 2
    step = 0
    active = np.arange(len(y))
    while active.size:  # columns farther away than the nearest pixel so far can't hold a nearer one
        step += 1
        active = active[nearest[active] > step * step]
        for side in (x[active] - step, x[active] + step):
            there = (side >= 0) & (side < region.shape[1])
            at = active[there]
            nearest[at] = np.minimum(nearest[at], in_column[y[at], side[there]].astype(np.int64) ** 2 + step**2)
    return nearest


def _span(found: Any) -> tuple[int, int]:
    """First true and one past the last; (0, 0) without any."""
    where = np.flatnonzero(found)
    return (int(where[0]), int(where[-1]) + 1) if where.size else (0, 0)
