"""CVAT's interactor: its clicks and box as prompts, a mask as its shape. Without any package of CVAT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from inter2former_deploy.annotations.masks import box_counts
from inter2former_deploy.core.prompts import Box, Click, Stroke
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime.checks import check_box, check_click

Point: TypeAlias = tuple[float, float]  # x and y, pixels of the picture from its upper left corner

ANNOTATIONS = {  # of the function, as nuclio keeps them
    "type": "interactor",
    "version": "2",
    "spec": "",
    "min_pos_points": "1",
    "min_neg_points": "0",
    "startswith_box_optional": "true",
    "help_message": "Click on the object; click with the right button on what does not belong to it.",
}


def prompts_of(
    positive: Iterable[Point], negative: Iterable[Point], box: Sequence[Point] | None, width: int, height: int
) -> list[Click | Box | Stroke]:
    """The prompts of an object, all of which CVAT sends each time: box, clicks on it, clicks beside it.

    Older clients round clicks, so that one may lie half a pixel outside: it is moved to the border.

    Args:
        positive: clicks on the object.
        negative: clicks beside it.
        box: two corners in any order; None or empty without one.
        width: of the picture, pixels.
        height: likewise.

    Raises:
        TypeError, ValueError: there is no prompt, or one is no pair of numbers.
    """
    prompts: list[Click | Box | Stroke] = []
    if box:
        (left, right), (top, bottom) = (sorted(pair) for pair in zip(*(_pair(point) for point in box), strict=True))
        prompts.append(check_box(max(left, 0), max(top, 0), min(right, width), min(bottom, height)))
    for points, is_positive in ((positive, True), (negative, False)):
        for x, y in map(_pair, points):
            prompts.append(Click(_inside(x, width), _inside(y, height), is_positive))
    if not prompts:
        raise ValueError("there is no click and no box")
    return prompts


def mask_points(runs: Runs) -> list[int]:
    """The points of a shape of type "mask": runs along the rows of a box, then its first and last column and row."""
    left, top, right, bottom = runs.box or (0, 0, 1, 1)
    return [*box_counts(runs, (left, top, right, bottom)), left, top, right - 1, bottom - 1]


def _pair(point: Sequence[float]) -> Point:
    try:
        x, y = point
    except (TypeError, ValueError):
        raise ValueError(f"expected a point as a pair of numbers, x and y, got {point!r:.100}") from None
    click = check_click(x, y, True)
    return click.x, click.y


def _inside(v: float, length: int) -> float:
    return float(min(max(v, 0), np.nextafter(length, 0)))
