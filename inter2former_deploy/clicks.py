"""Simulated clicks and the scores of click sessions, as papers of interactive segmentation report them.

Masks are [H, W]: a prediction is true where foreground; a target is 0 background, `IGNORED` neither, foreground else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inter2former_deploy.labels import Click

IGNORED = 255  # target value of pixels that are neither clicked nor scored
TRAINING_FACTOR = 1.7  # `next_click` factor of corrective clicks while training
MAX_CLICKS = 20  # of a session; NoC counts it where a session never reaches the threshold
_EPSILON = 1.19e-7  # keeps the pixels of the largest distance candidates

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
    misses = _border_distance(foreground & ~prediction & free)
    false_alarms = _border_distance(prediction & ~foreground & free)
    positive = bool(misses.max() > false_alarms.max())  # a tie is a negative click
    distance = misses if positive else false_alarms
    largest = float(distance.max())
    if largest == 0:
        return None
    candidates = np.flatnonzero(distance > largest / (factor + _EPSILON))
    y, x = divmod(int(candidates[0] if rng is None else rng.choice(candidates)), distance.shape[1])
    return Click(x, y, positive)


def iou(prediction: NDArray[Any], target: NDArray[Any]) -> float:
    """Intersection over union of the foregrounds; 0 where the union is empty.

    Args:
        prediction: bool [H, W].
        target: [H, W].

    Raises:
        ValueError: The masks differ in shape.
    """
    foreground, prediction, valid = _masks(prediction, target)
    union = np.count_nonzero((foreground | prediction) & valid)
    return float(np.count_nonzero(foreground & prediction & valid) / union) if union else 0.0


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
    """Target foreground, prediction and valid pixels as booleans."""
    if prediction.shape != target.shape or target.ndim != 2:
        raise ValueError(f"expected two masks [H, W], got {prediction.shape} and {target.shape}")
    valid = target != IGNORED
    return (target != 0) & valid, prediction.astype(bool), valid


def _border_distance(region: Mask) -> NDArray[np.float32]:
    """Euclidean distance of every pixel of a region to the nearest pixel outside it or outside the image."""
    import cv2  # here, since every start of `i2f` loads this module for its numbers

    framed = np.pad(region.astype(np.uint8), 1)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance[1:-1, 1:-1].astype(np.float32, copy=False)
