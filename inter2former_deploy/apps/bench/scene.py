"""Objects of a given size for the measurements: a disc in the middle of the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from inter2former_deploy.core.prompts import Click
from inter2former_deploy.families.inter2former.labels import (
    POSSIBLE_BACKGROUND,
    POSSIBLE_FOREGROUND,
    add_clicks,
    unknown_labels,
)

Array = npt.NDArray[Any]


def disc_tokens(side: int, share: float) -> Array:
    """Indices, int64 ascending, of the `share` of `side * side` tokens that lie nearest to the centre."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    nearest = np.argsort((y * y + x * x).ravel(), kind="stable")[: round(share * side * side)]
    return np.sort(nearest).astype(np.int64)


def disc_labels(size: int, share: float) -> Array:
    """Labels, uint8 [size, size], after a click and a prediction: a disc of `share` of the area; unknown at 1."""
    labels = unknown_labels(size)
    if share < 1:
        y, x = np.ogrid[:size, :size]
        inside = (y - size / 2) ** 2 + (x - size / 2) ** 2 < share * size * size / np.pi
        labels[...] = np.where(inside, POSSIBLE_FOREGROUND, POSSIBLE_BACKGROUND)
    add_clicks(labels, [Click(size // 2, size // 2, True)])
    return labels


def disc_token_box(side: int, share: float) -> Array:
    """Left, top, right, bottom in tokens, int64, of a square box of `share` of the area in the middle of the map."""
    extent = max(1, round(side * share**0.5))
    start = (side - extent) // 2
    return np.array([start, start, start + extent, start + extent], np.int64)
