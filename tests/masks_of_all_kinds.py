"""Masks that formats must hold: holes, diagonals, lines of one pixel, borders, nothing, everything."""

from __future__ import annotations

import cv2
import numpy as np


def random_masks(count: int, height: int, width: int) -> list[np.ndarray]:
    """Masks bool `[height, width]`; the first few are the special ones."""
    rng = np.random.default_rng(0)
    empty = np.zeros((height, width), bool)
    y, x = np.mgrid[:height, :width]
    special = [
        empty,
        ~empty,
        y == x,  # pixels that touch by corners
        (y + x) % 2 == 0,
        y == 3,
        x == 0,
        (y == 0) | (y == height - 1) | (x == 0) | (x == width - 1),
        (y % 4 < 2) & (x % 4 < 2),
        (np.hypot(y - 9, x - 9) < 8) & (np.hypot(y - 9, x - 9) > 4) | (np.hypot(y - 9, x - 9) < 2),
        (y == height - 1) & (x == width - 1),
    ]
    masks = special[:count]
    while len(masks) < count:
        kind = len(masks) % 4
        noise = rng.random((height, width))
        if kind == 0:
            mask = noise < rng.random()
        elif kind == 1:
            mask = cv2.GaussianBlur(noise, (0, 0), 2) > np.quantile(cv2.GaussianBlur(noise, (0, 0), 2), rng.random())
        elif kind == 2:
            canvas = np.zeros((height, width), np.uint8)
            for _ in range(4):
                ends = [tuple(map(int, rng.integers(-3, (width + 3, height + 3)))) for _ in range(2)]
                cv2.line(canvas, ends[0], ends[1], 1)
            mask = canvas > 0
        else:
            canvas = np.zeros((height, width), np.uint8)
            corners = rng.integers(-4, (width + 4, height + 4), (6, 2))
            cv2.fillPoly(canvas, [corners.astype(np.int32)], 1)
            mask = (canvas > 0) & (noise > 0.02)
        masks.append(mask)
    return masks


def filled(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """What rings of pixel corners `[n, 2]` (x, y) enclose by the even-odd rule, bool `[height, width]`.

    Edges are upright or level, or are walked twice, there and back.
    """
    crossings = np.zeros((height, width + 1), np.int64)  # at the left side of each pixel
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, 0).tolist(), strict=True):
            crossings[min(y0, y1) : max(y0, y1), min(x0, x1)] += 1
    return np.cumsum(crossings, 1)[:, :width] % 2 == 1
