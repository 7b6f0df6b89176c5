"""The reference label map: what clicks and earlier predictions say about each pixel of the model's square.

uint8 [S, S]: 0 definite background, 1 possible background, 2 unknown, 3 possible foreground, 4 definite
foreground. The map starts unknown everywhere; in turn, clicks are added and predictions are folded in.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.clicks import deep_inside
from inter2former_deploy.core.prompts import Box, Click

Labels = npt.NDArray[np.uint8]


class Label(IntEnum):
    """What a label map says about a pixel."""

    DEFINITE_BACKGROUND = 0
    POSSIBLE_BACKGROUND = 1
    UNKNOWN = 2
    POSSIBLE_FOREGROUND = 3
    DEFINITE_FOREGROUND = 4


DEFINITE_BACKGROUND, POSSIBLE_BACKGROUND, UNKNOWN, POSSIBLE_FOREGROUND, DEFINITE_FOREGROUND = map(int, Label)
CLICK_RADIUS = 5  # pixels of the map, Euclidean, inclusive
BOX_CORE = 0.3  # of a box's width and height: the axes of the ellipse in its middle that counts as the object
MASK_CORE = 1.4  # of a start mask, what lies deeper than its deepest point divided by this is definite


def unknown_labels(height: int, width: int | None = None) -> Labels:
    """The label map before any click, `[height, width]`; square without a width."""
    return np.full((height, height if width is None else width), UNKNOWN, np.uint8)


def add_clicks(labels: Labels, clicks: Sequence[Click]) -> None:
    """Paint a batch of clicks into the map, in place: discs of definite foreground or background.

    Where discs of the batch overlap, the sign whose first click comes later in the batch wins.

    Args:
        labels: the map, `[H, W]`.
        clicks: in pixels of the map, whole numbers, inside it.

    Raises:
        ValueError: a click lies outside the map; the map is unchanged then.
    """
    height, width = labels.shape
    for click in clicks:
        if not (0 <= click.x < width and 0 <= click.y < height):
            raise ValueError(f"click ({click.x}, {click.y}) lies outside the {width} x {height} label map")
    signs = list(dict.fromkeys(click.positive for click in clicks))  # in order of their first clicks
    for click in sorted(clicks, key=lambda click: signs.index(click.positive)):
        x, y = int(click.x), int(click.y)
        rows = slice(max(y - CLICK_RADIUS, 0), y + CLICK_RADIUS + 1)
        columns = slice(max(x - CLICK_RADIUS, 0), x + CLICK_RADIUS + 1)
        around = labels[rows, columns]
        dy = np.arange(rows.start, rows.start + around.shape[0])[:, None] - y
        dx = np.arange(columns.start, columns.start + around.shape[1]) - x
        around[dy**2 + dx**2 <= CLICK_RADIUS**2] = DEFINITE_FOREGROUND if click.positive else DEFINITE_BACKGROUND


def paint_box(labels: Labels, box: Box) -> None:
    """Paint a box into the map, in place; definite labels stay.

    Outside it is possible background, inside unknown, and an ellipse in its middle, of `BOX_CORE` of its width and
    height, possible foreground. The release has no boxes: of the ways that were tried this one gave the best masks
    (docs/prompts.md).

    Args:
        labels: the map, `[H, W]`.
        box: in whole pixels of the map.
    """
    left, top, right, bottom = map(int, box)
    values = np.full(labels.shape, POSSIBLE_BACKGROUND, np.uint8)
    inside = values[top:bottom, left:right]
    inside[:] = UNKNOWN
    # Twice the distance of a pixel's centre from the middle, as a share of the ellipse's width or height.
    x, y = ((2 * np.arange(n) + 1 - n) / (BOX_CORE * n) for n in (right - left, bottom - top))
    inside[x**2 + y[:, None] ** 2 <= 1] = POSSIBLE_FOREGROUND
    definite = (labels == DEFINITE_BACKGROUND) | (labels == DEFINITE_FOREGROUND)
    np.copyto(labels, values, where=~definite)


def mask_labels(mask: npt.NDArray[np.bool_]) -> Labels:
    """The label map that goes on from a mask.

    The object is possible foreground, all else possible background, and the part of the object that is farthest from
    its border definite foreground, as if it had been clicked. The release has no start masks: of the ways that were
    tried this one gave the best masks (docs/prompts.md).

    Args:
        mask: `[H, W]`, true on the object.

    Returns:
        `[H, W]`.
    """
    labels = np.where(mask, np.uint8(POSSIBLE_FOREGROUND), np.uint8(POSSIBLE_BACKGROUND))
    labels[deep_inside(mask, MASK_CORE)] = DEFINITE_FOREGROUND
    return labels


def fold_prediction(labels: Labels, foreground: npt.NDArray[np.bool_]) -> None:
    """Fold a prediction into the map, in place: each pixel moves one step towards it; definite labels stay.

    Foreground pixels: 2 -> 3 and 1 -> 2. Background pixels: 2 -> 1 and 3 -> 2.

    Args:
        labels: the map, or a part of it, `[H, W]`.
        foreground: `[H, W]`, logits > 0.
    """
    # Unsigned arithmetic wraps, so `2 <= v <= 3` is `v - 2 < 2`; with v = label + foreground it holds for
    # exactly the labels that move: 2 and 3 of the background, 1 and 2 of the foreground.
    moves = (labels + foreground - np.uint8(2)) < 2
    labels += moves & foreground
    labels -= moves & ~foreground


def fold_table(*, foreground: bool) -> list[int]:
    """What `fold_prediction` makes of each label where the prediction is foreground, or where it is background."""
    labels = np.array([Label], np.uint8)
    fold_prediction(labels, np.full(labels.shape, foreground))
    table: list[int] = labels[0].tolist()
    return table


def check_labels(labels: Labels) -> None:
    """Refuse a map with values that mean nothing: plain onnxruntime computes something of them, without a word.

    Raises:
        ValueError: a value is above 4.
    """
    if (largest := int(labels.max(initial=0))) > max(Label):
        raise ValueError(f"labels must be 0 to {max(Label):d}, got {largest}")
