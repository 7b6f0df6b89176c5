"""The brush: pixels along a line that become object or background, whatever the model said."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from inter2former_deploy.core.prompts import Mask
from inter2former_deploy.runtime.region import Region


@dataclass(frozen=True)
class Paint:
    """All pixels whose centre lies within `radius` of the line."""

    points: tuple[tuple[float, float], ...]  # x and y of its corners, pixels of the picture
    radius: float  # pixels
    erase: bool  # make background of them


def painted(mask: Mask, paint: Paint, region: Region) -> Mask:
    """The mask of a region with what was painted on it; another array."""
    result = mask.copy()
    corners = [(x - region.left, y - region.top) for x, y in paint.points]
    for (x0, y0), (x1, y1) in pairwise([*corners, corners[-1]]):
        height, width = result.shape
        left, right = (int(np.clip(v, 0, width)) for v in (min(x0, x1) - paint.radius, max(x0, x1) + paint.radius + 1))
        top, bottom = (int(np.clip(v, 0, height)) for v in (min(y0, y1) - paint.radius, max(y0, y1) + paint.radius + 1))
        x, y = np.arange(left, right) + 0.5 - x0, (np.arange(top, bottom) + 0.5 - y0)[:, None]
        dx, dy = x1 - x0, y1 - y0
        along = np.clip((x * dx + y * dy) / ((dx * dx + dy * dy) or 1), 0, 1)
        near = (x - along * dx) ** 2 + (y - along * dy) ** 2 <= paint.radius**2
        result[top:bottom, left:right][near] = not paint.erase
    return result
