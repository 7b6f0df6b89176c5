"""What the routes of annotation tools share: pictures in text, prompts at the border of a picture, outlines."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import cv2
import numpy as np
from fastapi.concurrency import run_in_threadpool

from inter2former_deploy.annotations.masks import Outline
from inter2former_deploy.apps.server.errors import bad_request
from inter2former_deploy.apps.server.service import Service, Source
from inter2former_deploy.core.prompts import Box, Click
from inter2former_deploy.runtime.checks import check_box, check_click

SMOOTH = 1.0  # pixels: as much as makes a slanted line of the steps between pixels


async def source_of(service: Service, text: str) -> Source:
    """The picture of a file in base64, with or without the beginning of a data URI.

    It is known by its content: sent again, it is neither decoded nor encoded again.

    Raises:
        ApiError: it is no base64 (400) or no picture (422).
    """
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request("the image is not base64") from None
    return await run_in_threadpool(service.add, content)


def click_near(x: Any, y: Any, positive: bool, width: int, height: int) -> Click:
    """A click; one beyond the border, as tools round, is moved to the nearest pixel.

    Raises:
        TypeError, ValueError: these are no numbers.
    """
    checked = check_click(x, y, positive)
    inside = [float(min(max(v, 0), np.nextafter(end, 0))) for v, end in ((checked.x, width), (checked.y, height))]
    return Click(inside[0], inside[1], positive)


def box_near(first: tuple[Any, Any], second: tuple[Any, Any], width: int, height: int) -> Box:
    """A box by two of its corners in any order, cut at the picture's border.

    Raises:
        TypeError, ValueError: these are no numbers, or nothing is left of it.
    """
    for x, y in (first, second):
        check_click(x, y, True)
    (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(first, second, strict=True))
    return check_box(max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))


def smooth_ring(ring: np.ndarray, tolerance: float = SMOOTH) -> list[list[float]]:
    """A ring of pixel corners with fewer points, none farther from the outline than `tolerance` pixels."""
    points = cv2.approxPolyDP(ring.astype(np.int32)[:, None], max(tolerance, SMOOTH), True)[:, 0]
    if len(points) < 3:
        points = ring
    return [[float(x), float(y)] for x, y in points]


def ring_area(outline: Outline) -> float:
    """Pixels in an outer ring, holes included."""
    return float(cv2.contourArea(outline.ring.astype(np.int32)[:, None]))


def ring_length(outline: Outline) -> float:
    """Length of an outer ring, pixels, from corner to corner."""
    return float(cv2.arcLength(outline.ring.astype(np.int32)[:, None], True))
